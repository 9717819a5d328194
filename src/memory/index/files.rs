//! The files of shards, never mapped and never believed unseen.
//!
//! A mapped file that someone cuts short ends the process with SIGBUS, and a mapped page follows every flipped bit. So
//! files are read: small ones at once, large ones piece by piece as queries need them. A file is believed after its bytes
//! agree with the checksum that tantivy puts at its end, and for as long as its identity stays the same (inode, size, time
//! of change; looked at again with every piece). `meta.json` gets a checksum of its own, as its first member.
//!
//! Must not: decide what a broken file means; it is an I/O error here.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenDirectoryError, OpenReadError, OpenWriteError};
use tantivy::directory::footer::Footer;
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, FileSlice, Lock, MmapDirectory, OwnedBytes, WatchCallback,
    WatchHandle, WritePtr,
};

/// Files up to this many bytes are read at once and kept while someone uses them.
pub const SMALL: u64 = 256 * 1024;
/// Bytes that are read at once to compute a checksum.
const CHUNK: usize = 256 * 1024;
/// The file that names the segments; written anew with each commit.
pub const META: &str = "meta.json";
/// How [`META`] begins: this, eight hexadecimal digits (CRC-32 of what follows the comma), and [`SEAL_END`].
const SEAL_START: &str = "{\"crc32\":\"";
const SEAL_END: &str = "\",";

/// Identity of a file's content. A file that is only unlinked keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanos: i64,
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        Self { inode: meta.ino(), bytes: meta.size(), seconds: meta.mtime(), nanos: meta.mtime_nsec() }
    }
}

impl Stamp {
    /// Of the file there; [`None`] when there is none.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(Self::from(&meta))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug)]
struct Believed {
    stamp: Stamp,
    /// Its bytes, where it is small and someone still uses them.
    bytes: Weak<[u8]>,
}

/// The files that were believed since the start: one entry for each file of the shards that were opened.
#[derive(Debug, Default)]
pub struct Trust {
    files: Mutex<HashMap<PathBuf, Believed>>,
}

impl Trust {
    /// No invariant spans several statements under the lock, so a panic elsewhere does not spoil it.
    fn files(&self) -> MutexGuard<'_, HashMap<PathBuf, Believed>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what lies in `folder`: it will be read again before it is believed.
    pub fn forget(&self, folder: &Path) {
        self.files().retain(|path, _| !path.starts_with(folder));
    }

    /// The folders with a file that is no longer the one that was believed, as far as its identity shows.
    #[must_use]
    pub fn suspects(&self) -> HashSet<PathBuf> {
        let known: Vec<_> =
            self.files().iter().map(|(path, believed)| (path.clone(), believed.stamp)).collect();
        let changed =
            |(path, stamp): &(PathBuf, Stamp)| !matches!(Stamp::of(path), Ok(Some(now)) if now == *stamp);
        known
            .iter()
            .filter(|file| changed(file))
            .filter_map(|(path, _)| path.parent())
            .map(Path::to_owned)
            .collect()
    }

    /// The bytes of a small file that someone has already read.
    fn bytes(&self, path: &Path, stamp: Stamp) -> Option<Arc<[u8]>> {
        self.files().get(path).filter(|believed| believed.stamp == stamp)?.bytes.upgrade()
    }

    fn knows(&self, path: &Path, stamp: Stamp) -> bool {
        self.files().get(path).is_some_and(|believed| believed.stamp == stamp)
    }

    fn believe(&self, path: PathBuf, stamp: Stamp, bytes: Weak<[u8]>) {
        self.files().insert(path, Believed { stamp, bytes });
    }
}

/// A shard's folder as tantivy sees it.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Writes, locks and removes.
    inner: MmapDirectory,
    trust: Arc<Trust>,
}

impl Folder {
    /// The folder at `path`, which must exist.
    ///
    /// # Errors
    /// When it does not, or is no folder.
    pub fn open(path: &Path, trust: Arc<Trust>) -> Result<Self, OpenDirectoryError> {
        Ok(Self { path: path.to_owned(), inner: MmapDirectory::open(path)?, trust })
    }

    fn read(&self, name: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let path = self.path.join(name);
        let file = open(&path)?;
        let stamp = Stamp::from(&file.metadata()?);
        if let Some(bytes) = self.trust.bytes(&path, stamp) {
            return Ok(Arc::new(OwnedBytes::new(bytes)));
        }
        let pieces = Arc::new(Pieces { file, stamp });
        if stamp.bytes <= SMALL {
            let bytes: Arc<[u8]> = pieces.read(0..pieces.len())?.into();
            let small: Arc<dyn FileHandle> = Arc::new(OwnedBytes::new(bytes.clone()));
            verify(&small)?;
            self.trust.believe(path, stamp, Arc::downgrade(&bytes));
            return Ok(small);
        }
        let large: Arc<dyn FileHandle> = pieces;
        if !self.trust.knows(&path, stamp) {
            verify(&large)?;
            // A new one has nothing to refer to.
            self.trust.believe(path, stamp, Weak::<[u8; 0]>::new());
        }
        Ok(large)
    }
}

/// Opens a file of an index. What is none but has its name is refused at once: a pipe would be waited for without end, and a
/// link leads out of the folder.
fn open(path: &Path) -> io::Result<File> {
    crate::regular_file::open(path, libc::O_NOFOLLOW)
}

/// Compares a file's bytes with the checksum at its end.
fn verify(file: &Arc<dyn FileHandle>) -> io::Result<()> {
    let (footer, body) = Footer::extract_footer(FileSlice::new(file.clone()))?;
    let mut crc = crc32fast::Hasher::new();
    let mut at = 0;
    while at < body.len() {
        let end = body.len().min(at + CHUNK);
        crc.update(&body.read_bytes_slice(at..end)?);
        at = end;
    }
    if crc.finalize() == footer.crc { Ok(()) } else { Err(broken("its checksum is wrong")) }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A file that is read piece by piece.
#[derive(Debug)]
struct Pieces {
    file: File,
    stamp: Stamp,
}

impl Pieces {
    fn read(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        if range.start > range.end || range.end > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; range.end - range.start];
        self.file.read_exact_at(&mut bytes, range.start as u64)?;
        // After the reading: what came before a change is as it was.
        if Stamp::from(&self.file.metadata()?) != self.stamp {
            return Err(broken("it was changed"));
        }
        Ok(bytes)
    }
}

impl HasLen for Pieces {
    fn len(&self) -> usize {
        usize::try_from(self.stamp.bytes).unwrap_or(usize::MAX)
    }
}

impl FileHandle for Pieces {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        self.read(range).map(OwnedBytes::new)
    }
}

fn unread(error: io::Error, path: &Path) -> OpenReadError {
    match error.kind() {
        io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
        _ => OpenReadError::wrap_io_error(error, path.to_owned()),
    }
}

impl Directory for Folder {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.read(path).map_err(|error| unread(error, path))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.trust.files().remove(&self.path.join(path));
        self.inner.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.inner.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.inner.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let read = || {
            let mut bytes = Vec::new();
            open(&self.path.join(path))?.read_to_end(&mut bytes)?;
            if path == Path::new(META) {
                return unsealed(&bytes).ok_or_else(|| broken("its checksum is wrong"));
            }
            Ok(bytes)
        };
        read().map_err(|error| unread(error, path))
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        if path == Path::new(META) {
            self.inner.atomic_write(path, &sealed(data)?)
        } else {
            self.inner.atomic_write(path, data)
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        // It is opened for writing: of a pipe that would wait for a reader. Nothing is kept in it, so it may as well be gone.
        let path = self.path.join(&lock.filepath);
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            std::fs::remove_file(&path).map_err(LockError::wrap_io_error)?;
        }
        self.inner.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.inner.watch(callback)
    }
}

/// A JSON object with the checksum of its members as the first of them.
fn sealed(object: &[u8]) -> io::Result<Vec<u8>> {
    let members = object.strip_prefix(b"{").ok_or_else(|| broken("expected an object"))?;
    let seal = format!("{SEAL_START}{:08x}{SEAL_END}", crc32fast::hash(members));
    Ok([seal.as_bytes(), members].concat())
}

/// The object as it was before it was [`sealed`]; [`None`] when a bit of it has changed.
fn unsealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (crc, rest) = bytes.strip_prefix(SEAL_START.as_bytes())?.split_at_checked(8)?;
    let members = rest.strip_prefix(SEAL_END.as_bytes())?;
    (crc == format!("{:08x}", crc32fast::hash(members)).as_bytes()).then(|| [b"{", members].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tantivy::directory::{ManagedDirectory, TerminatingWrite};

    fn folder(bytes: usize) -> (tempfile::TempDir, ManagedDirectory) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path(), Arc::default()).unwrap();
        let managed = ManagedDirectory::wrap(Box::new(folder)).unwrap();
        let mut file = managed.open_write(Path::new("a.idx")).unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        file.terminate().unwrap();
        (dir, managed)
    }

    fn flip(path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }

    #[test]
    fn a_flipped_bit_is_found_when_a_file_is_opened() {
        for bytes in [100, 2 * SMALL as usize] {
            let (dir, managed) = folder(bytes);
            flip(&dir.path().join("a.idx"), 50);
            assert!(managed.open_read(Path::new("a.idx")).is_err(), "{bytes}");
        }
    }

    #[test]
    fn what_happens_to_an_open_file_is_an_error_or_does_not_show() {
        for bytes in [100, 2 * SMALL as usize] {
            for damage in [
                |path: &Path| flip(path, 50),
                |path: &Path| File::options().write(true).open(path).unwrap().set_len(60).unwrap(),
                |path: &Path| std::fs::remove_file(path).unwrap(),
            ] {
                let (dir, managed) = folder(bytes);
                let file = managed.open_read(Path::new("a.idx")).unwrap();
                damage(&dir.path().join("a.idx"));
                match file.read_bytes_slice(40..100) {
                    Ok(bytes) => assert_eq!(bytes.as_slice(), [7; 60]),
                    Err(error) => assert!(bytes > SMALL as usize, "{error}"),
                }
            }
        }
    }

    #[test]
    fn a_small_file_is_read_once_while_someone_uses_it() {
        let (_dir, managed) = folder(100);
        let first = managed.open_read(Path::new("a.idx")).unwrap().read_bytes().unwrap();
        let second = managed.open_read(Path::new("a.idx")).unwrap().read_bytes().unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
    }

    #[test]
    fn what_is_no_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path(), Arc::default()).unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        for name in ["pipe", "link", "folder"] {
            assert!(folder.get_file_handle(Path::new(name)).is_err(), "{name}");
            assert!(folder.atomic_read(Path::new(name)).is_err(), "{name}");
        }
        let lock = Lock { filepath: "pipe".into(), is_blocking: false };
        assert!(folder.acquire_lock(&lock).is_ok());
        assert!(pipe.is_file());
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_object_shows_and_it_is_still_json() {
        let object = br#"{ "segments": [1, 2], "opstamp": 7 }"#;
        let seal = sealed(object).unwrap();
        assert_eq!(unsealed(&seal).unwrap(), object);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&seal).unwrap()["opstamp"], 7);
        for bit in 0..seal.len() * 8 {
            let mut flipped = seal.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unsealed(&flipped), None, "bit {bit}");
        }
    }
}
