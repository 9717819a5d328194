//! What people type into a search box, taken apart. Pure, and total: every text has a meaning.
//!
//! Words are alternatives; `"…"` is a phrase; `+` directly before a word or phrase requires it, `-` excludes it. Anything
//! else that looks like syntax (a quotation mark without its partner, a lone sign, brackets, colons) is plain text.

use tantivy::tokenizer::TextAnalyzer;

/// Most terms of one query; what follows is ignored. Bounds the work of a query.
pub const MAX_TERMS: usize = 64;

/// How a clause counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurs {
    /// May occur; at least one such clause must, unless something is required.
    May,
    /// Must occur.
    Must,
    /// Must not occur.
    Not,
}

/// Terms that belong together, with their positions: one term, or a phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// How it counts.
    pub occurs: Occurs,
    /// Never empty.
    pub terms: Vec<(usize, String)>,
}

/// Takes `text` apart and sends the pieces through `analyzer`. Pieces without a term (stop words) are left out.
pub fn parse(text: &str, analyzer: &mut TextAnalyzer) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let mut left = MAX_TERMS;
    for (sign, phrase, piece) in (Pieces { rest: text }) {
        let mut terms = Vec::new();
        analyzer.token_stream(piece).process(&mut |token| terms.push((token.position, token.text.clone())));
        terms.truncate(left);
        left -= terms.len();
        let occurs = match sign {
            Some('+') => Occurs::Must,
            Some(_) => Occurs::Not,
            None => Occurs::May,
        };
        if phrase || occurs != Occurs::May {
            if !terms.is_empty() {
                clauses.push(Clause { occurs, terms });
            }
        } else {
            clauses.extend(terms.into_iter().map(|term| Clause { occurs, terms: vec![term] }));
        }
    }
    clauses
}

/// Splits into (sign, whether quoted, text).
struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = (Option<char>, bool, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        let after_sign = self
            .rest
            .strip_prefix(['+', '-'])
            .filter(|after| after.starts_with(|c: char| c.is_alphanumeric()) || quoted(after).is_some());
        let (sign, body) = after_sign.map_or((None, self.rest), |after| (Some(first), after));
        if let Some(inner) = quoted(body) {
            self.rest = &body[inner.len() + 2..];
            return Some((sign, true, inner));
        }
        // A quotation mark inside a word ends it, so that `say"hello world"` has its phrase.
        let end = body.char_indices().skip(1).find(|(_, c)| c.is_whitespace() || *c == '"');
        let (word, rest) = body.split_at(end.map_or(body.len(), |(at, _)| at));
        self.rest = rest;
        Some((sign, false, word))
    }
}

/// What stands between the quotation mark that `text` begins with and the next one.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.split_once('"').map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::index::schema::analyzer;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        let clauses = parse(text, &mut analyzer());
        let write = |clause: &Clause| {
            let sign = match clause.occurs {
                Occurs::May => "",
                Occurs::Must => "+",
                Occurs::Not => "-",
            };
            let terms: Vec<_> = clause.terms.iter().map(|(_, term)| term.as_str()).collect();
            format!("{sign}{}", terms.join("_"))
        };
        clauses.iter().map(write).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn operators_are_understood_and_everything_else_is_plain_words() {
        for (text, expected) in [
            ("red fox", "red fox"),
            ("\"red fox\" den", "red_fox den"),
            ("+red -fox", "+red -fox"),
            ("+\"red fox\" -\"blue hen\"", "+red_fox -blue_hen"),
            ("running Foxes café", "run fox cafe"),
            ("the fox and a hen", "fox hen"),
            ("king of england", "king england"),
            ("node-7", "node 7"),
            ("+node-7", "+node_7"),
            ("red \"fox", "red fox"),
            ("- + -- red", "red"),
            ("--force", "forc"),
            ("\"\"", ""),
            ("\"the\"", ""),
            ("a:b(c[d OR", "b c d"),
            ("say\"red fox\"", "say red_fox"),
            ("", ""),
            ("   ", ""),
            ("\"", ""),
            ("+", ""),
        ] {
            assert_eq!(written(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_phrase_keeps_the_gap_that_a_stop_word_leaves() {
        let clauses = parse("\"king of england\"", &mut analyzer());
        assert_eq!(clauses[0].terms, [(0, "king".to_owned()), (2, "england".to_owned())]);
    }

    proptest! {
        #[test]
        fn every_text_has_a_bounded_meaning(text in "[-+\" a-zäß:(*~^\\\\]{0,200}|.{0,200}") {
            let clauses = parse(&text, &mut analyzer());
            prop_assert!(clauses.iter().all(|clause| !clause.terms.is_empty()));
            prop_assert!(clauses.iter().map(|clause| clause.terms.len()).sum::<usize>() <= MAX_TERMS);
        }
    }
}
