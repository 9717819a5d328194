//! How the ledger's commits, queries and jobs talk to the projector's thread.
//!
//! Everything coalesces: any number of commits is one wake-up, any number of waiting queries one commit. What is kept is
//! one entry for each shard that was touched since the start, so memory is bounded by the number of months.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Shard, ShardState};

/// What is known of a shard since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Status {
    committed: u64,
    /// What was committed up to this sequence was removed with the whole shard.
    removed: u64,
    damaged: bool,
    rebuilds: u64,
}

#[derive(Default)]
struct Inner {
    stop: bool,
    /// Someone waits for the latest state.
    urgent: bool,
    /// Someone waits for purged words to leave the files.
    compact: bool,
    /// Changes since the last turn.
    changes: u64,
    /// As many of them as a turn is begun for at once.
    enough: u64,
    shards: HashMap<Shard, Status>,
    rebuild: BTreeSet<Shard>,
}

/// What the projector does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// End.
    Stop,
    /// Bring the shards up to date.
    Turn,
    /// Build a shard anew, one step.
    Rebuild,
    /// Look whether the shards are still sound.
    Look,
    /// Nothing came until the time given.
    Idle,
}

/// What the projector waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// When changes are due.
    pub turn_at: Instant,
    /// Changes after which they are due at once.
    pub enough: u64,
    /// A rebuild is under way.
    pub rebuilding: bool,
    /// No new rebuild before this.
    pub rebuild_at: Option<Instant>,
    /// When to look at the shards.
    pub look_at: Instant,
    /// When to give up waiting, if ever.
    pub idle_at: Option<Instant>,
}

/// Shared between the projector's thread and everyone else.
pub struct Control {
    inner: Mutex<Inner>,
    wake: Condvar,
    tick: watch::Sender<u64>,
}

impl Control {
    pub(super) fn new() -> Self {
        // The first turn replays what an earlier run left.
        let inner = Inner { changes: 1, ..Inner::default() };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), tick: watch::Sender::new(0) }
    }

    /// No invariant spans several statements under the lock, so a panic elsewhere does not spoil it.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the ledger has committed a change of a record. Does not block.
    pub fn notify(&self) {
        let mut inner = self.inner();
        inner.changes += 1;
        // With those in between nothing becomes due that is not due already.
        let wakes = inner.changes == 1 || inner.changes == inner.enough;
        drop(inner);
        if wakes {
            self.wake.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.inner().stop = true;
        self.wake.notify_one();
    }

    pub(super) fn stopping(&self) -> bool {
        self.inner().stop
    }

    /// Marks `shard` as damaged; the projector builds it anew.
    pub fn report_damage(&self, shard: Shard) {
        let mut inner = self.inner();
        let status = inner.shards.entry(shard).or_default();
        if !status.damaged {
            status.damaged = true;
            tracing::warn!(%shard, "the search index of a month is damaged; it is built anew from the ledger");
        }
        inner.rebuild.insert(shard);
        drop(inner);
        self.wake.notify_one();
        self.tick();
    }

    /// Asks for `shards` to be built anew, and returns how often each has been so far.
    pub fn request_rebuild(&self, shards: &[Shard]) -> Vec<(Shard, u64)> {
        let mut inner = self.inner();
        let before = shards
            .iter()
            .map(|shard| (*shard, inner.shards.get(shard).map_or(0, |status| status.rebuilds)))
            .collect();
        inner.rebuild.extend(shards);
        drop(inner);
        self.wake.notify_one();
        before
    }

    /// How many of those in `before` have been built anew since.
    #[must_use]
    pub fn rebuilt_since(&self, before: &[(Shard, u64)]) -> usize {
        let inner = self.inner();
        before
            .iter()
            .filter(|(shard, count)| inner.shards.get(shard).is_some_and(|status| status.rebuilds > *count))
            .count()
    }

    /// Changes with every commit, rebuild and damage.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }

    /// Asks for what was purged to leave the files of the index at once.
    pub fn request_compaction(&self) {
        let mut inner = self.inner();
        inner.compact = true;
        inner.urgent = true;
        drop(inner);
        self.wake.notify_one();
    }

    pub(super) fn take_compaction(&self) -> bool {
        std::mem::take(&mut self.inner().compact)
    }

    /// Whether there is something to do that someone may wait for.
    pub(super) fn is_wanted(&self) -> bool {
        let inner = self.inner();
        inner.stop || inner.urgent || inner.changes > 0 || !inner.rebuild.is_empty()
    }

    pub(super) fn tick(&self) {
        self.tick.send_modify(|count| *count += 1);
    }

    /// Whether the shard is damaged and not yet built anew.
    #[must_use]
    pub fn is_damaged(&self, shard: Shard) -> bool {
        self.inner().shards.get(&shard).is_some_and(|status| status.damaged)
    }

    /// The sequence that is committed in the shard's index, as far as it is known without opening it.
    #[must_use]
    pub fn committed(&self, state: &ShardState) -> u64 {
        let known = self.inner().shards.get(&state.shard).copied().unwrap_or_default();
        let committed = if known.committed > known.removed { known.committed } else { 0 };
        committed.max(state.settled)
    }

    /// The ledger has forgotten a shard that was removed as a whole, as of `sequence`: what comes from now on begins it anew.
    pub fn forget(&self, shard: Shard, sequence: u64) {
        self.inner().shards.entry(shard).or_default().removed = sequence;
    }

    /// How many shards are damaged.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.inner().shards.values().filter(|status| status.damaged).count() as u64
    }

    /// Waits until every one of `shards` is as far as its [`ShardState::changed`], at most for `limit`. All who wait share
    /// one commit. Returns whether all got there; a damaged one is not waited for.
    pub async fn wait_latest(&self, shards: &[ShardState], limit: Duration) -> bool {
        let mut ticks = self.ticks();
        let behind = |shard: &&ShardState| self.committed(shard) < shard.changed;
        if !shards.iter().any(|shard| behind(&shard)) {
            return true;
        }
        self.inner().urgent = true;
        self.wake.notify_one();
        let waiting = async {
            loop {
                let mut late = shards.iter().filter(behind).peekable();
                if late.peek().is_none() {
                    return true;
                }
                if late.all(|state| self.is_damaged(state.shard)) || ticks.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or(false)
    }

    /// Blocks until there is something to do. A turn's changes count as seen when this returns it.
    pub(super) fn next(&self, wait: &Wait) -> Next {
        let mut inner = self.inner();
        inner.enough = wait.enough;
        loop {
            let now = Instant::now();
            if inner.stop {
                return Next::Stop;
            }
            if inner.urgent || inner.changes >= wait.enough || inner.changes > 0 && now >= wait.turn_at {
                inner.urgent = false;
                inner.changes = 0;
                return Next::Turn;
            }
            let rebuild_due = wait.rebuild_at.is_none_or(|at| now >= at);
            if wait.rebuilding || !inner.rebuild.is_empty() && rebuild_due {
                return Next::Rebuild;
            }
            if wait.idle_at.is_some_and(|at| now >= at) {
                return Next::Idle;
            }
            if now >= wait.look_at {
                return Next::Look;
            }
            let until = [
                Some(wait.look_at),
                (inner.changes > 0).then_some(wait.turn_at),
                (!inner.rebuild.is_empty()).then_some(wait.rebuild_at).flatten(),
                wait.idle_at,
            ];
            let until = until.into_iter().flatten().min().unwrap_or(wait.look_at);
            let (woken, _) = self
                .wake
                .wait_timeout(inner, until.saturating_duration_since(now))
                .unwrap_or_else(PoisonError::into_inner);
            inner = woken;
        }
    }

    /// Says that something is left to do after a turn that could not do it.
    pub(super) fn keep_dirty(&self) {
        self.inner().changes += 1;
    }

    /// The next shard to build anew.
    pub(super) fn rebuild_request(&self) -> Option<Shard> {
        self.inner().rebuild.first().copied()
    }

    /// The shard's index holds everything up to `sequence`.
    pub(super) fn set_committed(&self, shard: Shard, sequence: u64) {
        self.inner().shards.entry(shard).or_default().committed = sequence;
        self.tick();
    }

    /// The shard has been built anew as of `sequence`; what came since may be left.
    pub(super) fn set_rebuilt(&self, shard: Shard, sequence: u64) {
        let mut inner = self.inner();
        inner.rebuild.remove(&shard);
        // Who waits for what came meanwhile has asked before.
        inner.urgent = true;
        let status = inner.shards.entry(shard).or_default();
        *status = Status { committed: sequence, damaged: false, rebuilds: status.rebuilds + 1, ..*status };
        drop(inner);
        self.tick();
    }
}
