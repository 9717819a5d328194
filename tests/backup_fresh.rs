//! A node on a machine that has nothing but the program, the repository and its password: docs/restore.md, step by step.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::vault::said;
use support::{Caller, Daemon, DaemonOptions, MosquittoOptions, Repository, Via, mosquitto};

const POLICY: &str = "package orchd.gate\nimport rego.v1\ndeny contains \"no statistics\" if input.command == \"memory/stats\"\n";
const POLICY_TEST: &str = "package orchd.gate_test\nimport rego.v1\ntest_ping if count(data.orchd.gate.deny) == 0 with input as {\"command\": \"node/ping\"}\n";
const RULES: &str = "[[rule]]\nname = \"no-shouting\"\ndescription = \"Do not shout\"\nweight = 40\nstance = \"forbids\"\npatterns = [\"shout\"]\n";

async fn store(asker: &mut Caller, text: &str) -> String {
    let stored = asker.ask_ok("memory/store", json!({ "content": text })).await;
    stored["id"].as_str().unwrap().to_owned()
}

async fn backup(asker: &mut Caller) -> Value {
    asker.ask_ok("phoenix/backup", json!({})).await
}

/// Our program on the machine of `daemon`, with its configuration.
fn orchd(daemon: &Daemon, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    let output = command.args(words).arg("--config").arg(daemon.config()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// A node with policies and a rule file, in `aside`.
fn options(repository: &Repository, addr: std::net::SocketAddr, aside: &Path) -> DaemonOptions {
    let policy = aside.join("policy");
    std::fs::create_dir_all(&policy).unwrap();
    std::fs::write(policy.join("gate.rego"), POLICY).unwrap();
    std::fs::write(policy.join("gate_test.rego"), POLICY_TEST).unwrap();
    std::fs::write(aside.join("rules.toml"), RULES).unwrap();
    let mut options = repository.configure(DaemonOptions::new("phoenix", Via::Plain(addr)));
    options.extra.push_str(&format!(
        "[policy]\nfolder = {policy:?}\n[conscience]\nrules_file = {:?}\n",
        aside.join("rules.toml")
    ));
    options
        .set("phoenix.keep_last=1")
        .set("phoenix.keep_floor=1")
        .set("phoenix.keep_daily=0")
        .set("phoenix.keep_within_days=0")
}

#[tokio::test]
async fn a_fresh_machine_needs_the_program_the_repository_and_the_password() {
    let repository = Repository::default();
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let aside = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(options(&repository, broker.addr(), aside.path())).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let id = store(&mut asker, "what the node knew").await;
    let first = backup(&mut asker).await;
    store(&mut asker, "later").await;
    // By the schedule, so that its own run is open in what it puts away.
    asker.ask_ok("node/schedule/run", json!({ "name": "backup" })).await;
    daemon
        .until_metric("orchd_schedule_runs_total{task=\"backup\",outcome=\"ok\"}", |runs| runs == 1.0)
        .await;
    let listed = repository.ask(&["list"]);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
    let time = first["snapshot"]["time"].as_str().unwrap();
    let shown = repository.ask(&["show", time]);
    assert_eq!(shown["snapshot"]["id"], first["snapshot"]["id"], "the last one before a time");
    // What is removed after a backup was made is in its ledger, and not in the repository.
    asker.ask_ok("phoenix/prune", json!({})).await;
    daemon.terminate().await;
    let state = daemon.state_dir();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::remove_file(daemon.config()).unwrap();
    std::fs::remove_dir_all(aside.path().join("policy")).unwrap();
    std::fs::remove_file(aside.path().join("rules.toml")).unwrap();

    // docs/restore.md, step by step.
    assert_eq!(repository.ask(&["list"])["snapshots"].as_array().unwrap().len(), 1);
    let done = repository.orchd(&["restore", "latest", "--state-dir", state.to_str().unwrap()]);
    assert!(done.status.success(), "{}", said(&done));
    let restored = state.join("gen-2/restored");
    let config = std::fs::read_to_string(restored.join("orchd.toml")).unwrap();
    assert!(config.contains("name = \"phoenix\"") && !config.contains(support::vault::PASSWORD), "{config}");
    assert!(!config.contains("# default") && !config.contains("node.key"), "{config}");
    let laid = Command::new("cp").arg("-r").arg(restored.join("files/.")).arg("/").output().unwrap();
    assert!(laid.status.success(), "{}", said(&laid));
    std::fs::write(daemon.config(), &config).unwrap();
    orchd(&daemon, &["ledger", "verify"]);
    orchd(&daemon, &["config", "check"]);
    daemon.options().toml = Some(config);
    daemon.options().set.clear();
    daemon.start_again().await;

    let mut asker = Caller::connect(broker.addr(), "later", &daemon).await;
    let got = asker.ask_ok("memory/get", json!({ "id": id })).await;
    assert_eq!(got["content"], "what the node knew");
    assert_eq!(std::fs::read_to_string(aside.path().join("policy/gate.rego")).unwrap(), POLICY);
    assert!(orchd(&daemon, &["policy", "test"]).contains("test_ping"));
    let rules = asker.ask_ok("conscience/rules/list", json!({})).await;
    assert!(rules.to_string().contains("no-shouting"), "{rules}");
    let query = json!({ "text": "+later", "consistency": "latest" });
    let mut found = asker.ask_ok("memory/query", query.clone()).await;
    while found["partial"] == true {
        found = asker.ask_ok("memory/query", query.clone()).await;
    }
    assert_eq!(found["hits"].as_array().unwrap().len(), 1);
    // Nothing is missed that was removed on purpose, and the run of then does not go on.
    asker.ask_ok("phoenix/verify", json!({ "read_data": 100 })).await;
    let agenda = asker.ask_ok("node/schedule/list", json!({})).await;
    let entry = agenda["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == "backup").unwrap();
    assert_eq!((&entry["running"], &entry["failures"]), (&json!(false), &json!(0)), "{entry}");
    assert_eq!(entry["last"]["outcome"], "interrupted", "{entry}");
    let backups = repository.ask(&["list"]);
    assert_eq!(backups["snapshots"].as_array().unwrap().len(), 1);
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_ledger_from_the_stock_program_takes_the_place_of_that_of_a_node_that_was_killed() {
    let repository = Repository::default();
    let Some((broker, mut daemon)) = repository.node("crashed").await else { return };
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let id = store(&mut asker, "put away").await;
    backup(&mut asker).await;
    for number in 0..50 {
        store(&mut asker, &format!("{number} came after the backup")).await;
    }
    daemon.kill();
    let (state, back) = (daemon.state_dir().join("current"), repository.aside("back"));
    assert!(std::fs::metadata(state.join("ledger.db-wal")).unwrap().len() > 0);

    // docs/restore.md, "With the stock program".
    let Some(done) = repository.restic(&["restore", "latest", "--target", back.to_str().unwrap()]) else {
        return;
    };
    assert!(done.status.success(), "{}", said(&done));
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/restore.md")).unwrap();
    let block = guide.split("## With the stock program").nth(1).unwrap().split("```").nth(3).unwrap();
    let words = block.strip_prefix("sh\n").unwrap().replace("-o orchd -g orchd ", "");
    let words = words.replace("/var/lib/orchd/current", state.to_str().unwrap());
    let done = Command::new("sh")
        .args(["-ec", &words.replace("/tmp/back", back.to_str().unwrap())])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", said(&done));
    daemon.start_again().await;
    asker.ask_ok("memory/get", json!({ "id": id })).await;
    // The last one may have been answered and not yet acknowledged: then the broker delivers it to the ledger that is there now.
    let records = asker.ask_ok("memory/stats", json!({})).await["layers"][0]["records"].as_u64().unwrap();
    assert!((1..=2).contains(&records), "{records} of 51");
    orchd(&daemon, &["audit", "verify"]);
    daemon.terminate().await;
}
