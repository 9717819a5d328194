//! The process that works on the repository: takes one order on its standard input, tells how far it is on its standard
//! output, a JSON line each, and answers with the last one. It has little memory, comes last at the processor and the disk,
//! and ends with whoever started it.

use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backend::CONFIG;
use super::capture::{Source, capture, clear};
use super::examine::{drill, examine};
use super::manifest::INDEX;
use super::model::{Changed, Fetched, Listed, Made, Pruned, Shown, Unlocked, Verified};
use super::place::Repository;
use super::progress::Report;
use super::restic::{Access, ResticVault, read_password};
use super::retention::{Keep, superfluous};
use super::vault::{Depth, Inventory, Snapshot, Vault, VaultError};
use super::{stage, switch};
use crate::clock::{Clock, Timestamp};
use crate::when::zone;
use crate::wire::Fault;

/// Most findings that are told.
const FINDINGS: usize = 50;

/// What the worker shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub repository: Repository,
    /// The node whose backups these are; empty for any.
    pub host: String,
    /// Whether those of other nodes are listed too, and may be named by their ids.
    pub others: bool,
    pub task: Task,
}

/// See the verbs in [`super`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Task {
    /// `known` is how many backups this node has in the repository, which then has to be there.
    Create {
        source: Source,
        folder: PathBuf,
        known: u64,
    },
    List,
    Show {
        snapshot: String,
    },
    /// `percent` of the data is read; `known` are backups that have to be there.
    Verify {
        percent: Option<f64>,
        known: Vec<String>,
    },
    Drill {
        snapshot: String,
        folder: PathBuf,
    },
    Fetch {
        snapshot: String,
        folder: PathBuf,
    },
    Prune {
        keep: Keep,
        time_zone: String,
        dry_run: bool,
    },
    Unlock {
        all: bool,
    },
    /// The new password is in this file, which takes the place of the old one.
    Password {
        new_file: PathBuf,
    },
}

impl Task {
    /// The folder that is needed only while it is done.
    pub(super) fn scratch(&self) -> Option<&Path> {
        match self {
            Self::Create { folder, .. } | Self::Drill { folder, .. } => Some(folder),
            // What is fetched is for another.
            _ => None,
        }
    }
}

impl Order {
    /// The backups that this order is about. One that is damaged may be.
    fn visible(&self, vault: &impl Vault) -> Result<Inventory, VaultError> {
        let mut all = vault.list()?;
        all.snapshots.retain(|snapshot| self.others || snapshot.node == self.host);
        Ok(all)
    }
}

/// A line of the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Step {
        done: u64,
        total: u64,
    },
    Done(Value),
    /// What is answered, and what went wrong in full.
    Failed {
        fault: Fault,
        why: String,
    },
}

/// How much memory the worker may take, in bytes; 0 for any.
pub(super) fn limit(memory: u64) {
    // Where the system refuses, the worker works unlimited, rather than not at all.
    if memory > 0 {
        let limit = rustix::process::Rlimit { current: Some(memory), maximum: Some(memory) };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Data, limit);
    }
    let _ = rustix::process::nice(19);
    // The first to go where the machine runs out of memory.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    lower_io();
}

/// The last place among those who share the disk: class "idle" (ioprio_set(2)). Levels within a class say nothing to the usual
/// scheduler, mq-deadline, which has even this class wait for seconds at most.
fn lower_io() {
    const WHO_PROCESS: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    // SAFETY: the call takes three integers and touches no memory.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE) };
}

/// Runs one order from standard input. Returns whether it was done.
///
/// # Errors
/// When standard input or output is gone.
pub fn serve(memory: u64) -> std::io::Result<bool> {
    limit(memory);
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line).map_err(std::io::Error::other)?;
    std::thread::spawn(|| {
        // It ends with whoever holds the other end: a daemon that was killed must not leave a worker behind.
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    let report: Report = Arc::new(|done, total| {
        // Whoever does not listen any more gets no word.
        let _ = tell(&Line::Step { done, total });
    });
    match perform(&order, &report) {
        Ok(answer) => tell(&Line::Done(answer)).map(|()| true),
        Err(error) => {
            let why = error.to_string();
            tell(&Line::Failed { fault: error.into(), why }).map(|()| false)
        }
    }
}

fn tell(line: &Line) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    out.flush()
}

/// Does it, in this process.
pub(super) fn perform(order: &Order, report: &Report) -> Result<Value, VaultError> {
    let password = read_password(&order.repository.password_file)?;
    let store = order.repository.store()?;
    let open = |access, make| ResticVault::open(&store, &password, access, make, report.clone());
    let step = |done, total| report(done, total);
    let unread = || VaultError::io("the repository");
    let answer = match &order.task {
        Task::Create { source, folder, known } => {
            let new_repository = !store.exists(CONFIG).map_err(unread())?;
            if new_repository && *known > 0 && store.list("data").map_err(unread())?.is_empty() {
                let at = order.repository.location.to_string();
                return Err(VaultError::Gone { at, backups: *known });
            }
            // The one computes a key for as long as the other copies.
            let (captured, vault) = std::thread::scope(|scope| {
                let vault = scope.spawn(|| open(Access::Shared, true));
                (capture(source, folder), vault.join())
            });
            let made = captured.and_then(|manifest| {
                let vault =
                    vault.map_err(|_| VaultError::Other("opening the repository panicked".to_owned()))??;
                let snapshot = vault.create(folder, &order.host, &manifest.tags())?;
                stage::reached("put away");
                let repository_bytes = vault.size()?;
                Ok(Made { snapshot, manifest, repository_bytes, new_repository })
            });
            remove(folder);
            json!(made?)
        }
        Task::List => {
            let Inventory { snapshots, unreadable, .. } = order.visible(&open(Access::Shared, false)?)?;
            json!(Listed { snapshots, unreadable, pending: None })
        }
        Task::Show { snapshot } => {
            let vault = open(Access::Shared, false)?;
            let snapshot = choose(&order.visible(&vault)?, snapshot, &order.host)?;
            let manifest = vault.manifest(&snapshot.id)?;
            json!(Shown { snapshot, manifest })
        }
        Task::Verify { percent, known } => {
            let vault = open(Access::Shared, false)?;
            let depth = percent.map_or(Depth::Structure, Depth::Data);
            let mut findings = vault.check(depth, &step)?;
            let there = vault.list()?;
            let is_there = |id: &String| {
                let named = [&there.former, &there.unreadable].iter().any(|ids| ids.contains(id));
                named || there.snapshots.iter().any(|snapshot| snapshot.id == *id)
            };
            let gone = known.iter().filter(|id| !is_there(id));
            findings.extend(gone.map(|id| format!("snapshot {}: it is gone", id.get(..8).unwrap_or(id))));
            let count = findings.len() as u64;
            findings.truncate(FINDINGS);
            json!(Verified { whole: count == 0, count, findings, snapshots: there.snapshots.len() as u64 })
        }
        Task::Drill { snapshot, folder } => {
            clear(folder)?;
            let vault = open(Access::Shared, false)?;
            let done = fetch(&vault, snapshot, order, folder, &step).and_then(|mut fetched| {
                if fetched.examined.index == Some(false) {
                    return Err(VaultError::Damaged(
                        "the search index is not what was put away; a restore would build it anew".to_owned(),
                    ));
                }
                drill(folder)?;
                fetched.examined.queried = true;
                Ok(fetched)
            });
            remove(folder);
            json!(done?)
        }
        Task::Fetch { snapshot, folder } => {
            let vault = open(Access::Shared, false)?;
            json!(fetch(&vault, snapshot, order, folder, &step)?)
        }
        Task::Prune { keep, time_zone, dry_run } => {
            let access = if *dry_run { Access::Shared } else { Access::Alone };
            let vault = open(access, false)?;
            let zone = zone(time_zone).map_err(VaultError::Forbidden)?;
            let Inventory { snapshots: mut mine, unreadable, .. } = vault.list()?;
            mine.retain(|snapshot| snapshot.node == order.host);
            let removed = superfluous(&mine, keep, &zone, Clock::system().now());
            let mut freed_bytes = 0;
            if !dry_run {
                vault.forget(&removed)?;
                // Nobody knows which data a damaged one uses; its file may come back from elsewhere.
                if unreadable.is_empty() {
                    freed_bytes = vault.sweep()?;
                    stage::reached("swept");
                }
            }
            let left: Vec<_> =
                mine.into_iter().map(|snapshot| snapshot.id).filter(|id| !removed.contains(id)).collect();
            let repository_bytes = vault.size()?;
            json!(Pruned { dry_run: *dry_run, removed, left, unreadable, freed_bytes, repository_bytes })
        }
        Task::Unlock { all } => {
            json!(Unlocked { removed: ResticVault::unlock(&store, &password, *all)? })
        }
        Task::Password { new_file } => {
            if matches!(new_file.try_exists(), Ok(false)) {
                return Err(VaultError::NoNewPassword(new_file.clone()));
            }
            let new = read_password(new_file)?;
            // Where they are the same, an earlier attempt was cut off between here and its end.
            if new != password {
                open(Access::Alone, false)?.add_password(&new)?;
                stage::reached("password added");
                // Both open it now; from here on the new one is the password. It is written anew, because the other file may be
                // anyone's to read.
                switch::write(&order.repository.password_file, format!("{new}\n").as_bytes())
                    .map_err(|error| VaultError::Other(error.to_string()))?;
                stage::reached("password written");
            }
            let vault = ResticVault::open(&store, &new, Access::Alone, false, report.clone())?;
            let removed = vault.remove_other_passwords()?;
            stage::reached("passwords removed");
            // Last: while it is there, the change can be taken up again.
            std::fs::remove_file(new_file).map_err(VaultError::io(new_file.display().to_string()))?;
            json!(Changed { changed: true, removed })
        }
    };
    Ok(answer)
}

fn fetch(
    vault: &impl Vault,
    wanted: &str,
    order: &Order,
    folder: &Path,
    step: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Fetched, VaultError> {
    let inventory = order.visible(vault)?;
    let snapshot = choose(&inventory, wanted, &order.host)?;
    stage::reached("fetching");
    let manifest = vault.fetch(&snapshot.id, folder, step)?;
    stage::reached("fetched");
    let examined = examine(folder, &manifest)?;
    if examined.index == Some(false) {
        remove(&folder.join(INDEX));
    }
    stage::reached("examined");
    Ok(Fetched { snapshot, manifest, examined, unreadable: inventory.unreadable })
}

/// The one that is meant: an id or its beginning, `latest`, or a time, of which it is the last one before; of those that can be
/// read.
fn choose(inventory: &Inventory, wanted: &str, host: &str) -> Result<Snapshot, VaultError> {
    let Inventory { snapshots, unreadable, .. } = inventory;
    let missing = || VaultError::NoSnapshot(wanted.to_owned());
    let mut mine = snapshots.iter().filter(|snapshot| host.is_empty() || snapshot.node == host);
    let by_time = match Timestamp::parse(wanted) {
        _ if wanted == "latest" => Some(mine.next_back()),
        Ok(time) => Some(mine.rfind(|snapshot| snapshot.time <= time)),
        Err(_) => None,
    };
    if let Some(found) = by_time {
        // Where none is left, it may be one of the damaged that was meant.
        return match (found, unreadable.first()) {
            (Some(snapshot), _) => Ok(snapshot.clone()),
            (None, Some(id)) => Err(unreadable_is(id)),
            (None, None) => Err(missing()),
        };
    }
    if wanted.len() < 4 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let mut damaged = unreadable.iter().filter(|id| id.starts_with(wanted));
    let mut found = snapshots.iter().filter(|snapshot| snapshot.id.starts_with(wanted));
    match (found.next(), found.next(), damaged.next()) {
        (Some(snapshot), None, None) => Ok(snapshot.clone()),
        (None, None, Some(id)) => Err(unreadable_is(id)),
        _ => Err(missing()),
    }
}

fn unreadable_is(id: &str) -> VaultError {
    VaultError::Damaged(format!("the snapshot {id} is not what was written"))
}

/// Removes what was needed only for the work. What stays is removed when the next one begins.
pub(super) fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(%error, "the working folder could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, node: &str, time: &str) -> Snapshot {
        let time = Timestamp::parse(time).unwrap();
        Snapshot {
            id: id.repeat(16),
            time,
            node: node.to_owned(),
            tags: Vec::new(),
            bytes: None,
            added: None,
        }
    }

    #[test]
    fn a_backup_is_chosen_by_id_by_time_or_as_the_latest_of_its_node() {
        let all = vec![
            snapshot("aaaa", "n1", "2026-01-01T03:00:00Z"),
            snapshot("aabb", "n2", "2026-01-02T03:00:00Z"),
            snapshot("cccc", "n1", "2026-01-03T03:00:00Z"),
            snapshot("dddd", "n2", "2026-01-04T03:00:00Z"),
        ];
        let all = Inventory { snapshots: all, former: Vec::new(), unreadable: vec!["ffff".repeat(16)] };
        let chosen =
            |wanted: &str, host: &str| choose(&all, wanted, host).map(|found| found.id[..4].to_owned()).ok();
        assert_eq!(chosen("latest", "n1").as_deref(), Some("cccc"));
        assert_eq!(chosen("latest", "").as_deref(), Some("dddd"));
        assert_eq!(chosen("2026-01-02T12:00:00Z", "n1").as_deref(), Some("aaaa"));
        assert_eq!(chosen("2026-01-03T03:00:00Z", "n1").as_deref(), Some("cccc"));
        assert_eq!(chosen("2025-01-01T00:00:00Z", "n1"), None);
        assert_eq!(chosen("aabb", "n1").as_deref(), Some("aabb"), "another node's, when it is named");
        for wrong in ["aa", "eeee", "", "../../x", "latest~1"] {
            assert_eq!(chosen(wrong, "n1"), None, "{wrong}");
        }
        for damaged in ["ffff", "ffffff"] {
            assert!(matches!(choose(&all, damaged, "n1"), Err(VaultError::Damaged(_))), "{damaged}");
        }
        let none = Inventory { snapshots: Vec::new(), ..all };
        assert!(matches!(choose(&none, "latest", "n1"), Err(VaultError::Damaged(_))));
    }
}
