//! From bytes and MQTT properties to a request: envelope or bare payload, JSON or CBOR.
//!
//! An object with a top-level `payload` is an envelope, anything else is a bare payload. MQTT 5 properties win over
//! the envelope's metadata, so that a broker or bridge that sets them has the last word.

use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::codec::{Encoding, MAX_DEPTH, Payload, locate, untagged};
use super::fault::Fault;
use crate::clock::Timestamp;

/// Longest `message_id`, `correlation_id` and other identifiers, in bytes.
const MAX_ID_BYTES: usize = 256;

/// Longest Correlation Data, in bytes.
const MAX_CORRELATION_BYTES: usize = 1_024;

/// The MQTT 5 properties of a PUBLISH that concern a command. An MQTT 3.1.1 publisher leaves all of them empty.
#[derive(Clone, Debug, Default)]
pub struct Properties {
    /// Response Topic.
    pub response_topic: Option<String>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Content Type.
    pub content_type: Option<String>,
    /// Message Expiry Interval as received, that is, what is left of it, in seconds.
    pub message_expiry: Option<u32>,
    /// User Properties in order; ours may stand once each, foreign ones are ignored.
    pub user: Vec<(String, String)>,
}

/// Where an answer goes and how it is written. Known as far as possible even when the rest cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Response Topic, or `metadata.reply_to`; not yet checked.
    pub reply_to: Option<String>,
    /// Correlation Data, returned as a property.
    pub correlation_data: Option<Bytes>,
    /// `metadata.correlation_id`, returned in the reply.
    pub correlation_id: Option<String>,
    /// The encoding of the question.
    pub encoding: Encoding,
    /// The question's `message_id`.
    pub message_id: Option<String>,
}

/// What the asker shows to prove who they are; judged by the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// A JWT or an API key.
    pub authorization: Option<String>,
    /// HMAC over the command.
    pub signature: Option<String>,
    /// When it was signed, as written.
    pub signed_at: Option<String>,
    /// A value used once.
    pub nonce: Option<String>,
}

/// A command as decoded, before anyone has judged it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The command's arguments.
    pub payload: Payload,
    /// How long the answer is of use, counted from receipt.
    pub expires_in: Option<Duration>,
    /// W3C Trace Context, as received.
    pub traceparent: Option<String>,
    /// What the gate asks for.
    pub credentials: Credentials,
}

/// What MQTT 5 has properties for.
#[derive(Default, Deserialize, JsonSchema)]
pub(crate) struct Metadata {
    /// Returned in the reply as it is: 1 to 256 bytes.
    #[schemars(length(min = 1, max = 256))]
    correlation_id: Option<String>,
    /// Where the reply goes; the Response Topic wins over it.
    reply_to: Option<String>,
    /// How long the reply is of use, in milliseconds; the Message Expiry Interval wins over it.
    expires_in_ms: Option<u64>,
    /// W3C Trace Context.
    traceparent: Option<String>,
    /// `Bearer ` and a JWT, or an API key.
    authorization: Option<String>,
    /// `v1:KEY_ID:HEX`, an HMAC made with an API key: docs/security.md.
    signature: Option<String>,
    /// When it was signed: RFC 3339.
    signed_at: Option<String>,
    /// 16 to 64 bytes that are used once.
    nonce: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    message_id: Option<String>,
    #[serde(rename = "timestamp")]
    _timestamp: Option<Timestamp>,
    metadata: Option<Metadata>,
}

/// Reads a command. The address is returned in any case, so that an error can be answered.
///
/// # Errors
/// `malformed` when the bytes are neither JSON nor CBOR, or an envelope has members of the wrong type, or one of
/// our user properties stands twice; `unsupported_content` for another content type.
pub fn decode(properties: &Properties, bytes: &Bytes) -> (Address, Result<Request, Fault>) {
    let mut address = Address {
        reply_to: properties.response_topic.clone(),
        correlation_data: properties.correlation_data.clone(),
        ..Address::default()
    };
    let result = decode_into(&mut address, properties, bytes);
    (address, result)
}

fn decode_into(address: &mut Address, properties: &Properties, bytes: &Bytes) -> Result<Request, Fault> {
    address.encoding = Encoding::from_content_type(properties.content_type.as_deref())?;
    let own = OwnProperties::read(&properties.user)?;
    address.message_id.clone_from(&own.message_id);
    let (head, payload) = match address.encoding {
        Encoding::Json => split_json(bytes)?,
        Encoding::Cbor => split_cbor(bytes)?,
    };
    let (message_id, metadata) =
        head.map_or_else(Default::default, |head| (head.message_id, head.metadata.unwrap_or_default()));
    address.message_id = own.message_id.or(message_id);
    address.reply_to = address.reply_to.take().or(metadata.reply_to);
    address.correlation_id = metadata.correlation_id;

    for (name, value) in [("message_id", &address.message_id), ("correlation_id", &address.correlation_id)] {
        if value.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID_BYTES) {
            return Err(Fault::malformed(format!("{name} must have 1 to {MAX_ID_BYTES} bytes")));
        }
    }
    if address.correlation_data.as_ref().is_some_and(|data| data.len() > MAX_CORRELATION_BYTES) {
        address.correlation_data = None;
        return Err(Fault::malformed(format!(
            "Correlation Data must have at most {MAX_CORRELATION_BYTES} bytes"
        )));
    }
    let expires_in = match (properties.message_expiry, metadata.expires_in_ms) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds.into())),
        (None, Some(millis)) => Some(Duration::from_millis(millis)),
        (None, None) => None,
    };
    Ok(Request {
        payload: Payload::new(address.encoding, payload),
        expires_in,
        traceparent: own.traceparent.or(metadata.traceparent),
        credentials: Credentials {
            authorization: own.authorization.or(metadata.authorization),
            signature: own.signature.or(metadata.signature),
            signed_at: own.signed_at.or(metadata.signed_at),
            nonce: own.nonce.or(metadata.nonce),
        },
    })
}

#[derive(Default)]
struct OwnProperties {
    message_id: Option<String>,
    traceparent: Option<String>,
    authorization: Option<String>,
    signature: Option<String>,
    signed_at: Option<String>,
    nonce: Option<String>,
}

impl OwnProperties {
    fn read(user: &[(String, String)]) -> Result<Self, Fault> {
        let mut own = Self::default();
        for (name, value) in user {
            let slot = match name.as_str() {
                "message-id" => &mut own.message_id,
                "traceparent" => &mut own.traceparent,
                "authorization" => &mut own.authorization,
                "x-signature" => &mut own.signature,
                "x-signed-at" => &mut own.signed_at,
                "x-nonce" => &mut own.nonce,
                _ => continue,
            };
            if slot.replace(value.clone()).is_some() {
                return Err(Fault::malformed(format!("the user property {name} may stand only once")));
            }
        }
        Ok(own)
    }
}

/// Splits JSON into the envelope's head and the payload's bytes; no head for a bare payload.
fn split_json(bytes: &Bytes) -> Result<(Option<Head>, Bytes), Fault> {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        payload: Option<&'a RawValue>,
    }
    // A plain Option would take `"payload": null` for a missing member.
    fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Some)
    }

    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Ok((None, Bytes::new()));
    }
    if trimmed[0] != b'{' {
        // Checked here, so that text that is not JSON at all is malformed for every command alike.
        Encoding::Json.decode::<serde::de::IgnoredAny>(trimmed)?;
        return Ok((None, bytes.clone()));
    }
    let probe: Probe = serde_json::from_slice(trimmed).map_err(|error| malformed_json(&error))?;
    let Some(payload) = probe.payload else { return Ok((None, bytes.clone())) };
    let head: Head = serde_json::from_slice(trimmed).map_err(|error| {
        wrong_member(serde_json::from_slice(trimmed).ok()).unwrap_or_else(|| malformed_json(&error))
    })?;
    Ok((Some(head), bytes.slice_ref(payload.get().as_bytes())))
}

/// Names the member of an envelope's head that is wrong.
fn wrong_member(head: Option<serde_json::Value>) -> Option<Fault> {
    locate::<Head>(head).map(Fault::malformed)
}

fn malformed_json(error: &serde_json::Error) -> Fault {
    // Positions only: the text of a data error may quote the input.
    Fault::malformed(format!(
        "expected a JSON object or envelope: line {} column {}",
        error.line(),
        error.column()
    ))
}

/// Splits CBOR into the envelope's head and the payload's bytes; no head for a bare payload.
fn split_cbor(bytes: &Bytes) -> Result<(Option<Head>, Bytes), Fault> {
    if bytes.is_empty() {
        return Ok((None, Bytes::new()));
    }
    let Some((mut left, mut rest)) = map_header(untagged(bytes)) else {
        Encoding::Cbor.decode::<ciborium::Value>(bytes)?;
        return Ok((None, bytes.clone()));
    };
    let mut head = Vec::new();
    let mut payload: Option<Bytes> = None;
    loop {
        match &mut left {
            Some(0) => break,
            Some(n) => *n -= 1,
            None if rest.first() == Some(&BREAK) => {
                rest = &rest[1..];
                break;
            }
            None => {}
        }
        let key = next_item(&mut rest)?;
        let start = rest;
        let value = next_item(&mut rest)?;
        if key.as_text() == Some("payload") {
            let length = start.len() - rest.len();
            if payload.replace(bytes.slice_ref(&start[..length])).is_some() {
                return Err(Fault::malformed("the member payload stands twice"));
            }
        } else {
            head.push((key, value));
        }
    }
    if !rest.is_empty() {
        return Err(Fault::malformed("bytes follow the CBOR item"));
    }
    let Some(payload) = payload else { return Ok((None, bytes.clone())) };
    let head = ciborium::Value::Map(head);
    let head = head.deserialized().map_err(|_| {
        wrong_member(head.deserialized().ok())
            .unwrap_or_else(|| Fault::malformed("a member of the envelope has the wrong type"))
    })?;
    Ok((Some(head), payload))
}

/// The stop code that ends an item of indefinite length: RFC 8949, section 3.2.1.
const BREAK: u8 = 0xff;

/// The number of pairs of the map that `bytes` begin with (`None` inside: until a break), and what follows its header.
fn map_header(bytes: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first >> 5 != 5 {
        return None;
    }
    let width = match first & 0x1f {
        n @ 0..=23 => return Some((Some(u64::from(n)), rest)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        31 => return Some((None, rest)),
        _ => return None,
    };
    let (length, rest) = rest.split_at_checked(width)?;
    Some((Some(length.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))), rest))
}

fn next_item(rest: &mut &[u8]) -> Result<ciborium::Value, Fault> {
    ciborium::de::from_reader_with_recursion_limit(rest, MAX_DEPTH)
        .map_err(|_| Fault::malformed("expected CBOR"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::wire::Code;

    use super::*;

    fn read(properties: &Properties, text: &str) -> (Address, Result<Request, Fault>) {
        decode(properties, &Bytes::copy_from_slice(text.as_bytes()))
    }

    fn cbor() -> Properties {
        Properties { content_type: Some("application/cbor".into()), ..Properties::default() }
    }

    #[test]
    fn a_member_of_the_wrong_type_is_named_in_both_encodings() {
        let wrong = [
            ("message_id", json!({ "payload": {}, "message_id": 7 })),
            ("timestamp", json!({ "payload": {}, "timestamp": "yesterday" })),
            ("metadata.reply_to", json!({ "payload": {}, "metadata": { "reply_to": 5 } })),
            ("metadata", json!({ "payload": {}, "metadata": "secret" })),
        ];
        for (member, envelope) in wrong {
            let (_, json) = read(&Properties::default(), &envelope.to_string());
            let mut bytes = Vec::new();
            ciborium::into_writer(&envelope, &mut bytes).unwrap();
            let (_, cbor) = decode(&cbor(), &bytes.into());
            for fault in [json.unwrap_err(), cbor.unwrap_err()] {
                assert_eq!(fault.code, Code::Malformed);
                assert!(fault.message.starts_with(&format!("{member}: ")), "{}", fault.message);
                assert!(!fault.message.contains("struct"), "{}", fault.message);
                assert!(!fault.message.contains("secret") && !fault.message.contains("yesterday"));
            }
        }
    }

    #[test]
    fn cbor_may_say_that_it_is_cbor() {
        for question in [json!({ "a": 1 }), json!({ "message_id": "m1", "payload": { "a": 1 } })] {
            let mut bytes = vec![0xd9, 0xd9, 0xf7];
            ciborium::into_writer(&question, &mut bytes).unwrap();
            let (address, request) = decode(&cbor(), &bytes.into());
            assert_eq!(request.unwrap().payload.decode::<Value>().unwrap(), json!({ "a": 1 }));
            assert_eq!(address.message_id.is_some(), question["payload"].is_object());
        }
    }

    #[test]
    fn an_object_with_a_payload_is_an_envelope_and_everything_else_is_bare() {
        let (address, request) = read(
            &Properties::default(),
            r#"{"message_id":"m1","payload": {"a":1} ,"metadata":{"reply_to":"r","correlation_id":"c","expires_in_ms":1500}}"#,
        );
        let request = request.unwrap();
        assert_eq!(request.payload.bytes(), br#"{"a":1}"#);
        assert_eq!(request.expires_in, Some(Duration::from_millis(1500)));
        assert_eq!(address.message_id.as_deref(), Some("m1"));
        assert_eq!(address.reply_to.as_deref(), Some("r"));
        assert_eq!(address.correlation_id.as_deref(), Some("c"));

        for bare in [r#"{"content":"x","metadata":7}"#, "[1]", "\"text\"", "", "  "] {
            let (address, request) = read(&Properties::default(), bare);
            assert_eq!(request.unwrap().payload.bytes().trim_ascii(), bare.trim().as_bytes());
            assert_eq!(address.message_id, None);
        }
        let (_, request) = read(&Properties::default(), r#"{"payload":null}"#);
        assert_eq!(request.unwrap().payload.bytes(), b"null");
    }

    #[test]
    fn properties_win_over_the_envelope() {
        let properties = Properties {
            response_topic: Some("from/property".into()),
            message_expiry: Some(3),
            user: vec![
                ("message-id".into(), "p".into()),
                ("foreign".into(), "1".into()),
                ("foreign".into(), "2".into()),
            ],
            ..Properties::default()
        };
        let (address, request) = read(
            &properties,
            r#"{"message_id":"e","payload":{},"metadata":{"reply_to":"from/envelope","expires_in_ms":1}}"#,
        );
        assert_eq!(address.reply_to.as_deref(), Some("from/property"));
        assert_eq!(address.message_id.as_deref(), Some("p"));
        assert_eq!(request.unwrap().expires_in, Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_cannot_be_read_is_malformed_and_keeps_its_return_address() {
        let properties = Properties { response_topic: Some("r".into()), ..Properties::default() };
        for bad in [
            "{",
            "nonsense",
            r#"{"payload":1,"payload":2}"#,
            r#"{"payload":1,"message_id":7}"#,
            r#"{"payload":1,"message_id":""}"#,
            r#"{"payload":1,"metadata":{"reply_to":[]}}"#,
            r#"{"payload":1,"timestamp":"yesterday"}"#,
        ] {
            let (address, request) = read(&properties, bad);
            assert_eq!(request.unwrap_err().code, Code::Malformed, "{bad}");
            assert_eq!(address.reply_to.as_deref(), Some("r"));
        }
        let twice = Properties {
            user: vec![("message-id".into(), "1".into()), ("message-id".into(), "1".into())],
            ..Properties::default()
        };
        assert_eq!(read(&twice, "{}").1.unwrap_err().code, Code::Malformed);
        let xml = Properties { content_type: Some("text/xml".into()), ..Properties::default() };
        assert_eq!(read(&xml, "{}").1.unwrap_err().code, Code::UnsupportedContent);
    }

    #[test]
    fn a_cbor_map_of_indefinite_length_is_an_envelope_too() {
        let bytes = Bytes::from_static(b"\xbf\x67payload\xa1\x61a\x01\x6amessage_id\x61m\xff");
        let properties =
            Properties { content_type: Some("application/cbor".into()), ..Properties::default() };
        let (address, request) = decode(&properties, &bytes);
        assert_eq!(request.unwrap().payload.bytes(), b"\xa1\x61a\x01");
        assert_eq!(address.message_id.as_deref(), Some("m"));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::from(serde_json::Map::from_iter(map)))
            ]
        })
    }

    proptest! {
        #[test]
        fn a_payload_survives_the_envelope_in_both_encodings(payload in json_value(), id in "[!-~]{1,40}", reply_to in "[a-z/]{1,20}") {
            let envelope = json!({ "message_id": id, "payload": payload, "metadata": { "reply_to": reply_to } });
            for encoding in [Encoding::Json, Encoding::Cbor] {
                let bytes = Bytes::from(encoding.encode(&envelope).unwrap());
                let properties = Properties { content_type: Some(encoding.content_type().into()), ..Properties::default() };
                let (address, request) = decode(&properties, &bytes);
                let request = request.unwrap();
                let back: Value = encoding.decode(request.payload.bytes()).unwrap();
                prop_assert_eq!(&back, &payload);
                prop_assert_eq!(address.message_id.as_deref(), Some(id.as_str()));
                prop_assert_eq!(address.reply_to.as_deref(), Some(reply_to.as_str()));
                prop_assert_eq!(address.encoding, encoding);
            }
        }

        #[test]
        fn no_input_whatever_makes_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cbor in any::<bool>()) {
            let encoding = if cbor { Encoding::Cbor } else { Encoding::Json };
            let properties = Properties { content_type: Some(encoding.content_type().into()), ..Properties::default() };
            let (_, request) = decode(&properties, &Bytes::from(bytes));
            if let Ok(request) = request {
                let _ = request.payload.decode::<Value>();
            }
        }
    }
}
