//! Entities, links and events in the ledger. SQL only.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::formulas::{Emotion, Feelings};
use super::model::{Event, MAX_HISTORY, MAX_LINKS};
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::Fault;

/// An entity as it was when something last happened.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub key: i64,
    pub name: String,
    pub note: Option<String>,
    pub feelings: Feelings,
    pub as_of: Timestamp,
    pub created: Timestamp,
    pub interactions: u64,
    pub last_interaction: Timestamp,
}

impl Stored {
    /// What is felt at `now`.
    pub(super) fn feelings_at(&self, now: Timestamp) -> Feelings {
        self.feelings.after(now.millis() - self.as_of.millis())
    }

    /// Something happens now: from here on time counts from `now`, and never backwards.
    pub(super) fn meet(&mut self, now: Timestamp, feelings: Feelings) {
        self.feelings = feelings;
        self.as_of = self.as_of.max(now);
        self.last_interaction = self.last_interaction.max(now);
    }
}

/// Something that happened with an entity, as it is written.
pub(super) struct Happened<'a> {
    pub cause: &'static str,
    pub felt: Option<(Emotion, f64)>,
    pub trust: f64,
    pub reference: Option<&'a str>,
}

const COLUMNS: &str = "entity, name, note, trust, joy, sadness, anger, neutral, love, as_of, created, interactions, last_interaction";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        key: row.get(0)?,
        name: row.get(1)?,
        note: row.get(2)?,
        feelings: Feelings {
            trust: row.get(3)?,
            intensities: [row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?],
        },
        as_of: Timestamp::from_millis(row.get(9)?),
        created: Timestamp::from_millis(row.get(10)?),
        interactions: row.get::<_, i64>(11)?.unsigned_abs(),
        last_interaction: Timestamp::from_millis(row.get(12)?),
    })
}

pub(super) fn find(connection: &Connection, name: &str) -> Result<Option<Stored>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM soul_entity WHERE name = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([name], from_row).optional()?)
}

pub(super) fn all(connection: &Connection) -> Result<Vec<Stored>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM soul_entity"))?;
    Ok(statement.query_map([], from_row)?.collect::<Result<_, _>>()?)
}

pub(super) fn count(connection: &Connection) -> Result<u64, Fault> {
    let count: i64 =
        connection.prepare_cached("SELECT count(*) FROM soul_entity")?.query_row([], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Adds an entity that nothing has happened with yet.
pub(super) fn insert(unit: &Unit<'_>, name: &str, trust: f64) -> Result<Stored, Fault> {
    let now = unit.now();
    unit.prepare_cached(
        "INSERT INTO soul_entity (name, trust, as_of, created, last_interaction) VALUES (?1, ?2, ?3, ?3, ?3)",
    )?
    .execute(params![name, trust, now.millis()])?;
    Ok(Stored {
        key: unit.last_insert_rowid(),
        name: name.to_owned(),
        note: None,
        feelings: Feelings::first(trust),
        as_of: now,
        created: now,
        interactions: 0,
        last_interaction: now,
    })
}

pub(super) fn update(unit: &Unit<'_>, entity: &Stored) -> Result<(), Fault> {
    let [joy, sadness, anger, neutral, love] = entity.feelings.intensities;
    unit.prepare_cached(
        "UPDATE soul_entity SET note = ?2, trust = ?3, joy = ?4, sadness = ?5, anger = ?6, neutral = ?7, love = ?8,
                                as_of = ?9, interactions = ?10, last_interaction = ?11 WHERE entity = ?1",
    )?
    .execute(params![
        entity.key,
        entity.note,
        entity.feelings.trust,
        joy,
        sadness,
        anger,
        neutral,
        love,
        entity.as_of.millis(),
        entity.interactions as i64,
        entity.last_interaction.millis(),
    ])?;
    Ok(())
}

/// Removes an entity with its links and events.
pub(super) fn delete(unit: &Unit<'_>, key: i64) -> Result<(), Fault> {
    for sql in [
        "DELETE FROM soul_link WHERE entity = ?1",
        "DELETE FROM soul_event WHERE entity = ?1",
        "DELETE FROM soul_entity WHERE entity = ?1",
    ] {
        unit.prepare_cached(sql)?.execute([key])?;
    }
    Ok(())
}

/// Adds an event, and lets the oldest go where there are too many.
pub(super) fn happened(unit: &Unit<'_>, key: i64, event: &Happened<'_>) -> Result<(), Fault> {
    unit.prepare_cached(
        "INSERT INTO soul_event (entity, at, cause, emotion, intensity, trust, reference) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        key,
        unit.now().millis(),
        event.cause,
        event.felt.map(|(emotion, _)| emotion.as_str()),
        event.felt.map(|(_, intensity)| intensity),
        event.trust,
        event.reference,
    ])?;
    trim_history(unit, key)
}

fn trim_history(unit: &Unit<'_>, key: i64) -> Result<(), Fault> {
    unit.prepare_cached(
        "DELETE FROM soul_event WHERE entity = ?1 AND event <=
             (SELECT event FROM soul_event WHERE entity = ?1 ORDER BY event DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![key, MAX_HISTORY as i64])?;
    Ok(())
}

pub(super) fn history(
    connection: &Connection,
    key: i64,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<Event>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT event, at, cause, emotion, intensity, trust, reference FROM soul_event
         WHERE entity = ?1 AND event < ?2 ORDER BY event DESC LIMIT ?3",
    )?;
    let events = statement.query_map(params![key, before.unwrap_or(i64::MAX), limit], |row| {
        Ok(Event {
            event: row.get(0)?,
            at: Timestamp::from_millis(row.get(1)?),
            cause: row.get(2)?,
            emotion: row.get(3)?,
            intensity: row.get(4)?,
            trust: row.get(5)?,
            reference: row.get(6)?,
        })
    })?;
    Ok(events.collect::<Result<_, _>>()?)
}

/// Whether there is a memory with this id that has not been forgotten.
pub(super) fn is_memory(connection: &Connection, id: &str) -> Result<bool, Fault> {
    let found = connection
        .prepare_cached("SELECT 1 FROM memory_record WHERE id = ?1 AND forgotten IS NULL")?
        .exists([id])?;
    Ok(found)
}

/// Links a memory; whether it was not linked before, and which link had to go.
pub(super) fn link(unit: &Unit<'_>, key: i64, memory: &str) -> Result<(bool, Option<String>), Fault> {
    let linked = unit
        .prepare_cached(
            "INSERT INTO soul_link (entity, memory, linked) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![key, memory, unit.now().millis()])?
        > 0;
    let evicted = if linked { trim_links(unit, key)? } else { None };
    Ok((linked, evicted))
}

fn trim_links(unit: &Unit<'_>, key: i64) -> Result<Option<String>, Fault> {
    let mut statement = unit.prepare_cached(
        "DELETE FROM soul_link WHERE entity = ?1 AND link <=
             (SELECT link FROM soul_link WHERE entity = ?1 ORDER BY link DESC LIMIT 1 OFFSET ?2)
         RETURNING memory",
    )?;
    let gone: Vec<String> =
        statement.query_map(params![key, MAX_LINKS as i64], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(gone.into_iter().next())
}

pub(super) fn unlink(unit: &Unit<'_>, key: i64, memory: &str) -> Result<bool, Fault> {
    Ok(unit
        .prepare_cached("DELETE FROM soul_link WHERE entity = ?1 AND memory = ?2")?
        .execute(params![key, memory])?
        > 0)
}

/// Takes every link to a memory away.
pub(super) fn unlink_everywhere(unit: &Unit<'_>, memory: &str) -> Result<(), Fault> {
    unit.prepare_cached("DELETE FROM soul_link WHERE memory = ?1")?.execute([memory])?;
    Ok(())
}

pub(super) fn links(connection: &Connection, key: i64) -> Result<Vec<String>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT memory FROM soul_link WHERE entity = ?1 ORDER BY link DESC")?;
    Ok(statement.query_map([key], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

pub(super) fn linked_to(connection: &Connection, memory: &str) -> Result<Vec<String>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT e.name FROM soul_link l JOIN soul_entity e ON e.entity = l.entity WHERE l.memory = ?1 ORDER BY e.name",
    )?;
    Ok(statement.query_map([memory], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Moves links and events of `from` to `into`. What both have is kept once; the newest stay.
pub(super) fn move_all(unit: &Unit<'_>, from: i64, into: i64) -> Result<(), Fault> {
    for sql in [
        "UPDATE OR IGNORE soul_link SET entity = ?2 WHERE entity = ?1",
        "UPDATE soul_event SET entity = ?2 WHERE entity = ?1",
    ] {
        unit.prepare_cached(sql)?.execute([from, into])?;
    }
    trim_links(unit, into)?;
    trim_history(unit, into)
}
