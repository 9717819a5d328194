//! What was removed really leaves: from the index, the database and its log.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::index::Shard;
use super::{Memory, store};
use crate::wire::Fault;

/// How long a job waits for the index to give up what was removed. What takes longer goes on by itself.
const INDEX_LIMIT: Duration = Duration::from_secs(120);
/// How long a job tries to empty the ledger's log.
const LOG_LIMIT: Duration = Duration::from_secs(5);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

impl Memory {
    /// Gives the disk back that `shards` no longer need, and the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub(super) async fn give_back(&self, shards: &[Shard]) -> Result<(), Fault> {
        self.compacted(shards).await?;
        shards.iter().for_each(|shard| self.projection.release(*shard));
        self.ledger.give_pages_back().await?;
        let until = Instant::now() + LOG_LIMIT;
        while !self.empty_log().await? && Instant::now() < until {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Waits until the index files of `shards` hold nothing any more that was purged.
    async fn compacted(&self, shards: &[Shard]) -> Result<(), Fault> {
        let control = self.projection.control();
        let mut ticks = control.ticks();
        let until = Instant::now() + INDEX_LIMIT;
        loop {
            let states = self.ledger.read(store::shards).await?;
            let pending = states
                .iter()
                .filter(|state| shards.contains(&state.shard))
                .any(|state| state.purged > state.compacted && !state.dropping);
            if !pending || Instant::now() >= until {
                return Ok(());
            }
            control.request_compaction();
            // A shard that is busy or failing gives no tick: look again by and by.
            let _ = tokio::time::timeout(Duration::from_secs(1), ticks.changed()).await;
        }
    }

    /// Empties the ledger's log, if it may hold what was purged. Returns whether nothing is left to do.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) async fn empty_log(&self) -> Result<bool, Fault> {
        if !self.log_holds_purged.swap(false, Ordering::AcqRel) {
            return Ok(true);
        }
        let emptied = self.ledger.empty_log().await;
        if !matches!(emptied, Ok(true)) {
            self.log_holds_purged.store(true, Ordering::Release);
        }
        emptied
    }
}
