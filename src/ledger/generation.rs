//! The state folder: one generation is current, and one process holds it.
//!
//! ```text
//! state/            0700
//!   lock            held by the running process
//!   current         symlink to the generation in use, replaced by one rename
//!   next            symlink to a restored one that the next start takes into use
//!   gen-1/          0700
//!     ledger.db     0600
//!     index/        the search index, a projection of the ledger
//!   reserve         given up when the disk is full
//! ```
//!
//! A restore or rollback prepares the next generation beside the current one and switches; the old one stays until it is
//! released.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The link to the generation in use.
pub(super) const CURRENT: &str = "current";
/// The link to a generation that waits to be taken into use.
pub(crate) const NEXT: &str = "next";

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// Another process holds it.
    #[error("{}: another orchd is running on this state folder; stop it first, or give this one a folder of its own", .0.display())]
    Locked(PathBuf),
    /// Generations are there, but none is current.
    #[error(
        "{}: holds generations but no valid `current`; point it at the right one with `ln -sfn gen-N {}/current`",
        .0.display(), .0.display()
    )]
    NoCurrent(PathBuf),
    /// The node has run here, and its ledger is gone or empty.
    #[error(
        "{}: the ledger of a node that has run here is gone or empty; restore a backup, or, to start with nothing, move the state \
         folder away",
        .0.display()
    )]
    NoLedger(PathBuf),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl GenerationError {
    /// Whether it stays so until a person has changed something.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        match self {
            Self::NoCurrent(_) | Self::NoLedger(_) => true,
            // The other process may be about to end.
            Self::Locked(_) | Self::Io { .. } => false,
        }
    }
}

/// Whether a generation holds more than its ledger.
fn has_others(folder: &Path) -> Result<bool, GenerationError> {
    let mut entries = fs::read_dir(folder).map_err(io_error(folder))?;
    Ok(entries.any(|entry| {
        entry.is_ok_and(|entry| {
            !entry.file_name().as_encoded_bytes().starts_with(super::LEDGER_FILE.as_bytes())
        })
    }))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> GenerationError {
    let path = path.to_owned();
    move |source| GenerationError::Io { path, source }
}

/// The state folder, held by this process alone until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct StateLock {
    state: PathBuf,
    _file: Arc<File>,
}

impl StateLock {
    /// Takes `state`, creating it when it is not there.
    ///
    /// # Errors
    /// [`GenerationError::Locked`] when another process has it, or what the file system says.
    pub fn take(state: &Path) -> Result<Self, GenerationError> {
        create_private_dir(state)?;
        Ok(Self { state: state.to_owned(), _file: Arc::new(lock(state)?) })
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// A generation that is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Old {
    /// Its number.
    pub number: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The current generation, locked for this process until dropped.
#[derive(Debug)]
pub struct Generation {
    state: PathBuf,
    path: PathBuf,
    number: u64,
    _lock: StateLock,
}

impl Generation {
    /// Locks `state`, creating it when it is empty, and finds the current generation.
    ///
    /// # Errors
    /// See [`GenerationError`].
    pub fn open(state: &Path) -> Result<Self, GenerationError> {
        Self::of(StateLock::take(state)?)
    }

    /// Finds the current generation in a folder that this process holds.
    ///
    /// # Errors
    /// See [`GenerationError`].
    pub fn of(lock: StateLock) -> Result<Self, GenerationError> {
        let state = lock.state.clone();
        let state = state.as_path();
        let current = state.join(CURRENT);
        let number = match fs::read_link(&current) {
            Ok(target) => number_of(&target).ok_or_else(|| GenerationError::NoCurrent(state.to_owned()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !generations(state)?.is_empty() {
                    return Err(GenerationError::NoCurrent(state.to_owned()));
                }
                // The link first: a crash between the two leaves nothing that looks like lost data.
                point(state, CURRENT, 1)?;
                1
            }
            Err(source) => return Err(GenerationError::Io { path: current, source }),
        };
        let path = folder(state, number);
        if !path.is_dir() {
            if !generations(state)?.is_empty() {
                return Err(GenerationError::NoCurrent(state.to_owned()));
            }
            create_private_dir(&path)?;
            sync_dir(state)?;
        }
        let database = path.join(super::LEDGER_FILE);
        let is_empty = fs::metadata(&database).map_or(true, |found| found.len() == 0);
        // All of these come after the first ledger.
        if is_empty && (number > 1 || state.join(super::RESERVE_FILE).exists() || has_others(&path)?) {
            return Err(GenerationError::NoLedger(database));
        }
        create_private_file(&database)?;
        tighten(&path)?;
        Ok(Self { state: state.to_owned(), path, number, _lock: lock })
    }

    /// The generation's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number, from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Makes the folder for the next generation, empty. It is not in use before [`Generation::switch_to`].
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn prepare_next(&self) -> Result<(u64, PathBuf), GenerationError> {
        let next = generations(&self.state)?.into_iter().max().unwrap_or(self.number) + 1;
        let path = folder(&self.state, next);
        create_private_dir(&path)?;
        Ok((next, path))
    }

    /// Marks `number` as the one that the next start takes into use.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn propose(&self, number: u64) -> Result<(), GenerationError> {
        sync_dir(&folder(&self.state, number))?;
        point(&self.state, NEXT, number)
    }

    /// The one that was marked, and its folder.
    ///
    /// # Errors
    /// When the mark leads nowhere.
    pub fn proposed(&self) -> Result<Option<(u64, PathBuf)>, GenerationError> {
        let link = self.state.join(NEXT);
        match fs::read_link(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(GenerationError::Io { path: link, source }),
            Ok(target) => {
                let number = number_of(&target).filter(|number| folder(&self.state, *number).is_dir());
                let number = number.ok_or_else(|| GenerationError::NoCurrent(self.state.clone()))?;
                Ok(Some((number, folder(&self.state, number))))
            }
        }
    }

    /// Takes the mark away.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn withdraw(&self) -> Result<(), GenerationError> {
        let link = self.state.join(NEXT);
        fs::remove_file(&link).map_err(io_error(&link))?;
        sync_dir(&self.state)
    }

    /// Generations that are neither in use nor to be taken into use. A restore must not be on its way: what it prepares would be
    /// among them.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn old(&self) -> Result<Vec<Old>, GenerationError> {
        let next = fs::read_link(self.state.join(NEXT)).ok().and_then(|target| number_of(&target));
        let mut numbers = generations(&self.state)?;
        numbers.retain(|number| *number != self.number && Some(*number) != next);
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.with_size(number)).collect()
    }

    /// The generation that was marked with [`Generation::propose`], to be released in place of being taken into use.
    ///
    /// # Errors
    /// When the mark leads nowhere, or the file system refuses.
    pub fn waiting(&self) -> Result<Option<Old>, GenerationError> {
        self.proposed()?.map(|(number, _)| self.with_size(number)).transpose()
    }

    fn with_size(&self, number: u64) -> Result<Old, GenerationError> {
        let path = folder(&self.state, number);
        Ok(Old { number, bytes: size(&path).map_err(io_error(&path))? })
    }

    /// Removes a generation that [`Generation::old`] has named, or that is no longer marked, for good.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn release(&self, old: &Old) -> Result<(), GenerationError> {
        let path = folder(&self.state, old.number);
        fs::remove_dir_all(&path).map_err(io_error(&path))?;
        sync_dir(&self.state)
    }

    /// Makes `number` current, by one rename, durably.
    ///
    /// # Errors
    /// When the file system refuses; the present generation stays current then.
    pub fn switch_to(&self, number: u64) -> Result<(), GenerationError> {
        sync_dir(&folder(&self.state, number))?;
        point(&self.state, CURRENT, number)
    }
}

fn folder(state: &Path, number: u64) -> PathBuf {
    state.join(format!("gen-{number}"))
}

fn number_of(name: &Path) -> Option<u64> {
    name.to_str()?.strip_prefix("gen-")?.parse().ok()
}

fn generations(state: &Path) -> Result<Vec<u64>, GenerationError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state).map_err(io_error(state))? {
        let entry = entry.map_err(io_error(state))?;
        found.extend(number_of(Path::new(&entry.file_name())));
    }
    Ok(found)
}

/// Bytes of all files below `path`.
fn size(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

fn lock(state: &Path) -> Result<File, GenerationError> {
    let path = state.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(GenerationError::Locked(state.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(GenerationError::Io { path, source }),
    }
}

fn point(state: &Path, name: &str, number: u64) -> Result<(), GenerationError> {
    let fresh = state.join(format!("{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&fresh)(error)),
        _ => {}
    }
    symlink(format!("gen-{number}"), &fresh).map_err(io_error(&fresh))?;
    let link = state.join(name);
    fs::rename(&fresh, &link).map_err(io_error(&link))?;
    sync_dir(state)
}

/// Creates `path` with mode 0700, with its parents, or tightens what is there.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), GenerationError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error(path))
}

fn create_private_file(path: &Path) -> Result<(), GenerationError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path))?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io_error(path))
}

/// Takes a generation's folder, and what lies right in it, away from everyone else, whoever opened it up.
fn tighten(folder: &Path) -> Result<(), GenerationError> {
    create_private_dir(folder)?;
    for entry in fs::read_dir(folder).map_err(io_error(folder))? {
        let entry = entry.map_err(io_error(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(io_error(&path))?;
        let mode = match (kind.is_dir(), kind.is_file()) {
            (true, _) => 0o700,
            (_, true) => 0o600,
            // A link's own mode does not count, and what it leads to is not ours.
            _ => continue,
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io_error(&path))?;
    }
    Ok(())
}

/// Makes renames and new names in `path` durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), GenerationError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_while_the_first_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Generation::open(dir.path()).unwrap();
        assert!(matches!(Generation::open(dir.path()), Err(GenerationError::Locked(_))));
        drop(first);
        assert_eq!(Generation::open(dir.path()).unwrap().number(), 1);
    }

    #[test]
    fn what_others_were_let_into_is_closed_again() {
        let dir = tempfile::tempdir().unwrap();
        let generation = Generation::open(dir.path()).unwrap();
        let (folder, mode) = (generation.path().to_owned(), |path: &Path| {
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        });
        drop(generation);
        fs::write(folder.join("ledger.db"), "not empty").unwrap();
        fs::create_dir(folder.join("index")).unwrap();
        fs::write(folder.join("ledger.db-shm"), "").unwrap();
        let opened = [("", 0o700), ("index", 0o700), ("ledger.db", 0o600), ("ledger.db-shm", 0o600)];
        for (name, _) in opened {
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        drop(Generation::open(dir.path()).unwrap());
        for (name, expected) in opened {
            assert_eq!(mode(&folder.join(name)), expected, "{name:?}");
        }
    }

    #[test]
    fn generations_without_a_valid_current_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Generation::open(dir.path()).unwrap());
        fs::remove_file(dir.path().join("current")).unwrap();
        assert!(matches!(Generation::open(dir.path()), Err(GenerationError::NoCurrent(_))));
        symlink("gen-7", dir.path().join("current")).unwrap();
        assert!(matches!(Generation::open(dir.path()), Err(GenerationError::NoCurrent(_))));
    }

    #[test]
    fn what_is_in_use_or_about_to_be_is_never_released() {
        let dir = tempfile::tempdir().unwrap();
        let first = Generation::open(dir.path()).unwrap();
        assert_eq!(first.old().unwrap(), []);
        let (second, path) = first.prepare_next().unwrap();
        fs::write(path.join(super::super::LEDGER_FILE), b"x").unwrap();
        first.switch_to(second).unwrap();
        drop(first);
        let generation = Generation::open(dir.path()).unwrap();
        let (third, path) = generation.prepare_next().unwrap();
        fs::write(path.join("part"), b"12345").unwrap();
        generation.propose(third).unwrap();
        let old = generation.old().unwrap();
        assert_eq!(old, [Old { number: 1, bytes: 0 }]);
        generation.release(&old[0]).unwrap();
        assert!(!dir.path().join("gen-1").exists() && path.exists() && generation.path().is_dir());
        generation.withdraw().unwrap();
        assert_eq!(generation.old().unwrap(), [Old { number: third, bytes: 5 }]);
    }

    #[test]
    fn a_first_start_that_was_cut_off_after_the_link_is_taken_up_again() {
        let dir = tempfile::tempdir().unwrap();
        symlink("gen-1", dir.path().join("current")).unwrap();
        assert_eq!(Generation::open(dir.path()).unwrap().number(), 1);
    }

    #[test]
    fn a_switch_is_seen_by_the_next_start_and_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Generation::open(dir.path()).unwrap();
        let (number, path) = first.prepare_next().unwrap();
        fs::write(path.join(super::super::LEDGER_FILE), b"x").unwrap();
        fs::write(path.join("marker"), b"").unwrap();
        first.switch_to(number).unwrap();
        drop(first);
        let second = Generation::open(dir.path()).unwrap();
        assert!(second.path().join("marker").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(second.path()), 0o700);
        assert_eq!(mode(&second.path().join(super::super::LEDGER_FILE)), 0o600);
    }
}
