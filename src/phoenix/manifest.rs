//! What is in a snapshot: the parts with their hashes, and what the ledger held when it was taken.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// The name of the manifest among the parts.
pub(super) const MANIFEST: &str = "manifest.json";
/// The configuration in force, without secrets: those are in files of their own.
pub(super) const CONFIG: &str = "orchd.toml";
/// The folder of the files that the configuration names and that are no secrets, each by its whole path.
pub(super) const FILES: &str = "files";
/// The node's own key.
pub(super) const NODE_KEY: &str = "node.key";
/// The list of the files of the search index, where it is in the snapshot: as many [`Part`]s as JSON, named by their paths below
/// [`INDEX`].
pub(super) const INDEX_LIST: &str = "index.json";
/// The folder of the search index.
pub(super) const INDEX: &str = "index";

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, as hexadecimal digits.
    pub sha256: String,
}

/// What is in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Version of this form; 1.
    pub format: u32,
    /// Which node it is of.
    pub node: String,
    /// The program that made it.
    pub version: String,
    /// The ledger's schema.
    pub schema: u32,
    /// When the ledger was copied.
    pub taken: Timestamp,
    /// The last audit record: the ledger's sequence.
    pub audit_seq: i64,
    /// Its hash, as hexadecimal digits.
    pub audit_hash: String,
    /// Rows of the tables that matter.
    pub counts: BTreeMap<String, u64>,
    /// The files, but for the manifest itself and those of the search index, which one of them lists.
    pub parts: Vec<Part>,
    /// Bytes of the search index, where it is in there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_bytes: Option<u64>,
}

impl Manifest {
    /// The tags of its snapshot.
    pub(super) fn tags(&self) -> Vec<String> {
        let mut tags = vec![
            "orchd".to_owned(),
            format!("node={}", self.node),
            format!("version={}", self.version),
            format!("schema={}", self.schema),
            format!("sequence={}", self.audit_seq),
        ];
        tags.extend(self.counts.iter().map(|(table, rows)| format!("{table}={rows}")));
        tags
    }
}
