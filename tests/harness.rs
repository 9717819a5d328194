//! The harness does what the other tests take for granted: a link that is cut is cut, a killed Mosquitto forgets only
//! what it may, a scripted broker withholds what it is told to.

mod support;

use std::time::{Duration, Instant};

use mqtt5::packet::Packet;
use mqtt5::packet::publish::PublishPacket;
use rumqttc::mqttbytes::v5::{PubAckReason, SubscribeReasonCode};
use rumqttc::{
    AckMode, BrokerSessionResumePolicy, MqttOptions, PublishNoticeError, QoS, TlsConfiguration, Transport,
};
use support::{Client, Link, MosquittoOptions, ScriptedBroker, mosquitto, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

fn options(id: &str, addr: std::net::SocketAddr) -> MqttOptions {
    MqttOptions::new(id, (addr.ip().to_string(), addr.port()))
}

/// A server that sends back what it gets.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

async fn works(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    within(async { stream.write_all(b"ping").await.is_ok() && stream.read_exact(&mut answer).await.is_ok() })
        .await
}

#[tokio::test]
async fn a_link_carries_is_cut_and_is_mended() {
    let link = Link::to(echo().await).await;
    let mut before = TcpStream::connect(link.addr()).await.unwrap();
    assert!(works(&mut before).await);
    link.cut();
    assert!(!works(&mut before).await);
    let mut during = TcpStream::connect(link.addr()).await.unwrap();
    assert!(!works(&mut during).await);
    link.mend();
    let mut after = TcpStream::connect(link.addr()).await.unwrap();
    assert!(works(&mut after).await);
    link.delay(Duration::from_millis(50));
    let started = Instant::now();
    assert!(works(&mut after).await);
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_half_open_link_swallows_and_keeps_the_sockets_open() {
    let link = Link::to(echo().await).await;
    let mut stream = TcpStream::connect(link.addr()).await.unwrap();
    assert!(works(&mut stream).await);
    link.half_open();
    stream.write_all(b"lost").await.unwrap();
    // Nothing comes, not even an end.
    assert!(timeout(Duration::from_millis(100), stream.read(&mut [0; 4])).await.is_err());
    link.mend();
    assert!(!works(&mut stream).await);
    let mut after = TcpStream::connect(link.addr()).await.unwrap();
    assert!(works(&mut after).await);
}

#[tokio::test]
async fn mosquitto_keeps_its_sessions_through_a_kill_and_speaks_tls() {
    let configured = MosquittoOptions {
        autosave_on_changes: true,
        max_packet_size: Some(100_000),
        acl: Some("topic readwrite open/#\n".to_owned()),
        ..MosquittoOptions::default()
    };
    let Some(mut broker) = mosquitto(configured).await else { return };
    let lasting = || {
        let mut options = options("keeper", broker.addr());
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(3_600))
            .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
            .set_ack_mode(AckMode::Manual);
        options
    };
    let keeper = Client::connect(lasting()).await.unwrap();
    assert_eq!(keeper.connack.properties.clone().unwrap().max_packet_size, Some(100_000));
    let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
    assert_eq!(keeper.subscribe("open/#").await, Ok(granted));
    keeper.kill().await;

    let mut secure = options("app", broker.tls_addr());
    let tls = orchd::tls::client_config(&broker.ca(), None).unwrap();
    secure.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    let app = Client::connect(secure).await.unwrap();
    app.publish("open/door", "kept").await.unwrap();
    assert_eq!(
        app.publish("closed/door", "refused").await,
        Err(PublishNoticeError::V5PubAck(PubAckReason::NotAuthorized))
    );

    let lasting = lasting();
    broker.kill();
    broker.start().await;
    let mut keeper = Client::connect(lasting.clone()).await.unwrap();
    assert!(keeper.connack.session_present, "{}", broker.log());
    let message = keeper.next().await;
    assert_eq!(&message.payload[..], b"kept");
    keeper.mqtt.ack(&message).await.unwrap();
    keeper.disconnect().await;

    broker.stop().await;
    assert!(TcpStream::connect(broker.addr()).await.is_err());
    broker.start().await;
    assert!(Client::connect(lasting).await.unwrap().connack.session_present);
}

#[tokio::test]
async fn mosquitto_demands_a_client_certificate_where_asked_to() {
    let configured = MosquittoOptions { require_client_certificate: true, ..MosquittoOptions::default() };
    let Some(broker) = mosquitto(configured).await else { return };
    let certificate = broker.authority.issue_client("app").unwrap();
    for (identity, welcome) in [(None, false), (Some(certificate.identity()), true)] {
        let mut options = options("app", broker.tls_addr());
        let tls = orchd::tls::client_config(&broker.ca(), identity).unwrap();
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        assert_eq!(Client::connect(options).await.is_ok(), welcome);
    }
}

#[tokio::test]
async fn a_scripted_broker_withholds_and_reorders_as_told() {
    let script = ScriptedBroker::start().await;
    let mut options = options("client", script.addr());
    options.set_ack_mode(AckMode::Manual).set_session_expiry_interval(Some(60));
    let (client, peer) = tokio::join!(Client::connect(options), async {
        let mut peer = script.accept().await;
        peer.connack(false).await;
        peer
    });
    let (mut client, mut peer) = (client.unwrap(), peer);
    assert_eq!(peer.connect.client_id, "client");

    let (granted, ()) = tokio::join!(client.subscribe("a/#"), async {
        let subscribe = peer.expect_subscribe().await;
        assert_eq!(subscribe.filters[0].filter, "a/#");
        peer.suback(&subscribe).await;
    });
    assert_eq!(granted, Ok(SubscribeReasonCode::Success(QoS::AtLeastOnce)));

    // Messages with ids of the test's choice, acknowledged in the client's order.
    peer.publish(7, "a/1", b"first").await;
    let second = PublishPacket::new("a/2", b"second".to_vec(), mqtt5::QoS::AtLeastOnce)
        .with_packet_id(3)
        .with_dup(true)
        .with_user_property("k".to_owned(), "v".to_owned());
    peer.publish_with(second).await;
    let (first, second) = (client.next().await, client.next().await);
    assert_eq!((first.pkid, second.pkid, second.dup), (7, 3, true));
    assert_eq!(second.properties.clone().unwrap().user_properties, [("k".to_owned(), "v".to_owned())]);
    for message in [&first, &second] {
        client.mqtt.ack(message).await.unwrap();
    }
    assert_eq!((peer.expect_puback().await, peer.expect_puback().await), (7, 3));

    // An acknowledgement that does not come until the test wants it.
    let mut publishing = std::pin::pin!(client.publish("b", "waits"));
    let published = tokio::select! {
        _ = &mut publishing => panic!("acknowledged by nobody"),
        publish = peer.expect_publish() => publish,
    };
    peer.puback(published.packet_id.unwrap()).await;
    assert_eq!(publishing.await, Ok(()));

    client.mqtt.disconnect().await.unwrap();
    assert!(matches!(peer.next().await, Some(Packet::Disconnect(_))));
    assert!(peer.next().await.is_none());
}
