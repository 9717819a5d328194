//! `orchd schedule`: what a node does by itself.

use clap::Subcommand;
use serde_json::{Value, json};

use super::ask::ask;
use super::client::text::{cell, plain, table, when_of};
use super::client::{self, Answer, Reach};
use super::{Exit, Shared};
use crate::clock::Clock;

/// List what a node does by itself, have it done now, pause it
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what recurs, when next, and how it went
    #[command(after_help = client::HELP)]
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Have an entry run now
    #[command(after_help = client::HELP)]
    Run {
        /// Its name
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Keep an entry from running by itself
    #[command(after_help = client::HELP)]
    Pause {
        /// Its name
        name: String,
        /// Why, for people
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Let an entry run by itself again
    #[command(after_help = client::HELP)]
    Resume {
        /// Its name
        name: String,
        #[command(flatten)]
        reach: Reach,
    },
}

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let fine = |_: &Answer| Exit::Ok;
        match &self.command {
            Command::List { reach } => {
                ask(reach, shared, "node/schedule/list", &json!({}), |answer| show(answer.payload()), fine)
            }
            Command::Run { name, reach } => {
                let said = |_: &Answer| format!("{} runs\n", plain(name));
                ask(reach, shared, "node/schedule/run", &json!({ "name": name }), said, fine)
            }
            Command::Pause { name, reason, reach } => {
                let payload = json!({ "name": name, "reason": reason });
                let said = |_: &Answer| format!("{} is paused\n", plain(name));
                ask(reach, shared, "node/schedule/pause", &payload, said, fine)
            }
            Command::Resume { name, reach } => {
                let said = |_: &Answer| format!("{} is not paused\n", plain(name));
                ask(reach, shared, "node/schedule/resume", &json!({ "name": name }), said, fine)
            }
        }
    }
}

fn show(agenda: &Value) -> String {
    let now = Clock::system().now();
    let mut rows = vec![["NAME", "WHEN", "NEXT", "LAST", "OUTCOME", "FAILED"].map(str::to_owned).to_vec()];
    rows.extend(agenda["entries"].as_array().into_iter().flatten().map(|entry| {
        let next = match entry["paused"].as_str() {
            Some(why) => format!("paused: {}", plain(why)),
            None => when_of(&entry["next"], now),
        };
        let outcome =
            if entry["running"] == true { "running".to_owned() } else { cell(&entry["last"]["outcome"]) };
        vec![
            cell(&entry["name"]),
            cell(&entry["when"]),
            next,
            when_of(&entry["last"]["started"], now),
            outcome,
            cell(&entry["failures"]),
        ]
    }));
    table(&rows)
}
