//! The embedded broker, for the demo and the tests: MQTT 5 and 3.1.1 over TLS 1.3, login by token, access by role.
//!
//! Promises: there is no anonymous access and no plaintext port; the address is the caller's, who passes the listener;
//! a peer that is silent, slow or one of many holds nobody up; [`Broker::stop`] frees the port within a second, and
//! dropping a [`Broker`] stops it too.
//!
//! The broker itself is the crate `mqtt5`, of which only its connection handler, router and storage are used: the
//! conformance tests in `tests/broker.rs` say what is relied on. A token is looked at when a connection is made; an
//! established connection outlives it. A site has a broker of its own: this one keeps no promise about load.

mod acceptor;
pub mod acl;
mod auth;
pub mod certs;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::config::BrokerConfig as LibraryConfig;
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::{DynamicStorage, FileBackend, MemoryBackend, QueueLimits, StorageBackend};
use mqtt5::broker::sys_topics::BrokerStats;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use self::acceptor::{Acceptor, Shared};
use self::auth::TokenAuth;
use crate::clock::Clock;
use crate::gate::token::Verifier;

/// Longest that a session without a connection is kept.
const SESSION_LIMIT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How often what has expired is removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long the sessions may take to be written when the broker stops.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

/// Most messages that wait for one client.
const MAX_QUEUED_MESSAGES: usize = 10_000;

/// Most bytes that wait for one client.
const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// Most retained messages.
const MAX_RETAINED_MESSAGES: usize = 10_000;

/// Most subscriptions of one client.
const MAX_SUBSCRIPTIONS: usize = 1_000;

/// Most unacknowledged QoS 1 and 2 messages of one client.
const RECEIVE_MAXIMUM: u16 = 1_024;

/// Where sessions, their queues and retained messages are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerStorage {
    /// Gone when the broker stops.
    Memory,
    /// In files in this directory, and back after a restart.
    Directory(PathBuf),
}

/// What a broker needs.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// First level of all topics.
    pub root: String,
    /// From [`crate::tls::server_config`].
    pub tls: Arc<rustls::ServerConfig>,
    /// Decides which tokens are believed.
    pub verifier: Arc<Verifier>,
    /// The time that tokens are judged by.
    pub clock: Clock,
    /// Where state is kept.
    pub storage: BrokerStorage,
    /// Largest packet, in bytes.
    pub max_packet_bytes: usize,
    /// Most connections, those included that have not logged in yet.
    pub max_connections: usize,
    /// Most TLS handshakes at a time; a silent peer occupies one for 5 s.
    pub max_handshakes: usize,
}

impl BrokerConfig {
    /// The defaults: state in memory, packets up to 1 MiB, 1,024 connections, 512 handshakes at a time.
    #[must_use]
    pub fn new(root: &str, tls: Arc<rustls::ServerConfig>, verifier: Arc<Verifier>) -> Self {
        Self {
            root: root.to_owned(),
            tls,
            verifier,
            clock: Clock::system(),
            storage: BrokerStorage::Memory,
            max_packet_bytes: 1024 * 1024,
            max_connections: 1_024,
            max_handshakes: 512,
        }
    }
}

/// Why a broker could not start.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The listener is unusable.
    #[error("the broker cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// The state could not be read.
    #[error("the broker's state cannot be read: {0}")]
    State(#[from] mqtt5::MqttError),
}

/// A running broker.
pub struct Broker {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
    sweeping: JoinHandle<()>,
    storage: Arc<DynamicStorage>,
    // Tells the tasks to stop when dropped, however this value goes away.
    stop: DropGuard,
}

impl Broker {
    /// Starts to serve `listener`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the listener has no address or the stored state cannot be read.
    pub async fn start(config: BrokerConfig, listener: TcpListener) -> Result<Self, BrokerError> {
        let addr = listener.local_addr()?;
        let storage = Arc::new(open_storage(&config.storage).await?);
        let library = Arc::new(library_config(&config));
        let router = Arc::new(
            MessageRouter::with_storage(Arc::clone(&storage))
                .with_retained_limits(MAX_RETAINED_MESSAGES, config.max_packet_bytes),
        );
        let longest = u32::try_from(SESSION_LIMIT.as_secs()).unwrap_or(u32::MAX);
        router.recover_sessions(longest).await?;
        storage.cleanup_expired().await?;
        router.initialize().await?;

        let stop = CancellationToken::new();
        let (goodbye, _) = broadcast::channel(1);
        let monitor = Arc::new(ResourceMonitor::new(resource_limits(config.max_connections)));
        let shared = Arc::new(Shared {
            config: library,
            router: Arc::clone(&router),
            auth: Arc::new(TokenAuth {
                root: config.root,
                verifier: config.verifier,
                clock: config.clock,
                storage: Arc::clone(&storage),
            }),
            storage: Arc::clone(&storage),
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::clone(&monitor),
            goodbye,
        });
        let acceptor = Acceptor {
            listener,
            tls: TlsAcceptor::from(config.tls),
            shared,
            max_connections: config.max_connections,
            max_handshakes: config.max_handshakes,
            stop: stop.clone(),
        };
        info!(%addr, "broker listening");
        Ok(Self {
            addr,
            accepting: tokio::spawn(acceptor.run()),
            sweeping: tokio::spawn(sweep(Arc::clone(&storage), router, monitor, stop.clone())),
            storage,
            stop: stop.drop_guard(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the port, ends all connections and writes what has to be kept; takes at most a second.
    pub async fn stop(self) {
        drop(self.stop);
        for task in [self.accepting, self.sweeping] {
            if task.await.is_err() {
                warn!("a task of the broker panicked");
            }
        }
        match timeout(FLUSH_LIMIT, self.storage.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the broker's sessions could not be written"),
            Err(_) => warn!("writing the broker's sessions took too long"),
        }
    }
}

/// Removes what has expired, until told to stop.
async fn sweep(
    storage: Arc<DynamicStorage>,
    router: Arc<MessageRouter>,
    monitor: Arc<ResourceMonitor>,
    stop: CancellationToken,
) {
    let mut tick = interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            tick.tick().await;
            if let Err(error) = storage.cleanup_expired().await {
                warn!(%error, "expired messages could not be removed");
            }
            router.sweep_sessions().await;
            monitor.cleanup_expired_windows().await;
        }
    };
    let _: Option<()> = stop.run_until_cancelled(work).await;
}

async fn open_storage(storage: &BrokerStorage) -> Result<DynamicStorage, mqtt5::MqttError> {
    let limits = QueueLimits { max_messages: MAX_QUEUED_MESSAGES, max_bytes: MAX_QUEUED_BYTES };
    Ok(match storage {
        BrokerStorage::Memory => DynamicStorage::Memory(MemoryBackend::with_queue_limits(limits)),
        BrokerStorage::Directory(dir) => {
            DynamicStorage::File(FileBackend::with_queue_limits(dir, limits).await?)
        }
    })
}

fn library_config(config: &BrokerConfig) -> LibraryConfig {
    let mut library = LibraryConfig::default()
        .with_bind_addresses(Vec::new())
        .with_session_expiry(SESSION_LIMIT)
        .with_max_packet_size(config.max_packet_bytes)
        .with_max_clients(config.max_connections)
        .with_max_subscriptions_per_client(MAX_SUBSCRIPTIONS)
        .with_max_retained_messages(MAX_RETAINED_MESSAGES)
        .with_server_receive_maximum(RECEIVE_MAXIMUM)
        .with_sys_topics_enabled(false);
    library.topic_alias_maximum = 0;
    library
}

/// The connection limit is the acceptor's; here only what the library must not refuse by itself.
fn resource_limits(max_connections: usize) -> ResourceLimits {
    ResourceLimits {
        max_connections,
        max_connections_per_ip: max_connections,
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::MAX,
        rate_limit_window: Duration::from_secs(1),
    }
}
