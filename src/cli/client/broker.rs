//! Over MQTT: asks with Response Topic and Correlation Data, and looks at the node's retained status first.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::profile::Profile;
use super::{Answer, Event, Failure, Question, status};
use crate::clock::Clock;
use crate::gate::signer::{Command, Signer};
use crate::mqtt::{self, Client, Message};
use crate::node as daemon;
use crate::wire::Names;

/// How long a broker may pause between the retained messages that it sends to a new subscription.
const RETAINED_PAUSE: Duration = Duration::from_millis(250);

async fn connect(profile: &Profile) -> Result<Client, Failure> {
    Ok(Client::connect(profile.connect_options(), Clock::system().now()).await?)
}

/// Where the answers of this run come to: the next one has another.
fn inbox(profile: &Profile) -> String {
    format!("{}/inbox/{}/{}", profile.root, profile.name, uuid::Uuid::new_v4().simple())
}

fn names(profile: &Profile, node: Option<&str>) -> Result<Names, Failure> {
    profile.names(node).ok_or_else(|| match node {
        Some(name) => Failure::Usage(format!("`{name}` is no name of a node")),
        None => Failure::WhichNode,
    })
}

/// A node hears commands of its own services alone, so that a service that nobody has would be waited for in vain.
fn known_service(command: &str) -> Result<(), Failure> {
    let services: BTreeSet<_> = daemon::declarations().iter().map(|declared| declared.service).collect();
    let service = command.split('/').next().unwrap_or_default();
    if services.contains(service) {
        return Ok(());
    }
    let known = services.into_iter().collect::<Vec<_>>().join(", ");
    Err(Failure::Usage(format!("nodes have no service `{service}`; they have {known}")))
}

/// Asks a node and waits for its reply.
pub(super) async fn ask(
    profile: &Profile,
    node: Option<&str>,
    question: &Question,
    limit: Duration,
) -> Result<Answer, Failure> {
    let names = names(profile, node)?;
    known_service(&question.command)?;
    let signer = profile.api_key_file.as_deref().map(Signer::from_file).transpose()?;
    let until = Instant::now() + limit;
    let client = timeout_at(until, connect(profile)).await.map_err(|_| mqtt::CallError::Timeout)??;
    let mut exchange = Exchange { client, names, inbox: inbox(profile), signer, known: false };
    let answer = match timeout_at(until, exchange.run(question, until)).await {
        Ok(answer) => answer,
        Err(_) if exchange.known => Err(question.timeout(limit, "")),
        Err(_) => Err(question.timeout(limit, "; the broker knows nothing of this node: is its name right?")),
    };
    exchange.client.close().await;
    answer
}

/// One question and its answer.
struct Exchange {
    client: Client,
    names: Names,
    inbox: String,
    /// Signs the question.
    signer: Option<Signer>,
    /// Whether the node has a status.
    known: bool,
}

impl Exchange {
    async fn run(&mut self, question: &Question, until: Instant) -> Result<Answer, Failure> {
        // One after the other: a broker sends what it retains for the first before it grants the second, so that a
        // node which is offline is known before the command is published.
        self.client.subscribe(&[self.names.event("status")]).await?;
        self.client.subscribe(std::slice::from_ref(&self.inbox)).await?;
        while let Some(message) = self.client.next_early() {
            self.offline(&message)?;
        }
        let correlation = Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let payload = question
            .payload
            .as_ref()
            .map_or_else(Bytes::new, |payload| Bytes::copy_from_slice(payload.get().as_bytes()));
        let topic = self.names.command(&question.command);
        let properties = match &self.signer {
            Some(signer) => {
                let command = Command {
                    message_id: &question.message_id,
                    topic: &topic,
                    reply_to: &self.inbox,
                    payload: &payload,
                };
                signer.sign(command, Clock::system().now())?
            }
            None => Vec::new(),
        };
        self.client
            .ask(mqtt::Question {
                topic,
                payload,
                response_topic: self.inbox.clone(),
                correlation_data: correlation.clone(),
                expires_in: until.saturating_duration_since(Instant::now()),
                message_id: question.message_id.clone(),
                properties,
            })
            .await?;
        loop {
            let message = self.client.next().await?;
            if message.topic == self.inbox && message.correlation_data.as_ref() == Some(&correlation) {
                return Answer::read(&message.payload);
            }
            self.offline(&message)?;
        }
    }

    /// Fails when `message` is the node's status and says that it is offline.
    fn offline(&mut self, message: &Message) -> Result<(), Failure> {
        if message.topic != self.names.event("status") {
            return Ok(());
        }
        self.known = true;
        let now = Clock::system().now();
        match status::absence(&status::of(message, now), now) {
            None => Ok(()),
            Some(since) => Err(Failure::Offline { node: self.names.node().to_owned(), since }),
        }
    }
}

fn event(message: &Message) -> Event {
    Event {
        topic: message.topic.clone(),
        payload: serde_json::from_slice(&message.payload).unwrap_or_default(),
    }
}

/// Event topics of `node`, or of all nodes.
fn event_filter(profile: &Profile, node: Option<&str>, kind: &str) -> Result<String, Failure> {
    match node {
        Some(_) => Ok(names(profile, node)?.event(kind)),
        None => Ok(format!("{}/+/events/{kind}", profile.root)),
    }
}

/// Events as they come; first the retained ones, which say how things are.
pub(in crate::cli) struct Events {
    client: Client,
}

impl Events {
    pub(super) async fn listen(
        profile: &Profile,
        node: Option<&str>,
        kinds: &[String],
    ) -> Result<Self, Failure> {
        let all = ["#".to_owned()];
        let kinds = if kinds.is_empty() { &all } else { kinds };
        let filters: Vec<_> =
            kinds.iter().map(|kind| event_filter(profile, node, kind)).collect::<Result<_, _>>()?;
        let mut client = connect(profile).await?;
        client.subscribe(&filters).await?;
        Ok(Self { client })
    }

    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        Ok(event(&self.client.next().await?))
    }

    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

/// The retained status of one node or all.
pub(super) async fn statuses(profile: &Profile, node: Option<&str>) -> Result<Vec<Event>, Failure> {
    let filter = event_filter(profile, node, "status")?;
    let until = Instant::now() + profile.timeout;
    let mut client = connect(profile).await?;
    let mut found = std::collections::BTreeMap::new();
    let collected = async {
        client.subscribe(&[filter]).await?;
        // When this is granted most brokers have sent what they retain; those that take longer get a moment.
        client.subscribe(&[inbox(profile)]).await?;
        while let Ok(message) = timeout(RETAINED_PAUSE, client.next()).await {
            let message = message?;
            let payload = status::of(&message, Clock::system().now());
            found.insert(message.topic.clone(), Event { topic: message.topic, payload });
        }
        Ok(())
    };
    let collected: Result<(), Failure> =
        timeout_at(until, collected).await.unwrap_or(Err(Failure::Quiet(profile.timeout)));
    client.close().await;
    collected.map(|()| found.into_values().collect())
}
