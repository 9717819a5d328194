//! A client that asks a node and tells its replies apart by `in_reply_to`.

use std::collections::VecDeque;
use std::net::SocketAddr;

use rumqttc::MqttOptions;
use serde_json::{Value, json};

use super::{Client, Daemon};

/// A caller with an inbox of its own.
pub struct Caller {
    /// Its connection.
    pub client: Client,
    node: String,
    inbox: String,
    /// Replies to questions other than the one that was waited for.
    early: VecDeque<Value>,
    asked: u64,
    id: String,
}

impl Caller {
    /// Connects, and subscribes to the inbox `orch/inbox/{id}`.
    pub async fn connect(addr: SocketAddr, id: &str, daemon: &Daemon) -> Self {
        Self::connect_to(addr, id, daemon.name()).await
    }

    /// As [`Caller::connect`], to a node that may not run yet.
    pub async fn connect_to(addr: SocketAddr, id: &str, node: &str) -> Self {
        let mut options = MqttOptions::new(id, (addr.ip().to_string(), addr.port()));
        options.set_max_packet_size(Some(1 << 20));
        let client = Client::connect(options).await.unwrap();
        let inbox = format!("orch/inbox/{id}");
        client.subscribe(&inbox).await.unwrap();
        Self { client, node: node.to_owned(), inbox, early: VecDeque::new(), asked: 0, id: id.to_owned() }
    }

    /// The envelope of a command that this caller is to be answered.
    pub fn envelope(&self, message_id: &str, payload: &Value) -> String {
        json!({ "message_id": message_id, "payload": payload, "metadata": { "reply_to": self.inbox } })
            .to_string()
    }

    /// Publishes a command; the broker has it afterwards.
    pub async fn send(&self, message_id: &str, command: &str, payload: &Value) {
        let topic = format!("orch/{}/{command}", self.node);
        self.client.publish(&topic, &self.envelope(message_id, payload)).await.unwrap();
    }

    /// The next reply, whatever its question.
    pub async fn next(&mut self) -> Value {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        self.hear().await
    }

    /// The reply to `message_id`.
    pub async fn reply_to(&mut self, message_id: &str) -> Value {
        if let Some(at) = self.early.iter().position(|reply| reply["in_reply_to"] == message_id) {
            return self.early.remove(at).unwrap();
        }
        loop {
            let reply = self.hear().await;
            if reply["in_reply_to"] == message_id {
                return reply;
            }
            self.early.push_back(reply);
        }
    }

    /// Asks under a fresh id and waits for the reply.
    pub async fn ask(&mut self, command: &str, payload: Value) -> Value {
        self.asked += 1;
        let id = format!("{}-ask-{}", self.id, self.asked);
        self.send(&id, command, &payload).await;
        self.reply_to(&id).await
    }

    /// The payload of the reply, which has to be `ok`.
    pub async fn ask_ok(&mut self, command: &str, payload: Value) -> Value {
        let reply = self.ask(command, payload).await;
        assert_eq!(reply["status"], "ok", "{reply}");
        reply["payload"].clone()
    }

    async fn hear(&mut self) -> Value {
        loop {
            let (topic, payload) = self.client.next_text().await;
            if topic == self.inbox {
                return serde_json::from_str(&payload).unwrap();
            }
        }
    }
}
