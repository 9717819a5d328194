//! API keys: from their making to their end, and what signs with them.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::gate::{Attempt, NO_LIMITS, files_with, id, keys, nonce, ping, setup};
use support::{Answer, Asker, Daemon, Mosquitto, python, rust_example, tool, within};

#[tokio::test]
async fn a_key_lives_from_its_making_to_its_revocation() {
    let Some((broker, mut daemon)) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await else {
        return;
    };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let admin = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let create = json!({ "name": "made", "permissions": ["orch/n1/node/ping"], "expires_in_s": 3_600 });
    let create =
        Attempt::new("node/keys/create", &create).with("message-id", "c-1").signed(&admin, &nonce(1), 0);
    let made = create.send(&mut app).await.reply;
    let first = made["payload"]["key"].as_str().unwrap().to_owned();
    assert!(first.starts_with("orchd_") && first.len() == 83, "{made}");
    // The answer was accepted, so that a repeat has no key any more.
    let again = within(async {
        loop {
            let again = create.send(&mut app).await.reply;
            if again["payload"]["key"].is_null() {
                return again;
            }
        }
    })
    .await;
    assert_eq!((&again["status"], &again["payload"]["id"]), (&json!("ok"), &made["payload"]["id"]));

    // The key's own inbox is that of its name.
    let mut maker = Asker::plain(broker.addr(), "made").await;
    let ping_with = |key: &str| Attempt { reply_to: "orch/inbox/made".into(), ..ping().bearer(key) };
    assert_eq!(ping_with(&first).send(&mut maker).await.label(), "ok");
    let without_scheme =
        Attempt { properties: vec![("authorization".into(), first.clone())], ..ping_with("") };
    assert_eq!(without_scheme.send(&mut maker).await.label(), "ok", "a key needs no scheme");

    let rotate =
        |key: &str, n| Attempt::new("node/keys/rotate", &json!({ "key": key })).signed(&admin, &nonce(n), 0);
    let second = rotate("made", 2).send(&mut app).await.reply["payload"].clone();
    assert_eq!(second["replaces"], id(&first));
    let second = second["key"].as_str().unwrap().to_owned();
    for key in [&first, &second] {
        assert_eq!(ping_with(key).send(&mut maker).await.label(), "ok", "both are valid in the grace period");
    }
    assert_eq!(rotate(id(&first), 3).send(&mut app).await.label(), "conflict", "rotated once");
    daemon.restart().await;
    for key in [&first, &second] {
        assert_eq!(ping_with(key).send(&mut maker).await.label(), "ok", "after a restart");
    }
    let history: Value = serde_json::from_str(&keys(&daemon, &["show", "made", "--json"])).unwrap();
    let states: Vec<_> =
        history["payload"]["keys"].as_array().unwrap().iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["grace", "active"]);
    assert!(keys(&daemon, &["list"]).contains("made"));

    let revoke = Attempt::new("node/keys/revoke", &json!({ "key": "made" })).signed(&admin, &nonce(4), 0);
    assert_eq!(revoke.send(&mut app).await.reply["payload"]["revoked"].as_array().unwrap().len(), 2);
    for key in [&first, &second] {
        assert_eq!(
            ping_with(key).send(&mut maker).await.label(),
            "unauthenticated",
            "the predecessor as well"
        );
    }
    let none = |what: Answer| assert!(["conflict", "not_found"].contains(&what.label()), "{}", what.reply);
    none(rotate(id(&second), 5).send(&mut app).await);
    none(rotate(id(&first), 6).send(&mut app).await);
    daemon.restart().await;
    assert_eq!(ping_with(&second).send(&mut maker).await.label(), "unauthenticated", "for good");

    daemon.terminate().await;
    for secret in [&first, &second, &admin] {
        assert_eq!(files_with(&daemon, secret), Vec::<PathBuf>::new());
        assert_eq!(files_with(&daemon, &secret[19..]), Vec::<PathBuf>::new());
    }
    let used: i64 = daemon
        .ledger()
        .query_row("SELECT count(*) FROM api_key WHERE last_used_at > 0", [], |row| row.get(0))
        .unwrap();
    assert_eq!(used, 3, "their last use is known");
}

#[tokio::test]
async fn the_name_of_a_key_that_has_expired_is_free() {
    let Some((broker, daemon)) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let admin = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let old = keys(&daemon, &["create", "short", "--allow", "orch/#", "--expires", "1s"]);
    let create = json!({ "name": "short", "permissions": ["orch/n1/node/ping"] });
    let mut n = 0;
    let made = within(async {
        loop {
            n += 1;
            let made =
                Attempt::new("node/keys/create", &create).signed(&admin, &nonce(n), 0).send(&mut app).await;
            if made.label() == "ok" {
                return made.reply["payload"]["key"].as_str().unwrap().to_owned();
            }
            assert_eq!(made.label(), "conflict", "while the other is in force");
        }
    })
    .await;
    let mut short = Asker::plain(broker.addr(), "short").await;
    let with = |key: &str| Attempt { reply_to: "orch/inbox/short".into(), ..ping().bearer(key) };
    assert_eq!(with(&made).send(&mut short).await.label(), "ok");
    assert_eq!(with(&old).send(&mut short).await.label(), "unauthenticated");
    assert!(keys(&daemon, &["show", "short"]).contains(id(&made)));
    assert!(keys(&daemon, &["show", id(&old)]).contains("replaced"));
}

/// Runs a signer of `examples/` that sets a rule; its reply.
async fn sign_with(mut command: Command, broker: &Mosquitto, key_file: &Path, name: &str) -> Value {
    let rule = json!({ "name": name, "weight": 1.0, "stance": "forbids", "patterns": ["gössip"], "description": "d" });
    command
        .env("API_KEY_FILE", key_file)
        .env("INBOX", "app")
        .env("MQTT_CA", broker.ca())
        .env_remove("MQTT_USERNAME")
        .env_remove("MQTT_PASSWORD")
        .args([
            "127.0.0.1",
            &broker.tls_addr().port().to_string(),
            "n1",
            "conscience/rules/set",
            &rule.to_string(),
        ]);
    let output = within(tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A node in the mode `required`, and a file with a key that may change rules.
async fn for_signers() -> Option<(Mosquitto, Daemon, PathBuf)> {
    let (broker, daemon) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await?;
    let key_file = broker.ca().with_file_name("api-key");
    std::fs::write(&key_file, keys(&daemon, &["create", "app", "--allow", "orch/n1/conscience/#"]) + "\n")
        .unwrap();
    Some((broker, daemon, key_file))
}

#[tokio::test]
async fn the_signer_in_shell_is_believed() {
    let Some((broker, _daemon, key_file)) = for_signers().await else { return };
    if tool("mosquitto_rr").is_none() || tool("openssl").is_none() {
        return;
    }
    let reply = sign_with(Command::new(example("signed.sh")), &broker, &key_file, "shell").await;
    assert_eq!(reply["status"], "ok", "{reply}");
}

#[tokio::test]
async fn the_signer_in_python_is_believed() {
    let Some((broker, _daemon, key_file)) = for_signers().await else { return };
    let Some(python) = python() else { return };
    let mut command = Command::new(python);
    command.arg(example("signed.py"));
    let reply = sign_with(command, &broker, &key_file, "python").await;
    assert_eq!(reply["status"], "ok", "{reply}");
}

#[tokio::test]
async fn the_signer_in_rust_is_believed() {
    let Some((broker, _daemon, key_file)) = for_signers().await else { return };
    let program = rust_example("signed").await;
    let reply = sign_with(Command::new(program), &broker, &key_file, "rust").await;
    assert_eq!(reply["status"], "ok", "{reply}");
}

#[tokio::test]
async fn the_command_line_signs_when_its_profile_names_a_key() {
    let Some((broker, daemon, key_file)) = for_signers().await else { return };
    let profile = key_file.with_file_name("client.toml");
    let url = format!("mqtts://127.0.0.1:{}", broker.tls_addr().port());
    let head = "node = \"n1\"\nname = \"app\"\n";
    let tail = format!("[broker]\nurl = {url:?}\nca_file = {:?}\n", broker.ca());
    let call = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
        command.args(arguments).arg("--profile").arg(&profile);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let remove = ["call", "conscience/rules/remove", r#"{"name":"nobody"}"#];
    std::fs::write(&profile, format!("{head}{tail}")).unwrap();
    assert!(call(&remove).2.contains("JWT"), "without a key nobody is known");
    std::fs::write(&profile, format!("{head}api_key_file = \"api-key\"\n{tail}")).unwrap();
    let (code, _, error) = call(&remove);
    assert!(code == Some(1) && error.contains("no such rule") || error.contains("not_found"), "{error}");
    assert!(call(&["keys", "list"]).2.contains("permission"), "this key is for rules alone");
    std::fs::write(&key_file, keys(&daemon, &["create", "admin", "--allow", "orch/n1/#"])).unwrap();
    std::fs::write(&profile, format!("{}api_key_file = \"api-key\"\n{tail}", head.replace("app", "admin")))
        .unwrap();
    let (code, out, error) = call(&["keys", "create", "next", "--allow", "orch/n1/node/ping"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.starts_with("orchd_"), "{out}");
    assert!(call(&["keys", "list"]).1.contains("next"));
}

#[tokio::test]
async fn a_key_gives_no_more_than_it_has() {
    let limits = NO_LIMITS.replace("rate_per_min = 6000000\nburst", "rate_per_min = 600\nburst");
    let Some((broker, daemon)) = setup(&format!("mode = \"required\"\n{limits}")).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let arguments = ["--allow", "orch/+/node/#", "--expires", "1h", "--rate-per-min", "60"];
    let own = keys(&daemon, &[&["create", "app"], &arguments[..]].concat());
    let usual = keys(&daemon, &["create", "usual", "--allow", "orch/+/node/#"]);
    keys(&daemon, &["create", "fast", "--allow", "orch/+/node/#", "--expires", "1h", "--rate-per-min", "61"]);
    keys(&daemon, &["create", "eternal", "--allow", "orch/+/node/#", "--rate-per-min", "60"]);
    keys(&daemon, &["create", "wide", "--allow", "orch/#", "--expires", "1h", "--rate-per-min", "60"]);
    let mut count = 0;
    let mut ask = |key: &str, command: &str, arguments: &Value| {
        count += 1;
        let mut attempt = Attempt::new(&format!("node/keys/{command}"), arguments);
        attempt.reply_to = if key == usual { "orch/inbox/usual".into() } else { attempt.reply_to };
        attempt.signed(key, &nonce(count), 0)
    };
    let make = |changes: Value| {
        let mut create = json!({ "name": "made", "permissions": ["orch/n1/node/ping"] });
        create.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        create
    };
    for too_much in [
        json!({ "expires_in_s": 7_200 }),
        json!({ "rate_per_min": 61 }),
        json!({ "permissions": ["orch/#"] }),
    ] {
        let answer = ask(&own, "create", &make(too_much.clone())).send(&mut app).await;
        assert_eq!(answer.label(), "forbidden", "{too_much}: {}", answer.reply);
    }
    for theirs in ["fast", "eternal", "wide"] {
        let answer = ask(&own, "rotate", &json!({ "key": theirs })).send(&mut app).await;
        assert_eq!(answer.label(), "forbidden", "{theirs}: {}", answer.reply);
    }
    let revoke = ask(&own, "revoke", &json!({ "key": "wide" })).send(&mut app).await;
    assert_eq!(revoke.label(), "forbidden", "{}", revoke.reply);
    // One without a rate of its own has the configured one to give.
    let mut other = Asker::plain(broker.addr(), "usual").await;
    let fast = ask(&usual, "create", &make(json!({ "rate_per_min": 601 })));
    assert_eq!(fast.send(&mut other).await.label(), "forbidden");

    let of = |which: &str| -> Value {
        let shown: Value = serde_json::from_str(&keys(&daemon, &["show", which, "--json"])).unwrap();
        shown["payload"]["keys"].as_array().unwrap().last().unwrap().clone()
    };
    let end = of("app")["expires"].clone();
    let made = ask(&own, "create", &make(json!({}))).send(&mut app).await;
    assert_eq!((made.label(), &made.reply["payload"]["expires"]), ("ok", &end), "{}", made.reply);
    assert_eq!(of("made")["rate_per_min"], 60, "what is not said is as the maker has it");
    let rotated = ask(&own, "rotate", &json!({ "key": "app" })).send(&mut app).await;
    assert_eq!((rotated.label(), &rotated.reply["payload"]["expires"]), ("ok", &end), "{}", rotated.reply);
    let revoked = ask(&own, "revoke", &json!({ "key": "eternal" })).send(&mut app).await;
    assert_eq!(revoked.label(), "ok", "it allows no more: {}", revoked.reply);
}
