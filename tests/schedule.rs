//! What a node does by itself: done, seen, paused and resumed, over MQTT and on the command line.

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::{Caller, Daemon, DaemonOptions, MosquittoOptions, Repository, Stages, Via, mosquitto};

/// The command line on the machine of `daemon`.
fn orchd(daemon: &Daemon, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_orchd"))
        .args(words)
        .arg("--config")
        .arg(daemon.config())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn entry<'a>(agenda: &'a Value, name: &str) -> &'a Value {
    agenda.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
}

#[tokio::test]
async fn what_recurs_is_done_by_the_node_itself_and_can_be_seen_paused_resumed_and_asked_for() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let options = DaemonOptions::new("clockwork", Via::Plain(broker.addr()))
        .set("schedule.memory_prune=every 1s")
        .set("schedule.jitter_s=0");
    let mut daemon = Daemon::start(options).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let runs = "orchd_schedule_runs_total{task=\"memory_prune\",outcome=\"ok\"}";
    daemon.until_metric(runs, |runs| runs >= 2.0).await;
    let paused =
        asker.ask_ok("node/schedule/pause", json!({ "name": "memory_prune", "reason": "a look" })).await;
    assert_eq!(paused["paused"], true);

    let status = asker.ask_ok("node/status", json!({})).await;
    let prune = entry(&status["schedule"], "memory_prune");
    assert_eq!((&prune["paused"], &prune["last"]["outcome"]), (&json!("a look"), &json!("ok")), "{status}");
    assert!(prune["next"].is_null());
    assert!(orchd(&daemon, &["schedule", "list"]).contains("paused: a look"));
    // Paused, and asked for all the same: an entry that is never due by itself.
    orchd(&daemon, &["schedule", "run", "soul_decay"]);
    daemon
        .until_metric("orchd_schedule_runs_total{task=\"soul_decay\",outcome=\"ok\"}", |runs| runs == 1.0)
        .await;
    let missing = asker.ask("node/schedule/run", json!({ "name": "nothing" })).await;
    assert_eq!(missing["error"]["code"], "not_found");

    daemon.restart().await;
    let mut asker = Caller::connect(broker.addr(), "later", &daemon).await;
    let agenda = asker.ask_ok("node/schedule/list", json!({})).await;
    assert_eq!(entry(&agenda["entries"], "memory_prune")["paused"], "a look", "{agenda}");
    assert_eq!(entry(&agenda["entries"], "soul_decay")["runs"], 1);
    orchd(&daemon, &["schedule", "resume", "memory_prune"]);
    daemon.until_metric(runs, |runs| runs >= 1.0).await;
    daemon.terminate().await;
    let by_itself = "SELECT count(*) FROM audit WHERE principal = 'schedule' AND command = 'memory/prune' AND outcome = 'ok'";
    let found: i64 = daemon.ledger().query_row(by_itself, [], |row| row.get(0)).unwrap();
    assert!(found >= 3, "{found}");
}

#[tokio::test]
async fn audit_checkpoints_are_an_entry_of_the_schedule_and_keep_what_is_to_be_kept() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("notary", Via::Plain(broker.addr()))).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let before = asker.ask_ok("node/audit/verify", json!({})).await;
    orchd(&daemon, &["schedule", "run", "audit_checkpoint"]);
    let runs = "orchd_schedule_runs_total{task=\"audit_checkpoint\",outcome=\"ok\"}";
    daemon.until_metric(runs, |runs| runs == 1.0).await;
    // What goes, and that the rest still verifies, is for the tests of the trail; all of this is young.
    assert_eq!(asker.ask_ok("node/audit/checkpoint", json!({})).await["removed"], 0);
    let after = asker.ask_ok("node/audit/verify", json!({})).await;
    assert_eq!((&after["sound"], &after["removed_up_to"]), (&json!(true), &Value::Null), "{after}");
    assert!(after["records"].as_u64() > before["records"].as_u64(), "{after}");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_scheduled_run_that_a_kill_cut_off_goes_on_alone_and_its_outcome_is_put_down() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let (repository, mut stages) = (Repository::default(), Stages::new());
    let options = repository.configure(DaemonOptions::new("sleepwalker", Via::Plain(broker.addr())));
    let mut daemon = Daemon::start(stages.configure(options)).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    stages.stop_at("copied");
    asker.ask_ok("node/schedule/run", json!({ "name": "backup" })).await;
    let stopped = stages.stopped().await;
    daemon.kill();
    stopped.gone().await;
    let left = daemon.state_dir().join("phoenix/drill");
    std::fs::create_dir_all(&left).unwrap();

    stages.stop_at("copied");
    daemon.start_again().await;
    assert!(!left.exists(), "what a killed worker left is still there");
    let resumed = stages.stopped().await;
    let agenda = asker.ask_ok("node/schedule/list", json!({})).await;
    let backup = entry(&agenda["entries"], "backup");
    assert_eq!((&backup["running"], &backup["runs"]), (&json!(true), &json!(1)), "{backup}");
    assert!(backup["last"]["outcome"].is_null(), "{backup}");
    let refused = asker.ask("node/schedule/run", json!({ "name": "backup" })).await;
    assert_eq!(refused["error"]["code"], "conflict", "{refused}");
    drop(resumed);
    let runs = "orchd_schedule_runs_total{task=\"backup\",outcome=\"ok\"}";
    daemon.until_metric(runs, |runs| runs == 1.0).await;
    let agenda = asker.ask_ok("node/schedule/list", json!({})).await;
    let backup = entry(&agenda["entries"], "backup");
    assert_eq!((&backup["running"], &backup["last"]["outcome"]), (&json!(false), &json!("ok")), "{backup}");
    let jobs = asker.ask_ok("node/jobs/list", json!({ "limit": 50 })).await;
    let jobs = jobs["jobs"].as_array().unwrap();
    let of_schedule: Vec<_> = jobs.iter().filter(|job| job["command"] == "phoenix/backup").collect();
    assert_eq!(of_schedule.len(), 1, "{of_schedule:?}");
    assert_eq!(of_schedule[0]["state"], "succeeded");
    daemon.terminate().await;
}
