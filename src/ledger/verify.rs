//! Whether the ledger is whole: the database by SQLite's own check, the audit trail by its chain. Changes nothing.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::generation::Generation;
use super::{LEDGER_FILE, audit};

/// Most lines of SQLite's check that are kept.
const MAX_FINDINGS: usize = 100;

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What is wrong with the database, in SQLite's words; empty when nothing is.
    pub damage: Vec<String>,
    /// The end of the audit trail, or the first record that does not follow from the one before.
    pub audit: Result<audit::Head, i64>,
}

impl Verified {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.audit.is_ok()
    }
}

/// Checks the current generation. Reads every page: takes as long as the disk needs.
///
/// # Errors
/// What SQLite says where it cannot even look.
pub fn verify(generation: &Generation) -> Result<Verified, rusqlite::Error> {
    verify_file(&generation.path().join(LEDGER_FILE))
}

/// As [`verify`], for the database at `path`.
///
/// # Errors
/// As [`verify`].
pub fn verify_file(path: &Path) -> Result<Verified, rusqlite::Error> {
    // Not read-only: a write-ahead log that a crash left behind has to be read with it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let mut damage = Vec::new();
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    let found: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    damage.extend(found.into_iter().filter(|line| line != "ok"));
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let orphans = statement.query_map([], |row| {
        Ok(format!(
            "a row of {} refers to one of {} that is not there",
            row.get::<_, String>(0)?,
            row.get::<_, String>(2)?
        ))
    })?;
    for orphan in orphans.take(MAX_FINDINGS) {
        damage.push(orphan?);
    }
    let audit = audit::verify(&connection)?.map_err(|broken| broken.seq);
    Ok(Verified { damage, audit })
}
