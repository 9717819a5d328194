//! What namespaces and users hold, and how much they may: counted in the transaction of every change.

use rusqlite::params;

use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// How much one namespace or user may hold; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Records that are not forgotten.
    pub records: u64,
    /// Bytes of their contents.
    pub bytes: u64,
}

/// The limits of all namespaces and of all users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of each namespace.
    pub namespace: Share,
    /// Of each user.
    pub user: Share,
}

/// Counts records that are new to `namespace` and `user`.
///
/// # Errors
/// `conflict` when there is no room for them; when the ledger cannot be written.
pub fn add(
    unit: &Unit<'_>,
    limits: &Limits,
    namespace: &str,
    user: Option<&str>,
    records: i64,
    bytes: i64,
) -> Result<(), Fault> {
    for (kind, name, share) in owners(limits, namespace, user) {
        let (held, size): (i64, i64) = unit
            .prepare_cached(
                "INSERT INTO memory_usage (kind, name, records, bytes) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET records = records + ?3, bytes = bytes + ?4
                 RETURNING records, bytes",
            )?
            .query_row(params![kind, name, records, bytes], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let over = |most: u64, held: i64| most > 0 && held.max(0).unsigned_abs() > most;
        let full = |what: String| {
            Fault::new(
                Code::Conflict,
                format!("the {kind} may hold {what}, and has no room for more: forget some"),
            )
        };
        if over(share.records, held) {
            return Err(full(format!("{} records", share.records)));
        }
        if over(share.bytes, size) {
            return Err(full(format!("{} bytes of contents", share.bytes)));
        }
    }
    Ok(())
}

/// Counts records that `namespace` and `user` no longer hold.
///
/// # Errors
/// When the ledger cannot be written.
pub fn remove(
    unit: &Unit<'_>,
    namespace: &str,
    user: Option<&str>,
    records: i64,
    bytes: i64,
) -> Result<(), Fault> {
    for (kind, name, _) in owners(&Limits::default(), namespace, user) {
        let left: Option<i64> = {
            use rusqlite::OptionalExtension;
            unit.prepare_cached(
                "UPDATE memory_usage SET records = records - ?3, bytes = bytes - ?4 WHERE kind = ?1 AND name = ?2
                 RETURNING records",
            )?
            .query_row(params![kind, name, records, bytes], |row| row.get(0))
            .optional()?
        };
        if left.is_some_and(|left| left <= 0) {
            unit.prepare_cached("DELETE FROM memory_usage WHERE kind = ?1 AND name = ?2")?
                .execute(params![kind, name])?;
        }
    }
    Ok(())
}

fn owners<'a>(
    limits: &Limits,
    namespace: &'a str,
    user: Option<&'a str>,
) -> impl Iterator<Item = (&'static str, &'a str, Share)> {
    let user_share = limits.user;
    std::iter::once(("namespace", namespace, limits.namespace))
        .chain(user.map(move |user| ("user", user, user_share)))
}
