//! The vault for the command line, on a machine whose node is stopped, or that never had one.

use std::sync::Arc;

use serde_json::Value;

use super::model::{Fetched, Restored};
use super::place::Repository;
use super::switch::{self, PARTS, Plan};
use super::worker::{Order, Task, perform};
use crate::clock::Clock;
use crate::ledger::{Generation, StateLock};

/// A repository, and whose backups in it are meant.
#[derive(Clone, Debug)]
pub struct Access {
    /// The repository.
    pub repository: Repository,
    /// Only backups of this node; empty for any.
    pub node: String,
}

/// What can be done without a node.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Lists the backups.
    List,
    /// Shows one.
    Show(String),
    /// Checks the repository; a percentage of its data is read.
    Verify(Option<f64>),
}

type Failed = Box<dyn std::error::Error>;

impl Access {
    fn order(&self, task: Task) -> Order {
        let others = self.node.is_empty();
        Order { repository: self.repository.clone(), host: self.node.clone(), others, task }
    }

    /// Does it, telling `step` how far it is.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn ask(&self, ask: &Ask, step: impl Fn(u64, u64) + Send + Sync + 'static) -> Result<Value, Failed> {
        let task = match ask {
            Ask::List => Task::List,
            Ask::Show(snapshot) => Task::Show { snapshot: snapshot.clone() },
            Ask::Verify(percent) => Task::Verify { percent: *percent, known: Vec::new() },
        };
        Ok(perform(&self.order(task), &(Arc::new(step) as _))?)
    }

    /// Restores `snapshot` into the next generation of the state folder, and switches to it.
    ///
    /// # Errors
    /// What went wrong, for people; the present generation stays in use then.
    pub fn restore(
        &self,
        snapshot: &str,
        state: &std::path::Path,
        key_file: &std::path::Path,
        step: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Restored, Failed> {
        let lock = StateLock::take(state)?;
        let generation = Generation::of(lock.clone())?;
        switch::remove_unfinished(state);
        let (number, folder) = generation.prepare_next()?;
        let prepared = (|| -> Result<Fetched, Failed> {
            let parts = folder.join(PARTS);
            super::capture::clear(&parts)?;
            let task = Task::Fetch { snapshot: snapshot.to_owned(), folder: parts.clone() };
            let fetched: Fetched =
                serde_json::from_value(perform(&self.order(task), &(Arc::new(step) as _))?)?;
            switch::check_key(&parts, key_file)?;
            let plan = Plan {
                snapshot: fetched.snapshot.id.clone(),
                principal: crate::gate::LOCAL.to_owned(),
                at: Clock::system().now(),
            };
            switch::propose(&generation, number, &folder, &plan)?;
            Ok(fetched)
        })();
        let fetched = prepared.inspect_err(|_| {
            // Nothing refers to it.
            let _ = std::fs::remove_dir_all(&folder);
        })?;
        switch::take_up(&lock, key_file, &Clock::system())?;
        Ok(Restored { fetched, generation: number, takes_effect: "now" })
    }
}
