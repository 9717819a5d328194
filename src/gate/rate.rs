//! How often a principal may ask: the generic cell rate algorithm (ITU-T I.371), which needs one number for each principal.
//!
//! A principal that goes on asking while it is refused is refused altogether for a while. The number of principals that
//! are remembered is bounded; one that has been quiet for long enough is as good as a new one, and is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Principals that are remembered at most. Beyond it those that come new share one count.
const PRINCIPALS: usize = 20_000;

/// Refusals, less one half at each admission, from which on a principal has to cool down.
const STRIKES: u32 = 20;

/// A sustained rate and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Commands in a minute, at least 1.
    pub per_minute: u32,
    /// Commands at once, at least 1.
    pub burst: u32,
}

impl Rate {
    /// The time that one command takes up.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute.max(1)
    }
}

/// One principal's count.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// When everything that was admitted so far is used up.
    busy_until: Duration,
    /// The time that one of those commands takes up.
    interval: Duration,
    strikes: u32,
    cooling_until: Duration,
}

impl Cell {
    /// Admits one command at `now`, or says how long to wait. Without a cooldown a refusal is not held against the asker.
    fn take(&mut self, rate: Rate, cooldown: Duration, now: Duration) -> Result<(), Duration> {
        if now < self.cooling_until {
            return Err(self.cooling_until - now);
        }
        let interval = rate.interval();
        self.measure_in(interval, now);
        let tolerance = interval * rate.burst.max(1).saturating_sub(1);
        let start = self.busy_until.max(now);
        if start > now + tolerance {
            if !cooldown.is_zero() {
                self.strikes += 1;
                if self.strikes >= STRIKES {
                    self.strikes = 0;
                    self.cooling_until = now + cooldown;
                    return Err(cooldown);
                }
            }
            return Err(start - now - tolerance);
        }
        self.busy_until = start + interval;
        self.strikes /= 2;
        Ok(())
    }

    /// The rate may be another one by now: what is not used up yet are as many commands as before.
    fn measure_in(&mut self, interval: Duration, now: Duration) {
        if self.interval != interval && !self.interval.is_zero() {
            let open = self.busy_until.saturating_sub(now);
            self.busy_until = now + open.mul_f64(interval.as_secs_f64() / self.interval.as_secs_f64());
        }
        self.interval = interval;
    }

    fn is_idle(&self, now: Duration) -> bool {
        self.busy_until <= now && self.cooling_until <= now
    }
}

/// The counts of all principals, of the node, and of those whom nobody knows yet.
#[derive(Debug)]
pub struct Limiter {
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    principals: HashMap<Arc<str>, Cell>,
    /// Shared by principals for which there is no room.
    crowd: Cell,
    node: Cell,
    unknown: Cell,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { started: Instant::now(), counts: Mutex::default() }
    }
}

impl Limiter {
    /// Admits one command of `principal`, or says how long to wait. No limit where there is no rate.
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit(
        &self,
        principal: &Arc<str>,
        rate: Option<Rate>,
        node: Option<Rate>,
        cooldown: Duration,
    ) -> Result<(), Duration> {
        if rate.is_none() && node.is_none() {
            return Ok(());
        }
        self.admit_at(principal, rate, node, cooldown, self.started.elapsed())
    }

    fn admit_at(
        &self,
        principal: &Arc<str>,
        rate: Option<Rate>,
        node: Option<Rate>,
        cooldown: Duration,
        now: Duration,
    ) -> Result<(), Duration> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = rate {
            counts.cell(principal, now).take(rate, cooldown, now)?;
        }
        // After the principal's own, so that one that is over its limit takes nothing away from the others.
        node.map_or(Ok(()), |rate| counts.node.take(rate, Duration::ZERO, now))
    }

    /// Refuses `principal` altogether for `time`, from now on.
    pub fn cool(&self, principal: &Arc<str>, time: Duration) {
        let now = self.started.elapsed();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Who shares a count must not suffer for another.
        if counts.has_room(principal, now) {
            let cell = counts.cell(principal, now);
            cell.cooling_until = cell.cooling_until.max(now + time);
        }
    }

    /// Admits one message of someone who is not known, or says how long to wait.
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit_unknown(&self, rate: Rate) -> Result<(), Duration> {
        let now = self.started.elapsed();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.unknown.take(rate, Duration::ZERO, now)
    }
}

impl Counts {
    /// Whether `principal` has a count of its own, or could.
    fn has_room(&mut self, principal: &Arc<str>, now: Duration) -> bool {
        if self.principals.contains_key(principal) {
            return true;
        }
        if self.principals.len() >= PRINCIPALS {
            self.principals.retain(|_, cell| !cell.is_idle(now));
        }
        self.principals.len() < PRINCIPALS
    }

    fn cell(&mut self, principal: &Arc<str>, now: Duration) -> &mut Cell {
        if self.has_room(principal, now) {
            self.principals.entry(principal.clone()).or_default()
        } else {
            &mut self.crowd
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_minute: 60, burst: 5 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_is_admitted_and_then_one_a_second() {
        let mut cell = Cell::default();
        let mut take = |millis| cell.take(RATE, Duration::ZERO, at(millis));
        for _ in 0..5 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(at(1_000)));
        assert_eq!(take(400), Err(at(600)), "the answer says when it is worth a try");
        assert_eq!(take(1_000), Ok(()));
        assert_eq!(take(1_000), Err(at(1_000)));
        for _ in 0..5 {
            assert_eq!(take(60_000), Ok(()), "the burst has come back");
        }
        assert!(take(60_000).is_err());
    }

    #[test]
    fn who_does_not_heed_the_limit_has_to_cool_down() {
        let mut cell = Cell::default();
        let mut refused = 0;
        while cell.take(RATE, at(30_000), at(0)) != Err(at(30_000)) {
            refused += 1;
            assert!(refused < 100);
        }
        assert_eq!(cell.take(RATE, at(30_000), at(20_000)), Err(at(10_000)), "although a second would do");
        assert_eq!(cell.take(RATE, at(30_000), at(30_000)), Ok(()));
    }

    #[test]
    fn another_rate_takes_nothing_away_that_was_left() {
        let slow = Rate { per_minute: 60, burst: 30 };
        for fast in [600, 6_000, 6_000_000] {
            let (fast, mut cell) = (Rate { per_minute: fast, ..slow }, Cell::default());
            for _ in 0..28 {
                assert_eq!(cell.take(slow, at(60_000), at(0)), Ok(()));
            }
            for _ in 0..2 {
                assert_eq!(cell.take(fast, at(60_000), at(0)), Ok(()), "{fast:?}");
            }
            assert_eq!(cell.take(fast, at(60_000), at(0)), Err(fast.interval()), "and no more, {fast:?}");
            assert_eq!(cell.take(fast, at(60_000), fast.interval()), Ok(()));
            // Back again.
            assert!(cell.take(slow, at(60_000), fast.interval()).is_err());
            assert_eq!(cell.take(slow, at(60_000), fast.interval() + at(1_001)), Ok(()));
        }
    }

    #[test]
    fn the_node_has_a_limit_of_its_own_and_the_map_is_bounded() {
        let limiter = Limiter::default();
        let node = Some(Rate { per_minute: 60, burst: 3 });
        for n in 0..3 {
            let who = Arc::from(format!("p{n}"));
            assert_eq!(limiter.admit_at(&who, Some(RATE), node, Duration::ZERO, at(0)), Ok(()));
        }
        assert!(limiter.admit_at(&Arc::from("p4"), Some(RATE), node, Duration::ZERO, at(0)).is_err());
        for n in 0..PRINCIPALS + 10 {
            let _ = limiter.admit_at(&Arc::from(format!("q{n}")), Some(RATE), None, Duration::ZERO, at(1));
        }
        assert!(limiter.counts.lock().unwrap().principals.len() <= PRINCIPALS);
        // Long after, all of them have been quiet and make room.
        limiter.admit_at(&Arc::from("new"), Some(RATE), None, Duration::ZERO, at(600_000)).unwrap();
        assert_eq!(limiter.counts.lock().unwrap().principals.len(), 1);
    }
}
