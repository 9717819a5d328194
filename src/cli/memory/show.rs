//! Answers of memory for people: tables and short sentences.

use serde_json::Value;

use super::super::client::Answer;
use super::super::client::text::{bytes, cell, plain, table, when_of};
use crate::clock::Clock;

/// Name and value of every member that is neither empty nor a list of objects.
pub(super) fn members(answer: &Answer) -> String {
    table(&rows(answer.payload()))
}

fn rows(value: &Value) -> Vec<Vec<String>> {
    let now = Clock::system().now();
    let form = |key: &str, value: &Value| match key {
        "created" | "updated" | "expires" | "last_access" | "written" | "last_prune" | "last_promotion" => {
            when_of(value, now)
        }
        _ if key == "bytes" || key.ends_with("_bytes") => bytes(value),
        _ if value.is_object() => String::new(),
        _ if value.as_array().is_some_and(|items| items.iter().any(Value::is_object)) => String::new(),
        _ => cell(value),
    };
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(key, value)| vec![key.trim_end_matches("_bytes").replace('_', " "), form(key, value)])
        .filter(|row| !row[1].is_empty())
        .collect()
}

/// A record, and under it what it was.
pub(super) fn record(answer: &Answer) -> String {
    let mut out = members(answer);
    let now = Clock::system().now();
    if let Some(history) = answer.payload()["history"].as_array().filter(|history| !history.is_empty()) {
        let mut lines =
            vec![["VERSION", "WRITTEN", "IMPORTANCE", "TAGS", "CONTENT"].map(str::to_owned).to_vec()];
        lines.extend(history.iter().map(|old| {
            vec![
                cell(&old["version"]),
                when_of(&old["written"], now),
                cell(&old["importance"]),
                cell(&old["tags"]),
                plain(old["content"].as_str().unwrap_or_default()),
            ]
        }));
        out.push('\n');
        out.push_str(&table(&lines));
    }
    out
}

pub(super) fn stored(answer: &Answer) -> String {
    stored_one(answer.payload())
}

/// What became of one store, on a line.
pub(super) fn stored_one(stored: &Value) -> String {
    let word = if stored["existing"] == true { "already there:" } else { "stored" };
    format!("{word} {} in {}\n", cell(&stored["id"]), cell(&stored["layer"]))
}

pub(super) fn forgotten(answer: &Answer) -> String {
    let payload = answer.payload();
    match (payload["purged"] == true, payload["forgotten"] == true) {
        (true, _) => "purged\n".to_owned(),
        (false, true) => format!("forgotten; purged after {}\n", cell(&payload["purge_after"])),
        (false, false) => "brought back\n".to_owned(),
    }
}

pub(super) fn stats(answer: &Answer) -> String {
    let payload = answer.payload();
    let head = ["LAYER", "RECORDS", "PINNED", "FORGOTTEN", "MONTHS", "CONTENTS", "INDEX"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(objects(&payload["layers"]).map(|layer| {
        vec![
            cell(&layer["layer"]),
            cell(&layer["records"]),
            cell(&layer["pinned"]),
            cell(&layer["forgotten"]),
            cell(&layer["shards"]),
            bytes(&layer["content_bytes"]),
            bytes(&layer["index_bytes"]),
        ]
    }));
    let mut out = table(&lines) + "\n" + &members(answer);
    if payload["embeddings"].is_object() {
        out.push_str("\nembeddings\n");
        out.push_str(&table(&rows(&payload["embeddings"])));
    }
    out
}

pub(super) fn pruned(answer: &Answer) -> String {
    let payload = answer.payload();
    let removed = if payload["dry_run"] == true { "WOULD GO" } else { "REMOVED" };
    let head = ["LAYER", removed, "MONTHS", "BEFORE", "AFTER", "BYTES BEFORE", "BYTES AFTER"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(objects(&payload["layers"]).map(|layer| {
        vec![
            cell(&layer["layer"]),
            cell(&layer["removed"]),
            cell(&layer["months_dropped"]),
            cell(&layer["records_before"]),
            cell(&layer["records_after"]),
            bytes(&layer["bytes_before"]),
            bytes(&layer["bytes_after"]),
        ]
    }));
    let mut rest = Vec::new();
    for (name, key) in [("promoted", "promoted"), ("purged", "purged"), ("old versions", "versions")] {
        rest.push(vec![name.to_owned(), cell(&payload[key])]);
    }
    for (name, key) in [("ledger before", "ledger_bytes_before"), ("ledger after", "ledger_bytes_after")] {
        rest.push(vec![name.to_owned(), bytes(&payload[key])]);
    }
    rest.retain(|row| !row[1].is_empty());
    let mut out = table(&lines) + "\n" + &table(&rest);
    if let Some(word) = payload["confirm"].as_str() {
        out.push_str(&format!(
            "\nThis is more than the node removes unasked. If its clock is right: --confirm {}\n",
            plain(word)
        ));
    }
    out
}

pub(super) fn imported(answer: &Answer) -> String {
    let errors = objects(&answer.payload()["errors"]);
    let errors: String =
        errors.map(|error| format!("line {}: {}\n", cell(&error["line"]), cell(&error["reason"]))).collect();
    members(answer) + &errors
}

pub(super) fn archived(answer: &Answer) -> String {
    let head = ["MONTH", "LAYER", "RECORDS", "SIZE", "FILE"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(objects(&answer.payload()["months"]).map(|month| {
        vec![
            cell(&month["month"]),
            cell(&month["layer"]),
            cell(&month["records"]),
            bytes(&month["bytes"]),
            cell(&month["file"]),
        ]
    }));
    if lines.len() == 1 {
        return "nothing to archive\n".to_owned();
    }
    let place = answer.payload()["storage"].as_str().map(|place| format!("\nin {}\n", plain(place)));
    table(&lines) + &place.unwrap_or_default()
}

fn objects(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
