//! Answers on their way: written in the transaction of the effect, published until the broker has them.
//!
//! A row is *open* until the broker accepts it, refuses it for good, or it expires. Open rows are bounded in number and
//! bytes. Once closed, a row is kept while a repeat of its command may still ask for it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::port::{Outgoing, Publication, Publish};
use crate::clock::{Clock, Timestamp};
use crate::ledger::{Ledger, Unit};
use crate::observe::Metrics;
use crate::wire::{Encoding, Fault, Outcome, Reply};

/// Replies that are being published at the same time; the link's own in-flight limit.
const IN_FLIGHT: usize = 64;

/// Replies handed over without a look at the ledger; what finds no room is found there.
const HANDOVER: usize = 512;

/// Rows that one look at the ledger brings.
const PAGE: u32 = 128;

/// How often due and left-over rows are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Longest time that an accepted reply waits to be closed.
const CLOSE_DELAY: Duration = Duration::from_millis(10);

/// Rows closed in one unit.
const CLOSE_BATCH: usize = 256;

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
    pub(super) fn reply(&self, node: &str, route: &Route) -> Reply {
        Reply {
            message_id: self.reply_id.clone(),
            in_reply_to: route.in_reply_to.clone(),
            correlation_id: route.correlation_id.clone(),
            node: node.to_owned(),
            command: self.command.clone(),
            timestamp: self.made_at,
            status: self.outcome.status,
            payload: self.outcome.payload.clone(),
            error: self.outcome.error.clone(),
            degraded: self.outcome.degraded.clone(),
        }
    }

    /// The message to publish; `None` when there is no topic.
    pub(super) fn outgoing(
        &self,
        node: &str,
        route: &Route,
        now: Timestamp,
    ) -> Option<Result<Outgoing, Fault>> {
        let topic = route.topic.clone()?;
        Some(self.reply(node, route).encode(route.encoding).map(|bytes| Outgoing {
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

/// Writes a reply; returns its row. Open when it is to be published; `kept` when the inbox will refer to it.
pub(super) fn insert(unit: &Unit<'_>, stored: &Stored, route: &Route, kept: bool) -> Result<i64, Fault> {
    let outcome = serde_json::to_string(&stored.outcome).map_err(|_| Fault::internal())?;
    unit.prepare_cached(
        "INSERT INTO outbox (reply_id, in_reply_to, command, outcome, made_at, topic, correlation_data, correlation_id,
                             cbor, expires_at, due_at, open, kept)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        stored.reply_id,
        route.in_reply_to,
        stored.command,
        outcome,
        stored.made_at.millis(),
        route.topic,
        route.correlation_data.as_deref(),
        route.correlation_id,
        route.encoding == Encoding::Cbor,
        route.expires_at.millis(),
        route.due_at.millis(),
        route.topic.is_some(),
        kept,
    ])?;
    Ok(unit.last_insert_rowid())
}

const COLUMNS: &str = "id, reply_id, in_reply_to, command, outcome, made_at, topic, correlation_data, correlation_id, cbor, expires_at, due_at";

fn from_row(row: &Row<'_>) -> Result<Pending, Fault> {
    let outcome: String = row.get(4)?;
    let stored = Stored {
        reply_id: row.get(1)?,
        command: row.get(3)?,
        outcome: serde_json::from_str(&outcome).map_err(|_| Fault::internal())?,
        made_at: Timestamp::from_millis(row.get(5)?),
    };
    let route = Route {
        topic: row.get(6)?,
        correlation_data: row.get::<_, Option<Vec<u8>>>(7)?.map(Bytes::from),
        correlation_id: row.get(8)?,
        encoding: if row.get(9)? { Encoding::Cbor } else { Encoding::Json },
        in_reply_to: row.get(2)?,
        expires_at: Timestamp::from_millis(row.get(10)?),
        due_at: Timestamp::from_millis(row.get(11)?),
    };
    Ok(Pending { id: row.get(0)?, bytes: outcome.len() as u64, stored, route })
}

/// Closes a row that was published when it was due at `due_at`: it is kept while a repeat of its command may ask for it,
/// else removed. Whether it was open: a reply that a look found before it was offered is published, and closed, twice.
/// A row that is to be sent again has another time by now, and stays open.
fn close(unit: &Unit<'_>, id: i64, due_at: Timestamp) -> Result<bool, Fault> {
    let which = params![id, due_at.millis()];
    let kept = unit
        .prepare_cached("UPDATE outbox SET open = 0 WHERE id = ?1 AND due_at = ?2 AND open = 1 AND kept = 1")?
        .execute(which)?;
    let removed = unit
        .prepare_cached("DELETE FROM outbox WHERE id = ?1 AND due_at = ?2 AND open = 1 AND kept = 0")?
        .execute(which)?;
    Ok(kept + removed > 0)
}

/// The reply in an open row is wanted once more: it is published after this, even if it has just been.
pub(super) fn send_again(unit: &Unit<'_>, id: i64) -> Result<(), Fault> {
    unit.prepare_cached("UPDATE outbox SET due_at = max(due_at + 1, ?2) WHERE id = ?1 AND open = 1")?
        .execute(params![id, unit.now().millis()])?;
    Ok(())
}

/// The inbox no longer refers to the row: it goes now, or when it is closed.
pub(super) fn release(unit: &Unit<'_>, id: i64) -> Result<(), Fault> {
    let open = unit.prepare_cached("UPDATE outbox SET kept = 0 WHERE id = ?1 AND open = 1")?.execute([id])?;
    if open == 0 {
        unit.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
    }
    Ok(())
}

/// The reply in row `id`, and where it is still to be published.
pub(super) fn load(connection: &Connection, id: i64) -> Result<(Stored, Option<Route>), Fault> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS}, open FROM outbox WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    let row = rows.next()?.ok_or_else(Fault::internal)?;
    let open: bool = row.get(12)?;
    let pending = from_row(row)?;
    Ok((pending.stored, open.then_some(pending.route)))
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

/// Publishes replies until told to stop.
pub(super) struct Deliverer {
    pub outbox: Arc<Outbox>,
    pub handover: mpsc::Receiver<Pending>,
    pub ledger: Ledger,
    pub publisher: Arc<dyn Publish>,
    pub node: String,
    pub clock: Clock,
    pub metrics: Metrics,
}

impl Deliverer {
    /// Runs until `stop`; what is open then is published on the next start.
    pub(super) async fn run(mut self, stop: CancellationToken) {
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
        let Some(Ok(message)) = pending.stored.outgoing(&self.node, &pending.route, now) else { return };
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
            let page = self.ledger.read(move |connection| {
                let sql =
                    format!("SELECT {COLUMNS} FROM outbox WHERE open = 1 AND id > ?1 ORDER BY id LIMIT ?2");
                let mut statement = connection.prepare_cached(&sql)?;
                let mut rows = statement.query(params![after, PAGE])?;
                let mut page = Vec::new();
                while let Some(row) = rows.next()? {
                    page.push(from_row(row)?);
                }
                Ok(page)
            });
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
        let rows: Vec<_> = batch.iter().map(|pending| (pending.id, pending.route.due_at)).collect();
        let closed = ledger.write(move |unit| {
            rows.iter().map(|(id, due_at)| close(unit, *id, *due_at)).collect::<Result<Vec<_>, _>>()
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
