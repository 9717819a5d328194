//! A node while it runs, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::expiry::{Found, Watched};
use super::presence::NodePresence;
use super::state::NodeState;
use crate::config::AuthMode;
use crate::conscience::Conscience;
use crate::engine::Engine;
use crate::engine::port::{Publication, Publish};
use crate::gate::anomaly::{Anomaly, Kind};
use crate::gate::guard::Guard;
use crate::gate::keys::Keys;
use crate::ledger::Ledger;
use crate::llm::Llm;
use crate::memory::Memory;
use crate::mqtt::Publisher;
use crate::observe::health::STALL_AFTER;
use crate::observe::{Condition, Health, Metrics};

/// Seconds from one look at what ends, and at the files of the link, to the next.
const EXPIRY_TICKS: u32 = 10;

/// How long the broker may take to end the shared subscriptions during a shutdown; of the time that handlers have.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// How long handlers may take to finish during a shutdown.
const HANDLERS_LIMIT: Duration = Duration::from_secs(2);

/// How long the outbox is flushed during a shutdown.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How long `offline` and the goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_millis(800);

/// How long the files may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How long the last uses of keys and the last decisions may take to be put down.
const LAST_LIMIT: Duration = Duration::from_millis(400);

/// The parts of a running node that are watched, and closed in order.
#[derive(Clone)]
pub(super) struct Running {
    /// Ends the tasks that only show how things are.
    pub stop: CancellationToken,
    /// Ends the link.
    pub close_link: CancellationToken,
    pub metrics: Metrics,
    pub health: Health,
    pub state: Arc<NodeState>,
    pub presence: Arc<NodePresence>,
    pub memory: Arc<Memory>,
    pub keys: Arc<Keys>,
    pub guard: Arc<Guard>,
    pub conscience: Arc<Conscience>,
    pub llm: Arc<Llm>,
    pub watched: Watched,
    /// Asks for a new connection to the broker, with files read again.
    pub renew: watch::Sender<u64>,
}

impl Running {
    /// Carries figures to where they are shown, each second; ends when the ledger's writer has.
    pub(super) async fn monitor(self) {
        let pulse = self.health.pulse("writer");
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut memory_ticks = 0u32;
        let mut was_full = false;
        let mut found = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let ledger = self.state.ledger();
            let stats = ledger.stats();
            if stats.is_stopped() {
                return;
            }
            if stats.busy_for().is_none_or(|busy| busy < STALL_AFTER) {
                pulse.waiting();
            } else {
                pulse.beat();
            }
            self.health.set(Condition::LedgerWritable, true);
            if stats.is_full() != was_full {
                was_full = stats.is_full();
                self.presence.storage(was_full);
            }
            self.health.set(Condition::StorageAvailable, !stats.is_full());
            self.metrics.ledger_storage_full(stats.is_full());
            self.metrics.ledger_wal_bytes(stats.wal_bytes());
            self.metrics.queue_depth("ledger", ledger.queued());
            let engine = self.state.engine();
            for (cache, stats) in self.conscience.cache_stats() {
                self.metrics.cache_requests(cache, stats.hits, stats.misses);
            }
            self.llm.show();
            self.metrics.outbox_open(engine.map_or(0, Engine::outbox_open));
            self.metrics.queue_depth("running", engine.map_or(0, Engine::running));
            self.metrics.auth_open(self.guard.mode() == AuthMode::Open);
            // Sizes on disk need a walk through the index: every ten seconds is enough.
            if memory_ticks.is_multiple_of(10) {
                self.show_memory().await;
                self.write_down_use(engine).await;
            }
            if memory_ticks.is_multiple_of(EXPIRY_TICKS) {
                self.show_expiry(&mut found).await;
            }
            memory_ticks = memory_ticks.wrapping_add(1);
        }
    }

    /// Writes down which keys were used, and tells of those that nobody had used for long.
    async fn write_down_use(&self, engine: Option<&Engine>) {
        let dormant = self.keys.write_down_use().await;
        let Some(engine) = engine else { return };
        for principal in dormant {
            engine.stands_out(Anomaly { kind: Kind::DormantKey, principal });
        }
    }

    /// Shows what ends, and has the link connect anew when one of its files is another one than before.
    async fn show_expiry(&self, before: &mut Option<Found>) {
        let now = self.state.now();
        let found = self.watched.look(now).await;
        for expiry in &found.expires {
            self.metrics.expiry_seconds(expiry.what, (expiry.at.millis() - now.millis()) as f64 / 1e3);
        }
        self.state.expires(found.expires.clone());
        if before.as_ref().is_some_and(|before| before.files != found.files) {
            tracing::info!("a file of the link to the broker has changed");
            self.renew.send_modify(|count| *count += 1);
        }
        *before = Some(found);
    }

    async fn show_memory(&self) {
        match self.memory.stats().await {
            Ok(stats) => {
                for layer in &stats.layers {
                    self.metrics.memory_records(layer.layer.as_str(), layer.records);
                    self.metrics.index_bytes(layer.layer.as_str(), layer.index_bytes);
                }
                self.metrics.index_lag(stats.lag);
                self.metrics.memory_broken_seals(stats.broken);
                if let Some(embeddings) = &stats.embeddings {
                    self.metrics.embeddings_waiting(embeddings.waiting);
                    self.metrics.llm_breaker("embeddings", embeddings.breaker != "closed", embeddings.trips);
                }
            }
            Err(error) => tracing::debug!(%error, "memory has no figures at the moment"),
        }
    }
}

/// Shuts down in the order that the node promises; see [`super`].
pub(super) async fn shut_down(
    running: &Running,
    engine: &Engine,
    presence: &NodePresence,
    publisher: &Publisher,
    ledger: &Ledger,
    core: &mut JoinSet<&'static str>,
) {
    running.health.set(Condition::Serving, false);
    let began = Instant::now();
    // While commands are still taken: what the broker hands over until it has heard is answered here.
    publisher.leave_shares(LEAVE_LIMIT).await;
    engine.drain(HANDLERS_LIMIT.saturating_sub(began.elapsed()), FLUSH_LIMIT).await;
    // First, so that no heartbeat says `online` after the goodbye.
    running.stop.cancel();
    let goodbye = tokio::time::timeout(GOODBYE_LIMIT, publisher.publish(presence.goodbye())).await;
    // Only a broker that has the goodbye is told to drop the last will: otherwise it would say `online` for ever.
    if goodbye == Ok(Publication::Accepted) || !publisher.is_connected() {
        running.close_link.cancel();
        let ended = async { while core.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GOODBYE_LIMIT, ended).await;
    }
    core.shutdown().await;
    // Together, so that a writer that is stuck costs the limit once.
    let last = async { tokio::join!(running.write_down_use(Some(engine)), running.conscience.flush()).1 };
    match tokio::time::timeout(LAST_LIMIT, last).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last decisions could not be put down"),
        Err(_) => tracing::warn!("putting down the last decisions took too long"),
    }
    let (memory, ledger) = (running.memory.clone(), ledger.clone());
    let closed = tokio::task::spawn_blocking(move || {
        memory.close();
        ledger.close();
    });
    if tokio::time::timeout(CLOSE_LIMIT, closed).await.is_err() {
        tracing::warn!("the files took too long to close; the next start recovers them");
    }
}
