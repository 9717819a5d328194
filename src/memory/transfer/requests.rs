//! What may be asked of carrying memories, and what is answered. Pure. Requests refuse fields that they do not know.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::model::Layer;
use super::super::query::Filter;
use crate::clock::Timestamp;

/// Which records to carry away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Name of the file in the folder `memory.transfer_dir`: letters, digits, `.`, `_`, `-`. It is compressed when the
    /// name ends in `.zst`. One that is there is replaced.
    pub file: String,
    /// Only these layers; all of them when empty.
    #[serde(default)]
    pub layers: Vec<Layer>,
    /// Only this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Only this user's.
    #[serde(default)]
    pub user: Option<String>,
    /// Only records created at this time or later.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Only records created before this time.
    #[serde(default)]
    pub to: Option<Timestamp>,
}

impl Export {
    /// What a record must be like to be carried away.
    #[must_use]
    pub fn filter(&self) -> Filter {
        let Self { file: _, layers, namespace, user, from, to } = self.clone();
        Filter { layers, namespace, user, from, to, ..Filter::default() }
    }
}

/// Records were carried away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exported {
    /// The file in `memory.transfer_dir`.
    pub file: String,
    /// Records in it, one on each line.
    pub records: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal; also beside it in `FILE.sha256`.
    pub sha256: String,
    /// Records that were left out because their seal is broken.
    pub broken: u64,
    /// Whether it went on where an interrupted export had stopped.
    pub resumed: bool,
}

/// Brings records in from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Name of the file in the folder `memory.transfer_dir`; compressed when it ends in `.zst`. Where `FILE.sha256` is
    /// beside it, it has to be right.
    pub file: String,
    /// Whether a record that is there already under the same id is replaced, and its history dropped, unless it is the same;
    /// else it is skipped.
    #[serde(default)]
    pub replace: bool,
    /// Whether to pin what comes in, so that retention leaves old records alone.
    #[serde(default)]
    pub pin: bool,
    /// Puts all of it in this namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Whether the file is in the object storage `memory.archive`, rather than in the folder.
    #[serde(default)]
    pub from_storage: bool,
}

/// A line that was not brought in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// From 1.
    pub line: u64,
    /// What was expected.
    pub reason: String,
}

/// Records were brought in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// The file in `memory.transfer_dir`.
    pub file: String,
    /// Lines that were read.
    pub lines: u64,
    /// Records that are new.
    pub imported: u64,
    /// Records that took the place of others.
    pub replaced: u64,
    /// Records that were there already, and were not replaced.
    pub skipped: u64,
    /// Lines that are no record, or one that is refused.
    pub rejected: u64,
    /// The first ten of those.
    pub errors: Vec<Rejected>,
    /// Whether it went on where an interrupted import had stopped.
    pub resumed: bool,
}

/// Carries old months away and removes them here: each into a compressed file of its own, which is read back and checked
/// before anything is removed. The files are in `memory.transfer_dir` or, where that is set, in the object storage
/// `memory.archive`. An import brings them back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Months before this one, `yyyy-mm`; it must have ended.
    pub before: String,
    /// Only these layers; all of them when empty.
    #[serde(default)]
    pub layers: Vec<Layer>,
}

/// A month that was archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchivedMonth {
    /// Its layer.
    pub layer: Layer,
    /// `yyyy-mm`.
    pub month: String,
    /// Where it is now.
    #[serde(flatten)]
    pub file: Exported,
}

/// What was archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Archived {
    /// Place in object storage that has them, where they are not in `memory.transfer_dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The oldest first.
    pub months: Vec<ArchivedMonth>,
    /// Records in all of them.
    pub records: u64,
}
