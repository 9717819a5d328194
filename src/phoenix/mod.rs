//! A node that dies comes back: backups in a restic repository, and their restoration.
//!
//! Promises: a backup is a consistent copy of the ledger, with all that a node needs besides; it is taken while the node works.
//! A restore is looked at before it takes the place of the present state, which is kept. Failures are told, counted and shown.
//! The work is done by a process of its own with bounded memory ([`worker`]). Must not: touch the present state, or put a
//! password into a log or an answer.

mod asking;
mod backend;
mod capture;
mod child;
mod examine;
mod fetch;
mod finding;
mod folder;
mod health;
mod lock;
pub mod manifest;
pub mod model;
mod named;
mod place;
mod progress;
mod release;
mod restic;
pub mod retention;
mod stage;
mod stopped;
mod store;
mod switch;
pub mod vault;
pub mod worker;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::engine::Events;
use crate::engine::command::{Answer, Call, Entry};
use crate::engine::jobs::Progress;
use crate::ledger::Ledger;
use crate::observe::Metrics;
use crate::wire::{Code, Fault};
use capture::Source;
use health::{Work, read_health, show};
use model::{
    Changed, Create, Fetched, Health, Listed, Made, Nothing, Outcome, Pending, Prune, Pruned, Release,
    Restored, Shown, Unlock, Unlocked, Verified, Verify, Which,
};
use retention::Keep;
use switch::{PARTS, Plan};
use worker::Task;

pub use place::{Location, Repository};
pub use release::give_up;
pub use stopped::{Access, Ask};
pub use switch::{SwitchError, take_up};

/// Folder for work in progress, in the state folder.
const WORK: &str = "phoenix";

/// How backups are made and kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// Without one there are no backups.
    pub repository: Option<Repository>,
    /// Memory that the worker may take, in bytes.
    pub worker_memory: u64,
    /// What is kept.
    pub keep: Keep,
    /// By whose calendar.
    pub time_zone: String,
    /// Nothing is ever removed.
    pub append_only: bool,
    /// Whether the search index is put away too.
    pub index: bool,
    /// The state folder.
    pub state_dir: PathBuf,
    /// The node's name.
    pub node: String,
    /// The configuration as text.
    pub text: String,
    /// Files and folders that it names and that are no secrets: rules, policies, certificates.
    pub files: Vec<PathBuf>,
    /// The node's own key.
    pub key_file: PathBuf,
}

/// The running service.
pub struct Phoenix {
    ledger: Ledger,
    events: Events,
    metrics: Metrics,
    config: Config,
    health: Mutex<Health>,
    /// One task on the repository at a time.
    alone: tokio::sync::Mutex<()>,
    /// One task on the generations at a time.
    generations: tokio::sync::Mutex<()>,
    /// The restored state that waits for the next start. Whatever waited at this one is in use.
    pending: Mutex<Option<Pending>>,
}

/// Every command of the vault.
#[must_use]
pub fn commands() -> Vec<Entry<Phoenix>> {
    const SERVICE: &str = "phoenix";
    vec![
        Entry::job(
            SERVICE,
            "backup",
            "Puts the node's state away in the repository",
            true,
            |phoenix: Arc<Phoenix>, _, request: Create, progress| async move {
                phoenix.backup(&request, &progress).await.map(Answer::from)
            },
        ),
        Entry::read(
            SERVICE,
            "list",
            "Lists the backups",
            |phoenix: Arc<Phoenix>, _, _: Nothing| async move {
                let listed: Listed = phoenix.ask(Task::List, &Progress::new().0).await?;
                Ok(Answer::from(Listed { pending: phoenix.pending().clone(), ..listed }))
            },
        )
        .when_full(),
        Entry::read(
            SERVICE,
            "show",
            "Shows what is in a backup",
            |phoenix: Arc<Phoenix>, _, request: Which| async move {
                let task = Task::Show { snapshot: request.snapshot };
                phoenix.ask::<Shown>(task, &Progress::new().0).await.map(Answer::from)
            },
        )
        .when_full(),
        Entry::job(
            SERVICE,
            "verify",
            "Checks the repository, or proves a backup by restoring it into a scratch folder",
            true,
            |phoenix: Arc<Phoenix>, _, request: Verify, progress| async move {
                phoenix.verify(request, &progress).await.map(Answer::from)
            },
        )
        .when_full(),
        Entry::job(
            SERVICE,
            "restore",
            "Restores a backup beside the present state, to be used from the next start on",
            true,
            |phoenix: Arc<Phoenix>, call, request: Which, progress| async move {
                phoenix.restore(&call, request.snapshot, &progress).await.map(Answer::from)
            },
        )
        .sensitive(),
        Entry::job(
            SERVICE,
            "prune",
            "Removes backups that are not kept any longer, and data that none uses",
            true,
            |phoenix: Arc<Phoenix>, _, request: Prune, progress| async move {
                phoenix.prune(&request, &progress).await.map(Answer::from)
            },
        )
        .sensitive()
        .when_full(),
        Entry::job(
            SERVICE,
            "unlock",
            "Removes locks that programs which were cut off have left in the repository",
            true,
            |phoenix: Arc<Phoenix>, _, request: Unlock, progress| async move {
                phoenix.unlock(&request, &progress).await.map(Answer::from)
            },
        )
        .sensitive()
        .when_full(),
        Entry::job(
            SERVICE,
            "release",
            "Removes the states from before restores and rollbacks, or the restored state that waits for the next start",
            true,
            |phoenix: Arc<Phoenix>, _, request: Release, _| async move {
                phoenix.release(&request).await.map(Answer::from)
            },
        )
        .sensitive()
        .when_full(),
        Entry::job(
            SERVICE,
            "password",
            "Changes the repository's password to what stands in the file beside the present one, with `.new` at its end",
            false,
            |phoenix: Arc<Phoenix>, _, _: Nothing, progress| async move {
                phoenix.change_password(&progress).await.map(Answer::from)
            },
        )
        .sensitive(),
    ]
}

impl Phoenix {
    /// The service over `ledger`. Blocks shortly: it reads the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(
        ledger: Ledger,
        events: Events,
        metrics: Metrics,
        config: Config,
    ) -> Result<Arc<Self>, Fault> {
        // Of a node that was killed: copies of the ledger and its key, which nobody works on any more.
        worker::remove(&config.state_dir.join(WORK));
        let health = ledger.read_blocking(read_health)?;
        show(&metrics, &health);
        let (health, alone, generations) =
            (Mutex::new(health), tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        let pending = Mutex::default();
        Ok(Arc::new(Self { ledger, events, metrics, config, health, alone, generations, pending }))
    }

    /// How the vault does; `None` where there is none.
    #[must_use]
    pub fn health(&self) -> Option<Health> {
        self.config
            .repository
            .is_some()
            .then(|| Health { pending: self.pending().clone(), ..self.state().clone() })
    }

    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        // One value, replaced whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn location(&self) -> Option<String> {
        self.config.repository.as_ref().map(|repository| repository.location.to_string())
    }

    /// A panic while it was held leaves it whole: it is changed field by field.
    fn state(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, name: &str) -> PathBuf {
        self.config.state_dir.join(WORK).join(name)
    }

    async fn backup(&self, request: &Create, progress: &Progress) -> Result<Made, Fault> {
        let source = Source {
            node: self.config.node.clone(),
            generation: self.ledger.folder().to_owned(),
            config: self.config.text.clone(),
            files: self.config.files.clone(),
            key: self.config.key_file.clone(),
            index: self.config.index,
        };
        let started = Instant::now();
        let known = if request.anew { 0 } else { self.known().len() as u64 };
        let made =
            self.ask::<Made>(Task::Create { source, folder: self.work("backup"), known }, progress).await;
        let (mut snapshots, repository) = (self.known(), self.location());
        self.settle(Work::Backup, started, made, |health, made, now| {
            health.last_backup = Some(now);
            health.last_snapshot = Some(made.snapshot.id.clone());
            health.added_bytes = made.snapshot.added;
            health.repository_bytes = Some(made.repository_bytes);
            if made.new_repository {
                snapshots.clear();
            }
            snapshots.push(made.snapshot.id.clone());
            (health.snapshots, health.repository) = (snapshots, repository);
        })
        .await
    }

    async fn verify(&self, request: Verify, progress: &Progress) -> Result<Outcome, Fault> {
        let started = Instant::now();
        if request.drill {
            let named = request.snapshot.clone();
            let task = Task::Drill { snapshot: request.snapshot, folder: self.work("drill") };
            let fetched = self.ask::<Fetched>(task, progress).await;
            if let Err(fault) = &fetched
                && fault.code == Code::NotFound
                && self.never_was(&named)
            {
                // A wrong request, and no failure of the vault.
                return Err(fault.clone());
            }
            let fetched = self
                .settle(Work::Drill, started, fetched, |health, fetched, now| {
                    health.last_drill = Some(now);
                    health.drilled = Some(fetched.snapshot.id.clone());
                })
                .await?;
            return Ok(Outcome { good: true, drill: Some(fetched), repository: None });
        }
        if request.read_data.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            return Err(Fault::invalid("read_data must be from 0 to 100"));
        }
        let task = Task::Verify { percent: request.read_data, known: Vec::new() };
        let verified = self.ask::<Verified>(task, progress).await;
        let verified = verified.and_then(|verified| match verified.whole {
            true => Ok(verified),
            false => Err(Fault::new(Code::Conflict, finding::summary(verified.count, &verified.findings))),
        });
        let verified = self
            .settle(Work::Verify, started, verified, |health, _, now| health.last_verify = Some(now))
            .await?;
        Ok(Outcome { good: true, repository: Some(verified), drill: None })
    }

    /// Whether no backup that the node knows of was ever meant by `snapshot`: one that has gone is another matter.
    fn never_was(&self, snapshot: &str) -> bool {
        let state = self.state();
        // The worker takes fewer digits for no id.
        let id = snapshot.len() >= 4;
        snapshot != "latest" && !(id && state.snapshots.iter().any(|known| known.starts_with(snapshot)))
    }

    async fn restore(&self, call: &Call, snapshot: String, progress: &Progress) -> Result<Restored, Fault> {
        let started = Instant::now();
        let restored = self.restore_beside(call, snapshot, progress).await;
        self.settle(Work::Restore, started, restored, |_, _, _| {}).await
    }

    async fn restore_beside(
        &self,
        call: &Call,
        snapshot: String,
        progress: &Progress,
    ) -> Result<Restored, Fault> {
        let _alone = self.generations.lock().await;
        let ledger = self.ledger.clone();
        let failed = |error: SwitchError| {
            tracing::error!(%error, "the restored state could not be made ready");
            if error.is_full() {
                let message = "there is not enough space to make the restored state ready";
                return Fault::new(Code::StorageFull, message).retry_after(60_000);
            }
            Fault::new(Code::Conflict, "the restored state could not be made ready; the node's log says why")
        };
        let blocked = |_| Fault::internal();
        let state = self.config.state_dir.clone();
        let prepare = move || {
            switch::remove_unfinished(&state);
            ledger.generation().prepare_next()
        };
        let (number, folder) = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(blocked)?
            .map_err(|error| failed(error.into()))?;
        let parts = folder.join(PARTS);
        let made = {
            let parts = parts.clone();
            tokio::task::spawn_blocking(move || capture::clear(&parts)).await.map_err(blocked)?
        };
        let restored = async {
            made?;
            let fetched =
                self.ask::<Fetched>(Task::Fetch { snapshot, folder: parts.clone() }, progress).await?;
            let plan = Plan {
                snapshot: fetched.snapshot.id.clone(),
                principal: call.principal.to_string(),
                at: self.ledger.clock().now(),
            };
            let pending = Pending {
                generation: number,
                snapshot: plan.snapshot.clone(),
                principal: plan.principal.clone(),
                at: plan.at,
            };
            let (ledger, folder, key) = (self.ledger.clone(), folder.clone(), self.config.key_file.clone());
            let propose = move || {
                switch::check_key(&parts, &key)?;
                switch::propose(ledger.generation(), number, &folder, &plan)
            };
            tokio::task::spawn_blocking(propose).await.map_err(blocked)?.map_err(failed)?;
            *self.pending() = Some(pending);
            Ok(Restored { fetched, generation: number, takes_effect: "next_start" })
        };
        let restored = restored.await;
        if restored.is_err() {
            // Nothing refers to it; what stays is never taken into use.
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        }
        restored
    }

    async fn prune(&self, request: &Prune, progress: &Progress) -> Result<Pruned, Fault> {
        if self.config.append_only && !request.dry_run {
            return Err(Fault::new(Code::Forbidden, "phoenix.append_only is on: nothing is removed"));
        }
        let started = Instant::now();
        let pruned = self.prune_as_planned(request.dry_run, progress).await;
        self.settle(Work::Prune, started, pruned, |health, pruned, _| {
            if !pruned.dry_run {
                health.repository_bytes = Some(pruned.repository_bytes);
                health.snapshots.clone_from(&pruned.left);
            }
        })
        .await
    }

    /// What is to be removed is put down before it is: a prune that is cut off in the middle leaves nothing that is missed.
    async fn prune_as_planned(&self, dry_run: bool, progress: &Progress) -> Result<Pruned, Fault> {
        let task = |dry_run| {
            let (keep, time_zone) = (self.config.keep.clone(), self.config.time_zone.clone());
            Task::Prune { keep, time_zone, dry_run }
        };
        let planned = self.ask::<Pruned>(task(true), progress).await?;
        if dry_run {
            return Ok(planned);
        }
        self.put_down(|health| health.snapshots.retain(|id| !planned.removed.contains(id))).await;
        self.ask(task(false), progress).await
    }

    async fn unlock(&self, request: &Unlock, progress: &Progress) -> Result<Unlocked, Fault> {
        let started = Instant::now();
        let unlocked = self.ask(Task::Unlock { all: request.all }, progress).await;
        self.settle(Work::Unlock, started, unlocked, |_, _, _| {}).await
    }

    async fn change_password(&self, progress: &Progress) -> Result<Changed, Fault> {
        let Some(Repository { password_file: file, .. }) = &self.config.repository else {
            return Err(Fault::new(Code::Unavailable, "phoenix.repository is not set: there are no backups"));
        };
        if self.config.append_only {
            return Err(Fault::new(Code::Forbidden, "phoenix.append_only is on: no key is removed"));
        }
        let mut new_file = file.clone().into_os_string();
        new_file.push(".new");
        let started = Instant::now();
        let changed = self.ask(Task::Password { new_file: new_file.into() }, progress).await;
        self.settle(Work::Password, started, changed, |_, _, _| {}).await
    }
}
