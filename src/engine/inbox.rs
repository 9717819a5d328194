//! Which commands took effect: what makes a repeat harmless.
//!
//! A command is known by its principal and `message_id`. Its row is written in the transaction of its effect, so one is
//! never there without the other. Commands that failed leave no row: they had no effect, and may succeed when repeated.
//!
//! Signed commands are another matter, because their nonce is used up whatever becomes of them: the row of one that failed
//! for good has its answer, that of a read says that there was one. Such a row counts for the same signature alone; any other
//! command takes its place.

use rusqlite::{Connection, OptionalExtension, params};

use super::outbox::{self, Route, Stored};
use crate::clock::Timestamp;
use crate::gate::nonce::Nonce;
use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// What identifies a command and its content.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub principal: std::sync::Arc<str>,
    pub message_id: String,
    pub topic: String,
    pub payload_hash: [u8; 32],
}

/// What is known of a command.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// It took effect, and this was the answer; `on_its_way` to this route when it is still to be published there.
    Answered { row: i64, stored: Stored, on_its_way: Option<Route> },
    /// It is a job that has not finished.
    Running { job: String },
    /// Signed, and without effect: how it failed, or nothing when it was a read. `same` when it was this command.
    WithoutEffect { failure: Option<(i64, Stored, Option<Route>)>, same: bool },
}

/// Looks the command up.
///
/// # Errors
/// `conflict` when the same id came with another topic or payload.
pub(super) fn find(connection: &Connection, key: &Key) -> Result<Option<Known>, Fault> {
    let row = connection
        .prepare_cached(
            "SELECT topic, payload_hash, reply, job FROM inbox WHERE principal = ?1 AND message_id = ?2",
        )?
        .query_row(params![key.principal, key.message_id], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, [u8; 32]>(1)?,
                row.get::<_, Option<i64>>(2)?,
                row.get::<_, Option<String>>(3)?,
            ))
        })
        .optional()?;
    let Some((topic, payload_hash, reply, job)) = row else { return Ok(None) };
    let same = topic == key.topic && payload_hash == key.payload_hash;
    let known = match (reply, job) {
        (Some(row), job) => {
            let (stored, on_its_way) = outbox::load(connection, row)?;
            if job.is_none() && stored.outcome.error.is_some() {
                return Ok(Some(Known::WithoutEffect { failure: Some((row, stored, on_its_way)), same }));
            }
            Known::Answered { row, stored, on_its_way }
        }
        (None, Some(job)) => Known::Running { job },
        (None, None) => return Ok(Some(Known::WithoutEffect { failure: None, same })),
    };
    if same {
        return Ok(Some(known));
    }
    Err(Fault::new(Code::Conflict, "this message_id was used for another command; use a new one"))
}

/// The stored answer to a repeat of the command; `None` when there is none, or none yet.
///
/// # Errors
/// As [`find`].
pub(super) fn answer(
    connection: &Connection,
    key: &Key,
    nonce: Option<&Nonce>,
) -> Result<Option<Stored>, Fault> {
    match find(connection, key)? {
        Some(Known::Answered { stored, .. }) => Ok(Some(stored)),
        Some(Known::WithoutEffect { failure: Some((_, stored, _)), same: true }) => {
            let again = nonce.map_or(Ok(false), |nonce| nonce.is_used(connection))?;
            Ok(again.then_some(stored))
        }
        _ => Ok(None),
    }
}

/// Lets a signed read run: once for each nonce, and again when the same command comes once more.
///
/// # Errors
/// `replayed`.
pub(super) fn admit_read(unit: &Unit<'_>, key: Option<&Key>, nonce: &Nonce) -> Result<(), Fault> {
    let Some(key) = key else { return nonce.use_up(unit) };
    match find(unit, key) {
        Ok(Some(Known::WithoutEffect { failure: None, same: true })) if nonce.is_used(unit)? => Ok(()),
        Ok(Some(Known::WithoutEffect { .. })) => {
            nonce.use_up(unit)?;
            forget(unit, key)?;
            insert(unit, key, None, None)
        }
        Ok(None) => {
            nonce.use_up(unit)?;
            insert(unit, key, None, None)
        }
        // The id is that of a command with an effect, which goes on to be known by it.
        Ok(Some(Known::Answered { .. } | Known::Running { .. })) => nonce.use_up(unit),
        Err(fault) if fault.code == Code::Conflict => nonce.use_up(unit),
        Err(fault) => Err(fault),
    }
}

/// Forgets the command.
pub(super) fn forget(unit: &Unit<'_>, key: &Key) -> Result<(), Fault> {
    let reply: Option<i64> = unit
        .prepare_cached("DELETE FROM inbox WHERE principal = ?1 AND message_id = ?2 RETURNING reply")?
        .query_row(params![key.principal, key.message_id], |row| row.get(0))?;
    reply.map_or(Ok(()), |reply| outbox::release(unit, reply))
}

/// Records that the command took effect.
pub(super) fn insert(unit: &Unit<'_>, key: &Key, reply: Option<i64>, job: Option<&str>) -> Result<(), Fault> {
    unit.prepare_cached(
        "INSERT INTO inbox (principal, message_id, topic, payload_hash, received_at, reply, job)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        key.principal,
        key.message_id,
        key.topic,
        key.payload_hash,
        unit.now().millis(),
        reply,
        job
    ])?;
    Ok(())
}

/// Records the answer of a job.
pub(super) fn answer_job(
    unit: &Unit<'_>,
    principal: &str,
    message_id: &str,
    reply: i64,
) -> Result<(), Fault> {
    unit.prepare_cached("UPDATE inbox SET reply = ?3 WHERE principal = ?1 AND message_id = ?2")?
        .execute(params![principal, message_id, reply])?;
    Ok(())
}

/// Rows that one housekeeping unit removes, so that it stays well under 5 ms.
const BATCH: u64 = 500;

/// Forgets up to `limit` commands received before `before`, the oldest first; returns how many. Jobs that still run are
/// kept whatever their age.
pub(super) fn prune(unit: &Unit<'_>, before: Timestamp, limit: u64) -> Result<u64, Fault> {
    let replies: Vec<Option<i64>> = unit
        .prepare_cached(
            "DELETE FROM inbox WHERE (principal, message_id) IN (
                 SELECT principal, message_id FROM inbox
                 WHERE received_at < ?1 AND (reply IS NOT NULL OR job IS NULL)
                 ORDER BY received_at LIMIT ?2)
             RETURNING reply",
        )?
        .query_map(params![before.millis(), limit.min(BATCH) as i64], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for reply in replies.iter().flatten() {
        outbox::release(unit, *reply)?;
    }
    Ok(replies.len() as u64)
}

/// How many commands are remembered.
pub(super) fn rows(connection: &Connection) -> Result<u64, Fault> {
    Ok(connection.query_row("SELECT count(*) FROM inbox", [], |row| row.get::<_, i64>(0))? as u64)
}

/// From when on a repeat is recognized; `None` while the inbox is empty.
pub(super) fn window_start(connection: &Connection) -> Result<Option<Timestamp>, Fault> {
    let oldest: Option<i64> =
        connection.query_row("SELECT min(received_at) FROM inbox", [], |row| row.get(0))?;
    Ok(oldest.map(Timestamp::from_millis))
}
