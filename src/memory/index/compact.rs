//! Giving back what was removed: terms of purged records leave the index files, dropped months leave the disk.
//!
//! Tantivy marks a document as deleted and keeps its terms until the segment is merged, which its policy does late. Here
//! each segment with a deleted document is written anew. That takes time in proportion to the segment, so purges are
//! gathered: at most one compaction of a shard in [`PAUSE`], unless the projector has nothing else to do or someone asks.

use std::time::{Duration, Instant};

use tantivy::TantivyDocument;
use tantivy::merge_policy::NoMergePolicy;

use super::files::META;
use super::projector::Projector;
use super::search::guarded;
use super::shelf::Shelf;
use super::writer::ARENA_BYTES;
use super::{IndexError, ShardState};

/// Shortest time between two compactions of a shard that nobody waits for.
const PAUSE: Duration = Duration::from_secs(30);

impl Projector {
    /// Writes the segments anew that still hold words of purged records. `now` says not to gather any longer.
    pub(super) fn compact(&mut self, states: &[ShardState], now: bool) {
        let recent = |last: &Instant| last.elapsed() < PAUSE;
        for state in states {
            let shard = state.shard;
            let pending = state.purged > state.compacted && !state.dropping;
            let behind = self.control.committed(state) < state.purged || self.control.is_damaged(shard);
            let failing = self.is_failing(shard);
            let gathering = !now && self.compacted.get(&shard).is_some_and(recent);
            if !pending
                || behind
                || failing
                || gathering
                || self.is_rebuilding(shard)
                || self.control.stopping()
            {
                continue;
            }
            self.close_writer(shard);
            match guarded(|| compact_shard(&self.shelf, state)) {
                Ok(()) => {
                    self.compacted.insert(shard, Instant::now());
                    if let Err(error) = self.source.compacted(shard, state.purged) {
                        tracing::debug!(%shard, %error, "a compaction could not be recorded; it is repeated");
                    }
                    self.control.tick();
                }
                Err(error) => self.failed(shard, &error),
            }
        }
    }

    /// Lets go of a month that the ledger is dropping.
    pub(super) fn drop_shard(&mut self, state: &ShardState) {
        let shard = state.shard;
        if self.control.committed(state) >= state.changed {
            return;
        }
        self.close_writer(shard);
        if self.is_rebuilding(shard) {
            self.rebuild = None;
        }
        let shelf = &self.shelf;
        let removed = shelf.remove(&shelf.building(shard)).and_then(|()| shelf.remove(&shelf.folder(shard)));
        match removed {
            Ok(()) => {
                self.unsettled.remove(&shard);
                self.failures.remove(&shard);
                self.control.set_rebuilt(shard, state.changed);
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "the index of a dropped month could not be removed; it tries again");
                self.control.keep_dirty();
            }
        }
    }
}

/// Merges every segment that has deletions, each by itself, and removes the files that nobody needs any more.
fn compact_shard(shelf: &Shelf, state: &ShardState) -> Result<(), IndexError> {
    let folder = shelf.folder(state.shard);
    if !folder.join(META).exists() {
        return Ok(());
    }
    let (index, _) = shelf.open(&folder, state)?;
    let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, ARENA_BYTES)?;
    writer.set_merge_policy(Box::new(NoMergePolicy));
    for segment in index.searchable_segment_metas()? {
        if segment.has_deletes() {
            writer.merge(&[segment.id()]).wait()?;
        }
    }
    writer.garbage_collect_files().wait()?;
    Ok(writer.wait_merging_threads()?)
}
