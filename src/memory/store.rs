//! Memory's SQL: records, and the counters of their shards.
//!
//! Every change of a record writes its row, its seal, its place in the line of changes and the counters of shard,
//! namespace and user in one transaction; the caller's [`Unit`] is that transaction. Reads go to a snapshot, and check
//! the seal of whatever they read.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::index::{Shard, ShardState};
use super::model::{self, Layer, Record};
use super::seal::Seal;
use super::shards::{Tally, changed, count, row_of};
use super::usage::{self, Limits};
use super::versions;
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::Fault;

/// Columns of a record, in the order that [`kept`] reads them.
const RECORD: &str = "r.key, r.shard, r.forgotten, r.seal, r.id, s.layer, r.content, r.tags, r.entity, r.namespace, r.user, \
     r.source, r.importance, r.created, r.updated, r.expires, r.pinned, r.version, r.accesses, r.last_access, r.checksum";

/// A record as the ledger has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Never used again, and growing.
    pub key: i64,
    /// The row of its shard.
    pub shard: i64,
    /// Since when it is forgotten.
    pub forgotten: Option<Timestamp>,
    /// Whether its seal holds. What is not sound is in no answer.
    pub sound: bool,
    /// The record.
    pub record: Record,
}

impl Kept {
    /// Whether it may be in an answer at `now`, as far as its seal is concerned not: see [`Kept::sound`].
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.forgotten.is_none() && self.record.is_live(now)
    }

    fn bytes(&self) -> i64 {
        size(&self.record.content)
    }
}

/// Keeps a new record, and returns the change's sequence.
///
/// # Errors
/// `conflict` when namespace or user have no room; when the ledger cannot be written.
pub fn insert(unit: &Unit<'_>, seal: &Seal, limits: &Limits, record: &Record) -> Result<u64, Fault> {
    let shard = row_of(unit, Shard::of(record.layer, record.created))?;
    unit.prepare_cached(
        "INSERT INTO memory_record (id, shard, content, tags, entity, namespace, user, source, importance, created, updated,
             expires, pinned, version, accesses, last_access, checksum, digest, seal)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        record.id,
        shard,
        record.content,
        written_tags(&record.tags)?,
        record.entity,
        record.namespace,
        record.user,
        record.source,
        record.importance,
        record.created.millis(),
        record.updated.map(Timestamp::millis),
        record.expires.map(Timestamp::millis),
        record.pinned,
        record.version,
        signed(record.accesses),
        record.last_access.map(Timestamp::millis),
        record.checksum,
        model::digest(&record.checksum),
        seal.of(record),
    ])?;
    let key = unit.last_insert_rowid();
    let bytes = size(&record.content);
    usage::add(unit, limits, &record.namespace, record.user.as_deref(), 1, bytes)?;
    let tally = Tally { records: 1, bytes, forgotten: 0, pinned: i64::from(record.pinned) };
    changed(unit, shard, key, tally)
}

/// Puts `new` in the place of a live record of the same id, layer and creation. `history` says whether the old version is
/// kept. Returns the change's sequence.
///
/// # Errors
/// `conflict` when namespace or user have no room; when the ledger cannot be written.
pub fn replace(
    unit: &Unit<'_>,
    seal: &Seal,
    limits: &Limits,
    old: &Kept,
    new: &Record,
    history: bool,
) -> Result<u64, Fault> {
    if history {
        versions::keep(unit, seal, old)?;
    }
    unit.prepare_cached(
        "UPDATE memory_record SET content = ?2, tags = ?3, entity = ?4, namespace = ?5, user = ?6, source = ?7,
             importance = ?8, updated = ?9, expires = ?10, pinned = ?11, version = ?12, checksum = ?13, digest = ?14,
             seal = ?15
         WHERE key = ?1",
    )?
    .execute(params![
        old.key,
        new.content,
        written_tags(&new.tags)?,
        new.entity,
        new.namespace,
        new.user,
        new.source,
        new.importance,
        new.updated.map(Timestamp::millis),
        new.expires.map(Timestamp::millis),
        new.pinned,
        new.version,
        new.checksum,
        model::digest(&new.checksum),
        seal.of(new),
    ])?;
    let (before, after) = (old.bytes(), size(&new.content));
    let (owner, user) = (&old.record.namespace, old.record.user.as_deref());
    usage::remove(unit, owner, user, 1, before)?;
    // What becomes no larger is welcome also where there is too much already.
    let unlimited = Limits::default();
    let limits = if after > before || new.namespace != *owner { limits } else { &unlimited };
    usage::add(unit, limits, &new.namespace, new.user.as_deref(), 1, after)?;
    let pinned = i64::from(new.pinned) - i64::from(old.record.pinned);
    changed(unit, old.shard, old.key, Tally { bytes: after - before, pinned, ..Tally::default() })
}

/// Has pruning spare a live record, or no longer. The index need not know.
///
/// # Errors
/// When the ledger cannot be written.
pub fn pin(unit: &Unit<'_>, seal: &Seal, old: &Kept, pinned: bool) -> Result<(), Fault> {
    let new = Record { pinned, ..old.record.clone() };
    unit.prepare_cached("UPDATE memory_record SET pinned = ?2, seal = ?3 WHERE key = ?1")?
        .execute(params![old.key, pinned, seal.of(&new)])?;
    let by = i64::from(pinned) - i64::from(old.record.pinned);
    unit.prepare_cached("UPDATE memory_shard SET pinned = pinned + ?2, dropping = 0 WHERE shard = ?1")?
        .execute(params![old.shard, by])?;
    Ok(())
}

/// Moves a live record to another layer; id, history and all else stay. Returns the change's sequence.
///
/// # Errors
/// When the ledger cannot be written.
pub fn move_to(unit: &Unit<'_>, seal: &Seal, old: &Kept, layer: Layer) -> Result<u64, Fault> {
    let new = Record { layer, ..old.record.clone() };
    let to = row_of(unit, Shard::of(layer, new.created))?;
    unit.prepare_cached("UPDATE memory_record SET shard = ?2, seal = ?3 WHERE key = ?1")?
        .execute(params![old.key, to, seal.of(&new)])?;
    let (bytes, pinned) = (old.bytes(), i64::from(new.pinned));
    changed(unit, old.shard, old.key, Tally { records: -1, bytes: -bytes, forgotten: 0, pinned: -pinned })?;
    changed(unit, to, old.key, Tally { records: 1, bytes, forgotten: 0, pinned })
}

/// Takes a live record out of every answer. Returns the change's sequence.
///
/// # Errors
/// When the ledger cannot be written.
pub fn forget(unit: &Unit<'_>, old: &Kept) -> Result<u64, Fault> {
    unit.prepare_cached("UPDATE memory_record SET forgotten = ?2 WHERE key = ?1")?
        .execute(params![old.key, unit.now().millis()])?;
    usage::remove(unit, &old.record.namespace, old.record.user.as_deref(), 1, old.bytes())?;
    let pinned = -i64::from(old.record.pinned);
    changed(unit, old.shard, old.key, Tally { records: -1, bytes: -old.bytes(), forgotten: 1, pinned })
}

/// Takes back that a record was forgotten. Returns the change's sequence.
///
/// # Errors
/// `conflict` when namespace or user have no room; when the ledger cannot be written.
pub fn restore(unit: &Unit<'_>, limits: &Limits, old: &Kept) -> Result<u64, Fault> {
    unit.prepare_cached("UPDATE memory_record SET forgotten = NULL WHERE key = ?1")?.execute([old.key])?;
    usage::add(unit, limits, &old.record.namespace, old.record.user.as_deref(), 1, old.bytes())?;
    let pinned = i64::from(old.record.pinned);
    changed(unit, old.shard, old.key, Tally { records: 1, bytes: old.bytes(), forgotten: -1, pinned })
}

/// What was purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purged {
    /// The record's id.
    pub id: String,
    /// The bytes of its content.
    pub bytes: u64,
    /// The change's sequence.
    pub sequence: u64,
}

/// Removes a record with all its versions, forgotten or not; [`None`] when it is gone already, or is pinned and that is to
/// be respected. `follow` says whether the index has to follow; it need not where it drops the whole shard.
///
/// # Errors
/// When the ledger cannot be written.
pub fn purge(unit: &Unit<'_>, key: i64, follow: bool, spare_pinned: bool) -> Result<Option<Purged>, Fault> {
    let removed = unit
        .prepare_cached(
            "DELETE FROM memory_record WHERE key = ?1 AND (pinned = 0 OR ?2 = 0 OR forgotten IS NOT NULL)
             RETURNING id, shard, octet_length(content), namespace, user, pinned, forgotten IS NOT NULL",
        )?
        .query_row(params![key, spare_pinned], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, Option<String>>(4)?,
                row.get::<_, i64>(5)?,
                row.get::<_, bool>(6)?,
            ))
        })
        .optional()?;
    let Some((id, shard, bytes, namespace, user, pinned, forgotten)) = removed else { return Ok(None) };
    unit.prepare_cached("DELETE FROM memory_version WHERE record = ?1")?.execute([key])?;
    let tally = if forgotten {
        Tally { forgotten: -1, ..Tally::default() }
    } else {
        usage::remove(unit, &namespace, user.as_deref(), 1, bytes)?;
        Tally { records: -1, bytes: -bytes, forgotten: 0, pinned: -pinned }
    };
    let sequence = if follow {
        let sequence = changed(unit, shard, key, tally)?;
        unit.prepare_cached("UPDATE memory_shard SET purged = ?2 WHERE shard = ?1")?
            .execute(params![shard, signed(sequence)])?;
        sequence
    } else {
        count(unit, shard, tally)?;
        0
    };
    Ok(Some(Purged { id, bytes: bytes.unsigned_abs(), sequence }))
}

/// The record of that id, forgotten or not.
///
/// # Errors
/// When the ledger cannot be read.
pub fn find(connection: &Connection, seal: &Seal, id: &str) -> Result<Option<Kept>, Fault> {
    let mut statement = connection.prepare_cached(&one_by("r.id"))?;
    Ok(statement.query_row([id], |row| kept(row, seal)).optional()?)
}

/// The key that the index knows the record with this id by.
///
/// # Errors
/// When the ledger cannot be read.
pub fn key_of(connection: &Connection, id: &str) -> Result<Option<u64>, Fault> {
    let mut statement = connection.prepare_cached("SELECT key FROM memory_record WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| unsigned(row, 0)).optional()?)
}

/// Reads records by their keys, forgotten or not; the statement is prepared once.
///
/// # Errors
/// When the ledger cannot be read; what it returns, too.
pub fn by_key<'c>(
    connection: &'c Connection,
    seal: &'c Seal,
) -> Result<impl FnMut(i64) -> Result<Option<Kept>, Fault> + 'c, Fault> {
    let mut statement = connection.prepare_cached(&one_by("r.key"))?;
    Ok(move |key| Ok(statement.query_row([key], |row| kept(row, seal)).optional()?))
}

/// The record of that key, forgotten or not.
///
/// # Errors
/// When the ledger cannot be read.
pub fn find_by_key(connection: &Connection, seal: &Seal, key: i64) -> Result<Option<Kept>, Fault> {
    by_key(connection, seal)?(key)
}

fn one_by(column: &str) -> String {
    format!("SELECT {RECORD} FROM memory_record r JOIN memory_shard s USING (shard) WHERE {column} = ?1")
}

/// A sound live record of `namespace` with this checksum; the oldest.
///
/// # Errors
/// When the ledger cannot be read.
pub fn same(
    connection: &Connection,
    seal: &Seal,
    namespace: &str,
    checksum: &str,
    now: Timestamp,
) -> Result<Option<Kept>, Fault> {
    let sql = format!(
        "SELECT {RECORD} FROM memory_shard s CROSS JOIN memory_record r INDEXED BY memory_record_digest USING (shard)
         WHERE r.digest = ?1 AND r.checksum = ?2 AND r.namespace = ?3 AND r.forgotten IS NULL ORDER BY r.key"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows =
        statement.query_map(params![model::digest(checksum), checksum, namespace], |row| kept(row, seal))?;
    for found in rows {
        let found = found?;
        if found.sound && found.is_live(now) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Records with a key above `after`, forgotten or not, by key, at most `limit`; of one shard, or of all.
///
/// # Errors
/// When the ledger cannot be read.
pub fn page(
    connection: &Connection,
    seal: &Seal,
    shard: Option<i64>,
    after: i64,
    limit: u32,
) -> Result<Vec<Kept>, Fault> {
    let within = if shard.is_some() { "r.shard = ?3 AND" } else { "?3 IS NULL AND" };
    let sql = format!(
        "SELECT {RECORD} FROM memory_record r JOIN memory_shard s USING (shard)
         WHERE {within} r.key > ?1 ORDER BY r.key LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![after, limit, shard], |row| kept(row, seal))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether the present version of that record was written before `time`.
///
/// # Errors
/// When the ledger cannot be read.
pub fn written_before(connection: &Connection, key: i64, time: Timestamp) -> Result<bool, Fault> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM memory_record WHERE key = ?1 AND coalesce(updated, 0) < ?2")?
        .exists(params![key, time.millis()])?)
}

/// The highest key that was ever given.
///
/// # Errors
/// When the ledger cannot be read.
pub fn last_key(connection: &Connection) -> Result<i64, Fault> {
    let sql = "SELECT coalesce(max(key), 0) FROM memory_record";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The sequence of the last change of a shard.
///
/// # Errors
/// When the ledger cannot be read.
pub fn sequence(connection: &Connection, shard: i64) -> Result<u64, Fault> {
    Ok(connection
        .prepare_cached("SELECT changed FROM memory_shard WHERE shard = ?1")?
        .query_row([shard], |row| unsigned(row, 0))?)
}

/// The sequence of the last change of any shard.
///
/// # Errors
/// When the ledger cannot be read.
pub fn last_sequence(connection: &Connection) -> Result<u64, Fault> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'memory_change'";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| unsigned(row, 0))?)
}

/// Every shard that ever had a record.
///
/// # Errors
/// When the ledger cannot be read.
pub fn shards(connection: &Connection) -> Result<Vec<ShardState>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT layer, month, records, content_bytes, changed, settled, forgotten, pinned, dropping, purged, compacted, shard
         FROM memory_shard ORDER BY layer, month",
    )?;
    let rows = statement.query_map([], |row| {
        let month: String = row.get(1)?;
        let wrong = || rusqlite::Error::InvalidColumnType(1, "month".into(), Type::Text);
        Ok(ShardState {
            shard: Shard::parse(layer(row, 0)?, &month).ok_or_else(wrong)?,
            records: unsigned(row, 2)?,
            content_bytes: unsigned(row, 3)?,
            changed: unsigned(row, 4)?,
            settled: unsigned(row, 5)?,
            forgotten: unsigned(row, 6)?,
            pinned: unsigned(row, 7)?,
            dropping: row.get(8)?,
            purged: unsigned(row, 9)?,
            compacted: unsigned(row, 10)?,
            row: row.get(11)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Reads [`RECORD`]. Text that is none, which only someone else can have written, is read as far as it goes: the seal does
/// not hold then.
fn kept(row: &Row<'_>, seal: &Seal) -> rusqlite::Result<Kept> {
    let time = |column: usize| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
    };
    let record = Record {
        id: text(row, 4)?,
        layer: layer(row, 5)?,
        content: text(row, 6)?,
        tags: tags(row, 7)?,
        entity: optional_text(row, 8)?,
        namespace: text(row, 9)?,
        user: optional_text(row, 10)?,
        source: optional_text(row, 11)?,
        importance: row.get(12)?,
        created: Timestamp::from_millis(row.get(13)?),
        updated: time(14)?,
        expires: time(15)?,
        pinned: row.get(16)?,
        version: u32::try_from(row.get::<_, i64>(17)?).unwrap_or(0),
        accesses: unsigned(row, 18)?,
        last_access: time(19)?,
        checksum: text(row, 20)?,
    };
    let made = row.get_ref(3)?.as_blob_or_null()?.unwrap_or_default();
    let sound = seal.holds(&record, made);
    Ok(Kept { key: row.get(0)?, shard: row.get(1)?, forgotten: time(2)?, sound, record })
}

fn layer(row: &Row<'_>, column: usize) -> rusqlite::Result<Layer> {
    let name: String = row.get(column)?;
    let unknown = || rusqlite::Error::InvalidColumnType(column, "layer".into(), Type::Text);
    Layer::parse(&name).ok_or_else(unknown)
}

/// A text, also where someone has made it none: that shows by the seal, and is no reason to read nothing.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes().unwrap_or_default()).into_owned())
}

/// As [`text`].
pub(super) fn optional_text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    let is_null = matches!(row.get_ref(column)?, rusqlite::types::ValueRef::Null);
    if is_null { Ok(None) } else { text(row, column).map(Some) }
}

/// As [`text`].
pub(super) fn tags(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    text(row, column).map(|json| serde_json::from_str(&json).unwrap_or_else(|_| vec![json]))
}

pub(super) fn written_tags(tags: &[String]) -> Result<String, Fault> {
    serde_json::to_string(tags).map_err(|_| Fault::internal())
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    // Counters and sequences are never negative.
    Ok(row.get::<_, i64>(column)?.max(0).unsigned_abs())
}

/// SQLite's integers are signed; keys and sequences stay far below the difference.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn size(content: &str) -> i64 {
    i64::try_from(content.len()).unwrap_or(i64::MAX)
}
