//! Policies at the gate: what a node with a bundle refuses, and what becomes of a bundle that is changed.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use support::gate::{Attempt, NO_LIMITS, keys, nonce, ping};
use support::{Answer, Asker, Daemon, DaemonOptions, MosquittoOptions, Via, mosquitto};

const POLICY: &str = r#"package orchd.gate
import rego.v1
deny contains "no notes" if { input.command == "memory/store"; input.node == "n1"; not input.signed }
deny contains sprintf("%s is blocked", [input.principal]) if input.principal in data.blocked
deny contains "a number" if { input.command == "memory/stats"; to_number(input.topic) > 0 }
"#;

const TESTS: &str = r#"package orchd.gate_test
import rego.v1
test_ping if count(data.orchd.gate.deny) == 0 with input as {"command": "node/ping", "principal": "x", "signed": false}
"#;

/// A broker, and a node with this policy and one key that may do everything.
async fn with_policy() -> Option<(support::Mosquitto, Daemon, String)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let folder = broker.ca().with_file_name("policy");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("gate.rego"), POLICY).unwrap();
    fs::write(folder.join("gate_test.rego"), TESTS).unwrap();
    fs::write(folder.join("data.json"), r#"{"blocked": []}"#).unwrap();
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!("[auth]\nmode = \"required\"\n{NO_LIMITS}\n[policy]\nfolder = {folder:?}\n");
    let daemon = Daemon::start(options).await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    Some((broker, daemon, key))
}

fn decision(answer: &Answer) -> String {
    answer.reply["policy_decision"]
        .as_str()
        .unwrap_or_else(|| panic!("no decision in {}", answer.reply))
        .to_owned()
}

fn reason(answer: &Answer) -> &str {
    answer.reply["error"]["message"].as_str().unwrap()
}

fn note() -> Attempt {
    Attempt::new("memory/store", &json!({ "content": "a note" }))
}

#[tokio::test]
async fn a_policy_refuses_what_permissions_allow_and_nothing_else() {
    let Some((broker, daemon, key)) = with_policy().await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let mut decisions = std::collections::HashSet::new();

    let allowed = ping().bearer(&key).send(&mut app).await;
    assert_eq!(allowed.label(), "ok");
    decisions.insert(decision(&allowed));

    let refused = note().bearer(&key).send(&mut app).await;
    assert_eq!(refused.label(), "forbidden");
    assert!(reason(&refused).ends_with(": no notes"), "{}", reason(&refused));
    decisions.insert(decision(&refused));

    // The same, signed: the policy sees it.
    let signed = note().with("message-id", "m-1").signed(&key, &nonce(1), 0);
    let stored = signed.send(&mut app).await;
    assert_eq!(stored.label(), "ok");
    decisions.insert(decision(&stored));
    assert_eq!(decisions.len(), 3, "each command has a decision of its own");

    // A repeat has the answer of then, and its decision.
    assert_eq!(decision(&signed.send(&mut app).await), decision(&stored));

    // What cannot be evaluated is refused.
    let failed = Attempt::new("memory/stats", &json!({})).bearer(&key).send(&mut app).await;
    assert_eq!(failed.label(), "unavailable");

    // What is refused before has no decision.
    let unknown = ping().send(&mut app).await;
    assert_eq!((unknown.label(), unknown.reply.get("policy_decision")), ("unauthenticated", None));
    assert_eq!(daemon.metric("orchd_policy_decisions_total{outcome=\"forbidden\"}"), 1.0);
}

#[tokio::test]
async fn a_changed_bundle_is_taken_up_once_its_tests_pass() {
    let Some((broker, mut daemon, key)) = with_policy().await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let folder = broker.ca().with_file_name("policy");
    let lineage = format!("key:{}", support::gate::id(&key));
    let block =
        |list: &str| fs::write(folder.join("data.json"), format!(r#"{{"blocked": [{list}]}}"#)).unwrap();

    // Its tests fail: the old one stays, data included.
    block(&format!("\"{lineage}\", \"x\""));
    daemon.reload("stays in force").await;
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");

    // No Rego at all.
    fs::write(folder.join("other.rego"), "package orchd.gate\ndeny if {").unwrap();
    block(&format!("\"{lineage}\""));
    daemon.reload("stays in force").await;
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");

    fs::remove_file(folder.join("other.rego")).unwrap();
    daemon.reload("was read again").await;
    let refused = ping().bearer(&key).send(&mut app).await;
    assert!(reason(&refused).ends_with(&format!(": {lineage} is blocked")), "{}", reason(&refused));
}

fn policy_test(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orchd"))
        .args(["policy", "test", "--folder"])
        .arg(folder)
        .output()
        .unwrap()
}

#[test]
fn the_policy_that_is_delivered_passes_its_tests() {
    let output = policy_test(Path::new("config/policy"));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("4 tests, 0 failed"), "{printed}");
}

#[test]
fn policy_test_ends_in_1_when_a_test_fails_or_nothing_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(policy_test(folder.path()).status.code(), Some(1));
    fs::write(folder.path().join("gate.rego"), POLICY).unwrap();
    fs::write(
        folder.path().join("gate_test.rego"),
        "package t\ntest_never if 1 == 2\ntest_error if to_number(\"x\") == 1\n",
    )
    .unwrap();
    let output = policy_test(folder.path());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("FAIL  t.test_never") && printed.contains("FAIL  t.test_error: "), "{printed}");
    assert!(printed.contains("2 tests, 2 failed"), "{printed}");
}
