//! The way of an evaluation: the rules judge, a model is asked about what they leave open, and it is put down.
//!
//! By rules alone it is a read, or a write where something has to be put down with its answer. Where a model has to be asked
//! it is a job, so that nothing waits for the model but the asker. What a model said is held against the rules that are in
//! force when the evaluation is put down: a rule that came meanwhile counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};

use super::Evaluate;
use super::action::{Action, Subject};
use super::decisions::{self, Decision};
use super::explain::explain;
use super::judge::{self, Spoken};
use super::reviews;
use super::service::{CACHED_BYTES, Conscience};
use super::set::RuleSet;
use super::verdict::{self, AppliedRule, Judgement, Outcome, Thresholds, Verdict};
use crate::clock::Timestamp;
use crate::engine::command::{Answer, Call, EndingOf};
use crate::engine::jobs::Progress;
use crate::ledger::Unit;
use crate::policy::EVALUATION_LIMIT;
use crate::wire::topic::Target;
use crate::wire::{Code, Fault};

/// Time that the bodies of rules may take in the ledger's writer, for which everybody waits: enough for most, and rarely
/// needed. They are asked there only where the rules changed after they were asked outside of it.
const IN_WRITER: Duration = Duration::from_millis(4);

/// Times that a question is judged anew outside of the writer because the rules have changed meanwhile.
const ANEW: usize = 3;

/// Share of the time that is left for which judges may be asked, so that the rules' verdict still comes in time.
const SHARE: f64 = 0.75;

/// What is known of an evaluation before it is judged.
pub(super) struct Question {
    subject: Subject,
    remember: bool,
    /// What the rules made of it.
    ruled: Option<Ruled>,
    /// Whether the figures have it, as found in the cache or not: once for each evaluation.
    counted: bool,
    advice: Advice,
}

/// What a set of rules made of a question.
#[derive(Clone)]
struct Ruled {
    set: Arc<RuleSet>,
    judgement: Arc<Judgement>,
    cached: bool,
    took: Duration,
}

/// What came of asking a judge.
#[derive(Clone, Default)]
struct Advice {
    spoken: Option<Arc<Spoken>>,
    cached: bool,
    /// Judges that should have spoken, and could not.
    missed: Vec<String>,
    took: Duration,
}

impl Question {
    pub(super) fn new(request: Evaluate) -> Result<Self, Fault> {
        request.check()?;
        let Evaluate { action, context, entity, remember } = request;
        let subject = Subject::new(action, context, entity)?;
        Ok(Self { subject, remember, ruled: None, counted: false, advice: Advice::default() })
    }

    /// Refuses what `any` node of a group may not do: which of them would keep it is a matter of chance.
    pub(super) fn on(self, target: Target) -> Result<Self, Fault> {
        if target == Target::Any && self.is_write() {
            let field = if self.remember { "remember" } else { "entity" };
            return Err(Fault::invalid(format!(
                "{field}: `any` node is asked without it; ask a node by its name, which will keep it"
            )));
        }
        Ok(self)
    }

    /// Whether its evaluation is put down, with all that follows from it, before it is answered.
    pub(super) fn is_write(&self) -> bool {
        self.subject.entity().is_some() || self.remember
    }

    /// Whether judging it by `set` may take so long that it should not be done on the async runtime.
    fn is_long(&self, set: &RuleSet) -> bool {
        self.subject.text().len() > 2_000 || set.has_bodies()
    }
}

impl Conscience {
    /// Judges an action in words by the rules, and keeps nothing of it but in the cache.
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
        Ok(self.judge(&Question::new(request)?, EVALUATION_LIMIT).body)
    }

    /// Whether it takes long: a judge has to be asked, or bodies of rules, for which the ledger's writer must not wait. What is
    /// found out on the way stays with `question`.
    pub(super) fn takes_long(&self, question: &mut Question) -> bool {
        let set = self.current();
        if self.judge.is_none() {
            return question.is_write() && set.has_bodies();
        }
        if question.is_long(&set) {
            return true;
        }
        let ruled = self.rule(question, EVALUATION_LIMIT);
        let open = self.config.judge.leave_open(&ruled.judgement);
        (question.ruled, question.counted) = (Some(ruled), true);
        open && !self.recall_opinion(question)
    }

    /// The judge's opinion on the same question shortly before, where there is one.
    fn recall_opinion(&self, question: &mut Question) -> bool {
        let Some(ruled) = &question.ruled else { return false };
        let spoken = self.opinions.get(&key(&ruled.set, &question.subject));
        let found = spoken.is_some();
        if found {
            self.opinion_counts.count(true);
        }
        question.advice = Advice { spoken, cached: found, ..Advice::default() };
        found
    }

    /// Judges, and has the decision put down: at once where a review has to be opened, else soon.
    pub(super) async fn decide(
        self: Arc<Self>,
        call: Call,
        question: Question,
    ) -> Result<Answer<Verdict>, Fault> {
        let (mut answer, question) = if question.is_long(&self.current()) {
            let conscience = Arc::clone(&self);
            let judged = tokio::task::spawn_blocking(move || {
                (conscience.judge(&question, EVALUATION_LIMIT), question)
            })
            .await;
            judged.map_err(|_| Fault::internal())?
        } else {
            (self.judge(&question, EVALUATION_LIMIT), question)
        };
        let verdict = &mut answer.body;
        let decision = decision(&call.principal, call.received, &question, verdict);
        if !verdict.needs_review {
            self.journal.note(decision)?;
            return Ok(answer);
        }
        let conscience = Arc::clone(&self);
        verdict.review_id =
            self.ledger.write(move |unit| conscience.put_down(unit, &mut decision.clone())).await?;
        Ok(answer)
    }

    /// The same in a transaction, with what the question asks for besides.
    pub(super) fn decide_in(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        call: &Call,
        question: &Question,
    ) -> Result<Answer<Verdict>, Fault> {
        let mut answer = self.judge(question, IN_WRITER);
        let verdict = &mut answer.body;
        let mut decision = decision(&call.principal, unit.now(), question, verdict);
        verdict.review_id = self.put_down(unit, &mut decision)?;
        if let Some(entity) = question.subject.entity() {
            self.diary.felt(unit, entity, &decision)?;
        }
        if question.remember {
            verdict.memory_id = Some(self.diary.remember(unit, &decision, &verdict.explanation)?);
        }
        Ok(answer)
    }

    /// Asks a judge where the rules leave the question open; what is to be done with the answer.
    pub(super) async fn deliberate(
        self: Arc<Self>,
        call: Call,
        request: Evaluate,
        progress: Progress,
    ) -> Result<EndingOf<Verdict>, Fault> {
        let mut question = Question::new(request)?;
        // Who chose this way has looked, unless that would have taken too long.
        question.counted = self.judge.is_some() && !question.is_long(&self.current());
        question = self.rule_aside(question).await?;
        let open =
            question.ruled.as_ref().is_some_and(|ruled| self.config.judge.leave_open(&ruled.judgement));
        if open && !self.recall_opinion(&mut question) {
            tokio::select! {
                advice = self.ask_judge(&question, progress.time_left()) => question.advice = advice,
                () = progress.cancelled() => return Err(Fault::new(Code::Interrupted, "the job was cancelled")),
            }
        }
        for _ in 0..ANEW {
            if question.ruled.as_ref().is_some_and(|ruled| Arc::ptr_eq(&ruled.set, &self.current())) {
                break;
            }
            question = self.rule_aside(question).await?;
        }
        Ok(Box::new(move |unit| self.decide_in(unit, &call, &question)))
    }

    /// Has the rules in force judge `question`, off the runtime.
    async fn rule_aside(self: &Arc<Self>, mut question: Question) -> Result<Question, Fault> {
        let conscience = Arc::clone(self);
        let ruled = tokio::task::spawn_blocking(move || {
            let ruled = conscience.rule(&question, EVALUATION_LIMIT);
            (question.ruled, question.counted) = (Some(ruled), true);
            question
        });
        ruled.await.map_err(|_| Fault::internal())
    }

    async fn ask_judge(&self, question: &Question, time_left: Option<Duration>) -> Advice {
        let (Some(judge), Some(ruled)) = (&self.judge, &question.ruled) else { return Advice::default() };
        self.opinion_counts.count(false);
        let started = Instant::now();
        let limit = self.config.judge.limit;
        let limit = time_left.map_or(limit, |left| limit.min(left.mul_f64(SHARE)));
        let brief = judge::brief(ruled.set.rules(), &ruled.judgement.rules, &question.subject, limit);
        let spoken = judge.ask(brief).await;
        let mut advice = Advice { took: started.elapsed(), ..Advice::default() };
        match spoken {
            Ok(spoken) => {
                advice.missed.clone_from(&spoken.missed);
                let spoken = Arc::new(spoken);
                self.opinions.insert(key(&ruled.set, &question.subject), Arc::clone(&spoken));
                advice.spoken = Some(spoken);
            }
            Err(missed) => advice.missed = missed,
        }
        advice
    }

    /// The verdict of the rules in force and of the judge that has spoken. Bodies of rules that have to be asked for it may take
    /// `limit`.
    fn judge(&self, question: &Question, limit: Duration) -> Answer<Verdict> {
        let current = self.current();
        let ruled = match &question.ruled {
            Some(ruled) if Arc::ptr_eq(&ruled.set, &current) => ruled.clone(),
            _ => self.rule(question, limit),
        };
        let (advice, bounds) = (&question.advice, self.config.judge);
        let open = bounds.leave_open(&ruled.judgement);
        let spoken = advice.spoken.as_ref().filter(|_| open);
        let judgement = spoken.map_or_else(
            || Arc::clone(&ruled.judgement),
            |spoken| Arc::new(bounds.weigh(&ruled.judgement, spoken, self.config.thresholds)),
        );
        let latency = ruled.took + advice.took;
        let body = Verdict {
            decision_id: uuid::Uuid::now_v7().to_string(),
            approved: judgement.outcome == Outcome::Approved,
            needs_review: judgement.outcome == Outcome::NeedsReview,
            moral_score: judgement.moral_score,
            weighted_score: judgement.weighted_score,
            explanation: Arc::clone(&judgement.explanation),
            rules: Arc::clone(&judgement.rules),
            rule_set_hash: Arc::clone(ruled.set.hash()),
            judge: spoken.map_or("rules", |spoken| spoken.by).to_owned(),
            model: spoken.map(|spoken| spoken.model.clone()),
            degraded: open && spoken.is_none() && !advice.missed.is_empty(),
            // A judge that was asked in vain was asked all the same.
            cached: if spoken.is_some() { advice.cached } else { ruled.cached && advice.missed.is_empty() },
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            review_id: None,
            memory_id: None,
            by_rules: spoken.map(|_| ruled.judgement.outcome),
        };
        Answer { body, degraded: if open { advice.missed.clone() } else { Vec::new() } }
    }

    /// What the rules in force make of `question`. Their bodies may take `limit`.
    fn rule(&self, question: &Question, limit: Duration) -> Ruled {
        let started = Instant::now();
        let (set, subject) = (self.current(), &question.subject);
        let key = key(&set, subject);
        let found = self.judgements.get(&key);
        let cached = found.is_some();
        if !question.counted {
            self.judgement_counts.count(cached);
        }
        let judgement = found.unwrap_or_else(|| {
            let judgement = Arc::new(weigh(&set, subject, self.config.thresholds, limit));
            let bytes: usize = judgement.rules.iter().map(AppliedRule::bytes).sum();
            // What gave no answer may give one the next time.
            let settled = !judgement.rules.iter().any(|rule| rule.unanswered);
            if settled && bytes + judgement.explanation.len() <= CACHED_BYTES {
                self.judgements.insert(key, Arc::clone(&judgement));
            }
            judgement
        });
        Ruled { set, judgement, cached, took: started.elapsed() }
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
}

/// What `set` makes of `subject`. Bodies of rules may take `limit`.
pub(super) fn weigh(set: &RuleSet, subject: &Subject, thresholds: Thresholds, limit: Duration) -> Judgement {
    let rules = set.apply_within(subject, limit);
    let (moral_score, weighted_score) = verdict::score(&rules);
    let outcome = thresholds.rule_on(moral_score, &rules);
    Judgement {
        outcome,
        moral_score,
        weighted_score,
        explanation: explain(outcome, moral_score, &rules).into(),
        rules: rules.into(),
    }
}

/// What a judgement depends on, each part with its length, so that no two questions share a key.
fn key(set: &RuleSet, subject: &Subject) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    // Patterns see what stands in the text. Bodies see more: whether `1` is a number, and what was told besides.
    let document = if set.has_bodies() { serde_json::to_string(&subject.document()).ok() } else { None };
    let parts = [
        Some(&**set.hash()),
        Some(subject.text()),
        subject.tool(),
        subject.target(),
        subject.entity(),
        document.as_deref(),
    ];
    for part in parts {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        context.update(&length.to_be_bytes());
        context.update(part.unwrap_or_default().as_bytes());
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

fn decision(principal: &Arc<str>, at: Timestamp, question: &Question, verdict: &Verdict) -> Decision {
    Decision {
        decision_id: verdict.decision_id.clone(),
        at,
        principal: Arc::clone(principal),
        entity: question.subject.entity().map(str::to_owned),
        action: question.subject.action().clone(),
        context: question.subject.circumstances().map(str::to_owned),
        outcome: match (verdict.approved, verdict.needs_review) {
            (true, _) => Outcome::Approved,
            (false, true) => Outcome::NeedsReview,
            (false, false) => Outcome::Refused,
        },
        moral_score: verdict.moral_score,
        weighted_score: verdict.weighted_score,
        rules: Arc::clone(&verdict.rules),
        rule_set_hash: Arc::clone(&verdict.rule_set_hash),
        judge: verdict.judge.clone(),
        model: verdict.model.clone(),
        degraded: verdict.degraded,
        by_rules: verdict.by_rules,
        review_id: None,
    }
}
