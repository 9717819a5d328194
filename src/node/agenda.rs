//! What the node does by itself, and how: each entry of the schedule is one of its own commands.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::clock;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::command::BoxFuture;
use crate::gate::Identity;
use crate::schedule::{Options, Perform, Task};
use crate::when::{When, zone};
use crate::wire::{Encoding, Fault, Payload};

/// The schedule as configured.
pub(super) fn options(config: &Config) -> Options {
    let schedule = &config.schedule;
    let task = |name, when: &When, command, payload| Task { name, when: when.clone(), command, payload };
    let none = || Value::Object(serde_json::Map::new());
    let mut tasks = vec![
        task("memory_prune", &schedule.memory_prune, "memory/prune", none()),
        task("memory_promote", &schedule.memory_promote, "memory/promote", none()),
        task("audit_checkpoint", &schedule.audit_checkpoint, "node/audit/checkpoint", none()),
        task("soul_decay", &schedule.soul_decay, "soul/decay", json!({ "prune": true })),
    ];
    if config.phoenix.repository.is_some() {
        tasks.extend([
            task("backup", &schedule.backup, "phoenix/backup", none()),
            task("backup_verify", &schedule.backup_verify, "phoenix/verify", json!({ "read_data": 10 })),
            task("backup_drill", &schedule.backup_drill, "phoenix/verify", json!({ "drill": true })),
        ]);
        if !config.phoenix.append_only {
            tasks.push(task("backup_prune", &schedule.backup_prune, "phoenix/prune", none()));
        }
    }
    Options {
        tasks,
        // The configuration has found it; a machine that has lost it since goes by UTC.
        zone: zone(&schedule.time_zone).unwrap_or(TimeZone::UTC),
        jitter: schedule.jitter,
        synchronized: clock::is_synchronized,
    }
}

/// Runs the schedule's commands as the node itself.
pub(super) struct ByEngine(pub(super) Engine);

impl Perform for ByEngine {
    fn perform(&self, task: &Task, run: String) -> BoxFuture<Result<(), Fault>> {
        let (engine, command) = (self.0.clone(), task.command);
        let payload = Payload::new(Encoding::Json, task.payload.to_string().into_bytes().into());
        Box::pin(async move {
            match engine.call_locally(Identity::schedule(), command, Some(run), None, payload).await {
                Ok(reply) => reply.error.map_or(Ok(()), Err),
                // The node stops, which is nobody's failure: the next start takes the job up.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn resume(&self, _: &Task, run: String) -> BoxFuture<Option<Result<(), Fault>>> {
        let engine = self.0.clone();
        Box::pin(async move { engine.job_ended(&Identity::schedule().principal, run).await })
    }
}
