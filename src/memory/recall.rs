//! How a query is answered: which shards it needs, the search, and the records from the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::cursor::Cursor;
use super::expression::Expression;
use super::index::{Candidate, Place, Request, Searched, ShardState, Words};
use super::model::Record;
use super::query::{COUNTED, Consistency, Filter, Found, Hit, Linked, Query};
use super::requests::MAX_IDS;
use super::semantic::{self, Semantic, Vector, fusion};
use super::snippet::{Marker, Terms};
use super::store::Kept;
use super::{Memory, Ranking, store};
use crate::clock::Timestamp;
use crate::engine::command::Answer;
use crate::soul;
use crate::wire::{Code, Fault};

/// Longest wait for other searches to end.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);
/// Candidates beyond the hits that are wanted: some may be gone from the ledger, and not yet from the index.
const SPARE: usize = 2;

/// A query, taken apart.
struct Asked {
    filter: Filter,
    words: Words,
    limit: usize,
    count: u64,
    /// The moment that recency counts from.
    now: Timestamp,
    /// What the text means, where that is asked and known.
    meaning: Option<Vector>,
    /// Whether what the text means should be known, and is not.
    without_meaning: bool,
}

impl Asked {
    /// Whether hits are ordered by a score, rather than by time.
    fn ranked(&self) -> bool {
        self.words.rank() || self.meaning.is_some()
    }
}

/// What a search and the ledger gave together.
struct Page {
    hits: Vec<(Candidate, Record)>,
    /// What would be hits, were their seals not broken.
    broken: Vec<Kept>,
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
        let linked = match query.about.clone() {
            None => Linked::new(),
            Some(name) => self.ledger.read(move |ledger| linked(ledger, &name)).await?,
        };
        let (meaning, without_meaning) = self.meaning(&expression).await;
        let asked = Arc::new(Asked {
            meaning,
            without_meaning,
            filter: query.filter(&expression, linked),
            words: Words::of(&expression, self.projection().layout()),
            limit: query.limit as usize,
            count: if query.explain { u64::MAX } else { COUNTED },
            now: cursor.map_or_else(|| self.ledger.clock().now(), |cursor| cursor.now),
        });
        let up_to_date = match query.consistency {
            Consistency::Fast => true,
            Consistency::Latest => {
                let filter = asked.clone();
                let shards = self.ledger.read(move |ledger| shards_for(ledger, &filter.filter)).await?;
                self.projection().control().wait_latest(&shards, self.config.latest_limit).await
            }
        };
        let permit = tokio::time::timeout(QUEUE_LIMIT, self.searches.clone().acquire_owned())
            .await
            .map_err(|_| Fault::new(Code::Busy, "too many searches wait").retry_after(1_000))?
            .map_err(|_| Fault::internal())?;
        let memory = self.clone();
        let answer = move || {
            let _permit = permit;
            memory.answer(&query, &expression, &asked, cursor, up_to_date)
        };
        in_place(answer).await?.map(|mut answer| {
            answer.body.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            answer
        })
    }

    /// The vector of what `expression` means, where embeddings are on and it leaves room for meaning; and whether it should
    /// have one, and the endpoint is away.
    async fn meaning(&self, expression: &Expression) -> (Option<Vector>, bool) {
        let Some((semantic, text)) = self.semantic.as_ref().zip(Semantic::meant(expression)) else {
            return (None, false);
        };
        let vector = semantic.of_query(&text).await;
        let without = vector.is_none();
        (vector, without)
    }

    /// Searches, reads and shows. Blocks.
    fn answer(
        &self,
        query: &Query,
        expression: &Expression,
        asked: &Asked,
        cursor: Option<Cursor>,
        up_to_date: bool,
    ) -> Result<Answer<Found>, Fault> {
        let shards = self.ledger.read_blocking(|ledger| shards_for(ledger, &asked.filter))?;
        let Page { mut hits, mut broken, searched } =
            self.pages(&shards, asked, cursor.map(|cursor| cursor.after))?;
        broken.truncate(MAX_IDS);
        // One hit more than were asked for says that there is a next page.
        let more = hits.len() > asked.limit;
        hits.truncate(asked.limit);
        // Keys are never that large.
        let keys = hits.iter().map(|(hit, _)| store::signed(hit.place.key));
        self.recalled(keys, self.ledger.clock().now());
        let cursor =
            hits.last().filter(|_| more).map(|(last, _)| Cursor { now: asked.now, after: last.place });
        let partial = !up_to_date || searched.incomplete;
        let found = Found {
            cursor: cursor.map(|cursor| cursor.write(query)),
            hits: self.shown(hits, asked, query),
            total: searched.total,
            total_capped: !query.explain && searched.total >= COUNTED,
            plain_words: expression.plain,
            partial,
            broken: self.report_broken(broken),
            took_ms: 0,
        };
        let mut degraded = if partial { vec!["index".to_owned()] } else { Vec::new() };
        if !found.broken.is_empty() {
            degraded.push("integrity".to_owned());
        }
        if asked.without_meaning {
            degraded.push(semantic::DEGRADED.to_owned());
        }
        Ok(Answer { body: found, degraded })
    }

    /// The hits that are wanted and one more, where there are as many. One search does, unless more of what it found is
    /// gone from the ledger than was to spare.
    fn pages(&self, shards: &[ShardState], asked: &Asked, after: Option<Place>) -> Result<Page, Fault> {
        let limit = asked.limit + 1 + SPARE;
        let Asked { words, filter, now, count, .. } = asked;
        if let Some((semantic, meaning)) = self.semantic.as_ref().zip(asked.meaning.as_ref()) {
            return self.fused(shards, asked, after, semantic, meaning);
        }
        let mut request = Request {
            words,
            filter,
            rankings: &self.config.rankings,
            now: *now,
            limit,
            after,
            count: *count,
        };
        let mut first: Option<Searched> = None;
        let (mut hits, mut broken) = (Vec::with_capacity(asked.limit + 1), Vec::new());
        loop {
            let searched = self.projection().search(shards, &request);
            let candidates = &searched.candidates;
            let last = candidates.last().filter(|_| candidates.len() == limit).map(|last| last.place);
            self.read(candidates, asked, &mut hits, &mut broken)?;
            let incomplete = searched.incomplete;
            let so_far = first.get_or_insert(searched);
            so_far.incomplete |= incomplete;
            if last.is_none() || hits.len() > asked.limit {
                return Ok(Page { hits, broken, searched: std::mem::take(so_far) });
            }
            (request.after, request.count) = (last, 0);
        }
    }

    /// Reads what was found until there is one hit more than wanted. What is gone from the ledger, has expired, or no longer
    /// passes the filters, is no hit; nor is what has a broken seal.
    fn read(
        &self,
        candidates: &[Candidate],
        asked: &Asked,
        hits: &mut Vec<(Candidate, Record)>,
        broken: &mut Vec<Kept>,
    ) -> Result<(), Fault> {
        self.ledger.read_blocking(|ledger| {
            let mut by_key = store::by_key(ledger, self.seal())?;
            for candidate in candidates {
                if hits.len() > asked.limit {
                    break;
                }
                let kept = by_key(store::signed(candidate.place.key))?
                    .filter(|kept| kept.forgotten.is_none() && asked.filter.admits(&kept.record));
                match kept {
                    Some(kept) if !kept.sound => broken.push(kept),
                    Some(kept) if kept.record.is_live(asked.now) => hits.push((*candidate, kept.record)),
                    _ => {}
                }
            }
            Ok(())
        })
    }

    /// As [`Memory::pages`], by text and by meaning: the best of both rankings, fused. The pages end where they do.
    fn fused(
        &self,
        shards: &[ShardState],
        asked: &Asked,
        after: Option<Place>,
        semantic: &Semantic,
        meaning: &Vector,
    ) -> Result<Page, Fault> {
        let Asked { words, filter, now, count, .. } = asked;
        let rankings = &self.config.rankings;
        let (limit, count) = (semantic::WINDOW, *count);
        let request = Request { words, filter, rankings, now: *now, limit, after: None, count };
        // Without words the newest would come first, which says nothing about the meaning.
        let mut searched =
            if words.rank() { self.projection().search(shards, &request) } else { Searched::default() };
        let admitted = self.projection().admitted(shards, filter);
        let near = semantic.nearest(&self.ledger, shards, meaning, &admitted)?;
        let mut candidates = fusion::fuse(&searched.candidates, &near);
        searched.total = searched.total.max(candidates.len() as u64);
        candidates.retain(|candidate| after.is_none_or(|after| candidate.place.comes_after(&after)));
        let (mut hits, mut broken) = (Vec::with_capacity(asked.limit + 1), Vec::new());
        self.read(&candidates, asked, &mut hits, &mut broken)?;
        for (candidate, record) in &mut hits {
            // What is only near comes without them.
            let ranking = rankings.of(record.layer);
            candidate.parts.recency = ranking.recency(record.created, *now);
            candidate.parts.importance = record.importance;
        }
        Ok(Page { hits, broken, searched })
    }

    /// The hits as they are answered.
    fn shown(&self, hits: Vec<(Candidate, Record)>, asked: &Asked, query: &Query) -> Vec<Hit> {
        let ranked = asked.ranked();
        let by_time = Ranking::default();
        let layout = self.projection().layout();
        let mut marker = (query.snippet && asked.words.rank()).then(|| {
            let words = Terms { wanted: asked.words.wanted_words().collect(), analyser: layout.words() };
            let names = Terms { wanted: asked.words.wanted_names().collect(), analyser: layout.names() };
            Marker::new([words, names])
        });
        hits.into_iter()
            .map(|(Candidate { place, parts }, record)| Hit {
                // Without words the order is by time, whatever the layer, and so is the score.
                score: if ranked { place.score } else { by_time.recency(record.created, asked.now) },
                snippet: marker.as_mut().and_then(|marker| marker.snippet(&record.content)),
                parts: query.explain.then_some(parts),
                record,
            })
            .collect()
    }
}

/// Does on this thread what blocks for about as long as it takes to wake another: the runtime's other tasks move instead, and
/// nobody waits for that. A runtime of one thread cannot do so.
async fn in_place<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => Ok(tokio::task::block_in_place(work)),
        _ => tokio::task::spawn_blocking(work).await.map_err(|_| Fault::internal()),
    }
}

/// The records that are linked to an entity in the soul.
fn linked(ledger: &Connection, name: &str) -> Result<Linked, Fault> {
    let ids = soul::linked(ledger, name)?;
    ids.into_iter()
        .filter_map(|id| store::key_of(ledger, &id).map(|key| Some((key?, id))).transpose())
        .collect()
}

/// The shards that may hold a hit, as the ledger has them at admission.
fn shards_for(ledger: &Connection, filter: &Filter) -> Result<Vec<ShardState>, Fault> {
    let mut shards = store::shards(ledger)?;
    shards.retain(|state| {
        state.records > 0
            && !state.dropping
            && filter.wants(state.shard.layer)
            && state.shard.overlaps(filter.from, filter.to)
    });
    Ok(shards)
}
