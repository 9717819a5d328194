//! Gives a command its guarantees: once, answered, in time.
//!
//! The way of a command: decode → identity → gate → by its kind. A *read* runs and is answered directly; a *write* is one
//! transaction of the ledger; a *job* is accepted in one and finished in another. A delivery is acknowledged to the
//! broker when its answer is certain: accepted by the broker, refused for good, or committed to the outbox.
//!
//! Nothing here knows MQTT beyond [`port`], nor what a command means.

mod answer;
mod arrival;
mod asked;
pub mod command;
mod control;
mod dispatch;
mod events;
mod housekeeping;
mod inbox;
pub mod jobs;
mod outbox;
pub mod port;
mod progress;
mod refusals;
mod registry;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use control::{ControlRequest, bind as bind_control, serve as serve_control};
pub use events::{ErrorEvent, Event, Events};
pub use outbox::Bounds;
pub use registry::Registry;

use self::outbox::{Deliverer, Outbox};
use self::port::Publish;
use self::refusals::Refusals;
use crate::clock::{Clock, Timestamp};
use crate::gate::Gate;
use crate::gate::seal::Seal;
use crate::ledger::Ledger;
use crate::observe::Metrics;
use crate::wire::{Fault, Names};

/// Commands that are being dealt with at the same time, whatever their kind. Beyond it the broker is made to wait, and
/// what came at QoS 0 is dropped: a flood costs a bounded number of tasks.
const IN_HAND: usize = 128;

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
    /// Opens the secrets of answers.
    pub seal: Arc<Seal>,
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
    seal: Arc<Seal>,
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
        let Parts { names, registry, gate, seal, ledger, publisher, events, metrics, jobs, limits } = parts;
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
            seal: seal.clone(),
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
                seal,
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

    /// From when on a repeat is recognized; `None` while no command is remembered.
    ///
    /// # Errors
    /// What the ledger says.
    pub async fn inbox_window_start(&self) -> Result<Option<Timestamp>, Fault> {
        self.inner.ledger.read(inbox::window_start).await
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

#[cfg(test)]
mod tests;
