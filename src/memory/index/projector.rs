//! The thread that keeps the index up to date.
//!
//! A turn asks the ledger which shards have changed and brings each to the present state of its records. A shard that
//! fails is left alone for a while and tried again: the ledger keeps its changes until they are committed here. Damage is
//! answered by building the shard anew, in steps between which the other shards get their turns.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{Next, Wait};
use super::rebuild::Rebuild;
use super::search::guarded;
use super::shelf::Shelf;
use super::writer::ShardWriter;
use super::{Control, IndexError, Options, Shard, ShardState, Source};

/// Writers that are open at the same time, a rebuild's included.
const MAX_WRITERS: usize = 2;
/// Changes that are read at once. Each may carry a whole record.
const CHANGES_PER_READ: u32 = 500;
/// Committed sequences after which the ledger is told to drop them, where the projector has no rest.
const SETTLE_AFTER: u64 = 1_000;
/// Shortest time between turns that nobody waits for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Failures in a row, none of them a full disk, after which a shard counts as damaged.
const FAILURES_TO_DAMAGE: u32 = 3;

/// How often every byte of every shard is compared with its checksum.
const READ_ALL_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

pub(super) struct Failure {
    count: u32,
    retry_at: Instant,
}

pub(super) struct Projector {
    pub(super) shelf: Arc<Shelf>,
    pub(super) source: Arc<dyn Source>,
    pub(super) options: Options,
    pub(super) control: Arc<Control>,
    /// The last used comes last.
    writers: Vec<(Shard, ShardWriter)>,
    /// Committed here, and not yet settled in the ledger: up to which sequence, and over how many sequences.
    pub(super) unsettled: HashMap<Shard, (u64, u64)>,
    pub(super) failures: HashMap<Shard, Failure>,
    pub(super) rebuild: Option<Rebuild>,
    /// Shards whose every byte is still to be compared, and when to begin anew.
    unread: (Vec<Shard>, Instant),
    /// When a shard was last compacted.
    pub(super) compacted: HashMap<Shard, Instant>,
    /// Months that are known to be one segment, as of which sequence.
    pub(super) whole: HashMap<Shard, u64>,
    /// Whether there may be others.
    may_merge: bool,
}

impl Projector {
    pub(super) fn new(
        shelf: Arc<Shelf>,
        source: Arc<dyn Source>,
        options: Options,
        control: Arc<Control>,
    ) -> Self {
        Self {
            shelf,
            source,
            options,
            control,
            writers: Vec::new(),
            unsettled: HashMap::new(),
            failures: HashMap::new(),
            rebuild: None,
            unread: (Vec::new(), Instant::now() + READ_ALL_INTERVAL),
            compacted: HashMap::new(),
            whole: HashMap::new(),
            may_merge: true,
        }
    }

    pub(super) fn run(mut self) {
        let mut turn_at = Instant::now();
        let mut idle_since = Instant::now();
        let mut look_at = Instant::now() + self.options.look_interval;
        loop {
            let resting = self.writers.is_empty() && self.unsettled.is_empty() && !self.may_merge;
            let wait = Wait {
                turn_at,
                enough: self.options.commit_changes,
                rebuilding: self.rebuild.is_some(),
                rebuild_at: self.rebuild_at(),
                look_at,
                idle_at: (!resting).then(|| idle_since + self.options.writer_idle),
            };
            match self.control.next(&wait) {
                Next::Stop => return,
                Next::Turn => {
                    self.turn();
                    idle_since = Instant::now();
                    // What failed asks for another turn: not in a tight loop, whatever the interval.
                    turn_at = idle_since + self.options.commit_interval.max(SHORTEST_INTERVAL);
                }
                Next::Rebuild => {
                    self.rebuild_step();
                    idle_since = Instant::now();
                }
                Next::Look => {
                    self.look();
                    look_at = Instant::now() + self.options.look_interval;
                }
                Next::Idle => {
                    self.rest();
                    // What could not be settled is tried again after as long.
                    idle_since = Instant::now();
                }
            }
        }
    }

    /// When the next requested rebuild may be tried, if it has failed before.
    fn rebuild_at(&self) -> Option<Instant> {
        let shard = self.control.rebuild_request()?;
        self.failures.get(&shard).map(|failure| failure.retry_at)
    }

    fn turn(&mut self) {
        let states = match self.source.shards() {
            Ok(states) => states,
            Err(error) => {
                tracing::warn!(%error, "the search index cannot read the ledger; it tries again");
                self.control.keep_dirty();
                return;
            }
        };
        for state in &states {
            if self.control.stopping() {
                return;
            }
            if state.dropping {
                self.drop_shard(state);
                continue;
            }
            if self.control.committed(state) >= state.changed
                || self.is_rebuilding(state.shard)
                || self.control.is_damaged(state.shard)
            {
                continue;
            }
            if self.is_failing(state.shard) {
                self.control.keep_dirty();
                continue;
            }
            match guarded(|| self.catch_up(state)) {
                Ok(()) => self.recovered(state.shard),
                Err(error) => self.failed(state.shard, &error),
            }
        }
        let asked = self.control.take_compaction();
        self.compact(&states, asked);
        self.may_merge = true;
    }

    /// Whether it has failed, and is not to be tried again yet.
    pub(super) fn is_failing(&self, shard: Shard) -> bool {
        self.failures.get(&shard).is_some_and(|failure| Instant::now() < failure.retry_at)
    }

    pub(super) fn is_rebuilding(&self, shard: Shard) -> bool {
        self.rebuild.as_ref().is_some_and(|rebuild| rebuild.shard() == shard)
    }

    pub(super) fn close_writer(&mut self, shard: Shard) {
        if let Some(position) = self.writers.iter().position(|(open, _)| *open == shard) {
            let (shard, writer) = self.writers.remove(position);
            close(shard, writer);
        }
    }

    /// Applies what `state.shard` lacks, and commits.
    fn catch_up(&mut self, state: &ShardState) -> Result<(), IndexError> {
        let shard = state.shard;
        let position = self.open_writer(state)?;
        let writer = &mut self.writers[position].1;
        let mut applied = writer.sequence();
        while applied < state.changed && !self.control.stopping() {
            let changes = self.source.changes(shard, applied, CHANGES_PER_READ)?;
            // Records in a full read may be in a state that later changes have brought them to.
            let exact = changes.len() < CHANGES_PER_READ as usize;
            let Some(last) = changes.last() else {
                return Err(IndexError::Damaged("changes are missing"));
            };
            applied = last.sequence;
            // Each change carries the present state, so one of each record is enough.
            let mut seen = HashSet::with_capacity(changes.len());
            for change in changes {
                if seen.insert(change.key) {
                    writer.apply(change.key, change.document.as_ref())?;
                }
            }
            if writer.pending() >= self.options.commit_changes || applied >= state.changed {
                let before = writer.sequence();
                writer.commit(applied, exact)?;
                self.control.set_committed(shard, applied);
                let unsettled = self.unsettled.entry(shard).or_default();
                *unsettled = (applied, unsettled.1 + (applied - before));
                if unsettled.1 >= SETTLE_AFTER {
                    self.source.settle(shard, applied)?;
                    self.unsettled.remove(&shard);
                }
            }
        }
        // The writer may have known more than this run: nothing was left to do.
        if self.control.committed(state) < applied && !self.control.stopping() {
            self.control.set_committed(shard, applied);
            self.unsettled.insert(shard, (applied, 0));
        }
        Ok(())
    }

    /// The position of the shard's writer, opened if it is not; the one that was not used for longest makes room.
    fn open_writer(&mut self, state: &ShardState) -> Result<usize, IndexError> {
        if let Some(position) = self.writers.iter().position(|(shard, _)| *shard == state.shard) {
            let writer = self.writers.remove(position);
            self.writers.push(writer);
        } else {
            self.limit_writers(MAX_WRITERS - 1 - usize::from(self.rebuild.is_some()));
            let writer = ShardWriter::open(&self.shelf, state)?;
            self.writers.push((state.shard, writer));
        }
        Ok(self.writers.len() - 1)
    }

    fn limit_writers(&mut self, most: usize) {
        while self.writers.len() > most {
            let (shard, writer) = self.writers.remove(0);
            close(shard, writer);
        }
    }

    /// Closes writers, lets the ledger drop what is in the index, and puts old months in order.
    fn rest(&mut self) {
        self.limit_writers(0);
        let source = &self.source;
        self.unsettled.retain(|shard, (sequence, _)| source.settle(*shard, *sequence).is_err());
        if let Ok(states) = self.source.shards() {
            self.compact(&states, true);
            self.may_merge = self.merge_old(&states);
        }
    }

    /// Looks whether files have changed that never should, and reads one shard of those whose turn it is. What is being
    /// written is left for later: there, files come and go.
    fn look(&mut self) {
        // Tried again the next time.
        let Ok(states) = self.source.shards() else { return };
        let written = |shard| self.writers.iter().any(|(open, _)| *open == shard);
        let still = states.iter().filter(|state| {
            state.records > 0
                && !state.dropping
                && self.control.committed(state) > 0
                && !self.control.is_damaged(state.shard)
                && !written(state.shard)
        });
        let still: Vec<_> = still.collect();
        let mut suspects = self.shelf.suspects(still.iter().map(|state| state.shard));
        if Instant::now() >= self.unread.1 {
            self.unread =
                (states.iter().map(|state| state.shard).collect(), Instant::now() + READ_ALL_INTERVAL);
        }
        suspects.extend(self.unread.0.pop());
        for state in still.into_iter().filter(|state| suspects.contains(&state.shard)) {
            match guarded(|| self.shelf.verify(state)) {
                Err(error) if !error.is_passing() => {
                    tracing::debug!(shard = %state.shard, %error, "a month of the search index is not as it was written");
                    self.control.report_damage(state.shard);
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn rebuild_step(&mut self) {
        let shard = self.rebuild.as_ref().map(Rebuild::shard).or_else(|| self.control.rebuild_request());
        let Some(shard) = shard else { return };
        match guarded(|| self.advance_rebuild(shard)) {
            Ok(()) => {}
            Err(error) => {
                self.rebuild = None;
                // It may be what fills the disk.
                if let Err(error) = self.shelf.remove(&self.shelf.building(shard)) {
                    tracing::debug!(%shard, %error, "an unfinished index could not be removed");
                }
                self.failed(shard, &error);
            }
        }
    }

    fn advance_rebuild(&mut self, shard: Shard) -> Result<(), IndexError> {
        let Some(rebuild) = &mut self.rebuild else {
            self.limit_writers(MAX_WRITERS - 1);
            // The old index still answers where it can, but is no longer written.
            self.writers.retain(|(open, _)| *open != shard);
            let state =
                self.source.shards()?.into_iter().find(|state| state.shard == shard && !state.dropping);
            let Some(state) = state else {
                self.control.set_rebuilt(shard, 0);
                return Ok(());
            };
            // What is found is not held up by it: the index is built all the same.
            if let Err(error) = self.source.recount(&state) {
                tracing::warn!(%shard, %error, "the records of a month could not be counted");
            }
            self.rebuild = Some(Rebuild::begin(self.shelf.clone(), &state)?);
            return Ok(());
        };
        if rebuild.step(self.source.as_ref())? {
            return Ok(());
        }
        let Some(rebuild) = self.rebuild.take() else { return Ok(()) };
        let sequence = rebuild.finish(self.source.as_ref())?;
        self.unsettled.insert(shard, (sequence, 0));
        self.control.set_rebuilt(shard, sequence);
        self.recovered(shard);
        tracing::info!(%shard, "the search index of a month was built anew");
        Ok(())
    }

    fn recovered(&mut self, shard: Shard) {
        if self.failures.remove(&shard).is_some() {
            tracing::info!(%shard, "the search index of a month is written again");
        }
    }

    /// Drops the shard's writer, and decides between another try and building it anew. Logged once until it recovers.
    pub(super) fn failed(&mut self, shard: Shard, error: &IndexError) {
        self.writers.retain(|(open, _)| *open != shard);
        let count = self.failures.get(&shard).map_or(0, |failure| failure.count).saturating_add(1);
        if count == 1 {
            tracing::warn!(%shard, %error, "the search index of a month cannot be written; it tries again");
        }
        let pause = BACKOFF.0.saturating_mul(1 << (count - 1).min(8)).min(BACKOFF.1);
        let damaged = match error {
            IndexError::Damaged(_) => true,
            // A folder that does not even open will not get better by waiting.
            other => !other.is_passing() && (count >= FAILURES_TO_DAMAGE || !self.opens(shard)),
        };
        if damaged && !self.control.is_damaged(shard) {
            self.failures.remove(&shard);
            self.control.report_damage(shard);
        } else {
            self.failures.insert(shard, Failure { count, retry_at: Instant::now() + pause });
        }
        self.control.keep_dirty();
    }

    fn opens(&self, shard: Shard) -> bool {
        let states = self.source.shards().unwrap_or_default();
        let Some(state) = states.iter().find(|state| state.shard == shard) else { return false };
        guarded(|| self.shelf.verify(state)).is_ok()
    }
}

impl Drop for Projector {
    fn drop(&mut self) {
        // Waiting for merges would hold up the end of the process; they begin again with the next commit.
        self.writers.clear();
    }
}

fn close(shard: Shard, writer: ShardWriter) {
    if let Err(error) = writer.close() {
        tracing::debug!(%shard, %error, "a merge did not end well; the last commit stands");
    }
}
