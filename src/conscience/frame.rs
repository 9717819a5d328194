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
    /// It is about a world that somebody made up, and not merely a tale or a poem: for what can be wrong in any form.
    World,
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
            "world" => Self::World,
            "inquiry" => Self::Inquiry,
            "care" => Self::Care,
            _ => return None,
        })
    }

    /// Whether the sentence of the words from `first` to `last` is of this kind.
    pub(super) fn holds(self, reading: &Reading<'_>, first: usize, last: usize) -> bool {
        match self {
            Self::Fiction => reading.sentence(first).any(|at| reading.tells(at) && !is_pretext(reading, at)),
            Self::World => reading.sentence(first).any(|at| reading.tells(at) && !is_form(reading.word(at))),
            Self::Inquiry => asks(reading, first),
            Self::Care => cares_before(reading, first) || cares_after(reading, last),
        }
    }
}

/// Those who deal with wrong by profession or suffer it: how they do so is asked by whoever wants to know it.
fn is_bystander(word: &str) -> bool {
    matches!(
        word,
        "police"
            | "courts"
            | "judges"
            | "lawyers"
            | "banks"
            | "customs"
            | "doctors"
            | "nurses"
            | "hospitals"
            | "therapists"
            | "psychologists"
            | "schools"
            | "teachers"
            | "parents"
            | "companies"
            | "hunters"
            | "vets"
            | "journalists"
            | "historians"
            | "scientists"
            | "researchers"
            | "investigators"
            | "detectives"
            | "firefighters"
            | "actors"
            | "magicians"
            | "governments"
            | "states"
            | "countries"
            | "authorities"
            | "experts"
            | "moderators"
            | "platforms"
            | "auditors"
            | "victims"
            | "survivors"
            | "bystanders"
    )
}

/// What a single one of is none that would do wrong by itself: "how can a hospital …".
fn is_institution(word: &str) -> bool {
    matches!(
        word,
        "hospital"
            | "school"
            | "company"
            | "bank"
            | "court"
            | "government"
            | "city"
            | "university"
            | "hotel"
            | "shop"
    )
}

/// Words that say in which form something is told, not that it is made up.
fn is_form(word: &str) -> bool {
    matches!(word, "story" | "stories" | "poem" | "lyrics" | "comic" | "cartoon")
}

/// "A convincing story", "a cover story", "a news story": told to be believed.
fn is_pretext(reading: &Reading<'_>, at: usize) -> bool {
    is_form(reading.word(at))
        && (at.saturating_sub(3)..at).any(|before| {
            matches!(
                reading.word(before),
                "convincing"
                    | "believable"
                    | "plausible"
                    | "credible"
                    | "cover"
                    | "fake"
                    | "false"
                    | "untrue"
                    | "news"
                    | "gossip"
                    | "sob"
                    | "different"
            )
        })
}

fn asks(reading: &Reading<'_>, first: usize) -> bool {
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
                    "need"
                        | "needs"
                        | "needed"
                        | "enough"
                        | "take"
                        | "takes"
                        | "would"
                        | "unnoticed"
                        | "undetected"
                        | "lethal"
                        | "fatal"
                )
            };
            !(oneself(word(2)) || matches!(word(1), "many" | "much") && sentence.clone().any(dose))
        }
        // What those do whose profession it is, or to whom it happens.
        "how"
            if matches!(word(1), "do" | "can" | "should" | "could")
                && (is_bystander(word(2))
                    || matches!(word(2), "a" | "the" | "our") && is_institution(word(3))) =>
        {
            true
        }
        "what" if matches!(word(1), "should" | "can" | "could" | "do" | "must") => {
            let doing = (2..6).find(|&offset| word(offset) == "do");
            doing.is_some_and(|at| matches!(word(at + 1), "when" | "if" | "after" | "about" | "against"))
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
fn cares_before(reading: &Reading<'_>, first: usize) -> bool {
    for at in (first.saturating_sub(REACH)..first).rev() {
        if reading.before(at + 1) != Break::None {
            return false;
        }
        if reading.cares(at) {
            return !reading.denied(at);
        }
        // "deal with bullying", not "deal in drugs"
        if reading.word(at) == "with"
            && at > 0
            && matches!(reading.word(at - 1), "deal" | "dealing" | "deals")
        {
            return true;
        }
        // "respond to hateful comments"
        if reading.word(at) == "to" && at > 0 && reading.cares(at - 1) {
            continue;
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

/// One of the two words after the match says what is done about it: "suicide prevention". Those whom it happened to may
/// be its last word: "burn victims".
fn cares_after(reading: &Reading<'_>, last: usize) -> bool {
    matches!(reading.word(last), "victims" | "survivors")
        || (last + 1..reading.len().min(last + 3))
            .take_while(|&at| reading.before(at) == Break::None)
            .any(|at| reading.cares_after(at))
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Vocabulary;
    use super::*;

    /// Whether `text` is of the kind, for a match of its word "harm".
    fn holds(frame: Frame, text: &str) -> bool {
        let vocabulary = Vocabulary::new();
        let reading = Reading::new(&vocabulary, text);
        let at = (0..reading.len()).find(|&at| reading.word(at) == "harm").unwrap();
        frame.holds(&reading, at, at)
    }

    #[test]
    fn a_tale_excuses_unless_it_is_told_to_be_believed() {
        assert!(holds(Frame::Fiction, "a story in which they harm him"));
        assert!(holds(Frame::Fiction, "they harm him in minecraft"));
        for pretext in ["a convincing story of why they harm him", "a news story that they harm him"] {
            assert!(!holds(Frame::Fiction, pretext), "{pretext}");
        }
    }

    #[test]
    fn a_world_is_more_than_a_form_of_telling() {
        assert!(holds(Frame::World, "they harm him in minecraft"));
        for form in ["a poem that makes readers harm him", "lyrics, a story or a comic of how to harm him"] {
            assert!(!holds(Frame::World, form), "{form}");
        }
    }

    #[test]
    fn what_others_do_by_profession_and_what_to_do_about_a_wrong_is_asked_to_know_it() {
        for inquiry in
            ["how do doctors treat harm", "what should I do when they harm him", "how did they harm him"]
        {
            assert!(holds(Frame::Inquiry, inquiry), "{inquiry}");
        }
        for wish in ["how do I harm him", "what can I do to harm him", "how much would harm him unnoticed"] {
            assert!(!holds(Frame::Inquiry, wish), "{wish}");
        }
    }

    #[test]
    fn care_stands_before_a_deed_or_after_it() {
        for care in ["prevent harm", "how do I respond to harm", "harm prevention", "help harm victims"] {
            assert!(holds(Frame::Care, care), "{care}");
        }
        for deed in ["do harm", "prevent nothing, harm him", "avoid him and harm her"] {
            assert!(!holds(Frame::Care, deed), "{deed}");
        }
    }
}
