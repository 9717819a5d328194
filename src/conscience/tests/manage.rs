//! Rules as a whole: import and export, rule files, tests, dry runs.

use super::*;

#[tokio::test]
async fn exported_rules_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.call("rules/set", no_spam()).await.unwrap();
    let exported = node.call("rules/export", json!({})).await.unwrap();
    node.call("rules/import", json!({ "rules": [], "replace": true })).await.unwrap();
    assert_eq!(node.conscience.current().rules().len(), 0);
    let imported = node.call("rules/import", json!({ "toml": exported["toml"] })).await.unwrap();
    assert_eq!(imported["rule_set_hash"], exported["rule_set_hash"]);
    assert_eq!(imported["imported"], exported["rules"]);
    node.stop();
}

#[tokio::test]
async fn an_import_takes_over_all_rules_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let before = node.conscience.current().hash().to_owned();
    for payload in [
        json!({ "rules": [no_spam(), { "name": "bad", "weight": 1, "patterns": ["/(/"] }] }),
        json!({ "toml": "[[rule]]\nname = 7" }),
        json!({}),
        json!({ "toml": "", "rules": [] }),
    ] {
        assert_eq!(node.call("rules/import", payload).await.unwrap_err().code, Code::Invalid);
    }
    assert_eq!(*node.conscience.current().hash(), before);
    node.stop();
}

#[tokio::test]
async fn rules_are_tested_by_their_examples() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let tested = node.call("rules/test", json!({})).await.unwrap();
    assert_eq!((&tested["passed"], &tested["failures"]), (&json!(true), &json!([])));
    assert!(tested["examples"].as_u64().unwrap() > 50);
    let mut rule = no_spam();
    rule["examples"] =
        json!({ "applies": ["send spam", "send ham"], "spares": ["buy now", { "tool": "ham" }] });
    let tested = node.call("rules/test", json!({ "rules": [rule] })).await.unwrap();
    assert_eq!((&tested["passed"], &tested["examples"]), (&json!(false), &json!(4)));
    assert_eq!(
        tested["failures"],
        json!([
            { "rule": "no-spam", "action": "send ham", "expected": true },
            { "rule": "no-spam", "action": "buy now", "expected": false, "matched": "buy now" },
        ])
    );
    let missing = node.call("rules/test", json!({ "name": "no-such" })).await.unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
    node.stop();
}

#[tokio::test]
async fn a_dry_run_says_which_decisions_would_have_changed_and_changes_none() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    for action in ["harm someone", "play the trumpet", "sweep the floor"] {
        node.call("evaluate", json!({ "action": action })).await.unwrap();
    }
    let before = node.conscience.current().hash().to_owned();
    let noise = json!({ "name": "no-noise", "description": "Never play the trumpet", "weight": 5 });
    let run = node.call("rules/simulate", json!({ "set": [noise], "remove": ["no-harm"] })).await.unwrap();
    assert_eq!((&run["examined"], &run["changed"]), (&json!(3), &json!(2)));
    let changes: Vec<_> =
        run["changes"].as_array().unwrap().iter().map(|c| (&c["action"], &c["was"], &c["becomes"])).collect();
    assert_eq!(
        changes,
        [
            (&json!("play the trumpet"), &json!("approved"), &json!("refused")),
            (&json!("harm someone"), &json!("refused"), &json!("approved")),
        ]
    );
    let alone = node.call("rules/simulate", json!({ "only": true })).await.unwrap();
    assert_eq!(alone["changed"], 1);
    assert_eq!(*node.conscience.current().hash(), before);
    node.stop();
}

#[tokio::test]
async fn rules_of_the_rule_file_come_and_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = async |toml: Option<&str>| {
        let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
        let ledger =
            Ledger::open(dir.path(), &options, Clock::from_fn(|| Timestamp::from_millis(1_000))).unwrap();
        let rules = toml.map(|toml| read_rules(toml).unwrap());
        Node::over(ledger, Config { rules, ..Config::default() }).await
    };
    let file = "[[rule]]\nname = \"no-noise\"\ndescription = \"Never play the trumpet\"\nweight = 5\n";
    let node = open(Some(file)).await;
    assert!(!node.conscience.evaluate("play the trumpet").unwrap().approved);
    node.call("rules/set", no_spam()).await.unwrap();
    node.stop();
    let node = open(Some("")).await;
    assert_eq!(node.changes(), (vec!["no-spam".to_owned()], none()));
    node.stop();
}

#[test]
fn a_rule_file_that_is_wrong_is_refused_with_its_line() {
    let fault = read_rules("[[rule]]\nname = \"a\"\nweight = 1\nwieght = 2\n").unwrap_err();
    assert!(fault.message.contains("line 4") && fault.message.contains("wieght"), "{}", fault.message);
    assert!(check_rules(read_rules("[[rule]]\nname = \"A b\"\nweight = 1\n").unwrap()).is_err());
}

#[tokio::test]
async fn a_request_about_rules_says_what_it_means() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let rule = json!({ "name": "twice", "weight": 1.0, "stance": "forbids", "patterns": ["gossip"] });
    let silent = json!({ "name": "silent", "weight": 1.0, "stance": "forbids", "description": " " });
    for (verb, payload, code) in [
        ("rules/import", json!({ "rules": [rule, rule] }), Code::Invalid),
        ("rules/import", json!({ "rules": [silent] }), Code::Invalid),
        ("rules/set", silent.clone(), Code::Invalid),
        ("rules/simulate", json!({ "remove": ["nope"] }), Code::NotFound),
    ] {
        let fault = node.call(verb, payload.clone()).await.unwrap_err();
        assert_eq!(fault.code, code, "{verb} {payload}: {fault}");
    }
    node.call("rules/import", json!({ "rules": [rule] })).await.unwrap();
    node.stop();
}
