//! `orchd memory …`: every verb, by the built program against a running node, as a table and as JSON.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{Daemon, DaemonOptions, Ran, Via, within};
use tokio::task::spawn_blocking;

/// A node without its broker: the command line reaches it by the control socket.
async fn node() -> Daemon {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Daemon::spawn(DaemonOptions::new("n1", Via::Plain(nowhere))).await
}

/// Runs `orchd memory …` with `input`.
async fn memory_with(config: &Path, arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.env_clear().env("NO_COLOR", "1").arg("memory").args(arguments).arg("--config").arg(config);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        // Who reads nothing may have ended.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
        child.wait_with_output().unwrap()
    };
    Ran(within(spawn_blocking(run)).await.unwrap())
}

async fn memory(daemon: &Daemon, arguments: &[&str]) -> Ran {
    memory_with(&daemon.config(), arguments, "").await
}

/// It has to end in 0; what it printed.
async fn good(daemon: &Daemon, arguments: &[&str]) -> String {
    let ran = memory(daemon, arguments).await;
    assert_eq!(ran.code(), 0, "{arguments:?}: {} {}", ran.out(), ran.err());
    assert_eq!(ran.err(), "", "{arguments:?}: no bar where there is no terminal");
    ran.out().to_owned()
}

/// With `--json`; the payload of the reply.
async fn payload(daemon: &Daemon, arguments: &[&str]) -> Value {
    let reply = good(daemon, &[arguments, &["--json"]].concat()).await;
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["status"], "ok", "{reply}");
    reply["payload"].clone()
}

async fn id_of(daemon: &Daemon, arguments: &[&str]) -> String {
    let stored = payload(daemon, &[&["store"], arguments].concat()).await;
    stored["id"].as_str().unwrap().to_owned()
}

/// The cells of the line that begins with `first`.
fn row<'t>(table: &'t str, first: &str) -> Vec<&'t str> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no {first}: {table}")).split_whitespace().collect()
}

#[tokio::test]
async fn single_memories_are_stored_found_changed_pinned_and_forgotten() {
    let daemon = node().await;
    let out = good(&daemon, &["store", "the pump rattles", "--layer", "long_term", "--tag", "pump"]).await;
    assert!(out.starts_with("stored ") && out.ends_with(" in long_term\n"), "{out}");
    let same = ["the pump rattles", "--if-absent"];
    let first = id_of(&daemon, &same).await;
    assert!(out.contains(&first), "the same content is not stored twice");
    let out = good(&daemon, &[&["store"], &same[..]].concat()).await;
    assert_eq!(out, format!("already there: {first} in long_term\n"));
    let more = ["--entity", "lift", "--namespace", "hall", "--user", "ann", "--source", "me"];
    let rest = ["--importance", "0.9", "--expires", "2999-01-01T00:00:00Z", "--pinned"];
    let second = id_of(&daemon, &[&["the lift is quiet"], &more[..], &rest[..]].concat()).await;

    let got = payload(&daemon, &["get", &second]).await;
    for (member, value) in [
        ("entity", json!("lift")),
        ("namespace", json!("hall")),
        ("user", json!("ann")),
        ("source", json!("me")),
        ("importance", json!(0.9)),
        ("pinned", json!(true)),
        ("expires", json!("2999-01-01T00:00:00.000Z")),
    ] {
        assert_eq!(got[member], value, "{member}");
    }
    let table = good(&daemon, &["get", &second]).await;
    assert_eq!(row(&table, "entity"), ["entity", "lift"]);

    for (arguments, expected) in [
        (&["query", "rattling"][..], &["the pump rattles"][..]),
        (&["query", "pump", "--layer", "semantic"], &[]),
        (&["query", "--tag", "pump"], &["the pump rattles"]),
        (&["query", "--entity", "lift", "--user", "ann", "--namespace", "hall"], &["the lift is quiet"]),
        (&["query", "--from", "2999-01-01T00:00:00Z"], &[]),
        (&["query", "--to", "2001-01-01T00:00:00Z"], &[]),
        (&["query"], &["the lift is quiet", "the pump rattles"]),
    ] {
        let found = payload(&daemon, arguments).await;
        let contents: Vec<_> = found["hits"].as_array().unwrap().iter().map(|hit| &hit["content"]).collect();
        assert_eq!(contents, expected, "{arguments:?}");
        let shown = good(&daemon, arguments).await;
        assert!(expected.iter().all(|content| shown.contains(content)), "{arguments:?}: {shown}");
        assert_eq!(shown == "nothing found\n", expected.is_empty(), "{arguments:?}: {shown}");
    }
    let page = payload(&daemon, &["query", "--limit", "1"]).await;
    let cursor = page["cursor"].as_str().unwrap();
    let page = payload(&daemon, &["query", "--limit", "1", "--cursor", cursor]).await;
    assert_eq!(page["hits"][0]["id"], first);

    let change = ["update", &first, "--content", "the pump is new", "--tag", "new", "--if-version", "1"];
    assert_eq!(payload(&daemon, &change).await["version"], 2);
    let again = memory(&daemon, &change).await;
    assert_eq!(again.code(), 1, "it has another version by now");
    assert!(again.err().contains("version 2"), "{}", again.err());
    let table = good(&daemon, &["get", &first, "--history"]).await;
    assert!(table.contains("the pump is new") && table.contains("the pump rattles"), "{table}");
    assert_eq!(payload(&daemon, &["get", &first, "--history"]).await["history"][0]["version"], 1);
    let table = good(&daemon, &["update", &first, "--importance", "0.25"]).await;
    assert_eq!(row(&table, "version"), ["version", "3"]);

    assert_eq!(payload(&daemon, &["pin", &first]).await["pinned"], true);
    assert_eq!(row(&good(&daemon, &["pin", &first, "--off"]).await, "pinned")[1], "false");
    assert!(good(&daemon, &["forget", &first]).await.starts_with("forgotten; purged after "));
    let gone = memory(&daemon, &["get", &first]).await;
    assert_eq!((gone.code(), gone.out()), (1, ""));
    assert_eq!(good(&daemon, &["forget", &first, "--undo"]).await, "brought back\n");
    assert_eq!(good(&daemon, &["forget", &first, "--purge"]).await, "purged\n");
    let reply = memory(&daemon, &["forget", &first, "--json"]).await;
    let reply_json: Value = serde_json::from_str(reply.out()).unwrap();
    assert_eq!((reply.code(), &reply_json["error"]["code"]), (1, &json!("not_found")));

    let stats = payload(&daemon, &["stats"]).await;
    let records = |layer: &Value| layer["records"].as_u64().unwrap();
    assert_eq!(stats["layers"].as_array().unwrap().iter().map(records).sum::<u64>(), 1);
    let table = good(&daemon, &["stats"]).await;
    assert_eq!(row(&table, "short_term")[1..4], ["1", "1", "0"], "{table}");
}

#[tokio::test]
async fn standard_input_is_stored_in_batches_and_a_line_that_is_refused_is_named() {
    let daemon = node().await;
    let store = async |arguments: &[&str], input: &str| {
        memory_with(&daemon.config(), &[&["store", "-"], arguments].concat(), input).await
    };
    let grain = |number: usize| format!("{{\"content\":\"grain {number}\",\"if_absent\":true}}\n");
    let lines: String = (0..250).map(|number| grain(number) + "\n").collect();
    let many = store(&[], &lines).await;
    assert_eq!((many.code(), many.err()), (0, ""), "{}", many.out());
    assert_eq!((many.out().lines().count(), many.out().lines().last()), (251, Some("250 stored")));

    // Each on a line of its own: the 137th is in the second batch, the 138th is the first that is new.
    let lines: Vec<_> = (0..300).map(grain).collect();
    for (bad, reason) in [
        ("{\"content\":\"\"}\n", "content: "),
        ("{\"content\":\"x\",\"layer\":\"attic\"}\n", "layer: "),
        ("{\"content\":\"x\",\"tags\":[7]}\n", "tags[0]: "),
        ("7\n", "expected"),
    ] {
        let mut with_bad = lines.clone();
        with_bad[136] = bad.to_owned();
        let some = store(&[], &with_bad.concat()).await;
        assert_eq!(some.code(), 1, "{bad}: {}", some.err());
        assert_eq!(some.out().lines().last(), Some("0 stored, 100 already there"), "{bad}");
        assert!(
            some.err().starts_with("line 137: invalid: ") && some.err().contains(reason),
            "{}",
            some.err()
        );
        assert!(
            some.err().trim_end().ends_with("stored up to line 100, and nothing after it"),
            "{}",
            some.err()
        );
        let some = store(&["--json"], &with_bad.concat()).await;
        let reply: Value = serde_json::from_str(some.out()).unwrap();
        assert_eq!((some.code(), some.err(), &reply["status"]), (1, "", &json!("error")), "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().starts_with("line 137: "), "{reply}");
        assert_eq!(reply["payload"]["stored"].as_array().unwrap().len(), 100, "{reply}");
    }
    let all = store(&["--json"], &lines.concat()).await;
    let reply: Value = serde_json::from_str(all.out()).unwrap();
    let stored = reply["payload"]["stored"].as_array().unwrap();
    assert_eq!((all.code(), &reply["status"], stored.len()), (0, &json!("ok"), 300), "{}", all.err());
    assert_eq!(stored.iter().filter(|stored| stored["existing"] == true).count(), 250);
    assert_eq!(payload(&daemon, &["query", "grain", "--limit", "1"]).await["total"], 300);

    // What weighs more than a node takes at once.
    let heavy: String =
        (0..60).map(|number| format!("{{\"content\":\"{number} {}\"}}\n", "x".repeat(9_000))).collect();
    let many = store(&[], &heavy).await;
    assert_eq!((many.code(), many.out().lines().last()), (0, Some("60 stored")), "{}", many.err());

    // Nothing is sent of what is no JSON somewhere.
    for (input, told) in
        [("{\"content\":\"x\"}\nno json\n", "line 2: expected JSON"), ("\n", "expected a JSON object")]
    {
        let wrong = store(&[], input).await;
        assert_eq!((wrong.code(), wrong.out()), (2, ""), "{}", wrong.err());
        assert!(wrong.err().contains(told), "{}", wrong.err());
    }
    assert_eq!(payload(&daemon, &["query", "\"x\"", "--limit", "1"]).await["total"], 0);
}

#[tokio::test]
async fn many_memories_are_stored_carried_promoted_pruned_and_indexed_anew() {
    let daemon = node().await;
    let lines: String = (0..50).map(|number| format!("{{\"content\":\"grain {number}\"}}\n")).collect();
    let many = memory_with(&daemon.config(), &["store", "-"], &lines).await;
    assert_eq!((many.code(), many.out().lines().last()), (0, Some("50 stored")), "{}", many.err());

    let table = good(&daemon, &["export", "all.jsonl.zst"]).await;
    assert_eq!(row(&table, "records")[1], "50", "{table}");
    let exported = payload(&daemon, &["export", "none.jsonl", "--layer", "semantic"]).await;
    assert_eq!(exported["records"], 0);
    let skipped = payload(&daemon, &["import", "all.jsonl.zst"]).await;
    assert_eq!((&skipped["imported"], &skipped["skipped"]), (&json!(0), &json!(50)), "{skipped}");
    let replaced = payload(&daemon, &["import", "all.jsonl.zst", "--replace", "--pin"]).await;
    assert_eq!(replaced["replaced"], 50, "{replaced}");
    let table = good(&daemon, &["import", "all.jsonl.zst", "--replace"]).await;
    assert_eq!(row(&table, "replaced"), ["replaced", "50"], "{table}");
    let transfer = daemon.state_dir().join("transfer");
    fs::write(transfer.join("mixed.jsonl"), "{\"content\":\"from afar\"}\n{\"content\":7}\n").unwrap();
    let table = good(&daemon, &["import", "mixed.jsonl", "--namespace", "afar"]).await;
    assert!(table.contains("line 2: "), "{table}");
    let found = payload(&daemon, &["query", "afar", "--namespace", "afar"]).await;
    assert_eq!(found["total"], 1);
    let missing = memory(&daemon, &["import", "nowhere.jsonl", "--json"]).await;
    let reply: Value = serde_json::from_str(missing.out()).unwrap();
    assert_eq!((missing.code(), &reply["status"]), (1, &json!("error")));

    let id = found["hits"][0]["id"].as_str().unwrap();
    assert_eq!(payload(&daemon, &["promote", id, "--dry-run"]).await["promoted"], 1);
    assert_eq!(row(&good(&daemon, &["promote", id]).await, "promoted")[1], "1");
    assert_eq!(payload(&daemon, &["promote"]).await["promoted"], 0);
    assert_eq!(payload(&daemon, &["get", id]).await["layer"], "long_term");

    let dry = good(&daemon, &["prune", "--dry-run", "--layer", "working"]).await;
    assert!(dry.contains("WOULD GO") && row(&dry, "working")[1] == "0", "{dry}");
    let pruned = payload(&daemon, &["prune"]).await;
    assert_eq!((&pruned["dry_run"], pruned["layers"].as_array().unwrap().len()), (&json!(false), 5));

    assert_eq!(good(&daemon, &["archive", "2001-01"]).await, "nothing to archive\n");
    assert_eq!(payload(&daemon, &["archive", "2001-01", "--layer", "working"]).await["months"], json!([]));
    assert_eq!(memory(&daemon, &["archive", "lately"]).await.code(), 1);

    let rebuilt = payload(&daemon, &["rebuild"]).await;
    assert_eq!((&rebuilt["shards"], &rebuilt["records"]), (&json!(2), &json!(51)));
    assert_eq!(row(&good(&daemon, &["rebuild"]).await, "records")[1], "51");
    assert_eq!(payload(&daemon, &["query", "grain"]).await["total"], 50);
}

/// Runs `orchd memory …` on a terminal of its own; what was on it.
async fn on_a_terminal(script: &Path, daemon: &Daemon, arguments: &[&str]) -> String {
    let config = daemon.config();
    let words = [env!("CARGO_BIN_EXE_orchd"), "memory"].into_iter().chain(arguments.iter().copied());
    let line = words.chain(["--config", config.to_str().unwrap()]).collect::<Vec<_>>().join(" ");
    let mut command = Command::new(script);
    command.env_clear().env("TERM", "xterm").env("SHELL", "/bin/sh").env("NO_COLOR", "1");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
    let ran = Ran(within(spawn_blocking(move || command.output().unwrap())).await.unwrap());
    assert_eq!(ran.code(), 0, "{line}: {} {}", ran.out(), ran.err());
    ran.out().to_owned()
}

#[tokio::test]
async fn long_work_shows_on_a_terminal_how_far_it_is() {
    let Some(script) = support::tool("script") else { return };
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = DaemonOptions::new("n1", Via::Plain(nowhere));
    // Nothing but the test removes anything.
    options.extra = "[schedule]\nmemory_prune = \"\"\n[retention]\nmax_share = 1.0\n".to_owned();
    let daemon = Daemon::spawn(options).await;
    let transfer = daemon.state_dir().join("transfer");
    fs::create_dir_all(&transfer).unwrap();
    let verbs: [(&[&str], &str); 4] = [
        (&["import", "many.jsonl"], "imported"),
        (&["export", "all.jsonl.zst"], "records"),
        (&["rebuild"], "records"),
        (&["prune"], "LAYER"),
    ];
    let mut seen = [false; 4];
    // What is done before anyone is told how far it is shows nothing: so there is more of it, until there is a bar.
    for count in [4_000, 16_000, 64_000] {
        let line = |number| json!({ "content": format!("grain {number}"), "layer": "working", "created": "2020-01-15T00:00:00.000Z" });
        let lines: String = (0..count).map(|number| format!("{}\n", line(number))).collect();
        fs::write(transfer.join("many.jsonl"), lines).unwrap();
        for ((arguments, expected), seen) in verbs.iter().zip(&mut seen) {
            let shown = on_a_terminal(&script, &daemon, arguments).await;
            let bar = format!("memory/{} [", arguments[0]);
            let (bars, after) = shown.rsplit_once(&bar).unwrap_or(("", &shown));
            assert!(after.contains(expected), "the answer comes last: {shown:?}");
            assert!(!shown.contains("0 of 0"), "no bar before it is known how much there is: {shown:?}");
            *seen |= !bars.is_empty() || shown.contains(&bar);
            if shown.contains(&bar) {
                assert!(after.contains(" % ") && after.contains(" of "), "{shown:?}");
                assert!(after.contains('\u{1b}'), "the bar is wiped away: {shown:?}");
            }
        }
        if seen == [true; 4] {
            return;
        }
    }
    panic!("no bar of some verb: {seen:?}");
}

#[tokio::test]
async fn what_went_wrong_is_in_the_exit_code() {
    let mut daemon = node().await;
    for (arguments, code) in [
        (&["store"][..], 2),
        (&["dream"], 2),
        (&["query", "x", "--limit", "many"], 2),
        (&["forget", "x", "--purge", "--undo"], 2),
        (&["query", "x", "--limit", "101"], 1),
        (&["store", "x", "--layer", "attic"], 1),
        (&["store", "x", "--importance", "2"], 1),
        (&["get", "nobody"], 1),
        (&["update", "nobody", "--content", "x"], 1),
        (&["pin", "nobody"], 1),
        (&["promote", "nobody"], 1),
        (&["prune", "--layer", "attic"], 1),
        (&["export", "../out.jsonl"], 1),
    ] {
        let ran = memory(&daemon, arguments).await;
        assert_eq!(ran.code(), code, "{arguments:?}: {} {}", ran.out(), ran.err());
        assert!(ran.out().is_empty() && !ran.err().is_empty(), "{arguments:?}");
    }
    daemon.terminate().await;
    for verb in ["stats", "query", "rebuild"] {
        assert_eq!(memory(&daemon, &[verb]).await.code(), 4, "{verb}");
    }
}
