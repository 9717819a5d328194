//! A repository in a folder, in the layout that restic calls `default`.
//!
//! A file is complete or absent: written beside its place, synced, renamed, and the folder synced. What is left of a file that
//! was cut off has a name that no program takes for one of the repository.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use rustic_core::{
    ALL_FILE_TYPES, BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend,
};

use super::vault::{Step, VaultError};

/// Ends the name of a file that is being written.
const PARTIAL: &str = "partial";

/// Bytes that are hashed at once.
const CHUNK: usize = 1 << 20;

/// The folder of a repository.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// A write found no space.
    full: Arc<AtomicBool>,
    /// Tells files that are being written apart.
    written: AtomicU64,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, full: Arc::default(), written: AtomicU64::new(0) }
    }

    /// Set when a write has found no space.
    pub(super) fn full(&self) -> Arc<AtomicBool> {
        self.full.clone()
    }

    fn place(&self, kind: FileType, id: &Id) -> PathBuf {
        let name = id.to_hex();
        match kind {
            FileType::Config => self.path.join("config"),
            FileType::Pack => self.path.join("data").join(&name.as_str()[..2]).join(name.as_str()),
            kind => self.path.join(kind.dirname()).join(name.as_str()),
        }
    }

    fn failed(&self, path: &Path, error: io::Error) -> Box<RusticError> {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.full.store(true, Ordering::Release);
        }
        let said = format!("{}: {error}", path.display());
        RusticError::with_source(ErrorKind::Backend, said, error)
    }

    fn put(&self, place: &Path, content: &BytesList) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let partial = place.with_extension(format!("{}-{number}.{PARTIAL}", std::process::id()));
        let folder = place.parent().unwrap_or(&self.path);
        fs::create_dir_all(folder)?;
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            for bytes in content.slice() {
                file.write_all(bytes)?;
            }
            file.sync_all()?;
            fs::rename(&partial, place)?;
            File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            // It is useless; where it cannot be removed, it does no harm.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    /// Files of `kind`, by id, with their sizes. A folder that is not there has none.
    fn files(&self, kind: FileType) -> io::Result<Vec<(Id, u64)>> {
        let mut found = Vec::new();
        if kind == FileType::Config {
            let config = fs::metadata(self.path.join("config"));
            return Ok(config.map_or_else(|_| Vec::new(), |config| vec![(Id::default(), config.len())]));
        }
        let mut folders = vec![self.path.join(kind.dirname())];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                    found.push((id, entry.metadata()?.len()));
                }
            }
        }
        Ok(found)
    }

    /// Bytes of all files of the repository.
    pub(super) fn size(&self) -> io::Result<u64> {
        let kinds = ALL_FILE_TYPES.into_iter().chain([FileType::Config]);
        kinds.map(|kind| Ok(self.files(kind)?.iter().map(|(_, size)| size).sum::<u64>())).sum()
    }

    /// Removes what writes that were cut off have left.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.path().extension().is_some_and(|end| end == PARTIAL) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Files whose content is not what their names say: a file is named by the SHA-256 of its content. All but packs, and packs
    /// where `packs` says so.
    pub(super) fn misnamed(&self, packs: bool, step: Step<'_>) -> Result<Vec<String>, VaultError> {
        let kinds = ALL_FILE_TYPES.into_iter().filter(|kind| packs || *kind != FileType::Pack);
        let mut files = Vec::new();
        for kind in kinds {
            let found = self.files(kind).map_err(VaultError::io("the repository"))?;
            files.extend(found.into_iter().map(|(id, size)| (kind, id, size)));
        }
        let total: u64 = files.iter().map(|(_, _, size)| size).sum();
        let (mut done, mut wrong) = (0, Vec::new());
        for (kind, id, size) in files {
            let place = self.place(kind, &id);
            match sha256(&place) {
                Ok(found) if found == id.to_hex().as_str() => {}
                Ok(_) => wrong.push(format!("{kind} {id}: the content is not what was written")),
                Err(error) => wrong.push(format!("{kind} {id}: {error}")),
            }
            done += size;
            step(done, total);
        }
        Ok(wrong)
    }
}

/// The SHA-256 of a file, as hexadecimal digits.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => context.update(&chunk[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl ReadBackend for Folder {
    fn location(&self) -> String {
        format!("local:{}", self.path.display())
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let files = self.files(kind).map_err(|error| self.failed(&self.path, error))?;
        Ok(files.into_iter().map(|(id, size)| (id, u32::try_from(size).unwrap_or(u32::MAX))).collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let place = self.place(kind, id);
        fs::read(&place).map(Bytes::from).map_err(|error| self.failed(&place, error))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let place = self.place(kind, id);
        let read = || {
            let mut file = File::open(&place)?;
            file.seek(SeekFrom::Start(offset.into()))?;
            let mut bytes = vec![0; length as usize];
            file.read_exact(&mut bytes)?;
            Ok(Bytes::from(bytes))
        };
        read().map_err(|error| self.failed(&place, error))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        self.place(kind, id).display().to_string()
    }
}

impl WriteBackend for Folder {
    fn create(&self) -> RusticResult<()> {
        let folders = ALL_FILE_TYPES.into_iter().map(FileType::dirname).chain(["locks"]);
        let mut made = fs::DirBuilder::new();
        made.recursive(true).mode(0o700);
        for folder in folders.map(|name| self.path.join(name)) {
            made.create(&folder).map_err(|error| self.failed(&folder, error))?;
        }
        Ok(())
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        let place = self.place(kind, id);
        self.put(&place, &content).map_err(|error| self.failed(&place, error))
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        let place = self.place(kind, id);
        fs::remove_file(&place).map_err(|error| self.failed(&place, error))
    }
}
