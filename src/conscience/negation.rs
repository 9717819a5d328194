//! Whether what a phrase says is denied or prevented by what stands before it in the same clause.
//!
//! Pure. The rule of thumb is that doubt never acquits: a match stands unless exactly one negation (or an odd number of
//! them) clearly reaches it. So "never harm" and "prevent him from harming" are cancelled, while "not only harm", "do
//! not stop harming", "do not hesitate to harm" and "avoid the guard and harm" stand.
//! Where more is at stake the whole sentence is looked at besides: see [`super::doubt`].

use super::text::{Break, Token};
use super::words;

/// Most words that may stand between a denial and what it denies.
const REACH: usize = 6;

/// How many words back a negation is looked for: bounds the work on a text without any punctuation.
const LOOK_BACK: usize = 40;

/// Whether the words from `from` up to `first` cancel the match that begins there. `listed(i)` says whether word `i` is
/// one that begins a match of the same rule, so that a list ("harm, injure or kill") stays under one negation.
pub(super) fn cancels(tokens: &[Token], from: usize, first: usize, listed: impl Fn(usize) -> bool) -> bool {
    let bare = is_bare(&tokens[first].word);
    let mut seen = Seen::default();
    // Whether a relative clause or "from" stands between: "anyone who would harm", "from people that harm".
    let mut relative = false;
    let mut lets = false;
    // "let nobody see you": it is the witness that is denied.
    let mut perceived = false;
    for at in (first.saturating_sub(LOOK_BACK).max(from)..first).rev() {
        let word = tokens[at].word.as_str();
        match tokens[at + 1].before {
            Break::Value | Break::Field | Break::Clause | Break::Line | Break::Sentence => break,
            Break::Comma if !listed(at) => break,
            Break::Comma | Break::None => {}
        }
        let between = first - at - 1;
        let previous = at.checked_sub(1).map(|i| tokens[i].word.as_str());
        let next = tokens[at + 1].word.as_str();
        match word {
            "who" | "that" | "which" | "from" => relative = true,
            "and" if at == 0 || !listed(at - 1) => break,
            "or" if words::is_subject(next) || next == "ill" || next == "you" => break,
            "to" if bare
                && !previous.is_some_and(|p| words::takes_infinitive(p) || passes_on(tokens, at)) =>
            {
                break;
            }
            "of" if previous == Some("instead") && !bare => {
                seen.denial(between <= 1);
                break;
            }
            "than" if previous == Some("rather") => {
                seen.denial(between == 0);
                break;
            }
            "one" if previous == Some("no") => {
                seen.denial(between <= 3 && reaches(tokens, at, first, bare, lets))
            }
            "no" if next == "one" => {}
            "refuse" | "refuses" | "refused" | "refusing" | "decline" | "declines" | "declined"
                if next == "to" =>
            {
                seen.denial(between <= 2);
            }
            _ if words::is_subject(word) && !previous.is_some_and(words::takes_clause) => {
                // Its own clause begins here, unless the subject is what the negation belongs to.
                break;
            }
            _ if words::ends_negation(word) => break,
            _ if words::is_nobody(word) => {
                seen.denial(between <= 3 && between > 0 && reaches(tokens, at, first, bare, lets));
            }
            _ if words::is_negator(word) => {
                if is_rhetorical(tokens, at) {
                    break;
                }
                seen.denial(between <= REACH && reaches(tokens, at, first, bare, lets));
            }
            _ if words::undoes(word) => seen.undone += 1,
            _ => {
                if let Some(reach) = words::prevents(word) {
                    // Directly before it, and without "to", a verb that prevents takes a noun: "prevent any harm".
                    let noun = tokens[at + 1..first].iter().all(|token| words::is_determiner(&token.word));
                    let binds = !bare || relative || noun;
                    // "never let a day go by without harming": its own clause may deny the denial.
                    let denied = word == "without" && is_denied(tokens, at);
                    seen.denial(between <= reach && binds && !denied);
                }
                seen.undone += usize::from(perceived && matches!(word, "let" | "lets"));
                lets |= words::lets(word);
                perceived |= words::perceives(word);
            }
        }
    }
    seen.cancels()
}

/// The negations found so far.
#[derive(Default)]
struct Seen {
    denials: usize,
    undone: usize,
    doubtful: usize,
}

impl Seen {
    fn denial(&mut self, reaches: bool) {
        if reaches {
            self.denials += 1;
        } else {
            self.doubtful += 1;
        }
    }

    fn cancels(&self) -> bool {
        self.doubtful == 0 && self.denials > 0 && (self.denials + self.undone) % 2 == 1
    }
}

/// Whether a denial at `at` carries over to the word at `first`: at once, by a word that carries it, or in -ing.
fn reaches(tokens: &[Token], at: usize, first: usize, bare: bool, lets: bool) -> bool {
    !bare
        || at + 1 == first
        || lets
        || words::carries(&tokens[first - 1].word)
        || tokens[first].before == Break::Comma
}

/// Whether a negator stands before word `at`, with no punctuation between.
fn is_denied(tokens: &[Token], at: usize) -> bool {
    (at.saturating_sub(LOOK_BACK)..at).rev().take_while(|&i| tokens[i + 1].before == Break::None).any(|i| {
        words::is_negator(&tokens[i].word) || matches!(tokens[i].word.as_str(), "no" | "nobody" | "nothing")
    })
}

/// "want you to", "order anyone to": the word before "to" is the one who is told.
fn passes_on(tokens: &[Token], to: usize) -> bool {
    to >= 2 && words::takes_infinitive(&tokens[to - 2].word)
        || to >= 1 && matches!(tokens[to - 1].word.as_str(), "anyone" | "someone" | "anybody" | "you")
}

/// A negation that asserts: "not only", "why not", "don't you think", "can't help".
fn is_rhetorical(tokens: &[Token], at: usize) -> bool {
    let next = tokens.get(at + 1).map_or("", |t| t.word.as_str());
    let asks = at > 0 && tokens[at - 1].word == "why";
    let word = tokens[at].word.as_str();
    asks || matches!(next, "only" | "just" | "merely" | "simply" | "solely")
        || words::is_contraction(word) && (words::is_subject(next) || next == "you")
        || matches!(word, "cannot" | "cant" | "couldnt") && next == "help"
}

/// A verb without ending, as in an order or an intent; "harming" and "forged" name or describe.
fn is_bare(word: &str) -> bool {
    let inflected = word.ends_with("ing") || word.ends_with("ed") || words::regular(word) != word;
    !inflected && !matches!(word, "fake" | "false")
}
