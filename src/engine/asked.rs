//! A command on its way through the engine: what was asked, by whom, and how to answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Engine;
use super::command::Call;
use super::inbox::Key;
use super::outbox::{Route, Stored};
use super::port::Ack;
use super::transaction::pending;
use crate::clock::Timestamp;
use crate::gate::nonce::Nonce;
use crate::gate::recent::Freshness;
use crate::ledger::audit;
use crate::wire::{Code, Fault, Outcome, Payload, Reply};

/// How the asker hears the answer.
#[derive(Debug)]
pub(super) enum Channel {
    /// Published; the delivery is acknowledged when that is certain.
    Mqtt(Ack),
    /// Handed over inside the process.
    Local(oneshot::Sender<Reply>),
}

/// A command that has passed the gate, or been refused there.
#[derive(Debug)]
pub(super) struct Asked {
    /// Service and verb; what the topic said when there is no such command.
    pub command: String,
    /// For metrics; `other` when there is no such command.
    pub label: (&'static str, &'static str),
    /// The topic it came on.
    pub topic: String,
    pub call: Call,
    pub payload: Payload,
    pub route: Route,
    pub channel: Channel,
    pub when_full: bool,
    /// The nonce of a signed command, to be used up in its transaction.
    pub nonce: Option<Nonce>,
    /// Whether the asker is known to have sent it just now.
    pub freshness: Freshness,
    /// Whether its answer is for the asker alone, and would go where others may read it.
    pub exposed: bool,
    /// The id of what the policies said of it.
    pub decision: Option<Arc<str>>,
    pub started: Instant,
    /// How long the asker can use the answer.
    pub time_left: Duration,
    /// Its place among the commands that are being dealt with.
    pub _slot: OwnedSemaphorePermit,
}

impl Asked {
    /// Whether the asker has no use for the answer any more.
    pub(super) fn is_late(&self) -> bool {
        self.started.elapsed() > self.time_left
    }

    /// Whether nobody waits for what becomes of it: it came at QoS 0, or will be delivered again.
    pub(super) fn is_gone(&self) -> bool {
        match &self.channel {
            Channel::Mqtt(ack) => !ack.is_owed() || ack.is_void(),
            Channel::Local(_) => false,
        }
    }

    /// What the inbox knows it by; `None` without a `message_id`.
    pub(super) fn key(&self) -> Option<Key> {
        self.call.message_id.as_ref().map(|message_id| Key {
            principal: self.call.principal.clone(),
            message_id: message_id.clone(),
            topic: self.topic.clone(),
            payload_hash: self.payload.sha256(),
        })
    }

    /// Its answer, made at `now`.
    pub(super) fn stored(&self, mut outcome: Outcome, now: Timestamp) -> Stored {
        outcome.policy_decision = self.decision.as_deref().map(str::to_owned);
        Stored::new(self.command.clone(), outcome, now)
    }

    /// Its audit record.
    pub(super) fn audit(&self, outcome: &'static str, why: Option<&Fault>) -> audit::Entry {
        audit::Entry {
            at: self.call.received,
            principal: self.call.principal.clone(),
            command: Arc::from(self.command.as_str()),
            topic: Some(Arc::from(self.topic.as_str())),
            message_id: self.call.message_id.clone(),
            outcome,
            reason: why.and_then(reason),
            decision: self.decision.clone(),
            count: 1,
            payload_size: self.payload.bytes().len() as u64,
            payload_hash: Some(self.payload.sha256()),
        }
    }

    /// It is counted, and that is all: acknowledges the question.
    pub(super) fn unanswered(self) {
        if let Channel::Mqtt(ack) = self.channel {
            ack.complete();
        }
    }

    /// The answer is durable, in `row` where it is to be published: acknowledges the question and lets the answer go.
    pub(super) fn answered(self, engine: &Engine, stored: Stored, row: Option<i64>) {
        match self.channel {
            Channel::Mqtt(ack) => {
                if let Some(row) = row {
                    engine.inner.outbox.offer(pending(row, stored, self.route));
                }
                ack.complete();
            }
            Channel::Local(sender) => {
                // Whoever asked may have hung up.
                let _ = sender.send(stored.reply(engine.inner.names.node(), &self.route, &engine.inner.seal));
            }
        }
    }
}

/// Longest reason in the audit trail, in characters.
const MAX_REASON_CHARS: usize = 256;

/// Why the gate refused a command, for the audit trail. Other errors may quote the payload, which has no place there.
pub(super) fn reason(fault: &Fault) -> Option<String> {
    Code::SECURITY.contains(&fault.code).then(|| fault.message.chars().take(MAX_REASON_CHARS).collect())
}
