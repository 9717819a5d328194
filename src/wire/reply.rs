//! The answer to a command, as it is stored and as it is sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::codec::Encoding;
use super::fault::Fault;
use crate::clock::Timestamp;

/// Whether a command was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Done: `payload` has the response.
    Ok,
    /// Not done: `error` says why.
    Error,
}

/// What became of a command. Kept as JSON until it is sent, whatever the asker's encoding.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Done or not.
    pub status: Status,
    /// The command's response, with [`Status::Ok`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// Why not, with [`Status::Error`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// What was not as it should be while it was done, such as `index`; empty when all was well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// A member of the response that is kept sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
    /// The id of what the node's policies said of the command, where it has policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_decision: Option<String>,
}

/// A member of a response that only the reply itself shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The member's name.
    pub name: String,
    /// Its value, sealed, as hexadecimal digits.
    pub sealed: String,
}

impl Outcome {
    /// The response with its secret in place, which `open` gives out; without it the member stays `null`.
    #[must_use]
    pub fn revealed(&self, open: impl FnOnce(&Secret) -> Option<String>) -> Option<Box<RawValue>> {
        let reveal = || {
            let secret = self.secret.as_ref()?;
            let mut body: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(self.payload.as_ref()?.get()).ok()?;
            body.insert(secret.name.clone(), open(secret)?.into());
            serde_json::value::to_raw_value(&body).ok()
        };
        reveal().or_else(|| self.payload.clone())
    }

    /// A success that carries `payload`.
    ///
    /// # Errors
    /// [`super::Code::Internal`] when the payload has no form in JSON (a map whose keys are not text).
    pub fn ok<T: Serialize>(payload: &T, degraded: Vec<String>) -> Result<Self, Fault> {
        let payload = serde_json::value::to_raw_value(payload).map_err(|_| Fault::internal())?;
        Ok(Self {
            status: Status::Ok,
            payload: Some(payload),
            error: None,
            degraded,
            secret: None,
            policy_decision: None,
        })
    }

    /// `ok`, or the error's code: the label of metrics and audit.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.error.as_ref().map_or("ok", |error| error.code.as_str())
    }
}

impl From<Fault> for Outcome {
    fn from(error: Fault) -> Self {
        Self {
            status: Status::Error,
            payload: None,
            error: Some(error),
            degraded: Vec::new(),
            secret: None,
            policy_decision: None,
        }
    }
}

/// A reply on the wire.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// Identifies this reply; the same when it is sent again.
    pub message_id: String,
    /// The question's `message_id`, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<String>,
    /// The question's `metadata.correlation_id`, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Which node answers.
    pub node: String,
    /// Service and verb.
    pub command: String,
    /// When the answer was made.
    pub timestamp: Timestamp,
    /// Done or not.
    pub status: Status,
    /// The command's response, with `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub payload: Option<Box<RawValue>>,
    /// Why not, with `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    /// What was degraded while it was done; absent when all was well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// The id of what the node's policies said of the command; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_decision: Option<String>,
}

impl Reply {
    /// The reply in `encoding`.
    ///
    /// # Errors
    /// [`super::Code::Internal`] when it has no form there.
    pub fn encode(&self, encoding: Encoding) -> Result<Vec<u8>, Fault> {
        let json = Encoding::Json.encode(self)?;
        match encoding {
            Encoding::Json => Ok(json),
            // A RawValue can be written as JSON alone; replies are small, so the detour costs little.
            Encoding::Cbor => Encoding::Cbor.encode(&Encoding::Json.decode::<serde_json::Value>(&json)?),
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// As [`Encoding::decode`].
    pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Self, Fault> {
        match encoding {
            Encoding::Json => encoding.decode(bytes),
            Encoding::Cbor => {
                Encoding::Json.decode(&Encoding::Json.encode(&encoding.decode::<serde_json::Value>(bytes)?)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_reads_the_same_in_both_encodings() {
        let outcome =
            Outcome::ok(&serde_json::json!({ "id": "r1", "scores": [1.5, -2] }), vec!["index".into()])
                .unwrap();
        let reply = Reply {
            message_id: "a".into(),
            in_reply_to: Some("q".into()),
            correlation_id: None,
            node: "n".into(),
            command: "memory/store".into(),
            timestamp: Timestamp::from_millis(0),
            status: outcome.status,
            payload: outcome.payload,
            error: None,
            degraded: outcome.degraded,
            policy_decision: None,
        };
        for encoding in [Encoding::Json, Encoding::Cbor] {
            let back = Reply::decode(encoding, &reply.encode(encoding).unwrap()).unwrap();
            let text = serde_json::to_value(&back).unwrap();
            assert_eq!(text, serde_json::to_value(&reply).unwrap());
            assert_eq!(text["status"], "ok");
            assert_eq!(text["degraded"], serde_json::json!(["index"]));
        }
    }

    #[test]
    fn an_outcome_survives_storage() {
        let outcome: Outcome = Fault::not_found("no such record").into();
        let text = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap().label(), "not_found");
        assert!(!text.contains("payload"));
    }
}
