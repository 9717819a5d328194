//! A circuit breaker: who fails again and again is left alone for a while, then tried with one request.
//!
//! Closed, it counts consecutive failures; at the limit it opens and refuses at once. After a pause one request goes through
//! (half open): its success closes the breaker, its failure opens it for another pause. The states are those of Michael
//! Nygard's "Release It!". Why it is our own: docs/decisions/0012-hyper-for-models.md.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen,
}

/// A breaker in front of one who is asked.
#[derive(Debug)]
pub(crate) struct Breaker {
    limit: u32,
    pause: Duration,
    state: Mutex<State>,
    trips: AtomicU64,
}

/// Leave to ask once. What is dropped without a verdict counts neither way.
#[derive(Debug)]
pub(crate) struct Permit<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
    settled: bool,
}

impl Breaker {
    /// Opens after `limit` failures in a row, for `pause`.
    pub(crate) fn new(limit: u32, pause: Duration) -> Self {
        Self { limit, pause, state: Mutex::new(State::Closed { failures: 0 }), trips: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // One value, replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to ask, or how long to wait.
    pub(crate) fn ask(&self, now: Instant) -> Result<Permit<'_>, Duration> {
        let mut state = self.state();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now >= until => {
                *state = State::HalfOpen;
                true
            }
            State::Open { until } => return Err(until - now),
            State::HalfOpen => return Err(self.pause),
        };
        Ok(Permit { breaker: self, is_probe, settled: false })
    }

    /// `closed`, `open` or `half_open`.
    pub(crate) fn word(&self, now: Instant) -> &'static str {
        match *self.state() {
            State::Closed { .. } => "closed",
            State::Open { until } if now < until => "open",
            State::Open { .. } | State::HalfOpen => "half_open",
        }
    }

    /// How often it has opened.
    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::Relaxed)
    }

    fn open(&self, state: &mut State, now: Instant) {
        *state = State::Open { until: now + self.pause };
        self.trips.fetch_add(1, Ordering::Relaxed);
    }
}

impl Permit<'_> {
    /// Whether it is the one request that a half-open breaker lets through.
    pub(crate) const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The provider did what it should; whether that closed the breaker.
    pub(crate) fn succeeded(mut self) -> bool {
        self.settled = true;
        let before = std::mem::replace(&mut *self.breaker.state(), State::Closed { failures: 0 });
        !matches!(before, State::Closed { .. })
    }

    /// The provider did not; whether that opened the breaker.
    pub(crate) fn failed(mut self, now: Instant) -> bool {
        self.settled = true;
        let mut state = self.breaker.state();
        match *state {
            State::Closed { failures } if failures + 1 < self.breaker.limit => {
                *state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => {
                self.breaker.open(&mut state, now);
                true
            }
            State::HalfOpen if self.is_probe => {
                self.breaker.open(&mut state, now);
                true
            }
            // It was asked before the breaker opened.
            State::Open { .. } | State::HalfOpen => false,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.settled {
            // Nobody waits for the probe any more: the next request is one.
            *self.breaker.state() = State::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_one_good_probe() {
        let breaker = Breaker::new(3, PAUSE);
        let start = Instant::now();
        let fail = |at| breaker.ask(at).unwrap().failed(at);
        assert!(!fail(start) && !fail(start));
        assert!(!breaker.ask(start).unwrap().succeeded());
        assert!(!fail(start) && !fail(start) && fail(start));
        assert_eq!((breaker.word(start), breaker.trips()), ("open", 1));
        assert_eq!(breaker.ask(start + Duration::from_secs(10)).unwrap_err(), Duration::from_secs(20));

        let later = start + PAUSE;
        let probe = breaker.ask(later).unwrap();
        assert_eq!(breaker.word(later), "half_open");
        assert!(breaker.ask(later).is_err(), "one probe at a time");
        assert!(probe.failed(later));
        assert_eq!(breaker.trips(), 2);

        let much_later = later + PAUSE;
        assert!(breaker.ask(much_later).unwrap().succeeded());
        assert_eq!(breaker.word(much_later), "closed");
        assert!(!fail(much_later), "it counts from the beginning");
    }

    #[test]
    fn a_probe_that_nobody_waits_for_makes_room_for_the_next() {
        let breaker = Breaker::new(1, Duration::ZERO);
        let now = Instant::now();
        assert!(breaker.ask(now).unwrap().failed(now));
        drop(breaker.ask(now).unwrap());
        let now = Instant::now();
        assert!(breaker.ask(now).unwrap().succeeded());
        assert_eq!(breaker.word(now), "closed");
    }

    #[test]
    fn what_was_asked_before_it_opened_does_not_open_it_again() {
        let breaker = Breaker::new(1, PAUSE);
        let now = Instant::now();
        let (first, second) = (breaker.ask(now).unwrap(), breaker.ask(now).unwrap());
        assert!(first.failed(now));
        assert!(!second.failed(now));
        assert_eq!(breaker.trips(), 1);
    }
}
