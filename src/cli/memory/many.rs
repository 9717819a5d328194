//! Many stores from standard input: JSON Lines, sent in batches that a node takes at once.
//!
//! Each batch is stored as a whole or not at all, one after the other; the first that fails ends it. So what was stored is
//! always what stands before a line, which is named.

use std::io::Read;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::client::{Answer, Failure, Question, Reach, Route};
use super::super::{Exit, Shared, print};
use super::show;
use crate::memory::requests::MAX_BATCH;
use crate::wire::{Code, Fault};

/// Most that is read.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of the stores in a batch: what a node takes unless it is configured otherwise (`limits.max_payload_bytes`), less
/// what an envelope needs.
const BATCH_BYTES: usize = 240 << 10;

/// A line that is not blank.
struct Line<'t> {
    /// From 1.
    number: usize,
    request: &'t RawValue,
}

#[derive(Serialize)]
struct Records<'t> {
    records: Vec<&'t RawValue>,
}

/// Stores what is on standard input.
pub(super) fn store(reach: &Reach, shared: &Shared) -> Exit {
    let text = match read() {
        Ok(text) => text,
        Err(failure) => return failure.report(),
    };
    let run = parse(&text).and_then(|lines| {
        let route = reach.route(shared)?;
        Ok(send(reach, &route, &lines))
    });
    match run {
        Ok(sent) if reach.json => sent.report_json(),
        Ok(sent) => sent.report(),
        Err(failure) => failure.report(),
    }
}

fn read() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MOST_BYTES + 1).read_to_string(&mut text);
    match read {
        Err(error) => Err(Failure::Usage(format!("standard input cannot be read: {error}"))),
        Ok(read) if read as u64 > MOST_BYTES => Err(Failure::Usage(
            "standard input: more than 64 MiB; `orchd memory import` takes files of any size".to_owned(),
        )),
        Ok(_) => Ok(text),
    }
}

/// The store requests of `text`; all are looked at before any is sent.
fn parse(text: &str) -> Result<Vec<Line<'_>>, Failure> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let lines: Vec<_> = lines
        .map(|(line, number)| {
            serde_json::from_str(line)
                .map(|request| Line { number, request })
                .map_err(|error| Failure::Usage(format!("line {number}: expected JSON: {error}")))
        })
        .collect::<Result<_, _>>()?;
    if lines.is_empty() {
        return Err(Failure::Usage("standard input: expected a JSON object on each line".to_owned()));
    }
    Ok(lines)
}

/// Cuts `lines` where a batch is full: [`MAX_BATCH`] of them, or more than [`BATCH_BYTES`]. One line is always taken.
fn batches<'l, 't>(mut lines: &'l [Line<'t>]) -> impl Iterator<Item = &'l [Line<'t>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = lines.iter().take(MAX_BATCH).take_while(|line| {
            // And a comma.
            bytes += line.request.get().len() + 1;
            bytes <= BATCH_BYTES
        });
        let count = fits.count().max(1).min(lines.len());
        let (batch, rest) = lines.split_at(count);
        lines = rest;
        (count > 0).then_some(batch)
    })
}

/// What became of all lines.
struct Sent {
    /// For each line that is stored.
    stored: Vec<Value>,
    /// The last reply.
    reply: Value,
    failed: Option<Failed>,
}

/// Why it ended early.
struct Failed {
    /// Which lines it is about.
    place: String,
    failure: Failure,
    /// What is stored, and what is not.
    rest: String,
}

fn send(reach: &Reach, route: &Route, lines: &[Line<'_>]) -> Sent {
    let mut sent = Sent { stored: Vec::new(), reply: Value::Null, failed: None };
    let mut last = None;
    for batch in batches(lines) {
        match ask(reach, route, batch) {
            Ok(answer) => {
                sent.reply = answer.document().clone();
                match answer.fault() {
                    None => sent
                        .stored
                        .extend(answer.payload()["stored"].as_array().into_iter().flatten().cloned()),
                    Some(fault) => sent.failed = Some(refused(fault, batch, last)),
                }
            }
            Err(failure) => sent.failed = Some(unanswered(failure, batch, last)),
        }
        if sent.failed.is_some() {
            break;
        }
        last = batch.last().map(|line| line.number);
    }
    sent
}

fn ask(reach: &Reach, route: &Route, batch: &[Line<'_>]) -> Result<Answer, Failure> {
    let records = batch.iter().map(|line| line.request).collect();
    reach.answer(route, &Question::new("memory/store", &Records { records })?)
}

/// A node stored nothing of `batch`; `last` is the line up to which the batches before went.
fn refused(mut fault: Fault, batch: &[Line<'_>], last: Option<usize>) -> Failed {
    let place = match blamed(&fault.message) {
        Some((position, reason)) if position < batch.len() => {
            fault.message = reason;
            format!("line {}", batch[position].number)
        }
        _ => span(batch),
    };
    let rest = last.map_or_else(
        || "nothing is stored".to_owned(),
        |last| format!("stored up to line {last}, and nothing after it"),
    );
    Failed { place, failure: Failure::Node(fault), rest }
}

/// Nobody said what became of `batch`.
fn unanswered(failure: Failure, batch: &[Line<'_>], last: Option<usize>) -> Failed {
    let unknown = "whether these are stored is not known";
    let rest = last.map_or_else(
        || format!("{unknown}, nothing else is"),
        |last| format!("{unknown}; stored up to line {last}"),
    );
    Failed { place: span(batch), failure, rest }
}

fn span(batch: &[Line<'_>]) -> String {
    match batch {
        [one] => format!("line {}", one.number),
        [first, .., last] => format!("lines {} to {}", first.number, last.number),
        [] => String::new(),
    }
}

/// Position in its batch of the record that `message` is about, as in `records[7].tags: …`, and what is said about it.
fn blamed(message: &str) -> Option<(usize, String)> {
    let (position, reason) = message.strip_prefix("records[")?.split_once(']')?;
    Some((position.parse().ok()?, reason.trim_start_matches([':', '.', ' ']).to_owned()))
}

impl Sent {
    fn report(self) -> Exit {
        let existing = self.stored.iter().filter(|stored| stored["existing"] == true).count();
        let mut out: String = self.stored.iter().map(show::stored_one).collect();
        if !self.stored.is_empty() {
            out.push_str(&format!("{} stored", self.stored.len() - existing));
            if existing > 0 {
                out.push_str(&format!(", {existing} already there"));
            }
            out.push('\n');
        }
        match (print(&out), self.failed) {
            (Exit::Ok, Some(failed)) => failed.into_failure().report(),
            (printed, _) => printed,
        }
    }

    /// One document in the form of a reply, with all that is stored in its payload, also where it ended early.
    fn report_json(mut self) -> Exit {
        let stored = json!({ "stored": self.stored });
        let Some(Failed { place, failure, rest }) = self.failed else {
            self.reply["payload"] = stored;
            return print(&format!("{}\n", self.reply));
        };
        let answered = matches!(failure, Failure::Node(_));
        let mut fault = match &failure {
            Failure::Node(fault) => fault.clone(),
            other => Fault::new(Code::Unavailable, other.to_string()),
        };
        fault.message = format!("{place}: {}; {rest}", fault.message);
        let mut reply = if answered { self.reply } else { json!({ "status": "error" }) };
        reply["error"] = json!(fault);
        reply["payload"] = stored;
        match print(&format!("{reply}\n")) {
            Exit::Ok if answered => Exit::Failed,
            Exit::Ok => Failed { place, failure, rest }.into_failure().report(),
            printed => printed,
        }
    }
}

impl Failed {
    fn into_failure(self) -> Failure {
        Failure::Within { place: self.place, source: Box::new(self.failure), rest: self.rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_full_by_count_or_by_bytes_and_nothing_is_left_over() {
        let sizes = |text: &str| -> Vec<usize> {
            let lines = parse(text).unwrap();
            let sizes = batches(&lines).map(<[_]>::len).collect();
            let sent: Vec<_> = batches(&lines).flatten().map(|line| line.number).collect();
            let all: Vec<_> = lines.iter().map(|line| line.number).collect();
            assert_eq!(sent, all, "in their order");
            sizes
        };
        let of = |count: usize, bytes: usize| format!("\"{}\"\n\n", "x".repeat(bytes)).repeat(count);
        assert_eq!(sizes(&of(1, 1)), [1]);
        assert_eq!(sizes(&of(100, 1)), [100]);
        assert_eq!(sizes(&of(250, 1)), [100, 100, 50]);
        // Two and a half of them fit.
        assert_eq!(sizes(&of(5, 96 << 10)), [2, 2, 1]);
        assert_eq!(sizes(&(of(1, 1) + &of(1, 300 << 10) + &of(2, 1))), [1, 1, 2]);
    }

    #[test]
    fn a_refusal_names_the_line_of_its_record() {
        let lines = parse("{}\n\n{}\n{}").unwrap();
        let place = |message: &str| {
            let Failed { place, failure, rest } = refused(Fault::invalid(message), &lines[1..], Some(1));
            assert_eq!(rest, "stored up to line 1, and nothing after it");
            (place, failure.to_string())
        };
        for (message, expected, told) in [
            ("records[0]: content: expected text", "line 3", "invalid: content: expected text"),
            ("records[1].layer: expected another", "line 4", "invalid: layer: expected another"),
            ("records[7]: content: x", "lines 3 to 4", "invalid: records[7]: content: x"),
            ("the namespace is full", "lines 3 to 4", "invalid: the namespace is full"),
        ] {
            assert_eq!(place(message), (expected.to_owned(), told.to_owned()), "{message}");
        }
        let Failed { rest, .. } = refused(Fault::invalid("x"), &lines, None);
        assert_eq!(rest, "nothing is stored");
    }
}
