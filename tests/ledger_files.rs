//! The state folder: held by one process, refused where it is not what it should be, brought up to date where it is old,
//! made whole where only the index is missing. And jobs, which a crash interrupts and the next start takes up.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use support::{Caller, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Via, mosquitto};

/// Runs the program with this configuration, as another process; it has to end by itself.
fn orchd(config: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.args(words).arg("--config").arg(config).args(["--set", "observe.listen="]);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "STATE_DIRECTORY", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

/// That it ended with this code, and what it said.
fn ended(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// That it ended so that the unit does not start it again, because a person has to act; and what it said.
fn refused(output: &Output) -> String {
    ended(output, 2)
}

async fn node(name: &str) -> Option<(Mosquitto, Daemon)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let daemon = Daemon::start(DaemonOptions::new(name, Via::Plain(broker.addr()))).await;
    Some((broker, daemon))
}

#[tokio::test]
async fn a_second_daemon_on_the_same_folder_is_refused_and_the_first_serves_on() {
    let Some((_broker, mut daemon)) = node("first").await else { return };
    let said = ended(&orchd(&daemon.config(), &["run"]), 1);
    assert!(said.contains("another orchd is running"), "{said}");
    // Its control socket too is still its own.
    let called = orchd(&daemon.config(), &["call", "node/ping", "{}"]);
    assert!(called.status.success(), "{}", String::from_utf8_lossy(&called.stderr));
    daemon.ready().await;
    daemon.terminate().await;
}

#[tokio::test]
async fn a_folder_with_generations_and_none_current_is_refused() {
    let Some((_broker, mut daemon)) = node("lost").await else { return };
    daemon.terminate().await;
    std::fs::remove_file(daemon.state_dir().join("current")).unwrap();
    let said = refused(&orchd(&daemon.config(), &["run"]));
    assert!(said.contains("current") && said.contains("ln -sfn"), "{said}");
    assert!(daemon.state_dir().join("gen-1/ledger.db").exists());
    assert!(!daemon.state_dir().join("gen-2").exists());
}

#[tokio::test]
async fn a_ledger_that_is_gone_or_empty_is_not_taken_for_a_new_one() {
    let Some((_broker, mut daemon)) = node("emptied").await else { return };
    daemon.terminate().await;
    let path = daemon.state_dir().join("current").join("ledger.db");
    std::fs::write(&path, "").unwrap();
    let said = refused(&orchd(&daemon.config(), &["run"]));
    assert!(said.contains("gone or empty; restore a backup"), "{said}");
    std::fs::remove_file(&path).unwrap();
    let said = refused(&orchd(&daemon.config(), &["run"]));
    assert!(said.contains("gone or empty; restore a backup"), "{said}");
    assert!(!path.exists(), "nothing was put in its place");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    let Some((_broker, mut daemon)) = node("future").await else { return };
    daemon.terminate().await;
    let path = daemon.state_dir().join("current").join("ledger.db");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    drop(connection);
    let said = refused(&orchd(&daemon.config(), &["run"]));
    assert!(said.contains("schema 999"), "{said}");
    let version: i64 = daemon.ledger().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 999);
}

#[tokio::test]
async fn a_ledger_of_schema_1_is_migrated_a_copy_is_put_aside_and_nothing_in_it_is_lost() {
    let Some((broker, mut daemon)) = node("old").await else { return };
    daemon.terminate().await;
    let state = daemon.state_dir();
    std::fs::remove_dir_all(state.join("gen-1")).unwrap();
    std::fs::create_dir(state.join("gen-1")).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1.db");
    std::fs::copy(fixture, state.join("gen-1/ledger.db")).unwrap();

    let mut asker = Caller::connect(broker.addr(), "old", &daemon).await;
    daemon.start_again().await;
    // What waited to be sent is.
    let waited = asker.reply_to("old-1").await;
    assert_eq!((&waited["message_id"], &waited["payload"]["number"]), (&json!("reply-1"), &json!(1)));
    // What was done is known.
    asker.send("old-2", "memory/store", &json!({ "content": "from schema 1" })).await;
    let repeated = asker.reply_to("old-2").await;
    assert_eq!((&repeated["message_id"], &repeated["payload"]["number"]), (&json!("reply-2"), &json!(2)));
    asker.ask_ok("memory/store", json!({ "content": "from now" })).await;
    daemon.terminate().await;

    let now = daemon.ledger();
    let head = orchd::ledger::audit::verify(&now).unwrap().expect("the audit chain is broken");
    assert!(head.seq > 5, "the trail goes on from the old one: {head:?}");
    let copy = state.join("gen-1/ledger.schema-1.db");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let then = Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let version = |connection: &Connection| -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&then), 1);
    assert_eq!(orchd::ledger::audit::verify(&then).unwrap().unwrap().seq, 5);
    let newest = orchd::ledger::migrate::MIGRATIONS.last().unwrap().number;
    assert_eq!(version(&now), i64::from(newest));
}

#[tokio::test]
async fn an_index_that_is_gone_is_made_anew_from_the_ledger() {
    let Some((broker, mut daemon)) = node("finder").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    for number in 0..30 {
        asker.ask_ok("memory/store", json!({ "content": format!("findable number{number}") })).await;
    }
    let query = json!({ "text": "+findable", "consistency": "latest", "explain": true });
    asker.ask_ok("memory/query", query.clone()).await;
    daemon.terminate().await;
    let index = daemon.state_dir().join("gen-1/index");
    std::fs::remove_dir_all(&index).unwrap();
    daemon.start_again().await;
    let found = asker.ask_ok("memory/query", query).await;
    assert_eq!((&found["partial"], &found["total"]), (&json!(false), &json!(30)), "{found}");
    assert!(index.exists());
}

#[tokio::test]
async fn a_job_that_a_crash_interrupts_is_taken_up_again_and_answered_once() {
    let Some((broker, mut daemon)) = node("worker").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    for number in 0..50 {
        asker.ask_ok("memory/store", json!({ "content": format!("record number{number}") })).await;
    }
    // Killed while the job is open: while we hold the ledger it cannot end. It may have ended before we held it; then
    // another one is tried.
    let mut tried = 0;
    let job = loop {
        tried += 1;
        let id = format!("rebuild-{tried}");
        asker.send(&id, "memory/rebuild", &json!({})).await;
        daemon.until("the job is accepted", |daemon| state_of(&daemon.ledger(), &id).is_some()).await;
        let path = daemon.state_dir().join("current").join("ledger.db");
        let held = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        held.busy_timeout(support::LIMIT).unwrap();
        held.execute_batch("BEGIN IMMEDIATE").unwrap();
        let state = state_of(&held, &id).unwrap();
        if state == "accepted" || state == "running" {
            daemon.kill();
            break id;
        }
        drop(held);
        assert!(tried < 50, "every job ended before it could be interrupted");
    };
    daemon.start_again().await;
    let reply = asker.reply_to(&job).await;
    assert_eq!(reply["status"], "ok", "{reply}");
    assert_eq!(reply["payload"]["records"], 50, "{reply}");
    // Asked again, it is not done again.
    asker.send(&job, "memory/rebuild", &json!({})).await;
    assert_eq!(asker.reply_to(&job).await, reply);
    daemon.terminate().await;
    let ledger = daemon.ledger();
    assert_eq!(state_of(&ledger, &job).as_deref(), Some("succeeded"));
    let replies: i64 = ledger
        .query_row("SELECT count(*) FROM outbox WHERE in_reply_to = ?1", [&job], |row| row.get(0))
        .unwrap();
    assert_eq!(replies, 1);
}

fn state_of(ledger: &Connection, message_id: &str) -> Option<String> {
    ledger.query_row("SELECT state FROM job WHERE message_id = ?1", [message_id], |row| row.get(0)).ok()
}
