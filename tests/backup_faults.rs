//! Whatever happens to a backup on its way, or to its repository afterwards: live data is not touched, the last good backup can
//! be restored, and damage is told.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::vault::{copy, files};
use support::{
    Caller, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Repository, Via, mosquitto, within,
};

async fn node(name: &str, repository: &Repository) -> Option<(Mosquitto, Daemon)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let options = repository.configure(DaemonOptions::new(name, Via::Plain(broker.addr())));
    Some((broker, Daemon::start(options).await))
}

async fn fill(asker: &mut Caller, records: usize) {
    for number in 0..records {
        let noise: String = (0..500).map(|_| char::from(letter(number))).collect();
        asker.ask_ok("memory/store", json!({ "content": format!("{number} {noise}") })).await;
    }
}

/// Letters that do not compress to nothing.
fn letter(seed: usize) -> u8 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15 ^ seed as u64, Ordering::Relaxed);
    b'a' + ((state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u8 % 26
}

/// Processes that the daemon has started and that run.
fn children(daemon: &Daemon) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>())
        .collect()
}

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

#[tokio::test]
async fn damage_in_every_kind_of_file_is_found_and_a_damaged_backup_is_never_swapped_in() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = node("hurt", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 100).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    assert_eq!(repository.findings(), Vec::<String>::new());
    let good = repository.aside("good");
    copy(&repository.path(), &good);
    let kind =
        |path: &Path| path.strip_prefix(&good).unwrap().components().next().unwrap().as_os_str().to_owned();
    let mut kinds = std::collections::BTreeSet::new();
    for file in files(&good) {
        let kind = kind(&file);
        if kind == "locks" {
            continue;
        }
        kinds.insert(kind.clone());
        let target = repository.path().join(file.strip_prefix(&good).unwrap());
        let content = std::fs::read(&file).unwrap();
        let mut flipped = content.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let damages: [(&str, Option<&[u8]>); 3] = [
            ("a flipped bit", Some(&flipped)),
            ("a truncation", Some(&content[..content.len() - 1])),
            ("a removal", None),
        ];
        for (what, damaged) in damages {
            match damaged {
                Some(damaged) => std::fs::write(&target, damaged).unwrap(),
                None => std::fs::remove_file(&target).unwrap(),
            }
            let told = asker.ask("phoenix/verify", json!({ "read_data": 100.0 })).await;
            assert_ne!(code(&told), "ok", "{what} in {kind:?} was not found");
            let restored = asker.ask("phoenix/restore", json!({})).await;
            // What is fetched may not touch the damage; what is swapped in is whole in any case.
            if code(&restored) == "ok" {
                std::fs::remove_file(daemon.state_dir().join("next")).unwrap();
            }
            std::fs::write(&target, &content).unwrap();
        }
    }
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.to_str().unwrap()).collect();
    assert_eq!(kinds, ["config", "data", "index", "keys", "snapshots"]);
    assert_eq!(repository.findings(), Vec::<String>::new());
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100.0 })).await;
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["backup"]["failures"]["verify"], 0, "{status}");
    daemon.terminate().await;
}

#[tokio::test]
async fn a_wrong_password_and_a_locked_repository_are_said_and_change_nothing() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = node("shut", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 10).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    let right = std::fs::read(repository.password_file()).unwrap();
    std::fs::write(repository.password_file(), "wrong").unwrap();
    let refused = asker.ask("phoenix/backup", json!({})).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("password"), "{refused}");
    assert!(!refused.to_string().contains("wrong\""), "{refused}");
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["backup"]["failures"]["backup"], 1);
    std::fs::write(repository.password_file(), right).unwrap();

    // The stock program holds its lock as long as its input is open.
    let Some(mut command) = repository.restic_command() else { return };
    let mut restic = command
        .args(["backup", "--stdin", "--stdin-filename", "x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let locks = repository.path().join("locks");
    daemon
        .until("restic has its lock", |_| {
            std::fs::read_dir(&locks).is_ok_and(|mut locks| locks.next().is_some())
        })
        .await;
    let refused = asker.ask("phoenix/prune", json!({})).await;
    assert_eq!(code(&refused), "busy", "{refused}");
    // It may be shared with those who remove nothing.
    asker.ask_ok("phoenix/backup", json!({})).await;
    restic.kill().unwrap();
    restic.wait().unwrap();
    // Its process is gone, and so its lock is void.
    asker.ask_ok("phoenix/unlock", json!({})).await;
    asker.ask_ok("phoenix/prune", json!({})).await;
    assert!(std::fs::read_dir(&locks).unwrap().next().is_none());
    daemon.terminate().await;
}

#[tokio::test]
async fn a_lock_of_ours_keeps_the_stock_program_from_removing() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = node("ours", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 10).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    if repository.restic(&["version"]).is_none() {
        return;
    }
    asker.send("held", "phoenix/backup", &json!({})).await;
    let locks = repository.path().join("locks");
    let lock = within(async {
        loop {
            if let Some(lock) = std::fs::read_dir(&locks).unwrap().flatten().next() {
                // Stopped, not killed: it works on it still.
                for pid in children(&daemon) {
                    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP);
                }
                if lock.path().exists() {
                    break lock.path();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    let pruned = repository.restic(&["prune"]).unwrap();
    let told = String::from_utf8_lossy(&pruned.stderr);
    assert!(!pruned.status.success() && told.contains("lock"), "{told}");
    assert!(lock.exists());
    for pid in children(&daemon) {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT);
    }
    let made = asker.reply_to("held").await;
    assert_eq!(code(&made), "ok", "{made}");
    daemon.terminate().await;
}

#[tokio::test]
async fn killing_worker_or_daemon_at_any_moment_leaves_the_last_good_backup() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = node("killed", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 200).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    let asked = [("phoenix/backup", json!({})), ("phoenix/prune", json!({})), ("phoenix/restore", json!({}))];
    for round in 0..12_u64 {
        let (command, payload) = &asked[round as usize % 3];
        fill(&mut asker, 5).await;
        let id = format!("killed-{round}");
        asker.send(&id, command, payload).await;
        let worker = within(async {
            loop {
                if let Some(pid) = children(&daemon).first() {
                    break *pid;
                }
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
        // Later each time, so that each stage is met.
        tokio::time::sleep(std::time::Duration::from_millis(round / 3 * 120)).await;
        if round % 2 == 0 {
            let _ = kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL);
            let reply = asker.reply_to(&id).await;
            assert!(["ok", "unavailable"].contains(&code(&reply)), "{reply}");
        } else {
            daemon.kill();
            // The worker ends with it.
            within(async {
                while Path::new(&format!("/proc/{worker}/exe")).read_link().is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            })
            .await;
            daemon.start_again().await;
            let reply = asker.reply_to(&id).await;
            assert_eq!(code(&reply), "ok", "{command} is taken up again: {reply}");
        }
        let found = repository.findings();
        assert!(found.is_empty(), "after round {round}: {found:?}");
        // A restore that was made ready is another test's.
        let _ = std::fs::remove_file(daemon.state_dir().join("next"));
    }
    asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["backup"]["failures"]["drill"], 0);
    daemon.terminate().await;
    orchd::ledger::audit::verify(&daemon.ledger()).unwrap().expect("the audit chain is broken");
    if let Some(checked) = repository.restic(&["check", "--read-data"]) {
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[tokio::test]
async fn a_repository_without_space_is_said_and_the_backups_in_it_stay_good() {
    let repository = Repository::default();
    // A file system of a few megabytes, in memory, that all of us see.
    let place: PathBuf = repository.path();
    std::fs::create_dir(&place).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(&place)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine does not let us mount a file system");
        return;
    }
    let unmount = Unmount(place);
    let Some((broker, mut daemon)) = node("full", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 50).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    let mut told = Value::Null;
    for _ in 0..40 {
        fill(&mut asker, 200).await;
        told = asker.ask("phoenix/backup", json!({})).await;
        if code(&told) != "ok" {
            break;
        }
    }
    assert_eq!(code(&told), "storage_full", "{told}");
    let found = repository.findings();
    assert!(found.is_empty(), "{found:?}");
    asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
    asker.ask_ok("memory/store", json!({ "content": "the node itself works on" })).await;
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["storage_full"], false);
    assert_eq!(status["backup"]["failures"]["backup"], 1, "{status}");
    daemon.terminate().await;
    drop(unmount);
}

/// Unmounted at the end, whatever the test says.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
