//! The node's own key: 256 random bits in a file of mode 0600, made at the first start. It is never used itself; every
//! purpose has a key of its own, derived from it by HKDF-SHA-256 (RFC 5869) with the purpose as the info.
//!
//! No error and no `Debug` output of this module holds key material.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::SecureRandom;
use ring::{hkdf, hmac, rand};

/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// Salt of the extraction: keeps this use of the file apart from any other.
const SALT: &[u8] = b"orchd node key 1";

/// Why there is no node key.
#[derive(Debug, thiserror::Error)]
pub enum NodeKeyError {
    /// The file could not be read or made.
    #[error("{}: the node key cannot be read or made: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{}: expected 64 hexadecimal digits; restore the node key from a backup", .0.display())]
    Content(PathBuf),
    /// The system has no randomness.
    #[error("the system gave no random bytes for the node key")]
    Randomness,
}

impl NodeKeyError {
    /// Whether it stays so until a person has changed something.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        matches!(self, Self::Content(_))
    }
}

/// The node's key, ready to derive from.
pub struct NodeKey {
    key: hkdf::Prk,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey")
    }
}

impl NodeKey {
    /// Reads the key from `path`, or makes one there. A file that others may read is tightened to 0600. Blocks.
    ///
    /// # Errors
    /// See [`NodeKeyError`].
    pub fn load_or_create(path: &Path) -> Result<Self, NodeKeyError> {
        let failed = |source| NodeKeyError::Io { path: path.to_owned(), source };
        match File::open(path) {
            Ok(file) => Self::read(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                Self::read(File::open(path).map_err(failed)?, path)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads the key that is in `path`. Blocks.
    ///
    /// # Errors
    /// See [`NodeKeyError`].
    pub fn load(path: &Path) -> Result<Self, NodeKeyError> {
        let failed = |source| NodeKeyError::Io { path: path.to_owned(), source };
        Self::read(File::open(path).map_err(failed)?, path)
    }

    /// Whether `path` holds a key. Changes nothing. Blocks.
    ///
    /// # Errors
    /// See [`NodeKeyError`].
    pub fn check(path: &Path) -> Result<(), NodeKeyError> {
        let file = File::open(path).map_err(|source| NodeKeyError::Io { path: path.to_owned(), source })?;
        Self::parse(file, path).map(drop)
    }

    fn read(file: File, path: &Path) -> Result<Self, NodeKeyError> {
        let failed = |source| NodeKeyError::Io { path: path.to_owned(), source };
        let found = file.metadata().map_err(failed)?;
        // A systemd credential belongs to root and is read-only: only what is ours is tightened.
        if found.mode() & 0o077 != 0 && found.uid() == rustix::process::getuid().as_raw() {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
            tracing::warn!(path = %path.display(), "others could read the node key; its mode is 0600 now");
        }
        Self::parse(file, path)
    }

    fn parse(file: File, path: &Path) -> Result<Self, NodeKeyError> {
        let failed = |source| NodeKeyError::Io { path: path.to_owned(), source };
        let mut text = String::new();
        file.take(1_024).read_to_string(&mut text).map_err(failed)?;
        let bytes = from_hex(text.trim()).ok_or_else(|| NodeKeyError::Content(path.to_owned()))?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The key of these bytes; for tests.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self { key: hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(bytes) }
    }

    /// The HMAC-SHA-256 key for `purpose`. The same purpose gets the same key at every start.
    ///
    /// # Panics
    /// Never: an output of 32 bytes is far below HKDF's limit of 255 blocks.
    #[must_use]
    pub fn hmac(&self, purpose: &str) -> hmac::Key {
        let info = [purpose.as_bytes()];
        match self.key.expand(&info, hmac::HMAC_SHA256) {
            Ok(material) => hmac::Key::from(material),
            Err(ring::error::Unspecified) => unreachable!("32 bytes are below HKDF's limit"),
        }
    }
}

/// Writes a fresh key durably: complete or absent.
fn create(path: &Path) -> Result<(), NodeKeyError> {
    let mut bytes = [0; KEY_BYTES];
    rand::SystemRandom::new().fill(&mut bytes).map_err(|_| NodeKeyError::Randomness)?;
    let mut text = hex::encode(bytes);
    text.push('\n');
    let fresh = path.with_extension("new");
    let written = (|| {
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link, unlike a rename, never takes the place of a key that is there.
        std::fs::hard_link(&fresh, path)?;
        std::fs::remove_file(&fresh)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|source| NodeKeyError::Io { path: path.to_owned(), source })
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    hex::decode_to_slice(text, &mut bytes).is_ok().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(key: &NodeKey, purpose: &str) -> Vec<u8> {
        hmac::sign(&key.hmac(purpose), b"x").as_ref().to_vec()
    }

    #[test]
    fn a_key_is_made_once_private_and_the_same_at_every_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let first = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let second = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "tightened");
        assert_eq!(sign(&first, "a"), sign(&second, "a"));
        assert_ne!(sign(&first, "a"), sign(&first, "b"), "a key for each purpose");
        let other = NodeKey::load_or_create(&dir.path().join("other.key")).unwrap();
        assert_ne!(sign(&first, "a"), sign(&other, "a"));
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        for text in ["", "secret", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            std::fs::write(&path, text).unwrap();
            let error = NodeKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, NodeKeyError::Content(_)), "{text:?}");
            assert!(!error.to_string().contains("secret"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
