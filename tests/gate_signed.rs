//! Signed commands: what others do with a copy of one costs its owner nothing, and a redelivery gets its answer.

mod support;

use serde_json::{Value, json};
use support::gate::{Attempt, NO_LIMITS, id, keys, nonce, ping, setup};
use support::{Asker, Daemon};

#[tokio::test]
async fn who_sends_the_commands_of_another_again_locks_nobody_out() {
    let auth = "mode = \"required\"\nburst = 6\nunauthenticated_per_min = 30\ncooldown_s = 600\nanomaly_cooldown_s = 600\n";
    let Some((broker, mut daemon)) = setup(auth).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/n1/node/ping"]);
    let signed =
        |n: usize, offset| ping().with("message-id", format!("m-{n}")).signed(&key, &nonce(n), offset);
    let forbidden = Attempt::new("memory/stats", &json!({})).signed(&key, &nonce(9), 0);
    let fresh = [signed(1, 0), ping().signed(&key, &nonce(2), 0), forbidden];
    let labels = ["ok", "ok", "forbidden"];
    for (attempt, label) in fresh.iter().zip(labels) {
        assert_eq!(attempt.send(&mut app).await.label(), label);
    }
    // Heard by others, and sent again and again; so are such from long ago, and one that is not yet of age.
    let old = [signed(3, -400), signed(4, -31_536_000), signed(5, 400)];
    for attempt in old.iter().chain(&fresh) {
        // Fewer in all than are answered of those that come too fast.
        for _ in 0..12 {
            attempt.send(&mut app).await;
        }
    }
    assert_eq!(signed(6, 0).send(&mut app).await.label(), "ok");
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");
    daemon.until("replays are told", |daemon| daemon.log().contains("anomaly_replay")).await;
    let log = daemon.log();
    let told_of_the_key = |kind: &str| log.lines().any(|line| line.contains(kind) && line.contains("key:"));
    assert!(told_of_the_key("anomaly_replay"));
    assert!(!told_of_the_key("anomaly_burst") && !told_of_the_key("anomaly_refusals"), "{log}");
}

#[tokio::test]
async fn a_key_is_used_by_who_has_it_and_by_nobody_who_names_it() {
    let Some((broker, mut daemon)) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await else {
        return;
    };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let forged =
        ping().signed(&key, &nonce(1), 0).with("x-signature", format!("v1:{}:{}", id(&key), "0".repeat(64)));
    assert_eq!(forged.send(&mut app).await.label(), "signature_invalid");
    assert_eq!(ping().signed(&key, &nonce(2), -400).send(&mut app).await.label(), "replayed");
    let used = |daemon: &Daemon| -> Option<i64> {
        daemon.ledger().query_row("SELECT last_used_at FROM api_key", [], |row| row.get(0)).unwrap()
    };
    daemon.terminate().await;
    assert_eq!(used(&daemon), None);
    daemon.start_again().await;
    assert_eq!(ping().signed(&key, &nonce(3), 0).send(&mut app).await.label(), "ok");
    daemon.terminate().await;
    assert!(used(&daemon).is_some());
}

#[tokio::test]
async fn a_signed_command_that_is_delivered_again_gets_its_answer_whatever_it_was() {
    let Some((broker, mut daemon)) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await else {
        return;
    };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let signed = |command: &str, payload: Value, id: &str, n| {
        Attempt::new(command, &payload).with("message-id", id).signed(&key, &nonce(n), 0)
    };
    let named = |name: &str| json!({ "name": name, "permissions": ["orch/n1/node/ping"] });
    let revoke = |n| signed("node/keys/revoke", json!({ "key": "late" }), "m-1", n);
    let first = revoke(1);
    let attempts = [
        (first.clone(), "not_found"),
        (signed("conscience/rules/remove", json!({ "name": "nobody" }), "m-2", 2), "not_found"),
        (signed("node/keys/create", named("app"), "m-3", 3), "conflict"),
        (signed("node/keys/list", json!({}), "m-4", 4), "ok"),
        (signed("node/keys/show", json!({ "key": "nobody" }), "m-5", 5), "not_found"),
        (signed("node/audit/verify", json!({}), "m-6", 6), "ok"),
    ];
    for round in 0..3 {
        for (attempt, label) in &attempts {
            assert_eq!(attempt.send(&mut app).await.label(), *label, "{} in round {round}", attempt.topic);
        }
        if round == 1 {
            daemon.kill();
            daemon.start_again().await;
        }
    }
    // It is an answer, and not another try: nobody else's copy takes effect when it would succeed.
    assert_eq!(signed("node/keys/create", named("late"), "m-7", 7).send(&mut app).await.label(), "ok");
    assert_eq!(first.send(&mut app).await.label(), "not_found");
    assert_eq!(
        signed("node/keys/show", json!({ "key": "late" }), "m-8", 8).send(&mut app).await.label(),
        "ok"
    );
    // Signed anew it is tried anew, also with another payload, and then remembered as any other.
    assert_eq!(revoke(9).send(&mut app).await.label(), "ok");
    assert_eq!(revoke(10).send(&mut app).await.label(), "ok");
    let corrected = signed("conscience/rules/remove", json!({ "name": "no-violence" }), "m-2", 11);
    assert_eq!(corrected.send(&mut app).await.label(), "ok");
    // The nonce of a read is one all the same.
    assert_eq!(signed("node/keys/list", json!({}), "m-9", 4).send(&mut app).await.label(), "replayed");
    assert_eq!(
        signed("node/keys/list", json!({ "limit": 1 }), "m-4", 4).send(&mut app).await.label(),
        "replayed"
    );
}
