//! A text as a rule set sees it: its words looked up, and phrases matched against them.
//!
//! Each word is stemmed once and looked up once. A match keeps all places where the steps so far can end as bits of one
//! number, so that no pattern makes it go back, and nothing is allocated for it.

use std::ops::Range;

use super::lexicon::{self, Classes};
use super::phrase::MAX_GAP;
use super::text::{self, Break, Token};
use super::vocabulary::{Choice, CompiledPhrase, CompiledStep, Vocabulary, Word};
use super::{doubt, negation, words};

/// How many words back a pronoun may find what it means.
const LOOK_BACK: usize = 40;

/// How many words a match may span: as many as the bits that keep its ends.
const SPAN: usize = 64;

/// Places that a step may follow the one before at, skipped words included.
const NEAR: usize = 12;

/// Words that the name of a field has at most, to be known as one.
const NAME: usize = 4;

/// A text, looked up in a vocabulary.
pub(super) struct Reading<'v> {
    vocabulary: &'v Vocabulary,
    tokens: Vec<Token>,
    words: Vec<Option<Word>>,
    classes: Vec<Classes>,
    /// For each choice of the vocabulary, whether the text has one of its words.
    offered: Vec<bool>,
}

impl<'v> Reading<'v> {
    pub(super) fn new(vocabulary: &'v Vocabulary, text: &str) -> Self {
        let tokens = text::tokens(text);
        let words: Vec<_> = tokens.iter().map(|token| vocabulary.look_up(&token.word)).collect();
        let classes: Vec<_> = tokens
            .iter()
            .zip(&words)
            .map(|(token, word)| {
                let number = token.word.as_bytes().first().is_some_and(u8::is_ascii_digit);
                word.map_or(0, |word| vocabulary.classes_of(word)) | if number { lexicon::NUMBER } else { 0 }
            })
            .collect();
        let mut offered = vec![false; vocabulary.choices()];
        let mut offer =
            |choices: &[Choice]| choices.iter().for_each(|&choice| offered[choice as usize] = true);
        words.iter().flatten().for_each(|&word| offer(vocabulary.choices_with(word)));
        if tokens.iter().any(|token| token.capital) {
            offer(vocabulary.choices_of_names());
        }
        if classes.iter().any(|classes| classes & lexicon::NUMBER != 0) {
            offer(vocabulary.choices_of_numbers());
        }
        Self { vocabulary, tokens, words, classes, offered }
    }

    /// Whether the text has a word for each step: rules out most phrases at once.
    pub(super) fn has_words_for(&self, phrase: &CompiledPhrase) -> bool {
        self.has_words(&phrase.steps) && phrase.also.iter().all(|steps| self.has_words(steps))
    }

    fn has_words(&self, steps: &[CompiledStep]) -> bool {
        steps.iter().all(|step| step.optional || self.offered[step.choice as usize])
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.word.as_str())
    }

    pub(super) fn before(&self, at: usize) -> Break {
        self.tokens.get(at).map_or(Break::Sentence, |token| token.before)
    }

    pub(super) fn token(&self, at: usize) -> &Token {
        &self.tokens[at]
    }

    /// The vocabulary's word at `at`, when it has it.
    pub(super) fn known(&self, at: usize) -> Option<Word> {
        self.words[at]
    }

    pub(super) fn tells(&self, at: usize) -> bool {
        self.classes[at] & lexicon::TELLS != 0
    }

    pub(super) fn inquires(&self, at: usize) -> bool {
        self.classes[at] & lexicon::INQUIRES != 0
    }

    pub(super) fn cares(&self, at: usize) -> bool {
        self.classes[at] & lexicon::CARES != 0
    }

    pub(super) fn cares_after(&self, at: usize) -> bool {
        self.classes[at] & lexicon::CARES_AFTER != 0
    }

    /// The words of the sentence that word `at` is in, as far as it stands in one line and in one field of a call.
    pub(super) fn sentence(&self, at: usize) -> Range<usize> {
        self.between(at, |before| before >= Break::Line || before.parts_fields())
    }

    /// The same, over all fields of a call.
    fn statement(&self, at: usize) -> Range<usize> {
        self.between(at, |before| before >= Break::Line)
    }

    fn between(&self, at: usize, ends: impl Fn(Break) -> bool) -> Range<usize> {
        let start = (0..=at).rev().find(|&i| ends(self.before(i))).unwrap_or(0);
        let end = (at + 1..self.len()).find(|&i| ends(self.before(i))).unwrap_or(self.len());
        start..end
    }

    /// Where to look for what speaks for a match from `first` to `last`: in its sentence and its fields alone, so that
    /// no other argument of a call and no context can.
    fn around(&self, first: usize, last: usize) -> Range<usize> {
        self.sentence(first).start..self.sentence(last).end
    }

    /// The first word that ends after `byte`.
    pub(super) fn word_at(&self, byte: usize) -> usize {
        self.tokens.partition_point(|token| token.end <= byte)
    }

    /// Whether a negation stands shortly before word `at`, in the same sentence.
    pub(super) fn denied(&self, at: usize) -> bool {
        (self.sentence(at).start.max(at.saturating_sub(4))..at)
            .any(|i| words::is_negator(self.word(i)) || matches!(self.word(i), "no" | "nobody" | "nothing"))
    }

    fn is_thing(&self, at: usize) -> bool {
        self.classes[at] & lexicon::THING != 0
    }

    /// Whether word `at` only describes a thing that follows: "the child process", "shoot me an email".
    fn belongs_to_a_thing(&self, at: usize) -> bool {
        let mut next = at + 1;
        while next < self.len() && self.before(next) == Break::None && words::is_determiner(self.word(next)) {
            next += 1;
        }
        next < self.len() && self.before(next) == Break::None && self.is_thing(next)
    }

    /// Whether word `at` means a person here, and not things ("list the processes and kill them").
    pub(super) fn is_person(&self, at: usize) -> bool {
        if self.classes[at] & lexicon::PERSON == 0 || self.belongs_to_a_thing(at) {
            return false;
        }
        if self.word(at) != "them" {
            return true;
        }
        let meant = (at.saturating_sub(LOOK_BACK)..at)
            .rev()
            .find(|&i| self.classes[i] & (lexicon::PERSON | lexicon::THING) != 0);
        !meant.is_some_and(|i| self.is_thing(i))
    }

    /// Whether word `at` is written like a name and is not known for something else.
    pub(super) fn is_name(&self, at: usize) -> bool {
        let known = self.classes[at] & !(lexicon::NAME | lexicon::NUMBER) != 0;
        self.tokens[at].capital
            && self.before(at) < Break::Clause
            && !known
            && !words::is_determiner(self.word(at))
            && !words::ends_phrase(self.word(at))
            && !self.belongs_to_a_thing(at)
    }

    pub(super) fn is_number(&self, at: usize) -> bool {
        self.classes[at] & lexicon::NUMBER != 0
    }

    fn is(&self, step: &CompiledStep, at: usize) -> bool {
        let (words, classes) = self.vocabulary.alternatives(step.choice);
        self.words[at].is_some_and(|word| words.binary_search(&word).is_ok())
            || self.classes[at] & classes & !(lexicon::PERSON | lexicon::NAME) != 0
            || classes & lexicon::PERSON != 0 && self.is_person(at)
            || classes & lexicon::NAME != 0 && self.is_name(at)
    }

    /// The last word of the shortest match of `phrase` that begins at `first`.
    pub(super) fn matches(&self, phrase: &CompiledPhrase, first: usize) -> Option<usize> {
        let last = self.matches_steps(&phrase.steps, first)?;
        // What a phrase demands may stand in any field, what it must not hold counts near it alone: doubt does not acquit.
        let demanded = |steps: &Vec<CompiledStep>| {
            self.has_words(steps) && self.statement(first).any(|at| self.matches_steps(steps, at).is_some())
        };
        let held = |steps: &Vec<CompiledStep>| self.holds(steps, self.around(first, last));
        (phrase.also.iter().all(demanded) && !phrase.unless.iter().any(held)).then_some(last)
    }

    /// Whether the exception `phrase` speaks for a match from `first` to `last`: it stands in the match's sentence, and
    /// where it has to be `close`, it has the match's first or last word.
    pub(super) fn excuses(&self, phrase: &CompiledPhrase, first: usize, last: usize, close: bool) -> bool {
        let around = self.around(first, last);
        let stands = |at: usize| {
            let end = self.matches_steps(&phrase.steps, at).filter(|&end| end < around.end);
            end.is_some_and(|end| !close || [first, last].iter().any(|word| (at..=end).contains(word)))
        };
        let held = |steps: &Vec<CompiledStep>| self.holds(steps, around.clone());
        self.has_words_for(phrase)
            && around.clone().any(stands)
            && phrase.also.iter().all(held)
            && !phrase.unless.iter().any(held)
    }

    /// Whether the sentence of a match has a word that turns what it seems to be: "it would be wrong not to".
    pub(super) fn feigned(&self, first: usize, last: usize) -> bool {
        self.around(first, last).any(|at| words::is_negator(self.word(at)) || doubt::feigns(self.word(at)))
    }

    /// Whether `steps` stand anywhere within `range`.
    fn holds(&self, steps: &[CompiledStep], range: Range<usize>) -> bool {
        let end = range.end;
        self.has_words(steps)
            && range.into_iter().any(|at| self.matches_steps(steps, at).is_some_and(|last| last < end))
    }

    fn matches_steps(&self, steps: &[CompiledStep], first: usize) -> Option<usize> {
        let (head, rest) = steps.split_first()?;
        if !self.is(head, first) {
            return None;
        }
        // Bit n: a match of the steps so far can end n words after `first`.
        let mut ends: u64 = 1;
        for step in rest {
            let mut next = if step.optional { ends } else { 0 };
            let mut open = ends;
            while open != 0 {
                let end = open.trailing_zeros() as usize;
                open &= open - 1;
                next |= self.reach(step, first, end);
                if step.far {
                    // From the first end everything is reached that a later one reaches.
                    break;
                }
            }
            if next == 0 {
                return None;
            }
            ends = next;
        }
        Some(first + ends.trailing_zeros() as usize)
    }

    /// Where `step` can follow a step that ended `end` words after `first`.
    fn reach(&self, step: &CompiledStep, first: usize, end: usize) -> u64 {
        let (mut found, mut gap) = (0, 0);
        let from = first + end + 1;
        let until = self.len().min(if step.far { first + SPAN } else { (from + NEAR).min(first + SPAN) });
        for at in from..until {
            let token = &self.tokens[at];
            if step.far {
                if token.before == Break::Sentence || token.before == Break::Line && !step.firm {
                    break;
                }
                found |= u64::from(self.is(step, at)) << (at - first);
                continue;
            }
            // A line may end anywhere; what must hold is not undone by any mark within its sentence.
            let parts = token.before >= Break::Comma && token.before != Break::Line;
            if token.before == Break::Sentence || parts && !step.firm {
                break;
            }
            found |= u64::from(self.is(step, at)) << (at - first);
            let word = token.word.as_str();
            let previous = self.word(at - 1);
            let joins = matches!(word, "and" | "or");
            // "that" points at what follows only at the start: "kill that man", but "the problem that people have".
            let determines = words::is_determiner(word) && (word != "that" || at == from);
            let counts = word == "as" || matches!(word, "many" | "much");
            let passes = determines || counts || word == "of" && words::is_quantifier(previous);
            if joins && at != from || words::ends_phrase(word) && !passes {
                break;
            }
            let passes = determines || joins || counts || word == "of" || self.is_number(at);
            if !passes && !self.is_field_name(at) {
                gap += 1;
                if gap > MAX_GAP {
                    break;
                }
            }
        }
        found
    }

    /// Whether word `at` belongs to the name of a field: `table=` or `dry_run=`.
    fn is_field_name(&self, at: usize) -> bool {
        let parts = |i: &usize| self.before(*i) != Break::None;
        let ends = (at + 1..self.len().min(at + 1 + NAME)).find(parts);
        let begins = (at.saturating_sub(NAME)..=at).rev().find(parts);
        ends.is_some_and(|i| self.before(i) == Break::Value)
            && begins.is_some_and(|i| self.before(i) == Break::Field)
    }

    /// Whether word `at` is a participle that only describes what follows: "the injured man", "treat injured people".
    pub(super) fn describes(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        let participle = token.word.ends_with("ed") && !words::accuses(&token.word);
        if at == 0 || token.before != Break::None || !participle {
            return false;
        }
        let previous = self.word(at - 1);
        words::is_determiner(previous) || words::ends_phrase(previous) || words::helps(previous)
    }

    /// Whether a match from `first` to `last` is denied or prevented, before it or within it; `opens` says which words
    /// begin a match of the same rule. Where it has to be `plain`, the rest of the sentence must not make it doubtful.
    pub(super) fn cancelled(
        &self,
        first: usize,
        last: usize,
        opens: impl Fn(Word) -> bool,
        plain: bool,
    ) -> bool {
        let listed = |at: usize| self.words[at].is_some_and(&opens);
        let cancels = |from: usize, at: usize| {
            negation::cancels(&self.tokens, from, at, listed)
                && (!plain || doubt::is_plain(&self.tokens, self.around(first, last), at, listed))
        };
        cancels(0, first) || last > first && cancels(first + 1, last)
    }
}
