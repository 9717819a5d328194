//! Seals: what only who has the node key could have written.

use ring::hmac;
use rusqlite::{Connection, OptionalExtension, params};

use super::Head;
use crate::clock::Timestamp;

/// What the key is derived for.
pub const PURPOSE: &str = "audit seal 1";

/// Makes and checks seals with a key that is derived from the node key.
#[derive(Clone, Debug)]
pub struct Sealer(hmac::Key);

/// What a seal is about, so that none can stand for the other.
#[derive(Clone, Copy)]
pub(super) enum About {
    End,
    Checkpoint,
}

/// A sealed place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The place.
    pub head: Head,
    /// When it was sealed.
    pub at: Timestamp,
    tag: [u8; 32],
}

impl Sealer {
    /// Seals with this key.
    #[must_use]
    pub const fn new(key: hmac::Key) -> Self {
        Self(key)
    }

    pub(super) fn seal(&self, about: About, head: Head, at: Timestamp) -> Sealed {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.0, &text(about, head, at)).as_ref());
        Sealed { head, at, tag }
    }

    pub(super) fn verifies(&self, about: About, sealed: &Sealed) -> bool {
        hmac::verify(&self.0, &text(about, sealed.head, sealed.at), &sealed.tag).is_ok()
    }
}

/// Fields of fixed length: kind, number, time, hash.
fn text(about: About, head: Head, at: Timestamp) -> Vec<u8> {
    let mut text = vec![match about {
        About::End => 1,
        About::Checkpoint => 2,
    }];
    text.extend(head.seq.to_be_bytes());
    text.extend(at.millis().to_be_bytes());
    text.extend(head.hash);
    text
}

impl Sealed {
    fn from_row(row: &rusqlite::Row<'_>) -> Result<Self, rusqlite::Error> {
        let head = Head { seq: row.get(0)?, hash: row.get(1)? };
        Ok(Self { head, at: Timestamp::from_millis(row.get(2)?), tag: row.get(3)? })
    }

    /// The end as it was sealed last; `None` before the first seal.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn end(connection: &Connection) -> Result<Option<Self>, rusqlite::Error> {
        connection.query_row("SELECT seq, hash, at, seal FROM audit_seal", [], Self::from_row).optional()
    }

    /// The newest checkpoint; `None` while nothing was removed.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn checkpoint(connection: &Connection) -> Result<Option<Self>, rusqlite::Error> {
        let sql = "SELECT seq, hash, at, seal FROM audit_checkpoint ORDER BY seq DESC LIMIT 1";
        connection.query_row(sql, [], Self::from_row).optional()
    }

    /// Puts it down as the end.
    pub(in crate::ledger) fn put_down(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        connection
            .prepare_cached(
                "INSERT INTO audit_seal (id, seq, hash, at, seal) VALUES (1, ?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET seq = ?1, hash = ?2, at = ?3, seal = ?4",
            )?
            .execute(params![self.head.seq, self.head.hash, self.at.millis(), self.tag])
            .map(drop)
    }

    pub(super) fn put_down_as_checkpoint(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO audit_checkpoint (seq, hash, at, seal) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![self.head.seq, self.head.hash, self.at.millis(), self.tag])
            .map(drop)
    }
}

/// Seals `head` as the end of the chain, at `at`.
pub(crate) fn seal_end(
    sealer: &Sealer,
    connection: &Connection,
    head: Head,
    at: Timestamp,
) -> Result<(), rusqlite::Error> {
    sealer.seal(About::End, head, at).put_down(connection)
}
