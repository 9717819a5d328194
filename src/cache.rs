//! What was found out shortly before, in bounded room.

use std::hash::Hash;
use std::time::{Duration, Instant};

/// Values that are forgotten after a while, and before that where there is no room: those that are asked for the least go
/// first (S3-FIFO, as `quick_cache` has it).
pub(crate) struct Cache<K, V> {
    /// Each with the moment since when it is known.
    entries: quick_cache::sync::Cache<K, (Instant, V)>,
    life: Duration,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    /// Keeps at most `capacity` values, which stay true.
    pub(crate) fn new(capacity: usize) -> Self {
        Self::fleeting(capacity, Duration::MAX)
    }

    /// Keeps at most `capacity` values, each for `life`; nothing when that is zero.
    pub(crate) fn fleeting(capacity: usize, life: Duration) -> Self {
        Self { entries: quick_cache::sync::Cache::new(capacity), life }
    }

    /// The value of `key`, if it is still known.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + quick_cache::Equivalent<K> + ?Sized,
    {
        let (known_since, value) = self.entries.get(key)?;
        if known_since.elapsed() >= self.life {
            // Perhaps it is new by now: then it is found out once more.
            self.entries.remove(key);
            return None;
        }
        Some(value)
    }

    /// From now on `key` has `value`.
    pub(crate) fn insert(&self, key: K, value: V) {
        if !self.life.is_zero() {
            self.entries.insert(key, (Instant::now(), value));
        }
    }

    /// How many values are kept, those that have passed included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("life", &self.life).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_until_its_time_has_passed() {
        let long = Cache::fleeting(8, Duration::from_secs(3_600));
        let none = Cache::fleeting(8, Duration::ZERO);
        let short = Cache::fleeting(8, Duration::from_nanos(1));
        let lasting = Cache::new(8);
        for cache in [&long, &none, &short, &lasting] {
            cache.insert("a".to_owned(), 1);
            cache.insert("a".to_owned(), 2);
        }
        assert_eq!(
            [&long, &none, &short, &lasting].map(|cache| cache.get("a")),
            [Some(2), None, None, Some(2)]
        );
        assert_eq!([long.len(), none.len(), short.len()], [1, 0, 0], "what has passed is let go");
        assert_eq!(long.get("b"), None);
    }

    #[test]
    fn there_are_never_more_than_asked_for() {
        let cache = Cache::new(100);
        for number in 0..10_000 {
            cache.insert(number, number);
            assert!(cache.len() <= 100);
        }
        assert!(cache.len() >= 50, "and not many fewer: {}", cache.len());
    }
}
