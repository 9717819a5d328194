//! The closed list of error codes, and the error that is answered with one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a command was not done. This list is closed: a client may match on it exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not JSON or CBOR, nested too deep, a property twice, or an envelope with members of the wrong type.
    Malformed,
    /// More bytes than the node accepts.
    TooLarge,
    /// A content type other than JSON or CBOR.
    UnsupportedContent,
    /// No such service or verb, or not under this topic (`all`, `any`).
    UnknownCommand,
    /// No valid credentials.
    Unauthenticated,
    /// The principal may not do this, or not have the reply sent there.
    Forbidden,
    /// A signature is missing or wrong.
    SignatureInvalid,
    /// The nonce was used before, or the signature is older than 300 s.
    Replayed,
    /// Too many commands; see `retry_after_ms`.
    RateLimited,
    /// Well formed, but a field is missing, unknown, or outside its range.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// The same `message_id` with another topic or payload, or a state that rules the command out.
    Conflict,
    /// The deadline passed first.
    Expired,
    /// A queue is full; nothing was done.
    Busy,
    /// A part that the command needs is away at the moment.
    Unavailable,
    /// The disk is full; nothing was done.
    StorageFull,
    /// A restart cut the job off and it is not safe to repeat by itself.
    Interrupted,
    /// A defect of the node; the journal has the details.
    Internal,
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::TooLarge,
        Self::UnsupportedContent,
        Self::UnknownCommand,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::SignatureInvalid,
        Self::Replayed,
        Self::RateLimited,
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Expired,
        Self::Busy,
        Self::Unavailable,
        Self::StorageFull,
        Self::Interrupted,
        Self::Internal,
    ];

    /// Those that say that somebody tried what they may not: the security log has them.
    pub const SECURITY: [Self; 5] =
        [Self::Unauthenticated, Self::Forbidden, Self::SignatureInvalid, Self::Replayed, Self::RateLimited];

    /// The code as it is written on the wire and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::UnsupportedContent => "unsupported_content",
            Self::UnknownCommand => "unknown_command",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::SignatureInvalid => "signature_invalid",
            Self::Replayed => "replayed",
            Self::RateLimited => "rate_limited",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::StorageFull => "storage_full",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }

    /// Whether the same command may succeed later without a change.
    #[must_use]
    pub const fn retryable(self) -> bool {
        match self {
            Self::RateLimited
            | Self::Expired
            | Self::Busy
            | Self::Unavailable
            | Self::StorageFull
            | Self::Interrupted
            | Self::Internal => true,
            Self::Malformed
            | Self::TooLarge
            | Self::UnsupportedContent
            | Self::UnknownCommand
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::SignatureInvalid
            | Self::Replayed
            | Self::Invalid
            | Self::NotFound
            | Self::Conflict => false,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as the asker sees it. The message says what was expected and what to do; it never carries a path,
/// SQL, a secret or the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fault {
    /// One of the closed list.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Whether the same command may succeed later.
    pub retryable: bool,
    /// When to try again, in milliseconds, where the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// An error with `code`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: code.retryable(), retry_after_ms: None }
    }

    /// [`Code::Malformed`].
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Code::Malformed, message)
    }

    /// [`Code::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    /// [`Code::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// [`Code::Internal`]; the caller has logged the cause.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "the node failed; its journal says why")
    }

    /// Adds when to try again.
    #[must_use]
    pub const fn retry_after(mut self, millis: u64) -> Self {
        self.retry_after_ms = Some(millis);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_code_is_the_serialized_code_and_none_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!(seen.insert(code.as_str()));
        }
    }
}
