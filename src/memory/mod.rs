//! Memory: five layers of records, kept in the ledger, found through a search index.
//!
//! Promises: what was answered as stored is in the ledger; what was forgotten is in neither ledger nor answers; the index
//! may be lost at any time and queries go on. Must not: know topics or MQTT, or put a record's content into a log or error.

mod cursor;
mod expression;
pub mod index;
pub mod model;
pub mod query;
mod ranking;
mod recall;
mod snippet;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::engine::command::{Answer, Entry};
use crate::engine::jobs::Progress;
use crate::ledger::{Ledger, Unit};
use crate::wire::{Code, Fault};
use index::Projection;
use model::{
    Forget, Forgotten, Get, Layer, LayerStats, Rebuild, Rebuilt, Record, Stats, StatsReport, Store, Stored,
};
use query::Query;

pub use ranking::{Ranking, Rankings};

/// The folder of the search index, inside the ledger's generation.
const INDEX_FOLDER: &str = "index";

/// How memory is kept and searched.
#[derive(Clone, Debug)]
pub struct Config {
    /// Longest content, in characters.
    pub max_content_chars: usize,
    /// Weights of a score, for each layer.
    pub rankings: Rankings,
    /// How the search index is kept.
    pub index: index::Options,
    /// How long a query of consistency `latest` waits before it answers `partial`.
    pub latest_limit: Duration,
    /// Searches that run at the same time; others wait.
    pub searches: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_content_chars: 10_000,
            rankings: Rankings::default(),
            index: index::Options::default(),
            latest_limit: Duration::from_secs(5),
            searches: 4,
        }
    }
}

/// The running service.
pub struct Memory {
    ledger: Ledger,
    config: Config,
    projection: Projection,
    searches: Arc<Semaphore>,
}

/// Every command of memory.
#[must_use]
pub fn commands() -> Vec<Entry<Memory>> {
    const SERVICE: &str = "memory";
    vec![
        Entry::write(
            SERVICE,
            "store",
            "Remembers something",
            |memory: &Arc<Memory>, _, mut request: Store| {
                request.validate(memory.config.max_content_chars)?;
                let memory = memory.clone();
                Ok(move |unit: &mut Unit<'_>| memory.store(unit, &request))
            },
        ),
        Entry::read(
            SERVICE,
            "get",
            "Fetches one record",
            |memory: Arc<Memory>, _, request: Get| async move { memory.get(request).await.map(Answer::from) },
        ),
        Entry::read(SERVICE, "query", "Searches", |memory: Arc<Memory>, _, request: Query| async move {
            memory.query(request).await
        }),
        Entry::write(
            SERVICE,
            "forget",
            "Removes one record for good",
            |memory: &Arc<Memory>, _, request: Forget| {
                let memory = memory.clone();
                Ok(move |unit: &mut Unit<'_>| memory.forget(unit, &request))
            },
        )
        .when_full(),
        Entry::read(
            SERVICE,
            "stats",
            "Says how much is remembered",
            |memory: Arc<Memory>, _, _: Stats| async move { memory.stats().await.map(Answer::from) },
        ),
        Entry::job(
            SERVICE,
            "rebuild",
            "Builds the search index anew from the ledger",
            true,
            |memory: Arc<Memory>, _, _: Rebuild, progress| async move {
                memory.rebuild(&progress).await.map(Answer::from)
            },
        ),
    ]
}

impl Memory {
    /// Starts memory over `ledger`. Reads no record. Must be called within the runtime that serves it.
    ///
    /// # Errors
    /// When the projector's thread cannot be started.
    pub fn open(ledger: Ledger, config: Config) -> std::io::Result<Arc<Self>> {
        let source = store::LedgerSource::new(ledger.clone(), tokio::runtime::Handle::current());
        let folder = ledger.folder().join(INDEX_FOLDER);
        let projection = Projection::start(&folder, Arc::new(source), config.index)?;
        let searches = Arc::new(Semaphore::new(config.searches));
        Ok(Arc::new(Self { ledger, config, projection, searches }))
    }

    /// Ends the projector after the commit it is in; what is not in the index yet is replayed at the next start. Blocks.
    pub fn close(&self) {
        self.projection.stop();
    }

    const fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Keeps a record that was validated.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn store(&self, unit: &mut Unit<'_>, request: &Store) -> Result<Stored, Fault> {
        let record = Record {
            id: new_id(unit.now()),
            layer: request.layer,
            content: request.content.clone(),
            tags: request.tags.clone(),
            entity: request.entity.clone(),
            importance: request.importance,
            created: unit.now(),
            checksum: model::checksum(&request.content),
        };
        let sequence = store::insert(unit, &record)?;
        self.wake_projection(unit);
        Ok(Stored { id: record.id, layer: record.layer, sequence, checksum: record.checksum })
    }

    /// Removes a record and its content.
    ///
    /// # Errors
    /// `not_found`, and when the ledger cannot be written.
    pub fn forget(&self, unit: &mut Unit<'_>, request: &Forget) -> Result<Forgotten, Fault> {
        store::remove(unit, &request.id)?.ok_or_else(no_such_record)?;
        self.wake_projection(unit);
        Ok(Forgotten { forgotten: true })
    }

    fn wake_projection(&self, unit: &mut Unit<'_>) {
        let control = self.projection.control().clone();
        unit.after_commit(move || control.notify());
    }

    /// One record.
    ///
    /// # Errors
    /// `not_found`, and when the ledger cannot be read.
    pub async fn get(&self, request: Get) -> Result<Record, Fault> {
        let found = self.ledger.read(move |connection| store::get(connection, &request.id)).await?;
        found.ok_or_else(no_such_record)
    }

    /// Memory in numbers.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn stats(self: &Arc<Self>) -> Result<StatsReport, Fault> {
        let shards = self.ledger.read(store::shards).await?;
        let memory = self.clone();
        // Walks folders.
        let report = move || {
            let control = memory.projection.control();
            let layers = Layer::ALL.map(|layer| {
                let mut stats = LayerStats { layer, records: 0, content_bytes: 0, index_bytes: 0, shards: 0 };
                for state in shards.iter().filter(|state| state.shard.layer == layer) {
                    stats.records += state.records;
                    stats.content_bytes += state.content_bytes;
                    stats.index_bytes += memory.projection.bytes(state.shard);
                    stats.shards += 1;
                }
                stats
            });
            let sequence = shards.iter().map(|state| state.changed).max().unwrap_or(0);
            let behind = shards.iter().filter(|state| control.committed(state) < state.changed);
            let indexed = behind.map(|state| control.committed(state)).min().unwrap_or(sequence);
            let lag = sequence - indexed;
            StatsReport { layers: layers.into(), sequence, indexed, lag, damaged: control.damaged() }
        };
        tokio::task::spawn_blocking(report).await.map_err(|_| Fault::internal())
    }

    /// Builds every shard anew, while the old ones go on answering. Safe to repeat.
    ///
    /// # Errors
    /// `interrupted` when it was cancelled or memory ended, and when the ledger cannot be read.
    pub async fn rebuild(&self, progress: &Progress) -> Result<Rebuilt, Fault> {
        let shards = self.ledger.read(store::shards).await?;
        let total = shards.len() as u64;
        let control = self.projection.control();
        let mut ticks = control.ticks();
        let names: Vec<_> = shards.iter().map(|state| state.shard).collect();
        let before = control.request_rebuild(&names);
        let interrupted =
            || Fault::new(Code::Interrupted, "the rebuild was cancelled; what is left goes on by itself");
        loop {
            let done = control.rebuilt_since(&before) as u64;
            progress.report(done, total);
            if done >= total {
                return Ok(Rebuilt {
                    shards: total,
                    records: shards.iter().map(|state| state.records).sum(),
                });
            }
            tokio::select! {
                changed = ticks.changed() => changed.map_err(|_| interrupted())?,
                () = progress.cancelled() => return Err(interrupted()),
            }
        }
    }
}

/// A UUID version 7 of `now`, so that ids sort by time also where the clock is not the machine's.
fn new_id(now: Timestamp) -> String {
    let millis = now.millis().max(0).unsigned_abs();
    // The remainder is below 1,000.
    let nanos = (millis % 1_000) as u32 * 1_000_000;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1_000, nanos)).to_string()
}

fn no_such_record() -> Fault {
    Fault::not_found("no record has this id")
}
