//! Searching from outside the process: what a query may say, and an index that is damaged under a running node.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Asker, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Via, label, mosquitto};

async fn setup() -> Option<(Mosquitto, Daemon, Asker)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let options = DaemonOptions::new("n1", Via::Tls(broker.tls_addr(), broker.ca()));
    let daemon = Daemon::start(options.set("memory.index_look_s=1")).await;
    let asker = Asker::over_tls(&broker, "app").await;
    Some((broker, daemon, asker))
}

async fn remember(app: &mut Asker, daemon: &Daemon, content: &str, rest: Value) {
    let mut store = json!({ "content": content });
    store.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    app.ok(&daemon.topic("memory/store"), store).await;
}

async fn query(app: &mut Asker, daemon: &Daemon, query: Value) -> Value {
    app.ok(&daemon.topic("memory/query"), query).await
}

fn contents(found: &Value) -> Vec<&str> {
    let mut contents: Vec<_> =
        found["hits"].as_array().unwrap().iter().map(|hit| hit["content"].as_str().unwrap()).collect();
    contents.sort_unstable();
    contents
}

#[tokio::test]
async fn a_query_says_what_it_wants_and_is_always_answered() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    remember(&mut app, &daemon, "pump 7 reports ERR_CONN_42", json!({ "tags": ["hall"] })).await;
    remember(&mut app, &daemon, "pump 8 reports ERR_CONN_43", json!({ "entity": "pump-8" })).await;
    remember(&mut app, &daemon, "the lift is quiet", json!({ "layer": "semantic" })).await;
    for (text, expected, plain) in [
        ("pump", &["pump 7 reports ERR_CONN_42", "pump 8 reports ERR_CONN_43"][..], false),
        ("ERR_CONN_43", &["pump 8 reports ERR_CONN_43"], false),
        ("reporting -\"pump 7\"", &["pump 8 reports ERR_CONN_43"], false),
        ("tag:hall", &["pump 7 reports ERR_CONN_42"], false),
        ("pump entity:pump-8", &["pump 8 reports ERR_CONN_43"], false),
        ("layer:semantic", &["the lift is quiet"], false),
        ("\"quiet lift", &["the lift is quiet"], true),
        ("+(lift AND) OR \"", &["the lift is quiet"], true),
    ] {
        let found = query(&mut app, &daemon, json!({ "text": text, "consistency": "latest" })).await;
        assert_eq!(contents(&found), expected, "{text}");
        assert_eq!(found["plain_words"] == true, plain, "{text}");
        assert_eq!(found["total"], expected.len(), "{text}");
    }
    let first = query(&mut app, &daemon, json!({ "text": "pump", "limit": 1 })).await;
    assert_eq!(first["total"], 2);
    assert!(first["hits"][0]["snippet"].as_str().unwrap().contains("<mark>pump</mark>"), "{first}");
    let next = json!({ "text": "pump", "limit": 1, "cursor": first["cursor"] });
    let next = query(&mut app, &daemon, next).await;
    assert_ne!(first["hits"][0]["id"], next["hits"][0]["id"]);
    assert_eq!(next["cursor"], Value::Null);
    let foreign = json!({ "text": "lift", "cursor": first["cursor"] });
    assert_eq!(label(&app.ask(&daemon.topic("memory/query"), foreign).await), "invalid");
}

fn shard(daemon: &Daemon) -> PathBuf {
    let index = daemon.state_dir().join("current/index/short_term");
    std::fs::read_dir(index).unwrap().next().unwrap().unwrap().path()
}

/// Damages the index of a running node, and asks until all is found again: each answer on the way is whole, or says that
/// it is not.
async fn recovers_from(damage: impl FnOnce(&Path)) {
    let Some((_broker, mut daemon, mut app)) = setup().await else { return };
    for number in 0..30 {
        remember(&mut app, &daemon, &format!("grain {number} of sand"), json!({})).await;
    }
    let all = json!({ "text": "grain", "limit": 100, "consistency": "latest" });
    assert_eq!(query(&mut app, &daemon, all.clone()).await["total"], 30);
    damage(&shard(&daemon));
    let rebuilt = "was built anew";
    let deadline = Instant::now() + Duration::from_secs(120);
    while !daemon.log().contains(rebuilt) {
        let reply = app.ask(&daemon.topic("memory/query"), all.clone()).await;
        let found = &reply["payload"];
        assert!(found["partial"] == true || found["total"] == 30, "{reply}");
        assert_eq!(found["partial"] == true, reply["degraded"] == json!(["index"]), "{reply}");
        assert!(Instant::now() < deadline, "{}", daemon.log());
    }
    let found = query(&mut app, &daemon, all).await;
    assert_eq!((&found["total"], &found["partial"]), (&json!(30), &json!(false)));
    remember(&mut app, &daemon, "one more grain", json!({})).await;
    let found = query(&mut app, &daemon, json!({ "text": "grain", "consistency": "latest" })).await;
    assert_eq!(found["total"], 31);
    daemon.terminate().await;
}

#[tokio::test]
async fn an_index_that_is_deleted_under_a_running_node_comes_back() {
    recovers_from(|folder| std::fs::remove_dir_all(folder).unwrap()).await;
}

#[tokio::test]
async fn segments_that_are_cut_short_under_a_running_node_end_nothing_and_come_back() {
    recovers_from(|folder| {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension != "json" && extension != "lock") {
                // A merge may have removed it meanwhile.
                let Ok(file) = std::fs::OpenOptions::new().write(true).open(&path) else { continue };
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_bit_that_flips_in_meta_json_under_a_running_node_is_found() {
    recovers_from(|folder| {
        let path = folder.join("meta.json");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    })
    .await;
}
