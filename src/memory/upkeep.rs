//! What memory does by itself: tells its changes, writes recalls down, empties the ledger's log of what was purged. And once,
//! after a migration: seals records from before. When it last pruned and promoted is in the ledger, for its figures.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use tokio_util::sync::CancellationToken;

use super::model::MAX_ACCESSES;
use super::{Memory, store};
use crate::clock::Timestamp;
use crate::engine::Events;
use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// Row of `meta` with the time of the last pruning.
pub const PRUNE: &str = "memory_last_prune";
/// Row of `meta` with the time of the last promotion.
pub const PROMOTE: &str = "memory_last_promotion";
/// Row of `meta` that says which key the records are sealed with.
const SEAL_KEY: &str = "memory_seal_key";
/// Row of `meta` that is there as long as records from before the seals have none.
const UNSEALED: &str = "memory_unsealed";

/// Time between two events with changes.
const NEWS_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two writes of recalls, in units of [`NEWS_INTERVAL`].
const RECALLS_EVERY: u32 = 10;
/// Records whose recalls one unit writes: well under 5 ms.
const RECALLS_UNIT: usize = 50;
/// Records that one unit seals.
const SEAL_UNIT: u32 = 100;

/// When `job` last ran.
///
/// # Errors
/// When the ledger cannot be read.
pub fn last_run(connection: &Connection, job: &str) -> Result<Option<Timestamp>, Fault> {
    let last = connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([job], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(last.map(Timestamp::from_millis))
}

/// Notes that `job` has run now.
///
/// # Errors
/// When the ledger cannot be written.
pub fn record_run(unit: &Unit<'_>, job: &str) -> Result<(), Fault> {
    put(unit, job, &unit.now().millis())
}

fn put(unit: &Unit<'_>, key: &str, value: &dyn rusqlite::ToSql) -> Result<(), Fault> {
    unit.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
    )?
    .execute(params![key, value])?;
    Ok(())
}

impl Memory {
    /// To be called once before serving: makes sure that the records were sealed with the present key, and seals those
    /// that were written before there were seals.
    ///
    /// # Errors
    /// `conflict` when they were sealed with another key; when the ledger cannot be read or written.
    pub async fn prepare(&self) -> Result<(), Fault> {
        let key = self.seal.key_id();
        let read = |connection: &Connection| {
            let text = |name: &str| {
                connection
                    .query_row("SELECT value FROM meta WHERE key = ?1", [name], |row| row.get::<_, String>(0))
                    .optional()
            };
            let unsealed =
                connection.query_row("SELECT count(*) FROM meta WHERE key = ?1", [UNSEALED], |row| {
                    row.get::<_, bool>(0)
                })?;
            Ok((text(SEAL_KEY)?, unsealed))
        };
        let (sealed_with, unsealed) = self.ledger.read(read).await?;
        match sealed_with {
            Some(other) if other != key => {
                return Err(Fault::new(
                    Code::Conflict,
                    "the records were sealed with another node key: put the node.key that belongs to this state back",
                ));
            }
            Some(_) => {}
            None => self.ledger.write(move |unit| put(unit, SEAL_KEY, &key)).await?,
        }
        if unsealed { self.seal_what_came_before().await } else { Ok(()) }
    }

    async fn seal_what_came_before(&self) -> Result<(), Fault> {
        tracing::warn!("records from before the seals are sealed, once");
        let mut after = 0;
        loop {
            let seal = self.seal.clone();
            let last = self.ledger.write(move |unit| {
                let page = store::page(unit, &seal, None, after, SEAL_UNIT)?;
                for kept in &page {
                    unit.prepare_cached(
                        "UPDATE memory_record SET seal = ?2, digest = ?3 WHERE key = ?1 AND seal IS NULL",
                    )?
                    .execute(params![
                        kept.key,
                        seal.of(&kept.record),
                        super::model::digest(&kept.record.checksum)
                    ])?;
                }
                if page.is_empty() {
                    unit.execute("DELETE FROM meta WHERE key = ?1", [UNSEALED])?;
                }
                Ok(page.last().map(|kept| kept.key))
            });
            match last.await? {
                Some(key) => after = key,
                None => return Ok(()),
            }
        }
    }

    /// Does all of it, until `stop`.
    pub async fn upkeep(self: Arc<Self>, events: Events, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.tell_and_write(&events) => {}
            () = self.fill_vectors() => {}
        }
        if let Err(error) = self.write_recalls().await {
            tracing::debug!(%error, "the last recalls were not written down");
        }
    }

    /// Gives records their vectors, where embeddings are on.
    async fn fill_vectors(&self) {
        match &self.semantic {
            Some(semantic) => semantic.fill(&self.ledger, &self.seal).await,
            None => std::future::pending().await,
        }
    }

    async fn tell_and_write(&self, events: &Events) {
        let mut ticks = tokio::time::interval(NEWS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for turn in 0_u32.. {
            ticks.tick().await;
            if let Some(news) = self.news.take() {
                events.tell("memory", &news);
            }
            if turn.is_multiple_of(RECALLS_EVERY)
                && let Err(error) = self.write_recalls().await
            {
                tracing::warn!(%error, "how often records were recalled could not be written down");
            }
            if let Err(error) = self.empty_log().await {
                tracing::warn!(%error, "the ledger's log could not be emptied; it is tried again");
            }
        }
    }

    /// Writes down how often records were recalled.
    pub(super) async fn write_recalls(&self) -> Result<(), Fault> {
        for chunk in self.accesses.take().chunks(RECALLS_UNIT) {
            let chunk = chunk.to_vec();
            let write = move |unit: &mut Unit<'_>| {
                let mut statement = unit.prepare_cached(
                    "UPDATE memory_record SET accesses = min(accesses + ?2, ?4), last_access = max(coalesce(last_access, 0), ?3)
                     WHERE key = ?1",
                )?;
                for (key, recalls) in &chunk {
                    statement.execute(params![
                        key,
                        store::signed(recalls.count),
                        recalls.last.millis(),
                        i64::from(MAX_ACCESSES)
                    ])?;
                }
                Ok(())
            };
            self.ledger.write(write).await?;
        }
        Ok(())
    }
}
