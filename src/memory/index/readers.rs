//! Open shards for searching: opened when first needed, checked, and a bounded number kept.
//!
//! A shard is opened again when its meta.json is another file than before: commits and merges replace it by a rename. So
//! does who damages or removes it, which is why every search looks.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tantivy::{Index, ReloadPolicy, Searcher};

use super::schema::{self, Mark};
use super::{IndexError, Shard, ShardState};

/// Identity of a meta.json: inode, size, and time of change in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

struct Open {
    shard: Shard,
    stamp: Stamp,
    searcher: Searcher,
}

/// The shards that were searched last.
pub struct Readers {
    folder: PathBuf,
    most: usize,
    /// The last used comes last.
    open: Mutex<VecDeque<Open>>,
}

impl Readers {
    /// Opens nothing yet. At most `most` are kept open; a search may hold more for as long as it runs.
    pub const fn new(folder: PathBuf, most: usize) -> Self {
        Self { folder, most, open: Mutex::new(VecDeque::new()) }
    }

    /// The last committed state of a shard; [`None`] when nothing of it was ever committed. `committed` is what the
    /// projector has committed, as far as it is known.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] and others when the shard must be built anew.
    pub fn searcher(&self, state: &ShardState, committed: u64) -> Result<Option<Searcher>, IndexError> {
        let folder = state.shard.folder(&self.folder);
        let Some(stamp) = stamp(&folder)? else {
            self.forget(state.shard);
            let ever = state.settled > 0 || committed > 0;
            return if ever { Err(IndexError::Damaged("it is missing")) } else { Ok(None) };
        };
        if let Some(searcher) = self.touch(state.shard, stamp) {
            return Ok(Some(searcher));
        }
        // Opened outside the lock: two searches may both open it, and one is dropped.
        let searcher = open(&folder, state)?;
        self.keep(Open { shard: state.shard, stamp, searcher: searcher.clone() });
        Ok(Some(searcher))
    }

    /// Closes a shard.
    pub fn forget(&self, shard: Shard) {
        self.list().retain(|open| open.shard != shard);
    }

    fn touch(&self, shard: Shard, stamp: Stamp) -> Option<Searcher> {
        let mut list = self.list();
        let position = list.iter().position(|open| open.shard == shard && open.stamp == stamp)?;
        let open = list.remove(position)?;
        let searcher = open.searcher.clone();
        list.push_back(open);
        Some(searcher)
    }

    fn keep(&self, open: Open) {
        let mut list = self.list();
        list.retain(|other| other.shard != open.shard);
        list.push_back(open);
        while list.len() > self.most {
            list.pop_front();
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, VecDeque<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(folder: &Path) -> Result<Option<Stamp>, IndexError> {
    match std::fs::metadata(folder.join("meta.json")) {
        Ok(meta) => Ok(Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open(folder: &Path, state: &ShardState) -> Result<Searcher, IndexError> {
    let index = Index::open_in_dir(folder)?;
    if index.schema() != schema::schema() {
        return Err(IndexError::Damaged("it has another schema"));
    }
    schema::register(&index);
    let mark = || Mark::read(index.load_metas()?.payload.as_deref(), state.shard);
    let before = mark()?;
    if before.sequence < state.settled {
        return Err(IndexError::Damaged("it is older than the ledger's changes"));
    }
    // Nothing is stored: a cache of stored documents would be empty memory.
    let reader = index
        .reader_builder()
        .reload_policy(ReloadPolicy::Manual)
        .doc_store_cache_num_blocks(0)
        .try_into()?;
    let searcher = reader.searcher();
    // Only an index that stands for the very state that the ledger described can be counted against it.
    let comparable = before.exact && before.sequence == state.changed && mark()? == before;
    if comparable && searcher.num_docs() != state.records {
        return Err(IndexError::Damaged("it has another number of records than the ledger"));
    }
    Ok(searcher)
}
