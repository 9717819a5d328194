//! What is said of backups, for people.

use serde_json::Value;

use super::release::show_pending;
use crate::cli::client::text::{bytes, cell, plain, table, when_of};
use crate::clock::Clock;

/// Digits of an id that are shown.
const ID: usize = 8;

pub(super) fn id(snapshot: &Value) -> String {
    id_of(&snapshot["id"])
}

/// The first digits of an id.
pub(super) fn id_of(id: &Value) -> String {
    plain(id.as_str().unwrap_or_default()).chars().take(ID).collect()
}

pub(super) fn show_made(made: &Value) -> String {
    let snapshot = &made["snapshot"];
    format!(
        "backup {}: {} memories up to audit record {}; {} new, {} in all\n",
        id(snapshot),
        cell(&made["manifest"]["counts"]["memories"]),
        cell(&made["manifest"]["audit_seq"]),
        bytes(&snapshot["added"]),
        bytes(&made["repository_bytes"]),
    )
}

pub(super) fn show_list(listed: &Value) -> String {
    let now = Clock::system().now();
    let mut rows = vec![["ID", "TIME", "NODE", "SIZE", "ADDED", "TAGS"].map(str::to_owned).to_vec()];
    rows.extend(listed["snapshots"].as_array().into_iter().flatten().map(|snapshot| {
        vec![
            id(snapshot),
            when_of(&snapshot["time"], now),
            cell(&snapshot["node"]),
            bytes(&snapshot["bytes"]),
            bytes(&snapshot["added"]),
            cell(&snapshot["tags"]),
        ]
    }));
    let table = if rows.len() == 1 { "there are no backups\n".to_owned() } else { table(&rows) };
    table + &show_unreadable(listed) + &show_pending(&listed["pending"])
}

/// A line for each backup that is damaged.
pub(super) fn show_unreadable(answer: &Value) -> String {
    let ids = answer["unreadable"].as_array().into_iter().flatten();
    ids.map(|id| {
        format!("DAMAGED: snapshot {}, of which nobody knows what it was; the others are good\n", cell(id))
    })
    .collect()
}

pub(super) fn show_one(shown: &Value) -> String {
    let (snapshot, manifest) = (&shown["snapshot"], &shown["manifest"]);
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("id", cell(&snapshot["id"])),
        row("node", cell(&manifest["node"])),
        row("taken", cell(&manifest["taken"])),
        row("program", cell(&manifest["version"])),
        row("schema", cell(&manifest["schema"])),
        row("audit record", cell(&manifest["audit_seq"])),
    ];
    for (name, count) in manifest["counts"].as_object().into_iter().flatten() {
        rows.push(row(name, cell(count)));
    }
    for part in manifest["parts"].as_array().into_iter().flatten() {
        rows.push(row(
            &cell(&part["name"]),
            format!("{}, SHA-256 {}", bytes(&part["bytes"]), cell(&part["sha256"])),
        ));
    }
    table(&rows)
}

pub(super) fn show_verified(outcome: &Value) -> String {
    let drill = &outcome["drill"];
    if drill.is_object() {
        let examined = &drill["examined"];
        return format!(
            "backup {} was restored, started on, and serves: {} memories, {} audit records\n",
            id(&drill["snapshot"]),
            cell(&examined["memories"]),
            cell(&examined["audit_records"]),
        ) + &show_unreadable(drill);
    }
    let repository = &outcome["repository"];
    if repository["whole"] == true {
        return format!("the repository is whole; {} backups\n", cell(&repository["snapshots"]));
    }
    let mut out = format!("the repository is damaged, {} findings\n", cell(&repository["count"]));
    for finding in repository["findings"].as_array().into_iter().flatten() {
        out.push_str(&format!("{}\n", cell(finding)));
    }
    out
}

pub(super) fn show_restored(restored: &Value) -> String {
    let fetched = &restored["fetched"];
    let when = match restored["takes_effect"].as_str() {
        Some("now") => "it is in use: start the node",
        _ => "it is used from the next start on: restart the node",
    };
    format!(
        "backup {} is in generation {}: {} memories, {} audit records, all checked\n{when}\n",
        id(&fetched["snapshot"]),
        cell(&restored["generation"]),
        cell(&fetched["examined"]["memories"]),
        cell(&fetched["examined"]["audit_records"]),
    ) + &show_unreadable(fetched)
}

pub(super) fn show_pruned(pruned: &Value) -> String {
    let count = |name: &str| pruned[name].as_array().map_or(0, Vec::len);
    let word = if pruned["dry_run"] == true { "would be removed" } else { "were removed" };
    format!(
        "{} backups {word}, {} are left; {} freed, {} in all\n",
        count("removed"),
        count("left"),
        bytes(&pruned["freed_bytes"]),
        bytes(&pruned["repository_bytes"]),
    ) + &show_unreadable(pruned)
}
