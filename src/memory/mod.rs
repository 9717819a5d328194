//! Memory: five layers of records, kept in the ledger, found through a search index.
//!
//! Promises: what was answered as stored is in the ledger; what was forgotten is in neither ledger nor answers; the index
//! may be lost at any time and queries go on. Must not: know topics or MQTT, or put a record's content into a log or error.

mod access;
mod cursor;
mod erase;
mod expression;
pub mod index;
pub mod model;
pub mod news;
mod promote;
mod prune;
pub mod query;
mod ranking;
mod recall;
pub mod requests;
pub mod retention;
mod seal;
pub mod semantic;
mod shards;
mod snippet;
mod source;
mod store;
#[cfg(test)]
mod tests;
pub mod transfer;
mod upkeep;
mod usage;
mod verbs;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};

use crate::engine::command::{Answer, Call, Entry};
use crate::engine::jobs::Progress;
use crate::ledger::{Ledger, Unit};
use crate::storage::Remote;
use crate::wire::{Code, Fault};
use access::Accesses;
use index::Projection;
use model::{EmbeddingStats, Layer, LayerStats, Rebuild, Rebuilt, Stats, StatsReport};
use news::News;
use query::Query;
use requests::{ConfirmPrune, Forget, Get, Got, Pin, Promote, Prune, StoreRequest, Update};
use retention::Retention;
use semantic::Semantic;
use transfer::requests::{Archive, Export, Import};

pub use ranking::{Ranking, Rankings};
pub use seal::Seal;
pub(crate) use store::page as sealed_page;
pub use usage::{Limits, Share};

/// The folder of the search index, inside the ledger's generation.
pub const INDEX_FOLDER: &str = "index";

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
    /// How long memories are kept, and how many.
    pub retention: Retention,
    /// How much namespaces and users may hold.
    pub limits: Limits,
    /// Where files are exported to and imported from; nowhere, when it is not set.
    pub transfer_dir: Option<PathBuf>,
    /// Where archives go instead.
    pub archive: Option<Remote>,
    /// What makes vectors of records and queries, so that they are found by their meaning, too.
    pub embeddings: Option<semantic::Options>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_content_chars: 10_000,
            rankings: Rankings::default(),
            index: index::Options::default(),
            latest_limit: Duration::from_secs(5),
            searches: 4,
            retention: Retention::default(),
            limits: Limits::default(),
            transfer_dir: None,
            archive: None,
            embeddings: None,
        }
    }
}

/// The running service.
pub struct Memory {
    ledger: Ledger,
    seal: Seal,
    config: Config,
    projection: Projection,
    searches: Arc<Semaphore>,
    accesses: Accesses,
    news: News,
    semantic: Option<Semantic>,
    /// Answers that left out a record with a broken seal.
    broken: AtomicU64,
    /// The ledger's log may still hold what was purged.
    log_holds_purged: AtomicBool,
    /// Held by what removes or moves many records: one at a time.
    maintenance: Mutex<()>,
}

/// Every command of memory.
#[must_use]
pub fn commands() -> Vec<Entry<Memory>> {
    let mut entries = single_record();
    entries.extend(many_records());
    entries
}

const SERVICE: &str = "memory";

fn single_record() -> Vec<Entry<Memory>> {
    vec![
        Entry::write(
            SERVICE,
            "store",
            "Remembers something, or up to 100 things at once",
            |memory: &Arc<Memory>, call: &Call, mut request: StoreRequest| {
                request.validate(memory.config.max_content_chars, &call.principal)?;
                let memory = memory.clone();
                Ok(move |unit: &mut Unit<'_>| memory.store_all(unit, &request))
            },
        ),
        Entry::read(
            SERVICE,
            "get",
            "Fetches one record, with its history where that is asked for",
            |memory: Arc<Memory>, _, request: Get| async move { memory.get(request).await.map(Got::answer) },
        ),
        Entry::read(SERVICE, "query", "Searches", |memory: Arc<Memory>, _, request: Query| async move {
            memory.query(request).await
        }),
        Entry::write(
            SERVICE,
            "update",
            "Gives a record a new version; the old one is kept for some time",
            |memory: &Arc<Memory>, call: &Call, request: Update| {
                request.validate(memory.config.max_content_chars)?;
                let (memory, asker) = (memory.clone(), call.principal.clone());
                Ok(move |unit: &mut Unit<'_>| memory.update(unit, &request, &asker))
            },
        ),
        Entry::write(
            SERVICE,
            "forget",
            "Forgets one record, so that it is purged later; or purges it at once",
            |memory: &Arc<Memory>, _, request: Forget| {
                request.validate()?;
                let memory = memory.clone();
                Ok(move |unit: &mut Unit<'_>| memory.forget(unit, &request))
            },
        )
        .when_full(),
        Entry::write(
            SERVICE,
            "pin",
            "Has pruning spare a record, or no longer",
            |memory: &Arc<Memory>, _, request: Pin| {
                let memory = memory.clone();
                Ok(move |unit: &mut Unit<'_>| memory.pin(unit, &request))
            },
        ),
        Entry::read(
            SERVICE,
            "stats",
            "Says how much is remembered",
            |memory: Arc<Memory>, _, _: Stats| async move { memory.stats().await.map(Answer::from) },
        ),
    ]
}

fn many_records() -> Vec<Entry<Memory>> {
    vec![
        Entry::job(
            SERVICE,
            "prune",
            "Removes what its layer no longer keeps, and gives the disk back",
            true,
            |memory: Arc<Memory>, _, request: Prune, progress| async move {
                memory.prune(&request, None, &progress).await.map(Answer::from)
            },
        )
        .when_full(),
        Entry::job(
            SERVICE,
            "prune/confirm",
            "Prunes although that removes more than the configured share",
            true,
            |memory: Arc<Memory>, _, request: ConfirmPrune, progress| async move {
                let ConfirmPrune { word, layers } = request;
                let request = Prune { dry_run: false, layers };
                memory.prune(&request, Some(&word), &progress).await.map(Answer::from)
            },
        )
        .sensitive()
        .when_full(),
        Entry::job(
            SERVICE,
            "promote",
            "Moves what matters from short_term to long_term before it expires",
            true,
            |memory: Arc<Memory>, _, request: Promote, progress| async move {
                memory.promote(&request, &progress).await.map(Answer::from)
            },
        ),
        Entry::job(
            SERVICE,
            "export",
            "Writes records to a file of JSON Lines in the node's transfer folder",
            true,
            |memory: Arc<Memory>, _, request: Export, progress| async move {
                memory.export(&request, &progress).await.map(Answer::from)
            },
        ),
        Entry::job(
            SERVICE,
            "import",
            "Brings records in from a file of JSON Lines in the node's transfer folder, or from an archive",
            true,
            |memory: Arc<Memory>, _, request: Import, progress| async move {
                memory.import(&request, &progress).await.map(Answer::from)
            },
        ),
        Entry::job(
            SERVICE,
            "archive",
            "Moves old months into compressed files in the node's transfer folder, or in object storage",
            true,
            |memory: Arc<Memory>, _, request: Archive, progress| async move {
                memory.archive(&request, &progress).await.map(Answer::from)
            },
        ),
        Entry::job(
            SERVICE,
            "rebuild",
            "Builds the search index anew from the ledger",
            true,
            |memory: Arc<Memory>, _, request: Rebuild, progress| async move {
                memory.rebuild(&request, &progress).await.map(Answer::from)
            },
        ),
    ]
}

impl Memory {
    /// Starts memory over `ledger`, whose records are sealed with `seal`. Reads no record. Must be called within the
    /// runtime that serves it; blocks shortly where embeddings are on.
    ///
    /// # Errors
    /// When the projector's thread cannot be started, or embeddings are on and the authorities cannot be read.
    pub fn open(ledger: Ledger, seal: Seal, config: Config) -> std::io::Result<Arc<Self>> {
        let semantic = config.embeddings.clone().map(Semantic::open).transpose();
        let semantic = semantic.map_err(std::io::Error::other)?;
        let source = source::LedgerSource::new(ledger.clone(), tokio::runtime::Handle::current());
        let folder = ledger.folder().join(INDEX_FOLDER);
        let projection = Projection::start(&folder, Arc::new(source), config.index)?;
        let searches = Arc::new(Semaphore::new(config.searches));
        Ok(Arc::new(Self {
            ledger,
            seal,
            config,
            projection,
            searches,
            accesses: Accesses::default(),
            news: News::default(),
            semantic,
            broken: AtomicU64::new(0),
            // A run that was cut off may have left something.
            log_holds_purged: AtomicBool::new(true),
            maintenance: Mutex::new(()),
        }))
    }

    /// Ends the projector after the commit it is in; what is not in the index yet is replayed at the next start. Blocks.
    pub fn close(&self) {
        self.projection.stop();
    }

    const fn projection(&self) -> &Projection {
        &self.projection
    }

    const fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Answers since the start that left out a record because its seal is broken.
    #[must_use]
    pub fn broken_seals(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Memory in numbers.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn stats(self: &Arc<Self>) -> Result<StatsReport, Fault> {
        let read = |connection: &rusqlite::Connection| {
            let last = |job| upkeep::last_run(connection, job);
            let sequence = store::last_sequence(connection)?;
            Ok((store::shards(connection)?, sequence, last(upkeep::PRUNE)?, last(upkeep::PROMOTE)?))
        };
        let (shards, sequence, last_prune, last_promotion) = self.ledger.read(read).await?;
        let memory = self.clone();
        let embeddings = self.embeddings().await?;
        // Walks folders.
        let report = move || {
            let control = memory.projection.control();
            let layers = Layer::ALL.map(|layer| {
                let mut stats = LayerStats {
                    layer,
                    records: 0,
                    forgotten: 0,
                    pinned: 0,
                    content_bytes: 0,
                    index_bytes: 0,
                    shards: 0,
                };
                for state in shards.iter().filter(|state| state.shard.layer == layer) {
                    stats.records += state.records;
                    stats.forgotten += state.forgotten;
                    stats.pinned += state.pinned;
                    stats.content_bytes += state.content_bytes;
                    stats.index_bytes += memory.projection.bytes(state.shard);
                    stats.shards += u64::from(state.records > 0);
                }
                stats
            });
            let behind = shards.iter().filter(|state| control.committed(state) < state.changed);
            let indexed = behind.map(|state| control.committed(state)).min().unwrap_or(sequence);
            let lag = sequence - indexed;
            let log = memory.log_holds_purged.load(Ordering::Acquire);
            let purging = shards.iter().filter(|state| state.purged > state.compacted).count() as u64;
            StatsReport {
                layers: layers.into(),
                sequence,
                indexed,
                lag,
                damaged: control.damaged(),
                purging: purging + u64::from(log),
                broken: memory.broken_seals(),
                ledger_bytes: memory.ledger.disk_bytes(),
                last_prune,
                last_promotion,
                embeddings,
            }
        };
        tokio::task::spawn_blocking(report).await.map_err(|_| Fault::internal())
    }

    /// Finding by meaning in numbers, where it is on.
    async fn embeddings(self: &Arc<Self>) -> Result<Option<EmbeddingStats>, Fault> {
        if self.semantic.is_none() {
            return Ok(None);
        }
        let memory = self.clone();
        let read = move |connection: &rusqlite::Connection| {
            memory.semantic.as_ref().map(|semantic| semantic.stats(connection)).transpose()
        };
        self.ledger.read(read).await
    }

    /// Whether queries should be answered by meaning, too, and the endpoint is left alone.
    #[must_use]
    pub fn is_without_embeddings(&self) -> bool {
        self.semantic.as_ref().is_some_and(Semantic::is_away)
    }

    /// Builds every shard anew, while the old ones go on answering. Safe to repeat.
    ///
    /// # Errors
    /// `interrupted` when it was cancelled or memory ended, and when the ledger cannot be read.
    pub async fn rebuild(&self, request: &Rebuild, progress: &Progress) -> Result<Rebuilt, Fault> {
        if let Some(semantic) = self.semantic.as_ref().filter(|_| request.embeddings) {
            semantic.reset(&self.ledger).await?;
        }
        let mut shards = self.ledger.read(store::shards).await?;
        shards.retain(|state| state.records > 0);
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
