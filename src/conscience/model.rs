//! What a rule is, what a verdict is, and how the one becomes the other.
//!
//! Pure. The score of an action is `(V − F) / (V + F)`, where `F` is the sum of the weights of the forbidding rules it
//! breaks and `V` that of the favouring rules that speak for it; 0 when nothing (or only weight 0) applies. It lies in
//! [-1, 1], and one more broken rule never raises it. A rule of weight 0 is advice: it is reported, and changes nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::Fault;

/// Most characters of an action.
pub const MAX_ACTION: usize = 10_000;
/// Most rules in a set.
pub const MAX_RULES: usize = 200;
/// Most patterns in a set: putting a set together happens in the ledger's transaction and takes about a millisecond for
/// each thousand.
pub const MAX_SET_PATTERNS: usize = 2_000;
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 500;
const MAX_PATTERNS: usize = 64;
const MAX_PATTERN: usize = 200;
const MAX_WEIGHT: f64 = 100.0;

/// Whether a rule speaks against what it matches, or for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stance {
    /// A match lowers the score.
    Forbids,
    /// A match raises the score.
    Favours,
}

impl Stance {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbids => "forbids",
            Self::Favours => "favours",
        }
    }

    /// What [`Stance::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "forbids" => Some(Self::Forbids),
            "favours" => Some(Self::Favours),
            _ => None,
        }
    }
}

/// A rule of the conscience.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called: 1 to 64 of `a` to `z`, `0` to `9` and `-`. A rule of the same name is replaced.
    pub name: String,
    /// What it is about, for people: at most 500 characters.
    #[serde(default)]
    pub description: String,
    /// How heavy it is: 0 (advice only) to 100.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub weight: f64,
    /// Whether it speaks against what it matches, or for it.
    pub stance: Stance,
    /// At most 64 patterns of at most 200 characters; the rule applies when one of them matches. A pattern is a phrase, such
    /// as `hurt|injure <person>` (any inflection; `|` separates alternatives of one word; `<person>` stands for people and
    /// animals; up to two other words may stand between), or a regular expression between slashes.
    #[serde(default)]
    pub patterns: Vec<String>,
}

impl Rule {
    /// Checks everything but the patterns' own syntax, which compiling them checks.
    ///
    /// # Errors
    /// `invalid`, with what is wrong and what would be right.
    pub fn check(&self) -> Result<(), Fault> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(allowed) {
            return Err(Fault::invalid("name: expected 1 to 64 of a-z, 0-9 and -"));
        }
        if self.description.chars().count() > MAX_DESCRIPTION {
            return Err(Fault::invalid("description: expected at most 500 characters"));
        }
        // CBOR can carry NaN and infinities; a range contains neither.
        if !(0.0..=MAX_WEIGHT).contains(&self.weight) {
            return Err(Fault::invalid("weight: expected a number from 0 to 100"));
        }
        if self.patterns.len() > MAX_PATTERNS {
            return Err(Fault::invalid("patterns: expected at most 64"));
        }
        if let Some(at) = self.patterns.iter().position(|p| p.chars().count() > MAX_PATTERN) {
            return Err(Fault::invalid(format!("patterns[{at}]: expected at most 200 characters")));
        }
        Ok(())
    }
}

/// Where in the action a rule matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Span {
    /// First character, counted from 0.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
    /// The characters between.
    pub text: String,
}

/// A rule that applied.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AppliedRule {
    /// The rule's name.
    pub name: String,
    /// Its weight, 0 to 100.
    pub weight: f64,
    /// Whether it spoke against the action, or for it.
    pub stance: Stance,
    /// What it matched first.
    pub matched: Span,
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

/// What comes of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Approved,
    NeedsReview,
    Refused,
}

impl Thresholds {
    pub(super) fn rule_on(self, score: f64) -> Ruling {
        if score >= self.approve_at {
            Ruling::Approved
        } else if score >= self.refuse_below {
            Ruling::NeedsReview
        } else {
            Ruling::Refused
        }
    }
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
    pub rules: Vec<AppliedRule>,
    /// Why, in one or two sentences.
    pub explanation: String,
    /// SHA-256 of the rules that were asked, in hex.
    pub rule_set_hash: String,
    /// Who judged: `rules`.
    pub judge: String,
    /// How long it took, in microseconds.
    pub latency_us: u64,
}

/// The two scores of the rules that applied: moral, in [-1, 1], and weighted, `V − F`.
pub(super) fn score(applied: &[AppliedRule]) -> (f64, f64) {
    let sum = |stance| applied.iter().filter(|a| a.stance == stance).map(|a| a.weight).sum::<f64>();
    // An empty sum of floats is -0.0.
    let (against, in_favour) = (sum(Stance::Forbids) + 0.0, sum(Stance::Favours) + 0.0);
    let weighted = in_favour - against;
    let total = in_favour + against;
    (if total > 0.0 { weighted / total } else { 0.0 }, weighted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(stance: Stance, weight: f64) -> AppliedRule {
        let matched = Span { start: 0, end: 0, text: String::new() };
        AppliedRule { name: "x".into(), weight, stance, matched }
    }

    fn any_rules() -> impl Strategy<Value = Vec<AppliedRule>> {
        let one = (any::<bool>(), 0.0..=100.0).prop_map(|(against, weight)| {
            applied(if against { Stance::Forbids } else { Stance::Favours }, weight)
        });
        proptest::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn another_broken_rule_never_raises_the_score(mut rules in any_rules(), weight in 0.0..=100.0) {
            let before = score(&rules).0;
            rules.push(applied(Stance::Forbids, weight));
            let after = score(&rules).0;
            prop_assert!(after <= before + 1e-12, "{before} → {after}");
            prop_assert!((-1.0..=1.0).contains(&after));
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
        let rulings = [0.0, -0.01, -0.25, -0.26].map(|s| Thresholds::default().rule_on(s));
        assert_eq!(rulings, [Ruling::Approved, Ruling::NeedsReview, Ruling::NeedsReview, Ruling::Refused]);
    }

    #[test]
    fn each_field_has_its_bounds() {
        let good = Rule {
            name: "no-spam".into(),
            description: String::new(),
            weight: 100.0,
            stance: Stance::Forbids,
            patterns: vec!["x".repeat(200); 64],
        };
        assert_eq!(good.check(), Ok(()));
        let wrong: [&dyn Fn(&mut Rule); 9] = [
            &|r| r.name.clear(),
            &|r| r.name = "No".into(),
            &|r| r.name = "x".repeat(65),
            &|r| r.description = "x".repeat(501),
            &|r| r.weight = -1.0,
            &|r| r.weight = f64::NAN,
            &|r| r.weight = f64::INFINITY,
            &|r| r.patterns.push(String::new()),
            &|r| r.patterns[63].push('x'),
        ];
        for change in wrong {
            let mut rule = good.clone();
            change(&mut rule);
            assert!(rule.check().is_err(), "{rule:?}");
        }
    }
}
