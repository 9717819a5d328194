//! How often records are recalled: counted in memory by the reads, and written every few seconds, so that a read writes
//! nothing. A crash loses the last counts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;

/// Records whose counts are gathered between two writes; recalls of further ones are not counted.
const MOST: usize = 10_000;

/// Recalls of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recalls {
    /// How many.
    pub count: u64,
    /// The last one.
    pub last: Timestamp,
}

/// Counts that are not written yet, by the records' keys.
#[derive(Debug, Default)]
pub struct Accesses(Mutex<HashMap<i64, Recalls>>);

impl Accesses {
    /// Counts a recall.
    pub fn count(&self, key: i64, now: Timestamp) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MOST && !map.contains_key(&key) {
            return;
        }
        let recalls = map.entry(key).or_insert(Recalls { count: 0, last: now });
        recalls.count += 1;
        recalls.last = recalls.last.max(now);
    }

    /// Takes what was counted.
    pub fn take(&self) -> Vec<(i64, Recalls)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }
}
