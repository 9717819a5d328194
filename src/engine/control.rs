//! The control socket: the same commands for the command line on the node itself, without a broker.
//!
//! One JSON document a line in each direction. The socket's mode (0600) is its authentication: whoever can open it is
//! the principal `local`. What it asks for goes through the engine like everything else, audit included.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::Engine;
use crate::gate::Identity;
use crate::wire::{Code, Encoding, Fault, Payload};

/// Connections served at the same time.
const CONNECTIONS: usize = 32;

/// What a line may hold besides the payload, in bytes.
const ENVELOPE_BYTES: usize = 16 << 10;

/// Most of a line that is too long that is read away, so that who sent it can read why it is refused.
const SKIPPED: usize = 64 << 20;

/// One line from the command line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ControlRequest {
    /// Run a command; answered with one reply.
    Call {
        /// Service and verb.
        command: String,
        /// As in an envelope.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
        /// As in an envelope.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<u64>,
        /// The arguments.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payload: Option<Box<RawValue>>,
    },
    /// Send every event from now on.
    Watch {},
}

#[derive(Serialize)]
struct Told<'a> {
    topic: &'a str,
    payload: &'a RawValue,
}

/// Binds the socket with mode 0600, replacing the one that an earlier run left.
///
/// # Errors
/// When another process serves it, or the file system refuses.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    // A socket that nobody listens on refuses; one that is served must not be taken away from its owner.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another orchd is running and serves this socket; stop it first, or give this one a state folder of its own",
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Bound in a folder of mode 0700, so there is no moment at which another user could connect.
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until told to stop.
pub async fn serve(listener: UnixListener, engine: Engine, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (engine, stop) = (engine.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            served = connection(stream, &engine) => {
                                if let Err(error) = served {
                                    tracing::debug!(%error, "a control connection ended");
                                }
                            }
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others will be closed.
                    tracing::warn!(%error, "the control socket could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(stream: UnixStream, engine: &Engine) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let limit = (engine.inner.limits.max_payload_bytes + ENVELOPE_BYTES) as u64;
    loop {
        let mut line = Vec::new();
        if (&mut read).take(limit).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == limit {
            drop(line);
            let most = engine.inner.limits.max_payload_bytes;
            let error = Fault::new(
                Code::TooLarge,
                format!("the request is larger than this node takes ({most} bytes)"),
            );
            // Who is still writing does not read yet.
            skip_line(&mut read).await?;
            answer(&mut write, &Refused { error }).await?;
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(ControlRequest::Call { command, message_id, expires_in_ms, payload }) => {
                let bytes = payload
                    .map_or_else(Default::default, |payload| String::from(Box::<str>::from(payload)).into());
                let payload = Payload::new(Encoding::Json, bytes);
                let reply = engine
                    .call_locally(
                        Identity::local(),
                        &command,
                        message_id,
                        expires_in_ms.map(Duration::from_millis),
                        payload,
                    )
                    .await;
                let mut bytes = match reply {
                    Ok(reply) => reply.encode(Encoding::Json),
                    Err(fault) => Encoding::Json.encode(&Refused { error: fault }),
                }
                .map_err(io::Error::other)?;
                bytes.push(b'\n');
                write.write_all(&bytes).await?;
            }
            Ok(ControlRequest::Watch {}) => return watch(engine, write).await,
            Err(_) => {
                let error = Fault::malformed("expected one request as JSON on a line");
                answer(&mut write, &Refused { error }).await?;
            }
        }
    }
}

/// Reads the rest of a line that is too long, and keeps nothing of it; it may be [`SKIPPED`] bytes.
async fn skip_line(read: &mut BufReader<tokio::net::unix::OwnedReadHalf>) -> io::Result<()> {
    let mut skipped = 0;
    loop {
        let some = read.fill_buf().await?;
        let end = some.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(some.len(), |end| end + 1);
        read.consume(used);
        skipped += used;
        if end.is_some() || used == 0 {
            return Ok(());
        }
        if skipped > SKIPPED {
            return Err(io::Error::other("the line is too long"));
        }
    }
}

async fn answer(write: &mut tokio::net::unix::OwnedWriteHalf, refused: &Refused) -> io::Result<()> {
    let mut bytes = Encoding::Json.encode(refused).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

#[derive(Serialize)]
struct Refused {
    error: Fault,
}

async fn watch(engine: &Engine, mut write: tokio::net::unix::OwnedWriteHalf) -> io::Result<()> {
    let mut events = engine.events().listen();
    loop {
        match events.recv().await {
            Ok(event) => {
                let topic = engine.names().event(event.kind);
                let payload: &RawValue = serde_json::from_slice(&event.payload)?;
                let mut bytes = serde_json::to_vec(&Told { topic: &topic, payload })?;
                bytes.push(b'\n');
                write.write_all(&bytes).await?;
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}
