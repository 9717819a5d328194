//! How a query is answered: which shards it needs, the search, the ranking, and the records from the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::index::{Candidate, Request, Searched, ShardState};
use super::model::{Consistency, Found, Hit, Parts, Query};
use super::{Memory, store};
use crate::clock::Timestamp;
use crate::engine::command::Answer;
use crate::wire::{Code, Fault};

/// Longest wait for other searches to end.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);

impl Memory {
    /// Answers `query`.
    ///
    /// # Errors
    /// `invalid` when a field is out of range, `busy` when too many searches wait, and what the ledger says.
    pub async fn query(self: &Arc<Self>, query: Query) -> Result<Answer<Found>, Fault> {
        let started = Instant::now();
        query.validate()?;
        let query = Arc::new(query);
        let shards = self.shards_for(query.clone()).await?;
        let control = self.projection().control();
        let up_to_date = query.consistency == Consistency::Fast
            || control.wait_latest(&shards, self.config.latest_limit).await;
        let searched = self.search(shards, query.clone()).await?;
        let partial = !up_to_date || searched.incomplete;
        let total = searched.total;
        let hits = self.hits(query, searched).await?;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let degraded = if partial { vec!["index".to_owned()] } else { Vec::new() };
        Ok(Answer { body: Found { hits, total, partial, took_ms }, degraded })
    }

    /// The shards that may hold a hit, as the ledger has them at admission.
    async fn shards_for(&self, query: Arc<Query>) -> Result<Vec<ShardState>, Fault> {
        let mut shards = self.ledger.read(store::shards).await?;
        shards.retain(|state| {
            state.records > 0 && query.wants(state.shard.layer) && state.shard.overlaps(query.from, query.to)
        });
        Ok(shards)
    }

    async fn search(self: &Arc<Self>, shards: Vec<ShardState>, query: Arc<Query>) -> Result<Searched, Fault> {
        let permit = tokio::time::timeout(QUEUE_LIMIT, self.searches.clone().acquire_owned())
            .await
            .map_err(|_| Fault::new(Code::Busy, "too many searches wait").retry_after(1_000))?
            .map_err(|_| Fault::internal())?;
        let memory = self.clone();
        let search = move || {
            let _permit = permit;
            let request = Request {
                text: query.text.as_deref(),
                tags: &query.tags,
                entity: query.entity.as_deref(),
                from: query.from,
                to: query.to,
                limit: query.limit as usize,
                count: query.explain,
            };
            memory.projection().search(&shards, &request)
        };
        tokio::task::spawn_blocking(search).await.map_err(|_| Fault::internal())
    }

    /// Ranks the candidates and reads the best from the ledger. What is gone there, or no longer passes the filters, is
    /// no hit.
    async fn hits(&self, query: Arc<Query>, searched: Searched) -> Result<Vec<Hit>, Fault> {
        let ranked = self.rank(&searched, self.ledger.clock().now());
        let read = move |connection: &rusqlite::Connection| {
            let mut hits = Vec::new();
            for (key, score, parts) in ranked {
                if hits.len() >= query.limit as usize {
                    break;
                }
                if let Some(record) =
                    store::get_by_key(connection, key)?.filter(|record| query.admits(record))
                {
                    hits.push(Hit { record, score, parts: query.explain.then_some(parts) });
                }
            }
            Ok(hits)
        };
        self.ledger.read(read).await
    }

    fn rank(&self, searched: &Searched, now: Timestamp) -> Vec<(u64, f64, Parts)> {
        let ranking = &self.config.ranking;
        let best = searched.candidates.iter().map(|candidate| candidate.text).fold(0.0, f64::max);
        let score = |candidate: &Candidate| {
            let parts = Parts {
                text: if best > 0.0 { candidate.text / best } else { 0.0 },
                recency: ranking.recency(candidate.created, now),
                importance: candidate.importance,
            };
            // Without words the order is by time, so the score is too.
            let score = if searched.by_text { ranking.score(&parts) } else { parts.recency };
            (candidate.key, score, parts)
        };
        let mut ranked: Vec<_> = searched.candidates.iter().map(score).collect();
        if searched.by_text {
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        }
        ranked
    }
}
