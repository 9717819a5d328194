//! The search index: a projection of the ledger, one tantivy index for each layer and month.
//!
//! Promises: what is here can be deleted at any time and comes back from the ledger; a damaged shard is noticed when it
//! is opened, built anew by the projector's thread, and left out of answers meanwhile; at most two writers are open and
//! a bounded number of readers; starting reads no record and opens no shard that is up to date.
//!
//! Must not: keep a record's content (only its terms), answer from the index alone, or know SQL: what it needs of the
//! ledger is the [`Source`].

mod analysis;
mod compact;
mod control;
mod copy;
mod files;
mod matching;
mod projector;
mod readers;
mod rebuild;
mod schema;
mod search;
mod shard;
mod shelf;
mod top;
mod words;
mod writer;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::memory::query::Filter;
use crate::wire::Fault;

pub use analysis::{Analysis, LANGUAGES};
pub use control::Control;
pub use copy::IndexCopy;
pub use schema::Layout;
pub use search::{Request, Searched};
pub use shard::Shard;
pub use top::{Candidate, Place};
pub use words::Words;

/// What the ledger knows of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Which.
    pub shard: Shard,
    /// Records that belong to it.
    pub records: u64,
    /// Bytes of their contents.
    pub content_bytes: u64,
    /// Sequence of its last change.
    pub changed: u64,
    /// Its changes up to this sequence are no longer kept: an index that is not at least as far is built anew.
    pub settled: u64,
    /// Records that are forgotten: they count no longer, and are not purged yet.
    pub forgotten: u64,
    /// Records that are pinned.
    pub pinned: u64,
    /// It is being removed as a whole: the index lets go of it.
    pub dropping: bool,
    /// Sequence of the last purge.
    pub purged: u64,
    /// Purges up to this sequence have left the files of the index.
    pub compacted: u64,
    /// Its row in the ledger.
    pub row: i64,
}

/// What the index needs of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The record's key in the ledger: a number that is never used again, and grows.
    pub key: u64,
    /// When it was stored.
    pub created: Timestamp,
    /// In [0, 1].
    pub importance: f64,
    /// Each once.
    pub tags: Vec<String>,
    /// Whom or what it is about.
    pub entity: Option<String>,
    /// Whose it is.
    pub namespace: String,
    /// The user whom it belongs to.
    pub user: Option<String>,
    /// Goes through the analyzer and is not kept.
    pub content: String,
}

/// A record that was changed, in its present state.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Position among all changes.
    pub sequence: u64,
    /// The record's key.
    pub key: u64,
    /// The record as it is now; [`None`] when it is gone or belongs to another shard by now.
    pub document: Option<Document>,
}

/// Where the projection reads. Every call may block and sees a snapshot of its own.
pub trait Source: Send + Sync + 'static {
    /// Every shard that ever had a record.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn shards(&self) -> Result<Vec<ShardState>, Fault>;

    /// Changes of `shard` after `sequence`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn changes(&self, shard: Shard, after: u64, limit: u32) -> Result<Vec<Change>, Fault>;

    /// Records of `shard` with a key above `after`, by key, at most `limit`.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn documents(&self, shard: Shard, after: u64, limit: u32) -> Result<Vec<Document>, Fault>;

    /// Compares the counters of the shard with its rows, and puts them right: they differ when the ledger was changed from
    /// outside, and then no index would ever be what they say.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    fn recount(&self, state: &ShardState) -> Result<(), Fault>;

    /// Everything up to `sequence` is durably in the index of `shard`: its changes need not be kept.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn settle(&self, shard: Shard, sequence: u64) -> Result<(), Fault>;

    /// Everything that was purged up to `sequence` has left the files of the index of `shard`.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn compacted(&self, shard: Shard, sequence: u64) -> Result<(), Fault>;
}

/// How the projection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Longest time from a change to its commit, when nobody waits.
    pub commit_interval: Duration,
    /// Changes after which a commit does not wait for the interval.
    pub commit_changes: u64,
    /// Bytes that the shards which are kept open for searching may take.
    pub open_bytes: u64,
    /// Records of the largest month that becomes one segment when it is over; 0 for none. It takes a second or two, in which no
    /// other month is written.
    pub merge_records: u64,
    /// Idle time after which writers are closed.
    pub writer_idle: Duration,
    /// How often files are looked at that should not have changed.
    pub look_interval: Duration,
    /// How text becomes terms. With another one than before, shards are built anew when they are next needed.
    pub analysis: Analysis,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_millis(500),
            commit_changes: 5_000,
            // A hundred months of ten thousand records take about a third of it; more than are kept open are opened anew by
            // each query that needs all.
            open_bytes: 64 << 20,
            merge_records: 100_000,
            writer_idle: Duration::from_secs(2),
            look_interval: Duration::from_secs(10),
            analysis: Analysis::default(),
        }
    }
}

/// Why a shard could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is not what the ledger says it should be: it must be built anew.
    #[error("the shard is damaged: {0}")]
    Damaged(&'static str),
    /// Tantivy failed; its message names files and never content.
    #[error(transparent)]
    Tantivy(#[from] tantivy::TantivyError),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The ledger could not be read or written.
    #[error("the ledger: {0}")]
    Ledger(#[from] Fault),
}

impl IndexError {
    /// Whether the shard itself may be sound and only the system lacks something: space, memory, open files, the ledger.
    fn is_passing(&self) -> bool {
        // Tantivy wraps the system's error in several ways, all of which show its kind or number (EMFILE, ENFILE).
        const SIGNS: [&str; 6] =
            ["StorageFull", "QuotaExceeded", "OutOfMemory", "code: 23,", "code: 24,", "LockFailure"];
        let described = match self {
            Self::Io(error) => format!("{error:?}"),
            Self::Tantivy(error) => format!("{error:?}"),
            Self::Ledger(_) => return true,
            Self::Damaged(_) => return false,
        };
        SIGNS.iter().any(|sign| described.contains(sign))
    }
}

/// The running projection: its thread, its readers, and how both talk.
pub struct Projection {
    shelf: Arc<shelf::Shelf>,
    control: Arc<Control>,
    readers: readers::Readers,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Projection {
    /// Starts the projector over the shards under `folder`. Opens none of them.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(folder: &Path, source: Arc<dyn Source>, options: Options) -> std::io::Result<Self> {
        let control = Arc::new(Control::new());
        let shelf = Arc::new(shelf::Shelf::new(folder.to_owned(), &options.analysis));
        let projector = projector::Projector::new(shelf.clone(), source, options, control.clone());
        let thread = std::thread::Builder::new().name("projector".into()).spawn(move || projector.run())?;
        let readers = readers::Readers::new(shelf.clone(), options.open_bytes);
        Ok(Self { shelf, control, readers, thread: Mutex::new(Some(thread)) })
    }

    /// What all shards have in common.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.shelf.layout()
    }

    /// Wakes the projector, waits for it, asks for rebuilds.
    #[must_use]
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Searches `shards`; the others are not touched. Blocks. Shards that cannot be asked are named in the answer and
    /// will be built anew.
    #[must_use]
    pub fn search(&self, shards: &[ShardState], request: &Request<'_>) -> Searched {
        let searched = search::search(&self.readers, &self.control, shards, request);
        for shard in &searched.damaged {
            self.control.report_damage(*shard);
        }
        searched
    }

    /// The keys of the records that pass `filter`, of each of `shards` that it does not take as a whole. Blocks.
    #[must_use]
    pub fn admitted(&self, shards: &[ShardState], filter: &Filter) -> HashMap<Shard, HashSet<u64>> {
        search::admitted(&self.readers, &self.control, shards, filter)
    }

    /// Closes what is open of a shard for searching, so that the files that it has given up leave the disk.
    pub fn release(&self, shard: Shard) {
        self.readers.forget(shard);
    }

    /// Bytes of the shard's folder. Blocks.
    #[must_use]
    pub fn bytes(&self, shard: Shard) -> u64 {
        let Ok(entries) = std::fs::read_dir(self.shelf.folder(shard)) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// Ends the projector after the commit it is in. What is not committed is replayed at the next start. Blocks.
    pub fn stop(&self) {
        self.control.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Projection {
    fn drop(&mut self) {
        self.stop();
    }
}
