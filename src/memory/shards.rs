//! What a change of a record does to its shard: the counters, and the line of changes that the index follows.

use rusqlite::{Connection, OptionalExtension, params};

use super::index::Shard;
use crate::ledger::Unit;
use crate::wire::Fault;

/// What a change does to the counters of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub records: i64,
    pub bytes: i64,
    pub forgotten: i64,
    pub pinned: i64,
}

/// Puts a change in the line and counts it.
pub(super) fn changed(unit: &Unit<'_>, shard: i64, key: i64, tally: Tally) -> Result<u64, Fault> {
    unit.prepare_cached("INSERT INTO memory_change (shard, record) VALUES (?1, ?2)")?
        .execute(params![shard, key])?;
    let sequence = unit.last_insert_rowid();
    // A month that comes back to life while it is being dropped is built anew: its settled sequence says so.
    unit.prepare_cached(
        "UPDATE memory_shard SET records = records + ?2, content_bytes = content_bytes + ?3, forgotten = forgotten + ?4,
             pinned = pinned + ?5, changed = ?6, dropping = 0
         WHERE shard = ?1",
    )?
    .execute(params![shard, tally.records, tally.bytes, tally.forgotten, tally.pinned, sequence])?;
    Ok(sequence.unsigned_abs())
}

/// Counts a change that the index need not follow.
pub(super) fn count(unit: &Unit<'_>, shard: i64, tally: Tally) -> Result<(), Fault> {
    unit.prepare_cached(
        "UPDATE memory_shard SET records = records + ?2, content_bytes = content_bytes + ?3, forgotten = forgotten + ?4,
             pinned = pinned + ?5
         WHERE shard = ?1",
    )?
    .execute(params![shard, tally.records, tally.bytes, tally.forgotten, tally.pinned])?;
    Ok(())
}

/// The row of `shard`, made where there is none.
pub(super) fn row_of(unit: &Unit<'_>, shard: Shard) -> Result<i64, Fault> {
    let (layer, month) = (shard.layer.as_str(), shard.month());
    let found = unit
        .prepare_cached("SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2")?
        .query_row(params![layer, month], |row| row.get(0))
        .optional()?;
    if let Some(row) = found {
        return Ok(row);
    }
    unit.prepare_cached("INSERT INTO memory_shard (layer, month) VALUES (?1, ?2)")?
        .execute(params![layer, month])?;
    Ok(unit.last_insert_rowid())
}

/// How far the counters of records are from the rows of `shard`. Nothing, unless someone else than the node has changed the
/// ledger: every change of rows counts itself in its transaction, and this is read in one snapshot. Reads indices alone.
pub(super) fn records_off(connection: &Connection, shard: i64) -> Result<Tally, Fault> {
    let one = |sql: &str| connection.prepare_cached(sql)?.query_row([shard], |row| row.get::<_, i64>(0));
    let rows = one("SELECT count(*) FROM memory_record WHERE shard = ?1")?;
    let forgotten = one("SELECT count(*) FROM memory_record INDEXED BY memory_record_forgotten
         WHERE forgotten IS NOT NULL AND shard = ?1")?;
    Ok(Tally {
        records: rows - forgotten - one("SELECT records FROM memory_shard WHERE shard = ?1")?,
        forgotten: forgotten - one("SELECT forgotten FROM memory_shard WHERE shard = ?1")?,
        ..Tally::default()
    })
}

/// As [`records_off`], for what is known from the rows alone: it reads all of them.
pub(super) fn contents_off(connection: &Connection, shard: i64) -> Result<Tally, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT coalesce(sum(octet_length(content)), 0) - (SELECT content_bytes FROM memory_shard WHERE shard = ?1),
                coalesce(sum(pinned != 0), 0) - (SELECT pinned FROM memory_shard WHERE shard = ?1)
         FROM memory_record WHERE shard = ?1 AND forgotten IS NULL",
    )?;
    Ok(statement.query_row([shard], |row| {
        Ok(Tally { bytes: row.get(0)?, pinned: row.get(1)?, ..Tally::default() })
    })?)
}
