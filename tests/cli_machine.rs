//! The built program on one machine: a broker and a node as processes, the client commands on both ways to it, and
//! the ledger while the node is stopped.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use mqtt5::packet::Packet;
use orchd::broker::certs::TrialAuthority;
use orchd::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Peer, ScriptedBroker};

/// The program, with an environment that holds nothing of this machine.
fn orchd(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.current_dir(folder).env_clear().env("NO_COLOR", "1").stdin(Stdio::null()).args(arguments);
    command
}

/// A process that ends with the value.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Stops it as a service manager does; how it ended.
    fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = orchd(folder, arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Runs it, and it has to end in 0; what it printed.
fn good(folder: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = run(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {out} {err}");
    out
}

/// A folder with certificates, keys, a configuration for broker and node, and the running broker; its address.
fn site() -> (tempfile::TempDir, Running, String) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let authority = TrialAuthority::open_or_create(&folder.join("certs"), Clock::system().now()).unwrap();
    authority.issue_server(&[]).unwrap();
    good(folder, &["token", "key", "--out", "jwt.key"]);
    let token = good(folder, &["token", "mint", "--key", "jwt.key", "--role", "client", "--subject", "app"]);
    fs::write(folder.join("token"), token).unwrap();
    let config = "[node]\nname = \"n1\"\nstate_dir = \"state\"\n\
        [broker]\nurl = \"mqtts://127.0.0.1:1\"\nca_file = \"certs/ca.pem\"\nauth = \"jwt\"\njwt_key_file = \"jwt.key\"\n\
        [observe]\nlisten = \"\"\nheartbeat_s = 1\n\
        [listener]\naddress = \"127.0.0.1:0\"\ncert_file = \"certs/server.pem\"\nkey_file = \"certs/server-key.pem\"\n\
        trusted_key_files = [\"jwt.pub.pem\"]\n";
    fs::write(folder.join("orchd.toml"), config).unwrap();
    let mut broker = Running::start(orchd(folder, &["broker", "--config", "orchd.toml"]));
    let mut url = String::new();
    BufReader::new(broker.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let url = url.trim().to_owned();
    let profile = format!(
        "node = \"n1\"\nname = \"app\"\n[broker]\nurl = \"{url}\"\nca_file = \"certs/ca.pem\"\ntoken_file = \"token\"\n"
    );
    fs::write(folder.join("client.toml"), profile).unwrap();
    (dir, broker, url)
}

fn node(folder: &Path, url: &str) -> Running {
    let set = format!("broker.url={url}");
    let node = Running::start(orchd(folder, &["run", "--config", "orchd.toml", "--set", &set]));
    good(folder, &["watch", "status", "--count", "1", "--timeout", "30", "--profile", "client.toml"]);
    node
}

#[test]
fn both_ways_reach_the_same_node() {
    let (dir, broker, url) = site();
    let folder = dir.path();
    let node = node(folder, &url);
    for (way, word) in
        [(["--profile", "client.toml"], "marmalade"), (["--config", "orchd.toml"], "telescope")]
    {
        let ask = |arguments: &[&str]| run(folder, &[arguments, &way].concat());
        assert_eq!(ask(&["ping"]).0, 0);
        let (code, out, err) = ask(&["status"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("n1") && out.contains("online"), "{out}");
        assert!(ask(&["nodes"]).1.lines().nth(1).unwrap().starts_with("n1    online"));
        assert_eq!(ask(&["evaluate", "I will help someone in need"]).0, 0);
        assert_eq!(ask(&["evaluate", "I will harm someone"]).0, 10);
        let content = format!("the {word} is blue");
        let (code, out, err) = ask(&["remember", &content, "--tag", "colour", "--layer", "semantic"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("remembered ") && out.ends_with(" in semantic\n"), "{out}");
        let (_, out, _) = ask(&["recall", word]);
        assert!(out.contains(&content), "{out}");
        let (_, out, _) = ask(&["recall", word, "--layer", "episodic"]);
        assert_eq!(out, "nothing found\n");
        let (code, out, _) = ask(&["remember", "x", "--layer", "attic", "--json"]);
        let reply: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &reply["status"], &reply["error"]["code"]),
            (1, &"error".into(), &"invalid".into())
        );
        assert_eq!(ask(&["call", "node/nothing"]).0, 1);
    }
    assert_eq!(run(folder, &["ping", "--config", "orchd.toml", "--node", "n2"]).0, 2);
    let watch = ["watch", "--count", "1", "--timeout", "60", "--config", "orchd.toml"];
    assert_eq!(run(folder, &[&watch[..], &["heartbeat"]].concat()).0, 0);
    assert_eq!(node.stop(), Some(0));
    let (code, _, err) = run(folder, &["ping", "--profile", "client.toml"]);
    assert!(code == 4 && err.starts_with("n1 is offline since "), "{err}");
    assert_eq!(run(folder, &["ping", "--config", "orchd.toml"]).0, 4);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn the_ledger_is_checked_and_rolled_back_only_while_the_node_is_stopped() {
    let (dir, _broker, url) = site();
    let folder = dir.path();
    let ledger =
        |arguments: &[&str]| run(folder, &[&["ledger"], arguments, &["--config", "orchd.toml"]].concat());
    let (code, _, err) = ledger(&["verify"]);
    assert!(code == 1 && !folder.join("state").exists(), "{err}");

    let running = node(folder, &url);
    good(folder, &["remember", "one", "--config", "orchd.toml"]);
    for command in ["verify", "rollback"] {
        let (code, _, err) = ledger(&[command]);
        assert!(code == 1 && err.contains("stop it first"), "{err}");
    }
    assert_eq!(running.stop(), Some(0));
    let (code, out, err) = ledger(&["verify"]);
    assert!(code == 0 && out.starts_with("generation 1 is whole; "), "{out} {err}");
    let (code, _, err) = ledger(&["rollback", "--yes"]);
    assert!(code == 1 && err.contains("no copy of an older schema"), "{err}");

    // As a migration would have put it aside, before one more command.
    let current = folder.join("state/current");
    fs::copy(current.join("ledger.db"), current.join("ledger.schema-1.db")).unwrap();
    let running = node(folder, &url);
    good(folder, &["remember", "two", "--config", "orchd.toml"]);
    assert_eq!(running.stop(), Some(0));
    let (code, _, err) = ledger(&["rollback"]);
    assert!(code == 2 && err.contains("back to 1") && err.contains("nothing was changed"), "{err}");
    assert_eq!(fs::read_link(&current).unwrap(), Path::new("gen-1"));
    assert_eq!(ledger(&["rollback", "--yes"]).0, 0);
    assert_eq!(fs::read_link(&current).unwrap(), Path::new("gen-2"));
    assert_eq!(ledger(&["verify"]).0, 0);

    let database = rusqlite::Connection::open(current.join("ledger.db")).unwrap();
    database
        .execute_batch(
            "DROP TRIGGER audit_is_append_only_update; UPDATE audit SET principal = 'me' WHERE seq = 1",
        )
        .unwrap();
    drop(database);
    let (code, _, err) = ledger(&["verify"]);
    assert!(code == 1 && err.contains("the audit trail breaks at record 1"), "{err}");
}

#[tokio::test]
async fn a_node_that_cannot_say_goodbye_leaves_it_to_its_last_will() {
    let broker = ScriptedBroker::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[node]\nname = \"n1\"\nstate_dir = \"state\"\n[broker]\nurl = \"mqtt://{}\"\n\
        [observe]\nlisten = \"\"\nheartbeat_s = 3600\n",
        broker.addr()
    );
    fs::write(dir.path().join("orchd.toml"), config).unwrap();
    let node = Running::start(orchd(dir.path(), &["run", "--config", "orchd.toml"]));
    let (mut peer, _) = broker.accept_and_grant().await;
    let next = async |peer: &mut Peer| loop {
        match peer.next().await {
            // Events come at QoS 0 and want nothing.
            Some(Packet::Publish(publish)) if publish.packet_id.is_none() => {}
            // Of what it shares with others; it stops whether that is answered or not.
            Some(Packet::Unsubscribe(_)) => {}
            other => return other,
        }
    };
    // The birth: status and capabilities.
    for _ in 0..2 {
        let Some(Packet::Publish(birth)) = next(&mut peer).await else { panic!("expected the birth") };
        peer.puback(birth.packet_id.unwrap()).await;
    }
    kill_process(Pid::from_child(&node.0), Signal::TERM).unwrap();
    let Some(Packet::Publish(goodbye)) = next(&mut peer).await else { panic!("expected the goodbye") };
    assert_eq!(goodbye.topic_name, "orch/n1/events/status");
    // It is not acknowledged. A DISCONNECT would make the broker forget the last will.
    assert!(next(&mut peer).await.is_none());
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_broker_whose_address_is_taken_says_so() {
    let (dir, _broker, url) = site();
    let set = format!("listener.address={}", url.strip_prefix("mqtts://").unwrap());
    let mut child = orchd(dir.path(), &["broker", "--config", "orchd.toml", "--set", &set]);
    let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(err.contains("listener.address"), "{err}");
}
