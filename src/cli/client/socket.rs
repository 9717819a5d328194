//! Through the control socket of the node on this machine: one JSON document a line in each direction.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Answer, Event, Failure, Question};
use crate::engine::ControlRequest;

/// How long the node may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    async fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::Socket { path: path.to_owned(), source };
        let stream = timeout(CONNECT_LIMIT, UnixStream::connect(path))
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    fn failed(&self, source: io::Error) -> Failure {
        Failure::Socket { path: self.path.clone(), source }
    }

    async fn send(&mut self, request: &ControlRequest) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.failed(error.into()))?;
        // A line end between the members of a payload would end the request.
        line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(|error| self.failed(error))
    }

    async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line).await {
            Ok(0) => {
                Err(self.failed(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")))
            }
            Ok(_) => Ok(line),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// Asks the node and waits for its reply.
pub(super) async fn ask(path: &Path, question: &Question, limit: Duration) -> Result<Answer, Failure> {
    let until = Instant::now() + limit;
    let mut connection = Connection::open(path).await?;
    let request = ControlRequest::Call {
        command: question.command.clone(),
        message_id: Some(question.message_id.clone()),
        expires_in_ms: u64::try_from(limit.as_millis()).ok(),
        payload: question.payload.clone(),
    };
    let answered = async {
        connection.send(&request).await?;
        connection.line().await
    };
    match timeout_at(until, answered).await {
        Ok(line) => Answer::read(&line?),
        Err(_) => Err(question.timeout(limit, "")),
    }
}

/// Events of the node as they come.
pub(in crate::cli) struct Events {
    connection: Connection,
    kinds: Vec<String>,
}

#[derive(Deserialize)]
struct Told {
    topic: String,
    #[serde(default)]
    payload: serde_json::Value,
}

impl Events {
    pub(super) async fn listen(path: &Path, kinds: &[String]) -> Result<Self, Failure> {
        let mut connection = Connection::open(path).await?;
        connection.send(&ControlRequest::Watch {}).await?;
        Ok(Self { connection, kinds: kinds.to_vec() })
    }

    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let line = self.connection.line().await?;
            let told: Told = serde_json::from_slice(&line).map_err(|_| Failure::NotAnAnswer)?;
            let event = Event { topic: told.topic, payload: told.payload };
            let (_, kind) = event.origin();
            if self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind) {
                return Ok(event);
            }
        }
    }
}
