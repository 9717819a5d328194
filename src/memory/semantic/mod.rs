//! Finding by meaning: a model behind an endpoint like Ollama's makes vectors of records and of queries, and what is near
//! is ranked together with what the words find. Off unless it is configured.
//!
//! Promises: a record without a vector is found by its words; when the endpoint is away queries are answered by text alone,
//! and say so; a vector is in the ledger beside its record and goes with it; memory is bounded; all vectors are of one
//! model. Must not: hold up a store, or put a content or a query into a log.

mod fill;
pub mod fusion;
mod kept;
mod ollama;
mod resident;
mod vector;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::expression::{Expression, Occurs};
use super::index::{Shard, ShardState};
use super::model::EmbeddingStats;
use crate::cache::Cache;
use crate::ledger::Ledger;
use crate::outbound::Http;
use crate::wire::Fault;
use fusion::Near;
use ollama::{Endpoint, Failure};
use resident::Resident;

pub use vector::Vector;

/// How many of each ranking are fused.
pub const WINDOW: usize = 200;
/// What `degraded` says when the endpoint should have answered, and did not.
pub const DEGRADED: &str = "embeddings";
/// Queries whose vectors are remembered, so that the pages of one ask once.
const QUERIES: usize = 1_000;

/// Which model makes vectors, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Base address, such as `http://127.0.0.1:11434`.
    pub url: String,
    /// The model.
    pub model: String,
    /// What stands before the text of a query, and of a record, for models that want it.
    pub prefixes: (String, String),
    /// Authorities that its certificate may come from (PEM).
    pub ca_file: PathBuf,
    /// Longest time of a query's vector.
    pub limit: Duration,
    /// Records that get their vectors in one request.
    pub batch: u32,
    /// The least similarity that makes a hit.
    pub min_similarity: f64,
    /// Bytes of vectors in memory.
    pub memory_bytes: usize,
    /// Failures in a row that open the breaker.
    pub breaker_failures: u32,
    /// How long an open breaker leaves the endpoint alone.
    pub breaker_pause: Duration,
}

/// Why there can be no vectors at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The authorities.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The configuration has checked it before.
    #[error("the address of the embeddings is not a URL")]
    Address,
}

/// Vectors of records and queries.
pub struct Semantic {
    options: Options,
    endpoint: Endpoint,
    queries: Cache<String, Vector>,
    resident: Resident,
    /// There may be records without a vector.
    wake: Notify,
    given: AtomicU64,
    refused: AtomicU64,
}

impl Semantic {
    /// Asks nothing yet. Blocks shortly, to read the authorities.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let endpoint = Endpoint::new(Http::new(&options.ca_file)?, &options).ok_or(OpenError::Address)?;
        let resident = Resident::new(options.memory_bytes);
        Ok(Self {
            endpoint,
            queries: Cache::new(QUERIES),
            resident,
            wake: Notify::new(),
            given: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            options,
        })
    }

    /// What the vectors are called by: with another model or prefix they are others.
    fn name(&self) -> String {
        format!("{} {:?}", self.options.model, self.options.prefixes.1)
    }

    /// The text of which a vector says what a query means; [`None`] for one that says exactly which words it wants, or none.
    #[must_use]
    pub fn meant(expression: &Expression) -> Option<String> {
        let free = |piece: &super::expression::Piece| piece.occurs == Occurs::May && !piece.phrase;
        let texts: Vec<_> = expression.pieces.iter().map(|piece| piece.text.as_str()).collect();
        (!texts.is_empty() && expression.pieces.iter().all(free)).then(|| texts.join(" "))
    }

    /// The vector of a query; [`None`] when the endpoint is away.
    pub async fn of_query(&self, text: &str) -> Option<Vector> {
        if let Some(vector) = self.queries.get(text) {
            return Some(vector);
        }
        let vector = self.endpoint.embed(&[format!("{}{text}", self.options.prefixes.0)], 1).await;
        match vector {
            Ok(vectors) => {
                let vector = vectors.into_iter().next()?;
                self.queries.insert(text.to_owned(), vector.clone());
                Some(vector)
            }
            Err(failure) => {
                tracing::debug!(%failure, "a query has no vector");
                None
            }
        }
    }

    /// The records of `shards` that are nearest to `wanted`; of a shard that is in `admitted`, those that it names. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn nearest(
        &self,
        ledger: &Ledger,
        shards: &[ShardState],
        wanted: &Vector,
        admitted: &HashMap<Shard, HashSet<u64>>,
    ) -> Result<Vec<Near>, Fault> {
        let state = ledger.read_blocking(kept::state)?;
        if state.is_none_or(|state| state.model != self.name()) {
            // Of another model, and about to be removed.
            return Ok(Vec::new());
        }
        let rows: HashMap<Shard, i64> = shards.iter().map(|state| (state.shard, state.row)).collect();
        let read = |shard, after, limit| {
            let row = rows.get(&shard).copied().unwrap_or_default();
            ledger.read_blocking(|connection| kept::page(connection, row, after, limit))
        };
        let within = shards.iter().map(|state| (state.shard, admitted.get(&state.shard)));
        self.resident.nearest(within, wanted, (WINDOW, self.options.min_similarity), &read)
    }

    /// A record of `shard` was changed, moved, or is gone.
    pub fn changed(&self, shard: Shard) {
        self.resident.drop_month(shard);
        self.wake.notify_one();
    }

    /// There is a new record.
    pub fn stored(&self) {
        self.wake.notify_one();
    }

    /// Records of any month are gone.
    pub fn purged(&self) {
        self.resident.clear();
    }

    /// Whether the endpoint is left alone.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.endpoint.breaker() != "closed"
    }

    /// In numbers.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn stats(&self, connection: &rusqlite::Connection) -> Result<EmbeddingStats, Fault> {
        let state = kept::state(connection)?.filter(|state| state.model == self.name());
        Ok(EmbeddingStats {
            model: self.options.model.clone(),
            dimensions: state.as_ref().map_or(0, |state| state.dimensions as u64),
            breaker: self.endpoint.breaker().to_owned(),
            trips: self.endpoint.trips(),
            given: self.given.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            waiting: kept::waiting(connection, state.map_or(0, |state| state.scanned))?,
            resident_bytes: self.resident.bytes() as u64,
        })
    }
}
