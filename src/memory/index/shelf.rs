//! Where the shards stand, and the one way in which they are opened, made and looked over.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::{Index, IndexSettings};

use super::analysis::Analysis;
use super::files::{Folder, META, Trust};
use super::schema::{Layout, Mark};
use super::{IndexError, Shard, ShardState};

/// The folder of all shards, and what they have in common.
pub struct Shelf {
    folder: PathBuf,
    layout: Layout,
    trust: Arc<Trust>,
}

impl Shelf {
    /// Shards under `folder`, made with `analysis`. Touches nothing.
    pub fn new(folder: PathBuf, analysis: &Analysis) -> Self {
        Self { folder, layout: Layout::new(analysis), trust: Arc::default() }
    }

    /// What all shards have in common.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The shard's folder.
    pub fn folder(&self, shard: Shard) -> PathBuf {
        shard.folder(&self.folder)
    }

    /// Where the shard is built anew.
    pub fn building(&self, shard: Shard) -> PathBuf {
        self.folder(shard).with_extension("building")
    }

    fn directory(&self, folder: &Path) -> tantivy::Result<Folder> {
        Ok(Folder::open(folder, self.trust.clone())?)
    }

    /// Opens what is in `folder`, and reads its mark.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] and others when it is not the index that `state` describes.
    pub fn open(&self, folder: &Path, state: &ShardState) -> Result<(Index, Mark), IndexError> {
        let index = Index::open(self.directory(folder)?)?;
        if index.schema() != self.layout.schema() {
            return Err(IndexError::Damaged("it has another schema"));
        }
        self.layout.register(&index);
        let mark = self.mark(&index, state.shard)?;
        if mark.sequence < state.settled {
            return Err(IndexError::Damaged("it is older than the ledger's changes"));
        }
        Ok((index, mark))
    }

    /// The mark of the last commit.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when it is not one of this shard.
    pub fn mark(&self, index: &Index, shard: Shard) -> Result<Mark, IndexError> {
        self.layout.read_mark(index.load_metas()?.payload.as_deref(), shard)
    }

    /// Makes an empty index in `folder`; what was there is removed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self, folder: &Path) -> Result<Index, IndexError> {
        self.remove(folder)?;
        std::fs::create_dir_all(folder)?;
        let settings = IndexSettings {
            // No field is stored: there is nothing to compress.
            docstore_compression: tantivy::store::Compressor::None,
            ..IndexSettings::default()
        };
        let directory = self.directory(folder)?;
        let index =
            Index::builder().schema(self.layout.schema()).settings(settings).open_or_create(directory)?;
        self.layout.register(&index);
        Ok(index)
    }

    /// Removes a shard's folder, if it is there, or whatever else has its name.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, folder: &Path) -> std::io::Result<()> {
        self.trust.forget(folder);
        let removed = match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => std::fs::remove_file(folder),
            removed => removed,
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes all of a shard, durably: nothing of it is there after a crash.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn clear(&self, shard: Shard) -> std::io::Result<()> {
        let folder = self.folder(shard);
        self.remove(&self.building(shard))?;
        self.remove(&folder)?;
        match folder.parent().map(std::fs::File::open) {
            Some(Ok(layer)) => layer.sync_all(),
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            // No shard of the layer was ever written.
            _ => Ok(()),
        }
    }

    /// Puts what was built into the shard's place.
    ///
    /// # Errors
    /// When the file system refuses; what was in its place may be gone then.
    pub fn replace(&self, shard: Shard) -> std::io::Result<()> {
        let (folder, building) = (self.folder(shard), self.building(shard));
        self.remove(&folder)?;
        self.trust.forget(&building);
        std::fs::rename(&building, &folder)?;
        folder.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
    }

    /// Which of `shards` have no index, or one with a file that is no longer the one that was read. Reads no file.
    pub fn suspects(&self, shards: impl Iterator<Item = Shard>) -> Vec<Shard> {
        let changed = self.trust.suspects();
        let suspect = |folder: &PathBuf| changed.contains(folder) || !folder.join(META).exists();
        shards.filter(|shard| suspect(&self.folder(*shard))).collect()
    }

    /// Reads every byte of the shard and compares it with the checksums.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] and others when a bit is not as it was written.
    pub fn verify(&self, state: &ShardState) -> Result<(), IndexError> {
        let folder = self.folder(state.shard);
        self.trust.forget(&folder);
        let (index, _) = self.open(&folder, state)?;
        // Opens every file of every segment.
        index.reader_builder().reload_policy(tantivy::ReloadPolicy::Manual).try_into()?;
        Ok(())
    }
}
