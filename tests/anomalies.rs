//! What is out of the ordinary is told, and who stands out may have to cool down; keys that are fetched from an address.

mod support;

use std::sync::Arc;
use std::sync::Mutex;

use ring::signature::{Ed25519KeyPair, KeyPair};
use rumqttc::PublishOptions;
use rumqttc::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};
use support::gate::{Attempt, NO_LIMITS, b64, good_jwt, keys, nonce, now, ping, setup};
use support::{Asker, Client, Daemon, DaemonOptions, MosquittoOptions, Via, mosquitto, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The next event about an error, with its kind.
async fn told(client: &mut Client) -> Value {
    let (_, text) = within(client.next_text()).await;
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn repeated_refusals_and_replays_are_told_counted_and_answered_with_a_cooldown() {
    let auth = format!("mode = \"required\"\n{NO_LIMITS}\nanomaly_cooldown_s = 600");
    let Some((broker, mut daemon)) = setup(&auth).await else { return };
    let mut app = Asker::plain(broker.addr(), "app").await;
    let mut operator = Asker::plain(broker.addr(), "operator").await;
    operator.client.subscribe("orch/n1/events/errors").await.unwrap();

    // Ten refusals are repeated refusals; nine are not, and neither are ordinary errors.
    let narrow = good_jwt(json!({ "permissions": ["orch/n1/memory/#"] }));
    for _ in 0..20 {
        let wrong = Attempt::new("memory/get", &json!({})).bearer(&narrow);
        assert_eq!(wrong.send(&mut app).await.label(), "invalid");
    }
    for n in 1..=10 {
        assert_eq!(ping().bearer(&narrow).send(&mut app).await.label(), "forbidden", "{n}");
    }
    let event = told(&mut operator.client).await;
    assert_eq!((&event["error"], &event["principal"]), (&json!("anomaly_refusals"), &json!("orchd app")));
    assert_eq!(ping().bearer(&narrow).send(&mut app).await.label(), "rate_limited");
    let good = Attempt::new("memory/stats", &json!({})).bearer(&narrow);
    assert_eq!(good.send(&mut app).await.label(), "rate_limited", "it has to cool down");

    // Another principal is not concerned. A replay is told, and does not lock out who was replayed.
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let signed = ping().signed(&key, &nonce(1), 0);
    assert_eq!(signed.send(&mut app).await.label(), "ok");
    assert_eq!(signed.send(&mut app).await.label(), "replayed");
    let event = told(&mut operator.client).await;
    assert_eq!(event["error"], "anomaly_replay");
    assert_eq!(event["principal"], format!("key:{}", support::gate::id(&key)));
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");

    // Many strangers are told, and nobody else pays for them.
    for _ in 0..100 {
        assert_eq!(ping().send(&mut app).await.label(), "unauthenticated");
    }
    assert_eq!(told(&mut operator.client).await["error"], "anomaly_strangers");
    let other = good_jwt(json!({ "sub": "other" }));
    let ping = Attempt { reply_to: "orch/inbox/other".into(), ..ping() }.bearer(&other);
    let mut other = Asker::plain(broker.addr(), "other").await;
    assert_eq!(ping.send(&mut other).await.label(), "ok");
    for kind in ["refusals", "replay", "strangers"] {
        let series = format!("orchd_anomalies_total{{kind=\"anomaly_{kind}\"}}");
        daemon.until_metric(&series, |count| count == 1.0).await;
    }
}

/// An identity provider: answers every GET with the present document, until it is aborted.
async fn provider(document: Arc<Mutex<String>>) -> (std::net::SocketAddr, tokio::task::AbortHandle) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = document.lock().unwrap().clone();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    (addr, serving.abort_handle())
}

fn key_of(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn jwks(seeds: &[u8]) -> String {
    let key = |seed: &u8| {
        let x = b64(key_of(*seed).public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": format!("k{seed}"), "x": x })
    };
    json!({ "keys": seeds.iter().map(key).collect::<Vec<_>>() }).to_string()
}

fn token(seed: u8) -> String {
    let header = json!({ "alg": "EdDSA", "kid": format!("k{seed}") });
    let claims =
        json!({ "iss": "orchd", "aud": "orch", "sub": "app", "exp": now() + 600, "permissions": ["orch/#"] });
    let input = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
    format!("{input}.{}", b64(key_of(seed).sign(input.as_bytes()).as_ref()))
}

/// Asks until the answer is this one: the keys are fetched by the node in its own time.
async fn until_answered(app: &mut Asker, token: &str, label: &str) {
    within(async { while ping().bearer(token).send(app).await.label() != label {} }).await;
}

#[tokio::test]
async fn keys_from_an_address_are_taken_up_replaced_and_kept_for_a_start_without_it() {
    let Some(broker) = mosquitto(MosquittoOptions::default()).await else { return };
    let document = Arc::new(Mutex::new(jwks(&[1])));
    let (addr, serving) = provider(document.clone()).await;
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!(
        "[auth]\nmode = \"required\"\n{NO_LIMITS}\njwks_url = \"http://{addr}/jwks.json\"\njwks_refresh_s = 1\n"
    );
    let mut daemon = Daemon::start(options).await;
    let mut app = Asker::plain(broker.addr(), "app").await;
    until_answered(&mut app, &token(1), "ok").await;
    assert_eq!(ping().bearer(&token(2)).send(&mut app).await.label(), "unauthenticated");

    // What is no JWKS changes nothing; nor does a secret, or a document beyond measure.
    for wrong in ["no json".to_owned(), r#"{"keys": []}"#.to_owned(), " ".repeat(300_000) + &jwks(&[2])] {
        *document.lock().unwrap() = wrong;
        let failures =
            |daemon: &Daemon| daemon.log().matches("auth.jwks_url: the keys of the last time").count();
        let before = failures(&daemon);
        daemon.until("a fetch has failed", |daemon| failures(daemon) > before).await;
        assert_eq!(ping().bearer(&token(1)).send(&mut app).await.label(), "ok");
    }

    // Another key, and the old one no longer, although its token had been believed.
    *document.lock().unwrap() = jwks(&[2]);
    until_answered(&mut app, &token(2), "ok").await;
    assert_eq!(ping().bearer(&token(1)).send(&mut app).await.label(), "unauthenticated");

    // The provider is gone at the next start; then another one is named, who is not there either.
    serving.abort();
    daemon.restart().await;
    assert_eq!(ping().bearer(&token(2)).send(&mut app).await.label(), "ok");
    daemon.terminate().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let extra = daemon.options().extra.replace(&addr.to_string(), &gone.to_string());
    daemon.options().extra = extra;
    daemon.start_again().await;
    let answer = ping().bearer(&token(2)).send(&mut app).await;
    assert_eq!(answer.label(), "unauthenticated", "the keys of the one are not those of the other");
}

#[tokio::test]
async fn of_a_flood_without_good_credentials_only_some_is_answered_and_all_of_it_is_counted() {
    const FLOOD: usize = 3_000;
    let extra = "max_queued_messages 0\n".to_owned();
    let Some(broker) = mosquitto(MosquittoOptions { extra, ..MosquittoOptions::default() }).await else {
        return;
    };
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = "[auth]\nmode = \"required\"\nunauthenticated_per_min = 60\n".to_owned();
    let mut daemon = Daemon::start(options).await;
    let key = keys(&daemon, &["create", "app", "--allow", "orch/#"]);
    let stranger = Asker::plain(broker.addr(), "stranger").await.client;
    let bad = PublishProperties {
        response_topic: Some("orch/inbox/stranger".to_owned()),
        user_properties: vec![("authorization".to_owned(), format!("orchd_0123456789ab_{}", "0".repeat(64)))],
        ..PublishProperties::default()
    };
    for _ in 0..FLOOD {
        let options = PublishOptions::at_least_once().properties(bad.clone());
        stranger.mqtt.publish("orch/n1/node/ping", "{}", options).await.unwrap();
    }
    // Who is known is served meanwhile.
    let mut app = Asker::plain(broker.addr(), "app").await;
    assert_eq!(ping().bearer(&key).send(&mut app).await.label(), "ok");
    let refused = |daemon: &Daemon| -> f64 {
        let of = |code| daemon.metric(&format!("orchd_messages_refused_total{{code=\"{code}\"}}"));
        of("unauthenticated") + of("rate_limited")
    };
    daemon.until("all of the flood is counted", |daemon| refused(daemon) == FLOOD as f64).await;
    let unanswered = daemon.metric("orchd_messages_dropped_total{reason=\"flood\"}");
    assert!(unanswered > 0.0, "{FLOOD} came within a few seconds");
    daemon.terminate().await;
    let (rows, counted): (i64, i64) = daemon
        .ledger()
        .query_row("SELECT count(*), sum(count) FROM audit WHERE principal = 'anonymous'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(counted, FLOOD as i64);
    assert!(rows < FLOOD as i64 / 10, "{rows} records");
}

#[tokio::test]
async fn a_key_that_nobody_has_used_for_long_is_told_when_it_is_used() {
    let Some((broker, mut daemon)) = setup("mode = \"required\"").await else { return };
    let old = keys(&daemon, &["create", "old", "--allow", "orch/#"]);
    let young = keys(&daemon, &["create", "young", "--allow", "orch/#"]);
    daemon.terminate().await;
    let long_ago = (now() - 31 * 86_400) * 1_000;
    let aged = "UPDATE api_key SET created_at = ?1, last_used_at = ?1 WHERE name = 'old'";
    let ledger = rusqlite::Connection::open(daemon.state_dir().join("current/ledger.db")).unwrap();
    assert_eq!(ledger.execute(aged, [long_ago]).unwrap(), 1);
    drop(ledger);
    daemon.start_again().await;
    let mut operator = Asker::plain(broker.addr(), "operator").await;
    operator.client.subscribe("orch/n1/events/errors").await.unwrap();
    for (name, key) in [("young", &young), ("old", &old)] {
        let mut app = Asker::plain(broker.addr(), name).await;
        let ping = Attempt { reply_to: format!("orch/inbox/{name}"), ..ping() }.bearer(key);
        assert_eq!(ping.send(&mut app).await.label(), "ok");
    }
    let event = told(&mut operator.client).await;
    let principal = format!("key:{}", support::gate::id(&old));
    assert_eq!((&event["error"], &event["principal"]), (&json!("anomaly_dormant_key"), &json!(principal)));
    daemon.until_metric("orchd_anomalies_total{kind=\"anomaly_dormant_key\"}", |count| count == 1.0).await;
}
