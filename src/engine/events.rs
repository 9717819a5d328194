//! What the node tells of itself without being asked: `events/{heartbeat,errors,jobs,memory}`.
//!
//! Events are news, not answers: QoS 0, dropped when nobody can take them, never waited for.

use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::port::{Outgoing, Publish};
use crate::clock::Timestamp;
use crate::wire::Names;

/// Events that a slow listener may fall behind by.
const BACKLOG: usize = 256;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The last level of its topic.
    pub kind: &'static str,
    /// JSON.
    pub payload: Bytes,
}

/// Trouble that an operator should know of.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorEvent<'a> {
    /// What happened: `duplicate_name`, `subscriptions_refused`, `publications_refused`, `storage_full`, `storage_recovered`,
    /// `breaker_opened`, `breaker_closed`, `schedule_failed`, `backup_failed`, `backup_damaged`, or a kind of anomaly:
    /// `anomaly_burst`, `anomaly_refusals`, `anomaly_strangers`, `anomaly_replay` or `anomaly_dormant_key`.
    pub error: &'static str,
    /// For people.
    pub message: &'a str,
    /// Who stands out, as in the audit trail; with anomalies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<&'a str>,
    /// When.
    pub timestamp: Timestamp,
}

/// Where events are told, and heard.
#[derive(Clone, Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Events {
    /// Tells of a trouble that an operator should know of.
    pub fn tell_error(&self, error: &'static str, message: &str, timestamp: Timestamp) {
        self.tell("errors", &ErrorEvent { error, message, principal: None, timestamp });
    }

    /// Tells everyone who listens. Never waits.
    pub fn tell<T: Serialize>(&self, kind: &'static str, body: &T) {
        match serde_json::to_vec(body) {
            // An error means that nobody listens.
            Ok(payload) => drop(self.sender.send(Event { kind, payload: payload.into() })),
            Err(error) => tracing::error!(kind, %error, "an event could not be written"),
        }
    }

    /// Hears what is told from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// Publishes what is told, until `stop`.
    pub async fn publish(self, names: Names, publisher: Arc<dyn Publish>, stop: CancellationToken) {
        let mut events = self.listen();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(event) if publisher.is_connected() => {
                    publisher.publish(Outgoing::event(names.event(event.kind), event.payload)).await;
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "events were dropped")
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}
