//! The built program as a client: over MQTT against a scripted node, and what it says when there is none.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use orchd::cli::profile::{DEFAULT_TIMEOUT, Profile};
use orchd::clock::Clock;
use orchd::gate::token::{PublicKey, Role, Verifier};
use orchd::mqtt::Login;
use rumqttc::PublishOptions;
use rumqttc::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};
use support::embedded::ROOT;
use support::{Client, Ran, TestBroker, broker, within};
use tokio::task::{JoinHandle, spawn_blocking};

/// The program, with an environment that holds nothing of this machine.
fn orchd(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.current_dir(folder).env_clear().env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs a command to its end without blocking the brokers and nodes of the test.
async fn output(mut command: Command) -> Ran {
    Ran(within(spawn_blocking(move || command.output())).await.unwrap().unwrap())
}

/// A broker, and a client profile that reaches it.
struct Site {
    broker: TestBroker,
    profile: PathBuf,
}

impl Site {
    async fn new() -> Self {
        let broker = broker().await;
        let folder = broker.dir.path();
        let token_file = folder.join("token");
        fs::write(&token_file, format!("{}\n", broker.token(Role::Client, "app"))).unwrap();
        let profile = folder.join("client.toml");
        Profile {
            url: format!("mqtts://127.0.0.1:{}", broker.addr.port()).parse().unwrap(),
            ca_file: Some(broker.ca()),
            identity: None,
            login: Login::Token { username: "app".to_owned(), token_file },
            root: ROOT.to_owned(),
            node: Some("n1".to_owned()),
            name: "app".to_owned(),
            timeout: DEFAULT_TIMEOUT,
            api_key_file: None,
        }
        .write(&profile)
        .unwrap();
        Self { broker, profile }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = orchd(self.broker.dir.path());
        command.args(arguments).arg("--profile").arg(&self.profile);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        output(self.command(arguments)).await
    }

    /// A node that says it is online and answers by `answer`: a payload, or nothing.
    async fn node(&self, name: &'static str, answer: fn(&str, &Value) -> Option<Value>) -> JoinHandle<()> {
        let mut node = self.broker.node(name).await;
        status(&node, name, json!({ "node": name, "state": "online", "version": "9.9", "load1": 0.25 }))
            .await;
        for service in ["conscience", "memory", "node"] {
            node.subscribe(&format!("orch/{name}/{service}/#")).await.unwrap();
        }
        tokio::spawn(async move {
            loop {
                let Some(question) = node.next_or_end().await else { return };
                let topic = String::from_utf8(question.topic.to_vec()).unwrap();
                let command = topic.strip_prefix(&format!("orch/{name}/")).unwrap();
                let asked = serde_json::from_slice(&question.payload).unwrap_or_default();
                let Some(payload) = answer(command, &asked) else { continue };
                let properties = question.properties.unwrap();
                assert!(properties.message_expiry_interval.is_some());
                let message_id = properties.user_properties.iter().find(|(key, _)| key == "message-id");
                let mut reply = json!({
                    "message_id": "r", "in_reply_to": message_id.unwrap().1, "node": name, "command": command,
                    "timestamp": "2026-01-01T00:00:00.000Z", "status": "ok",
                });
                let is_error = payload.get("code").is_some();
                reply["status"] = json!(if is_error { "error" } else { "ok" });
                reply[if is_error { "error" } else { "payload" }] = payload;
                let options = PublishOptions::at_least_once().properties(PublishProperties {
                    correlation_data: properties.correlation_data,
                    ..PublishProperties::default()
                });
                node.publish_with(&properties.response_topic.unwrap(), reply.to_string(), options)
                    .await
                    .unwrap();
            }
        })
    }
}

/// Publishes a retained status.
async fn status(node: &Client, name: &str, status: Value) {
    let retained = PublishOptions::at_least_once().retain(true);
    node.publish_with(&format!("orch/{name}/events/status"), status.to_string(), retained).await.unwrap();
}

fn conscience(command: &str, asked: &Value) -> Option<Value> {
    let verdict = |approved, needs_review| {
        json!({
            "approved": approved, "needs_review": needs_review, "moral_score": -0.5, "explanation": "because",
            "rules": [{ "name": "no-harm", "weight": 10.0, "stance": "forbids", "matched": { "text": "harm" } }],
        })
    };
    match (command, asked["action"].as_str()) {
        ("conscience/evaluate", Some("help")) => Some(verdict(true, false)),
        ("conscience/evaluate", Some("unsure")) => Some(verdict(false, true)),
        ("conscience/evaluate", Some("harm")) => Some(verdict(false, false)),
        ("memory/store", _) if asked["content"] == "the pump rattles" => {
            Some(json!({ "id": "m1", "layer": "short_term" }))
        }
        ("memory/store", _) => {
            Some(json!({ "code": "storage_full", "message": "the disk is full", "retryable": true }))
        }
        ("memory/get", _) => None,
        _ => Some(asked.clone()),
    }
}

#[tokio::test]
async fn evaluate_shows_the_verdict_and_ends_in_0_10_or_11() {
    let site = Site::new().await;
    site.node("n1", conscience).await;
    for (action, code, word) in
        [("help", 0, "approved"), ("harm", 10, "not approved"), ("unsure", 11, "needs review")]
    {
        let ran = site.run(&["evaluate", action]).await;
        assert_eq!(ran.code(), code, "{}", ran.err());
        assert_eq!(
            ran.out(),
            format!(
                "{word}, score -0.50\nbecause\nRULE     STANCE   WEIGHT  MATCHED\nno-harm  forbids  10      harm\n"
            )
        );
    }
    let ran = site.run(&["evaluate", "harm", "--json"]).await;
    assert_eq!((ran.code(), &ran.json()["payload"]["approved"]), (10, &json!(false)));
    assert_eq!(ran.out().lines().count(), 1);
    // A call that is none must not be judged as words.
    let ran = site.run(&["evaluate", r#"{"tool":"write_file","args":{"path":"/etc/x"}"#]).await;
    assert_eq!((ran.code(), ran.out()), (2, ""), "{}", ran.err());
    assert!(ran.err().contains("no JSON object"), "{}", ran.err());
}

#[tokio::test]
async fn call_sends_what_it_is_given_and_an_error_answer_ends_in_1() {
    let site = Site::new().await;
    site.node("n1", conscience).await;
    let ran = site.run(&["call", "node/echo", r#"{"a":[1, 2]}"#]).await;
    assert_eq!((ran.code(), ran.json()), (0, json!({ "a": [1, 2] })), "{}", ran.err());
    // Without a payload there is none, and none comes back.
    let ran = site.run(&["call", "node/echo"]).await;
    assert_eq!((ran.code(), ran.out()), (0, ""));
    let ran = site.run(&["call", "node/echo", "[]", "--json", "--message-id", "m1"]).await;
    assert_eq!((&ran.json()["in_reply_to"], &ran.json()["payload"]), (&json!("m1"), &json!([])));
    let fed = async |arguments: &[&str], input: &'static str| {
        let mut command = site.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ran = spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        Ran(within(ran).await.unwrap())
    };
    assert_eq!(fed(&["call", "node/echo", "-"], "{\n\"b\": 1\n}\n").await.json(), json!({ "b": 1 }));
    let ran = fed(&["remember", "-"], "the pump rattles\n").await;
    assert_eq!((ran.code(), ran.out()), (0, "remembered m1 in short_term\n"), "{}", ran.err());
    let ran = site.run(&["remember", "something"]).await;
    assert_eq!((ran.code(), ran.out(), ran.err()), (1, "", "storage_full: the disk is full\n"));
    let ran = site.run(&["remember", "something", "--json"]).await;
    assert_eq!((ran.code(), &ran.json()["error"]["code"]), (1, &json!("storage_full")));
    for wrong in ["ping", "node/#", "events/status", "../.."] {
        assert_eq!(site.run(&["call", wrong]).await.code(), 2);
    }
    let ran = site.run(&["call", "memroy/store", "{}"]).await;
    assert_eq!(ran.code(), 2);
    assert!(ran.err().contains("no service `memroy`; they have conscience, llm, memory"), "{}", ran.err());
    assert_eq!(site.run(&["call", "node/echo", "{"]).await.code(), 2);
}

#[tokio::test]
async fn no_answer_in_time_ends_in_3_and_says_how_to_repeat_it_safely() {
    let site = Site::new().await;
    site.node("n1", conscience).await;
    let ran = site.run(&["call", "memory/get", "--timeout", "1", "--message-id", "m7"]).await;
    assert_eq!((ran.code(), ran.out()), (3, ""));
    assert!(ran.err().starts_with("no answer within 1 s; a repeat with --message-id m7"), "{}", ran.err());
    let ran = site.run(&["ping", "--node", "stranger", "--timeout", "1"]).await;
    assert_eq!(ran.code(), 3);
    assert!(ran.err().contains("is its name right?"), "{}", ran.err());
    assert!(!ran.err().contains("--message-id"), "it has no such option: {}", ran.err());
    let remember = ["remember", "x", "--node", "stranger", "--timeout", "1", "--message-id", "m8"];
    assert!(site.run(&remember).await.err().contains("a repeat with --message-id m8 takes effect once"));
}

#[tokio::test]
async fn a_node_that_is_offline_is_reported_at_once_and_not_asked() {
    let site = Site::new().await;
    let mut node = site.broker.node("n1").await;
    node.subscribe("orch/n1/node/#").await.unwrap();
    status(&node, "n1", json!({ "state": "offline", "since": "2026-01-01T00:00:00.000Z" })).await;
    let ran = site.run(&["ping", "--timeout", "600"]).await;
    assert_eq!(ran.code(), 4);
    assert!(ran.err().starts_with("n1 is offline since 2026-01-01T00:00:00Z ("), "{}", ran.err());
    // What another client asks next is the first that the node hears.
    site.broker.client("other").await.publish("orch/n1/node/marker", "").await.unwrap();
    assert_eq!(node.next_text().await.0, "orch/n1/node/marker");
}

#[tokio::test]
async fn a_broker_that_is_away_or_refuses_ends_in_4_and_a_missing_file_in_2() {
    let mut site = Site::new().await;
    fs::write(site.broker.dir.path().join("token"), "sesame").unwrap();
    let ran = site.run(&["ping"]).await;
    assert_eq!(ran.code(), 4, "{}", ran.err());
    assert!(!ran.err().contains("sesame"), "{}", ran.err());
    site.broker.stop().await;
    for command in [&["ping"][..], &["nodes"], &["watch"]] {
        let ran = site.run(command).await;
        assert_eq!((ran.code(), ran.out()), (4, ""), "{}", ran.err());
    }
    fs::remove_file(site.broker.dir.path().join("token")).unwrap();
    assert_eq!(site.run(&["ping"]).await.code(), 2);
}

#[tokio::test]
async fn nodes_lists_who_is_there_with_state_version_and_load() {
    let site = Site::new().await;
    assert_eq!(site.run(&["nodes"]).await.out(), "the broker knows of no node\n");
    site.node("n2", conscience).await;
    let gone = site.broker.node("n1").await;
    status(&gone, "n1", json!({ "state": "offline", "since": "2026-01-01T00:00:00.000Z", "load1": 9.0 }))
        .await;
    let ran = site.run(&["nodes"]).await;
    let lines: Vec<_> = ran.out().lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.out());
    assert!(
        lines[1].starts_with("n1    offline  2026-01-01T00:00:00Z (") && !lines[1].contains("9.00"),
        "{}",
        ran.out()
    );
    assert!(lines[2].starts_with("n2    online ") && lines[2].ends_with("9.9      0.25"), "{}", ran.out());
    let listed = site.run(&["nodes", "--json"]).await.json();
    assert_eq!((&listed["nodes"][0]["node"], &listed["nodes"][1]["node"]), (&json!("n1"), &json!("n2")));
    assert_eq!(
        site.run(&["nodes", "--node", "n2", "--json"]).await.json()["nodes"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn watch_shows_events_as_they_come_and_ends_after_count() {
    let site = Site::new().await;
    let node = site.broker.node("n1").await;
    status(&node, "n1", json!({ "state": "online", "uptime_s": 5 })).await;
    let ran = site.run(&["watch", "--count", "1"]).await;
    assert_eq!((ran.code(), ran.out()), (0, "n1 status state=online uptime_s=5\n"), "{}", ran.err());
    // What comes later: told until it was seen, because nobody knows when the other listens.
    let mut watching = site.command(&["watch", "memory", "jobs", "--count", "2", "--json"]);
    let watching = spawn_blocking(move || watching.output());
    let telling = async {
        loop {
            node.publish("orch/n1/events/heartbeat", "{}").await.unwrap();
            node.publish("orch/n1/events/memory", r#"{"id":"x"}"#).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let ran = within(async {
        tokio::select! { () = telling => unreachable!(), ran = watching => Ran(ran.unwrap().unwrap()) }
    })
    .await;
    let expected = json!({ "topic": "orch/n1/events/memory", "payload": { "id": "x" } });
    let lines: Vec<Value> = ran.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.code(), lines), (0, vec![expected.clone(), expected]), "{}", ran.err());
    assert_eq!(site.run(&["watch", "jobs", "--timeout", "1"]).await.code(), 3);
}

#[tokio::test]
async fn watch_ends_when_nobody_reads_it_any_more() {
    let site = Site::new().await;
    let node = site.broker.node("n1").await;
    status(&node, "n1", json!({ "state": "online", "uptime_s": 5 })).await;
    let mut watching = site.command(&["watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = watching.stdout.take().unwrap();
    let first = spawn_blocking(move || BufReader::new(out).read_line(&mut String::new()).unwrap());
    assert!(within(first).await.unwrap() > 0);
    let ended = spawn_blocking(move || watching.wait().unwrap());
    let telling = async {
        loop {
            node.publish("orch/n1/events/heartbeat", "{}").await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let ended = within(async {
        tokio::select! { () = telling => unreachable!(), ended = ended => ended.unwrap() }
    });
    assert_eq!(ended.await.code(), Some(0));
}

#[tokio::test]
async fn who_watches_goes_on_when_the_broker_is_back() {
    let mut site = Site::new().await;
    let node = site.broker.node("n1").await;
    status(&node, "n1", json!({ "state": "online", "uptime_s": 5 })).await;
    let mut watch = site.command(&["watch", "status", "--count", "2"]);
    let mut watching = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap());
    let first = spawn_blocking(move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        (line, out)
    });
    let (line, mut out) = within(first).await.unwrap();
    assert_eq!(line, "n1 status state=online uptime_s=5\n");

    site.broker.stop().await;
    site.broker.start().await;
    let node = site.broker.node("n1").await;
    status(&node, "n1", json!({ "state": "online", "uptime_s": 6 })).await;
    let rest = spawn_blocking(move || {
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        (rest, watching.wait_with_output().unwrap())
    });
    let (rest, ended) = within(rest).await.unwrap();
    let ended = Ran(ended);
    assert_eq!((ended.code(), &*rest), (0, "n1 status state=online uptime_s=6\n"), "{}", ended.err());
    assert!(ended.err().contains("; trying again"), "{}", ended.err());
}

#[tokio::test]
async fn the_profile_is_found_where_it_is_said_to_be() {
    let site = Site::new().await;
    site.node("n1", conscience).await;
    let folder = tempfile::tempdir().unwrap();
    let ping = |set: &[(&str, &Path)]| {
        let mut command = orchd(folder.path());
        command.args(["ping", "--json"]).envs(set.iter().map(|(name, value)| (*name, value.as_os_str())));
        output(command)
    };
    assert_eq!(ping(&[("ORCHD_PROFILE", &site.profile)]).await.code(), 0);
    // Found by folder: its relative paths start from there.
    let found = folder.path().join("orchd");
    std::os::unix::fs::symlink(site.broker.dir.path(), &found).unwrap();
    assert_eq!(ping(&[("XDG_CONFIG_HOME", folder.path())]).await.code(), 0);
    let ran = ping(&[("ORCHD_PROFILE", Path::new("none.toml"))]).await;
    assert_eq!(ran.code(), 2);
    assert!(ran.err().starts_with("none.toml:1: cannot be read"), "{}", ran.err());
    let has_its_own =
        ["client.toml", "orchd.toml"].iter().any(|name| Path::new("/etc/orchd").join(name).exists());
    if !has_its_own {
        let ran = ping(&[]).await;
        assert_eq!(ran.code(), 2);
        assert!(ran.err().contains("--profile") && ran.err().contains("--config"), "{}", ran.err());
    }
}

#[tokio::test]
async fn a_configuration_that_is_named_means_its_control_socket() {
    let site = Site::new().await;
    let folder = site.broker.dir.path();
    fs::write(
        folder.join("orchd.toml"),
        "[node]\nname = \"n1\"\nstate_dir = \"state\"\n[broker]\nurl = \"mqtts://b\"\n",
    )
    .unwrap();
    let mut command = orchd(folder);
    command.args(["ping", "--config", "orchd.toml"]).env("ORCHD_PROFILE", &site.profile);
    let ran = output(command).await;
    assert_eq!(ran.code(), 4);
    assert!(ran.err().contains("control.sock") && ran.err().contains("is it running?"), "{}", ran.err());
    let mut command = orchd(folder);
    command.args(["ping", "--config", "orchd.toml", "--node", "n2"]);
    assert_eq!(output(command).await.code(), 2);
}

#[tokio::test]
async fn a_minted_token_is_believed_and_keys_are_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = orchd(folder.path());
        command.args(arguments);
        output(command)
    };
    assert_eq!(run(&["token", "key", "--out", "jwt.key"]).await.code(), 0);
    let private = folder.path().join("jwt.key");
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&private).unwrap();
    assert_eq!(run(&["token", "key", "--out", "jwt.key"]).await.code(), 2);
    assert_eq!(fs::read(&private).unwrap(), before);
    let mint = ["token", "mint", "--key", "jwt.key", "--role", "client", "--ttl", "1h", "--subject"];
    let minted = run(&[&mint[..], &["app"]].concat()).await;
    assert_eq!(minted.code(), 0, "{}", minted.err());
    let key = PublicKey::from_pem_file(&folder.path().join("jwt.pub.pem")).unwrap();
    let claims = Verifier::new(vec![key], "orchd", "orch")
        .verify(minted.out().trim_end(), Clock::system().now())
        .unwrap();
    assert_eq!((claims.sub.as_str(), claims.role, claims.exp - claims.iat), ("app", Role::Client, 3_600));
    assert_eq!(run(&[&mint[..], &["results"]].concat()).await.code(), 2);
}
