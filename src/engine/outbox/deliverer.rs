//! From the outbox to the broker.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Outbox, Pending, rows};
use crate::clock::Clock;
use crate::engine::port::{Publication, Publish};
use crate::gate::seal::Seal;
use crate::ledger::Ledger;
use crate::observe::Metrics;

/// Replies that are being published at the same time; the link's own in-flight limit.
const IN_FLIGHT: usize = 64;

/// Rows that one look at the ledger brings.
const PAGE: u32 = 128;

/// How often due and left-over rows are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Longest time that an accepted reply waits to be closed.
const CLOSE_DELAY: Duration = Duration::from_millis(10);

/// Rows closed in one unit.
const CLOSE_BATCH: usize = 256;

/// Publishes replies until told to stop.
pub(in crate::engine) struct Deliverer {
    pub outbox: Arc<Outbox>,
    pub handover: mpsc::Receiver<Pending>,
    pub ledger: Ledger,
    pub publisher: Arc<dyn Publish>,
    pub node: String,
    pub clock: Clock,
    pub metrics: Metrics,
    pub seal: Arc<Seal>,
}

impl Deliverer {
    /// Runs until `stop`; what is open then is published on the next start.
    pub(in crate::engine) async fn run(mut self, stop: CancellationToken) {
        // Published or being published, and not yet closed in the ledger: a look there must not bring them twice.
        let owned: Arc<Mutex<HashSet<i64>>> = Arc::default();
        let (close, closing) = mpsc::channel(CLOSE_BATCH);
        let closer =
            tokio::spawn(close_rows(closing, self.ledger.clone(), self.outbox.clone(), owned.clone()));
        let mut in_flight: JoinSet<(Pending, Publication)> = JoinSet::new();
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let has_room = in_flight.len() < IN_FLIGHT;
            tokio::select! {
                () = stop.cancelled() => break,
                Some(joined) = in_flight.join_next() => {
                    if let Ok((pending, publication)) = joined
                        && self.settle(&pending, publication, &owned)
                        && close.send(pending).await.is_err()
                    {
                        break;
                    }
                }
                Some(pending) = self.handover.recv(), if has_room => self.start(pending, &owned, &mut in_flight),
                () = self.outbox.look.notified(), if has_room => self.look(&owned, &mut in_flight, &close).await,
                _ = looks.tick(), if has_room => self.look(&owned, &mut in_flight, &close).await,
            }
        }
        drop(close);
        // What was accepted meanwhile is recorded, so that it is not sent again.
        let _ = closer.await;
    }

    fn start(
        &self,
        pending: Pending,
        owned: &Mutex<HashSet<i64>>,
        in_flight: &mut JoinSet<(Pending, Publication)>,
    ) {
        let now = self.clock.now();
        if pending.route.due_at > now {
            self.outbox.left_over.store(true, Ordering::Release);
            return;
        }
        let Some(Ok(message)) = pending.stored.outgoing(&self.node, &pending.route, now, &self.seal) else {
            return;
        };
        if !lock(owned).insert(pending.id) {
            return;
        }
        let publication = self.publisher.publish(message);
        in_flight.spawn(async move { (pending, publication.await) });
    }

    /// Whether the reply is dealt with for good.
    fn settle(&self, pending: &Pending, publication: Publication, owned: &Mutex<HashSet<i64>>) -> bool {
        match publication {
            Publication::Accepted => true,
            Publication::Refused(reason) => {
                self.metrics.reply_refused(reason);
                tracing::warn!(
                    command = pending.stored.command,
                    reason,
                    "the broker refused a reply for good"
                );
                true
            }
            Publication::Unsent => {
                lock(owned).remove(&pending.id);
                self.outbox.left_over.store(true, Ordering::Release);
                false
            }
        }
    }

    /// Looks for open rows in the ledger that are due and that nobody is publishing.
    async fn look(
        &mut self,
        owned: &Arc<Mutex<HashSet<i64>>>,
        in_flight: &mut JoinSet<(Pending, Publication)>,
        close: &mpsc::Sender<Pending>,
    ) {
        if !self.publisher.is_connected() || !self.outbox.left_over.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut after = 0;
        while in_flight.len() < IN_FLIGHT {
            let page = self.ledger.read(move |connection| rows::open_after(connection, after, PAGE));
            let page = match page.await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "open replies could not be read; trying again");
                    self.outbox.left_over.store(true, Ordering::Release);
                    return;
                }
            };
            let Some(last) = page.last() else { return };
            after = last.id;
            let now = self.clock.now();
            for pending in page {
                if pending.route.expires_at <= now {
                    if lock(owned).insert(pending.id) {
                        self.metrics.reply_refused("expired");
                        let _ = close.send(pending).await;
                    }
                } else if in_flight.len() < IN_FLIGHT {
                    self.start(pending, owned, in_flight);
                } else {
                    self.outbox.left_over.store(true, Ordering::Release);
                }
            }
        }
        self.outbox.left_over.store(true, Ordering::Release);
    }
}

fn lock(owned: &Mutex<HashSet<i64>>) -> std::sync::MutexGuard<'_, HashSet<i64>> {
    // A set of numbers is never left half changed by a panic.
    owned.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for more to close, for at most [`CLOSE_DELAY`], so that replies that come one by one do not cost a commit each.
async fn gather(closing: &mut mpsc::Receiver<Pending>, batch: &mut Vec<Pending>) {
    let more = async {
        while batch.len() < CLOSE_BATCH {
            let room = CLOSE_BATCH - batch.len();
            if closing.recv_many(batch, room).await == 0 {
                break;
            }
        }
    };
    // Cancel safe: what has been received is in the batch.
    let _ = tokio::time::timeout(CLOSE_DELAY, more).await;
}

/// Closes rows in batches. A crash before it gets to one means that the reply is sent again, with the same id.
async fn close_rows(
    mut closing: mpsc::Receiver<Pending>,
    ledger: Ledger,
    outbox: Arc<Outbox>,
    owned: Arc<Mutex<HashSet<i64>>>,
) {
    let mut batch = Vec::with_capacity(CLOSE_BATCH);
    while closing.recv_many(&mut batch, CLOSE_BATCH).await > 0 {
        gather(&mut closing, &mut batch).await;
        let accepted: Vec<_> = batch.iter().map(|pending| (pending.id, pending.route.due_at)).collect();
        let closed = ledger.write(move |unit| {
            accepted.iter().map(|(id, due_at)| rows::close(unit, *id, *due_at)).collect::<Result<Vec<_>, _>>()
        });
        match closed.await {
            Ok(closed) => {
                for (pending, was_open) in batch.iter().zip(closed) {
                    if was_open {
                        outbox.closed(pending);
                    } else {
                        outbox.left_over.store(true, Ordering::Release);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepted replies could not be closed; they will be sent again");
                outbox.left_over.store(true, Ordering::Release);
            }
        }
        let mut owned = lock(&owned);
        for pending in batch.drain(..) {
            owned.remove(&pending.id);
        }
    }
}
