//! The words of a rule set: looked up by stem, with their classes and the steps of phrases that they will do for.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rust_stemmers::{Algorithm, Stemmer};

use super::lexicon::{self, Classes};
use super::phrase::{self, Phrase, Step};

/// Names a stem within one vocabulary.
pub(super) type Word = u32;

/// Names a choice of words and classes within one vocabulary: steps that differ in nothing else share it.
pub(super) type Choice = u32;

/// One step of a phrase: small, because a pack has ten thousand. What will do for it is its choice's.
#[derive(Debug)]
pub(super) struct CompiledStep {
    pub choice: Choice,
    pub optional: bool,
    pub far: bool,
    /// Whether nothing but the end of a sentence parts it from the step before: the rule has a veto.
    pub firm: bool,
}

/// A phrase, with the vocabulary's words.
#[derive(Debug)]
pub(super) struct CompiledPhrase {
    pub steps: Vec<CompiledStep>,
    pub also: Vec<Vec<CompiledStep>>,
    pub unless: Vec<Vec<CompiledStep>>,
}

/// Holds the words of the classes, and of the phrases that were compiled with it; of the texts that were read, keyed hashes of words alone.
pub(super) struct Vocabulary {
    stemmer: Stemmer,
    words: HashMap<Box<str>, Word>,
    memo: Memo,
    classes: Vec<Classes>,
    /// How many words have classes: the first ones.
    classed: usize,
    /// The words of each choice, sorted, and its classes.
    choices: Vec<(Arc<[Word]>, Classes)>,
    /// The same by what they are, since the last [`Vocabulary::index`].
    latest: HashMap<(Arc<[Word]>, Classes), Choice>,
    /// For each word, the choices that it is one of; as of the last [`Vocabulary::index`].
    choices_with: Lists,
    /// The choices that take any name, and those that take any number.
    choices_by_place: [Vec<Choice>; 2],
}

impl Vocabulary {
    /// The words of the classes.
    pub(super) fn new() -> Self {
        let mut vocabulary = Self {
            stemmer: Stemmer::create(Algorithm::English),
            words: HashMap::new(),
            memo: Memo::default(),
            classes: Vec::new(),
            classed: 0,
            choices: Vec::new(),
            latest: HashMap::new(),
            choices_with: Lists::default(),
            choices_by_place: Default::default(),
        };
        for (class, words) in lexicon::lists() {
            for word in words.split_whitespace() {
                let word = vocabulary.intern(&phrase::stem(&vocabulary.stemmer, word));
                vocabulary.classes[word as usize] |= class;
            }
        }
        vocabulary.classed = vocabulary.len();
        vocabulary
    }

    pub(super) fn len(&self) -> usize {
        self.classes.len()
    }

    fn intern(&mut self, stem: &str) -> Word {
        if let Some(&word) = self.words.get(stem) {
            return word;
        }
        // A set has at most 4,000 patterns of 1,000 characters, so the number fits.
        let word = self.len() as Word;
        // What was looked up before may be known from now on.
        self.memo.slots.take();
        self.words.insert(stem.into(), word);
        self.classes.push(0);
        word
    }

    /// Takes the words of `phrase` in, which is `firm` where it is a pattern of a rule with a veto.
    pub(super) fn compile(&mut self, phrase: &Phrase, firm: bool) -> CompiledPhrase {
        let mut all = |parts: &[Vec<Step>], firm| parts.iter().map(|steps| self.steps(steps, firm)).collect();
        let (also, unless) = (all(&phrase.also, firm), all(&phrase.unless, false));
        CompiledPhrase { steps: self.steps(&phrase.steps, firm), also, unless }
    }

    fn steps(&mut self, steps: &[Step], firm: bool) -> Vec<CompiledStep> {
        let steps = steps.iter().map(|step| {
            let mut words: Vec<_> = step.stems.iter().map(|stem| self.intern(stem)).collect();
            words.sort_unstable();
            let choice = self.choice(words.into(), step.classes);
            CompiledStep { choice, optional: step.optional, far: step.far, firm }
        });
        steps.collect()
    }

    /// The choice of `words` or `classes`.
    fn choice(&mut self, words: Arc<[Word]>, classes: Classes) -> Choice {
        // Each takes a step of a pattern, of which there are fewer than numbers, as of words.
        let next = self.choices.len() as Choice;
        let choice = *self.latest.entry((Arc::clone(&words), classes)).or_insert(next);
        if choice == next {
            self.choices.push((words, classes));
            for (class, choices) in
                [lexicon::NAME, lexicon::NUMBER].into_iter().zip(&mut self.choices_by_place)
            {
                if classes & class != 0 {
                    choices.push(choice);
                }
            }
        }
        choice
    }

    /// Makes what was compiled known to [`Self::choices_with`]. What is compiled later shares no choice with it.
    pub(super) fn index(&mut self) {
        self.latest = HashMap::new();
        self.choices.shrink_to_fit();
        let each = |put: &mut dyn FnMut(Word, Choice)| {
            for (choice, (words, classes)) in self.choices.iter().enumerate() {
                self.members(words, *classes).into_iter().for_each(|word| put(word, choice as Choice));
            }
        };
        self.choices_with = Lists::new(self.len(), each);
    }

    /// The words of a choice, sorted, and its classes.
    pub(super) fn alternatives(&self, choice: Choice) -> (&[Word], Classes) {
        let (words, classes) = &self.choices[choice as usize];
        (words, *classes)
    }

    /// `words` and those of `classes`, each once.
    pub(super) fn members(&self, words: &[Word], classes: Classes) -> Vec<Word> {
        let mut members = words.to_vec();
        if classes != 0 {
            let classed = self.classes[..self.classed].iter().enumerate();
            members.extend(classed.filter(|(_, of)| **of & classes != 0).map(|(word, _)| word as Word));
        }
        members.sort_unstable();
        members.dedup();
        members
    }

    /// The word for a folded word of a text.
    pub(super) fn look_up(&self, word: &str) -> Option<Word> {
        self.memo.get_or(word, || self.words.get(&*phrase::stem(&self.stemmer, word)).copied())
    }

    pub(super) fn classes_of(&self, word: Word) -> Classes {
        self.classes[word as usize]
    }

    /// How many choices there are.
    pub(super) fn choices(&self) -> usize {
        self.choices.len()
    }

    /// The choices that `word` is one of, those by a class that counts only in some places too.
    pub(super) fn choices_with(&self, word: Word) -> &[Choice] {
        self.choices_with.of(word)
    }

    /// The choices that take any name.
    pub(super) fn choices_of_names(&self) -> &[Choice] {
        &self.choices_by_place[0]
    }

    /// The choices that take any number.
    pub(super) fn choices_of_numbers(&self) -> &[Choice] {
        &self.choices_by_place[1]
    }
}

/// A list of numbers for each word, all in one piece: most lists are short or empty, and each for itself would take more for
/// its place than for what it holds.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Where the list of each word begins; last, where that of the last one ends.
    bounds: Vec<u32>,
    items: Vec<u32>,
}

impl Lists {
    /// The lists for so many `words`. `each` tells all numbers with their words, and the same when it is asked again.
    pub(super) fn new(words: usize, each: impl Fn(&mut dyn FnMut(Word, u32))) -> Self {
        let mut bounds = vec![0; words + 1];
        each(&mut |word, _| bounds[word as usize + 1] += 1);
        for at in 0..words {
            bounds[at + 1] += bounds[at];
        }
        let mut items = vec![0; bounds[words] as usize];
        let mut next = bounds.clone();
        each(&mut |word, item| {
            let at = &mut next[word as usize];
            items[*at as usize] = item;
            *at += 1;
        });
        Self { bounds, items }
    }

    /// The list of `word`, in the order in which it was told; empty for a word that came later.
    pub(super) fn of(&self, word: Word) -> &[u32] {
        match self.bounds.get(word as usize..word as usize + 2) {
            Some(&[from, to]) => &self.items[from as usize..to as usize],
            _ => &[],
        }
    }
}

/// Words that are remembered.
const SLOTS: usize = 4_096;

/// Bits of a slot that hold a word; the others hold a part of the hash that the slot's place does not tell.
const WORD_BITS: u32 = 24;

/// What was looked up lately, because stemming is the costly part of a judgement and few words make up most texts.
///
/// A word of a text is kept as a part of its keyed hash, never as it is. Two words that meet in a slot are told apart by
/// 40 bits more, and nobody outside knows the key.
#[derive(Default)]
struct Memo {
    slots: OnceLock<Box<[AtomicU64]>>,
    key: RandomState,
}

impl Memo {
    fn get_or(&self, word: &str, look_up: impl FnOnce() -> Option<Word>) -> Option<Word> {
        let hash = self.key.hash_one(word);
        let slots = self.slots.get_or_init(|| (0..SLOTS).map(|_| AtomicU64::new(0)).collect());
        let slot = &slots[hash as usize % SLOTS];
        let tag = hash >> WORD_BITS << WORD_BITS;
        // The lowest bits: 0 for an empty slot, 1 for an unknown word, else the word and 2.
        let kept = slot.load(Ordering::Relaxed);
        let known = kept & !(u64::MAX << WORD_BITS);
        if known > 0 && kept ^ known == tag {
            return (known > 1).then(|| (known - 2) as Word);
        }
        let word = look_up();
        slot.store(tag | word.map_or(1, |word| u64::from(word) + 2), Ordering::Relaxed);
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_by_its_stem_again_and_again_and_so_is_one_that_came_later() {
        let mut vocabulary = Vocabulary::new();
        let phrase =
            |stem: &str| Phrase::from(vec![Step { stems: [stem].into_iter().collect(), ..Step::default() }]);
        vocabulary.compile(&phrase("gallop"), false);
        let found = vocabulary.look_up("galloping");
        assert!(found.is_some() && found == vocabulary.look_up("galloping"));
        assert_eq!(found, vocabulary.look_up("gallops"));
        for _ in 0..2 {
            assert_eq!(vocabulary.look_up("zebras"), None);
        }
        vocabulary.compile(&phrase("zebra"), false);
        assert!(vocabulary.look_up("zebras").is_some());
    }

    #[test]
    fn a_word_has_the_numbers_that_were_told_of_it_and_a_later_one_has_none() {
        let lists = Lists::new(3, |put| {
            [(2, 7), (0, 1), (2, 8)].into_iter().for_each(|(word, item)| put(word, item))
        });
        let of: Vec<_> = (0..5).map(|word| lists.of(word)).collect();
        assert_eq!(of, [&[1_u32][..], &[], &[7, 8], &[], &[]]);
        assert!(Lists::default().of(0).is_empty());
    }

    #[test]
    fn more_words_than_are_remembered_are_told_apart() {
        let vocabulary = Vocabulary::new();
        for _ in 0..2 {
            for number in 0..2 * SLOTS {
                assert_eq!(vocabulary.look_up(&format!("qqq{number}")), None);
                assert!(vocabulary.look_up("neighbours").is_some());
            }
        }
    }
}
