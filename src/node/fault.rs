//! Why a node could not start, and whether trying again is of use.

use crate::ledger::OpenError;
use crate::wire::{Code, Fault};
use crate::{gate, llm, phoenix};

/// Why a node could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Root or node name, which the configuration has checked before.
    #[error("the node's name or root is not a topic level")]
    Names,
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// A restored state that waits.
    #[error(transparent)]
    Restore(#[from] phoenix::SwitchError),
    /// The node's own key.
    #[error(transparent)]
    NodeKey(#[from] gate::node_key::NodeKeyError),
    /// The state was sealed with a node key that is not there.
    #[error(
        "{}: there is no node key, and the state in {} is sealed with one; put it there (each backup holds it as `node.key`), or name the file where it is in node.key_file",
        key_file.display(), state_dir.display()
    )]
    KeyMissing {
        /// Where it should be.
        key_file: std::path::PathBuf,
        /// Where the state is.
        state_dir: std::path::PathBuf,
    },
    /// A service could not read its part of the ledger.
    #[error("{service} could not start: {fault}{}", advice(fault))]
    Service {
        /// Which one.
        service: &'static str,
        /// Why.
        fault: Fault,
    },
    /// The models.
    #[error("llm could not start: {0}")]
    Llm(#[from] llm::OpenError),
    /// A key that tokens are checked with.
    #[error("auth: {0}")]
    TrustedKey(#[from] gate::token::KeyError),
    /// The policies.
    #[error("policy.folder: {0}")]
    Policy(#[from] crate::policy::PolicyError),
    /// The rule file.
    #[error("conscience.rules_file {}: {reason}", path.display())]
    Rules {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A port or thread.
    #[error("{what}: {source}")]
    Io {
        /// What was wanted.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part that has to run for ever has ended.
    #[error("{0} ended unexpectedly; the process ends so that its supervisor starts it again")]
    CoreTaskEnded(&'static str),
}

impl RunError {
    /// Whether a start fails in the same way until a person has changed something: to try again by itself is of no use.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Ledger(error) => error.needs_a_person(),
            Self::Restore(error) => error.needs_a_person(),
            Self::NodeKey(error) => error.needs_a_person(),
            Self::Names
            | Self::KeyMissing { .. }
            | Self::TrustedKey(_)
            | Self::Policy(_)
            | Self::Rules { .. } => true,
            // What the service could not read may be a disk that comes back.
            Self::Service { .. } | Self::Llm(_) | Self::Io { .. } | Self::CoreTaskEnded(_) => false,
        }
    }
}

/// What to do about a service that could not start.
fn advice(fault: &Fault) -> &'static str {
    match fault.code {
        Code::Internal => "; if it stays so, its part of the ledger is damaged: restore a backup",
        _ => "",
    }
}
