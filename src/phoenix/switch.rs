//! From the present generation to one that was restored: at the next start, or at once where the node is stopped.
//!
//! It is done when nobody writes any more, so that nothing that was revoked until then comes back. A crash on the way leaves the
//! present generation in use, and the next start does it again.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::health::{HEALTH, read_health};
use super::manifest::{INDEX, NODE_KEY};
use super::stage;
use crate::clock::{Clock, Timestamp};
use crate::gate::node_key::{NodeKey, NodeKeyError};
use crate::ledger::audit::seal::{PURPOSE, Sealer, seal_end};
use crate::ledger::{self, Generation, LEDGER_FILE, OpenError, StateLock, audit, migrate};
use crate::memory::INDEX_FOLDER;
use crate::schedule::store::set_paused;
use crate::wire::Fault;

/// Where the other parts of a backup are, in the folder of its generation.
pub(super) const PARTS: &str = "restored";
/// What is to be done at the switch.
const PLAN: &str = "plan.json";
/// Entries of the schedule that remove something for good: they wait for a confirmation.
const DESTRUCTIVE: [&str; 4] = ["memory_prune", "soul_decay", "audit_checkpoint", "backup_prune"];

/// Why a restored generation could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The state folder.
    #[error(transparent)]
    Generation(#[from] ledger::GenerationError),
    /// The restored ledger.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One of the two ledgers.
    #[error("the restored ledger: {0}")]
    Database(#[from] rusqlite::Error),
    /// The schedule.
    #[error("the restored ledger: {0}")]
    Ledger(Fault),
    /// The node key.
    #[error(transparent)]
    Key(#[from] NodeKeyError),
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The backup is of a node with another key.
    #[error(
        "{0}: this machine has another node key than the backup, and its memories cannot be opened with it; move that file away if its state is not needed any more, or give the restored state up with `orchd backup release --pending --stopped`"
    )]
    OtherKey(String),
}

impl SwitchError {
    /// Whether it stays so until a person has changed something.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::OtherKey(_) => true,
            Self::Generation(error) => error.needs_a_person(),
            Self::Open(error) => error.needs_a_person(),
            Self::Key(error) => error.needs_a_person(),
            Self::Database(_) | Self::Ledger(_) | Self::Io { .. } => false,
        }
    }

    /// Whether it is for want of space.
    pub(super) fn is_full(&self) -> bool {
        let of = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        match self {
            Self::Io { source, .. } | Self::Generation(ledger::GenerationError::Io { source, .. }) => {
                of(source)
            }
            Self::Database(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }
}

/// Who restored what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub snapshot: String,
    pub principal: String,
    pub at: Timestamp,
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> SwitchError {
    let what = what.into();
    move |source| SwitchError::Io { what, source }
}

/// Makes the parts in `folder/restored` a generation that the next start takes into use.
pub(super) fn propose(
    generation: &Generation,
    number: u64,
    folder: &Path,
    plan: &Plan,
) -> Result<(), SwitchError> {
    let parts = folder.join(PARTS);
    if parts.join(INDEX).is_dir() {
        fs::rename(parts.join(INDEX), folder.join(INDEX_FOLDER)).map_err(io("the restored search index"))?;
    }
    fs::rename(parts.join(LEDGER_FILE), folder.join(LEDGER_FILE)).map_err(io("the restored ledger"))?;
    let text = serde_json::to_vec(plan).map_err(|error| io(PLAN)(error.into()))?;
    write(&parts.join(PLAN), &text)?;
    ledger::generation::sync_dir(&parts)?;
    ledger::generation::sync_dir(folder)?;
    stage::reached("prepared");
    generation.propose(number)?;
    stage::reached("proposed");
    Ok(())
}

/// Removes generations that a restore which was cut off has begun: their ledger is still among the parts.
pub(super) fn remove_unfinished(state: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let folder = entry.path();
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with("gen-"));
        if is_one && folder.join(PARTS).is_dir() && !folder.join(LEDGER_FILE).exists() {
            // One that stays takes space, and is in nobody's way.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Whether the node key of the backup in `parts` can be used here.
pub(super) fn check_key(parts: &Path, key_file: &Path) -> Result<(), SwitchError> {
    let theirs = fs::read(parts.join(NODE_KEY)).map_err(io("the restored node key"))?;
    match fs::read(key_file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(ours) if ours.trim_ascii() == theirs.trim_ascii() => Ok(()),
        Ok(_) => Err(SwitchError::OtherKey(key_file.display().to_string())),
        Err(error) => Err(io("node.key_file")(error)),
    }
}

/// Takes a restored generation into use, where there is one that waits for it. Returns its number. Blocks.
///
/// # Errors
/// See [`SwitchError`]; the present generation stays in use.
pub fn take_up(lock: &StateLock, key_file: &Path, clock: &Clock) -> Result<Option<u64>, SwitchError> {
    if fs::symlink_metadata(lock.state().join(ledger::generation::NEXT)).is_err() {
        return Ok(None);
    }
    let generation = Generation::of(lock.clone())?;
    let Some((number, folder)) = generation.proposed()? else { return Ok(None) };
    if number == generation.number() {
        // The last start was cut off between the switch and its end.
        generation.withdraw()?;
        return Ok(Some(number));
    }
    let parts = folder.join(PARTS);
    check_key(&parts, key_file)?;
    if !key_file.exists() {
        let key = fs::read(parts.join(NODE_KEY)).map_err(io("the restored node key"))?;
        write(key_file, &key)?;
    }
    let plan = fs::read(parts.join(PLAN)).map_err(io(PLAN))?;
    let plan: Plan = serde_json::from_slice(&plan).map_err(|error| io(PLAN)(error.into()))?;
    let sealer = Sealer::new(NodeKey::load(key_file)?.hmac(PURPOSE));
    stage::reached("taking up");
    carry_over(generation.path(), &folder, &plan, &sealer, clock)?;
    stage::reached("carried over");
    generation.switch_to(number)?;
    stage::reached("switched");
    generation.withdraw()?;
    stage::reached("taken up");
    tracing::warn!(generation = number, snapshot = plan.snapshot, "a restored generation is in use");
    Ok(Some(number))
}

/// Writes a file that belongs to this user alone: complete or as it was.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), SwitchError> {
    let partial = path.with_extension("partial");
    let written = (|| {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(io(path.display().to_string()))
}

/// What an API key has become since.
struct Ended {
    id: String,
    revoked_at: Option<i64>,
    revoked_by: Option<String>,
    expires_at: Option<i64>,
}

/// Brings what must not be forgotten from the ledger in `old` into the one in `new`, and closes what belonged to its time.
fn carry_over(
    old: &Path,
    new: &Path,
    plan: &Plan,
    sealer: &Sealer,
    clock: &Clock,
) -> Result<(), SwitchError> {
    let path = new.join(LEDGER_FILE);
    let mut connection = ledger::open_writable(&path)?;
    migrate::migrate(&mut connection, new, migrate::MIGRATIONS).map_err(OpenError::from)?;
    let Endings { ended, nonces, vault } = endings(&old.join(LEDGER_FILE))?;
    let now = clock.now();
    let transaction = connection.transaction()?;
    // A start that was cut off after this was done, and before the switch, does not do it twice.
    let done = transaction
        .query_row("SELECT value FROM meta WHERE key = 'restored_from'", [], |row| row.get::<_, String>(0))
        .optional()?
        .is_some_and(|from| from == plan.snapshot);
    if done {
        return Ok(());
    }
    for key in ended {
        transaction.execute(
            "UPDATE api_key SET revoked_at = coalesce(?2, revoked_at), revoked_by = coalesce(?3, revoked_by),
                                expires_at = coalesce(min(?4, expires_at), ?4, expires_at)
             WHERE id = ?1",
            params![key.id, key.revoked_at, key.revoked_by, key.expires_at],
        )?;
    }
    for (key, value, signed_at) in nonces {
        transaction.execute(
            "INSERT OR IGNORE INTO nonce (key_id, value, signed_at) VALUES (?1, ?2, ?3)",
            params![key, value, signed_at],
        )?;
    }
    // A machine that knows nothing of the backups takes what was restored for the first of them: which others have been removed
    // since then, and on purpose, nobody can tell it.
    let vault = match vault {
        Some(vault) => Some(vault),
        None => reborn(&transaction, plan)?,
    };
    if let Some(vault) = vault {
        transaction.execute(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
            [HEALTH, &vault],
        )?;
    }
    // A question whose job ended with its time may be asked again.
    transaction.execute("DELETE FROM inbox WHERE reply IS NULL", [])?;
    transaction.execute(
        "UPDATE job SET state = 'interrupted', finished_at = ?1 WHERE state IN ('accepted', 'running')",
        [now.millis()],
    )?;
    transaction.execute("UPDATE outbox SET open = 0 WHERE open = 1", [])?;
    transaction.execute(
        "UPDATE schedule SET finished_at = ?1, outcome = 'interrupted' WHERE started_at IS NOT NULL AND finished_at IS NULL",
        [now.millis()],
    )?;
    for name in DESTRUCTIVE {
        let why =
            format!("restored from {}: resume when the state is as it should be", short(&plan.snapshot));
        set_paused(&transaction, name, Some(&why)).map_err(SwitchError::Ledger)?;
    }
    transaction.execute(
        "INSERT INTO meta (key, value) VALUES ('restored_from', ?1) ON CONFLICT DO UPDATE SET value = ?1",
        [&plan.snapshot],
    )?;
    let entry = audit::Entry {
        at: now,
        principal: Arc::from(plan.principal.as_str()),
        command: Arc::from("phoenix/restore"),
        topic: None,
        message_id: None,
        outcome: "ok",
        reason: None,
        decision: None,
        count: 1,
        payload_size: 0,
        payload_hash: None,
    };
    let before = audit::head(&transaction)?;
    // An end that was not sealed stays so, and the node raises its alarm at the start.
    let sealed = audit::verify::end(&transaction, sealer, before)?.is_ok();
    let head = audit::append(&transaction, before, &entry)?;
    if sealed {
        seal_end(sealer, &transaction, head, now)?;
    }
    transaction.commit()?;
    connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").or_else(|error| match error {
        // The pragma answers with a row.
        rusqlite::Error::ExecuteReturnedResults => Ok(()),
        error => Err(error),
    })?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// How the vault did when the backup was made, with that backup alone.
fn reborn(connection: &Connection, plan: &Plan) -> Result<Option<String>, SwitchError> {
    let mut health = read_health(connection).map_err(SwitchError::Ledger)?;
    health.snapshots = vec![plan.snapshot.clone()];
    // Wherever it is now.
    health.repository = None;
    Ok(serde_json::to_string(&health).ok())
}

/// What must not be forgotten.
#[derive(Default)]
struct Endings {
    /// Keys that were revoked or given an end.
    ended: Vec<Ended>,
    /// Used nonces: key, value, time.
    nonces: Vec<(String, String, i64)>,
    /// How the vault does, and which backups there are.
    vault: Option<String>,
}

/// What must not be forgotten of the ledger at `path`.
fn endings(path: &Path) -> Result<Endings, SwitchError> {
    // Not read-only: a write-ahead log that a crash left behind has to be read with it.
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let there: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('api_key', 'nonce')",
        [],
        |row| row.get(0),
    )?;
    if there < 2 {
        return Ok(Endings::default());
    }
    let mut keys = connection.prepare(
        "SELECT id, revoked_at, revoked_by, expires_at FROM api_key WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL",
    )?;
    let ended = keys.query_map([], |row| {
        Ok(Ended {
            id: row.get(0)?,
            revoked_at: row.get(1)?,
            revoked_by: row.get(2)?,
            expires_at: row.get(3)?,
        })
    })?;
    let mut nonces = connection.prepare("SELECT key_id, value, signed_at FROM nonce")?;
    let nonces = nonces.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let vault = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [HEALTH], |row| row.get(0))
        .optional()?;
    Ok(Endings { ended: ended.collect::<Result<_, _>>()?, nonces: nonces.collect::<Result<_, _>>()?, vault })
}

/// The first digits of an id.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
