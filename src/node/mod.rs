//! The composition root: builds the parts, supervises them, shuts them down.
//!
//! [`run`] is a function of configuration, ports and signals; a test or the demo owns all three. The order of the
//! shutdown: the shared subscriptions are ended, nothing new is admitted, handlers finish, the outbox is flushed, `offline`
//! is published and acknowledged, the link says goodbye, the ledger closes. It takes at most 5 s, with the broker gone too.

mod agenda;
mod audit;
mod contents;
mod declared;
mod diary;
mod expiry;
mod fault;
mod judge;
mod policy;
mod presence;
mod running;
mod service;
mod settings;
mod state;

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{AuthMode, Config};
use crate::conscience::{self, Conscience, Judge};
use crate::engine::command::Declaration;
use crate::engine::jobs::Jobs;
use crate::engine::port::Publish;
use crate::engine::{self, Engine, Events, Parts, Registry};
use crate::gate::guard::Guard;
use crate::gate::{self, SECURITY_LOG};
use crate::ledger::{self, OpenError, StateLock};
use crate::llm::{self, Llm};
use crate::memory::{self, Memory};
use crate::mqtt::{Hooks, Link};
use crate::observe::health::STALL_AFTER;
use crate::observe::systemd::Systemd;
use crate::observe::{Condition, Health, Metrics, http};
use crate::phoenix::{self, Phoenix};
use crate::schedule::{self, Schedule};
use crate::soul::{self, Soul};
use crate::wire::Names;
use crate::wire::topic::Target;

pub(crate) use audit::Shown as AuditRecord;
pub use contents::{check_files, wrong_files};
pub use declared::{EventDeclaration, event_declarations};

pub use fault::RunError;
pub use presence::WILL_EXPIRY_S;

use presence::NodePresence;
use running::{Running, shut_down};
use state::NodeState;

/// What the caller opened for the node.
pub struct Ports {
    /// For metrics and health.
    pub observe: Option<TcpListener>,
    /// For the command line on the node itself.
    pub control: Option<UnixListener>,
    /// The state folder, held before anything else is opened: what is in the way is told of first.
    pub state: StateLock,
}

impl Ports {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// When an address or path cannot be had.
    pub async fn open(config: &Config) -> Result<Self, RunError> {
        let state = StateLock::take(&config.node.state_dir).map_err(OpenError::from)?;
        let observe = match config.observe.listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| RunError::Io { what: format!("observe.listen {address}"), source })?,
            ),
            None => None,
        };
        let socket = &config.control.socket;
        let control =
            prepare_socket(socket).and_then(|()| engine::bind_control(socket)).map_err(|source| {
                RunError::Io { what: format!("control.socket {}", socket.display()), source }
            })?;
        Ok(Self { observe, control: Some(control), state })
    }
}

/// The folder of the socket is private from the start; one that is there keeps its mode, because it may be shared.
fn prepare_socket(socket: &std::path::Path) -> std::io::Result<()> {
    match socket.parent() {
        Some(folder) if !folder.exists() => {
            ledger::generation::create_private_dir(folder).map_err(std::io::Error::other)
        }
        _ => Ok(()),
    }
}

/// Reads the configuration again: what it is now, and the keys that have another value than at the start; else what is wrong.
pub type Reconfigure = dyn Fn() -> Result<(Config, Vec<&'static str>), String> + Send + Sync;

/// What reaches a running node from outside.
pub struct Signals {
    /// Cancelled when the node shall stop.
    pub shutdown: CancellationToken,
    /// Each change asks for the configuration to be read again.
    pub reload: watch::Receiver<u64>,
    /// Reads the configuration again, and applies what can change at run time outside the node (the log filter). The node
    /// applies the rest (`[auth]`, `[policy]`). With it come the keys that have another value than at the start. What is wrong is
    /// returned for the journal, and everything stays as it was.
    pub reconfigure: Arc<Reconfigure>,
    /// The service manager.
    pub systemd: Arc<Systemd>,
    /// The configuration as text, without secrets, for backups.
    pub config_text: String,
    /// The files and folders that it names and that are no secrets, for backups.
    pub config_files: Vec<std::path::PathBuf>,
    /// Told once, when the node serves.
    pub ready: mpsc::Sender<()>,
}

/// Every command of a node, without one running: for `topics/`, the command line's help and ACL examples.
#[must_use]
pub fn declarations() -> Vec<Declaration> {
    let mut all: Vec<_> = service::commands().iter().map(|entry| entry.declaration.clone()).collect();
    all.extend(audit::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(policy::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(phoenix::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(schedule::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(gate::keys::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(conscience::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(memory::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(llm::commands().iter().map(|entry| entry.declaration.clone()));
    all.extend(soul::commands().iter().map(|entry| entry.declaration.clone()));
    all.sort_by_key(Declaration::name);
    all
}

/// The filters that a node subscribes to: its own services, `all` and its group's `any`.
#[must_use]
pub fn filters(names: &Names, group: &str, declarations: &[Declaration]) -> Vec<String> {
    let mut filters: Vec<String> = Vec::new();
    for declaration in declarations {
        let service = declaration.service;
        filters.push(names.command(&format!("{service}/#")));
        if declaration.reaches(Target::All) {
            filters.push(format!("{}/all/{service}/#", names.root()));
        }
        if declaration.reaches(Target::Any) {
            filters.push(format!("$share/{group}/{}/any/{service}/#", names.root()));
        }
    }
    filters.sort();
    filters.dedup();
    filters
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start, or a core task ends.
pub async fn run(config: Config, ports: Ports, signals: Signals) -> Result<(), RunError> {
    let clock = Clock::system();
    let names = Names::new(&config.node.root, &config.node.name).ok_or(RunError::Names)?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
    let health = Health::new(STALL_AFTER);
    let conscience_config = settings::conscience_config(&config).await?;
    tokio::task::block_in_place(|| phoenix::take_up(&ports.state, &config.node.key_file, &clock))?;
    let node_key = tokio::task::block_in_place(|| settings::node_key(&config))?;
    let ledger = settings::open_ledger(ports.state, &config, &metrics, clock.clone()).await?;
    let events = Events::default();

    tokio::task::block_in_place(|| settings::seal_audit(&ledger, &node_key))?;
    let memory = tokio::task::block_in_place(|| {
        Memory::open(ledger.clone(), settings::memory_seal(&node_key), settings::memory_config(&config))
    })
    .map_err(|source| RunError::Io { what: "the memory's index".to_owned(), source })?;
    memory.prepare().await.map_err(|fault| RunError::Service { service: "memory", fault })?;
    let llm_config = settings::llm_config(&config);
    let llm = Llm::open(llm_config, &ledger, &clock, metrics.clone(), events.clone()).await?;
    let diary = Arc::new(diary::NodeDiary(memory.clone()));
    let judge = llm.has_models().then(|| Arc::new(judge::NodeJudge(llm.clone())) as Arc<dyn Judge>);
    let conscience = Conscience::open(ledger.clone(), conscience_config, events.clone(), diary, judge)
        .await
        .map_err(|fault| RunError::Service { service: "conscience", fault })?;

    let settings::Gated { seal, keys, guard } =
        tokio::task::block_in_place(|| settings::gate(&config, &node_key, &ledger))?;

    let (link, publisher, at_least_once, at_most_once) = Link::new(
        settings::connect_options(&config, &names),
        filters(&names, &config.node.group, &declarations()),
        (config.broker.reconnect_min, config.broker.reconnect_max),
        clock.clone(),
    );
    let (broker, publisher) = (publisher.clone(), Arc::new(publisher) as Arc<dyn Publish>);
    let jobs = Jobs::new(config.limits.jobs_in_flight);
    let (state, reload_asked) = NodeState::new(
        names.clone(),
        ledger.clone(),
        jobs.clone(),
        health.clone(),
        publisher.clone(),
        guard.clone(),
        (llm.clone(), memory.clone()),
    );
    let state = Arc::new(state);
    let options = agenda::options(&config);
    let schedule = tokio::task::block_in_place(|| {
        Schedule::open(ledger.clone(), events.clone(), metrics.clone(), options)
    })
    .map_err(|fault| RunError::Service { service: "the schedule", fault })?;
    let backups = settings::phoenix_config(&config, &signals);
    let phoenix = tokio::task::block_in_place(|| {
        Phoenix::open(ledger.clone(), events.clone(), metrics.clone(), backups)
    })
    .map_err(|fault| RunError::Service { service: "phoenix", fault })?;
    state.attach(schedule.clone(), phoenix.clone());
    let mut registry = Registry::default();
    registry.add(&schedule, &schedule::commands());
    registry.add(&phoenix, &phoenix::commands());
    registry.add(&state, &service::commands());
    registry.add(&state, &audit::commands());
    registry.add(&state, &policy::commands());
    registry.add(&keys, &gate::keys::commands());
    registry.add(&conscience, &conscience::commands());
    registry.add(&memory, &memory::commands());
    registry.add(&llm, &llm::commands());
    registry.add(&Soul::new(ledger.clone(), clock.clone()), &soul::commands());
    let parts = Parts {
        names: names.clone(),
        registry,
        gate: guard.clone(),
        seal,
        ledger: ledger.clone(),
        publisher: publisher.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
        jobs,
        limits: settings::limits(&config),
    };
    let engine = tokio::task::block_in_place(|| Engine::start(parts))
        .map_err(|fault| RunError::Service { service: "engine", fault })?;
    state.attach_engine(engine.clone());

    let presence = Arc::new(NodePresence::new(
        state.clone(),
        events.clone(),
        signals.systemd.clone(),
        signals.ready.clone(),
    ));
    let (renew, renewals) = watch::channel(0u64);
    let running = Running {
        stop: CancellationToken::new(),
        close_link: CancellationToken::new(),
        metrics: metrics.clone(),
        health: health.clone(),
        state: state.clone(),
        presence: presence.clone(),
        memory,
        renew: renew.clone(),
        watched: expiry::Watched::new(&config.broker, keys.clone()),
        keys,
        guard,
        conscience: conscience.clone(),
        llm,
    };
    let hooks = Hooks {
        presence: presence.clone(),
        metrics: metrics.clone(),
        pulse: Arc::new(health.pulse("ingress")),
    };
    let mut core = JoinSet::new();
    let pulse = health.pulse("router");
    spawn(&mut core, "the router", engine.clone().receive(at_least_once, at_most_once, pulse));
    spawn(&mut core, "the broker link", link.run(hooks, running.close_link.clone(), renewals));
    spawn(
        &mut core,
        "the event publisher",
        events.clone().publish(names, publisher.clone(), running.stop.clone()),
    );
    spawn(
        &mut core,
        "the memory's upkeep",
        running.memory.clone().upkeep(events.clone(), running.stop.clone()),
    );
    let perform = Arc::new(agenda::ByEngine(engine.clone()));
    spawn(&mut core, "the schedule", schedule.run(perform, running.stop.clone()));
    spawn(&mut core, "the monitor", running.clone().monitor());
    spawn(&mut core, "the conscience", conscience.keep_house(running.stop.clone()));
    spawn(
        &mut core,
        "the heartbeat",
        presence.clone().heartbeat(config.observe.heartbeat, publisher.clone(), running.stop.clone()),
    );
    spawn(
        &mut core,
        "the fetcher of trusted keys",
        gate::jwks::keep(running.guard.clone(), running.stop.clone()),
    );
    if let Some(listener) = ports.observe {
        spawn(
            &mut core,
            "the metrics server",
            http::serve(listener, metrics.clone(), health.clone(), running.stop.clone()),
        );
    }
    if let Some(listener) = ports.control {
        spawn(
            &mut core,
            "the control socket",
            engine::serve_control(listener, engine.clone(), running.stop.clone()),
        );
    }
    spawn(&mut core, "the metrics upkeep", metrics.clone().run_upkeep(running.stop.clone()));
    let watchdog = (signals.systemd.clone(), health.clone(), running.stop.clone());
    tokio::spawn(async move { watchdog.0.run_watchdog(&watchdog.1, &watchdog.2).await });

    warn_if_open(&running.guard);
    health.set(Condition::Serving, true);
    if config.node.start_offline {
        presence.ready("serving; connecting to the broker");
    }
    let ended = supervise(&mut core, signals, &running.guard, reload_asked, renew).await;
    shut_down(&running, &engine, &presence, &broker, &ledger, &mut core).await;
    ended
}

fn spawn(
    core: &mut JoinSet<&'static str>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    core.spawn(async move {
        task.await;
        name
    });
}

/// Waits for the signal to stop, or for a core task to end, which must not happen.
async fn supervise(
    core: &mut JoinSet<&'static str>,
    mut signals: Signals,
    guard: &Arc<Guard>,
    mut asked: watch::Receiver<u64>,
    renew: watch::Sender<u64>,
) -> Result<(), RunError> {
    loop {
        tokio::select! {
            () = signals.shutdown.cancelled() => {
                signals.systemd.stopping();
                return Ok(());
            }
            Some(ended) = core.join_next() => {
                let name = ended.unwrap_or("a core task");
                tracing::error!(task = name, "a core task ended");
                return Err(RunError::CoreTaskEnded(name));
            }
            Ok(()) = signals.reload.changed() => {}
            Ok(()) = asked.changed() => {}
        }
        // Files may be slow to come, and policies slow to compile: that must not hold up a stop.
        let shutdown = signals.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = reload(&signals, guard, &renew) => {}
        }
    }
}

/// Whether a running node can take over a configuration of which these keys are `changed`.
///
/// # Errors
/// Which key it cannot: permissions and paths are made of it, and would be those of another node.
pub fn can_take_over(changed: &[impl AsRef<str>]) -> Result<(), String> {
    let identity = ["node.name", "node.root", "node.state_dir"];
    let other = changed.iter().find(|key| identity.contains(&key.as_ref()));
    other.map_or(Ok(()), |key| Err(format!("{} is another one, which takes a restart", key.as_ref())))
}

async fn reload(signals: &Signals, guard: &Arc<Guard>, renew: &watch::Sender<u64>) {
    signals.systemd.reloading();
    let (reconfigure, guard) = (Arc::clone(&signals.reconfigure), Arc::clone(guard));
    let applied = tokio::task::spawn_blocking(move || {
        let (config, mut changed) = reconfigure()?;
        guard.change(settings::auth(&config).map_err(|error| error.to_string())?);
        warn_if_open(&guard);
        changed.retain(|key| !settings::is_read_again(key));
        Ok(changed)
    });
    match applied.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(changed) => {
            tracing::info!("the configuration was read again");
            if !changed.is_empty() {
                let keys = changed.join(", ");
                tracing::warn!(keys, "these keys were changed and take effect at the next start only");
            }
            renew.send_modify(|count| *count += 1);
        }
        Err(error) => {
            tracing::error!(error, "the configuration was not taken over; the present one stays in force")
        }
    }
    signals.systemd.reloaded();
}

/// An open gate is never silent.
fn warn_if_open(guard: &Guard) {
    if guard.mode() == AuthMode::Open {
        tracing::warn!(target: SECURITY_LOG, "auth.mode is open: everyone who reaches the broker may do everything");
    }
}
