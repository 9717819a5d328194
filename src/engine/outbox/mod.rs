//! Answers on their way: written in the transaction of the effect, published until the broker has them.
//!
//! A row is *open* until the broker accepts it, refuses it for good, or it expires. Open rows are bounded in number and
//! bytes. Once closed, a row is kept while a repeat of its command may still ask for it.

mod deliverer;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

pub(super) use deliverer::Deliverer;
pub(super) use rows::{insert, load, release, send_again};

use super::port::Outgoing;
use crate::clock::Timestamp;
use crate::gate::seal::Seal;
use crate::ledger::Ledger;
use crate::wire::{Encoding, Fault, Outcome, Reply};

/// Replies handed over without a look at the ledger; what finds no room is found there.
const HANDOVER: usize = 512;

/// Where a reply goes.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// The topic; `None` for one who asked over the control socket, where nothing is published.
    pub topic: Option<String>,
    pub correlation_data: Option<Bytes>,
    pub correlation_id: Option<String>,
    pub encoding: Encoding,
    pub in_reply_to: Option<String>,
    pub expires_at: Timestamp,
    /// Not published before; spreads the answers to `all`.
    pub due_at: Timestamp,
}

/// An answer as it was given.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub reply_id: String,
    pub command: String,
    pub outcome: Outcome,
    pub made_at: Timestamp,
}

impl Route {
    /// Whether a reply on `other` reaches the same asker in the same way.
    pub(super) fn leads_where(&self, other: &Self) -> bool {
        self.topic == other.topic
            && self.correlation_data == other.correlation_data
            && self.correlation_id == other.correlation_id
            && self.encoding == other.encoding
    }
}

impl Stored {
    pub(super) fn new(command: String, outcome: Outcome, made_at: Timestamp) -> Self {
        Self { reply_id: uuid::Uuid::new_v4().to_string(), command, outcome, made_at }
    }

    /// Bytes of the outcome as the ledger keeps it. What is taken into account must be what is written off later,
    /// also when the row has been read from the ledger meanwhile.
    pub(super) fn size(&self) -> u64 {
        let mut counter = Counter(0);
        // It was written before, so it can be.
        let _ = serde_json::to_writer(&mut counter, &self.outcome);
        counter.0
    }

    /// The reply for one who asked from `route`.
    pub(super) fn reply(&self, node: &str, route: &Route, seal: &Seal) -> Reply {
        Reply {
            message_id: self.reply_id.clone(),
            in_reply_to: route.in_reply_to.clone(),
            correlation_id: route.correlation_id.clone(),
            node: node.to_owned(),
            command: self.command.clone(),
            timestamp: self.made_at,
            status: self.outcome.status,
            payload: self.outcome.revealed(|secret| secret.open(seal)),
            error: self.outcome.error.clone(),
            degraded: self.outcome.degraded.clone(),
            policy_decision: self.outcome.policy_decision.clone(),
        }
    }

    /// The message to publish; `None` when there is no topic.
    pub(super) fn outgoing(
        &self,
        node: &str,
        route: &Route,
        now: Timestamp,
        seal: &Seal,
    ) -> Option<Result<Outgoing, Fault>> {
        let topic = route.topic.clone()?;
        Some(self.reply(node, route, seal).encode(route.encoding).map(|bytes| Outgoing {
            topic,
            payload: bytes.into(),
            at_least_once: true,
            retain: false,
            encoding: route.encoding,
            correlation_data: route.correlation_data.clone(),
            expires_in: u32::try_from((route.expires_at.millis() - now.millis()).max(1_000) / 1_000).ok(),
        }))
    }
}

/// A committed reply that is to be published.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub id: i64,
    /// Size of the stored outcome.
    pub bytes: u64,
    pub stored: Stored,
    pub route: Route,
}

/// How much may be open.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows.
    pub rows: u64,
    /// Bytes of outcomes.
    pub bytes: u64,
}

/// The outbox as others see it: how full it is, and where to hand over what was committed.
pub(super) struct Outbox {
    // Signed: a row may be closed in the moment before it is counted.
    rows: AtomicI64,
    bytes: AtomicI64,
    bounds: Bounds,
    handover: mpsc::Sender<Pending>,
    left_over: AtomicBool,
    look: Notify,
}

impl Outbox {
    /// Counts what is open in the ledger.
    pub(super) fn new(
        ledger: &Ledger,
        bounds: Bounds,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Pending>), Fault> {
        let (rows, bytes): (i64, i64) = ledger.read_blocking(|connection| {
            Ok(connection.query_row(
                "SELECT count(*), coalesce(sum(octet_length(outcome)), 0) FROM outbox WHERE open = 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?)
        })?;
        let (handover, receiver) = mpsc::channel(HANDOVER);
        let outbox = Self {
            rows: AtomicI64::new(rows),
            bytes: AtomicI64::new(bytes),
            bounds,
            handover,
            left_over: AtomicBool::new(rows > 0),
            look: Notify::new(),
        };
        Ok((Arc::new(outbox), receiver))
    }

    /// Open rows.
    pub(super) fn open_rows(&self) -> u64 {
        self.rows.load(Ordering::Acquire).max(0).unsigned_abs()
    }

    /// Whether no further command may be accepted that would need an answer.
    pub(super) fn is_full(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Acquire).max(0).unsigned_abs();
        self.open_rows() >= self.bounds.rows || bytes >= self.bounds.bytes
    }

    /// Takes over a reply that has just been committed. Never blocks.
    pub(super) fn offer(&self, pending: Pending) {
        self.rows.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(pending.bytes as i64, Ordering::AcqRel);
        if self.handover.try_send(pending).is_err() {
            self.left_over.store(true, Ordering::Release);
        }
    }

    /// Publish what is still open: there is a new connection.
    pub(super) fn look_again(&self) {
        self.left_over.store(true, Ordering::Release);
        self.look.notify_one();
    }

    fn closed(&self, pending: &Pending) {
        self.rows.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(pending.bytes as i64, Ordering::AcqRel);
    }
}

/// Counts what is written to it.
struct Counter(u64);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_counts_the_same_before_and_after_it_was_kept() {
        let outcomes: [Outcome; 2] = [
            Outcome::ok(&serde_json::json!({ "content": "größer" }), vec!["index".into()]).unwrap(),
            Fault::not_found("no such record").into(),
        ];
        for outcome in outcomes {
            let kept = serde_json::to_string(&outcome).unwrap();
            let stored = Stored::new("memory/get".into(), outcome, Timestamp::from_millis(0));
            assert_eq!(stored.size(), kept.len() as u64);
        }
    }
}
