//! What goes into a snapshot, gathered in a folder of its own: a consistent copy of the ledger, and what a node needs besides.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use super::folder::sha256;
use super::manifest::{CONFIG, INDEX, INDEX_LIST, MANIFEST, Manifest, NODE_KEY, Part};
use super::named;
use super::stage;
use super::vault::VaultError;
use crate::clock::Clock;
use crate::ledger::{LEDGER_FILE, audit};
use crate::memory::INDEX_FOLDER;
use crate::memory::index::IndexCopy;

/// Tables whose rows are counted.
pub(super) const COUNTED: [(&str, &str); 5] = [
    ("memories", "memory_record"),
    ("rules", "conscience_rule"),
    ("entities", "soul_entity"),
    ("keys", "api_key"),
    ("audit", "audit"),
];

/// Space that has to be left besides the copy itself.
const MARGIN: u64 = 16 << 20;

/// Where the parts come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Source {
    /// The node's name.
    pub node: String,
    /// The folder of the generation.
    pub generation: PathBuf,
    /// The configuration in force.
    pub config: String,
    /// Files and folders that the configuration names and that are no secrets.
    pub files: Vec<PathBuf>,
    /// The node's own key.
    pub key: PathBuf,
    /// Whether the search index is one of the parts.
    pub index: bool,
}

/// Bytes that are free where `path` is.
pub(super) fn free_space(path: &Path) -> Result<u64, VaultError> {
    let found = rustix::fs::statvfs(path).map_err(|error| VaultError::io("the free space")(error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Gathers the parts in `folder`, which is made anew.
pub(super) fn capture(source: &Source, folder: &Path) -> Result<Manifest, VaultError> {
    stage::reached("begun");
    clear(folder)?;
    let ledger = source.generation.join(LEDGER_FILE);
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let needed = size(&ledger) + size(&ledger.with_extension("db-wal")) + MARGIN;
    let free = free_space(folder)?;
    if free < needed {
        return Err(VaultError::Full(format!(
            ": the copy of the ledger needs {needed} bytes, {free} are free"
        )));
    }
    // Begun before the copy of the ledger, and ended after.
    let index = source.index.then(|| {
        let from = source.generation.join(INDEX_FOLDER);
        IndexCopy::begin(&from, &folder.join(INDEX)).map_err(VaultError::io("the search index"))
    });
    let index = index.transpose()?;
    let copy = folder.join(LEDGER_FILE);
    let (schema, head, counts) = copy_ledger(&ledger, &copy)?;
    stage::reached("copied");
    let index_bytes = index.map(|index| list_index(index, folder)).transpose()?;
    put(&folder.join(CONFIG), source.config.as_bytes())?;
    let named = named::copy(&source.files, folder)?;
    let key = fs::read(&source.key).map_err(VaultError::io("the node key"))?;
    put(&folder.join(NODE_KEY), &key)?;
    let mut parts = Vec::new();
    let names =
        [LEDGER_FILE, CONFIG, NODE_KEY, INDEX_LIST].into_iter().chain(named.iter().map(String::as_str));
    for name in names {
        if folder.join(name).is_file() {
            parts.push(part(folder, name)?);
        }
    }
    let manifest = Manifest {
        format: 1,
        node: source.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema,
        taken: Clock::system().now(),
        audit_seq: head.seq,
        audit_hash: head.hex(),
        counts,
        parts,
        index_bytes,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| VaultError::Other(error.to_string()))?;
    put(&folder.join(MANIFEST), &text)?;
    stage::reached("gathered");
    Ok(manifest)
}

/// Ends the copy of the index, and lists its files. Returns their size.
fn list_index(index: IndexCopy, folder: &Path) -> Result<u64, VaultError> {
    let files = index.end().map_err(VaultError::io("the search index"))?;
    let below = folder.join(INDEX);
    let parts: Result<Vec<_>, _> = files.iter().map(|file| part(&below, &file.to_string_lossy())).collect();
    let parts = parts?;
    let text = serde_json::to_vec(&parts).map_err(|error| VaultError::Other(error.to_string()))?;
    put(&folder.join(INDEX_LIST), &text)?;
    Ok(parts.iter().map(|part| part.bytes).sum())
}

/// What is to be said of the file `name` below `folder`.
fn part(folder: &Path, name: &str) -> Result<Part, VaultError> {
    let path = folder.join(name);
    let bytes = fs::metadata(&path).map_err(VaultError::io(name))?.len();
    Ok(Part { name: name.to_owned(), bytes, sha256: sha256(&path).map_err(VaultError::io(name))? })
}

/// Makes `folder` anew, empty and private.
pub(super) fn clear(folder: &Path) -> Result<(), VaultError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(VaultError::io("the working folder")(error));
        }
        _ => {}
    }
    let mut made = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut made, 0o700);
    made.recursive(true).create(folder).map_err(VaultError::io("the working folder"))
}

pub(super) fn put(path: &Path, content: &[u8]) -> Result<(), VaultError> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(VaultError::io("the working folder"))?;
    file.write_all(content).map_err(VaultError::io("the working folder"))
}

/// Copies the ledger page by page, in one step, while others write: the copy is as the ledger was at one moment. Pages keep
/// their places, so that what did not change is found again in the repository.
fn copy_ledger(from: &Path, to: &Path) -> Result<(u32, audit::Head, BTreeMap<String, u64>), VaultError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags)?;
    source.busy_timeout(Duration::from_secs(10))?;
    File::options().write(true).create_new(true).mode(0o600).open(to).map_err(VaultError::io("the copy"))?;
    let mut target = Connection::open(to)?;
    target.pragma_update(None, "synchronous", "OFF")?;
    {
        let backup = Backup::new(&source, &mut target)?;
        let mut tries = 0;
        while backup.step(-1)? != StepResult::Done {
            tries += 1;
            if tries > 100 {
                return Err(VaultError::Other("the ledger is too busy to be copied".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    // From a log to a single file.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    let about = about(&target)?;
    target.close().map_err(|(_, error)| error)?;
    Ok(about)
}

/// Schema, end of the audit trail and counts of a ledger.
pub(super) fn about(
    connection: &Connection,
) -> Result<(u32, audit::Head, BTreeMap<String, u64>), VaultError> {
    let schema = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut counts = BTreeMap::new();
    for (name, table) in COUNTED {
        let there: bool = connection.query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1",
            [table],
            |row| row.get(0),
        )?;
        if there {
            let rows: i64 =
                connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
            counts.insert(name.to_owned(), u64::try_from(rows).unwrap_or(0));
        }
    }
    Ok((schema, audit::head(connection)?, counts))
}
