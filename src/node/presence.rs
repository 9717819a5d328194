//! What the node says of itself on its connection: birth, capabilities, heartbeat, last will and goodbye.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::state::{NodeState, State, Status};
use crate::clock::Timestamp;
use crate::engine::Events;
use crate::engine::port::{Outgoing, Publish};
use crate::mqtt::{Presence, TOO_LARGE};
use crate::observe::Condition;
use crate::observe::systemd::Systemd;

/// Message Expiry Interval of the last will, in seconds: ten years. The broker counts it down while it keeps the message,
/// which tells when it was published: the will itself cannot know when the connection will be lost.
pub const WILL_EXPIRY_S: u32 = 10 * 365 * 86_400;

/// Retained on `events/capabilities`: what the node can do.
#[derive(Serialize, JsonSchema)]
pub(super) struct Capabilities {
    /// The node's name.
    node: String,
    /// The program's version.
    version: &'static str,
    /// Content types that it reads and answers in.
    encodings: [&'static str; 2],
    /// Its commands, by name.
    commands: Vec<Capability>,
}

/// One command.
#[derive(Serialize, JsonSchema)]
struct Capability {
    /// Service and verb.
    command: String,
    /// `read`, `write` or `job`.
    kind: &'static str,
    /// Whether a signature will be asked for once the node checks them.
    sensitive: bool,
}

pub(super) struct NodePresence {
    state: Arc<NodeState>,
    events: Events,
    systemd: Arc<Systemd>,
    ready: mpsc::Sender<()>,
    told_ready: AtomicBool,
    connected_before: AtomicBool,
    /// Another client has taken the name, and nobody has been told yet: there was no connection to tell it on.
    duplicate_untold: AtomicBool,
    /// When the present connection was made.
    online_since: AtomicI64,
}

impl NodePresence {
    pub(super) fn new(
        state: Arc<NodeState>,
        events: Events,
        systemd: Arc<Systemd>,
        ready: mpsc::Sender<()>,
    ) -> Self {
        let started = state.started().millis();
        Self {
            state,
            events,
            systemd,
            ready,
            told_ready: AtomicBool::new(false),
            connected_before: AtomicBool::new(false),
            duplicate_untold: AtomicBool::new(false),
            online_since: AtomicI64::new(started),
        }
    }

    /// Tells the service manager and the caller, once.
    pub(super) fn ready(&self, status: &str) {
        if !self.told_ready.swap(true, Ordering::AcqRel) {
            self.systemd.ready(status);
            // Full or closed: the caller does not wait for it.
            let _ = self.ready.try_send(());
        }
    }

    fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.online_since.load(Ordering::Acquire))
    }

    fn retained<T: Serialize>(&self, kind: &str, body: &T) -> Outgoing {
        let payload = serde_json::to_vec(body).unwrap_or_default();
        Outgoing {
            at_least_once: true,
            retain: true,
            ..Outgoing::event(self.state.names().event(kind), payload.into())
        }
    }

    fn status(&self) -> Status {
        self.state.status(State::Online, self.since(), None)
    }

    /// Published on a clean stop.
    pub(super) fn goodbye(&self) -> Outgoing {
        self.retained("status", &self.state.status(State::Offline, self.state.now(), Some("stopped")))
    }

    fn capabilities(&self) -> Capabilities {
        let mut commands: Vec<_> = self
            .state
            .engine()
            .into_iter()
            .flat_map(|engine| engine.registry().commands())
            .map(|command| Capability {
                command: command.declaration.name(),
                kind: command.declaration.kind.as_str(),
                sensitive: command.declaration.sensitive,
            })
            .collect();
        commands.sort_by(|a, b| a.command.cmp(&b.command));
        Capabilities {
            node: self.state.names().node().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            encodings: ["application/json", "application/cbor"],
            commands,
        }
    }

    /// Tells how the node is, every `interval`: as news at QoS 0, and in the retained status.
    pub(super) async fn heartbeat(
        self: Arc<Self>,
        interval: Duration,
        publisher: Arc<dyn Publish>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.events.tell("heartbeat", &self.status());
            if self.connected_before.load(Ordering::Acquire) && publisher.is_connected() {
                let publication = publisher.publish(self.retained("status", &self.status()));
                // A broker that is slow to answer must not hold up the next beat.
                let _ = tokio::time::timeout(interval, publication).await;
            }
        }
    }

    /// Tells that the disk is full, or no longer.
    pub(super) fn storage(&self, full: bool) {
        if full {
            self.tell_error("storage_full", "the disk is full: only what makes room is done");
        } else {
            self.tell_error("storage_recovered", "space has returned: everything is done again");
        }
    }

    fn tell_error(&self, error: &'static str, message: &str) {
        self.events.tell_error(error, message, self.state.now());
    }
}

impl Presence for NodePresence {
    fn birth(&self) -> Vec<Outgoing> {
        self.online_since.store(self.state.now().millis(), Ordering::Release);
        vec![self.retained("capabilities", &self.capabilities()), self.retained("status", &self.status())]
    }

    fn will(&self) -> Outgoing {
        let mut status = self.state.status(State::Offline, self.state.now(), Some("connection lost"));
        status.connected_since = status.since.take();
        status.connected = false;
        Outgoing { expires_in: Some(WILL_EXPIRY_S), ..self.retained("status", &status) }
    }

    fn connected(&self, session_present: bool) {
        let before = self.connected_before.swap(true, Ordering::AcqRel);
        if session_present || !before {
            tracing::info!(session_present, "connected to the broker");
        } else {
            tracing::warn!(
                "connected, but the broker had lost the session; what was published meanwhile may be lost"
            );
        }
        self.state.health().set(Condition::Connected, true);
        self.state.health().set(Condition::Admitted, true);
        if let Some(engine) = self.state.engine() {
            engine.connected();
        }
        if self.duplicate_untold.swap(false, Ordering::AcqRel) {
            self.tell_error(
                "duplicate_name",
                "another client seems to connect with this node's client identifier",
            );
        }
        self.ready("serving");
        self.systemd.status("serving");
    }

    fn subscriptions_refused(&self) {
        self.state.health().set(Condition::Admitted, false);
        self.tell_error("subscriptions_refused", "the broker refused the node's subscriptions");
    }

    fn publications_refused(&self, reason: &'static str) {
        if reason == TOO_LARGE {
            // It serves all the same: what is missing is seen by who looks for it alone.
            tracing::error!(
                reason,
                "the broker takes no packet as large as what the node publishes of itself; raise its largest packet size"
            );
            let message = "the broker takes no packet as large as what the node publishes of itself";
            self.tell_error("publications_refused", message);
            return;
        }
        self.state.health().set(Condition::Admitted, false);
        tracing::error!(
            reason,
            node = self.state.names().node(),
            "the broker refuses what the node publishes of itself; check its access rules, and that they name this node"
        );
        self.tell_error("publications_refused", "the broker refuses what the node publishes of itself");
    }

    fn disconnected(&self, reason: &str) {
        self.state.health().set(Condition::Connected, false);
        tracing::warn!(reason, "not connected to the broker; trying again");
        self.systemd.status("serving; not connected to the broker");
    }

    fn duplicate_name(&self, times: u32) {
        self.state.count_duplicate();
        tracing::error!(
            node = self.state.names().node(),
            times,
            "another client seems to connect with this node's client identifier: two nodes have the same name, rename one"
        );
        self.duplicate_untold.store(true, Ordering::Release);
    }
}
