//! What records were before they were updated: kept beside them, each with a seal of its own.

use rusqlite::{Connection, params};

use super::requests::Version;
use super::seal::Seal;
use super::store::{Kept, optional_text, tags, text, written_tags};
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::Fault;

/// Puts the present version of `old` aside.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn keep(unit: &Unit<'_>, seal: &Seal, old: &Kept) -> Result<(), Fault> {
    let record = &old.record;
    let version = Version {
        version: record.version,
        content: record.content.clone(),
        tags: record.tags.clone(),
        entity: record.entity.clone(),
        importance: record.importance,
        written: record.updated.unwrap_or(record.created),
        replaced: unit.now(),
        checksum: record.checksum.clone(),
    };
    unit.prepare_cached(
        "INSERT OR REPLACE INTO memory_version (record, version, content, tags, entity, importance, written, replaced,
             checksum, seal)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        old.key,
        version.version,
        version.content,
        written_tags(&version.tags)?,
        version.entity,
        version.importance,
        version.written.millis(),
        version.replaced.millis(),
        version.checksum,
        seal.of_version(&record.id, &version),
    ])?;
    Ok(())
}

/// What a record was before, the newest first; and the numbers of the versions whose seals are broken, which are left out.
///
/// # Errors
/// When the ledger cannot be read.
pub(super) fn history(
    connection: &Connection,
    seal: &Seal,
    of: &Kept,
) -> Result<(Vec<Version>, Vec<u32>), Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT version, content, tags, entity, importance, written, replaced, checksum, seal FROM memory_version
         WHERE record = ?1 ORDER BY version DESC",
    )?;
    let rows = statement.query_map([of.key], |row| {
        let version = Version {
            version: u32::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
            content: text(row, 1)?,
            tags: tags(row, 2)?,
            entity: optional_text(row, 3)?,
            importance: row.get(4)?,
            written: Timestamp::from_millis(row.get(5)?),
            replaced: Timestamp::from_millis(row.get(6)?),
            checksum: text(row, 7)?,
        };
        let sound = seal.of_version(&of.record.id, &version) == row.get::<_, Vec<u8>>(8)?;
        Ok((sound, version))
    })?;
    let (mut history, mut broken) = (Vec::new(), Vec::new());
    for row in rows {
        match row? {
            (true, version) => history.push(version),
            (false, version) => broken.push(version.version),
        }
    }
    Ok((history, broken))
}

/// Removes the versions of a record up to `version`.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn trim(unit: &Unit<'_>, key: i64, version: u32) -> Result<(), Fault> {
    if version > 0 {
        unit.prepare_cached("DELETE FROM memory_version WHERE record = ?1 AND version <= ?2")?
            .execute(params![key, version])?;
    }
    Ok(())
}
