//! Publishing on the present connection, whichever that is.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, ClientError, PublishNoticeError, PublishOptions, PublishProperties};
use tokio::sync::watch;

use super::acks::Owed;
use crate::engine::command::BoxFuture;
use crate::engine::port::{Outgoing, Publication, Publish};

/// Longest wait for a PUBACK on a connection that stands. After that the message counts as unsent; if the broker has it
/// all the same, its consumer sees it twice, with the same id.
const PUBACK_LIMIT: Duration = Duration::from_secs(20);

/// The reason of a publication that was refused here, because the broker would end the connection for it.
pub const TOO_LARGE: &str = "packet_too_large";

/// What a PUBLISH adds to topic, payload and properties, generously.
const PACKET_OVERHEAD: usize = 64;

/// A connection that stands.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) client: AsyncClient,
    /// The broker's Maximum Packet Size.
    pub(super) max_packet_bytes: usize,
    /// The shared subscriptions among the filters.
    pub(super) shared: Arc<[String]>,
    /// What has been received, and acknowledged.
    pub(super) owed: Arc<Owed>,
}

/// Publishes on the connection that stands at the moment.
#[derive(Clone, Debug)]
pub struct Publisher {
    standing: watch::Receiver<Option<Standing>>,
}

impl Publisher {
    pub(super) const fn new(standing: watch::Receiver<Option<Standing>>) -> Self {
        Self { standing }
    }

    /// Gives up the node's share of what any node of its group may answer: the broker keeps the session, and would go on
    /// handing a part of it to a node that is gone. Resolves when what the broker had for this node before it knew has been
    /// acknowledged, at most after `limit`.
    pub async fn leave_shares(&self, limit: Duration) {
        let Some(standing) = self.standing.borrow().clone() else { return };
        if standing.shared.is_empty() {
            return;
        }
        let mut has_left = false;
        // An error means that the connection has ended.
        let _ = tokio::time::timeout(limit, standing.leave_shares(&mut has_left)).await;
        if !has_left {
            tracing::warn!(
                "the broker has not ended the node's shared subscriptions: it may keep commands to `any` for this node \
                 until it is there again"
            );
        }
    }
}

impl Publish for Publisher {
    fn publish(&self, message: Outgoing) -> BoxFuture<Publication> {
        let standing = self.standing.borrow().clone();
        Box::pin(async move {
            match standing {
                Some(standing) => standing.publish(message).await,
                None => Publication::Unsent,
            }
        })
    }

    fn is_connected(&self) -> bool {
        self.standing.borrow().is_some()
    }
}

impl Standing {
    /// A broker that has more for the node than may be in flight sends it as it is acknowledged, after the subscription has
    /// ended too: asked again, it answers behind that. So it goes on until an answer brings nothing new.
    async fn leave_shares(&self, has_left: &mut bool) -> Result<(), ClientError> {
        let mut before = None;
        loop {
            let filters = self.shared.iter().cloned();
            let notice = self.client.unsubscribe_many_tracked(filters).await?;
            if notice.wait_async().await.is_err() {
                return Ok(());
            }
            *has_left = true;
            self.owed.settled().await;
            let received = Some(self.owed.received());
            if received == before {
                return Ok(());
            }
            before = received;
        }
    }

    pub(super) async fn publish(&self, message: Outgoing) -> Publication {
        let size = message.payload.len()
            + message.topic.len()
            + message.correlation_data.as_ref().map_or(0, bytes::Bytes::len)
            + PACKET_OVERHEAD;
        // A packet over the broker's limit would end the connection, and again on the next one.
        if size > self.max_packet_bytes {
            return Publication::Refused(TOO_LARGE);
        }
        let properties = PublishProperties {
            message_expiry_interval: message.expires_in,
            correlation_data: message.correlation_data,
            content_type: Some(message.encoding.content_type().to_owned()),
            ..PublishProperties::default()
        };
        let options = if message.at_least_once {
            PublishOptions::at_least_once()
        } else {
            PublishOptions::at_most_once()
        };
        let options = options.retain(message.retain).properties(properties);
        let published = async {
            let notice = self.client.publish_tracked(message.topic, message.payload, options).await.ok()?;
            Some(notice.wait_completion_async().await)
        };
        match tokio::time::timeout(PUBACK_LIMIT, published).await {
            Ok(Some(Ok(()))) => Publication::Accepted,
            Ok(Some(Err(PublishNoticeError::V5PubAck(reason)))) => refusal(reason),
            Ok(Some(Err(PublishNoticeError::RetainNotSupported))) => {
                Publication::Refused("retain_not_supported")
            }
            Ok(Some(Err(_)) | None) | Err(_) => Publication::Unsent,
        }
    }
}

/// A reason of 0x80 or above: the broker will not take this message, now or later.
fn refusal(reason: rumqttc::mqttbytes::v5::PubAckReason) -> Publication {
    use rumqttc::mqttbytes::v5::PubAckReason as Reason;
    match reason {
        Reason::Success | Reason::NoMatchingSubscribers => Publication::Accepted,
        Reason::NotAuthorized => Publication::Refused("not_authorized"),
        Reason::TopicNameInvalid => Publication::Refused("topic_name_invalid"),
        Reason::QuotaExceeded => Publication::Refused("quota_exceeded"),
        Reason::PayloadFormatInvalid => Publication::Refused("payload_format_invalid"),
        Reason::UnspecifiedError => Publication::Refused("unspecified_error"),
        Reason::ImplementationSpecificError => Publication::Refused("implementation_specific_error"),
        // A fault between client and broker, not of the message.
        Reason::PacketIdentifierInUse => Publication::Unsent,
    }
}
