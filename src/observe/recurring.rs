//! The figures of what the node does by itself: the schedule's runs, and backups.

use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::figure::Family;
use crate::clock::Timestamp;

/// See the module.
pub struct Recurring {
    runs: Family<Counter, 2>,
    failures: Family<Gauge, 1>,
    backup_tasks: Family<Counter, 2>,
    backup_seconds: Family<Gauge, 1>,
    backup_success: Family<Gauge, 1>,
    backup_failures: Family<Gauge, 1>,
    backup_bytes: Family<Gauge, 1>,
}

impl Recurring {
    pub(super) fn new(r: &std::sync::Arc<PrometheusRecorder>) -> Self {
        Self {
            runs: Family::new(
                r,
                "orchd_schedule_runs_total",
                ["task", "outcome"],
                "Runs of the schedule, by outcome: ok or an error code.",
            ),
            failures: Family::new(
                r,
                "orchd_schedule_failures",
                ["task"],
                "Failures of the schedule's runs in a row.",
            ),
            backup_tasks: Family::new(
                r,
                "orchd_backup_tasks_total",
                ["task", "outcome"],
                "What was done with backups, by outcome: ok or an error code.",
            ),
            backup_seconds: Family::new(
                r,
                "orchd_backup_duration_seconds",
                ["task"],
                "How long the last one took.",
            ),
            backup_success: Family::new(
                r,
                "orchd_backup_last_success_timestamp_seconds",
                ["task"],
                "When one last succeeded, in seconds since the epoch; its age is time() minus this.",
            ),
            backup_failures: Family::new(r, "orchd_backup_failures", ["task"], "Failures in a row."),
            backup_bytes: Family::new(
                r,
                "orchd_backup_bytes",
                ["kind"],
                "Bytes that the last backup added, and of the whole repository.",
            ),
        }
    }

    /// A run of the schedule has ended, the last of `in_a_row` that failed.
    pub fn run(&self, task: &'static str, outcome: &'static str, in_a_row: u32) {
        self.runs.with([task, outcome], |c| c.increment(1));
        self.run_failures(task, in_a_row);
    }

    /// How many of the last runs of `task` failed.
    pub fn run_failures(&self, task: &'static str, in_a_row: u32) {
        self.failures.with([task], |g| g.set(f64::from(in_a_row)));
    }

    /// A backup, verification or drill has ended.
    pub fn backup_task(&self, task: &'static str, outcome: &'static str) {
        self.backup_tasks.with([task, outcome], |c| c.increment(1));
    }

    /// What the last backup added, and what the repository takes, where that is known.
    pub fn backup_bytes(&self, new: Option<u64>, total: Option<u64>) {
        for (kind, bytes) in [("new", new), ("total", total)] {
            if let Some(bytes) = bytes {
                self.backup_bytes.with([kind], |g| g.set(bytes as f64));
            }
        }
    }

    /// When `task` last succeeded, its failures in a row, and how many seconds it last took.
    pub fn backup_state(
        &self,
        task: &'static str,
        last: Option<Timestamp>,
        failures: u32,
        seconds: Option<f64>,
    ) {
        if let Some(seconds) = seconds {
            self.backup_seconds.with([task], |g| g.set(seconds));
        }
        if let Some(last) = last {
            self.backup_success.with([task], |g| g.set(last.millis() as f64 / 1_000.0));
        }
        self.backup_failures.with([task], |g| g.set(f64::from(failures)));
    }
}
