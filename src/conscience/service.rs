//! The running conscience: the rules in force, the judgements it remembers, and what it puts down.
//!
//! An evaluation asks one rule set from beginning to end and says which. Judgements are kept for a minute by the hash of
//! that set and everything that was asked, so a judgement by other rules is never found; whoever has seen a change answered
//! is judged by the new rules.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use ring::digest::{Context, SHA256};
use tokio_util::sync::CancellationToken;

use super::action::{Action, Subject};
use super::decisions::{self, Decision, Journal};
use super::explain::explain;
use super::model::Rule;
use super::reviews::{self, ReviewNews};
use super::set::{Prepared, RuleSet};
use super::store::{self, Origin};
use super::verdict::{self, Judgement, Outcome, Thresholds, Verdict};
use super::{Evaluate, file};
use crate::clock::Timestamp;
use crate::engine::Events;
use crate::engine::command::Call;
use crate::ledger::{Ledger, Unit};
use crate::wire::Fault;

/// Judgements that are kept.
const CACHED: u64 = 10_000;

/// How long a judgement is kept.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// Longest judgement that is kept, in bytes of its explanation and matches, so that the cache is bounded in bytes too.
const CACHED_BYTES: usize = 4_096;

/// How the conscience judges and what it keeps.
#[derive(Clone, Debug)]
pub struct Config {
    /// From which score on an action is approved, and below which it is refused.
    pub thresholds: Thresholds,
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
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counts {
    fn count(&self, hit: bool) {
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
    config: Config,
    ledger: Ledger,
    events: Events,
    diary: Arc<dyn Diary>,
    rules: RwLock<Arc<RuleSet>>,
    judgements: Cache<[u8; 32], Arc<Judgement>>,
    judgement_counts: Counts,
    rule_counts: Counts,
    journal: Journal,
}

/// What is known of an evaluation before it is judged.
pub(super) struct Question {
    action: Action,
    context: Option<String>,
    entity: Option<String>,
    remember: bool,
    subject: Subject,
}

impl Question {
    pub(super) fn new(request: Evaluate) -> Result<Self, Fault> {
        request.check()?;
        let Evaluate { action, context, entity, remember } = request;
        let subject = Subject::new(&action, context.as_deref(), entity.as_deref())?;
        Ok(Self { action, context, entity, remember, subject })
    }

    /// Whether its evaluation is put down, with all that follows from it, before it is answered.
    pub(super) const fn is_write(&self) -> bool {
        self.entity.is_some() || self.remember
    }

    /// Whether judging it may take so long that it should not be done on the async runtime.
    pub(super) fn is_long(&self) -> bool {
        self.subject.text().len() > 2_000
    }
}

impl Conscience {
    /// Reads and compiles the rules, after it has put in the default rules that the ledger never had and those of the
    /// rule file.
    ///
    /// # Errors
    /// When the ledger refuses, or a rule cannot be compiled; the log names the rule.
    pub async fn open(
        ledger: Ledger,
        config: Config,
        events: Events,
        diary: Arc<dyn Diary>,
    ) -> Result<Arc<Self>, Fault> {
        let defaults = file::defaults()?;
        let from_file = config.rules.clone();
        if let Some(rules) = &from_file {
            compile(rules.clone(), |_| None)?;
        }
        let rules = ledger
            .write(move |unit| {
                store::seed(unit, &defaults)?;
                if let Some(rules) = &from_file {
                    store::take_file(unit, rules)?;
                }
                store::all(unit)
            })
            .await?;
        let set = tokio::task::spawn_blocking(move || compile(rules, |_| None))
            .await
            .map_err(|_| Fault::internal())??;
        Ok(Arc::new(Self {
            config,
            ledger,
            events,
            diary,
            rules: RwLock::new(Arc::new(set)),
            judgements: Cache::builder()
                .max_capacity(CACHED)
                // Else it is copied again and again as it grows.
                .initial_capacity(CACHED as usize)
                .time_to_live(CACHED_FOR)
                .build(),
            judgement_counts: Counts::default(),
            rule_counts: Counts::default(),
            journal: Journal::default(),
        }))
    }

    /// Judges an action in words, and keeps nothing of it but in the cache.
    ///
    /// # Errors
    /// `invalid` when the action is blank or too long.
    pub fn evaluate(&self, action: &str) -> Result<Verdict, Fault> {
        let request = Evaluate {
            action: Action::Text(action.to_owned()),
            context: None,
            entity: None,
            remember: false,
        };
        Ok(self.judge(&Question::new(request)?))
    }

    /// The rules in force.
    #[must_use]
    pub fn current(&self) -> Arc<RuleSet> {
        // The lock guards one pointer, which is replaced whole.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often judgements were found in the cache, and how often a rule of a new set was compiled before.
    #[must_use]
    pub fn cache_stats(&self) -> [(&'static str, CacheStats); 2] {
        [("judgements", self.judgement_counts.stats()), ("rules", self.rule_counts.stats())]
    }

    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) const fn thresholds(&self) -> Thresholds {
        self.config.thresholds
    }

    pub(super) fn judge(&self, question: &Question) -> Verdict {
        let started = Instant::now();
        let set = self.current();
        let (judgement, cached) = self.judgement(&set, &question.subject);
        Verdict {
            decision_id: uuid::Uuid::now_v7().to_string(),
            approved: judgement.outcome == Outcome::Approved,
            needs_review: judgement.outcome == Outcome::NeedsReview,
            moral_score: judgement.moral_score,
            weighted_score: judgement.weighted_score,
            explanation: judgement.explanation.clone(),
            rules: judgement.rules.clone(),
            rule_set_hash: set.hash().to_owned(),
            judge: "rules".to_owned(),
            model: None,
            degraded: false,
            cached,
            latency_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            review_id: None,
            memory_id: None,
        }
    }

    fn judgement(&self, set: &RuleSet, subject: &Subject) -> (Arc<Judgement>, bool) {
        let key = key(set.hash(), subject);
        if let Some(found) = self.judgements.get(&key) {
            self.judgement_counts.count(true);
            return (found, true);
        }
        self.judgement_counts.count(false);
        let judgement = Arc::new(weigh(set, subject, self.config.thresholds));
        let bytes: usize = judgement.rules.iter().map(|rule| rule.matched.text.len() + rule.name.len()).sum();
        if bytes + judgement.explanation.len() <= CACHED_BYTES {
            self.judgements.insert(key, Arc::clone(&judgement));
        }
        (judgement, false)
    }

    /// Judges, and has the decision put down: at once where a review has to be opened, else soon.
    pub(super) async fn decide(self: Arc<Self>, call: Call, question: Question) -> Result<Verdict, Fault> {
        let (mut verdict, question) = if question.is_long() {
            let conscience = Arc::clone(&self);
            let judged = tokio::task::spawn_blocking(move || (conscience.judge(&question), question)).await;
            judged.map_err(|_| Fault::internal())?
        } else {
            (self.judge(&question), question)
        };
        let decision = decision(&call.principal, call.received, &question, &verdict);
        if !verdict.needs_review {
            self.journal.note(decision)?;
            return Ok(verdict);
        }
        let conscience = Arc::clone(&self);
        verdict.review_id =
            self.ledger.write(move |unit| conscience.put_down(unit, &mut decision.clone())).await?;
        Ok(verdict)
    }

    /// The same in the transaction of a write, with what the question asks for besides.
    pub(super) fn decide_in(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        call: &Call,
        question: &Question,
    ) -> Result<Verdict, Fault> {
        let mut verdict = self.judge(question);
        let mut decision = decision(&call.principal, unit.now(), question, &verdict);
        verdict.review_id = self.put_down(unit, &mut decision)?;
        if let Some(entity) = &question.entity {
            self.diary.felt(unit, entity, &decision)?;
        }
        if question.remember {
            verdict.memory_id = Some(self.diary.remember(unit, &decision, &verdict.explanation)?);
        }
        Ok(verdict)
    }

    fn put_down(&self, unit: &mut Unit<'_>, decision: &mut Decision) -> Result<Option<String>, Fault> {
        if decision.outcome == Outcome::NeedsReview {
            let life = i64::try_from(self.config.review_expiry.as_millis()).unwrap_or(i64::MAX);
            let (review_id, news) = reviews::open(unit, decision, life)?;
            decision.review_id = Some(review_id);
            self.tell(unit, news);
        }
        decisions::insert(unit, decision)?;
        Ok(decision.review_id.clone())
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

    /// Puts decisions down, ends reviews whose time has passed and removes what is old, until `stop`.
    pub async fn keep_house(self: Arc<Self>, stop: CancellationToken) {
        let mut flush = tokio::time::interval(decisions::FLUSH_EVERY);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        for ticks in [&mut flush, &mut second, &mut minute] {
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                _ = flush.tick() => self.flush().await,
                _ = second.tick() => self.expire().await,
                _ = minute.tick() => self.prune().await,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "the conscience could not keep house");
            }
        }
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
        while self.ledger.write(move |unit| decisions::prune(unit, before, rows)).await? {}
        while self.ledger.write(move |unit| reviews::prune(unit, before)).await? {}
        Ok(())
    }

    /// Puts `changed` in force, after COMMIT, together with what `unit` leaves of the others; the hash of all.
    pub(super) fn adopt(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        changed: &[Arc<Prepared>],
    ) -> Result<String, Fault> {
        let current = self.current();
        let known = |rule: &Rule| {
            let new = changed.iter().find(|prepared| prepared.rule() == rule).map(Arc::clone);
            let known = new.or_else(|| current.prepared(rule));
            self.rule_counts.count(known.is_some());
            known
        };
        let set = Arc::new(compile(store::all(unit)?, known)?);
        let hash = set.hash().to_owned();
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

/// What `set` makes of `subject`.
pub(super) fn weigh(set: &RuleSet, subject: &Subject, thresholds: Thresholds) -> Judgement {
    let rules = set.apply(subject);
    let (moral_score, weighted_score) = verdict::score(&rules);
    let outcome = thresholds.rule_on(moral_score, &rules);
    Judgement {
        outcome,
        moral_score,
        weighted_score,
        explanation: explain(outcome, moral_score, &rules),
        rules,
    }
}

/// What a judgement depends on, each part with its length, so that no two questions share a key.
fn key(rule_set_hash: &str, subject: &Subject) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let parts =
        [Some(rule_set_hash), Some(subject.text()), subject.tool(), subject.target(), subject.entity()];
    for part in parts {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        context.update(&length.to_be_bytes());
        context.update(part.unwrap_or_default().as_bytes());
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

fn decision(principal: &str, at: Timestamp, question: &Question, verdict: &Verdict) -> Decision {
    Decision {
        decision_id: verdict.decision_id.clone(),
        at,
        principal: principal.to_owned(),
        entity: question.entity.clone(),
        action: question.action.clone(),
        context: question.context.clone(),
        outcome: match (verdict.approved, verdict.needs_review) {
            (true, _) => Outcome::Approved,
            (false, true) => Outcome::NeedsReview,
            (false, false) => Outcome::Refused,
        },
        moral_score: verdict.moral_score,
        weighted_score: verdict.weighted_score,
        rules: verdict.rules.clone(),
        rule_set_hash: verdict.rule_set_hash.clone(),
        judge: verdict.judge.clone(),
        review_id: None,
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
