//! Judges actions by rules.
//!
//! The rules are rows of the ledger, compiled into an immutable [`RuleSet`]. A change compiles the new set inside its
//! transaction and puts it in place after COMMIT, before it is answered: whoever has seen the answer is never judged by
//! the old rules, and a change that does not commit changes nothing. An evaluation asks one set from beginning to end and
//! says which (`rule_set_hash`).
//!
//! A rule in the ledger that can no longer be compiled is an error at the start, never a rule left out: the conscience
//! fails closed.

mod defaults;
mod explain;
mod matcher;
mod model;
mod negation;
mod phrase;
mod store;
mod text;
mod words;

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::command::{Answer, Call, Entry};
use crate::ledger::{Ledger, Unit};
use crate::wire::Fault;
use crate::wire::topic::Target;

use explain::explain;
use model::Ruling;

pub use matcher::{Prepared, RuleSet};
pub use model::{AppliedRule, MAX_ACTION, MAX_RULES, Rule, Span, Stance, Thresholds, Verdict};

/// From this many bytes on an action is judged off the async runtime.
const LONG_ACTION: usize = 2_000;

/// The running service.
#[derive(Debug)]
pub struct Conscience {
    rules: RwLock<Arc<RuleSet>>,
    thresholds: Thresholds,
}

/// Every command of the conscience.
#[must_use]
pub fn commands() -> Vec<Entry<Conscience>> {
    const SERVICE: &str = "conscience";
    vec![
        Entry::read(
            SERVICE,
            "evaluate",
            "Judges an action by the rules",
            |conscience: Arc<Conscience>, _: Call, request: Evaluate| async move {
                let action = checked(request.action)?;
                if action.len() < LONG_ACTION {
                    return Ok(conscience.judge(&action).into());
                }
                let judged = tokio::task::spawn_blocking(move || conscience.judge(&action)).await;
                judged.map(Answer::from).map_err(|_| Fault::internal())
            },
        )
        .also_on(&[Target::Any]),
        Entry::read(
            SERVICE,
            "rules/list",
            "Lists the rules",
            |conscience: Arc<Conscience>, _: Call, _: ListRules| async move {
                let set = conscience.current();
                let rules = set.rules().cloned().collect();
                Ok(RuleList { rules, rule_set_hash: set.hash().to_owned() }.into())
            },
        ),
        Entry::write(
            SERVICE,
            "rules/set",
            "Adds a rule, or replaces the one of the same name",
            |conscience: &Arc<Conscience>, _, rule: Rule| {
                let (conscience, prepared) = (Arc::clone(conscience), Prepared::new(rule)?);
                Ok(move |unit: &mut Unit<'_>| {
                    let replaced = store::set(unit, prepared.rule())?;
                    let rule_set_hash = conscience.adopt(unit, Some(&prepared))?;
                    Ok(RuleChanged { name: prepared.rule().name.clone(), replaced, rule_set_hash })
                })
            },
        )
        .sensitive(),
        Entry::write(
            SERVICE,
            "rules/remove",
            "Removes a rule",
            |conscience: &Arc<Conscience>, _, request: RemoveRule| {
                let conscience = Arc::clone(conscience);
                Ok(move |unit: &mut Unit<'_>| {
                    if !store::remove(unit, &request.name)? {
                        return Err(Fault::not_found("no rule of this name"));
                    }
                    let rule_set_hash = conscience.adopt(unit, None)?;
                    Ok(RuleRemoved { name: request.name.clone(), rule_set_hash })
                })
            },
        )
        .sensitive(),
    ]
}

impl Conscience {
    /// Reads and compiles the rules; puts the default rules into a ledger that never had any.
    ///
    /// # Errors
    /// When the ledger refuses, or a rule in it cannot be compiled; the log names the rule.
    pub async fn open(ledger: &Ledger, thresholds: Thresholds) -> Result<Arc<Self>, Fault> {
        let rules = ledger
            .write(|unit| {
                store::seed(unit, &defaults::rules())?;
                store::all(unit)
            })
            .await?;
        let set = tokio::task::spawn_blocking(move || compile(rules, |_| None))
            .await
            .map_err(|_| Fault::internal())??;
        Ok(Arc::new(Self { rules: RwLock::new(Arc::new(set)), thresholds }))
    }

    /// Judges `action`. Takes microseconds for a sentence, milliseconds for the longest action.
    ///
    /// # Errors
    /// `invalid` when the action is blank or longer than [`MAX_ACTION`] characters.
    pub fn evaluate(&self, action: &str) -> Result<Verdict, Fault> {
        Ok(self.judge(&checked(action.to_owned())?))
    }

    /// The rules in force.
    #[must_use]
    pub fn current(&self) -> Arc<RuleSet> {
        // The lock guards one pointer, which is replaced whole.
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn judge(&self, action: &str) -> Verdict {
        let started = Instant::now();
        let set = self.current();
        let rules = set.apply(action);
        let (moral_score, weighted_score) = model::score(&rules);
        let ruling = self.thresholds.rule_on(moral_score);
        Verdict {
            decision_id: uuid::Uuid::now_v7().to_string(),
            approved: ruling == Ruling::Approved,
            needs_review: ruling == Ruling::NeedsReview,
            moral_score,
            weighted_score,
            explanation: explain(ruling, moral_score, &rules),
            rules,
            rule_set_hash: set.hash().to_owned(),
            judge: "rules".to_owned(),
            latency_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Compiles the rules as `unit` leaves them and puts them in force after COMMIT; their hash.
    fn adopt(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        changed: Option<&Arc<Prepared>>,
    ) -> Result<String, Fault> {
        let current = self.current();
        let known = |rule: &Rule| {
            changed.filter(|p| p.rule() == rule).map(Arc::clone).or_else(|| current.prepared(rule))
        };
        let set = Arc::new(compile(store::all(unit)?, known)?);
        let hash = set.hash().to_owned();
        let conscience = Arc::clone(self);
        unit.after_commit(move || {
            *conscience.rules.write().unwrap_or_else(PoisonError::into_inner) = set;
        });
        Ok(hash)
    }
}

/// A set of `rules`; those that `known` has are not read again.
fn compile(rules: Vec<Rule>, known: impl Fn(&Rule) -> Option<Arc<Prepared>>) -> Result<RuleSet, Fault> {
    let prepared = rules.into_iter().map(|rule| {
        known(&rule).map_or_else(
            || {
                let name = rule.name.clone();
                Prepared::new(rule).inspect_err(|fault| {
                    tracing::error!(
                        rule = name,
                        reason = fault.message,
                        "a rule in the ledger cannot be compiled"
                    );
                })
            },
            Ok,
        )
    });
    RuleSet::new(prepared.collect::<Result<Vec<_>, _>>()?)
}

fn checked(action: String) -> Result<String, Fault> {
    if action.trim().is_empty() {
        return Err(Fault::invalid("action: expected a text that is not blank"));
    }
    // A character takes at most four bytes: what is shorter than the limit in bytes need not be counted.
    if action.len() > MAX_ACTION && action.chars().count() > MAX_ACTION {
        return Err(Fault::invalid(format!("action: expected at most {MAX_ACTION} characters")));
    }
    Ok(action)
}

/// Asks whether an action may be done.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Evaluate {
    /// What is to be done, in English: 1 to 10,000 characters.
    #[schemars(length(min = 1, max = 10_000))]
    action: String,
}

/// Asks for the rules.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListRules {}

/// The rules in force.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleList {
    /// Ordered by name.
    rules: Vec<Rule>,
    /// SHA-256 of the rules, in hex.
    rule_set_hash: String,
}

/// A rule is in force.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleChanged {
    /// The rule's name.
    name: String,
    /// Whether there was one of this name before.
    replaced: bool,
    /// SHA-256 of the rules now in force, in hex.
    rule_set_hash: String,
}

/// Asks to remove a rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveRule {
    /// The rule's name.
    name: String,
}

/// A rule is no longer in force.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleRemoved {
    /// The rule's name.
    name: String,
    /// SHA-256 of the rules now in force, in hex.
    rule_set_hash: String,
}
