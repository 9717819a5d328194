//! What a node shows of itself on a real Mosquitto, and how it goes.

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use orchd::clock::{Clock, Timestamp};
use rustix::process::Signal;
use serde_json::Value;
use support::{Asker, Client, Daemon, DaemonOptions, MosquittoOptions, Ran, Via, mosquitto, within};
use tokio::task::spawn_blocking;

/// The next message on a topic that ends like this, as JSON, with its retain flag.
async fn next(client: &mut Client, tail: &str) -> (Value, bool) {
    loop {
        let publish = client.next().await;
        if publish.topic.ends_with(tail.as_bytes()) {
            return (serde_json::from_slice(&publish.payload).unwrap(), publish.retain);
        }
    }
}

#[tokio::test]
async fn a_node_is_born_beats_stops_and_is_missed() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let options = DaemonOptions::new("n1", Via::Tls(broker.tls_addr(), broker.ca()));
    let mut daemon = Daemon::start(options.set("observe.heartbeat_s=1")).await;

    let watcher = Client::connect(rumqttc::MqttOptions::new("watcher", ("127.0.0.1", broker.addr().port())));
    let mut watcher = watcher.await.unwrap();
    watcher.subscribe("orch/n1/events/capabilities").await.unwrap();
    let (capabilities, retained) = next(&mut watcher, "/capabilities").await;
    assert!(retained);
    assert_eq!(capabilities["node"], "n1");
    let commands = capabilities["commands"].as_array().unwrap();
    let store = commands.iter().find(|command| command["command"] == "memory/store").unwrap();
    assert_eq!(store["kind"], "write");

    watcher.subscribe("orch/n1/events/status").await.unwrap();
    let (status, retained) = next(&mut watcher, "/status").await;
    assert!(retained);
    assert_eq!((&status["state"], &status["node"]), (&"online".into(), &"n1".into()));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));

    watcher.subscribe("orch/n1/events/heartbeat").await.unwrap();
    for _ in 0..2 {
        let (beat, retained) = next(&mut watcher, "/heartbeat").await;
        assert!(!retained);
        for field in ["uptime_s", "rss_bytes", "cpu_seconds", "queue_depth", "version"] {
            assert!(!beat[field].is_null(), "{field} in {beat}");
        }
    }

    daemon.terminate().await;
    let stopped = loop {
        let (status, _) = next(&mut watcher, "/status").await;
        if status["state"] == "offline" {
            break status;
        }
    };
    assert_eq!(stopped["reason"], "stopped");

    daemon.start_again().await;
    while next(&mut watcher, "/status").await.0["state"] != "online" {}
    daemon.kill();
    let lost = loop {
        let (status, _) = next(&mut watcher, "/status").await;
        if status["state"] == "offline" {
            break status;
        }
    };
    assert_eq!(lost["reason"], "connection lost");
    assert_eq!(lost["connected"], false);
}

/// A profile of a client that asks `n1`.
fn profile(folder: &Path, addr: SocketAddr) {
    let text = format!("name = \"app\"\nnode = \"n1\"\n[broker]\nurl = \"mqtt://{addr}\"\n");
    std::fs::write(folder.join("client.toml"), text).unwrap();
}

/// Runs `orchd` against a broker's plain listener; its exit code, output and complaint.
async fn cli(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command.args(arguments).args(["--profile", "client.toml"]);
    Ran(within(spawn_blocking(move || command.output())).await.unwrap().unwrap())
}

/// A node that has been up for some seconds is lost: it is gone since then, and not since it had connected.
async fn is_lost(addr: SocketAddr, mut daemon: Daemon) {
    let folder = tempfile::tempdir().unwrap();
    profile(folder.path(), addr);
    let mut watcher =
        Client::connect(rumqttc::MqttOptions::new("watcher", ("127.0.0.1", addr.port()))).await.unwrap();
    watcher.subscribe("orch/n1/events/status").await.unwrap();
    while next(&mut watcher, "/status").await.0["uptime_s"].as_u64().unwrap() < 4 {}

    let killed = Clock::system().now();
    daemon.kill();
    let will = loop {
        let (status, _) = next(&mut watcher, "/status").await;
        if status["state"] == "offline" {
            break status;
        }
    };
    let noticed = Clock::system().now();
    assert!(will["since"].is_null(), "it cannot know: {will}");
    let made = Timestamp::parse(will["connected_since"].as_str().unwrap()).unwrap();
    assert!(made < killed.plus_millis(-3_000), "{will}");
    // Within its first second the broker has counted nothing.
    let since = loop {
        let ran = cli(folder.path(), &["nodes", "--json"]).await;
        if let Some(since) = ran.json()["nodes"][0]["since"].as_str() {
            break Timestamp::parse(since).unwrap();
        }
    };
    // The broker counts in whole seconds.
    assert!(
        since > killed.plus_millis(-2_000) && since < noticed.plus_millis(2_000),
        "{since}, killed {killed}"
    );
    let ping = cli(folder.path(), &["ping"]).await;
    assert!(ping.code() == 4 && ping.err().starts_with("n1 is offline since 2"), "{}", ping.err());
}

#[tokio::test]
async fn a_node_that_was_lost_is_gone_since_then_and_not_since_it_had_connected() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let options = DaemonOptions::new("n1", Via::Tls(broker.tls_addr(), broker.ca()));
    let daemon = Daemon::start(options.set("observe.heartbeat_s=1")).await;
    is_lost(broker.addr(), daemon).await;
}

#[tokio::test]
async fn what_any_node_may_answer_is_answered_while_one_stops_and_when_it_is_gone() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let node =
        async |name| Daemon::start(DaemonOptions::new(name, Via::Tls(broker.tls_addr(), broker.ca()))).await;
    let (mut first, _second) = (node("n1").await, node("n2").await);
    let mut app = Asker::plain(broker.addr(), "app").await;
    let mut asked = Vec::new();
    for _ in 0..20 {
        asked.push(app.send("orch/any/node/ping", "{}", |_| {}).await);
    }
    // While the first stops, and when it has.
    first.signal(Signal::TERM);
    for _ in 0..40 {
        asked.push(app.send("orch/any/node/ping", "{}", |_| {}).await);
    }
    assert_eq!(within(first.exit()).await.code(), Some(0));
    for _ in 0..20 {
        asked.push(app.send("orch/any/node/ping", "{}", |_| {}).await);
    }
    let mut open: BTreeSet<Vec<u8>> = asked.into_iter().collect();
    let mut by_second = 0;
    while !open.is_empty() {
        let publish = app.client.next().await;
        let correlation = publish.properties.and_then(|properties| properties.correlation_data).unwrap();
        let reply: Value = serde_json::from_slice(&publish.payload).unwrap();
        assert_eq!(reply["status"], "ok", "{reply}");
        by_second += u32::from(open.remove(&correlation[..]) && reply["node"] == "n2");
    }
    assert!(by_second >= 20, "{by_second}");

    // It takes its share again.
    first.start_again().await;
    let mut nodes = BTreeSet::new();
    while nodes.len() < 2 {
        let reply = app.ask("orch/any/node/ping", Value::Null).await;
        nodes.insert(reply["node"].as_str().unwrap().to_owned());
    }
}

#[tokio::test]
async fn a_node_says_when_the_broker_takes_nothing_from_it() {
    // Mosquitto grants every subscription, and keeps what it forbids to itself.
    let acl = "topic readwrite orch/another/#\n".to_owned();
    let Some(broker) = mosquitto(MosquittoOptions { acl: Some(acl), ..MosquittoOptions::default() }).await
    else {
        return;
    };
    let mut daemon = Daemon::spawn(DaemonOptions::new("n1", Via::Tls(broker.tls_addr(), broker.ca()))).await;
    daemon
        .until("the refusal is told", |daemon| daemon.log().contains("refuses what the node publishes"))
        .await;
    let (status, reasons) = daemon.http("/health/ready").unwrap();
    assert!(status == 503 && reasons.contains("check its access rules"), "{reasons}");
    daemon.terminate().await;
}

#[tokio::test]
async fn the_load_is_told_where_a_node_sees_only_its_own_processes() {
    // As ProcSubset=pid of the unit has it.
    const BARE: &str = "mount -t proc -o subset=pid proc /proc && exec \"$@\"";
    let through = ["unshare", "-m", "sh", "-c", BARE, "sh"];
    let tried = Command::new(through[0]).args(&through[1..]).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine does not let us mount /proc");
        return;
    }
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.through = through.map(str::to_owned).into();
    let _daemon = Daemon::start(options).await;
    let mut app = Asker::plain(broker.addr(), "app").await;
    let status = app.ok("orch/n1/node/status", Value::Null).await;
    assert!(status["load1"].as_f64().unwrap() >= 0.0, "{status}");
}

#[tokio::test]
async fn a_broker_that_takes_small_packets_only_is_said_to_and_the_node_serves() {
    let options = MosquittoOptions { max_packet_size: Some(3_000), ..MosquittoOptions::default() };
    let Some(broker) = mosquitto(options).await else { return };
    let mut daemon = Daemon::spawn(DaemonOptions::new("n1", Via::Plain(broker.addr()))).await;
    daemon.until("it is told", |daemon| daemon.log().contains("no packet as large")).await;
    daemon.ready().await;
    assert!(!daemon.log().contains("access rules"), "{}", daemon.log());
    let folder = tempfile::tempdir().unwrap();
    profile(folder.path(), broker.addr());
    let ran = cli(folder.path(), &["remember", &"x".repeat(4_000)]).await;
    assert!(ran.code() == 4 && ran.err().contains("takes packets of at most 3000 bytes"), "{}", ran.err());
    assert_eq!(cli(folder.path(), &["remember", "a little"]).await.code(), 0);
}
