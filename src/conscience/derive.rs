//! A rule that has only a name, a description and a weight: its stance and what it matches, from its own words.
//!
//! Pure. "Do not share customer data or passwords with strangers" forbids, because it denies; the first word after the
//! denial is the deed (`share`), and one of the other words (`customer`, `data`, …) must stand in the same sentence, before
//! or after it. A deed alone ("never gossip") matches by itself. Deeds may be a list: "harm, injure or kill people".

use rust_stemmers::Stemmer;

use super::lexicon;
use super::model::{Rule, Stance};
use super::phrase::{self, Pattern, Step};
use super::text::{self, Break, Token};
use super::words;

/// Words that deny what follows; the rule forbids it.
fn denies(word: &str) -> bool {
    words::is_negator(word)
        || matches!(
            word,
            "no" | "avoid"
                | "refuse"
                | "refrain"
                | "forbid"
                | "forbidden"
                | "prohibit"
                | "prohibited"
                | "without"
                | "prevent"
                | "stop"
                | "ban"
                | "banned"
                | "disallow"
                | "disallowed"
                | "nobody"
                | "against"
                | "reject"
        )
}

/// Words that say nothing of what a rule is about.
fn is_filler(word: &str) -> bool {
    denies(word)
        || words::is_determiner(word)
        || words::ends_phrase(word)
        || matches!(
            word,
            "do" | "does"
                | "be"
                | "is"
                | "are"
                | "been"
                | "being"
                | "must"
                | "should"
                | "shall"
                | "may"
                | "can"
                | "will"
                | "would"
                | "could"
                | "might"
                | "always"
                | "ever"
                | "please"
                | "and"
                | "or"
                | "nor"
                | "it"
                | "they"
                | "i"
                | "we"
                | "he"
                | "she"
                | "allowed"
                | "ensure"
                | "sure"
                | "make"
                | "agent"
                | "system"
                | "rule"
                | "action"
                | "actions"
                | "other"
                | "others"
                | "very"
                | "such"
                | "also"
                | "only"
                | "even"
                | "have"
                | "has"
                | "there"
                | "any"
                | "when"
                | "who"
                | "whatever"
                | "way"
                | "reason"
                | "try"
                | "attempt"
                | "s"
        )
}

/// `forbids` when the description denies anything, else `favours`.
pub(super) fn stance(rule: &Rule) -> Stance {
    let denied = text::tokens(&rule.description).iter().any(|token| denies(&token.word));
    if denied { Stance::Forbids } else { Stance::Favours }
}

/// What the description is about, as patterns; one for each order of deed and rest. None where it has no word that tells.
pub(super) fn patterns(rule: &Rule, stemmer: &Stemmer) -> Vec<Pattern> {
    let tokens = text::tokens(&rule.description);
    // What is denied says what the rule is about; what stands before it is whom it binds.
    let denial = tokens.iter().position(|token| denies(&token.word));
    let passive = denial.is_some_and(|at| tokens[at..].iter().any(|token| token.word == "be"));
    let start = match denial {
        Some(at) if !passive && tokens[at..].iter().any(|token| !is_filler(&token.word)) => at,
        _ => 0,
    };
    // One sentence says it; what follows explains.
    let end = (start + 1..tokens.len()).find(|&at| tokens[at].before >= Break::Line).unwrap_or(tokens.len());
    let content: Vec<usize> = (start..end).filter(|&at| !is_filler(&tokens[at].word)).collect();
    let head = if passive {
        let be = tokens.iter().position(|token| token.word == "be").unwrap_or(start);
        content.iter().position(|&at| at > be).unwrap_or(0)
    } else {
        0
    };
    let Some(&first) = content.get(head) else { return Vec::new() };
    // "harm, injure or kill": only words that join stand between.
    let mut deeds = vec![first];
    for &next in &content[head + 1..] {
        let last = deeds[deeds.len() - 1];
        let joined = tokens[next].before == Break::Comma
            || tokens[last + 1..next].iter().any(|token| matches!(token.word.as_str(), "and" | "or" | "nor"));
        let adjacent =
            tokens[last + 1..next].iter().all(|token| matches!(token.word.as_str(), "and" | "or" | "nor"));
        if !(joined && adjacent) {
            break;
        }
        deeds.push(next);
    }
    let rest: Vec<usize> = content.iter().copied().filter(|at| !deeds.contains(at)).collect();
    let deed = step(&tokens, &deeds, stemmer);
    if rest.is_empty() {
        return vec![Pattern::Phrase(vec![deed].into())];
    }
    let rest = step(&tokens, &rest, stemmer);
    let after = vec![deed.clone(), Step { far: true, ..rest.clone() }];
    let before = vec![rest, Step { far: true, ..deed }];
    [after, before].map(|steps| Pattern::Phrase(steps.into())).into()
}

fn step(tokens: &[Token], at: &[usize], stemmer: &Stemmer) -> Step {
    let mut step = Step::default();
    for token in at.iter().map(|&at| &tokens[at]) {
        // "people" means everyone that is one.
        let generic = matches!(
            token.word.as_str(),
            "people"
                | "person"
                | "persons"
                | "human"
                | "humans"
                | "someone"
                | "anyone"
                | "anybody"
                | "somebody"
                | "everyone"
        );
        if generic {
            step.classes |= lexicon::PERSON | lexicon::NAME;
        }
        step.stems.add(&phrase::stem(stemmer, &token.word));
    }
    step
}

#[cfg(test)]
mod tests {
    use super::super::action::Subject;
    use super::super::prepared::Prepared;
    use super::super::set::RuleSet;
    use super::*;

    fn applies(description: &str, action: &str) -> bool {
        let rule = Rule { name: "r".into(), description: description.into(), weight: 1.0, ..Rule::default() };
        let set = RuleSet::new([Prepared::new(rule).unwrap()]).unwrap();
        !set.apply(&Subject::of_text(action)).is_empty()
    }

    #[test]
    fn the_stance_follows_from_the_denial() {
        let stance = |description: &str| {
            super::stance(&Rule { name: "r".into(), description: description.into(), ..Rule::default() })
        };
        for description in
            ["Do not lie.", "Never gossip", "Avoid waste", "don't shout", "Data must not be sold."]
        {
            assert_eq!(stance(description), Stance::Forbids, "{description}");
        }
        for description in ["Help people in need", "Be honest", "Always tell the truth"] {
            assert_eq!(stance(description), Stance::Favours, "{description}");
        }
    }

    #[test]
    fn what_is_matched_follows_from_the_words() {
        for (description, hit, miss) in [
            (
                "Do not gossip about colleagues.",
                "I gossiped with her about my colleague",
                "talk to my colleague",
            ),
            ("Never gossip", "they are gossiping", "a goshawk"),
            ("Do not harm, injure or kill people", "injure the old man", "kill the process"),
            ("Avoid sharing customer data or passwords", "share the new password with Bob", "share a photo"),
            ("Customer data must not be sold.", "sell the customer list", "the customer list"),
            ("Help people in need", "I will help someone", "I will sleep"),
        ] {
            assert!(applies(description, hit), "{description}: {hit}");
            assert!(!applies(description, miss), "{description}: {miss}");
        }
    }

    #[test]
    fn an_action_that_denies_what_the_rule_forbids_does_not_break_it() {
        let rule = "Do not harm people";
        for action in
            ["prevent harm to people", "without harming anyone", "never harm a person", "do not harm people"]
        {
            assert!(!applies(rule, action), "{action}");
        }
        assert!(applies(rule, "harm a person"));
        assert!(!applies("Customer data must not be sold.", "customer data must never be sold"));
    }

    #[test]
    fn a_rule_whose_description_says_nothing_is_refused() {
        for description in ["", "Do not", "Never", "the agent must not"] {
            let rule = Rule {
                name: "no-shouting".into(),
                description: description.into(),
                weight: 1.0,
                ..Rule::default()
            };
            let fault = Prepared::new(rule).unwrap_err();
            assert!(fault.message.starts_with("patterns: "), "{description:?}: {}", fault.message);
        }
    }
}
