//! What a rule is: its fields, their bounds, and where it applies. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::{Action, Subject};
use crate::wire::{Fault, topic};

/// Most characters of an action.
pub const MAX_ACTION: usize = 10_000;
/// Most rules in a set.
pub const MAX_RULES: usize = 200;
/// Most rules with a Rego body in a set: each of them may be asked in an evaluation.
pub const MAX_BODIES: usize = 32;
/// Most patterns and exceptions in a set: putting a set together happens in the ledger's transaction and takes about a
/// millisecond for each thousand.
pub const MAX_SET_PATTERNS: usize = 4_000;
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 500;
const MAX_PATTERNS: usize = 128;
const MAX_PATTERN: usize = 1_000;
const MAX_REGO: usize = 8_000;
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
    /// animals; up to three other words may stand between, and anything where `...` stands; the sentence must also hold what stands
    /// after `&`, and must not hold what stands after `~`), or a regular expression between slashes. Without any they are
    /// taken from the description.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// At most 128 patterns that cancel a match: a phrase in the same sentence, a regular expression where the two overlap;
    /// also `<fiction>`, `<world>`, `<inquiry>` and `<care>`, which cancel matches in stories and games, in worlds that were
    /// made up, in questions about what was or means, and in what prevents, reports or heals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<String>,
    /// A policy in Rego over the structured action, at most 8,000 bytes: `package orchd.rule`, whose rule `applies` is a boolean,
    /// a text or a set of texts (the reasons). With patterns it has to hold where one of them matches; without any it decides
    /// alone. At most 32 rules have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rego: Option<String>,
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
pub(super) const fn is_false(value: &bool) -> bool {
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
                Subject::new(example.clone(), None, None)
                    .map_err(|fault| Fault::invalid(format!("{field}: {}", fault.message)))?;
            }
        }
        if self.rego.as_ref().is_some_and(|text| text.len() > MAX_REGO) {
            return Err(Fault::invalid(format!("rego: expected at most {MAX_REGO} bytes")));
        }
        if self.rego.is_some() && self.patterns.is_empty() && !self.exceptions.is_empty() {
            return Err(Fault::invalid(
                "exceptions: expected patterns too, as they cancel matches of patterns",
            ));
        }
        self.scope.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_admits_what_it_names() {
        let call = |tool: &str, target: &str, entity: Option<&str>| {
            let action = serde_json::json!({ "tool": tool, "target": target });
            let entity = entity.map(str::to_owned);
            Subject::new(serde_json::from_value(action).unwrap(), None, entity).unwrap()
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
