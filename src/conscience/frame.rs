//! Kinds of sentences that say something harmful without wanting it: stories and games, questions about what was or what
//! a word means, and the care for what should not happen.
//!
//! Pure, and no more than rules of thumb. A rule takes them into account where it names them among its exceptions, so that
//! the rules that must not be talked out of anything are deaf to them.

use super::reading::Reading;
use super::text::Break;

/// A kind of sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// It tells or plays: "in the novel the detective kills the butler".
    Fiction,
    /// It asks what was, is or means, not how to: "who killed Caesar", "what is the definition of murder".
    Inquiry,
    /// It prevents, protects, reports or heals: "prevent the murder of", "help victims of".
    Care,
}

/// How far care reaches, in words.
const REACH: usize = 8;

impl Frame {
    /// The frame called `name`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "fiction" => Self::Fiction,
            "inquiry" => Self::Inquiry,
            "care" => Self::Care,
            _ => return None,
        })
    }

    /// Whether the sentence of the words from `first` to `last` is of this kind.
    pub(super) fn holds(self, reading: &Reading, first: usize, last: usize) -> bool {
        match self {
            Self::Fiction => reading.sentence(first).any(|at| reading.tells(at)),
            Self::Inquiry => asks(reading, first),
            Self::Care => cares_before(reading, first) || cares_after(reading, last),
        }
    }
}

fn asks(reading: &Reading, first: usize) -> bool {
    let sentence = reading.sentence(first);
    let polite = |word: &str| {
        matches!(
            word,
            "please"
                | "can"
                | "could"
                | "you"
                | "tell"
                | "me"
                | "explain"
                | "to"
                | "describe"
                | "briefly"
                | "so"
        )
    };
    let Some(start) = sentence.clone().find(|&at| !polite(reading.word(at))) else { return false };
    // Whoever tells of themselves asks for no history.
    let word = |offset: usize| {
        let at = start + offset;
        if at < sentence.end { reading.word(at) } else { "" }
    };
    let past = |word: &str| {
        matches!(word, "did" | "was" | "were" | "has" | "have" | "had" | "shot" | "stole")
            || word.ends_with("ed")
    };
    let oneself = |word: &str| matches!(word, "i" | "we" | "not" | "dont" | "should" | "to");
    match word(0) {
        "who" | "when" | "where" | "which" | "whom" if past(word(1)) => true,
        "how"
            if matches!(word(1), "did" | "was" | "were" | "many" | "much" | "often" | "common" | "does") =>
        {
            // Who asks how many it takes asks for a dose.
            let dose = |at| {
                matches!(
                    reading.word(at),
                    "need" | "needs" | "needed" | "enough" | "take" | "takes" | "would"
                )
            };
            !(oneself(word(2)) || matches!(word(1), "many" | "much") && sentence.clone().any(dose))
        }
        "why" => {
            matches!(word(1), "did" | "was" | "were" | "do" | "does" | "is" | "are") && !oneself(word(2))
        }
        "what" if matches!(word(1), "happened" | "was" | "were" | "did" | "does" | "happens") => {
            !oneself(word(2))
        }
        // "What steps did they take to …"
        "what" | "which" if matches!(word(2), "did" | "was" | "were") && !oneself(word(3)) => true,
        "what" if matches!(word(1), "is" | "are") => !sentence.clone().any(|at| {
            matches!(
                reading.word(at),
                "way"
                    | "ways"
                    | "method"
                    | "methods"
                    | "recipe"
                    | "steps"
                    | "best"
                    | "easiest"
                    | "fastest"
                    | "quickest"
                    | "address"
                    | "number"
                    | "password"
                    | "i"
                    | "my"
                    | "how"
                    | "good"
                    | "ingredients"
                    | "simplest"
                    | "process"
                    | "plan"
                    | "strategy"
                    | "strategies"
                    | "approach"
                    | "technique"
                    | "techniques"
                    | "trick"
                    | "tricks"
                    | "tips"
                    | "place"
                    | "tools"
                    | "ideal"
                    | "perfect"
                    | "safest"
                    | "surest"
                    | "cheapest"
                    | "spot"
                    | "amount"
                    | "dose"
            )
        }),
        "did" | "does" | "has" | "was" | "were" | "is" | "are" => !oneself(word(1)),
        "define" | "definition" | "meaning" => true,
        _ => sentence
            .clone()
            .take_while(|&at| at < first)
            .any(|at| reading.inquires(at) && !reading.denied(at)),
    }
}

/// A word of care stands shortly before the match, with nothing between that begins another deed.
fn cares_before(reading: &Reading, first: usize) -> bool {
    for at in (first.saturating_sub(REACH)..first).rev() {
        if reading.before(at + 1) != Break::None {
            return false;
        }
        if reading.cares(at) {
            return !reading.denied(at);
        }
        let begins = matches!(
            reading.word(at),
            "and"
                | "or"
                | "then"
                | "while"
                | "by"
                | "after"
                | "before"
                | "when"
                | "so"
                | "but"
                | "i"
                | "we"
                | "me"
                | "to"
                | "how"
        );
        if begins {
            return false;
        }
    }
    false
}

/// The last word of the match or one of the two after it says what is done about it: "suicide prevention".
fn cares_after(reading: &Reading, last: usize) -> bool {
    (last..reading.len().min(last + 3))
        .take_while(|&at| at == last || reading.before(at) == Break::None)
        .any(|at| reading.cares_after(at))
}
