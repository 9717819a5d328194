//! Giving disk space back: what was deleted leaves the database and its log.
//!
//! SQLite keeps the pages of deleted rows for later use. They are cut off the end of the file in small units, so that
//! nobody waits for them. The log holds copies of pages as they were; it is emptied when nobody reads from it.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::{LEDGER_FILE, Ledger};
use crate::wire::Fault;

/// Longest time that one unit frees pages.
const UNIT_TIME: Duration = Duration::from_millis(3);
/// Pages freed between two looks at the clock.
const PAGES: u32 = 8;
/// Longest time that emptying the log may keep the writer waiting for readers to end.
const LOG_PATIENCE: Duration = Duration::from_millis(20);

impl Ledger {
    /// Bytes of the database and its log.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let size = |name: &str| std::fs::metadata(self.folder().join(name)).map_or(0, |found| found.len());
        size(LEDGER_FILE) + size(&format!("{LEDGER_FILE}-wal"))
    }

    /// Gives the pages of deleted rows back to the file system.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn give_pages_back(&self) -> Result<(), Fault> {
        while self.write(|unit| Ok(free_some(unit)?)).await? {}
        Ok(())
    }

    /// Empties the log, which still holds deleted rows. Returns whether it is empty: a reader or the writer may be in the
    /// way; try again then.
    ///
    /// # Errors
    /// When the database cannot be opened, or the disk refuses.
    pub async fn empty_log(&self) -> Result<bool, Fault> {
        let path = self.folder().join(LEDGER_FILE);
        let emptied = tokio::task::spawn_blocking(move || -> Result<bool, rusqlite::Error> {
            // On a connection of its own: most of the work is done while the writer goes on.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(LOG_PATIENCE)?;
            let checkpoint = |mode: &str| {
                connection
                    .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, bool>(0))
            };
            checkpoint("PASSIVE")?;
            Ok(!checkpoint("TRUNCATE")?)
        });
        Ok(emptied.await.map_err(|_| Fault::internal())??)
    }
}

/// Frees pages for [`UNIT_TIME`]; returns whether there are more.
fn free_some(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let free = || connection.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
    let started = Instant::now();
    let mut left = free()?;
    while left > 0 {
        let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        let mut rows = statement.query([])?;
        // Each row is a page.
        while rows.next()?.is_some() {}
        let now = free()?;
        if now >= left {
            // A database that cannot give pages back.
            return Ok(false);
        }
        left = now;
        if started.elapsed() >= UNIT_TIME {
            return Ok(left > 0);
        }
    }
    Ok(false)
}
