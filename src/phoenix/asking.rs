//! What the service has its worker do: one task on the repository at a time, cleared up after, and told where it found damage.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::worker::{self, Order, Task};
use super::{Phoenix, child, finding};
use crate::engine::jobs::Progress;
use crate::wire::{Code, Fault};

impl Phoenix {
    /// Has the worker do `task`, alone.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        mut task: Task,
        progress: &Progress,
    ) -> Result<T, Fault> {
        let Some(repository) = self.config.repository.clone() else {
            return Err(Fault::new(Code::Unavailable, "phoenix.repository is not set: there are no backups"));
        };
        // Who only looks need not wait for the others.
        let looks = matches!(task, Task::List | Task::Show { .. });
        let _alone = if looks { None } else { Some(self.alone.lock().await) };
        if let Task::Verify { known, .. } = &mut task {
            // Not before the others are done: a prune changes it.
            *known = self.known();
        }
        let order = Order { repository, host: self.config.node.clone(), others: true, task };
        let answer = child::carry_out(&order, self.config.worker_memory, progress).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => {
                // Who only looks is told, and nothing is lost.
                if looks {
                    tracing::warn!(%fault, "the backups could not be looked at");
                }
                if let Some(folder) = order.task.scratch() {
                    // A worker that was ended leaves a copy of the ledger and its key.
                    let folder = folder.to_owned();
                    let _ = tokio::task::spawn_blocking(move || worker::remove(&folder)).await;
                }
                return Err(fault);
            }
        };
        self.tell_of_unreadable(&answer, looks);
        serde_json::from_value(answer).map_err(|_| Fault::internal())
    }

    /// Backups that are damaged keep nobody from the others; so this says it.
    fn tell_of_unreadable(&self, answer: &Value, looks: bool) {
        let ids: Vec<_> =
            answer["unreadable"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if ids.is_empty() {
            return;
        }
        let message = finding::unreadable(&ids);
        tracing::error!("{message}");
        if !looks {
            self.events.tell_error("backup_damaged", &message, self.ledger.clock().now());
        }
    }

    /// Ids of the backups that this node has in the present repository. Where it may remove nothing others do, and only what
    /// is never to be removed has to be there.
    pub(super) fn known(&self) -> Vec<String> {
        let health = self.state();
        let elsewhere = health.repository.is_some() && health.repository != self.location();
        if elsewhere {
            return Vec::new();
        }
        let mut known = health.snapshots.clone();
        if self.config.append_only {
            let floor = usize::try_from(self.config.keep.floor).unwrap_or(usize::MAX);
            known.drain(..known.len().saturating_sub(floor));
        }
        known
    }
}
