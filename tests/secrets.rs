//! Nothing secret where it does not belong: marked secrets are planted everywhere, and then searched for.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::gate::{Attempt, NO_LIMITS, files_with, id, jwt, keys, nonce, ping};
use support::{Asker, Daemon, DaemonOptions, MosquittoOptions, Via, label, mosquitto, within};

/// Begins every planted secret.
const MARK: &str = "PLANTED0secret0";

fn plant(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, format!("{MARK}{name}-of-more-than-thirty-two-bytes")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn orchd(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_orchd"))
        .env_remove("ORCHD_PROFILE")
        .args(arguments)
        .arg("--config")
        .arg(daemon.config())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn planted_secrets_are_found_nowhere() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let plant = |name| plant(dir.path(), name);
    // Nobody listens where the models and the keys would be.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (password, hs256, model) = (plant("password"), plant("hs256"), plant("model"));
    let (backup, s3) = (plant("backup"), plant("s3"));
    let lines = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| {
        let value = fs::read_to_string(&s3).unwrap();
        format!("{name}={value}\n")
    });
    fs::write(&s3, lines.concat()).unwrap();
    let repository = dir.path().join("repository");
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()))
        .set("broker.auth=password")
        .set("broker.username=n1")
        .set(&format!("broker.password_file={password}"));
    options.extra = format!(
        "[auth]\nmode = \"required\"\nhs256_secret_file = {hs256:?}\njwks_url = \"http://{nowhere}/jwks\"\n{NO_LIMITS}\n\
         [llm]\nremote_url = \"http://{nowhere}\"\nremote_model = \"m\"\nremote_key_file = {model:?}\n\
         [phoenix]\nrepository = {repository:?}\npassword_file = {backup:?}\ns3_credentials_file = {s3:?}\n\
         [memory]\narchive = \"s3:http://{nowhere}/bucket\"\ns3_credentials_file = {s3:?}\n\
         [log]\nfilter = \"debug,orchd=trace\"\n"
    );
    let mut daemon = Daemon::start(options).await;
    let mut app = Asker::plain(broker.addr(), "app").await;
    let mut listener = Asker::plain(broker.addr(), "listener").await;
    listener.client.subscribe("orch/n1/events/#").await.unwrap();
    app.hear_results().await;

    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let secret = key.rsplit('_').next().unwrap().to_owned();
    let token = jwt(json!({ "alg": "HS256" }), json!({}), &fs::read_to_string(&hs256).unwrap());
    let note = format!("{MARK}note");

    // Good and bad credentials, every way that a command can fail, and payloads that are nobody else's business.
    let mut answers = Vec::new();
    let forged = format!("orchd_{}_{}", id(&key), MARK);
    for attempt in [
        ping().bearer(&key),
        ping().bearer(&token),
        ping().bearer(&forged),
        ping().bearer(&format!("{token}{MARK}")),
        ping().bearer(&format!("{MARK}.{MARK}.{MARK}")),
        ping().signed(&key, &nonce(1), 0),
        ping().signed(&key, &nonce(1), 0),
        ping().signed(&key, &nonce(2), -900),
        ping().signed(&key, &nonce(3), 0).with("x-signature", format!("v1:{}:{}", id(&key), "0".repeat(64))),
        ping().with("x-signature", MARK),
        Attempt::new("memory/store", &json!({ "content": note })).bearer(&key),
        Attempt::new("memory/store", &json!({ "content": note, "layer": note })).bearer(&key),
        Attempt::new("memory/get", &json!({ "id": note })).bearer(&key),
        Attempt::new("llm/complete", &json!({ "prompt": note })).bearer(&key),
        Attempt::new("memory/query", &json!({ "text": note })).bearer(&key),
        Attempt::new("memory/archive", &json!({ "before": "2020-01" })).bearer(&key),
        Attempt::new("memory/import", &json!({ "file": "a.jsonl", "from_storage": true })).bearer(&key),
        Attempt::new("phoenix/backup", &json!({})).bearer(&key),
        Attempt::new(&format!("node/{MARK}"), &json!({})).bearer(&key),
        Attempt { payload: format!("{{\"{MARK}\""), ..ping() }.bearer(&key),
    ] {
        answers.push(attempt.send(&mut app).await);
    }
    assert!(
        answers.iter().filter(|answer| answer.label() == "ok").count() >= 4,
        "most of it would prove nothing"
    );
    let audited = "unauthenticated";
    daemon.until("refusals are recorded", |daemon| orchd(daemon, &["audit", "tail"]).contains(audited)).await;

    // What an operator looks at.
    let status = app
        .ask_with("orch/n1/node/status", "{}", |publish| {
            publish.user_properties = vec![("authorization".to_owned(), key.clone())];
        })
        .await;
    assert_eq!(label(&status.reply), "ok");
    let mut shown = vec![
        ("status", status.reply.to_string()),
        ("log", daemon.log()),
        ("metrics", daemon.metrics()),
        ("config show", orchd(&daemon, &["config", "show"])),
        ("config check", orchd(&daemon, &["config", "check"])),
        ("keys list", orchd(&daemon, &["keys", "list"])),
        ("keys show", orchd(&daemon, &["keys", "show", "app"])),
        ("audit", orchd(&daemon, &["audit", "export"])),
        ("health", format!("{:?}", daemon.http("/health/ready"))),
    ];
    let process = format!("/proc/{}", daemon.pid());
    for file in ["environ", "cmdline"] {
        shown.push((
            file,
            String::from_utf8_lossy(&fs::read(format!("{process}/{file}")).unwrap()).into_owned(),
        ));
    }
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "core dumps are off");
    let events = within(listener.client.next_text()).await;
    shown.push(("an event", events.1));
    for (error, answer) in answers.iter().map(|answer| (&answer.reply["error"], answer.label())) {
        // What was asked for by name may be named; secrets never are.
        let text = error.to_string();
        assert!(!text.contains(&secret) && !text.contains(&token), "{answer}: {text}");
        shown.push(("an error", text));
    }
    let node_key = fs::read_to_string(daemon.state_dir().join("node.key")).unwrap();
    let password = fs::read_to_string(&password).unwrap();
    for (place, text) in &shown {
        for (what, value) in [
            ("the API key", secret.as_str()),
            ("the token", &token),
            ("the node key", node_key.trim()),
            ("the password", &password),
        ] {
            assert!(!text.contains(value), "{what} is in {place}");
        }
        for line in text.lines() {
            // The topic that was asked for by that name is told, in full, to whoever asked, and put on record.
            let asked = format!("node/{MARK}");
            assert!(!line.replace(&asked, "").contains(MARK), "a planted secret is in {place}: {line}");
        }
    }
    daemon.terminate().await;
    // On disk the note alone, in ledger and index.
    assert_eq!(files_with(&daemon, &secret), Vec::<std::path::PathBuf>::new(), "the API key");
    assert_eq!(
        files_with(&daemon, "of-more-than-thirty-two-bytes"),
        Vec::<std::path::PathBuf>::new(),
        "a secret file"
    );
}

#[tokio::test]
async fn what_a_node_keeps_is_its_own_alone() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let daemon = Daemon::start(DaemonOptions::new("n1", Via::Tls(broker.tls_addr(), broker.ca()))).await;
    let mut app = Asker::over_tls(&broker, "app").await;
    app.ok(&daemon.topic("memory/store"), json!({ "content": "the pump in hall 3" })).await;
    let asked = json!({ "text": "pump", "consistency": "latest" });
    assert_eq!(app.ok(&daemon.topic("memory/query"), asked).await["total"], 1);
    let (mut folders, mut files) = (vec![daemon.state_dir().to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let found = fs::symlink_metadata(entry.path()).unwrap();
            if !found.is_symlink() {
                let mode = found.permissions().mode();
                assert_eq!(mode & 0o077, 0, "{} {mode:o}", entry.path().display());
            }
            if found.is_dir() {
                folders.push(entry.path());
            } else {
                files += 1;
            }
        }
    }
    assert!(files > 10, "the index is among them: {files}");
}
