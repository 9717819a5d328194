//! Acknowledgements, seen from a broker that does only what it is told: in order, not before their time, never on another
//! connection; and what the node announces when it connects.

mod support;

use mqtt5::QoS;
use mqtt5::packet::Packet;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::packet::subscribe::RetainHandling;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use support::{Daemon, DaemonOptions, Peer, ScriptedBroker, Via};

const NODE: &str = "acker";

/// A node that waits for the scripted broker's greeting.
async fn node() -> (ScriptedBroker, Daemon) {
    let script = ScriptedBroker::start().await;
    let daemon = Daemon::spawn(DaemonOptions::new(NODE, Via::Plain(script.addr()))).await;
    (script, daemon)
}

/// Greets the node's next connection and lets it say what it says first.
async fn greet(script: &ScriptedBroker, session_present: bool) -> Peer {
    let mut peer = script.accept().await;
    peer.connack(session_present).await;
    let subscribe = peer.expect_subscribe().await;
    peer.suback(&subscribe).await;
    peer
}

fn is_event(publish: &PublishPacket) -> bool {
    publish.topic_name.starts_with(&format!("orch/{NODE}/events/"))
}

/// What the node sends next; its events are acknowledged and passed over.
async fn next(peer: &mut Peer) -> Option<Packet> {
    loop {
        match peer.next().await {
            Some(Packet::Publish(publish)) if is_event(&publish) => {
                if let Some(id) = publish.packet_id {
                    peer.puback(id).await;
                }
            }
            other => return other,
        }
    }
}

/// A reply, not acknowledged yet.
struct Reply {
    packet: u16,
    in_reply_to: String,
    message_id: String,
    body: Value,
}

async fn reply(peer: &mut Peer) -> Reply {
    match next(peer).await {
        Some(Packet::Publish(publish)) => {
            let body: Value = serde_json::from_slice(&publish.payload).unwrap();
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            Reply {
                packet: publish.packet_id.unwrap(),
                in_reply_to: text("in_reply_to"),
                message_id: text("message_id"),
                body,
            }
        }
        other => panic!("expected a reply, got {other:?}"),
    }
}

/// The reply to `message_id`; others, sent again after a connection was lost, are acknowledged and passed over.
async fn reply_to(peer: &mut Peer, message_id: &str) -> Reply {
    loop {
        let reply = reply(peer).await;
        if reply.in_reply_to == message_id {
            return reply;
        }
        peer.puback(reply.packet).await;
    }
}

/// The next PUBACK; replies that come twice, as they may after a connection was lost, are acknowledged and passed over.
async fn puback_among_replies(peer: &mut Peer) -> u16 {
    loop {
        match next(peer).await {
            Some(Packet::PubAck(puback)) => return puback.packet_id,
            Some(Packet::Publish(publish)) => peer.puback(publish.packet_id.unwrap()).await,
            other => panic!("expected PUBACK, got {other:?}"),
        }
    }
}

async fn puback(peer: &mut Peer) -> u16 {
    match next(peer).await {
        Some(Packet::PubAck(puback)) => puback.packet_id,
        other => panic!("expected PUBACK, got {other:?}"),
    }
}

/// Sends a command that is to be answered to an inbox.
async fn command(peer: &mut Peer, packet: u16, message_id: &str, name: &str, payload: Value) {
    let envelope =
        json!({ "message_id": message_id, "payload": payload, "metadata": { "reply_to": "orch/inbox/a" } });
    peer.publish(packet, &format!("orch/{NODE}/{name}"), envelope.to_string().as_bytes()).await;
}

async fn ping(peer: &mut Peer, packet: u16, message_id: &str) {
    command(peer, packet, message_id, "node/ping", json!({})).await;
}

/// The ledger, as a second process sees it that keeps the node from writing.
fn hold_the_ledger(daemon: &Daemon) -> Connection {
    let path = daemon.state_dir().join("current").join("ledger.db");
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.busy_timeout(support::LIMIT).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

fn records(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM memory_record", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_node_announces_its_limits_and_asks_for_no_retained_commands() {
    let (script, _daemon) = node().await;
    let mut peer = script.accept().await;
    let connect = peer.connect.clone();
    assert_eq!(connect.client_id, format!("orchd-orch-{NODE}"));
    assert!(!connect.clean_start);
    assert_eq!(connect.properties.get_receive_maximum(), Some(64));
    assert_eq!(connect.properties.get_maximum_packet_size(), Some(1_048_576));
    // Absent means zero.
    assert_eq!(connect.properties.get_topic_alias_maximum().unwrap_or(0), 0);
    assert_eq!(connect.properties.get_session_expiry_interval(), Some(86_400));
    let will = connect.will.expect("a last will");
    assert_eq!(will.topic, format!("orch/{NODE}/events/status"));
    assert!(will.retain);
    assert_eq!(serde_json::from_slice::<Value>(&will.payload).unwrap()["state"], "offline");

    peer.connack(false).await;
    let subscribe = peer.expect_subscribe().await;
    let filters: Vec<_> = subscribe.filters.iter().map(|filter| filter.filter.as_str()).collect();
    assert!(filters.contains(&"orch/acker/memory/#"), "{filters:?}");
    assert!(filters.contains(&"orch/all/node/#"), "{filters:?}");
    for filter in &subscribe.filters {
        assert_eq!(filter.options.qos, QoS::AtLeastOnce, "{}", filter.filter);
        assert_eq!(filter.options.retain_handling, RetainHandling::DoNotSend, "{}", filter.filter);
    }
}

#[tokio::test]
async fn acknowledgements_leave_in_the_order_of_receipt_when_a_slow_read_is_followed_by_fast_ones() {
    let (script, _daemon) = node().await;
    let mut peer = greet(&script, false).await;
    // Ids that are in no order themselves. The first is slow because its reply is not acknowledged.
    for (packet, id) in [(40, "slow"), (7, "fast-1"), (21, "fast-2")] {
        ping(&mut peer, packet, id).await;
    }
    command(&mut peer, 3, "write", "memory/store", json!({ "content": "in the midst" })).await;
    let mut slow = None;
    for _ in 0..4 {
        let reply = reply(&mut peer).await;
        if reply.in_reply_to == "slow" {
            slow = Some(reply.packet);
        } else {
            // Had an acknowledgement been sent already, it would have come before this reply.
            peer.puback(reply.packet).await;
        }
    }
    peer.puback(slow.unwrap()).await;
    let mut order = Vec::new();
    while order.len() < 4 {
        match next(&mut peer).await {
            Some(Packet::PubAck(ack)) => order.push(ack.packet_id),
            // On a very slow machine the reply has moved to the outbox meanwhile, and is sent again.
            Some(Packet::Publish(again)) => peer.puback(again.packet_id.unwrap()).await,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, [40, 7, 21, 3]);
}

#[tokio::test]
async fn a_write_is_acknowledged_only_when_its_commit_can_be_seen() {
    let (script, daemon) = node().await;
    let mut peer = greet(&script, false).await;
    let held = hold_the_ledger(&daemon);
    command(&mut peer, 1, "write", "memory/store", json!({ "content": "not yet" })).await;
    ping(&mut peer, 2, "fence").await;
    // The node has taken both: it answers the second, which needs no commit. Nothing was acknowledged before it.
    let fence = reply(&mut peer).await;
    assert_eq!(fence.in_reply_to, "fence");
    assert_eq!(records(&held), 0);
    peer.puback(fence.packet).await;
    held.execute_batch("ROLLBACK").unwrap();
    let mut acks = Vec::new();
    while acks.len() < 2 {
        match next(&mut peer).await {
            Some(Packet::PubAck(ack)) => {
                assert_eq!(records(&held), 1, "acknowledged, and not there");
                acks.push(ack.packet_id);
            }
            Some(Packet::Publish(reply)) => {
                assert_eq!(records(&held), 1, "answered, and not there");
                peer.puback(reply.packet_id.unwrap()).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acks, [1, 2]);
}

#[tokio::test]
async fn an_acknowledgement_of_an_earlier_connection_is_never_sent_on_a_new_one() {
    let (script, daemon) = node().await;
    let mut peer = greet(&script, false).await;
    let held = hold_the_ledger(&daemon);
    command(&mut peer, 5, "write", "memory/store", json!({ "content": "between two connections" })).await;
    ping(&mut peer, 6, "fence").await;
    assert_eq!(reply(&mut peer).await.in_reply_to, "fence");
    drop(peer);

    let mut peer = greet(&script, true).await;
    held.execute_batch("ROLLBACK").unwrap();
    // The write is committed now, and its answer sent here; its acknowledgement belonged to the other connection.
    let first = reply_to(&mut peer, "write").await;
    assert_eq!(first.body["status"], "ok", "{}", first.body);
    peer.puback(first.packet).await;
    ping(&mut peer, 77, "later").await;
    let later = reply_to(&mut peer, "later").await;
    peer.puback(later.packet).await;
    assert_eq!(puback_among_replies(&mut peer).await, 77);

    // As a broker does: what was not acknowledged comes again, and gets the answer that it got before.
    let envelope = json!({
        "message_id": "write",
        "payload": { "content": "between two connections" },
        "metadata": { "reply_to": "orch/inbox/a" },
    });
    let again = PublishPacket::new(
        format!("orch/{NODE}/memory/store"),
        envelope.to_string().into_bytes(),
        QoS::AtLeastOnce,
    )
    .with_packet_id(5)
    .with_dup(true);
    peer.publish_with(again).await;
    // The answer is durable, so it and the acknowledgement may come in either order.
    let (mut repeated, mut acknowledged) = (false, false);
    while !(repeated && acknowledged) {
        match next(&mut peer).await {
            Some(Packet::PubAck(puback)) => {
                assert_eq!(puback.packet_id, 5);
                acknowledged = true;
            }
            Some(Packet::Publish(publish)) => {
                peer.puback(publish.packet_id.unwrap()).await;
                let body: Value = serde_json::from_slice(&publish.payload).unwrap();
                // The answer to the fence was not acknowledged before the connection ended; it may come here too.
                if body["in_reply_to"] == "fence" {
                    continue;
                }
                assert_eq!(body["message_id"], first.message_id.as_str());
                assert_eq!(body["payload"], first.body["payload"]);
                repeated = true;
            }
            other => panic!("expected the answer or its acknowledgement, got {other:?}"),
        }
    }
    assert_eq!(records(&held), 1);
}

#[tokio::test]
async fn a_reply_that_the_broker_does_not_take_moves_to_the_outbox_and_is_sent_again_with_the_same_id() {
    let (script, daemon) = node().await;
    let mut peer = greet(&script, false).await;
    ping(&mut peer, 9, "unheard").await;
    let first = reply(&mut peer).await;
    assert_eq!(first.in_reply_to, "unheard");
    // Not acknowledged. The command is, once its reply is safe.
    loop {
        match next(&mut peer).await {
            Some(Packet::PubAck(ack)) => {
                assert_eq!(ack.packet_id, 9);
                break;
            }
            Some(Packet::Publish(again)) => {
                let body: Value = serde_json::from_slice(&again.payload).unwrap();
                assert_eq!(body["message_id"], first.message_id.as_str());
            }
            other => panic!("{other:?}"),
        }
    }
    let open: i64 = daemon
        .ledger()
        .query_row("SELECT count(*) FROM outbox WHERE open = 1 AND in_reply_to = 'unheard'", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(open, 1);
    drop(peer);

    let mut peer = greet(&script, true).await;
    let second = reply(&mut peer).await;
    assert_eq!((second.in_reply_to, second.message_id), (first.in_reply_to, first.message_id));
    assert_eq!(second.body, first.body);
    peer.puback(second.packet).await;
    ping(&mut peer, 10, "next").await;
    let later = reply(&mut peer).await;
    assert_eq!(later.in_reply_to, "next", "what was accepted is not sent a third time");
}

#[tokio::test]
async fn what_a_broker_sends_beyond_the_receive_maximum_is_left_with_it_once_it_weighs_too_much() {
    let (script, daemon) = node().await;
    let mut peer = greet(&script, false).await;
    ping(&mut peer, 1, "warm").await;
    let warm = reply(&mut peer).await;
    peer.puback(warm.packet).await;
    assert_eq!(puback(&mut peer).await, 1);
    let before = daemon.rss();
    // Nothing can be acknowledged: the ledger is held, and no reply taken. 200 MB in all.
    let held = hold_the_ledger(&daemon);
    let content = "x".repeat(200_000);
    for packet in 2..=1_000 {
        let envelope = json!({ "message_id": format!("flood-{packet}"), "payload": { "content": content } });
        let topic = format!("orch/{NODE}/memory/store");
        let publish = PublishPacket::new(topic, envelope.to_string().into_bytes(), QoS::AtLeastOnce);
        peer.send(Packet::Publish(publish.with_packet_id(packet))).await;
    }
    held.execute_batch("ROLLBACK").unwrap();
    // What was taken is answered and acknowledged, in order, and only then the connection ends.
    let mut acknowledged = 1;
    while let Some(packet) = peer.next().await {
        match packet {
            Packet::Publish(answer) => peer.puback(answer.packet_id.unwrap()).await,
            Packet::PubAck(ack) => {
                acknowledged += 1;
                assert_eq!(ack.packet_id, acknowledged);
            }
            _ => {}
        }
    }
    assert!((128..900).contains(&acknowledged), "{acknowledged}");
    assert!(daemon.rss() < before + (100 << 20), "from {before} to {}", daemon.rss());

    let mut peer = greet(&script, true).await;
    assert!(daemon.log().contains("Receive Maximum"), "{}", daemon.log());
    ping(&mut peer, 1, "after").await;
    let after = reply_to(&mut peer, "after").await;
    assert_eq!(after.body["status"], "ok");
}
