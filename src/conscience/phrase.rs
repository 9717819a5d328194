//! Patterns: phrases of words, and regular expressions.
//!
//! Pure. A phrase is a sequence of steps: a word or several to choose from (`hurt|injure`), compared by English stem, or a
//! class of words (`<person>`); `?` after a step makes it optional. Between two steps may stand any determiners and up to
//! [`MAX_GAP`] other words, but no punctuation that ends a clause or a list item, and no preposition: "hurt the old man" is
//! `hurt <person>`, "hurt feelings about him" is not. `...` between two steps allows anything up to the sentence's end.
//! After `&` stands what the same sentence has to hold as well, before or after the phrase, and after `~` what it must not:
//! `take out <person> ~ dinner|lunch`. A pattern between slashes is a regular expression, without regard to case.

use std::borrow::Cow;
use std::sync::Arc;

use rust_stemmers::Stemmer;

use super::expression::{Expression, ExpressionError};
use super::frame::Frame;
use super::lexicon::{self, Classes};
use super::{text, words};

/// Words other than determiners that may stand between two steps of a phrase.
pub(super) const MAX_GAP: usize = 3;

/// Stems of words to choose from, as one text with a space after each: a pack has tens of thousands, and each as a text of
/// its own would take several times the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stems(String);

impl Stems {
    /// One more to choose from, which has no space in it: it is the stem of one word.
    pub(super) fn add(&mut self, stem: &str) {
        self.0.reserve_exact(stem.len() + 1);
        self.0.push_str(stem);
        self.0.push(' ');
    }

    /// In the order in which they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(' ')
    }
}

impl<'s> FromIterator<&'s str> for Stems {
    fn from_iter<I: IntoIterator<Item = &'s str>>(stems: I) -> Self {
        let mut all = Self::default();
        stems.into_iter().for_each(|stem| all.add(stem));
        all
    }
}

/// One step of a phrase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Stems of the alternatives.
    pub stems: Stems,
    /// Classes whose words will do as well.
    pub classes: Classes,
    /// Whether it may be missing.
    pub optional: bool,
    /// Whether anything may stand before it.
    pub far: bool,
}

/// At least one step, of which the first is not optional.
pub(super) type Steps = Vec<Step>;

/// A sequence of steps, and what the rest of its sentence has to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Phrase {
    pub steps: Steps,
    /// What the sentence holds as well, anywhere.
    pub also: Vec<Steps>,
    /// What the sentence does not hold.
    pub unless: Vec<Steps>,
}

impl From<Steps> for Phrase {
    fn from(steps: Steps) -> Self {
        Self { steps, ..Self::default() }
    }
}

/// A pattern that has been read.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Phrase(Phrase),
    /// Between slashes.
    Expression(Arc<Expression>),
    /// A kind of sentence; among exceptions alone.
    Frame(Frame),
}

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PatternError {
    #[error("expected a phrase or /regular expression/, found no word")]
    Empty,
    #[error("expected words, alternatives such as hurt|injure, or classes such as <person>")]
    Phrase,
    #[error(
        "expected a class of words that exists; <fiction>, <world>, <inquiry> and <care> stand alone, among exceptions"
    )]
    Class,
    #[error("expected ... between two words, and no ? after the first; & and ~ before a phrase")]
    Gap,
    #[error(transparent)]
    Expression(#[from] ExpressionError),
}

impl Pattern {
    /// Reads `source`.
    pub(super) fn parse(source: &str, stemmer: &Stemmer) -> Result<Self, PatternError> {
        Self::read(source, stemmer, Expression::new)
    }

    /// Reads `source`, whose regular expression is known to compile.
    pub(super) fn parse_known(source: &str, stemmer: &Stemmer) -> Result<Self, PatternError> {
        Self::read(source, stemmer, Expression::known)
    }

    fn read(
        source: &str,
        stemmer: &Stemmer,
        expression: fn(&str) -> Result<Expression, ExpressionError>,
    ) -> Result<Self, PatternError> {
        let source = source.trim();
        if let Some(between) =
            source.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|e| !e.is_empty())
        {
            return Ok(Self::Expression(Arc::new(expression(between)?)));
        }
        // What `&` and `~` part begins with the phrase itself.
        let (mut phrase, mut part, mut kind) = (Phrase::default(), Vec::new(), None);
        for word in source.split_whitespace().chain(["&"]) {
            if !matches!(word, "&" | "~") {
                part.push(word);
                continue;
            }
            let steps = read_steps(&std::mem::take(&mut part), stemmer)?;
            match kind.replace(word) {
                None => phrase.steps = steps,
                Some("~") => phrase.unless.push(steps),
                Some(_) => phrase.also.push(steps),
            }
        }
        Ok(Self::Phrase(phrase))
    }

    /// Reads an exception, which may also be a kind of sentence; `parse` reads what is none.
    pub(super) fn parse_exception(
        source: &str,
        stemmer: &Stemmer,
        parse: fn(&str, &Stemmer) -> Result<Self, PatternError>,
    ) -> Result<Self, PatternError> {
        let name = source.trim().strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        match name.and_then(Frame::parse) {
            Some(frame) => Ok(Self::Frame(frame)),
            None => parse(source, stemmer),
        }
    }
}

/// Reads the steps of a phrase from its words.
fn read_steps(words: &[&str], stemmer: &Stemmer) -> Result<Steps, PatternError> {
    let (mut steps, mut far) = (Steps::new(), false);
    for word in words {
        if *word == "..." {
            if far || steps.is_empty() {
                return Err(PatternError::Gap);
            }
            far = true;
            continue;
        }
        let at = steps.len();
        read_part(word, stemmer, &mut steps)?;
        steps[at].far = std::mem::take(&mut far);
    }
    match steps.first() {
        None => Err(PatternError::Empty),
        Some(first) if first.optional || far => Err(PatternError::Gap),
        Some(_) => {
            steps.shrink_to_fit();
            Ok(steps)
        }
    }
}

/// Adds at least one step.
fn read_part(part: &str, stemmer: &Stemmer, steps: &mut Vec<Step>) -> Result<(), PatternError> {
    let (part, optional) = part.strip_suffix('?').map_or((part, false), |part| (part, true));
    if !part.contains(['|', '<', '>']) {
        // One word, or several with a hyphen between.
        let words = text::tokens(part);
        if words.is_empty() {
            return Err(PatternError::Phrase);
        }
        steps.extend(words.iter().map(|t| Step {
            stems: [&*stem(stemmer, &t.word)].into_iter().collect(),
            optional,
            ..Step::default()
        }));
        return Ok(());
    }
    let mut step = Step { optional, ..Step::default() };
    for alternative in part.split('|') {
        if let Some(name) = alternative.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            step.classes |= lexicon::class(name).ok_or(PatternError::Class)?;
            continue;
        }
        match text::tokens(alternative).as_slice() {
            [only] if !alternative.contains(['<', '>']) => step.stems.add(&stem(stemmer, &only.word)),
            _ => return Err(PatternError::Phrase),
        }
    }
    steps.push(step);
    Ok(())
}

/// The stem by which a folded word is compared.
pub(super) fn stem<'w>(stemmer: &Stemmer, word: &'w str) -> Cow<'w, str> {
    stemmer.stem(words::regular(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_stemmers::Algorithm;

    fn parse(source: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(source, &Stemmer::create(Algorithm::English))
    }

    #[test]
    fn phrases_are_stems_alternatives_classes_and_gaps() {
        let source = "Hurting|injures very? <person>|victims ... self-harm & at night ~ chess|tennis & knife";
        let Ok(Pattern::Phrase(phrase)) = parse(source) else { panic!() };
        let words = |parts: &[Steps]| {
            parts
                .iter()
                .map(|steps| steps.iter().map(|s| s.stems.iter().collect::<Vec<_>>().join("|")).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(words(&phrase.also), [vec!["at", "night"], vec!["knife"]]);
        assert_eq!(words(&phrase.unless), [vec!["chess|tenni"]]);
        let steps: Vec<_> =
            phrase.steps.iter().map(|s| (s.stems.0.trim_end(), s.classes, s.optional, s.far)).collect();
        let expected = [
            ("hurt injur", 0, false, false),
            ("veri", 0, true, false),
            ("victim", lexicon::PERSON, false, false),
            ("self", 0, false, true),
            ("harm", 0, false, false),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (source, error) in [
            ("", PatternError::Empty),
            ("…", PatternError::Phrase),
            ("a||b", PatternError::Phrase),
            ("a|two-words", PatternError::Phrase),
            ("<dragons>", PatternError::Class),
            ("<fiction>", PatternError::Class),
            ("... a", PatternError::Gap),
            ("a ...", PatternError::Gap),
            ("a? b", PatternError::Gap),
            ("a &", PatternError::Empty),
            ("~ a", PatternError::Empty),
            ("a & ... b", PatternError::Gap),
            ("/(/", PatternError::Expression(ExpressionError::Invalid)),
            ("/x*/", PatternError::Expression(ExpressionError::MatchesNothing)),
        ] {
            assert_eq!(parse(source).unwrap_err(), error, "{source}");
        }
    }
}
