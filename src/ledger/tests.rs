//! The ledger through its public face: groups, failures, audit chain, migrations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::clock::Timestamp;
use crate::wire::Code;

fn open(dir: &Path) -> Ledger {
    let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
    Ledger::open(dir, &options, Clock::from_fn(|| Timestamp::from_millis(1_000))).unwrap()
}

fn note(outcome: &'static str) -> audit::Entry {
    audit::Entry {
        at: Timestamp::from_millis(5),
        principal: "tester".into(),
        command: "memory/get".into(),
        topic: None,
        message_id: None,
        outcome,
        reason: None,
        decision: None,
        count: 1,
        payload_size: 2,
        payload_hash: Some([7; 32]),
    }
}

async fn put(ledger: &Ledger, key: &str) -> Result<(), Fault> {
    let key = key.to_owned();
    ledger.write(move |unit| Ok(unit.execute("INSERT INTO meta VALUES (?1, 1)", [&key]).map(drop)?)).await
}

async fn keys(ledger: &Ledger) -> i64 {
    ledger
        .read(|connection| Ok(connection.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    put(&ledger, "a").await.unwrap();
    ledger.close();
    drop(ledger);
    assert_eq!(keys(&open(dir.path())).await, 1);
}

#[tokio::test]
async fn a_unit_that_fails_or_panics_is_undone_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let failing = ledger.write(|unit| {
        unit.execute("INSERT INTO meta VALUES ('bad', 1)", [])?;
        Err::<(), _>(Fault::invalid("no"))
    });
    let panicking = ledger.write(|unit| -> Result<(), Fault> {
        unit.execute("INSERT INTO meta VALUES ('worse', 1)", [])?;
        panic!("deliberate")
    });
    let (failed, panicked, good) = tokio::join!(failing, panicking, put(&ledger, "good"));
    assert_eq!(failed.unwrap_err().code, Code::Invalid);
    assert_eq!(panicked.unwrap_err().code, Code::Internal);
    good.unwrap();
    assert_eq!(keys(&ledger).await, 1);
}

#[tokio::test]
async fn when_sqlite_ends_the_transaction_the_others_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    // A unit that ends the transaction under the writer, as SQLite does on a full disk or an I/O error.
    let ending = ledger.write(move |unit| Ok(unit.execute_batch("ROLLBACK")?));
    let counting = ledger.write(move |unit| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(unit.execute("INSERT INTO meta VALUES ('counted', 1)", []).map(drop)?)
    });
    let (ended, counted, good) = tokio::join!(ending, counting, put(&ledger, "good"));
    assert_eq!(ended.unwrap_err().code, Code::Internal);
    counted.unwrap();
    good.unwrap();
    assert_eq!(
        keys(&ledger).await,
        2,
        "each took effect once, in {} attempts",
        attempts.load(Ordering::SeqCst)
    );
}

#[tokio::test]
async fn while_another_process_holds_the_lock_writes_are_answered_busy_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let other = Connection::open(dir.path().join("gen-1/ledger.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (first, second) = tokio::join!(put(&ledger, "a"), put(&ledger, "b"));
    for refused in [first, second] {
        let fault = refused.unwrap_err();
        assert_eq!(fault.code, Code::Busy);
        assert!(fault.retry_after_ms.is_some());
    }
    other.execute_batch("ROLLBACK").unwrap();
    put(&ledger, "a").await.unwrap();
    assert_eq!(keys(&ledger).await, 1);
}

#[tokio::test]
async fn hooks_run_after_commit_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let ran = Arc::new(AtomicU32::new(0));
    for (fail, expected) in [(true, 0), (false, 1)] {
        let ran_inside = ran.clone();
        let result = ledger
            .write(move |unit| {
                let ran = ran_inside.clone();
                unit.after_commit(move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                });
                if fail { Err(Fault::invalid("no")) } else { Ok(()) }
            })
            .await;
        assert_eq!(result.is_err(), fail);
        assert_eq!(ran.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn the_audit_chain_verifies_and_an_edited_record_breaks_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    for outcome in ["ok", "invalid", "ok"] {
        ledger.note(note(outcome)).unwrap();
    }
    ledger.close();
    let connection = Connection::open(ledger.folder().join(LEDGER_FILE)).unwrap();
    assert_eq!(audit::verify(&connection).unwrap().unwrap().seq, 3);
    assert!(connection.execute("UPDATE audit SET outcome = 'ok' WHERE seq = 2", []).is_err(), "append-only");
    connection.execute_batch("DROP TRIGGER audit_is_append_only_update").unwrap();
    connection.execute("UPDATE audit SET outcome = 'ok' WHERE seq = 2", []).unwrap();
    assert_eq!(audit::verify(&connection).unwrap(), Err(audit::Broken { seq: 2 }));
}

#[tokio::test]
async fn nothing_is_recorded_later_that_cannot_be_recorded_now() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    put(&ledger, "a").await.unwrap();
    let connection = Connection::open(ledger.folder().join(LEDGER_FILE)).unwrap();
    connection
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
        .unwrap();
    ledger.note(note("ok")).unwrap();
    // The commit that carries the record fails, and so does what was to be committed with it.
    assert!(put(&ledger, "b").await.is_err());
    assert_eq!(ledger.note(note("ok")).unwrap_err().code, Code::Busy);
    connection.execute_batch("DROP TRIGGER full").unwrap();
    put(&ledger, "b").await.unwrap();
    ledger.note(note("ok")).unwrap();
    ledger.close();
    assert_eq!(audit::verify(&connection).unwrap().unwrap().seq, 2, "what was accepted is recorded");
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let result = ledger
        .read(move |connection| Ok(connection.query_row(endless, [], |row| row.get::<_, i64>(0))?))
        .await;
    assert_eq!(result.unwrap_err().code, Code::Expired);
    assert_eq!(keys(&ledger).await, 0, "the reader is of use again");
}

const STEPS: &[migrate::Migration] = &[
    migrate::Migration { number: 1, sql: include_str!("../../migrations/0001_engine.sql") },
    migrate::Migration {
        number: 2,
        sql: "ALTER TABLE audit ADD COLUMN topic TEXT; ALTER TABLE audit ADD COLUMN reason TEXT; ALTER TABLE audit ADD COLUMN decision TEXT;",
    },
];

#[test]
fn a_migration_puts_a_copy_aside_and_a_rollback_returns_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let generation = Generation::open(dir.path()).unwrap();
    let path = generation.path().join(LEDGER_FILE);
    let mut connection = open_writable(&path).unwrap();
    migrate::migrate(&mut connection, generation.path(), &STEPS[..1]).unwrap();
    connection.execute("INSERT INTO meta VALUES ('before', 1)", []).unwrap();
    migrate::migrate(&mut connection, generation.path(), STEPS).unwrap();
    connection.execute("INSERT INTO meta VALUES ('after', 1)", []).unwrap();
    audit::append(&connection, audit::head(&connection).unwrap(), &note("ok")).unwrap();

    let plan = migrate::plan_rollback(&generation).unwrap();
    assert_eq!((plan.schema, plan.from_schema, plan.commands_lost), (1, 2, 1));
    assert_eq!(plan.last, Some(Timestamp::from_millis(5)));
    migrate::rollback(&generation, &plan).unwrap();
    drop(connection);
    drop(generation);

    let generation = Generation::open(dir.path()).unwrap();
    assert_eq!(generation.number(), 2);
    let connection = Connection::open(generation.path().join(LEDGER_FILE)).unwrap();
    let keys: i64 = connection.query_row("SELECT count(*) FROM meta", [], |row| row.get(0)).unwrap();
    assert_eq!(keys, 1);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let generation = Generation::open(dir.path()).unwrap();
    let mut connection = open_writable(&generation.path().join(LEDGER_FILE)).unwrap();
    migrate::migrate(&mut connection, generation.path(), STEPS).unwrap();
    let refused = migrate::migrate(&mut connection, generation.path(), &STEPS[..1]);
    assert!(matches!(refused, Err(migrate::MigrateError::Newer { found: 2, known: 1 })));
}

#[test]
fn a_migration_that_fails_leaves_the_schema_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let generation = Generation::open(dir.path()).unwrap();
    let mut connection = open_writable(&generation.path().join(LEDGER_FILE)).unwrap();
    let broken =
        [STEPS[0], migrate::Migration { number: 2, sql: "CREATE TABLE half (x INTEGER); SELECT nonsense;" }];
    assert!(migrate::migrate(&mut connection, generation.path(), &broken).is_err());
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 1);
    assert!(connection.prepare("SELECT * FROM half").is_err());
}

#[tokio::test]
async fn a_cached_statement_is_not_prepared_anew_for_other_parameters() {
    fn prepared_anew(connection: &Connection) -> Result<i32, Fault> {
        let mut times = 0;
        for key in ["a", "b", "c"] {
            let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
            assert!(!statement.exists([key])?);
            times = statement.get_status(rusqlite::StatementStatus::RePrepare);
        }
        Ok(times)
    }
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    assert_eq!(ledger.write(|unit| prepared_anew(unit)).await, Ok(0));
    assert_eq!(ledger.read(prepared_anew).await, Ok(0));
}
