//! Every command from outside the process: `orchd run` on a real Mosquitto, over TLS, at QoS 1.

mod support;

use std::collections::BTreeSet;

use rumqttc::PublishOptions;
use rumqttc::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};
use support::{
    Asker, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Via, content_type, label, mosquitto,
};

/// Broker, node and client; `None` without Mosquitto.
async fn setup() -> Option<(Mosquitto, Daemon, Asker)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let daemon = node(&broker, "n1").await;
    let asker = Asker::over_tls(&broker, "app").await;
    Some((broker, daemon, asker))
}

async fn node(broker: &Mosquitto, name: &str) -> Daemon {
    let options = DaemonOptions::new(name, Via::Tls(broker.tls_addr(), broker.ca()));
    Daemon::start(options.set("limits.max_payload_bytes=65536")).await
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn actions_are_judged_by_rules_that_can_be_changed() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    let evaluate = daemon.topic("conscience/evaluate");
    for (action, approved) in [
        ("I will harm someone", false),
        ("I will help someone in need", true),
        ("prevent harm to the child", true),
    ] {
        let verdict = app.ok(&evaluate, json!({ "action": action })).await;
        assert_eq!(verdict["approved"], approved, "{action}: {verdict}");
        assert!(verdict["moral_score"].as_f64().unwrap().abs() <= 1.0);
        assert!(verdict["decision_id"].is_string() && verdict["explanation"].is_string());
    }
    let rules = app.ok(&daemon.topic("conscience/rules/list"), json!({})).await;
    let hash = rules["rule_set_hash"].clone();
    let weight = |name: &str| {
        rules["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name).unwrap()["weight"]
            .as_f64()
    };
    assert_eq!((weight("no-harm"), weight("truth")), (Some(10.0), Some(8.0)));

    let rule =
        json!({ "name": "no-noise", "weight": 100, "stance": "forbids", "patterns": ["play the trumpet"] });
    let set = app.ok(&daemon.topic("conscience/rules/set"), rule.clone()).await;
    assert_eq!((&set["name"], &set["replaced"]), (&json!("no-noise"), &json!(false)));
    let verdict = app.ok(&evaluate, json!({ "action": "I will play the trumpet" })).await;
    assert_eq!(verdict["approved"], false);
    assert_eq!(verdict["rule_set_hash"], set["rule_set_hash"]);
    assert_eq!(app.ok(&daemon.topic("conscience/rules/set"), rule).await["replaced"], true);
    let removed = app.ok(&daemon.topic("conscience/rules/remove"), json!({ "name": "no-noise" })).await;
    assert_eq!(removed["rule_set_hash"], hash);
    let verdict = app.ok(&evaluate, json!({ "action": "I will play the trumpet" })).await;
    assert_eq!(verdict["approved"], true);
}

#[tokio::test]
async fn what_is_stored_is_found_until_it_is_forgotten() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    let store = json!({ "content": "the boiler needs a new valve", "layer": "semantic", "tags": ["boiler"],
        "entity": "boiler-3", "importance": 0.9 });
    let stored = app.ok(&daemon.topic("memory/store"), store).await;
    assert_eq!(stored["layer"], "semantic");
    let id = json!({ "id": stored["id"] });

    let record = app.ok(&daemon.topic("memory/get"), id.clone()).await;
    assert_eq!(record["content"], "the boiler needs a new valve");
    assert_eq!((&record["entity"], &record["checksum"]), (&json!("boiler-3"), &stored["checksum"]));

    let query = json!({ "text": "valve", "layers": ["semantic"], "consistency": "latest", "explain": true });
    let found = app.ok(&daemon.topic("memory/query"), query.clone()).await;
    assert_eq!((&found["total"], &found["partial"]), (&json!(1), &json!(false)), "{found}");
    assert_eq!(found["hits"][0]["id"], stored["id"]);

    let stats = app.ok(&daemon.topic("memory/stats"), json!({})).await;
    let layers = stats["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 5);
    let records: u64 = layers.iter().map(|layer| layer["records"].as_u64().unwrap()).sum();
    assert_eq!(records, 1, "{stats}");

    assert_eq!(app.ok(&daemon.topic("memory/forget"), id.clone()).await["forgotten"], true);
    assert_eq!(label(&app.ask(&daemon.topic("memory/get"), id.clone()).await), "not_found");
    assert_eq!(label(&app.ask(&daemon.topic("memory/forget"), id).await), "not_found");
    let found = app.ok(&daemon.topic("memory/query"), query).await;
    assert_eq!(found["hits"], json!([]));
}

#[tokio::test]
async fn a_node_says_how_it_is() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    let pong = app.ok(&daemon.topic("node/ping"), json!({})).await;
    assert_eq!((&pong["node"], &pong["version"]), (&json!("n1"), &json!(env!("CARGO_PKG_VERSION"))));
    let status = app.ok(&daemon.topic("node/status"), json!({})).await;
    assert_eq!((&status["state"], &status["connected"]), (&json!("online"), &json!(true)));
    let health = app.ok(&daemon.topic("node/health"), json!({})).await;
    assert_eq!((&health["live"], &health["ready"]), (&json!(true), &json!(true)), "{health}");
    assert_eq!(app.ok(&daemon.topic("node/jobs/list"), json!({})).await["jobs"], json!([]));
}

#[tokio::test]
async fn a_rebuild_is_a_job_with_news_on_the_way_and_one_answer() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    for content in ["first", "second", "third"] {
        app.ok(&daemon.topic("memory/store"), json!({ "content": content })).await;
    }
    app.client.subscribe("orch/n1/events/jobs").await.unwrap();
    let question = json!({ "message_id": "rebuild-1", "payload": {} });
    let correlation = app.send(&daemon.topic("memory/rebuild"), question.to_string(), |_| {}).await;
    let (mut states, mut reply) = (Vec::new(), None);
    // The answer and the last event come in either order.
    while reply.is_none() || states.last().is_none_or(|state| state != "succeeded") {
        let publish = app.client.next().await;
        let body: Value = serde_json::from_slice(&publish.payload).unwrap();
        if publish.topic == "orch/n1/events/jobs" {
            assert_eq!(body["command"], "memory/rebuild");
            states.push(body["state"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(publish.properties.unwrap().correlation_data.unwrap(), correlation);
            assert!(reply.replace(body).is_none(), "answered twice");
        }
    }
    let reply = reply.unwrap();
    assert_eq!((label(&reply), &reply["in_reply_to"]), ("ok", &json!("rebuild-1")), "{reply}");
    assert_eq!(reply["payload"]["records"], 3);
    assert!(states.iter().any(|state| state == "running"), "{states:?}");

    let jobs = app.ok(&daemon.topic("node/jobs/list"), json!({})).await;
    let job = &jobs["jobs"][0];
    assert_eq!((&job["command"], &job["state"]), (&json!("memory/rebuild"), &json!("succeeded")));
    let same = app.ok(&daemon.topic("node/jobs/get"), json!({ "job_id": job["job_id"] })).await;
    assert_eq!(&same, job);
    // The job is not run again: its stored answer comes back.
    let again = app.ask(&daemon.topic("memory/rebuild"), question).await;
    assert_eq!(again["message_id"], reply["message_id"]);
    let jobs = app.ok(&daemon.topic("node/jobs/list"), json!({})).await;
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_reply_has_the_documented_fields_and_properties() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    let question = json!({ "message_id": "q-1", "timestamp": "2026-01-02T03:04:05Z", "payload": {},
        "metadata": { "correlation_id": "c-1", "client_id": "app", "traceparent": "00-aa-bb-01" } });
    let answer = app.ask_with(&daemon.topic("node/ping"), question.to_string(), |_| {}).await;
    assert_eq!(answer.topic(), app.inbox);
    assert_eq!(content_type(&answer.publish), Some("application/json"));
    assert!(!answer.publish.retain);
    assert!(answer.publish.properties.as_ref().unwrap().message_expiry_interval.is_some());
    let reply = &answer.reply;
    let expected =
        ["command", "correlation_id", "in_reply_to", "message_id", "node", "payload", "status", "timestamp"];
    assert_eq!(keys(reply), BTreeSet::from(expected));
    assert_eq!((&reply["in_reply_to"], &reply["correlation_id"]), (&json!("q-1"), &json!("c-1")));
    assert_eq!((&reply["node"], &reply["command"]), (&json!("n1"), &json!("node/ping")));
    assert_eq!(reply["status"], "ok");
    assert_eq!(reply["message_id"].as_str().unwrap().len(), 36);
    assert!(reply["timestamp"].as_str().unwrap().ends_with('Z'));

    // MQTT 5 properties win over the envelope.
    let get = daemon.topic("memory/get");
    let elsewhere = json!({ "message_id": "no", "payload": { "id": "x" },
        "metadata": { "reply_to": "orch/inbox/app/elsewhere" } });
    let named = |properties: &mut PublishProperties| {
        properties.user_properties =
            vec![("message-id".into(), "q-2".into()), ("foreign".into(), "1".into())];
    };
    let answer = app.ask_with(&get, elsewhere.to_string(), named).await;
    assert_eq!(answer.topic(), app.inbox);
    let reply = &answer.reply;
    assert_eq!(
        keys(reply),
        BTreeSet::from(["command", "error", "in_reply_to", "message_id", "node", "status", "timestamp"])
    );
    assert_eq!((&reply["status"], &reply["in_reply_to"]), (&json!("error"), &json!("q-2")));
    assert_eq!(keys(&reply["error"]), BTreeSet::from(["code", "message", "retryable"]));
    assert_eq!((label(reply), &reply["error"]["retryable"]), ("not_found", &json!(false)));
}

#[tokio::test]
async fn mistakes_are_answered_with_the_codes_of_the_closed_list() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    app.hear_results().await;
    let nothing = |_: &mut PublishProperties| {};
    let (get, ping) = (daemon.topic("memory/get"), daemon.topic("node/ping"));

    assert_eq!(app.ask_with(&get, "{\"id\":", nothing).await.label(), "malformed");
    let twice = |properties: &mut PublishProperties| {
        properties.user_properties =
            vec![("message-id".into(), "a".into()), ("message-id".into(), "b".into())];
    };
    assert_eq!(app.ask_with(&ping, "{}", twice).await.label(), "malformed");
    assert_eq!(app.ask_with(&get, vec![b' '; 65_537], nothing).await.label(), "too_large");
    let picture = |properties: &mut PublishProperties| properties.content_type = Some("image/png".into());
    assert_eq!(app.ask_with(&ping, "{}", picture).await.label(), "unsupported_content");
    for topic in ["memory/recollect", "node/dance", "memory/store/now"] {
        assert_eq!(
            app.ask_with(&daemon.topic(topic), "{}", nothing).await.label(),
            "unknown_command",
            "{topic}"
        );
    }
    // Not for all nodes.
    assert_eq!(app.ask_with("orch/all/node/health", "{}", nothing).await.label(), "unknown_command");

    let foreign =
        |properties: &mut PublishProperties| properties.response_topic = Some("lights/kitchen".into());
    let answer = app.ask_with(&ping, "{}", foreign).await;
    assert_eq!((answer.label(), answer.topic()), ("forbidden", "orch/n1/results/node"));

    let invalid = json!({ "id": 7 }).to_string();
    assert_eq!(app.ask_with(&get, invalid, nothing).await.label(), "invalid");
    let absent = json!({ "id": "0192d3a0-0000-7000-8000-000000000000" }).to_string();
    assert_eq!(app.ask_with(&get, absent, nothing).await.label(), "not_found");
    let late = json!({ "payload": {}, "metadata": { "expires_in_ms": 0 } }).to_string();
    let answer = app.ask_with(&ping, late, nothing).await;
    assert_eq!((answer.label(), &answer.reply["error"]["retryable"]), ("expired", &json!(true)));

    let set = json!({ "message_id": "same", "payload": { "content": "one" } });
    assert_eq!(label(&app.ask(&daemon.topic("memory/store"), set).await), "ok");
    let other = json!({ "message_id": "same", "payload": { "content": "two" } });
    assert_eq!(label(&app.ask(&daemon.topic("memory/store"), other).await), "conflict");
    // Every one of them was answered on the one connection, and counted.
    for code in ["malformed", "too_large", "unsupported_content", "unknown_command", "forbidden", "expired"] {
        let series = format!("orchd_messages_refused_total{{code=\"{code}\"}}");
        assert!(daemon.metric(&series) >= 1.0, "{series} in {}", daemon.metrics());
    }
    assert!((daemon.metric("orchd_connections_total") - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_and_takes_effect_once() {
    let Some((_broker, mut daemon, mut app)) = setup().await else { return };
    let store = daemon.topic("memory/store");
    let question = json!({ "message_id": "m-1", "payload": { "content": "once" } });
    let first = app.ask(&store, question.clone()).await;
    assert_eq!(label(&first), "ok");
    for _ in 0..3 {
        assert_eq!(app.ask(&store, question.clone()).await, first);
    }
    daemon.restart().await;
    assert_eq!(app.ask(&store, question).await, first);
    let found = app.ok(&daemon.topic("memory/query"), json!({ "consistency": "latest" })).await;
    assert_eq!(found["hits"].as_array().unwrap().len(), 1, "{found}");
}

#[tokio::test]
async fn without_a_reply_topic_the_answer_goes_to_results() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    app.hear_results().await;
    for (command, topic) in
        [("memory/stats", "orch/n1/results/memory"), ("conscience/sleep", "orch/n1/results/conscience")]
    {
        let none = |properties: &mut PublishProperties| properties.response_topic = None;
        assert_eq!(app.ask_with(&daemon.topic(command), "", none).await.topic(), topic);
    }
}

#[tokio::test]
async fn a_retained_command_is_refused() {
    let Some((_broker, daemon, mut app)) = setup().await else { return };
    let correlation = b"kept";
    let properties = PublishProperties {
        response_topic: Some(app.inbox.clone()),
        correlation_data: Some(correlation.to_vec().into()),
        ..PublishProperties::default()
    };
    let options = PublishOptions::at_least_once().retain(true).properties(properties);
    let store = json!({ "content": "again and again" }).to_string();
    app.client.publish_with(&daemon.topic("memory/store"), store, options).await.unwrap();
    assert_eq!(app.answer_to(correlation).await.label(), "invalid");
    let found = app.ok(&daemon.topic("memory/query"), json!({ "consistency": "latest" })).await;
    assert_eq!(found["hits"], json!([]));
}

#[tokio::test]
async fn every_node_answers_to_all_and_exactly_one_to_any() {
    let Some((broker, first, mut app)) = setup().await else { return };
    let second = node(&broker, "n2").await;

    let correlation = app.send("orch/all/node/ping", "{}", |_| {}).await;
    let mut nodes = BTreeSet::new();
    while nodes.len() < 2 {
        let reply = app.answer_to(&correlation).await.reply;
        assert_eq!(label(&reply), "ok");
        assert!(nodes.insert(reply["node"].as_str().unwrap().to_owned()), "answered twice: {reply}");
    }
    for _ in 0..6 {
        let verdict = app.ok("orch/any/conscience/evaluate", json!({ "action": "rest" })).await;
        assert_eq!(verdict["approved"], true);
    }
    for kept in [json!({ "action": "rest", "entity": "bob" }), json!({ "action": "rest", "remember": true })]
    {
        let refused = app.ask("orch/any/conscience/evaluate", kept).await;
        assert_eq!(label(&refused), "invalid", "what is kept would be on one node by chance: {refused}");
    }
    // A command is counted before its answer goes out, and each node takes its commands in order.
    for node in [&first, &second] {
        app.ok(&node.topic("node/ping"), json!({})).await;
    }
    let series = "orchd_commands_total{service=\"conscience\",verb=\"evaluate\",outcome=\"ok\"}";
    let total = first.metric(series) + second.metric(series);
    assert!((total - 6.0).abs() < 0.1, "{total} evaluations for 6 questions");
}
