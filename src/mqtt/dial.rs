//! Connecting to a name with several addresses.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an address may take before the next one of the same name is tried beside it: the Connection Attempt Delay that RFC
/// 8305, section 5, recommends.
const HEAD_START: Duration = Duration::from_millis(250);

/// A connection to whichever of `addresses` takes it first; each has a start of [`HEAD_START`] before the next, unless it fails.
pub(super) async fn any(mut addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let patience = match addresses.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                HEAD_START
            }
            None if attempts.is_empty() => return Err(last),
            None => Duration::MAX,
        };
        if let Ok(Some(Ok(ended))) = tokio::time::timeout(patience, attempts.join_next()).await {
            match ended {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_or_keeps_silent_does_not_stand_in_the_way_of_the_next() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = open.local_addr().unwrap();
        // A full backlog leaves further connections without an answer.
        let full = TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = full.listen(1).unwrap();
        let silent = full.local_addr().unwrap();
        let crowd: Vec<_> = (0..8).map(|_| tokio::spawn(TcpStream::connect(silent))).collect();

        let socket = any([closed, silent, address].into_iter()).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), address);
        crowd.iter().for_each(tokio::task::JoinHandle::abort);

        let refused = any([closed].into_iter()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let nothing = any([].into_iter()).await.unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }
}
