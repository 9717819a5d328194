//! The embedded broker: who gets in, who may do what, and that nobody can hold others up.

mod support;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchd::broker::certs::TrialAuthority;
use orchd::clock::Clock;
use orchd::gate::token::{self, Claims, Role, SigningKey, Verifier};
use orchd::tls;
use rumqttc::mqttbytes::v5::{ConnectReturnCode, PubAckReason, SubscribeReasonCode};
use rumqttc::{ConnectionError, PublishNoticeError, QoS, TlsConfiguration, Transport};
use support::{AUDIENCE, Client, ISSUER, broker, broker_with, tool, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(QoS::AtLeastOnce);

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
    let (mut node, mut asker) = (broker.node("n1").await, broker.client("app").await);
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
    let (node, client) = (broker.node("n1").await, broker.client("app").await);
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
    let (node, forger) = (broker.node("n1").await, broker.client("forger").await);
    let mut observer = broker.client("observer").await;
    assert_eq!(observer.subscribe("orch/+/events/#").await, Ok(GRANTED));
    forger.publish("orch/n1/events/status", "forged").await.unwrap_err();
    node.publish("orch/n1/events/status", "true").await.unwrap();
    assert_eq!(observer.next_text().await.1, "true");
}

#[tokio::test]
async fn a_node_with_a_key_of_its_own_is_let_in_as_itself_alone() {
    let own = SigningKey::generate().unwrap();
    let of_node = own.public().of_node("n1");
    let broker = broker_with(|config, _| {
        config.verifier = Arc::new(Verifier::new(vec![of_node], ISSUER, AUDIENCE));
    })
    .await;
    let login = async |role, name: &str| {
        let mut options = broker.options_without_login(name);
        options.set_credentials(name, token::mint(&own, &broker.claims(role, name)).unwrap());
        Client::connect(options).await
    };
    assert!(login(Role::Node, "n1").await.is_ok());
    for (role, name) in [(Role::Node, "n2"), (Role::Client, "n1"), (Role::Client, "admin")] {
        let code = refused(login(role, name).await);
        assert_eq!(code, ConnectReturnCode::NotAuthorized, "{name}");
    }
}

#[tokio::test]
async fn the_session_of_another_can_be_neither_resumed_nor_replaced() {
    let broker = broker().await;
    let mut owner = Client::connect(broker.lasting("n1")).await.unwrap();
    assert_eq!(owner.subscribe("orch/n1/memory/#").await, Ok(GRANTED));
    for (role, name) in [(Role::Client, "thief"), (Role::Client, "n1"), (Role::Node, "n2")] {
        for clean in [true, false] {
            let mut options = broker.options_without_login("n1");
            options.set_credentials(name, broker.token(role, name)).set_clean_start(clean);
            let code = refused(Client::connect(options).await);
            assert_eq!(code, ConnectReturnCode::ClientIdentifierNotValid, "{name}");
        }
    }
    broker.client("app").await.publish("orch/n1/memory/get", "still here").await.unwrap();
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
    broker.client("app").await.publish("orch/n1/node/ping", "").await.unwrap();
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
        broker.client(name).await.publish("orch/n1/node/ping", "").await.unwrap();
    }
    assert!(slow.try_join_next().is_none(), "the slow ones ended before the others came");
    for cut_off in within(slow.join_all()).await {
        assert!(cut_off);
    }
}

#[tokio::test]
async fn what_exceeds_the_connection_limit_is_closed_at_once() {
    let broker = broker_with(|config, _| config.max_connections = 2).await;
    let (first, _second) = (broker.client("a").await, broker.client("b").await);
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
    let (a, b) = (broker.node("n1").await, broker.client("app").await);
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
    let app = broker.client("app").await;
    drop(broker);
    app.ended().await;
}
