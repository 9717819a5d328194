//! Acknowledgements in the order of receipt (MQTT-4.6.0-2), for one connection.
//!
//! Each QoS 1 delivery gets the next number when it is received. Handlers finish in any order; an acknowledgement waits
//! here until all before it have been sent. When the connection ends, its channel closes, and what comes late goes
//! nowhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, ManualAck};
use tokio::sync::mpsc;

use super::{AT_LEAST_ONCE_BYTES, AT_LEAST_ONCE_QUEUE, REQUEST_QUEUE};
use crate::engine::port::Ack;

/// Hands out numbers in the order of receipt.
pub(super) struct Acks {
    owed: Arc<Owed>,
    done: mpsc::Sender<(u64, Done)>,
}

/// An acknowledgement that may go out, and the weight of what it acknowledges.
struct Done {
    ack: ManualAck,
    bytes: usize,
}

/// Between two looks whether all that was received has been acknowledged.
const SETTLED_PAUSE: Duration = Duration::from_millis(2);

/// What has been received and not yet acknowledged.
#[derive(Debug, Default)]
pub(super) struct Owed {
    count: AtomicUsize,
    bytes: AtomicUsize,
    /// How many were received, and for how many of them the acknowledgement is on its way, since the connection was made.
    received: AtomicU64,
    settled: AtomicU64,
}

impl Owed {
    /// How many were received on this connection.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Resolves when the acknowledgement of each is on its way: whatever is sent from then on goes out behind it.
    pub(super) async fn settled(&self) {
        while self.settled.load(Ordering::Acquire) != self.received() {
            tokio::time::sleep(SETTLED_PAUSE).await;
        }
    }
}

/// Why a delivery is not taken.
pub(super) enum Refused {
    /// More are unacknowledged than there are packet identifiers.
    TooMany,
    /// What is unacknowledged weighs too much.
    TooHeavy,
}

/// Makes the two ends: numbers for the poll task, and the task that sends.
pub(super) fn channel(client: AsyncClient) -> (Acks, impl Future<Output = ()> + Send + 'static) {
    // As many as can be owed at a time, so that handing one in never finds it full.
    let (done, receiver) = mpsc::channel(AT_LEAST_ONCE_QUEUE);
    let owed = Arc::new(Owed::default());
    (Acks { owed: owed.clone(), done }, send_in_order(client, receiver, owed))
}

impl Acks {
    /// What has been received and not yet acknowledged.
    pub(super) const fn owed(&self) -> &Arc<Owed> {
        &self.owed
    }

    /// The acknowledgement of the delivery just received. The count never exceeds the broker's own, so that one which
    /// keeps to the Receive Maximum is never refused.
    pub(super) fn owe(&mut self, ack: ManualAck, bytes: usize) -> Result<Ack, Refused> {
        let count = self.owed.count.load(Ordering::Acquire);
        if count >= AT_LEAST_ONCE_QUEUE {
            return Err(Refused::TooMany);
        }
        if count >= REQUEST_QUEUE && self.owed.bytes.load(Ordering::Acquire) >= AT_LEAST_ONCE_BYTES {
            return Err(Refused::TooHeavy);
        }
        self.owed.count.fetch_add(1, Ordering::AcqRel);
        self.owed.bytes.fetch_add(bytes, Ordering::AcqRel);
        let number = self.owed.received.fetch_add(1, Ordering::AcqRel);
        let (done, watched) = (self.done.clone(), self.done.clone());
        let complete = move || {
            // An error means that the connection is gone: the broker delivers the message again.
            let _ = done.try_send((number, Done { ack, bytes }));
        };
        Ok(Ack::new(complete, move || watched.is_closed()))
    }
}

async fn send_in_order(client: AsyncClient, mut done: mpsc::Receiver<(u64, Done)>, owed: Arc<Owed>) {
    let mut window = Window::default();
    while let Some((number, item)) = done.recv().await {
        window.insert(number, item);
        while let Some(Done { ack, bytes }) = window.pop() {
            // Before it is sent: the broker may use the place at once.
            owed.count.fetch_sub(1, Ordering::AcqRel);
            owed.bytes.fetch_sub(bytes, Ordering::AcqRel);
            if client.manual_ack(ack).await.is_err() {
                return;
            }
            owed.settled.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Puts numbered things into order.
struct Window<T> {
    first: u64,
    slots: VecDeque<Option<T>>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { first: 0, slots: VecDeque::new() }
    }
}

impl<T> Window<T> {
    fn insert(&mut self, number: u64, item: T) {
        let Some(at) = number.checked_sub(self.first) else { return };
        let at = at as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.slots[at] = Some(item);
    }

    /// The next in order, if it is there.
    fn pop(&mut self) -> Option<T> {
        if matches!(self.slots.front(), Some(Some(_))) {
            self.first += 1;
            self.slots.pop_front().flatten()
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Window;

    proptest! {
        #[test]
        fn whatever_the_order_of_completion_things_leave_in_the_order_of_receipt(order in Just((0..60u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut window = Window::default();
            let mut left = Vec::new();
            for (done, number) in order.iter().enumerate() {
                window.insert(*number, *number);
                while let Some(next) = window.pop() {
                    prop_assert!(order[..=done].contains(&next));
                    left.push(next);
                }
            }
            prop_assert_eq!(left, (0..60).collect::<Vec<_>>());
        }
    }
}
