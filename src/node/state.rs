//! What the node knows of itself: the status document and what it is made from.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use super::expiry::Expiry;
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::engine::jobs::Jobs;
use crate::engine::port::Publish;
use crate::gate::guard::Guard;
use crate::ledger::Ledger;
use crate::llm::Llm;
use crate::llm::model::ProviderState;
use crate::memory::{Memory, semantic};
use crate::observe::{Health as NodeHealth, process};
use crate::phoenix::Phoenix;
use crate::phoenix::model::Health;
use crate::schedule::Schedule;
use crate::schedule::model::Scheduled;
use crate::wire::Names;

/// Whether a node can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Connected and serving.
    Online,
    /// Stopped, or its connection was lost.
    Offline,
}

/// How a node is. Retained on `events/status`, and the answer to `node/status`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Online or offline.
    pub state: State,
    /// When this state began. Absent in the last will, which is written before that: since then as many seconds have passed
    /// as the broker has taken off the message's Message Expiry Interval of 315,360,000 s (ten years).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the connection was made that was lost. Only in the last will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<Timestamp>,
    /// Why it is offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// When the process started.
    pub started: Timestamp,
    /// The program's version.
    pub version: &'static str,
    /// Seconds since the process started.
    pub uptime_s: u64,
    /// Load average of the machine over one minute.
    pub load1: f64,
    /// Resident memory of the process in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Processor time of the process in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Whether the node has a connection to its broker.
    pub connected: bool,
    /// Who may command the node: `required`, `broker` or `open`.
    pub auth: &'static str,
    /// Units of work that wait for the ledger.
    pub queue_depth: usize,
    /// Commands and jobs that run.
    pub running: usize,
    /// Replies that the broker has not accepted yet.
    pub outbox_open: u64,
    /// Whether the disk is full, so that only what makes room is done.
    pub storage_full: bool,
    /// Repeats of commands since then are recognized; absent while none is remembered. Only in answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox_since: Option<Timestamp>,
    /// What the node does by itself: when next, and how it went last. Only in answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Scheduled>,
    /// How the backups do, where there are any. Only in answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Health>,
    /// How often another client has connected under this node's name.
    #[serde(skip_serializing_if = "is_zero")]
    pub duplicate_name: u32,
    /// Certificates and API keys that end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expires: Vec<Expiry>,
    /// What is not as it should be: `storage`, `duplicate_name`, `expiry`, or a model that does not answer (`llm_remote`,
    /// `llm_local`, `embeddings`).
    pub degraded: Vec<String>,
    /// How the models' providers are; absent without any. Only in answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ProviderState>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The node's view of itself.
pub struct NodeState {
    names: Names,
    ledger: Ledger,
    jobs: Jobs,
    health: NodeHealth,
    publisher: Arc<dyn Publish>,
    guard: Arc<Guard>,
    llm: Arc<Llm>,
    memory: Arc<Memory>,
    engine: OnceLock<Engine>,
    schedule: OnceLock<Arc<Schedule>>,
    phoenix: OnceLock<Arc<Phoenix>>,
    reload: watch::Sender<u64>,
    started: Timestamp,
    started_at: Instant,
    duplicates: AtomicU32,
    expires: Mutex<Vec<Expiry>>,
}

impl NodeState {
    /// The state, and word of each wish to read the configuration again.
    pub(super) fn new(
        names: Names,
        ledger: Ledger,
        jobs: Jobs,
        health: NodeHealth,
        publisher: Arc<dyn Publish>,
        guard: Arc<Guard>,
        (llm, memory): (Arc<Llm>, Arc<Memory>),
    ) -> (Self, watch::Receiver<u64>) {
        let started = ledger.clock().now();
        let (reload, asked) = watch::channel(0);
        let state = Self {
            names,
            ledger,
            jobs,
            health,
            publisher,
            guard,
            llm,
            memory,
            engine: OnceLock::new(),
            schedule: OnceLock::new(),
            phoenix: OnceLock::new(),
            reload,
            started,
            started_at: Instant::now(),
            duplicates: AtomicU32::new(0),
            expires: Mutex::default(),
        };
        (state, asked)
    }

    /// The engine is made after its commands, so it arrives later.
    pub(super) fn attach_engine(&self, engine: Engine) {
        // Only ever called once.
        let _ = self.engine.set(engine);
    }

    /// They are made after the node's own state, so they arrive later.
    pub(super) fn attach(&self, schedule: Arc<Schedule>, phoenix: Arc<Phoenix>) {
        // Only ever called once.
        let _ = self.schedule.set(schedule);
        let _ = self.phoenix.set(phoenix);
    }

    /// How the backups do.
    pub(super) fn backups(&self) -> Option<Health> {
        self.phoenix.get()?.health()
    }

    /// What the node does by itself, as it stands.
    pub(super) fn scheduled(&self) -> Vec<Scheduled> {
        self.schedule.get().map_or_else(Vec::new, |schedule| schedule.list())
    }

    pub(super) fn engine(&self) -> Option<&Engine> {
        self.engine.get()
    }

    /// How the models' providers are; `None` without any.
    pub(super) fn models(&self) -> Option<Vec<ProviderState>> {
        self.llm.has_models().then(|| self.llm.states())
    }

    pub(super) const fn names(&self) -> &Names {
        &self.names
    }

    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) const fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(super) const fn health(&self) -> &NodeHealth {
        &self.health
    }

    /// Asks for the configuration to be read again.
    pub(super) fn reload(&self) {
        self.reload.send_modify(|count| *count += 1);
    }

    pub(super) fn count_duplicate(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    /// How the node is now.
    pub(super) fn status(&self, state: State, since: Timestamp, reason: Option<&'static str>) -> Status {
        let storage_full = self.ledger.is_full();
        let mut degraded = self.llm.unanswering();
        if self.memory.is_without_embeddings() {
            degraded.push(semantic::DEGRADED.to_owned());
        }
        if storage_full {
            degraded.push("storage".to_owned());
        }
        let duplicate_name = self.duplicates.load(Ordering::Relaxed);
        if duplicate_name > 0 {
            degraded.push("duplicate_name".to_owned());
        }
        let expires = self.expires.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if expires.iter().any(Expiry::is_soon) {
            degraded.push("expiry".to_owned());
        }
        Status {
            node: self.names.node().to_owned(),
            state,
            since: Some(since),
            connected_since: None,
            reason,
            started: self.started,
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.started_at.elapsed().as_secs(),
            load1: process::load_one_minute(),
            rss_bytes: process::resident_bytes(),
            cpu_seconds: process::cpu_seconds(),
            connected: self.publisher.is_connected(),
            auth: self.guard.mode().as_str(),
            queue_depth: self.ledger.queued(),
            running: self.engine().map_or(0, Engine::running),
            outbox_open: self.engine().map_or(0, Engine::outbox_open),
            storage_full,
            inbox_since: None,
            schedule: Vec::new(),
            backup: None,
            duplicate_name,
            expires,
            degraded,
            models: None,
        }
    }

    /// What ends, and when.
    pub(super) fn expires(&self, expires: Vec<Expiry>) {
        *self.expires.lock().unwrap_or_else(PoisonError::into_inner) = expires;
    }

    /// Where the configuration has policies, as of the last reload.
    pub(super) fn policy_source(&self) -> Option<crate::policy::BundleSource> {
        self.guard.policy_source()
    }

    /// When the process started.
    pub(super) const fn started(&self) -> Timestamp {
        self.started
    }

    pub(super) fn now(&self) -> Timestamp {
        self.ledger.clock().now()
    }
}
