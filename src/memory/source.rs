//! The ledger as the search index reads it: shards, changes, documents. What is forgotten is not there for the index.

use rusqlite::{Row, params};
use tokio::runtime::Handle;

use super::index::{Change, Document, Shard, ShardState, Source};
use super::shards::{Tally, contents_off, count, records_off};
use super::store::{optional_text, shards, signed, tags, text, unsigned};
use crate::clock::Timestamp;
use crate::ledger::{Ledger, Unit};
use crate::wire::Fault;

/// Changes that one unit of work drops: well under 5 ms.
const SETTLE_ROWS: u32 = 1_000;

/// Columns of a document, in the order that [`document`] reads them.
const DOCUMENT: &str = "r.key, r.created, r.importance, r.tags, r.entity, r.namespace, r.user, r.content";

/// Reads [`DOCUMENT`] from `first` on. [`None`] when the key is NULL.
fn document(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Document>> {
    let Some(key) = row.get::<_, Option<i64>>(first)? else { return Ok(None) };
    Ok(Some(Document {
        key: key.unsigned_abs(),
        created: Timestamp::from_millis(row.get(first + 1)?),
        importance: row.get(first + 2)?,
        tags: tags(row, first + 3)?,
        entity: optional_text(row, first + 4)?,
        namespace: text(row, first + 5)?,
        user: optional_text(row, first + 6)?,
        content: text(row, first + 7)?,
    }))
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

    /// Adds what counters are off to them, and says so.
    fn put_right(&self, shard: Shard, row: i64, off: Tally) -> Result<(), Fault> {
        if off == Tally::default() {
            return Ok(());
        }
        self.runtime.block_on(self.ledger.write(move |unit| count(unit, row, off)))?;
        let Tally { records, bytes, forgotten, pinned } = off;
        tracing::error!(
            %shard, records, bytes, forgotten, pinned,
            "a month had other rows than were counted: the ledger was changed from outside; the counters are put right by this much"
        );
        Ok(())
    }
}

impl Source for LedgerSource {
    fn shards(&self) -> Result<Vec<ShardState>, Fault> {
        self.ledger.read_blocking(shards)
    }

    fn changes(&self, shard: Shard, after: u64, limit: u32) -> Result<Vec<Change>, Fault> {
        self.ledger.read_blocking(|connection| {
            let sql = format!(
                "SELECT c.sequence, c.record, {DOCUMENT}
                 FROM memory_change c
                 LEFT JOIN memory_record r ON r.key = c.record AND r.shard = c.shard AND r.forgotten IS NULL
                 WHERE c.shard = (SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2)
                   AND c.sequence > ?3
                 ORDER BY c.sequence LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
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
            let sql = format!(
                "SELECT {DOCUMENT} FROM memory_record r
                 WHERE shard = (SELECT shard FROM memory_shard WHERE layer = ?1 AND month = ?2) AND key > ?3
                   AND forgotten IS NULL
                 ORDER BY key LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let from = params![shard.layer.as_str(), shard.month(), signed(after), limit];
            let rows = statement.query_map(from, |row| document(row, 0))?;
            Ok(rows.filter_map(Result::transpose).collect::<Result<_, _>>()?)
        })
    }

    fn recount(&self, state: &ShardState) -> Result<(), Fault> {
        let (shard, row) = (state.shard, state.row);
        let off = self.ledger.read_blocking(|connection| records_off(connection, row))?;
        self.put_right(shard, row, off)?;
        // Of a month so large that no snapshot is held that long they stay as they are: nothing is found by them.
        match self.ledger.read_blocking(|connection| contents_off(connection, row)) {
            Ok(off) => self.put_right(shard, row, off),
            Err(error) => {
                tracing::debug!(%shard, %error, "the contents of a month were not counted");
                Ok(())
            }
        }
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

    fn compacted(&self, shard: Shard, sequence: u64) -> Result<(), Fault> {
        let (layer, month, sequence) = (shard.layer.as_str(), shard.month(), signed(sequence));
        let done = self.ledger.write(move |unit| {
            unit.prepare_cached(
                "UPDATE memory_shard SET compacted = max(compacted, ?3) WHERE layer = ?1 AND month = ?2",
            )?
            .execute(params![layer, month, sequence])?;
            Ok(())
        });
        self.runtime.block_on(done)
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
