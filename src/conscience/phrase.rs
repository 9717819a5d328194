//! Patterns: phrases of words, and regular expressions.
//!
//! Pure. A phrase is a sequence of words, each one or more alternatives (`hurt|injure`) compared by English stem, or
//! `<person>`. Between two words of a phrase may stand any determiners and up to [`MAX_GAP`] other words, but no
//! punctuation that ends a clause or a list item, and no preposition: "hurt the old man" is `hurt <person>`, "hurt feelings
//! about him" is not. A pattern between slashes is a regular expression, without regard to case.

use regex::{Regex, RegexBuilder};
use rust_stemmers::Stemmer;

use super::text;

/// Words other than determiners that may stand between two words of a phrase.
pub(super) const MAX_GAP: usize = 2;

/// Most memory that one compiled regular expression may take, in bytes.
const REGEX_SIZE: usize = 128 << 10;

/// One word of a phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Stems of the alternatives.
    pub stems: Vec<String>,
    /// Whether `<person>` is one of them.
    pub person: bool,
}

/// A pattern that has been read.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// At least one step.
    Phrase(Vec<Step>),
    /// Never matches the empty text.
    Regex(Regex),
}

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PatternError {
    #[error("expected a phrase or /regular expression/, found no word")]
    Empty,
    #[error("expected words, alternatives such as hurt|injure, or <person>")]
    Phrase,
    #[error("expected a regular expression that compiles to at most 128 KiB")]
    Regex,
    #[error("expected a regular expression that does not match the empty text")]
    MatchesNothing,
}

impl Pattern {
    /// Reads `source`.
    pub(super) fn parse(source: &str, stemmer: &Stemmer) -> Result<Self, PatternError> {
        let source = source.trim();
        if let Some(expression) =
            source.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).filter(|e| !e.is_empty())
        {
            let regex = RegexBuilder::new(expression)
                .case_insensitive(true)
                .size_limit(REGEX_SIZE)
                .dfa_size_limit(REGEX_SIZE)
                .build()
                .map_err(|_| PatternError::Regex)?;
            return if regex.is_match("") {
                Err(PatternError::MatchesNothing)
            } else {
                Ok(Self::Regex(regex))
            };
        }
        let mut steps = Vec::new();
        for part in source.split_whitespace() {
            read_part(part, stemmer, &mut steps)?;
        }
        if steps.is_empty() { Err(PatternError::Empty) } else { Ok(Self::Phrase(steps)) }
    }
}

fn read_part(part: &str, stemmer: &Stemmer, steps: &mut Vec<Step>) -> Result<(), PatternError> {
    if !part.contains('|') && part != "<person>" {
        // One word, or several with a hyphen between.
        let words = text::tokens(part);
        if words.is_empty() || part.contains(['<', '>']) {
            return Err(PatternError::Phrase);
        }
        steps.extend(words.iter().map(|t| Step { stems: vec![stem(stemmer, &t.word)], person: false }));
        return Ok(());
    }
    let mut step = Step { stems: Vec::new(), person: false };
    for alternative in part.split('|') {
        if alternative == "<person>" {
            step.person = true;
            continue;
        }
        match text::tokens(alternative).as_slice() {
            [only] if !alternative.contains(['<', '>']) => step.stems.push(stem(stemmer, &only.word)),
            _ => return Err(PatternError::Phrase),
        }
    }
    steps.push(step);
    Ok(())
}

/// The stem by which a folded word is compared.
pub(super) fn stem(stemmer: &Stemmer, word: &str) -> String {
    stemmer.stem(word).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_stemmers::Algorithm;

    fn parse(source: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(source, &Stemmer::create(Algorithm::English))
    }

    #[test]
    fn phrases_are_stems_alternatives_and_persons() {
        let Ok(Pattern::Phrase(steps)) = parse("Hurting|injures <person>|victims self-harm") else {
            panic!()
        };
        let stems: Vec<_> = steps.iter().map(|s| (s.stems.join(" "), s.person)).collect();
        let expected = [("hurt injur", false), ("victim", true), ("self", false), ("harm", false)];
        assert_eq!(stems, expected.map(|(s, p)| (s.to_owned(), p)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for (source, error) in [
            ("", PatternError::Empty),
            ("…", PatternError::Phrase),
            ("a||b", PatternError::Phrase),
            ("a|two-words", PatternError::Phrase),
            ("<animal>", PatternError::Phrase),
            ("/(/", PatternError::Regex),
            ("/(a{1000}){1000}/", PatternError::Regex),
            ("/x*/", PatternError::MatchesNothing),
        ] {
            assert_eq!(parse(source).unwrap_err(), error, "{source}");
        }
    }
}
