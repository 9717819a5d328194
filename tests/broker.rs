//! The embedded broker: who gets in, who may do what, and what of MQTT the project relies on.
//!
//! Its protocol code is a library that is not at version 1 yet. The tests from `a_retained_message…` on are the
//! conformance that an update of it has to keep.

mod support;

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchd::broker::BrokerStorage;
use orchd::broker::certs::TrialAuthority;
use orchd::clock::Clock;
use orchd::gate::token::{self, Claims, Role, SigningKey};
use orchd::tls;
use rumqttc::mqttbytes::v5::{
    ConnectReturnCode, LastWill, PubAckReason, PublishProperties, SubscribeReasonCode,
};
use rumqttc::{
    AckMode, BrokerSessionResumePolicy, ConnectionError, MqttOptions, PublishNoticeError, PublishOptions,
    QoS, TlsConfiguration, Transport,
};
use support::{Client, TestBroker, broker, broker_with, tool, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(QoS::AtLeastOnce);

async fn node(broker: &TestBroker, name: &str) -> Client {
    Client::connect(broker.options(Role::Node, name)).await.unwrap()
}

async fn client(broker: &TestBroker, name: &str) -> Client {
    Client::connect(broker.options(Role::Client, name)).await.unwrap()
}

/// Options of a node whose session outlives the connection.
fn lasting(broker: &TestBroker, name: &str) -> MqttOptions {
    let mut options = broker.options(Role::Node, name);
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(3_600))
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_ack_mode(AckMode::Manual);
    options
}

fn refused(result: Result<Client, ConnectionError>) -> ConnectReturnCode {
    match result {
        Err(ConnectionError::ConnectionRefused(code)) => code,
        Err(other) => panic!("expected a refusal, got {other}"),
        Ok(_) => panic!("was let in"),
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let Some(openssl) = tool("openssl") else { return };
    let broker = broker().await;
    for (version, accepted) in [("-tls1_2", false), ("-tls1_3", true)] {
        let mut command = Command::new(&openssl);
        command
            .args(["s_client", "-verify_return_error", version, "-connect", &broker.addr.to_string()])
            .arg("-CAfile")
            .arg(broker.ca())
            .stdin(Stdio::null());
        let output = within(spawn_blocking(move || command.output())).await.unwrap().unwrap();
        assert_eq!(output.status.success(), accepted, "{version}: {output:?}");
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_valid_token() {
    let broker = broker().await;
    let claims = broker.claims(Role::Client, "app");
    let mint = |claims: &Claims| token::mint(&broker.signing, claims).unwrap();
    let expired = mint(&Claims { iat: claims.iat - 700, exp: claims.iat - 60, ..claims.clone() });
    let foreign = token::mint(&SigningKey::generate().unwrap(), &claims).unwrap();
    let reserved = mint(&Claims { sub: "results".to_owned(), ..claims.clone() });
    let wildcard = mint(&Claims { sub: "+".to_owned(), ..claims.clone() });
    let elsewhere = mint(&Claims { aud: "another".to_owned(), ..claims.clone() });
    for (user, password) in [
        ("app", "".to_owned()),
        ("app", "sesame".to_owned()),
        ("app", expired),
        ("app", foreign),
        ("app", elsewhere),
        ("results", reserved),
        ("+", wildcard),
        ("other", mint(&claims)),
    ] {
        let mut options = broker.options_without_login("app");
        options.set_credentials(user, password.clone());
        let code = refused(Client::connect(options).await);
        assert_eq!(code, ConnectReturnCode::NotAuthorized, "{user} with {password}");
    }
    let anonymous = Client::connect(broker.options_without_login("app")).await;
    assert_eq!(refused(anonymous), ConnectReturnCode::NotAuthorized);
    // The user name may be left out, and the client id does not matter.
    let mut options = broker.options_without_login("whatever");
    options.set_credentials("", mint(&claims));
    Client::connect(options).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_demanded_where_configured() {
    let elsewhere = tempfile::tempdir().unwrap();
    let clients = TrialAuthority::open_or_create(elsewhere.path(), Clock::system().now()).unwrap();
    let broker = broker_with(|config, dir| {
        let certs = dir.join("certs");
        let (certificate, key) = (certs.join("server.pem"), certs.join("server-key.pem"));
        let server = tls::Identity { certificate: &certificate, key: &key };
        config.tls = tls::server_config(server, Some(&clients.certificate())).unwrap();
    })
    .await;
    assert!(Client::connect(broker.options(Role::Client, "app")).await.is_err());
    let certificate = clients.issue_client("app").unwrap();
    let config = tls::client_config(&broker.ca(), Some(certificate.identity())).unwrap();
    let mut options = broker.options(Role::Client, "app");
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    Client::connect(options).await.unwrap();
}

#[tokio::test]
async fn a_command_goes_to_its_node_and_the_answer_to_its_asker() {
    let broker = broker().await;
    let (mut node, mut asker) = (node(&broker, "n1").await, client(&broker, "app").await);
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    assert_eq!(asker.subscribe("orch/inbox/app/#").await, Ok(GRANTED));
    asker.publish("orch/n1/memory/store", "question").await.unwrap();
    assert_eq!(node.next_text().await, ("orch/n1/memory/store".to_owned(), "question".to_owned()));
    node.publish("orch/inbox/app/1", "answer").await.unwrap();
    assert_eq!(asker.next_text().await, ("orch/inbox/app/1".to_owned(), "answer".to_owned()));
}

#[tokio::test]
async fn what_the_access_list_refuses_is_answered_not_authorized() {
    let broker = broker().await;
    let (node, client) = (node(&broker, "n1").await, client(&broker, "app").await);
    for filter in ["orch/inbox/other/#", "orch/inbox/#", "orch/n1/memory/#", "orch/#", "#", "orch/+/+/status"]
    {
        let code = client.subscribe(filter).await;
        assert_eq!(code, Ok(SubscribeReasonCode::NotAuthorized), "client to {filter}");
    }
    for filter in ["orch/n2/memory/#", "orch/n1/#", "orch/inbox/app/#", "$share/g/orch/n2/memory/#"] {
        let code = node.subscribe(filter).await;
        assert_eq!(code, Ok(SubscribeReasonCode::NotAuthorized), "node to {filter}");
    }
    let not_authorized = Err(PublishNoticeError::V5PubAck(PubAckReason::NotAuthorized));
    for topic in ["orch/n1/events/status", "orch/n1/results/memory", "orch/inbox/app/1", "else/n1/memory/get"]
    {
        assert_eq!(client.publish(topic, "forged").await, not_authorized, "client on {topic}");
    }
    for topic in
        ["orch/n2/memory/store", "orch/n1/memory/store", "orch/n2/events/status", "orch/all/node/ping"]
    {
        assert_eq!(node.publish(topic, "forged").await, not_authorized, "node on {topic}");
    }
}

#[tokio::test]
async fn what_was_refused_is_not_delivered() {
    let broker = broker().await;
    let (node, forger) = (node(&broker, "n1").await, client(&broker, "forger").await);
    let mut observer = client(&broker, "observer").await;
    assert_eq!(observer.subscribe("orch/+/events/#").await, Ok(GRANTED));
    forger.publish("orch/n1/events/status", "forged").await.unwrap_err();
    node.publish("orch/n1/events/status", "true").await.unwrap();
    assert_eq!(observer.next_text().await.1, "true");
}

#[tokio::test]
async fn the_session_of_another_can_be_neither_resumed_nor_replaced() {
    let broker = broker().await;
    let mut owner = Client::connect(lasting(&broker, "n1")).await.unwrap();
    assert_eq!(owner.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    for (role, name) in [(Role::Client, "thief"), (Role::Client, "n1"), (Role::Node, "n2")] {
        for clean in [true, false] {
            let mut options = broker.options_without_login("n1");
            options.set_credentials(name, broker.token(role, name)).set_clean_start(clean);
            let code = refused(Client::connect(options).await);
            assert_eq!(code, ConnectReturnCode::ClientIdentifierNotValid, "{name}");
        }
    }
    client(&broker, "app").await.publish("orch/n1/memory/get", "still here").await.unwrap();
    assert_eq!(owner.next_text().await.1, "still here");
}

#[tokio::test]
async fn a_silent_connection_holds_nobody_up() {
    let broker = broker().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(broker.addr).await.unwrap());
    }
    let started = Instant::now();
    client(&broker, "app").await.publish("orch/n1/node/ping", "").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // And a silent one does not stay for ever.
    let closed = within(silent[0].read(&mut [0; 64])).await;
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");
}

#[tokio::test]
async fn a_handshake_of_one_byte_at_a_time_holds_nobody_up_and_is_cut_off() {
    let broker = broker().await;
    let config = tls::client_config(&broker.ca(), None).unwrap();
    let mut hello = Vec::new();
    let mut tls = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    tls.write_tls(&mut hello).unwrap();
    let mut slow = JoinSet::new();
    for _ in 0..20 {
        let (addr, hello) = (broker.addr, hello.clone());
        slow.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let (mut read, mut write) = stream.split();
            let trickle = async {
                for byte in hello {
                    write.write_all(&[byte]).await?;
                    sleep(Duration::from_millis(100)).await;
                }
                std::io::Result::Ok(())
            };
            let mut buffer = [0; 64];
            tokio::select! {
                // The broker closed it, which is what has to happen.
                read = read.read(&mut buffer) => !matches!(read, Ok(1..)),
                written = trickle => written.is_err(),
            }
        });
    }
    for name in ["a", "b", "c"] {
        client(&broker, name).await.publish("orch/n1/node/ping", "").await.unwrap();
    }
    assert!(slow.try_join_next().is_none(), "the slow ones ended before the others came");
    for cut_off in within(slow.join_all()).await {
        assert!(cut_off);
    }
}

#[tokio::test]
async fn what_exceeds_the_connection_limit_is_closed_at_once() {
    let broker = broker_with(|config, _| config.max_connections = 2).await;
    let (first, _second) = (client(&broker, "a").await, client(&broker, "b").await);
    assert!(Client::connect(broker.options(Role::Client, "c")).await.is_err());
    first.disconnect().await;
    within(async {
        while Client::connect(broker.options(Role::Client, "c")).await.is_err() {
            // The broker notices the free place on its own time.
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_exceeds_the_handshake_limit_is_closed_at_once() {
    let broker = broker_with(|config, _| config.max_handshakes = 3).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(broker.addr).await.unwrap());
    }
    let started = Instant::now();
    assert!(Client::connect(broker.options(Role::Client, "app")).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_stopped_broker_frees_its_port_and_says_goodbye() {
    let mut broker = broker().await;
    let (a, b) = (node(&broker, "n1").await, client(&broker, "app").await);
    let _silent = TcpStream::connect(broker.addr).await.unwrap();
    let started = Instant::now();
    broker.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let again = TcpListener::bind(broker.addr).await;
    assert!(again.is_ok(), "{again:?}");
    a.ended().await;
    b.ended().await;
}

#[tokio::test]
async fn a_dropped_broker_stops_too() {
    let broker = broker().await;
    let app = client(&broker, "app").await;
    drop(broker);
    app.ended().await;
}

#[tokio::test]
async fn a_plain_mqtt_3_1_1_publisher_works() {
    let Some(publisher) = tool("mosquitto_pub") else { return };
    let broker = broker().await;
    let mut node = node(&broker, "n1").await;
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
    let node = node(&broker, "n1").await;
    let retained = PublishOptions::at_least_once().retained();
    node.publish_with("orch/n1/events/status", "online", retained.clone()).await.unwrap();
    let mut observer = client(&broker, "app").await;
    assert_eq!(observer.subscribe("orch/+/events/status").await, Ok(GRANTED));
    let status = observer.next().await;
    assert!(status.retain);
    assert_eq!(&status.payload[..], b"online");
    // An empty one removes it.
    node.publish_with("orch/n1/events/status", "", retained).await.unwrap();
    assert!(observer.next().await.payload.is_empty());
    let mut later = client(&broker, "later").await;
    assert_eq!(later.subscribe("orch/+/events/#").await, Ok(GRANTED));
    node.publish("orch/n1/events/jobs", "first").await.unwrap();
    assert_eq!(later.next_text().await.1, "first");
}

#[tokio::test]
async fn a_will_is_published_when_the_connection_breaks_and_not_on_a_disconnect() {
    let broker = broker().await;
    let mut observer = client(&broker, "app").await;
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
    let node = Client::connect(lasting(&broker, "n1")).await.unwrap();
    assert!(!node.connack.session_present);
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    node.kill().await;
    let app = client(&broker, "app").await;
    for i in 0..50 {
        app.publish("orch/n1/memory/store", &i.to_string()).await.unwrap();
    }
    let mut node = Client::connect(lasting(&broker, "n1")).await.unwrap();
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
    let node = Client::connect(lasting(&broker, "n1")).await.unwrap();
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let retained = PublishOptions::at_least_once().retained();
    node.publish_with("orch/n1/events/status", "online", retained).await.unwrap();
    node.kill().await;
    client(&broker, "app").await.publish("orch/n1/memory/store", "kept").await.unwrap();

    broker.stop().await;
    broker.start().await;

    let mut node = Client::connect(lasting(&broker, "n1")).await.unwrap();
    assert!(node.connack.session_present);
    assert_eq!(node.next_text().await.1, "kept");
    let mut observer = client(&broker, "observer").await;
    assert_eq!(observer.subscribe("orch/+/events/#").await, Ok(GRANTED));
    assert_eq!(observer.next_text().await.1, "online");
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one() {
    let broker = broker().await;
    let (mut a, mut b) = (node(&broker, "a").await, node(&broker, "b").await);
    for (node, name) in [(&a, "a"), (&b, "b")] {
        assert_eq!(node.subscribe("$share/group/orch/any/#").await, Ok(GRANTED));
        assert_eq!(node.subscribe(&format!("orch/{name}/node/#")).await, Ok(GRANTED));
    }
    let app = client(&broker, "app").await;
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
    let mut node = Client::connect(lasting(&broker, "n1")).await.unwrap();
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let app = client(&broker, "app").await;
    app.publish("orch/n1/memory/store", "once").await.unwrap();
    let first = node.next().await;
    assert!(!first.dup);
    node.kill().await;

    let mut node = Client::connect(lasting(&broker, "n1")).await.unwrap();
    let again = node.next().await;
    assert!(again.dup);
    assert_eq!((&again.payload, again.pkid), (&first.payload, first.pkid));
    node.mqtt.ack(&again).await.unwrap();
    node.disconnect().await;

    let mut node = Client::connect(lasting(&broker, "n1")).await.unwrap();
    assert!(node.connack.session_present);
    app.publish("orch/n1/memory/store", "next").await.unwrap();
    assert_eq!(node.next_text().await.1, "next");
}

#[tokio::test]
async fn the_properties_of_a_question_arrive_as_they_were_sent() {
    let broker = broker().await;
    let mut node = node(&broker, "n1").await;
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
    let app = client(&broker, "app").await;
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
    let mut node = node(&broker, "n1").await;
    assert_eq!(node.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    let properties = node.connack.properties.clone().unwrap();
    assert_eq!(properties.max_packet_size, Some(10_000));
    assert_eq!(properties.topic_alias_max.unwrap_or(0), 0);

    // A client that does not care, by hand: CONNECT, then the start of a PUBLISH of 1 MB.
    let config = tls::client_config(&broker.ca(), None).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
    let stream = TcpStream::connect(broker.addr).await.unwrap();
    let mut stream = within(connector.connect("localhost".try_into().unwrap(), stream)).await.unwrap();
    stream.write_all(&[0x32, 0xc0, 0x84, 0x3d]).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;

    client(&broker, "app").await.publish("orch/n1/memory/store", &"x".repeat(9_000)).await.unwrap();
    assert_eq!(node.next().await.payload.len(), 9_000);
}
