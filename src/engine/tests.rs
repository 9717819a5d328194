//! The engine between a scripted broker and a real ledger: what it promises of each kind of command.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::command::{Answer, BoxFuture, Entry};
use super::port::{Ack, Delivery, Outgoing, Publication, Publish};
use super::*;
use crate::clock::Clock;
use crate::gate;
use crate::ledger::{self, GenerationError, Ledger, OpenError, Unit};
use crate::observe::health::Health;
use crate::wire::{Encoding, Properties, Reply, Status};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Word {
    #[serde(default)]
    word: String,
}

#[derive(Serialize, JsonSchema)]
struct Said {
    word: String,
    times: u32,
}

/// A service whose effects can be counted.
#[derive(Default)]
struct Parrot {
    effects: AtomicU32,
}

fn commands() -> Vec<Entry<Parrot>> {
    vec![
        Entry::read("parrot", "say", "Says it", |_: Arc<Parrot>, _, asked: Word| async move {
            assert!(asked.word != "panic", "deliberate");
            Ok(Answer::from(Said { word: asked.word, times: 1 }))
        })
        .also_on(&[Target::All]),
        Entry::write("parrot", "learn", "Learns it", |parrot: &Arc<Parrot>, _, asked: Word| {
            assert!(asked.word != "panic", "deliberate");
            let parrot = parrot.clone();
            Ok(move |unit: &mut Unit<'_>| {
                unit.execute("INSERT INTO meta VALUES (?1, 1)", [&asked.word])?;
                let times = parrot.effects.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Said { word: asked.word.clone(), times })
            })
        }),
        Entry::job(
            "parrot",
            "sing",
            "Takes its time",
            true,
            |_: Arc<Parrot>, _, asked: Word, progress| async move {
                progress.report(1, 2);
                if asked.word == "for ever" {
                    progress.cancelled().await;
                    return Err(Fault::new(crate::wire::Code::Interrupted, "told to stop"));
                }
                Ok(Answer::from(Said { word: asked.word, times: 1 }))
            },
        ),
    ]
}

use crate::wire::topic::Target;

/// A broker that takes everything, or nothing.
struct Broker {
    connected: AtomicBool,
    published: Mutex<mpsc::UnboundedSender<(String, Reply)>>,
}

impl Publish for Broker {
    fn publish(&self, message: Outgoing) -> BoxFuture<Publication> {
        if !self.is_connected() {
            return Box::pin(async { Publication::Unsent });
        }
        let reply = Reply::decode(message.encoding, &message.payload).unwrap();
        let _ = self.published.lock().unwrap().send((message.topic, reply));
        Box::pin(async { Publication::Accepted })
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }
}

struct Bench {
    engine: Engine,
    broker: Arc<Broker>,
    parrot: Arc<Parrot>,
    ledger: Ledger,
    deliveries: mpsc::Sender<Delivery>,
    published: mpsc::UnboundedReceiver<(String, Reply)>,
    acked: mpsc::UnboundedReceiver<u32>,
    ack: mpsc::UnboundedSender<u32>,
    dir: Option<tempfile::TempDir>,
}

impl Bench {
    async fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), Bounds { rows: 100, bytes: 1 << 20 }).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test bounds what it sends itself")]
    async fn in_dir(dir: tempfile::TempDir, outbox: Bounds) -> Self {
        let options = ledger::Options { reserve_bytes: 1 << 20, ..ledger::Options::default() };
        // The tasks of the engine before may take a moment to let go of the folder.
        let opened = async {
            loop {
                match Ledger::open(dir.path(), &options, Clock::system()) {
                    Err(OpenError::Generation(GenerationError::Locked(_))) => tokio::task::yield_now().await,
                    opened => return opened.unwrap(),
                }
            }
        };
        let ledger = tokio::time::timeout(Duration::from_secs(20), opened).await.expect("the folder is free");
        let (sender, published) = mpsc::unbounded_channel();
        let broker = Arc::new(Broker { connected: AtomicBool::new(true), published: Mutex::new(sender) });
        let parrot = Arc::new(Parrot::default());
        let mut registry = Registry::default();
        registry.add(&parrot, &commands());
        let metrics = Metrics::new("test");
        let engine = Engine::start(Parts {
            names: Names::new("orch", "n1").unwrap(),
            registry,
            gate: Arc::new(gate::Open::new()),
            seal: Arc::new(gate::seal::Seal::new(&gate::node_key::NodeKey::from_bytes(&[0; 32])).unwrap()),
            ledger: ledger.clone(),
            publisher: broker.clone(),
            events: Events::default(),
            metrics,
            jobs: jobs::Jobs::new(2),
            limits: Limits {
                max_payload_bytes: 1_000,
                reads_in_flight: 8,
                command_deadline: Duration::from_secs(10),
                job_deadline: Duration::from_secs(10),
                inbox_window: Duration::from_secs(3_600),
                inbox_rows: 1_000,
                outbox,
                reply_expiry: Duration::from_secs(3_600),
                audit_kept: Duration::from_secs(86_400),
                audit_records: 10_000,
                reply_topics: vec!["orch/inbox/#".into(), "elsewhere/#".into()],
            },
        })
        .unwrap();
        let (deliveries, first) = mpsc::channel(8);
        let (_, second) = mpsc::channel(1);
        let pulse = Health::default().pulse("router");
        tokio::spawn(engine.clone().receive(first, second, pulse));
        let (ack, acked) = mpsc::unbounded_channel();
        Self { engine, broker, parrot, ledger, deliveries, published, acked, ack, dir: Some(dir) }
    }

    async fn send(&self, number: u32, topic: &str, payload: &str, id: Option<&str>) {
        self.send_on(false, number, topic, payload, id).await;
    }

    /// With `void`, on a connection that has ended since.
    async fn send_on(&self, void: bool, number: u32, topic: &str, payload: &str, id: Option<&str>) {
        let ack = self.ack.clone();
        let properties = Properties {
            response_topic: Some("orch/inbox/me/1".into()),
            user: id.map(|id| ("message-id".to_owned(), id.to_owned())).into_iter().collect(),
            ..Properties::default()
        };
        let delivery = Delivery {
            topic: topic.into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            properties,
            retained: false,
            ack: Ack::new(
                move || {
                    let _ = ack.send(number);
                },
                move || void,
            ),
        };
        self.deliveries.send(delivery).await.unwrap();
    }

    async fn next(&mut self) -> Reply {
        self.next_with_topic().await.1
    }

    async fn next_with_topic(&mut self) -> (String, Reply) {
        tokio::time::timeout(Duration::from_secs(20), self.published.recv()).await.expect("a reply").unwrap()
    }

    async fn ask(&mut self, topic: &str, payload: &str, id: Option<&str>) -> Reply {
        self.send(0, topic, payload, id).await;
        self.next().await
    }

    async fn next_ack(&mut self) -> u32 {
        tokio::time::timeout(Duration::from_secs(20), self.acked.recv())
            .await
            .expect("an acknowledgement")
            .unwrap()
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.engine.drain(Duration::from_secs(2), Duration::from_millis(50)).await;
        self.ledger.close();
        self.dir.take().unwrap()
    }
}

fn code(reply: &Reply) -> &'static str {
    reply.error.as_ref().map_or("ok", |error| error.code.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_write_takes_effect_once_and_gets_the_stored_answer() {
    let mut bench = Bench::new().await;
    let first = bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, Some("m1")).await;
    let second = bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, Some("m1")).await;
    assert_eq!(code(&first), "ok");
    assert_eq!(first.message_id, second.message_id);
    assert_eq!(bench.parrot.effects.load(Ordering::SeqCst), 1);
    let other = bench.ask("orch/n1/parrot/learn", r#"{"word":"b"}"#, Some("m1")).await;
    assert_eq!(code(&other), "conflict");
    // Known or not is asked before anything else is judged: the repeat is not refused for being invalid either.
    let bad = bench.ask("orch/n1/parrot/learn", r#"{"nonsense":1}"#, Some("m1")).await;
    assert_eq!(code(&bad), "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_not_remembered_and_may_succeed_when_repeated() {
    let mut bench = Bench::new().await;
    bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, None).await;
    let failed = bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, Some("m1")).await;
    assert_eq!(code(&failed), "internal", "the same word twice breaks a constraint");
    bench.ledger.write(|unit| Ok(unit.execute("DELETE FROM meta", []).map(drop)?)).await.unwrap();
    let repeated = bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, Some("m1")).await;
    assert_eq!(code(&repeated), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_did_not_take_is_published_on_the_next_connection_and_after_a_restart() {
    let mut bench = Bench::new().await;
    bench.broker.connected.store(false, Ordering::SeqCst);
    bench.send(1, "orch/n1/parrot/learn", r#"{"word":"a"}"#, Some("m1")).await;
    assert_eq!(bench.next_ack().await, 1, "acknowledged after the commit");
    bench.send(2, "orch/n1/parrot/say", r#"{"word":"b"}"#, None).await;
    assert_eq!(bench.next_ack().await, 2, "a read's answer moves to the outbox");
    let dir = bench.stop().await;

    let mut bench = Bench::in_dir(dir, Bounds { rows: 100, bytes: 1 << 20 }).await;
    bench.engine.connected();
    let mut answers = [bench.next().await, bench.next().await];
    answers.sort_by(|a, b| a.command.cmp(&b.command));
    assert_eq!(answers.each_ref().map(|reply| reply.command.as_str()), ["parrot/learn", "parrot/say"]);
    assert_eq!(answers[0].in_reply_to.as_deref(), Some("m1"));
    assert_eq!(answers[0].status, Status::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_on_a_connection_that_has_ended_is_left_to_be_delivered_again() {
    let mut bench = Bench::new().await;
    for number in 0..200 {
        let payload = format!(r#"{{"word":"{number}"}}"#);
        bench.send_on(true, number, "orch/n1/parrot/learn", &payload, None).await;
    }
    assert_eq!(code(&bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, None).await), "ok");
    assert_eq!(bench.parrot.effects.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_do_not_pile_up_while_the_answer_is_on_its_way() {
    let mut bench = Bench::new().await;
    bench.broker.connected.store(false, Ordering::SeqCst);
    for number in 0..20 {
        bench.send(number, "orch/n1/parrot/learn", r#"{"word":"a"}"#, Some("m1")).await;
        assert_eq!(bench.next_ack().await, number);
    }
    assert_eq!(bench.engine.outbox_open(), 1);
    bench.broker.connected.store(true, Ordering::SeqCst);
    bench.engine.connected();
    assert_eq!(code(&bench.next().await), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_answers_busy_and_nothing_is_done() {
    let bench = Bench::in_dir(tempfile::tempdir().unwrap(), Bounds { rows: 1, bytes: 1 << 20 });
    let mut bench = bench.await;
    bench.broker.connected.store(false, Ordering::SeqCst);
    bench.send(1, "orch/n1/parrot/learn", r#"{"word":"a"}"#, None).await;
    bench.next_ack().await;
    let reply = bench.engine.call_locally(
        crate::gate::Identity::local(),
        "parrot/learn",
        None,
        None,
        crate::wire::Payload::new(Encoding::Json, r#"{"word":"b"}"#.into()),
    );
    assert_eq!(code(&reply.await.unwrap()), "busy");
    assert_eq!(bench.parrot.effects.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_handler_answers_internal_and_leaves_the_others_running() {
    let mut bench = Bench::new().await;
    for topic in ["orch/n1/parrot/say", "orch/n1/parrot/learn"] {
        assert_eq!(code(&bench.ask(topic, r#"{"word":"panic"}"#, None).await), "internal");
    }
    assert_eq!(code(&bench.ask("orch/n1/parrot/say", r#"{"word":"hello"}"#, None).await), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_succeed_is_answered_with_its_code_and_acknowledged() {
    let mut bench = Bench::new().await;
    let too_large = format!(r#"{{"word":"{}"}}"#, "x".repeat(1_000));
    for (topic, payload, expected) in [
        ("orch/n1/parrot/say", "{", "malformed"),
        ("orch/n1/parrot/say", r#"{"nonsense":1}"#, "invalid"),
        ("orch/n1/parrot/fly", "{}", "unknown_command"),
        ("orch/all/parrot/learn", "{}", "unknown_command"),
        ("orch/n1/parrot/say", too_large.as_str(), "too_large"),
        ("orch/n1/parrot/say", r#"{"payload":{},"metadata":{"expires_in_ms":0}}"#, "expired"),
    ] {
        assert_eq!(code(&bench.ask(topic, payload, None).await), expected, "{topic} {payload}");
        bench.next_ack().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_never_goes_to_a_command_topic_a_system_topic_or_outside_the_allowed_filters() {
    let mut bench = Bench::new().await;
    for (reply_to, expected) in [
        ("orch/n2/memory/store", "forbidden"),
        ("orch/n1/events/status", "forbidden"),
        ("orch/all/node/ping", "forbidden"),
        ("$SYS/broker", "forbidden"),
        ("somewhere/else", "forbidden"),
        ("orch/inbox/+/1", "invalid"),
        ("", "invalid"),
    ] {
        let properties = Properties { response_topic: Some(reply_to.into()), ..Properties::default() };
        let delivery = Delivery {
            topic: "orch/n1/parrot/say".into(),
            payload: Bytes::from_static(b"{}"),
            properties,
            retained: false,
            ack: Ack::none(),
        };
        bench.deliveries.send(delivery).await.unwrap();
        let (topic, reply) = bench.next_with_topic().await;
        assert_eq!((topic.as_str(), code(&reply)), ("orch/n1/results/parrot", expected), "{reply_to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_acknowledged_when_accepted_and_answered_once_when_done() {
    let mut bench = Bench::new().await;
    bench.send(7, "orch/n1/parrot/sing", r#"{"word":"la"}"#, Some("j1")).await;
    assert_eq!(bench.next_ack().await, 7);
    let reply = bench.next().await;
    assert_eq!((code(&reply), reply.in_reply_to.as_deref()), ("ok", Some("j1")));
    let repeat = bench.ask("orch/n1/parrot/sing", r#"{"word":"la"}"#, Some("j1")).await;
    assert_eq!(repeat.message_id, reply.message_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_a_restart_cut_off_is_taken_up_again_and_answered() {
    let mut bench = Bench::new().await;
    bench.send(1, "orch/n1/parrot/sing", r#"{"word":"for ever"}"#, Some("j1")).await;
    bench.next_ack().await;
    let still = bench.ask("orch/n1/parrot/sing", r#"{"word":"for ever"}"#, Some("j1")).await;
    assert!(still.payload.unwrap().get().contains("running"));
    let dir = bench.stop().await;

    let mut bench = Bench::in_dir(dir, Bounds { rows: 100, bytes: 1 << 20 }).await;
    let open = bench.ledger.read(|connection| jobs::list(connection, 10)).await.unwrap();
    assert_eq!(open.len(), 1);
    while !bench.engine.inner.jobs.cancel(&open[0].job_id) {
        tokio::task::yield_now().await;
    }
    let reply = bench.next().await;
    assert_eq!((code(&reply), reply.in_reply_to.as_deref()), ("interrupted", Some("j1")));
    let ended = bench.ledger.read(|connection| jobs::list(connection, 10)).await.unwrap();
    assert_eq!(ended[0].state, "cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_leaves_an_audit_record_and_refusals_share_one() {
    let mut bench = Bench::new().await;
    bench.ask("orch/n1/parrot/say", r#"{"word":"a"}"#, None).await;
    bench.ask("orch/n1/parrot/learn", r#"{"word":"a"}"#, None).await;
    for _ in 0..5 {
        bench.ask("orch/n1/parrot/fly", "{}", None).await;
    }
    let dir = bench.stop().await;
    let connection =
        rusqlite::Connection::open(dir.path().join("current").join(ledger::LEDGER_FILE)).unwrap();
    ledger::audit::verify(&connection).unwrap().unwrap();
    let count = |outcome: &str| -> i64 {
        let sql = "SELECT coalesce(sum(count), 0) FROM audit WHERE outcome = ?1";
        connection.query_row(sql, [outcome], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("ok"), count("unknown_command")), (2, 5));
    let rows: i64 = connection.query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).unwrap();
    assert!(rows < 7, "{rows} rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_forgets_the_oldest_and_their_answers_with_them() {
    let mut bench = Bench::new().await;
    for n in 0..5 {
        let payload = format!(r#"{{"word":"w{n}"}}"#);
        bench.ask("orch/n1/parrot/learn", &payload, Some(&format!("m{n}"))).await;
    }
    let later = Timestamp::from_millis(i64::MAX);
    let removed = bench.ledger.write(move |unit| inbox::prune(unit, later, 3)).await.unwrap();
    assert_eq!(removed, 3);
    assert_eq!(bench.ledger.read(inbox::rows).await.unwrap(), 2);
    let known = bench.ask("orch/n1/parrot/learn", r#"{"word":"w4"}"#, Some("m4")).await;
    assert_eq!(code(&known), "ok");
    assert_eq!(bench.parrot.effects.load(Ordering::SeqCst), 5);
}
