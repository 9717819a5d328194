//! What a vault can do, whoever does it. Narrow, so that the library behind it can be replaced.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::clock::Timestamp;
use crate::storage::StorageError;
use crate::wire::{Code, Fault};

/// Why a vault did not do what was asked. For the operator: what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is no repository.
    #[error("there is no repository at {0}: make a backup first, or look at the path")]
    Missing(String),
    /// There is none any more where this node has made backups.
    #[error(
        "there is no repository at {at} any more, and this node has made {backups} backups there: mount the disk or bring the files back; to begin a new one on purpose: `orchd backup create --anew`"
    )]
    Gone {
        /// Where it was.
        at: String,
        /// How many backups the node knows of.
        backups: u64,
    },
    /// The file with the new password is missing.
    #[error("{}: there is no such file; write the new password into it, then try again", .0.display())]
    NoNewPassword(PathBuf),
    /// The file with the password cannot be read, or is empty.
    #[error("the password file {}: {wrong}", path.display())]
    Password {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// No key is opened by the password.
    #[error("the password does not open the repository")]
    WrongPassword,
    /// Another program works on it.
    #[error(
        "the repository is locked by {0}; wait for it; where nobody works on it any more: `orchd backup unlock --all`"
    )]
    Locked(String),
    /// No snapshot has that id, or several have.
    #[error(
        "no snapshot, or more than one, answers to {0}: write an id or its first digits (at least 4), `latest`, or a time such as 2026-11-21T03:00:00Z"
    )]
    NoSnapshot(String),
    /// The file system is full.
    #[error("there is not enough space{0}")]
    Full(String),
    /// The snapshot is not one of ours.
    #[error("the snapshot holds no manifest: it is not a backup of a node")]
    NotOurs,
    /// What is in there is not what was put there.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The configuration forbids it.
    #[error("{0}")]
    Forbidden(String),
    /// Object storage did not do what was asked: what it answered, or that it did not.
    #[error("{0}")]
    Storage(String),
    /// A file that has to be in a backup cannot be read.
    #[error("{}, which the configuration names, cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was touched.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anything else, in the words of who noticed it.
    #[error("{0}")]
    Other(String),
}

impl VaultError {
    /// Something could not be read or written.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full(format!(" for {what}"))
            }
            _ => match source.get_ref().and_then(|inner| inner.downcast_ref::<StorageError>()) {
                Some(error) => Self::Storage(format!("{what}: {error}")),
                None => Self::Io { what, source },
            },
        }
    }
}

impl From<StorageError> for VaultError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unusable(wrong) => Self::Forbidden(format!("phoenix: {wrong}")),
            error => Self::Storage(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for VaultError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(" for the copy of the ledger".to_owned()),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Damaged(format!("the ledger: {error}"))
            }
            _ => Self::Other(format!("the ledger: {error}")),
        }
    }
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        let message = error.to_string();
        match error {
            VaultError::Missing(_) | VaultError::NoSnapshot(_) => Self::not_found(message),
            // Answers name no files of the machine; the log has them.
            VaultError::NoNewPassword(_) => Self::not_found(
                "there is no file with the new password: write it beside the present one, with `.new` at the end of its name, then try again",
            ),
            VaultError::Password { .. } => Self::new(
                Code::Unavailable,
                "a file with the password cannot be read, or is empty; the node's log names it",
            ),
            VaultError::Unreadable { .. } => Self::new(
                Code::Unavailable,
                "a file that the configuration names cannot be read, and a node would not start without it; the node's log names it",
            ),
            VaultError::Gone { .. } => Self::new(Code::Unavailable, message),
            VaultError::Locked(_) => Self::new(Code::Busy, message).retry_after(60_000),
            VaultError::Full(_) => Self::new(Code::StorageFull, message).retry_after(60_000),
            VaultError::Forbidden(_) => Self::new(Code::Forbidden, message),
            VaultError::Storage(_) => Self::new(Code::Unavailable, message).retry_after(60_000),
            VaultError::NotOurs | VaultError::Damaged(_) | VaultError::WrongPassword => {
                Self::new(Code::Conflict, message)
            }
            VaultError::Io { .. } | VaultError::Other(_) => {
                tracing::error!(%error, "the vault failed");
                Self::new(Code::Unavailable, "the vault failed; the node's log says why")
            }
        }
    }
}

/// A backup in the repository.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Its id: 64 hexadecimal digits, of which the first 8 are enough for people.
    pub id: String,
    /// When it was made.
    pub time: Timestamp,
    /// Which node it is of.
    pub node: String,
    /// Its tags: node, version, schema, sequence, counts.
    pub tags: Vec<String>,
    /// Bytes of what is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes that it added to the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
}

/// How far the clock of who made a backup may be ahead of ours, in milliseconds.
const AHEAD: i64 = 600_000;

impl Snapshot {
    /// Sorts by age, the oldest first, as seen at `now`. What was made with a clock that was ahead comes before all others:
    /// it would be the newest until its time comes, whatever is made meanwhile.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> impl Ord + use<> {
        (self.time <= now.plus_millis(AHEAD), self.time, self.id.clone())
    }
}

/// What backups there are.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The oldest first, by [`Snapshot::age`].
    pub snapshots: Vec<Snapshot>,
    /// Ids that some of them had before another program changed their tags or description.
    pub former: Vec<String>,
    /// Ids of those that are damaged, so that nobody knows what they are of.
    pub unreadable: Vec<String>,
}

/// How closely the repository is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Depth {
    /// Whether all that is referred to is there.
    Structure,
    /// Every byte of this percentage of the packs, from 0 to 100, too: of one at least, unless it is 0.
    Data(f64),
}

/// Told how far it is: done and total.
pub type Step<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A repository of backups, open.
pub trait Vault {
    /// Puts the files of `folder` away as a snapshot of `host`.
    ///
    /// # Errors
    /// See [`VaultError`]; what was there before is as before.
    fn create(&self, folder: &Path, host: &str, tags: &[String]) -> Result<Snapshot, VaultError>;

    /// All snapshots. A damaged one fails nothing.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn list(&self) -> Result<Inventory, VaultError>;

    /// What is wrong with the repository; nothing where the list is empty.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn check(&self, depth: Depth, step: Step<'_>) -> Result<Vec<String>, VaultError>;

    /// What is in the snapshot of that id.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn manifest(&self, id: &str) -> Result<Manifest, VaultError>;

    /// Writes the parts of the snapshot of that id into `folder`, which is there and empty.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn fetch(&self, id: &str, folder: &Path, step: Step<'_>) -> Result<Manifest, VaultError>;

    /// Removes these snapshots; their data goes with [`Vault::sweep`].
    ///
    /// # Errors
    /// See [`VaultError`].
    fn forget(&self, ids: &[String]) -> Result<(), VaultError>;

    /// Removes data that no snapshot uses. Returns the bytes that this frees.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn sweep(&self) -> Result<u64, VaultError>;

    /// Bytes of all files of the repository.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn size(&self) -> Result<u64, VaultError>;

    /// Lets the repository be opened with `new` as well.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn add_password(&self, new: &str) -> Result<(), VaultError>;

    /// Takes every key away but the one that it was opened with.
    ///
    /// # Errors
    /// See [`VaultError`].
    fn remove_other_passwords(&self) -> Result<u64, VaultError>;
}
