//! Hostile and broken input: each message is answered or recorded, and counted; the connection stays, memory stays
//! bounded, and others are served meanwhile.

mod support;

use std::collections::HashSet;
use std::time::Duration;

use ciborium::cbor;
use rumqttc::PublishOptions;
use rumqttc::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};
use support::{Asker, Client, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Via, label, mosquitto};

/// `limits.max_payload_bytes` of the node.
const MAX_PAYLOAD: usize = 65_536;

/// `limits.max_packet_bytes` of the node.
const MAX_PACKET: usize = 131_072;

/// How much the node's memory may grow under attack.
const GROWTH: u64 = 64 << 20;

/// How long an answer may be on its way; less than the harness waits, to say what was amiss.
const LIMIT: Duration = Duration::from_secs(18);

/// Messages of a flood.
const FLOOD: usize = 10_000;

async fn setup() -> Option<(Mosquitto, Daemon, Asker)> {
    // By default Mosquitto drops what exceeds 1,000 messages for one client.
    let extra = "max_queued_messages 0\n".to_owned();
    let broker = mosquitto(MosquittoOptions { extra, ..MosquittoOptions::default() }).await?;
    let options = DaemonOptions::new("n1", Via::Plain(broker.addr()))
        .set(&format!("limits.max_payload_bytes={MAX_PAYLOAD}"))
        .set(&format!("limits.max_packet_bytes={MAX_PACKET}"));
    let daemon = Daemon::start(options).await;
    let asker = Asker::plain(broker.addr(), "app").await;
    Some((broker, daemon, asker))
}

/// The node still serves, on its first connection.
async fn unharmed(daemon: &Daemon, app: &mut Asker) {
    assert_eq!(app.ok(&daemon.topic("node/ping"), json!({})).await["node"], "n1");
    let connections = daemon.metric("orchd_connections_total");
    assert!((connections - 1.0).abs() < 0.1, "{connections} connections: {}", daemon.log());
    assert!(daemon.metric("orchd_connection_errors_total") < 0.1, "{}", daemon.log());
}

/// The sum of all commands answered, whatever the outcome.
fn answered(daemon: &Daemon) -> f64 {
    let metrics = daemon.metrics();
    let lines = metrics.lines().filter(|line| line.starts_with("orchd_commands_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// What the audit has under this outcome; the node has stopped.
fn audited(daemon: &Daemon, outcome: &str) -> i64 {
    let ledger = daemon.ledger();
    assert!(orchd::ledger::audit::verify(&ledger).unwrap().is_ok());
    ledger
        .query_row("SELECT coalesce(sum(count), 0) FROM audit WHERE outcome = ?1", [outcome], |row| {
            row.get(0)
        })
        .unwrap()
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_recorded_and_counted() {
    let Some((_broker, mut daemon, mut app)) = setup().await else { return };
    let before = daemon.rss();
    let plain = |_: &mut PublishProperties| {};
    let cbor =
        |properties: &mut PublishProperties| properties.content_type = Some("application/cbor".to_owned());
    let store = daemon.topic("memory/store");

    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let mut malformed = vec![
        b"hello".to_vec(),
        b"{\"content\":".to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        b"{\"content\":\"\xc3\x28\"}".to_vec(),
        vec![b'['; 10_000],
        b"{\"content\":\"a\"} {\"content\":\"b\"}".to_vec(),
        b"{\"payload\":{\"content\":\"a\"},\"message_id\":\"\"}".to_vec(),
        vec![0; 1_000],
    ];
    malformed
        .push(format!("{{\"payload\":{{\"content\":\"a\"}},\"message_id\":\"{}\"}}", "m".repeat(300)).into());
    let count = malformed.len();
    for bytes in malformed {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let answer = app.ask_with(&store, bytes, plain).await;
        assert_eq!(answer.label(), "malformed", "{start}: {}", answer.reply);
    }
    let binary = [vec![0x81; 10_000], vec![0xbf], vec![0x5b; 9]];
    let count = count + binary.len();
    for bytes in binary {
        let answer = app.ask_with(&store, bytes, cbor).await;
        assert_eq!(answer.label(), "malformed", "{}", answer.reply);
    }
    // Deep but complete: well formed by the letter, and of no use to any command.
    for text in [nested("[", "]"), nested("{\"a\":", "}"), format!("{{\"payload\":{}}}", nested("[", "]"))] {
        let answer = app.ask_with(&store, text, plain).await;
        assert!(matches!(answer.label(), "malformed" | "invalid"), "{}", answer.reply);
    }
    let refused = daemon.metric("orchd_messages_refused_total{code=\"malformed\"}");
    assert!(refused as usize >= count, "{refused}");
    unharmed(&daemon, &mut app).await;
    assert!(daemon.rss().saturating_sub(before) < GROWTH);
    daemon.terminate().await;
    assert_eq!(audited(&daemon, "malformed"), refused as i64);
}

#[tokio::test]
async fn what_is_out_of_range_is_answered_and_changes_nothing() {
    let Some((_broker, mut daemon, mut app)) = setup().await else { return };
    let plain = |_: &mut PublishProperties| {};
    let rules = app.ok(&daemon.topic("conscience/rules/list"), json!({})).await["rule_set_hash"].clone();
    let rule = |weight: &str| {
        format!("{{\"name\":\"r\",\"stance\":\"forbids\",\"patterns\":[],\"weight\":{weight}}}")
    };
    let cases = [
        ("memory/store", json!({ "content": "x", "layer": "hippocampus" }).to_string()),
        ("memory/query", json!({ "layers": ["hippocampus"] }).to_string()),
        ("memory/store", json!({ "content": "x", "colour": "red" }).to_string()),
        ("node/ping", json!({ "loud": true }).to_string()),
        ("memory/store", String::new()),
        ("conscience/evaluate", "null".to_owned()),
        ("conscience/rules/set", rule("-1")),
        ("conscience/rules/set", rule("100.5")),
        ("memory/store", json!({ "content": "x", "importance": -1 }).to_string()),
        ("memory/store", json!(["x"]).to_string()),
        ("memory/store", json!("x").to_string()),
    ];
    for (command, payload) in cases {
        let answer = app.ask_with(&daemon.topic(command), payload.clone(), plain).await;
        assert_eq!(answer.label(), "invalid", "{command} {payload}: {}", answer.reply);
    }
    // Not a number, which JSON cannot say.
    assert_eq!(
        app.ask_with(&daemon.topic("conscience/rules/set"), rule("NaN"), plain).await.label(),
        "malformed"
    );
    for weight in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let rule = cbor!({ "name" => "r", "stance" => "forbids", "patterns" => [], "weight" => weight });
        let memory = cbor!({ "content" => "x", "importance" => weight });
        for (command, value) in [("conscience/rules/set", rule), ("memory/store", memory)] {
            let mut bytes = Vec::new();
            ciborium::into_writer(&value.unwrap(), &mut bytes).unwrap();
            let cbor = |properties: &mut PublishProperties| {
                properties.content_type = Some("application/cbor".to_owned());
            };
            let answer = app.ask_with(&daemon.topic(command), bytes, cbor).await;
            assert_eq!(answer.label(), "invalid", "{command} {weight}: {}", answer.reply);
        }
    }
    for verb in
        ["memory/remember", "memory/store/", "memory//store", "brain/think", "events/status", "memory"]
    {
        app.client.publish(&daemon.topic(verb), "{}").await.unwrap();
    }
    for verb in ["memory/remember", "memory/store/", "memory//store"] {
        let answer = app.ask_with(&daemon.topic(verb), "{}", plain).await;
        assert_eq!(answer.label(), "unknown_command", "{verb}");
    }
    assert_eq!(app.ok(&daemon.topic("conscience/rules/list"), json!({})).await["rule_set_hash"], rules);
    let found = app.ok(&daemon.topic("memory/query"), json!({ "consistency": "latest" })).await;
    assert_eq!(found["hits"], json!([]));
    unharmed(&daemon, &mut app).await;
    daemon.terminate().await;
    assert!(audited(&daemon, "invalid") >= 17);
    assert!(audited(&daemon, "unknown_command") >= 6);
}

#[tokio::test]
async fn a_payload_may_have_exactly_as_many_bytes_as_the_limit_says() {
    let Some((_broker, mut daemon, mut app)) = setup().await else { return };
    let plain = |_: &mut PublishProperties| {};
    let ping = daemon.topic("node/ping");
    let padded = |size: usize| format!("{{}}{}", " ".repeat(size - 2));
    assert_eq!(app.ask_with(&ping, padded(MAX_PAYLOAD), plain).await.label(), "ok");
    let answer = app.ask_with(&ping, padded(MAX_PAYLOAD + 1), plain).await;
    assert_eq!(answer.label(), "too_large");
    assert_eq!(daemon.metric("orchd_messages_refused_total{code=\"too_large\"}") as u64, 1);
    // Over the packet limit the node announced the broker keeps it to itself, and the connection stands.
    app.client.publish(&ping, &padded(MAX_PACKET + 1)).await.unwrap();
    unharmed(&daemon, &mut app).await;
    daemon.terminate().await;
    assert_eq!(audited(&daemon, "too_large"), 1);
}

#[tokio::test]
async fn nothing_is_answered_where_it_could_do_harm() {
    let Some((_broker, mut daemon, mut app)) = setup().await else { return };
    app.hear_results().await;
    let deep = format!("orch/inbox/app{}", "/x".repeat(200));
    let cases = [
        // Over these Mosquitto would end the connection, at every try.
        ("orch/inbox/app/1\n", "invalid"),
        ("orch/inbox/app/\u{85}", "invalid"),
        ("orch/inbox/app/\u{ffff}", "invalid"),
        (&deep, "invalid"),
        ("orch/inbox/app/#", "invalid"),
        ("orch/inbox/+/x", "invalid"),
        ("", "invalid"),
        ("$SYS/broker/uptime", "forbidden"),
        ("$share/g/orch/inbox/app", "forbidden"),
        ("orch/n1/memory/store", "forbidden"),
        ("orch/n2/memory/store", "forbidden"),
        ("orch/all/node/ping", "forbidden"),
        ("orch/any/conscience/evaluate", "forbidden"),
        ("orch/n1/events/status", "forbidden"),
        ("orch/n1/results/memory", "forbidden"),
        ("lights/kitchen", "forbidden"),
    ];
    for (reply_to, code) in cases {
        let envelope = json!({ "payload": { "content": "x" }, "metadata": { "reply_to": reply_to } });
        let none = |properties: &mut PublishProperties| properties.response_topic = None;
        let answer = app.ask_with(&daemon.topic("memory/store"), envelope.to_string(), none).await;
        assert_eq!((answer.label(), answer.topic()), (code, "orch/n1/results/memory"), "{reply_to}");
    }
    // Nothing was done, and nothing is answered that the node said itself.
    let found = app.ok(&daemon.topic("memory/query"), json!({ "consistency": "latest" })).await;
    assert_eq!(found["hits"], json!([]));
    unharmed(&daemon, &mut app).await;
    daemon.terminate().await;
    assert_eq!((audited(&daemon, "forbidden"), audited(&daemon, "invalid")), (9, 7));
}

/// Sends a flood with these options while another client asks; every message is accounted for.
async fn survives_a_flood(options: PublishOptions) {
    let Some((broker, mut daemon, mut app)) = setup().await else { return };
    let before = daemon.rss();
    let flooder = Client::connect(rumqttc::MqttOptions::new("flooder", ("127.0.0.1", broker.addr().port())));
    let flooder = flooder.await.unwrap();
    let topics = ["node/ping", "memory/store", "memory/recollect"].map(|command| daemon.topic(command));
    let sending = tokio::spawn(async move {
        for n in 0..FLOOD {
            let topic = topics[n % topics.len()].clone();
            let payload = if n % 2 == 0 { "{}".to_owned() } else { "garbage".to_owned() };
            flooder.mqtt.publish(topic, payload, options.clone()).await.unwrap();
        }
        flooder
    });
    // Others ask while it goes on.
    let mut questions = Vec::new();
    while !sending.is_finished() || questions.len() < 10 {
        questions.push(app.send(&daemon.topic("node/ping"), "{}", |_| {}).await);
    }
    let flooder = sending.await.unwrap();
    let all = (FLOOD + questions.len()) as f64;
    let accounted = |daemon: &Daemon| {
        answered(daemon) + daemon.metric("orchd_messages_dropped_total{reason=\"queue_full\"}")
    };
    // However long it takes on a slow machine, it never stands still.
    loop {
        let so_far = accounted(&daemon);
        if so_far >= all {
            break;
        }
        let what = format!("more than {so_far} of {all} messages are accounted for");
        daemon.until(&what, |daemon| accounted(daemon) > so_far).await;
    }
    // Reads run side by side, so their answers come in any order.
    let mut open: HashSet<Vec<u8>> = questions.into_iter().collect();
    while !open.is_empty() {
        let Ok(publish) = tokio::time::timeout(LIMIT, app.client.next()).await else {
            panic!("{} answers did not come: {}\n{}", open.len(), daemon.metrics(), daemon.log());
        };
        let reply: Value = serde_json::from_slice(&publish.payload).unwrap();
        assert_eq!(label(&reply), "ok", "{reply}");
        // One that is not open any more came twice, as a reply may.
        open.remove(&publish.properties.unwrap().correlation_data.unwrap()[..]);
    }
    unharmed(&daemon, &mut app).await;
    let growth = daemon.rss().saturating_sub(before);
    assert!(growth < GROWTH, "{growth} bytes more");
    flooder.disconnect().await;
    daemon.terminate().await;
    assert!(audited(&daemon, "malformed") > 0);
}

#[tokio::test]
async fn ten_thousand_messages_at_once_are_all_answered() {
    survives_a_flood(PublishOptions::at_least_once()).await;
}

#[tokio::test]
async fn ten_thousand_messages_at_qos_0_are_answered_or_counted_as_dropped() {
    survives_a_flood(PublishOptions::at_most_once()).await;
}
