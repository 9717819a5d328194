//! The gate as others meet it: hostile attempts, each refused with its code and audited; rates; the three modes.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::gate::{
    Attempt, NO_LIMITS, SECRET, files_with, good_jwt, id, jwt, keys, nonce, now, ping, rule, setup,
};
use support::{Asker, within};

#[tokio::test]
async fn every_hostile_attempt_is_refused_with_its_code_and_audited() {
    let Some((broker, mut daemon)) = setup(&format!("mode = \"required\"\n{NO_LIMITS}")).await else {
        return;
    };
    let mut app = Asker::plain(broker.addr(), "app").await;
    app.hear_results().await;
    let all = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let narrow = keys(
        &daemon,
        &["create", "narrow", "--allow", "orch/+/memory/#", "--allow", "orch/n1/node/keys/create"],
    );
    let revoked = keys(&daemon, &["create", "gone", "--allow", "#"]);
    keys(&daemon, &["revoke", "gone"]);
    let replaced = keys(&daemon, &["create", "old", "--allow", "#"]);
    keys(&daemon, &["rotate", "old", "--at-once"]);
    let forged = format!("orchd_{}_{}", id(&all), "0".repeat(64));

    let mut attempts: Vec<(String, Attempt, &str)> = Vec::new();
    let mut add =
        |what: &str, attempt: Attempt, code: &'static str| attempts.push((what.to_owned(), attempt, code));

    // No credentials, and such as nobody gave out.
    add("nothing", ping(), "unauthenticated");
    for (what, token) in [
        ("an empty token", String::new()),
        ("a word", "secret".into()),
        ("dots", "..".into()),
        ("a long token", "x".repeat(5_000)),
        ("a revoked key", revoked.clone()),
        ("a key that was replaced at once", replaced.clone()),
        ("a key of another node", format!("orchd_{}_{}", "0".repeat(12), "0".repeat(64))),
        ("a known id with another secret", forged.clone()),
        ("a key cut short", all[..all.len() - 1].to_owned()),
        ("a key in upper case", all.to_uppercase()),
        ("a key's id alone", id(&all).to_owned()),
        ("a node's login, signed by a key that is not trusted", good_jwt(json!({})) + "x"),
        (
            "HS256 with another secret",
            jwt(json!({ "alg": "HS256" }), json!({}), "another secret of more than 32 bytes"),
        ),
        ("HS256 with an empty secret", jwt(json!({ "alg": "HS256" }), json!({}), "")),
        ("another issuer", good_jwt(json!({ "iss": "evil" }))),
        ("no issuer", good_jwt(json!({ "iss": null }))),
        ("another audience", good_jwt(json!({ "aud": "evil" }))),
        ("no audience", good_jwt(json!({ "aud": null }))),
        ("no subject", good_jwt(json!({ "sub": null }))),
        ("an empty subject", good_jwt(json!({ "sub": "" }))),
        ("a subject with a line break", good_jwt(json!({ "sub": "a\nb" }))),
        ("expired", good_jwt(json!({ "exp": now() - 60 }))),
        ("no expiry", good_jwt(json!({ "exp": null }))),
        ("an expiry that is a text", good_jwt(json!({ "exp": "never" }))),
        ("not yet valid", good_jwt(json!({ "nbf": now() + 3_600 }))),
        ("issued tomorrow", good_jwt(json!({ "iat": now() + 86_400 }))),
        ("permissions that are a text", good_jwt(json!({ "permissions": "#" }))),
        ("permissions that are no filters", good_jwt(json!({ "permissions": ["orch#"] }))),
        ("permissions on the broker's topics", good_jwt(json!({ "permissions": ["$SYS/#"] }))),
        ("critical extensions", jwt(json!({ "alg": "HS256", "crit": ["x"] }), json!({}), SECRET)),
        (
            "a key in the header",
            jwt(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "QUFB" } }), json!({}), "AAA"),
        ),
        ("a kid that is a path", jwt(json!({ "alg": "HS256", "kid": "../../dev/null" }), json!({}), "")),
    ] {
        add(what, ping().bearer(&token), "unauthenticated");
    }
    for alg in ["none", "None", "nOnE", "HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256", "RS512"] {
        let token = jwt(json!({ "alg": alg }), json!({}), SECRET);
        add(&format!("alg {alg}"), ping().bearer(&token), "unauthenticated");
        let bare = token.rsplit_once('.').unwrap().0;
        add(&format!("alg {alg} unsigned"), ping().bearer(&format!("{bare}.")), "unauthenticated");
    }
    add(
        "the token twice",
        {
            let mut twice = ping().bearer(&all);
            twice.properties.push(("authorization".into(), all.clone()));
            twice
        },
        "malformed",
    );

    // Good credentials that do not allow it.
    for (what, token) in [
        ("no permissions", good_jwt(json!({ "permissions": null }))),
        ("empty permissions", good_jwt(json!({ "permissions": [] }))),
        ("another node's", good_jwt(json!({ "permissions": ["orch/n2/#"] }))),
        ("another command's", good_jwt(json!({ "permissions": ["orch/n1/node/pin"] }))),
        ("one level", good_jwt(json!({ "permissions": ["+"] }))),
        ("three of four levels", good_jwt(json!({ "permissions": ["orch/+/node/ping/+"] }))),
        ("another root", good_jwt(json!({ "permissions": ["ORCH/#"] }))),
        ("a narrow key", narrow.clone()),
    ] {
        add(&format!("permissions: {what}"), ping().bearer(&token), "forbidden");
    }
    for (what, topic) in [
        ("another's inbox", "orch/inbox/other/1"),
        ("an inbox that begins alike", "orch/inbox/app2"),
        ("a node's commands", "orch/n2/memory/store"),
        ("its own commands", "orch/n1/memory/store"),
        ("events", "orch/n1/events/status"),
        ("the broker's topics", "$SYS/broker"),
        ("elsewhere", "plant/valve"),
        ("all inboxes", "orch/inbox"),
    ] {
        let mut attempt = ping().bearer(&all);
        attempt.reply_to = topic.to_owned();
        add(&format!("reply to {what}"), attempt, "forbidden");
    }

    // Sensitive commands.
    add("a rule without a signature", rule().bearer(&all), "signature_invalid");
    add("a rule by a JWT", rule().bearer(&good_jwt(json!({}))), "signature_invalid");
    for verb in ["create", "list", "rotate", "revoke", "show"] {
        let attempt = Attempt::new(&format!("node/keys/{verb}"), &json!({ "key": "app" }));
        add(&format!("keys/{verb} without a signature"), attempt.bearer(&all), "signature_invalid");
    }
    add(
        "reload without a signature",
        Attempt::new("node/reload", &json!({})).bearer(&all),
        "signature_invalid",
    );
    let good = || rule().with("message-id", "m").signed(&all, &nonce(0), 0);
    add(
        "a changed payload",
        Attempt { payload: rule().payload.replace("1.0", "9.0"), ..good() },
        "signature_invalid",
    );
    add(
        "another topic",
        Attempt { topic: "orch/n1/conscience/rules/remove".into(), ..good() },
        "signature_invalid",
    );
    add(
        "another reply topic",
        Attempt { reply_to: "orch/inbox/app/x".into(), ..good() },
        "signature_invalid",
    );
    add("no reply topic", Attempt { reply_to: String::new(), ..good() }, "signature_invalid");
    add("another message id", good().with("message-id", "m2"), "signature_invalid");
    add("another nonce", good().with("x-nonce", nonce(1)), "signature_invalid");
    add("another time", good().with("x-signed-at", "2026-01-01T00:00:00Z"), "signature_invalid");
    add(
        "fields shifted",
        good().with("message-id", "").with("x-nonce", format!("m{}", nonce(0))),
        "malformed",
    );
    add("a delimiter in the message id", good().with("message-id", "m,32:orch"), "signature_invalid");
    add(
        "the id of another key",
        good().with("x-signature", good().properties[1].1.replace(id(&all), id(&narrow))),
        "signature_invalid",
    );
    add("a signature that is none", good().with("x-signature", "v1"), "signature_invalid");
    add(
        "a signature of zeros",
        good().with("x-signature", format!("v1:{}:{}", id(&all), "0".repeat(64))),
        "signature_invalid",
    );
    add(
        "another version",
        good().with("x-signature", good().properties[1].1.replace("v1", "v2")),
        "signature_invalid",
    );
    add("a nonce that is too short", rule().signed(&all, "short", 0), "signature_invalid");
    add("a nonce that is too long", rule().signed(&all, &"n".repeat(65), 0), "signature_invalid");
    add("a revoked key signs", rule().signed(&revoked, &nonce(2), 0), "signature_invalid");
    add("a forged key signs", rule().signed(&forged, &nonce(3), 0), "signature_invalid");
    add("a replaced key signs", rule().signed(&replaced, &nonce(4), 0), "signature_invalid");
    add("301 s old", rule().signed(&all, &nonce(5), -301), "replayed");
    add("a year old", rule().signed(&all, &nonce(6), -31_536_000), "replayed");
    add("301 s ahead", rule().signed(&all, &nonce(7), 330), "signature_invalid");
    add("a year ahead", rule().signed(&all, &nonce(8), 31_536_000), "signature_invalid");
    add("a narrow key signs", rule().signed(&narrow, &nonce(9), 0), "forbidden");
    add("a bad token beside the signature", good().bearer("nonsense"), "unauthenticated");
    add(
        "a narrow token beside the signature",
        good().bearer(&good_jwt(json!({ "permissions": [] }))),
        "forbidden",
    );
    let grant = |permissions: Value| {
        Attempt::new("node/keys/create", &json!({ "name": "more", "permissions": permissions }))
    };
    add(
        "a key that allows more than its maker",
        grant(json!(["#"])).signed(&narrow, &nonce(10), 0),
        "forbidden",
    );
    let tricks = [
        "",
        "/",
        "a//b",
        "orch/",
        "a#",
        "a/#/b",
        "+a",
        "$SYS/#",
        "$share/g/orch/#",
        "orch%2F#",
        "orch/%23",
        "é",
        "a b",
        "a\u{0}b",
        "a\nb",
        &"a/".repeat(32_768),
    ];
    for (n, trick) in tricks.into_iter().enumerate() {
        let attempt = grant(json!([trick])).signed(&all, &nonce(20 + n), 0);
        add(&format!("the filter {:?}", &trick[..trick.len().min(20)]), attempt, "invalid");
    }
    add("no filters", grant(json!([])).signed(&all, &nonce(50), 0), "invalid");
    add("too many filters", grant(json!(vec!["a"; 65])).signed(&all, &nonce(51), 0), "invalid");

    assert!(attempts.len() >= 120, "{}", attempts.len());
    let mut refused: BTreeMap<&str, i64> = BTreeMap::new();
    for (what, attempt, code) in &attempts {
        let answer = attempt.send(&mut app).await;
        assert_eq!(answer.label(), *code, "{what}: {}", answer.reply);
        assert!(!answer.reply.to_string().contains(&all[20..]), "{what}: the answer holds a key");
        *refused.entry(code).or_default() += 1;
    }

    // Once it is good, and a replay is not.
    assert_eq!(good().send(&mut app).await.label(), "ok");
    let replayed = rule().signed(&all, &nonce(0), 0);
    assert_eq!(replayed.send(&mut app).await.label(), "replayed");
    let read = Attempt::new("node/keys/list", &json!({})).signed(&all, &nonce(60), 0);
    assert_eq!(read.send(&mut app).await.label(), "ok");
    assert_eq!(read.send(&mut app).await.label(), "replayed", "a read, too");
    let failing = Attempt::new("node/keys/show", &json!({ "key": "nobody" })).signed(&all, &nonce(61), 0);
    assert_eq!(failing.send(&mut app).await.label(), "not_found");
    let failing =
        Attempt::new("conscience/rules/remove", &json!({ "name": "nobody" })).signed(&all, &nonce(62), 0);
    assert_eq!(failing.send(&mut app).await.label(), "not_found");
    assert_eq!(
        failing.send(&mut app).await.label(),
        "replayed",
        "a command that failed has used its nonce up"
    );
    daemon.restart().await;
    assert_eq!(replayed.send(&mut app).await.label(), "replayed", "across a restart");
    let repeated = good().send(&mut app).await;
    assert_eq!(repeated.label(), "ok", "a redelivery gets its stored answer: {}", repeated.reply);
    *refused.entry("replayed").or_default() += 4;

    daemon.terminate().await;
    let ledger = daemon.ledger();
    assert!(orchd::ledger::audit::verify(&ledger).unwrap().is_ok());
    for (code, count) in refused {
        let audited: i64 = ledger
            .query_row(
                "SELECT coalesce(sum(count), 0) FROM audit WHERE outcome = ?1 AND topic IS NOT NULL",
                [code],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(audited, count, "{code}");
    }
    let log = daemon.log();
    assert!(log.contains("orchd::security"), "{log}");
    for secret in [&all, &narrow, &revoked, SECRET] {
        assert!(!log.contains(&secret[20..]), "the log holds a secret");
        assert_eq!(files_with(&daemon, secret), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back_and_others_are_served() {
    let auth = "mode = \"required\"\nburst = 5\nunauthenticated_per_min = 30\ncooldown_s = 600\n";
    let Some((broker, daemon)) = setup(auth).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let busy = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let mut labels = Vec::new();
    let mut longest = 0;
    for _ in 0..40 {
        let answer = ping().bearer(&busy).send(&mut app).await;
        longest = longest.max(answer.reply["error"]["retry_after_ms"].as_u64().unwrap_or_default());
        labels.push(answer.label().to_owned());
    }
    assert_eq!(labels[..5], ["ok"; 5]);
    assert!(labels.contains(&"rate_limited".to_owned()));
    assert!(longest > 60_000, "it has to cool down: {longest}");
    let mut other = Asker::plain(broker.addr(), "other").await;
    let token = good_jwt(json!({ "sub": "other" }));
    let other_ping = Attempt { reply_to: "orch/inbox/other".into(), ..ping().bearer(&token) };
    assert_eq!(other_ping.send(&mut other).await.label(), "ok");
    // Those whom nobody knows share one count; who is known is served meanwhile.
    let mut labels = Vec::new();
    for n in 0..10 {
        labels.push(ping().bearer(&format!("nonsense {n}")).send(&mut app).await.label().to_owned());
    }
    assert_eq!(labels[0], "unauthenticated");
    assert_eq!(labels[9], "rate_limited");
    assert_eq!(other_ping.send(&mut other).await.label(), "ok");
}

#[tokio::test]
async fn what_is_for_the_asker_alone_goes_nowhere_but_to_their_inbox() {
    let auth = format!("mode = \"required\"\n{NO_LIMITS}\n[reply]\ntopics = [\"elsewhere/#\"]\n");
    let Some((broker, daemon)) = setup(&auth).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    app.hear_results().await;
    app.client.subscribe("elsewhere/#").await.unwrap();
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let create = json!({ "name": "made", "permissions": ["orch/n1/node/ping"] });
    let commands = [
        ("node/keys/create", create.clone()),
        ("node/keys/rotate", json!({ "key": "app" })),
        ("node/audit/tail", json!({ "count": 1 })),
    ];
    for (n, (command, payload)) in commands.iter().enumerate() {
        for (m, reply_to) in ["", "elsewhere/app"].into_iter().enumerate() {
            let attempt = Attempt { reply_to: reply_to.into(), ..Attempt::new(command, payload) };
            let attempt = attempt.with("message-id", format!("m-{n}-{m}")).signed(&key, &nonce(2 * n + m), 0);
            let answer = attempt.send(&mut app).await;
            assert_eq!(answer.label(), "invalid", "{command} to {reply_to:?}");
            assert!(answer.reply.to_string().contains("name a reply topic"), "{}", answer.reply);
        }
    }
    assert!(!keys(&daemon, &["list"]).contains("made"), "nothing was done");
    let made = Attempt::new("node/keys/create", &create).with("message-id", "m").signed(&key, &nonce(20), 0);
    assert_eq!(made.send(&mut app).await.label(), "ok");
    // A repeat of it that names no inbox does not bring its answer out either.
    let repeat = Attempt { reply_to: String::new(), ..Attempt::new("node/keys/create", &create) };
    let repeat = repeat.with("message-id", "m").signed(&key, &nonce(21), 0);
    assert_eq!(repeat.send(&mut app).await.label(), "invalid");
}

#[tokio::test]
async fn a_site_whose_broker_knows_its_clients_needs_no_credentials_but_for_sensitive_commands() {
    let auth = format!(
        "mode = \"broker\"\nbroker_permissions = [\"orch/n1/node/#\", \"orch/n1/conscience/#\"]\n{NO_LIMITS}"
    );
    let Some((broker, daemon)) = setup(&auth).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    assert_eq!(ping().send(&mut app).await.label(), "ok");
    assert_eq!(rule().send(&mut app).await.label(), "signature_invalid");
    let store = Attempt::new("memory/store", &json!({ "content": "x" }));
    assert_eq!(store.send(&mut app).await.label(), "forbidden");
    assert_eq!(
        store.clone().bearer("nonsense").send(&mut app).await.label(),
        "unauthenticated",
        "bad is worse than none"
    );
    assert_eq!(store.bearer(&good_jwt(json!({}))).send(&mut app).await.label(), "ok");
    for verb in ["run", "pause", "resume"] {
        let change = Attempt::new(
            &format!("node/schedule/{verb}"),
            &json!({ "name": "audit_checkpoint", "reason": "" }),
        );
        assert_eq!(change.send(&mut app).await.label(), "signature_invalid", "{verb}");
    }
    let key = keys(&daemon, &["create", "app", "--allow", "orch/n1/conscience/#"]);
    assert_eq!(rule().signed(&key, &nonce(1), 0).send(&mut app).await.label(), "ok");
    assert_eq!(app.ok("orch/n1/node/status", json!({})).await["auth"], "broker");
}

#[tokio::test]
async fn a_reload_takes_other_rates_and_keys() {
    let Some((broker, mut daemon)) =
        setup("mode = \"required\"\nburst = 1\nrate_per_min = 1\ncooldown_s = 0\n").await
    else {
        return;
    };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let ping = ping().bearer(&good_jwt(json!({})));
    assert_eq!(ping.send(&mut app).await.label(), "ok");
    assert_eq!(ping.send(&mut app).await.label(), "rate_limited");
    let config = std::fs::read_to_string(daemon.config()).unwrap();
    std::fs::write(daemon.config(), config.replace("burst = 1", "burst = 100")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    within(async { while ping.send(&mut app).await.label() != "ok" {} }).await;
    // A file that is gone leaves everything as it is.
    std::fs::remove_file(broker.ca().with_file_name("hs256")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon
        .until("the mistake is logged", |daemon| daemon.log().contains("the present one stays in force"))
        .await;
    assert_eq!(ping.send(&mut app).await.label(), "ok");
}

#[tokio::test]
async fn an_open_gate_is_loud() {
    let Some((broker, mut daemon)) = setup("mode = \"open\"").await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    assert_eq!(rule().send(&mut app).await.label(), "ok");
    assert_eq!(app.ok("orch/n1/node/status", json!({})).await["auth"], "open");
    daemon.until_metric("orchd_auth_open", |open| open > 0.5).await;
    assert!(daemon.log().contains("auth.mode is open"));
}
