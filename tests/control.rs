//! The control socket: the same commands without a broker, for who may open the file.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use support::{Daemon, DaemonOptions, Via, label, within};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

struct Control(BufReader<UnixStream>);

impl Control {
    async fn open(daemon: &Daemon) -> Self {
        Self(BufReader::new(UnixStream::connect(daemon.control_socket()).await.unwrap()))
    }

    async fn send(&mut self, line: &str) {
        within(self.0.write_all(format!("{line}\n").as_bytes())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let mut line = String::new();
        within(self.0.read_line(&mut line)).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn call(&mut self, call: Value) -> Value {
        self.send(&json!({ "call": call }).to_string()).await;
        self.next().await
    }
}

/// A node whose broker is not there: nobody listens on port 1.
async fn lonely() -> Daemon {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let options = DaemonOptions::new("alone", Via::Plain(nowhere)).set("observe.heartbeat_s=1");
    let mut daemon = Daemon::spawn(options).await;
    daemon.until("the control socket is there", |daemon| daemon.control_socket().exists()).await;
    daemon
}

#[tokio::test]
async fn commands_work_without_a_broker_and_are_recorded_as_local() {
    let mut daemon = lonely().await;
    let mode = std::fs::metadata(daemon.control_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut control = Control::open(&daemon).await;
    let store = json!({ "command": "memory/store", "message_id": "s-1", "payload": { "content": "here" } });
    let stored = control.call(store.clone()).await;
    assert_eq!((label(&stored), &stored["in_reply_to"]), ("ok", &json!("s-1")), "{stored}");
    assert_eq!(control.call(store).await["message_id"], stored["message_id"]);
    let other = json!({ "command": "memory/store", "message_id": "s-1", "payload": { "content": "there" } });
    assert_eq!(label(&control.call(other).await), "conflict");
    assert_eq!(label(&control.call(json!({ "command": "node/ping" })).await), "ok");
    assert_eq!(label(&control.call(json!({ "command": "kitchen/cook" })).await), "unknown_command");
    let rebuilt = control.call(json!({ "command": "memory/rebuild" })).await;
    assert_eq!(rebuilt["payload"]["records"], 1, "{rebuilt}");

    daemon.terminate().await;
    let ledger = daemon.ledger();
    let others: i64 = ledger
        .query_row("SELECT count(*) FROM audit WHERE principal <> 'local'", [], |row| row.get(0))
        .unwrap();
    let stores: i64 = ledger
        .query_row(
            "SELECT count(*) FROM audit WHERE command = 'memory/store' AND outcome = 'ok'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!((others, stores), (0, 1));
    assert!(orchd::ledger::audit::verify(&ledger).unwrap().is_ok());
}

#[tokio::test]
async fn a_malformed_line_is_answered_and_the_next_one_served() {
    let daemon = lonely().await;
    let mut control = Control::open(&daemon).await;
    for line in ["not json", "{}", "{\"call\":{}}", "{\"shout\":{}}", "\u{0}", "[]", ""] {
        control.send(line).await;
        assert_eq!(control.next().await["error"]["code"], "malformed", "{line:?}");
    }
    assert_eq!(label(&control.call(json!({ "command": "node/ping" })).await), "ok");
}

#[tokio::test]
async fn who_watches_hears_every_event() {
    let daemon = lonely().await;
    let mut watcher = Control::open(&daemon).await;
    watcher.send("{\"watch\":{}}").await;
    // The watch has begun when the first event has come.
    let beat = watcher.next().await;
    assert_eq!(beat["topic"], "orch/alone/events/heartbeat");
    assert_eq!(beat["payload"]["connected"], false);
    let mut control = Control::open(&daemon).await;
    assert_eq!(label(&control.call(json!({ "command": "memory/rebuild" })).await), "ok");
    let news = loop {
        let event = watcher.next().await;
        if event["topic"] == "orch/alone/events/jobs" {
            break event;
        }
    };
    assert_eq!(news["payload"]["command"], "memory/rebuild");
}
