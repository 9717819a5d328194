//! One search over many shards.
//!
//! Document frequencies are summed over all shards that the search touches, so that their scores compare. Without words
//! the newest come first, and months that cannot contribute are not opened. A shard that cannot be opened or searched is
//! left out and named.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tantivy::collector::{Count, TopDocs};
use tantivy::columnar::Column;
use tantivy::query::{
    AllQuery, Bm25StatisticsProvider, BooleanQuery, ConstScoreQuery, Occur, PhraseQuery, Query, RangeQuery,
    TermQuery,
};
use tantivy::schema::{Field, IndexRecordOption, Term};
use tantivy::{DocAddress, Order, Searcher};

use super::readers::Readers;
use super::words::{self, Clause, Occurs};
use super::{Control, IndexError, Shard, ShardState, schema};
use crate::clock::Timestamp;

/// Candidates of each shard for each hit that is wanted, and at least: what is ranked by more than its text.
const CANDIDATES: (usize, usize) = (4, 128);

/// What to search for.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// See [`words`]; without it the newest come first.
    pub text: Option<&'a str>,
    /// All of these.
    pub tags: &'a [String],
    /// This one.
    pub entity: Option<&'a str>,
    /// Created then or later.
    pub from: Option<Timestamp>,
    /// Created before.
    pub to: Option<Timestamp>,
    /// Hits that are wanted.
    pub limit: usize,
    /// Whether to count all that match.
    pub count: bool,
}

/// A record that may be a hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its key in the ledger.
    pub key: u64,
    /// BM25; 0 without words.
    pub text: f64,
    /// When it was stored.
    pub created: Timestamp,
    /// In [0, 1].
    pub importance: f64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Searched {
    /// By text, best first, or by time, newest first. More than were asked for, so that they can be ranked.
    pub candidates: Vec<Candidate>,
    /// How many match, where asked.
    pub total: Option<u64>,
    /// Whether the order is by text.
    pub by_text: bool,
    /// Whether a shard could not be asked.
    pub incomplete: bool,
    /// Shards that are damaged.
    pub damaged: Vec<Shard>,
}

/// Searches `shards`, of which `control` knows the state.
pub fn search(
    readers: &Readers,
    control: &Control,
    shards: &[ShardState],
    request: &Request<'_>,
) -> Searched {
    let clauses = request.text.map(|text| words::parse(text, &mut schema::analyzer())).unwrap_or_default();
    let by_text = clauses.iter().any(|clause| clause.occurs != Occurs::Not);
    let found = Searched { total: request.count.then_some(0), by_text, ..Searched::default() };
    if clauses.is_empty() && request.text.is_some_and(|text| !text.trim().is_empty()) {
        // Nothing but stop words: they are in no index, so nothing matches.
        return found;
    }
    let mut search = Search { readers, control, request, clauses, found };
    if by_text {
        search.by_text(shards)
    } else {
        search.newest_first(shards)
    }
    search.found
}

struct Search<'a> {
    readers: &'a Readers,
    control: &'a Control,
    request: &'a Request<'a>,
    clauses: Vec<Clause>,
    found: Searched,
}

impl Search<'_> {
    fn by_text(&mut self, shards: &[ShardState]) {
        let searchers: Vec<_> =
            shards.iter().filter_map(|state| Some((state.shard, self.open(state)?))).collect();
        let statistics = Statistics::over(&searchers, &self.clauses);
        for (shard, searcher) in &searchers {
            self.one(*shard, searcher, Some(&statistics));
        }
        self.found.candidates.sort_by(|a, b| b.text.total_cmp(&a.text).then(b.key.cmp(&a.key)));
    }

    fn newest_first(&mut self, shards: &[ShardState]) {
        let mut shards: Vec<_> = shards.iter().collect();
        shards.sort_by_key(|state| Reverse(state.shard.span().0));
        for state in shards {
            let end = state.shard.span().1;
            let newer = self.found.candidates.iter().filter(|candidate| candidate.created >= end);
            if !self.request.count && newer.count() >= self.request.limit {
                break;
            }
            if let Some(searcher) = self.open(state) {
                self.one(state.shard, &searcher, None);
            }
        }
        self.found.candidates.sort_by_key(|candidate| Reverse((candidate.created, candidate.key)));
    }

    fn open(&mut self, state: &ShardState) -> Option<Searcher> {
        if self.control.is_damaged(state.shard) {
            self.found.incomplete = true;
            return None;
        }
        let opened = guarded(|| self.readers.searcher(state, self.control.committed(state)));
        opened.unwrap_or_else(|error| {
            self.missed(state.shard, &error);
            None
        })
    }

    fn one(&mut self, shard: Shard, searcher: &Searcher, statistics: Option<&Statistics>) {
        let query = query(shard, &self.clauses, self.request);
        match guarded(|| search_one(searcher, &query, self.request, statistics)) {
            Ok((candidates, total)) => {
                self.found.candidates.extend(candidates);
                self.found.total = self.found.total.map(|sum| sum + total);
            }
            Err(error) => {
                self.readers.forget(shard);
                self.missed(shard, &error);
            }
        }
    }

    fn missed(&mut self, shard: Shard, error: &IndexError) {
        tracing::debug!(%shard, %error, "a part of the search index could not be searched");
        self.found.incomplete = true;
        if !error.is_passing() {
            self.found.damaged.push(shard);
        }
    }
}

/// Runs `work`; a panic of tantivy over a damaged file counts as damage.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(IndexError::Damaged("tantivy panicked over it")))
}

fn search_one(
    searcher: &Searcher,
    query: &BooleanQuery,
    request: &Request<'_>,
    statistics: Option<&Statistics>,
) -> Result<(Vec<Candidate>, u64), IndexError> {
    let total = if request.count { searcher.search(query, &Count)? as u64 } else { 0 };
    let hits: Vec<(f64, DocAddress)> = match statistics {
        Some(statistics) => {
            let top = TopDocs::with_limit((request.limit * CANDIDATES.0).max(CANDIDATES.1)).order_by_score();
            let hits = searcher.search_with_statistics_provider(query, &top, statistics)?;
            hits.into_iter().map(|(score, address)| (f64::from(score), address)).collect()
        }
        None => {
            let newest = TopDocs::with_limit(request.limit * 2)
                .order_by_fast_field::<i64>(schema::CREATED, Order::Desc);
            searcher.search(query, &newest)?.into_iter().map(|(_, address)| (0.0, address)).collect()
        }
    };
    let mut columns = Columns { searcher, open: HashMap::new() };
    let candidates =
        hits.into_iter().map(|(text, address)| columns.candidate(text, address)).collect::<Result<_, _>>()?;
    Ok((candidates, total))
}

/// The query for one shard: what limits it without counting for its score, and the words.
fn query(shard: Shard, clauses: &[Clause], request: &Request<'_>) -> BooleanQuery {
    let fields = schema::fields();
    let mut parts: Vec<(Occur, Box<dyn Query>)> = Vec::new();
    let mut filter = |query: Box<dyn Query>| {
        parts.push((Occur::Must, Box::new(ConstScoreQuery::new(query, 0.0))));
    };
    let exact = |field: Field, text: &str| -> Box<dyn Query> {
        Box::new(TermQuery::new(Term::from_field_text(field, text), IndexRecordOption::Basic))
    };
    for tag in request.tags {
        filter(exact(fields.tag, tag));
    }
    if let Some(entity) = request.entity {
        filter(exact(fields.entity, entity));
    }
    let (start, end) = shard.span();
    let from = request.from.filter(|from| *from > start);
    let to = request.to.filter(|to| *to < end);
    if from.is_some() || to.is_some() {
        use std::ops::Bound::{Excluded, Included};
        let term = |time: Timestamp| Term::from_field_i64(fields.created, time.millis());
        filter(Box::new(RangeQuery::new(
            Included(term(from.unwrap_or(start))),
            Excluded(term(to.unwrap_or(end))),
        )));
    }
    let (excluded, wanted): (Vec<_>, Vec<_>) =
        clauses.iter().partition(|clause| clause.occurs == Occurs::Not);
    if wanted.is_empty() {
        parts.push((Occur::Must, Box::new(AllQuery)));
    } else {
        let wanted = wanted.into_iter().map(|clause| {
            let occur = if clause.occurs == Occurs::Must { Occur::Must } else { Occur::Should };
            (occur, terms(fields.content, clause))
        });
        parts.push((Occur::Must, Box::new(BooleanQuery::new(wanted.collect()))));
    }
    parts.extend(excluded.into_iter().map(|clause| (Occur::MustNot, terms(fields.content, clause))));
    BooleanQuery::new(parts)
}

fn terms(field: Field, clause: &Clause) -> Box<dyn Query> {
    let term = |text: &str| Term::from_field_text(field, text);
    match clause.terms.as_slice() {
        [(_, only)] => Box::new(TermQuery::new(term(only), IndexRecordOption::WithFreqs)),
        many => {
            let first = many.first().map_or(0, |(position, _)| *position);
            let terms = many.iter().map(|(position, text)| (position - first, term(text))).collect();
            Box::new(PhraseQuery::new_with_offset(terms))
        }
    }
}

/// BM25's statistics over every shard of a search; each term of the words is looked up once.
struct Statistics {
    documents: u64,
    tokens: u64,
    frequencies: HashMap<Term, u64>,
}

impl Statistics {
    fn over(searchers: &[(Shard, Searcher)], clauses: &[Clause]) -> Self {
        let content = schema::fields().content;
        // A shard that cannot be read counts nothing here; searching it fails next, and that is reported.
        let sum = |of: &dyn Fn(&Searcher) -> tantivy::Result<u64>| -> u64 {
            let each = |(_, searcher): &(Shard, Searcher)| guarded(|| Ok(of(searcher)?)).ok();
            searchers.iter().filter_map(each).sum()
        };
        let terms = clauses.iter().flat_map(|clause| &clause.terms);
        let frequencies = terms
            .map(|(_, text)| Term::from_field_text(content, text))
            .map(|term| (term.clone(), sum(&|searcher| searcher.doc_freq(&term))))
            .collect();
        Self {
            documents: sum(&|searcher| searcher.total_num_docs()),
            tokens: sum(&|searcher| searcher.total_num_tokens(content)),
            frequencies,
        }
    }
}

impl Bm25StatisticsProvider for Statistics {
    fn total_num_tokens(&self, _: Field) -> tantivy::Result<u64> {
        Ok(self.tokens)
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.documents)
    }

    /// Terms of filters have no frequency of their own here: their score is constant.
    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        Ok(self.frequencies.get(term).copied().unwrap_or(0))
    }
}

/// Key, created, importance.
type SegmentColumns = (Column<u64>, Column<i64>, Column<f64>);

/// The fast fields of the segments that have hits.
struct Columns<'a> {
    searcher: &'a Searcher,
    open: HashMap<u32, SegmentColumns>,
}

impl Columns<'_> {
    fn candidate(&mut self, text: f64, address: DocAddress) -> Result<Candidate, IndexError> {
        if !self.open.contains_key(&address.segment_ord) {
            let fast = self.searcher.segment_reader(address.segment_ord).fast_fields();
            let columns = (fast.u64(schema::KEY)?, fast.i64(schema::CREATED)?, fast.f64(schema::IMPORTANCE)?);
            self.open.insert(address.segment_ord, columns);
        }
        let missing = IndexError::Damaged("a record lacks a field");
        let Some((key, created, importance)) = self.open.get(&address.segment_ord) else {
            return Err(missing);
        };
        match (key.first(address.doc_id), created.first(address.doc_id), importance.first(address.doc_id)) {
            (Some(key), Some(created), Some(importance)) => {
                Ok(Candidate { key, text, created: Timestamp::from_millis(created), importance })
            }
            _ => Err(missing),
        }
    }
}
