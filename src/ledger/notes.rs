//! Audit records of reads on their way into the ledger: a bounded queue that refuses rather than forget.
//!
//! Promises: at most [`MAX`] records wait, those included that a commit has taken and not yet made durable; while the last
//! commit that carried records has failed no further one is accepted, so that what cannot be recorded is not done.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::audit::Entry;
use crate::wire::{Code, Fault};

/// Records that may wait. At 20,000 reads a second a commit takes 1,000 of them.
const MAX: usize = 16_384;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    queued: Vec<Entry>,
    /// Taken by the writer, and not yet durable.
    taken: usize,
    /// The last attempt to make them durable has failed.
    failing: bool,
}

impl Notes {
    /// Queues a record; whether it is the first since the writer has taken the others.
    ///
    /// # Errors
    /// `busy` when it cannot be recorded.
    pub(super) fn push(&self, entry: Entry) -> Result<bool, Fault> {
        let mut waiting = self.lock();
        if waiting.failing {
            return Err(Fault::new(Code::Busy, "the audit trail cannot be written").retry_after(1_000));
        }
        if waiting.queued.len() + waiting.taken >= MAX {
            return Err(Fault::new(Code::Busy, "the audit trail cannot keep up").retry_after(100));
        }
        waiting.queued.push(entry);
        Ok(waiting.queued.len() == 1)
    }

    /// Moves what is queued to the end of `pending`.
    pub(super) fn take(&self, pending: &mut Vec<Entry>) {
        let mut waiting = self.lock();
        waiting.taken += waiting.queued.len();
        pending.append(&mut waiting.queued);
    }

    /// What was taken is durable.
    pub(super) fn written(&self) {
        let mut waiting = self.lock();
        (waiting.taken, waiting.failing) = (0, false);
    }

    /// What was taken could not be made durable, and is to be tried again.
    pub(super) fn failed(&self) {
        let mut waiting = self.lock();
        waiting.failing = waiting.taken > 0;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn fill(notes: &Notes) -> usize {
        let entry = || Entry::of_the_node("node/ping", "ok", String::new(), Timestamp::from_millis(0));
        (0..2 * MAX).take_while(|_| notes.push(entry()).is_ok()).count()
    }

    #[test]
    fn what_was_taken_counts_until_it_is_durable() {
        let (notes, mut pending) = (Notes::default(), Vec::new());
        assert_eq!(fill(&notes), MAX);
        notes.take(&mut pending);
        assert_eq!((pending.len(), fill(&notes)), (MAX, 0));
        notes.written();
        pending.clear();
        assert_eq!(fill(&notes), MAX);
    }

    #[test]
    fn nothing_is_accepted_while_nothing_can_be_made_durable() {
        let (notes, mut pending) = (Notes::default(), Vec::new());
        notes.failed();
        let entry = || Entry::of_the_node("node/ping", "ok", String::new(), Timestamp::from_millis(0));
        assert_eq!(notes.push(entry()), Ok(true), "nothing waits, so nothing would be tried again");
        notes.take(&mut pending);
        notes.failed();
        assert_eq!(fill(&notes), 0);
        notes.written();
        assert_eq!(notes.push(entry()), Ok(true));
    }
}
