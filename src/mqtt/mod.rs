//! The link to the broker: connection, subscriptions, acknowledgements, publishing. Alone in importing rumqttc.
//!
//! Each connection is a client of its own, made anew: it starts with nothing in flight, so that what belongs to an
//! earlier connection (acknowledgements, publications, packet ids) cannot reach this one. The outbox owns delivery; the
//! MQTT client is a transport.
//!
//! - One task polls and does nothing else; it never waits on a channel.
//! - Acknowledgements go out in the order of receipt, and only on the connection that brought the message.
//! - QoS 1 deliveries that are not acknowledged yet are bounded in number and weight, far above what the Receive Maximum
//!   allows. A broker that exceeds that loses its connection, which is made anew. QoS 0 deliveries that find their channel full are dropped and counted.

mod acks;
mod client;
mod connect;
mod dial;
mod gathered;
mod link;
mod publisher;
mod session;
mod trial;

pub use client::{CallError, Client, Message, Question};
pub use connect::{ConnectOptions, Login, SetupError};
pub use link::{Hooks, Link, Presence};
pub use publisher::{Publisher, TOO_LARGE};

/// Receive Maximum that the node announces: commands that may be unacknowledged at the same time.
pub const RECEIVE_MAXIMUM: u16 = 64;

/// Requests of ours that wait to be written to the socket.
const REQUEST_QUEUE: usize = 2 * RECEIVE_MAXIMUM as usize;

/// Most QoS 1 deliveries that are unacknowledged at the same time. A broker that keeps its word stays at
/// [`RECEIVE_MAXIMUM`], but Mosquitto 2.0 resumes a session by sending all that it has queued (1,000 by default): to end
/// the connection for that would only make it send the same again. There are no more packet identifiers than this, so
/// only their weight can be too much.
pub const AT_LEAST_ONCE_QUEUE: usize = u16::MAX as usize;

/// What they may weigh together, in bytes, once they are more than twice the Receive Maximum.
const AT_LEAST_ONCE_BYTES: usize = 32 << 20;

/// Room for QoS 0 deliveries.
pub const AT_MOST_ONCE_QUEUE: usize = 256;
