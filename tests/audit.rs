//! The audit trail of a node: what it says, who reads it, and what becomes of it when somebody changes it.

mod support;

use std::process::{Command, Output};

use serde_json::{Value, json};
use support::gate::{Attempt, NO_LIMITS, good_jwt, keys, nonce, ping, setup};
use support::{Asker, Daemon};

fn audit(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_orchd"))
        .env_remove("ORCHD_PROFILE")
        .arg("--config")
        .arg(daemon.config())
        .arg("audit")
        .args(arguments)
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn records(jsonl: &str) -> Vec<Value> {
    jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_trail_is_shown_exported_and_verified_on_a_running_and_on_a_stopped_node() {
    let Some((broker, mut daemon)) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await else {
        return;
    };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let secret = "a-very-private-note";
    let note = Attempt::new("memory/store", &json!({ "content": secret })).bearer(&key);
    assert_eq!(note.send(&mut app).await.label(), "ok");
    let narrow = good_jwt(json!({ "permissions": ["orch/n1/memory/#"] }));
    assert_eq!(ping().bearer(&narrow).send(&mut app).await.label(), "forbidden");
    daemon.until("the refusal is recorded", |daemon| audit(daemon, &["tail"]).1.contains("forbidden")).await;

    for running in [true, false] {
        if !running {
            daemon.terminate().await;
        }
        let (code, out, err) = audit(&daemon, &["verify"]);
        assert!(code == Some(0) && out.contains("records are as the node wrote them"), "{out}{err}");
        let (code, out, err) = audit(&daemon, &["tail", "-n", "50", "--json"]);
        assert_eq!(code, Some(0), "{err}");
        let shown = records(&out);
        let stored = shown.iter().find(|record| record["command"] == "memory/store").unwrap();
        assert_eq!((&stored["outcome"], &stored["topic"]), (&json!("ok"), &json!("orch/n1/memory/store")));
        assert_eq!(stored["payload_size"], note.payload.len());
        let refused = shown.iter().find(|record| record["outcome"] == "forbidden").unwrap();
        assert_eq!(refused["reason"], "no permission of the asker matches this topic");
        assert_eq!(refused["principal"], "orchd app");
        let (code, out, err) = audit(&daemon, &["export"]);
        assert!(code == Some(0) && err.contains(" records; the last of the trail is "), "{err}");
        let exported = records(&out);
        assert!(
            exported
                .windows(2)
                .all(|two| two[1]["seq"].as_i64() == two[0]["seq"].as_i64().map(|seq| seq + 1))
        );
        assert!(!out.contains(secret) && !out.contains(&key), "no payload and no secret is in it");
    }

    let file = daemon.state_dir().join("export.jsonl");
    let path = file.to_str().unwrap();
    assert_eq!(audit(&daemon, &["export", "--out", path, "--after", "1"]).0, Some(0));
    assert_eq!(audit(&daemon, &["export", "--out", path]).0, Some(1), "nothing is replaced");
    assert_eq!(records(&std::fs::read_to_string(&file).unwrap())[0]["seq"], 2);
}

#[tokio::test]
async fn a_trail_that_was_changed_is_found_by_the_command_and_by_the_next_start() {
    let Some((_broker, mut daemon)) = setup("mode = \"required\"").await else { return };
    keys(&daemon, &["create", "one", "--allow", "orch/#"]);
    keys(&daemon, &["create", "two", "--allow", "orch/#"]);
    daemon.terminate().await;
    let database = rusqlite::Connection::open(daemon.state_dir().join("current/ledger.db")).unwrap();
    database
        .execute_batch("DROP TRIGGER audit_is_append_only_delete; DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)")
        .unwrap();
    drop(database);
    let (code, _, err) = audit(&daemon, &["verify"]);
    assert!(
        code == Some(1) && err.contains("the trail was sealed at record 2, and ends with record 1"),
        "{err}"
    );

    daemon.start_again().await;
    assert!(daemon.log().contains("the audit trail was changed while the node was stopped"));
    daemon
        .until("the alarm is in the trail", |daemon| audit(daemon, &["tail"]).1.contains("audit/alarm"))
        .await;
    let (code, out, err) = audit(&daemon, &["verify"]);
    assert!(code == Some(1) && err.contains("record 2: the trail was not as it should be"), "{out}{err}");

    // Without the node key nobody can say.
    let key = daemon.state_dir().join("node.key");
    std::fs::rename(&key, key.with_extension("away")).unwrap();
    assert_eq!(audit(&daemon, &["verify"]).0, Some(1));
}

#[tokio::test]
async fn over_mqtt_only_a_signed_command_of_an_administrator_reads_it_and_none_changes_it() {
    let Some((broker, daemon)) = setup(&format!("mode = \"broker\"\n{NO_LIMITS}")).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let admin = keys(&daemon, &["create", "app", "--allow", "orch/n1/node/#"]);
    let agent = keys(&daemon, &["create", "agent", "--allow", "orch/n1/memory/#"]);
    app.hear_results().await;
    // Answered where everyone hears it, because the keys have inboxes of their own.
    let unsigned = |command: &str, payload: Value| Attempt {
        reply_to: String::new(),
        ..Attempt::new(command, &payload)
    };
    let tail = || unsigned("node/audit/tail", json!({ "count": 5 }));
    for (attempt, code) in [
        (tail(), "signature_invalid"),
        (tail().bearer(&admin), "signature_invalid"),
        (tail().signed(&agent, &nonce(1), 0), "forbidden"),
        // The trail is not for everyone who hears the results.
        (tail().signed(&admin, &nonce(2), 0), "invalid"),
        (Attempt::new("node/audit/tail", &json!({ "count": 5 })).signed(&admin, &nonce(3), 0), "ok"),
    ] {
        let answer = attempt.send(&mut app).await;
        assert_eq!(answer.label(), code);
        if code == "ok" {
            assert!(!answer.reply["payload"]["records"].as_array().unwrap().is_empty());
        }
    }
    let verify = unsigned("node/audit/verify", json!({})).signed(&admin, &nonce(4), 0);
    let found = verify.send(&mut app).await;
    assert_eq!((found.label(), &found.reply["payload"]["sound"]), ("ok", &json!(true)));
    // What removes the oldest records is as sensitive.
    let checkpoint = || unsigned("node/audit/checkpoint", json!({}));
    assert_eq!(checkpoint().send(&mut app).await.label(), "signature_invalid");
    assert_eq!(checkpoint().signed(&agent, &nonce(5), 0).send(&mut app).await.label(), "forbidden");
    // Nothing else there is called audit.
    let capabilities = orchd::node::declarations();
    let names: Vec<_> = capabilities.iter().map(orchd::engine::command::Declaration::name).collect();
    let audit: Vec<_> = names.iter().filter(|name| name.contains("audit")).collect();
    assert_eq!(audit, ["node/audit/checkpoint", "node/audit/tail", "node/audit/verify"]);
}
