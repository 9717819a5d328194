//! What people type into a search box, taken apart. Pure, and total: every text has a meaning.
//!
//! Words are alternatives; `"…"` is a phrase; `+` directly before a word or phrase requires it, `-` excludes it.
//! `tag:x`, `entity:x` and `layer:x` narrow the search, with `-` before them to what is not so; a value with spaces stands
//! in quotation marks. Other words with a colon, and all other punctuation, are plain text.
//!
//! What begins an operator and does not complete it (a quotation mark without its partner, a sign or field without what
//! it is about, a layer that is none) makes the whole text plain words: half of an expression may mean the opposite.

use super::model::Layer;

/// How a piece counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurs {
    /// May occur; at least one such piece must, unless something is required.
    May,
    /// Must occur.
    Must,
    /// Must not occur.
    Not,
}

/// A word or phrase as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How it counts.
    pub occurs: Occurs,
    /// Whether its words must follow each other.
    pub phrase: bool,
    /// The text, without signs and quotation marks.
    pub text: String,
}

/// What a field must be, and must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<T> {
    /// Values that are asked for.
    pub is: Vec<T>,
    /// Values that are excluded.
    pub not: Vec<T>,
}

impl<T> Default for Wanted<T> {
    fn default() -> Self {
        Self { is: Vec::new(), not: Vec::new() }
    }
}

impl<T> Wanted<T> {
    fn add(&mut self, value: T, occurs: Occurs) {
        if occurs == Occurs::Not { self.not.push(value) } else { self.is.push(value) }
    }
}

/// A text that was taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// Words and phrases, in their order.
    pub pieces: Vec<Piece>,
    /// Tags: all of them, none of those.
    pub tags: Wanted<String>,
    /// Entities.
    pub entities: Wanted<String>,
    /// Layers: any of them, none of those.
    pub layers: Wanted<Layer>,
    /// Whether it was not well formed, and is taken as plain words.
    pub plain: bool,
}

impl Expression {
    /// Takes `text` apart.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        well_formed(text).unwrap_or_else(|| {
            // What stood in quotation marks and after signs are words like any others.
            let words = text.split(|c: char| c.is_whitespace() || c == '"');
            let words = words.map(|word| word.trim_start_matches(['+', '-'])).filter(|word| !word.is_empty());
            let piece = |word: &str| Piece { occurs: Occurs::May, phrase: false, text: word.to_owned() };
            Self { pieces: words.map(piece).collect(), plain: true, ..Self::default() }
        })
    }

    /// Whether it asks for words at all, be they such that are in no index. What it excludes it does not ask for.
    #[must_use]
    pub fn asks_for_words(&self) -> bool {
        self.plain || self.pieces.iter().any(|piece| piece.occurs != Occurs::Not)
    }
}

fn well_formed(text: &str) -> Option<Expression> {
    let mut expression = Expression::default();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (occurs, body) = match first {
            '+' => (Occurs::Must, &rest[1..]),
            '-' => (Occurs::Not, &rest[1..]),
            _ => (Occurs::May, rest),
        };
        // `--force` and `-5°` are words with their punctuation; a sign alone is not.
        let signed = occurs != Occurs::May;
        if signed && body.chars().next().is_none_or(char::is_whitespace) {
            return None;
        }
        let (occurs, body) =
            if signed && body.starts_with(['+', '-']) { (Occurs::May, rest) } else { (occurs, body) };
        rest = match field(body) {
            Some((field, value)) => {
                let (value, rest) = value_of(value)?;
                match field {
                    Field::Tag => expression.tags.add(value.to_owned(), occurs),
                    Field::Entity => expression.entities.add(value.to_owned(), occurs),
                    Field::Layer => expression.layers.add(Layer::parse(value)?, occurs),
                }
                rest
            }
            None => {
                let (piece, rest) = piece(body, occurs)?;
                expression.pieces.push(piece);
                rest
            }
        }
        .trim_start();
    }
    Some(expression)
}

enum Field {
    Tag,
    Entity,
    Layer,
}

fn field(body: &str) -> Option<(Field, &str)> {
    let (name, value) = body.split_once(':')?;
    let field = match name {
        "tag" => Field::Tag,
        "entity" => Field::Entity,
        "layer" => Field::Layer,
        _ => return None,
    };
    Some((field, value))
}

/// The value that `text` begins with, and what follows it.
fn value_of(text: &str) -> Option<(&str, &str)> {
    let (value, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => text.split_at(text.find(char::is_whitespace).unwrap_or(text.len())),
    };
    (!value.is_empty()).then_some((value, rest))
}

fn piece(body: &str, occurs: Occurs) -> Option<(Piece, &str)> {
    if let Some(quoted) = body.strip_prefix('"') {
        let (text, rest) = quoted.split_once('"')?;
        if occurs != Occurs::May && text.trim().is_empty() {
            return None;
        }
        return Some((Piece { occurs, phrase: true, text: text.to_owned() }, rest));
    }
    // A quotation mark inside a word ends it, so that `say"hello world"` has its phrase.
    let end = body.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(body.len());
    let (word, rest) = body.split_at(end);
    Some((Piece { occurs, phrase: false, text: word.to_owned() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        let expression = Expression::parse(text);
        let sign = |occurs| match occurs {
            Occurs::May => "",
            Occurs::Must => "+",
            Occurs::Not => "-",
        };
        let mut out: Vec<String> = Vec::new();
        for piece in &expression.pieces {
            let quote = if piece.phrase { "\"" } else { "" };
            out.push(format!("{}{quote}{}{quote}", sign(piece.occurs), piece.text));
        }
        let fields = |name: &str, wanted: &Wanted<String>| -> Vec<String> {
            let is = wanted.is.iter().map(|value| format!("{name}={value}"));
            is.chain(wanted.not.iter().map(|value| format!("{name}!={value}"))).collect()
        };
        out.extend(fields("tag", &expression.tags));
        out.extend(fields("entity", &expression.entities));
        let layers = |list: &[Layer]| list.iter().map(|layer| layer.as_str().to_owned()).collect();
        out.extend(fields(
            "layer",
            &Wanted { is: layers(&expression.layers.is), not: layers(&expression.layers.not) },
        ));
        if expression.plain {
            out.push("(plain)".into());
        }
        out.join(" ")
    }

    #[test]
    fn operators_are_understood() {
        for (text, expected) in [
            ("red fox", "red fox"),
            ("\"red fox\" den", "\"red fox\" den"),
            ("+red -fox", "+red -fox"),
            ("+\"red fox\" -\"blue hen\"", "+\"red fox\" -\"blue hen\""),
            ("say\"red fox\"", "say \"red fox\""),
            ("pump tag:hall entity:ann", "pump tag=hall entity=ann"),
            ("tag:\"two words\" -tag:old", "tag=two words tag!=old"),
            ("+tag:hall -entity:bob", "tag=hall entity!=bob"),
            ("layer:semantic -layer:working", "layer=semantic layer!=working"),
            ("tag:a:b", "tag=a:b"),
            ("http://host:80/x std::vec 12:30", "http://host:80/x std::vec 12:30"),
            ("--force -5 a-b c++ (x) [y] z~ \\ ^ * ?", "--force -5 a-b c++ (x) [y] z~ \\ ^ * ?"),
            ("\"\"", "\"\""),
            ("", ""),
            ("  \t\n ", ""),
        ] {
            assert_eq!(written(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_plain_words_and_says_so() {
        for (text, expected) in [
            ("red \"fox", "red fox (plain)"),
            ("\"", "(plain)"),
            ("+red - hen", "red hen (plain)"),
            ("+", "(plain)"),
            ("-\"\" red", "red (plain)"),
            ("red tag:", "red tag: (plain)"),
            ("tag:\"hall", "tag: hall (plain)"),
            ("layer:attic +red", "layer:attic red (plain)"),
        ] {
            assert_eq!(written(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_text_has_a_meaning(text in "[-+\" a-zß:(*~^\\\\]{0,60}|(tag:|entity:|layer:|\"|[-+ ]|é|x){0,30}|.{0,200}") {
            let expression = Expression::parse(&text);
            // Nothing that was said is dropped, whatever it means.
            let alphanumeric = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
            let said: usize = expression.pieces.iter().map(|piece| alphanumeric(&piece.text)).sum();
            let values = expression.tags.is.iter().chain(&expression.tags.not);
            let values = values.chain(&expression.entities.is).chain(&expression.entities.not);
            let named: usize = values.map(|value| alphanumeric(value)).sum();
            prop_assert!(said + named <= alphanumeric(&text));
            let plain = expression.layers == Wanted::default()
                && expression.tags == Wanted::default()
                && expression.entities == Wanted::default();
            prop_assert!(!plain || said == alphanumeric(&text));
        }
    }
}
