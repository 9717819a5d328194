//! Runs what is due, each as a task of its own, and puts down how it went.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Perform, Schedule, Task, store};
use crate::clock::Timestamp;
use crate::wire::Fault;

/// Longest time between two looks at the clock, which may jump.
const LOOK: Duration = Duration::from_secs(10);

/// How late a run is taken for a missed one.
const LATE: i64 = 60_000;

/// How long a missed run waits for the clock to be known to be right. After that it is taken as it is: many machines never
/// say so.
const SYNCHRONIZE: Duration = Duration::from_secs(120);

/// How a run went.
struct Ended {
    name: &'static str,
    /// `None` for a run of an earlier process that nothing is known of.
    result: Option<Result<(), Fault>>,
}

impl Schedule {
    /// Runs what is due until `stop`.
    pub async fn run(self: Arc<Self>, perform: Arc<dyn Perform>, stop: CancellationToken) {
        let began = Instant::now();
        let tasks: HashMap<_, _> = self.options.tasks.iter().map(|task| (task.name, task.clone())).collect();
        let mut running = JoinSet::new();
        for (name, run) in self.cut_off() {
            let Some(task) = tasks.get(name) else { continue };
            running.spawn(take_up(perform.clone(), task.clone(), run));
        }
        loop {
            let clock_is_right = began.elapsed() > SYNCHRONIZE || (self.options.synchronized)();
            let (due, pause) = self.look(clock_is_right).await;
            for (name, run) in due {
                let Some(task) = tasks.get(name) else { continue };
                running.spawn(carry_out(perform.clone(), task.clone(), run));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                Some(ended) = running.join_next() => match ended {
                    Ok(ended) => self.ended(ended).await,
                    Err(error) => tracing::error!(%error, "a run of the schedule was lost"),
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Runs that an earlier process has begun, and not ended.
    fn cut_off(&self) -> Vec<(&'static str, String)> {
        let entries = self.entries();
        entries.iter().filter(|entry| entry.running).map(|entry| (entry.name, entry.run_id())).collect()
    }

    /// What begins now, with the names of the runs, and how long to wait until the next look.
    pub(super) async fn look(&self, clock_is_right: bool) -> (Vec<(&'static str, String)>, Duration) {
        let now = self.ledger.clock().now();
        let (due, changed) = self.begin_what_is_due(now, clock_is_right);
        // What cannot be put down is run all the same: a full disk must not keep a pruning from making room.
        self.save(&changed).await;
        let entries = self.entries();
        let next = entries.iter().filter(|entry| !entry.running && entry.state.paused.is_none());
        let wait =
            next.filter_map(|entry| entry.state.next).map(|next| next.due.millis() - now.millis()).min();
        let wait = wait.and_then(|wait| u64::try_from(wait).ok()).map_or(LOOK, Duration::from_millis);
        // At least a moment: what is due and waits for the clock must not make this spin.
        (due, wait.clamp(Duration::from_millis(100), LOOK))
    }

    fn begin_what_is_due(
        &self,
        now: Timestamp,
        clock_is_right: bool,
    ) -> (Vec<(&'static str, String)>, Vec<&'static str>) {
        let (mut due, mut changed) = (Vec::new(), Vec::new());
        let zone = &self.options.zone;
        let random = |most| if most > 0 { fastrand::i64(0..=most) } else { 0 };
        for entry in self.entries().iter_mut() {
            let settled = entry.settle(now, zone, random);
            let begins = entry.is_due(now) && (clock_is_right || !entry.is_late(now, LATE));
            if begins {
                entry.begin(now, zone, random);
                due.push((entry.name, entry.run_id()));
            }
            if settled || begins {
                changed.push(entry.name);
            }
        }
        (due, changed)
    }

    async fn ended(&self, ended: Ended) {
        let Ended { name, result } = ended;
        let Some(result) = result else {
            tracing::warn!(task = name, "a run of the schedule was cut off by a restart");
            return self.change(name, |entry| entry.running = false);
        };
        let now = self.ledger.clock().now();
        let outcome = result.as_ref().map_or_else(|fault| fault.code.as_str(), |()| "ok");
        let failed = result.err().map(|fault| (fault.code, fault.message));
        let told = failed.clone();
        let mut in_a_row = 0;
        self.change(name, |entry| {
            entry.end(now, failed);
            in_a_row = entry.state.failures;
        });
        self.metrics.recurring().run(name, outcome, in_a_row);
        if let Some((code, message)) = told {
            tracing::warn!(task = name, %code, message, in_a_row, "a run of the schedule failed");
            let message = format!("{name}: {message} ({in_a_row} in a row)");
            self.events.tell_error("schedule_failed", &message, now);
        }
        self.save(&[name]).await;
    }

    pub(super) async fn save(&self, names: &[&'static str]) {
        if names.is_empty() {
            return;
        }
        let entries: Vec<_> =
            self.entries().iter().filter(|entry| names.contains(&entry.name)).cloned().collect();
        let write =
            self.ledger.write(move |unit| entries.iter().try_for_each(|entry| store::save(unit, entry)));
        if let Err(error) = write.await {
            tracing::warn!(%error, "the schedule could not be put down");
        }
    }
}

async fn carry_out(perform: Arc<dyn Perform>, task: Task, run: String) -> Ended {
    tracing::debug!(task = task.name, run, "a run of the schedule begins");
    Ended { name: task.name, result: Some(perform.perform(&task, run).await) }
}

async fn take_up(perform: Arc<dyn Perform>, task: Task, run: String) -> Ended {
    Ended { name: task.name, result: perform.resume(&task, run).await }
}
