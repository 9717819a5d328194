//! From a command to the handler of its kind, or to a refusal.

use std::time::Duration;

use futures_util::FutureExt;
use rusqlite::Connection;

use super::asked::{Asked, Channel};
use super::command::{BoxFuture, Choice, Handler, Lane};
use super::transaction::{Task, Transaction};
use super::{Engine, inbox};
use crate::gate::authorize::{Judgement, Ruling};
use crate::gate::nonce::Nonce;
use crate::gate::{Admission, Identified};
use crate::wire::topic::Target;
use crate::wire::{Code, Fault, Outcome};

impl Engine {
    pub(super) async fn run(&self, asked: Asked, target: Target, asker: &Identified) {
        let Some(command) = self.inner.registry.get(&asked.command) else {
            return self.refuse(asked, Fault::new(Code::UnknownCommand, "no such service or verb"));
        };
        let declaration = &command.declaration;
        if !declaration.reaches(target) {
            return self
                .refuse(asked, Fault::new(Code::UnknownCommand, "this command is for a node by its name"));
        }
        let admission = Admission { asker, declaration, topic: &asked.topic, now: asked.call.received };
        if matches!(asked.channel, Channel::Mqtt(_)) {
            if let Err(fault) = self.inner.gate.admit(&admission) {
                return self.refuse_unless_known(asked, fault).await;
            }
            if asked.exposed {
                let message = "the answer is for the asker alone: name a reply topic under their own inbox";
                return self.refuse(asked, Fault::invalid(message));
            }
            match self.inner.gate.judge(&admission) {
                Judgement::Unasked => {}
                Judgement::Ruled(ruling) => return self.ruled(asked, ruling).await,
                Judgement::Asking(ruling) => {
                    // Nobody else waits for the server's answer: later commands may overtake this one.
                    let (engine, asker) = (self.clone(), asker.clone());
                    let ruled = async move {
                        let ruling = ruling.await;
                        // The key may have been revoked meanwhile.
                        if engine.inner.gate.stands(&asker, engine.inner.clock.now()) {
                            return engine.ruled(asked, ruling).await;
                        }
                        let message = "the credentials were withdrawn while the policies were asked";
                        engine.refuse(asked, Fault::new(Code::Unauthenticated, message));
                    };
                    self.inner.tasks.spawn_on(ruled, &self.inner.runtime);
                    return;
                }
            }
        }
        self.perform(asked).await;
    }

    /// The policies have spoken.
    async fn ruled(&self, mut asked: Asked, Ruling { id, outcome }: Ruling) {
        let label = outcome.as_ref().map_or_else(|fault| fault.code.as_str(), |()| "ok");
        self.inner.metrics.policy_decision(label);
        asked.decision = Some(id);
        match outcome {
            Ok(()) => self.perform(asked).await,
            Err(fault) => self.refuse_unless_known(asked, fault).await,
        }
    }

    /// Does what nothing stands against any more.
    async fn perform(&self, asked: Asked) {
        let Some(command) = self.inner.registry.get(&asked.command) else {
            return self.refuse(asked, Fault::new(Code::UnknownCommand, "no such service or verb"));
        };
        if asked.time_left.is_zero() {
            return self.refuse(asked, Fault::new(Code::Expired, "the command had expired when it arrived"));
        }
        if self.inner.ledger.is_full() && !asked.when_full {
            return self.refuse(
                asked,
                Fault::new(Code::StorageFull, "the node's disk is full; nothing was done")
                    .retry_after(10_000),
            );
        }
        match &command.handler {
            Handler::Read(run) => {
                let run = |asked: &Asked| run(asked.call.clone(), &asked.payload);
                self.read(asked, run).await;
            }
            Handler::Either { choose, .. } => match caught(|| choose(&asked.call, &asked.payload)) {
                Ok(Choice::Read(future)) => self.read(asked, |_| future).await,
                Ok(Choice::Write(effect)) => self.submit(asked, Task::Write(effect)).await,
                Ok(Choice::Job) => self.accept(asked, command.declaration.lane).await,
                Err(fault) => self.refuse_unless_known(asked, fault).await,
            },
            Handler::Write(prepare) => match caught(|| prepare(&asked.call, &asked.payload)) {
                Ok(effect) => self.submit(asked, Task::Write(effect)).await,
                Err(fault) => self.refuse_unless_known(asked, fault).await,
            },
            Handler::Job { check, .. } => match check(&asked.payload) {
                Ok(()) => self.accept(asked, command.declaration.lane).await,
                Err(fault) => self.refuse_unless_known(asked, fault).await,
            },
        }
    }

    /// A signed read has no transaction of its own to use its nonce up in. It runs again when the same comes once more.
    async fn use_nonce_up(&self, nonce: Option<Nonce>, key: Option<inbox::Key>) -> Result<(), Fault> {
        let Some(nonce) = nonce else { return Ok(()) };
        self.inner.ledger.write(move |unit| inbox::admit_read(unit, key.as_ref(), &nonce)).await
    }

    /// A repeat gets its stored answer even when it would be refused today.
    async fn refuse_unless_known(&self, asked: Asked, fault: Fault) {
        let Some(key) = asked.key().filter(|_| !asked.exposed) else { return self.refuse(asked, fault) };
        let nonce = asked.nonce.clone();
        let known = move |connection: &Connection| inbox::answer(connection, &key, nonce.as_ref());
        match self.inner.ledger.read(known).await {
            Ok(Some(stored)) => self.reply_later(asked, stored),
            Err(conflict) if conflict.code == Code::Conflict => self.refuse(asked, conflict),
            _ => self.refuse(asked, fault),
        }
    }

    async fn read(&self, asked: Asked, run: impl FnOnce(&Asked) -> BoxFuture<Result<Outcome, Fault>>) {
        let Ok(permit) = self.inner.reads.clone().acquire_owned().await else {
            return self.refuse(asked, Fault::internal());
        };
        let future = match caught(|| Ok(run(&asked))) {
            Ok(future) => future,
            Err(fault) => return self.reply_fault(asked, fault),
        };
        let engine = self.clone();
        self.inner.tasks.spawn_on(
            async move {
                // Here, so that nobody else waits for this nonce to be durable.
                let (nonce, key) = (asked.nonce.clone(), asked.nonce.as_ref().and_then(|_| asked.key()));
                if let Err(fault) = engine.use_nonce_up(nonce, key).await {
                    return engine.refuse(asked, fault);
                }
                let outcome = guarded(future, asked.time_left).await.unwrap_or_else(Outcome::from);
                // What cannot be recorded is not answered.
                let outcome =
                    match engine.inner.ledger.note(asked.audit(outcome.label(), outcome.error.as_ref())) {
                        Ok(()) => outcome,
                        Err(fault) => fault.into(),
                    };
                engine.count(&asked, outcome.label());
                let stored = asked.stored(outcome, engine.inner.clock.now());
                engine.reply(asked, stored).await;
                drop(permit);
            },
            &self.inner.runtime,
        );
    }

    async fn accept(&self, asked: Asked, lane: Lane) {
        if self.inner.jobs.is_full(lane) {
            return self.refuse_unless_known(asked, too_much()).await;
        }
        let job = uuid::Uuid::now_v7().to_string();
        self.submit(asked, Task::Accept { job, lane }).await;
    }

    async fn submit(&self, asked: Asked, task: Task) {
        if self.inner.outbox.is_full() {
            return self.refuse_unless_known(asked, too_much()).await;
        }
        let transaction = Transaction::new(self.clone(), asked, task);
        // When the writer has stopped the command stays unacknowledged, and comes again after the restart.
        if let Err(error) = self.inner.ledger.submit(Box::new(transaction)).await {
            tracing::error!(%error, "the ledger's writer is gone");
        }
    }

    /// Answers with an error before anything ran; recorded as one row for each code, principal and second. In a flood only
    /// the first are answered.
    pub(super) fn refuse(&self, asked: Asked, fault: Fault) {
        self.inner.metrics.message_refused(fault.code.as_str());
        if self.inner.refusals.record(&asked, &fault) {
            return self.reply_fault(asked, fault);
        }
        self.watch(&asked, &fault);
        self.count(&asked, fault.code.as_str());
        self.inner.metrics.message_dropped("flood");
        asked.unanswered();
    }
}

fn too_much() -> Fault {
    Fault::new(Code::Busy, "too much waits to be done or answered").retry_after(1_000)
}

/// Runs the part of a handler that is not a future; a panic in it answers `internal`.
fn caught<T>(run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_panic| {
        tracing::error!("a handler panicked");
        Err(Fault::internal())
    })
}

/// Runs a handler with a deadline; a panic in it answers `internal` and leaves the others running.
pub(super) async fn guarded<T>(future: BoxFuture<Result<T, Fault>>, time_left: Duration) -> Result<T, Fault> {
    let caught = std::panic::AssertUnwindSafe(future).catch_unwind();
    match tokio::time::timeout(time_left, caught).await {
        Ok(Ok(done)) => done,
        Ok(Err(_panic)) => {
            tracing::error!("a handler panicked");
            Err(Fault::internal())
        }
        Err(_elapsed) => Err(Fault::new(Code::Expired, "the deadline passed first")),
    }
}
