//! The commands that concern the node itself.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::{NodeState, State, Status};
use crate::clock::Timestamp;
use crate::engine::command::{Answer, Entry};
use crate::engine::jobs::{self, Job};
use crate::ledger::Unit;
use crate::wire::topic::Target;
use crate::wire::{Code, Fault};

const SERVICE: &str = "node";

/// Most jobs in one list.
const MAX_LIST: u32 = 500;

/// No arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// An echo.
#[derive(Debug, Serialize, JsonSchema)]
struct Pong {
    /// The node's name.
    node: String,
    /// The program's version.
    version: &'static str,
    /// The node's clock.
    time: Timestamp,
}

/// Whether the node is alive and ready.
#[derive(Debug, Serialize, JsonSchema)]
struct HealthReport {
    /// No core task is stuck.
    live: bool,
    /// It serves everything.
    ready: bool,
    /// Why not.
    reasons: Vec<&'static str>,
}

/// The configuration will be read again.
#[derive(Debug, Serialize, JsonSchema)]
struct Reloading {
    /// Always true; the journal has the outcome.
    accepted: bool,
}

/// Names a job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobId {
    /// Its id.
    job_id: String,
}

/// Which jobs to list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListJobs {
    /// How many of the newest, 1 to 500.
    #[serde(default = "default_list")]
    #[schemars(range(min = 1, max = 500))]
    limit: u32,
}

const fn default_list() -> u32 {
    50
}

/// The newest jobs, newest first.
#[derive(Debug, Serialize, JsonSchema)]
struct JobList {
    /// The jobs.
    jobs: Vec<Job>,
}

/// The job was told to end.
#[derive(Debug, Serialize, JsonSchema)]
struct Cancelled {
    /// Its id.
    job_id: String,
    /// Always true; the job's own reply says how it ended.
    cancelling: bool,
}

/// Every command of the node itself.
pub(super) fn commands() -> Vec<Entry<NodeState>> {
    vec![
        Entry::read(
            SERVICE,
            "ping",
            "Answers, to show that the way there and back is open",
            |state: Arc<NodeState>, _, _: Nothing| async move {
                Ok(Answer::from(Pong {
                    node: state.names().node().to_owned(),
                    version: env!("CARGO_PKG_VERSION"),
                    time: state.now(),
                }))
            },
        )
        .also_on(&[Target::All, Target::Any])
        .when_full(),
        Entry::read(
            SERVICE,
            "status",
            "Says how the node is",
            |state: Arc<NodeState>, _, _: Nothing| async move { status(&state).await.map(Answer::from) },
        )
        .also_on(&[Target::All])
        .when_full(),
        Entry::read(
            SERVICE,
            "health",
            "Says whether the node is alive and ready, and if not, why",
            |state: Arc<NodeState>, _, _: Nothing| async move { Ok(Answer::from(health(&state))) },
        )
        .when_full(),
        Entry::read(
            SERVICE,
            "reload",
            "Reads configuration, certificates and credentials again",
            |state: Arc<NodeState>, _, _: Nothing| async move {
                state.reload();
                Ok(Answer::from(Reloading { accepted: true }))
            },
        )
        .also_on(&[Target::All])
        .sensitive(),
        Entry::read(
            SERVICE,
            "jobs/get",
            "Looks a job up",
            |state: Arc<NodeState>, _, request: JobId| async move {
                state
                    .ledger()
                    .read(move |connection| jobs::get(connection, &request.job_id))
                    .await
                    .map(Answer::from)
            },
        ),
        Entry::read(
            SERVICE,
            "jobs/list",
            "Lists the newest jobs",
            |state: Arc<NodeState>, _, request: ListJobs| async move {
                if !(1..=MAX_LIST).contains(&request.limit) {
                    return Err(Fault::invalid(format!("limit must be from 1 to {MAX_LIST}")));
                }
                let jobs =
                    state.ledger().read(move |connection| jobs::list(connection, request.limit)).await?;
                Ok(Answer::from(JobList { jobs }))
            },
        ),
        Entry::write(
            SERVICE,
            "jobs/cancel",
            "Tells a job to end early",
            |state: &Arc<NodeState>, _, request: JobId| {
                let state = state.clone();
                Ok(move |unit: &mut Unit<'_>| {
                    let job = jobs::get(unit, &request.job_id)?;
                    if job.finished.is_some() {
                        return Err(Fault::new(Code::Conflict, "the job has ended"));
                    }
                    let (state, id) = (state.clone(), request.job_id.clone());
                    unit.after_commit(move || {
                        // It may have ended since; then there is nothing left to cancel.
                        let _ = state.jobs().cancel(&id);
                    });
                    Ok(Cancelled { job_id: request.job_id.clone(), cancelling: true })
                })
            },
        )
        .when_full(),
    ]
}

async fn status(state: &NodeState) -> Result<Status, Fault> {
    let mut status = state.status(State::Online, state.started(), None);
    if let Some(engine) = state.engine() {
        status.inbox_since = engine.inbox_window_start().await?;
    }
    status.schedule = state.scheduled();
    status.backup = state.backups();
    status.models = state.models();
    Ok(status)
}

fn health(state: &NodeState) -> HealthReport {
    let live = state.health().live();
    let ready = state.health().ready();
    let mut reasons: Vec<_> = live.as_ref().err().into_iter().flatten().copied().collect();
    reasons.extend(
        ready
            .as_ref()
            .err()
            .into_iter()
            .flatten()
            .copied()
            .filter(|reason| !live.as_ref().is_err_and(|live| live.contains(reason))),
    );
    HealthReport { live: live.is_ok(), ready: ready.is_ok(), reasons }
}
