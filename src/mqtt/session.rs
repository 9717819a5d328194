//! One connection, from CONNECT to its end. The only task that polls.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{DisconnectReasonCode, RetainForwardRule};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, StateError, SubscribeFilter,
    SubscribeNoticeError,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::acks::{self, Acks, Owed, Refused};
use super::publisher::Standing;
use super::{REQUEST_QUEUE, link::Hooks};
use crate::engine::port::{Ack, Delivery, Publication};
use crate::wire::Properties;

/// How long it is waited until all that was taken has been acknowledged, before the rest is fetched on a new connection. What
/// is not acknowledged by then comes again, too.
const SETTLED_LIMIT: Duration = Duration::from_secs(60);

/// Characters of a broker's Reason String that are passed on.
const LONGEST_REASON: usize = 200;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// We wanted it.
    Closed,
    /// Someone else connected with the same client identifier.
    TakenOver,
    /// The broker sent more than the Receive Maximum allows.
    Overrun,
    /// The broker or the network ended it, or there was never one.
    Failed {
        /// In words, for the journal.
        reason: String,
        /// Whether it had stood.
        stood: bool,
        /// Whether the other side closed it without a word.
        dropped: bool,
    },
}

/// Resolves when `close` is cancelled; or when deliveries have been left with the broker since `full_since`, and those before
/// them are dealt with.
async fn enough(close: &CancellationToken, owed: &Owed, full_since: Option<Instant>) {
    let settled = async {
        let Some(since) = full_since else { return std::future::pending().await };
        let _ = tokio::time::timeout_at((since + SETTLED_LIMIT).into(), owed.settled()).await;
    };
    tokio::select! {
        () = close.cancelled() => {}
        () = settled => {}
    }
}

/// Does what `future` does, but lets the tasks go first that are ready when it is woken: so what they have to send goes out in
/// one write instead of many.
async fn a_turn_later<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut has_waited = false;
    std::future::poll_fn(|context| {
        if std::mem::take(&mut has_waited) {
            // A task that wakes itself goes to the end of the queue.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = future.as_mut().poll(context);
        has_waited = polled.is_pending();
        polled
    })
    .await
}

/// The broker's DISCONNECT, with what it says of the reason.
fn disconnected(code: DisconnectReasonCode, said: Option<&str>, stood: bool) -> End {
    if code == DisconnectReasonCode::SessionTakenOver {
        return End::TakenOver;
    }
    let mut reason = format!("the broker disconnected: {code:?}");
    if let Some(said) = said {
        reason.push_str(": ");
        reason.extend(said.chars().filter(|c| !c.is_control()).take(LONGEST_REASON));
    }
    End::Failed { reason, stood, dropped: false }
}

fn is_dropped(error: &ConnectionError) -> bool {
    use std::io::ErrorKind;
    match error {
        ConnectionError::MqttState(StateError::ConnectionAborted) => true,
        ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) => {
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
        }
        _ => false,
    }
}

/// Where deliveries go.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    pub at_least_once: mpsc::Sender<Delivery>,
    pub at_most_once: mpsc::Sender<Delivery>,
}

pub(super) struct Session {
    client: AsyncClient,
    event_loop: EventLoop,
    acks: Acks,
    queues: Queues,
    hooks: Hooks,
    filters: Vec<String>,
    /// Those of the filters that are shared with other nodes.
    shared: Arc<[String]>,
    /// Ends the tasks of this connection.
    over: CancellationToken,
    /// Since when deliveries are left with the broker, because those taken weigh too much. For good: they are acknowledged in
    /// the order of receipt, and what was left cannot be.
    full_since: Option<Instant>,
}

impl Session {
    pub(super) fn new(
        options: MqttOptions,
        filters: Vec<String>,
        queues: Queues,
        hooks: Hooks,
    ) -> Result<Self, String> {
        let (client, event_loop) = AsyncClient::builder(options)
            .capacity(REQUEST_QUEUE)
            .try_build()
            .map_err(|error| error.to_string())?;
        let (acks, send_acks) = acks::channel(client.clone());
        let over = CancellationToken::new();
        let ended = over.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = send_acks => {}
            }
        });
        let shared = filters.iter().filter(|filter| filter.starts_with("$share/")).cloned().collect();
        Ok(Self { client, event_loop, acks, queues, hooks, filters, shared, over, full_since: None })
    }

    /// Polls until the connection ends, or `close` is cancelled and the disconnect has gone out.
    pub(super) async fn run(
        mut self,
        standing: &watch::Sender<Option<Standing>>,
        close: CancellationToken,
    ) -> End {
        let end = self.poll(standing, &close).await;
        self.hooks.pulse.waiting();
        standing.send_replace(None);
        self.over.cancel();
        end
    }

    async fn poll(&mut self, standing: &watch::Sender<Option<Standing>>, close: &CancellationToken) -> End {
        let mut stood = false;
        let mut closing = false;
        loop {
            self.hooks.pulse.waiting();
            let event = tokio::select! {
                event = a_turn_later(self.event_loop.poll()) => event,
                () = enough(close, self.acks.owed(), self.full_since), if !closing => {
                    if !stood {
                        return End::Closed;
                    }
                    closing = true;
                    standing.send_replace(None);
                    if self.client.try_disconnect().is_err() {
                        return End::Closed;
                    }
                    continue;
                }
            };
            self.hooks.pulse.beat();
            match event {
                Ok(Event::Incoming(Incoming::ConnAck(connack))) => {
                    stood = true;
                    // Its work was to make the library accept a kept session. Left in place, it would be given a copy of
                    // all that is in flight with every packet.
                    self.event_loop.options.clear_session_store();
                    let announced =
                        connack.properties.as_ref().and_then(|properties| properties.max_packet_size);
                    let now_standing = Standing {
                        client: self.client.clone(),
                        max_packet_bytes: announced.map_or(usize::MAX, |bytes| bytes as usize),
                        shared: self.shared.clone(),
                        owed: self.acks.owed().clone(),
                    };
                    standing.send_replace(Some(now_standing.clone()));
                    self.subscribe(now_standing, connack.session_present);
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    if let Err(end) = self.deliver(publish) {
                        return end;
                    }
                }
                Ok(Event::Incoming(Incoming::Disconnect(disconnect))) => {
                    let said = disconnect.properties.and_then(|properties| properties.reason_string);
                    return disconnected(disconnect.reason_code, said.as_deref(), stood);
                }
                Ok(_) => {}
                Err(ConnectionError::RequestsDone) => return End::Closed,
                Err(_) if closing => return End::Closed,
                Err(ConnectionError::MqttState(StateError::ServerDisconnect {
                    reason_code,
                    reason_string,
                })) => return disconnected(reason_code, reason_string.as_deref(), stood),
                Err(error) => {
                    return End::Failed { reason: error.to_string(), stood, dropped: is_dropped(&error) };
                }
            }
        }
    }

    /// Subscribes on every connection, whether the broker kept the session or not: it costs one packet, and nothing else
    /// would bring a lost subscription back.
    fn subscribe(&self, standing: Standing, session_present: bool) {
        let filters: Vec<_> = self
            .filters
            .iter()
            .map(|filter| SubscribeFilter {
                retain_forward_rule: RetainForwardRule::Never,
                // Otherwise a live message would lose its retain flag on the way, and could not be refused for it.
                preserve_retain: true,
                ..SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce)
            })
            .collect();
        let (client, hooks, over) = (self.client.clone(), self.hooks.clone(), self.over.clone());
        tokio::spawn(async move {
            let subscribed = async {
                // An error of another kind than a refusal means that the connection has ended, which its poll reports.
                let notice =
                    client.subscribe_many_tracked(filters).await.map_err(|_| SubscribeNoticeError::Recv)?;
                notice.wait_completion_async().await
            };
            tokio::select! {
                () = over.cancelled() => {}
                subscribed = subscribed => match subscribed {
                    Ok(()) => {
                        let mut refused = None;
                        for message in hooks.birth() {
                            if let Publication::Refused(reason) = standing.publish(message).await {
                                refused = Some(reason);
                            }
                        }
                        hooks.connected(session_present);
                        // Some brokers grant every subscription, and deliver nothing that their rules forbid: this is where
                        // wrong rules show.
                        if let Some(reason) = refused {
                            hooks.publications_refused(reason);
                        }
                    }
                    Err(SubscribeNoticeError::V5SubAckFailure(codes)) => {
                        tracing::error!(?codes, "the broker refused the subscriptions; check its access rules");
                        hooks.subscriptions_refused();
                    }
                    Err(error) => tracing::debug!(%error, "the connection ended before the subscriptions were made"),
                },
            }
        });
    }

    fn deliver(&mut self, publish: rumqttc::mqttbytes::v5::Publish) -> Result<(), End> {
        let ack = match self.client.prepare_ack(&publish) {
            Some(_) if self.full_since.is_some() => return Ok(()),
            Some(ack) => match self.acks.owe(ack, publish.payload.len()) {
                Ok(ack) => ack,
                Err(Refused::TooMany) => return Err(End::Overrun),
                Err(Refused::TooHeavy) => {
                    tracing::warn!(
                        "the broker sends more at a time than the Receive Maximum allows and the node holds: the rest is \
                         fetched on a new connection, once this much has been dealt with"
                    );
                    self.full_since = Some(Instant::now());
                    return Ok(());
                }
            },
            None => Ack::none(),
        };
        let at_least_once = publish.qos != QoS::AtMostOnce;
        let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else {
            // The library checks this; a topic that is not UTF-8 cannot be answered anywhere.
            ack.complete();
            return Ok(());
        };
        let properties = publish.properties.unwrap_or_default();
        let delivery = Delivery {
            topic,
            payload: publish.payload,
            properties: Properties {
                response_topic: properties.response_topic,
                correlation_data: properties.correlation_data,
                content_type: properties.content_type,
                message_expiry: properties.message_expiry_interval,
                user: properties.user_properties,
            },
            retained: publish.retain,
            ack,
        };
        if at_least_once {
            self.queues.at_least_once.try_send(delivery).map_err(|error| match error {
                TrySendError::Full(_) => End::Overrun,
                TrySendError::Closed(_) => End::Closed,
            })
        } else {
            if let Err(TrySendError::Full(_)) = self.queues.at_most_once.try_send(delivery) {
                self.hooks.dropped();
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_says_of_its_reason_is_passed_on_in_one_short_line() {
        let said = format!("quota\nexceeded\u{1b}[2J{}", "!".repeat(1_000));
        let end = disconnected(DisconnectReasonCode::QuotaExceeded, Some(&said), true);
        let End::Failed { reason, stood: true, dropped: false } = end else { panic!("{end:?}") };
        assert!(reason.starts_with("the broker disconnected: QuotaExceeded: quotaexceeded[2J!"), "{reason}");
        assert!(reason.len() < 250, "{reason}");

        let end = disconnected(DisconnectReasonCode::SessionTakenOver, Some("taken over"), true);
        assert!(matches!(end, End::TakenOver), "{end:?}");
    }
}
