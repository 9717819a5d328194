//! From the pieces of an expression to terms of the index. Pure.

use tantivy::tokenizer::TextAnalyzer;

use super::analysis;
use super::schema::Layout;
use crate::memory::expression::{Expression, Occurs, Piece};

/// Most terms of one query; what follows is ignored. Bounds the work of a query.
pub const MAX_TERMS: usize = 64;

/// What one clause looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Words with their positions: one, or a phrase. Never empty.
    Words(Vec<(usize, String)>),
    /// A name as a whole.
    Name(String),
    /// A name as a whole, or else its words as a phrase. The words may be none.
    Identifier(String, Vec<(usize, String)>),
}

impl Sought {
    /// The name that is looked for as a whole.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Words(_) => None,
            Self::Name(name) | Self::Identifier(name, _) => Some(name),
        }
    }

    /// The words that are looked for, with their positions.
    #[must_use]
    pub fn words(&self) -> &[(usize, String)] {
        match self {
            Self::Words(words) | Self::Identifier(_, words) => words,
            Self::Name(_) => &[],
        }
    }
}

/// Terms that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// How they count.
    pub occurs: Occurs,
    /// What they are.
    pub sought: Sought,
}

/// What an expression looks for in the contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Pieces without a term (stop words) are left out.
    pub clauses: Vec<Clause>,
    /// Whether words were asked for, others than excluded ones, and none is such that it could be in an index.
    pub nothing: bool,
}

impl Words {
    /// Sends the pieces of `expression` through the analysis.
    #[must_use]
    pub fn of(expression: &Expression, layout: &Layout) -> Self {
        let mut analysers = Analysers { words: layout.words(), names: layout.names(), left: MAX_TERMS };
        let clauses: Vec<_> = expression.pieces.iter().flat_map(|piece| analysers.clauses(piece)).collect();
        let words = Self { clauses, nothing: false };
        Self { nothing: expression.asks_for_words() && !words.rank(), ..words }
    }

    /// Whether hits are ordered by their text.
    #[must_use]
    pub fn rank(&self) -> bool {
        self.clauses.iter().any(|clause| clause.occurs != Occurs::Not)
    }

    /// The words that make a hit.
    pub fn wanted_words(&self) -> impl Iterator<Item = &str> {
        self.wanted().flat_map(|clause| clause.sought.words()).map(|(_, word)| word.as_str())
    }

    /// The names that make a hit.
    pub fn wanted_names(&self) -> impl Iterator<Item = &str> {
        self.wanted().filter_map(|clause| clause.sought.name())
    }

    fn wanted(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(|clause| clause.occurs != Occurs::Not)
    }
}

struct Analysers {
    words: TextAnalyzer,
    names: TextAnalyzer,
    left: usize,
}

impl Analysers {
    fn clauses(&mut self, piece: &Piece) -> Vec<Clause> {
        let occurs = piece.occurs;
        let mut words = Vec::new();
        self.words
            .token_stream(&piece.text)
            .process(&mut |token| words.push((token.position, token.text.clone())));
        words.truncate(self.left);
        self.left -= words.len();
        let clause = |sought| Clause { occurs, sought };
        let name =
            if piece.phrase { None } else { analysis::name(&piece.text).and_then(|name| self.name(name)) };
        match name {
            Some(name) if analysis::is_identifier(&piece.text) => {
                vec![clause(Sought::Identifier(name, words))]
            }
            // What must or must not occur is the piece as a whole.
            _ if piece.phrase || occurs != Occurs::May => {
                (!words.is_empty()).then(|| clause(Sought::Words(words))).into_iter().collect()
            }
            name => {
                let words = words.into_iter().map(|word| clause(Sought::Words(vec![word])));
                words.chain(name.map(|name| clause(Sought::Name(name)))).collect()
            }
        }
    }

    fn name(&mut self, text: &str) -> Option<String> {
        let mut name = None;
        if self.left > 0 {
            self.names.token_stream(text).process(&mut |token| name = Some(token.text.clone()));
        }
        self.left -= usize::from(name.is_some());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::index::analysis::Analysis;
    use proptest::prelude::*;

    fn words(text: &str) -> Words {
        Words::of(&Expression::parse(text), &Layout::new(&Analysis::default()))
    }

    fn written(text: &str) -> String {
        let write = |clause: &Clause| {
            let sign = match clause.occurs {
                Occurs::May => "",
                Occurs::Must => "+",
                Occurs::Not => "-",
            };
            let phrase = |words: &[(usize, String)]| {
                words.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>().join("_")
            };
            match &clause.sought {
                Sought::Words(words) => format!("{sign}{}", phrase(words)),
                Sought::Name(name) => format!("{sign}<{name}>"),
                Sought::Identifier(name, words) => format!("{sign}<{name}|{}>", phrase(words)),
            }
        };
        words(text).clauses.iter().map(write).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pieces_become_terms() {
        for (text, expected) in [
            ("running Foxes café", "run fox cafe"),
            ("the fox and a hen", "fox hen"),
            ("+\"red fox\" -hens", "+red_fox -hen"),
            ("well-known", "well known <well-known>"),
            ("+well-known", "+well_known"),
            ("ERR_CONN_42,", "<err_conn_42|err_conn_42>"),
            ("-node-7", "-<node-7|node_7>"),
            ("deadbeef01ed", "deadbeef01ed"),
            ("/etc/is", "<etc/is|etc>"),
            ("is_a", "<is_a|>"),
            ("--force", "forc"),
            ("\"\"", ""),
            ("\"the\"", ""),
            ("a:b(c[d OR", "b c d"),
        ] {
            assert_eq!(written(text), expected, "{text:?}");
        }
        assert!(words("the of").nothing && words("\"").nothing && words("+").nothing);
        assert!(!words("").nothing && !words("tag:x").nothing);
        // What is excluded is nothing to look for, be it in an index or not.
        assert!(!words("-the").nothing && !words("-zzz").nothing && !words("-the -zzz tag:x").nothing);
        assert!(words("the -zzz").nothing && words("the -the").nothing && !words("fox -the").nothing);
    }

    #[test]
    fn a_phrase_keeps_the_gap_that_a_stop_word_leaves() {
        let Sought::Words(words) = &words("\"king of england\"").clauses[0].sought else { panic!() };
        assert_eq!(*words, [(0, "king".to_owned()), (2, "england".to_owned())]);
    }

    proptest! {
        #[test]
        fn every_text_has_a_bounded_number_of_terms(text in "[-+\" a-zä:._0-9@/]{0,400}|.{0,200}") {
            let words = words(&text);
            prop_assert!(words.wanted_words().chain(words.wanted_names()).count() <= MAX_TERMS);
            let empty = |clause: &Clause| matches!(&clause.sought, Sought::Words(words) if words.is_empty());
            prop_assert!(!words.clauses.iter().any(empty));
        }
    }
}
