//! The friendly forms of the commands that people use every day: `evaluate`, `remember`, `recall`, `ping`, `status`.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::call::read_stdin;
use super::client::text::{bytes, cell, plain, short, span, table, when_of};
use super::client::{self, Answer, Failure, Question, Reach};
use super::{Exit, Shared};
use crate::clock::{Clock, Timestamp};

/// Characters of a memory that are shown in a list.
const CONTENT_CHARS: usize = 100;

/// Ask a node whether an action is right
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Evaluate {
    /// The action: in words, or as a JSON object `{"tool": …, "args": …}`; `-` reads it from standard input
    text: String,
    /// What else is known
    #[arg(long)]
    context: Option<String>,
    /// Whom the action is about
    #[arg(long)]
    entity: Option<String>,
    /// Keep the evaluation in short-term memory
    #[arg(long)]
    remember: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Evaluate {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let judge = |answer: &Answer| match answer.payload() {
            verdict if verdict["approved"] == true => Exit::Ok,
            verdict if verdict["needs_review"] == true => Exit::NeedsReview,
            _ => Exit::NotApproved,
        };
        let action = match text_of(&self.text).and_then(|text| action(text.trim_end())) {
            Ok(action) => action,
            Err(failure) => return failure.report(),
        };
        let payload = given([
            ("action", action),
            ("context", json!(self.context)),
            ("entity", json!(self.entity)),
            ("remember", if self.remember { json!(true) } else { Value::Null }),
        ]);
        ask(&self.reach, shared, "conscience/evaluate", &payload, show_verdict, judge)
    }
}

/// An action in words, or the call of a tool: what begins like a JSON object has to be one, because a call that were judged
/// as words would be judged without its rules.
fn action(text: &str) -> Result<Value, Failure> {
    if !text.trim_start().starts_with('{') {
        return Ok(json!(text));
    }
    serde_json::from_str(text).map_err(|error| {
        Failure::Usage(format!("the action begins like a call of a tool, and is no JSON object: {error}"))
    })
}

pub(super) fn show_verdict(answer: &Answer) -> String {
    let verdict = answer.payload();
    let word = match (verdict["approved"] == true, verdict["needs_review"] == true) {
        (true, _) => "approved",
        (false, true) => "needs review",
        (false, false) => "not approved",
    };
    let mut out = word.to_owned();
    if let Some(score) = verdict["moral_score"].as_f64() {
        out.push_str(&format!(", score {score:+.2}"));
    }
    out.push('\n');
    if let Some(explanation) = verdict["explanation"].as_str() {
        out.push_str(&format!("{}\n", plain(explanation)));
    }
    if let Some(review) = verdict["review_id"].as_str() {
        out.push_str(&format!(
            "(review {}: `orchd reviews approve` or `refuse` decides it)\n",
            plain(review)
        ));
    }
    if let Some(model) = verdict["model"].as_str() {
        out.push_str(&format!("(judged with the {} model {})\n", cell(&verdict["judge"]), plain(model)));
    }
    let rules = verdict["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !rules.is_empty() {
        let mut rows = vec![["RULE", "STANCE", "WEIGHT", "MATCHED"].map(str::to_owned).to_vec()];
        rows.extend(rules.iter().map(|rule| {
            let matched =
                if rule["matched"].is_object() { &rule["matched"]["text"] } else { &rule["reasons"][0] };
            vec![cell(&rule["name"]), cell(&rule["stance"]), number(&rule["weight"]), cell(matched)]
        }));
        out.push_str(&table(&rows));
    }
    out + &degraded(answer)
}

/// Have a node remember something
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Remember {
    /// What to remember; `-` reads it from standard input
    text: String,
    /// Where to keep it: short_term, long_term, working, episodic or semantic
    #[arg(long)]
    layer: Option<String>,
    /// A word to find it by; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Whom or what it is about
    #[arg(long)]
    entity: Option<String>,
    /// How important it is, from 0 to 1
    #[arg(long, value_name = "NUMBER")]
    importance: Option<f64>,
    /// The command's id: sent again with the same id, it takes effect once
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Remember {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let text = match text_of(&self.text) {
            Ok(text) => text,
            Err(failure) => return failure.report(),
        };
        let payload = given([
            ("content", json!(text)),
            ("layer", json!(self.layer)),
            ("tags", list(&self.tags)),
            ("entity", json!(self.entity)),
            ("importance", json!(self.importance)),
        ]);
        let show = |answer: &Answer| {
            let stored = answer.payload();
            format!("remembered {} in {}\n{}", cell(&stored["id"]), cell(&stored["layer"]), degraded(answer))
        };
        match Question::new("memory/store", &payload) {
            Ok(question) => {
                let question = question.repeatable(self.message_id.clone());
                self.reach.ask(shared, &question, show, |_| Exit::Ok)
            }
            Err(failure) => failure.report(),
        }
    }
}

/// A text as given, or from standard input without the white space at its end.
fn text_of(given: &str) -> Result<String, Failure> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    read_stdin().map(|text| text.trim_end().to_owned())
}

/// Search what a node remembers; without a text, the newest first
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Recall {
    /// Words, of which any may occur; "a phrase", +required, -excluded, tag:x, entity:x, layer:x
    text: Option<String>,
    /// Only this layer; may be repeated
    #[arg(long = "layer", value_name = "LAYER")]
    layers: Vec<String>,
    /// Only what has this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only what names this entity
    #[arg(long)]
    entity: Option<String>,
    /// Only what names this entity, or is linked to it in the soul
    #[arg(long, value_name = "ENTITY")]
    about: Option<String>,
    /// Most hits
    #[arg(long, value_name = "COUNT")]
    limit: Option<u32>,
    /// What follows an earlier answer to the same search
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Recall {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let payload = given([
            ("text", json!(self.text)),
            ("layers", list(&self.layers)),
            ("tags", list(&self.tags)),
            ("entity", json!(self.entity)),
            ("about", json!(self.about)),
            ("limit", json!(self.limit)),
            ("cursor", json!(self.cursor)),
            // Who has just remembered something expects to find it.
            ("consistency", json!("latest")),
        ]);
        ask(&self.reach, shared, "memory/query", &payload, show_hits, |_| Exit::Ok)
    }
}

pub(super) fn show_hits(answer: &Answer) -> String {
    let found = answer.payload();
    let hits = found["hits"].as_array().map(Vec::as_slice).unwrap_or_default();
    let now = Clock::system().now();
    let mut out = String::new();
    if hits.is_empty() {
        out.push_str("nothing found\n");
    } else {
        // What a score is made of, where that was asked for.
        let explained = hits.iter().any(|hit| hit["parts"].is_object());
        let parts: &[&str] = if explained { &["text", "recency", "importance"] } else { &[] };
        let mut head = vec!["SCORE".to_owned()];
        head.extend(parts.iter().map(|part| part.to_uppercase()));
        head.extend(["LAYER", "CREATED", "ID", "TAGS", "CONTENT"].map(str::to_owned));
        let mut rows = vec![head];
        rows.extend(hits.iter().map(|hit| {
            let mut row = vec![cell(&hit["score"])];
            row.extend(parts.iter().map(|part| cell(&hit["parts"][part])));
            row.extend([
                cell(&hit["layer"]),
                when_of(&hit["created"], now),
                cell(&hit["id"]),
                cell(&hit["tags"]),
                short(hit["content"].as_str().unwrap_or_default(), CONTENT_CHARS),
            ]);
            row
        }));
        out.push_str(&table(&rows));
    }
    if found["plain_words"] == true {
        out.push_str("(not a well-formed search: taken as plain words)\n");
    }
    if let Some(cursor) = found["cursor"].as_str() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "(of {}; the rest with --cursor {cursor})", cell(&found["total"]));
    }
    if found["partial"] == true {
        out.push_str("(the index is being rebuilt: there may be more)\n");
    }
    out + &degraded(answer)
}

/// Ask whether a node answers
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Ping {
    #[command(flatten)]
    reach: Reach,
}

impl Ping {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let asked = Instant::now();
        let show = |answer: &Answer| {
            format!("{} answered after {} ms\n", cell(answer.member("node")), asked.elapsed().as_millis())
        };
        self.reach.ask(shared, &Question::bare("node/ping"), show, |_| Exit::Ok)
    }
}

/// Show how a node is
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Status {
    #[command(flatten)]
    reach: Reach,
}

impl Status {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        self.reach.ask(
            shared,
            &Question::bare("node/status"),
            |answer| show_status(answer.payload()),
            |_| Exit::Ok,
        )
    }
}

/// Figures and times in a form for people, all else as it is named; what is within something stands below its name.
fn show_status(status: &Value) -> String {
    // What a person looks for comes first, then whatever else the node tells.
    let first = ["node", "state", "since", "reason", "version", "started", "uptime_s", "load1", "rss_bytes"];
    let Some(members) = status.as_object() else { return String::new() };
    let rest = members.keys().map(String::as_str).filter(|key| !first.contains(key));
    let mut rows = Vec::new();
    for key in first.into_iter().chain(rest) {
        status_rows(&mut rows, key, key, members.get(key).unwrap_or(&Value::Null), Clock::system().now());
    }
    table(&rows)
}

/// The rows of one member: one, or one for each figure within it.
fn status_rows(rows: &mut Vec<Vec<String>>, name: &str, key: &str, value: &Value, now: Timestamp) {
    let form = match (key, value) {
        (_, Value::Object(members)) => {
            for (key, value) in members {
                status_rows(rows, &format!("{name} {key}"), key, value, now);
            }
            return;
        }
        (_, Value::Array(items)) if items.iter().all(Value::is_object) => {
            for item in items {
                // What tells them apart: which task, which certificate.
                let own = ["task", "what", "name"].into_iter().find(|own| item[own].is_string());
                let name = own.map_or_else(|| name.to_owned(), |own| format!("{name} {}", cell(&item[own])));
                for (key, value) in item.as_object().into_iter().flatten() {
                    if Some(key.as_str()) != own {
                        status_rows(rows, &format!("{name} {key}"), key, value, now);
                    }
                }
            }
            return;
        }
        ("uptime_s", value) => value.as_i64().map_or_else(String::new, span),
        (key, value) if key.ends_with("_bytes") => bytes(value),
        (_, value) => match when_of(value, now) {
            time if time.is_empty() => cell(value),
            time => time,
        },
    };
    if !form.is_empty() {
        let name = name.trim_end_matches("_s").trim_end_matches("_bytes").replace('_', " ");
        rows.push(vec![name, form]);
    }
}

pub(super) fn ask(
    reach: &Reach,
    shared: &Shared,
    command: &str,
    payload: &Value,
    show: impl FnOnce(&Answer) -> String,
    judge: impl FnOnce(&Answer) -> Exit,
) -> Exit {
    match Question::new(command, payload) {
        Ok(question) => reach.ask(shared, &question, show, judge),
        Err(failure) => failure.report(),
    }
}

/// An object of what was given.
pub(super) fn given<const N: usize>(members: [(&str, Value); N]) -> Value {
    let given = members.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// A list; null when it is empty.
pub(super) fn list(items: &[String]) -> Value {
    if items.is_empty() { Value::Null } else { json!(items) }
}

/// A weight: without decimals where it has none.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(String::new, |number| number.to_string())
}

fn degraded(answer: &Answer) -> String {
    match answer.member("degraded") {
        Value::Null => String::new(),
        what => format!("(degraded: {})\n", cell(what)),
    }
}
