//! Carrying records away and bringing them back: JSON Lines, one record on each line, in files of one folder of the node.
//!
//! Whoever asks names a file and never a path; links are not followed. Files may be compressed (zstd). Both directions work
//! through the records in pieces and keep their place, so that an interrupted job goes on where it was.

mod archive;
mod export;
mod import;
mod remote;
pub mod requests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Memory;
use crate::regular_file;
use crate::wire::{Code, Fault};

/// Longest name of a file.
const MAX_NAME_CHARS: usize = 128;
/// The end of the name of a compressed file.
const COMPRESSED: &str = ".zst";

/// A file in the transfer folder.
#[derive(Clone, Debug)]
struct Named {
    folder: PathBuf,
    name: String,
}

impl Named {
    /// The file itself.
    fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What belongs to it, such as its checksum.
    fn beside(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }

    fn is_compressed(&self) -> bool {
        self.name.ends_with(COMPRESSED)
    }
}

impl Memory {
    fn transfer_folder(&self) -> Result<PathBuf, Fault> {
        let folder = self.config.transfer_dir.clone();
        folder.ok_or_else(|| Fault::new(Code::Forbidden, "the node has no folder for transfers configured"))
    }

    /// The file called `name` in the transfer folder, which is made where it is missing. Blocks shortly.
    fn transfer_file(&self, name: &str) -> Result<Named, Fault> {
        named(self.transfer_folder()?, name)
    }
}

/// The file called `name` in `folder`, which is made where it is missing. Blocks shortly.
fn named(folder: PathBuf, name: &str) -> Result<Named, Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let reserved = [".part", ".state", ".sha256", ".new"].iter().any(|end| name.ends_with(end));
    if name.is_empty()
        || name.len() > MAX_NAME_CHARS
        || name.starts_with('.')
        || !name.chars().all(plain)
        || reserved
    {
        return Err(Fault::invalid(format!(
            "file: expected a name of 1 to {MAX_NAME_CHARS} letters, digits, '.', '_' and '-' that does not begin with '.' \
                 or end in .part, .state, .sha256 or .new"
        )));
    }
    crate::ledger::generation::create_private_dir(&folder)
        .map_err(|error| refused(&io::Error::other(error)))?;
    Ok(Named { folder, name: name.to_owned() })
}

/// Opens neither a link nor, for what is no file, waits for anyone.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Opens a file for reading; a link in its place is refused, as is what is no file.
fn open(path: &Path) -> io::Result<File> {
    regular_file::open(path, libc::O_NOFOLLOW)
}

/// SHA-256 of a file in hexadecimal, and its size.
fn digest(path: &Path) -> io::Result<(String, u64)> {
    let mut file = open(path)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                context.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
    Ok((hex::encode(context.finish().as_ref()), size))
}

/// What the file system refused, as the asker is told; the journal has the rest.
fn refused(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => Fault::not_found("no such file in the node's transfer folder"),
        io::ErrorKind::InvalidInput => {
            Fault::invalid("file: expected a regular file: links, folders and pipes are not read")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Fault::new(Code::StorageFull, "the disk of the node's transfer folder is full")
        }
        _ => {
            tracing::warn!(%error, "a file of the transfer folder could not be used");
            Fault::new(
                Code::Unavailable,
                "the file could not be read or written; the node's journal says why",
            )
        }
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Fault::internal())?
}

fn cancelled() -> Fault {
    Fault::new(Code::Interrupted, "the job was cancelled; asked again it goes on where it was")
}
