//! The conscience through its commands and the ledger.

mod excuses;
mod judge;
mod manage;
mod pack;
mod record;
mod rego;

use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use super::model::MAX_ACTION;
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::engine::Events;
use crate::engine::command::{Call, Choice, Ending, Handler};
use crate::engine::jobs::Progress;
use crate::ledger::{Ledger, Options};
use crate::wire::{Code, Encoding, Payload};

struct Node {
    ledger: Ledger,
    conscience: Arc<Conscience>,
    events: Events,
}

/// A diary that keeps nothing but says so.
struct Notebook;

impl Diary for Notebook {
    fn felt(&self, _: &mut Unit<'_>, _: &str, _: &Decision) -> Result<(), Fault> {
        Ok(())
    }

    fn remember(&self, _: &mut Unit<'_>, decision: &Decision, explanation: &str) -> Result<String, Fault> {
        Ok(format!("{} {explanation}", decision.outcome.as_str()))
    }
}

impl Node {
    async fn start(dir: &Path) -> Self {
        let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
        let ledger = Ledger::open(dir, &options, Clock::from_fn(|| Timestamp::from_millis(1_000))).unwrap();
        Self::over(ledger, Config::default()).await
    }

    async fn over(ledger: Ledger, config: Config) -> Self {
        Self::judged(ledger, config, None).await
    }

    async fn judged(ledger: Ledger, config: Config, judge: Option<Arc<dyn Judge>>) -> Self {
        let events = Events::default();
        let diary = Arc::new(Notebook);
        let conscience =
            Conscience::open(ledger.clone(), config, events.clone(), diary, judge).await.unwrap();
        Self { ledger, conscience, events }
    }

    fn stop(self) {
        self.ledger.close();
    }

    async fn call(&self, verb: &str, payload: Value) -> Result<Value, Fault> {
        let entry = commands().into_iter().find(|e| e.declaration.verb == verb).unwrap();
        let call = Call {
            principal: "tester".into(),
            signed_with: None,
            message_id: None,
            received: self.ledger.clock().now(),
            target: Target::Node,
        };
        let payload = Payload::new(Encoding::Json, Bytes::from(payload.to_string()));
        let outcome = match entry.bind(&self.conscience).handler {
            Handler::Read(run) => run(call, &payload).await?,
            Handler::Write(prepare) => {
                let mut effect = prepare(&call, &payload)?;
                self.ledger.write(move |unit| effect(unit)).await?
            }
            Handler::Either { choose, long } => match choose(&call, &payload)? {
                Choice::Read(run) => run.await?,
                Choice::Write(mut effect) => self.ledger.write(move |unit| effect(unit)).await?,
                Choice::Job => match (long.run)(call, payload.clone(), Progress::new().0).await? {
                    Ending::Effect(mut effect) => self.ledger.write(move |unit| effect(unit)).await?,
                    Ending::Answer(_) => unreachable!("an evaluation is put down with its answer"),
                },
            },
            Handler::Job { .. } => unreachable!("the conscience has no commands that are always jobs"),
        };
        let outcome = serde_json::to_value(&outcome).unwrap();
        Ok(outcome["payload"].clone())
    }

    /// An evaluation that has been judged, and is to be put down.
    async fn deliberated(&self, payload: Value) -> crate::engine::command::Effect {
        let entry = commands().into_iter().find(|e| e.declaration.verb == "evaluate").unwrap();
        let call = Call {
            principal: "tester".into(),
            message_id: None,
            received: Timestamp::from_millis(0),
            target: Target::Node,
            signed_with: None,
        };
        let payload = Payload::new(Encoding::Json, Bytes::from(payload.to_string()));
        let Handler::Either { long, .. } = entry.bind(&self.conscience).handler else { unreachable!() };
        match (long.run)(call, payload, Progress::new().0).await.unwrap() {
            Ending::Effect(effect) => effect,
            Ending::Answer(_) => unreachable!("an evaluation is put down with its answer"),
        }
    }

    /// The rules in force that are not those of the pack, and those of the pack that are not in force.
    fn changes(&self) -> (Vec<String>, Vec<String>) {
        let names = |rules: &[Rule]| rules.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        let current: Vec<_> = self.conscience.current().rules().cloned().collect();
        let (mut extra, pack) = (names(&current), names(&file::defaults().unwrap()));
        let missing = pack.iter().filter(|name| !extra.contains(name)).cloned().collect();
        extra.retain(|name| !pack.contains(name));
        (extra, missing)
    }
}

fn none() -> Vec<String> {
    Vec::new()
}

fn no_spam() -> Value {
    json!({ "name": "no-spam", "weight": 5, "stance": "forbids", "patterns": ["send spam", "/buy\\s+now/"] })
}

#[tokio::test]
async fn harm_is_refused_help_and_prevention_are_approved() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let verdict = node.call("evaluate", json!({ "action": "I will harm someone" })).await.unwrap();
    assert_eq!((&verdict["approved"], &verdict["needs_review"]), (&json!(false), &json!(false)));
    assert_eq!((&verdict["moral_score"], &verdict["weighted_score"]), (&json!(-1.0), &json!(-10.0)));
    assert_eq!(
        verdict["rules"],
        json!([{ "name": "no-harm", "weight": 10.0, "stance": "forbids",
                 "matched": { "start": 7, "end": 19, "text": "harm someone" } }])
    );
    assert_eq!(verdict["explanation"], "Refused, score -1.00: forbidden by no-harm (“harm someone”).");
    assert_eq!(verdict["rule_set_hash"].as_str().unwrap().len(), 64);
    assert_eq!(verdict["judge"], "rules");
    assert_eq!((&verdict["model"], &verdict["degraded"]), (&Value::Null, &json!(false)));
    for action in ["I will help someone in need", "prevent harm to the child"] {
        let verdict = node.call("evaluate", json!({ "action": action })).await.unwrap();
        assert_eq!(verdict["approved"], true, "{action}");
    }
    node.stop();
}

#[tokio::test]
async fn an_action_that_is_blank_or_too_long_or_misspelt_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    for payload in [
        json!({}),
        json!({ "action": "" }),
        json!({ "action": " \n\t" }),
        json!({ "action": "ä".repeat(MAX_ACTION + 1) }),
        json!({ "action": "x", "acton": "y" }),
        json!({ "action": 7 }),
    ] {
        assert_eq!(node.call("evaluate", payload).await.unwrap_err().code, Code::Invalid);
    }
    assert!(node.call("evaluate", json!({ "action": "ä".repeat(MAX_ACTION) })).await.is_ok());
    node.stop();
}

#[tokio::test]
async fn a_rule_is_in_force_once_its_change_is_answered_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let before = node.conscience.current().hash().to_owned();
    let changed = node.call("rules/set", no_spam()).await.unwrap();
    assert_eq!(changed["replaced"], false);
    let verdict = node.conscience.evaluate("Please BUY  NOW and send them spam").unwrap();
    assert_eq!(changed["rule_set_hash"], *verdict.rule_set_hash);
    assert_ne!(verdict.rule_set_hash, before);
    assert_eq!((verdict.moral_score, verdict.rules[0].name.as_str()), (-1.0, "no-spam"));
    assert_eq!(node.call("rules/set", no_spam()).await.unwrap()["replaced"], true);
    node.stop();

    let node = Node::start(dir.path()).await;
    assert_eq!(node.changes(), (vec!["no-spam".to_owned()], none()));
    assert_eq!(*node.conscience.current().hash(), verdict.rule_set_hash);
    let listed = node.call("rules/list", json!({})).await.unwrap();
    let rules = listed["rules"].as_array().unwrap();
    let listed = rules.iter().find(|rule| rule["name"] == "no-spam").unwrap();
    assert_eq!(listed["patterns"], json!(["send spam", "/buy\\s+now/"]));
    node.stop();
}

#[tokio::test]
async fn a_default_rule_that_was_removed_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    node.call("rules/remove", json!({ "name": "truth" })).await.unwrap();
    assert!(node.conscience.evaluate("falsify the records").unwrap().approved);
    let missing = node.call("rules/remove", json!({ "name": "truth" })).await.unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
    node.stop();
    let node = Node::start(dir.path()).await;
    assert_eq!(node.changes(), (none(), vec!["truth".to_owned()]));
    node.stop();
}

#[tokio::test]
async fn a_change_that_does_not_commit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let before = node.conscience.current().hash().to_owned();
    let rule: Rule = serde_json::from_value(no_spam()).unwrap();
    let (conscience, prepared) = (Arc::clone(&node.conscience), Prepared::new(rule).unwrap());
    let refused = node.ledger.write(move |unit| -> Result<(), Fault> {
        Conscience::put(unit, std::slice::from_ref(&prepared))?;
        conscience.adopt(unit, std::slice::from_ref(&prepared))?;
        Err(Fault::invalid("deliberate"))
    });
    assert!(refused.await.is_err());
    assert_eq!(*node.conscience.current().hash(), before);
    node.stop();
}

#[tokio::test]
async fn rules_set_at_the_same_time_are_all_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let set = |i: u32| {
        node.call("rules/set", json!({ "name": format!("r{i}"), "description": "Water the plants", "weight": 1, "stance": "favours" }))
    };
    let (a, b, c, d) = tokio::join!(set(1), set(2), set(3), set(4));
    assert!([a, b, c, d].iter().all(Result::is_ok));
    assert_eq!(node.changes(), (["r1", "r2", "r3", "r4"].map(str::to_owned).to_vec(), none()));
    node.stop();
}

#[tokio::test]
async fn a_rule_that_cannot_be_used_is_invalid_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    for (field, value, names) in [
        ("weight", json!(-1), "weight"),
        ("weight", json!(100.1), "weight"),
        ("name", json!("Has Blanks"), "name"),
        ("stance", json!("allows"), "stance"),
        ("patterns", json!(["fine", "/(/"]), "patterns[1]"),
        ("exceptions", json!(["<dragon>"]), "exceptions[0]"),
        ("scope", json!({ "topics": ["a/#/b"] }), "scope.topics"),
        ("vetoes", json!(true), "veto"),
    ] {
        let mut rule = no_spam();
        rule[field] = value;
        let fault = node.call("rules/set", rule).await.unwrap_err();
        assert_eq!(fault.code, Code::Invalid);
        assert!(fault.message.contains(names) || names == "stance" || names == "veto", "{}", fault.message);
    }
    assert_eq!(node.changes(), (none(), none()));
    node.stop();
}

#[test]
fn every_default_rule_does_what_its_examples_say_and_gives_a_reason() {
    let rules = file::defaults().unwrap();
    for rule in &rules {
        assert!(!rule.reason.is_empty(), "{}", rule.name);
        assert!(!rule.examples.applies.is_empty() && !rule.examples.spares.is_empty(), "{}", rule.name);
    }
    let set = RuleSet::new(trial::prepare(rules.clone()).unwrap()).unwrap();
    for rule in rules {
        let cases = rule.examples.applies.iter().map(|action| (action, true));
        for (action, expected) in cases.chain(rule.examples.spares.iter().map(|action| (action, false))) {
            let applied = set.apply(&Subject::new(action.clone(), None, None).unwrap());
            assert_eq!(applied.iter().any(|a| a.name == rule.name), expected, "{}: {action:?}", rule.name);
        }
    }
}

#[tokio::test]
async fn an_injected_verdict_changes_neither_the_verdict_nor_its_form() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let plain = node.call("evaluate", json!({ "action": "sweep the floor" })).await.unwrap();
    let form = |verdict: &Value| verdict.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let table = include_str!("../../../tests/conscience/injection.jsonl");
    for line in table.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let verdict = node.call("evaluate", json!({ "action": case["action"] })).await.unwrap();
        assert_eq!(form(&verdict), form(&plain), "{case}");
        assert_eq!(
            (&verdict["approved"], &verdict["needs_review"]),
            (&json!(false), &json!(false)),
            "{case}"
        );
        assert_eq!((&verdict["moral_score"], &verdict["judge"]), (&json!(-1.0), &json!("rules")), "{case}");
    }
    node.stop();
}
