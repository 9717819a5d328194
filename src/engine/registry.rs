//! The commands that a node has, by name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::command::{Command, Entry};

/// Every command of every service.
#[derive(Default)]
pub struct Registry {
    commands: HashMap<String, Command>,
    services: BTreeSet<&'static str>,
}

impl Registry {
    /// Adds the commands of a service.
    pub fn add<S: Send + Sync + 'static>(&mut self, service: &Arc<S>, entries: &[Entry<S>]) {
        for entry in entries {
            let command = entry.bind(service);
            self.services.insert(command.declaration.service);
            self.commands.insert(command.declaration.name(), command);
        }
    }

    /// The command with this name (`memory/store`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Command> {
        self.commands.get(name)
    }

    /// Whether a service of this name is there.
    #[must_use]
    pub fn has_service(&self, service: &str) -> bool {
        self.services.contains(service)
    }

    /// The services, in order.
    pub fn services(&self) -> impl Iterator<Item = &'static str> {
        self.services.iter().copied()
    }

    /// The commands, in no order.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.commands.values()
    }
}
