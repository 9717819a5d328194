//! What an evaluation leaves behind, from outside: in soul and memory however often the node is killed, in reviews, in the log of
//! decisions; and the command lines for it.
//!
//! `ORCHD_KILLS` sets how often it is killed (8 by default), `ORCHD_SEED` repeats the moments of an earlier run.

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::provider::remote_says;
use support::{Act, Caller, Daemon, DaemonOptions, MosquittoOptions, Provider, Via, mosquitto, within};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const RULES: &str = r#"
[[rule]]
name = "levers"
description = "Somebody has to look when a lever is pulled."
weight = 3.0
stance = "forbids"
review = true
patterns = ["pull lever"]
"#;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a whole number"))
}

/// Runs `orchd` against the control socket of `daemon`, with `input` to read.
async fn orchd(daemon: &Daemon, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.env_clear().env("NO_COLOR", "1").args(arguments).arg("--config").arg(daemon.config());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || -> Output {
        let mut child = command.spawn().unwrap();
        // It may have ended without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let output = within(spawn_blocking(run)).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluation_soul_and_memory_are_one_however_often_the_node_is_killed() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let kills = number("ORCHD_KILLS").unwrap_or(8);
    let seed = number("ORCHD_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ORCHD_KILLS={kills} ORCHD_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut daemon = Daemon::start(DaemonOptions::new("whole", Via::Plain(broker.addr()))).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let mut sent = 0;
    for _ in 0..kills {
        for _ in 0..random.u32(20..120) {
            let action = if sent % 2 == 0 { "I will help someone in need" } else { "I will harm someone" };
            let question =
                json!({ "action": format!("{action}, number {sent}"), "entity": "ada", "remember": true });
            asker.send(&format!("evaluation-{sent}"), "conscience/evaluate", &question).await;
            sent += 1;
        }
        // Not to wait for anything: the moment is to be any.
        sleep(Duration::from_micros(random.u64(0..40_000))).await;
        daemon.kill();
        daemon.spawn_again().await;
    }
    daemon.ready().await;
    for number in 0..sent {
        let reply = asker.reply_to(&format!("evaluation-{number}")).await;
        assert_eq!(reply["status"], "ok", "{reply}");
    }
    daemon.terminate().await;

    let ledger = daemon.ledger();
    let all = |sql: &str| -> Vec<String> {
        let mut statement = ledger.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let decisions = all("SELECT id FROM conscience_decision ORDER BY id");
    assert_eq!(decisions.len(), sent as usize, "each was judged once");
    let felt = all("SELECT reference FROM soul_event WHERE cause = 'evaluation' ORDER BY reference");
    // The soul keeps the 1,000 latest.
    assert_eq!(felt.len(), decisions.len().min(1_000));
    assert!(felt.iter().all(|decision| decisions.binary_search(decision).is_ok()));
    let remembered = all("SELECT id FROM memory_record WHERE entity = 'ada'");
    assert_eq!(remembered.len(), decisions.len());
    let linked = all("SELECT memory FROM soul_link");
    assert_eq!(linked.len(), remembered.len().min(1_000));
    assert!(linked.iter().all(|memory| remembered.contains(memory)));
    orchd::ledger::audit::verify(&ledger).unwrap().expect("the audit chain is broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recall_about_an_entity_finds_what_names_it_and_what_is_linked_to_it() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let daemon = Daemon::start(DaemonOptions::new("n1", Via::Plain(broker.addr()))).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    let mut store =
        async |record: Value| asker.ask_ok("memory/store", record).await["id"].as_str().unwrap().to_owned();
    store(json!({ "content": "ada repaired the pump", "entity": "ada" })).await;
    let linked = store(json!({ "content": "the pump in hall 3 rattles" })).await;
    let other = store(json!({ "content": "the pump in hall 4 rattles", "entity": "bob" })).await;
    store(json!({ "content": "nobody's pump" })).await;
    let contents = |found: &Value| {
        let hits = found["hits"].as_array().unwrap().iter();
        let mut contents: Vec<_> = hits.map(|hit| hit["content"].as_str().unwrap().to_owned()).collect();
        contents.sort();
        contents
    };
    let query = |text: Value| json!({ "text": text, "about": "ada", "consistency": "latest" });
    assert_eq!(
        contents(&asker.ask_ok("memory/query", query(json!("pump"))).await),
        ["ada repaired the pump"]
    );
    for memory in [&linked, &other] {
        asker.ask_ok("soul/link", json!({ "name": "ada", "memory": memory })).await;
    }
    let nothing = json!({ "name": "ada", "memory": "01890a5d-ac96-774b-bcce-b302099a8057" });
    assert_eq!(asker.ask("soul/link", nothing).await["error"]["code"], "not_found");
    let expected = ["ada repaired the pump", "the pump in hall 3 rattles", "the pump in hall 4 rattles"];
    let found = asker.ask_ok("memory/query", query(json!("pump"))).await;
    assert_eq!((contents(&found), &found["total"]), (expected.map(str::to_owned).to_vec(), &json!(3)));
    assert_eq!(contents(&asker.ask_ok("memory/query", query(Value::Null)).await), expected);
    assert_eq!(
        contents(&asker.ask_ok("memory/query", query(json!("rattles -entity:bob"))).await),
        [expected[1]]
    );
    asker.ask_ok("soul/unlink", json!({ "name": "ada", "memory": linked })).await;
    let (code, out, _) = orchd(&daemon, &["recall", "--about", "ada", "rattles"], "").await;
    assert!(code == 0 && out.contains("hall 4") && !out.contains("hall 3"), "{out}");
    let nobody = asker.ask_ok("memory/query", json!({ "about": "nobody" })).await;
    assert_eq!(nobody["hits"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_review_is_told_listed_resolved_and_expires_to_refused() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, RULES).unwrap();
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!("[conscience]\nrules_file = {file:?}\nreview_expiry_s = 60\n");
    let mut daemon = Daemon::start(options).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    asker.client.subscribe("orch/n1/events/reviews").await.unwrap();
    // That it was opened may be told before its answer or after it.
    let hear = async |asker: &mut Caller, review: &Value, state: &str| loop {
        let (topic, payload) = asker.client.next_text().await;
        let told: Value = serde_json::from_str(&payload).unwrap();
        if topic.ends_with("/events/reviews") && told["review_id"] == *review && told["state"] != "open" {
            break assert_eq!(told["state"], state);
        }
    };
    let lever = |number: u32| json!({ "action": format!("pull the lever {number}"), "entity": "ada" });

    // Two reviews: the one is approved over MQTT, the other refused on the command line.
    let first = asker.ask_ok("conscience/evaluate", lever(1)).await;
    assert_eq!((&first["approved"], &first["needs_review"]), (&json!(false), &json!(true)));
    let id = &first["review_id"];
    let listed = asker.ask_ok("conscience/reviews/list", json!({})).await;
    assert_eq!((&listed["reviews"][0]["review_id"], &listed["reviews"][0]["state"]), (id, &json!("open")));
    let resolve = json!({ "review_id": id, "approve": true, "note": "it is oiled" });
    asker.send("resolve", "conscience/reviews/resolve", &resolve).await;
    hear(&mut asker, id, "approved").await;
    let again = asker.ask("conscience/reviews/resolve", resolve).await;
    assert_eq!(again["error"]["code"], "conflict");

    let second =
        asker.ask_ok("conscience/evaluate", lever(2)).await["review_id"].as_str().unwrap().to_owned();
    let (code, out, _) = orchd(&daemon, &["reviews", "list"], "").await;
    assert!(code == 0 && out.contains(&second) && out.contains("pull the lever 2"), "{out}");
    let (code, out, _) = orchd(&daemon, &["reviews", "refuse", &second, "--note", "not today"], "").await;
    assert_eq!((code, out.as_str()), (0, "refused\n"));
    let (code, _, _) = orchd(&daemon, &["reviews", "approve", &second], "").await;
    assert_eq!(code, 1);

    // The third expires: its time is shortened for the test's sake.
    daemon.options().extra = daemon.options().extra.replace("= 60", "= 1");
    daemon.restart().await;
    let third = asker.ask_ok("conscience/evaluate", lever(3)).await["review_id"].clone();
    hear(&mut asker, &third, "expired").await;
    let late = asker.ask("conscience/reviews/resolve", json!({ "review_id": third, "approve": true })).await;
    assert_eq!(late["error"]["code"], "conflict", "{late}");
    let all = asker.ask_ok("conscience/reviews/list", json!({ "all": true })).await;
    let states: Vec<_> = all["reviews"].as_array().unwrap().iter().map(|review| &review["state"]).collect();
    assert_eq!(states, ["expired", "refused", "approved"]);

    // What was taken out of the rule file is out of force after the next start.
    std::fs::write(&file, "").unwrap();
    daemon.restart().await;
    assert_eq!(asker.ask_ok("conscience/evaluate", lever(4)).await["approved"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decisions_and_soul_are_managed_on_the_command_line() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let daemon = Daemon::start(DaemonOptions::new("n1", Via::Plain(broker.addr()))).await;
    let file = daemon.config().with_file_name("rules.toml");
    std::fs::write(&file, RULES).unwrap();
    let file = file.to_str().unwrap();

    let set =
        ["rules", "set", "no-gossip", "--description", "Do not gossip about colleagues.", "--weight", "3"];
    assert_eq!(orchd(&daemon, &set, "").await.0, 0);
    let (code, out, _) =
        orchd(&daemon, &["evaluate", "gossip about colleagues", "--entity", "bob"], "").await;
    assert!(code == 10 && out.contains("no-gossip"), "{out}");
    let (code, out, _) =
        orchd(&daemon, &["evaluate", "-", "--entity", "bob"], "gossip about a colleague\n").await;
    assert!(code == 10 && out.contains("no-gossip"), "{out}");
    assert_eq!(
        orchd(&daemon, &["evaluate", "I will help someone in need", "--entity", "ada"], "").await.0,
        0
    );
    assert_eq!(orchd(&daemon, &["rules", "import", file], "").await.0, 0);
    assert_eq!(orchd(&daemon, &["evaluate", "pull the lever"], "").await.0, 11);
    let (code, out, _) = orchd(&daemon, &["rules", "list"], "").await;
    assert!(
        code == 0 && out.contains("no-gossip") && out.contains("levers") && out.contains("no-harm"),
        "{out}"
    );
    let (code, exported, _) = orchd(&daemon, &["rules", "export"], "").await;
    assert!(code == 0 && exported.contains("name = \"no-gossip\""));
    assert_eq!(orchd(&daemon, &["rules", "test"], "").await.0, 0);
    let (code, out, _) = orchd(&daemon, &["rules", "simulate", "--remove", "no-gossip"], "").await;
    assert!(code == 0 && out.contains("gossip about colleagues"), "{out}");
    assert_eq!(orchd(&daemon, &["rules", "remove", "no-gossip"], "").await.0, 0);
    assert_eq!(orchd(&daemon, &["rules", "remove", "no-gossip"], "").await.0, 1);
    assert_eq!(orchd(&daemon, &["evaluate", "gossip about colleagues"], "").await.0, 0);

    let (code, out, _) = orchd(&daemon, &["decisions", "--outcome", "refused"], "").await;
    assert!(code == 0 && out.contains("gossip") && !out.contains("lever"), "{out}");
    let (code, out, _) = orchd(&daemon, &["decisions", "--export"], "").await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<_> = lines.iter().map(|decision| decision["outcome"].as_str().unwrap()).collect();
    assert_eq!((code, outcomes), (0, vec!["approved", "needs_review", "approved", "refused", "refused"]));
    let (_, out, _) = orchd(&daemon, &["decisions", "--export", "--from", "2999-01-01T00:00:00Z"], "").await;
    assert_eq!(out, "");

    let (code, out, _) = orchd(&daemon, &["soul", "status"], "").await;
    assert!(code == 0 && out.contains("ada") && out.contains("bob") && out.contains('█'), "{out}");
    let (code, out, _) = orchd(&daemon, &["soul", "status", "bob", "--json"], "").await;
    let bob: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &bob["payload"]["dominant"]), (0, &json!("anger")));
    assert_eq!(orchd(&daemon, &["soul", "status", "nobody"], "").await.0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_recalls_is_judged_and_is_remembered() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let model =
        Provider::start(vec![remote_says("It rattles in hall 3."), remote_says("I will harm someone.")])
            .await;
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!(
        "[llm]\nremote_url = {:?}\nremote_model = \"far\"\n[conscience]\njudge = \"never\"\n",
        model.url()
    );
    let daemon = Daemon::start(options).await;
    let mut asker = Caller::connect(broker.addr(), "asker", &daemon).await;
    asker.ask_ok("memory/store", json!({ "content": "the pump in hall 3 rattles" })).await;
    let input = "What about the pump?\n\
                 And then?\n\
                 I will harm someone\n\
                 /conscience lie to a customer about the price\n\
                 /memory hall\n/rules\n/soul ada\n/soul nobody\n/help\n/clear\n/dance\n/exit\nnever said\n";
    let (code, out, err) = orchd(&daemon, &["chat", "--as", "ada"], input).await;
    assert_eq!(code, 0, "{err}");
    for expected in [
        "It rattles in hall 3.\n",
        "The conscience holds the model's answer back. not approved",
        "The conscience stops this. not approved",
        "truth",
        "the pump in hall 3 rattles",
        "no-harm",
        "trust",
        "/exit",
        "begins anew",
        "unknown, or not so: /dance",
    ] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    assert!(err.contains("not_found") && !out.contains("never said"), "{err}");
    let requests = model.requests();
    assert_eq!(requests.len(), 2, "what is refused is not put to the model");
    assert!(
        requests[0]["messages"][0]["content"].as_str().unwrap().contains("- the pump in hall 3 rattles\n")
    );
    // The second turn knows the first.
    let turns: Vec<_> =
        requests[1]["messages"].as_array().unwrap().iter().map(|said| &said["content"]).collect();
    assert_eq!(turns[1..], ["What about the pump?", "It rattles in hall 3.", "And then?"]);
    let stored = asker
        .ask_ok("memory/query", json!({ "about": "ada", "tags": ["chat"], "consistency": "latest" }))
        .await;
    let mut stored: Vec<_> =
        stored["hits"].as_array().unwrap().iter().map(|hit| hit["content"].as_str().unwrap()).collect();
    stored.sort_unstable();
    assert_eq!(stored, ["assistant: It rattles in hall 3.", "user: And then?", "user: What about the pump?"]);
    let decisions = asker.ask_ok("conscience/decisions", json!({ "entity": "ada" })).await;
    assert_eq!(decisions["decisions"].as_array().unwrap().len(), 3);

    model.play(vec![Act::Say(401, "", String::new())]);
    let (code, _, err) = orchd(&daemon, &["chat"], "hello\n").await;
    assert!(code == 1 && err.contains("unavailable"), "a script is told: {err}");
}
