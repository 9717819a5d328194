//! What the schedule is asked, and what it answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agenda::Entry;
use crate::clock::Timestamp;

/// No arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// Names an entry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its name, such as `memory_prune`.
    pub name: String,
}

/// Stops an entry from running by itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Its name, such as `memory_prune`.
    pub name: String,
    /// Why, for people; at most 200 characters.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Everything that recurs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Agenda {
    /// By name.
    pub entries: Vec<Scheduled>,
}

/// Something that recurs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Scheduled {
    /// Its name: the key in `[schedule]`.
    pub name: &'static str,
    /// When, as configured.
    pub when: String,
    /// The next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Why it does not run by itself at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Whether it runs at this moment.
    pub running: bool,
    /// The last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
    /// Runs so far.
    pub runs: u64,
    /// Failures in a row.
    pub failures: u32,
}

/// How a run went.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LastRun {
    /// When it began.
    pub started: Timestamp,
    /// When it ended; absent while it goes on, and when the node was stopped meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// `ok`, an error code, or `interrupted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many earlier times it made up for.
    pub missed: u32,
}

/// A run will begin at once.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Started {
    /// What.
    pub name: String,
    /// Always true; its job, `schedule/list` and the status say how it went.
    pub started: bool,
}

/// An entry was paused or resumed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Changed {
    /// Which.
    pub name: String,
    /// Whether it is paused now.
    pub paused: bool,
}

impl From<&Entry> for Scheduled {
    fn from(entry: &Entry) -> Self {
        let state = &entry.state;
        let last = state.last.as_ref().map(|run| LastRun {
            started: run.started,
            finished: run.finished,
            outcome: match &run.outcome {
                None if !entry.running => Some("interrupted".to_owned()),
                outcome => outcome.clone(),
            },
            message: run.message.clone(),
            missed: run.missed,
        });
        Self {
            name: entry.name,
            when: entry.when.text().to_owned(),
            next: state.next.map(|next| next.due).filter(|_| state.paused.is_none()),
            paused: state.paused.clone(),
            running: entry.running,
            last,
            runs: state.runs,
            failures: state.failures,
        }
    }
}
