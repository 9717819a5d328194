//! The piece of a content that shows why it was found. Pure.

use std::collections::HashSet;

use tantivy::tokenizer::TextAnalyzer;

/// Longest snippet, in characters of the content.
const CHARS: usize = 160;

/// What marks the words.
const MARKS: (&str, &str) = ("<mark>", "</mark>");

/// Terms of one kind, and what turns a content into such.
pub struct Terms<'a> {
    /// The terms to mark; few, so that they are compared one by one.
    pub wanted: Vec<&'a str>,
    /// What makes them.
    pub analyser: TextAnalyzer,
}

/// Marks the wanted terms in a content.
pub struct Marker<'a> {
    kinds: Vec<Terms<'a>>,
}

impl<'a> Marker<'a> {
    /// Of several kinds; a content is not analysed for those of which nothing is wanted.
    pub fn new(kinds: impl IntoIterator<Item = Terms<'a>>) -> Self {
        Self { kinds: kinds.into_iter().filter(|kind| !kind.wanted.is_empty()).collect() }
    }

    /// The piece of `content` with most of the wanted terms, the first of such; [`None`] when it has none of them.
    pub fn snippet(&mut self, content: &str) -> Option<String> {
        let spans = self.spans(content);
        let (from, to) = window(content, &spans)?;
        let mut out = String::with_capacity(to - from + 64);
        let mut at = from;
        for span in spans.iter().filter(|span| span.from >= from && span.to <= to) {
            escape(&content[at..span.from], &mut out);
            out.push_str(MARKS.0);
            escape(&content[span.from..span.to], &mut out);
            out.push_str(MARKS.1);
            at = span.to;
        }
        escape(&content[at..to], &mut out);
        let before = if from > 0 { "…" } else { "" };
        let after = if to < content.len() { "…" } else { "" };
        Some(format!("{before}{}{after}", out.trim()))
    }

    /// Where wanted terms are, in order and without overlap.
    fn spans(&mut self, content: &str) -> Vec<Span<'a>> {
        let mut spans = Vec::new();
        for Terms { wanted, analyser } in &mut self.kinds {
            let mut stream = analyser.token_stream(content);
            while let Some(token) = stream.next() {
                if let Some(term) = wanted.iter().find(|term| **term == token.text) {
                    spans.push(Span { from: token.offset_from, to: token.offset_to, term });
                }
            }
        }
        // A name before the words in it.
        spans.sort_unstable_by_key(|span| (span.from, std::cmp::Reverse(span.to)));
        let mut end = 0;
        spans.retain(|span| {
            let apart = span.from >= end;
            end = if apart { span.to } else { end };
            apart
        });
        spans
    }
}

struct Span<'a> {
    from: usize,
    to: usize,
    term: &'a str,
}

/// The stretch of at most [`CHARS`] characters with the most different terms, then the most terms, then the earliest.
fn window(content: &str, spans: &[Span<'_>]) -> Option<(usize, usize)> {
    let mut best: Option<((usize, usize), usize, usize)> = None;
    let mut last = 0;
    for (first, span) in spans.iter().enumerate() {
        last = last.max(first);
        // A character has at most four bytes: what is far off needs no count.
        let fits = |to: usize| to - span.from <= 4 * CHARS && content[span.from..to].chars().count() <= CHARS;
        while spans.get(last + 1).is_some_and(|next| fits(next.to)) {
            last += 1;
        }
        let inside = &spans[first..=last];
        let different = inside.iter().map(|span| span.term).collect::<HashSet<_>>().len();
        let worth = (different, inside.len());
        if best.is_none_or(|(most, ..)| worth > most) {
            best = Some((worth, first, last));
        }
    }
    let (_, first, last) = best?;
    let (from, to) = (spans[first].from, spans[last].to);
    let room = CHARS.saturating_sub(content[from..to].chars().count());
    // What is missing at one end is given to the other.
    let back = chars_before(content, from, room / 2);
    let forth = chars_after(content, to, room - content[back..from].chars().count());
    let back = chars_before(
        content,
        back,
        room - content[back..from].chars().count() - content[to..forth].chars().count(),
    );
    Some((whole_word_start(content, back, from), whole_word_end(content, forth, to)))
}

fn chars_before(content: &str, at: usize, chars: usize) -> usize {
    content[..at].char_indices().rev().take(chars).last().map_or(at, |(start, _)| start)
}

fn chars_after(content: &str, at: usize, chars: usize) -> usize {
    content[at..].char_indices().nth(chars).map_or(content.len(), |(end, _)| at + end)
}

/// The first start of a word from `start` on, at most `limit`.
fn whole_word_start(content: &str, start: usize, limit: usize) -> usize {
    if start == 0 || content[..start].ends_with(char::is_whitespace) {
        return start;
    }
    content[start..limit].find(char::is_whitespace).map_or(start, |space| start + space)
}

/// The last end of a word up to `end`, at least `limit`.
fn whole_word_end(content: &str, end: usize, limit: usize) -> usize {
    if end == content.len() || content[end..].starts_with(char::is_whitespace) {
        return end;
    }
    content[limit..end].rfind(char::is_whitespace).map_or(end, |space| limit + space)
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::index::Analysis;
    use proptest::prelude::*;

    fn snippet(wanted: &[&str], content: &str) -> Option<String> {
        let analysis = Analysis::default();
        let terms = |analyser| Terms { wanted: wanted.to_vec(), analyser };
        Marker::new([analysis.words(), analysis.names()].map(terms)).snippet(content)
    }

    #[test]
    fn words_and_names_are_marked_and_the_rest_is_escaped() {
        for (wanted, content, expected) in [
            (&["fox"][..], "Foxes & hens <run>", "<mark>Foxes</mark> &amp; hens &lt;run&gt;"),
            (&["run", "fox"], "the fox is running", "the <mark>fox</mark> is <mark>running</mark>"),
            (&["err_conn_42", "conn"], "saw ERR_CONN_42!", "saw <mark>ERR_CONN_42</mark>!"),
            (&["cafe"], "Le Café", "Le <mark>Café</mark>"),
            (&["cafe"], "Le Cafe\u{301}, oui", "Le <mark>Cafe\u{301}</mark>, oui"),
            (&["istanbul"], "in İstanbul.", "in <mark>İstanbul</mark>."),
        ] {
            assert_eq!(snippet(wanted, content).as_deref(), Some(expected));
        }
        assert_eq!(snippet(&["fox"], "nothing"), None);
        assert_eq!(snippet(&[], "nothing"), None);
    }

    #[test]
    fn the_densest_stretch_of_a_long_content_is_shown() {
        let filler = "word ".repeat(100);
        let content = format!("{filler}red {filler}red fox here {filler}");
        let found = snippet(&["red", "fox"], &content).unwrap();
        assert!(found.contains("<mark>red</mark> <mark>fox</mark> here"), "{found}");
        assert!(found.starts_with('…') && found.ends_with('…'));
        assert!(found.chars().count() < 2 + CHARS + 2 * 13 + 1, "{found}");
    }

    proptest! {
        #[test]
        fn every_content_has_a_snippet_of_bounded_length(content in "(.{0,40}( fox|ä|<|word )){0,40}") {
            if let Some(found) = snippet(&["fox", "word"], &content) {
                let plain = found.replace(MARKS.0, "").replace(MARKS.1, "");
                let plain = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().fold(plain, |text, code| text.replace(code, "x"));
                prop_assert!(plain.chars().count() <= CHARS + 2, "{plain:?}");
                prop_assert!(found.contains(MARKS.0));
            }
        }
    }
}
