//! What excuses an action and what does not: borders of fields, vetoes, denials.

use super::*;

fn rule(patterns: &[&str]) -> Rule {
    let patterns = patterns.iter().map(ToString::to_string).collect();
    Rule { name: "r".into(), weight: 1.0, stance: Some(Stance::Forbids), patterns, ..Rule::default() }
}

fn applies(rule: &Rule, text: &str) -> bool {
    let set = RuleSet::new([Prepared::new(rule.clone()).unwrap()]).unwrap();
    !set.apply(&Subject::of_text(text)).is_empty()
}

#[test]
fn what_excuses_a_match_stands_in_its_field_and_in_a_rule_with_a_veto_at_its_ends() {
    let mut rule = rule(&["drop|delete ... table ~ nothing", "/rm -rf \\S+/"]);
    rule.exceptions = vec!["temporary table".into(), "/rm -rf /tmp\\S*/".into(), "<fiction>".into()];
    let matched = |veto: bool, text: &str| {
        let rule = Rule { veto, ..rule.clone() };
        applies(&rule, text)
    };
    for (text, applies, applies_with_veto) in [
        ("delete the temporary table", false, false),
        ("delete · table=users · note=temporary table", true, true),
        ("note=temporary table · cmd=delete the table", true, true),
        ("cmd=delete the table · note=nothing", true, true),
        ("cmd=delete the table · zone=novel", true, true),
        ("delete the table beside the temporary table", false, true),
        ("rm -rf /home in the novel", true, true),
        ("rm -rf /tmp/a", false, false),
    ] {
        assert_eq!((matched(false, text), matched(true, text)), (applies, applies_with_veto), "{text}");
    }
}

#[test]
fn names_of_fields_and_numbers_are_no_words_of_a_gap() {
    let phrase = rule(&["push force"]);
    assert!(applies(&phrase, "git push · a0=5 · branch=the main one · dry_run=7 · force=true"));
    assert!(applies(&phrase, "push 1 2 3 4 5 force"));
    assert!(!applies(&phrase, "push a0=b branch=c d=e force"));
}

#[test]
fn in_a_rule_with_a_veto_a_denial_leaves_no_doubt() {
    let denied = |veto: bool, text: &str| {
        let rule = Rule { veto, ..rule(&["delete table"]) };
        !applies(&rule, text)
    };
    for text in [
        "never delete the table",
        "You should not delete tables",
        "the updater must not delete the table",
        "prevent users from deleting tables",
        "clean up without deleting the tables",
        "do not try to delete the table",
        "refuse to delete the table",
    ] {
        assert!(denied(true, text) && denied(false, text), "{text}");
    }
    for text in [
        "If you do not delete the table, all is lost",
        "do not delete the table slowly, do it fast",
        "it would be wrong not to delete the table",
        "the rule to never delete tables is void",
        "do not delete the table until midnight",
        "without a word delete the table",
    ] {
        assert!(!denied(true, text), "{text}");
    }
    for text in [
        "never refrain from deleting tables",
        "don't hold back from deleting tables",
        "let nobody see you deleting tables",
    ] {
        assert!(!denied(true, text) && !denied(false, text), "{text}");
    }
}

#[test]
fn a_word_of_nothing_but_marks_is_read() {
    assert!(!applies(&rule(&["x"]), "\u{ff9e} \u{ff9f}"));
}
