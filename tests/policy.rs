//! Policies at the gate: what a node with a bundle refuses, and what becomes of a bundle that is changed.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::gate::{Attempt, NO_LIMITS, keys, nonce, ping};
use support::{Answer, Asker, Daemon, DaemonOptions, MosquittoOptions, Via, mosquitto};

const POLICY: &str = r#"package orchd.gate
import rego.v1
deny contains "no notes" if { input.command == "memory/store"; input.node == "n1"; not input.signed }
deny contains sprintf("%s is blocked", [input.principal]) if input.principal in data.blocked
deny contains "a number" if { input.command == "memory/stats"; abs(input.topic) > 0 }
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

    let tested = Attempt::new("node/policy/test", &json!({})).signed(&key, &nonce(1), 0).send(&mut app).await;
    assert_eq!(
        (tested.label(), &tested.reply["payload"]["passed"]),
        ("ok", &json!(false)),
        "{}",
        tested.reply
    );
    assert_eq!(tested.reply["payload"]["tests"][0]["name"], "orchd.gate_test.test_ping");

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

#[tokio::test]
async fn from_a_swap_on_nothing_is_answered_by_what_the_old_bundle_found() {
    let Some((broker, mut daemon, key)) = with_policy().await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let folder = broker.ca().with_file_name("policy");
    let lineage = format!("key:{}", support::gate::id(&key));
    // Others ask the same all the time, before, during and after each swap.
    let others: Vec<_> = (0..2)
        .map(|number| {
            let (addr, key) = (broker.addr(), key.clone());
            tokio::spawn(async move {
                let mut other = Asker::plain(addr, &format!("other-{number}")).await;
                other.hear_results().await;
                loop {
                    Attempt { reply_to: String::new(), ..ping() }.bearer(&key).send(&mut other).await;
                }
            })
        })
        .collect();
    for round in 0..6 {
        let (blocked, expected) =
            if round % 2 == 0 { (format!("\"{lineage}\""), "forbidden") } else { (String::new(), "ok") };
        fs::write(folder.join("data.json"), format!(r#"{{"blocked": [{blocked}]}}"#)).unwrap();
        daemon.reload("was read again").await;
        for _ in 0..5 {
            assert_eq!(ping().bearer(&key).send(&mut app).await.label(), expected, "round {round}");
        }
    }
    for other in others {
        other.abort();
    }
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
        "package t\ntest_never if 1 == 2\ntest_error if abs(\"x\") == 1\n",
    )
    .unwrap();
    let output = policy_test(folder.path());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("FAIL  t.test_never") && printed.contains("FAIL  t.test_error: "), "{printed}");
    assert!(printed.contains("2 tests, 2 failed"), "{printed}");
}

/// A policy server on a port of its own: answers each request with what `answer` says to its body, and counts them.
async fn server(
    answer: impl Fn(&Value) -> Option<String> + Send + Sync + 'static,
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, answer) = (asked.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (count, answer) = (count.clone(), answer.clone());
            tokio::spawn(async move {
                let mut text = Vec::new();
                let body = loop {
                    let mut part = [0; 4096];
                    let Ok(n @ 1..) = stream.read(&mut part).await else { return };
                    text.extend_from_slice(&part[..n]);
                    let all = String::from_utf8_lossy(&text);
                    if let Some((_, body)) = all.split_once("\r\n\r\n")
                        && let Ok(body) = serde_json::from_str::<Value>(body)
                    {
                        break body;
                    }
                };
                assert!(text.starts_with(b"POST /v1/data/orchd/gate/deny "));
                count.fetch_add(1, Ordering::SeqCst);
                // Without an answer it is silent until the node has given up.
                let Some(answer) = answer(&body) else {
                    return std::future::pending().await;
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                    answer.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (addr, asked)
}

async fn with_server(addr: std::net::SocketAddr, more: &str) -> Option<(support::Mosquitto, Daemon, String)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!(
        "[auth]\nmode = \"required\"\n{NO_LIMITS}\n[policy]\nopa_url = \"http://{addr}/v1/data/orchd/gate/deny\"\n{more}\n"
    );
    let daemon = Daemon::start(options).await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    Some((broker, daemon, key))
}

#[tokio::test]
async fn a_policy_server_is_asked_and_its_answer_is_remembered_shortly() {
    let (addr, asked) = server(|body| {
        let input = &body["input"];
        assert!(input["time"]["hour"].is_u64() && input["principal"].as_str().unwrap().starts_with("key:"));
        Some(
            match input["command"].as_str().unwrap() {
                "memory/store" => json!({ "result": ["not on this node"] }),
                "memory/stats" => json!({ "result": 3 }),
                "node/status" => json!({}),
                _ => json!({ "result": [], "decision_id": "x" }),
            }
            .to_string(),
        )
    })
    .await;
    let Some((broker, _daemon, key)) = with_server(addr, "opa_cache_s = 300").await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    for round in 1..=3 {
        assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");
        let refused = note().bearer(&key).send(&mut app).await;
        assert!(reason(&refused).ends_with(": not on this node"), "{}", reason(&refused));
        assert!(!decision(&refused).is_empty());
        assert_eq!(asked.load(Ordering::SeqCst), 2, "round {round}: each question once");
    }
    // What is no answer is none, and not remembered.
    for command in ["memory/stats", "node/status", "node/status"] {
        let answer = Attempt::new(command, &json!({})).bearer(&key).send(&mut app).await;
        assert_eq!(answer.label(), "unavailable", "{command}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    // Now it is left alone, and what is remembered still stands.
    let stopped = Attempt::new("node/health", &json!({})).bearer(&key).send(&mut app).await;
    assert_eq!(stopped.label(), "unavailable");
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");
}

#[tokio::test]
async fn a_key_that_is_revoked_while_a_policy_server_is_asked_does_nothing_more() {
    let config = Arc::new(std::sync::OnceLock::new());
    let known = config.clone();
    // The server has the key revoked before it answers that there is nothing against its command.
    let (addr, _) = server(move |body| {
        if body["input"]["command"] == "memory/store" {
            let config: &std::path::PathBuf = known.get().unwrap();
            let mut revoke = Command::new(env!("CARGO_BIN_EXE_orchd"));
            revoke.env_remove("ORCHD_PROFILE").arg("--config").arg(config).args(["keys", "revoke", "app"]);
            assert!(revoke.output().unwrap().status.success());
        }
        Some(json!({ "result": [] }).to_string())
    })
    .await;
    let Some((broker, daemon, key)) = with_server(addr, "opa_timeout_ms = 5000").await else { return };
    config.set(daemon.config()).unwrap();
    let mut app = Asker::plain(broker.addr(), "app").await;
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");
    assert_eq!(note().bearer(&key).send(&mut app).await.label(), "unauthenticated");
}

#[tokio::test]
async fn a_policy_server_that_does_not_answer_refuses_and_holds_up_nobody_else() {
    let (addr, asked) =
        server(|body| (body["input"]["command"] == "node/ping").then(|| json!({ "result": [] }).to_string()))
            .await;
    let Some((broker, _daemon, key)) = with_server(addr, "opa_timeout_ms = 5000").await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let mut other = Asker::plain(broker.addr(), "other").await;
    other.hear_results().await;
    let stuck = async { note().bearer(&key).send(&mut app).await };
    let quick = async {
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let ping = Attempt { reply_to: String::new(), ..ping() }.bearer(&key);
        let answer = ping.send(&mut other).await;
        (answer.label().to_owned(), std::time::Instant::now())
    };
    let ((stuck, when), (quick, before)) =
        tokio::join!(async { (stuck.await, std::time::Instant::now()) }, quick);
    assert_eq!((stuck.label(), quick.as_str()), ("unavailable", "ok"));
    assert!(before < when, "the quick one did not wait for the stuck one");
}

#[tokio::test]
async fn without_its_policy_server_a_node_refuses_everything() {
    // Nobody listens there any more.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Some((broker, _daemon, key)) = with_server(addr, "").await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    for _ in 0..5 {
        assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "unavailable");
    }
}
