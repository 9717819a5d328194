//! One unit of work in the writer's transaction.

use std::ops::Deref;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::audit;
use crate::clock::Timestamp;
use crate::wire::Fault;

/// The transaction as a unit of work sees it: a connection, the time, and what is to happen once it is durable.
pub struct Unit<'t> {
    connection: &'t Connection,
    now: Timestamp,
    after_commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl<'t> Unit<'t> {
    pub(super) const fn new(connection: &'t Connection, now: Timestamp) -> Self {
        Self { connection, now, after_commit: Vec::new() }
    }

    /// When the group of this unit began; the same for all of it.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Runs `hook` on the writer's thread after COMMIT and before the result is given out, so that whoever sees the
    /// answer sees the effect. Not run when the unit fails. It must not block.
    pub fn after_commit(&mut self, hook: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(hook));
    }

    /// Runs a part of the unit that may fail by itself: what it has changed is undone then, and the rest stays.
    ///
    /// # Errors
    /// The outer one when the ledger could not undo it, so that the whole unit has to fail; the inner one is `part`'s.
    pub fn part<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<Result<T, Fault>, Fault> {
        let hooks = self.after_commit.len();
        self.connection.prepare_cached("SAVEPOINT part")?.execute([])?;
        let done = part(self);
        if let Err(fault) = &done {
            self.after_commit.truncate(hooks);
            let undone =
                self.connection.prepare_cached("ROLLBACK TO part").and_then(|mut undo| undo.execute([]));
            // SQLite has ended the transaction by itself: why is in the first error.
            undone.map_err(|_| fault.clone())?;
        }
        self.connection.prepare_cached("RELEASE part")?.execute([])?;
        Ok(done)
    }

    pub(super) fn into_hooks(self) -> Vec<Box<dyn FnOnce() + Send>> {
        self.after_commit
    }
}

impl Deref for Unit<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// Work for the writer.
pub trait Work: Send {
    /// Does it, and keeps what is to be answered. May be called again in a fresh transaction; the effects of the earlier
    /// call are gone then. At most 5 ms.
    ///
    /// # Errors
    /// What the asker is told; the unit's changes are undone and the others' stay.
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), Fault>;

    /// The audit record, given how [`Work::run`] ended. Written in the same transaction even when it failed.
    fn audit(&self, result: &Result<(), Fault>) -> Option<audit::Entry>;

    /// Whether it is done even while the disk is full, because it makes room or says how things are.
    fn when_full(&self) -> bool;

    /// Called once, on the writer's thread: after COMMIT, or when it has failed for good. Must not block.
    fn finish(self: Box<Self>, result: Result<(), Fault>);
}

/// A unit that nobody asked for over the wire.
pub(super) struct Housekeeping<T, F> {
    write: F,
    value: Option<T>,
    done: oneshot::Sender<Result<T, Fault>>,
}

impl<T, F> Housekeeping<T, F> {
    pub(super) const fn new(write: F, done: oneshot::Sender<Result<T, Fault>>) -> Self {
        Self { write, value: None, done }
    }
}

impl<T: Send, F: FnMut(&mut Unit<'_>) -> Result<T, Fault> + Send> Work for Housekeeping<T, F> {
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), Fault> {
        self.value = Some((self.write)(unit)?);
        Ok(())
    }

    fn audit(&self, _: &Result<(), Fault>) -> Option<audit::Entry> {
        None
    }

    fn when_full(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, result: Result<(), Fault>) {
        let Self { value, done, .. } = *self;
        let value = result.and_then(|()| value.ok_or_else(Fault::internal));
        // Whoever asked may have gone; the unit is committed all the same.
        let _ = done.send(value);
    }
}
