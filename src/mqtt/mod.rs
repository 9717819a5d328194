//! The link to the broker: connection, subscriptions, acknowledgements, publishing. Alone in importing rumqttc.
//!
//! Each connection is a client of its own, made anew: it starts with nothing in flight, so that what belongs to an
//! earlier connection (acknowledgements, publications, packet ids) cannot reach this one. The outbox owns delivery; the
//! MQTT client is a transport.
//!
//! - One task polls and does nothing else; it never waits on a channel.
//! - Acknowledgements go out in the order of receipt, and only on the connection that brought the message.
//! - QoS 1 deliveries have a channel that holds twice the Receive Maximum. If it is full all the same, the connection is
//!   ended and made anew. QoS 0 deliveries that find their channel full are dropped and counted.

mod acks;
mod client;
mod connect;
mod link;
mod publisher;
mod session;

pub use client::{CallError, Client, Message, Question};
pub use connect::{ConnectOptions, Login, SetupError};
pub use link::{Hooks, Link, Presence};
pub use publisher::Publisher;

/// Receive Maximum that the node announces: commands that may be unacknowledged at the same time.
pub const RECEIVE_MAXIMUM: u16 = 64;

/// Room for QoS 1 deliveries. Twice the Receive Maximum, so that it cannot fill while the broker keeps its word.
pub const AT_LEAST_ONCE_QUEUE: usize = 2 * RECEIVE_MAXIMUM as usize;

/// Room for QoS 0 deliveries.
pub const AT_MOST_ONCE_QUEUE: usize = 256;
