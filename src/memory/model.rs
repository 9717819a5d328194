//! What a memory is, what may be asked of it, and the rules that need no storage.
//!
//! Everything here is pure. Requests refuse fields that they do not know; what is out of range is refused with
//! `invalid` and a message that names the field and the range, never the value.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Timestamp;
use crate::entity;
use crate::wire::Fault;

/// Most tags of one record.
pub const MAX_TAGS: usize = 32;
/// Longest tag, in characters.
pub const MAX_TAG_CHARS: usize = 64;
/// Longest name of a namespace, user or source, in characters.
pub const MAX_NAME_CHARS: usize = 128;
/// Most recalls that are counted of one record.
pub const MAX_ACCESSES: u32 = u32::MAX;
/// Where records go that name no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// How long and in which way a memory is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// What just happened.
    #[default]
    ShortTerm,
    /// What proved to matter.
    LongTerm,
    /// What the task at hand needs.
    Working,
    /// Events, in their order.
    Episodic,
    /// Facts.
    Semantic,
}

impl Layer {
    /// Every layer, in the order of the documentation.
    pub const ALL: [Self; 5] =
        [Self::ShortTerm, Self::LongTerm, Self::Working, Self::Episodic, Self::Semantic];

    /// The name as it is written everywhere: on the wire, in the ledger, in folders and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ShortTerm => "short_term",
            Self::LongTerm => "long_term",
            Self::Working => "working",
            Self::Episodic => "episodic",
            Self::Semantic => "semantic",
        }
    }

    /// The layer of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.as_str() == name)
    }
}

// By hand, because serde's own message quotes the unknown name.
impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| {
            serde::de::Error::custom(
                "unknown layer: expected one of short_term, long_term, working, episodic, semantic",
            )
        })
    }
}

/// A memory as it is kept in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// UUID version 7.
    pub id: String,
    /// Where it is kept.
    pub layer: Layer,
    /// What is remembered.
    pub content: String,
    /// Words to find it by; each once, in the order given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whom or what it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Whose it is: records of different namespaces never count as the same.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The user whom it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Which model or client it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// From 0 (may go first) to 1.
    pub importance: f64,
    /// When it was stored.
    pub created: Timestamp,
    /// When its present version was written, if it is not the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// From then on it is in no answer, unless it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether pruning spares it.
    #[serde(default)]
    pub pinned: bool,
    /// From 1; one more with each update.
    #[serde(default = "first_version")]
    pub version: u32,
    /// How often it was recalled: fetched, or found by a query. Written every few seconds; a crash loses the last ones.
    #[serde(default)]
    pub accesses: u64,
    /// When it was last recalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_access: Option<Timestamp>,
    /// SHA-256 of the content's UTF-8 bytes, in hexadecimal.
    pub checksum: String,
}

impl Record {
    /// Whether it may be in an answer at `now`: what has expired may not, unless it is pinned.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.pinned || self.expires.is_none_or(|expires| expires > now)
    }
}

/// Where records go that name no namespace.
pub(super) fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

const fn first_version() -> u32 {
    1
}

/// The checksum of `content`: SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn checksum(content: &str) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, content.as_bytes()).as_ref())
}

/// The first 64 bits of a checksum: an index over them is a fifth of one over all.
#[must_use]
pub fn digest(checksum: &str) -> i64 {
    u64::from_str_radix(checksum.get(..16).unwrap_or_default(), 16).unwrap_or(0).cast_signed()
}

/// Remembers something.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// What to remember: 1 to 10,000 characters unless configured otherwise.
    pub content: String,
    /// Where to keep it; `short_term` by default.
    #[serde(default)]
    pub layer: Layer,
    /// At most 32 words to find it by, each of 1 to 64 characters.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whom or what it is about: 1 to 128 characters.
    #[serde(default)]
    pub entity: Option<String>,
    /// Whose it is: 1 to 128 characters; `default` by default.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The user whom it belongs to: 1 to 128 characters.
    #[serde(default)]
    pub user: Option<String>,
    /// Which model or client it comes from: 1 to 128 characters; the asker by default.
    #[serde(default)]
    pub source: Option<String>,
    /// From 0 to 1; 0.5 by default.
    #[serde(default = "default_importance")]
    pub importance: f64,
    /// From then on it is in no answer, and pruned. Never by default.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    /// Whether pruning spares it.
    #[serde(default)]
    pub pinned: bool,
    /// Whether a record of the same content in this namespace is to be answered instead of storing another.
    #[serde(default)]
    pub if_absent: bool,
}

const fn default_importance() -> f64 {
    0.5
}

impl Store {
    /// A request for `content`, with all defaults.
    pub fn new(content: impl Into<String>) -> Self {
        Self {
            content: content.into(),
            layer: Layer::default(),
            tags: Vec::new(),
            entity: None,
            namespace: default_namespace(),
            user: None,
            source: None,
            importance: default_importance(),
            expires: None,
            pinned: false,
            if_absent: false,
        }
    }

    /// Checks the ranges and drops repeated tags.
    ///
    /// # Errors
    /// `invalid`, with the field and its range.
    pub fn validate(&mut self, max_content_chars: usize) -> Result<(), Fault> {
        length("content", &self.content, max_content_chars)?;
        if !(0.0..=1.0).contains(&self.importance) {
            return Err(Fault::invalid("importance: expected a number from 0 to 1"));
        }
        check_tags(&self.tags)?;
        let mut seen = std::collections::HashSet::new();
        self.tags.retain(|tag| seen.insert(tag.clone()));
        self.entity.as_deref().map_or(Ok(()), |entity| entity::check("entity", entity))?;
        length("namespace", &self.namespace, MAX_NAME_CHARS)?;
        self.user.as_deref().map_or(Ok(()), |user| length("user", user, MAX_NAME_CHARS))?;
        self.source.as_deref().map_or(Ok(()), |source| length("source", source, MAX_NAME_CHARS))
    }
}

/// What became of a store: it is in the ledger.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// The record.
    pub id: String,
    /// Where it is kept.
    pub layer: Layer,
    /// Position among all changes of memory; grows with each.
    pub sequence: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub checksum: String,
    /// With `if_absent`: nothing was stored, because this record was there already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub existing: bool,
}

/// Asks for numbers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stats {}

/// One layer in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayerStats {
    /// Which.
    pub layer: Layer,
    /// Records in the ledger that are not forgotten.
    pub records: u64,
    /// Records that are forgotten and not purged yet.
    #[serde(default)]
    pub forgotten: u64,
    /// Records that are pinned.
    #[serde(default)]
    pub pinned: u64,
    /// Bytes of their contents.
    pub content_bytes: u64,
    /// Bytes of the index on disk.
    pub index_bytes: u64,
    /// Months that the index is kept in.
    pub shards: u64,
}

/// Finding by meaning, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingStats {
    /// The model.
    pub model: String,
    /// Dimensions of its vectors; 0 as long as there is none.
    pub dimensions: u64,
    /// Its breaker: `closed`, `open` or `half_open`.
    pub breaker: String,
    /// How often that has opened since the start.
    pub trips: u64,
    /// Vectors that were made since the start.
    pub given: u64,
    /// Records since the start that the endpoint did not take: they are found by their words alone.
    pub refused: u64,
    /// Records that wait for their vector, counted up to 1,000.
    pub waiting: u64,
    /// Bytes of vectors in memory.
    pub resident_bytes: u64,
}

/// Memory in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatsReport {
    /// Every layer, also the empty ones.
    pub layers: Vec<LayerStats>,
    /// The last change's sequence.
    pub sequence: u64,
    /// Everything up to here is in the index.
    pub indexed: u64,
    /// How far the index is behind: `sequence` minus `indexed`.
    pub lag: u64,
    /// Shards that are damaged and wait for being rebuilt.
    pub damaged: u64,
    /// Places (months of the index, the ledger's log) whose files still hold what was purged; it leaves within seconds.
    #[serde(default)]
    pub purging: u64,
    /// Answers since the start from which a record was left out because its seal is broken.
    #[serde(default)]
    pub broken: u64,
    /// Size of the ledger's database, with its log, in bytes.
    #[serde(default)]
    pub ledger_bytes: u64,
    /// When memory was last pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_prune: Option<Timestamp>,
    /// When records were last promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_promotion: Option<Timestamp>,
    /// Finding by meaning, where it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<EmbeddingStats>,
}

/// Builds the search index anew from the ledger.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    /// Also has all vectors made anew, in the background, where embeddings are on.
    #[serde(default)]
    pub embeddings: bool,
}

/// The index has been built anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rebuilt {
    /// How many shards.
    pub shards: u64,
    /// How many records they hold.
    pub records: u64,
}

pub(super) fn check_tags(tags: &[String]) -> Result<(), Fault> {
    if tags.len() > MAX_TAGS {
        return Err(Fault::invalid(format!("tags: expected at most {MAX_TAGS}")));
    }
    tags.iter().try_for_each(|tag| length("tags", tag, MAX_TAG_CHARS))
}

pub(super) fn length(field: &str, text: &str, max: usize) -> Result<(), Fault> {
    // A character has at least one byte: short texts need no count.
    if text.is_empty() || (text.len() > max && text.chars().count() > max) {
        return Err(Fault::invalid(format!("{field}: expected 1 to {max} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Code, Encoding};

    fn store(json: &str) -> Result<Store, Fault> {
        let mut store: Store = Encoding::Json.decode(json.as_bytes())?;
        store.validate(10_000)?;
        Ok(store)
    }

    #[test]
    fn an_unknown_layer_is_invalid_and_the_answer_names_the_five() {
        let fault = store(r#"{"content":"x","layer":"hippocampus"}"#).unwrap_err();
        assert_eq!(fault.code, Code::Invalid);
        for layer in Layer::ALL {
            assert!(fault.message.contains(layer.as_str()), "{}", fault.message);
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.as_str());
        }
        assert!(!fault.message.contains("hippocampus"));
    }

    #[test]
    fn what_is_out_of_range_is_invalid() {
        let long = "x".repeat(10_001);
        for json in [
            r#"{"content":""}"#.to_owned(),
            format!(r#"{{"content":"{long}"}}"#),
            r#"{"content":"x","importance":1.1}"#.into(),
            r#"{"content":"x","importance":-0.1}"#.into(),
            r#"{"content":"x","tags":[""]}"#.into(),
            format!(r#"{{"content":"x","tags":[{}]}}"#, vec![r#""t""#; 33].join(",")),
            r#"{"content":"x","entity":""}"#.into(),
            r#"{"content":"x","colour":"red"}"#.into(),
        ] {
            assert_eq!(store(&json).unwrap_err().code, Code::Invalid, "{}", &json[..json.len().min(80)]);
        }
        let mut nan = store(r#"{"content":"x"}"#).unwrap();
        nan.importance = f64::NAN;
        assert_eq!(nan.validate(10).unwrap_err().code, Code::Invalid);
    }

    #[test]
    fn limits_count_characters_and_repeated_tags_are_kept_once() {
        let content = "ä".repeat(10_000);
        let store = store(&format!(r#"{{"content":"{content}","tags":["b","a","b"]}}"#)).unwrap();
        assert_eq!(store.tags, ["b", "a"]);
        assert_eq!(store.layer, Layer::ShortTerm);
        assert!((store.importance - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn the_checksum_is_sha_256_in_hexadecimal() {
        assert_eq!(checksum("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
