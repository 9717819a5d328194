//! Trying rules without putting them in force: against their own examples, and against decisions that were made.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::{Action, Subject};
use super::decisions::{self, Decision, ListDecisions};
use super::evaluate::weigh;
use super::model::{Rule, is_false};
use super::prepared::Prepared;
use super::service::Conscience;
use super::set::RuleSet;
use super::verdict::Outcome;
use crate::clock::Timestamp;
use crate::policy::EVALUATION_LIMIT;
use crate::wire::Fault;

/// Most decisions that one dry run judges again.
const MAX_EXAMINED: u32 = 1_000;

/// Longest time that rules are tried: only Rego bodies without measure get there.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Most changed decisions that are listed.
const MAX_LISTED: usize = 100;

/// Asks whether rules do what their examples say.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestRules {
    /// These rules, which are not put in force; the rules in force when absent.
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    /// Only the rule of this name.
    #[serde(default)]
    name: Option<String>,
}

/// What came of the examples.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Tested {
    /// Whether all came out as they should.
    passed: bool,
    /// How many rules were tested.
    rules: usize,
    /// How many examples they have.
    examples: usize,
    /// Those that came out otherwise.
    failures: Vec<Failure>,
}

/// An example that did not come out as it should.
#[derive(Debug, Serialize, JsonSchema)]
struct Failure {
    /// The rule's name.
    rule: String,
    /// The example.
    action: Action,
    /// Whether the rule should apply to it.
    expected: bool,
    /// What the rule matched, where it should not.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
    /// Whether the rule's Rego body gave no answer.
    #[serde(skip_serializing_if = "is_false")]
    unanswered: bool,
}

/// Asks what rules would have made of recorded decisions.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Simulate {
    /// Rules that are added to those in force, or replace those of the same name.
    #[serde(default)]
    set: Vec<Rule>,
    /// Names of rules that are left out.
    #[serde(default)]
    remove: Vec<String>,
    /// Whether `set` is the whole rule set.
    #[serde(default)]
    only: bool,
    /// Only decisions made at this time or later.
    #[serde(default)]
    from: Option<Timestamp>,
    /// Only decisions made before this time.
    #[serde(default)]
    to: Option<Timestamp>,
    /// Most decisions, the newest first, from 1 to 1,000; 1,000 by default.
    #[serde(default = "default_examined")]
    #[schemars(range(min = 1, max = 1_000))]
    limit: u32,
}

const fn default_examined() -> u32 {
    MAX_EXAMINED
}

/// What would have changed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Simulated {
    /// How many decisions were judged again.
    examined: usize,
    /// How many would have come out otherwise.
    changed: usize,
    /// At most 100 of those, the newest first.
    changes: Vec<Change>,
    /// SHA-256 of the rules that were tried, in hex.
    rule_set_hash: Arc<str>,
}

/// A decision that would have come out otherwise.
#[derive(Debug, Serialize, JsonSchema)]
struct Change {
    /// The decision.
    decision_id: String,
    /// When it was made.
    at: Timestamp,
    /// What was to be done.
    action: Action,
    /// What the rules made of it.
    was: Outcome,
    /// What would have come of it.
    becomes: Outcome,
    /// The score that it had.
    moral_score_was: f64,
    /// The score that it would have had.
    moral_score_becomes: f64,
    /// Names of the rules that would have applied.
    rules: Vec<String>,
}

impl Conscience {
    /// Tries rules against their examples. Takes milliseconds: not for the async runtime.
    ///
    /// # Errors
    /// `invalid` when a rule is wrong, `not_found` when no rule has the name.
    pub(super) fn test_rules(&self, request: TestRules) -> Result<Tested, Fault> {
        let set = match request.rules {
            Some(rules) => Arc::new(RuleSet::new(prepare(rules)?)?),
            None => self.current(),
        };
        let chosen: Vec<_> =
            set.rules().filter(|rule| request.name.as_ref().is_none_or(|name| *name == rule.name)).collect();
        if chosen.is_empty() && request.name.is_some() {
            return Err(Fault::not_found("no rule of this name"));
        }
        let patience = Patience::begin();
        let mut tested = Tested { passed: true, rules: chosen.len(), examples: 0, failures: Vec::new() };
        for rule in chosen {
            let applies = rule.examples.applies.iter().map(|action| (action, true));
            for (action, expected) in applies.chain(rule.examples.spares.iter().map(|action| (action, false)))
            {
                tested.examples += 1;
                // A rule may be for some targets or entities alone: its examples are meant to be within its scope.
                let entity = rule.scope.entities.first().cloned();
                let found = set.apply(&Subject::new(action.clone(), None, entity)?);
                patience.check()?;
                let applied = found.into_iter().find(|applied| applied.name == rule.name);
                let unanswered = applied.as_ref().is_some_and(|applied| applied.unanswered);
                if applied.is_some() != expected || unanswered {
                    tested.failures.push(Failure {
                        rule: rule.name.clone(),
                        action: action.clone(),
                        expected,
                        matched: applied.and_then(|applied| applied.matched).map(|matched| matched.text),
                        unanswered,
                    });
                }
            }
        }
        tested.passed = tested.failures.is_empty();
        Ok(tested)
    }

    /// Judges recorded decisions again by other rules. Changes nothing.
    ///
    /// # Errors
    /// `invalid` when a rule or range is wrong; when the ledger cannot be read.
    pub(super) async fn simulate(self: Arc<Self>, request: Simulate) -> Result<Simulated, Fault> {
        if !(1..=MAX_EXAMINED).contains(&request.limit) {
            return Err(Fault::invalid(format!("limit: expected a number from 1 to {MAX_EXAMINED}")));
        }
        self.flush().await?;
        let wanted =
            ListDecisions { from: request.from, to: request.to, limit: request.limit, ..Default::default() };
        let found = self.ledger().read(move |connection| decisions::list(connection, &wanted)).await?;
        tokio::task::spawn_blocking(move || self.judge_again(request, found.decisions))
            .await
            .map_err(|_| Fault::internal())?
    }

    fn judge_again(&self, request: Simulate, decisions: Vec<Decision>) -> Result<Simulated, Fault> {
        let current = self.current();
        let mut rules = prepare(request.set)?;
        let is_there = |name: &String| current.rules().any(|rule| rule.name == *name);
        if let Some(missing) = request.remove.iter().find(|name| !is_there(name)) {
            return Err(Fault::not_found(format!("no rule is called {missing:?}")));
        }
        if !request.only {
            let kept = current.rules().filter(|rule| !request.remove.contains(&rule.name));
            let kept: Vec<_> = kept.filter_map(|rule| current.prepared(rule)).collect();
            // Of two with the same name the later one counts.
            rules = kept.into_iter().chain(rules).collect();
        }
        let set = RuleSet::new(rules)?;
        let mut simulated = Simulated {
            examined: decisions.len(),
            changed: 0,
            changes: Vec::new(),
            rule_set_hash: Arc::clone(set.hash()),
        };
        let patience = Patience::begin();
        for decision in decisions {
            let subject = Subject::new(decision.action, decision.context, decision.entity)?;
            let judgement = weigh(&set, &subject, self.thresholds(), EVALUATION_LIMIT);
            patience.check()?;
            // What a model made of it is not the rules'.
            let was = decision.by_rules.unwrap_or(decision.outcome);
            if judgement.outcome == was {
                continue;
            }
            simulated.changed += 1;
            if simulated.changes.len() < MAX_LISTED {
                simulated.changes.push(Change {
                    decision_id: decision.decision_id,
                    at: decision.at,
                    action: subject.action().clone(),
                    was,
                    becomes: judgement.outcome,
                    moral_score_was: decision.moral_score,
                    moral_score_becomes: judgement.moral_score,
                    rules: judgement.rules.iter().map(|rule| rule.name.clone()).collect(),
                });
            }
        }
        Ok(simulated)
    }
}

/// How long rules are tried, whoever sent them.
struct Patience(Instant);

impl Patience {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn check(&self) -> Result<(), Fault> {
        if self.0.elapsed() > MAX_TIME {
            return Err(Fault::invalid("rego: expected rules that judge these actions within ten seconds"));
        }
        Ok(())
    }
}

/// Reads the patterns of `rules`.
pub(super) fn prepare(rules: Vec<Rule>) -> Result<Vec<Arc<Prepared>>, Fault> {
    let mut names = HashSet::new();
    if let Some(twice) = rules.iter().find(|rule| !names.insert(rule.name.as_str())) {
        return Err(Fault::invalid(format!("rule {:?}: expected each name once", twice.name)));
    }
    rules
        .into_iter()
        .map(|rule| {
            let name = rule.name.clone();
            prepare_one(rule).map_err(|fault| Fault::invalid(format!("rule {name:?}: {}", fault.message)))
        })
        .collect()
}

/// A rule that someone asks to be taken: it has to say what it is about. Its name alone does not.
pub(super) fn prepare_one(rule: Rule) -> Result<Arc<Prepared>, Fault> {
    if rule.patterns.is_empty() && rule.rego.is_none() && rule.description.trim().is_empty() {
        return Err(Fault::invalid(
            "patterns: expected at least one, or a description that says what is meant",
        ));
    }
    Prepared::new(rule)
}

/// A whole rule set from the configuration, checked before anything is opened.
///
/// # Errors
/// `invalid`, with the rule and what is wrong.
pub fn check_rules(rules: Vec<Rule>) -> Result<(), Fault> {
    RuleSet::new(prepare(rules)?).map(drop)
}
