//! A node that is killed at any moment loses nothing that it answered, does nothing twice, and finds itself whole.
//!
//! `ORCHD_KILLS` sets how often it is killed (12 by default), `ORCHD_SEED` repeats the moments of an earlier run.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use support::daemon::{Daemon, DaemonOptions, Via};
use support::{Caller, MosquittoOptions, mosquitto, within};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Stores that wait for their answer at the same time.
const WINDOW: usize = 16;

/// How long the client waits for an answer before it sends the same command again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a whole number"))
}

/// What a client that never gives up knows in the end.
#[derive(Default)]
struct Answered {
    /// The record's id by the command's.
    stored: HashMap<String, String>,
    sent_again: u64,
    answered_again: u64,
}

/// Stores until told to stop, then waits for what is open. Each command is sent until it is answered.
async fn store(
    mut asker: Caller,
    progress: watch::Sender<usize>,
    stop: watch::Receiver<bool>,
) -> (Caller, Answered) {
    let mut known = Answered::default();
    let mut open: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut next = 0;
    loop {
        while open.len() < WINDOW && !*stop.borrow() {
            send(&asker, next).await;
            open.insert(next, Instant::now());
            next += 1;
        }
        if open.is_empty() {
            return (asker, known);
        }
        let oldest = *open.values().min().unwrap();
        tokio::select! {
            reply = asker.next() => take(&reply, &mut open, &mut known),
            () = tokio::time::sleep_until(oldest + RETRY_AFTER) => {
                for (number, sent) in &mut open {
                    if sent.elapsed() >= RETRY_AFTER {
                        send(&asker, *number).await;
                        *sent = Instant::now();
                        known.sent_again += 1;
                    }
                }
            }
        }
        progress.send_replace(known.stored.len());
    }
}

async fn send(asker: &Caller, number: u64) {
    let content = format!("survivor number{number}");
    asker.send(&format!("store-{number}"), "memory/store", &json!({ "content": content })).await;
}

fn take(reply: &Value, open: &mut BTreeMap<u64, Instant>, known: &mut Answered) {
    assert_eq!(reply["status"], "ok", "{reply}");
    let command = reply["in_reply_to"].as_str().unwrap();
    let record = reply["payload"]["id"].as_str().unwrap();
    open.remove(&command["store-".len()..].parse().unwrap());
    if let Some(before) = known.stored.insert(command.to_owned(), record.to_owned()) {
        assert_eq!(before, record, "{command} was answered with two records");
        known.answered_again += 1;
    }
}

/// What the search index says of the records: how many there are in all, and which those are that we look at.
async fn found(asker: &mut Caller) -> (u64, Vec<String>) {
    let query = json!({ "text": "+survivor", "limit": 100, "consistency": "latest", "explain": true });
    let answer = asker.ask_ok("memory/query", query).await;
    assert_eq!(answer["partial"], false, "{answer}");
    let mut ids: Vec<_> =
        answer["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    (answer["total"].as_u64().unwrap(), ids)
}

/// Each record can be found by the one word that only it has.
async fn is_found(asker: &mut Caller, number: u64, record: &str) {
    let query = json!({ "text": format!("+number{number}"), "consistency": "latest" });
    let answer = asker.ask_ok("memory/query", query).await;
    let hits = answer["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 1, "number{number}: {answer}");
    assert_eq!(hits[0]["id"], record);
}

fn check_ledger(connection: &Connection, known: &Answered) {
    let mut statement = connection.prepare("SELECT id, content FROM memory_record").unwrap();
    let mut by_content: HashMap<String, String> = HashMap::new();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    for row in rows {
        let (id, content): (String, String) = row.unwrap();
        assert!(by_content.insert(content.clone(), id).is_none(), "twice: {content}");
    }
    for (command, record) in &known.stored {
        let content = command.replace("store-", "survivor number");
        assert_eq!(by_content.get(&content), Some(record), "answered, and not there: {command}");
    }
    assert_eq!(by_content.len(), known.stored.len());
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    orchd::ledger::audit::verify(connection).unwrap().expect("the audit chain is broken");
    let open: i64 =
        connection.query_row("SELECT count(*) FROM outbox WHERE open = 1", [], |row| row.get(0)).unwrap();
    assert_eq!(open, 0, "answers that nobody got");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_answered_is_lost_and_nothing_is_done_twice_however_often_the_node_is_killed() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let kills = number("ORCHD_KILLS").unwrap_or(12);
    let seed = number("ORCHD_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ORCHD_KILLS={kills} ORCHD_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);

    let mut daemon = Daemon::start(DaemonOptions::new("phoenix", Via::Plain(broker.addr()))).await;
    let asker = Caller::connect(broker.addr(), "survivor", &daemon).await;
    let (progress, mut stored) = watch::channel(0);
    let (stop, stopping) = watch::channel(false);
    let storing = tokio::spawn(store(asker, progress, stopping));
    for kill in 0..kills {
        // Some die soon after they have come up, some in the midst of work.
        if random.bool() {
            let wanted = *stored.borrow() + random.usize(1..200);
            within(stored.wait_for(|count| *count >= wanted)).await.unwrap();
        }
        // Not to wait for anything: the moment is to be any.
        sleep(Duration::from_micros(random.u64(0..60_000))).await;
        daemon.kill();
        daemon.spawn_again().await;
        if kill % 50 == 49 {
            println!("{} kills, {} stores answered", kill + 1, *stored.borrow());
        }
    }
    stop.send_replace(true);
    let (mut asker, known) = within(storing).await.unwrap();
    println!(
        "{kills} kills: {} stores answered, {} commands sent again, {} answers seen again",
        known.stored.len(),
        known.sent_again,
        known.answered_again
    );

    let records = known.stored.len() as u64;
    let stats = asker.ask_ok("memory/stats", json!({})).await;
    let counted: u64 =
        stats["layers"].as_array().unwrap().iter().map(|layer| layer["records"].as_u64().unwrap()).sum();
    assert_eq!(counted, records, "{stats}");
    let before = found(&mut asker).await;
    assert_eq!(before.0, records, "ledger and index disagree");
    for _ in 0..20 {
        let number = random.u64(0..records);
        is_found(&mut asker, number, &known.stored[&format!("store-{number}")]).await;
    }
    asker.ask_ok("memory/rebuild", json!({})).await;
    assert_eq!(found(&mut asker).await.0, before.0, "the index was not what the ledger makes of it");

    daemon.terminate().await;
    check_ledger(&daemon.ledger(), &known);
}
