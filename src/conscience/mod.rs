//! Judges actions by rules.
//!
//! The rules are rows of the ledger, compiled into an immutable [`RuleSet`]. A change compiles the new set inside its
//! transaction and puts it in place after COMMIT, before it is answered: whoever has seen the answer is never judged by
//! the old rules, and a change that does not commit changes nothing. An evaluation asks one set from beginning to end and
//! says which (`rule_set_hash`).
//!
//! A rule in the ledger that can no longer be compiled is an error at the start, never a rule left out: the conscience
//! fails closed.

mod action;
mod body;
mod decisions;
mod derive;
mod doubt;
mod evaluate;
mod explain;
mod expression;
mod file;
mod frame;
mod judge;
mod lexicon;
mod model;
mod negation;
mod phrase;
mod prepared;
mod reading;
mod reviews;
mod rules;
mod service;
mod set;
mod store;
mod text;
mod trial;
mod verdict;
mod vocabulary;
mod words;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::command::{Answer, Either, Entry};
use crate::entity;
use crate::ledger::Unit;
use crate::wire::Fault;
use crate::wire::topic::Target;

use decisions::ListDecisions;
use evaluate::Question;
use reviews::{ListReviews, ResolveReview, ReviewState};

pub use action::{Action, Subject, ToolCall};
pub use decisions::Decision;
pub use file::{defaults as default_rules, read as read_rules};
pub use judge::{Asked, Bounds, Brief, Judge, Opinion, Spoken};
pub use model::{MAX_ACTION, MAX_RULES, Rule, Scope, Stance};
pub use prepared::Prepared;
pub use reviews::{Review, ReviewNews};
pub use service::{CacheStats, Config, Conscience, Diary};
pub use set::RuleSet;
pub use trial::check_rules;
pub use verdict::{AppliedRule, Outcome, Span, Thresholds, Verdict};

const SERVICE: &str = "conscience";

const MAX_CONTEXT: usize = 2_000;
/// Every command of the conscience.
#[must_use]
pub fn commands() -> Vec<Entry<Conscience>> {
    let mut commands = vec![
        Entry::either(
            SERVICE,
            "evaluate",
            "Judges an action by the rules, and by a model what they leave open; then it is a job",
            |conscience: &Arc<Conscience>, call, request: Evaluate| {
                let mut question = Question::new(request)?.on(call.target)?;
                if conscience.takes_long(&mut question) {
                    return Ok(Either::Job);
                }
                let (conscience, call) = (conscience.clone(), call.clone());
                Ok(if question.is_write() {
                    Either::Write(Box::new(move |unit| {
                        conscience.decide_in(unit, &call, &question).map(|answer| answer.body)
                    }))
                } else {
                    Either::Read(Box::pin(conscience.decide(call, question)))
                })
            },
            Conscience::deliberate,
        )
        .asks_models()
        .also_on(&[Target::Any]),
        Entry::read(
            SERVICE,
            "decisions",
            "Lists recorded decisions, the newest first",
            |conscience: Arc<Conscience>, _, request: ListDecisions| async move {
                request.check()?;
                conscience.flush().await?;
                let ledger = conscience.ledger();
                ledger.read(move |connection| decisions::list(connection, &request)).await.map(Answer::from)
            },
        ),
        Entry::read(
            SERVICE,
            "reviews/list",
            "Lists reviews, the newest first",
            |conscience: Arc<Conscience>, _, request: ListReviews| async move {
                request.check()?;
                let now = conscience.ledger().clock().now();
                let ledger = conscience.ledger();
                ledger
                    .read(move |connection| reviews::list(connection, &request, now))
                    .await
                    .map(Answer::from)
            },
        ),
        Entry::write(
            SERVICE,
            "reviews/resolve",
            "Says what a person decided",
            |conscience: &Arc<Conscience>, call, request: ResolveReview| {
                request.check()?;
                let (conscience, by) = (conscience.clone(), call.principal.clone());
                Ok(move |unit: &mut Unit<'_>| {
                    let review = reviews::resolve(unit, &request, &by)?;
                    let news = ReviewNews {
                        review_id: review.review_id.clone(),
                        state: review.state,
                        expires: review.expires,
                    };
                    debug_assert_ne!(review.state, ReviewState::Open);
                    conscience.tell(unit, vec![news]);
                    Ok(review)
                })
            },
        )
        .sensitive(),
    ];
    commands.extend(rules::commands());
    commands
}

/// Asks whether an action may be done.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// What is to be done: in English words, 1 to 10,000 characters, or as the call of a tool.
    pub action: Action,
    /// What else is known, in words: at most 2,000 characters. It is judged with the action.
    #[serde(default)]
    pub context: Option<String>,
    /// Whom the action is about: 1 to 128 characters.
    #[serde(default)]
    pub entity: Option<String>,
    /// Whether to keep the evaluation in short-term memory.
    #[serde(default)]
    pub remember: bool,
}

impl Evaluate {
    fn check(&self) -> Result<(), Fault> {
        if self.context.as_ref().is_some_and(|text| text.chars().count() > MAX_CONTEXT) {
            return Err(Fault::invalid(format!("context: expected at most {MAX_CONTEXT} characters")));
        }
        self.entity.as_deref().map_or(Ok(()), |name| entity::check("entity", name))
    }
}
