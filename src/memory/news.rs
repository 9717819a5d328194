//! What `events/memory` tells: what changed, gathered so that a thousand stores are a few events.

use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;

use super::model::Layer;

/// Changes that one event names; of further ones it tells only how many.
const MOST: usize = 100;

/// What happened to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is new.
    Stored,
    /// It has a new version.
    Updated,
    /// It is forgotten.
    Forgotten,
    /// It is no longer forgotten.
    Restored,
    /// It is gone for good.
    Purged,
    /// It was pinned.
    Pinned,
    /// It was unpinned.
    Unpinned,
    /// It moved to a layer that keeps it longer.
    Promoted,
    /// It was too old or one too many.
    Pruned,
    /// It came in with a file.
    Imported,
    /// It left with a file.
    Archived,
    /// Its seal is broken: it was changed from outside and is in no answer.
    Broken,
}

/// One change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// To which record.
    pub id: String,
    /// In which layer it is now.
    pub layer: Layer,
}

/// Changes since the last event.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct MemoryNews {
    /// The first 100, in their order.
    pub changes: Vec<Change>,
    /// How many more there were.
    pub more: u64,
}

/// Gathers changes until they are told.
#[derive(Debug, Default)]
pub struct News(Mutex<MemoryNews>);

impl News {
    /// Adds one. Never waits for whoever listens.
    pub fn add(&self, what: What, id: String, layer: Layer) {
        let mut news = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if news.changes.len() < MOST {
            news.changes.push(Change { what, id, layer });
        } else {
            news.more += 1;
        }
    }

    /// Adds changes of which only the number is told.
    pub fn add_many(&self, count: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).more += count;
    }

    /// Takes what was gathered, if anything.
    pub fn take(&self) -> Option<MemoryNews> {
        let mut news = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!news.changes.is_empty() || news.more > 0).then(|| std::mem::take(&mut *news))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_one_event_is_counted_and_the_next_starts_anew() {
        let news = News::default();
        assert!(news.take().is_none());
        for number in 0..150 {
            news.add(What::Stored, number.to_string(), Layer::Working);
        }
        let told = news.take().unwrap();
        assert_eq!((told.changes.len(), told.more), (100, 50));
        assert!(news.take().is_none());
    }
}
