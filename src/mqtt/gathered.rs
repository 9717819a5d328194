//! A socket that gathers what is to be sent until the next read.
//!
//! The client library flushes after each acknowledgement: a system call for four bytes, for which the broker is woken. Here a
//! flush leaves the bytes where they are. They go out together when the library has nothing more to send and looks for what
//! has arrived, which it does before it waits for anything; when there are more than [`MOST`]; and when the socket is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::dial;

/// Most bytes that are gathered.
const MOST: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Gathered {
    socket: TcpStream,
    waiting: BytesMut,
    /// How long the peer may take nothing. The library's keep-alive does not run while it waits to write.
    patience: Duration,
    /// Ends the connection, while the peer takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Gathered {
    /// Connects to `broker`, a name or address with a port. It is left when it has taken nothing for longer than `patience`.
    pub(super) async fn connect(broker: String, patience: Duration) -> io::Result<Self> {
        let socket = dial::any(tokio::net::lookup_host(broker).await?).await?;
        // What is gathered is not held back a second time.
        socket.set_nodelay(true)?;
        Ok(Self { socket, waiting: BytesMut::new(), patience, stuck: None })
    }

    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = match Pin::new(&mut self.socket).poll_write(context, &self.waiting)? {
                Poll::Ready(sent) => sent,
                Poll::Pending => return self.wait(context),
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
            self.stuck = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Fails when the peer has taken nothing for too long.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let patience = self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stuck.as_mut().poll(context));
        let message = format!("the broker has taken nothing for {} s", patience.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let sent = this.send(context);
        // What has arrived goes first: a broker that closes the connection may have said why.
        match (Pin::new(&mut this.socket).poll_read(context, buffer), sent) {
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (read, _) => read,
        }
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.waiting.len() + bytes.len() > MOST {
            ready!(this.send(context))?;
        }
        let taken = &bytes[..bytes.len().min(MOST)];
        this.waiting.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send(context))?;
        Pin::new(&mut this.socket).poll_shutdown(context)
    }
}

impl Drop for Gathered {
    /// The last word is a DISCONNECT, after which nothing is read.
    fn drop(&mut self) {
        while !self.waiting.is_empty() {
            match self.socket.try_write(&self.waiting) {
                Ok(sent) if sent > 0 => self.waiting.advance(sent),
                // The peer has gone, or takes nothing more.
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn pair() -> (Gathered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = listener.local_addr().unwrap().to_string();
        let (gathered, accepted) = tokio::join!(Gathered::connect(broker, PATIENCE), listener.accept());
        (gathered.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_flushed_one_by_one_goes_out_together_with_the_next_read() {
        let (mut gathered, mut peer) = pair().await;
        for packet in [b"acknowledged", b"and answered"] {
            gathered.write_all(packet).await.unwrap();
            gathered.flush().await.unwrap();
        }
        let mut received = [0; 100];
        assert!(peer.read(&mut received).now_or_never().is_none(), "nothing has been read yet");
        let asking = async {
            let mut answer = [0; 2];
            gathered.read_exact(&mut answer).await.map(|_| answer)
        };
        let answering = async {
            let count = peer.read(&mut received).await.unwrap();
            peer.write_all(b"ok").await.unwrap();
            count
        };
        let (answer, count) = tokio::join!(asking, answering);
        assert_eq!((&answer.unwrap(), &received[..count]), (b"ok", &b"acknowledgedand answered"[..]));
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_its_bound_and_nothing_is_lost_or_reordered() {
        let (mut gathered, mut peer) = pair().await;
        let sent: Vec<u8> = (0..20 * MOST).map(|at| (at / 7) as u8).collect();
        let sending = async {
            // Small ones, one that is larger than the bound, and small ones again.
            let mut rest = &sent[..];
            for size in [3, 1_000, 3 * MOST, MOST, 1].into_iter().cycle() {
                let (packet, others) = rest.split_at(size.min(rest.len()));
                gathered.write_all(packet).await.unwrap();
                assert!(gathered.waiting.len() <= MOST);
                rest = others;
                if rest.is_empty() {
                    break;
                }
            }
            gathered.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(sending, peer.read_to_end(&mut received));
        read.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    }

    #[tokio::test]
    async fn what_waits_is_sent_when_the_socket_is_dropped() {
        let (mut gathered, mut peer) = pair().await;
        gathered.write_all(b"farewell").await.unwrap();
        drop(gathered);
        let mut received = String::new();
        peer.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "farewell");
    }

    #[tokio::test]
    async fn what_a_peer_said_before_it_closed_is_heard_though_nothing_can_be_sent() {
        let (mut gathered, mut peer) = pair().await;
        peer.write_all(b"why").await.unwrap();
        drop(peer);
        gathered.write_all(b"too late").await.unwrap();
        let mut heard = [0; 3];
        gathered.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"why");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_more_is_left() {
        let (mut gathered, _peer) = pair().await;
        let started = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = gathered.write_all(&[7; MOST]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= PATIENCE);
        let error = gathered.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "whoever reads hears of it, too");
    }
}
