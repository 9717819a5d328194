//! The node's one source of truth: a SQLite database with one writer.
//!
//! - What was answered `ok` is on disk: WAL with `synchronous=FULL`, and no result leaves the writer before COMMIT.
//! - Commands commit in groups: many units of work, one fsync. Each runs in a savepoint of its own.
//! - Each unit leaves an audit record in the same transaction, refused or not; the records are hash-chained.
//! - Readers see a snapshot and hold it for at most a second.
//! - When the disk is full the ledger says so, keeps working for what makes room, and recovers by itself.
//!
//! Nothing here knows a command, a topic or a service: services bring their SQL and get a [`Unit`] or a
//! [`rusqlite::Connection`].

pub mod audit;
mod fault;
pub mod generation;
pub mod migrate;
mod notes;
mod readers;
mod reserve;
mod space;
mod unit;
pub mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use self::audit::retain::Keep;
use self::audit::seal::Sealer;
use self::audit::verify::{Sound, Tampering, Walk};
use crate::clock::Clock;
use crate::wire::{Code, Fault};

pub use generation::{Generation, GenerationError, StateLock};
pub use migrate::MigrateError;
pub use unit::{Unit, Work};
pub use writer::WriterStats;

/// The name of the database inside a generation folder.
pub const LEDGER_FILE: &str = "ledger.db";

/// Bytes that opening a ledger may need.
const OPENING: u64 = 1 << 20;

/// The name of the reserve inside the state folder.
const RESERVE_FILE: &str = "reserve";

/// Longest wait for another connection's lock.
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// "orch", so that `file` and we ourselves can tell our database from another's.
const APPLICATION_ID: i32 = 0x6f72_6368;

/// How the ledger is kept.
#[derive(Clone)]
pub struct Options {
    /// Bytes set aside for the time when the disk is full.
    pub reserve_bytes: u64,
    /// Size in bytes from which the WAL is truncated.
    pub wal_limit_bytes: u64,
    /// Read-only connections.
    pub readers: usize,
    /// Told after each commit: how many units it had and how long it took. Runs on the writer's thread.
    pub committed: Option<Committed>,
}

/// See [`Options::committed`].
pub type Committed = Arc<dyn Fn(usize, std::time::Duration) + Send + Sync>;

impl Default for Options {
    fn default() -> Self {
        Self { reserve_bytes: 32 << 20, wal_limit_bytes: 64 << 20, readers: 2, committed: None }
    }
}

/// Why the ledger could not be opened. For the operator: names files and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state folder is not as it should be.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The schema could not be brought up to date.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The database could not be opened or is damaged.
    #[error("{}: {source}; restore a backup, or, to start with nothing, move the state folder away", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// There is no space to open it, and no reserve that could be given up.
    #[error("{}: the disk is full, and there is no reserve to give up; make room and start again", .0.display())]
    Full(PathBuf),
    /// The writer thread or the reserve file could not be made.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl OpenError {
    /// Whether it stays so until a person has changed something.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Generation(error) => error.needs_a_person(),
            Self::Migrate(MigrateError::Newer { .. }) => true,
            Self::Migrate(MigrateError::Generation(error)) => error.needs_a_person(),
            Self::Migrate(MigrateError::Sql { source, .. }) | Self::Database { source, .. } => {
                use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
                matches!(source.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
            }
            // A disk may come back, and space too.
            Self::Migrate(_) | Self::Full(_) | Self::Io { .. } => false,
        }
    }
}

/// What shows that a node key was used: table, column, and which rows.
const SEALED: [(&str, &str, &str); 4] = [
    ("audit_seal", "seal", "TRUE"),
    ("api_key", "sealed", "TRUE"),
    ("memory_record", "seal", "seal IS NOT NULL"),
    // Put down at the first start, before anything is stored.
    ("meta", "key", "key = 'memory_seal_key'"),
];

/// Whether the ledger below `state_dir` holds anything that was sealed with a node key. Changes nothing; blocks.
///
/// # Errors
/// When the database cannot be read.
pub fn is_sealed(state_dir: &Path) -> Result<bool, OpenError> {
    let path = state_dir.join(generation::CURRENT).join(LEDGER_FILE);
    if !path.is_file() {
        return Ok(false);
    }
    let look = || -> Result<bool, rusqlite::Error> {
        // Not read-only: a write-ahead log that a crash left behind has to be read with it.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.pragma_update(None, "query_only", true)?;
        for (table, column, rows) in SEALED {
            // Of an older schema, perhaps.
            let there: bool = connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2)",
                [table, column],
                |row| row.get(0),
            )?;
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {rows})");
            if there && connection.query_row(&sql, [], |row| row.get(0))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    look().map_err(|source| OpenError::Database { path: path.clone(), source })
}

/// The open ledger. Cheap to clone; the database closes when the last clone is gone and [`Ledger::close`] was called.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    generation: Generation,
    writer: writer::Writer,
    readers: readers::Readers,
    clock: Clock,
}

impl Ledger {
    /// Opens the ledger under `state_dir`, creating or migrating it where needed, and starts its writer.
    ///
    /// Blocks: call it before serving, or on a thread of its own.
    ///
    /// # Errors
    /// When another process holds the folder, the schema is newer than this program, or the file system refuses.
    pub fn open(state_dir: &Path, options: &Options, clock: Clock) -> Result<Self, OpenError> {
        Self::open_locked(StateLock::take(state_dir)?, options, clock)
    }

    /// As [`Ledger::open`], in a folder that this process holds.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_locked(lock: StateLock, options: &Options, clock: Clock) -> Result<Self, OpenError> {
        let state_dir = lock.state().to_owned();
        let generation = Generation::of(lock)?;
        let path = generation.path().join(LEDGER_FILE);
        let database = |source| OpenError::Database { path: path.clone(), source };
        let reserve_path = state_dir.join(RESERVE_FILE);
        let open = || {
            let mut connection = open_writable(&path).map_err(database)?;
            migrate::migrate(&mut connection, generation.path(), migrate::MIGRATIONS)?;
            Ok(connection)
        };
        let connection = match open() {
            Err(error) if is_full(&error, &state_dir) => {
                // Opening writes a little: that is what the reserve is for.
                if !reserve::give_up(&reserve_path) {
                    return Err(OpenError::Full(state_dir.clone()));
                }
                open()
            }
            opened => opened,
        }?;
        let reserve = reserve::Reserve::open(&reserve_path, options.reserve_bytes)
            .map_err(|source| OpenError::Io { path: reserve_path.clone(), source })?;
        let writer =
            writer::Writer::start(connection, &path, reserve, options, clock.clone()).map_err(database)?;
        let readers = readers::Readers::new(path.clone(), options.readers);
        Ok(Self { shared: Arc::new(Shared { generation, writer, readers, clock }) })
    }

    /// The folder of the present generation, for what is kept beside the database.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.shared.generation.path()
    }

    /// The generation in use.
    #[must_use]
    pub fn generation(&self) -> &Generation {
        &self.shared.generation
    }

    /// The clock that stamps units.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// What the writer has done since it started, and how it is.
    #[must_use]
    pub fn stats(&self) -> &WriterStats {
        self.shared.writer.stats()
    }

    /// Runs `read` on a read-only snapshot, off the async runtime. It is cut off after one second.
    ///
    /// # Errors
    /// What `read` returns; `expired` when it was cut off, `busy` when no reader came free in time.
    pub async fn read<T, F>(&self, read: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        self.shared.readers.read(read).await
    }

    /// As [`Ledger::read`], on the calling thread; for threads that may block.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub fn read_blocking<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        self.shared.readers.read_blocking(read)
    }

    /// Runs `write` as one unit of work that nobody asked for and that leaves no audit record: the housekeeping of a
    /// service. Resolves after COMMIT. `write` may run more than once, each time in a fresh transaction, and must take at
    /// most 5 ms.
    ///
    /// # Errors
    /// What `write` returns; `storage_full`, or `internal` when the ledger has stopped.
    pub async fn write<T, F>(&self, write: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&mut Unit<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.submit(Box::new(unit::Housekeeping::new(write, sender))).await?;
        receiver.await.map_err(|_| Fault::internal())?
    }

    /// Hands `work` to the writer; waits while its queue is full. The work learns its result by
    /// [`Work::finish`].
    ///
    /// # Errors
    /// `internal` when the writer has stopped; the work is dropped then.
    pub async fn submit(&self, work: Box<dyn Work>) -> Result<(), Fault> {
        self.shared.writer.submit(work).await
    }

    /// Queues an audit record for the next group commit, at most 50 ms from now.
    ///
    /// # Errors
    /// `busy` when too many wait: what cannot be recorded is not done.
    pub fn note(&self, entry: audit::Entry) -> Result<(), Fault> {
        self.shared.writer.note(entry)
    }

    /// Seals the end of the audit trail from now on, after a look whether it is where it was sealed last. What is wrong is
    /// returned, and recorded in the trail itself, so that a new seal does not hide it. Blocks shortly; call it before
    /// anything else is recorded.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the alarm not recorded.
    pub fn seal_audit(&self, sealer: Sealer) -> Result<Option<Tampering>, Fault> {
        let found = self.read_blocking(|connection| {
            Ok(audit::verify::end(connection, &sealer, audit::head(connection)?)?)
        })?;
        if let Err(tampering) = &found {
            let now = self.shared.clock.now();
            self.note(audit::Entry::of_the_node(
                audit::verify::ALARM,
                "internal",
                tampering.to_string(),
                now,
            ))?;
        }
        // Settled once, by the node that opens the ledger.
        let _ = self.shared.writer.sealer().set(sealer);
        Ok(found.err())
    }

    /// Checks the audit trail while the node works: what was found, and what is wrong. Without
    /// [`Ledger::seal_audit`] before, `unavailable`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn verify_audit(&self) -> Result<(Sound, Option<Tampering>), Fault> {
        /// Records in one step, so that a snapshot is held for milliseconds.
        const STEP: u32 = 10_000;
        let Some(sealer) = self.shared.writer.sealer().get().cloned() else {
            return Err(Fault::new(Code::Unavailable, "the audit trail is not sealed by this process"));
        };
        let mut walk = Walk::default();
        loop {
            let key = sealer.clone();
            let step = self.read(move |connection| {
                let found = walk.advance(connection, &key, STEP)?;
                Ok((walk, found))
            });
            let (walked, found) = step.await?;
            walk = walked;
            match found {
                Ok(true) => return Ok((walk.sound(), None)),
                Ok(false) => {}
                Err(tampering) => return Ok((walk.sound(), Some(tampering))),
            }
        }
    }

    /// Removes the audit records that need not be kept, behind a checkpoint; how many there were. Nothing is removed
    /// before [`Ledger::seal_audit`].
    ///
    /// # Errors
    /// What the ledger says.
    pub async fn retain_audit(&self, keep: Keep) -> Result<u64, Fault> {
        let Some(sealer) = self.shared.writer.sealer().get().cloned() else { return Ok(0) };
        if let Some(head) = self.read(move |connection| audit::retain::plan(connection, keep)).await? {
            self.write(move |unit| audit::retain::checkpoint(unit, &sealer, head)).await?;
            let reason = format!("records up to {} are no longer kept", head.seq);
            self.note(audit::Entry::of_the_node("audit/retain", "ok", reason, self.shared.clock.now()))?;
        }
        let mut removed = 0;
        loop {
            // Also what an earlier run left behind.
            match self.write(|unit| audit::retain::remove(unit)).await? {
                0 => return Ok(removed),
                some => removed += some as u64,
            }
        }
    }

    /// Units of work that wait or run.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.writer.queued()
    }

    /// Whether the disk is full, so that only what makes room is done.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.stats().is_full()
    }

    /// Commits what is queued, truncates the WAL and closes. Blocks.
    pub fn close(&self) {
        self.shared.writer.stop();
    }
}

/// Opens a database for writing and sets what does not last: see the module's promises.
pub(crate) fn open_writable(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    // Before the first table: later it takes a VACUUM.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    if connection.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))? == 0 {
        // Made by another program, which had not turned it on: it takes effect when all of it is written anew.
        tracing::warn!("the ledger is written anew once, so that it can give space back");
        connection.execute_batch("VACUUM")?;
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Forgotten content is overwritten, not just unlinked.
    connection.pragma_update(None, "secure_delete", true)?;
    // 8 MB: most clients number their messages at random, and want pages anywhere in the inbox.
    connection.pragma_update(None, "cache_size", -8192)?;
    // 32 MB instead of 4: a checkpoint is made in the middle of a commit, and what is written again and again meanwhile is
    // written back once.
    connection.pragma_update(None, "wal_autocheckpoint", 8_192)?;
    // Each unit's savepoint keeps the pages that it changes: in memory, not in a file under /var/tmp, where they would be
    // written for every unit, and where nobody looks for what was forgotten.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    keep_plans(&connection)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Whether the disk was full. SQLite calls it an I/O error where its shared memory finds no space.
fn is_full(error: &OpenError, folder: &Path) -> bool {
    let (OpenError::Database { source, .. } | OpenError::Migrate(MigrateError::Sql { source, .. })) = error
    else {
        return false;
    };
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => true,
        Some(rusqlite::ErrorCode::SystemIoFailure) => reserve::space(folder).is_ok_and(|left| left < OPENING),
        _ => false,
    }
}

/// Has a prepared statement keep its plan whatever is bound to it. Otherwise SQLite prepares each one with a parameter in
/// its WHERE anew after its parameters were cleared, which the cache of statements does with every use.
fn keep_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

#[cfg(test)]
mod tests;
