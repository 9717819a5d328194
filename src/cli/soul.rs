//! `orchd soul`: whom the node deals with, for people.

use std::io::{IsTerminal, stdout};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::ask::ask;
use super::client::text::{cell, short, table, when_of};
use super::client::{self, Answer, Reach};
use super::{Exit, Shared};
use crate::clock::Clock;

/// Characters of a full bar.
const BAR: usize = 10;
/// Characters of a name in a list.
const NAME_CHARS: usize = 32;

/// Show whom a node deals with: trust and emotions
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
}

/// Show trust and emotions towards one entity, or towards all
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
struct Status {
    /// The entity; without it, all are listed
    name: Option<String>,
    /// What the list is ordered by
    #[arg(long, value_enum, default_value_t = By::Trust, conflicts_with = "name")]
    by: By,
    /// Most entities of the list
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// The most trusted first.
    Trust,
    /// The one met last first.
    LastInteraction,
}

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let Command::Status(status) = &self.command;
        status.run(shared)
    }
}

impl Status {
    fn run(&self, shared: &Shared) -> Exit {
        let show_list = |answer: &Answer| show_list(answer.payload());
        let show_one = |answer: &Answer| show_one(answer.payload());
        match &self.name {
            Some(name) => {
                ask(&self.reach, shared, "soul/get", &json!({ "name": name }), show_one, |_| Exit::Ok)
            }
            None => {
                let by = match self.by {
                    By::Trust => "trust",
                    By::LastInteraction => "last_interaction",
                };
                let payload = json!({ "by": by, "limit": self.limit });
                ask(&self.reach, shared, "soul/list", &payload, show_list, |_| Exit::Ok)
            }
        }
    }
}

pub(super) fn show_list(found: &Value) -> String {
    let entities = found["entities"].as_array().map(Vec::as_slice).unwrap_or_default();
    if entities.is_empty() {
        return "nobody is known\n".to_owned();
    }
    let now = Clock::system().now();
    let mut rows = vec![["NAME", "TRUST", "FEELING", "MET", "LAST"].map(str::to_owned).to_vec()];
    rows.extend(entities.iter().map(|entity| {
        vec![
            short(&cell(&entity["name"]), NAME_CHARS),
            gauge(&entity["trust"]),
            feeling(&entity["dominant"]),
            cell(&entity["interactions"]),
            when_of(&entity["last_interaction"], now),
        ]
    }));
    let mut out = table(&rows);
    let total = found["total"].as_u64().unwrap_or(0);
    if total > entities.len() as u64 {
        out.push_str(&format!("({} of {total})\n", entities.len()));
    }
    out
}

pub(super) fn show_one(entity: &Value) -> String {
    let now = Clock::system().now();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("name", cell(&entity["name"])),
        row("trust", gauge(&entity["trust"])),
        row("feeling", feeling(&entity["dominant"])),
    ];
    for emotion in ["joy", "love", "neutral", "sadness", "anger"] {
        rows.push(row(&format!("  {emotion}"), gauge(&entity["emotions"][emotion])));
    }
    rows.push(row("memories", entity["memories"].as_array().map_or(0, Vec::len).to_string()));
    rows.push(row("met", cell(&entity["interactions"])));
    rows.push(row("last", when_of(&entity["last_interaction"], now)));
    if entity["note"].is_string() {
        rows.push(row("note", cell(&entity["note"])));
    }
    table(&rows)
}

/// A number in [0, 1] as a bar and in percent.
fn gauge(value: &Value) -> String {
    let value = value.as_f64().unwrap_or(0.0).clamp(0.0, 1.0);
    let full = (value * BAR as f64).round() as usize;
    format!("{}{} {:.0} %", "█".repeat(full), "░".repeat(BAR - full), value * 100.0)
}

/// The emotion, with a face where a person looks at it.
fn feeling(emotion: &Value) -> String {
    let word = emotion.as_str().unwrap_or("-");
    let face = match word {
        "joy" => "😊",
        "love" => "❤️",
        "sadness" => "😢",
        "anger" => "😠",
        "neutral" => "😐",
        _ => "",
    };
    if stdout().is_terminal() && !face.is_empty() { format!("{face} {word}") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_is_shown_with_bars() {
        let entity = json!({
            "name": "ada", "trust": 0.65, "dominant": "joy", "interactions": 3, "memories": ["m1", "m2"],
            "emotions": { "joy": 1.0, "love": 0.0, "neutral": 0.0, "sadness": 0.04, "anger": 0.0 },
            "last_interaction": "2026-01-01T00:00:00Z",
        });
        let shown = show_one(&entity);
        for expected in ["███████░░░ 65 %", "joy", "██████████ 100 %", "░░░░░░░░░░ 4 %"]
        {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        let listed = show_list(&json!({ "entities": [entity], "total": 7 }));
        assert!(listed.contains("ada") && listed.contains("(1 of 7)"), "{listed}");
        assert_eq!(show_list(&json!({ "entities": [], "total": 0 })), "nobody is known\n");
    }
}
