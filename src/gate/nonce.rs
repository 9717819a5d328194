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

    /// Whether it was used, or may have been.
    ///
    /// # Errors
    /// What the ledger says.
    pub fn is_used(&self, connection: &Connection) -> Result<bool, Fault> {
        if self.signed_at.millis() <= floor(connection)? {
            return Ok(true);
        }
        let mut find = connection.prepare_cached("SELECT 1 FROM nonce WHERE key_id = ?1 AND value = ?2")?;
        Ok(find.exists(params![self.key_id, self.value])?)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::clock::Clock;
    use crate::ledger::{Ledger, Options};

    /// A ledger whose clock the test sets, in seconds.
    fn ledger(dir: &std::path::Path) -> (Ledger, Arc<AtomicI64>) {
        let seconds = Arc::new(AtomicI64::new(10_000));
        let read = seconds.clone();
        let clock = Clock::from_fn(move || Timestamp::from_millis(read.load(Ordering::SeqCst) * 1_000));
        let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
        (Ledger::open(dir, &options, clock).unwrap(), seconds)
    }

    async fn uses(ledger: &Ledger, value: &str, signed_at: i64) -> Result<(), Code> {
        let nonce = Nonce {
            key_id: "0123456789ab".into(),
            value: value.to_owned(),
            signed_at: Timestamp::from_millis(signed_at * 1_000),
        };
        ledger.write(move |unit| nonce.use_up(unit)).await.map_err(|fault| fault.code)
    }

    async fn prunes(ledger: &Ledger) -> usize {
        let mut removed = 0;
        loop {
            match ledger.write(|unit| prune(unit)).await.unwrap() {
                0 => return removed,
                some => removed += some,
            }
        }
    }

    async fn left(ledger: &Ledger) -> i64 {
        let count = |connection: &Connection| {
            Ok(connection.query_row("SELECT count(*) FROM nonce", [], |row| row.get(0))?)
        };
        ledger.read(count).await.unwrap()
    }

    #[tokio::test]
    async fn nonces_are_kept_for_as_long_as_their_signatures_count_and_nothing_older_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, clock) = ledger(dir.path());
        for n in 0..1_200 {
            assert_eq!(uses(&ledger, &format!("old {n}"), 9_700 + n % 300).await, Ok(()));
        }
        assert_eq!(uses(&ledger, "new", 10_300).await, Ok(()));
        clock.store(10_300, Ordering::SeqCst);
        assert_eq!(prunes(&ledger).await, 0, "a signature of 300 s ago may still be sent again");
        clock.store(10_601, Ordering::SeqCst);
        assert_eq!((prunes(&ledger).await, left(&ledger).await), (1_200, 1));

        // None of them can be used again, not even with the clock set back by a year; nor one just as old that nobody
        // has seen.
        clock.store(10_000 - 31_536_000, Ordering::SeqCst);
        for value in ["old 0", "old 1199", "unseen"] {
            assert_eq!(uses(&ledger, value, 9_999).await, Err(Code::Replayed), "{value}");
        }
        assert_eq!(uses(&ledger, "new", 10_300).await, Err(Code::Replayed));
        assert_eq!(uses(&ledger, "another", 10_300).await, Ok(()));
        assert_eq!(prunes(&ledger).await, 0);
    }
}
