//! What all commands that talk to a node share: which way they go, what may go wrong, and the answer.
//!
//! The way: `--profile` goes over MQTT; else `--config` to the control socket of that configuration; else over MQTT
//! by the first profile that is found; else to the control socket of this machine's configuration.

mod broker;
mod failure;
mod socket;
mod status;
pub(super) mod text;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::profile::{self, MAX_TIMEOUT_S, Profile};
use super::{Exit, Shared, print};
use crate::config::{Config, DEFAULT_PATH, Role};
use crate::wire::Fault;

pub(super) use failure::Failure;

/// What every command that talks to a node takes.
#[derive(clap::Args, Debug)]
pub(super) struct Reach {
    /// Print the whole reply as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait [default: the profile's, else 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_S))]
    timeout: Option<u64>,
    /// The node to ask [default: the profile's]
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<String>,
    /// Go over MQTT, as this client profile says [default: $ORCHD_PROFILE, else orchd/client.toml in the user's
    /// configuration folder, else /etc/orchd/client.toml; with --config, its control socket instead]
    #[arg(long, value_name = "PATH")]
    profile: Option<PathBuf>,
}

/// Help that stands below every command that talks to a node.
pub(super) const HELP: &str = "\
Talks to a node over MQTT (--profile), or on its own machine through the control socket (--config).";

/// How long a job may take, unless another limit is given.
const JOB_LIMIT: Duration = Duration::from_secs(3_600);

/// A question to a node.
#[derive(Debug)]
pub(super) struct Question {
    /// Service and verb.
    pub(super) command: String,
    /// The arguments as JSON.
    pub(super) payload: Option<Box<RawValue>>,
    /// A repeat with the same id takes effect once.
    pub(super) message_id: String,
    /// Whether who asks may name that id.
    repeatable: bool,
}

impl Question {
    /// A question with an id of its own.
    pub(super) fn new(command: &str, payload: &impl Serialize) -> Result<Self, Failure> {
        let payload = serde_json::value::to_raw_value(payload)
            .map_err(|error| Failure::Usage(format!("the payload has no form in JSON: {error}")))?;
        Ok(Self { payload: Some(payload), ..Self::bare(command) })
    }

    /// A question without arguments.
    pub(super) fn bare(command: &str) -> Self {
        Self {
            command: command.to_owned(),
            payload: None,
            message_id: uuid::Uuid::now_v7().to_string(),
            repeatable: false,
        }
    }

    /// With the id that was named, if one was; when no answer comes, it is told how to repeat the question.
    pub(super) fn repeatable(self, message_id: Option<String>) -> Self {
        Self { message_id: message_id.unwrap_or(self.message_id), repeatable: true, ..self }
    }

    fn timeout(&self, limit: Duration, hint: &str) -> Failure {
        let mut hint = hint.to_owned();
        if self.repeatable {
            hint.push_str(&format!("; a repeat with --message-id {} takes effect once", self.message_id));
        }
        Failure::Timeout { limit, hint }
    }
}

/// The reply of a node.
#[derive(Debug)]
pub(super) struct Answer {
    /// As it came.
    json: String,
    document: Value,
}

impl Answer {
    fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let json = std::str::from_utf8(bytes).map_err(|_| Failure::NotAnAnswer)?.trim();
        let document = serde_json::from_str(json).map_err(|_| Failure::NotAnAnswer)?;
        Ok(Self { json: json.to_owned(), document })
    }

    /// The whole reply, on one line.
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// The whole reply.
    pub(super) const fn document(&self) -> &Value {
        &self.document
    }

    /// The response; `null` where there is none.
    pub(super) fn payload(&self) -> &Value {
        &self.document["payload"]
    }

    /// A member of the reply besides its payload.
    pub(super) fn member(&self, name: &str) -> &Value {
        &self.document[name]
    }

    /// Why the node did not do it.
    pub(super) fn fault(&self) -> Option<Fault> {
        serde_json::from_value(self.document.get("error")?.clone()).ok()
    }
}

/// Where a command goes.
#[derive(Debug)]
pub(super) enum Route {
    /// Over MQTT.
    Broker(Box<Profile>),
    /// To the control socket of the node on this machine.
    Socket(PathBuf),
}

impl Reach {
    /// How long an answer may take on `route`.
    fn limit(&self, route: &Route) -> Duration {
        match (self.timeout, route) {
            (Some(seconds), _) => Duration::from_secs(seconds),
            (None, Route::Broker(profile)) => profile.timeout,
            (None, Route::Socket(_)) => profile::DEFAULT_TIMEOUT,
        }
    }

    /// The limit that was given, for commands that have none by themselves.
    pub(super) fn given_limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }

    /// Decides where to go.
    pub(super) fn route(&self, shared: &Shared) -> Result<Route, Failure> {
        let profile = match (&self.profile, &shared.config) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(_)) => None,
            (None, None) => Profile::find(|name| std::env::var_os(name)),
        };
        if let Some(path) = profile {
            let mut profile = Profile::load(&path)?;
            if let Some(limit) = self.given_limit() {
                profile.timeout = limit;
            }
            return Ok(Route::Broker(Box::new(profile)));
        }
        let named = shared.config.is_some() || std::env::var_os("ORCHD_CONFIG").is_some();
        if !named && !Path::new(DEFAULT_PATH).exists() {
            return Err(Failure::NoRoute);
        }
        let (Config { node, control, .. }, _) = shared.load(Role::Node).map_err(|_| Failure::Said)?;
        match &self.node {
            Some(other) if *other != node.name => Err(Failure::Usage(format!(
                "the control socket reaches {} alone; --profile reaches other nodes over MQTT",
                node.name
            ))),
            _ => Ok(Route::Socket(control.socket)),
        }
    }

    /// Asks and waits for the reply, which may be an error.
    pub(super) fn answer(&self, route: &Route, question: &Question) -> Result<Answer, Failure> {
        block_on(self.answer_within(route, question, self.limit(route)))?
    }

    async fn answer_within(
        &self,
        route: &Route,
        question: &Question,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        match route {
            Route::Broker(profile) => broker::ask(profile, self.node.as_deref(), question, limit).await,
            Route::Socket(path) => socket::ask(path, question, limit).await,
        }
    }

    /// Asks, shows the answer with `show` (or whole, with `--json`), and says how it ended: `judge` looks at a good one.
    pub(super) fn ask(
        &self,
        shared: &Shared,
        question: &Question,
        show: impl FnOnce(&Answer) -> String,
        judge: impl FnOnce(&Answer) -> Exit,
    ) -> Exit {
        match self.route(shared).and_then(|route| self.answer(&route, question)) {
            Ok(answer) => self.show(&answer, show, judge),
            Err(failure) => failure.report(),
        }
    }

    /// As [`Reach::ask`] for a job, which may take up to an hour unless a limit was given. `step` is told how far it is,
    /// as far as its events come through.
    pub(super) fn follow(
        &self,
        shared: &Shared,
        question: &Question,
        step: Option<impl FnMut(u64, u64)>,
        show: impl FnOnce(&Answer) -> String,
    ) -> Exit {
        let answered = self.route(shared).and_then(|route| {
            block_on(async {
                let watched = async {
                    if let Some(step) = step {
                        // Without events there is no progress to show, and the answer comes all the same.
                        let _ = self.watch_steps(&route, &question.command, step).await;
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    answer = self.answer_within(&route, question, self.given_limit().unwrap_or(JOB_LIMIT)) => answer,
                    () = watched => Err(Failure::NotAnAnswer),
                }
            })?
        });
        match answered {
            Ok(answer) => self.show(&answer, show, |_| Exit::Ok),
            Err(failure) => failure.report(),
        }
    }

    async fn watch_steps(
        &self,
        route: &Route,
        command: &str,
        mut step: impl FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let mut events = Events::listen(route, self.node.as_deref(), &["jobs".to_owned()]).await?;
        loop {
            let told = events.next().await?.payload;
            let number = |key: &str| told["progress"][key].as_u64();
            if told["command"] == command
                && let (Some(done), Some(total)) = (number("done"), number("total"))
            {
                step(done, total);
            }
        }
    }

    /// Prints an answer, and says how it ended.
    fn show(
        &self,
        answer: &Answer,
        show: impl FnOnce(&Answer) -> String,
        judge: impl FnOnce(&Answer) -> Exit,
    ) -> Exit {
        let fault = answer.fault();
        let text = match &fault {
            _ if self.json => format!("{}\n", answer.json()),
            Some(_) => String::new(),
            None => show(answer),
        };
        let printed = print(&text);
        match fault {
            _ if printed != Exit::Ok => printed,
            Some(_) if self.json => Exit::Failed,
            Some(fault) => Failure::Node(fault).report(),
            None => judge(answer),
        }
    }
}

/// An event of a node.
#[derive(Debug)]
pub(super) struct Event {
    /// Where it was published.
    pub(super) topic: String,
    /// JSON, or null where it is not.
    pub(super) payload: Value,
}

impl Event {
    /// Node and kind, from the topic.
    pub(super) fn origin(&self) -> (&str, &str) {
        let mut levels = self.topic.rsplit('/');
        let kind = levels.next().unwrap_or_default();
        // `events` stands between the two.
        (levels.nth(1).unwrap_or_default(), kind)
    }
}

/// Events as they come.
pub(super) enum Events {
    Broker(Box<broker::Events>),
    Socket(socket::Events),
}

impl Events {
    /// Listens on `route` for these kinds (all, when empty) of one node or, where none is named and the route has
    /// them, all nodes.
    pub(super) async fn listen(route: &Route, node: Option<&str>, kinds: &[String]) -> Result<Self, Failure> {
        Ok(match route {
            Route::Broker(profile) => {
                Self::Broker(Box::new(broker::Events::listen(profile, node, kinds).await?))
            }
            Route::Socket(path) => Self::Socket(socket::Events::listen(path, kinds).await?),
        })
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        match self {
            Self::Broker(events) => events.next().await,
            Self::Socket(events) => events.next().await,
        }
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        if let Self::Broker(events) = self {
            events.close().await;
        }
    }
}

/// The retained status of every node that the broker knows, in the order of their names.
pub(super) async fn statuses(profile: &Profile, node: Option<&str>) -> Result<Vec<Event>, Failure> {
    broker::statuses(profile, node).await
}

/// Asks the node behind a control socket.
pub(super) async fn ask_here(socket: &Path, question: &Question, limit: Duration) -> Result<Answer, Failure> {
    socket::ask(socket, question, limit).await
}

/// Runs `work`, which a person waits for.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let done = runtime.block_on(work);
    // Reading a file for the connection may still block a thread; nobody waits for it any more.
    runtime.shutdown_background();
    Ok(done)
}
