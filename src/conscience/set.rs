//! A rule set, compiled: which rules apply to an action, and where.
//!
//! Pure and immutable: a change of the rules makes a new set, and an evaluation keeps the one it began with. Only phrases
//! that begin with a word are tried where it stands, so the cost hardly depends on the number of rules. A set holds what its
//! rules need and nothing of the texts it has seen but keyed hashes of words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::action::Subject;
use super::body::{Answer, Inquiry};
use super::expression::{Expression, Screen, found_in};
use super::frame::Frame;
use super::lexicon;
use super::model::{MAX_BODIES, MAX_RULES, MAX_SET_PATTERNS, Rule, Stance};
use super::phrase::{Pattern, Phrase};
use super::prepared::Prepared;
use super::reading::Reading;
use super::verdict::{AppliedRule, Span};
use super::vocabulary::{CompiledPhrase, Lists, Vocabulary, Word};
use super::words;
use crate::policy::EVALUATION_LIMIT;
use crate::wire::Fault;

#[derive(Debug)]
struct OwnPhrase {
    rule: usize,
    phrase: CompiledPhrase,
    /// Whether it has a step that anything may stand before, so that a denial may stand in between.
    far: bool,
}

#[derive(Debug)]
enum Exception {
    Phrase(CompiledPhrase),
    Expression(Arc<Expression>),
    Frame(Frame),
}

/// Rules in the order of their names, ready to be asked.
pub struct RuleSet {
    rules: Vec<Arc<Prepared>>,
    hash: Arc<str>,
    vocabulary: Vocabulary,
    phrases: Vec<OwnPhrase>,
    /// For each word, the phrases that can begin with it.
    beginning_with: Lists,
    /// The phrases that can begin with a person or a name.
    beginning_with_person: Vec<u32>,
    /// The regular expressions of all rules, in their order.
    screen: Screen,
    /// For each of those, its rule.
    expressions_of: Vec<usize>,
    exceptions: Vec<Vec<Exception>>,
    /// The rules that have a body.
    bodies: Vec<usize>,
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
        let by_name: BTreeMap<String, Arc<Prepared>> =
            rules.into_iter().map(|p| (p.rule.name.clone(), p)).collect();
        if by_name.len() > MAX_RULES {
            return Err(Fault::invalid(format!("rules: expected at most {MAX_RULES}; remove one first")));
        }
        let rules: Vec<_> = by_name.into_values().collect();
        if rules.iter().map(|p| p.patterns.len() + p.exceptions.len()).sum::<usize>() > MAX_SET_PATTERNS {
            return Err(Fault::invalid(format!(
                "patterns: expected at most {MAX_SET_PATTERNS} in all rules together; remove some first"
            )));
        }
        let bodies: Vec<_> = (0..rules.len()).filter(|&at| rules[at].body.is_some()).collect();
        if bodies.len() > MAX_BODIES {
            return Err(Fault::invalid(format!(
                "rego: expected it with at most {MAX_BODIES} rules; remove one first"
            )));
        }
        let mut set = Self {
            hash: hash(&rules)?.into(),
            rules: Vec::new(),
            vocabulary: Vocabulary::new(),
            phrases: Vec::new(),
            beginning_with: Lists::default(),
            beginning_with_person: Vec::new(),
            screen: Screen::new(Vec::new())?,
            expressions_of: Vec::new(),
            exceptions: Vec::new(),
            bodies,
        };
        let mut expressions = Vec::new();
        for (at, prepared) in rules.iter().enumerate() {
            for pattern in &prepared.patterns {
                match pattern {
                    Pattern::Phrase(phrase) => set.add_phrase(at, phrase, prepared.rule.veto),
                    Pattern::Expression(expression) => {
                        expressions.push(Arc::clone(expression));
                        set.expressions_of.push(at);
                    }
                    // Reading patterns makes none.
                    Pattern::Frame(_) => {}
                }
            }
            let exceptions = prepared.exceptions.iter().map(|exception| match exception {
                Pattern::Phrase(phrase) => Exception::Phrase(set.vocabulary.compile(phrase, false)),
                Pattern::Expression(expression) => Exception::Expression(Arc::clone(expression)),
                Pattern::Frame(frame) => Exception::Frame(*frame),
            });
            let exceptions = exceptions.collect();
            set.exceptions.push(exceptions);
        }
        set.index();
        set.screen = Screen::new(expressions)?;
        set.rules = rules;
        Ok(set)
    }

    fn add_phrase(&mut self, rule: usize, phrase: &Phrase, veto: bool) {
        // What itself speaks of a lack ("into … without a password") is not denied by saying so.
        let lacks = phrase.steps.iter().flat_map(|step| step.stems.iter()).any(words::denies_within);
        let phrase = self.vocabulary.compile(phrase, veto);
        let Some(first) = phrase.steps.first() else { return };
        // There are at most MAX_SET_PATTERNS.
        let at = self.phrases.len() as u32;
        if self.vocabulary.alternatives(first.choice).1 & lexicon::BY_PLACE != 0 {
            self.beginning_with_person.push(at);
        }
        let far = !lacks && phrase.steps.iter().any(|step| step.far);
        self.phrases.push(OwnPhrase { rule, phrase, far });
    }

    /// Makes the phrases findable by the words of a text.
    fn index(&mut self) {
        self.vocabulary.index();
        let each = |put: &mut dyn FnMut(Word, u32)| {
            for (at, own) in self.phrases.iter().enumerate() {
                let Some(first) = own.phrase.steps.first() else { continue };
                let (words, classes) = self.vocabulary.alternatives(first.choice);
                let openers = self.vocabulary.members(words, classes & !lexicon::BY_PLACE);
                // There are at most MAX_SET_PATTERNS.
                openers.into_iter().for_each(|word| put(word, at as u32));
            }
        };
        self.beginning_with = Lists::new(self.vocabulary.len(), each);
    }

    /// Whether `word` begins a phrase of `rule`.
    fn opens(&self, rule: usize, word: Word) -> bool {
        self.beginning_with.of(word).iter().any(|&phrase| self.phrases[phrase as usize].rule == rule)
    }

    /// Whether a match of `rule` is denied or prevented; in a rule with a veto, beyond doubt.
    fn cancelled(&self, rule: usize, reading: &Reading, first: usize, last: usize) -> bool {
        let veto = self.rules[rule].rule.veto;
        reading.cancelled(first, last, |word| self.opens(rule, word), veto)
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

    /// Whether any of the rules has a Rego body, so that judging may take long.
    #[must_use]
    pub const fn has_bodies(&self) -> bool {
        !self.bodies.is_empty()
    }

    /// SHA-256 over the rules as JSON, ordered by name; hex.
    #[must_use]
    pub const fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// The rules that apply to `subject`, in the order of their names, each with its first match that no negation and no
    /// exception cancels, and with what its body says. Takes as long as bodies may, where there are any.
    #[must_use]
    pub fn apply(&self, subject: &Subject) -> Vec<AppliedRule> {
        self.apply_within(subject, EVALUATION_LIMIT)
    }

    /// The same, where bodies may take `limit`.
    pub(super) fn apply_within(&self, subject: &Subject, limit: Duration) -> Vec<AppliedRule> {
        let text = subject.text();
        let reading = Reading::new(&self.vocabulary, text);
        let mut hits: Vec<Option<Hit>> = vec![None; self.rules.len()];
        let in_scope = |rule: usize| self.rules[rule].rule.scope.admits(subject);
        for at in 0..reading.len() {
            let by_word = reading.known(at).map_or(&[][..], |word| self.beginning_with.of(word));
            let by_place = if reading.is_person(at) || reading.is_name(at) || reading.is_number(at) {
                &self.beginning_with_person[..]
            } else {
                &[]
            };
            for &candidate in by_word.iter().chain(by_place) {
                let OwnPhrase { rule, ref phrase, far } = self.phrases[candidate as usize];
                if hits[rule].is_none()
                    && reading.has_words_for(phrase)
                    && let Some(last) = reading.matches(phrase, at)
                    && !reading.describes(at)
                    && !self.cancelled(rule, &reading, at, if far { last } else { at })
                    && !self.excepted(rule, &reading, text, at, last, true)
                    && in_scope(rule)
                {
                    let (start, end) = (reading.token(at).start, reading.token(last).end);
                    hits[rule] = Some(Hit { start, end });
                }
            }
        }
        for (at, regex) in self.screen.candidates(text) {
            let rule = self.expressions_of[at];
            if hits[rule].is_some() {
                continue;
            }
            let found = found_in(regex, text).find(|found| {
                let first = reading.word_at(found.start);
                let last = reading.word_at(found.end.saturating_sub(1)).min(reading.len().saturating_sub(1));
                first >= reading.len()
                    || !self.cancelled(rule, &reading, first, first)
                        && !self.excepted(rule, &reading, text, first, last.max(first), false)
            });
            if let Some(found) = found
                && in_scope(rule)
            {
                hits[rule] = Some(Hit { start: found.start, end: found.end });
            }
        }
        let mut answers = self.ask_bodies(subject, &hits, limit).into_iter().peekable();
        let applied = |(at, (prepared, hit)): (usize, (&Arc<Prepared>, Option<Hit>))| {
            let rule = &prepared.rule;
            let answer = match &prepared.body {
                Some(_) => answers.next_if(|(rule, _)| *rule == at)?.1,
                None => hit.map(|_| Answer::default())?,
            };
            Some(AppliedRule {
                name: rule.name.clone(),
                weight: rule.weight,
                stance: prepared.stance,
                veto: rule.veto,
                review: rule.review,
                matched: hit.map(|hit| span(subject, hit)),
                reasons: answer.reasons,
                unanswered: answer.missing,
            })
        };
        self.rules.iter().zip(hits).enumerate().filter_map(applied).collect()
    }

    /// The rules that apply by their bodies, in order: where patterns match, if they have any, and within their scope. One
    /// whose body gives no answer applies if it forbids: whatever is wrong, it is no way past a rule.
    fn ask_bodies(&self, subject: &Subject, hits: &[Option<Hit>], limit: Duration) -> Vec<(usize, Answer)> {
        let mut inquiry = None;
        let ask = |&at: &usize| {
            let prepared = &self.rules[at];
            let body = prepared.body.as_ref()?;
            let meant = if prepared.patterns.is_empty() {
                prepared.rule.scope.admits(subject)
            } else {
                hits[at].is_some()
            };
            let inquiry = meant.then(|| inquiry.get_or_insert_with(|| Inquiry::begin(subject, limit)))?;
            let answer = body.ask(&prepared.rule.name, inquiry)?;
            (!answer.missing || prepared.stance == Stance::Forbids).then_some((at, answer))
        };
        self.bodies.iter().filter_map(ask).collect()
    }

    /// Whether an exception of `rule` cancels its match from word `first` to word `last`: a phrase or a kind of sentence
    /// that the match's sentence holds, or a regular expression that shares a character with the match. Where the rule has
    /// a veto, either has to have the match's first or last word, and the sentence must not be one that says the opposite.
    /// Where the match was not `spoken`, but found by a regular expression, no kind of sentence excuses it: a command does
    /// the same in a story.
    fn excepted(
        &self,
        rule: usize,
        reading: &Reading<'_>,
        text: &str,
        first: usize,
        last: usize,
        spoken: bool,
    ) -> bool {
        let veto = self.rules[rule].rule.veto;
        self.exceptions[rule].iter().any(|exception| match exception {
            Exception::Phrase(phrase) => reading.excuses(phrase, first, last, veto),
            Exception::Expression(expression) => found_in(expression.regex(), text).any(|found| {
                let shares =
                    |from, to| found.start < reading.token(to).end && reading.token(from).start < found.end;
                if veto { shares(first, first) || shares(last, last) } else { shares(first, last) }
            }),
            Exception::Frame(frame) => {
                spoken && frame.holds(reading, first, last) && !(veto && reading.feigned(first, last))
            }
        })
    }
}

impl std::fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleSet").field("rules", &self.rules.len()).field("hash", &self.hash).finish()
    }
}

fn span(subject: &Subject, hit: Hit) -> Span {
    let text = subject.text();
    let matched = &text[hit.start..hit.end];
    let start = text[..hit.start].chars().count();
    Span {
        start,
        end: start + matched.chars().count(),
        text: matched.to_owned(),
        field: subject.field(hit.start).map(str::to_owned),
    }
}

fn hash(rules: &[Arc<Prepared>]) -> Result<String, Fault> {
    let rules: Vec<_> = rules.iter().map(|p| &p.rule).collect();
    let canonical = serde_json::to_vec(&rules).map_err(|_| Fault::internal())?;
    Ok(hex::encode(ring::digest::digest(&ring::digest::SHA256, &canonical).as_ref()))
}

#[cfg(test)]
mod tests;
