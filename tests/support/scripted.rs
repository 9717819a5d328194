//! A broker that does only what a test tells it to: it acknowledges when asked, in the order asked, or never.
//!
//! Plain TCP, MQTT 5, one packet at a time. Packets are those of the crate `mqtt5`, whose code is not that of the
//! client under test. PINGREQ is answered by itself, whenever the test waits for a packet.

use std::net::SocketAddr;

use bytes::BytesMut;
use mqtt5::QoS;
use mqtt5::packet::Packet;
use mqtt5::packet::connack::ConnAckPacket;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::packet::suback::SubAckPacket;
use mqtt5::packet::subscribe::SubscribePacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use mqtt5::transport::packet_io::{decode_buffered_packet, encode_packet_to_buffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::within;

/// Largest packet that is read.
const MAX_PACKET_BYTES: usize = 16 * 1024 * 1024;

/// Waits for clients on a free port.
pub struct ScriptedBroker {
    listener: TcpListener,
}

impl ScriptedBroker {
    /// Listens on a free port.
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next client, once it has sent its CONNECT, which is not answered yet.
    pub async fn accept(&self) -> Peer {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut reader = Reader { stream, buffer: BytesMut::new() };
        match within(reader.read()).await {
            Some(Packet::Connect(connect)) => Peer { reader, connect: *connect },
            other => panic!("expected CONNECT, got {other:?}"),
        }
    }

    /// The next client, greeted with success and without a session, and its subscriptions granted.
    pub async fn accept_and_grant(&self) -> (Peer, SubscribePacket) {
        let mut peer = self.accept().await;
        peer.connack(false).await;
        let subscribe = peer.expect_subscribe().await;
        peer.suback(&subscribe).await;
        (peer, subscribe)
    }
}

/// A client, seen from the broker. Dropping it closes the connection.
pub struct Peer {
    reader: Reader,
    /// What the client introduced itself with.
    pub connect: ConnectPacket,
}

impl Peer {
    /// Greets with success.
    pub async fn connack(&mut self, session_present: bool) {
        self.connack_with(ConnAckPacket::new(session_present, ReasonCode::Success)).await;
    }

    /// Greets with whatever properties or reason.
    pub async fn connack_with(&mut self, connack: ConnAckPacket) {
        self.send(Packet::ConnAck(connack)).await;
    }

    /// Sends any packet.
    pub async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode_packet_to_buffer(&packet, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    /// As [`Peer::send`], to a client that may have closed the connection.
    pub async fn try_send(&mut self, packet: Packet) -> std::io::Result<()> {
        let mut bytes = BytesMut::new();
        encode_packet_to_buffer(&packet, &mut bytes).unwrap();
        within(self.reader.stream.write_all(&bytes)).await
    }

    /// Sends bytes as they are, for what no packet may look like.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        within(self.reader.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends a QoS 1 message with this packet id.
    pub async fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) {
        let publish = PublishPacket::new(topic, payload.to_vec(), QoS::AtLeastOnce).with_packet_id(id);
        self.send(Packet::Publish(publish)).await;
    }

    /// Sends a message with whatever properties, flags and packet id.
    pub async fn publish_with(&mut self, publish: PublishPacket) {
        self.send(Packet::Publish(publish)).await;
    }

    /// Acknowledges a message of the client.
    pub async fn puback(&mut self, id: u16) {
        self.puback_with(id, ReasonCode::Success).await;
    }

    /// Acknowledges, or refuses, a message of the client.
    pub async fn puback_with(&mut self, id: u16, reason: ReasonCode) {
        self.send(Packet::PubAck(PubAckPacket::new_with_reason(id, reason))).await;
    }

    /// Grants all filters as requested.
    pub async fn suback(&mut self, subscribe: &SubscribePacket) {
        let granted = subscribe
            .filters
            .iter()
            .fold(SubAckPacket::new(subscribe.packet_id), |ack, f| ack.add_granted_qos(f.options.qos));
        self.send(Packet::SubAck(granted)).await;
    }

    /// The next packet but PINGREQ; `None` when the client has closed the connection.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            match within(self.reader.read()).await {
                Some(Packet::PingReq) => self.send(Packet::PingResp).await,
                other => return other,
            }
        }
    }

    /// The next packet, which has to be a SUBSCRIBE. A heartbeat may come before it.
    pub async fn expect_subscribe(&mut self) -> SubscribePacket {
        loop {
            match self.next().await {
                Some(Packet::Subscribe(subscribe)) => return subscribe,
                Some(Packet::Publish(publish)) if publish.qos == QoS::AtMostOnce => {}
                other => panic!("expected SUBSCRIBE, got {other:?}"),
            }
        }
    }

    /// The next packet, which has to be a PUBLISH. It is not acknowledged.
    pub async fn expect_publish(&mut self) -> PublishPacket {
        match self.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    /// The next packet, which has to be a PUBACK; its packet id.
    pub async fn expect_puback(&mut self) -> u16 {
        match self.next().await {
            Some(Packet::PubAck(puback)) => puback.packet_id,
            other => panic!("expected PUBACK, got {other:?}"),
        }
    }
}

struct Reader {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Reader {
    /// May be cancelled without losing bytes.
    async fn read(&mut self) -> Option<Packet> {
        loop {
            match decode_buffered_packet(&mut self.buffer, 5, MAX_PACKET_BYTES) {
                Ok(Some(packet)) => return Some(packet),
                Ok(None) => {}
                Err(error) => panic!("the client sent a malformed packet: {error}"),
            }
            if let Ok(0) | Err(_) = self.stream.read_buf(&mut self.buffer).await {
                return None;
            }
        }
    }
}
