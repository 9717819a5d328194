//! Files of a snapshot, written to the disk.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use rustic_core::repofile::SnapshotFile;
use rustic_core::{IndexedFull, Repository};

use super::examine::index_list;
use super::manifest::{FILES, INDEX, Part};
use super::progress::STEP_BYTES;
use super::restic::ResticVault;
use super::vault::{Step, VaultError};

/// Writes files of a snapshot to the disk.
pub(super) struct Fetcher<'a, S> {
    pub vault: &'a ResticVault,
    pub repository: &'a Repository<S>,
    pub snapshot: &'a SnapshotFile,
    pub step: Step<'a>,
    pub done: u64,
    pub total: u64,
}

impl<S: IndexedFull> Fetcher<'_, S> {
    /// From the snapshot's folder `root` to `folder`; `keep` makes them stay after a power cut.
    pub(super) fn fetch(
        &mut self,
        parts: &[Part],
        root: &Path,
        folder: &Path,
        keep: bool,
    ) -> Result<(), VaultError> {
        for part in parts {
            // A name or names, and nothing that leads elsewhere.
            let mut components = Path::new(&part.name).components();
            let are_names = components.all(|component| matches!(component, Component::Normal(_)));
            if part.name.is_empty() || !are_names {
                return Err(VaultError::Damaged("the manifest leads elsewhere".to_owned()));
            }
            let inside = root.join(&part.name);
            let node = self
                .repository
                .node_from_snapshot_and_path(self.snapshot, &inside.to_string_lossy())
                .map_err(|error| self.vault.failed(&error))?;
            let path = folder.join(&part.name);
            fs::create_dir_all(path.parent().unwrap_or(folder)).map_err(VaultError::io(&part.name))?;
            // What the configuration names in public is put in its place by whoever restores, for whoever runs the node.
            let mode = if part.name.starts_with(FILES) { 0o644 } else { 0o600 };
            let file = File::options().write(true).create_new(true).mode(mode).open(&path);
            let mut counted = Counted {
                file: file.map_err(VaultError::io(&part.name))?,
                done: self.done,
                total: self.total,
                step: self.step,
                told: 0,
                full: false,
            };
            self.repository.dump(&node, &mut counted).map_err(|error| match counted.full {
                true => VaultError::Full(format!(" for {}", part.name)),
                false => self.vault.failed(&error),
            })?;
            self.done = counted.done;
            if keep {
                counted.file.sync_all().map_err(VaultError::io(&part.name))?;
            }
        }
        Ok(())
    }

    /// The files of the search index. They show themselves whether they are whole, and can be made anew.
    pub(super) fn fetch_index(&mut self, root: &Path, folder: &Path) -> Result<(), VaultError> {
        let list = index_list(folder)?;
        self.fetch(&list, &root.join(INDEX), &folder.join(INDEX), false)
    }
}

/// A file that counts what is written to it.
struct Counted<'a> {
    file: File,
    done: u64,
    total: u64,
    step: Step<'a>,
    told: u64,
    full: bool,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes).inspect_err(|error| {
            self.full |= error.kind() == std::io::ErrorKind::StorageFull;
        })?;
        self.done += written as u64;
        if self.done - self.told >= STEP_BYTES {
            (self.step)(self.done, self.total);
            self.told = self.done;
        }
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
