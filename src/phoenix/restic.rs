//! The vault as a restic repository, by rustic_core.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustic_core::repofile::{KeyId, MasterKey, SnapshotFile, SnapshotId};
use rustic_core::{
    BackupOptions, CheckOptions, ConfigOptions, Credentials, IndexedFull, KeyOptions, LimitOption, LsOptions,
    OpenStatus, PathList, PruneOptions, ReadSubsetOption, Repository, RepositoryBackends, RepositoryOptions,
    RusticError, SnapshotOptions,
};

use super::backend::{Backend, CONFIG, Trouble};
use super::fetch::Fetcher;
use super::finding::{brief, summary};
use super::lock::{Lock, Locks};
use super::manifest::{MANIFEST, Manifest};
use super::progress::{Bars, Report};
use super::stage;
use super::store::Store;
use super::vault::{Depth, Inventory, Snapshot, Step, Vault, VaultError};
use crate::clock::{Clock, Timestamp};

/// Where the parts are in a snapshot.
const ROOT: &str = "/orchd";
/// Size of the files that data is packed into. restic's own; what is being packed is held in memory.
const PACK_BYTES: &str = "16 MiB";
/// Words of the library for content that it could not decrypt, or not understand.
const DAMAGE: [&str; 4] = [
    "MAC check failed",
    "related to cryptographic operations",
    "deserialize",
    "related to internal operations",
];
/// Largest manifest that is read.
const MANIFEST_BYTES: u64 = 1 << 20;
/// A restic repository, open and locked.
pub(super) struct ResticVault {
    /// What the password gave; deriving it again would take its time each time.
    key: MasterKey,
    key_id: Option<KeyId>,
    backend: Arc<Backend>,
    report: Report,
    /// Last, so that it is let go of when all else is done.
    _lock: Lock,
}

/// Who else may work on the repository meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everyone who removes nothing.
    Shared,
    /// Nobody.
    Alone,
}

impl ResticVault {
    /// Opens the repository in `store`, made before where it is missing and `make` says so.
    pub(super) fn open(
        store: &Arc<dyn Store>,
        password: &str,
        access: Access,
        make: bool,
        report: Report,
    ) -> Result<Self, VaultError> {
        let backend = Arc::new(Backend::new(store.clone()));
        let unread = || VaultError::io("the repository");
        if !store.exists(CONFIG).map_err(unread())? {
            // Data without a configuration is a repository that lost it, not an empty place.
            if !store.list("data").map_err(unread())?.is_empty() {
                return Err(VaultError::Damaged("the repository has data and no `config`".to_owned()));
            }
            if !make {
                return Err(VaultError::Missing(store.location()));
            }
            // Of a start that was cut off between its key and its configuration: nothing is in there yet.
            for key in store.list("keys").map_err(unread())? {
                store.remove(&format!("keys/{}", key.name)).map_err(unread())?;
            }
            let mut options = ConfigOptions::default();
            options.set_version = Some(2);
            options.set_datapack_size = PACK_BYTES.parse().ok();
            options.set_datapack_growfactor = Some(0);
            options.set_extra_verify = Some(true);
            repository(&backend, &report)?
                .init(&Credentials::password(password), &KeyOptions::default(), &options)
                .map_err(|error| failed(&error, &backend))?;
        }
        let open = repository(&backend, &report)?
            .open(&Credentials::password(password))
            .map_err(|error| failed(&error, &backend))?;
        let (key, key_id) = (open.key(), *open.key_id());
        let lock = Locks::new(store.clone(), &key)?.take(access == Access::Alone)?;
        if access == Access::Alone {
            store.tidy().map_err(unread())?;
        }
        stage::reached("opened");
        Ok(Self { key, key_id, backend, report, _lock: lock })
    }

    /// Removes locks that are left over from a repository, or all of them. Returns how many.
    pub(super) fn unlock(store: &Arc<dyn Store>, password: &str, all: bool) -> Result<u64, VaultError> {
        if !store.exists(CONFIG).map_err(VaultError::io("the repository"))? {
            return Err(VaultError::Missing(store.location()));
        }
        let backend = Arc::new(Backend::new(store.clone()));
        let silent: Report = Arc::new(|_, _| {});
        let open = repository(&backend, &silent)?
            .open(&Credentials::password(password))
            .map_err(|error| failed(&error, &backend))?;
        Locks::new(store.clone(), &open.key())?.remove(all)
    }

    fn opened(&self) -> Result<Repository<OpenStatus>, VaultError> {
        repository(&self.backend, &self.report)?
            .open(&Credentials::Masterkey(self.key.clone()))
            .map_err(|error| self.failed(&error))
    }

    pub(super) fn failed(&self, error: &RusticError) -> VaultError {
        failed(error, &self.backend)
    }

    /// The snapshot of that id.
    fn find(&self, repository: &Repository<OpenStatus>, id: &str) -> Result<SnapshotFile, VaultError> {
        let id: SnapshotId = id.parse().map_err(|_| VaultError::NoSnapshot(id.to_owned()))?;
        let mut snapshot: SnapshotFile = repository.get_file(&id).map_err(|error| self.failed(&error))?;
        snapshot.id = id;
        Ok(snapshot)
    }

    /// The snapshots that can be read, and the ids of those that cannot: one that is damaged keeps nobody from the others.
    fn snapshots(
        &self,
        repository: &Repository<OpenStatus>,
    ) -> Result<(Vec<SnapshotFile>, Vec<String>), VaultError> {
        let ids: Vec<SnapshotId> = repository.list().map_err(|error| self.failed(&error))?.collect();
        let mut missing: BTreeSet<_> = ids.iter().map(|id| id.to_hex().as_str().to_owned()).collect();
        let mut found = Vec::with_capacity(ids.len());
        let files = repository.stream_files_list::<SnapshotFile>(ids).map_err(|error| self.failed(&error))?;
        for file in files {
            match file {
                Ok((id, mut snapshot)) => {
                    missing.remove(id.to_hex().as_str());
                    snapshot.id = id;
                    found.push(snapshot);
                }
                Err(error) => match self.backend.trouble() {
                    // What passes by itself says nothing about the file.
                    Some(Trouble::Full | Trouble::Storage(_)) => return Err(self.failed(&error)),
                    _ => tracing::debug!(why = brief(&error.to_string()), "a snapshot cannot be read"),
                },
            }
        }
        Ok((found, missing.into_iter().collect()))
    }

    /// The manifest of a snapshot, and the folder in it that it lies in: ours is always the same, that of a snapshot which
    /// another program made is where that program found it.
    fn manifest_in<S: IndexedFull>(
        &self,
        repository: &Repository<S>,
        snapshot: &SnapshotFile,
    ) -> Result<(Manifest, PathBuf), VaultError> {
        let top =
            repository.node_from_snapshot_and_path(snapshot, "").map_err(|error| self.failed(&error))?;
        let nodes = repository.ls(&top, &LsOptions::default()).map_err(|error| self.failed(&error))?;
        for found in nodes {
            let (path, node) = found.map_err(|error| self.failed(&error))?;
            if path.file_name().is_some_and(|name| name == MANIFEST) && node.meta.size <= MANIFEST_BYTES {
                let mut bytes = Vec::new();
                repository.dump(&node, &mut bytes).map_err(|error| self.failed(&error))?;
                let manifest = serde_json::from_slice(&bytes)
                    .map_err(|_| VaultError::Damaged("the snapshot's manifest cannot be read".to_owned()))?;
                return Ok((manifest, path.parent().map(Path::to_owned).unwrap_or_default()));
            }
        }
        Err(VaultError::NotOurs)
    }
}

impl Vault for ResticVault {
    fn create(&self, folder: &Path, host: &str, tags: &[String]) -> Result<Snapshot, VaultError> {
        let repository = self.opened()?.to_indexed_ids().map_err(|error| self.failed(&error))?;
        let mut options = BackupOptions::default().as_path(PathBuf::from(ROOT));
        // The copy is new each time: its times and numbers say nothing about its content.
        options.parent_opts.force = true;
        options.no_scan = false;
        let source: PathList = [folder].into_iter().collect();
        let snapshot = SnapshotOptions::default()
            .host(host.to_owned())
            .add_tags(&tags.join(","))
            .and_then(|options| options.to_snapshot())
            .map_err(|error| self.failed(&error))?;
        let made = repository.backup(&options, &source, snapshot).map_err(|error| self.failed(&error))?;
        Ok(shown(&made))
    }

    fn list(&self) -> Result<Inventory, VaultError> {
        let (found, unreadable) = self.snapshots(&self.opened()?)?;
        let mut snapshots: Vec<_> = found.iter().map(shown).collect();
        let now = Clock::system().now();
        snapshots.sort_by_cached_key(|snapshot| snapshot.age(now));
        let former = found.iter().filter_map(|snapshot| snapshot.original);
        let former = former.map(|id| id.to_hex().as_str().to_owned()).collect();
        Ok(Inventory { snapshots, former, unreadable })
    }

    fn check(&self, depth: Depth, step: Step<'_>) -> Result<Vec<String>, VaultError> {
        let repository = self.opened()?;
        let mut options = CheckOptions::default().trust_cache(true);
        let percent = match depth {
            Depth::Structure => 0.0,
            Depth::Data(percent) => percent,
        };
        // Of a share the library leaves out for ever what is larger than it: that is done below.
        if percent >= 100.0 {
            options = options.read_data(true).read_data_subset(ReadSubsetOption::All);
        }
        let (found, unreadable) = self.snapshots(&repository)?;
        let trees = found.iter().map(|snapshot| snapshot.tree).collect();
        let mut wrong: Vec<String> = match repository.check_with_trees(options, trees) {
            Ok(results) => {
                let errors = results.0.iter();
                let errors = errors.filter(|(level, _)| format!("{level:?}") == "Error");
                errors.map(|(_, error)| brief(&error.to_string())).collect()
            }
            // It gave up over what it found.
            Err(error) => vec![brief(&self.failed(&error).to_string())],
        };
        // What the library leaves out: keys, what no snapshot refers to, and the names of all files.
        wrong.extend(self.backend.misnamed(percent, step)?);
        for id in unreadable {
            if !wrong.iter().any(|finding| finding.contains(&id)) {
                wrong.push(format!("snapshot {id}: it cannot be read"));
            }
        }
        Ok(wrong)
    }

    fn manifest(&self, id: &str) -> Result<Manifest, VaultError> {
        let repository = self.opened()?;
        let snapshot = self.find(&repository, id)?;
        let repository = repository.to_indexed().map_err(|error| self.failed(&error))?;
        Ok(self.manifest_in(&repository, &snapshot)?.0)
    }

    fn fetch(&self, id: &str, folder: &Path, step: Step<'_>) -> Result<Manifest, VaultError> {
        let repository = self.opened()?;
        let snapshot = self.find(&repository, id)?;
        let repository = repository.to_indexed().map_err(|error| self.failed(&error))?;
        let (manifest, root) = self.manifest_in(&repository, &snapshot)?;
        let total = manifest.parts.iter().map(|part| part.bytes).sum::<u64>()
            + manifest.index_bytes.unwrap_or_default();
        let free = super::capture::free_space(folder)?;
        if free < total {
            return Err(VaultError::Full(format!(": {total} bytes are to be restored, {free} are free")));
        }
        let mut fetcher =
            Fetcher { vault: self, repository: &repository, snapshot: &snapshot, step, done: 0, total };
        fetcher.fetch(&manifest.parts, &root, folder, true)?;
        if manifest.index_bytes.is_some() {
            match fetcher.fetch_index(&root, folder) {
                // What there is no room for here has none for the ledger's own files either.
                Err(error @ VaultError::Full(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the search index of the backup cannot be read; it is built anew")
                }
                Ok(()) => {}
            }
        }
        let text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| VaultError::Other(error.to_string()))?;
        fs::write(folder.join(MANIFEST), text).map_err(VaultError::io(MANIFEST))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(VaultError::io("the folder"))?;
        Ok(manifest)
    }

    fn forget(&self, ids: &[String]) -> Result<(), VaultError> {
        let repository = self.opened()?;
        let ids: Vec<_> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        repository.delete_snapshots(&ids).map_err(|error| self.failed(&error))?;
        stage::reached("forgotten");
        Ok(())
    }

    fn sweep(&self) -> Result<u64, VaultError> {
        let repository = self.opened()?;
        // Nobody else works on it: nothing has to wait for them.
        let mut options = PruneOptions::default();
        options.instant_delete = true;
        options.max_repack = LimitOption::Unlimited;
        let plan = repository.prune_plan(&options).map_err(|error| self.failed(&error))?;
        let freed = plan.stats.size_sum();
        let freed = freed.remove + freed.repackrm + plan.stats.size_unref;
        repository.prune(&options, plan).map_err(|error| self.failed(&error))?;
        Ok(freed)
    }

    fn size(&self) -> Result<u64, VaultError> {
        self.backend.size().map_err(VaultError::io("the repository"))
    }

    fn add_password(&self, new: &str) -> Result<(), VaultError> {
        let repository = self.opened()?;
        repository.add_key(new, &KeyOptions::default()).map(drop).map_err(|error| self.failed(&error))
    }

    fn remove_other_passwords(&self) -> Result<u64, VaultError> {
        let repository = self.opened()?;
        let keys: Vec<KeyId> = repository.list().map_err(|error| self.failed(&error))?.collect();
        let mut removed = 0;
        for key in keys.iter().filter(|key| self.key_id.as_ref() != Some(key)) {
            repository.delete_key(key).map_err(|error| self.failed(&error))?;
            removed += 1;
        }
        Ok(removed)
    }
}

/// The password in a file. Blanks and line breaks around it do not count, as `restic` has it.
pub(super) fn read_password(path: &Path) -> Result<String, VaultError> {
    let mut text = String::new();
    let wrong = |wrong: String| VaultError::Password { path: path.to_owned(), wrong };
    File::open(path)
        .and_then(|file| file.take(4_096).read_to_string(&mut text))
        .map_err(|error| wrong(error.to_string()))?;
    let password = text.trim();
    if password.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(password.to_owned())
}

fn repository(backend: &Arc<Backend>, report: &Report) -> Result<Repository<()>, VaultError> {
    let backends = RepositoryBackends::new(backend.clone(), None);
    let options = RepositoryOptions::default().no_cache(true);
    let opened = Repository::new_with_progress(&options, &backends, Bars(report.clone()));
    opened.map_err(|error| failed(&error, backend))
}

/// From the library's errors to ours.
fn failed(error: &RusticError, backend: &Backend) -> VaultError {
    match backend.trouble() {
        Some(Trouble::Full) => return VaultError::Full(" for the repository".to_owned()),
        Some(Trouble::Storage(what)) => return VaultError::Storage(what),
        Some(Trouble::Lost(what)) => return VaultError::Damaged(what),
        None => {}
    }
    if error.is_incorrect_password() {
        // Without any key no password opens it, and no password opens a damaged one.
        return match (backend.has_keys(), backend.misnamed(0.0, &|_, _| {})) {
            (Ok(false), _) => {
                VaultError::Damaged("the repository has no `keys`: nothing in it can be read".to_owned())
            }
            (_, Ok(wrong)) if wrong.iter().any(|finding| finding.starts_with("keys/")) => {
                VaultError::Damaged(summary(wrong.len() as u64, &wrong))
            }
            _ => VaultError::WrongPassword,
        };
    }
    let said = error.display_log();
    // No file failed, and the password opened one: what cannot be decrypted or understood now is not what was written. Which file
    // it is the library seldom says, and the names of all small ones tell.
    let not_understood = error.is_code("C001") || DAMAGE.iter().any(|words| said.contains(words));
    match backend.misnamed(0.0, &|_, _| {}) {
        Ok(wrong) if !wrong.is_empty() => VaultError::Damaged(summary(wrong.len() as u64, &wrong)),
        _ if not_understood => VaultError::Damaged(format!(
            "a file of the repository, perhaps its `config`, is not what was written: {}",
            brief(&said)
        )),
        _ => VaultError::Other(brief(&said)),
    }
}

fn shown(snapshot: &SnapshotFile) -> Snapshot {
    let summary = snapshot.summary.as_ref();
    Snapshot {
        id: snapshot.id.to_hex().as_str().to_owned(),
        time: Timestamp::from_millis(snapshot.time.timestamp().as_millisecond()),
        node: snapshot.hostname.clone(),
        tags: (&snapshot.tags).into_iter().cloned().collect(),
        bytes: summary.map(|summary| summary.total_bytes_processed),
        added: summary.map(|summary| summary.data_added_packed),
    }
}
