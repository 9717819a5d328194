//! A rule set, compiled: which rules apply to a text, and where.
//!
//! Pure and immutable: a change of the rules makes a new set, and an evaluation keeps the one it began with. Each word of
//! a text is stemmed once and looked up once; only phrases that begin with that word are tried there, so the cost hardly
//! depends on the number of rules. A set holds what its rules need and nothing of the texts it has seen.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

use rust_stemmers::{Algorithm, Stemmer};

use super::model::{AppliedRule, MAX_RULES, MAX_SET_PATTERNS, Rule, Span};
use super::negation;
use super::phrase::{self, MAX_GAP, Pattern, Step};
use super::text::{self, Break, Token};
use super::words;
use crate::wire::Fault;

/// A rule whose patterns have been read. Reading is the costly part (regular expressions above all), so a new set takes
/// over those of the rules that did not change.
#[derive(Clone, Debug)]
pub struct Prepared {
    rule: Rule,
    patterns: Vec<Pattern>,
}

impl Prepared {
    /// Checks `rule` and reads its patterns. May take milliseconds: not for the ledger's writer when it can be avoided.
    ///
    /// # Errors
    /// `invalid`, with the field, what is wrong and what would be right.
    pub fn new(rule: Rule) -> Result<Arc<Self>, Fault> {
        rule.check()?;
        let stemmer = Stemmer::create(Algorithm::English);
        let patterns = rule
            .patterns
            .iter()
            .enumerate()
            .map(|(at, source)| {
                Pattern::parse(source, &stemmer)
                    .map_err(|error| Fault::invalid(format!("patterns[{at}]: {error}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { rule, patterns }))
    }

    /// The rule as it was given.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }
}

/// How many words back a pronoun may find what it means.
const LOOK_BACK: usize = 40;

/// Names a stem within one set.
type Word = u32;

/// What a stem is, apart from the phrases it occurs in.
#[derive(Clone, Copy, Debug, Default)]
struct Role {
    person: bool,
    thing: bool,
}

#[derive(Debug)]
struct Phrase {
    rule: usize,
    steps: Vec<CompiledStep>,
}

#[derive(Debug)]
struct CompiledStep {
    words: Vec<Word>,
    person: bool,
}

/// Rules in the order of their names, ready to be asked.
pub struct RuleSet {
    rules: Vec<Arc<Prepared>>,
    hash: String,
    stemmer: Stemmer,
    vocabulary: HashMap<String, Word>,
    roles: Vec<Role>,
    phrases: Vec<Phrase>,
    /// For each word, the phrases that can begin with it.
    beginning_with: Vec<Vec<usize>>,
    beginning_with_person: Vec<usize>,
    /// Which words begin a phrase of which rule.
    openers: HashSet<(usize, Word)>,
}

/// Where a rule matched, in bytes.
#[derive(Clone, Copy, Debug)]
struct Hit {
    start: usize,
    end: usize,
}

impl RuleSet {
    /// Puts rules together. Of two with the same name the later one counts.
    ///
    /// # Errors
    /// `invalid` when there are more than [`MAX_RULES`], or more than [`MAX_SET_PATTERNS`] patterns in them.
    pub fn new(rules: impl IntoIterator<Item = Arc<Prepared>>) -> Result<Self, Fault> {
        let by_name: std::collections::BTreeMap<String, Arc<Prepared>> =
            rules.into_iter().map(|p| (p.rule.name.clone(), p)).collect();
        if by_name.len() > MAX_RULES {
            return Err(Fault::invalid(format!("rules: expected at most {MAX_RULES}; remove one first")));
        }
        let rules: Vec<_> = by_name.into_values().collect();
        if rules.iter().map(|p| p.patterns.len()).sum::<usize>() > MAX_SET_PATTERNS {
            return Err(Fault::invalid(format!(
                "patterns: expected at most {MAX_SET_PATTERNS} in all rules together; remove some first"
            )));
        }
        let mut set = Self {
            hash: hash(&rules)?,
            rules: Vec::new(),
            stemmer: Stemmer::create(Algorithm::English),
            vocabulary: HashMap::new(),
            roles: Vec::new(),
            phrases: Vec::new(),
            beginning_with: Vec::new(),
            beginning_with_person: Vec::new(),
            openers: HashSet::new(),
        };
        for (list, role) in [
            (words::PERSONS, Role { person: true, thing: false }),
            (words::THINGS, Role { person: false, thing: true }),
        ] {
            for word in list.split_whitespace() {
                let word = set.intern(phrase::stem(&set.stemmer, word));
                set.roles[word as usize] = role;
            }
        }
        for (at, prepared) in rules.iter().enumerate() {
            for pattern in &prepared.patterns {
                if let Pattern::Phrase(steps) = pattern {
                    set.add_phrase(at, steps);
                }
            }
        }
        set.rules = rules;
        Ok(set)
    }

    fn intern(&mut self, stem: String) -> Word {
        // A set has at most 2,000 patterns of 200 characters, so the number fits.
        let next = self.roles.len() as Word;
        let word = *self.vocabulary.entry(stem).or_insert(next);
        if word == next {
            self.roles.push(Role::default());
            self.beginning_with.push(Vec::new());
        }
        word
    }

    fn add_phrase(&mut self, rule: usize, steps: &[Step]) {
        let steps: Vec<_> = steps
            .iter()
            .map(|step| CompiledStep {
                words: step.stems.iter().map(|s| self.intern(s.clone())).collect(),
                person: step.person,
            })
            .collect();
        let Some(first) = steps.first() else { return };
        let at = self.phrases.len();
        for &word in &first.words {
            self.beginning_with[word as usize].push(at);
            self.openers.insert((rule, word));
        }
        if first.person {
            self.beginning_with_person.push(at);
        }
        self.phrases.push(Phrase { rule, steps });
    }

    /// The rules, ordered by name.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter().map(|p| &p.rule)
    }

    /// The rule as it was read, if this very rule is in the set.
    #[must_use]
    pub fn prepared(&self, rule: &Rule) -> Option<Arc<Prepared>> {
        let at = self.rules.binary_search_by(|p| p.rule.name.cmp(&rule.name)).ok()?;
        (self.rules[at].rule == *rule).then(|| Arc::clone(&self.rules[at]))
    }

    /// SHA-256 over the rules as JSON, ordered by name; hex.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The rules that apply to `text`, in the order of their names, each with its first match that no negation cancels.
    #[must_use]
    pub fn apply(&self, text: &str) -> Vec<AppliedRule> {
        let reading = Reading::new(self, text);
        let mut hits: Vec<Option<Hit>> = vec![None; self.rules.len()];
        for at in 0..reading.tokens.len() {
            let by_word = reading.words[at].map_or(&[][..], |w| &self.beginning_with[w as usize]);
            let by_person = if reading.is_person(at) { &self.beginning_with_person[..] } else { &[] };
            for &candidate in by_word.iter().chain(by_person) {
                let phrase = &self.phrases[candidate];
                if hits[phrase.rule].is_none()
                    && let Some(last) = reading.matches(&phrase.steps, at)
                    && !reading.describes(at)
                    && !reading.cancelled(phrase.rule, at)
                {
                    let (start, end) = (reading.tokens[at].start, reading.tokens[last].end);
                    hits[phrase.rule] = Some(Hit { start, end });
                }
            }
        }
        for (at, prepared) in self.rules.iter().enumerate() {
            let mut regexes = prepared.patterns.iter().filter_map(|p| match p {
                Pattern::Regex(regex) => Some(regex),
                Pattern::Phrase(_) => None,
            });
            if hits[at].is_none() {
                hits[at] = regexes.find_map(|r| {
                    r.find_iter(text)
                        .find(|m| !reading.cancelled_at(at, m.start()))
                        .map(|m| Hit { start: m.start(), end: m.end() })
                });
            }
        }
        let applied = |(prepared, hit): (&Arc<Prepared>, Option<Hit>)| {
            let rule = &prepared.rule;
            let matched = span(text, hit?);
            Some(AppliedRule { name: rule.name.clone(), weight: rule.weight, stance: rule.stance, matched })
        };
        self.rules.iter().zip(hits).filter_map(applied).collect()
    }
}

impl std::fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleSet").field("rules", &self.rules.len()).field("hash", &self.hash).finish()
    }
}

/// A text, looked up in a set.
struct Reading<'s> {
    set: &'s RuleSet,
    tokens: Vec<Token>,
    words: Vec<Option<Word>>,
}

impl<'s> Reading<'s> {
    fn new(set: &'s RuleSet, text: &str) -> Self {
        let tokens = text::tokens(text);
        let words = tokens.iter().map(|t| set.vocabulary.get(&*set.stemmer.stem(&t.word)).copied()).collect();
        Self { set, tokens, words }
    }

    fn role(&self, at: usize) -> Role {
        self.words[at].map_or_else(Role::default, |w| self.set.roles[w as usize])
    }

    /// Whether word `at` means a person here: not one that only describes a thing ("the child process", "shoot me an
    /// email"), and not a pronoun that means things ("list the processes and kill them").
    fn is_person(&self, at: usize) -> bool {
        if !self.role(at).person {
            return false;
        }
        let mut next = at + 1;
        while next < self.tokens.len()
            && self.tokens[next].before == Break::None
            && words::is_determiner(&self.tokens[next].word)
        {
            next += 1;
        }
        if next < self.tokens.len() && self.tokens[next].before == Break::None && self.role(next).thing {
            return false;
        }
        if self.tokens[at].word != "them" {
            return true;
        }
        let meant =
            (at.saturating_sub(LOOK_BACK)..at).rev().map(|i| self.role(i)).find(|r| r.person || r.thing);
        !meant.is_some_and(|r| r.thing)
    }

    fn is(&self, step: &CompiledStep, at: usize) -> bool {
        self.words[at].is_some_and(|w| step.words.contains(&w)) || step.person && self.is_person(at)
    }

    /// The last word of the shortest match of `steps` that begins at `first`.
    fn matches(&self, steps: &[CompiledStep], first: usize) -> Option<usize> {
        let (head, rest) = steps.split_first()?;
        if !self.is(head, first) {
            return None;
        }
        // All places where the steps so far can end: no backtracking, whatever the pattern.
        let mut ends = vec![first];
        for step in rest {
            let mut next = Vec::new();
            for &end in &ends {
                self.reach(step, end, &mut next);
            }
            next.sort_unstable();
            next.dedup();
            if next.is_empty() {
                return None;
            }
            ends = next;
        }
        ends.first().copied()
    }

    /// Adds to `found` where `step` can follow a step that ended at `end`.
    fn reach(&self, step: &CompiledStep, end: usize, found: &mut Vec<usize>) {
        let mut gap = 0;
        for at in end + 1..self.tokens.len().min(end + 10) {
            let token = &self.tokens[at];
            if token.before != Break::None {
                return;
            }
            if self.is(step, at) {
                found.push(at);
            }
            let word = token.word.as_str();
            let previous = self.tokens[at - 1].word.as_str();
            let joins = matches!(word, "and" | "or");
            // "that" points at what follows only at the start: "kill that man", but "the problem that people have".
            let determines = words::is_determiner(word) && (word != "that" || at == end + 1);
            if joins && at != end + 1
                || words::ends_phrase(word)
                    && !determines
                    && !(word == "of" && words::is_quantifier(previous))
            {
                return;
            }
            if !determines && !joins && word != "of" {
                gap += 1;
                if gap > MAX_GAP {
                    return;
                }
            }
        }
    }

    /// Whether word `at` is a participle that only describes what follows: "the injured man", "treat injured people".
    fn describes(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        if at == 0 || token.before != Break::None || !token.word.ends_with("ed") {
            return false;
        }
        let previous = self.tokens[at - 1].word.as_str();
        words::is_determiner(previous) || words::ends_phrase(previous) || words::helps(previous)
    }

    fn cancelled(&self, rule: usize, first: usize) -> bool {
        negation::cancels(&self.tokens, first, |at| {
            self.words[at].is_some_and(|w| self.set.openers.contains(&(rule, w)))
        })
    }

    /// As [`Reading::cancelled`], for a match that begins at a byte.
    fn cancelled_at(&self, rule: usize, byte: usize) -> bool {
        let first = self.tokens.partition_point(|t| t.end <= byte);
        first < self.tokens.len() && self.cancelled(rule, first)
    }
}

fn span(text: &str, hit: Hit) -> Span {
    let matched = &text[hit.start..hit.end];
    let start = text[..hit.start].chars().count();
    Span { start, end: start + matched.chars().count(), text: matched.to_owned() }
}

fn hash(rules: &[Arc<Prepared>]) -> Result<String, Fault> {
    let rules: Vec<_> = rules.iter().map(|p| &p.rule).collect();
    let canonical = serde_json::to_vec(&rules).map_err(|_| Fault::internal())?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &canonical);
    Ok(digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conscience::Stance;
    use proptest::prelude::*;

    fn set(patterns: &[&str]) -> RuleSet {
        RuleSet::new([Prepared::new(rule("r", patterns)).unwrap()]).unwrap()
    }

    fn rule(name: &str, patterns: &[&str]) -> Rule {
        Rule {
            name: name.to_owned(),
            description: String::new(),
            weight: 1.0,
            stance: Stance::Forbids,
            patterns: patterns.iter().map(ToString::to_string).collect(),
        }
    }

    fn matched(patterns: &[&str], text: &str) -> Option<String> {
        set(patterns).apply(text).pop().map(|a| a.matched.text)
    }

    #[test]
    fn inflection_case_and_diacritics_do_not_matter() {
        for text in ["delete backup", "DELETING the Backups", "He deletes his old, no: deleted his báckup"] {
            assert!(matched(&["delete backup"], text).is_some(), "{text}");
        }
    }

    #[test]
    fn up_to_two_words_and_any_determiners_may_stand_between_but_no_border() {
        let phrase = ["delete backup"];
        assert!(matched(&phrase, "delete all the very old backups").is_some());
        assert!(matched(&phrase, "delete all the very very old backups").is_none());
        assert!(matched(&phrase, "delete, backup").is_none());
        assert!(matched(&phrase, "delete it. Backup now").is_none());
        assert!(matched(&phrase, "delete files from backup").is_none());
    }

    #[test]
    fn spans_count_characters_and_cover_what_matched() {
        let applied = set(&["/gr[üu]n/", "send spam"]).apply("äöü: SEND more spam").pop().unwrap().matched;
        assert_eq!((applied.start, applied.end, applied.text.as_str()), (5, 19, "SEND more spam"));
        let applied = set(&["/gr[üu]n/"]).apply("äöü GRÜN").pop().unwrap().matched;
        assert_eq!((applied.start, applied.end, applied.text.as_str()), (4, 8, "GRÜN"));
    }

    #[test]
    fn a_negated_regular_expression_does_not_apply_but_a_later_one_does() {
        assert_eq!(matched(&["/drop \\w+/"], "do not drop tables"), None);
        assert_eq!(matched(&["/drop \\w+/"], "do not drop tables; drop users").unwrap(), "drop users");
    }

    #[test]
    fn the_hash_depends_on_the_rules_and_not_on_their_order() {
        let [a, b] = ["a", "b"].map(|name| Prepared::new(rule(name, &["x"])).unwrap());
        let one = RuleSet::new([a.clone(), b.clone()]).unwrap();
        let other = RuleSet::new([b, a.clone()]).unwrap();
        assert_eq!(one.hash(), other.hash());
        let changed = Prepared::new(rule("b", &["y"])).unwrap();
        assert_ne!(one.hash(), RuleSet::new([a, changed]).unwrap().hash());
    }

    #[test]
    fn a_set_is_bounded_in_rules_and_patterns() {
        let many = |count: usize, patterns: &[&str]| {
            RuleSet::new((0..count).map(|i| Prepared::new(rule(&format!("r{i}"), patterns)).unwrap()))
        };
        assert!(many(MAX_RULES, &["x"]).is_ok());
        assert!(many(MAX_RULES + 1, &["x"]).is_err());
        assert!(many(MAX_SET_PATTERNS / 50 + 1, &["x"; 50]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic_and_every_span_is_what_it_says(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("kill".to_owned()), Just("the".to_owned()), Just("him".to_owned()), Just("not".to_owned()),
                    Just("stop".to_owned()), Just("to".to_owned()), Just("no".to_owned()), Just("of".to_owned()),
                    Just("than".to_owned()), Just(",".to_owned()), Just("and".to_owned()), ".{0,6}",
                ],
                0..40,
            ),
        ) {
            let text = words.join(" ");
            for applied in set(&["kill <person>", "<person> kill", "/k.l/"]).apply(&text) {
                let Span { start, end, text: matched } = applied.matched;
                prop_assert_eq!(text.chars().skip(start).take(end - start).collect::<String>(), matched);
            }
        }
    }
}
