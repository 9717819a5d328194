//! The audit trail: who did what, with which outcome. Never the payload, only its size and hash.
//!
//! Each record's hash is SHA-256 over the previous record's hash and its own fields, each preceded by its length, so that
//! an edited, removed or reordered record breaks the chain from there on. The first record follows 32 zero bytes.

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::Timestamp;

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
    /// How many alike this record stands for.
    pub count: u64,
    /// Size of the payload in bytes.
    pub payload_size: u64,
    /// SHA-256 of the payload as sent, where it was computed.
    pub payload_hash: Option<[u8; 32]>,
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record; 0 before the first.
    pub seq: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// Where the chain breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    /// The first record that does not follow from the one before.
    pub seq: i64,
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
    // Records from before there were topics hash as they did.
    if let Some(topic) = &entry.topic {
        field(topic.as_bytes());
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
        .map(|head| head.unwrap_or(Head { seq: 0, hash: [0; 32] }))
}

/// Appends `entry` after `head` and returns the new end.
pub(crate) fn append(connection: &Connection, head: Head, entry: &Entry) -> Result<Head, rusqlite::Error> {
    let seq = head.seq + 1;
    let hash = hash(&head.hash, seq, entry, entry.outcome);
    connection
        .prepare_cached(
            "INSERT INTO audit (seq, at, principal, command, message_id, outcome, count, payload_size, payload_hash, hash, topic)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
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
        ])?;
    Ok(Head { seq, hash })
}

/// Walks the whole chain.
///
/// # Errors
/// What SQLite says; inside, where the chain breaks.
pub fn verify(connection: &Connection) -> Result<Result<Head, Broken>, rusqlite::Error> {
    // A ledger that was not migrated yet can be verified too.
    let topic = if connection.prepare("SELECT topic FROM audit").is_ok() { "topic" } else { "NULL" };
    let mut statement = connection.prepare(&format!(
        "SELECT seq, at, principal, command, message_id, outcome, count, payload_size, payload_hash, hash, {topic}
         FROM audit ORDER BY seq",
    ))?;
    let mut rows = statement.query([])?;
    let mut head = Head { seq: 0, hash: [0; 32] };
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
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
        };
        let outcome: String = row.get(5)?;
        let stored: [u8; 32] = row.get(9)?;
        if seq != head.seq + 1 || stored != hash(&head.hash, seq, &entry, &outcome) {
            return Ok(Err(Broken { seq }));
        }
        head = Head { seq, hash: stored };
    }
    Ok(Ok(head))
}
