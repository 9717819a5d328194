//! Nonces that were used: what makes a signed command take effect once.
//!
//! A nonce is put down in the transaction of its command. It is kept until its signature is too old to be accepted;
//! the time up to which nonces were removed is remembered, and no signature from before it is accepted again, so that a
//! clock that is set back brings no old command back.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::signature::WINDOW_MILLIS;
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// The row of `meta` with the time, in milliseconds, up to which nonces were removed.
const FLOOR: &str = "nonce_floor";

/// Rows that one unit removes, so that it stays well under 5 ms.
const BATCH: u32 = 500;

/// The nonce of a command.
#[derive(Clone, Debug)]
pub struct Nonce {
    /// The key that signed; nonces of different keys do not meet.
    pub key_id: Arc<str>,
    /// The nonce.
    pub value: String,
    /// When it was signed.
    pub signed_at: Timestamp,
}

impl Nonce {
    /// Uses it up.
    ///
    /// # Errors
    /// `replayed` when it was used before, or may have been.
    pub fn use_up(&self, unit: &Unit<'_>) -> Result<(), Fault> {
        let fresh = self.signed_at.millis() > floor(unit)?
            && unit
                .prepare_cached(
                    "INSERT INTO nonce (key_id, value, signed_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                )?
                .execute(params![self.key_id, self.value, self.signed_at.millis()])?
                == 1;
        if fresh {
            Ok(())
        } else {
            Err(Fault::new(Code::Replayed, "this nonce was used before: sign again with another one"))
        }
    }
}

fn floor(connection: &Connection) -> Result<i64, Fault> {
    let floor = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([FLOOR], |row| row.get(0));
    Ok(floor.optional()?.unwrap_or(i64::MIN))
}

/// Removes up to 500 nonces whose signatures are too old by twice the window; how many there were.
///
/// # Errors
/// What the ledger says.
pub fn prune(unit: &Unit<'_>) -> Result<usize, Fault> {
    let before = unit.now().millis().saturating_sub(2 * WINDOW_MILLIS);
    // From the oldest on, and no further than the floor goes: a nonce above the floor is there.
    let last: Option<i64> = unit
        .prepare_cached(
            "SELECT max(signed_at) FROM (SELECT signed_at FROM nonce WHERE signed_at < ?1 ORDER BY signed_at LIMIT ?2)",
        )?
        .query_row(params![before, BATCH], |row| row.get(0))?;
    let Some(last) = last else { return Ok(0) };
    let removed = unit.prepare_cached("DELETE FROM nonce WHERE signed_at <= ?1")?.execute([last])?;
    unit.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = max(value, ?2)",
    )?
    .execute(params![FLOOR, last])?;
    Ok(removed)
}
