//! How text becomes terms.
//!
//! Words are cut at everything that is no letter, digit or mark upon one, composed (NFC), lower-cased, folded to ASCII, rid of
//! stop words, and reduced to their stem. A word with a digit in it keeps its form: it is a name, a number or a piece of
//! hexadecimal. Names that contain punctuation (`ERR_CONN_42`, addresses, paths) are kept whole besides, in a field of their own.
//!
//! The same analysis must have made the index and read the query: its [`Analysis::name`] is part of a shard's identity.

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_normalizer::properties::CanonicalCombiningClassMapBorrowed;
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, StopWordFilter, TextAnalyzer,
    TextAnalyzerBuilder, Token, TokenFilter, TokenStream, Tokenizer,
};

/// Changes whenever the same text and options would give other terms, so that shards are built anew.
const VERSION: u32 = 3;
/// Words of this many bytes or more are left out; long enough for a SHA-512 in hexadecimal.
const WORD_BYTES: usize = 129;
/// Whole names of this many bytes or more are left out; their words are found all the same.
const NAME_BYTES: usize = 257;

/// Languages by their configured names.
pub const LANGUAGES: [(&str, Language, frostem::Algorithm); 16] = {
    use frostem::Algorithm as A;
    use tantivy::tokenizer::Language as L;
    [
        ("danish", L::Danish, A::Danish),
        ("dutch", L::Dutch, A::Dutch),
        ("english", L::English, A::English),
        ("finnish", L::Finnish, A::Finnish),
        ("french", L::French, A::French),
        ("german", L::German, A::German),
        ("greek", L::Greek, A::Greek),
        ("hungarian", L::Hungarian, A::Hungarian),
        ("italian", L::Italian, A::Italian),
        ("norwegian", L::Norwegian, A::Norwegian),
        ("portuguese", L::Portuguese, A::Portuguese),
        ("romanian", L::Romanian, A::Romanian),
        ("russian", L::Russian, A::Russian),
        ("spanish", L::Spanish, A::Spanish),
        ("swedish", L::Swedish, A::Swedish),
        ("turkish", L::Turkish, A::Turkish),
    ]
};

/// What is done with a text. The parts can be left out, to see what each contributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// One of [`LANGUAGES`], by its name; without one there are neither stop words nor stems.
    pub language: Option<&'static str>,
    /// Whether letters lose their accents.
    pub folding: bool,
    /// Whether the language's stop words are left out. Greek, Romanian and Turkish have none here.
    pub stop_words: bool,
    /// Whether words are reduced to their stem.
    pub stems: bool,
}

impl Default for Analysis {
    fn default() -> Self {
        Self { language: Some("english"), folding: true, stop_words: true, stems: true }
    }
}

impl Analysis {
    /// All of it in the language of that name; `none` for no language. [`None`] when there is no such language.
    #[must_use]
    pub fn in_language(name: &str) -> Option<Self> {
        if name == "none" {
            return Some(Self { language: None, ..Self::default() });
        }
        let (name, ..) = LANGUAGES.iter().find(|(known, ..)| *known == name)?;
        Some(Self { language: Some(name), ..Self::default() })
    }

    /// What distinguishes this analysis from others.
    #[must_use]
    pub fn name(&self) -> String {
        let parts = [(self.folding, "folding"), (self.stop_words, "stop"), (self.stems, "stems")];
        let parts: Vec<_> = parts.into_iter().filter_map(|(on, part)| on.then_some(part)).collect();
        format!("{}-{VERSION}-{}", self.language.unwrap_or("none"), parts.join("-"))
    }

    /// Text to words.
    #[must_use]
    pub fn words(&self) -> TextAnalyzer {
        let mut chain = TextAnalyzer::builder(Pieces::words())
            .filter_dynamic(RemoveLongFilter::limit(WORD_BYTES))
            .filter_dynamic(LowerCaser);
        let language = self.language.and_then(|name| LANGUAGES.iter().find(|(known, ..)| *known == name));
        // The endings of English words have no accents, so that `résumés` and `resumes` have the same stem; other
        // languages know their endings by them.
        let fold_first = language.is_none_or(|(name, ..)| *name == "english");
        if self.folding && fold_first {
            chain = folded(chain);
        }
        if let Some((_, language, algorithm)) = language {
            if let Some(stop_words) = StopWordFilter::new(*language).filter(|_| self.stop_words) {
                chain = chain.filter_dynamic(stop_words);
            }
            if self.stems {
                chain = chain.filter_dynamic(Stems(*algorithm));
            }
        }
        if self.folding && !fold_first {
            chain = folded(chain);
        }
        chain.build()
    }

    /// Text to the names in it that are more than one word.
    #[must_use]
    pub fn names(&self) -> TextAnalyzer {
        let chain = TextAnalyzer::builder(Pieces::names())
            .filter_dynamic(RemoveLongFilter::limit(NAME_BYTES))
            .filter_dynamic(LowerCaser);
        if self.folding { folded(chain).build() } else { chain.build() }
    }
}

/// Without accents, whether they have a composed form or not.
fn folded(chain: TextAnalyzerBuilder) -> TextAnalyzerBuilder {
    chain.filter_dynamic(AsciiFoldingFilter).filter_dynamic(Unmarked)
}

/// The first character that stands upon another; what comes before needs no look at a table.
const FIRST_MARK: char = '\u{300}';

/// Whether `c` stands upon the character before it, as an accent of decomposed text does.
fn is_mark(c: char) -> bool {
    c >= FIRST_MARK && CanonicalCombiningClassMapBorrowed::new().get_u8(c) != 0
}

/// Whether `c` may stand within a word.
fn is_letter(c: char) -> bool {
    c.is_alphanumeric() || is_mark(c)
}

/// Whether `c` may stand within a name.
fn is_part(c: char) -> bool {
    is_letter(c) || matches!(c, '_' | '-' | '.' | ':' | '/' | '\\' | '@' | '#' | '%' | '+' | '=' | '~' | '&')
}

/// `text` without the punctuation around it; [`None`] when that is one word or nothing.
pub fn name(text: &str) -> Option<&str> {
    let name = text.trim_matches(|c: char| !is_letter(c));
    (name.chars().all(is_part) && !name.chars().all(is_letter)).then_some(name)
}

/// Whether `text` is one name rather than several words: then it is looked for as a whole.
pub fn is_identifier(text: &str) -> bool {
    name(text).is_some() && text.contains(|c: char| c.is_numeric() || matches!(c, '_' | '@' | '\\'))
        || text.starts_with('/') && name(text).is_some()
}

/// A piece of a text that becomes a token: where it begins, and what is left behind it.
type Cut = fn(&str) -> Option<(usize, &str)>;

fn next_word(text: &str) -> Option<(usize, &str)> {
    let start = text.find(char::is_alphanumeric)?;
    let word = &text[start..];
    Some((start, &word[..word.find(|c| !is_letter(c)).unwrap_or(word.len())]))
}

fn next_name(text: &str) -> Option<(usize, &str)> {
    let mut at = 0;
    loop {
        let start = at + text[at..].find(is_part)?;
        let run = &text[start..];
        let run = &run[..run.find(|c| !is_part(c)).unwrap_or(run.len())];
        if let Some(name) = name(run) {
            let from = start + (run.len() - run.trim_start_matches(|c: char| !is_letter(c)).len());
            return Some((from, name));
        }
        at = start + run.len();
    }
}

/// Cuts a text into words or [`name`]s, each composed (NFC), so that it does not matter how an accent is written.
#[derive(Clone)]
struct Pieces {
    cut: Cut,
    token: Token,
}

impl Pieces {
    fn words() -> Self {
        Self { cut: next_word, token: Token::default() }
    }

    fn names() -> Self {
        Self { cut: next_name, token: Token::default() }
    }
}

struct PiecesStream<'a> {
    text: &'a str,
    at: usize,
    cut: Cut,
    token: &'a mut Token,
}

impl Tokenizer for Pieces {
    type TokenStream<'a> = PiecesStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> PiecesStream<'a> {
        self.token.reset();
        PiecesStream { text, at: 0, cut: self.cut, token: &mut self.token }
    }
}

impl TokenStream for PiecesStream<'_> {
    fn advance(&mut self) -> bool {
        let Some((start, piece)) = (self.cut)(&self.text[self.at..]) else { return false };
        let from = self.at + start;
        self.at = from + piece.len();
        self.token.position = self.token.position.wrapping_add(1);
        (self.token.offset_from, self.token.offset_to) = (from, self.at);
        self.token.text.clear();
        compose(piece, &mut self.token.text);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

/// Appends `piece` in composed form. The small letter of `İ` is `i`, without the dot that would be left upon it.
fn compose(piece: &str, out: &mut String) {
    const DOTTED: char = 'İ';
    if piece.is_ascii() || !piece.contains(|c| c >= FIRST_MARK || c == DOTTED) {
        return out.push_str(piece);
    }
    let composed = ComposingNormalizerBorrowed::new_nfc().normalize(piece);
    out.extend(composed.chars().map(|c| if c == DOTTED { 'i' } else { c }));
}

/// Takes the accents off words that have no composed form with them, as folding does with those that have one.
#[derive(Clone, Copy)]
struct Unmarked;

#[derive(Clone)]
struct UnmarkedOver<T>(T);

struct UnmarkedStream<T>(T);

impl TokenFilter for Unmarked {
    type Tokenizer<T: Tokenizer> = UnmarkedOver<T>;

    fn transform<T: Tokenizer>(self, inner: T) -> UnmarkedOver<T> {
        UnmarkedOver(inner)
    }
}

impl<T: Tokenizer> Tokenizer for UnmarkedOver<T> {
    type TokenStream<'a> = UnmarkedStream<T::TokenStream<'a>>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Self::TokenStream<'a> {
        UnmarkedStream(self.0.token_stream(text))
    }
}

impl<T: TokenStream> TokenStream for UnmarkedStream<T> {
    fn advance(&mut self) -> bool {
        let more = self.0.advance();
        // Combining Diacritical Marks: those of Latin, Greek and Cyrillic letters. Marks of other scripts make other words.
        let token = self.0.token_mut();
        if more && !token.text.is_ascii() {
            token.text.retain(|c| !matches!(c, '\u{300}'..='\u{36f}'));
        }
        more
    }

    fn token(&self) -> &Token {
        self.0.token()
    }

    fn token_mut(&mut self) -> &mut Token {
        self.0.token_mut()
    }
}

/// Reduces words to their stem (Snowball), except those with a digit.
#[derive(Clone, Copy)]
struct Stems(frostem::Algorithm);

#[derive(Clone)]
struct StemsOver<T> {
    algorithm: frostem::Algorithm,
    inner: T,
}

struct StemsStream<T> {
    stemmer: frostem::Stemmer,
    inner: T,
}

impl TokenFilter for Stems {
    type Tokenizer<T: Tokenizer> = StemsOver<T>;

    fn transform<T: Tokenizer>(self, inner: T) -> StemsOver<T> {
        StemsOver { algorithm: self.0, inner }
    }
}

impl<T: Tokenizer> Tokenizer for StemsOver<T> {
    type TokenStream<'a> = StemsStream<T::TokenStream<'a>>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Self::TokenStream<'a> {
        StemsStream { stemmer: frostem::Stemmer::new(self.algorithm), inner: self.inner.token_stream(text) }
    }
}

impl<T: TokenStream> TokenStream for StemsStream<T> {
    fn advance(&mut self) -> bool {
        let more = self.inner.advance();
        if more {
            let token = self.inner.token_mut();
            if !token.text.contains(char::is_numeric) {
                let stem = self.stemmer.stem(&token.text).into_owned();
                token.text = stem;
            }
        }
        more
    }

    fn token(&self) -> &Token {
        self.inner.token()
    }

    fn token_mut(&mut self) -> &mut Token {
        self.inner.token_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(mut analyzer: TextAnalyzer, text: &str) -> String {
        let mut terms = Vec::new();
        analyzer.token_stream(text).process(&mut |token| terms.push(token.text.clone()));
        terms.join(" ")
    }

    fn words(language: &str, text: &str) -> String {
        terms(Analysis::in_language(language).unwrap().words(), text)
    }

    #[test]
    fn words_become_stems_of_their_language_and_lose_accents() {
        for (language, text, expected) in [
            ("english", "The quick brown foxes are running", "quick brown fox run"),
            ("english", "Résumés of the cafés", "resum cafe"),
            ("german", "Die Häuser und die Gärten", "haus gart"),
            ("french", "les chevaux étaient mangés", "cheval mang"),
            ("spanish", "las canciones", "cancion"),
            ("none", "The Foxes in cafés", "the foxes in cafes"),
        ] {
            assert_eq!(words(language, text), expected, "{language}");
        }
        assert_eq!(Analysis::in_language("klingon"), None);
        for (name, ..) in LANGUAGES {
            assert!(!words(name, "abc").is_empty(), "{name}");
        }
    }

    #[test]
    fn it_does_not_matter_how_an_accent_is_written() {
        for (language, composed, decomposed, expected) in [
            ("english", "Résumé", "Re\u{301}sume\u{301}", "resum"),
            ("none", "Résumé", "Re\u{301}sume\u{301}", "resume"),
            ("german", "Häuser", "Ha\u{308}user", "haus"),
            ("french", "étaient mangés", "e\u{301}taient mange\u{301}s", "mang"),
            ("turkish", "İstanbul", "I\u{307}stanbul", "istanbul"),
            ("none", "İstanbul", "istanbul", "istanbul"),
            ("none", "x\u{304}y", "xy", "xy"),
            ("russian", "йод", "и\u{306}од", "йод"),
            ("none", "がく", "か\u{3099}く", "がく"),
            ("none", "हिन्दी", "हिन्दी", "हिन्दी"),
            ("none", "한국", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}", "한국"),
        ] {
            assert_eq!(words(language, composed), expected, "{language}");
            assert_eq!(words(language, decomposed), expected, "{language}");
        }
        let names = |text: &str| terms(Analysis::default().names(), text);
        assert_eq!(names("re\u{301}sume\u{301}_2.pdf, cafe\u{301}"), "resume_2.pdf");
        assert_eq!(names("(re\u{301}sume\u{301}-é)"), "resume-e");
        assert!(is_identifier("cafe\u{301}_1") && !is_identifier("cafe\u{301}"));
        assert_eq!(name("cafe\u{301}"), None);
    }

    #[test]
    fn what_has_a_digit_keeps_its_form() {
        assert_eq!(words("english", "deadbeef01ed 7f3ing running"), "deadbeef01ed 7f3ing run");
        let digest = "0123456789abcdef".repeat(8);
        assert_eq!(words("english", &digest), digest);
    }

    #[test]
    fn names_with_punctuation_are_kept_whole() {
        let names = |text: &str| terms(Analysis::default().names(), text);
        for (text, expected) in [
            ("saw ERR_CONN_42, twice.", "err_conn_42"),
            ("from 192.168.1.10: refused", "192.168.1.10"),
            ("(see /etc/orchd/orchd.toml)", "etc/orchd/orchd.toml"),
            ("mail Ann.Lee@example.org!", "ann.lee@example.org"),
            ("0198c2d4-7a51-7c3e-9f4b-2d5e8a1c6b70", "0198c2d4-7a51-7c3e-9f4b-2d5e8a1c6b70"),
            ("at [fe80::1]:8080", "fe80::1"),
            ("plain words. And more", ""),
            ("-- ... --", ""),
            ("", ""),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
    }

    #[test]
    fn identifiers_are_told_from_words_with_punctuation() {
        for text in ["ERR_CONN_42", "node-7", "10.0.0.1", "a@b.c", "/var/log", "C:\\x", "_private_thing"] {
            assert!(is_identifier(text), "{text}");
        }
        for text in ["well-known", "and/or", "end.Next", "word", "word,", "42", "", "-", "deadbeef01"] {
            assert!(!is_identifier(text), "{text}");
        }
    }

    #[test]
    fn analyses_that_differ_have_different_names() {
        let mut names = std::collections::HashSet::new();
        for language in ["english", "german", "none"] {
            let all = Analysis::in_language(language).unwrap();
            for analysis in [
                all,
                Analysis { folding: false, ..all },
                Analysis { stop_words: false, ..all },
                Analysis { stems: false, ..all },
            ] {
                assert!(names.insert(analysis.name()));
            }
        }
    }
}
