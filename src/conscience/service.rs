//! The running conscience: the rules in force, the judgements it remembers, and what it puts down.
//!
//! An evaluation asks one rule set from beginning to end and says which. Judgements are kept for a minute by the hash of
//! that set and everything that was asked, so a judgement by other rules is never found; whoever has seen a change answered
//! is judged by the new rules.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::decisions::{self, Decision, Journal};
use super::file;
use super::judge::{Asked, Bounds, Judge, Spoken};
use super::model::Rule;
use super::prepared::Prepared;
use super::reviews::{self, ReviewNews};
use super::set::RuleSet;
use super::store::{self, Origin, Refreshed};
use super::verdict::{Judgement, Thresholds};
use crate::cache::Cache;
use crate::engine::Events;
use crate::ledger::{Ledger, Unit};
use crate::wire::Fault;

/// Judgements that are kept.
const CACHED: usize = 10_000;

/// How long a judgement is kept.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// Longest judgement that is kept, in bytes of its explanation and matches, so that the cache is bounded in bytes too.
pub(super) const CACHED_BYTES: usize = 4_096;

/// How the conscience judges and what it keeps.
#[derive(Clone, Debug)]
pub struct Config {
    /// From which score on an action is approved, and below which it is refused.
    pub thresholds: Thresholds,
    /// When a model is asked, and how far it can move a score.
    pub judge: Bounds,
    /// How long a review waits for a person.
    pub review_expiry: Duration,
    /// How long decisions, and reviews that are no longer open, are kept.
    pub keep_decisions: Duration,
    /// Most decisions that are kept.
    pub decision_rows: u64,
    /// The rules of the configuration's rule file.
    pub rules: Option<Vec<Rule>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            judge: Bounds::default(),
            review_expiry: Duration::from_secs(24 * 3_600),
            keep_decisions: Duration::from_secs(30 * 24 * 3_600),
            decision_rows: 100_000,
            rules: None,
        }
    }
}

/// Other services' part in the transaction of an evaluation.
pub trait Diary: Send + Sync {
    /// `decision` is about `entity`.
    ///
    /// # Errors
    /// When that cannot be recorded; the evaluation fails then.
    fn felt(&self, unit: &mut Unit<'_>, entity: &str, decision: &Decision) -> Result<(), Fault>;

    /// Keeps `decision`; the id under which it is kept.
    ///
    /// # Errors
    /// When it cannot be kept; the evaluation fails then.
    fn remember(&self, unit: &mut Unit<'_>, decision: &Decision, explanation: &str) -> Result<String, Fault>;
}

/// How often a cache had what it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// It had it.
    pub hits: u64,
    /// It had not.
    pub misses: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counts {
    pub(super) fn count(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn stats(&self) -> CacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats { hits: read(&self.hits), misses: read(&self.misses) }
    }
}

/// The running service.
pub struct Conscience {
    pub(super) config: Config,
    pub(super) ledger: Ledger,
    events: Events,
    pub(super) diary: Arc<dyn Diary>,
    /// Who is asked about what the rules leave open, where anyone is.
    pub(super) judge: Option<Arc<dyn Judge>>,
    rules: RwLock<Arc<RuleSet>>,
    pub(super) judgements: Cache<[u8; 32], Arc<Judgement>>,
    pub(super) judgement_counts: Counts,
    /// What judges said, by the same keys.
    pub(super) opinions: Cache<[u8; 32], Arc<Spoken>>,
    pub(super) opinion_counts: Counts,
    rule_counts: Counts,
    pub(super) journal: Journal,
}

impl Conscience {
    /// Reads and compiles the rules, after it has put in the default rules that the ledger never had and those of the
    /// rule file. `judge` is asked about what they leave open.
    ///
    /// # Errors
    /// When the ledger refuses, or a rule cannot be compiled; the log names the rule.
    pub async fn open(
        ledger: Ledger,
        config: Config,
        events: Events,
        diary: Arc<dyn Diary>,
        judge: Option<Arc<dyn Judge>>,
    ) -> Result<Arc<Self>, Fault> {
        let defaults = file::defaults()?;
        let from_file = config.rules.clone();
        if let Some(rules) = &from_file {
            compile(rules.clone(), |_| None)?;
        }
        let pack = Arc::new(defaults);
        let defaults = Arc::clone(&pack);
        let (rules, refreshed) = ledger
            .write(move |unit| {
                let refreshed = store::refresh(unit, &defaults)?;
                if let Some(rules) = &from_file {
                    store::take_file(unit, rules)?;
                }
                Ok((store::all(unit)?, refreshed))
            })
            .await?;
        tell_of(&refreshed);
        let set = tokio::task::spawn_blocking(move || {
            let of_pack = |rule: &Rule| {
                let known = pack.iter().any(|default| default == rule);
                known.then(|| Prepared::of_pack(rule.clone()).ok()).flatten()
            };
            compile(rules, of_pack)
        });
        let set = set.await.map_err(|_| Fault::internal())??;
        Ok(Arc::new(Self {
            judge: judge.filter(|_| config.judge.asked != Asked::Never),
            config,
            ledger,
            events,
            diary,
            rules: RwLock::new(Arc::new(set)),
            // Else it is copied again and again as it grows.
            judgements: Cache::fleeting(CACHED, CACHED_FOR),
            judgement_counts: Counts::default(),
            opinions: Cache::fleeting(CACHED, CACHED_FOR),
            opinion_counts: Counts::default(),
            rule_counts: Counts::default(),
            journal: Journal::default(),
        }))
    }

    /// The rules in force.
    #[must_use]
    pub fn current(&self) -> Arc<RuleSet> {
        // The lock guards one pointer, which is replaced whole.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often judgements and opinions were found in the cache, and how often a rule of a new set was compiled before.
    #[must_use]
    pub fn cache_stats(&self) -> [(&'static str, CacheStats); 3] {
        [
            ("judgements", self.judgement_counts.stats()),
            ("opinions", self.opinion_counts.stats()),
            ("rules", self.rule_counts.stats()),
        ]
    }

    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) const fn thresholds(&self) -> Thresholds {
        self.config.thresholds
    }

    /// Tells what became of reviews once that is certain.
    pub(super) fn tell(&self, unit: &mut Unit<'_>, news: Vec<ReviewNews>) {
        let events = self.events.clone();
        unit.after_commit(move || news.iter().for_each(|news| events.tell("reviews", news)));
    }

    /// Puts down the decisions that wait.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn flush(&self) -> Result<(), Fault> {
        self.journal.flush(&self.ledger).await
    }

    /// Puts decisions down, ends reviews whose time has passed and removes what is old, until `stop`. None of it waits for
    /// another: while much is removed, what is judged has to be put down all the same.
    pub async fn keep_house(self: Arc<Self>, stop: CancellationToken) {
        let removal = async {
            // What is cut off is removed the next time.
            tokio::select! {
                () = stop.cancelled() => {}
                () = regularly(&stop, Duration::from_secs(60), || self.prune()) => {}
            }
        };
        tokio::join!(
            regularly(&stop, decisions::FLUSH_EVERY, || self.flush()),
            regularly(&stop, Duration::from_secs(1), || self.expire()),
            removal,
        );
    }

    pub(super) async fn expire(self: &Arc<Self>) -> Result<(), Fault> {
        let now = self.ledger.clock().now();
        if self.ledger.read(reviews::next_expiry).await?.is_none_or(|at| at > now) {
            return Ok(());
        }
        let conscience = Arc::clone(self);
        self.ledger
            .write(move |unit| {
                let news = reviews::expire(unit, unit.now())?;
                conscience.tell(unit, news);
                Ok(())
            })
            .await
    }

    pub(super) async fn prune(&self) -> Result<(), Fault> {
        let keep = i64::try_from(self.config.keep_decisions.as_millis()).unwrap_or(i64::MAX);
        let (before, rows) = (self.ledger.clock().now().plus_millis(-keep), self.config.decision_rows);
        loop {
            let started = Instant::now();
            if !self.ledger.write(move |unit| decisions::prune(unit, before, rows)).await? {
                break;
            }
            // What is judged meanwhile has to be put down too: the writer is theirs for half of the time.
            tokio::time::sleep(started.elapsed()).await;
        }
        while self.ledger.write(move |unit| reviews::prune(unit, before)).await? {}
        Ok(())
    }

    /// Puts `changed` in force, after COMMIT, together with what `unit` leaves of the others; the hash of all.
    pub(super) fn adopt(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        changed: &[Arc<Prepared>],
    ) -> Result<Arc<str>, Fault> {
        let current = self.current();
        let known = |rule: &Rule| {
            let new = changed.iter().find(|prepared| prepared.rule() == rule).map(Arc::clone);
            let known = new.or_else(|| current.prepared(rule));
            self.rule_counts.count(known.is_some());
            known
        };
        let set = Arc::new(compile(store::all(unit)?, known)?);
        let hash = Arc::clone(set.hash());
        let conscience = Arc::clone(self);
        unit.after_commit(move || {
            *conscience.rules.write().unwrap_or_else(PoisonError::into_inner) = set;
        });
        Ok(hash)
    }

    /// Puts rules in, in `unit`; how many replaced one.
    pub(super) fn put(unit: &Unit<'_>, rules: &[Arc<Prepared>]) -> Result<usize, Fault> {
        rules.iter().try_fold(0, |replaced, prepared| {
            Ok(replaced + usize::from(store::set(unit, prepared.rule(), Origin::Set)?))
        })
    }
}

impl std::fmt::Debug for Conscience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conscience").field("rules", &self.current()).finish_non_exhaustive()
    }
}

/// Tells the log what became of the default rules.
fn tell_of(refreshed: &Refreshed) {
    let Refreshed { added, changed, removed, left } = refreshed;
    if !added.is_empty() || !changed.is_empty() || !removed.is_empty() {
        tracing::info!(
            added = added.join(", "),
            changed = changed.join(", "),
            removed = removed.join(", "),
            left_to_the_operator = left.join(", "),
            "the default rules of the conscience are those of this version"
        );
    }
}

/// A set of `rules`; those that `known` has are not read again.
pub(super) fn compile(
    rules: Vec<Rule>,
    known: impl Fn(&Rule) -> Option<Arc<Prepared>>,
) -> Result<RuleSet, Fault> {
    let prepared = rules.into_iter().map(|rule| {
        known(&rule).map_or_else(
            || {
                let name = rule.name.clone();
                Prepared::new(rule).inspect_err(|fault| {
                    tracing::error!(rule = name, reason = fault.message, "a rule cannot be compiled");
                })
            },
            Ok,
        )
    });
    RuleSet::new(prepared.collect::<Result<Vec<_>, _>>()?)
}

/// Does `work` at once, and then with `period` between, until `stop`; what has begun is ended.
async fn regularly<W>(stop: &CancellationToken, period: Duration, work: impl Fn() -> W)
where
    W: Future<Output = Result<(), Fault>>,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = work().await {
            tracing::warn!(%error, "the conscience could not keep house");
        }
    }
}
