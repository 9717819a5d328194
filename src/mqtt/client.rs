//! A client for the command line: connects once, asks, listens, leaves. No reconnecting: a person is waiting.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::SubscribeReasonCode;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, PublishNoticeError, PublishOptions,
    PublishProperties, SubscribeFilter,
};
use tokio::sync::mpsc;

use super::connect::{ConnectOptions, SetupError};
use crate::clock::Timestamp;

/// Messages that may wait to be looked at; beyond it the broker is made to wait.
const QUEUE: usize = 256;

/// Why the broker could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Certificates, keys or passwords.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection, or it went away.
    #[error("cannot reach the broker: {0}")]
    Unreachable(String),
    /// Connected, but the broker does not allow it.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// The broker would end the connection for it.
    #[error("the command is too large for the broker: it takes packets of at most {0} bytes")]
    TooLarge(u32),
    /// Nothing came in time.
    #[error("no answer in time")]
    Timeout,
}

/// A message that arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its bytes.
    pub payload: Bytes,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// Whether the broker had kept it for those who subscribe later.
    pub retained: bool,
    /// What is left of its Message Expiry Interval, in seconds.
    pub expires_in: Option<u32>,
}

/// What to publish.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The topic.
    pub topic: String,
    /// JSON.
    pub payload: Bytes,
    /// Response Topic.
    pub response_topic: String,
    /// Correlation Data.
    pub correlation_data: Bytes,
    /// Message Expiry Interval.
    pub expires_in: Duration,
    /// The command's `message_id`.
    pub message_id: String,
    /// Further user properties: a signature.
    pub properties: Vec<(String, String)>,
}

impl Question {
    /// What its PUBLISH takes, a few bytes more at most.
    fn packet_bytes(&self) -> usize {
        // Headers, lengths, packet identifier, Message Expiry Interval and Content Type.
        const REST: usize = 48;
        let user = self.properties.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>();
        let texts =
            [&self.topic, &self.response_topic, &self.message_id].map(String::len).iter().sum::<usize>();
        self.payload.len() + texts + self.correlation_data.len() + user + 5 + "message-id".len() + REST
    }
}

/// What the poll task hears, in the order in which the broker said it.
enum Heard {
    Message(Message),
    Subscribed(Vec<SubscribeReasonCode>),
}

/// A connection for as long as it takes.
pub struct Client {
    client: AsyncClient,
    heard: mpsc::Receiver<Heard>,
    /// The broker's Maximum Packet Size, where it has one.
    max_packet_bytes: Option<u32>,
    /// Messages that came before the answer to a subscription.
    early: VecDeque<Message>,
    poll: tokio::task::JoinHandle<Result<(), CallError>>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn connect(options: ConnectOptions, now: Timestamp) -> Result<Self, CallError> {
        let limit = options.connect_timeout;
        let built = tokio::task::spawn_blocking(move || options.build(None, now))
            .await
            .map_err(|error| CallError::Unreachable(error.to_string()))??;
        let (client, mut event_loop) = AsyncClient::builder(built)
            .capacity(QUEUE)
            .try_build()
            .map_err(|error| CallError::Unreachable(error.to_string()))?;
        let connected = async {
            loop {
                match event_loop.poll().await {
                    Ok(Event::Incoming(Incoming::ConnAck(connack))) => {
                        return Ok(connack.properties.and_then(|properties| properties.max_packet_size));
                    }
                    Ok(_) => {}
                    Err(ConnectionError::ConnectionRefused(code)) => {
                        return Err(CallError::Refused(format!("{code:?}")));
                    }
                    Err(error) => return Err(CallError::Unreachable(error.to_string())),
                }
            }
        };
        let max_packet_bytes =
            tokio::time::timeout(limit, connected).await.map_err(|_| CallError::Timeout)??;
        let (sender, heard) = mpsc::channel(QUEUE);
        let poll = tokio::spawn(poll(event_loop, sender));
        Ok(Self { client, heard, max_packet_bytes, early: VecDeque::new(), poll })
    }

    /// Subscribes at QoS 1 and waits until the broker has granted it. What the broker sent before that, such as the
    /// retained messages of an earlier subscription, is then ready for [`Client::next_early`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn subscribe(&mut self, filters: &[String]) -> Result<(), CallError> {
        let wanted: Vec<_> =
            filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce)).collect();
        self.client.subscribe_many(wanted).await.map_err(|error| unreachable(&error))?;
        loop {
            match self.heard.recv().await {
                Some(Heard::Message(message)) => self.early.push_back(message),
                Some(Heard::Subscribed(codes)) => {
                    let refused = filters
                        .iter()
                        .zip(codes)
                        .find(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_)));
                    return match refused {
                        None => Ok(()),
                        Some((filter, code)) => {
                            Err(CallError::Refused(format!("a subscription to {filter}: {code:?}")))
                        }
                    };
                }
                None => return Err(self.ended().await),
            }
        }
    }

    /// The next of the messages that came before the latest subscription was granted; does not wait.
    pub fn next_early(&mut self) -> Option<Message> {
        self.early.pop_front()
    }

    /// Publishes at QoS 1 and waits until the broker has it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ask(&self, question: Question) -> Result<(), CallError> {
        if let Some(limit) = self.max_packet_bytes.filter(|limit| question.packet_bytes() > *limit as usize) {
            return Err(CallError::TooLarge(limit));
        }
        let properties = PublishProperties {
            response_topic: Some(question.response_topic),
            correlation_data: Some(question.correlation_data),
            message_expiry_interval: u32::try_from(question.expires_in.as_secs().max(1)).ok(),
            content_type: Some("application/json".to_owned()),
            user_properties: std::iter::once(("message-id".to_owned(), question.message_id))
                .chain(question.properties)
                .collect(),
            ..PublishProperties::default()
        };
        let options = PublishOptions::at_least_once().properties(properties);
        let notice = self
            .client
            .publish_tracked(question.topic, question.payload, options)
            .await
            .map_err(|error| unreachable(&error))?;
        notice.wait_completion_async().await.map_err(|error| match error {
            PublishNoticeError::V5PubAck(reason) => CallError::Refused(format!("{reason:?}")),
            _ => CallError::Unreachable(
                "the connection ended before the broker had taken the command".to_owned(),
            ),
        })
    }

    /// The next message.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn next(&mut self) -> Result<Message, CallError> {
        if let Some(message) = self.early.pop_front() {
            return Ok(message);
        }
        loop {
            match self.heard.recv().await {
                Some(Heard::Message(message)) => return Ok(message),
                // Of a subscription that was not waited for.
                Some(Heard::Subscribed(_)) => {}
                None => return Err(self.ended().await),
            }
        }
    }

    async fn ended(&mut self) -> CallError {
        match (&mut self.poll).await {
            Ok(Err(error)) => error,
            _ => CallError::Unreachable("the connection has ended".to_owned()),
        }
    }

    /// Says goodbye.
    pub async fn close(self) {
        if self.client.disconnect().await.is_ok() {
            drop(self.heard);
            let _ = tokio::time::timeout(Duration::from_secs(1), self.poll).await;
        }
    }
}

fn unreachable(error: &rumqttc::ClientError) -> CallError {
    CallError::Unreachable(error.to_string())
}

async fn poll(mut event_loop: EventLoop, sender: mpsc::Sender<Heard>) -> Result<(), CallError> {
    loop {
        let heard = match event_loop.poll().await {
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                let properties = publish.properties.unwrap_or_default();
                Heard::Message(Message {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload,
                    correlation_data: properties.correlation_data,
                    retained: publish.retain,
                    expires_in: properties.message_expiry_interval,
                })
            }
            Ok(Event::Incoming(Incoming::SubAck(granted))) => Heard::Subscribed(granted.return_codes),
            Ok(_) => continue,
            Err(ConnectionError::RequestsDone) => return Ok(()),
            Err(error) => return Err(CallError::Unreachable(error.to_string())),
        };
        // The reader may have gone; what it asked for is still acknowledged by the library.
        if sender.send(heard).await.is_err() {
            tracing::trace!("a message came after its reader had gone");
        }
    }
}
