//! What the vault is asked, and what it answers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::examine::Examined;
use super::manifest::Manifest;
use super::vault::Snapshot;
use crate::clock::Timestamp;
use crate::ledger::generation::Old;

/// No arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Makes a backup.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Begin a new repository where the one that this node has made backups in is gone.
    #[serde(default)]
    pub anew: bool,
}

/// Names a backup.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// An id or its first digits (at least 4), `latest`, or a time as in RFC 3339, of which it is the last one before.
    #[serde(default = "latest")]
    pub snapshot: String,
}

fn latest() -> String {
    "latest".to_owned()
}

/// Asks whether the repository is whole.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// Percentage of the data that is read and checked; without it only whether all is there.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub read_data: Option<f64>,
    /// Restore a backup into a scratch folder instead, start on it, and look for a memory.
    #[serde(default)]
    pub drill: bool,
    /// Which backup is drilled with.
    #[serde(default = "latest")]
    pub snapshot: String,
}

/// Removes backups that are not kept any longer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Whether only to say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// Removes states that are not used any more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Whether only to say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
    /// Give up the restored state that waits for the next start, in place of the states from before.
    #[serde(default)]
    pub pending: bool,
}

/// A restored state that the next start takes into use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pending {
    /// The generation that it is in.
    pub generation: u64,
    /// Id of the backup that it is from.
    pub snapshot: String,
    /// Who restored it.
    pub principal: String,
    /// When it was restored.
    pub at: Timestamp,
}

/// Removes locks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unlock {
    /// Also those that are in use by their looks. Nobody may be working on the repository.
    #[serde(default)]
    pub all: bool,
}

/// A backup was made.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Made {
    /// It.
    pub snapshot: Snapshot,
    /// What is in it.
    pub manifest: Manifest,
    /// Bytes of the whole repository.
    pub repository_bytes: u64,
    /// Whether the repository was made for it.
    #[serde(default)]
    pub new_repository: bool,
}

/// The backups.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// The oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Ids of backups whose file in the repository is damaged: nobody knows what they were of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// The restored state that waits for the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// One backup.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Shown {
    /// It.
    pub snapshot: Snapshot,
    /// What is in it.
    pub manifest: Manifest,
}

/// Whether the repository is whole.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Verified {
    /// Nothing was found.
    pub whole: bool,
    /// How much was found.
    pub count: u64,
    /// The first 50 findings.
    pub findings: Vec<String>,
    /// Backups in the repository.
    pub snapshots: u64,
}

/// A backup was fetched and looked at.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Fetched {
    /// Which.
    pub snapshot: Snapshot,
    /// What is in it.
    pub manifest: Manifest,
    /// What was found.
    pub examined: Examined,
    /// Ids of other backups whose file in the repository is damaged: nobody knows what they were of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// The outcome of `verify`: of one of its two kinds.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Outcome {
    /// Whether all is well. When it is not, the answer is an error.
    pub good: bool,
    /// Of the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<Verified>,
    /// Of a drill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill: Option<Fetched>,
}

/// A backup is ready to take the place of the present state.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Restored {
    /// What was fetched.
    pub fetched: Fetched,
    /// The generation that it is in.
    pub generation: u64,
    /// When it is used: `next_start`, or `now` where the node was stopped.
    pub takes_effect: &'static str,
}

/// Backups were removed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Their ids.
    pub removed: Vec<String>,
    /// The ids of this node's that are left.
    pub left: Vec<String>,
    /// Ids of backups whose file in the repository is damaged: nobody knows what they were of, so that data which none
    /// uses stays as long as they are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// Bytes of data that was of no more use.
    pub freed_bytes: u64,
    /// Bytes of the whole repository.
    pub repository_bytes: u64,
}

/// Old generations were removed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Released {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Which, the oldest first.
    pub released: Vec<Old>,
    /// Bytes of their files.
    pub freed_bytes: u64,
    /// The restored state that waits for the next start, and stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// Locks were removed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Unlocked {
    /// How many.
    pub removed: u64,
}

/// The password was changed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// Always true.
    pub changed: bool,
    /// Keys of old passwords that were removed.
    pub removed: u64,
}

/// How the vault does; kept in the ledger, and shown in the status.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The last backup that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Timestamp>,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot: Option<String>,
    /// Bytes that it added to the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_bytes: Option<u64>,
    /// Bytes of the whole repository when something was last changed in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_bytes: Option<u64>,
    /// When the repository was last found whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verify: Option<Timestamp>,
    /// The last drill that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<Timestamp>,
    /// The backup that it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drilled: Option<String>,
    /// Failures in a row of each task.
    #[serde(default)]
    pub failures: Failures,
    /// How long each task last took, in seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seconds: BTreeMap<String, f64>,
    /// What went wrong last, while it has not gone well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Ids of the backups that this node made and has not removed.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// The repository that they are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The restored state that waits for the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Failures {
    /// Of backups.
    pub backup: u32,
    /// Of verifications.
    pub verify: u32,
    /// Of drills.
    pub drill: u32,
    /// Of removals of what is not kept.
    pub prune: u32,
    /// Of restores.
    pub restore: u32,
    /// Of removals of old states.
    pub release: u32,
    /// Of removals of locks.
    pub unlock: u32,
    /// Of changes of the password.
    pub password: u32,
}
