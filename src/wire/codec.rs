//! The two encodings of a payload, and how deep either may nest.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{Code, Fault};

/// Deepest nesting of CBOR that is accepted. For JSON serde_json's own limit of 128 holds.
pub(super) const MAX_DEPTH: usize = 100;

/// Longest path to a field that an error names; the declared ones are all shorter.
const MAX_PATH_CHARS: usize = 100;

/// Room for most messages.
const USUAL_BYTES: usize = 1_024;

/// How a message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// RFC 8259.
    #[default]
    Json,
    /// RFC 8949, content type `application/cbor`.
    Cbor,
}

impl Encoding {
    /// The content type that names this encoding.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }

    /// The encoding that `content_type` names; parameters such as a charset are ignored. Without one, JSON. Text is
    /// taken as JSON too, because that is what general clients announce for it.
    ///
    /// # Errors
    /// [`Code::UnsupportedContent`] for every other type.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, Fault> {
        let Some(content_type) = content_type else { return Ok(Self::Json) };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json" | "text/json" | "text/plain" | "" => Ok(Self::Json),
            "application/cbor" => Ok(Self::Cbor),
            _ => Err(Fault::new(
                Code::UnsupportedContent,
                "expected the content type application/json or application/cbor",
            )),
        }
    }

    /// Writes `value`.
    ///
    /// # Errors
    /// [`Code::Internal`] when the value has no form in this encoding; the types of replies all have one.
    pub fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        match self {
            Self::Json => serde_json::to_writer(&mut bytes, value).map_err(|_| Fault::internal())?,
            Self::Cbor => ciborium::into_writer(value, &mut bytes).map_err(|_| Fault::internal())?,
        }
        Ok(bytes)
    }

    /// Reads one value that fills `bytes`.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the bytes are not of this encoding or nest too deep, [`Code::Invalid`] when they are
    /// but do not describe a `T`. The message never quotes the input.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Fault> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| json_fault::<T>(bytes, &error)),
            Self::Cbor => {
                let bytes = untagged(bytes);
                let mut rest = bytes;
                let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
                    .map_err(|error| cbor_fault::<T>(bytes, &error))?;
                if rest.is_empty() { Ok(value) } else { Err(Fault::malformed("bytes follow the CBOR item")) }
            }
        }
    }
}

fn json_fault<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> Fault {
    use serde_json::error::Category;
    match error.classify() {
        Category::Data => misfit::<T>(serde_json::from_slice(bytes).ok(), &error.to_string()),
        Category::Syntax | Category::Eof | Category::Io => {
            // serde_json counts nesting as syntax; its messages name positions, never content.
            Fault::malformed(format!("expected JSON: {error}"))
        }
    }
}

fn cbor_fault<T: DeserializeOwned>(bytes: &[u8], error: &ciborium::de::Error<std::io::Error>) -> Fault {
    use ciborium::de::Error;
    match error {
        Error::Semantic(_, message) => {
            let value = ciborium::de::from_reader_with_recursion_limit(bytes, MAX_DEPTH).ok();
            misfit::<T>(value, message)
        }
        Error::RecursionLimitExceeded => Fault::malformed("the CBOR nests too deep"),
        Error::Syntax(at) => Fault::malformed(format!("expected CBOR: wrong byte at {at}")),
        Error::Io(_) => Fault::malformed("expected CBOR: it ends too early"),
    }
}

/// Says in which field `value` is no `T`; only `message` where that cannot be told. Reading it a second time costs something,
/// but only for what is refused.
fn misfit<T: DeserializeOwned>(value: Option<serde_json::Value>, message: &str) -> Fault {
    Fault::invalid(locate::<T>(value).unwrap_or_else(|| without_values(message)))
}

/// The field in which `value` is no `T`, and what is wrong with it; `None` where it is one.
pub(super) fn locate<T: DeserializeOwned>(value: Option<serde_json::Value>) -> Option<String> {
    read::<T>(value?).err()
}

/// Makes a `T` of `value`.
///
/// # Errors
/// The field in which it is none, and what is wrong with it.
pub(crate) fn read<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_path_to_error::deserialize::<_, T>(value).map_err(|error| {
        let message = without_values(&error.inner().to_string());
        match error.path().to_string() {
            // The object itself.
            path if path == "." => message,
            path => format!("{}: {message}", path.chars().take(MAX_PATH_CHARS).collect::<String>()),
        }
    })
}

/// CBOR without the tag that says only that it is CBOR: RFC 8949, section 3.4.6.
pub(super) fn untagged(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0xd9, 0xd9, 0xf7]).unwrap_or(bytes)
}

/// serde quotes the offending value in some messages ("invalid type: string \"…\", expected f64"): keep the parts that
/// describe the type, drop what was between quotation marks and the names of our own types.
fn without_values(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(256));
    let mut quoted = false;
    let mut chars = message.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => {
                quoted = !quoted;
                out.push_str(if quoted { "\"…" } else { "\"" });
            }
            c if !quoted => out.push(c),
            _ => {}
        }
        if out.len() >= 256 {
            break;
        }
    }
    // What this program calls it is of no use to others.
    if let Some(at) = out.find("expected struct ") {
        out.truncate(at);
        out.push_str("expected an object");
    }
    out
}

/// The payload of a command, exactly as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    encoding: Encoding,
    bytes: Bytes,
}

impl Payload {
    /// A payload as received.
    #[must_use]
    pub const fn new(encoding: Encoding, bytes: Bytes) -> Self {
        Self { encoding, bytes }
    }

    /// How it is written.
    #[must_use]
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The bytes as sent; in an envelope, those of the `payload` member.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads the request. No payload at all, or `null`, stands for an object without fields.
    ///
    /// # Errors
    /// As [`Encoding::decode`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let absent = match self.encoding {
            Encoding::Json => {
                let trimmed = self.bytes.trim_ascii();
                trimmed.is_empty() || trimmed == b"null"
            }
            Encoding::Cbor => matches!(untagged(&self.bytes), [] | [0xf6]),
        };
        if absent {
            return Encoding::Json.decode(b"{}");
        }
        // serde would take a list as the fields in the order of their declaration.
        let is_list = match self.encoding {
            Encoding::Json => self.bytes.trim_ascii_start().first() == Some(&b'['),
            Encoding::Cbor => matches!(untagged(&self.bytes).first(), Some(0x80..=0x9f)),
        };
        if is_list {
            self.encoding.decode::<serde::de::IgnoredAny>(&self.bytes)?;
            return Err(Fault::invalid("expected an object"));
        }
        self.encoding.decode(&self.bytes)
    }

    /// SHA-256 of the bytes as sent.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.bytes);
        let mut out = [0; 32];
        out.copy_from_slice(digest.as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Weighted {
        #[serde(default)]
        weight: f64,
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Fault>) -> Code {
        result.unwrap_err().code
    }

    #[test]
    fn wrong_types_are_invalid_and_wrong_syntax_is_malformed() {
        let json = |text: &str| Encoding::Json.decode::<Weighted>(text.as_bytes());
        assert_eq!(code(json(r#"{"weight":"heavy"}"#)), Code::Invalid);
        assert_eq!(code(json(r#"{"wieght":1}"#)), Code::Invalid);
        assert_eq!(code(json(r#"{"weight":NaN}"#)), Code::Malformed);
        assert_eq!(code(json(r#"{"weight":1"#)), Code::Malformed);
        assert_eq!(code(json("\u{1}")), Code::Malformed);
        assert_eq!(code(Encoding::Json.decode::<Weighted>(b"\xff\xfe")), Code::Malformed);
        assert_eq!(code(Encoding::Cbor.decode::<Weighted>(b"\xa1\x66weight\x63abc")), Code::Invalid);
        assert_eq!(code(Encoding::Cbor.decode::<Weighted>(b"\xa1\x66weig")), Code::Malformed);
        assert_eq!(code(Encoding::Cbor.decode::<Weighted>(b"\xa0\x00")), Code::Malformed);
    }

    #[test]
    fn an_error_names_the_field() {
        #[derive(Debug, serde::Deserialize)]
        struct Outer {
            #[serde(rename = "rules")]
            _rules: Vec<Weighted>,
        }
        let json = Encoding::Json.decode::<Outer>(br#"{"rules":[{},{"weight":"heavy"}]}"#).unwrap_err();
        assert_eq!(json.message, "rules[1].weight: invalid type: string \"…\", expected f64");
        let cbor = Encoding::Cbor.decode::<Outer>(b"\xa1\x65rules\x81\xa1\x66weight\x63abc").unwrap_err();
        assert_eq!(cbor.message, "rules[0].weight: invalid type: string \"…\", expected f64");
        let unknown = Encoding::Json.decode::<Weighted>(br#"{"wieght":1}"#).unwrap_err();
        assert!(unknown.message.contains("unknown field `wieght`, expected `weight`"), "{}", unknown.message);
        let twice = Encoding::Json.decode::<Weighted>(br#"{"weight":1,"weight":2}"#).unwrap_err();
        assert!(twice.message.contains("duplicate field `weight`"), "{}", twice.message);
    }

    #[test]
    fn deep_nesting_is_refused_in_both_encodings() {
        let deep = "[".repeat(100_000);
        assert_eq!(code(Encoding::Json.decode::<serde_json::Value>(deep.as_bytes())), Code::Malformed);
        assert_eq!(code(Encoding::Cbor.decode::<ciborium::Value>(&vec![0x81; 100_000])), Code::Malformed);
    }

    #[test]
    fn an_error_never_quotes_what_was_sent() {
        let fault = Encoding::Json.decode::<Weighted>(br#"{"weight":"my \"secret\" word"}"#).unwrap_err();
        assert!(!fault.message.contains("secret"), "{}", fault.message);
    }

    #[test]
    fn a_list_is_not_taken_for_an_object() {
        for (encoding, bytes) in [
            (Encoding::Json, &b" [1.5]"[..]),
            (Encoding::Cbor, b"\x81\x01"),
            (Encoding::Cbor, b"\x9f\x01\xff"),
        ] {
            let payload = Payload::new(encoding, Bytes::copy_from_slice(bytes));
            assert_eq!(code(payload.decode::<Weighted>()), Code::Invalid);
        }
        let payload = Payload::new(Encoding::Json, Bytes::from_static(b"[1.5"));
        assert_eq!(code(payload.decode::<Weighted>()), Code::Malformed);
    }

    #[test]
    fn no_payload_stands_for_no_fields() {
        for (encoding, bytes) in [
            (Encoding::Json, &b""[..]),
            (Encoding::Json, b" null "),
            (Encoding::Cbor, b""),
            (Encoding::Cbor, b"\xf6"),
        ] {
            let payload = Payload::new(encoding, Bytes::copy_from_slice(bytes));
            assert_eq!(payload.decode::<Weighted>(), Ok(Weighted { weight: 0.0 }));
        }
    }
}
