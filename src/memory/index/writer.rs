//! An open shard that is being written.
//!
//! One indexing thread and one merging thread, 15 MB of arena (filled as needed). Nothing is durable or visible before
//! [`ShardWriter::commit`]; dropping a writer forgets what was not committed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::Term;
use tantivy::{Index, IndexWriter};

use super::files::META;
use super::schema::Mark;
use super::shelf::Shelf;
use super::{Document, IndexError, Shard, ShardState};

/// The smallest arena that tantivy accepts.
pub(super) const ARENA_BYTES: usize = 15_000_000;
/// Share of deleted documents from which a segment is rewritten, so that forgotten terms leave the disk.
const DELETED_SHARE: f32 = 0.2;

pub struct ShardWriter {
    shelf: Arc<Shelf>,
    folder: PathBuf,
    writer: IndexWriter,
    mark: Mark,
    pending: u64,
}

impl ShardWriter {
    /// Opens the shard, and checks that it is the one that the ledger describes. A shard that never had a commit is
    /// created.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when it must be built anew, others when opening failed.
    pub fn open(shelf: &Arc<Shelf>, state: &ShardState) -> Result<Self, IndexError> {
        let folder = shelf.folder(state.shard);
        if !folder.join(META).exists() {
            if state.settled > 0 {
                return Err(IndexError::Damaged("it is missing"));
            }
            return Self::create(shelf, &folder, state.shard);
        }
        let (index, mark) = shelf.open(&folder, state)?;
        if mark.sequence > state.changed {
            return Err(IndexError::Damaged("it is newer than the ledger"));
        }
        Self::over(shelf, &folder, &index, mark)
    }

    /// Makes an empty shard in `folder`; what was there is removed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(shelf: &Arc<Shelf>, folder: &Path, shard: Shard) -> Result<Self, IndexError> {
        let index = shelf.create(folder)?;
        Self::over(shelf, folder, &index, shelf.layout().empty_mark(shard))
    }

    fn over(shelf: &Arc<Shelf>, folder: &Path, index: &Index, mark: Mark) -> Result<Self, IndexError> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(ARENA_BYTES)
            .build();
        let writer = index.writer_with_options(options)?;
        let mut policy = LogMergePolicy::default();
        policy.set_del_docs_ratio_before_merge(DELETED_SHARE);
        writer.set_merge_policy(Box::new(policy));
        Ok(Self { shelf: shelf.clone(), folder: folder.to_owned(), writer, mark, pending: 0 })
    }

    /// Everything up to here is committed.
    pub const fn sequence(&self) -> u64 {
        self.mark.sequence
    }

    /// Changes since the last commit.
    pub const fn pending(&self) -> u64 {
        self.pending
    }

    /// Brings one record to its present state.
    ///
    /// # Errors
    /// When the indexing thread has failed.
    pub fn apply(&mut self, key: u64, document: Option<&Document>) -> Result<(), IndexError> {
        self.pending += 1;
        // Every deletion is looked up in every segment: a record that cannot be there yet is spared that.
        if key <= self.mark.top_key {
            self.writer.delete_term(Term::from_field_u64(self.shelf.layout().fields.key, key));
        }
        if let Some(document) = document {
            self.writer.add_document(self.shelf.layout().document(document))?;
            self.mark.top_key = self.mark.top_key.max(key);
        }
        Ok(())
    }

    /// Makes what was applied durable and visible, as the state at `sequence`; `exact` says that no record is ahead of
    /// it.
    ///
    /// # Errors
    /// When the file system refuses; the writer must be dropped then.
    pub fn commit(&mut self, sequence: u64, exact: bool) -> Result<(), IndexError> {
        let mut mark = self.mark.clone();
        mark.sequence = sequence;
        mark.exact = exact;
        let payload = mark.write()?;
        let mut prepared = self.writer.prepare_commit()?;
        prepared.set_payload(&payload);
        prepared.commit()?;
        // Tantivy renames meta.json and leaves the folder unsynced; changes are dropped from the ledger after this.
        File::open(&self.folder)?.sync_all()?;
        self.mark = mark;
        self.pending = 0;
        Ok(())
    }

    /// Lets merges end and closes. What was not committed is forgotten.
    ///
    /// # Errors
    /// When a merge failed; the last commit stands.
    pub fn close(self) -> Result<(), IndexError> {
        Ok(self.writer.wait_merging_threads()?)
    }
}
