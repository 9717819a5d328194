//! What the node does by itself, and when.
//!
//! An entry is a command to this node and a time at which it recurs. Its runs are jobs like all others, by the principal
//! `schedule`: audited, told on `events/jobs`, cancelled by `node/jobs/cancel`. Promises: see [`agenda`]; how it stands is in the
//! ledger before a run begins and after it has ended; a failure is told on `events/errors` and counted.

mod agenda;
pub mod model;
mod runner;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::sync::Notify;

use crate::engine::Events;
use crate::engine::command::{Answer, BoxFuture, Entry as Command};
use crate::ledger::{Ledger, Unit};
use crate::observe::Metrics;
use crate::when::When;
use crate::wire::{Code, Fault};
use agenda::Entry;
use model::{Agenda, Changed, List, Named, Pause, Scheduled, Started};

/// Longest reason of a pause, in characters.
const MAX_REASON: usize = 200;

/// A command to this node, and when it recurs.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name: the key in `[schedule]`.
    pub name: &'static str,
    /// When.
    pub when: When,
    /// Service and verb.
    pub command: &'static str,
    /// The arguments.
    pub payload: Value,
}

/// Does what is due. The engine, or a test.
pub trait Perform: Send + Sync {
    /// Runs the command of `task` to its end, as the run that is called `run`. Does not resolve when the process stops before
    /// that.
    fn perform(&self, task: &Task, run: String) -> BoxFuture<Result<(), Fault>>;

    /// How the run of `task` went that an earlier process has begun, once it has ended: it may go on in this one. `None` when
    /// nothing is known of it.
    fn resume(&self, task: &Task, run: String) -> BoxFuture<Option<Result<(), Fault>>>;
}

/// How the schedule is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// What recurs.
    pub tasks: Vec<Task>,
    /// Whose clocks cron expressions are about.
    pub zone: TimeZone,
    /// Longest random delay of each run.
    pub jitter: Duration,
    /// Whether the machine's clock is known to be right.
    pub synchronized: fn() -> bool,
}

/// The running schedule.
pub struct Schedule {
    ledger: Ledger,
    events: Events,
    metrics: Metrics,
    options: Options,
    entries: Mutex<Vec<Entry>>,
    /// Something has changed: look again.
    changed: Notify,
}

/// Every command of the schedule.
#[must_use]
pub fn commands() -> Vec<Command<Schedule>> {
    const SERVICE: &str = "node";
    vec![
        Command::read(
            SERVICE,
            "schedule/list",
            "Lists what the node does by itself, when next, and how it went",
            |schedule: Arc<Schedule>, _, _: List| async move {
                Ok(Answer::from(Agenda { entries: schedule.list() }))
            },
        )
        .when_full(),
        Command::write(
            SERVICE,
            "schedule/run",
            "Has an entry of the schedule run now",
            |schedule: &Arc<Schedule>, _, request: Named| {
                let schedule = schedule.clone();
                Ok(move |unit: &mut Unit<'_>| {
                    let name = schedule.known(&request.name)?;
                    if schedule.entries().iter().any(|entry| entry.name == name && entry.running) {
                        return Err(Fault::new(Code::Conflict, "it runs already"));
                    }
                    let schedule = schedule.clone();
                    unit.after_commit(move || schedule.change(name, |entry| entry.wanted = true));
                    Ok(Started { name: name.to_owned(), started: true })
                })
            },
        )
        .sensitive()
        .when_full(),
        Command::write(
            SERVICE,
            "schedule/pause",
            "Keeps an entry of the schedule from running by itself",
            |schedule: &Arc<Schedule>, call, request: Pause| {
                let reason = request.reason.unwrap_or_else(|| format!("paused by {}", call.principal));
                if reason.chars().count() > MAX_REASON {
                    return Err(Fault::invalid(format!("reason: expected at most {MAX_REASON} characters")));
                }
                let schedule = schedule.clone();
                Ok(move |unit: &mut Unit<'_>| schedule.set_paused(unit, &request.name, Some(reason.clone())))
            },
        )
        .sensitive()
        .when_full(),
        Command::write(
            SERVICE,
            "schedule/resume",
            "Lets an entry of the schedule run by itself again",
            |schedule: &Arc<Schedule>, _, request: Named| {
                let schedule = schedule.clone();
                Ok(move |unit: &mut Unit<'_>| schedule.set_paused(unit, &request.name, None))
            },
        )
        .sensitive()
        .when_full(),
    ]
}

/// What the next run depends on: the times as written, and for a cron expression the zone.
fn spec(when: &When, zone: &TimeZone) -> String {
    let text = when.text();
    if !when.is_by_the_clock() {
        return text.to_owned();
    }
    match zone.iana_name() {
        Some(name) => format!("{text} {name}"),
        None => format!("{text} {zone:?}"),
    }
}

impl Schedule {
    /// The schedule as the ledger left it. Blocks shortly: it reads the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn open(
        ledger: Ledger,
        events: Events,
        metrics: Metrics,
        options: Options,
    ) -> Result<Arc<Self>, Fault> {
        let jitter = i64::try_from(options.jitter.as_millis()).unwrap_or(i64::MAX);
        let entries = ledger.read_blocking(|connection| {
            let load = |task: &Task| {
                let spec = spec(&task.when, &options.zone);
                let state = store::load(connection, task.name, &spec)?;
                metrics.recurring().run_failures(task.name, state.failures);
                Ok(Entry::new(task.name, task.when.clone(), spec, jitter, state))
            };
            options.tasks.iter().map(load).collect::<Result<Vec<_>, Fault>>()
        })?;
        let (entries, changed) = (Mutex::new(entries), Notify::new());
        Ok(Arc::new(Self { ledger, events, metrics, options, entries, changed }))
    }

    /// What there is, in the order of the configuration.
    #[must_use]
    pub fn list(&self) -> Vec<Scheduled> {
        self.entries().iter().map(Scheduled::from).collect()
    }

    /// A panic while the list was held leaves each entry whole: they are changed field by field.
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, name: &str) -> Result<&'static str, Fault> {
        let task = self.options.tasks.iter().find(|task| task.name == name);
        task.map(|task| task.name).ok_or_else(|| Fault::not_found("the schedule has no such entry"))
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.name == name) {
            change(entry);
        }
        self.changed.notify_one();
    }

    fn set_paused(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        name: &str,
        why: Option<String>,
    ) -> Result<Changed, Fault> {
        let name = self.known(name)?;
        store::set_paused(unit, name, why.as_deref())?;
        let (schedule, paused) = (self.clone(), why.is_some());
        unit.after_commit(move || schedule.change(name, |entry| entry.state.paused = why));
        Ok(Changed { name: name.to_owned(), paused })
    }
}
