//! Building one shard anew, beside the old one, in steps.
//!
//! The new index grows in a folder of its own and takes the old one's place in one rename. It stands for the sequence that
//! the ledger was at when it began: a record that changed meanwhile may be seen in either state here, and is brought to
//! its present one by the changes that follow. A rebuild that a crash cut off leaves a folder that the next one removes.

use std::sync::Arc;

use super::shelf::Shelf;
use super::writer::ShardWriter;
use super::{IndexError, Shard, ShardState, Source};

/// Records that are read at once.
const RECORDS_PER_STEP: u32 = 500;
/// Steps between commits, so that a large shard does not end in one long flush.
const STEPS_PER_COMMIT: u32 = 40;

pub struct Rebuild {
    shard: Shard,
    /// The ledger's sequence at the beginning.
    sequence: u64,
    shelf: Arc<Shelf>,
    writer: ShardWriter,
    last_key: u64,
    steps: u32,
}

impl Rebuild {
    /// Makes the empty folder. `state` must have been read just now.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn begin(shelf: Arc<Shelf>, state: &ShardState) -> Result<Self, IndexError> {
        let writer = ShardWriter::create(&shelf, &shelf.building(state.shard), state.shard)?;
        Ok(Self { shard: state.shard, sequence: state.changed, shelf, writer, last_key: 0, steps: 0 })
    }

    /// Which shard.
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// Adds some records. Returns whether more are left.
    ///
    /// # Errors
    /// When the ledger cannot be read or the index not be written.
    pub fn step(&mut self, source: &dyn Source) -> Result<bool, IndexError> {
        let documents = source.documents(self.shard, self.last_key, RECORDS_PER_STEP)?;
        for document in &documents {
            self.writer.apply(document.key, Some(document))?;
            self.last_key = document.key;
        }
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_PER_COMMIT) {
            self.writer.commit(0, false)?;
        }
        Ok(!documents.is_empty())
    }

    /// Commits and takes the old index's place. Returns the sequence that the new one stands for.
    ///
    /// # Errors
    /// When the file system refuses; the old index may be gone then, and the shard is missing until the next try.
    pub fn finish(mut self, source: &dyn Source) -> Result<u64, IndexError> {
        let unchanged = |state: &ShardState| state.shard == self.shard && state.changed == self.sequence;
        let exact = source.shards()?.iter().any(unchanged);
        self.writer.commit(self.sequence, exact)?;
        self.writer.close()?;
        self.shelf.replace(self.shard)?;
        Ok(self.sequence)
    }
}
