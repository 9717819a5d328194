//! Gives a command its guarantees: once, answered, in time.
//!
//! The way of a command: decode → identity → gate → by its kind. A *read* runs and is answered directly; a *write* is one
//! transaction of the ledger; a *job* is accepted in one and finished in another. A delivery is acknowledged to the
//! broker when its answer is certain: accepted by the broker, refused for good, or committed to the outbox.
//!
//! Nothing here knows MQTT beyond [`port`], nor what a command means.

mod asked;
pub mod command;
mod control;
mod events;
mod inbox;
pub mod jobs;
mod outbox;
pub mod port;
mod refusals;
mod registry;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use control::{ControlRequest, bind as bind_control, serve as serve_control};
pub use events::{Event, Events};
pub use outbox::Bounds;
pub use registry::Registry;

use self::asked::{Asked, Channel};
use self::command::{Call, Handler, Kind};
use self::outbox::{Deliverer, Outbox, Route, Stored};
use self::port::{Delivery, Publication, Publish};
use self::refusals::Refusals;
use self::transaction::{Defer, Task, Transaction};
use crate::clock::{Clock, Timestamp};
use crate::gate::{Admission, Gate, LOCAL};
use crate::ledger::Ledger;
use crate::observe::Metrics;
use crate::wire::topic::{self, Target};
use crate::wire::{Address, Code, Credentials, Fault, Names, Outcome, Payload, Reply, Request};

/// How long a direct reply may take before it moves to the outbox.
const DIRECT_LIMIT: Duration = Duration::from_secs(1);

/// Over how long the answers of all nodes to one command are spread.
const SPREAD: Duration = Duration::from_secs(5);

/// Commands that are being dealt with at the same time, whatever their kind. Beyond it the broker is made to wait, and
/// what came at QoS 0 is dropped: a flood costs a bounded number of tasks.
const IN_HAND: usize = 512;

/// The engine's limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest payload that is accepted, in bytes.
    pub max_payload_bytes: usize,
    /// Reads that run at the same time.
    pub reads_in_flight: usize,
    /// Longest time for a read or write that names no expiry itself.
    pub command_deadline: Duration,
    /// Longest time for a job.
    pub job_deadline: Duration,
    /// How long a repeat is recognized.
    pub inbox_window: Duration,
    /// Most commands that are remembered for that.
    pub inbox_rows: u64,
    /// Most that may wait to be published.
    pub outbox: Bounds,
    /// How long a reply is of use when its question does not say.
    pub reply_expiry: Duration,
    /// Topic filters, besides the asker's inbox, that replies may go to.
    pub reply_topics: Vec<String>,
}

/// What the engine is made of.
pub struct Parts {
    /// The node's topics.
    pub names: Names,
    /// The commands of every service.
    pub registry: Registry,
    /// Who may do what.
    pub gate: Arc<dyn Gate>,
    /// The source of truth.
    pub ledger: Ledger,
    /// The link to the broker.
    pub publisher: Arc<dyn Publish>,
    /// Where news is told.
    pub events: Events,
    /// Figures.
    pub metrics: Metrics,
    /// Long work; shared with the commands that list and cancel it.
    pub jobs: jobs::Jobs,
    /// Bounds and deadlines.
    pub limits: Limits,
}

/// The engine. A clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    names: Names,
    registry: Registry,
    gate: Arc<dyn Gate>,
    ledger: Ledger,
    publisher: Arc<dyn Publish>,
    events: Events,
    metrics: Metrics,
    limits: Limits,
    clock: Clock,
    outbox: Arc<Outbox>,
    refusals: Refusals,
    jobs: jobs::Jobs,
    /// Jobs accepted before this are those of an earlier run.
    started: Timestamp,
    in_hand: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    /// Cancelled when nothing new is admitted.
    closing: CancellationToken,
    /// Cancelled when nothing more is published.
    delivering: CancellationToken,
}

impl Engine {
    /// Builds the engine and starts its tasks, which end with [`Engine::drain`]. Blocks shortly: it reads the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn start(parts: Parts) -> Result<Self, Fault> {
        let Parts { names, registry, gate, ledger, publisher, events, metrics, jobs, limits } = parts;
        let (outbox, handover) = Outbox::new(&ledger, limits.outbox)?;
        let clock = ledger.clock().clone();
        let deliverer = Deliverer {
            outbox: outbox.clone(),
            handover,
            ledger: ledger.clone(),
            publisher: publisher.clone(),
            node: names.node().to_owned(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let engine = Self {
            inner: Arc::new(Inner {
                jobs,
                started: clock.now(),
                in_hand: Arc::new(Semaphore::new(IN_HAND)),
                reads: Arc::new(Semaphore::new(limits.reads_in_flight)),
                refusals: Refusals::default(),
                tasks: TaskTracker::new(),
                runtime: tokio::runtime::Handle::current(),
                closing: CancellationToken::new(),
                delivering: CancellationToken::new(),
                names,
                registry,
                gate,
                ledger,
                publisher,
                events,
                metrics,
                limits,
                clock,
                outbox,
            }),
        };
        let stop = engine.inner.closing.clone();
        engine.inner.runtime.spawn(deliverer.run(engine.inner.delivering.clone()));
        engine.inner.runtime.spawn(engine.clone().housekeeping(stop));
        engine.recover_jobs()?;
        Ok(engine)
    }

    /// The names of the node.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.inner.names
    }

    /// Its commands.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Where it tells news.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Replies that the broker has not accepted yet.
    #[must_use]
    pub fn outbox_open(&self) -> u64 {
        self.inner.outbox.open_rows()
    }

    /// Reads and jobs that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.inner.tasks.len()
    }

    /// There is a new connection: publish what is open.
    pub fn connected(&self) {
        self.inner.outbox.look_again();
    }

    /// Takes deliveries until both channels are closed. QoS 1 goes first.
    pub async fn receive(
        self,
        mut at_least_once: mpsc::Receiver<Delivery>,
        mut at_most_once: mpsc::Receiver<Delivery>,
        pulse: crate::observe::Pulse,
    ) {
        loop {
            pulse.waiting();
            let delivery = tokio::select! {
                biased;
                () = self.inner.closing.cancelled() => return,
                Some(delivery) = at_least_once.recv() => delivery,
                Some(delivery) = at_most_once.recv() => delivery,
                else => return,
            };
            pulse.beat();
            self.deliver(delivery).await;
        }
    }

    /// Takes one delivery as far as it goes without waiting for its answer.
    async fn deliver(&self, delivery: Delivery) {
        let Ok(slot) = self.inner.in_hand.clone().acquire_owned().await else { return };
        let started = Instant::now();
        let received = self.inner.clock.now();
        let Delivery { topic, payload, properties, retained, ack } = delivery;
        let (address, request) = if payload.len() > self.inner.limits.max_payload_bytes {
            let limit = self.inner.limits.max_payload_bytes;
            let fault = Fault::new(Code::TooLarge, format!("a payload may have at most {limit} bytes"));
            (address_of(&properties), Err(fault))
        } else {
            crate::wire::decode(&properties, &payload)
        };
        let request = match (request, retained) {
            (Ok(_), true) => {
                Err(Fault::invalid("a command must not be retained: publish it without the retain flag"))
            }
            (request, _) => request,
        };
        let credentials = request.as_ref().map(|request| request.credentials.clone()).unwrap_or_default();
        let principal = self.inner.gate.identify(&credentials, received);
        let parsed = self.inner.names.parse(&topic);
        let service = parsed.map_or("node", |parsed| parsed.service);
        let results =
            self.inner.names.results(if self.inner.registry.has_service(service) { service } else { "node" });
        let asker = principal.as_deref().unwrap_or(crate::gate::ANONYMOUS);
        let (reply_topic, wrong_reply_topic) = match self.reply_topic(address.reply_to.as_deref(), asker) {
            Ok(topic) => (topic.unwrap_or(results), None),
            Err(fault) => (results, Some(fault)),
        };
        let command = parsed.map_or_else(|| topic.clone(), |parsed| parsed.command.to_owned());
        let fault =
            request.as_ref().err().cloned().or(wrong_reply_topic).or(principal.as_ref().err().cloned());
        let target = parsed.map_or(Target::Node, |parsed| parsed.target);
        let asked = self.ask(AskedFrom {
            command,
            target,
            topic,
            principal: principal.unwrap_or_else(|_| crate::gate::ANONYMOUS.into()),
            address,
            request: request.as_ref().ok(),
            received,
            started,
            reply_topic: Some(reply_topic),
            channel: Channel::Mqtt(ack),
            slot,
        });
        match (fault, request) {
            (Some(fault), _) | (None, Err(fault)) => self.refuse(asked, fault),
            (None, Ok(request)) => self.run(asked, target, &request.credentials).await,
        }
    }

    /// Runs a command for the command line on the node itself, and waits for its answer.
    ///
    /// # Errors
    /// The answer is an `Ok` even when it says `error`; an `Err` means that the engine is closing.
    pub async fn call_locally(
        &self,
        command: &str,
        message_id: Option<String>,
        expires_in: Option<Duration>,
        payload: Payload,
    ) -> Result<Reply, Fault> {
        let (sender, receiver) = oneshot::channel();
        let slot = self.inner.in_hand.clone().acquire_owned().await.map_err(|_| Fault::internal())?;
        let request = Request { payload, expires_in, traceparent: None, credentials: Credentials::default() };
        let address = Address { message_id, encoding: request.payload.encoding(), ..Address::default() };
        let too_large = request.payload.bytes().len() > self.inner.limits.max_payload_bytes;
        let asked = self.ask(AskedFrom {
            command: command.to_owned(),
            target: Target::Node,
            topic: self.inner.names.command(command),
            principal: LOCAL.into(),
            address,
            request: Some(&request),
            received: self.inner.clock.now(),
            started: Instant::now(),
            reply_topic: None,
            channel: Channel::Local(sender),
            slot,
        });
        if too_large {
            self.refuse(
                asked,
                Fault::new(
                    Code::TooLarge,
                    format!("a payload may have at most {} bytes", self.inner.limits.max_payload_bytes),
                ),
            );
        } else {
            self.run(asked, Target::Node, &request.credentials).await;
        }
        receiver.await.map_err(|_| Fault::new(Code::Unavailable, "the node is stopping"))
    }

    fn ask(&self, from: AskedFrom<'_>) -> Asked {
        let known = self.inner.registry.get(&from.command);
        let label =
            known.map_or(("other", "other"), |known| (known.declaration.service, known.declaration.verb));
        let is_job = known.is_some_and(|known| known.declaration.kind == Kind::Job);
        let limits = &self.inner.limits;
        let longest = if is_job { limits.job_deadline } else { limits.command_deadline };
        let expires_in = from.request.and_then(|request| request.expires_in);
        let reply_life = expires_in.unwrap_or(limits.reply_expiry).max(Duration::from_secs(1));
        let spread = if from.target == Target::All { fastrand::u64(0..SPREAD.as_millis() as u64) } else { 0 };
        Asked {
            label,
            call: Call {
                principal: from.principal,
                message_id: from.address.message_id.clone(),
                received: from.received,
            },
            payload: from.request.map_or_else(
                || Payload::new(from.address.encoding, bytes::Bytes::new()),
                |request| request.payload.clone(),
            ),
            route: Route {
                topic: from.reply_topic,
                correlation_data: from.address.correlation_data,
                correlation_id: from.address.correlation_id,
                encoding: from.address.encoding,
                in_reply_to: from.address.message_id,
                expires_at: from
                    .received
                    .plus_millis(i64::try_from(reply_life.as_millis()).unwrap_or(i64::MAX)),
                due_at: from.received.plus_millis(spread as i64),
            },
            channel: from.channel,
            when_full: known.is_some_and(|known| known.declaration.when_full),
            started: from.started,
            time_left: expires_in.map_or(longest, |expires_in| expires_in.min(longest)),
            _slot: from.slot,
            command: from.command,
            topic: from.topic,
        }
    }

    /// Where the asker may have the reply; `None` when they did not say.
    fn reply_topic(&self, wanted: Option<&str>, asker: &str) -> Result<Option<String>, Fault> {
        let Some(wanted) = wanted else { return Ok(None) };
        if !topic::is_topic(wanted) {
            return Err(Fault::invalid("the reply topic must be a plain topic without wildcards"));
        }
        let inbox = self.inner.names.inbox(asker);
        let in_inbox =
            wanted.strip_prefix(inbox.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let allowed =
            in_inbox || self.inner.limits.reply_topics.iter().any(|filter| topic::matches(filter, wanted));
        if !allowed || wanted.starts_with('$') || self.inner.names.is_ours(wanted) {
            return Err(Fault::new(
                Code::Forbidden,
                "replies may only go to the asker's inbox and the topics that the node's configuration names",
            ));
        }
        Ok(Some(wanted.to_owned()))
    }

    async fn run(&self, asked: Asked, target: Target, credentials: &Credentials) {
        let Some(command) = self.inner.registry.get(&asked.command) else {
            return self.refuse(asked, Fault::new(Code::UnknownCommand, "no such service or verb"));
        };
        let declaration = &command.declaration;
        if !declaration.reaches(target) {
            return self
                .refuse(asked, Fault::new(Code::UnknownCommand, "this command is for a node by its name"));
        }
        let admission = Admission {
            principal: &asked.call.principal,
            credentials,
            declaration,
            topic: &asked.topic,
            reply_to: asked.route.topic.as_deref(),
            message_id: asked.call.message_id.as_deref(),
            payload: &asked.payload,
            now: asked.call.received,
        };
        if matches!(asked.channel, Channel::Mqtt(_))
            && let Err(fault) = self.inner.gate.admit(&admission)
        {
            return self.refuse_unless_known(asked, fault).await;
        }
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
            Handler::Read(run) => self.read(asked, run).await,
            Handler::Write(prepare) => match caught(|| prepare(&asked.call, &asked.payload)) {
                Ok(effect) => self.submit(asked, Task::Write(effect)).await,
                Err(fault) => self.refuse_unless_known(asked, fault).await,
            },
            Handler::Job { check, .. } => match check(&asked.payload) {
                Ok(()) => {
                    let job = uuid::Uuid::now_v7().to_string();
                    self.submit(asked, Task::Accept { job }).await;
                }
                Err(fault) => self.refuse_unless_known(asked, fault).await,
            },
        }
    }

    /// A repeat gets its stored answer even when it would be refused today.
    async fn refuse_unless_known(&self, asked: Asked, fault: Fault) {
        let Some(key) = asked.key() else { return self.refuse(asked, fault) };
        match self.inner.ledger.read(move |connection| inbox::find(connection, &key)).await {
            Ok(Some(inbox::Known::Answered(stored))) => self.reply_later(asked, stored),
            Err(conflict) if conflict.code == Code::Conflict => self.refuse(asked, conflict),
            _ => self.refuse(asked, fault),
        }
    }

    async fn read(&self, asked: Asked, run: &Arc<command::ReadFn>) {
        let Ok(permit) = self.inner.reads.clone().acquire_owned().await else {
            return self.refuse(asked, Fault::internal());
        };
        let future = match caught(|| Ok(run(asked.call.clone(), &asked.payload))) {
            Ok(future) => future,
            Err(fault) => return self.reply_fault(asked, fault),
        };
        let engine = self.clone();
        self.inner.tasks.spawn_on(
            async move {
                let outcome = guarded(future, asked.time_left).await;
                // What cannot be recorded is not answered.
                let outcome = match engine.inner.ledger.note(asked.audit(outcome.label())) {
                    Ok(()) => outcome,
                    Err(fault) => fault.into(),
                };
                engine.count(&asked, outcome.label());
                let stored = Stored::new(asked.command.clone(), outcome, engine.inner.clock.now());
                engine.reply(asked, stored).await;
                drop(permit);
            },
            &self.inner.runtime,
        );
    }

    async fn submit(&self, asked: Asked, task: Task) {
        let job_queue_full = matches!(task, Task::Accept { .. }) && self.inner.jobs.is_full();
        if self.inner.outbox.is_full() || job_queue_full {
            return self
                .refuse_unless_known(
                    asked,
                    Fault::new(Code::Busy, "too much waits to be done or answered").retry_after(1_000),
                )
                .await;
        }
        let transaction = Transaction::new(self.clone(), asked, task);
        // When the writer has stopped the command stays unacknowledged, and comes again after the restart.
        if let Err(error) = self.inner.ledger.submit(Box::new(transaction)).await {
            tracing::error!(%error, "the ledger's writer is gone");
        }
    }

    /// Answers with an error before anything ran; recorded as one row for each code, principal and second.
    fn refuse(&self, asked: Asked, fault: Fault) {
        self.inner.metrics.message_refused(fault.code.as_str());
        self.inner.refusals.record(&asked, fault.code);
        self.reply_fault(asked, fault);
    }

    fn reply_fault(&self, asked: Asked, fault: Fault) {
        self.count(&asked, fault.code.as_str());
        let stored = Stored::new(asked.command.clone(), fault.into(), self.inner.clock.now());
        self.reply_later(asked, stored);
    }

    /// Answers without holding up the caller, which may be the ledger's writer.
    fn reply_later(&self, asked: Asked, stored: Stored) {
        let engine = self.clone();
        self.inner.tasks.spawn_on(async move { engine.reply(asked, stored).await }, &self.inner.runtime);
    }

    /// Answers directly; what the broker does not take in time moves to the outbox.
    async fn reply(&self, asked: Asked, stored: Stored) {
        let inner = &self.inner;
        let now = inner.clock.now();
        let Some(message) = stored.outgoing(inner.names.node(), &asked.route, now) else {
            return asked.answered(self, stored, None);
        };
        let Ok(message) = message else {
            tracing::error!(command = asked.command, "a reply has no form in the asker's encoding");
            return;
        };
        if asked.route.due_at <= now {
            let publication = tokio::time::timeout(DIRECT_LIMIT, inner.publisher.publish(message)).await;
            match publication {
                Ok(Publication::Accepted) => return asked.answered(self, stored, None),
                Ok(Publication::Refused(reason)) => {
                    inner.metrics.reply_refused(reason);
                    tracing::warn!(command = asked.command, reason, "the broker refused a reply for good");
                    return asked.answered(self, stored, None);
                }
                Ok(Publication::Unsent) | Err(_) => {}
            }
        }
        if inner.outbox.is_full() {
            // Not acknowledged: at QoS 1 the broker keeps the command and delivers it again on the next connection.
            inner.metrics.message_dropped("outbox_full");
            return;
        }
        let defer = Defer::new(self.clone(), asked, stored);
        if let Err(error) = inner.ledger.submit(Box::new(defer)).await {
            tracing::error!(%error, "the ledger's writer is gone");
        }
    }

    fn count(&self, asked: &Asked, outcome: &'static str) {
        self.inner.metrics.command(asked.label.0, asked.label.1, outcome, asked.started.elapsed());
    }

    /// From when on a repeat is recognized; `None` while no command is remembered.
    ///
    /// # Errors
    /// What the ledger says.
    pub async fn inbox_window_start(&self) -> Result<Option<Timestamp>, Fault> {
        self.inner.ledger.read(inbox::window_start).await
    }

    /// Removes what is no longer of use, in small units, until told to stop.
    async fn housekeeping(self, stop: CancellationToken) {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.record_refusals(),
                _ = second.tick() => self.record_refusals(),
                _ = minute.tick() => self.prune().await,
            }
        }
    }

    fn record_refusals(&self) {
        for entry in self.inner.refusals.take() {
            if let Err(error) = self.inner.ledger.note(entry) {
                tracing::warn!(%error, "a refusal could not be recorded");
            }
        }
    }

    async fn prune(&self) {
        if let Err(error) = self.prune_inbox().await {
            tracing::warn!(%error, "the inbox could not be pruned");
        }
    }

    async fn prune_inbox(&self) -> Result<(), Fault> {
        let inner = &self.inner;
        let before = inner.clock.now().plus_millis(-(inner.limits.inbox_window.as_millis() as i64));
        inner.ledger.write(move |unit| jobs::prune(unit, before)).await?;
        while inner.ledger.write(move |unit| inbox::prune(unit, before, u64::MAX)).await? > 0 {}
        let rows = inner.ledger.read(inbox::rows).await?;
        let mut excess = rows.saturating_sub(inner.limits.inbox_rows);
        while excess > 0 {
            let limit = excess;
            match inner
                .ledger
                .write(move |unit| inbox::prune(unit, Timestamp::from_millis(i64::MAX), limit))
                .await?
            {
                0 => break,
                removed => excess -= removed,
            }
        }
        Ok(())
    }

    /// Stops admitting, lets what runs finish for at most `handlers`, then publishes what is open for at most `flush`.
    pub async fn drain(&self, handlers: Duration, flush: Duration) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        let _ = tokio::time::timeout(handlers, self.inner.tasks.wait()).await;
        let emptied = async {
            while self.inner.publisher.is_connected() && self.inner.outbox.open_rows() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(flush, emptied).await;
        self.inner.delivering.cancel();
    }
}

/// What [`Engine::ask`] needs.
struct AskedFrom<'a> {
    command: String,
    target: Target,
    topic: String,
    principal: Arc<str>,
    address: Address,
    request: Option<&'a Request>,
    received: Timestamp,
    started: Instant,
    reply_topic: Option<String>,
    channel: Channel,
    slot: OwnedSemaphorePermit,
}

/// The return address of a message that is not looked into.
fn address_of(properties: &crate::wire::Properties) -> Address {
    crate::wire::decode(properties, &bytes::Bytes::new()).0
}

/// Runs the part of a handler that is not a future; a panic in it answers `internal`.
fn caught<T>(run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_panic| {
        tracing::error!("a handler panicked");
        Err(Fault::internal())
    })
}

/// Runs a handler with a deadline; a panic in it answers `internal` and leaves the others running.
async fn guarded(future: command::BoxFuture<Result<Outcome, Fault>>, time_left: Duration) -> Outcome {
    let caught = std::panic::AssertUnwindSafe(future).catch_unwind();
    match tokio::time::timeout(time_left, caught).await {
        Ok(Ok(Ok(outcome))) => outcome,
        Ok(Ok(Err(fault))) => fault.into(),
        Ok(Err(_panic)) => {
            tracing::error!("a handler panicked");
            Fault::internal().into()
        }
        Err(_elapsed) => Fault::new(Code::Expired, "the deadline passed first").into(),
    }
}
