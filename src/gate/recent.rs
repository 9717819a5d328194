//! Signatures that were seen within their window: what was seen before may be sent by anyone who heard it, and is not held
//! against the key.
//!
//! A memory of the rates alone: what may happen only once is decided by the nonces in the ledger. Bounded; what does not fit
//! takes the place of an older one, and counts as new when it comes back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::nonce::Nonce;
use super::signature::in_time;
use crate::clock::Timestamp;

/// Signatures that are remembered at most.
const SIGNATURES: usize = 65_536;

/// What a signature that is right says of who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// In time, and not seen before: who has the key has sent it.
    Fresh,
    /// In time, and refused for the rate before. It may be the same sender.
    Refused,
    /// Admitted before, or too old, or from the future: anyone may have sent it.
    Stale,
}

/// Who signed, and with which nonce.
type Name = (Box<str>, Box<str>);

#[derive(Debug, Default)]
struct Seen {
    /// When each was signed, and whether it was admitted.
    known: HashMap<Arc<Name>, (Timestamp, bool)>,
    /// In the order in which they came first, so that to let go of the oldest takes no search.
    order: VecDeque<Arc<Name>>,
}

impl Seen {
    /// Lets go of the oldest: of those whose time is over, and of one where there is no room.
    fn make_room(&mut self, now: Timestamp) {
        while let Some(oldest) = self.order.front() {
            let over = self.known.get(oldest).is_none_or(|(signed_at, _)| in_time(*signed_at, now).is_err());
            if !over && self.known.len() < SIGNATURES {
                break;
            }
            self.known.remove(oldest);
            self.order.pop_front();
        }
    }
}

/// The signatures of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Seen>);

impl Recent {
    /// What is known of a command with this nonce, whose signature is right.
    pub(super) fn judge(&self, nonce: &Nonce, now: Timestamp) -> Freshness {
        if in_time(nonce.signed_at, now).is_err() {
            return Freshness::Stale;
        }
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.known.get(&name(nonce)) {
            None => Freshness::Fresh,
            Some((_, false)) => Freshness::Refused,
            Some((_, true)) => Freshness::Stale,
        }
    }

    /// Remembers one that was admitted, or refused for the rate.
    pub(super) fn remember(&self, nonce: &Nonce, admitted: bool, now: Timestamp) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = Arc::new(name(nonce));
        if let Some(known) = seen.known.get_mut(&name) {
            *known = (nonce.signed_at, admitted);
            return;
        }
        seen.make_room(now);
        seen.order.push_back(name.clone());
        seen.known.insert(name, (nonce.signed_at, admitted));
    }
}

fn name(nonce: &Nonce) -> Name {
    (Box::from(&*nonce.key_id), nonce.value.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(value: &str, second: i64) -> Nonce {
        Nonce {
            key_id: "0123456789ab".into(),
            value: value.to_owned(),
            signed_at: Timestamp::from_millis(second * 1_000),
        }
    }

    #[test]
    fn only_what_is_in_time_and_new_is_known_to_be_from_the_key() {
        let (recent, now) = (Recent::default(), Timestamp::from_millis(1_000_000));
        assert_eq!(recent.judge(&nonce("a", 1_000), now), Freshness::Fresh);
        recent.remember(&nonce("a", 1_000), false, now);
        assert_eq!(recent.judge(&nonce("a", 1_000), now), Freshness::Refused);
        recent.remember(&nonce("a", 1_000), true, now);
        assert_eq!(recent.judge(&nonce("a", 1_000), now), Freshness::Stale);
        assert_eq!(recent.judge(&nonce("b", 1_000), now), Freshness::Fresh);
        for second in [699, 1_301] {
            assert_eq!(recent.judge(&nonce("c", second), now), Freshness::Stale, "{second}");
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let (recent, now) = (Recent::default(), Timestamp::from_millis(1_000_000));
        for n in 0..SIGNATURES + 10 {
            recent.remember(&nonce(&n.to_string(), 1_000), true, now);
        }
        assert_eq!(recent.0.lock().unwrap().known.len(), SIGNATURES);
        recent.remember(&nonce("later", 2_000), true, Timestamp::from_millis(2_000_000));
        assert_eq!(recent.0.lock().unwrap().known.len(), 1);
    }
}
