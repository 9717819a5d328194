//! What is damaged in a repository is named as that, and takes nothing else with it.

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::vault::{copy, files, said};
use support::{Caller, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Repository, Via, mosquitto};

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

fn message(reply: &Value) -> &str {
    reply["error"]["message"].as_str().unwrap_or_default()
}

/// A node with `backups`, of which it would keep the newest two, and their ids, the oldest first.
async fn with_backups(
    name: &str,
    repository: &Repository,
    backups: usize,
) -> Option<(Mosquitto, Daemon, Caller, Vec<String>)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let mut options = repository.configure(DaemonOptions::new(name, Via::Plain(broker.addr())));
    for key in ["daily", "weekly", "monthly", "yearly", "within_days"] {
        options = options.set(&format!("phoenix.keep_{key}=0"));
    }
    let daemon = Daemon::start(options.set("phoenix.keep_last=2").set("phoenix.keep_floor=1")).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let mut ids = Vec::new();
    for number in 0..backups {
        asker.ask_ok("memory/store", json!({ "content": format!("number {number}") })).await;
        let made = asker.ask_ok("phoenix/backup", json!({})).await;
        ids.push(made["snapshot"]["id"].as_str().unwrap().to_owned());
    }
    Some((broker, daemon, asker, ids))
}

fn flipped(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_owned();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    content
}

/// Changes files of the repository in place.
fn change(path: &Path, with: impl Fn(&[u8]) -> Vec<u8>) {
    let content = std::fs::read(path).unwrap();
    std::fs::write(path, with(&content)).unwrap();
}

// Programs are waited for by blocking, and the client has to go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_damaged_backup_is_named_and_keeps_nobody_from_the_others() {
    let repository = Repository::default();
    let Some((_broker, mut daemon, mut asker, ids)) = with_backups("crowd", &repository, 4).await else {
        return;
    };
    let good = repository.aside("good");
    copy(&repository.path(), &good);
    // The newest of those that can be read stands for `latest`.
    for (hurt, latest) in [(0, 3), (3, 2)] {
        let id = &ids[hurt];
        let file = repository.path().join("snapshots").join(id);
        for how in [flipped, |content: &[u8]| content[..content.len() - 1].to_owned(), |_: &[u8]| Vec::new()]
        {
            change(&file, how);
            let listed = asker.ask_ok("phoenix/list", json!({})).await;
            assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3, "{listed}");
            assert_eq!(listed["unreadable"], json!([id]), "{listed}");
            let shown = asker.ask_ok("phoenix/show", json!({ "snapshot": ids[1] })).await;
            assert_eq!(shown["snapshot"]["id"], json!(ids[1]));
            let told = asker.ask("phoenix/show", json!({ "snapshot": id })).await;
            assert!(code(&told) == "conflict" && message(&told).contains(id.as_str()), "{told}");
            let drilled = asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
            assert_eq!(drilled["drill"]["snapshot"]["id"], json!(ids[latest]), "{drilled}");
            assert_eq!(drilled["drill"]["unreadable"], json!([id]), "{drilled}");
            for percent in [None, Some(100)] {
                let told = asker.ask("phoenix/verify", json!({ "read_data": percent })).await;
                assert!(code(&told) == "conflict" && message(&told).contains(id.as_str()), "{told}");
                assert!(message(&told).contains("1 finding:") && !message(&told).contains("gone"), "{told}");
            }
            std::fs::copy(good.join("snapshots").join(id), &file).unwrap();
        }
        change(&file, flipped);
        // On the command line too, and into the state of a machine without a node.
        let listed = repository.orchd(&["list"]);
        assert!(listed.status.success() && said(&listed).contains(&format!("DAMAGED: snapshot {id}")));
        let state = repository.aside("state");
        for wanted in ["latest", &ids[1][..8]] {
            let done = repository.orchd(&["restore", wanted, "--state-dir", state.to_str().unwrap()]);
            assert!(done.status.success() && said(&done).contains("DAMAGED"), "{}", said(&done));
            std::fs::remove_dir_all(&state).unwrap();
        }
        asker.ask_ok("phoenix/restore", json!({ "snapshot": ids[1] })).await;
        asker.ask_ok("phoenix/release", json!({ "pending": true })).await;
        std::fs::copy(good.join("snapshots").join(id), &file).unwrap();
    }
    assert!(daemon.log().contains(&format!("damaged snapshots, which nobody can restore: {}", ids[0])));
    // What is not kept goes; data stays while nobody knows what the damaged one uses.
    let file = repository.path().join("snapshots").join(&ids[0]);
    change(&file, flipped);
    let data = files(&repository.path().join("data"));
    let pruned = asker.ask_ok("phoenix/prune", json!({})).await;
    assert_eq!(pruned["removed"], json!([ids[1]]), "{pruned}");
    assert_eq!((&pruned["unreadable"], &pruned["freed_bytes"]), (&json!([ids[0]]), &json!(0)), "{pruned}");
    assert_eq!(files(&repository.path().join("data")), data);
    std::fs::remove_file(&file).unwrap();
    let pruned = asker.ask_ok("phoenix/prune", json!({})).await;
    assert!(pruned["freed_bytes"].as_u64().unwrap() > 0, "{pruned}");
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100 })).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn damage_is_said_to_be_damage_whoever_meets_it() {
    let repository = Repository::default();
    let Some((_broker, mut daemon, mut asker, _)) = with_backups("hurt", &repository, 1).await else {
        return;
    };
    let first = |kind: &str| -> PathBuf {
        let path = repository.path().join(kind);
        if path.is_dir() { files(&path).remove(0) } else { path }
    };
    for kind in ["config", "keys", "index", "snapshots"] {
        let file = first(kind);
        let content = std::fs::read(&file).unwrap();
        for how in [flipped, |content: &[u8]| content[..content.len() - 1].to_owned(), |_: &[u8]| Vec::new()]
        {
            change(&file, how);
            for (command, payload) in [
                ("phoenix/verify", json!({})),
                ("phoenix/verify", json!({ "read_data": 100 })),
                ("phoenix/verify", json!({ "drill": true })),
                ("phoenix/restore", json!({})),
            ] {
                let told = asker.ask(command, payload).await;
                assert_eq!(code(&told), "conflict", "{kind}: {command}: {told}");
                let foreign =
                    ["rustic", "kind:", "\n", "log says"].iter().any(|word| message(&told).contains(word));
                assert!(message(&told).contains("damage") && !foreign, "{kind}: {command}: {told}");
            }
            let state = repository.aside("state");
            for words in [
                &["verify", "--read-data"][..],
                &["restore", "latest", "--state-dir", state.to_str().unwrap()],
            ] {
                let output = repository.orchd(words);
                let told = said(&output);
                assert_eq!(output.status.code(), Some(1), "{kind}: {told}");
                assert!(
                    told.contains("damage") && !told.contains("rustic") && !told.contains("kind:"),
                    "{kind}: {told}"
                );
            }
            std::fs::write(&file, &content).unwrap();
        }
    }
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100 })).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_share_of_the_data_is_one_pack_at_least_however_large_it_is() {
    let repository = Repository::default();
    let Some((_broker, mut daemon, mut asker, _)) = with_backups("share", &repository, 3).await else {
        return;
    };
    let packs = files(&repository.path().join("data"));
    for pack in &packs {
        change(pack, flipped);
    }
    for percent in ["0.1", "1", "10", "30"] {
        let output = repository.orchd(&["verify", "--read-data", percent]);
        assert_eq!(output.status.code(), Some(1), "{percent} %: {}", said(&output));
    }
    for pack in &packs {
        change(pack, flipped);
    }
    asker.ask_ok("phoenix/verify", json!({ "read_data": 10 })).await;
    daemon.terminate().await;
}
