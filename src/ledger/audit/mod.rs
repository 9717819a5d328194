//! The audit trail: who did what, with which outcome. Never the payload, only its size and hash.
//!
//! Each record's hash is SHA-256 over the previous record's hash and its own fields, each preceded by its length, so that
//! an edited, removed or reordered record breaks the chain from there on. The first record follows 32 zero bytes. The end
//! of the chain is sealed with a key of the node's in each commit ([`seal`]), so that nobody without that key can write
//! another chain or cut its end. The oldest records can be removed behind a sealed checkpoint ([`retain`]).

pub mod retain;
pub mod seal;
pub mod verify;

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::clock::Timestamp;

pub use verify::{Broken, verify};

/// What is recorded of a command.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was received.
    pub at: Timestamp,
    /// Who asked.
    pub principal: Arc<str>,
    /// Service and verb, or the topic's tail as far as it is known.
    pub command: Arc<str>,
    /// The topic that it came on; the end of a job has none.
    pub topic: Option<Arc<str>>,
    /// The command's own id.
    pub message_id: Option<String>,
    /// `ok`, or an error code.
    pub outcome: &'static str,
    /// Why the gate refused it.
    pub reason: Option<String>,
    /// The id of what the policies said of it.
    pub decision: Option<Arc<str>>,
    /// How many alike this record stands for.
    pub count: u64,
    /// Size of the payload in bytes.
    pub payload_size: u64,
    /// SHA-256 of the payload as sent, where it was computed.
    pub payload_hash: Option<[u8; 32]>,
}

impl Entry {
    /// What the node itself did to the trail.
    #[must_use]
    pub fn of_the_node(command: &'static str, outcome: &'static str, reason: String, at: Timestamp) -> Self {
        Self {
            at,
            principal: NODE.into(),
            command: command.into(),
            topic: None,
            message_id: None,
            outcome,
            reason: Some(reason),
            decision: None,
            count: 1,
            payload_size: 0,
            payload_hash: None,
        }
    }
}

/// The principal of what the node does by itself.
pub const NODE: &str = "node";

/// The end of the chain, or a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record; 0 before the first.
    pub seq: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Head {
    /// Before the first record.
    pub const START: Self = Self { seq: 0, hash: [0; 32] };

    /// The hash in hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.hash)
    }
}

/// A record as it stands in the trail.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub seq: i64,
    /// What it says; its outcome is in [`Record::outcome`].
    pub entry: Entry,
    /// `ok`, or an error code.
    pub outcome: String,
    /// Its hash.
    pub hash: [u8; 32],
}

/// Behind which record the trail begins: what has a number up to there is none of it.
const FLOOR: &str = "(SELECT coalesce(max(seq), 0) FROM audit_checkpoint)";

const COLUMNS: &str = "seq, at, principal, command, message_id, outcome, count, payload_size, payload_hash, hash, topic, reason, decision";

impl Record {
    /// From the columns of [`COLUMNS`].
    fn from_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        let entry = Entry {
            at: Timestamp::from_millis(row.get(1)?),
            principal: row.get(2)?,
            command: row.get(3)?,
            message_id: row.get(4)?,
            outcome: "",
            count: row.get::<_, i64>(6)? as u64,
            payload_size: row.get::<_, i64>(7)? as u64,
            payload_hash: row.get(8)?,
            topic: row.get(10)?,
            reason: row.get(11)?,
            decision: row.get(12)?,
        };
        Ok(Self { seq: row.get(0)?, entry, outcome: row.get(5)?, hash: row.get(9)? })
    }

    /// Whether it follows `previous`.
    fn follows(&self, previous: &Head) -> bool {
        self.seq == previous.seq + 1
            && self.hash == hash(&previous.hash, self.seq, &self.entry, &self.outcome)
    }

    const fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}

/// The hash of a record that follows `previous`.
fn hash(previous: &[u8; 32], seq: i64, entry: &Entry, outcome: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(previous);
    let mut field = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    field(&seq.to_be_bytes());
    field(&entry.at.millis().to_be_bytes());
    field(entry.principal.as_bytes());
    field(entry.command.as_bytes());
    // Absent and empty must not hash alike.
    field(&[u8::from(entry.message_id.is_some())]);
    field(entry.message_id.as_deref().unwrap_or_default().as_bytes());
    field(outcome.as_bytes());
    field(&entry.count.to_be_bytes());
    field(&entry.payload_size.to_be_bytes());
    field(entry.payload_hash.as_ref().map_or(&[][..], |hash| &hash[..]));
    // Records from before there were topics, and those without a reason and decision, hash as they did.
    let explained = entry.reason.is_some() || entry.decision.is_some();
    if entry.topic.is_some() || explained {
        field(entry.topic.as_deref().unwrap_or_default().as_bytes());
    }
    if explained {
        field(&[
            u8::from(entry.topic.is_some()),
            u8::from(entry.reason.is_some()),
            u8::from(entry.decision.is_some()),
        ]);
        field(entry.reason.as_deref().unwrap_or_default().as_bytes());
        field(entry.decision.as_deref().unwrap_or_default().as_bytes());
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The end of the chain in `connection`.
///
/// # Errors
/// What SQLite says.
pub fn head(connection: &Connection) -> Result<Head, rusqlite::Error> {
    connection
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |row| {
            Ok(Head { seq: row.get(0)?, hash: row.get(1)? })
        })
        .optional()
        .map(|head| head.unwrap_or(Head::START))
}

/// Appends `entry` after `head` and returns the new end.
pub(crate) fn append(connection: &Connection, head: Head, entry: &Entry) -> Result<Head, rusqlite::Error> {
    let seq = head.seq + 1;
    let hash = hash(&head.hash, seq, entry, entry.outcome);
    connection
        .prepare_cached(
            "INSERT INTO audit (seq, at, principal, command, message_id, outcome, count, payload_size, payload_hash, hash, topic,
                                reason, decision)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            seq,
            entry.at.millis(),
            entry.principal,
            entry.command,
            entry.message_id,
            entry.outcome,
            entry.count as i64,
            entry.payload_size as i64,
            entry.payload_hash,
            hash,
            entry.topic,
            entry.reason,
            entry.decision,
        ])?;
    Ok(Head { seq, hash })
}

/// The last `count` records whose numbers are above `after`, the oldest first.
///
/// # Errors
/// What SQLite says.
pub fn tail(connection: &Connection, after: i64, count: u32) -> Result<Vec<Record>, rusqlite::Error> {
    let mut statement = connection.prepare(&format!(
        "SELECT {COLUMNS} FROM audit WHERE seq > max(?1, {FLOOR}) ORDER BY seq DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![after, count], Record::from_row)?;
    let mut records = rows.collect::<Result<Vec<_>, _>>()?;
    records.reverse();
    Ok(records)
}

/// The first `count` records whose numbers are above `after`, the oldest first.
///
/// # Errors
/// What SQLite says.
pub fn page(connection: &Connection, after: i64, count: u32) -> Result<Vec<Record>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM audit WHERE seq > max(?1, {FLOOR}) ORDER BY seq LIMIT ?2"
    ))?;
    statement.query_map(params![after, count], Record::from_row)?.collect()
}

#[cfg(test)]
mod tests;
