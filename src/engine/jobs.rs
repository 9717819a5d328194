//! Long work: accepted durably, run with a deadline, answered once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::asked::{Asked, Channel};
use super::command::{Call, Effect, Ending, Lane, Long};
use super::dispatch::guarded;
use super::outbox::{self, Route, Stored};
use super::progress::Part;
use super::transaction::pending;
use super::{Engine, inbox};
use crate::clock::Timestamp;
use crate::ledger::{Unit, Work, audit};
use crate::wire::topic::Target;
use crate::wire::{Code, Encoding, Fault, Outcome, Payload, Reply, Status};

pub use super::progress::{Progress, Step};

/// Jobs of one lane that may be accepted and not yet finished.
const OPEN_JOBS: usize = 64;

/// How often a running job's progress is told at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How often a piece of its text is told at most.
const PART_INTERVAL: Duration = Duration::from_millis(100);

/// How long a cancelled job may take to end by itself.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How long a finished job can be looked up.
const KEEP_FINISHED: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The jobs of this process. A clone is the same jobs.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

struct Shared {
    slots: Arc<Semaphore>,
    running: Mutex<HashMap<String, (Lane, CancellationToken)>>,
    /// One of them has ended.
    ended: Notify,
}

/// A job as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id.
    pub job_id: String,
    /// Service and verb.
    pub command: String,
    /// Who asked for it.
    pub principal: String,
    /// `accepted`, `running`, `succeeded`, `failed`, `cancelled` or `interrupted`.
    pub state: String,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Reason>,
}

/// Why a job did not succeed, as its reply says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// The code of its error.
    pub code: Code,
    /// What was wrong, and what to do.
    pub message: String,
}

/// What is told on `events/jobs`.
#[derive(Serialize, JsonSchema)]
pub struct News<'a> {
    /// The job's id.
    job_id: &'a str,
    /// Service and verb.
    command: &'a str,
    /// As in [`Job::state`].
    state: &'a str,
    /// The `message_id` of its command, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_reply_to: Option<&'a str>,
    /// How far it is, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Step>,
    /// A piece of the text that it makes, where its asker wanted to hear it.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<Part>,
}

/// A job that is to be run.
pub(super) struct Accepted {
    id: String,
    lane: Lane,
    command: String,
    call: Call,
    payload: Payload,
    route: Route,
    /// The id of what the policies said when it was accepted.
    decision: Option<Arc<str>>,
    time_left: Duration,
    local: Option<oneshot::Sender<Reply>>,
}

impl Jobs {
    /// Room for `at_once` jobs to run at the same time.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Shared {
            slots: Arc::new(Semaphore::new(at_once)),
            running: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    pub(super) fn is_full(&self, lane: Lane) -> bool {
        self.running().values().filter(|(of, _)| *of == lane).count() >= OPEN_JOBS
    }

    /// Asks a job to end early. `false` when it does not run here.
    #[must_use]
    pub fn cancel(&self, id: &str) -> bool {
        let running = self.running();
        let found = running.get(id);
        found.inspect(|(_, token)| token.cancel());
        found.is_some()
    }

    /// Waits until a job does not run here, or not any more.
    pub(super) async fn gone(&self, id: &str) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            // Before the look, so that an end between the two is not missed.
            ended.as_mut().enable();
            if !self.running().contains_key(id) {
                return;
            }
            ended.await;
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Lane, CancellationToken)>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to a repeat of a job's command while the job runs.
pub(super) fn still_running(job: &str) -> Result<Outcome, Fault> {
    #[derive(Serialize)]
    struct StillRunning<'a> {
        job_id: &'a str,
        state: &'static str,
    }
    Outcome::ok(&StillRunning { job_id: job, state: "running" }, Vec::new())
}

fn from_row(row: &Row<'_>) -> Result<Job, rusqlite::Error> {
    Ok(Job {
        job_id: row.get(0)?,
        command: row.get(1)?,
        principal: row.get(2)?,
        state: row.get(3)?,
        accepted: Timestamp::from_millis(row.get(4)?),
        finished: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_millis),
        error: row.get::<_, Option<String>>(6)?.and_then(|outcome| {
            let fault = serde_json::from_str::<Outcome>(&outcome).ok()?.error?;
            Some(Reason { code: fault.code, message: fault.message })
        }),
    })
}

/// The columns that [`from_row`] reads. What a job that succeeded answered may be large, and is not asked for.
const COLUMNS: &str = "id, command, principal, state, accepted_at, finished_at,
     CASE WHEN state = 'succeeded' THEN NULL ELSE outcome END";

/// The job with this id.
///
/// # Errors
/// `not_found`.
pub fn get(connection: &Connection, id: &str) -> Result<Job, Fault> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM job WHERE id = ?1"))?
        .query_row([id], from_row)
        .optional()?
        .ok_or_else(|| Fault::not_found("no such job"))
}

/// The newest `limit` jobs.
///
/// # Errors
/// What the ledger says.
pub fn list(connection: &Connection, limit: u32) -> Result<Vec<Job>, Fault> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM job ORDER BY accepted_at DESC, id DESC LIMIT ?1"))?;
    let jobs = statement.query_map([limit], from_row)?.collect::<Result<_, _>>()?;
    Ok(jobs)
}

/// Forgets jobs that ended long ago, unless a repeat of their command may still ask for the answer.
pub(super) fn prune(unit: &Unit<'_>, inbox_before: Timestamp) -> Result<(), Fault> {
    let before = unit.now().plus_millis(-(KEEP_FINISHED.as_millis() as i64)).min(inbox_before);
    unit.prepare_cached("DELETE FROM job WHERE id IN (SELECT id FROM job WHERE finished_at < ?1 LIMIT 100)")?
        .execute([before.millis()])?;
    Ok(())
}

impl Engine {
    /// A job has been accepted, and that is committed.
    pub(super) fn start_job(&self, id: String, lane: Lane, asked: Asked) {
        let local = match asked.channel {
            Channel::Mqtt(ack) => {
                ack.complete();
                None
            }
            Channel::Local(sender) => Some(sender),
        };
        let Asked { command, call, payload, route, decision, time_left, .. } = asked;
        self.spawn_job(Accepted { id, lane, command, call, payload, route, decision, time_left, local });
    }

    /// Takes up the jobs of an earlier run: those that are safe to repeat, again from their beginning; the others are
    /// answered `interrupted`.
    pub(super) fn recover_jobs(&self) -> Result<(), Fault> {
        let (time_left, registry) = (self.inner.limits.job_deadline, &self.inner.registry);
        let open = self.inner.ledger.read_blocking(|connection| {
            let mut statement = connection.prepare(
                "SELECT id, command, principal, message_id, payload, cbor, reply_topic, correlation_data, correlation_id,
                        expires_at, accepted_at, decision
                 FROM job WHERE state IN ('accepted', 'running') ORDER BY accepted_at",
            )?;
            let rows = statement.query_map([], |row| {
                let encoding = if row.get(5)? { Encoding::Cbor } else { Encoding::Json };
                let message_id: Option<String> = row.get(3)?;
                let accepted = Timestamp::from_millis(row.get(10)?);
                let command: String = row.get(1)?;
                Ok(Accepted {
                    id: row.get(0)?,
                    lane: registry.get(&command).map_or(Lane::Work, |known| known.declaration.lane),
                    command,
                    call: Call {
                        principal: row.get(2)?,
                        signed_with: None,
                        message_id: message_id.clone(),
                        received: accepted,
                        // What only one node may do was refused before it was accepted.
                        target: Target::Node,
                    },
                    payload: Payload::new(encoding, row.get::<_, Vec<u8>>(4)?.into()),
                    route: Route {
                        topic: row.get(6)?,
                        correlation_data: row.get::<_, Option<Vec<u8>>>(7)?.map(Bytes::from),
                        correlation_id: row.get(8)?,
                        encoding,
                        in_reply_to: message_id,
                        expires_at: Timestamp::from_millis(row.get(9)?),
                        due_at: accepted,
                    },
                    decision: row.get(11)?,
                    time_left,
                    local: None,
                })
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })?;
        for job in open {
            tracing::info!(job = job.id, command = job.command, "a job of an earlier run is taken up");
            self.spawn_job(job);
        }
        Ok(())
    }

    fn spawn_job(&self, job: Accepted) {
        let cancel = CancellationToken::new();
        self.inner.jobs.running().insert(job.id.clone(), (job.lane, cancel.clone()));
        self.tell_job(&job, "accepted", None);
        let engine = self.clone();
        let recovered = job.local.is_none() && job.call.received < self.inner.started;
        self.inner.tasks.spawn_on(
            async move {
                let (id, closing) = (job.id.clone(), engine.inner.closing.clone());
                tokio::select! {
                    // Left as it is: the next start takes it up.
                    () = closing.cancelled() => {}
                    () = engine.run_job(job, cancel, recovered) => {}
                }
                engine.inner.jobs.running().remove(&id);
                engine.inner.jobs.0.ended.notify_waiters();
            },
            &self.inner.runtime,
        );
    }

    async fn run_job(&self, job: Accepted, cancel: CancellationToken, recovered: bool) {
        let long = self.inner.registry.get(&job.command).and_then(|command| command.handler.long().cloned());
        let Some(Long { run, repeatable }) = long else {
            return self.finish_job(job, "interrupted", Err(interrupted())).await;
        };
        if recovered && !repeatable {
            return self.finish_job(job, "interrupted", Err(interrupted())).await;
        }
        let _slot = match job.lane {
            Lane::Models => None,
            Lane::Work => match self.inner.jobs.0.slots.clone().acquire_owned().await {
                Ok(slot) => Some(slot),
                Err(_closed) => return,
            },
        };
        self.mark_as_running(&job).await;

        let (progress, mut steps, told_to_end) = Progress::new();
        let progress = progress.until(job.time_left);
        let work = guarded(run(job.call.clone(), job.payload.clone(), progress.clone()), job.time_left);
        tokio::pin!(work);
        let (mut ticks, mut parts) =
            (tokio::time::interval(PROGRESS_INTERVAL), tokio::time::interval(PART_INTERVAL));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        parts.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                () = cancel.cancelled(), if !told_to_end.is_cancelled() => {
                    told_to_end.cancel();
                    match tokio::time::timeout(CANCEL_GRACE, &mut work).await {
                        Ok(ended) => break ended,
                        Err(_) => break Err(Fault::new(Code::Interrupted, "the job was cancelled")),
                    }
                }
                _ = ticks.tick() => if steps.has_changed().unwrap_or(false) {
                    let step = *steps.borrow_and_update();
                    self.tell_job(&job, "running", Some(step));
                },
                _ = parts.tick() => self.tell_part(&job, progress.part()),
            }
        };
        self.tell_part(&job, progress.part());
        let failed = if cancel.is_cancelled() { "cancelled" } else { "failed" };
        self.finish_job(job, failed, ended).await;
    }

    async fn mark_as_running(&self, job: &Accepted) {
        let id = job.id.clone();
        let marked = self.inner.ledger.write(move |unit| {
            Ok(unit.execute("UPDATE job SET state = 'running' WHERE id = ?1", [&id]).map(drop)?)
        });
        if let Err(error) = marked.await {
            tracing::warn!(%error, job = job.id, "a job could not be marked as running");
        }
        self.tell_job(job, "running", None);
    }

    /// Puts down how the job ended; `failed` is its state when that was with an error.
    async fn finish_job(&self, job: Accepted, failed: &'static str, ended: Result<Ending, Fault>) {
        let (mut outcome, effect) = match ended {
            Ok(Ending::Answer(outcome)) => (outcome, None),
            Ok(Ending::Effect(effect)) => (Fault::internal().into(), Some(effect)),
            Err(fault) => (fault.into(), None),
        };
        outcome.policy_decision = job.decision.as_deref().map(str::to_owned);
        let stored = Stored::new(job.command.clone(), outcome, self.inner.clock.now());
        let (done, committed) = oneshot::channel();
        let finish = Finish { engine: self.clone(), job, failed, effect, stored, row: None, _done: done };
        if let Err(error) = self.inner.ledger.submit(Box::new(finish)).await {
            tracing::error!(%error, "the ledger's writer is gone");
        }
        // Dropped with the rest when it is in the ledger, or failed to be.
        let _ = committed.await;
    }

    fn tell_job(&self, job: &Accepted, state: &str, progress: Option<Step>) {
        self.tell_news(job, state, progress, None);
    }

    fn tell_part(&self, job: &Accepted, part: Option<Part>) {
        if part.is_some() {
            self.tell_news(job, "running", None, part);
        }
    }

    fn tell_news(&self, job: &Accepted, state: &str, progress: Option<Step>, part: Option<Part>) {
        let in_reply_to = job.call.message_id.as_deref();
        let news = News { job_id: &job.id, command: &job.command, state, in_reply_to, progress, part };
        self.inner.events.tell("jobs", &news);
    }
}

fn interrupted() -> Fault {
    Fault::new(Code::Interrupted, "a restart cut the job off; ask again if it is still wanted")
}

/// The transaction with a job's outcome.
struct Finish {
    engine: Engine,
    job: Accepted,
    /// The job's state when it ended with an error.
    failed: &'static str,
    /// What is still to be done; its answer is the job's.
    effect: Option<Effect>,
    stored: Stored,
    row: Option<i64>,
    _done: oneshot::Sender<()>,
}

impl Finish {
    fn state(&self) -> &'static str {
        match self.stored.outcome.status {
            Status::Ok => "succeeded",
            Status::Error => self.failed,
        }
    }
}

impl Work for Finish {
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), Fault> {
        if let Some(effect) = &mut self.effect {
            // What it failed with is the answer: a job that was accepted is answered.
            let outcome = unit.part(|unit| effect(unit))?.unwrap_or_else(Outcome::from);
            self.stored = Stored::new(self.job.command.clone(), outcome, unit.now());
        }
        let state = self.state();
        let Self { job, stored, .. } = self;
        match job.lane {
            Lane::Models => {
                unit.prepare_cached("DELETE FROM job WHERE id = ?1")?.execute([&job.id])?;
            }
            Lane::Work => {
                let outcome = serde_json::to_string(&stored.outcome).map_err(|_| Fault::internal())?;
                unit.prepare_cached(
                    "UPDATE job SET state = ?2, finished_at = ?3, outcome = ?4 WHERE id = ?1",
                )?
                .execute(params![job.id, state, unit.now().millis(), outcome])?;
            }
        }
        // The time for the answer counts from now: the job may have outlived that of its question.
        let life = self.engine.inner.limits.reply_expiry.as_millis() as i64;
        job.route.expires_at = job.route.expires_at.max(unit.now().plus_millis(life));
        self.row = None;
        if job.route.topic.is_some() || job.call.message_id.is_some() {
            let row = outbox::insert(unit, stored, &job.route, job.call.message_id.is_some())?;
            if let Some(message_id) = &job.call.message_id {
                inbox::answer_job(unit, &job.call.principal, message_id, row)?;
            }
            self.row = job.route.topic.is_some().then_some(row);
        }
        Ok(())
    }

    fn audit(&self, _: &Result<(), Fault>) -> Option<audit::Entry> {
        Some(audit::Entry {
            at: self.stored.made_at,
            principal: self.job.call.principal.clone(),
            command: Arc::from(self.job.command.as_str()),
            topic: None,
            message_id: self.job.call.message_id.clone(),
            outcome: self.stored.outcome.label(),
            reason: None,
            decision: self.job.decision.clone(),
            count: 1,
            payload_size: self.job.payload.bytes().len() as u64,
            payload_hash: Some(self.job.payload.sha256()),
        })
    }

    fn when_full(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, result: Result<(), Fault>) {
        if let Err(error) = result {
            let job = &self.job.id;
            tracing::error!(%error, job, "the outcome of a job could not be recorded; the next start takes it up");
            return;
        }
        let state = self.state();
        let Self { engine, job, stored, row, .. } = *self;
        engine.tell_job(&job, state, None);
        if let Some(local) = job.local {
            let _ = local.send(stored.reply(engine.inner.names.node(), &job.route, &engine.inner.seal));
        } else if let Some(row) = row {
            engine.inner.outbox.offer(pending(row, stored, job.route));
        }
    }
}
