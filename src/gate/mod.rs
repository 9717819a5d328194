//! Who asks, and whether they may.
//!
//! A gate is asked twice for each command: once who the asker is, before the inbox is looked at, and once whether this
//! command may run now (rate, signature, authorization), before its payload is validated. It fails closed: an error is a
//! refusal.

pub mod node_key;
pub mod token;

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::engine::command::Declaration;
use crate::wire::{Credentials, Fault, Payload};

/// A command at the gate.
pub struct Admission<'a> {
    /// Who asks.
    pub principal: &'a str,
    /// What they showed.
    pub credentials: &'a Credentials,
    /// What they ask for.
    pub declaration: &'a Declaration,
    /// The topic it came on.
    pub topic: &'a str,
    /// Where they want the answer.
    pub reply_to: Option<&'a str>,
    /// The command's id.
    pub message_id: Option<&'a str>,
    /// Its arguments, as sent.
    pub payload: &'a Payload,
    /// When it was received.
    pub now: Timestamp,
}

/// Decides who may do what.
pub trait Gate: Send + Sync {
    /// The principal behind `credentials`.
    ///
    /// # Errors
    /// `unauthenticated`.
    fn identify(&self, credentials: &Credentials, now: Timestamp) -> Result<Arc<str>, Fault>;

    /// Whether the command may run now.
    ///
    /// # Errors
    /// `rate_limited`, `signature_invalid`, `replayed` or `forbidden`.
    fn admit(&self, admission: &Admission<'_>) -> Result<(), Fault>;
}

/// The principal of every command over MQTT while nothing identifies it.
pub const ANONYMOUS: &str = "anonymous";

/// The principal of the command line on the node itself, which the socket's file mode admits.
pub const LOCAL: &str = "local";

/// A gate that is open: everyone is [`ANONYMOUS`] and may do everything that the broker lets them publish.
#[derive(Debug)]
pub struct Open(Arc<str>);

impl Open {
    /// An open gate.
    #[must_use]
    pub fn new() -> Self {
        Self(ANONYMOUS.into())
    }
}

impl Default for Open {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate for Open {
    fn identify(&self, _: &Credentials, _: Timestamp) -> Result<Arc<str>, Fault> {
        Ok(self.0.clone())
    }

    fn admit(&self, _: &Admission<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
