//! Putting shards in order: terms of purged records leave the index files, dropped months leave the disk, and a month that is over
//! becomes one segment.
//!
//! Tantivy marks a document as deleted and keeps its terms until the segment is merged, which its policy does late. Here
//! each segment with a deleted document is written anew. That takes time in proportion to the segment, so purges are
//! gathered: at most one compaction of a shard in [`PAUSE`], unless the projector has nothing else to do or someone asks.

use std::time::{Duration, Instant};

use tantivy::index::SegmentId;
use tantivy::merge_policy::NoMergePolicy;
use tantivy::{SegmentMeta, TantivyDocument};

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

    /// Makes one segment of each month that is over, which makes searching many of them cheaper. For when nobody waits; ends
    /// early when someone does. Whether there is more to do.
    pub(super) fn merge_old(&mut self, states: &[ShardState]) -> bool {
        let is_over = |state: &ShardState| {
            let later = |other: &&ShardState| {
                other.records > 0
                    && other.shard.layer == state.shard.layer
                    && other.shard.span().0 > state.shard.span().0
            };
            states.iter().find(later).is_some()
        };
        for state in states {
            let shard = state.shard;
            let is_settled =
                self.control.committed(state) >= state.changed && state.purged <= state.compacted;
            if state.records == 0
                || state.records > self.options.merge_records
                || state.dropping
                || !is_settled
                || self.whole.get(&shard) == Some(&state.changed)
                || self.control.is_damaged(shard)
                || self.is_failing(shard)
                || self.is_rebuilding(shard)
                || !is_over(state)
            {
                continue;
            }
            if self.control.is_wanted() {
                return true;
            }
            self.close_writer(shard);
            match guarded(|| merge_shard(&self.shelf, state)) {
                Ok(()) => {
                    self.whole.insert(shard, state.changed);
                    self.control.tick();
                }
                Err(error) => self.failed(shard, &error),
            }
        }
        false
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
        match self.shelf.clear(shard) {
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

/// Merges every segment that has deletions, each by itself.
fn compact_shard(shelf: &Shelf, state: &ShardState) -> Result<(), IndexError> {
    rewrite(shelf, state, |segments| {
        let with_deletions = segments.iter().filter(|segment| segment.has_deletes());
        with_deletions.map(|segment| vec![segment.id()]).collect()
    })
}

/// Merges all segments, where there are several.
fn merge_shard(shelf: &Shelf, state: &ShardState) -> Result<(), IndexError> {
    rewrite(shelf, state, |segments| {
        let all = segments.iter().map(SegmentMeta::id).collect::<Vec<_>>();
        if all.len() > 1 { vec![all] } else { Vec::new() }
    })
}

/// Merges the segments that `groups` puts together, and removes the files that nobody needs any more.
fn rewrite(
    shelf: &Shelf,
    state: &ShardState,
    groups: impl FnOnce(&[SegmentMeta]) -> Vec<Vec<SegmentId>>,
) -> Result<(), IndexError> {
    let folder = shelf.folder(state.shard);
    if !folder.join(META).exists() {
        return Ok(());
    }
    let (index, _) = shelf.open(&folder, state)?;
    let groups = groups(&index.searchable_segment_metas()?);
    if groups.is_empty() {
        return Ok(());
    }
    let mut writer = index.writer_with_num_threads::<TantivyDocument>(1, ARENA_BYTES)?;
    writer.set_merge_policy(Box::new(NoMergePolicy));
    for group in groups {
        writer.merge(&group).wait()?;
    }
    writer.garbage_collect_files().wait()?;
    Ok(writer.wait_merging_threads()?)
}
