//! The audit trail over MQTT and the control socket: sensitive commands, so that over MQTT they need an administrator's
//! permission and signature. Nothing here changes it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::NodeState;
use crate::clock::Timestamp;
use crate::engine::command::{Answer, Entry};
use crate::ledger::audit::{self, Head, Record};
use crate::wire::Fault;

/// Most records in one answer.
const MAX_RECORDS: u32 = 200;

/// Which records to show.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tail {
    /// How many, 1 to 200.
    #[serde(default = "default_count")]
    #[schemars(range(min = 1, max = 200))]
    count: u32,
    /// The first ones after this number, instead of the newest.
    after: Option<i64>,
}

const fn default_count() -> u32 {
    20
}

/// Records, the oldest first.
#[derive(Debug, Serialize, JsonSchema)]
struct Records {
    /// The records.
    records: Vec<Shown>,
}

/// A record of the audit trail.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Shown {
    /// Its number.
    seq: i64,
    /// When the command was received.
    pub(crate) at: Timestamp,
    /// Who asked.
    pub(crate) principal: Arc<str>,
    /// Service and verb.
    pub(crate) command: Arc<str>,
    /// The topic it came on; absent for the end of a job and for what the node did by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<Arc<str>>,
    /// The command's own id, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// `ok`, `accepted`, `repeated`, or an error code.
    pub(crate) outcome: String,
    /// Why the gate refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The id of what the policies said.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_decision: Option<Arc<str>>,
    /// How many alike it stands for.
    pub(crate) count: u64,
    /// Size of the payload in bytes.
    payload_size: u64,
    /// SHA-256 of the payload as sent, where it was computed; hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_sha256: Option<String>,
    /// Its hash, which covers the record before it; hexadecimal.
    hash: String,
}

impl From<Record> for Shown {
    fn from(record: Record) -> Self {
        let Record { seq, entry, outcome, hash } = record;
        Self {
            seq,
            at: entry.at,
            principal: entry.principal,
            command: entry.command,
            topic: entry.topic,
            message_id: entry.message_id,
            outcome,
            reason: entry.reason,
            policy_decision: entry.decision,
            count: entry.count,
            payload_size: entry.payload_size,
            payload_sha256: entry.payload_hash.map(hex::encode),
            hash: hex::encode(hash),
        }
    }
}

/// No arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Records went behind a checkpoint.
#[derive(Debug, Serialize, JsonSchema)]
struct Checkpoint {
    /// How many were removed; fewer than 1,000 are not worth a checkpoint, and stay.
    removed: u64,
}

/// What the check of the audit trail found.
#[derive(Debug, Serialize, JsonSchema)]
struct Verified {
    /// Whether it is as the node has written it.
    sound: bool,
    /// What is wrong otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<String>,
    /// Records that are there.
    records: u64,
    /// Number of the last record.
    last: i64,
    /// Its hash, hexadecimal.
    hash: String,
    /// The last record that is no longer kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_up_to: Option<i64>,
    /// Numbers of the records by which the node says that the trail was not as it should be at a start.
    alarms: Vec<i64>,
}

pub(super) fn commands() -> Vec<Entry<NodeState>> {
    vec![
        Entry::read("node", "audit/tail", "Shows records of the audit trail", |state, _, tail| {
            tailed(state, tail)
        })
        .sensitive()
        .private()
        .when_full(),
        Entry::job(
            "node",
            "audit/checkpoint",
            "Removes audit records that are not kept any longer, behind a sealed checkpoint",
            true,
            |state, _, _: Nothing, _| checkpoint(state),
        )
        .sensitive()
        .when_full(),
        Entry::job(
            "node",
            "audit/verify",
            "Checks the audit trail: its chain, its checkpoint and its seal",
            true,
            |state, _, _: Nothing, _| verified(state),
        )
        .sensitive(),
    ]
}

async fn tailed(state: Arc<NodeState>, tail: Tail) -> Result<Answer<Records>, Fault> {
    if !(1..=MAX_RECORDS).contains(&tail.count) {
        return Err(Fault::invalid(format!("count must be from 1 to {MAX_RECORDS}")));
    }
    let read = move |connection: &rusqlite::Connection| {
        Ok(match tail.after {
            Some(after) => audit::page(connection, after, tail.count)?,
            None => audit::tail(connection, 0, tail.count)?,
        })
    };
    let records = state.ledger().read(read).await?;
    Ok(Records { records: records.into_iter().map(Shown::from).collect() }.into())
}

async fn checkpoint(state: Arc<NodeState>) -> Result<Answer<Checkpoint>, Fault> {
    let engine = state.engine().ok_or_else(Fault::internal)?;
    let removed = engine.retain_audit().await?;
    Ok(Checkpoint { removed }.into())
}

async fn verified(state: Arc<NodeState>) -> Result<Answer<Verified>, Fault> {
    let (sound, finding) = state.ledger().verify_audit().await?;
    let Head { seq, .. } = sound.head;
    Ok(Verified {
        sound: finding.is_none(),
        finding: finding.map(|finding| finding.to_string()),
        records: sound.records,
        last: seq,
        hash: sound.head.hex(),
        removed_up_to: sound.checkpoint.map(|checkpoint| checkpoint.head.seq),
        alarms: sound.alarms,
    }
    .into())
}
