//! What a verdict is, and how rules that apply become one. Pure.
//!
//! The score of an action is `(V − F) / (V + F)`, where `F` is the sum of the weights of the forbidding rules it
//! breaks and `V` that of the favouring rules that speak for it; 0 when nothing (or only weight 0) applies, and −1 when a
//! rule with a veto applies. It lies in [-1, 1], and one more broken rule never raises it. A rule of weight 0 is advice: it
//! is reported, and changes nothing unless it has a veto or asks for a review.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::{Stance, is_false};

/// Where in the action a rule matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// First character, counted from 0.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
    /// The characters between.
    pub text: String,
    /// The field of a call that the match begins in, such as `args.path`; positions count in the whole action, as it is
    /// written in `action` of a recorded decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// A rule that applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppliedRule {
    /// The rule's name.
    pub name: String,
    /// Its weight, 0 to 100.
    pub weight: f64,
    /// Whether it spoke against the action, or for it.
    pub stance: Stance,
    /// Whether it refuses whatever speaks for the action.
    #[serde(default, skip_serializing_if = "is_false")]
    pub veto: bool,
    /// Whether it asks for a review instead of a refusal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub review: bool,
    /// What it matched first; absent where its Rego body alone decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<Span>,
    /// What its Rego body gave as reasons: at most eight, of 256 characters each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Whether its Rego body gave no answer: a rule that forbids then counts as broken.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unanswered: bool,
}

impl AppliedRule {
    /// Bytes of what it says.
    pub(super) fn bytes(&self) -> usize {
        let matched = self.matched.as_ref().map_or(0, |matched| matched.text.len());
        self.name.len() + matched + self.reasons.iter().map(String::len).sum::<usize>()
    }

    #[cfg(test)]
    /// A rule that applied, for tests of what comes of it.
    pub(super) fn of_weight(stance: Stance, weight: f64) -> Self {
        let (veto, review, unanswered) = (false, false, false);
        Self {
            name: "x".into(),
            weight,
            stance,
            veto,
            review,
            matched: None,
            reasons: Vec::new(),
            unanswered,
        }
    }
}

/// From which score on an action is approved, and below which it is refused. What lies between needs review.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Approved at this score and above; in [-1, 1].
    pub approve_at: f64,
    /// Refused below this score; at most `approve_at`.
    pub refuse_below: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { approve_at: 0.0, refuse_below: -0.25 }
    }
}

/// What comes of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It may be done.
    Approved,
    /// A person decides.
    NeedsReview,
    /// It may not be done.
    Refused,
}

impl Outcome {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::NeedsReview => "needs_review",
            Self::Refused => "refused",
        }
    }

    /// What [`Outcome::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Approved, Self::NeedsReview, Self::Refused].into_iter().find(|known| known.as_str() == text)
    }
}

impl Thresholds {
    /// What comes of `score` and the rules that it was made of. Rules that ask for a review do not refuse by themselves,
    /// and do not let pass either.
    pub(super) fn rule_on(self, score: f64, applied: &[AppliedRule]) -> Outcome {
        let mut against = applied.iter().filter(|rule| rule.stance == Stance::Forbids);
        if applied.iter().any(|rule| rule.veto) {
            return Outcome::Refused;
        }
        let by_score = if score >= self.approve_at {
            Outcome::Approved
        } else if score >= self.refuse_below {
            Outcome::NeedsReview
        } else {
            Outcome::Refused
        };
        if !applied.iter().any(|rule| rule.review) {
            return by_score;
        }
        match by_score {
            Outcome::Refused if against.any(|rule| !rule.review && rule.weight > 0.0) => Outcome::Refused,
            _ => Outcome::NeedsReview,
        }
    }
}

/// What the rules make of an action: everything of a verdict that depends on nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What comes of it.
    pub outcome: Outcome,
    /// See the module.
    pub moral_score: f64,
    /// See the module.
    pub weighted_score: f64,
    /// The rules that applied, ordered by name.
    pub rules: Arc<[AppliedRule]>,
    /// One or two sentences.
    pub explanation: Arc<str>,
}

/// How an action was judged.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Verdict {
    /// Names this decision; a UUID.
    pub decision_id: String,
    /// Whether the action may be done.
    pub approved: bool,
    /// Whether a person should decide; never together with `approved`.
    pub needs_review: bool,
    /// From -1 (only forbidden) to 1 (only favoured); 0 when no rule with a weight applies.
    pub moral_score: f64,
    /// Weight of the rules in favour minus weight of the rules against.
    pub weighted_score: f64,
    /// The rules that applied, with what they matched.
    pub rules: Arc<[AppliedRule]>,
    /// Why, in one or two sentences.
    pub explanation: Arc<str>,
    /// SHA-256 of the rules that were asked, in hex.
    pub rule_set_hash: Arc<str>,
    /// Who judged: `rules`, or with them the `remote` or the `local` model.
    pub judge: String,
    /// The model that judged, when one did.
    pub model: Option<String>,
    /// Whether a model should have judged, and none could: the rules judged alone.
    pub degraded: bool,
    /// Whether the same action was judged by the same rules shortly before, and this is what came of it.
    pub cached: bool,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// The review that it waits for, when it needs one: see `conscience/reviews/resolve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_id: Option<String>,
    /// The memory that keeps it, when that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_id: Option<String>,
    /// What would have come of it by the rules alone, when a model judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_rules: Option<Outcome>,
}

/// The two scores of the rules that applied: moral, in [-1, 1], and weighted, `V − F`.
pub(super) fn score(applied: &[AppliedRule]) -> (f64, f64) {
    let sum = |stance| applied.iter().filter(|a| a.stance == stance).map(|a| a.weight).sum::<f64>();
    // An empty sum of floats is -0.0.
    let (against, in_favour) = (sum(Stance::Forbids) + 0.0, sum(Stance::Favours) + 0.0);
    let weighted = in_favour - against;
    let total = in_favour + against;
    let moral = if applied.iter().any(|rule| rule.veto) {
        -1.0
    } else if total > 0.0 {
        weighted / total
    } else {
        0.0
    };
    (moral, weighted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(stance: Stance, weight: f64) -> AppliedRule {
        AppliedRule::of_weight(stance, weight)
    }

    fn outcome(rules: &[AppliedRule]) -> Outcome {
        Thresholds::default().rule_on(score(rules).0, rules)
    }

    fn any_rule(against: bool) -> impl Strategy<Value = AppliedRule> {
        (0.0..=100.0, prop::bool::weighted(0.1), prop::bool::weighted(0.3)).prop_map(
            move |(weight, veto, review)| AppliedRule {
                veto: veto && against,
                review: review && against,
                ..applied(if against { Stance::Forbids } else { Stance::Favours }, weight)
            },
        )
    }

    fn any_rules() -> impl Strategy<Value = Vec<AppliedRule>> {
        proptest::collection::vec(prop_oneof![any_rule(true), any_rule(false)], 0..12)
    }

    proptest! {
        #[test]
        fn another_broken_rule_never_raises_the_score_nor_betters_the_outcome(
            mut rules in any_rules(),
            broken in any_rule(true),
        ) {
            let (before, was) = (score(&rules), outcome(&rules));
            rules.push(broken);
            let (after, is) = (score(&rules), outcome(&rules));
            prop_assert!(after.0 <= before.0 + 1e-12, "{before:?} → {after:?}");
            prop_assert!(after.1 <= before.1 + 1e-9, "{before:?} → {after:?}");
            prop_assert!((-1.0..=1.0).contains(&after.0));
            prop_assert!(is >= was, "{was:?} → {is:?}");
        }

        #[test]
        fn nothing_lifts_a_veto(mut rules in any_rules(), favours in proptest::collection::vec(any_rule(false), 0..20)) {
            rules.push(AppliedRule { veto: true, ..applied(Stance::Forbids, 0.0) });
            rules.extend(favours);
            prop_assert_eq!((score(&rules).0, outcome(&rules)), (-1.0, Outcome::Refused));
        }
    }

    #[test]
    fn scores_follow_the_formula() {
        assert_eq!(score(&[]), (0.0, 0.0));
        assert_eq!(score(&[applied(Stance::Forbids, 10.0)]), (-1.0, -10.0));
        assert_eq!(score(&[applied(Stance::Forbids, 5.0), applied(Stance::Favours, 15.0)]), (0.5, 10.0));
        assert_eq!(score(&[applied(Stance::Forbids, 0.0)]), (0.0, 0.0));
    }

    #[test]
    fn what_lies_between_the_thresholds_needs_review() {
        let outcomes = [0.0, -0.01, -0.25, -0.26].map(|score| Thresholds::default().rule_on(score, &[]));
        use Outcome::{Approved, NeedsReview, Refused};
        assert_eq!(outcomes, [Approved, NeedsReview, NeedsReview, Refused]);
    }

    #[test]
    fn a_rule_that_asks_for_a_review_neither_refuses_nor_lets_pass() {
        let review = |weight| AppliedRule { review: true, ..applied(Stance::Forbids, weight) };
        assert_eq!(outcome(&[review(5.0)]), Outcome::NeedsReview);
        assert_eq!(outcome(&[review(0.0)]), Outcome::NeedsReview);
        assert_eq!(outcome(&[review(5.0), applied(Stance::Favours, 50.0)]), Outcome::NeedsReview);
        assert_eq!(outcome(&[review(5.0), applied(Stance::Forbids, 1.0)]), Outcome::Refused);
    }
}
