//! `orchd run`: the daemon.

use std::sync::Arc;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Exit, Shared, complain, need, report, run_async};
use crate::config::{self, Config, LogFormat, Provenance, Role};
use crate::node::{self, Ports, RunError, Signals};
use crate::observe::logging::{self, FilterHandle, Format};
use crate::observe::systemd::Systemd;

/// Run the node until SIGTERM or SIGINT; SIGHUP reads the configuration again
///
/// On the machine itself: reads --config, opens the state folder, connects to the broker.
#[derive(clap::Args, Debug)]
pub struct Args {}

impl Args {
    /// Runs the node in the foreground.
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let (config, provenance) = match load(shared) {
            Ok(loaded) => loaded,
            Err(exit) => return exit,
        };
        // At a reload a wrong file leaves what was read before in force; at the start there is nothing before.
        let wrong = node::wrong_files(&provenance, Role::Node);
        if !wrong.is_empty() {
            report(&wrong);
            return Exit::Usage;
        }
        // A core dump would hold every key that the node knows.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        if let Err(error) = setrlimit(Resource::Core, none) {
            complain(format_args!("core dumps could not be turned off: {error}"));
        }
        // What libraries make is the node's alone, too, also where no unit says so.
        umask(Mode::RWXG | Mode::RWXO);
        let filter = match start_logging(&config) {
            Ok(filter) => filter,
            Err(error) => {
                complain(error);
                return Exit::Usage;
            }
        };
        let reload_from = Shared { config: shared.config.clone(), set: shared.set.clone() };
        let ended =
            run_async(run(config, provenance, reload_from, filter)).unwrap_or_else(|error| Err(error.into()));
        match ended {
            Ok(()) => Exit::Ok,
            Err(error) => {
                tracing::error!(%error, "the node has ended");
                complain(&error);
                // The unit does not start again what ends in 2.
                match error.downcast_ref::<RunError>() {
                    Some(error) if error.needs_a_person() => Exit::Usage,
                    _ => Exit::Failed,
                }
            }
        }
    }
}

/// The configuration, with every secret within reach.
fn load(shared: &Shared) -> Result<(Config, Provenance), Exit> {
    let (config, provenance) = shared.load(Role::Node)?;
    need(&provenance, Role::Node, |_| true)?;
    Ok((config, provenance))
}

/// Sets logging up as the configuration says.
pub(super) fn start_logging(config: &Config) -> Result<FilterHandle, logging::Error> {
    let format = match config.log.format {
        LogFormat::Auto | LogFormat::Journald => Format::Auto,
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    logging::init(format, &config.log.filter, |name| std::env::var_os(name))
}

async fn run(
    config: Config,
    provenance: Provenance,
    shared: Shared,
    filter: FilterHandle,
) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = CancellationToken::new();
    let (reload, asked) = watch::channel(0u64);
    listen_for_signals(shutdown.clone(), reload)?;
    let ports = Ports::open(&config).await?;
    let (ready, _) = mpsc::channel(1);
    let (config_text, config_files) = (config::portable(&provenance), config::public_files(&provenance));
    let signals = Signals {
        shutdown,
        reload: asked,
        reconfigure: Arc::new(move || {
            let (config, now) = load(&shared).map_err(|_| "see the lines before this one".to_owned())?;
            let changed = now.changed(&provenance);
            node::can_take_over(&changed)?;
            filter.set_filter(&config.log.filter).map_err(|error| error.to_string())?;
            Ok((config, changed))
        }),
        systemd: Arc::new(Systemd::from_env(|name| std::env::var_os(name))),
        config_text,
        config_files,
        ready,
    };
    Ok(node::run(config, ports, signals).await?)
}

/// SIGTERM and SIGINT stop, SIGHUP reloads.
fn listen_for_signals(shutdown: CancellationToken, reload: watch::Sender<u64>) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => reload.send_modify(|count| *count += 1),
            }
        }
        shutdown.cancel();
    });
    Ok(())
}
