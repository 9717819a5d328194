//! The broker goes away, comes back, forgets, refuses, falls silent: what was accepted is answered, and the node stays
//! well-behaved and can be stopped.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Caller, Daemon, DaemonOptions, Link, Mosquitto, MosquittoOptions, Via, mosquitto, within};
use tokio::time::Instant;

/// How long it may take until a node serves again after its broker has come back.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// As the node does it when nobody configures anything.
fn default_pauses(options: DaemonOptions) -> DaemonOptions {
    options.set("broker.reconnect_min_ms=500").set("broker.reconnect_max_s=60")
}

fn stored(daemon: &Daemon) -> BTreeSet<String> {
    let ledger = daemon.ledger();
    let mut statement = ledger.prepare("SELECT content FROM memory_record").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Sends `count` stores whose answers stay in the link: returns when all are committed.
async fn store_without_being_answered(asker: &Caller, daemon: &mut Daemon, link: &Link, count: usize) {
    link.delay(Duration::from_secs(2));
    for number in 0..count {
        let content = json!({ "content": format!("kept {number}") });
        asker.send(&format!("store-{number}"), "memory/store", &content).await;
    }
    daemon.until("all are committed", |daemon| stored(daemon).len() == count).await;
    // The answers have been on their way for less than the link's delay, and end here.
    link.cut();
    link.delay(Duration::ZERO);
}

/// All answers to `count` stores, each `ok`; a repeated answer has to be the same.
async fn answers(asker: &mut Caller, count: usize) -> BTreeMap<String, Value> {
    let mut answers = BTreeMap::new();
    while answers.len() < count {
        let reply = asker.next().await;
        assert_eq!(reply["status"], "ok", "{reply}");
        let id = reply["in_reply_to"].as_str().unwrap().to_owned();
        if let Some(before) = answers.insert(id, reply.clone()) {
            assert_eq!(before, reply);
        }
    }
    answers
}

async fn broker(options: MosquittoOptions) -> Option<Mosquitto> {
    mosquitto(options).await
}

/// Waits until the node knows that its connection is lost.
async fn noticed(daemon: &mut Daemon) {
    daemon
        .until("it has noticed", |daemon| {
            daemon.http("/health/ready").is_some_and(|(status, _)| status != 200)
        })
        .await;
}

#[tokio::test]
async fn what_was_accepted_is_answered_after_the_broker_came_back_with_its_sessions() {
    let options = MosquittoOptions { persistence: true, ..MosquittoOptions::default() };
    let Some(mut broker) = broker(options).await else { return };
    let link = Link::to(broker.addr()).await;
    let mut daemon = Daemon::start(DaemonOptions::new("keeper", Via::Plain(link.addr()))).await;
    let asker = Caller::connect(broker.addr(), "kept", &daemon).await;
    store_without_being_answered(&asker, &mut daemon, &link, 40).await;
    // These the broker has accepted for the node, and keeps.
    for number in 40..60 {
        let content = json!({ "content": format!("kept {number}") });
        asker.send(&format!("store-{number}"), "memory/store", &content).await;
    }
    asker.client.disconnect().await;
    broker.stop().await;
    broker.start().await;
    let mut asker = Caller::connect(broker.addr(), "kept", &daemon).await;
    link.mend();
    answers(&mut asker, 60).await;
    assert_eq!(stored(&daemon).len(), 60);
    daemon.until_metric("orchd_outbox_open", |open| open == 0.0).await;
}

#[tokio::test]
async fn what_was_accepted_is_answered_after_the_broker_came_back_without_its_sessions() {
    let Some(mut broker) = broker(MosquittoOptions::default()).await else { return };
    let link = Link::to(broker.addr()).await;
    let mut daemon = Daemon::start(DaemonOptions::new("keeper", Via::Plain(link.addr()))).await;
    let asker = Caller::connect(broker.addr(), "lost", &daemon).await;
    store_without_being_answered(&asker, &mut daemon, &link, 40).await;
    asker.client.kill().await;
    broker.stop().await;
    broker.start().await;
    let mut asker = Caller::connect(broker.addr(), "lost", &daemon).await;
    link.mend();
    answers(&mut asker, 40).await;
    // A repeat is not done again.
    asker.send("store-7", "memory/store", &json!({ "content": "kept 7" })).await;
    asker.reply_to("store-7").await;
    assert_eq!(stored(&daemon).len(), 40);
    assert!(daemon.log().contains("lost the session"), "{}", daemon.log());
}

#[tokio::test]
async fn a_broker_that_resumes_a_session_with_all_it_has_queued_is_served_and_not_put_off() {
    let options =
        MosquittoOptions { extra: "max_queued_messages 2000\n".to_owned(), ..MosquittoOptions::default() };
    let Some(broker) = broker(options).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("late", Via::Plain(broker.addr()))).await;
    daemon.terminate().await;
    // Far more than the Receive Maximum: Mosquitto 2.0 sends them all at once when the node is killed and comes back.
    let count = 900;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    for number in 0..count {
        let content = json!({ "content": format!("late {number}") });
        asker.send(&format!("store-{number}"), "memory/store", &content).await;
    }
    daemon.spawn_again().await;
    daemon.kill();
    daemon.start_again().await;
    answers(&mut asker, count).await;
    assert_eq!(stored(&daemon).len(), count);
    assert!(!daemon.log().contains("Receive Maximum"), "{}", daemon.log());
}

#[tokio::test]
async fn more_than_the_node_holds_at_a_time_is_worked_off_in_parts() {
    let options =
        MosquittoOptions { extra: "max_queued_messages 10000\n".to_owned(), ..MosquittoOptions::default() };
    let Some(broker) = broker(options).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("laden", Via::Plain(broker.addr()))).await;
    daemon.terminate().await;
    // 40 MB, which Mosquitto 2.0 sends all at once when the node is killed and comes back.
    let count = 4_500;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let filling = "x".repeat(9_000);
    for number in 0..count {
        let content = json!({ "content": format!("{number} {filling}") });
        asker.send(&format!("store-{number}"), "memory/store", &content).await;
    }
    let work = async {
        daemon.spawn_again().await;
        daemon.kill();
        daemon.start_again().await;
        let mut other = Caller::connect(broker.addr(), "other", &daemon).await;
        other.ask_ok("node/ping", json!({})).await;
    };
    // Heard meanwhile, because there are more than a client here holds.
    tokio::join!(answers(&mut asker, count), work);
    assert_eq!(stored(&daemon).len(), count);
}

#[tokio::test]
async fn subscriptions_are_back_within_ten_seconds_whether_the_session_was_kept_or_lost() {
    for persistence in [true, false] {
        let options = MosquittoOptions { persistence, ..MosquittoOptions::default() };
        let Some(mut broker) = broker(options).await else { return };
        let options = default_pauses(DaemonOptions::new("quick", Via::Plain(broker.addr())));
        let mut daemon = Daemon::start(options).await;
        broker.stop().await;
        noticed(&mut daemon).await;
        broker.start().await;
        let started = Instant::now();
        daemon.ready().await;
        let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
        asker.ask_ok("node/ping", json!({})).await;
        assert!(started.elapsed() < BACK_WITHIN, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_link_that_has_fallen_silent_is_noticed_by_keep_alive_and_made_anew() {
    let Some(broker) = broker(MosquittoOptions::default()).await else { return };
    let link = Link::to(broker.addr()).await;
    let options = DaemonOptions::new("patient", Via::Plain(link.addr())).set("broker.keep_alive_s=5");
    let mut daemon = Daemon::start(options).await;
    link.half_open();
    noticed(&mut daemon).await;
    link.mend();
    daemon.ready().await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    asker.ask_ok("node/ping", json!({})).await;
}

#[tokio::test]
async fn replies_that_the_broker_refuses_are_counted_and_hold_up_nobody() {
    let acl = "topic readwrite orch/#\ntopic deny orch/inbox/nobody\n".to_owned();
    let options = MosquittoOptions { acl: Some(acl), ..MosquittoOptions::default() };
    let Some(broker) = broker(options).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("patient", Via::Plain(broker.addr()))).await;
    let mut good = Caller::connect(broker.addr(), "good", &daemon).await;
    for number in 0..64 {
        let (command, payload) = match number % 2 {
            0 => ("node/ping", json!({})),
            _ => ("memory/store", json!({ "content": format!("unheard {number}") })),
        };
        let envelope = json!({
            "message_id": format!("refused-{number}"),
            "payload": payload,
            "metadata": { "reply_to": "orch/inbox/nobody" },
        });
        good.client.publish(&daemon.topic(command), &envelope.to_string()).await.unwrap();
    }
    good.ask_ok("node/ping", json!({})).await;
    good.ask_ok("memory/store", json!({ "content": "heard" })).await;
    daemon
        .until_metric("orchd_replies_refused_total{reason=\"not_authorized\"}", |refused| refused == 64.0)
        .await;
    daemon.until_metric("orchd_outbox_open", |open| open == 0.0).await;
    assert_eq!(stored(&daemon).len(), 33);
}

#[tokio::test]
async fn a_second_node_of_the_same_name_is_reported_and_the_two_do_not_fight() {
    let Some(broker) = broker(MosquittoOptions::default()).await else { return };
    let mut asker = Caller::connect_to(broker.addr(), "witness", "twin").await;
    asker.client.subscribe("orch/twin/events/errors").await.unwrap();
    let options = default_pauses(DaemonOptions::new("twin", Via::Plain(broker.addr())));
    let mut first = Daemon::start(options.clone()).await;
    let mut second = Daemon::spawn(options).await;
    let mut told = 0;
    while told < 2 {
        let (topic, event) = asker.client.next_text().await;
        if topic.ends_with("/events/errors") {
            let event: Value = serde_json::from_str(&event).unwrap();
            assert_eq!(event["error"], "duplicate_name", "{event}");
            told += 1;
        }
    }
    // Each is put out a few times before either tells; a storm would have been hundreds.
    let log = broker.log();
    let connections =
        log.lines().filter(|line| line.contains("New client connected") && line.contains("orchd-orch-twin"));
    assert!((3..=16).contains(&connections.count()), "{log}");
    let logs = first.log() + &second.log();
    assert!(logs.contains("two nodes have the same name"), "{logs}");
    // The one that stays goes on, and says how it is.
    let told_by_first = first.log().contains("two nodes have the same name");
    second.terminate().await;
    first.ready().await;
    let status = asker.ask_ok("node/status", json!({})).await;
    if told_by_first {
        assert!(status["duplicate_name"].as_u64().unwrap() >= 1, "{status}");
        assert!(status["degraded"].as_array().unwrap().contains(&json!("duplicate_name")), "{status}");
    }
}

#[tokio::test]
async fn a_node_stops_in_time_while_connected() {
    let Some(broker) = broker(MosquittoOptions::default()).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("mortal", Via::Plain(broker.addr()))).await;
    let asker = Caller::connect(broker.addr(), "witness", &daemon).await;
    asker.client.subscribe("orch/mortal/events/status").await.unwrap();
    daemon.terminate().await;
    let mut asker = asker;
    loop {
        let (_, status) = asker.client.next_text().await;
        let status: Value = serde_json::from_str(&status).unwrap();
        if status["state"] == "offline" {
            assert_eq!(status["reason"], "stopped");
            break;
        }
    }
}

#[tokio::test]
async fn a_node_stops_in_time_while_the_broker_is_down() {
    let Some(mut broker) = broker(MosquittoOptions::default()).await else { return };
    let options = default_pauses(DaemonOptions::new("mortal", Via::Plain(broker.addr())));
    let mut daemon = Daemon::start(options).await;
    broker.stop().await;
    noticed(&mut daemon).await;
    daemon.terminate().await;
}

#[tokio::test]
async fn a_node_stops_in_time_on_a_link_that_has_fallen_silent() {
    let Some(broker) = broker(MosquittoOptions::default()).await else { return };
    let link = Link::to(broker.addr()).await;
    let mut daemon = Daemon::start(DaemonOptions::new("mortal", Via::Plain(link.addr()))).await;
    link.half_open();
    daemon.terminate().await;
}

#[tokio::test]
async fn a_node_stops_in_time_before_it_has_ever_connected() {
    // Nothing answers on it: half of them refuse, half accept and stay silent.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let mut daemon = Daemon::spawn(DaemonOptions::new("mortal", Via::Plain(addr))).await;
    let (_held, _) = within(silent.accept()).await.unwrap();
    daemon.terminate().await;
    drop((_held, silent));
    daemon.spawn_again().await;
    daemon.terminate().await;
}

#[tokio::test]
async fn a_node_stops_in_time_with_commands_in_flight_and_answers_them_after_the_next_start() {
    let Some(broker) = broker(MosquittoOptions::default()).await else { return };
    let mut daemon = Daemon::start(DaemonOptions::new("mortal", Via::Plain(broker.addr()))).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let count = 200;
    for number in 0..count {
        let content = json!({ "content": format!("in flight {number}") });
        asker.send(&format!("store-{number}"), "memory/store", &content).await;
        if number == count / 2 {
            daemon.signal(Signal::TERM);
        }
    }
    let stopped = tokio::time::timeout(Duration::from_secs(5), daemon.exit()).await;
    assert_eq!(stopped.expect("it did not stop in time").code(), Some(0), "{}", daemon.log());
    daemon.start_again().await;
    answers(&mut asker, count).await;
    assert_eq!(stored(&daemon).len(), count);
}
