//! Locks as restic writes them: a file in `locks/`, encrypted with the repository's key, that says who works on it. Whoever
//! removes data takes it alone; all others share it. So our programs and the stock one keep out of each other's way.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aes256ctr_poly1305aes::aead::Aead;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce};
use ring::rand::SecureRandom;
use ring::{digest, rand};
use rustic_core::repofile::MasterKey;
use serde::{Deserialize, Serialize};

use super::store::Store;
use super::vault::VaultError;
use crate::clock::{Clock, Timestamp};

/// The folder with the locks.
pub(super) const LOCKS: &str = "locks";

/// Digits of a lock's name: the SHA-256 of its content.
const ID: usize = 64;

/// Bytes of the nonce before the encrypted text.
const NONCE: usize = 16;
/// A lock that was not renewed for so long is left over: as restic has it.
const STALE: i64 = 30 * 60_000;
/// How often a lock is renewed.
const RENEW: Duration = Duration::from_secs(5 * 60);

/// What stands in a lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    time: Timestamp,
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    pid: u32,
}

/// The locks of a repository.
#[derive(Clone)]
pub(super) struct Locks {
    store: Arc<dyn Store>,
    key: Key,
}

/// Held until dropped.
pub(super) struct Lock {
    /// Closing it ends the thread that renews.
    end: Option<SyncSender<()>>,
    renewer: Option<JoinHandle<()>>,
}

impl Locks {
    pub(super) fn new(store: Arc<dyn Store>, key: &MasterKey) -> Result<Self, VaultError> {
        let bytes = [&key.encrypt[..], &key.mac.k, &key.mac.r].concat();
        if bytes.len() != Key::default().len() {
            return Err(VaultError::Damaged("the key of the repository has a wrong length".to_owned()));
        }
        Ok(Self { store, key: *Key::from_slice(&bytes) })
    }

    /// Takes the repository, alone or with others who share it. Where nothing can be written it is shared without a lock: who
    /// only reads can do so, and what it reads it checks.
    pub(super) fn take(&self, exclusive: bool) -> Result<Lock, VaultError> {
        let removed = self.remove(false);
        self.refuse_if_held(exclusive, None)?;
        let mut mine = match removed.and_then(|_| self.write(exclusive)) {
            Err(error) if !exclusive && is_read_only(&error) => return Ok(Lock { end: None, renewer: None }),
            written => written?,
        };
        // Two that came at the same moment both look again, and see each other.
        if let Err(held) = self.refuse_if_held(exclusive, Some(&mine)) {
            let _ = self.store.remove(&mine);
            return Err(held);
        }
        let (end, ended) = sync_channel(0);
        let locks = self.clone();
        let renewer = std::thread::spawn(move || {
            while ended.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                if let Ok(fresh) = locks.write(exclusive) {
                    let _ = locks.store.remove(&std::mem::replace(&mut mine, fresh));
                }
            }
            // One that stays is seen to be left over: its process is gone.
            let _ = locks.store.remove(&mine);
        });
        Ok(Lock { end: Some(end), renewer: Some(renewer) })
    }

    /// Removes locks that are left over, or all. Returns how many.
    pub(super) fn remove(&self, all: bool) -> Result<u64, VaultError> {
        let mut removed = 0;
        for (name, content) in self.all()? {
            // One that cannot be read is not known to be left over.
            if all || content.is_some_and(|content| is_stale(&content)) {
                match self.store.remove(&name) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(VaultError::io("a lock")(error));
                    }
                    _ => removed += 1,
                }
            }
        }
        Ok(removed)
    }

    fn refuse_if_held(&self, exclusive: bool, mine: Option<&str>) -> Result<(), VaultError> {
        for (name, content) in self.all()? {
            if Some(name.as_str()) == mine {
                continue;
            }
            match content {
                None => return Err(VaultError::Locked("a lock that cannot be read".to_owned())),
                Some(content) if exclusive || content.exclusive => {
                    let Content { hostname, pid, time, .. } = content;
                    return Err(VaultError::Locked(format!("process {pid} on {hostname} since {time}")));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn all(&self) -> Result<Vec<(String, Option<Content>)>, VaultError> {
        let mut all = Vec::new();
        for found in self.store.list(LOCKS).map_err(VaultError::io("the locks"))? {
            // What is being written has another name.
            if found.name.len() != ID || !found.name.bytes().all(|b| b.is_ascii_hexdigit()) {
                continue;
            }
            let name = format!("{LOCKS}/{}", found.name);
            match self.store.read(&name, None) {
                // Removed meanwhile by its owner.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                bytes => {
                    let content = self.open(&bytes.map_err(VaultError::io("a lock"))?);
                    all.push((name, content));
                }
            }
        }
        Ok(all)
    }

    fn open(&self, bytes: &[u8]) -> Option<Content> {
        let (nonce, sealed) = bytes.split_at_checked(NONCE)?;
        let text = Aes256CtrPoly1305Aes::new(&self.key).decrypt(Nonce::from_slice(nonce), sealed).ok()?;
        // In version 2 of the format a first byte of 2 says that the rest is compressed.
        match text.split_first() {
            Some((2, rest)) => serde_json::from_slice(&zstd::decode_all(rest).ok()?).ok(),
            _ => serde_json::from_slice(&text).ok(),
        }
    }

    fn write(&self, exclusive: bool) -> Result<String, VaultError> {
        let content = Content {
            time: Clock::system().now(),
            exclusive,
            hostname: hostname(),
            username: String::new(),
            pid: std::process::id(),
        };
        let text = serde_json::to_vec(&content).map_err(|error| VaultError::Other(error.to_string()))?;
        let mut nonce = [0; NONCE];
        let random = rand::SystemRandom::new().fill(&mut nonce);
        random.map_err(|_| VaultError::Other("the system gave no random bytes".to_owned()))?;
        let sealed = Aes256CtrPoly1305Aes::new(&self.key)
            .encrypt(Nonce::from_slice(&nonce), text.as_slice())
            .map_err(|_| VaultError::Other("a lock could not be encrypted".to_owned()))?;
        let bytes = [&nonce[..], &sealed].concat();
        let name = format!("{LOCKS}/{}", hex::encode(digest::digest(&digest::SHA256, &bytes).as_ref()));
        self.store.write(&name, &[bytes.into()]).map_err(VaultError::io("a lock"))?;
        Ok(name)
    }
}

/// Whether nothing can be written there.
fn is_read_only(error: &VaultError) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error, VaultError::Io { source, .. } if matches!(source.kind(), ReadOnlyFilesystem | PermissionDenied))
}

/// Whether nobody works under this lock any more.
fn is_stale(content: &Content) -> bool {
    let old = content.time.plus_millis(STALE) < Clock::system().now();
    old || (content.hostname == hostname() && !is_running(content.pid))
}

/// Whether that process of this machine runs. One that has ended and that nobody has asked about, as in a container whose first
/// process does not care, does not.
fn is_running(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    match rustix::process::test_kill_process(pid) {
        Err(error) => error != rustix::io::Errno::SRCH,
        // One of our own: its program can be seen, while it has one.
        Ok(()) => {
            let program = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
            !program.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        }
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(renewer) = self.renewer.take() {
            // It only removes a file.
            let _ = renewer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;

    use bytes::Bytes;

    use super::super::folder::Folder;
    use super::super::store::Found;
    use super::*;

    /// A folder that nothing can be written to.
    #[derive(Debug)]
    struct ReadOnly(Folder, io::ErrorKind);

    impl Store for ReadOnly {
        fn location(&self) -> String {
            self.0.location()
        }
        fn prepare(&self, _: &[&str]) -> io::Result<()> {
            Err(self.1.into())
        }
        fn exists(&self, name: &str) -> io::Result<bool> {
            self.0.exists(name)
        }
        fn list(&self, folder: &str) -> io::Result<Vec<Found>> {
            self.0.list(folder)
        }
        fn read(&self, name: &str, range: Option<Range<u64>>) -> io::Result<Bytes> {
            self.0.read(name, range)
        }
        fn write(&self, _: &str, _: &[Bytes]) -> io::Result<()> {
            Err(self.1.into())
        }
        fn remove(&self, _: &str) -> io::Result<()> {
            Err(self.1.into())
        }
        fn tidy(&self) -> io::Result<()> {
            Err(self.1.into())
        }
    }

    #[test]
    fn where_nothing_can_be_written_a_lock_is_done_without_by_those_alone_who_read() {
        let folder = tempfile::tempdir().unwrap();
        let key = MasterKey::new();
        let locks = |store: Arc<dyn Store>| Locks::new(store, &key).unwrap();
        let open = || Folder::new(folder.path().to_owned());
        let shut = |kind| locks(Arc::new(ReadOnly(open(), kind)));
        for kind in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied] {
            assert!(shut(kind).take(false).is_ok());
            assert!(matches!(shut(kind).take(true), Err(VaultError::Io { .. })));
        }
        assert!(shut(io::ErrorKind::TimedOut).take(false).is_err());
        // Whoever removes is seen all the same.
        let held = locks(Arc::new(open())).take(true).unwrap();
        assert!(matches!(shut(io::ErrorKind::ReadOnlyFilesystem).take(false), Err(VaultError::Locked(_))));
        drop(held);
        assert!(shut(io::ErrorKind::ReadOnlyFilesystem).take(false).is_ok());
    }
}
