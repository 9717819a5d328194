//! A text as the matcher sees it: words in lower case, without diacritics, and what separates them.
//!
//! Pure. Folding makes `Häârm`, `ＨＡＲＭ`, `𝐡𝐚𝐫𝐦`, a `harm` with a zero-width space in it and one with a Cyrillic `а` the same word.
//! It does not undo other disguise (`h4rm`): that is a matter for a judge that reads, not for rules.

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::props::{BinaryProperty, DefaultIgnorableCodePoint, EnumeratedProperty, GeneralCategory};

/// Words that a line has at least when the next one, in lower case, only goes on with it.
const WRAPPED: usize = 4;

/// What stands before a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Break {
    /// Blanks, hyphens, quotation marks.
    None,
    /// `=`: from a name to its value.
    Value,
    /// `·`: from one field of a call to the next.
    Field,
    /// A comma.
    Comma,
    /// A bracket, colon or dash.
    Clause,
    /// The end of a line, or dots in a row, where no more than that says whether a sentence ends.
    Line,
    /// The end of a sentence, a paragraph or a shell command.
    Sentence,
}

/// One word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// The word, folded.
    pub word: String,
    /// Whether it is written like a name: `Anna`, not `anna` or `ANNA`.
    pub capital: bool,
    /// What separates it from the word before.
    pub before: Break,
}

/// The words of `text`. An apostrophe inside a word is dropped: `don't` is `dont`, `child's` is `childs`.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(text.len() / 5);
    let mut current: Option<Token> = None;
    let mut gap = Gap { before: Break::Sentence, ..Gap::default() };
    let mut chars = text.char_indices().peekable();
    // Whether the character before was a dot.
    let mut dotted = false;
    while let Some((at, c)) = chars.next() {
        if is_invisible(c) {
            continue;
        }
        if c.is_alphanumeric() {
            dotted = false;
            let token = current.get_or_insert_with(|| Token {
                start: at,
                end: at,
                word: String::with_capacity(12),
                capital: c.is_uppercase(),
                before: gap.before(c),
            });
            // The second letter decides: `I` and `USB` are no names.
            if token.start + 1 == at || token.start == at {
                token.capital &= c.is_uppercase() == (token.start == at);
            }
            fold(c, &mut token.word);
            token.end = at + c.len_utf8();
            continue;
        }
        let next = chars.peek().map(|&(_, c)| c);
        if matches!(c, '\'' | '’' | 'ʼ') && current.is_some() && next.is_some_and(char::is_alphanumeric) {
            continue;
        }
        if let Some(token) = current.take() {
            tokens.push(token);
            gap = Gap { line: gap.line + 1, ..Gap::default() };
        }
        let dot = std::mem::replace(&mut dotted, c == '.');
        match c {
            '\n' => gap.ends += 1,
            '\r' if next != Some('\n') => gap.ends += 1,
            '.' if next == Some('.') || dot => gap.before = gap.before.max(Break::Line),
            c => gap.before = gap.before.max(separates(c, next)),
        }
    }
    tokens.extend(current);
    // Where most words are capitals they tell no names.
    for token in &mut tokens {
        token.capital &= token.word.len() > 1;
    }
    let capitals = tokens.iter().filter(|token| token.capital).count();
    if capitals > 3 && capitals * 3 > tokens.len() * 2 {
        tokens.iter_mut().for_each(|token| token.capital = false);
    }
    tokens
}

/// What was read since the last word.
struct Gap {
    /// What its marks say.
    before: Break,
    /// Ends of lines.
    ends: u32,
    /// Words in the line before.
    line: usize,
}

impl Default for Gap {
    fn default() -> Self {
        Self { before: Break::None, ends: 0, line: 0 }
    }
}

impl Break {
    /// Whether it stands between two fields of a call, or between a field's name and its value.
    pub(super) const fn parts_fields(self) -> bool {
        matches!(self, Self::Value | Self::Field)
    }
}

impl Gap {
    /// What it separates a word that begins with `first` by; from here on words are counted in a new line.
    fn before(&mut self, first: char) -> Break {
        let line = if self.ends > 0 { std::mem::take(&mut self.line) } else { self.line };
        match (self.before, self.ends) {
            (before, 0) => before,
            (Break::None, 1) if line >= WRAPPED && first.is_lowercase() => Break::None,
            (Break::None, 1) => Break::Line,
            _ => Break::Sentence,
        }
    }
}

fn separates(c: char, next: Option<char>) -> Break {
    match c {
        ';' | '!' | '?' | '。' => Break::Sentence,
        // Not in 3.5, node.js, 12:30.
        '.' if next.is_none_or(|n| !n.is_alphanumeric()) => Break::Sentence,
        // What a shell runs next.
        '&' | '|' if next == Some(c) => Break::Sentence,
        ':' if next.is_none_or(|n| !n.is_alphanumeric()) => Break::Clause,
        '—' | '–' | '(' | ')' => Break::Clause,
        '…' => Break::Line,
        ',' => Break::Comma,
        '=' => Break::Value,
        '·' => Break::Field,
        _ => Break::None,
    }
}

/// What is not seen, or only as a mark on the character before: format and control characters, combining marks, and
/// whatever else Unicode lets a reader leave out.
fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control() && !c.is_ascii_whitespace() && c != '\u{b}';
    }
    matches!(
        GeneralCategory::for_char(c),
        GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark | GeneralCategory::Format
    ) || DefaultIgnorableCodePoint::for_char(c)
}

/// Adds `c` in lower case, as the ASCII letters that it is a form of: full-width, mathematical, circled, with an accent.
fn fold(c: char, into: &mut String) {
    if c.is_ascii() {
        into.push(c.to_ascii_lowercase());
        return;
    }
    let plain = DecomposingNormalizerBorrowed::new_nfkd();
    let letters =
        plain.normalize_iter(std::iter::once(c)).filter(|c| c.is_alphanumeric() && !is_invisible(*c));
    for c in letters.flat_map(char::to_lowercase) {
        match c {
            // Letters that look the same: Cyrillic and Greek, as in the confusables of Unicode's UTS #39.
            'а' | 'α' => into.push('a'),
            'в' => into.push('b'),
            'с' => into.push('c'),
            'ԁ' => into.push('d'),
            'е' | 'ε' => into.push('e'),
            'ɡ' => into.push('g'),
            'н' | 'һ' => into.push('h'),
            'і' | 'ι' => into.push('i'),
            'ј' => into.push('j'),
            'к' | 'κ' => into.push('k'),
            'м' => into.push('m'),
            'о' | 'ο' => into.push('o'),
            'р' | 'ρ' => into.push('p'),
            'ѕ' => into.push('s'),
            'т' | 'τ' => into.push('t'),
            'υ' => into.push('u'),
            'ν' => into.push('v'),
            'х' | 'χ' => into.push('x'),
            'у' => into.push('y'),
            // Letters that are no forms of others, and are written for them.
            'đ' | 'ð' => into.push('d'),
            'ı' => into.push('i'),
            'ł' => into.push('l'),
            'ø' => into.push('o'),
            'æ' => into.push_str("ae"),
            'œ' => into.push_str("oe"),
            'ß' => into.push_str("ss"),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|t| t.word).collect()
    }

    #[test]
    fn case_diacritics_width_and_invisible_characters_make_no_difference() {
        for text in
            ["HARM", "härm", "ha\u{308}rm", "ＨＡＲＭ", "𝐇𝓪𝖗𝙢", "ⒽⓐⓇⓜ", "🄷🄰🅁🄼", "ₕₐrᵐ", "hаrm", "НΑRM"]
        {
            assert_eq!(words(text), ["harm"], "{text:?}");
        }
        for c in "\u{0}\u{8}\u{7f}\u{ad}\u{61c}\u{115f}\u{17b5}\u{180e}\u{1ab0}\u{200b}\u{200f}\u{202a}\u{202e}\u{2060}\u{2061}\
                  \u{2064}\u{2066}\u{2069}\u{206a}\u{206f}\u{20dd}\u{300}\u{3164}\u{489}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{e0020}\u{e0100}"
            .chars()
        {
            assert_eq!(words(&format!("{c}ha{c}{c}rm{c}")), ["harm"], "{c:?}");
        }
        assert_eq!(
            words("Łódź İstanbul Œuvre Straße ﬁle naïve"),
            ["lodz", "istanbul", "oeuvre", "strasse", "file", "naive"]
        );
        assert_eq!(
            words("Don’t hurt the child's self-esteem"),
            ["dont", "hurt", "the", "childs", "self", "esteem"]
        );
    }

    #[test]
    fn punctuation_tells_clauses_from_lists() {
        let breaks: Vec<_> = tokens("a b, c. d 3.5; e (f) g=h && i").iter().map(|t| t.before).collect();
        use Break::{Clause, Comma, None, Sentence, Value};
        let expected =
            [Sentence, None, Comma, Sentence, None, None, Sentence, Clause, Clause, Value, Sentence];
        assert_eq!(breaks, expected);
    }

    #[test]
    fn the_end_of_a_line_is_that_of_a_sentence_only_where_more_says_so() {
        use Break::{Line, None, Sentence};
        for (text, expected) in [
            ("kill my\nneighbour", Line),
            ("kill my\r\n  - neighbour", Line),
            ("one fine day kill my\nneighbour", None),
            ("one fine day kill my\nNeighbour", Line),
            ("one fine day kill my\n\nneighbour", Sentence),
            ("one fine day, kill my.\nneighbour", Sentence),
            ("things to kill:\nneighbour", Sentence),
            ("a line\nkill my\nneighbour", Line),
            ("kill my... neighbour", Line),
            ("kill my… neighbour", Line),
            ("kill my .. neighbour", Line),
            ("kill my. neighbour", Sentence),
            ("kill my...\nneighbour", Sentence),
        ] {
            assert_eq!(tokens(text).last().unwrap().before, expected, "{text:?}");
        }
    }

    #[test]
    fn names_are_told_by_their_capital_unless_everything_has_one() {
        let names = |text| tokens(text).into_iter().filter(|t| t.capital).map(|t| t.word).collect::<Vec<_>>();
        assert_eq!(names("kill Anna, not USB or I or the cat"), ["anna"]);
        assert_eq!(names("How To Kill A Python Process"), Vec::<String>::new());
    }

    #[test]
    fn spans_are_byte_positions_of_the_original() {
        let text = "Ünder ha\u{301}rm";
        for token in tokens(text) {
            assert!(text.get(token.start..token.end).is_some());
        }
        assert_eq!(&text[tokens(text)[1].start..], "ha\u{301}rm");
    }

    proptest::proptest! {
        #[test]
        fn any_text_splits_into_ordered_spans_on_character_borders(text in ".{0,200}") {
            let mut last = 0;
            for token in tokens(&text) {
                proptest::prop_assert!(token.start >= last && token.end > token.start);
                proptest::prop_assert!(text.get(token.start..token.end).is_some());
                last = token.end;
            }
        }
    }
}
