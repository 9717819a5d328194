//! What a rule is, what a verdict is, and how the one becomes the other.
//!
//! Pure. The score of an action is `(V − F) / (V + F)`, where `F` is the sum of the weights of the forbidding rules it
//! breaks and `V` that of the favouring rules that speak for it; 0 when nothing (or only weight 0) applies, and −1 when a
//! rule with a veto applies. It lies in [-1, 1], and one more broken rule never raises it. A rule of weight 0 is advice: it
//! is reported, and changes nothing unless it has a veto or asks for a review.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::{Action, Subject};
use crate::wire::{Fault, topic};

/// Most characters of an action.
pub const MAX_ACTION: usize = 10_000;
/// Most rules in a set.
pub const MAX_RULES: usize = 200;
/// Most patterns and exceptions in a set: putting a set together happens in the ledger's transaction and takes about a
/// millisecond for each thousand.
pub const MAX_SET_PATTERNS: usize = 4_000;
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 500;
const MAX_PATTERNS: usize = 128;
const MAX_PATTERN: usize = 1_000;
const MAX_WEIGHT: f64 = 100.0;
const MAX_SCOPE: usize = 64;
const MAX_EXAMPLES: usize = 64;

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

/// A rule of the conscience. Name, description and weight do for one: what it matches and its stance are then taken from
/// the description ("do not gossip about colleagues").
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called: 1 to 64 of `a` to `z`, `0` to `9` and `-`. A rule of the same name is replaced.
    pub name: String,
    /// What it demands, in a sentence: at most 500 characters.
    #[serde(default)]
    pub description: String,
    /// Why it is there, for people: at most 500 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How heavy it is: 0 (advice only) to 100.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub weight: f64,
    /// Whether it speaks against what it matches, or for it. When it is not given: `forbids` if the description denies ("do
    /// not", "never", "avoid"), else `favours`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stance: Option<Stance>,
    /// Whether an action that it matches is refused whatever speaks for it. Only for a rule that forbids.
    #[serde(default, skip_serializing_if = "is_false")]
    pub veto: bool,
    /// Whether an action that it matches waits for a person instead of being refused. Only for a rule that forbids.
    #[serde(default, skip_serializing_if = "is_false")]
    pub review: bool,
    /// At most 128 patterns of at most 1,000 characters; the rule applies when one of them matches. A pattern is a phrase, such
    /// as `hurt|injure <person>` (any inflection; `|` separates alternatives of one word; `<person>` stands for people and
    /// animals; up to three other words may stand between, and anything where `...` stands), or a regular expression
    /// between slashes. Without any they are taken from the description.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// At most 128 patterns that cancel a match: a phrase in the same sentence, a regular expression where the two overlap;
    /// also `<fiction>`, `<inquiry>` and `<care>`, which cancel matches in stories and games, in questions about what was
    /// or means, and in what prevents, reports or heals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<String>,
    /// Where it applies; everywhere when nothing is given.
    #[serde(default, skip_serializing_if = "Scope::is_everywhere")]
    pub scope: Scope,
    /// Actions that show what it means; `rules/test` tries them.
    #[serde(default, skip_serializing_if = "Examples::is_empty")]
    pub examples: Examples,
}

/// Where a rule applies: each list that is not empty must have an entry that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scope {
    /// Names of tools, `*` for any characters: at most 64. An action in words calls no tool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// MQTT topic filters for the target of a call: at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Names of entities that evaluations are about: at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entities: Vec<String>,
}

impl Scope {
    fn is_everywhere(&self) -> bool {
        self.tools.is_empty() && self.topics.is_empty() && self.entities.is_empty()
    }

    /// Whether `subject` is within it.
    #[must_use]
    pub fn admits(&self, subject: &Subject) -> bool {
        let fits = |list: &[String], found: Option<&str>, fit: fn(&str, &str) -> bool| {
            list.is_empty() || found.is_some_and(|found| list.iter().any(|wanted| fit(wanted, found)))
        };
        fits(&self.tools, subject.tool(), glob)
            && fits(&self.topics, subject.target(), topic::matches)
            && fits(&self.entities, subject.entity(), |wanted, found| wanted == found)
    }

    fn check(&self) -> Result<(), Fault> {
        for (field, list) in
            [("scope.tools", &self.tools), ("scope.topics", &self.topics), ("scope.entities", &self.entities)]
        {
            if list.len() > MAX_SCOPE || list.iter().any(|entry| entry.is_empty() || entry.len() > 256) {
                return Err(Fault::invalid(format!("{field}: expected at most 64 of 1 to 256 bytes")));
            }
        }
        if self.topics.iter().any(|filter| !topic::is_filter(filter)) {
            return Err(Fault::invalid("scope.topics: expected MQTT topic filters"));
        }
        Ok(())
    }
}

/// Actions that show what a rule means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Examples {
    /// It applies to these: at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub applies: Vec<Action>,
    /// It does not apply to these: at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spares: Vec<Action>,
}

impl Examples {
    fn is_empty(&self) -> bool {
        self.applies.is_empty() && self.spares.is_empty()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Whether `pattern`, with `*` for any characters, is `text`.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(tail)
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
        for (field, text) in [("description", &self.description), ("reason", &self.reason)] {
            if text.chars().count() > MAX_DESCRIPTION {
                return Err(Fault::invalid(format!("{field}: expected at most 500 characters")));
            }
        }
        // CBOR can carry NaN and infinities; a range contains neither.
        if !(0.0..=MAX_WEIGHT).contains(&self.weight) {
            return Err(Fault::invalid("weight: expected a number from 0 to 100"));
        }
        if self.stance == Some(Stance::Favours) && (self.veto || self.review) {
            let field = if self.veto { "veto" } else { "review" };
            return Err(Fault::invalid(format!("{field}: expected it with a rule that forbids")));
        }
        for (field, patterns) in [("patterns", &self.patterns), ("exceptions", &self.exceptions)] {
            if patterns.len() > MAX_PATTERNS {
                return Err(Fault::invalid(format!("{field}: expected at most {MAX_PATTERNS}")));
            }
            if let Some(at) = patterns.iter().position(|p| p.chars().count() > MAX_PATTERN) {
                return Err(Fault::invalid(format!(
                    "{field}[{at}]: expected at most {MAX_PATTERN} characters"
                )));
            }
        }
        for (field, examples) in
            [("examples.applies", &self.examples.applies), ("examples.spares", &self.examples.spares)]
        {
            if examples.len() > MAX_EXAMPLES {
                return Err(Fault::invalid(format!("{field}: expected at most {MAX_EXAMPLES}")));
            }
            for example in examples {
                Subject::new(example, None, None)
                    .map_err(|fault| Fault::invalid(format!("{field}: {}", fault.message)))?;
            }
        }
        self.scope.check()
    }
}

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
    pub rules: Vec<AppliedRule>,
    /// One or two sentences.
    pub explanation: String,
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
    /// The model that judged, when one did.
    pub model: Option<String>,
    /// Whether a judge that should have spoken could not.
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
        let matched = Span { start: 0, end: 0, text: String::new(), field: None };
        AppliedRule { name: "x".into(), weight, stance, veto: false, review: false, matched }
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

    #[test]
    fn a_scope_admits_what_it_names() {
        let call = |tool: &str, target: &str, entity| {
            let action = serde_json::json!({ "tool": tool, "target": target });
            Subject::new(&serde_json::from_value(action).unwrap(), None, entity).unwrap()
        };
        let list = |entry: &str| vec![entry.to_owned()];
        let tools = Scope { tools: list("fs.*_file"), ..Scope::default() };
        assert!(tools.admits(&call("fs.delete_file", "x", None)));
        assert!(
            !tools.admits(&call("fs.delete_folder", "x", None))
                && !tools.admits(&Subject::of_text("fs.x_file"))
        );
        let topics = Scope { topics: list("home/+/lock"), ..Scope::default() };
        assert!(topics.admits(&call("publish", "home/door/lock", None)));
        assert!(!topics.admits(&call("publish", "home/door/bell", None)));
        let entities = Scope { entities: list("bob"), ..tools };
        assert!(entities.admits(&call("fs.a_file", "x", Some("bob"))));
        assert!(!entities.admits(&call("fs.a_file", "x", Some("eve"))));
        assert!(Scope::default().admits(&Subject::of_text("anything")));
    }

    #[test]
    fn each_field_has_its_bounds() {
        let good = Rule {
            name: "no-spam".into(),
            weight: 100.0,
            stance: Some(Stance::Forbids),
            patterns: vec!["x".repeat(1_000); 128],
            ..Rule::default()
        };
        assert_eq!(good.check(), Ok(()));
        let wrong: [&dyn Fn(&mut Rule); 14] = [
            &|r| r.name.clear(),
            &|r| r.name = "No".into(),
            &|r| r.name = "x".repeat(65),
            &|r| r.description = "x".repeat(501),
            &|r| r.weight = -1.0,
            &|r| r.weight = f64::NAN,
            &|r| r.weight = f64::INFINITY,
            &|r| r.patterns.push(String::new()),
            &|r| r.patterns[127].push('x'),
            &|r| r.exceptions = vec!["x".repeat(1_001)],
            &|r| r.reason = "x".repeat(501),
            &|r| (r.stance, r.veto) = (Some(Stance::Favours), true),
            &|r| r.scope.topics = vec!["a/#/b".into()],
            &|r| r.examples.spares = vec![Action::Text(" ".into())],
        ];
        for change in wrong {
            let mut rule = good.clone();
            change(&mut rule);
            assert!(rule.check().is_err(), "{rule:?}");
        }
    }
}
