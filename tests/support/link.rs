//! A TCP link between a client and a broker that a test can cut, slow down, or let fall silent.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    Silent,
}

#[derive(Clone, Copy)]
struct State {
    mode: Mode,
    delay: Duration,
    /// Connections of an earlier era are closed.
    era: u64,
}

/// A link to a broker; ends, with all connections, when dropped.
pub struct Link {
    addr: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Link {
    /// A link to `broker`, open and without delay.
    pub async fn to(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State { mode: Mode::Open, delay: Duration::ZERO, era: 0 });
        let accepting = tokio::spawn(accept(listener, broker, seen));
        Self { addr, state, accepting }
    }

    /// Where the client connects.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes all connections and closes new ones at once, without a byte.
    pub fn cut(&self) {
        self.state.send_modify(|state| (state.mode, state.era) = (Mode::Cut, state.era + 1));
    }

    /// Swallows all bytes in both directions from now on, and keeps the sockets open.
    pub fn half_open(&self) {
        self.state.send_modify(|state| state.mode = Mode::Silent);
    }

    /// Lets new connections through again. Those that lost bytes are closed.
    pub fn mend(&self) {
        self.state.send_modify(|state| {
            if state.mode == Mode::Silent {
                state.era += 1;
            }
            state.mode = Mode::Open;
        });
    }

    /// Holds what is read from now on back by `delay`, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, broker: SocketAddr, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        let State { mode, era, .. } = *state.borrow();
        if mode != Mode::Cut {
            connections.spawn(connect(client, broker, state.clone(), era));
        }
    }
}

async fn connect(client: TcpStream, broker: SocketAddr, mut state: watch::Receiver<State>, era: u64) {
    let Ok(upstream) = TcpStream::connect(broker).await else { return };
    for socket in [&client, &upstream] {
        socket.set_nodelay(true).unwrap();
    }
    let (client_read, client_write) = client.into_split();
    let (upstream_read, upstream_write) = upstream.into_split();
    let (there, back) = (state.clone(), state.clone());
    tokio::select! {
        () = carry(client_read, upstream_write, there) => {}
        () = carry(upstream_read, client_write, back) => {}
        _ = state.wait_for(|state| state.era != era) => {}
    }
}

/// Carries bytes one way until either side closes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let State { mode, delay, .. } = *state.borrow();
        if mode == Mode::Silent {
            continue;
        }
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
