//! The schedule's rows in the ledger.

use rusqlite::{Connection, OptionalExtension, params};

use super::agenda::{Entry, Next, Run, State};
use crate::clock::Timestamp;
use crate::wire::Fault;

/// How it stands with the entry called `name`; without its next run when that was found for another `spec`.
pub(super) fn load(connection: &Connection, name: &str, spec: &str) -> Result<State, Fault> {
    let row = connection
        .prepare_cached(
            "SELECT spec, slot, due, paused, paused_why, started_at, finished_at, outcome, message, missed, runs, failures
             FROM schedule WHERE name = ?1",
        )?
        .query_row([name], |row| {
            let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis));
            let same = row.get::<_, String>(0)? == spec;
            let next = time(1)?.zip(time(2)?).map(|(slot, due)| Next { slot, due });
            let why: Option<String> = row.get(4)?;
            let last = match time(5)? {
                None => None,
                Some(started) => Some(Run {
                    started,
                    finished: time(6)?,
                    outcome: row.get(7)?,
                    message: row.get(8)?,
                    missed: row.get(9)?,
                }),
            };
            Ok(State {
                next: next.filter(|_| same),
                paused: row.get::<_, bool>(3)?.then(|| why.unwrap_or_default()),
                last,
                runs: row.get::<_, i64>(10)? as u64,
                failures: row.get(11)?,
            })
        })
        .optional()?;
    Ok(row.unwrap_or_default())
}

/// Keeps how it stands with `entry`, but for whether it is paused: that has a command of its own.
pub(super) fn save(connection: &Connection, entry: &Entry) -> Result<(), Fault> {
    let State { next, paused: _, last, runs, failures } = &entry.state;
    let millis = |time: Timestamp| time.millis();
    connection
        .prepare_cached(
            "INSERT INTO schedule (name, spec, slot, due, started_at, finished_at, outcome, message, missed, runs, failures)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT DO UPDATE SET spec = ?2, slot = ?3, due = ?4, started_at = ?5, finished_at = ?6, outcome = ?7,
                                       message = ?8, missed = ?9, runs = ?10, failures = ?11",
        )?
        .execute(params![
            entry.name,
            entry.spec,
            next.map(|next| millis(next.slot)),
            next.map(|next| millis(next.due)),
            last.as_ref().map(|run| millis(run.started)),
            last.as_ref().and_then(|run| run.finished).map(millis),
            last.as_ref().and_then(|run| run.outcome.as_deref()),
            last.as_ref().and_then(|run| run.message.as_deref()),
            last.as_ref().map_or(0, |run| run.missed),
            *runs as i64,
            failures,
        ])?;
    Ok(())
}

/// Pauses (with the reason) or resumes the entry called `name`.
///
/// # Errors
/// When the ledger cannot be written.
pub(crate) fn set_paused(connection: &Connection, name: &str, why: Option<&str>) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO schedule (name, spec, paused, paused_why) VALUES (?1, '', ?2, ?3)
             ON CONFLICT DO UPDATE SET paused = ?2, paused_why = ?3",
        )?
        .execute(params![name, why.is_some(), why])?;
    Ok(())
}
