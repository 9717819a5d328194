//! How a service declares its commands.
//!
//! A command is declared once: topic, kind, where it may be used, whether it is sensitive, request and response types,
//! and the function that does it. From that declaration come routing, `topics/`, the help of the command line and the
//! examples of ACLs. A service lists its commands as [`Entry`] values in a function `commands()`; the node binds them to
//! the running service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jobs::Progress;
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::topic::Target;
use crate::wire::{Fault, Outcome, Payload, Secret};

/// What a command does to the node, and so when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Changes nothing; acknowledged when the broker has accepted the reply.
    Read,
    /// One transaction; acknowledged after its COMMIT.
    Write,
    /// Accepted in one transaction, done later, finished in another; acknowledged after the first.
    Job,
}

impl Kind {
    /// As it is written in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Job => "job",
        }
    }
}

/// Where jobs wait for their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// `limits.jobs_in_flight` of them run at the same time.
    Work,
    /// Nowhere: whoever asks models bounds that itself, so that a provider that hangs keeps no other job waiting. Nothing is
    /// kept of such a job but its answer.
    Models,
}

/// Everything that is known of a command without running it.
#[derive(Clone)]
pub struct Declaration {
    /// First topic level, such as `memory`.
    pub service: &'static str,
    /// The rest, such as `rules/set`.
    pub verb: &'static str,
    /// One sentence for people.
    pub summary: &'static str,
    /// How it runs.
    pub kind: Kind,
    /// Where else than under the node's own name it may be used.
    pub also_on: &'static [Target],
    /// Whether the gate asks for a signature.
    pub sensitive: bool,
    /// Whether its answer is for the asker alone: over MQTT it goes to an inbox of their own, or the command is refused.
    pub private: bool,
    /// Whether it still works while the disk is full.
    pub when_full: bool,
    /// Where it waits for its turn when it runs as a job.
    pub lane: Lane,
    /// The request's schema.
    pub request: fn(&mut SchemaGenerator) -> Schema,
    /// The response's schema.
    pub response: fn(&mut SchemaGenerator) -> Schema,
}

impl Declaration {
    /// Service and verb, as in the topic.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.service, self.verb)
    }

    /// Whether it may be sent to `target`.
    #[must_use]
    pub fn reaches(&self, target: Target) -> bool {
        target == Target::Node || self.also_on.contains(&target)
    }
}

/// Who is asking, and when; what a handler may know besides its request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The principal that the gate identified.
    pub principal: Arc<str>,
    /// The id of the API key that the command was signed with, where it was.
    pub signed_with: Option<Arc<str>>,
    /// The command's `message_id`, where it had one.
    pub message_id: Option<String>,
    /// When the node received it.
    pub received: Timestamp,
    /// Whether it was meant for this node alone, for all, or for any of a group.
    pub target: Target,
}

/// A response and what was degraded while it was made.
#[derive(Clone, Debug)]
pub struct Answer<R> {
    /// The response.
    pub body: R,
    /// Parts that were not as they should be, such as `index`.
    pub degraded: Vec<String>,
}

impl<R> From<R> for Answer<R> {
    fn from(body: R) -> Self {
        Self { body, degraded: Vec::new() }
    }
}

impl<R: Serialize> Answer<R> {
    fn outcome(self) -> Result<Outcome, Fault> {
        Outcome::ok(&self.body, self.degraded)
    }
}

/// A response with a member that nothing but the reply itself shows: the ledger keeps it sealed, and erases it when the
/// broker has accepted the reply. The body has `null` there.
#[derive(Clone, Debug)]
pub struct SecretAnswer<R> {
    /// The response.
    pub body: R,
    /// The member.
    pub secret: Secret,
}

/// A boxed future, as handlers return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The part of a write that runs in the transaction. It may run more than once, each time in a fresh transaction, so it
/// must have no effect but through its [`Unit`].
pub type Effect = Box<dyn FnMut(&mut Unit<'_>) -> Result<Outcome, Fault> + Send>;

/// How a command runs whose kind depends on its request.
pub enum Choice {
    /// As a [`Kind::Read`].
    Read(BoxFuture<Result<Outcome, Fault>>),
    /// As a [`Kind::Write`].
    Write(Effect),
    /// As a [`Kind::Job`].
    Job,
}

/// What [`Entry::either`] chooses for a response of type `R`.
pub enum Either<R> {
    /// Run it as a [`Kind::Read`].
    Read(BoxFuture<Result<Answer<R>, Fault>>),
    /// Run it as a [`Kind::Write`].
    Write(EffectOf<R>),
    /// Run it as a [`Kind::Job`].
    Job,
}

/// As [`Effect`], with the response itself.
pub type EffectOf<R> = Box<dyn FnMut(&mut Unit<'_>) -> Result<R, Fault> + Send>;

/// How a job ends.
pub enum Ending {
    /// With what it has.
    Answer(Outcome),
    /// With an effect, in the transaction of its answer.
    Effect(Effect),
}

/// As [`Ending::Effect`], with the response itself.
pub type EndingOf<R> = Box<dyn FnMut(&mut Unit<'_>) -> Result<Answer<R>, Fault> + Send>;

type ChooseFn = dyn Fn(&Call, &Payload) -> Result<Choice, Fault> + Send + Sync;
pub(super) type ReadFn = dyn Fn(Call, &Payload) -> BoxFuture<Result<Outcome, Fault>> + Send + Sync;
pub(super) type WriteFn = dyn Fn(&Call, &Payload) -> Result<Effect, Fault> + Send + Sync;
type JobFn = dyn Fn(Call, Payload, Progress) -> BoxFuture<Result<Ending, Fault>> + Send + Sync;
type CheckFn = dyn Fn(&Payload) -> Result<(), Fault> + Send + Sync;

type BindFn<S> = dyn Fn(&Arc<S>) -> Handler;

/// What a bound command runs.
#[derive(Clone)]
pub enum Handler {
    /// See [`Kind::Read`].
    Read(Arc<ReadFn>),
    /// See [`Kind::Write`]: decodes and validates, then leaves what is to be done in the transaction.
    Write(Arc<WriteFn>),
    /// Decodes and validates, then decides how it runs.
    Either {
        /// Decides.
        choose: Arc<ChooseFn>,
        /// What runs when it is to be a job.
        long: Long,
    },
    /// See [`Kind::Job`].
    Job {
        /// Validates the request before it is accepted.
        check: Arc<CheckFn>,
        /// What runs then.
        long: Long,
    },
}

/// Long work.
#[derive(Clone)]
pub struct Long {
    /// Does it.
    pub run: Arc<JobFn>,
    /// Whether it is safe to start again from the beginning after a crash.
    pub repeatable: bool,
}

impl Handler {
    /// What runs when the command is a job.
    #[must_use]
    pub const fn long(&self) -> Option<&Long> {
        match self {
            Self::Job { long, .. } | Self::Either { long, .. } => Some(long),
            Self::Read(_) | Self::Write(_) => None,
        }
    }
}

/// A declared command and how to bind it to its service.
pub struct Entry<S> {
    /// The declaration.
    pub declaration: Declaration,
    bind: Box<BindFn<S>>,
}

/// A command that can be run.
#[derive(Clone)]
pub struct Command {
    /// The declaration.
    pub declaration: Declaration,
    /// What runs.
    pub handler: Handler,
}

fn declare<Q: JsonSchema, R: JsonSchema>(
    service: &'static str,
    verb: &'static str,
    summary: &'static str,
    kind: Kind,
) -> Declaration {
    Declaration {
        service,
        verb,
        summary,
        kind,
        also_on: &[],
        sensitive: false,
        private: false,
        when_full: false,
        lane: Lane::Work,
        request: |generator| generator.subschema_for::<Q>(),
        response: |generator| generator.subschema_for::<R>(),
    }
}

impl<S: Send + Sync + 'static> Entry<S> {
    /// A command that changes nothing.
    pub fn read<Q, R, F, W>(service: &'static str, verb: &'static str, summary: &'static str, run: F) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema,
        F: Fn(Arc<S>, Call, Q) -> W + Copy + Send + Sync + 'static,
        W: Future<Output = Result<Answer<R>, Fault>> + Send + 'static,
    {
        let bind = move |state: &Arc<S>| {
            let state = state.clone();
            Handler::Read(Arc::new(move |call, payload| {
                let decoded = payload.decode::<Q>();
                let state = state.clone();
                Box::pin(async move { run(state, call, decoded?).await?.outcome() })
            }))
        };
        Self { declaration: declare::<Q, R>(service, verb, summary, Kind::Read), bind: Box::new(bind) }
    }

    /// A command that is one transaction. `prepare` validates the request and returns the effect; neither may block.
    pub fn write<Q, R, F, E>(
        service: &'static str,
        verb: &'static str,
        summary: &'static str,
        prepare: F,
    ) -> Self
    where
        Q: DeserializeOwned + JsonSchema,
        R: Serialize + JsonSchema,
        F: Fn(&Arc<S>, &Call, Q) -> Result<E, Fault> + Copy + Send + Sync + 'static,
        E: FnMut(&mut Unit<'_>) -> Result<R, Fault> + Send + 'static,
    {
        let bind = move |state: &Arc<S>| {
            let state = state.clone();
            Handler::Write(Arc::new(move |call, payload| {
                let mut effect = prepare(&state, call, payload.decode::<Q>()?)?;
                Ok(Box::new(move |unit| Outcome::ok(&effect(unit)?, Vec::new())))
            }))
        };
        Self { declaration: declare::<Q, R>(service, verb, summary, Kind::Write), bind: Box::new(bind) }
    }

    /// As [`Entry::write`], with a secret in the answer, which is private for that.
    pub fn write_secret<Q, R, F, E>(
        service: &'static str,
        verb: &'static str,
        summary: &'static str,
        prepare: F,
    ) -> Self
    where
        Q: DeserializeOwned + JsonSchema,
        R: Serialize + JsonSchema,
        F: Fn(&Arc<S>, &Call, Q) -> Result<E, Fault> + Copy + Send + Sync + 'static,
        E: FnMut(&mut Unit<'_>) -> Result<SecretAnswer<R>, Fault> + Send + 'static,
    {
        let bind = move |state: &Arc<S>| {
            let state = state.clone();
            Handler::Write(Arc::new(move |call, payload| {
                let mut effect = prepare(&state, call, payload.decode::<Q>()?)?;
                Ok(Box::new(move |unit| {
                    let SecretAnswer { body, secret } = effect(unit)?;
                    Ok(Outcome { secret: Some(secret), ..Outcome::ok(&body, Vec::new())? })
                }))
            }))
        };
        let declaration = declare::<Q, R>(service, verb, summary, Kind::Write);
        Self { declaration, bind: Box::new(bind) }.private()
    }

    /// A command that is declared as a read, and is a write for some requests, and a job for others. `choose` validates the
    /// request and must not block. `run` does the job; what it returns is done in the transaction of the answer, and may be
    /// done more than once, each time in a fresh transaction. The job is safe to start again after a crash.
    pub fn either<Q, R, F, G, W>(
        service: &'static str,
        verb: &'static str,
        summary: &'static str,
        choose: F,
        run: G,
    ) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + 'static,
        F: Fn(&Arc<S>, &Call, Q) -> Result<Either<R>, Fault> + Copy + Send + Sync + 'static,
        G: Fn(Arc<S>, Call, Q, Progress) -> W + Copy + Send + Sync + 'static,
        W: Future<Output = Result<EndingOf<R>, Fault>> + Send + 'static,
    {
        let bind = move |state: &Arc<S>| {
            let (chooser, state) = (state.clone(), state.clone());
            let choose: Arc<ChooseFn> = Arc::new(move |call, payload| {
                Ok(match choose(&chooser, call, payload.decode::<Q>()?)? {
                    Either::Read(answer) => Choice::Read(Box::pin(async move { answer.await?.outcome() })),
                    Either::Write(mut effect) => {
                        Choice::Write(Box::new(move |unit| Outcome::ok(&effect(unit)?, Vec::new())))
                    }
                    Either::Job => Choice::Job,
                })
            });
            let run: Arc<JobFn> = Arc::new(move |call, payload, progress| {
                let state = state.clone();
                Box::pin(async move {
                    let mut effect = run(state, call, payload.decode::<Q>()?, progress).await?;
                    Ok(Ending::Effect(Box::new(move |unit| effect(unit)?.outcome())))
                })
            });
            Handler::Either { choose, long: Long { run, repeatable: true } }
        };
        Self { declaration: declare::<Q, R>(service, verb, summary, Kind::Read), bind: Box::new(bind) }
    }

    /// Long work. `run` reports its progress, and returns early when [`Progress::cancelled`] says so.
    pub fn job<Q, R, F, W>(
        service: &'static str,
        verb: &'static str,
        summary: &'static str,
        repeatable: bool,
        run: F,
    ) -> Self
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema,
        F: Fn(Arc<S>, Call, Q, Progress) -> W + Copy + Send + Sync + 'static,
        W: Future<Output = Result<Answer<R>, Fault>> + Send + 'static,
    {
        let bind = move |state: &Arc<S>| {
            let state = state.clone();
            let run: Arc<JobFn> = Arc::new(move |call, payload, progress| {
                let state = state.clone();
                Box::pin(async move {
                    let answer = run(state, call, payload.decode::<Q>()?, progress).await?;
                    answer.outcome().map(Ending::Answer)
                })
            });
            let check = Arc::new(|payload: &Payload| payload.decode::<Q>().map(drop));
            Handler::Job { check, long: Long { run, repeatable } }
        };
        Self { declaration: declare::<Q, R>(service, verb, summary, Kind::Job), bind: Box::new(bind) }
    }

    /// May also be sent to `targets`.
    #[must_use]
    pub const fn also_on(mut self, targets: &'static [Target]) -> Self {
        self.declaration.also_on = targets;
        self
    }

    /// Needs a signature, unless the gate is open.
    #[must_use]
    pub const fn sensitive(mut self) -> Self {
        self.declaration.sensitive = true;
        self
    }

    /// Answers nowhere but in the asker's own inbox.
    #[must_use]
    pub const fn private(mut self) -> Self {
        self.declaration.private = true;
        self
    }

    /// Asks models when it runs as a job: see [`Lane::Models`].
    #[must_use]
    pub const fn asks_models(mut self) -> Self {
        self.declaration.lane = Lane::Models;
        self
    }

    /// Still works while the disk is full.
    #[must_use]
    pub const fn when_full(mut self) -> Self {
        self.declaration.when_full = true;
        self
    }

    /// The command of a running service.
    #[must_use]
    pub fn bind(&self, service: &Arc<S>) -> Command {
        Command { declaration: self.declaration.clone(), handler: (self.bind)(service) }
    }
}
