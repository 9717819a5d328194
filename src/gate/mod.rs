//! Who asks, and whether they may.
//!
//! A gate is asked twice for each command: once who the asker is, before the inbox is looked at, and once whether this
//! command may run now (rate, signature, permission, policy), before its payload is validated. It fails closed: an error is a
//! refusal. docs/security.md says what each step is for.

pub mod access;
pub mod anomaly;
pub mod authorize;
pub mod bundle;
pub mod guard;
pub mod inspect;
pub mod jwks;
pub mod keys;
pub mod node_key;
pub mod nonce;
pub mod permissions;
mod provider;
pub mod rate;
pub mod recent;
pub mod seal;
pub mod signature;
pub mod signer;
pub mod token;

use std::sync::Arc;

use self::anomaly::Anomaly;
use self::authorize::Judgement;
use self::nonce::Nonce;
use self::permissions::Permissions;
use self::recent::Freshness;
use crate::clock::Timestamp;
use crate::engine::command::Declaration;
use crate::wire::{Credentials, Fault, Payload};

/// The target of log lines that concern security: `journalctl` and `log.filter` can pick them out by it.
pub const SECURITY_LOG: &str = "orchd::security";

/// A command before anyone knows who asks.
pub struct Shown<'a> {
    /// What they showed.
    pub credentials: &'a Credentials,
    /// The topic it came on.
    pub topic: &'a str,
    /// Where they want the answer; empty where they did not say.
    pub reply_to: &'a str,
    /// The command's id; empty without one.
    pub message_id: &'a str,
    /// Its arguments, as sent.
    pub payload: &'a Payload,
    /// When it was received.
    pub now: Timestamp,
}

/// A principal: who asks, and what they may do.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name in inbox, audit and log.
    pub principal: Arc<str>,
    /// Where their answers may go.
    pub inbox: Inbox,
    /// Which commands they may give.
    pub permissions: Permissions,
    /// Commands in a minute, where they have a limit of their own.
    pub rate_per_min: Option<u32>,
    /// The id of the API key that says so, where one does.
    pub key: Option<Arc<str>>,
}

/// Which inbox belongs to a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbox {
    /// Any: nobody knows who they are, and the broker decides who reads what.
    Any,
    /// `{root}/inbox/NAME`.
    Own(String),
    /// None: their name is no topic level.
    None,
}

/// Who asks, and how that is known.
#[derive(Clone, Debug)]
pub struct Identified {
    /// Who.
    pub identity: Arc<Identity>,
    /// The nonce of a command that was signed; to be used up in its transaction.
    pub nonce: Option<Nonce>,
    /// Whether they are known to have sent it just now, and so to answer for it.
    pub freshness: Freshness,
}

/// A command at the gate.
pub struct Admission<'a> {
    /// Who asks.
    pub asker: &'a Identified,
    /// What they ask for.
    pub declaration: &'a Declaration,
    /// The topic it came on.
    pub topic: &'a str,
    /// When it was received.
    pub now: Timestamp,
}

/// Decides who may do what.
pub trait Gate: Send + Sync {
    /// Who asks.
    ///
    /// # Errors
    /// `unauthenticated`, `signature_invalid` or `rate_limited`.
    fn identify(&self, shown: &Shown<'_>) -> Result<Identified, Fault>;

    /// Whether the command may run now.
    ///
    /// # Errors
    /// `rate_limited`, `signature_invalid`, `replayed` or `forbidden`.
    fn admit(&self, admission: &Admission<'_>) -> Result<(), Fault>;

    /// What the policies say of a command that was admitted.
    fn judge(&self, admission: &Admission<'_>) -> Judgement;

    /// A principal stands out: whether it has to cool down.
    fn stands_out(&self, anomaly: &Anomaly) -> bool;

    /// Whether the credentials of who was identified are still good.
    fn stands(&self, asker: &Identified, now: Timestamp) -> bool;
}

/// The principal of a command over MQTT that nothing identifies: one that was refused, or any while the gate is open.
pub const ANONYMOUS: &str = "anonymous";

/// The principal of those whom the broker knows and the node does not.
pub const BROKER: &str = "broker";

/// The principal of the command line on the node itself, which the socket's file mode admits.
pub const LOCAL: &str = "local";

/// The principal of what the node does by itself.
pub const SCHEDULE: &str = "schedule";

impl Identity {
    fn unknown(principal: &str, permissions: Permissions) -> Arc<Self> {
        let (principal, inbox) = (principal.into(), Inbox::Any);
        Arc::new(Self { principal, inbox, permissions, rate_per_min: None, key: None })
    }

    /// Everyone: may do everything.
    #[must_use]
    pub fn anyone() -> Arc<Self> {
        Self::unknown(ANONYMOUS, Permissions::all())
    }

    /// Someone who was refused: may do nothing.
    #[must_use]
    pub fn nobody() -> Arc<Self> {
        Self::unknown(ANONYMOUS, Permissions::default())
    }

    /// The command line on the node itself.
    #[must_use]
    pub fn local() -> Arc<Self> {
        Self::unknown(LOCAL, Permissions::all())
    }

    /// The node itself.
    #[must_use]
    pub fn schedule() -> Arc<Self> {
        Self::unknown(SCHEDULE, Permissions::all())
    }
}

impl From<Arc<Identity>> for Identified {
    fn from(identity: Arc<Identity>) -> Self {
        Self { identity, nonce: None, freshness: Freshness::Fresh }
    }
}

impl Inbox {
    /// The inbox that is called `name`.
    fn named(name: &str) -> Self {
        if crate::wire::topic::is_name(name) { Self::Own(name.to_owned()) } else { Self::None }
    }
}

/// A gate that is open: everyone is [`ANONYMOUS`] and may do everything that the broker lets them publish.
#[derive(Debug)]
pub struct Open(Arc<Identity>);

impl Open {
    /// An open gate.
    #[must_use]
    pub fn new() -> Self {
        Self(Identity::anyone())
    }
}

impl Default for Open {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate for Open {
    fn identify(&self, _: &Shown<'_>) -> Result<Identified, Fault> {
        Ok(self.0.clone().into())
    }

    fn admit(&self, _: &Admission<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn judge(&self, _: &Admission<'_>) -> Judgement {
        Judgement::Unasked
    }

    fn stands_out(&self, _: &Anomaly) -> bool {
        false
    }

    fn stands(&self, _: &Identified, _: Timestamp) -> bool {
        true
    }
}
