//! Keys as the ledger keeps them.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::model::{KeyInfo, is_id};
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// A row.
#[derive(Clone, Debug)]
pub(super) struct KeyRow {
    pub id: String,
    pub lineage: String,
    pub name: String,
    pub hash: [u8; 32],
    pub sealed: Vec<u8>,
    pub permissions: Vec<String>,
    pub rate_per_min: Option<u32>,
    pub created_at: i64,
    pub created_by: String,
    pub expires_at: Option<i64>,
    pub replaced_by: Option<String>,
    pub revoked_at: Option<i64>,
    pub revoked_by: Option<String>,
    pub last_used_at: Option<i64>,
}

const COLUMNS: &str =
    "id, lineage, name, hash, sealed, permissions, rate_per_min, created_at, created_by, expires_at,
     replaced_by, revoked_at, revoked_by, last_used_at";

fn from_row(row: &Row<'_>) -> Result<KeyRow, rusqlite::Error> {
    let permissions: String = row.get(5)?;
    Ok(KeyRow {
        id: row.get(0)?,
        lineage: row.get(1)?,
        name: row.get(2)?,
        hash: row.get(3)?,
        sealed: row.get(4)?,
        // What cannot be read allows nothing.
        permissions: serde_json::from_str(&permissions).unwrap_or_default(),
        rate_per_min: row.get(6)?,
        created_at: row.get(7)?,
        created_by: row.get(8)?,
        expires_at: row.get(9)?,
        replaced_by: row.get(10)?,
        revoked_at: row.get(11)?,
        revoked_by: row.get(12)?,
        last_used_at: row.get(13)?,
    })
}

impl KeyRow {
    /// Whether it is of use at `now`.
    pub(super) fn is_valid(&self, now: i64) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// As it is shown.
    pub(super) fn info(self, now: Timestamp) -> KeyInfo {
        let valid = self.is_valid(now.millis());
        let state = match (&self.revoked_at, valid, &self.replaced_by) {
            (Some(_), ..) => "revoked",
            (None, true, None) => "active",
            (None, true, Some(_)) => "grace",
            (None, false, Some(_)) => "replaced",
            (None, false, None) => "expired",
        };
        KeyInfo {
            id: self.id,
            lineage: self.lineage,
            name: self.name,
            state,
            permissions: self.permissions,
            rate_per_min: self.rate_per_min,
            created: Timestamp::from_millis(self.created_at),
            created_by: self.created_by,
            expires: self.expires_at.map(Timestamp::from_millis),
            replaced_by: self.replaced_by,
            revoked: self.revoked_at.map(Timestamp::from_millis),
            revoked_by: self.revoked_by,
            last_used: self.last_used_at.map(Timestamp::from_millis),
        }
    }
}

/// Writes a new key.
///
/// # Errors
/// `conflict` when a key in force has its name.
pub(super) fn insert(unit: &Unit<'_>, row: &KeyRow) -> Result<(), Fault> {
    // One that has expired gives its name up.
    unit.prepare_cached(
        "UPDATE api_key SET replaced_by = ?2 WHERE name = ?1 AND revoked_at IS NULL AND replaced_by IS NULL AND expires_at <= ?3",
    )?
    .execute(params![row.name, row.id, unit.now().millis()])?;
    let taken = unit
        .prepare_cached(
            "SELECT 1 FROM api_key WHERE name = ?1 AND revoked_at IS NULL AND replaced_by IS NULL",
        )?
        .exists([&row.name])?;
    if taken {
        return Err(Fault::new(
            Code::Conflict,
            "another key has this name; revoke or rotate it, or choose another",
        ));
    }
    let permissions = serde_json::to_string(&row.permissions).map_err(|_| Fault::internal())?;
    unit.prepare_cached(
        "INSERT INTO api_key (id, lineage, name, hash, sealed, permissions, rate_per_min, created_at, created_by, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        row.id,
        row.lineage,
        row.name,
        row.hash,
        row.sealed,
        permissions,
        row.rate_per_min,
        row.created_at,
        row.created_by,
        row.expires_at,
    ])?;
    Ok(())
}

/// The key with this id, or the one in force with this name.
///
/// # Errors
/// `not_found`.
pub(super) fn find(connection: &Connection, which: &str) -> Result<KeyRow, Fault> {
    let by =
        if is_id(which) { "id = ?1" } else { "name = ?1 AND revoked_at IS NULL AND replaced_by IS NULL" };
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM api_key WHERE {by}"))?
        .query_row([which], from_row)
        .optional()?
        .ok_or_else(|| Fault::not_found("no such key"))
}

/// A key has been replaced, and is valid until `end`.
pub(super) fn replace(unit: &Unit<'_>, id: &str, by: &str, end: i64) -> Result<(), Fault> {
    unit.prepare_cached("UPDATE api_key SET replaced_by = ?2, expires_at = ?3 WHERE id = ?1")?
        .execute(params![id, by, end])?;
    Ok(())
}

/// Revokes every key of a lineage that is not yet; returns their ids. Their sealed secrets go.
pub(super) fn revoke(unit: &Unit<'_>, lineage: &str, by: &str) -> Result<Vec<String>, Fault> {
    let ids = unit
        .prepare_cached(
            "UPDATE api_key SET revoked_at = ?2, revoked_by = ?3, sealed = x'' WHERE lineage = ?1 AND revoked_at IS NULL
             RETURNING id",
        )?
        .query_map(params![lineage, unit.now().millis(), by], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(ids)
}

/// A page of all keys.
pub(super) fn list(connection: &Connection, after: &str, limit: u32) -> Result<Vec<KeyRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM api_key WHERE id > ?1 ORDER BY id LIMIT ?2");
    let rows = connection
        .prepare_cached(&sql)?
        .query_map(params![after, limit], from_row)?
        .collect::<Result<_, _>>()?;
    Ok(rows)
}

/// The keys of a lineage, the oldest first.
pub(super) fn lineage(connection: &Connection, lineage: &str) -> Result<Vec<KeyRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM api_key WHERE lineage = ?1 ORDER BY created_at, id");
    let rows = connection.prepare_cached(&sql)?.query_map([lineage], from_row)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Every key that was not revoked.
pub(super) fn all(connection: &Connection) -> Result<Vec<KeyRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM api_key WHERE revoked_at IS NULL");
    let rows = connection.prepare(&sql)?.query_map([], from_row)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

/// Writes down when keys were last used; returns the lineages of those that nobody had used for so long before.
pub(super) fn touch(
    unit: &Unit<'_>,
    used: &[(String, i64)],
    dormant_millis: i64,
) -> Result<Vec<String>, Fault> {
    let mut find = unit.prepare_cached(
        "SELECT lineage FROM api_key WHERE id = ?1 AND coalesce(last_used_at, created_at) < ?2 - ?3",
    )?;
    let mut write = unit.prepare_cached("UPDATE api_key SET last_used_at = ?2 WHERE id = ?1")?;
    let mut dormant = Vec::new();
    for (id, at) in used {
        dormant.extend(
            find.query_row(params![id, at, dormant_millis], |row| row.get::<_, String>(0)).optional()?,
        );
        write.execute(params![id, at])?;
    }
    Ok(dormant)
}
