//! How long the trail is kept: the oldest records are removed behind a sealed checkpoint, from which the rest still
//! verifies.

use rusqlite::{Connection, OptionalExtension, params};

use super::Head;
use super::seal::{About, Sealed, Sealer};
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::Fault;

/// Records that one unit removes, so that it stays well under 5 ms.
const BATCH: u32 = 500;

/// Fewest records that a checkpoint is made for, so that there are not many of them.
const WORTHWHILE: i64 = 1_000;

/// Checkpoints that are kept; the newest one alone is needed.
const CHECKPOINTS: u32 = 100;

/// How long records are kept, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Those received before this may go.
    pub since: Timestamp,
    /// Beyond this number the oldest may go.
    pub records: u64,
}

/// The last record that is not to be kept; `None` while there is little to remove. The last record of all always stays.
///
/// # Errors
/// What the ledger says.
pub fn plan(connection: &Connection, keep: Keep) -> Result<Option<Head>, Fault> {
    let floor = Sealed::checkpoint(connection)?.map_or(0, |checkpoint| checkpoint.head.seq);
    let last = super::head(connection)?.seq;
    // The first that is recent enough: what stands behind it stays, whatever its time.
    let recent: Option<i64> = connection
        .prepare_cached("SELECT seq FROM audit WHERE seq > ?1 AND at >= ?2 ORDER BY seq LIMIT 1")?
        .query_row(params![floor, keep.since.millis()], |row| row.get(0))
        .optional()?;
    let old = recent.unwrap_or(last) - 1;
    let excess = last.saturating_sub(i64::try_from(keep.records).unwrap_or(i64::MAX));
    let upto = old.max(excess).min(last - 1);
    if upto - floor < WORTHWHILE {
        return Ok(None);
    }
    let hash = connection.query_row("SELECT hash FROM audit WHERE seq = ?1", [upto], |row| row.get(0))?;
    Ok(Some(Head { seq: upto, hash }))
}

/// Seals the place behind which records are to be removed.
///
/// # Errors
/// What the ledger says.
pub(in crate::ledger) fn checkpoint(unit: &Unit<'_>, sealer: &Sealer, head: Head) -> Result<(), Fault> {
    sealer.seal(About::Checkpoint, head, unit.now()).put_down_as_checkpoint(unit)?;
    unit.execute(
        "DELETE FROM audit_checkpoint WHERE seq < (SELECT min(seq) FROM (SELECT seq FROM audit_checkpoint ORDER BY seq DESC LIMIT ?1))",
        [CHECKPOINTS],
    )?;
    Ok(())
}

/// Removes up to 500 records up to the newest checkpoint; how many there were.
///
/// # Errors
/// What the ledger says.
pub(in crate::ledger) fn remove(unit: &Unit<'_>) -> Result<usize, Fault> {
    let floor = Sealed::checkpoint(unit)?.map_or(0, |checkpoint| checkpoint.head.seq);
    Ok(unit
        .prepare_cached(
            "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE seq <= ?1 ORDER BY seq LIMIT ?2)",
        )?
        .execute(params![floor, BATCH])?)
}
