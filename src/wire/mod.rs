//! What travels over MQTT and the control socket: topics, envelopes, encodings, error codes.
//!
//! Pure: no I/O, no clock, no state. Everything that arrives is hostile until it has passed through here, so
//! nothing in this module may panic or allocate more than a small multiple of its input.

mod codec;
mod distinct;
mod envelope;
mod fault;
mod reply;
pub mod topic;

pub(crate) use codec::read;
pub use codec::{Encoding, Payload};
pub(crate) use distinct::{distinct, distinct_object};
pub(crate) use envelope::Metadata;
pub use envelope::{Address, Credentials, Properties, Request, decode};
pub use fault::{Code, Fault};
pub use reply::{Outcome, Reply, Secret, Status};
pub use topic::Names;
