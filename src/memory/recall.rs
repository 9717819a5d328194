//! How a query is answered: which shards it needs, the search, and the records from the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cursor::Cursor;
use super::expression::Expression;
use super::index::{Candidate, Place, Request, Searched, ShardState, Words};
use super::model::Record;
use super::query::{COUNTED, Consistency, Filter, Found, Hit, Query};
use super::snippet::Marker;
use super::{Memory, store};
use crate::clock::Timestamp;
use crate::engine::command::Answer;
use crate::wire::{Code, Fault};

/// Longest wait for other searches to end.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);
/// Candidates beyond the hits that are wanted: some may be gone from the ledger, and not yet from the index.
const SPARE: usize = 8;

/// A query, taken apart.
struct Asked {
    filter: Filter,
    words: Words,
    limit: usize,
    count: u64,
    /// The moment that recency counts from.
    now: Timestamp,
}

/// What one search and the ledger gave together.
struct Page {
    hits: Vec<(Candidate, Record)>,
    /// Where the search stopped, if it found as many as it was asked for.
    last: Option<Place>,
    searched: Searched,
}

impl Memory {
    /// Answers `query`.
    ///
    /// # Errors
    /// `invalid` when a field is out of range, `busy` when too many searches wait, and what the ledger says.
    pub async fn query(self: &Arc<Self>, query: Query) -> Result<Answer<Found>, Fault> {
        let started = Instant::now();
        query.validate()?;
        let cursor = Cursor::read(&query)?;
        let expression = Expression::parse(query.text.as_deref().unwrap_or_default());
        let asked = Arc::new(Asked {
            filter: query.filter(&expression),
            words: Words::of(&expression, self.projection().layout()),
            limit: query.limit as usize,
            count: if query.explain { u64::MAX } else { COUNTED },
            now: cursor.map_or_else(|| self.ledger.clock().now(), |cursor| cursor.now),
        });
        let shards = self.shards_for(&asked.filter).await?;
        let control = self.projection().control();
        let up_to_date = query.consistency == Consistency::Fast
            || control.wait_latest(&shards, self.config.latest_limit).await;
        let (mut hits, searched) = self.pages(shards, &asked, cursor.map(|cursor| cursor.after)).await?;
        // One hit more than were asked for says that there is a next page.
        let more = hits.len() > asked.limit;
        hits.truncate(asked.limit);
        let cursor =
            hits.last().filter(|_| more).map(|(last, _)| Cursor { now: asked.now, after: last.place });
        let partial = !up_to_date || searched.incomplete;
        let found = Found {
            cursor: cursor.map(|cursor| cursor.write(&query)),
            hits: self.shown(hits, &asked, &query).await?,
            total: searched.total,
            total_capped: !query.explain && searched.total >= COUNTED,
            plain_words: expression.plain,
            partial,
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let degraded = if partial { vec!["index".to_owned()] } else { Vec::new() };
        Ok(Answer { body: found, degraded })
    }

    /// The shards that may hold a hit, as the ledger has them at admission.
    async fn shards_for(&self, filter: &Filter) -> Result<Vec<ShardState>, Fault> {
        let mut shards = self.ledger.read(store::shards).await?;
        shards.retain(|state| {
            state.records > 0
                && filter.wants(state.shard.layer)
                && state.shard.overlaps(filter.from, filter.to)
        });
        Ok(shards)
    }

    /// The hits that are wanted and one more, where there are as many. One search does, unless more of what it found is
    /// gone from the ledger than was to spare.
    async fn pages(
        self: &Arc<Self>,
        shards: Vec<ShardState>,
        asked: &Arc<Asked>,
        mut after: Option<Place>,
    ) -> Result<(Vec<(Candidate, Record)>, Searched), Fault> {
        let shards = Arc::new(shards);
        let mut first: Option<(Vec<(Candidate, Record)>, Searched)> = None;
        loop {
            let count = if first.is_none() { asked.count } else { 0 };
            let page = self.page(shards.clone(), asked.clone(), after, count).await?;
            let (hits, searched) = match &mut first {
                None => first.insert((page.hits, page.searched)),
                Some(so_far) => {
                    so_far.0.extend(page.hits);
                    so_far.1.incomplete |= page.searched.incomplete;
                    so_far
                }
            };
            after = page.last;
            if after.is_none() || hits.len() > asked.limit {
                return Ok((std::mem::take(hits), std::mem::take(searched)));
            }
        }
    }

    async fn page(
        self: &Arc<Self>,
        shards: Arc<Vec<ShardState>>,
        asked: Arc<Asked>,
        after: Option<Place>,
        count: u64,
    ) -> Result<Page, Fault> {
        let permit = tokio::time::timeout(QUEUE_LIMIT, self.searches.clone().acquire_owned())
            .await
            .map_err(|_| Fault::new(Code::Busy, "too many searches wait").retry_after(1_000))?
            .map_err(|_| Fault::internal())?;
        let (memory, question) = (self.clone(), asked.clone());
        let limit = asked.limit + 1 + SPARE;
        let search = move || {
            let _permit = permit;
            let Asked { words, filter, now, .. } = question.as_ref();
            let rankings = &memory.config.rankings;
            let request = Request { words, filter, rankings, now: *now, limit, after, count };
            memory.projection().search(&shards, &request)
        };
        let searched = tokio::task::spawn_blocking(search).await.map_err(|_| Fault::internal())?;
        let candidates = searched.candidates.clone();
        let last = candidates.last().filter(|_| candidates.len() == limit).map(|last| last.place);
        // What is gone from the ledger, or no longer passes the filters, is no hit.
        let read = move |connection: &rusqlite::Connection| {
            let mut hits = Vec::with_capacity(asked.limit + 1);
            for candidate in candidates {
                let record = store::get_by_key(connection, candidate.place.key)?;
                hits.extend(
                    record.filter(|record| asked.filter.admits(record)).map(|record| (candidate, record)),
                );
                if hits.len() > asked.limit {
                    break;
                }
            }
            Ok(hits)
        };
        Ok(Page { hits: self.ledger.read(read).await?, last, searched })
    }

    /// The hits as they are answered.
    async fn shown(
        self: &Arc<Self>,
        hits: Vec<(Candidate, Record)>,
        asked: &Arc<Asked>,
        query: &Query,
    ) -> Result<Vec<Hit>, Fault> {
        let by_text = asked.words.rank();
        let (explain, snippet) = (query.explain, query.snippet && by_text);
        let hits: Vec<_> = hits
            .into_iter()
            .map(|(Candidate { place, parts }, record)| Hit {
                record,
                // Without words the order is by time, so the score is too.
                score: if by_text { place.score } else { parts.recency },
                snippet: None,
                parts: explain.then_some(parts),
            })
            .collect();
        if !snippet || hits.is_empty() {
            return Ok(hits);
        }
        let (memory, asked) = (self.clone(), asked.clone());
        // A long content takes more than a moment to analyse.
        let mark = move || {
            let layout = memory.projection().layout();
            let mut marker = Marker::new(asked.words.wanted(), [layout.words(), layout.names()]);
            let marked =
                hits.into_iter().map(|hit| Hit { snippet: marker.snippet(&hit.record.content), ..hit });
            marked.collect()
        };
        tokio::task::spawn_blocking(mark).await.map_err(|_| Fault::internal())
    }
}
