//! Clients as people have them: Mosquitto's tools, Python, MQTT 3.1.1, CBOR, and the programs in `examples/`.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ciborium::cbor;
use serde_json::{Value, json};
use support::{
    Asker, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Via, content_type, mosquitto, python,
    rust_example, tool, within,
};

async fn setup() -> Option<(Mosquitto, Daemon)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let daemon = Daemon::start(DaemonOptions::new("n1", Via::Tls(broker.tls_addr(), broker.ca()))).await;
    Some((broker, daemon))
}

/// Runs a program to its end, which has to be a success; what it printed.
async fn run(mut command: Command) -> String {
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// A client program of Mosquitto on the plain listener; `None` when it is not installed.
fn program(name: &str, broker: &Mosquitto, arguments: &[&str]) -> Option<Command> {
    let mut command = Command::new(tool(name)?);
    command.args(["-h", "127.0.0.1", "-p", &broker.addr().port().to_string(), "-q", "1"]).args(arguments);
    Some(command)
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Host, port and CA of the TLS listener, as the examples want them.
fn over_tls(mut command: Command, broker: &Mosquitto) -> Command {
    command.env("MQTT_CA", broker.ca()).env_remove("MQTT_USERNAME").env_remove("MQTT_PASSWORD");
    command.arg("127.0.0.1").arg(broker.tls_addr().port().to_string()).arg("n1");
    command
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

#[tokio::test]
async fn a_bare_payload_from_mosquitto_pub_is_a_command() {
    let Some((broker, daemon)) = setup().await else { return };
    let mut listener = Asker::plain(broker.addr(), "listener").await;
    listener.hear_results().await;
    let arguments = ["-t", "orch/n1/memory/store", "-m", "{\"content\":\"from the shell\"}"];
    let Some(publish) = program("mosquitto_pub", &broker, &arguments) else { return };
    run(publish).await;
    let (topic, reply) = listener.client.next_text().await;
    let reply = json(&reply);
    assert_eq!((topic.as_str(), &reply["status"]), ("orch/n1/results/memory", &json!("ok")), "{reply}");
    let id = json!({ "id": reply["payload"]["id"] });
    assert_eq!(listener.ok(&daemon.topic("memory/get"), id).await["content"], "from the shell");
}

#[tokio::test]
async fn mqtt_3_1_1_has_reply_topic_and_correlation_in_the_envelope() {
    let Some((broker, _daemon)) = setup().await else { return };
    let mut listener = Asker::plain(broker.addr(), "listener").await;
    let envelope = json!({ "message_id": "old-1", "payload": { "action": "I will harm someone" },
        "metadata": { "reply_to": "orch/inbox/listener/old", "correlation_id": "c-311" } });
    let envelope = envelope.to_string();
    let arguments = ["-V", "311", "-t", "orch/n1/conscience/evaluate", "-m", &envelope];
    let Some(publish) = program("mosquitto_pub", &broker, &arguments) else { return };
    run(publish).await;
    let (topic, reply) = listener.client.next_text().await;
    let reply = json(&reply);
    assert_eq!(topic, "orch/inbox/listener/old");
    assert_eq!((&reply["in_reply_to"], &reply["correlation_id"]), (&json!("old-1"), &json!("c-311")));
    assert_eq!(reply["payload"]["approved"], false);
}

#[tokio::test]
async fn mosquitto_rr_asks_and_is_answered() {
    let Some((broker, _daemon)) = setup().await else { return };
    let arguments = ["-V", "5", "-t", "orch/n1/node/ping", "-e", "orch/inbox/shell", "-m", "{}", "-W", "20"];
    let Some(ask) = program("mosquitto_rr", &broker, &arguments) else { return };
    let reply = json(&run(ask).await);
    assert_eq!((&reply["status"], &reply["payload"]["node"]), (&json!("ok"), &json!("n1")));
}

#[tokio::test]
async fn cbor_is_answered_in_cbor() {
    let Some((broker, daemon)) = setup().await else { return };
    let mut app = Asker::over_tls(&broker, "app").await;
    let envelope = cbor!({
        "message_id" => "b-1",
        "payload" => { "content" => "in binary", "importance" => 0.25 },
        "metadata" => { "correlation_id" => "c-1" },
    });
    let bare = cbor!({ "text" => "binary", "consistency" => "latest" });
    let mut replies = Vec::new();
    for (command, value) in [("memory/store", envelope), ("memory/query", bare)] {
        let mut bytes = Vec::new();
        ciborium::into_writer(&value.unwrap(), &mut bytes).unwrap();
        let as_cbor = |properties: &mut rumqttc::mqttbytes::v5::PublishProperties| {
            properties.content_type = Some("application/cbor".to_owned());
        };
        let answer = app.ask_with(&daemon.topic(command), bytes, as_cbor).await;
        assert_eq!(content_type(&answer.publish), Some("application/cbor"));
        assert_eq!(answer.label(), "ok", "{}", answer.reply);
        replies.push(answer.reply);
    }
    assert_eq!((&replies[0]["in_reply_to"], &replies[0]["correlation_id"]), (&json!("b-1"), &json!("c-1")));
    assert_eq!(replies[1]["hits"], Value::Null);
    assert_eq!(replies[1]["payload"]["hits"][0]["content"], "in binary");
    // An error too.
    let broken = |properties: &mut rumqttc::mqttbytes::v5::PublishProperties| {
        properties.content_type = Some("application/cbor".to_owned());
    };
    let answer = app.ask_with(&daemon.topic("memory/query"), vec![0xa1, 0x61], broken).await;
    assert_eq!((answer.label(), content_type(&answer.publish)), ("malformed", Some("application/cbor")));
}

#[tokio::test]
async fn the_example_in_python_asks_with_mqtt_3_1_1() {
    let Some((broker, _daemon)) = setup().await else { return };
    let Some(python) = python() else { return };
    for (action, approved) in [("I will harm someone", false), ("I will help someone in need", true)] {
        let mut command = Command::new(&python);
        command.arg(example("evaluate.py"));
        let mut command = over_tls(command, &broker);
        command.arg(action);
        let verdict = json(&within(run(command)).await);
        assert_eq!(verdict["approved"], approved, "{verdict}");
    }
}

#[tokio::test]
async fn the_example_in_shell_remembers() {
    let Some((broker, daemon)) = setup().await else { return };
    if tool("mosquitto_rr").is_none() {
        return;
    }
    let content = r#"he said "go", and went to C:\"#;
    let mut command = over_tls(Command::new(example("remember.sh")), &broker);
    command.arg(content);
    let reply = json(&within(run(command)).await);
    assert_eq!(reply["status"], "ok", "{reply}");
    let mut app = Asker::over_tls(&broker, "app").await;
    let record = app.ok(&daemon.topic("memory/get"), json!({ "id": reply["payload"]["id"] })).await;
    assert_eq!(record["content"], content);
}

#[tokio::test]
async fn the_example_in_rust_asks_anything() {
    let Some((broker, _daemon)) = setup().await else { return };
    let program = rust_example("ask").await;
    let command = Command::new(program);
    let mut command = over_tls(command, &broker);
    command.args(["memory/store", "{\"content\":\"from Rust\"}"]);
    let reply = json(&run(command).await);
    assert_eq!((&reply["status"], &reply["command"]), (&json!("ok"), &json!("memory/store")), "{reply}");
    // Some 200 kB.
    let mut command = over_tls(Command::new(rust_example("ask").await), &broker);
    command.args(["conscience/rules/list", "{}"]);
    let reply = json(&run(command).await);
    assert_eq!(reply["status"], "ok");
}
