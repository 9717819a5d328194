//! What of MQTT the project relies on, at the embedded broker. Its protocol code is a library that is not at version 1
//! yet: an update of it has to pass here.

mod support;

use std::io::Read;
use std::process::{Command, Stdio};

use orchd::broker::BrokerStorage;
use orchd::gate::token::Role;
use orchd::tls;
use rumqttc::mqttbytes::v5::{LastWill, PublishProperties, SubscribeReasonCode};
use rumqttc::{PublishOptions, QoS};
use support::{Client, broker, broker_with, tool, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(QoS::AtLeastOnce);

#[tokio::test]
async fn a_plain_mqtt_3_1_1_publisher_works() {
    let Some(publisher) = tool("mosquitto_pub") else { return };
    let broker = broker().await;
    let mut node = broker.node("n1").await;
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let mut command = Command::new(publisher);
    command.args(["-V", "311", "-q", "1", "-h", "localhost", "-p", &broker.addr.port().to_string()]);
    command.args(["-u", "app", "-P", &broker.token(Role::Client, "app"), "--cafile"]).arg(broker.ca());
    command.args(["-t", "orch/n1/memory/store", "-m", r#"{"content":"x"}"#]);
    command.stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (status, errors) = within(spawn_blocking(move || {
        let status = child.wait().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status, errors)
    }))
    .await
    .unwrap();
    assert!(status.success(), "{errors}");
    assert_eq!(node.next_text().await.1, r#"{"content":"x"}"#);
}

#[tokio::test]
async fn a_retained_message_reaches_who_subscribes_later() {
    let broker = broker().await;
    let node = broker.node("n1").await;
    let retained = PublishOptions::at_least_once().retained();
    node.publish_with("orch/n1/events/status", "online", retained.clone()).await.unwrap();
    let mut observer = broker.client("app").await;
    assert_eq!(observer.subscribe("orch/+/events/status").await, Ok(GRANTED));
    let status = observer.next().await;
    assert!(status.retain);
    assert_eq!(&status.payload[..], b"online");
    // An empty one removes it.
    node.publish_with("orch/n1/events/status", "", retained).await.unwrap();
    assert!(observer.next().await.payload.is_empty());
    let mut later = broker.client("later").await;
    assert_eq!(later.subscribe("orch/+/events/#").await, Ok(GRANTED));
    node.publish("orch/n1/events/jobs", "first").await.unwrap();
    assert_eq!(later.next_text().await.1, "first");
}

#[tokio::test]
async fn a_will_is_published_when_the_connection_breaks_and_not_on_a_disconnect() {
    let broker = broker().await;
    let mut observer = broker.client("app").await;
    assert_eq!(observer.subscribe("orch/+/events/status").await, Ok(GRANTED));
    let with_will = |name: &str| {
        let mut options = broker.options(Role::Node, name);
        let topic = format!("orch/{name}/events/status");
        options.set_last_will(LastWill::new(topic, "offline", QoS::AtLeastOnce, true, None));
        options
    };
    Client::connect(with_will("polite")).await.unwrap().disconnect().await;
    Client::connect(with_will("n1")).await.unwrap().kill().await;
    assert_eq!(observer.next_text().await, ("orch/n1/events/status".to_owned(), "offline".to_owned()));
    // A will is no way around the access list.
    let mut options = broker.options(Role::Client, "forger");
    options.set_last_will(LastWill::new("orch/n1/events/status", "forged", QoS::AtLeastOnce, false, None));
    Client::connect(options).await.unwrap().kill().await;
    Client::connect(with_will("n2")).await.unwrap().kill().await;
    assert_eq!(observer.next_text().await.0, "orch/n2/events/status");
}

#[tokio::test]
async fn a_session_keeps_subscriptions_and_messages_while_its_owner_is_away() {
    let broker = broker().await;
    let node = Client::connect(broker.lasting("n1")).await.unwrap();
    assert!(!node.connack.session_present);
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    node.kill().await;
    let app = broker.client("app").await;
    for i in 0..50 {
        app.publish("orch/n1/memory/store", &i.to_string()).await.unwrap();
    }
    let mut node = Client::connect(broker.lasting("n1")).await.unwrap();
    assert!(node.connack.session_present);
    for i in 0..50 {
        let publish = node.next().await;
        assert_eq!(publish.payload, i.to_string());
        node.mqtt.ack(&publish).await.unwrap();
    }
}

#[tokio::test]
async fn state_in_a_directory_outlives_the_broker() {
    let mut broker =
        broker_with(|config, dir| config.storage = BrokerStorage::Directory(dir.join("state"))).await;
    let node = Client::connect(broker.lasting("n1")).await.unwrap();
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let retained = PublishOptions::at_least_once().retained();
    node.publish_with("orch/n1/events/status", "online", retained).await.unwrap();
    node.kill().await;
    broker.client("app").await.publish("orch/n1/memory/store", "kept").await.unwrap();

    broker.stop().await;
    broker.start().await;

    let mut node = Client::connect(broker.lasting("n1")).await.unwrap();
    assert!(node.connack.session_present);
    assert_eq!(node.next_text().await.1, "kept");
    let mut observer = broker.client("observer").await;
    assert_eq!(observer.subscribe("orch/+/events/#").await, Ok(GRANTED));
    assert_eq!(observer.next_text().await.1, "online");
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one() {
    let broker = broker().await;
    let (mut a, mut b) = (broker.node("a").await, broker.node("b").await);
    for (node, name) in [(&a, "a"), (&b, "b")] {
        assert_eq!(node.subscribe("$share/group/orch/any/#").await, Ok(GRANTED));
        assert_eq!(node.subscribe(&format!("orch/{name}/node/#")).await, Ok(GRANTED));
    }
    let app = broker.client("app").await;
    for i in 0..40 {
        app.publish("orch/any/llm/complete", &i.to_string()).await.unwrap();
    }
    for name in ["a", "b"] {
        app.publish(&format!("orch/{name}/node/ping"), "last").await.unwrap();
    }
    let mut seen = Vec::new();
    for node in [&mut a, &mut b] {
        let before = seen.len();
        loop {
            match node.next_text().await.1 {
                last if last == "last" => break,
                number => seen.push(number.parse::<u32>().unwrap()),
            }
        }
        assert!(seen.len() > before, "one of the group got nothing");
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unacknowledged_message_comes_again_marked_and_an_acknowledged_one_does_not() {
    let broker = broker().await;
    let mut node = Client::connect(broker.lasting("n1")).await.unwrap();
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let app = broker.client("app").await;
    app.publish("orch/n1/memory/store", "once").await.unwrap();
    let first = node.next().await;
    assert!(!first.dup);
    node.kill().await;

    let mut node = Client::connect(broker.lasting("n1")).await.unwrap();
    let again = node.next().await;
    assert!(again.dup);
    assert_eq!((&again.payload, again.pkid), (&first.payload, first.pkid));
    node.mqtt.ack(&again).await.unwrap();
    node.disconnect().await;

    let mut node = Client::connect(broker.lasting("n1")).await.unwrap();
    assert!(node.connack.session_present);
    app.publish("orch/n1/memory/store", "next").await.unwrap();
    assert_eq!(node.next_text().await.1, "next");
}

#[tokio::test]
async fn the_properties_of_a_question_arrive_as_they_were_sent() {
    let broker = broker().await;
    let mut node = broker.node("n1").await;
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let properties = PublishProperties {
        response_topic: Some("orch/inbox/app/1".to_owned()),
        correlation_data: Some(vec![0, 255, 1].into()),
        content_type: Some("application/cbor".to_owned()),
        message_expiry_interval: Some(60),
        user_properties: vec![
            ("message-id".to_owned(), "1".to_owned()),
            ("message-id".to_owned(), "2".to_owned()),
            ("x-mqtt-sender".to_owned(), "node:forged".to_owned()),
        ],
        ..PublishProperties::default()
    };
    let app = broker.client("app").await;
    let options = PublishOptions::at_least_once().properties(properties.clone());
    app.publish_with("orch/n1/memory/get", "", options).await.unwrap();
    let got = node.next().await.properties.unwrap();
    assert_eq!(got.response_topic, properties.response_topic);
    assert_eq!(got.correlation_data, properties.correlation_data);
    assert_eq!(got.content_type, properties.content_type);
    assert!(got.message_expiry_interval.is_some_and(|seconds| (55..=60).contains(&seconds)));
    // The broker appends who it was, and nobody else can.
    let ours: Vec<_> = got.user_properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(ours[..2], [("message-id", "1"), ("message-id", "2")]);
    let senders: Vec<_> = ours.iter().filter(|(k, _)| *k == "x-mqtt-sender").collect();
    assert_eq!(senders, [&("x-mqtt-sender", "client:app")]);
}

#[tokio::test]
async fn the_largest_packet_is_announced_and_a_larger_one_ends_only_its_own_connection() {
    let broker = broker_with(|config, _| config.max_packet_bytes = 10_000).await;
    let mut node = broker.node("n1").await;
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let properties = node.connack.properties.clone().unwrap();
    assert_eq!(properties.max_packet_size, Some(10_000));
    assert_eq!(properties.topic_alias_max.unwrap_or(0), 0);

    // A client that does not care, by hand: CONNECT, then the start of a PUBLISH of 1 MB.
    let config = tls::client_config(&broker.ca(), None).unwrap();
    let connector = TlsConnector::from(config);
    let stream = TcpStream::connect(broker.addr).await.unwrap();
    let mut stream = within(connector.connect("localhost".try_into().unwrap(), stream)).await.unwrap();
    stream.write_all(&[0x32, 0xc0, 0x84, 0x3d]).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;

    broker.client("app").await.publish("orch/n1/memory/store", &"x".repeat(9_000)).await.unwrap();
    assert_eq!(node.next().await.payload.len(), 9_000);
}
