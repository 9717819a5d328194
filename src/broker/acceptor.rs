//! Accepts TLS 1.3 connections for the embedded broker.
//!
//! The broker library's own listener does the handshake inside its accept loop, where one silent peer stops all
//! others, and accepts TLS 1.2. Here the loop only accepts: each handshake is a task with a time limit, handshakes
//! and connections are bounded in number, and what exceeds a bound is closed at once. The loop never spins on an
//! error and never ends before it is told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::auth::AuthProvider;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::config::BrokerConfig as LibraryConfig;
use mqtt5::broker::resource_monitor::ResourceMonitor;
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::DynamicStorage;
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::tls_acceptor::TlsStreamWrapper;
use mqtt5::broker::transport::BrokerTransport;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long connections may take to say goodbye when the broker stops, before they are cut.
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);

/// How long to wait before accepting again when the system is out of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of the broker shares.
pub(super) struct Shared {
    pub(super) config: Arc<LibraryConfig>,
    pub(super) router: Arc<MessageRouter>,
    pub(super) auth: Arc<dyn AuthProvider>,
    pub(super) storage: Arc<DynamicStorage>,
    pub(super) stats: Arc<BrokerStats>,
    pub(super) monitor: Arc<ResourceMonitor>,
    /// Tells the connections to end.
    pub(super) goodbye: broadcast::Sender<()>,
}

/// The accept loop and its limits.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    pub(super) tls: TlsAcceptor,
    pub(super) shared: Arc<Shared>,
    pub(super) max_connections: usize,
    pub(super) max_handshakes: usize,
    pub(super) stop: CancellationToken,
}

impl Acceptor {
    /// Runs until `stop` is cancelled; then closes the port, and returns when all connections have ended, at most
    /// [`GOODBYE_LIMIT`] later.
    pub(super) async fn run(self) {
        let mut connections = JoinSet::new();
        let handshakes = Arc::new(Semaphore::new(self.max_handshakes));
        // So that a flood is told once, and not once for each connection.
        let mut flooded = false;
        loop {
            let (stream, address) = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    report(ended);
                    continue;
                }
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        self.rest_after(&error).await;
                        continue;
                    }
                },
            };
            let free = connections.len() < self.max_connections;
            let Some(permit) = free.then(|| Arc::clone(&handshakes).try_acquire_owned().ok()).flatten()
            else {
                if !flooded {
                    warn!(
                        connections = connections.len(),
                        "too many connections or logins at once: closing new ones"
                    );
                }
                flooded = true;
                continue;
            };
            flooded = false;
            let (tls, shared, stop) = (self.tls.clone(), Arc::clone(&self.shared), self.stop.clone());
            connections.spawn(async move {
                let Some(stream) = handshake(&tls, stream, address, &stop).await else { return };
                drop(permit);
                serve(&shared, stream, address).await;
            });
        }
        drop(self.listener);
        // Fails only when there is no connection to hear it.
        let _ = self.shared.goodbye.send(());
        let ended = async {
            while let Some(ended) = connections.join_next().await {
                report(ended)
            }
        };
        if timeout(GOODBYE_LIMIT, ended).await.is_err() {
            connections.shutdown().await;
        }
    }

    async fn rest_after(&self, error: &io::Error) {
        let Some(pause) = pause_after(error) else { return };
        warn!(%error, "cannot accept connections");
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}

/// How long to wait after a failed accept: not at all when only that one connection failed.
fn pause_after(error: &io::Error) -> Option<Duration> {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {
            None
        }
        // Out of file descriptors or memory: the connection stays in the queue, and accept fails again at once.
        _ => Some(EXHAUSTED_PAUSE),
    }
}

async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    stop: &CancellationToken,
) -> Option<TlsStreamWrapper> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, %error, "cannot set TCP_NODELAY");
    }
    let result = tokio::select! {
        () = stop.cancelled() => return None,
        result = timeout(HANDSHAKE_LIMIT, tls.accept(stream)) => result,
    };
    match result {
        Ok(Ok(stream)) => Some(TlsStreamWrapper::new(stream)),
        Ok(Err(error)) => {
            debug!(%address, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%address, "TLS handshake took too long");
            None
        }
    }
}

async fn serve(shared: &Shared, stream: TlsStreamWrapper, address: SocketAddr) {
    let handler = ClientHandler::new(
        BrokerTransport::tls(stream),
        address,
        Arc::clone(&shared.config),
        Arc::clone(&shared.router),
        Arc::clone(&shared.auth),
        Some(Arc::clone(&shared.storage)),
        Arc::clone(&shared.stats),
        Arc::clone(&shared.monitor),
        shared.goodbye.subscribe(),
    );
    if let Err(error) = handler.run().await {
        debug!(%address, %error, "connection ended");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        // The library's fault; the other connections go on.
        error!("a broker connection panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_system_is_given_time_and_a_lost_connection_is_not() {
        // As Linux numbers them: EMFILE, ENFILE, ENOMEM; ECONNABORTED, ECONNRESET, EINTR.
        for (code, paused) in [(24, true), (23, true), (12, true), (103, false), (104, false), (4, false)] {
            assert_eq!(pause_after(&io::Error::from_raw_os_error(code)).is_some(), paused, "errno {code}");
        }
    }
}
