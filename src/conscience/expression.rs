//! Regular expressions, of which a text is tried against a few only.
//!
//! Pure. What a match cannot do without (a word such as `mkfs`) is read off each expression, and one automaton looks for all
//! of those in one pass; an expression whose words are absent is not tried, and one that was never tried takes no memory.
//! The idea is that of RE2's `FilteredRE2`.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};
use regex::{Regex, RegexBuilder};
use regex_syntax::ast;
use regex_syntax::hir::{Hir, HirKind};

use super::action::BORDER;
use crate::wire::Fault;

/// Most memory that one compiled expression may take, in bytes; and as much for the states that it makes as it runs.
const SIZE: usize = 256 << 10;

/// Most words of which one must be there, for one expression; one with more is tried on every text.
const MAX_NEEDS: usize = 64;

/// Characters of a word that are looked for: more would tell hardly more apart.
const NEED: usize = 12;

/// Most words of a whole set; expressions beyond it are tried on every text. Bounds the automaton to a few megabytes.
const MAX_WORDS: usize = 8_192;

/// Why an expression cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ExpressionError {
    #[error("expected a regular expression that compiles to at most 256 KiB")]
    Invalid,
    #[error("expected a regular expression that does not match the empty text")]
    MatchesNothing,
}

/// A regular expression, without regard to case, that has been checked and is compiled when it is first tried.
pub(super) struct Expression {
    source: String,
    /// Each match contains one of these, in any case; empty when nothing is known. Lower-case ASCII.
    needs: Vec<String>,
    compiled: OnceLock<Regex>,
}

impl Expression {
    /// Checks `source`.
    pub(super) fn new(source: &str) -> Result<Self, ExpressionError> {
        let regex = build(source).map_err(|_| ExpressionError::Invalid)?;
        if regex.is_match("") {
            return Err(ExpressionError::MatchesNothing);
        }
        Self::known(source)
    }

    /// One that [`Expression::new`] is known to accept: it is not compiled now. One that could not be compiled after all would
    /// panic when it is first tried.
    pub(super) fn known(source: &str) -> Result<Self, ExpressionError> {
        let hir = regex_syntax::parse(source).map_err(|_| ExpressionError::Invalid)?;
        let needs = needs(&hir).unwrap_or_default();
        Ok(Self { source: source.to_owned(), needs, compiled: OnceLock::new() })
    }

    pub(super) fn regex(&self) -> &Regex {
        self.compiled.get_or_init(|| {
            #[expect(clippy::expect_used, reason = "`new`, or a test, compiled this very source")]
            build(&self.source).expect("a source that was checked")
        })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

fn build(source: &str) -> Result<Regex, regex::Error> {
    let source = ending_with_fields(source);
    RegexBuilder::new(&source).case_insensitive(true).size_limit(SIZE).dfa_size_limit(SIZE).build()
}

/// `source`, with each `$` matching before the border of a field too: what ends an argument ends there, whatever other
/// arguments a call has.
fn ending_with_fields(source: &str) -> Cow<'_, str> {
    let Ok(read) = ast::parse::Parser::new().parse(source) else { return Cow::Borrowed(source) };
    let Ok(ends) = ast::visit(&read, Ends(Vec::new()));
    let mut written = Cow::Borrowed(source);
    for span in ends.into_iter().rev() {
        // Spaces as escapes, because `x` ignores others.
        let border = BORDER.replace(' ', r"\x20");
        written.to_mut().replace_range(span, &format!("(?:$|{border})"));
    }
    written
}

/// Collects where each `$` stands.
struct Ends(Vec<Range<usize>>);

impl ast::Visitor for Ends {
    type Output = Vec<Range<usize>>;
    type Err = Infallible;

    fn finish(self) -> Result<Self::Output, Infallible> {
        Ok(self.0)
    }

    fn visit_pre(&mut self, part: &ast::Ast) -> Result<(), Infallible> {
        if let ast::Ast::Assertion(assertion) = part
            && assertion.kind == ast::AssertionKind::EndLine
        {
            self.0.push(assertion.span.start.offset..assertion.span.end.offset);
        }
        Ok(())
    }
}

/// The matches of `regex` in `text`, without the border of a field that a `$` took with it.
pub(super) fn found_in<'r, 't>(
    regex: &'r Regex,
    text: &'t str,
) -> impl Iterator<Item = Range<usize>> + use<'r, 't> {
    regex.find_iter(text).map(|found| {
        let own = found.as_str().strip_suffix(BORDER).unwrap_or(found.as_str());
        found.start()..found.start() + own.len()
    })
}

/// Words of which each match of `hir` contains one; `None` when it may do without any.
fn needs(hir: &Hir) -> Option<Vec<String>> {
    match hir.kind() {
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).ok()?;
            let ascii = text.split(|c: char| !c.is_ascii()).max_by_key(|run| run.len())?;
            let word = ascii[..ascii.len().min(NEED)].to_ascii_lowercase();
            (!word.is_empty()).then(|| vec![word])
        }
        HirKind::Repetition(repetition) if repetition.min > 0 => needs(&repetition.sub),
        HirKind::Capture(capture) => needs(&capture.sub),
        HirKind::Concat(parts) => {
            // The part whose shortest word is longest rules out most texts.
            parts.iter().filter_map(needs).max_by_key(|words| words.iter().map(String::len).min())
        }
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(needs(part)?);
            }
            (all.len() <= MAX_NEEDS).then_some(all)
        }
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) => None,
    }
}

/// Expressions that are asked together.
#[derive(Debug)]
pub(super) struct Screen {
    expressions: Vec<Arc<Expression>>,
    words: AhoCorasick,
    /// For each word, the expression that needs it.
    needed_by: Vec<usize>,
    /// The expressions that are tried on every text.
    always: Vec<usize>,
}

impl Screen {
    /// # Errors
    /// `invalid` when the expressions are too many to be looked for at once.
    pub(super) fn new(expressions: Vec<Arc<Expression>>) -> Result<Self, Fault> {
        let (mut words, mut needed_by, mut always) = (Vec::new(), Vec::new(), Vec::new());
        for (at, expression) in expressions.iter().enumerate() {
            if expression.needs.is_empty() || words.len() + expression.needs.len() > MAX_WORDS {
                always.push(at);
                continue;
            }
            words.extend(expression.needs.iter().map(String::as_str));
            needed_by.resize(words.len(), at);
        }
        let words = AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            // All of them, the overlapping ones too.
            .match_kind(MatchKind::Standard)
            .build(words)
            .map_err(|_| Fault::invalid("patterns: expected fewer or shorter regular expressions"))?;
        Ok(Self { expressions, words, needed_by, always })
    }

    /// The expressions that may match `text`, by their place, in order.
    pub(super) fn candidates(&self, text: &str) -> impl Iterator<Item = (usize, &Regex)> {
        let mut tried = vec![false; self.expressions.len()];
        if has_look_alikes(text) {
            tried.fill(true);
        } else {
            self.always.iter().for_each(|&at| tried[at] = true);
            for found in self.words.find_overlapping_iter(text) {
                tried[self.needed_by[found.pattern().as_usize()]] = true;
            }
        }
        let candidates = tried.into_iter().enumerate().filter(|(_, tried)| *tried);
        candidates.map(|(at, _)| (at, self.expressions[at].regex()))
    }
}

/// Whether `text` has one of the two characters that are the same as an ASCII letter when case is disregarded: the Kelvin
/// sign and the long s (Unicode's `CaseFolding.txt`).
fn has_look_alikes(text: &str) -> bool {
    !text.is_ascii() && text.contains(['\u{212a}', '\u{17f}'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn needs(source: &str) -> Vec<String> {
        Expression::new(source).unwrap().needs
    }

    #[test]
    fn a_match_needs_the_part_that_tells_most() {
        assert_eq!(needs(r"\bcurl\b[^\n]*-x\s*delete\b"), ["delete"]);
        assert_eq!(needs(r"\b(?:RM|shred)\s+-\S+"), ["rm", "shred"]);
        assert_eq!(needs(r"(?:te?mp|scratch)_(\w+)"), ["mp", "scratch"]);
        assert_eq!(needs("(?:abc){2,}d?"), ["abc"]);
        assert_eq!(needs("größe"), ["gr"]);
        assert_eq!(needs("0123456789abcdef"), ["0123456789ab"]);
        for open in [r"\d+", "(?:abc)*x?.", "abc|.", r"[xyz]\w", "é+"] {
            assert_eq!(needs(open), Vec::<String>::new(), "{open}");
        }
    }

    #[test]
    fn the_end_of_a_field_is_an_end() {
        let found = |source: &str, text: &str| {
            let expression = Expression::new(source).unwrap();
            found_in(expression.regex(), text).map(|found| text[found].to_owned()).collect::<Vec<_>>()
        };
        let source = r"delete from \w+\s*(?:;|$|--)";
        for text in ["delete from a", "sql=delete from a · timeout=5", "delete from a · context=x"] {
            assert_eq!(found(source, text), ["delete from a"], "{text}");
        }
        assert_eq!(found(source, "delete from a where b"), Vec::<String>::new());
        assert_eq!(found(r"(?x) from [$] \s \$ $ # the end: $", "from$ $ · from$ $"), ["from$ $", "from$ $"]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (source, error) in [
            ("(", ExpressionError::Invalid),
            ("(a{1000}){1000}", ExpressionError::Invalid),
            ("x*", ExpressionError::MatchesNothing),
        ] {
            assert_eq!(Expression::new(source).unwrap_err(), error, "{source}");
        }
    }

    proptest! {
        /// The screen leaves out nothing that would match.
        #[test]
        fn every_expression_that_matches_is_a_candidate(
            sources in proptest::collection::vec("[abks]{1,3}|[abks]{1,2}(\\(\\?:[abks]{1,3}\\|[abks]{1,3}\\))[abks*]?", 1..20),
            text in "[abksABKS \u{212a}\u{17f}é]{0,30}",
        ) {
            let expressions: Vec<_> =
                sources.iter().filter_map(|source| Expression::new(source).ok()).map(Arc::new).collect();
            let screen = Screen::new(expressions.clone()).unwrap();
            let candidates: Vec<_> = screen.candidates(&text).map(|(at, _)| at).collect();
            for (at, expression) in expressions.iter().enumerate() {
                prop_assert!(candidates.contains(&at) || !expression.regex().is_match(&text), "{expression:?}");
            }
        }
    }
}
