//! `orchd reviews` and `orchd decisions`: what was judged, and what waits for a person.

use clap::Subcommand;
use serde_json::{Value, json};

use super::ask::{ask, given};
use super::client::text::{cell, short, table, when_of};
use super::client::{self, Answer, Failure, Question, Reach};
use super::{Exit, Shared, print};
use crate::clock::Clock;

/// Characters of an action that are shown in a list.
const ACTION_CHARS: usize = 80;

/// List what waits for a person, and say what that person decides
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Reviews {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the reviews that are open
    List {
        /// Also those that are resolved or have expired
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// The action may be done
    Approve(Resolve),
    /// The action may not be done
    Refuse(Resolve),
}

#[derive(clap::Args, Debug)]
struct Resolve {
    /// The review's id
    id: String,
    /// Why
    #[arg(long)]
    note: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Reviews {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        match &self.command {
            Command::List { all, reach } => {
                let payload = json!({ "all": all });
                ask(reach, shared, "conscience/reviews/list", &payload, show_reviews, |_| Exit::Ok)
            }
            Command::Approve(resolve) => resolve.run(true, shared),
            Command::Refuse(resolve) => resolve.run(false, shared),
        }
    }
}

impl Resolve {
    fn run(&self, approve: bool, shared: &Shared) -> Exit {
        let payload =
            given([("review_id", json!(self.id)), ("approve", json!(approve)), ("note", json!(self.note))]);
        let show = |answer: &Answer| format!("{}\n", cell(&answer.payload()["state"]));
        ask(&self.reach, shared, "conscience/reviews/resolve", &payload, show, |_| Exit::Ok)
    }
}

fn show_reviews(answer: &Answer) -> String {
    let now = Clock::system().now();
    let reviews = answer.payload()["reviews"].as_array().map(Vec::as_slice).unwrap_or_default();
    if reviews.is_empty() {
        return "nothing waits for a review\n".to_owned();
    }
    let mut rows = vec![["ID", "STATE", "OPENED", "ACTION"].map(str::to_owned).to_vec()];
    rows.extend(reviews.iter().map(|review| {
        vec![
            cell(&review["review_id"]),
            cell(&review["state"]),
            when_of(&review["opened"], now),
            short(&cell(&review["decision"]["action"]), ACTION_CHARS),
        ]
    }));
    table(&rows)
}

/// List what was judged, the newest first
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Decisions {
    /// Only those made at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only those made before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only those about this entity
    #[arg(long)]
    entity: Option<String>,
    /// Only those that came out so: approved, needs_review or refused
    #[arg(long)]
    outcome: Option<String>,
    /// Most decisions
    #[arg(long, value_name = "COUNT")]
    limit: Option<u32>,
    /// Print all that match, page by page, as JSON Lines
    #[arg(long, conflicts_with_all = ["limit", "json"])]
    export: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Decisions {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        if self.export {
            return self.export(shared).unwrap_or_else(|failure| failure.report());
        }
        let payload = self.wanted(self.limit, &Value::Null);
        ask(&self.reach, shared, "conscience/decisions", &payload, show_decisions, |_| Exit::Ok)
    }

    fn wanted(&self, limit: Option<u32>, after: &Value) -> Value {
        given([
            ("from", json!(self.from)),
            ("to", json!(self.to)),
            ("entity", json!(self.entity)),
            ("outcome", json!(self.outcome)),
            ("limit", json!(limit)),
            ("after", after.clone()),
        ])
    }

    fn export(&self, shared: &Shared) -> Result<Exit, Failure> {
        let route = self.reach.route(shared)?;
        let mut after = Value::Null;
        loop {
            let question = Question::new("conscience/decisions", &self.wanted(Some(100), &after))?;
            let answer = self.reach.answer(&route, &question)?;
            if let Some(fault) = answer.fault() {
                return Err(fault.into());
            }
            let page = answer.payload();
            let decisions = page["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let lines: String = decisions.iter().map(|decision| format!("{decision}\n")).collect();
            let printed = print(&lines);
            after = page["next"].clone();
            if printed != Exit::Ok || after.is_null() {
                return Ok(printed);
            }
        }
    }
}

fn show_decisions(answer: &Answer) -> String {
    let now = Clock::system().now();
    let decisions = answer.payload()["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if decisions.is_empty() {
        return "nothing was judged\n".to_owned();
    }
    let mut rows = vec![["MADE", "OUTCOME", "SCORE", "ENTITY", "ACTION"].map(str::to_owned).to_vec()];
    rows.extend(decisions.iter().map(|decision| {
        vec![
            when_of(&decision["at"], now),
            cell(&decision["outcome"]),
            cell(&decision["moral_score"]),
            cell(&decision["entity"]),
            short(&cell(&decision["action"]), ACTION_CHARS),
        ]
    }));
    table(&rows)
}
