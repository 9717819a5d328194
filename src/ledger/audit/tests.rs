use std::path::Path;

use ring::hmac;

use super::retain::Keep;
use super::seal::Sealer;
use super::verify::{ALARM, Tampering, check};
use super::*;
use crate::clock::Clock;
use crate::ledger::{LEDGER_FILE, Ledger, Options};
use crate::wire::Code;

fn key(byte: u8) -> Sealer {
    Sealer::new(hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]))
}

fn entry(n: i64) -> Entry {
    let at = Timestamp::from_millis(n * 1_000);
    Entry {
        topic: Some("orch/n1/node/ping".into()),
        decision: (n % 2 == 0).then(|| format!("d{n}").into()),
        reason: (n % 3 == 0).then(|| format!("r{n}")),
        principal: "tester".into(),
        ..Entry::of_the_node("node/ping", "ok", String::new(), at)
    }
}

/// A node's ledger, with what was wrong with its trail.
fn open(dir: &Path, sealer: Sealer) -> (Ledger, Option<Tampering>) {
    let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
    let ledger = Ledger::open(dir, &options, Clock::from_fn(|| Timestamp::from_millis(5_000_000))).unwrap();
    let found = ledger.seal_audit(sealer).unwrap();
    (ledger, found)
}

/// A trail of so many records, and its database.
fn trail(dir: &Path, records: i64) -> Connection {
    let (ledger, found) = open(dir, key(1));
    assert_eq!(found, None);
    for n in 1..=records {
        // Never more than a commit takes at a time.
        while ledger.note(entry(n)).is_err_and(|fault| fault.code == Code::Busy) {
            std::thread::yield_now();
        }
    }
    ledger.close();
    database(dir)
}

fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("current").join(LEDGER_FILE)).unwrap()
}

/// As who has the database, and neither scruples nor the key.
fn tamper(connection: &Connection, sql: &str) {
    let triggers = "DROP TRIGGER IF EXISTS audit_is_append_only_update; DROP TRIGGER IF EXISTS audit_is_append_only_delete;
                    DROP TRIGGER IF EXISTS audit_checkpoint_is_append_only;";
    connection.execute_batch(triggers).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// Makes every hash follow from the one before: a chain that holds, of other records.
fn chain_again(connection: &Connection) {
    let mut head = Head::START;
    for record in page(connection, 0, u32::MAX).unwrap() {
        let hash = hash(&head.hash, record.seq, &record.entry, &record.outcome);
        connection.execute("UPDATE audit SET hash = ?2 WHERE seq = ?1", params![record.seq, hash]).unwrap();
        head = Head { seq: record.seq, hash };
    }
}

#[tokio::test]
async fn a_trail_that_nobody_touched_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let connection = trail(dir.path(), 7);
    let sound = check(&connection, &key(1)).unwrap().unwrap();
    assert_eq!((sound.records, sound.head.seq, sound.checkpoint, sound.alarms), (7, 7, None, vec![]));
    assert_eq!(open(dir.path(), key(1)).1, None);
}

#[tokio::test]
async fn what_is_done_to_the_rows_is_found_and_stays_in_the_trail() {
    let edits: [(&str, Tampering); 12] = [
        ("UPDATE audit SET principal = 'me' WHERE seq = 3", Tampering::Chain(3)),
        ("UPDATE audit SET outcome = 'x' WHERE seq = 7", Tampering::Chain(7)),
        ("UPDATE audit SET reason = 'x' WHERE seq = 2", Tampering::Chain(2)),
        ("UPDATE audit SET decision = NULL WHERE seq = 2", Tampering::Chain(2)),
        ("UPDATE audit SET reason = NULL, decision = reason WHERE seq = 3", Tampering::Chain(3)),
        ("UPDATE audit SET topic = NULL WHERE seq = 1", Tampering::Chain(1)),
        ("UPDATE audit SET count = 2 WHERE seq = 1", Tampering::Chain(1)),
        ("DELETE FROM audit WHERE seq = 4", Tampering::Chain(5)),
        ("DELETE FROM audit WHERE seq = 1", Tampering::Chain(2)),
        (
            "UPDATE audit SET seq = 100 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 4; UPDATE audit SET seq = 4 WHERE seq = 100",
            Tampering::Chain(3),
        ),
        ("DELETE FROM audit WHERE seq > 5", Tampering::End { sealed: 7, found: 5 }),
        ("DELETE FROM audit", Tampering::End { sealed: 7, found: 0 }),
    ];
    for (sql, expected) in edits {
        let dir = tempfile::tempdir().unwrap();
        let connection = trail(dir.path(), 7);
        tamper(&connection, sql);
        assert_eq!(check(&connection, &key(1)).unwrap(), Err(expected), "{sql}");
    }
}

#[tokio::test]
async fn another_chain_needs_the_key() {
    let forged: [(&str, Tampering); 4] = [
        ("UPDATE audit SET principal = 'me'", Tampering::End { sealed: 7, found: 7 }),
        (
            "UPDATE audit SET principal = 'me'; UPDATE audit_seal SET seq = 7, seal = zeroblob(32)",
            Tampering::Seal(7),
        ),
        ("DELETE FROM audit WHERE seq = 7; UPDATE audit_seal SET seq = 6", Tampering::Seal(6)),
        ("DELETE FROM audit_seal", Tampering::Unsealed),
    ];
    for (sql, expected) in forged {
        let dir = tempfile::tempdir().unwrap();
        let connection = trail(dir.path(), 7);
        tamper(&connection, sql);
        chain_again(&connection);
        assert!(verify(&connection).unwrap().is_ok(), "the chain alone does not show it: {sql}");
        assert_eq!(check(&connection, &key(1)).unwrap(), Err(expected.clone()), "{sql}");
        drop(connection);

        // The next start sees it, and its new seal does not hide it.
        let (ledger, found) = open(dir.path(), key(1));
        assert_eq!(found, Some(expected), "{sql}");
        ledger.note(entry(8)).unwrap();
        ledger.close();
        let sound = check(&database(dir.path()), &key(1)).unwrap().unwrap();
        assert_eq!(sound.alarms.len(), 1, "{sql}");
        let alarm = page(&database(dir.path()), sound.alarms[0] - 1, 1).unwrap().remove(0);
        assert_eq!(&*alarm.entry.command, ALARM);
    }
}

#[tokio::test]
async fn a_trail_that_was_emptied_is_not_taken_for_one_that_has_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let connection = trail(dir.path(), 7);
    tamper(&connection, "DELETE FROM audit; DELETE FROM audit_seal");
    // Nothing but the trail was ever written here.
    assert_eq!(check(&connection, &key(1)).unwrap().unwrap().records, 0);
    tamper(
        &connection,
        "INSERT INTO inbox (principal, message_id, topic, payload_hash, received_at) VALUES ('a', 'b', 'c', x'00', 1)",
    );
    assert_eq!(check(&connection, &key(1)).unwrap(), Err(Tampering::Unsealed));
    drop(connection);
    assert_eq!(open(dir.path(), key(1)).1, Some(Tampering::Unsealed));
}

#[tokio::test]
async fn the_seal_of_another_node_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let connection = trail(dir.path(), 3);
    assert_eq!(check(&connection, &key(2)).unwrap(), Err(Tampering::Seal(3)));
}

async fn retained(dir: &Path, keep: Keep) -> (u64, Connection) {
    let (ledger, found) = open(dir, key(1));
    assert_eq!(found, None);
    let removed = ledger.retain_audit(keep).await.unwrap();
    ledger.close();
    (removed, database(dir))
}

#[tokio::test]
async fn old_records_go_behind_a_checkpoint_and_the_rest_still_verifies() {
    let dir = tempfile::tempdir().unwrap();
    drop(trail(dir.path(), 3_000));
    // Those of the first 1,200 s.
    let keep = Keep { since: Timestamp::from_millis(1_200_500), records: u64::MAX };
    let (removed, connection) = retained(dir.path(), keep).await;
    assert_eq!(removed, 1_200);
    let sound = check(&connection, &key(1)).unwrap().unwrap();
    assert_eq!((sound.checkpoint.unwrap().head.seq, sound.head.seq, sound.records), (1_200, 3_001, 1_801));
    assert!(verify(&connection).unwrap().is_ok());
    // What has a number from before is none of the trail, and is not given out as if it were.
    connection
        .execute(
            "INSERT INTO audit SELECT 7, at, principal, command, message_id, 'forged', count, payload_size, payload_hash, hash,
                                      topic, reason, decision FROM audit WHERE seq = 1300",
            [],
        )
        .unwrap();
    assert_eq!(page(&connection, 0, 1).unwrap()[0].seq, 1_201);
    assert_eq!(tail(&connection, 0, 5_000).unwrap()[0].seq, 1_201);
    connection.execute("DELETE FROM audit WHERE seq = 7", []).unwrap();
    let told = tail(&connection, 0, 1).unwrap().remove(0);
    assert_eq!((&*told.entry.command, &*told.entry.principal), ("audit/retain", NODE));

    // Little more to remove is not worth a checkpoint; beyond the number the oldest go.
    let keep = Keep { since: Timestamp::from_millis(1_300_000), records: u64::MAX };
    assert_eq!(retained(dir.path(), keep).await.0, 0);
    let keep = Keep { since: Timestamp::from_millis(0), records: 500 };
    let (removed, connection) = retained(dir.path(), keep).await;
    assert_eq!(removed, 1_301);
    assert_eq!(check(&connection, &key(1)).unwrap().unwrap().records, 501);

    // All is old: the last record stays, from which the chain goes on.
    drop(connection);
    let keep = Keep { since: Timestamp::from_millis(i64::MAX), records: 0 };
    assert_eq!(retained(dir.path(), keep).await.0, 0);
}

#[tokio::test]
async fn nothing_is_removed_without_a_checkpoint_and_none_can_be_forged() {
    let dir = tempfile::tempdir().unwrap();
    let connection = trail(dir.path(), 5);
    assert!(connection.execute("DELETE FROM audit WHERE seq = 1", []).is_err(), "append-only");
    assert!(connection.execute("UPDATE audit SET count = 2", []).is_err(), "append-only");
    let hash: [u8; 32] =
        connection.query_row("SELECT hash FROM audit WHERE seq = 3", [], |row| row.get(0)).unwrap();
    connection
        .execute("INSERT INTO audit_checkpoint (seq, hash, at, seal) VALUES (3, ?1, 0, zeroblob(32))", [hash])
        .unwrap();
    connection.execute("DELETE FROM audit WHERE seq <= 3", []).unwrap();
    assert!(verify(&connection).unwrap().is_ok(), "the chain alone does not show it");
    assert_eq!(check(&connection, &key(1)).unwrap(), Err(Tampering::Checkpoint(3)));
    // The seal of the end is none of a checkpoint.
    tamper(
        &connection,
        "DELETE FROM audit_checkpoint; INSERT INTO audit_checkpoint SELECT seq, hash, at, seal FROM audit_seal; DELETE FROM audit",
    );
    assert_eq!(check(&connection, &key(1)).unwrap(), Err(Tampering::Checkpoint(5)));
}

#[tokio::test]
async fn a_node_verifies_its_own_trail_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    drop(trail(dir.path(), 12_345));
    let (ledger, _) = open(dir.path(), key(1));
    let (sound, finding) = ledger.verify_audit().await.unwrap();
    assert_eq!((sound.records, finding), (12_345, None));
    let other = database(dir.path());
    tamper(&other, "UPDATE audit SET principal = 'me' WHERE seq = 11000");
    assert_eq!(ledger.verify_audit().await.unwrap().1, Some(Tampering::Chain(11_000)));
}
