//! Answers: directly where the broker takes them in time, through the outbox where it does not.

use std::time::Duration;

use super::asked::{Asked, Channel};
use super::outbox::Stored;
use super::port::Publication;
use super::transaction::Defer;
use super::{Engine, ErrorEvent};
use crate::gate::anomaly::Anomaly;
use crate::gate::recent::Freshness;
use crate::gate::{ANONYMOUS, SECURITY_LOG};
use crate::wire::{Code, Fault};

/// How long a direct reply may take before it moves to the outbox.
const DIRECT_LIMIT: Duration = Duration::from_secs(1);

/// How long it may take while the outbox is full.
const PATIENT_LIMIT: Duration = Duration::from_secs(20);

/// Between two attempts while the outbox is full.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Engine {
    pub(super) fn reply_fault(&self, asked: Asked, fault: Fault) {
        if matches!(asked.channel, Channel::Mqtt(_)) {
            self.watch(&asked, &fault);
        }
        self.count(&asked, fault.code.as_str());
        let stored = asked.stored(fault.into(), self.inner.clock.now());
        self.reply_later(asked, stored);
    }

    /// Tells when refusals are out of the ordinary.
    pub(super) fn watch(&self, asked: &Asked, fault: &Fault) {
        let inner = &self.inner;
        let now = inner.clock.now();
        // What anyone may have sent is nobody's; of a replay it is told whose command it was.
        let anyones = asked.freshness != Freshness::Fresh && fault.code != Code::Replayed;
        let who = if anyones { ANONYMOUS.into() } else { asked.call.principal.clone() };
        if let Some(anomaly) = inner.watch.refused(&who, fault.code, now) {
            self.stands_out(anomaly);
        }
    }

    /// Tells that a principal stands out, and lets it cool down where that is wanted.
    pub fn stands_out(&self, anomaly: Anomaly) {
        let inner = &self.inner;
        let cools = inner.gate.stands_out(&anomaly);
        let Anomaly { kind, principal } = anomaly;
        inner.metrics.anomaly(kind.as_str());
        tracing::warn!(target: SECURITY_LOG, kind = kind.as_str(), principal = &*principal, cools, "{}", kind.describe());
        inner.events.tell(
            "errors",
            &ErrorEvent {
                error: kind.as_str(),
                message: kind.describe(),
                principal: Some(&*principal),
                timestamp: inner.clock.now(),
            },
        );
    }

    /// Answers without holding up the caller, which may be the ledger's writer.
    pub(super) fn reply_later(&self, asked: Asked, stored: Stored) {
        let engine = self.clone();
        self.inner.tasks.spawn_on(async move { engine.reply(asked, stored).await }, &self.inner.runtime);
    }

    /// Answers directly; what the broker does not take in time moves to the outbox.
    pub(super) async fn reply(&self, asked: Asked, stored: Stored) {
        let inner = &self.inner;
        let now = inner.clock.now();
        let Some(message) = stored.outgoing(inner.names.node(), &asked.route, now, &inner.seal) else {
            return asked.answered(self, stored, None);
        };
        let Ok(message) = message else {
            tracing::error!(command = asked.command, "a reply has no form in the asker's encoding");
            return;
        };
        // While the outbox is full there is nowhere to move to: the broker is given more time, and sends less meanwhile.
        while asked.route.due_at <= now || inner.outbox.is_full() {
            let limit = if inner.outbox.is_full() { PATIENT_LIMIT } else { DIRECT_LIMIT };
            match tokio::time::timeout(limit, inner.publisher.publish(message.clone())).await {
                Ok(Publication::Accepted) => return asked.answered(self, stored, None),
                Ok(Publication::Refused(reason)) => {
                    inner.metrics.reply_refused(reason);
                    tracing::warn!(command = asked.command, reason, "the broker refused a reply for good");
                    return asked.answered(self, stored, None);
                }
                Ok(Publication::Unsent) | Err(_) => {}
            }
            if !inner.outbox.is_full() {
                break;
            }
            if asked.is_gone() || inner.closing.is_cancelled() {
                inner.metrics.message_dropped("outbox_full");
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let defer = Defer::new(self.clone(), asked, stored);
        if let Err(error) = inner.ledger.submit(Box::new(defer)).await {
            tracing::error!(%error, "the ledger's writer is gone");
        }
    }

    pub(super) fn count(&self, asked: &Asked, outcome: &'static str) {
        self.inner.metrics.command(asked.label.0, asked.label.1, outcome, asked.started.elapsed());
    }
}
