//! The files of a repository as rustic_core wants them, in the layout that restic calls `default`.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use rustic_core::{
    ALL_FILE_TYPES, BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend,
};

use super::lock::LOCKS;
use super::stage;
use super::store::Store;
use super::vault::{Step, VaultError};

/// The name of the repository's configuration.
pub(super) const CONFIG: &str = "config";

/// Bytes that are read at once to be hashed: a pack of ours.
const CHUNK: u64 = 16 << 20;

/// Why a store failed, where the library would hide it.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// There was no room.
    Full,
    /// Object storage did not do what was asked, in words.
    Storage(String),
    /// A file that should be there is not, or not all of it.
    Lost(String),
}

/// A repository's files.
#[derive(Debug)]
pub(super) struct Backend {
    store: Arc<dyn Store>,
    /// The first thing that went wrong.
    trouble: Mutex<Option<Trouble>>,
}

impl Backend {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, trouble: Mutex::default() }
    }

    fn locked(&self) -> MutexGuard<'_, Option<Trouble>> {
        // One value, replaced whole.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong first with the files, if anything did.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.locked().clone()
    }

    fn failed(&self, name: &str, error: io::Error) -> Box<RusticError> {
        let said = format!("{}/{name}: {error}", self.store.location());
        let lost = |what| Some(Trouble::Lost(format!("{name}: {what}")));
        let trouble = match VaultError::io(name)(error) {
            VaultError::Full(_) => Some(Trouble::Full),
            VaultError::Storage(what) => Some(Trouble::Storage(what)),
            VaultError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => lost("it is gone"),
                io::ErrorKind::UnexpectedEof => lost("a part of it is missing"),
                _ => None,
            },
            _ => None,
        };
        if let Some(trouble) = trouble {
            self.locked().get_or_insert(trouble);
        }
        RusticError::new(ErrorKind::Backend, said)
    }

    /// Files of `kind`, by id, with their sizes.
    fn files(&self, kind: FileType) -> io::Result<Vec<(Id, u64)>> {
        if kind == FileType::Config {
            return match self.store.read(CONFIG, None) {
                Ok(config) => Ok(vec![(Id::default(), config.len() as u64)]),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            };
        }
        let found = self.store.list(kind.dirname())?;
        Ok(found.into_iter().filter_map(|found| Some((found.name.parse().ok()?, found.bytes))).collect())
    }

    /// Whether there is a key that a password could open.
    pub(super) fn has_keys(&self) -> io::Result<bool> {
        Ok(!self.files(FileType::Key)?.is_empty())
    }

    /// Bytes of all files of the repository.
    pub(super) fn size(&self) -> io::Result<u64> {
        let kinds = ALL_FILE_TYPES.into_iter().chain([FileType::Config]);
        kinds.map(|kind| Ok(self.files(kind)?.iter().map(|(_, size)| size).sum::<u64>())).sum()
    }

    /// Files whose content is not what their names say: a file is named by the SHA-256 of its content. Of packs this percentage,
    /// of all others each.
    pub(super) fn misnamed(&self, percent: f64, step: Step<'_>) -> Result<Vec<String>, VaultError> {
        let mut files = Vec::new();
        for kind in ALL_FILE_TYPES {
            if kind == FileType::Pack && percent <= 0.0 {
                continue;
            }
            let mut found = self.files(kind).map_err(VaultError::io("the repository"))?;
            if kind == FileType::Pack {
                draw(&mut found, percent, &mut fastrand::Rng::new());
            }
            files.extend(found.into_iter().map(|(id, size)| (kind, id, size)));
        }
        let total: u64 = files.iter().map(|(_, _, size)| size).sum();
        let (mut done, mut wrong) = (0, Vec::new());
        for (kind, id, size) in files {
            match self.sha256(&place(kind, &id), size) {
                Ok(found) if found == id.to_hex().as_str() => {}
                Ok(_) => wrong.push(format!("{}: the content is not what was written", place(kind, &id))),
                Err(error) => wrong.push(format!("{}: {error}", place(kind, &id))),
            }
            done += size;
            step(done, total);
        }
        Ok(wrong)
    }

    fn sha256(&self, name: &str, size: u64) -> io::Result<String> {
        let mut context = Context::new(&SHA256);
        let mut from = 0;
        while from < size {
            let to = size.min(from + CHUNK);
            context.update(&self.store.read(name, Some(from..to))?);
            from = to;
        }
        Ok(hex::encode(context.finish().as_ref()))
    }
}

/// Leaves `percent` of `packs`, one at least, drawn by lot: each is as likely as any other, whatever its size. So in the long run
/// this percentage of the bytes is read, and every pack.
fn draw<T>(packs: &mut Vec<T>, percent: f64, random: &mut fastrand::Rng) {
    if percent >= 100.0 {
        return;
    }
    let wanted = packs.len() as f64 * percent / 100.0;
    let more = usize::from(random.f64() < wanted.fract());
    random.shuffle(packs);
    packs.truncate((wanted as usize + more).max(1));
}

/// The name of a file.
fn place(kind: FileType, id: &Id) -> String {
    let name = id.to_hex();
    let name = name.as_str();
    match kind {
        FileType::Config => CONFIG.to_owned(),
        FileType::Pack => format!("{}/{}/{name}", kind.dirname(), &name[..2]),
        kind => format!("{}/{name}", kind.dirname()),
    }
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.store.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let files = self.files(kind).map_err(|error| self.failed(kind.dirname(), error))?;
        Ok(files.into_iter().map(|(id, size)| (id, u32::try_from(size).unwrap_or(u32::MAX))).collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let name = place(kind, id);
        self.store.read(&name, None).map_err(|error| self.failed(&name, error))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let (name, from) = (place(kind, id), u64::from(offset));
        let range = from..from + u64::from(length);
        self.store.read(&name, Some(range)).map_err(|error| self.failed(&name, error))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        place(kind, id)
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        let folders: Vec<_> = ALL_FILE_TYPES.into_iter().map(FileType::dirname).chain([LOCKS]).collect();
        self.store.prepare(&folders).map_err(|error| self.failed("", error))
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        let name = place(kind, id);
        stage::reached(&format!("{} write", kind.dirname()));
        self.store.write(&name, content.slice()).map_err(|error| self.failed(&name, error))?;
        stage::reached(&format!("{} written", kind.dirname()));
        Ok(())
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        let name = place(kind, id);
        self.store.remove(&name).map_err(|error| self.failed(&name, error))?;
        stage::reached(&format!("{} removed", kind.dirname()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_packs_is_one_at_least_holds_on_average_and_leaves_none_out_for_ever() {
        let mut random = fastrand::Rng::with_seed(7);
        for (packs, percent, average) in
            [(1, 10.0, 1.0), (3, 0.1, 1.0), (7, 50.0, 3.5), (25, 10.0, 2.5), (40, 99.0, 39.6)]
        {
            const ROUNDS: usize = 4_000;
            let mut drawn = vec![0; packs];
            for _ in 0..ROUNDS {
                let mut share: Vec<usize> = (0..packs).collect();
                draw(&mut share, percent, &mut random);
                assert!(!share.is_empty());
                share.into_iter().for_each(|pack| drawn[pack] += 1);
            }
            let each = drawn.iter().sum::<usize>() as f64 / ROUNDS as f64;
            assert!((each - average).abs() < 0.1, "{percent} % of {packs}: {each}");
            let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            assert!(*least > 0 && most < &(least * 2), "{percent} % of {packs}: {drawn:?}");
        }
        let mut all = vec![1, 2, 3];
        draw(&mut all, 100.0, &mut random);
        assert_eq!(all, [1, 2, 3]);
        let mut none = Vec::<u8>::new();
        draw(&mut none, 10.0, &mut random);
        assert!(none.is_empty());
    }
}
