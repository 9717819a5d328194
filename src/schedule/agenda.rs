//! What is due when: the rules, without clock, ledger or tasks. Pure.
//!
//! A run never overlaps itself. What came due while the node was down, or while an earlier run went on, is made up by one
//! run, however often it was. While something is paused its times pass by. A clock that jumps ahead causes one run; one that
//! jumps back causes none twice, and where it had been far ahead, the next run is found anew.

use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::when::When;
use crate::wire::Code;

/// Missed times are counted up to here.
const MOST_MISSED: u32 = 1_000;

/// The next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The time as configured.
    pub slot: Timestamp,
    /// With its jitter.
    pub due: Timestamp,
}

/// The last run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub started: Timestamp,
    /// `None` while it goes on, or when it was cut off.
    pub finished: Option<Timestamp>,
    /// `ok`, or an error code.
    pub outcome: Option<String>,
    pub message: Option<String>,
    /// How many times it made up for.
    pub missed: u32,
}

/// How it stands with one entry; what the ledger keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub next: Option<Next>,
    /// Why, where it is paused.
    pub paused: Option<String>,
    pub last: Option<Run>,
    pub runs: u64,
    /// Failures in a row.
    pub failures: u32,
}

/// Something that recurs.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    pub when: When,
    /// What its next run was found for: the times, and whose clocks they are of.
    pub spec: String,
    /// Longest random delay in milliseconds.
    pub jitter: i64,
    pub state: State,
    pub running: bool,
    /// Somebody wants a run now.
    pub wanted: bool,
    /// When it was last looked at.
    seen: Option<Timestamp>,
}

impl Entry {
    /// As the ledger left it: a run that has not ended goes on until it is known to have been cut off.
    pub(super) fn new(name: &'static str, when: When, spec: String, jitter: i64, state: State) -> Self {
        let running = state.last.as_ref().is_some_and(|last| last.finished.is_none());
        Self { name, when, spec, jitter, state, running, wanted: false, seen: None }
    }

    /// A name for the present run that no other run has.
    pub(super) fn run_id(&self) -> String {
        let started = self.state.last.as_ref().map_or(0, |last| last.started.millis());
        format!("{}-{}-{started}", self.name, self.state.runs)
    }

    /// Finds the next run where there is none yet or the clock was wrong. Returns whether anything changed.
    pub(super) fn settle(
        &mut self,
        now: Timestamp,
        zone: &TimeZone,
        random: impl FnOnce(i64) -> i64,
    ) -> bool {
        let before = self.state.next;
        let went_on = self.seen.replace(now).is_some_and(|seen| seen <= now);
        let right = match before {
            None => false,
            // Times pass by while it is paused or runs.
            Some(next) if next.due <= now => !(self.state.paused.is_some() || self.running),
            Some(_) if went_on => true,
            // More than two runs ahead: it was found when the clock was ahead.
            Some(next) => self
                .when
                .next(now, zone)
                .and_then(|first| self.when.next(first, zone))
                .is_some_and(|second| next.slot <= second),
        };
        if !right {
            self.state.next = self.after(now, zone, random);
        }
        before != self.state.next
    }

    fn after(&self, now: Timestamp, zone: &TimeZone, random: impl FnOnce(i64) -> i64) -> Option<Next> {
        let slot = self.when.next(now, zone)?;
        Some(Next { slot, due: slot.plus_millis(random(self.jitter)) })
    }

    /// Whether a run begins at `now`.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let by_time = self.state.paused.is_none() && self.state.next.is_some_and(|next| next.due <= now);
        !self.running && (self.wanted || by_time)
    }

    /// Whether its time passed long ago: the node was down, or the clock jumped.
    pub(super) fn is_late(&self, now: Timestamp, grace: i64) -> bool {
        !self.wanted && self.state.next.is_some_and(|next| next.due.plus_millis(grace) <= now)
    }

    /// A run begins; the next one is found.
    pub(super) fn begin(&mut self, now: Timestamp, zone: &TimeZone, random: impl FnOnce(i64) -> i64) {
        let missed = self.missed(now, zone);
        if self.state.next.is_none_or(|next| next.due <= now) {
            self.state.next = self.after(now, zone, random);
        }
        self.state.last = Some(Run { started: now, finished: None, outcome: None, message: None, missed });
        self.state.runs += 1;
        (self.running, self.wanted) = (true, false);
    }

    /// Times that passed besides the one that this run is for.
    fn missed(&self, now: Timestamp, zone: &TimeZone) -> u32 {
        let Some(Next { mut slot, due }) = self.state.next else { return 0 };
        if due > now {
            return 0;
        }
        let mut missed = 0;
        while missed < MOST_MISSED
            && let Some(next) = self.when.next(slot, zone)
            && next <= now
        {
            (slot, missed) = (next, missed + 1);
        }
        missed
    }

    /// The run has ended; `None` for good, or an error code and what it says.
    pub(super) fn end(&mut self, now: Timestamp, failed: Option<(Code, String)>) {
        self.running = false;
        self.state.failures = if failed.is_some() { self.state.failures + 1 } else { 0 };
        if let Some(last) = &mut self.state.last {
            last.finished = Some(now);
            (last.outcome, last.message) = match failed {
                None => (Some("ok".to_owned()), None),
                Some((code, message)) => (Some(code.to_string()), Some(message)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn entry(when: &str, jitter: i64) -> Entry {
        Entry::new("task", when.parse().unwrap(), when.to_owned(), jitter, State::default())
    }

    /// Goes from `from` to `to`, from one event to the next: a run is due, or has ended after `takes`. When runs began.
    fn simulate(entry: &mut Entry, (from, to): (Timestamp, Timestamp), takes: i64) -> Vec<Timestamp> {
        let zone = berlin();
        let mut random = fastrand::Rng::with_seed(7);
        let mut began = Vec::new();
        let mut ends: Option<Timestamp> = None;
        let mut now = from;
        while now < to {
            if ends.take_if(|end| *end <= now).is_some() {
                entry.end(now, None);
            }
            entry.settle(now, &zone, |most| random.i64(0..=most));
            if entry.is_due(now) {
                assert!(ends.is_none(), "overlaps itself at {now}");
                entry.begin(now, &zone, |most| random.i64(0..=most));
                began.push(now);
                ends = Some(now.plus_millis(takes));
            }
            let due = entry.state.next.map(|next| next.due).filter(|due| *due > now);
            // What is due while it runs passes by when somebody looks then, as the schedule does.
            now = [ends, due].into_iter().flatten().min().unwrap_or(to);
        }
        began
    }

    /// The year 2028 in Berlin: a leap year, with both of its changes of the clock.
    #[test]
    fn a_leap_year_has_the_right_number_of_runs_and_none_overlaps() {
        let started = Instant::now();
        let year = (at("2027-12-31T22:55:00Z"), at("2028-12-31T23:00:00Z"));
        let run = |when: &str, jitter, takes| simulate(&mut entry(when, jitter), year, takes);
        for (when, jitter, takes, runs) in [
            ("30 2 * * *", 0, 2 * HOUR, 366),
            ("30 2 * * *", 10 * MINUTE, 2 * HOUR, 366),
            ("0 * * * *", 0, MINUTE, 366 * 24),
            ("0 3 * * SUN", 0, HOUR, 53),
            ("0 0 29 2 *", 0, HOUR, 1),
            ("0 5 L * *", 0, HOUR, 12),
            // Longer than the time to the next: each second one is left out.
            ("0 * * * *", 0, 90 * MINUTE, 366 * 12),
            ("every 6h", 0, HOUR, 366 * 4),
        ] {
            assert_eq!(run(when, jitter, takes).len(), runs, "{when}");
        }
        // Half past two is not there on the 26th of March, which makes it three, and twice on the 29th of October: one run each.
        let nightly = run("30 2 * * *", 0, MINUTE);
        let on = |from: &str, to: &str| {
            nightly.iter().filter(|time| (at(from)..at(to)).contains(time)).copied().collect::<Vec<_>>()
        };
        assert_eq!(on("2028-03-25T23:00:00Z", "2028-03-26T22:00:00Z"), [at("2028-03-26T01:00:00Z")]);
        assert_eq!(on("2028-10-28T22:00:00Z", "2028-10-29T23:00:00Z"), [at("2028-10-29T00:30:00Z")]);
        assert_eq!(run("0 0 29 2 *", 0, HOUR), [at("2028-02-28T23:00:00Z")]);
        // Several times a day, and a day when the clock skips or repeats two or three of them.
        for (when, runs, in_spring, in_autumn) in [
            ("30 2,3 * * *", 366 * 2, &["01:00", "01:30"][..], &["00:30", "02:30"][..]),
            ("0,30 2 * * *", 366 * 2 - 1, &["01:00"], &["00:00", "00:30"]),
            ("30 1-3 * * *", 366 * 3, &["00:30", "01:00", "01:30"], &["23:30", "00:30", "02:30"]),
            ("15 0,2,4 * * *", 366 * 3, &["23:15", "01:00", "02:15"], &["22:15", "00:15", "03:15"]),
            ("0 2,3 * * *", 366 * 2 - 1, &["01:00"], &["00:00", "02:00"]),
            // Each hour that there is: one less, and one more.
            ("30 * * * *", 366 * 24, &[], &[]),
            ("*/30 2 * * *", 366 * 2, &[], &[]),
        ] {
            let began = run(when, 0, MINUTE);
            assert_eq!(began.len(), runs, "{when}");
            let on = |from: &str, to: &str| {
                let day = began.iter().filter(|time| (at(from)..at(to)).contains(time));
                day.map(|time| time.to_string()[11..16].to_owned()).collect::<Vec<_>>()
            };
            if !in_spring.is_empty() {
                assert_eq!(on("2028-03-25T23:00:00Z", "2028-03-26T22:00:00Z"), in_spring, "{when}");
                assert_eq!(on("2028-10-28T22:00:00Z", "2028-10-29T23:00:00Z"), in_autumn, "{when}");
            }
        }
        // The time is that of the cron expressions, in a debug build; this is a guard, not a measurement.
        assert!(started.elapsed().as_secs_f64() < 10.0, "a year took {:?}", started.elapsed());
    }

    #[test]
    fn what_was_missed_is_made_up_by_one_run() {
        let zone = berlin();
        let mut daily = entry("0 3 * * *", 0);
        daily.settle(at("2026-01-01T12:00:00Z"), &zone, |_| 0);
        // Down for ten days.
        let now = at("2026-01-11T12:00:00Z");
        daily.settle(now, &zone, |_| 0);
        assert!(daily.is_due(now) && daily.is_late(now, HOUR));
        daily.begin(now, &zone, |_| 0);
        assert_eq!(daily.state.last.as_ref().unwrap().missed, 9);
        daily.end(now, None);
        daily.settle(now, &zone, |_| 0);
        assert!(!daily.is_due(now));
        assert_eq!(daily.state.next.unwrap().slot, at("2026-01-12T02:00:00Z"));
    }

    #[test]
    fn a_clock_that_jumps_back_repeats_nothing_and_one_that_was_far_ahead_is_forgotten() {
        let zone = berlin();
        let mut daily = entry("0 3 * * *", 0);
        let run = |entry: &mut Entry, now: Timestamp| {
            entry.settle(now, &zone, |_| 0);
            let due = entry.is_due(now);
            if due {
                entry.begin(now, &zone, |_| 0);
                entry.end(now, None);
            }
            due
        };
        assert!(!run(&mut daily, at("2026-01-01T01:59:00Z")));
        assert!(run(&mut daily, at("2026-01-01T02:00:00Z")));
        // An hour back: three o'clock comes again, and its run has been.
        assert!(!run(&mut daily, at("2026-01-01T01:05:00Z")));
        assert!(!run(&mut daily, at("2026-01-01T02:00:00Z")));
        // A year ahead: one run. And back.
        assert!(run(&mut daily, at("2027-01-01T12:00:00Z")));
        assert!(!run(&mut daily, at("2026-01-01T12:00:00Z")));
        assert_eq!(daily.state.next.unwrap().slot, at("2026-01-02T02:00:00Z"));
        assert!(run(&mut daily, at("2026-01-02T02:00:00Z")));
    }

    #[test]
    fn while_it_is_paused_times_pass_by_and_a_run_that_is_wanted_happens_once() {
        let zone = berlin();
        let mut hourly = entry("every 1h", 0);
        let start = at("2026-01-01T00:00:00Z");
        hourly.settle(start, &zone, |_| 0);
        hourly.state.paused = Some("by hand".to_owned());
        let later = start.plus_millis(DAY);
        assert!(hourly.settle(later, &zone, |_| 0) && !hourly.is_due(later));
        hourly.state.paused = None;
        assert!(!hourly.is_due(later), "nothing is made up for a pause");
        hourly.wanted = true;
        assert!(hourly.is_due(later));
        hourly.begin(later, &zone, |_| 0);
        hourly.wanted = true;
        assert!(!hourly.is_due(later), "it runs");
        hourly.wanted = false;
        hourly.end(later, Some((Code::Busy, "no".to_owned())));
        assert_eq!((hourly.state.failures, hourly.state.runs), (1, 1));
        assert!(!hourly.is_due(later));
    }

    #[test]
    fn jitter_delays_a_run_and_shifts_no_later_one() {
        let zone = berlin();
        let mut daily = entry("0 3 * * *", HOUR);
        daily.settle(at("2026-01-01T00:00:00Z"), &zone, |most| most / 2);
        let next = daily.state.next.unwrap();
        assert_eq!(next.due, at("2026-01-01T02:30:00Z"));
        assert!(!daily.is_due(at("2026-01-01T02:29:59Z")));
        daily.begin(next.due, &zone, |_| 0);
        assert_eq!(daily.state.next.unwrap().due, at("2026-01-02T02:00:00Z"));
    }
}
