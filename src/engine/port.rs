//! What the engine asks of the link to the broker, and what it gets from it. The `mqtt` module is on the other side; a
//! test can be, too.

use bytes::Bytes;

use super::command::BoxFuture;
use crate::wire::{Encoding, Properties};

/// A message that arrived on a command topic.
#[derive(Debug)]
pub struct Delivery {
    /// The topic.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// MQTT 5 properties.
    pub properties: Properties,
    /// Whether the broker kept it as a retained message.
    pub retained: bool,
    /// To be completed once the command has been dealt with.
    pub ack: Ack,
}

/// The acknowledgement that a delivery owes the broker. Dropping it leaves the message with the broker, which delivers
/// it again on the next connection.
pub struct Ack(Option<Owed>);

struct Owed {
    complete: Box<dyn FnOnce() + Send>,
    is_void: Box<dyn Fn() -> bool + Send>,
}

impl Ack {
    /// An acknowledgement that runs `complete`, which must not block. `is_void` says whether its connection has ended.
    pub fn new(
        complete: impl FnOnce() + Send + 'static,
        is_void: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        Self(Some(Owed { complete: Box::new(complete), is_void: Box::new(is_void) }))
    }

    /// For QoS 0, which needs none.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_owed(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the broker will deliver the message again whatever happens to it here.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.0.as_ref().is_some_and(|owed| (owed.is_void)())
    }

    /// The message will not be needed again.
    pub fn complete(self) {
        if let Some(owed) = self.0 {
            (owed.complete)();
        }
    }
}

impl std::fmt::Debug for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Ack(owed)" } else { "Ack(none)" })
    }
}

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The topic.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// QoS 1 when true, else QoS 0.
    pub at_least_once: bool,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// How the bytes are written.
    pub encoding: Encoding,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Message Expiry Interval in seconds.
    pub expires_in: Option<u32>,
}

impl Outgoing {
    /// A JSON message at QoS 0 that nobody keeps.
    #[must_use]
    pub const fn event(topic: String, payload: Bytes) -> Self {
        Self {
            topic,
            payload,
            at_least_once: false,
            retain: false,
            encoding: Encoding::Json,
            correlation_data: None,
            expires_in: None,
        }
    }
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// The broker has it ("no matching subscribers" included).
    Accepted,
    /// The broker will never take it, for this reason.
    Refused(&'static str),
    /// It is not known to have arrived: no connection, or the connection went away first.
    Unsent,
}

/// Publishes to the broker.
pub trait Publish: Send + Sync {
    /// Resolves when the broker has answered, or will not.
    fn publish(&self, message: Outgoing) -> BoxFuture<Publication>;

    /// Whether there is a connection at the moment.
    fn is_connected(&self) -> bool;
}
