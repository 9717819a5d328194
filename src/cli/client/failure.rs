//! Why there is no answer, and with which exit code that ends.

use std::path::PathBuf;
use std::time::Duration;

use super::super::{Exit, complain, report};
use super::text;
use crate::config::Mistake;
use crate::gate::signer::SignerError;
use crate::mqtt::CallError;
use crate::wire::Fault;

/// Why a node could not be asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Failure {
    /// Arguments.
    #[error("{0}")]
    Usage(String),
    /// The profile.
    #[error(transparent)]
    Profile(#[from] Mistake),
    /// Already printed, as mistakes of the configuration are.
    #[error("the configuration is wrong")]
    Said,
    /// Neither profile nor configuration.
    #[error(
        "there is neither a client profile nor a configuration: write one for a broker to \
         ~/.config/orchd/client.toml or name it with --profile, or on the node itself name its configuration with --config"
    )]
    NoRoute,
    /// No node is named.
    #[error("which node? Name it with --node, or as `node` in the profile (`orchd nodes` lists them)")]
    WhichNode,
    /// Certificates, keys, passwords.
    #[error("{0}")]
    Setup(String),
    /// The API key.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// No broker, or it does not allow it.
    #[error("{0}")]
    Broker(String),
    /// No node behind the control socket.
    #[error("no node answers on {}: {source}; is it running? `systemctl status orchd`", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node has said goodbye, or its connection was lost.
    #[error("{node} is offline{since}")]
    Offline {
        /// Which node.
        node: String,
        /// Since when, in words that follow; empty where it did not say.
        since: String,
    },
    /// No answer in time.
    #[error("no answer within {} s{hint}", limit.as_secs())]
    Timeout {
        /// How long was waited.
        limit: Duration,
        /// What may be the reason, and what to do; empty where nothing is known.
        hint: String,
    },
    /// Too few events in time.
    #[error("nothing more within {} s", .0.as_secs())]
    Quiet(Duration),
    /// The node answered with an error.
    #[error(transparent)]
    Node(#[from] Fault),
    /// In the middle of something larger.
    #[error("{place}: {source}; {rest}")]
    Within {
        /// Where.
        place: String,
        /// What went wrong there.
        source: Box<Failure>,
        /// What became of the rest.
        rest: String,
    },
    /// Something else than a reply came.
    #[error("what came is no reply of a node")]
    NotAnAnswer,
    /// The runtime.
    #[error("the runtime could not start: {0}")]
    Runtime(std::io::Error),
}

impl Failure {
    /// Whether nobody has to change anything for it to pass: the broker or the node is away.
    pub(in crate::cli) const fn may_pass(&self) -> bool {
        matches!(self, Self::Broker(_) | Self::Socket { .. })
    }

    /// How the command ends.
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_)
            | Self::Profile(_)
            | Self::Said
            | Self::NoRoute
            | Self::WhichNode
            | Self::Signer(_)
            | Self::Setup(_) => Exit::Usage,
            Self::Broker(_) | Self::Socket { .. } | Self::Offline { .. } => Exit::Unreachable,
            Self::Timeout { .. } | Self::Quiet(_) => Exit::Timeout,
            Self::Within { source, .. } => source.exit(),
            Self::Node(_) | Self::NotAnAnswer | Self::Runtime(_) => Exit::Failed,
        }
    }

    /// Says what went wrong on standard error, and how the command ends.
    pub(in crate::cli) fn report(&self) -> Exit {
        match self {
            Self::Said => {}
            Self::Profile(mistake) => report(std::slice::from_ref(mistake)),
            other => complain(text::plain(&other.to_string())),
        }
        self.exit()
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Setup(error) => Self::Setup(error.to_string()),
            // Only connecting has a limit of its own in there.
            CallError::Timeout => {
                Self::Broker("cannot reach the broker: it did not answer in time".to_owned())
            }
            error => Self::Broker(error.to_string()),
        }
    }
}
