//! `orchd demo`: a broker, certificates, a node and a client in one process, and a tour through real topics.
//!
//! Nothing here is a special case: the broker, the node and the client are those of real use, set up by files in the
//! demo's folder that a person can read and go on with.

mod stage;
mod tour;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, complain, print, run_async};
use stage::Stage;

/// Start a broker, a node and a client in one process, and show what they do
///
/// Needs nothing but this program: certificates and keys are made on the spot, for trials only.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// End after the tour: 0 when every step worked
    #[arg(long)]
    once: bool,
    /// Where keys, certificates, configuration and state are kept
    #[arg(long, value_name = "FOLDER", default_value = "orchd-demo")]
    dir: PathBuf,
    /// Where the broker listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18883")]
    listen: SocketAddr,
}

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct DemoError(String);

impl DemoError {
    /// What was tried, and what went wrong.
    fn new(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Prints a part of the tour; without its output the demo is of no use.
fn say(text: &str) -> Result<(), DemoError> {
    match print(text) {
        Exit::Ok => Ok(()),
        _ => Err(DemoError("nobody can read it".to_owned())),
    }
}

impl Args {
    /// Runs the demo.
    pub(super) fn run(&self) -> Exit {
        // The tour is what people read; the journal of broker and node stays quiet unless something is wrong.
        if let Err(error) =
            crate::observe::logging::init(crate::observe::logging::Format::Text, "error,mqtt5=off", |name| {
                std::env::var_os(name)
            })
        {
            complain(error);
            return Exit::Failed;
        }
        match run_async(self.play()).unwrap_or_else(|error| Err(DemoError::new("the runtime", error))) {
            Ok(()) => Exit::Ok,
            Err(error) => {
                complain(format_args!("the demo failed: {error}"));
                Exit::Failed
            }
        }
    }

    async fn play(&self) -> Result<(), DemoError> {
        let mut interrupted =
            signal(SignalKind::interrupt()).map_err(|error| DemoError::new("signals", error))?;
        let mut terminated =
            signal(SignalKind::terminate()).map_err(|error| DemoError::new("signals", error))?;
        // With `--once` the tour is what was asked for, and there is none.
        let interruption = || if self.once { Err(DemoError("interrupted".to_owned())) } else { Ok(()) };
        let stage = tokio::select! {
            stage = Stage::set_up(&self.dir, self.listen) => stage?,
            _ = interrupted.recv() => return interruption(),
            _ = terminated.recv() => return interruption(),
        };
        let tour = async {
            say(&stage.introduction())?;
            tour::run(&stage).await
        };
        let toured = tokio::select! {
            toured = tour => Some(toured),
            _ = interrupted.recv() => None,
            _ = terminated.recv() => None,
        };
        let played = match toured {
            None => interruption(),
            Some(Ok(())) if !self.once => {
                let said = say(&stage.what_next());
                if said.is_ok() {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                        () = stage.ended() => {}
                    }
                }
                said
            }
            Some(toured) => toured,
        };
        let stopped = stage.take_down().await;
        played.and(stopped)
    }
}
