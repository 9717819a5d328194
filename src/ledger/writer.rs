//! The one writer: a thread that takes units of work, commits them in groups and gives out the results.
//!
//! Invariants:
//! - No result leaves before the COMMIT that makes it durable, or before it is certain that it will not happen.
//! - A unit that fails is undone alone. Units rarely fail, so the group first runs without a savepoint for each, which
//!   would have SQLite copy every page that it changes; when one fails, all run again, each in a savepoint of its own.
//!   When SQLite ends the transaction by itself, or COMMIT fails, the whole group has failed and its units run again, singly.
//! - Audit records are appended in commit order, outside the savepoints, so that a refused unit leaves one too. If they
//!   cannot be written, nothing is. Once there is a [`Sealer`] the end of the trail is sealed in the same transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::audit::seal::{Sealer, seal_end};
use super::audit::{self, Entry};
use super::fault::storage_full;
use super::notes::Notes;
use super::reserve::Reserve;
use super::unit::{Unit, Work};
use super::{Committed, Options};
use crate::clock::{Clock, Timestamp};
use crate::wire::{Code, Fault};

/// Units that may wait or run at the same time.
const QUEUE: usize = 1_024;

/// Most units in one transaction, so that the first does not wait long for the last.
const GROUP: usize = 256;

/// Longest time that an audit record of a read waits for a commit.
const NOTE_DELAY: Duration = Duration::from_millis(50);

/// Groups that run in savepoints from the start after a unit has failed, so that units which keep failing do not have the
/// others run twice.
const WARY: u32 = 16;

/// Longest time that truncating the write-ahead log waits for readers.
const READERS_PATIENCE: Duration = Duration::from_millis(20);

/// How often a full disk is looked at again.
const RECOVERY_INTERVAL: Duration = Duration::from_secs(1);

enum Message {
    Work(Box<dyn Work>, OwnedSemaphorePermit),
    /// The first note since the last commit has been queued.
    Notes,
    Stop,
}

/// Counters of the writer; read by metrics and status.
#[derive(Debug, Default)]
pub struct WriterStats {
    wal_bytes: AtomicU64,
    full: AtomicBool,
    stopped: AtomicBool,
    working_since: AtomicU64,
}

impl WriterStats {
    /// Size of the write-ahead log after the last commit, in bytes.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        self.wal_bytes.load(Ordering::Relaxed)
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Whether the thread has ended, after which nothing can be written.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// For how long the present group has been running; `None` while the writer waits for work.
    #[must_use]
    pub fn busy_for(&self) -> Option<Duration> {
        match self.working_since.load(Ordering::Acquire) {
            0 => None,
            since => Some(monotonic().saturating_sub(Duration::from_nanos(since))),
        }
    }
}

/// Time since the first call in this process, plus one nanosecond so that it is never zero.
fn monotonic() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed() + Duration::from_nanos(1)
}

pub(super) struct Writer {
    sender: SyncSender<Message>,
    permits: Arc<Semaphore>,
    notes: Arc<Notes>,
    sealer: Arc<OnceLock<Sealer>>,
    stats: Arc<WriterStats>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        path: &Path,
        reserve: Reserve,
        options: &Options,
        clock: Clock,
    ) -> Result<Self, rusqlite::Error> {
        // Room for every permit, the wake-up and the stop, so that sending never blocks.
        let (sender, receiver) = sync_channel(QUEUE + 2);
        let stats = Arc::new(WriterStats::default());
        stats.full.store(!reserve.is_held(), Ordering::Release);
        let notes = Arc::new(Notes::default());
        let head = audit::head(&connection)?;
        let sealer = Arc::new(OnceLock::new());
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let writer = Thread {
            connection,
            receiver,
            notes: notes.clone(),
            pending_notes: Vec::new(),
            stats: stats.clone(),
            reserve,
            head,
            sealer: sealer.clone(),
            wal: PathBuf::from(wal),
            wal_limit: options.wal_limit_bytes,
            committed: options.committed.clone(),
            wary: 0,
            clock,
        };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        Ok(Self {
            sender,
            permits: Arc::new(Semaphore::new(QUEUE)),
            notes,
            sealer,
            stats,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// What the end of the trail is sealed with, from the next commit on; settled once.
    pub(super) fn sealer(&self) -> &OnceLock<Sealer> {
        &self.sealer
    }

    /// Units that wait or run.
    pub(super) fn queued(&self) -> usize {
        QUEUE - self.permits.available_permits()
    }

    pub(super) async fn submit(&self, work: Box<dyn Work>) -> Result<(), Fault> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Fault::internal())?;
        self.sender.try_send(Message::Work(work, permit)).map_err(|_| Fault::internal())
    }

    pub(super) fn note(&self, entry: Entry) -> Result<(), Fault> {
        if self.notes.push(entry)? {
            // Full only when the writer is about to run anyway.
            let _ = self.sender.try_send(Message::Notes);
        }
        Ok(())
    }

    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Blocks while the queue is full, which the writer is emptying.
            let _ = self.sender.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

struct Thread {
    connection: Connection,
    receiver: Receiver<Message>,
    notes: Arc<Notes>,
    /// Taken from `notes`, not yet committed.
    pending_notes: Vec<Entry>,
    stats: Arc<WriterStats>,
    reserve: Reserve,
    head: audit::Head,
    sealer: Arc<OnceLock<Sealer>>,
    wal: PathBuf,
    wal_limit: u64,
    committed: Option<Committed>,
    /// Groups that are still to run in savepoints.
    wary: u32,
    clock: Clock,
}

/// A unit and the place it holds in the queue until it is finished.
type Queued = (Box<dyn Work>, OwnedSemaphorePermit);

impl Thread {
    fn run(mut self) {
        let mut stop = false;
        while !stop {
            let mut group: Vec<Queued> = Vec::new();
            match self.receiver.recv_timeout(self.patience()) {
                Ok(Message::Work(work, permit)) => group.push((work, permit)),
                Ok(Message::Notes) => {
                    // Wait for a unit to share the commit with, but not for long.
                    match self.receiver.recv_timeout(NOTE_DELAY) {
                        Ok(Message::Work(work, permit)) => group.push((work, permit)),
                        Ok(Message::Notes) | Err(RecvTimeoutError::Timeout) => {}
                        Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => stop = true,
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            while group.len() < GROUP && !stop {
                match self.receiver.try_recv() {
                    Ok(Message::Work(work, permit)) => group.push((work, permit)),
                    Ok(Message::Notes) => {}
                    Ok(Message::Stop) => stop = true,
                    Err(_) => break,
                }
            }
            self.stats.working_since.store(monotonic().as_nanos() as u64, Ordering::Release);
            self.recover();
            self.process(group);
            self.stats.working_since.store(0, Ordering::Release);
        }
        self.process(Vec::new());
        self.truncate_wal();
        self.stats.stopped.store(true, Ordering::Release);
    }

    /// How long to wait for work before looking at the disk again or trying a failed audit commit again.
    fn patience(&self) -> Duration {
        if self.stats.is_full() {
            RECOVERY_INTERVAL
        } else if self.pending_notes.is_empty() {
            Duration::from_secs(3_600)
        } else {
            NOTE_DELAY
        }
    }

    fn process(&mut self, group: Vec<Queued>) {
        self.notes.take(&mut self.pending_notes);
        let mut group = self.refuse_while_full(group);
        if group.is_empty() && self.pending_notes.is_empty() {
            return;
        }
        match self.attempt(&mut group) {
            Ok(results) => finish_all(group, results),
            // Each alone would wait as long again for whoever holds the lock.
            Err(lost) if lost.code == Code::Busy => {
                let refused = group.iter().map(|_| (Err(lost.clone()), Vec::new())).collect();
                finish_all(group, refused);
            }
            Err(lost) => self.one_by_one(group, &lost),
        }
        self.bound_wal();
    }

    /// While the disk is full, only what makes room goes on.
    fn refuse_while_full(&self, group: Vec<Queued>) -> Vec<Queued> {
        if !self.stats.is_full() {
            return group;
        }
        let (allowed, refused): (Vec<_>, Vec<_>) = group.into_iter().partition(|(work, _)| work.when_full());
        for (work, permit) in refused {
            work.finish(Err(storage_full()));
            drop(permit);
        }
        allowed
    }

    fn one_by_one(&mut self, group: Vec<Queued>, lost: &Fault) {
        if lost.code == Code::StorageFull {
            self.enter_full();
        }
        for single in self.refuse_while_full(group) {
            let mut single = vec![single];
            let results = match self.attempt(&mut single) {
                Ok(results) => results,
                Err(lost) => {
                    if lost.code == Code::StorageFull {
                        self.enter_full();
                    }
                    vec![(Err(lost), Vec::new())]
                }
            };
            finish_all(single, results);
        }
        // The records of reads, when there was nothing to carry them: perhaps there is room now.
        if !self.pending_notes.is_empty() {
            let _ = self.attempt(&mut []);
        }
    }

    /// Runs a group in one transaction. An error means that the transaction is gone and nothing of it was written.
    fn attempt(&mut self, group: &mut [Queued]) -> Result<Vec<UnitResult>, Fault> {
        let started = Instant::now();
        let now = self.clock.now();
        let result = self.optimistic(group, now);
        match result {
            Ok((results, head)) => {
                self.head = head;
                self.pending_notes.clear();
                self.notes.written();
                if let Some(committed) = &self.committed {
                    committed(group.len(), started.elapsed());
                }
                if results
                    .iter()
                    .any(|(result, _)| matches!(result, Err(fault) if fault.code == Code::StorageFull))
                {
                    self.enter_full();
                }
                Ok(results)
            }
            Err(error) => {
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                self.notes.failed();
                let lost = Fault::from(error);
                tracing::warn!(code = %lost.code, units = group.len(), "a group of the ledger was undone");
                Err(lost)
            }
        }
    }

    /// Runs the group without savepoints, and in savepoints when a unit has failed.
    fn optimistic(&mut self, group: &mut [Queued], now: Timestamp) -> Result<Finished, rusqlite::Error> {
        loop {
            if let Some(finished) = self.transaction(group, now, self.wary > 0)? {
                self.wary = self.wary.saturating_sub(1);
                return Ok(finished);
            }
            self.connection.prepare_cached("ROLLBACK")?.execute([])?;
            self.wary = WARY;
        }
    }

    /// Runs the group in one transaction; [`None`] when a unit has failed without a savepoint to go back to.
    fn transaction(
        &self,
        group: &mut [Queued],
        now: Timestamp,
        savepoints: bool,
    ) -> Result<Option<Finished>, rusqlite::Error> {
        let connection = &self.connection;
        let run = |sql| connection.prepare_cached(sql)?.execute([]);
        run("BEGIN IMMEDIATE")?;
        let mut results = Vec::with_capacity(group.len());
        let mut head = self.head;
        for (work, _) in group.iter_mut() {
            if savepoints {
                run("SAVEPOINT unit")?;
            }
            let mut unit = Unit::new(connection, now);
            let result = catch_unwind(AssertUnwindSafe(|| work.run(&mut unit))).unwrap_or_else(|_| {
                tracing::error!("a unit of work panicked; it was undone");
                Err(Fault::internal())
            });
            let mut hooks = unit.into_hooks();
            if connection.is_autocommit() {
                return Err(ended_by_sqlite(&result));
            }
            if result.is_err() {
                if !savepoints {
                    return Ok(None);
                }
                hooks.clear();
                run("ROLLBACK TO unit")?;
            }
            if savepoints {
                run("RELEASE unit")?;
            }
            if let Some(entry) = work.audit(&result) {
                head = audit::append(connection, head, &entry)?;
            }
            results.push((result, hooks));
        }
        for entry in &self.pending_notes {
            head = audit::append(connection, head, entry)?;
        }
        if head != self.head
            && let Some(sealer) = self.sealer.get()
        {
            seal_end(sealer, connection, head, now)?;
        }
        run("COMMIT")?;
        Ok(Some((results, head)))
    }

    fn enter_full(&mut self) {
        if !self.stats.full.swap(true, Ordering::AcqRel) {
            tracing::error!("the disk is full: only what makes room is done until space returns");
        }
        if self.reserve.is_held() {
            self.reserve.give_up();
        }
    }

    fn recover(&mut self) {
        if !self.stats.is_full() {
            return;
        }
        match self.reserve.take() {
            Ok(true) => {
                self.stats.full.store(false, Ordering::Release);
                tracing::warn!("space has returned: the node serves everything again");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the reserve could not be taken"),
        }
    }

    fn truncate_wal(&self) {
        let busy =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        match busy {
            Ok(false) => {}
            Ok(true) => {
                tracing::debug!("a reader kept the write-ahead log from being truncated; trying again")
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log could not be truncated"),
        }
    }

    /// A reader that holds its snapshot keeps SQLite from resetting the log: beyond the limit it is truncated by force.
    fn bound_wal(&self) {
        let bytes = std::fs::metadata(&self.wal).map_or(0, |found| found.len());
        self.stats.wal_bytes.store(bytes, Ordering::Relaxed);
        if bytes > self.wal_limit {
            // A reader that does not end soon is waited for after the next commit: commands must not wait so long.
            let patience = |limit| self.connection.busy_timeout(limit);
            let truncated = patience(READERS_PATIENCE).and_then(|()| {
                let name = "wal_checkpoint(TRUNCATE)";
                self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            });
            let restored = patience(super::LOCK_PATIENCE);
            tracing::debug!(bytes, ?truncated, ?restored, "truncated the write-ahead log");
        }
    }
}

/// How a unit ended, and what is to happen now that it is durable.
type UnitResult = (Result<(), Fault>, Vec<Box<dyn FnOnce() + Send>>);

/// How every unit of a committed group ended, and the end of the audit trail.
type Finished = (Vec<UnitResult>, audit::Head);

fn finish_all(group: Vec<Queued>, results: Vec<UnitResult>) {
    for ((work, permit), (result, hooks)) in group.into_iter().zip(results) {
        for hook in hooks {
            hook();
        }
        work.finish(result);
        drop(permit);
    }
}

/// SQLite rolls the transaction back by itself on a full disk and on some I/O errors; the unit's own error says which.
fn ended_by_sqlite(result: &Result<(), Fault>) -> rusqlite::Error {
    let code = match result {
        Err(fault) if fault.code == Code::StorageFull => rusqlite::ffi::SQLITE_FULL,
        _ => rusqlite::ffi::SQLITE_IOERR,
    };
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
}
