//! From a delivery to a command that has a principal, a place for its answer and a deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::asked::{Asked, Channel};
use super::command::{Call, Kind};
use super::outbox::Route;
use super::port::Delivery;
use super::{Engine, jobs};
use crate::clock::Timestamp;
use crate::gate::{Identified, Identity, Inbox, Shown};
use crate::observe::Pulse;
use crate::wire::topic::{self, Target};
use crate::wire::{self, Address, Code, Credentials, Fault, Payload, Properties, Reply, Request};

/// Over how long the answers of all nodes to one command are spread.
const SPREAD: Duration = Duration::from_secs(5);

impl Engine {
    /// Takes deliveries until both channels are closed. QoS 1 goes first.
    pub async fn receive(
        self,
        mut at_least_once: mpsc::Receiver<Delivery>,
        mut at_most_once: mpsc::Receiver<Delivery>,
        pulse: Pulse,
    ) {
        loop {
            pulse.waiting();
            let delivery = tokio::select! {
                biased;
                () = self.inner.closing.cancelled() => return,
                Some(delivery) = at_least_once.recv() => delivery,
                Some(delivery) = at_most_once.recv() => delivery,
                else => return,
            };
            pulse.beat();
            // Its connection has ended, so the broker delivers it again: doing it now as well would only make a backlog
            // of what is done twice.
            if !delivery.ack.is_void() {
                self.deliver(delivery).await;
            }
        }
    }

    /// Takes one delivery as far as it goes without waiting for its answer.
    async fn deliver(&self, delivery: Delivery) {
        let Ok(slot) = self.inner.in_hand.clone().acquire_owned().await else { return };
        let started = Instant::now();
        let received = self.inner.clock.now();
        let Delivery { topic, payload, properties, retained, ack } = delivery;
        let (address, request) = self.decode(&properties, &payload, retained);
        let (asker, unidentified) = match &request {
            // What cannot be read is refused for that, whoever sent it.
            Err(_) => (Identity::nobody().into(), None),
            Ok(request) => {
                let shown = Shown {
                    credentials: &request.credentials,
                    topic: &topic,
                    reply_to: address.reply_to.as_deref().unwrap_or_default(),
                    message_id: address.message_id.as_deref().unwrap_or_default(),
                    payload: &request.payload,
                    now: received,
                };
                match self.inner.gate.identify(&shown) {
                    Ok(asker) => (asker, None),
                    Err(fault) => (Identity::nobody().into(), Some(fault)),
                }
            }
        };
        let (target, command) = match self.inner.names.parse(&topic) {
            Some(parsed) => (parsed.target, parsed.command.to_owned()),
            None => (Target::Node, topic.clone()),
        };
        // An answer that may not go where the asker wants it goes where everyone can see it.
        let (reply_topic, misdirected) =
            match self.reply_topic(address.reply_to.as_deref(), &asker.identity.inbox) {
                Ok(wanted) => (wanted, None),
                Err(fault) => (None, Some(fault)),
            };
        let confidential =
            reply_topic.as_deref().is_some_and(|topic| self.is_inbox_of(&asker.identity.inbox, topic));
        let reply_topic = reply_topic.unwrap_or_else(|| self.results_topic(&command));
        let (request, refused) = match request {
            Ok(request) => (Some(request), misdirected.or(unidentified)),
            Err(fault) => (None, Some(fault)),
        };
        let asked = self.ask(AskedFrom {
            command,
            target,
            topic,
            asker: asker.clone(),
            address,
            request: request.as_ref(),
            received,
            started,
            reply_topic: Some(reply_topic),
            confidential,
            channel: Channel::Mqtt(ack),
            slot,
        });
        match refused {
            Some(fault) => self.refuse(asked, fault),
            None => self.run(asked, target, &asker).await,
        }
    }

    fn decode(
        &self,
        properties: &Properties,
        payload: &Bytes,
        retained: bool,
    ) -> (Address, Result<Request, Fault>) {
        if let Err(fault) = self.within_limit(payload) {
            // The return address is in the properties, as far as it is known without looking into the payload.
            return (wire::decode(properties, &Bytes::new()).0, Err(fault));
        }
        let (address, request) = wire::decode(properties, payload);
        if request.is_ok() && retained {
            let fault = Fault::invalid("a command must not be retained: publish it without the retain flag");
            return (address, Err(fault));
        }
        (address, request)
    }

    fn within_limit(&self, payload: &[u8]) -> Result<(), Fault> {
        let limit = self.inner.limits.max_payload_bytes;
        if payload.len() > limit {
            return Err(Fault::new(Code::TooLarge, format!("a payload may have at most {limit} bytes")));
        }
        Ok(())
    }

    /// Where answers to `command` go when the asker named no topic.
    fn results_topic(&self, command: &str) -> String {
        let service = command.split('/').next().filter(|service| self.inner.registry.has_service(service));
        self.inner.names.results(service.unwrap_or("node"))
    }

    /// Runs a command for `identity`, who is within the process or on its control socket, and waits for its answer.
    ///
    /// # Errors
    /// The answer is an `Ok` even when it says `error`; an `Err` means that the engine is closing.
    pub async fn call_locally(
        &self,
        identity: Arc<Identity>,
        command: &str,
        message_id: Option<String>,
        expires_in: Option<Duration>,
        payload: Payload,
    ) -> Result<Reply, Fault> {
        let (sender, receiver) = oneshot::channel();
        let slot = self.inner.in_hand.clone().acquire_owned().await.map_err(|_| Fault::internal())?;
        let request = Request { payload, expires_in, traceparent: None, credentials: Credentials::default() };
        let address = Address { message_id, encoding: request.payload.encoding(), ..Address::default() };
        let within_limit = self.within_limit(request.payload.bytes());
        let asker = Identified::from(identity);
        let asked = self.ask(AskedFrom {
            command: command.to_owned(),
            target: Target::Node,
            topic: self.inner.names.command(command),
            asker: asker.clone(),
            address,
            request: Some(&request),
            received: self.inner.clock.now(),
            started: Instant::now(),
            reply_topic: None,
            confidential: true,
            channel: Channel::Local(sender),
            slot,
        });
        match within_limit {
            Ok(()) => self.run(asked, Target::Node, &asker).await,
            Err(fault) => self.refuse(asked, fault),
        }
        receiver.await.map_err(|_| Fault::new(Code::Unavailable, "the node is stopping"))
    }

    /// How the job ended that `principal` asked for as `message_id`; waits for it where it runs here. `None` when there is no such
    /// job, or its end could not be recorded. Does not resolve when the engine closes before that.
    pub async fn job_ended(&self, principal: &str, message_id: String) -> Option<Result<(), Fault>> {
        let principal = principal.to_owned();
        let find = move |connection: &Connection| {
            let sql = "SELECT id FROM job WHERE principal = ?1 AND message_id = ?2";
            Ok(connection.query_row(sql, [principal, message_id], |row| row.get(0)).optional()?)
        };
        let id: String = self.inner.ledger.read(find).await.ok()??;
        self.inner.jobs.gone(&id).await;
        if self.inner.closing.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let job = self.inner.ledger.read(move |connection| jobs::get(connection, &id)).await.ok()?;
        let failed = job.error.map(|why| Fault::new(why.code, why.message));
        job.finished.map(|_| failed.map_or(Ok(()), Err))
    }

    fn ask(&self, from: AskedFrom<'_>) -> Asked {
        let known = self.inner.registry.get(&from.command);
        let label =
            known.map_or(("other", "other"), |known| (known.declaration.service, known.declaration.verb));
        let is_job = known.is_some_and(|known| known.declaration.kind == Kind::Job);
        let limits = &self.inner.limits;
        let longest = if is_job { limits.job_deadline } else { limits.command_deadline };
        let expires_in = from.request.and_then(|request| request.expires_in);
        let reply_life = expires_in.unwrap_or(limits.reply_expiry).max(Duration::from_secs(1));
        let spread = if from.target == Target::All { fastrand::u64(0..SPREAD.as_millis() as u64) } else { 0 };
        Asked {
            label,
            call: Call {
                principal: from.asker.identity.principal.clone(),
                signed_with: from.asker.nonce.as_ref().map(|nonce| nonce.key_id.clone()),
                message_id: from.address.message_id.clone(),
                received: from.received,
                target: from.target,
            },
            payload: from.request.map_or_else(
                || Payload::new(from.address.encoding, Bytes::new()),
                |request| request.payload.clone(),
            ),
            route: Route {
                topic: from.reply_topic,
                correlation_data: from.address.correlation_data,
                correlation_id: from.address.correlation_id,
                encoding: from.address.encoding,
                in_reply_to: from.address.message_id,
                expires_at: from
                    .received
                    .plus_millis(i64::try_from(reply_life.as_millis()).unwrap_or(i64::MAX)),
                due_at: from.received.plus_millis(spread as i64),
            },
            channel: from.channel,
            when_full: known.is_some_and(|known| known.declaration.when_full),
            nonce: from.asker.nonce,
            freshness: from.asker.freshness,
            exposed: !from.confidential && known.is_some_and(|known| known.declaration.private),
            decision: None,
            started: from.started,
            time_left: expires_in.map_or(longest, |expires_in| expires_in.min(longest)),
            _slot: from.slot,
            command: from.command,
            topic: from.topic,
        }
    }

    /// Where the asker may have the reply; `None` when they did not say.
    fn reply_topic(&self, wanted: Option<&str>, inbox: &Inbox) -> Result<Option<String>, Fault> {
        let Some(wanted) = wanted else { return Ok(None) };
        if !topic::is_topic(wanted) {
            return Err(Fault::invalid(
                "the reply topic must be a plain topic: no wildcards, no control characters, at most 100 levels",
            ));
        }
        let allowed = self.is_inbox_of(inbox, wanted)
            || self.inner.limits.reply_topics.iter().any(|filter| topic::matches(filter, wanted));
        if !allowed || wanted.starts_with('$') || self.inner.names.is_ours(wanted) {
            return Err(Fault::new(
                Code::Forbidden,
                "replies may only go to the asker's inbox and the topics that the node's configuration names",
            ));
        }
        Ok(Some(wanted.to_owned()))
    }

    /// Whether `wanted` is in the inbox of who may have this one.
    fn is_inbox_of(&self, inbox: &Inbox, wanted: &str) -> bool {
        let names = &self.inner.names;
        match inbox {
            Inbox::Any => topic::matches(&names.inbox("#"), wanted),
            Inbox::Own(name) => topic::matches(&format!("{}/#", names.inbox(name)), wanted),
            Inbox::None => false,
        }
    }
}

/// What [`Engine::ask`] needs.
struct AskedFrom<'a> {
    command: String,
    target: Target,
    topic: String,
    asker: Identified,
    address: Address,
    request: Option<&'a Request>,
    received: Timestamp,
    started: Instant,
    reply_topic: Option<String>,
    /// Whether nobody but the asker gets the reply.
    confidential: bool,
    channel: Channel,
    slot: OwnedSemaphorePermit,
}
