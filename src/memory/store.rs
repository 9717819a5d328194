//! Memory's SQL.
//!
//! Every change of a record writes its row, its place in the line of changes and the counters of its shard in one
//! transaction; the caller's [`Unit`] is that transaction. Reads go to a snapshot.

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::runtime::Handle;

use super::index::{Change, Document, Shard, ShardState, Source};
use super::model::{Layer, Record};
use crate::clock::Timestamp;
use crate::ledger::{Ledger, Unit};
use crate::wire::Fault;

/// Changes that one unit of work drops: well under 5 ms.
const SETTLE_ROWS: u32 = 1_000;

/// Columns of a record, in the order that [`record`] reads them.
const RECORD: &str = "r.id, s.layer, r.content, r.tags, r.entity, r.importance, r.created, r.checksum";

/// Keeps `record`, and returns the change's sequence.
///
/// # Errors
/// When the ledger cannot be written.
pub fn insert(unit: &Unit<'_>, record: &Record) -> Result<u64, Fault> {
    let shard = Shard::of(record.layer, record.created);
    let month = shard.month();
    let layer = shard.layer.as_str();
    unit.prepare_cached("INSERT INTO memory_shard (layer, month) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![layer, month])?;
    let shard: i64 = unit
        .prepare_cached("SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2")?
        .query_row(params![layer, month], |row| row.get(0))?;
    let tags = serde_json::to_string(&record.tags).map_err(|_| Fault::internal())?;
    unit.prepare_cached(
        "INSERT INTO memory_record (id, shard, content, tags, entity, importance, created, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        record.id,
        shard,
        record.content,
        tags,
        record.entity,
        record.importance,
        record.created.millis(),
        record.checksum
    ])?;
    let bytes = i64::try_from(record.content.len()).unwrap_or(i64::MAX);
    changed(unit, shard, unit.last_insert_rowid(), 1, bytes)
}

/// Removes the record and its content; [`None`] when there is none of that id. Returns the change's sequence.
///
/// # Errors
/// When the ledger cannot be written.
pub fn remove(unit: &Unit<'_>, id: &str) -> Result<Option<u64>, Fault> {
    let removed: Option<(i64, i64, i64)> = unit
        .prepare_cached(
            "DELETE FROM memory_record WHERE id = ?1 RETURNING key, shard, octet_length(content)",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    removed.map(|(key, shard, bytes)| changed(unit, shard, key, -1, bytes)).transpose()
}

/// Puts a change in the line and counts it: `by` is 1 for a record more, −1 for one less.
fn changed(unit: &Unit<'_>, shard: i64, key: i64, by: i64, bytes: i64) -> Result<u64, Fault> {
    unit.prepare_cached("INSERT INTO memory_change (shard, record) VALUES (?1, ?2)")?
        .execute(params![shard, key])?;
    let sequence = unit.last_insert_rowid();
    unit.prepare_cached(
        "UPDATE memory_shard SET records = records + ?2, content_bytes = content_bytes + ?2 * ?3, changed = ?4
         WHERE shard = ?1",
    )?
    .execute(params![shard, by, bytes, sequence])?;
    Ok(sequence.unsigned_abs())
}

/// The record of that id.
///
/// # Errors
/// When the ledger cannot be read.
pub fn get(connection: &Connection, id: &str) -> Result<Option<Record>, Fault> {
    let sql =
        format!("SELECT {RECORD} FROM memory_record r JOIN memory_shard s USING (shard) WHERE r.id = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([id], record).optional()?)
}

/// The record of that key.
///
/// # Errors
/// When the ledger cannot be read.
pub fn get_by_key(connection: &Connection, key: u64) -> Result<Option<Record>, Fault> {
    let sql =
        format!("SELECT {RECORD} FROM memory_record r JOIN memory_shard s USING (shard) WHERE r.key = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([signed(key)], record).optional()?)
}

/// Every shard that ever had a record.
///
/// # Errors
/// When the ledger cannot be read.
pub fn shards(connection: &Connection) -> Result<Vec<ShardState>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT layer, month, records, content_bytes, changed, settled FROM memory_shard ORDER BY layer, month",
    )?;
    let rows = statement.query_map([], |row| {
        let month: String = row.get(1)?;
        let shard = Shard::parse(layer(row, 0)?, &month).ok_or(rusqlite::Error::InvalidColumnType(
            1,
            "month".into(),
            rusqlite::types::Type::Text,
        ))?;
        Ok(ShardState {
            shard,
            records: unsigned(row, 2)?,
            content_bytes: unsigned(row, 3)?,
            changed: unsigned(row, 4)?,
            settled: unsigned(row, 5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        id: row.get(0)?,
        layer: layer(row, 1)?,
        content: row.get(2)?,
        tags: tags(row, 3)?,
        entity: row.get(4)?,
        importance: row.get(5)?,
        created: Timestamp::from_millis(row.get(6)?),
        checksum: row.get(7)?,
    })
}

/// Columns: key, created, importance, tags, entity, content, from `first` on. [`None`] when the key is NULL.
fn document(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Document>> {
    let Some(key) = row.get::<_, Option<i64>>(first)? else { return Ok(None) };
    Ok(Some(Document {
        key: key.unsigned_abs(),
        created: Timestamp::from_millis(row.get(first + 1)?),
        importance: row.get(first + 2)?,
        tags: tags(row, first + 3)?,
        entity: row.get(first + 4)?,
        content: row.get(first + 5)?,
    }))
}

fn layer(row: &Row<'_>, column: usize) -> rusqlite::Result<Layer> {
    let name: String = row.get(column)?;
    let unknown = || rusqlite::Error::InvalidColumnType(column, "layer".into(), rusqlite::types::Type::Text);
    Layer::parse(&name).ok_or_else(unknown)
}

fn tags(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let json: String = row.get(column)?;
    let wrong = |_| rusqlite::Error::InvalidColumnType(column, "tags".into(), rusqlite::types::Type::Text);
    serde_json::from_str(&json).map_err(wrong)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    // Counters and sequences are never negative.
    Ok(row.get::<_, i64>(column)?.max(0).unsigned_abs())
}

/// SQLite's integers are signed; keys and sequences stay far below the difference.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The ledger as the search index reads it, from a thread that may block.
pub struct LedgerSource {
    ledger: Ledger,
    runtime: Handle,
}

impl LedgerSource {
    /// `runtime` carries the wait for the ledger's writer.
    pub const fn new(ledger: Ledger, runtime: Handle) -> Self {
        Self { ledger, runtime }
    }
}

impl Source for LedgerSource {
    fn shards(&self) -> Result<Vec<ShardState>, Fault> {
        self.ledger.read_blocking(shards)
    }

    fn changes(&self, shard: Shard, after: u64, limit: u32) -> Result<Vec<Change>, Fault> {
        self.ledger.read_blocking(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT c.sequence, c.record, r.key, r.created, r.importance, r.tags, r.entity, r.content
                 FROM memory_change c LEFT JOIN memory_record r ON r.key = c.record AND r.shard = c.shard
                 WHERE c.shard = (SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2)
                   AND c.sequence > ?3
                 ORDER BY c.sequence LIMIT ?4",
            )?;
            let from = params![shard.layer.as_str(), shard.month(), signed(after), limit];
            let rows = statement.query_map(from, |row| {
                Ok(Change {
                    sequence: unsigned(row, 0)?,
                    key: unsigned(row, 1)?,
                    document: document(row, 2)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    fn documents(&self, shard: Shard, after: u64, limit: u32) -> Result<Vec<Document>, Fault> {
        self.ledger.read_blocking(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, created, importance, tags, entity, content FROM memory_record
                 WHERE shard = (SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2) AND key > ?3
                 ORDER BY key LIMIT ?4",
            )?;
            let from = params![shard.layer.as_str(), shard.month(), signed(after), limit];
            let rows = statement.query_map(from, |row| document(row, 0))?;
            Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
        })
    }

    fn settle(&self, shard: Shard, sequence: u64) -> Result<(), Fault> {
        let (layer, month, sequence) = (shard.layer.as_str(), shard.month(), signed(sequence));
        loop {
            let month = month.clone();
            let done = self.ledger.write(move |unit| settle_some(unit, layer, &month, sequence));
            if self.runtime.block_on(done)? {
                return Ok(());
            }
        }
    }
}

/// Drops some changes up to `sequence`; returns whether that was all.
fn settle_some(unit: &Unit<'_>, layer: &str, month: &str, sequence: i64) -> Result<bool, Fault> {
    let shard: i64 = unit
        .prepare_cached("SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2")?
        .query_row(params![layer, month], |row| row.get(0))?;
    let (rows, last): (u32, Option<i64>) = unit
        .prepare_cached(
            "SELECT count(*), max(sequence) FROM (SELECT sequence FROM memory_change
             WHERE shard = ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3)",
        )?
        .query_row(params![shard, sequence, SETTLE_ROWS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let done = rows < SETTLE_ROWS;
    let until = if done { sequence } else { last.unwrap_or(sequence) };
    unit.prepare_cached("DELETE FROM memory_change WHERE shard = ?1 AND sequence <= ?2")?
        .execute(params![shard, until])?;
    unit.prepare_cached("UPDATE memory_shard SET settled = max(settled, ?2) WHERE shard = ?1")?
        .execute(params![shard, until])?;
    Ok(done)
}
