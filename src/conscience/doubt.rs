//! Whether the rest of a sentence makes it doubtful that what a phrase says is denied or prevented.
//!
//! Pure. Only a rule with a veto asks: "if you do not harm him, we all die" denies the deed as [`super::negation`] reads it,
//! and demands it all the same.

use std::ops::Range;

use super::text::{Break, Token};
use super::words;

/// Whether nothing in its `sentence` makes it doubtful that the deed at `first` is denied: it is denied once, by a word that
/// stands before it with nothing but auxiliaries between, at the beginning of its clause or after an auxiliary; and no word
/// makes a condition, a report or a joke of it, or takes it back.
pub(super) fn is_plain(
    tokens: &[Token],
    sentence: Range<usize>,
    first: usize,
    listed: impl Fn(usize) -> bool,
) -> bool {
    let word = |at: usize| tokens[at].word.as_str();
    if sentence.clone().any(|at| {
        let again = at > first && matches!(word(at), "it" | "so" | "this" | "that");
        makes_doubtful(word(at)) || again && matches!(word(at - 1), "do" | "doing" | "just")
    }) {
        return false;
    }
    let begins = |at: &usize| match tokens[*at].before {
        Break::None => false,
        Break::Comma => !listed(at - 1),
        _ => true,
    };
    let start = (sentence.start + 1..=first).rev().find(begins).unwrap_or(sentence.start);
    let prevents = |at: usize| words::prevents(word(at)).is_some();
    let denies = |at: &usize| {
        words::is_negator(word(*at))
            || words::is_nobody(word(*at))
            || prevents(*at)
            || matches!(
                word(*at),
                "refuse" | "refuses" | "refused" | "decline" | "declines" | "instead" | "rather"
            )
    };
    let mut denials = (start..first).filter(denies);
    let (Some(denial), None) = (denials.next(), denials.next()) else { return false };
    let carried = |at: usize| is_auxiliary(word(at)) || words::is_determiner(word(at)) || listed(at);
    let reaches = prevents(denial) && word(first - 1) == "from" || (denial + 1..first).all(carried);
    let stands = !words::is_negator(word(denial))
        || denial > start && is_modal(word(denial - 1))
        || (start..denial).all(carried);
    reaches && stands
}

/// Words that may stand between a denial and its deed, or before the denial, without a doubt that it is meant.
fn is_auxiliary(word: &str) -> bool {
    is_modal(word)
        || words::is_subject(word)
        || matches!(
            word,
            "to" | "ever"
                | "again"
                | "even"
                | "be"
                | "or"
                | "and"
                | "nor"
                | "of"
                | "from"
                | "please"
                | "you"
                | "it"
                | "anyone"
                | "anybody"
                | "someone"
                | "agent"
                | "agents"
                | "assistant"
                | "robot"
                | "robots"
                | "let"
                | "allow"
                | "allowed"
                | "want"
                | "going"
                | "try"
                | "trying"
                | "attempt"
                | "plan"
                | "also"
                | "always"
                | "make"
                | "sure"
                | "ensure"
                | "remember"
                | "than"
        )
}

/// Auxiliary verbs, after which a negation is one of their clause: "the updater must not …".
fn is_modal(word: &str) -> bool {
    matches!(
        word,
        "do" | "does"
            | "did"
            | "should"
            | "must"
            | "may"
            | "might"
            | "can"
            | "could"
            | "will"
            | "would"
            | "shall"
            | "am"
            | "is"
            | "are"
    )
}

/// Words that make a condition, a report or a joke of a denial, take it back or judge it.
fn makes_doubtful(word: &str) -> bool {
    matches!(
        word,
        "if" | "unless"
            | "until"
            | "till"
            | "except"
            | "but"
            | "yet"
            | "wrong"
            | "crime"
            | "sin"
            | "shame"
            | "pity"
            | "foolish"
            | "stupid"
            | "silly"
            | "useless"
            | "impossible"
            | "mistake"
            | "forbidden"
            | "void"
            | "invalid"
            | "obsolete"
            | "outdated"
            | "nonsense"
            | "myth"
            | "joke"
            | "joking"
            | "kidding"
            | "opposite"
            | "contrary"
            | "said"
            | "says"
            | "say"
            | "saying"
            | "told"
            | "wrote"
            | "pretend"
            | "pretends"
            | "pretending"
            | "refrain"
            | "refraining"
            | "hold"
            | "holding"
            | "dare"
            | "hesitate"
            | "shy"
            | "see"
            | "seeing"
            | "notice"
            | "noticing"
            | "wait"
            | "fail"
            | "failing"
            | "forget"
            | "forgive"
            | "regret"
            | "sorry"
            | "slowly"
            | "halfheartedly"
    )
}

/// Words after which something that seems to be prevented is demanded: "prevent anyone from noticing …".
pub(super) fn feigns(word: &str) -> bool {
    matches!(word, "pretend" | "pretending" | "notice" | "noticing" | "refrain" | "refraining")
}
