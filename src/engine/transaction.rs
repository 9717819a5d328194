//! The one transaction of a write, and the one that accepts a job: inbox row, effect, reply and audit together.

use rusqlite::params;

use super::asked::Asked;
use super::command::{Effect, Lane};
use super::inbox::{self, Known};
use super::outbox::{self, Pending, Stored};
use super::{Engine, jobs};
use crate::ledger::{Unit, Work, audit};
use crate::wire::{Code, Encoding, Fault};

/// What is to be done in the transaction.
pub(super) enum Task {
    /// Run the effect and answer.
    Write(Effect),
    /// Put the job down; it is answered when it has finished.
    Accept {
        /// Its id.
        job: String,
        /// Where it waits for its turn.
        lane: Lane,
    },
}

/// How the transaction went, when it did.
enum Done {
    /// Done now: the reply and its row, where one was written.
    Answered(Stored, Option<i64>),
    /// The job is accepted.
    Accepted,
    /// It failed, and only its nonce is used up; the reply and its row, where a repeat may ask for it.
    Failed(Fault, Option<(Stored, i64)>),
    /// It was done before; this was the answer.
    Repeated(Stored),
    /// It was done before, and the answer is on its way to where it is wanted.
    OnItsWay(Stored),
}

/// A write or the acceptance of a job, as the ledger's writer runs it.
pub(super) struct Transaction {
    engine: Engine,
    asked: Asked,
    task: Task,
    done: Option<Done>,
}

impl Transaction {
    pub(super) const fn new(engine: Engine, asked: Asked, task: Task) -> Self {
        Self { engine, asked, task, done: None }
    }

    fn attempt(&mut self, unit: &mut Unit<'_>) -> Result<Done, Fault> {
        let key = self.asked.key();
        if let Some(key) = &key {
            match inbox::find(unit, key)? {
                Some(Known::Answered { row, stored, on_its_way }) => {
                    return self.repeated(unit, row, stored, on_its_way);
                }
                Some(Known::WithoutEffect { failure, same }) => {
                    let nonce = self.asked.nonce.as_ref();
                    let again = same && nonce.map_or(Ok(false), |nonce| nonce.is_used(unit))?;
                    match failure {
                        Some((row, stored, on_its_way)) if again => {
                            return self.repeated(unit, row, stored, on_its_way);
                        }
                        _ => inbox::forget(unit, key)?,
                    }
                }
                Some(Known::Running { job }) => {
                    let outcome = jobs::still_running(&job)?;
                    return Ok(Done::Repeated(self.asked.stored(outcome, unit.now())));
                }
                None => {}
            }
        }
        if self.asked.is_late() {
            return Err(Fault::new(Code::Expired, "the deadline passed before the command could be done"));
        }
        if let Some(nonce) = &self.asked.nonce {
            nonce.use_up(unit)?;
        }
        match &mut self.task {
            Task::Write(effect) => {
                // A signed command that fails has used its nonce up all the same, unless it may succeed later.
                let done = if self.asked.nonce.is_some() { unit.part(effect)? } else { effect(unit) };
                let outcome = match done {
                    Ok(outcome) => outcome,
                    Err(fault) if self.asked.nonce.is_some() && !fault.retryable => {
                        return self.failed(unit, key.as_ref(), fault);
                    }
                    Err(fault) => return Err(fault),
                };
                let stored = self.asked.stored(outcome, unit.now());
                // A local asker without an id gets the answer on the socket, and nothing could ask for it again.
                let row = if self.asked.route.topic.is_some() || key.is_some() {
                    Some(outbox::insert(unit, &stored, &self.asked.route, key.is_some())?)
                } else {
                    None
                };
                if let Some(key) = &key {
                    inbox::insert(unit, key, row, None)?;
                }
                Ok(Done::Answered(stored, row))
            }
            Task::Accept { job, .. } => {
                insert_job(unit, job, &self.asked)?;
                if let Some(key) = &key {
                    inbox::insert(unit, key, None, Some(job))?;
                }
                Ok(Done::Accepted)
            }
        }
    }
}

impl Transaction {
    /// It was done before, and this was the answer.
    fn repeated(
        &self,
        unit: &Unit<'_>,
        row: i64,
        stored: Stored,
        on_its_way: Option<outbox::Route>,
    ) -> Result<Done, Fault> {
        if on_its_way.is_some_and(|route| route.leads_where(&self.asked.route)) {
            outbox::send_again(unit, row)?;
            return Ok(Done::OnItsWay(stored));
        }
        Ok(Done::Repeated(stored))
    }

    /// A signed command has failed for good. Its nonce is used up, so that a repeat could not be tried anew: it gets this answer.
    fn failed(&self, unit: &Unit<'_>, key: Option<&inbox::Key>, fault: Fault) -> Result<Done, Fault> {
        let Some(key) = key else { return Ok(Done::Failed(fault, None)) };
        let stored = self.asked.stored(fault.clone().into(), unit.now());
        let row = outbox::insert(unit, &stored, &self.asked.route, true)?;
        inbox::insert(unit, key, Some(row), None)?;
        Ok(Done::Failed(fault, Some((stored, row))))
    }
}

fn insert_job(unit: &Unit<'_>, job: &str, asked: &Asked) -> Result<(), Fault> {
    let route = &asked.route;
    unit.prepare_cached(
        "INSERT INTO job (id, command, principal, topic, message_id, payload, cbor, state, reply_topic, correlation_data,
                          correlation_id, expires_at, accepted_at, decision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'accepted', ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        job,
        asked.command,
        asked.call.principal,
        asked.topic,
        asked.call.message_id,
        asked.payload.bytes(),
        asked.payload.encoding() == Encoding::Cbor,
        route.topic,
        route.correlation_data.as_deref(),
        route.correlation_id,
        route.expires_at.millis(),
        unit.now().millis(),
        asked.decision,
    ])?;
    Ok(())
}

impl Work for Transaction {
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), Fault> {
        self.done = Some(self.attempt(unit)?);
        Ok(())
    }

    fn audit(&self, result: &Result<(), Fault>) -> Option<audit::Entry> {
        let outcome = match (result, &self.done) {
            (Err(fault), _) | (Ok(()), Some(Done::Failed(fault, _))) => {
                return Some(self.asked.audit(fault.code.as_str(), Some(fault)));
            }
            (Ok(()), Some(Done::Repeated(_) | Done::OnItsWay(_))) => "repeated",
            (Ok(()), Some(Done::Accepted)) => "accepted",
            (Ok(()), _) => "ok",
        };
        Some(self.asked.audit(outcome, None))
    }

    fn when_full(&self) -> bool {
        self.asked.when_full
    }

    fn finish(self: Box<Self>, result: Result<(), Fault>) {
        let Self { engine, asked, task, done } = *self;
        match (result, done) {
            (Ok(()), Some(Done::Answered(stored, row))) => {
                engine.count(&asked, stored.outcome.label());
                asked.answered(&engine, stored, row);
            }
            (Ok(()), Some(Done::Accepted)) => {
                if let Task::Accept { job, lane } = task {
                    engine.count(&asked, "accepted");
                    engine.start_job(job, lane, asked);
                }
            }
            (Ok(()), Some(Done::Repeated(stored))) => {
                engine.count(&asked, "repeated");
                engine.reply_later(asked, stored);
            }
            (Ok(()), Some(Done::OnItsWay(stored))) => {
                engine.count(&asked, "repeated");
                engine.inner.outbox.look_again();
                asked.answered(&engine, stored, None);
            }
            (Ok(()), None) => engine.reply_fault(asked, Fault::internal()),
            (Ok(()), Some(Done::Failed(fault, Some((stored, row))))) => {
                engine.watch(&asked, &fault);
                engine.count(&asked, fault.code.as_str());
                asked.answered(&engine, stored, Some(row));
            }
            (Ok(()), Some(Done::Failed(fault, None))) | (Err(fault), _) => engine.reply_fault(asked, fault),
        }
    }
}

/// A reply that could not be published in time, on its way into the outbox.
pub(super) struct Defer {
    engine: Engine,
    asked: Asked,
    stored: Stored,
    row: Option<i64>,
}

impl Defer {
    pub(super) const fn new(engine: Engine, asked: Asked, stored: Stored) -> Self {
        Self { engine, asked, stored, row: None }
    }
}

impl Work for Defer {
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), Fault> {
        self.row = Some(outbox::insert(unit, &self.stored, &self.asked.route, false)?);
        Ok(())
    }

    fn audit(&self, _: &Result<(), Fault>) -> Option<audit::Entry> {
        None
    }

    fn when_full(&self) -> bool {
        self.asked.when_full
    }

    fn finish(self: Box<Self>, result: Result<(), Fault>) {
        let Self { engine, asked, stored, row } = *self;
        match result {
            Ok(()) => asked.answered(&engine, stored, row),
            Err(error) if asked.is_gone() => {
                tracing::warn!(%error, "a reply could be neither published nor kept");
            }
            // The connection still waits for its acknowledgement, and all that come after it: try again.
            Err(_) => engine.reply_later(asked, stored),
        }
    }
}

/// The bytes of an outcome that count against the outbox's bound.
pub(super) fn pending(id: i64, stored: Stored, route: outbox::Route) -> Pending {
    let bytes = stored.size();
    Pending { id, bytes, stored, route }
}
