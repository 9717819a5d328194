//! A node's state goes into a restic repository while it works, and comes back from there: on the same machine, on a fresh
//! one, by our program and by the stock one.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use support::vault::{rows, said};
use support::{Caller, Daemon, DaemonOptions, MosquittoOptions, Repository, Via, mosquitto};

fn open(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn number(ledger: &Connection, sql: &str) -> i64 {
    ledger.query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn store(asker: &mut Caller, text: &str) -> String {
    let stored = asker.ask_ok("memory/store", json!({ "content": text })).await;
    stored["id"].as_str().unwrap().to_owned()
}

async fn backup(asker: &mut Caller) -> Value {
    asker.ask_ok("phoenix/backup", json!({})).await
}

/// What was stored, in that order: id, content, time, checksum, seal.
fn memories(ledger: &Connection) -> Vec<Vec<String>> {
    let mut statement = ledger
        .prepare(
            "SELECT id, content, CAST(created AS TEXT), checksum, hex(seal) FROM memory_record ORDER BY key",
        )
        .unwrap();
    let rows = statement.query_map([], |row| (0..5).map(|column| row.get(column)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

/// Every row that a restore of `ledger` has to give: those that are in it, but for what a restore is there to change. All else
/// is as it was.
fn rows_of_a_restore(ledger: &Path, snapshot: &str, sequence: i64) -> Vec<String> {
    let copy = ledger.with_extension("expected");
    std::fs::copy(ledger, &copy).unwrap();
    let expected = Connection::open(&copy).unwrap();
    expected
        .execute_batch(&format!(
            // A question whose job ended with its time may be asked again.
            "DELETE FROM inbox WHERE reply IS NULL;
             -- The job that made the backup was running in it.
             UPDATE job SET state = 'interrupted' WHERE state IN ('accepted', 'running');
             -- Answers of that time are not sent any more.
             UPDATE outbox SET open = 0;
             -- What removes something waits until somebody has looked.
             INSERT INTO schedule (name, spec, paused) SELECT value, '', 1
                 FROM json_each('[\"memory_prune\", \"soul_decay\", \"audit_checkpoint\", \"backup_prune\"]') WHERE true
                 ON CONFLICT DO UPDATE SET paused = 1;
             INSERT INTO meta VALUES ('restored_from', '{snapshot}') ON CONFLICT DO UPDATE SET value = '{snapshot}';"
        ))
        .unwrap();
    drop(expected);
    rows_as_restored(&copy, sequence)
}

/// Every row up to the audit record `sequence`, but for times and words of the restore itself.
fn rows_as_restored(ledger: &Path, sequence: i64) -> Vec<String> {
    let copy = ledger.with_extension("compared");
    std::fs::copy(ledger, &copy).unwrap();
    let compared = Connection::open(&copy).unwrap();
    compared
        .execute_batch(
            "UPDATE job SET finished_at = 0 WHERE state = 'interrupted';
             UPDATE schedule SET paused_why = 'restored' WHERE paused = 1;
             -- Which backups there are, of which a machine without a ledger knows this one: that is verified elsewhere.
             DELETE FROM meta WHERE key = 'phoenix';
             -- It seals the end, which has the restore's own record now: that it does is verified elsewhere.
             DELETE FROM audit_seal;",
        )
        .unwrap();
    let newer: i64 = number(&compared, &format!("SELECT count(*) FROM audit WHERE seq > {sequence}"));
    let mut rows = rows(&compared);
    // The restore's own record.
    rows.retain(|row| !(newer > 0 && row.starts_with(&format!("audit: [Integer({})", sequence + 1))));
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_while_64_clients_store_holds_exactly_what_was_stored_up_to_its_sequence() {
    const CLIENTS: usize = 64;
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("busy").await else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let stored = Arc::new(AtomicU32::new(0));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = Caller::connect(broker.addr(), &format!("client{number}"), &daemon).await;
        let (stop, stored) = (stop.clone(), stored.clone());
        clients.push(tokio::spawn(async move {
            while !stop.load(Ordering::Acquire) {
                store(
                    &mut client,
                    &format!("from {number}, the {}th", stored.fetch_add(1, Ordering::AcqRel)),
                )
                .await;
            }
        }));
    }
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    while stored.load(Ordering::Acquire) < 500 {
        asker.ask_ok("node/ping", json!({})).await;
    }
    let before = stored.load(Ordering::Acquire);
    let made = backup(&mut asker).await;
    assert!(stored.load(Ordering::Acquire) > before, "nobody stored meanwhile");
    stop.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    let sequence = made["manifest"]["audit_seq"].as_i64().unwrap();
    let full = daemon.ledger();
    let expected = number(
        &full,
        &format!(
            "SELECT count(*) FROM audit WHERE command = 'memory/store' AND outcome = 'ok' AND seq <= {sequence}"
        ),
    );
    assert!(expected < number(&full, "SELECT count(*) FROM memory_record"));
    // Keys are given in the order of commits: the first ones are those up to the sequence.
    let (kept, after) = memories(&full)
        .split_at_checked(usize::try_from(expected).unwrap())
        .map(|(a, b)| (a.to_vec(), b.to_vec()))
        .unwrap();
    drop(full);

    // A drill: the seals, the chain, a query.
    let proved = asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
    let examined = &proved["drill"]["examined"];
    assert_eq!((&examined["memories"], &examined["queried"]), (&json!(expected), &json!(true)), "{proved}");
    assert_eq!(examined["audit_records"], json!(sequence));

    asker.ask_ok("phoenix/restore", json!({ "snapshot": "latest" })).await;
    daemon.restart().await;
    let mut asker = Caller::connect(broker.addr(), "later", &daemon).await;
    let stats = asker.ask_ok("memory/stats", json!({})).await;
    let records: i64 =
        stats["layers"].as_array().unwrap().iter().map(|layer| layer["records"].as_i64().unwrap()).sum();
    assert_eq!(records, expected);
    let query = json!({ "text": "+from", "limit": 1, "consistency": "latest", "explain": true });
    let mut found = asker.ask_ok("memory/query", query.clone()).await;
    // The index is made anew; until it is, answers say so.
    while found["partial"] == true {
        found = asker.ask_ok("memory/query", query.clone()).await;
    }
    assert_eq!(found["total"], json!(expected), "{found}");
    // Each query finds what is there, and nothing that came later.
    let word = |row: &[String]| row[1].rsplit(' ').next().unwrap().to_owned();
    let samples =
        |rows: &[Vec<String>]| rows.iter().step_by(1 + rows.len() / 20).cloned().collect::<Vec<_>>();
    for (rows, is_there) in [(samples(&kept), true), (samples(&after), false)] {
        for row in rows {
            let query = json!({ "text": format!("+{}", word(&row)), "limit": 5, "consistency": "latest" });
            let found = asker.ask_ok("memory/query", query).await;
            let ids: Vec<_> =
                found["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect();
            let right = if is_there { vec![row[0].as_str()] } else { Vec::new() };
            assert_eq!(ids, right, "{}: {found}", row[1]);
        }
    }
    daemon.terminate().await;
    let restored = daemon.ledger();
    assert!(memories(&restored) == kept, "the records are not exactly those up to the sequence");
    orchd::ledger::audit::verify(&restored).unwrap().expect("the audit chain is broken");
    assert!(daemon.state_dir().join("gen-1/ledger.db").is_file(), "the old generation is kept");
}

#[tokio::test]
async fn the_stock_program_reads_what_we_write_and_we_read_what_it_writes() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("inter").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    for number in 0..200 {
        store(&mut asker, &format!("record {number}")).await;
    }
    let made = backup(&mut asker).await;
    let sequence = made["manifest"]["audit_seq"].as_i64().unwrap();
    let id = made["snapshot"]["id"].as_str().unwrap().to_owned();
    daemon.terminate().await;
    let Some(listed) = repository.restic(&["snapshots", "--json"]) else { return };
    assert!(listed.status.success(), "{}", said(&listed));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["id"], made["snapshot"]["id"]);
    assert_eq!(listed[0]["hostname"], "inter");
    let tags: Vec<_> =
        listed[0]["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
    for tag in ["orchd", "node=inter", "memories=200", &format!("sequence={sequence}")] {
        assert!(tags.contains(&tag), "{tags:?}");
    }
    let checked = repository.restic(&["check", "--read-data"]).unwrap();
    assert!(checked.status.success(), "{}", said(&checked));

    let target = repository.aside("by-restic");
    let restored = repository.restic(&["restore", "latest", "--target", target.to_str().unwrap()]).unwrap();
    assert!(restored.status.success(), "{}", said(&restored));
    let theirs = open(&target.join("orchd/ledger.db"));
    assert_eq!(number(&theirs, "SELECT count(*) FROM memory_record"), 200);
    // And by ours, from the same repository: row by row the same.
    let parts = repository.aside("by-us");
    let done = repository.orchd(&["restore", "latest", "--state-dir", parts.to_str().unwrap()]);
    assert!(done.status.success(), "{}", said(&done));
    drop(theirs);
    let expected = rows_of_a_restore(&target.join("orchd/ledger.db"), &id, sequence);
    assert!(
        expected.iter().any(|row| row.starts_with("inbox:"))
            && expected.iter().any(|row| row.starts_with("schedule:"))
    );
    let restored = parts.join("gen-2/ledger.db");
    assert!(expected == rows_as_restored(&restored, sequence), "{:?}", open(&restored));
    let before = open(&restored);
    assert_eq!(number(&before, "SELECT count(*) FROM audit"), sequence + 1);

    // A repository of the stock program, with what it restored.
    let other = Repository::default();
    let made = other.restic(&["init"]).unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let put = other.restic(&["backup", target.join("orchd").to_str().unwrap(), "--host", "inter"]).unwrap();
    assert!(put.status.success(), "{}", said(&put));
    assert_eq!(other.findings(), Vec::<String>::new());
    let again = other.aside("again");
    let done = other.orchd(&["restore", "latest", "--state-dir", again.to_str().unwrap()]);
    assert!(done.status.success(), "{}", said(&done));
    let id = other.ask(&["show", "latest"])["snapshot"]["id"].as_str().unwrap().to_owned();
    let expected = rows_of_a_restore(&target.join("orchd/ledger.db"), &id, sequence);
    assert!(expected == rows_as_restored(&again.join("gen-2/ledger.db"), sequence));
}

#[tokio::test]
async fn a_restore_carries_revocations_over_closes_what_was_open_and_pauses_what_removes() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("back").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let kept = store(&mut asker, "from before").await;
    let key = json!({ "name": "app", "permissions": ["orch/#"] });
    asker.ask_ok("node/keys/create", key).await;
    let made = backup(&mut asker).await;
    let id = made["snapshot"]["id"].as_str().unwrap().to_owned();
    let lost = store(&mut asker, "from after").await;
    asker.ask_ok("node/keys/revoke", json!({ "key": "app" })).await;

    let restored = asker.ask_ok("phoenix/restore", json!({ "snapshot": &id[..8] })).await;
    assert_eq!((&restored["takes_effect"], &restored["generation"]), (&json!("next_start"), &json!(2)));
    asker.ask_ok("memory/get", json!({ "id": lost })).await;
    // Killed, not stopped: the switch is the next start's.
    daemon.kill();
    daemon.start_again().await;
    let mut asker = Caller::connect(broker.addr(), "later", &daemon).await;
    asker.ask_ok("memory/get", json!({ "id": kept })).await;
    assert_eq!(asker.ask("memory/get", json!({ "id": lost })).await["error"]["code"], "not_found");
    let keys = asker.ask_ok("node/keys/list", json!({ "limit": 10 })).await;
    assert!(keys["keys"][0]["revoked"].is_string() || keys["keys"][0]["revoked_at"].is_string(), "{keys}");
    let status = asker.ask_ok("node/status", json!({})).await;
    let paused = |name: &str| {
        let entries = status["schedule"].as_array().unwrap();
        entries.iter().find(|entry| entry["name"] == name).unwrap()["paused"].is_string()
    };
    assert!(
        paused("memory_prune") && paused("soul_decay") && paused("backup_prune") && !paused("backup"),
        "{status}"
    );
    asker.ask_ok("node/schedule/resume", json!({ "name": "memory_prune" })).await;
    daemon.terminate().await;
    let ledger = daemon.ledger();
    assert_eq!(
        number(&ledger, "SELECT count(*) FROM audit WHERE command = 'phoenix/restore' AND outcome = 'ok'"),
        1
    );
    assert_eq!(number(&ledger, "SELECT count(*) FROM job WHERE state IN ('accepted', 'running')"), 0);
    assert_eq!(number(&ledger, "SELECT count(*) FROM outbox WHERE open = 1"), 0);
    let before = open(&daemon.state_dir().join("gen-1/ledger.db"));
    assert_eq!(number(&before, "SELECT count(*) FROM memory_record"), 2);
    assert!(std::fs::symlink_metadata(daemon.state_dir().join("next")).is_err());
    drop((ledger, before));

    // It is kept until it is released.
    daemon.start_again().await;
    let mut asker = Caller::connect(broker.addr(), "at-last", &daemon).await;
    let planned = asker.ask_ok("phoenix/release", json!({ "dry_run": true })).await;
    assert_eq!(
        (&planned["released"][0]["number"], &planned["dry_run"]),
        (&json!(1), &json!(true)),
        "{planned}"
    );
    assert!(
        daemon.state_dir().join("gen-1/ledger.db").is_file() && planned["freed_bytes"].as_u64() > Some(0)
    );
    let released = asker.ask_ok("phoenix/release", json!({})).await;
    assert_eq!(released["released"].as_array().map(Vec::len), Some(1), "{released}");
    assert!(!daemon.state_dir().join("gen-1").exists());
    asker.ask_ok("memory/get", json!({ "id": kept })).await;
    assert_eq!(asker.ask_ok("phoenix/release", json!({})).await["released"], json!([]));
    daemon.terminate().await;
}

#[tokio::test]
async fn what_is_not_kept_any_longer_goes_and_status_and_figures_say_how_it_is() {
    let repository = Repository::default();
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let options = repository.configure(DaemonOptions::new("keeper", Via::Plain(broker.addr())));
    let mut options = options;
    options.extra.push_str("keep_last = 1\nkeep_floor = 2\nkeep_within_days = 0\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\nkeep_yearly = 0\n");
    let mut daemon = Daemon::start(options).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    for number in 0..4 {
        store(&mut asker, &format!("{number} {}", "filling ".repeat(1_000))).await;
        backup(&mut asker).await;
    }
    let planned = asker.ask_ok("phoenix/prune", json!({ "dry_run": true })).await;
    assert_eq!(planned["removed"].as_array().unwrap().len(), 2, "{planned}");
    assert_eq!(repository.ask(&["list"])["snapshots"].as_array().unwrap().len(), 4);
    let pruned = asker.ask_ok("phoenix/prune", json!({})).await;
    assert_eq!(pruned["removed"], planned["removed"]);
    let listed = asker.ask_ok("phoenix/list", json!({})).await;
    let left: Vec<_> =
        listed["snapshots"].as_array().unwrap().iter().map(|snapshot| &snapshot["id"]).collect();
    assert_eq!(json!(left), pruned["left"]);
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100.0 })).await;
    asker.ask_ok("phoenix/verify", json!({ "drill": true })).await;
    let status = asker.ask_ok("node/status", json!({})).await;
    assert_eq!(status["backup"]["snapshots"], pruned["left"], "{status}");
    for what in ["last_backup", "last_verify", "last_drill"] {
        assert!(status["backup"][what].is_string(), "{status}");
    }
    for task in ["backup", "verify", "drill"] {
        assert!(
            daemon.metric(&format!("orchd_backup_last_success_timestamp_seconds{{task=\"{task}\"}}")) > 1e9
        );
        assert_eq!(daemon.metric(&format!("orchd_backup_failures{{task=\"{task}\"}}")), 0.0);
    }
    assert!(daemon.metric("orchd_backup_bytes{kind=\"total\"}") > 0.0);
    daemon.terminate().await;
    // Nothing is removed once that is forbidden.
    daemon.options().extra.push_str("append_only = true\n");
    daemon.start_again().await;
    // The figures are there again before anything is done.
    for series in ["orchd_backup_bytes{kind=\"total\"}", "orchd_backup_bytes{kind=\"new\"}"] {
        assert!(daemon.metric(series) > 0.0, "{series}");
    }
    for task in ["backup", "verify", "drill", "prune"] {
        assert!(daemon.metric(&format!("orchd_backup_duration_seconds{{task=\"{task}\"}}")) > 0.0, "{task}");
    }
    let refused = asker.ask("phoenix/prune", json!({})).await;
    assert_eq!(refused["error"]["code"], "forbidden", "{refused}");
    // Others remove then: what the floor keeps has to be there, and no more.
    backup(&mut asker).await;
    let newest = backup(&mut asker).await["snapshot"]["id"].as_str().unwrap().to_owned();
    if repository.restic(&["forget", "--keep-last", "2", "--prune"]).is_some_and(|done| done.status.success())
    {
        assert_eq!(repository.ask(&["list"])["snapshots"].as_array().unwrap().len(), 2);
        asker.ask_ok("phoenix/verify", json!({})).await;
        // A new name for what is there is no loss.
        let tagged = repository.restic(&["tag", "--add", "kept", &newest]).unwrap();
        assert!(tagged.status.success(), "{}", said(&tagged));
        asker.ask_ok("phoenix/verify", json!({})).await;
        assert!(repository.restic(&["forget", "latest"]).unwrap().status.success());
        let told = asker.ask("phoenix/verify", json!({})).await;
        assert_eq!(told["error"]["code"], "conflict", "{told}");
        assert!(told["error"]["message"].as_str().unwrap().contains(&newest[..8]), "{told}");
    }
    daemon.terminate().await;
}

#[tokio::test]
async fn the_password_changes_without_a_moment_at_which_neither_opens_it() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("locksmith").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    backup(&mut asker).await;
    let old = repository.aside("old");
    std::fs::copy(repository.password_file(), &old).unwrap();
    std::fs::write(repository.aside("password.new"), "another one\n").unwrap();
    let changed = asker.ask_ok("phoenix/password", json!({})).await;
    assert_eq!(changed["removed"], 1);
    assert_eq!(std::fs::read_to_string(repository.password_file()).unwrap(), "another one\n");
    let mode = std::fs::metadata(repository.password_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "whatever the mode of the other one");
    // It is used up. Without one the answer, the log, the figures and the event say so.
    let failed = asker.ask("phoenix/password", json!({})).await;
    let path = repository.aside("password.new").display().to_string();
    assert_eq!(failed["error"]["code"], "not_found", "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("`.new`") && !message.contains(&path), "answers name no files: {failed}");
    assert!(daemon.log().contains("the vault failed") && daemon.log().contains(&path), "{}", daemon.log());
    backup(&mut asker).await;
    // Blanks around it are nobody's, as the stock program has it.
    std::fs::write(repository.password_file(), "\t another one  \r\n\n").unwrap();
    backup(&mut asker).await;
    let refused = repository.orchd_with(&["list"], &old);
    assert!(
        !refused.status.success() && said(&refused).contains("password does not open"),
        "{}",
        said(&refused)
    );
    if let Some(checked) = repository.restic(&["check"]) {
        assert!(checked.status.success(), "{}", said(&checked));
    }
    daemon.terminate().await;
}

#[tokio::test]
async fn a_backup_of_an_older_schema_is_migrated_and_one_of_another_nodes_key_is_refused() {
    let repository = Repository::default();
    let Some(made) = repository.restic(&["init"]) else { return };
    assert!(made.status.success(), "{}", said(&made));
    let folder = repository.aside("old");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1.db"),
        folder.join("ledger.db"),
    )
    .unwrap();
    std::fs::write(folder.join("node.key"), format!("{}\n", "5a".repeat(32))).unwrap();
    let head = orchd::ledger::audit::verify(&open(&folder.join("ledger.db"))).unwrap().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts: Vec<Value> = ["ledger.db", "node.key"]
        .iter()
        .map(|name| {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            let sha256 = hex(ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref());
            json!({ "name": name, "bytes": bytes.len(), "sha256": sha256 })
        })
        .collect();
    let manifest = json!({
        "format": 1,
        "node": "old",
        "version": "0.0.1",
        "schema": 1,
        "taken": "2026-01-01T00:00:00Z",
        "audit_seq": head.seq,
        "audit_hash": hex(&head.hash),
        "counts": { "audit": head.seq },
        "parts": parts,
    });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let put = repository.restic(&["backup", folder.to_str().unwrap()]).unwrap();
    assert!(put.status.success(), "{}", said(&put));

    let state = repository.aside("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("node.key"), format!("{}\n", "a5".repeat(32))).unwrap();
    let words = ["restore", "latest", "--state-dir", state.to_str().unwrap()];
    let refused = repository.orchd(&words);
    assert!(!refused.status.success() && said(&refused).contains("another node key"), "{}", said(&refused));
    assert!(!state.join("gen-2").exists() && std::fs::symlink_metadata(state.join("next")).is_err());
    std::fs::remove_file(state.join("node.key")).unwrap();
    let done = repository.orchd(&words);
    assert!(done.status.success(), "{}", said(&done));
    let ledger = open(&state.join("current/ledger.db"));
    let newest = orchd::ledger::migrate::MIGRATIONS.last().unwrap().number;
    assert_eq!(number(&ledger, "PRAGMA user_version"), i64::from(newest));
    assert_eq!(orchd::ledger::audit::verify(&ledger).unwrap().unwrap().seq, head.seq + 1);
    assert!(std::fs::read_to_string(state.join("node.key")).unwrap().starts_with("5a"));
}
