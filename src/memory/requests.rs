//! What may be asked of a record's life, and what is answered: storing many, updating, forgetting, pruning, carrying away
//! and bringing back. Searching is in [`super::model`].
//!
//! Pure. Requests refuse fields that they do not know.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::model::{self, Layer, Record, Store, Stored, length};
use crate::clock::Timestamp;
use crate::engine::command::Answer;
use crate::entity;
use crate::wire::{self, Fault};

/// Most records of one store.
pub const MAX_BATCH: usize = 100;
/// Most ids that a request or an answer lists.
pub const MAX_IDS: usize = 100;

/// One of two forms, told apart by whether there is a member called as [`Many::MEMBER`]. Unlike serde's untagged enums its
/// errors are those of the form that was meant.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<O, M> {
    /// One.
    One(O),
    /// Many.
    Many(M),
}

/// The second form of a [`OneOrMany`].
pub trait Many {
    /// The member that only this form has.
    const MEMBER: &'static str;
}

impl<'de, O: DeserializeOwned, M: DeserializeOwned + Many> Deserialize<'de> for OneOrMany<O, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = wire::distinct(deserializer)?;
        let read = if value.get(M::MEMBER).is_some() {
            wire::read(value).map(Self::Many)
        } else {
            wire::read(value).map(Self::One)
        };
        // It says where in the value it is.
        read.map_err(serde::de::Error::custom)
    }
}

impl<O: JsonSchema, M: JsonSchema> JsonSchema for OneOrMany<O, M> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", O::schema_name(), M::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let forms = [generator.subschema_for::<O>(), generator.subschema_for::<M>()];
        schemars::json_schema!({ "anyOf": forms })
    }
}

/// Remembers many things at once: all of them or, when one is refused, none.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreMany {
    /// 1 to 100 records.
    pub records: Vec<Store>,
}

impl Many for StoreMany {
    const MEMBER: &'static str = "records";
}

/// Remembers something, or many things.
pub type StoreRequest = OneOrMany<Store, StoreMany>;

/// What became of many stores, in their order.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StoredMany {
    /// One for each.
    pub stored: Vec<Stored>,
}

impl Many for StoredMany {
    const MEMBER: &'static str = "stored";
}

/// What became of a store, or of many.
pub type StoreAnswer = OneOrMany<Stored, StoredMany>;

impl StoreRequest {
    /// Checks the ranges of every record; who asks is the source of those that name none.
    ///
    /// # Errors
    /// `invalid`, with the field and its range, and with the record's position among many.
    pub fn validate(&mut self, max_content_chars: usize, asker: &str) -> Result<(), Fault> {
        let check = |store: &mut Store| {
            store.source.get_or_insert_with(|| asker.chars().take(model::MAX_NAME_CHARS).collect());
            store.validate(max_content_chars)
        };
        match self {
            Self::One(store) => check(store),
            Self::Many(StoreMany { records }) => {
                if records.is_empty() || records.len() > MAX_BATCH {
                    return Err(Fault::invalid(format!("records: expected 1 to {MAX_BATCH}")));
                }
                records.iter_mut().enumerate().try_for_each(|(number, store)| {
                    check(store).map_err(|mut fault| {
                        fault.message = format!("records[{number}]: {}", fault.message);
                        fault
                    })
                })
            }
        }
    }
}

/// Fetches one record.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// The record's id.
    pub id: String,
    /// Whether to add what it was before it was updated.
    #[serde(default)]
    pub history: bool,
}

/// A record, and what is known beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Got {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// Its importance as it has decayed since it was last written or recalled.
    pub decayed_importance: f64,
    /// With `history`: what it was before, the newest first, as far as that is still kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Version>>,
    /// Versions that are left out of `history` because their seals are broken: they were changed from outside the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken_versions: Vec<u32>,
}

impl Got {
    /// The answer, which says where it is not whole.
    #[must_use]
    pub fn answer(self) -> Answer<Self> {
        let degraded = if self.broken_versions.is_empty() { Vec::new() } else { vec!["integrity".into()] };
        Answer { body: self, degraded }
    }
}

/// What a record was before an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// From 1.
    pub version: u32,
    /// What was remembered.
    pub content: String,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whom or what it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Its importance.
    pub importance: f64,
    /// When it was written.
    pub written: Timestamp,
    /// When it was replaced.
    pub replaced: Timestamp,
    /// SHA-256 of the content, in hexadecimal.
    pub checksum: String,
}

/// Changes a record: what is given is replaced, in a new version.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The record's id.
    pub id: String,
    /// Only if this is its present version; `conflict` otherwise.
    #[serde(default)]
    pub if_version: Option<u32>,
    /// As in a store.
    #[serde(default)]
    pub content: Option<String>,
    /// All of them; as in a store.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// As in a store; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    pub entity: Option<Option<String>>,
    /// As in a store.
    #[serde(default)]
    pub importance: Option<f64>,
    /// As in a store; null for never.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Timestamp>")]
    pub expires: Option<Option<Timestamp>>,
    /// As in a store.
    #[serde(default)]
    pub source: Option<String>,
}

/// Tells null from absent.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Update {
    /// Checks the ranges.
    ///
    /// # Errors
    /// `invalid`, with the field and its range.
    pub fn validate(&self, max_content_chars: usize) -> Result<(), Fault> {
        let Self { id: _, if_version: _, content, tags, entity, importance, expires, source } = self;
        let nothing = content.is_none()
            && tags.is_none()
            && entity.is_none()
            && importance.is_none()
            && expires.is_none()
            && source.is_none();
        if nothing {
            return Err(Fault::invalid(
                "expected at least one of content, tags, entity, importance, expires, source",
            ));
        }
        content.as_deref().map_or(Ok(()), |content| length("content", content, max_content_chars))?;
        tags.as_deref().map_or(Ok(()), model::check_tags)?;
        let entity = entity.as_ref().and_then(Option::as_deref);
        entity.map_or(Ok(()), |entity| entity::check("entity", entity))?;
        source.as_deref().map_or(Ok(()), |source| length("source", source, model::MAX_NAME_CHARS))?;
        if importance.is_some_and(|importance| !(0.0..=1.0).contains(&importance)) {
            return Err(Fault::invalid("importance: expected a number from 0 to 1"));
        }
        Ok(())
    }

    /// `record` as it is after this update at `now`, by `asker`.
    #[must_use]
    pub fn apply(&self, record: &Record, asker: &str, now: Timestamp) -> Record {
        let mut new = record.clone();
        if let Some(content) = &self.content {
            new.content.clone_from(content);
            new.checksum = model::checksum(content);
        }
        if let Some(tags) = &self.tags {
            let mut seen = std::collections::HashSet::new();
            new.tags = tags.iter().filter(|tag| seen.insert(*tag)).cloned().collect();
        }
        if let Some(entity) = &self.entity {
            new.entity.clone_from(entity);
        }
        if let Some(expires) = self.expires {
            new.expires = expires;
        }
        new.importance = self.importance.unwrap_or(new.importance);
        let asker = || asker.chars().take(model::MAX_NAME_CHARS).collect();
        new.source = Some(self.source.clone().unwrap_or_else(asker));
        new.updated = Some(now);
        new.version = record.version.saturating_add(1);
        new
    }
}

/// A record has a new version.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Updated {
    /// The record.
    pub id: String,
    /// Its present version.
    pub version: u32,
    /// Position among all changes of memory.
    pub sequence: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub checksum: String,
}

/// Forgets one record: it is in no answer any more, and purged later, or at once.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// The record's id.
    pub id: String,
    /// Whether to purge it at once: its bytes and those of its history leave the files. Also what is forgotten already
    /// can be purged.
    #[serde(default)]
    pub purge: bool,
    /// Whether to take back that it was forgotten, as long as it is not purged.
    #[serde(default)]
    pub undo: bool,
}

impl Forget {
    /// Checks what excludes each other.
    ///
    /// # Errors
    /// `invalid`.
    pub fn validate(&self) -> Result<(), Fault> {
        if self.purge && self.undo {
            return Err(Fault::invalid("purge, undo: expected at most one of them"));
        }
        Ok(())
    }
}

/// What became of a forgotten record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Forgotten {
    /// Whether it is forgotten now; false after `undo`.
    pub forgotten: bool,
    /// Whether it is gone for good.
    #[serde(default)]
    pub purged: bool,
    /// When it will be, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purge_after: Option<Timestamp>,
}

/// Has pruning spare a record, or no longer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The record's id.
    pub id: String,
    /// False lets pruning have it again.
    #[serde(default = "yes")]
    pub pinned: bool,
}

const fn yes() -> bool {
    true
}

/// Whether a record is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pinned {
    /// The record.
    pub id: String,
    /// Whether pruning spares it.
    pub pinned: bool,
}

/// Removes what is older than its layer keeps it, or more than fits; promotes before what matters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Whether only to say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
    /// Only these layers; all of them when empty.
    #[serde(default)]
    pub layers: Vec<Layer>,
}

/// Prunes although that removes more than the configured share.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmPrune {
    /// The word that the refused run named, or a dry run; it holds for a day.
    pub word: String,
    /// The layers of the refused run.
    #[serde(default)]
    pub layers: Vec<Layer>,
}

/// One layer of a pruning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedLayer {
    /// Which.
    pub layer: Layer,
    /// Records that are removed.
    pub removed: u64,
    /// Months that are dropped as a whole.
    pub months_dropped: u64,
    /// Records before.
    pub records_before: u64,
    /// Records after; in a dry run what would be left.
    pub records_after: u64,
    /// Bytes of contents and index before.
    pub bytes_before: u64,
    /// Bytes of contents and index after; absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<u64>,
}

/// What a pruning removed, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Every layer that was looked at.
    pub layers: Vec<PrunedLayer>,
    /// Records that were promoted first instead.
    pub promoted: u64,
    /// Forgotten records that were purged because their time of grace is over.
    pub purged: u64,
    /// Old versions that were removed.
    pub versions: u64,
    /// Size of the ledger's database with its log before, in bytes.
    pub ledger_bytes_before: u64,
    /// And after; absent in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger_bytes_after: Option<u64>,
    /// In a dry run: the word that `memory/prune/confirm` needs, because it would remove more than the configured share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
}

/// Moves records from `short_term` to `long_term`: those that are named, or else those that would expire soon and are
/// important or often recalled.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// These records, whatever they are worth; at most 100.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Whether only to say what would be promoted.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was promoted, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Promoted {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// How many.
    pub promoted: u64,
    /// The first 100 of them.
    pub ids: Vec<String>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::{Encoding, Fault, Payload};

    fn read(text: &str) -> Result<StoreRequest, Fault> {
        Payload::new(Encoding::Json, Bytes::from(text.to_owned())).decode()
    }

    #[test]
    fn what_is_wrong_with_a_store_is_said_by_field() {
        for (text, field) in [
            (r#"{"content":"x","importance":"0.5"}"#, "importance: "),
            (r#"{"content":5}"#, "content: "),
            (r#"{"content":"x","tags":[1]}"#, "tags[0]: "),
            (r#"{"content":"x","expires":"yesterday"}"#, "expires: "),
            (r#"{"records":[{"content":"x"},{"content":5}]}"#, "records[1].content: "),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.message.starts_with(field), "{text}: {}", fault.message);
        }
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_in_both_forms() {
        for text in [
            r#"{"content":"first","content":"second"}"#,
            r#"{"records":[{"content":"first","content":"second"}]}"#,
            r#"{"records":[],"records":[{"content":"x"}]}"#,
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.message.contains("duplicate field"), "{text}: {}", fault.message);
        }
    }
}
