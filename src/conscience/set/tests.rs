use super::*;
use proptest::prelude::*;

fn set(patterns: &[&str]) -> RuleSet {
    RuleSet::new([Prepared::new(rule("r", patterns)).unwrap()]).unwrap()
}

fn rule(name: &str, patterns: &[&str]) -> Rule {
    Rule {
        name: name.to_owned(),
        weight: 1.0,
        stance: Some(Stance::Forbids),
        patterns: patterns.iter().map(ToString::to_string).collect(),
        ..Rule::default()
    }
}

fn matched(patterns: &[&str], text: &str) -> Option<String> {
    set(patterns).apply(&Subject::of_text(text)).pop().and_then(|a| a.matched).map(|m| m.text)
}

#[test]
fn inflection_case_and_diacritics_do_not_matter() {
    for text in ["delete backup", "DELETING the Backups", "He deletes his old, no: deleted his báckup"] {
        assert!(matched(&["delete backup"], text).is_some(), "{text}");
    }
}

#[test]
fn up_to_three_words_and_any_determiners_may_stand_between_but_no_border() {
    let phrase = ["delete backup"];
    assert!(matched(&phrase, "delete all the very old backups").is_some());
    assert!(matched(&phrase, "delete all the very very very old backups").is_none());
    assert!(matched(&phrase, "delete, backup").is_none());
    assert!(matched(&phrase, "delete it. Backup now").is_none());
    assert!(matched(&phrase, "delete files from backup").is_none());
}

#[test]
fn spans_count_characters_and_cover_what_matched() {
    let applied = set(&["/gr[üu]n/", "send spam"])
        .apply(&Subject::of_text("äöü: SEND more spam"))
        .pop()
        .unwrap()
        .matched
        .unwrap();
    assert_eq!((applied.start, applied.end, applied.text.as_str()), (5, 19, "SEND more spam"));
    let applied = set(&["/gr[üu]n/"]).apply(&Subject::of_text("äöü GRÜN")).pop().unwrap().matched.unwrap();
    assert_eq!((applied.start, applied.end, applied.text.as_str()), (4, 8, "GRÜN"));
}

#[test]
fn a_negated_regular_expression_does_not_apply_but_a_later_one_does() {
    assert_eq!(matched(&["/drop \\w+/"], "do not drop tables"), None);
    assert_eq!(matched(&["/drop \\w+/"], "do not drop tables; drop users").unwrap(), "drop users");
}

#[test]
fn a_gap_spans_a_sentence_and_optional_words_may_be_missing() {
    let pattern = ["send the? ... password"];
    assert_eq!(matched(&pattern, "send, by mail, to Bob the new password").unwrap().len(), 38);
    assert!(matched(&pattern, "send the list of passwords").is_some());
    assert!(matched(&pattern, "send it. The password is new").is_none());
}

#[test]
fn a_phrase_may_demand_and_exclude_what_else_its_sentence_holds() {
    let pattern = ["take out <person> & tonight|now ~ dinner|lunch ~ a loan"];
    assert_eq!(matched(&pattern, "Now take out the guard").unwrap(), "take out the guard");
    assert!(matched(&pattern, "take out the guard tonight").is_some());
    for spared in [
        "take out the guard",
        "take out the guard. Do it tonight",
        "take out my friend to lunch tonight",
        "for his dinner tonight take out the child",
        "take out the girl, who has a loan, tonight",
    ] {
        assert_eq!(matched(&pattern, spared), None, "{spared}");
    }
    assert!(matched(&pattern, "Tonight take out the guard. Then have dinner").is_some());
}

#[test]
fn a_phrase_that_speaks_of_a_lack_is_not_denied_by_it() {
    assert!(
        matched(&["get into ... without password"], "get into the wifi of others without the password")
            .is_some()
    );
    assert!(matched(&["get into ... without password"], "never get into it without the password").is_none());
}

#[test]
fn a_phrase_exception_holds_for_its_sentence_and_a_regular_expression_where_it_overlaps() {
    let mut rule = rule("r", &["drop|delete table", "/rm -rf \\S+/"]);
    rule.exceptions = vec!["temporary table".into(), "/rm -rf /tmp\\S*/".into(), "<fiction>".into()];
    let set = RuleSet::new([Prepared::new(rule).unwrap()]).unwrap();
    let matched =
        |text: &str| set.apply(&Subject::of_text(text)).pop().and_then(|a| a.matched).map(|m| m.text);
    assert_eq!(matched("delete the temporary table"), None);
    assert_eq!(
        matched("delete the temporary table. Delete the other table").unwrap(),
        "Delete the other table"
    );
    assert_eq!(matched("rm -rf /tmp/a && rm -rf /home").unwrap(), "rm -rf /home");
    assert_eq!(matched("in my novel they delete the table"), None);
}

#[test]
fn the_hash_depends_on_the_rules_and_not_on_their_order() {
    let [a, b] = ["a", "b"].map(|name| Prepared::new(rule(name, &["x"])).unwrap());
    let one = RuleSet::new([a.clone(), b.clone()]).unwrap();
    let other = RuleSet::new([b, a.clone()]).unwrap();
    assert_eq!(one.hash(), other.hash());
    let changed = Prepared::new(rule("b", &["y"])).unwrap();
    assert_ne!(one.hash(), RuleSet::new([a, changed]).unwrap().hash());
}

#[test]
fn a_set_is_bounded_in_rules_and_patterns() {
    let many = |count: usize, patterns: &[&str]| {
        RuleSet::new((0..count).map(|i| Prepared::new(rule(&format!("r{i}"), patterns)).unwrap()))
    };
    assert!(many(MAX_RULES, &["x"]).is_ok());
    assert!(many(MAX_RULES + 1, &["x"]).is_err());
    assert!(many(MAX_SET_PATTERNS / 50 + 1, &["x"; 50]).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic_and_every_span_is_what_it_says(
        words in proptest::collection::vec(
            prop_oneof![
                Just("kill".to_owned()), Just("the".to_owned()), Just("him".to_owned()), Just("not".to_owned()),
                Just("stop".to_owned()), Just("to".to_owned()), Just("no".to_owned()), Just("of".to_owned()),
                Just("than".to_owned()), Just(",".to_owned()), Just("and".to_owned()), ".{0,6}",
            ],
            0..40,
        ),
    ) {
        let text = words.join(" ");
        for applied in set(&["kill <person>", "<person> kill", "kill the? ... him", "/k.l/"]).apply(&Subject::of_text(&text)) {
            let Span { start, end, text: matched, .. } = applied.matched.unwrap();
            prop_assert_eq!(text.chars().skip(start).take(end - start).collect::<String>(), matched);
        }
    }

    /// Leaving out the phrases for which the text has no words leaves out no match.
    #[test]
    fn a_phrase_that_matches_has_words_in_the_text(
        words in proptest::collection::vec("kill|kills|Anna|7|him|the|rapidly|password|x", 0..12),
    ) {
        let set = set(&["kill <person>", "<name> kill", "kill rapidly? <number>", "the ... password|him"]);
        let reading = Reading::new(&set.vocabulary, &words.join(" "));
        for phrase in &set.phrases {
            let matches = (0..reading.len()).any(|at| reading.matches(&phrase.phrase, at).is_some());
            prop_assert!(!matches || reading.has_words_for(&phrase.phrase));
        }
    }
}
