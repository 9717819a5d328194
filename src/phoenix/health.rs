//! How the vault does, by kinds of work: kept in the ledger, shown in the figures.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension};

use super::Phoenix;
use super::model::{Failures, Health};
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::observe::Metrics;
use crate::wire::Fault;

/// Row of `meta` with the [`Health`].
pub(super) const HEALTH: &str = "phoenix";

/// What is done with backups, besides looking at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Backup,
    Verify,
    Drill,
    Prune,
    Restore,
    Release,
    Unlock,
    Password,
}

impl Work {
    pub(super) const ALL: [Self; 8] = [
        Self::Backup,
        Self::Verify,
        Self::Drill,
        Self::Prune,
        Self::Restore,
        Self::Release,
        Self::Unlock,
        Self::Password,
    ];

    /// As it is called in figures, events and the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Verify => "verify",
            Self::Drill => "drill",
            Self::Prune => "prune",
            Self::Restore => "restore",
            Self::Release => "release",
            Self::Unlock => "unlock",
            Self::Password => "password",
        }
    }
}

impl Failures {
    /// Those of one kind of work.
    pub(super) const fn of(&mut self, work: Work) -> &mut u32 {
        match work {
            Work::Backup => &mut self.backup,
            Work::Verify => &mut self.verify,
            Work::Drill => &mut self.drill,
            Work::Prune => &mut self.prune,
            Work::Restore => &mut self.restore,
            Work::Release => &mut self.release,
            Work::Unlock => &mut self.unlock,
            Work::Password => &mut self.password,
        }
    }
}

/// Shows it in the figures.
pub(super) fn show(metrics: &Metrics, health: &Health) {
    let mut failures = health.failures;
    for work in Work::ALL {
        let last = match work {
            Work::Backup => health.last_backup,
            Work::Verify => health.last_verify,
            Work::Drill => health.last_drill,
            _ => None,
        };
        let seconds = health.seconds.get(work.as_str()).copied();
        metrics.recurring().backup_state(work.as_str(), last, *failures.of(work), seconds);
    }
    metrics.recurring().backup_bytes(health.added_bytes, health.repository_bytes);
}

/// As it was put down last.
pub(super) fn read_health(connection: &Connection) -> Result<Health, Fault> {
    let text: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = ?1", [HEALTH], |row| row.get(0))
        .optional()?;
    // Of a newer program, perhaps: it is news, and no more.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

impl Phoenix {
    /// Notes how a task went: in the ledger, in the figures, and where it failed, for everyone to hear.
    pub(super) async fn settle<T>(
        &self,
        work: Work,
        started: Instant,
        result: Result<T, Fault>,
        good: impl FnOnce(&mut Health, &T, Timestamp),
    ) -> Result<T, Fault> {
        let (task, now) = (work.as_str(), self.ledger.clock().now());
        let outcome = result.as_ref().map_or_else(|fault| fault.code.as_str(), |_| "ok");
        self.metrics.recurring().backup_task(task, outcome);
        let mut in_a_row = 0;
        self.put_down(|health| {
            health.seconds.insert(task.to_owned(), started.elapsed().as_secs_f64());
            let failures = health.failures.of(work);
            *failures = if result.is_ok() { 0 } else { *failures + 1 };
            in_a_row = *failures;
            match &result {
                Ok(done) => {
                    good(health, done, now);
                    // What went wrong with another task is not mended by this one.
                    health.error.take_if(|error| error.starts_with(task));
                }
                Err(fault) => health.error = Some(format!("{task}: {}", fault.message)),
            }
        })
        .await;
        if let Err(fault) = &result {
            tracing::error!(task, %fault, in_a_row, "the vault failed");
            let message = format!("{task}: {} ({in_a_row} in a row)", fault.message);
            self.events.tell_error("backup_failed", &message, now);
        }
        result
    }

    pub(super) async fn put_down(&self, change: impl FnOnce(&mut Health)) {
        let health = {
            let mut state = self.state();
            change(&mut state);
            state.clone()
        };
        show(&self.metrics, &health);
        let write = move |unit: &mut Unit<'_>| {
            let text = serde_json::to_string(&health).map_err(|_| Fault::internal())?;
            unit.execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
                [HEALTH, &text],
            )?;
            Ok(())
        };
        if let Err(error) = self.ledger.write(write).await {
            tracing::warn!(%error, "how the vault does could not be put down");
        }
    }
}
