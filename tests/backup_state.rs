//! What an operator meets around backups: a missing key, a repository that is not mounted, a restore that waits, a reload, a
//! second node on the same state.

mod support;

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::vault::said;
use support::{Asker, Caller, Daemon, DaemonOptions, MosquittoOptions, Repository, Stages, Via, mosquitto};

#[tokio::test]
async fn a_sealed_state_without_its_key_is_not_started_with_another() {
    let repository = Repository::default();
    let Some((_broker, mut daemon)) = repository.node("sealed").await else { return };
    daemon.terminate().await;
    let key = daemon.state_dir().join("node.key");
    let aside = repository.aside("node.key");
    std::fs::rename(&key, &aside).unwrap();
    let ledger = daemon.state_dir().join("current/ledger.db");
    let before = std::fs::read(&ledger).unwrap();
    assert!(!daemon.comes_up_again().await);
    let log = daemon.log();
    assert!(log.contains(key.to_str().unwrap()) && log.contains("node.key_file"), "{log}");
    assert!(!log.contains("was changed while"), "{log}");
    assert!(!key.exists(), "no other key is made");
    assert_eq!(std::fs::read(&ledger).unwrap(), before);
    std::fs::rename(&aside, &key).unwrap();
    daemon.start_again().await;
    daemon.terminate().await;
}

#[tokio::test]
async fn a_repository_that_is_gone_is_begun_anew_only_on_purpose_and_every_failure_is_loud() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("mounted").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let first = asker.ask_ok("phoenix/backup", json!({})).await;
    assert_eq!(first["new_repository"], true);
    let others = repository.orchd(&["list", "--of", "another", "--json"]);
    assert!(said(&others).contains("\"snapshots\":[]"), "{}", said(&others));
    assert_eq!(repository.ask(&["list", "--of", "mounted"])["snapshots"].as_array().unwrap().len(), 1);
    let named = first["snapshot"]["id"].as_str().unwrap();
    assert!(!repository.orchd(&["show", named, "--of", "another"]).status.success());

    std::fs::rename(repository.path(), repository.aside("unmounted")).unwrap();
    let refused = asker.ask("phoenix/backup", json!({})).await;
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains(&repository.location()) && said.contains("--anew"), "{refused}");
    assert!(!repository.path().exists(), "nothing is made");
    for (task, payload) in
        [("verify", json!({})), ("prune", json!({})), ("restore", json!({})), ("unlock", json!({}))]
    {
        let refused = asker.ask(&format!("phoenix/{task}"), payload).await;
        assert!(refused["error"]["message"].as_str().unwrap().contains(&repository.location()), "{refused}");
    }
    for task in ["backup", "verify", "prune", "restore", "unlock"] {
        assert_eq!(daemon.metric(&format!("orchd_backup_failures{{task=\"{task}\"}}")), 1.0, "{task}");
        assert!(daemon.log().lines().any(|line| line.contains("the vault failed") && line.contains(task)));
    }
    let refused = asker.ask("phoenix/list", json!({})).await;
    assert_eq!(refused["error"]["code"], "not_found", "{refused}");
    assert!(daemon.log().contains("the backups could not be looked at"));

    // Back again, all goes on; gone for good, a new one is made when that is wanted.
    std::fs::rename(repository.aside("unmounted"), repository.path()).unwrap();
    assert_eq!(asker.ask_ok("phoenix/backup", json!({})).await["new_repository"], false);
    std::fs::remove_dir_all(repository.path()).unwrap();
    let anew = asker.ask_ok("phoenix/backup", json!({ "anew": true })).await;
    assert_eq!(anew["new_repository"], true);
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["backup"]["snapshots"], json!([anew["snapshot"]["id"]]), "{status}");
    asker.ask_ok("phoenix/verify", json!({})).await;
    daemon.terminate().await;
}

#[tokio::test]
async fn a_restored_state_that_waits_is_seen_and_can_be_given_up() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("patient").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let made = asker.ask_ok("phoenix/backup", json!({})).await;
    let stored = asker.ask_ok("memory/store", json!({ "content": "after the backup" })).await;
    let none = asker.ask("phoenix/release", json!({ "pending": true })).await;
    assert_eq!(none["error"]["code"], "not_found", "{none}");
    let next = daemon.state_dir().join("next");
    for here in [false, true] {
        let restored = asker.ask_ok("phoenix/restore", json!({})).await;
        for shown in [
            &asker.ask_ok("phoenix/list", json!({})).await["pending"],
            &asker.ask_ok("phoenix/release", json!({ "dry_run": true })).await["pending"],
            &asker.ask_ok("node/status", json!({})).await["backup"]["pending"],
        ] {
            assert_eq!(shown["generation"], restored["generation"], "{shown}");
            assert_eq!(shown["snapshot"], made["snapshot"]["id"], "{shown}");
        }
        if here {
            daemon.terminate().await;
            let given_up = Command::new(env!("CARGO_BIN_EXE_orchd"))
                .args(["backup", "release", "--pending", "--stopped", "--config"])
                .arg(daemon.config())
                .output()
                .unwrap();
            assert!(given_up.status.success(), "{}", said(&given_up));
            daemon.start_again().await;
            asker = Caller::connect(broker.addr(), "later", &daemon).await;
        } else {
            let given_up = asker.ask_ok("phoenix/release", json!({ "pending": true })).await;
            assert_eq!(given_up["released"][0]["number"], restored["generation"], "{given_up}");
        }
        assert!(next.symlink_metadata().is_err());
        let status = asker.ask_ok("node/status", json!({})).await;
        assert!(status["backup"]["pending"].is_null(), "{status}");
        assert_eq!(
            asker.ask_ok("memory/get", json!({ "id": stored["id"] })).await["content"],
            "after the backup"
        );
    }
    assert!(!daemon.state_dir().join("gen-2").exists());
    daemon.terminate().await;
}

#[tokio::test]
async fn a_reload_names_the_keys_that_wait_for_a_restart() {
    let repository = Repository::default();
    let Some((_broker, mut daemon)) = repository.node("reloaded").await else { return };
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    std::fs::write(daemon.config(), text.replace("[phoenix]\n", "[phoenix]\nkeep_last = 7\n")).unwrap();
    daemon.reload("take effect at the next start only").await;
    assert!(daemon.log().contains("phoenix.keep_last"), "{}", daemon.log());
    daemon.terminate().await;
}

#[tokio::test]
async fn a_reload_does_not_make_another_node_of_it() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("settled").await else { return };
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    assert!(text.contains("name = \"settled\""), "{text}");
    std::fs::write(daemon.config(), text.replace("name = \"settled\"", "name = \"other\"")).unwrap();
    daemon.reload("stays in force").await;
    assert!(daemon.log().contains("node.name is another one"), "{}", daemon.log());
    let mut app = Asker::plain(broker.addr(), "app").await;
    assert_eq!(app.ok("orch/settled/node/status", json!({})).await["node"], "settled");
    daemon.terminate().await;
}

#[tokio::test]
async fn a_second_node_on_the_same_state_is_told_so_before_anything_else() {
    let repository = Repository::default();
    let Some((_broker, mut daemon)) = repository.node("single").await else { return };
    let second = Command::new(env!("CARGO_BIN_EXE_orchd"))
        .args(["run", "--config"])
        .arg(daemon.config())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("another orchd is running on this state folder"), "{}", said(&second));
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_change_of_the_password_that_is_cut_off_is_ended_by_the_next_and_leaves_no_old_one() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    for stage in ["password added", "password written", "passwords removed"] {
        let (repository, mut stages) = (Repository::default(), Stages::new());
        let options = repository.configure(DaemonOptions::new("locksmith", Via::Plain(broker.addr())));
        let mut daemon = Daemon::start(stages.configure(options)).await;
        let mut asker = Caller::connect(broker.addr(), &stage.replace(' ', "-"), &daemon).await;
        asker.ask_ok("phoenix/backup", json!({})).await;
        let old = repository.aside("old");
        std::fs::copy(repository.password_file(), &old).unwrap();
        std::fs::write(repository.aside("password.new"), "another one\n").unwrap();
        stages.stop_at(stage);
        asker.send("cut-off", "phoenix/password", &json!({})).await;
        let stopped = stages.stopped().await;
        kill_process(Pid::from_raw(stopped.pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        stopped.gone().await;
        assert_eq!(asker.reply_to("cut-off").await["error"]["code"], "unavailable", "{stage}");
        // What stands in the file opens it at any time.
        asker.ask_ok("phoenix/backup", json!({})).await;
        asker.ask_ok("phoenix/password", json!({})).await;
        assert!(!repository.aside("password.new").exists(), "{stage}");
        let refused = repository.orchd_with(&["list"], &old);
        assert!(!refused.status.success(), "{stage}: the old password still opens it");
        asker.ask_ok("phoenix/verify", json!({ "read_data": 100 })).await;
        daemon.terminate().await;
    }
}
