//! Open shards for searching: opened when first needed, checked, and a bounded number kept.
//!
//! A shard is opened again when its meta.json is another file than before: commits and merges replace it by a rename. So
//! does who damages or removes it, which is why every search looks.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tantivy::{ReloadPolicy, Searcher};

use super::files::{META, Stamp};
use super::schema::Layout;
use super::shelf::Shelf;
use super::top::Columns;
use super::{IndexError, Shard, ShardState};

/// A shard that is open for searching.
#[derive(Clone)]
pub struct Opened {
    /// Its last commit.
    pub searcher: Searcher,
    columns: Arc<OnceLock<Vec<Columns>>>,
}

impl Opened {
    /// The fast fields of each segment, read when first needed.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn columns(&self) -> Result<&[Columns], IndexError> {
        if let Some(columns) = self.columns.get() {
            return Ok(columns);
        }
        let columns = self.searcher.segment_readers().iter().map(Columns::of).collect::<Result<_, _>>()?;
        Ok(self.columns.get_or_init(|| columns))
    }
}

struct Kept {
    shard: Shard,
    stamp: Stamp,
    opened: Opened,
}

/// The shards that were searched last.
pub struct Readers {
    shelf: Arc<Shelf>,
    most: usize,
    /// The last used comes last.
    kept: Mutex<VecDeque<Kept>>,
}

impl Readers {
    /// Opens nothing yet. At most `most` are kept open; a search may hold more for as long as it runs.
    pub const fn new(shelf: Arc<Shelf>, most: usize) -> Self {
        Self { shelf, most, kept: Mutex::new(VecDeque::new()) }
    }

    /// What all shards have in common.
    pub fn layout(&self) -> &Layout {
        self.shelf.layout()
    }

    /// The last committed state of a shard; [`None`] when nothing of it was ever committed. `committed` is what the
    /// projector has committed, as far as it is known.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] and others when the shard must be built anew.
    pub fn open(&self, state: &ShardState, committed: u64) -> Result<Option<Opened>, IndexError> {
        let folder = self.shelf.folder(state.shard);
        let Some(stamp) = Stamp::of(&folder.join(META))? else {
            self.forget(state.shard);
            let ever = state.settled > 0 || committed > 0;
            return if ever { Err(IndexError::Damaged("it is missing")) } else { Ok(None) };
        };
        if let Some(opened) = self.touch(state.shard, stamp) {
            return Ok(Some(opened));
        }
        // Opened outside the lock: two searches may both open it, and one is dropped.
        let opened = Opened { searcher: self.searcher(&folder, state)?, columns: Arc::default() };
        self.keep(Kept { shard: state.shard, stamp, opened: opened.clone() });
        Ok(Some(opened))
    }

    /// Closes a shard.
    pub fn forget(&self, shard: Shard) {
        self.list().retain(|kept| kept.shard != shard);
    }

    fn touch(&self, shard: Shard, stamp: Stamp) -> Option<Opened> {
        let mut list = self.list();
        let position = list.iter().position(|kept| kept.shard == shard && kept.stamp == stamp)?;
        let kept = list.remove(position)?;
        let opened = kept.opened.clone();
        list.push_back(kept);
        Some(opened)
    }

    fn keep(&self, kept: Kept) {
        let mut list = self.list();
        list.retain(|other| other.shard != kept.shard);
        list.push_back(kept);
        while list.len() > self.most {
            list.pop_front();
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn searcher(&self, folder: &Path, state: &ShardState) -> Result<Searcher, IndexError> {
        let (index, before) = self.shelf.open(folder, state)?;
        // Nothing is stored: a cache of stored documents would be empty memory.
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(0)
            .try_into()?;
        let searcher = reader.searcher();
        // Only an index that stands for the very state that the ledger described can be counted against it.
        let comparable = before.exact
            && before.sequence == state.changed
            && self.shelf.mark(&index, state.shard)? == before;
        if comparable && searcher.num_docs() != state.records {
            return Err(IndexError::Damaged("it has another number of records than the ledger"));
        }
        Ok(searcher)
    }
}
