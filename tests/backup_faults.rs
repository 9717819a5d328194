//! Whatever happens to a backup on its way, or to its repository afterwards: live data is not touched, the last good backup can
//! be restored, and damage is told.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::disk::{Disk, fill as fill_disk, inside};
use support::vault::{copy, files};
use support::{
    Caller, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Repository, Stages, Via, mosquitto,
};

async fn node(name: &str, repository: &Repository) -> Option<(Mosquitto, Daemon)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let options = repository.configure(DaemonOptions::new(name, Via::Plain(broker.addr())));
    Some((broker, Daemon::start(options).await))
}

/// A node that keeps the newest backup alone, and whose stages are known.
async fn staged(name: &str, repository: &Repository) -> Option<(Mosquitto, Daemon, Stages)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let stages = Stages::new();
    let options = repository.configure(DaemonOptions::new(name, Via::Plain(broker.addr())));
    let daemon = Daemon::start(stages.configure(keeping_one(options))).await;
    Some((broker, daemon, stages))
}

fn keeping_one(mut options: DaemonOptions) -> DaemonOptions {
    for key in ["daily", "weekly", "monthly", "yearly", "within_days"] {
        options = options.set(&format!("phoenix.keep_{key}=0"));
    }
    options.set("phoenix.keep_last=1").set("phoenix.keep_floor=1")
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

async fn fill(asker: &mut Caller, records: usize) {
    fill_with(asker, records, 500).await;
}

/// Stores so many memories of so many characters.
async fn fill_with(asker: &mut Caller, records: usize, characters: usize) {
    for number in 0..records {
        let noise: String = (0..characters).map(|_| char::from(letter(number))).collect();
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

fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or("ok")
}

// Programs are waited for by blocking, and the client has to go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
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
            let message = told["error"]["message"].as_str().unwrap();
            let foreign = ["rustic", "acktrace", "nonce", "\n"].iter().any(|word| message.contains(word));
            assert!(!foreign && message.len() < 2_000, "{what} in {kind:?}: {message}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_repository_has_lost_is_named_and_a_wrong_request_is_no_failure() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = node("lost", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    for snapshot in ["x", "ffffffff", "2020-01-01T00:00:00Z"] {
        let told = asker.ask("phoenix/verify", json!({ "snapshot": snapshot, "drill": true })).await;
        assert_eq!(code(&told), "not_found", "{told}");
    }
    let jobs = asker.ask_ok("node/jobs/list", json!({ "limit": 1 })).await;
    let reason = &jobs["jobs"][0]["error"];
    assert_eq!(reason["code"], "not_found", "{jobs}");
    assert!(reason["message"].as_str().unwrap().contains("2020-01-01"), "{jobs}");
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["backup"]["failures"]["drill"], 0, "{status}");
    let aside = repository.aside("aside");
    for (lost, part) in [("keys", "`keys`"), ("config", "`config`"), ("index", "damaged")] {
        let path = repository.path().join(lost);
        std::fs::rename(&path, &aside).unwrap();
        let told = asker.ask("phoenix/verify", json!({})).await;
        let message = told["error"]["message"].as_str().unwrap();
        assert!(code(&told) == "conflict" && message.contains(part), "{lost}: {told}");
        assert!(!message.contains(['\n']) && !message.contains("rustic"), "{lost}: {told}");
        std::fs::rename(&aside, &path).unwrap();
    }
    for wrong in ["nan", "-1", "101", "inf"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orchd"));
        command.args(["backup", "verify", &format!("--read-data={wrong}"), "--config"]).arg(daemon.config());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100.0 })).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
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

    // One that was damaged is not known to be left over: a person decides.
    std::fs::write(locks.join("0".repeat(64)), "damaged").unwrap();
    let refused = asker.ask("phoenix/backup", json!({})).await;
    assert_eq!(code(&refused), "busy", "{refused}");
    asker.ask_ok("phoenix/unlock", json!({})).await;
    assert_eq!(code(&asker.ask("phoenix/backup", json!({})).await), "busy");
    asker.ask_ok("phoenix/unlock", json!({ "all": true })).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lock_of_ours_keeps_the_stock_program_from_removing() {
    let repository = Repository::default();
    let Some((broker, mut daemon, mut stages)) = staged("ours", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 10).await;
    asker.ask_ok("phoenix/backup", json!({})).await;
    if repository.restic(&["version"]).is_none() {
        return;
    }
    stages.stop_at("opened");
    asker.send("held", "phoenix/backup", &json!({})).await;
    let worker = stages.stopped().await;
    let pruned = repository.restic(&["prune"]).unwrap();
    let told = String::from_utf8_lossy(&pruned.stderr);
    assert!(!pruned.status.success() && told.contains("lock"), "{told}");
    drop(worker);
    let made = asker.reply_to("held").await;
    assert_eq!(code(&made), "ok", "{made}");
    daemon.terminate().await;
}

/// Kills the worker, and then the daemon, at each stage of `command`; `before` makes ready for it. Returns the stages.
async fn kill_at_each_stage(
    name: &str,
    command: &str,
    before: impl AsyncFn(&mut Caller, &Daemon),
    expected: &[&str],
) {
    let repository = Repository::default();
    let Some((broker, mut daemon, mut stages)) = staged(name, &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 50).await;
    let kept = asker.ask_ok("memory/store", json!({ "content": "from before" })).await["id"].clone();
    asker.ask_ok("phoenix/backup", json!({})).await;

    before(&mut asker, &daemon).await;
    stages.take_seen();
    asker.ask_ok(command, json!({})).await;
    let mut all = stages.take_seen();
    // From there on the next start takes a restore up: that is another test's.
    all.retain(|stage| stage != "proposed");
    for stage in expected {
        assert!(all.iter().any(|seen| seen == stage), "{stage} is not among {all:?}");
    }
    for stage in &all {
        for of_daemon in [false, true] {
            let id = format!("{stage}-{of_daemon}").replace(' ', "-");
            before(&mut asker, &daemon).await;
            stages.stop_at(stage);
            asker.send(&id, command, &json!({})).await;
            let stopped = stages.stopped().await;
            if stopped.pid == daemon.pid() && !of_daemon {
                // A stage of the daemon's own.
                drop(stopped);
                asker.reply_to(&id).await;
                continue;
            }
            if of_daemon {
                daemon.kill();
                // The worker ends with it.
                stopped.gone().await;
                daemon.start_again().await;
            } else {
                kill(stopped.pid);
                stopped.gone().await;
            }
            let reply = asker.reply_to(&id).await;
            let right = if of_daemon { "ok" } else { "unavailable" };
            assert_eq!(code(&reply), right, "killed at {stage}, the daemon: {of_daemon}: {reply}");
            let scratch = daemon.state_dir().join("phoenix/backup");
            assert!(!scratch.exists(), "a copy of the ledger is left after {stage}");
            // What is missing now was removed on purpose.
            asker.ask_ok("phoenix/verify", json!({})).await;
            if !of_daemon && command == "phoenix/restore" {
                assert!(std::fs::symlink_metadata(daemon.state_dir().join("next")).is_err(), "{stage}");
            }
            asker.ask_ok("memory/get", json!({ "id": kept })).await;
        }
        let found = repository.findings();
        assert!(found.is_empty(), "after {stage}: {found:?}");
    }
    let _ = std::fs::remove_file(daemon.state_dir().join("next"));
    asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100 })).await;
    daemon.terminate().await;
    orchd::ledger::audit::verify(&daemon.ledger()).unwrap().expect("the audit chain is broken");
    if let Some(checked) = repository.restic(&["check", "--read-data"]) {
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backup_killed_at_any_stage_leaves_the_last_good_one_and_the_next_works() {
    let stages = [
        "begun",
        "copied",
        "gathered",
        "opened",
        "data write",
        "data written",
        "index write",
        "index written",
        "snapshots write",
        "snapshots written",
        "put away",
    ];
    let before = async |asker: &mut Caller, _: &Daemon| fill(asker, 3).await;
    kill_at_each_stage("killed", "phoenix/backup", before, &stages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_prune_killed_at_any_stage_leaves_the_last_good_backup_and_the_next_works() {
    let stages = [
        "opened",
        "snapshots removed",
        "forgotten",
        "index written",
        "index removed",
        "data removed",
        "swept",
    ];
    let before = async |asker: &mut Caller, _: &Daemon| {
        fill(asker, 20).await;
        asker.ask_ok("phoenix/backup", json!({})).await;
    };
    kill_at_each_stage("pruned", "phoenix/prune", before, &stages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restore_killed_before_it_is_proposed_leaves_the_present_state() {
    let stages = ["opened", "fetching", "fetched", "examined", "prepared"];
    let before = async |_: &mut Caller, daemon: &Daemon| {
        let _ = std::fs::remove_file(daemon.state_dir().join("next"));
    };
    kill_at_each_stage("fetched", "phoenix/restore", before, &stages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_start_killed_while_it_takes_a_restored_state_up_does_so_the_next_time() {
    let repository = Repository::default();
    let Some((broker, mut daemon, mut stages)) = staged("risen", &repository).await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    fill(&mut asker, 20).await;
    let kept = asker.ask_ok("memory/store", json!({ "content": "from before" })).await["id"].clone();
    let mut generation = 1;
    for stage in ["proposed", "taking up", "carried over", "switched", "taken up"] {
        asker.ask_ok("phoenix/backup", json!({})).await;
        let lost = asker.ask_ok("memory/store", json!({ "content": "from after" })).await["id"].clone();
        generation += 1;
        stages.stop_at(stage);
        if stage == "proposed" {
            asker.send("cut", "phoenix/restore", &json!({})).await;
            let stopped = stages.stopped().await;
            assert_eq!(stopped.pid, daemon.pid());
            daemon.kill();
        } else {
            asker.ask_ok("phoenix/restore", json!({})).await;
            daemon.kill();
            let killing = tokio::spawn(async move {
                kill(stages.stopped().await.pid);
                stages
            });
            assert!(!daemon.comes_up_again().await, "it was killed at {stage}");
            stages = killing.await.unwrap();
        }
        daemon.start_again().await;
        asker = Caller::connect(broker.addr(), &format!("after-{generation}"), &daemon).await;
        asker.ask_ok("memory/get", json!({ "id": kept })).await;
        assert_eq!(code(&asker.ask("memory/get", json!({ "id": lost })).await), "not_found", "{stage}");
        let current = std::fs::read_link(daemon.state_dir().join("current")).unwrap();
        assert_eq!(current, Path::new(&format!("gen-{generation}")), "{stage}");
        assert!(std::fs::symlink_metadata(daemon.state_dir().join("next")).is_err(), "{stage}");
    }
    daemon.terminate().await;
    let ledger = daemon.ledger();
    orchd::ledger::audit::verify(&ledger).unwrap().expect("the audit chain is broken");
    // Each restore is in the trail once, however often its switch was begun. Two lines of the last one are of the node that
    // asked for it: those are in the generation before.
    let told: i64 = ledger
        .query_row(
            "SELECT count(*) FROM audit WHERE command = 'phoenix/restore' AND outcome = 'ok'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(told, 5);
}

/// Fills the file system that has `full` at each stage of `command`, and makes room again. Where that was said.
async fn full_at_each_stage(
    asker: &mut Caller,
    daemon: &Daemon,
    stages: &mut Stages,
    command: &str,
    full: &Path,
    all: &[String],
) -> BTreeSet<String> {
    let mut refused = BTreeSet::new();
    for stage in all {
        fill(asker, 3).await;
        let id = format!("{command}-{stage}").replace([' ', '/'], "-");
        stages.stop_at(stage);
        asker.send(&id, command, &json!({})).await;
        let stopped = stages.stopped().await;
        fill_disk(full);
        drop(stopped);
        let reply = asker.reply_to(&id).await;
        std::fs::remove_file(full).unwrap();
        match code(&reply) {
            "ok" => {}
            "storage_full" => drop(refused.insert(stage.clone())),
            _ => panic!("no space at {stage} of {command}: {reply}"),
        }
        let _ = std::fs::remove_file(inside(daemon, &daemon.state_dir()).join("next"));
        // There is room again, and nothing is missing.
        asker.ask_ok("phoenix/verify", json!({ "read_data": 100 })).await;
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_disk_that_is_full_at_any_stage_is_said_and_the_backups_stay_good() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    for (place, command, must) in [
        (
            "repository",
            "phoenix/backup",
            &["begun", "opened", "data write", "index write", "snapshots write"][..],
        ),
        // It makes room itself, so that it may succeed wherever it meets the full disk.
        ("repository", "phoenix/prune", &[][..]),
        ("state", "phoenix/backup", &["begun"][..]),
        ("state", "phoenix/restore", &["opened", "fetching"][..]),
    ] {
        let Some(disk) = Disk::new(96 << 20) else { return };
        let mut stages = Stages::new();
        let name = format!("{place}-{}", &command[8..]);
        let mut options = keeping_one(DaemonOptions::new(&name, Via::Plain(broker.addr())));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "of the disk").unwrap();
        // Beside the state folder, and each on the small disk or not.
        options.extra = format!(
            "[phoenix]\nrepository = \"{{state_dir}}/../repository\"\npassword_file = {:?}\n",
            folder.path().join("password")
        );
        options.through = disk.through(place);
        let mut daemon = Daemon::start(stages.configure(options.set("ledger.reserve_bytes=1048576"))).await;
        let mut asker = Caller::connect(broker.addr(), &format!("asker-{name}"), &daemon).await;
        // More than the reserve that the node gives up when it meets the full disk: nothing finds room in that.
        fill_with(&mut asker, 150, 9_500).await;
        asker.ask_ok("phoenix/backup", json!({})).await;
        fill(&mut asker, 20).await;
        asker.ask_ok("phoenix/backup", json!({})).await;
        stages.take_seen();
        asker.ask_ok(command, json!({})).await;
        let mut all = stages.take_seen();
        // Those of the lock are met by all others; the next ones are met once more with each run.
        all.retain(|stage| stage != "proposed" && stage != "taken up");
        let _ = std::fs::remove_file(inside(&daemon, &daemon.state_dir()).join("next"));
        let full = inside(&daemon, &daemon.state_dir()).parent().unwrap().join(place).join("filler");
        let prune_needs = command == "phoenix/prune";
        if prune_needs {
            // Each prune has something to remove.
            all.retain(|stage| stage == "opened" || stage == "forgotten" || stage == "swept");
        }
        let refused = full_at_each_stage(&mut asker, &daemon, &mut stages, command, &full, &all).await;
        for stage in must {
            assert!(
                refused.contains(*stage),
                "{command} went on without space at {stage} on {place}: {refused:?}"
            );
        }
        asker.ask_ok("phoenix/backup", json!({})).await;
        asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
        let status = asker.ask_ok("node/status", json!({})).await;
        assert_eq!(
            (&status["storage_full"], &status["backup"]["failures"]["backup"]),
            (&json!(false), &json!(0))
        );
        daemon.terminate().await;
    }
}
