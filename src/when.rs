//! Times that recur: an interval, or a cron expression in a time zone. Pure.
//!
//! A cron expression follows the wall clock as Vixie cron does: a run at a fixed time that the clock skips happens right
//! after the gap, one that the clock repeats happens once, also of lists and ranges; expressions with `*` or steps in minutes
//! or hours run in each hour that there is. An interval is of elapsed time and knows nothing of the wall clock.

use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp as Instant, Zoned};

use crate::clock::Timestamp;

/// Milliseconds of the units that an interval may be written in.
const UNITS: [(&str, i64); 4] = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Longest interval: a leap year.
const LONGEST: i64 = 366 * 86_400_000;

/// When something is due, again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct When {
    text: String,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Never,
    /// Milliseconds.
    Every(i64),
    Cron {
        cron: Box<Cron>,
        /// Minutes and hours are named, one by one or as a range.
        fixed: bool,
    },
}

impl When {
    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it goes by the wall clock.
    #[must_use]
    pub const fn is_by_the_clock(&self) -> bool {
        matches!(self.rule, Rule::Cron { .. })
    }

    /// Whether there is no such time.
    #[must_use]
    pub const fn is_never(&self) -> bool {
        matches!(self.rule, Rule::Never)
    }

    /// The first time after `after`, by the clocks of `zone`. `None` when there is none.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.rule {
            Rule::Never => None,
            Rule::Every(millis) => Some(after.plus_millis(*millis)),
            Rule::Cron { cron, fixed: true } => next_fixed(cron, after, zone),
            Rule::Cron { cron, .. } => {
                let after = Zoned::new(Instant::from_millisecond(after.millis()).ok()?, zone.clone());
                let next = cron.find_next_occurrence(&after, false).ok()?;
                Some(Timestamp::from_millis(next.timestamp().as_millisecond()))
            }
        }
    }

    /// About the longest time from one run to the next, in milliseconds: that of the next ten.
    #[must_use]
    pub fn period(&self) -> Option<i64> {
        let mut at = self.next(Timestamp::from_millis(0), &TimeZone::UTC)?;
        let gaps = (0..10).map_while(|_| {
            let next = self.next(at, &TimeZone::UTC)?;
            Some(next.millis() - std::mem::replace(&mut at, next).millis())
        });
        gaps.max()
    }
}

/// The first time after `after` of an expression whose minutes and hours are named. Each of its times by the wall clock is one
/// run: the clock may show it twice, of which the first counts, or not at all, which makes it the end of the gap.
fn next_fixed(cron: &Cron, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let after = Instant::from_millisecond(after.millis()).ok()?;
    let mut wall = zone.to_datetime(after);
    loop {
        // A clock that neither skips nor repeats anything.
        let found = cron.find_next_occurrence(&wall.to_zoned(TimeZone::UTC).ok()?, false).ok()?;
        wall = found.datetime();
        let times = zone.to_ambiguous_timestamp(wall);
        let time = match times.offset() {
            AmbiguousOffset::Unambiguous { .. } => times.compatible().ok()?,
            AmbiguousOffset::Fold { .. } => times.earlier().ok()?,
            AmbiguousOffset::Gap { .. } => {
                let before = times.earlier().ok()?;
                zone.following(before).next()?.timestamp()
            }
        };
        // The second time that the clock shows it.
        if time > after {
            return Some(Timestamp::from_millis(time.as_millisecond()));
        }
    }
}

impl FromStr for When {
    type Err = String;

    /// Reads `every 6h` (s, m, h, d), five fields of cron, `@daily` and its like, or nothing for never.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let rule = if text.is_empty() {
            Rule::Never
        } else if let Some(interval) = text.strip_prefix("every ") {
            Rule::Every(millis(interval.trim())?)
        } else {
            let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
            let cron = parser.parse(text).map_err(|_| FORM.to_owned())?;
            // `@daily` and its like are fixed but for `@hourly`, which is a wildcard.
            let mut fields = text.split_whitespace().take(2);
            let fixed =
                !text.eq_ignore_ascii_case("@hourly") && !fields.any(|field| field.contains(['*', '/', '?']));
            Rule::Cron { cron: Box::new(cron), fixed }
        };
        let when = Self { text: text.to_owned(), rule };
        if !when.is_never() && when.next(Timestamp::from_millis(0), &TimeZone::UTC).is_none() {
            return Err("name a time that comes at all: this one is never".to_owned());
        }
        Ok(when)
    }
}

const FORM: &str = "write `every 6h` (s, m, h, d), or five fields of cron such as `0 3 * * *`";

fn millis(text: &str) -> Result<i64, String> {
    let unit = UNITS.iter().find_map(|(unit, millis)| Some((text.strip_suffix(unit)?, millis)));
    let (number, unit) = unit.ok_or(FORM)?;
    let number: i64 = number.trim().parse().map_err(|_| FORM)?;
    let millis = number.checked_mul(*unit).filter(|millis| (1_000..=LONGEST).contains(millis));
    millis.ok_or_else(|| "choose an interval from 1 s to 366 days".to_owned())
}

/// The time zone called `name`: `UTC`, `system`, or a name of the time zone database such as `Europe/Berlin`.
///
/// # Errors
/// What would be right, when this machine knows no such zone.
pub fn zone(name: &str) -> Result<TimeZone, String> {
    match name {
        "UTC" => Ok(TimeZone::UTC),
        "system" => Ok(TimeZone::system()),
        name => TimeZone::get(name).map_err(|_| {
            "write `UTC`, `system`, or a zone that this machine knows, such as `Europe/Berlin`".to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe, without the machine's database.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn next(text: &str, after: &str, zone: &TimeZone) -> String {
        let when: When = text.parse().unwrap();
        when.next(Timestamp::parse(after).unwrap(), zone).unwrap().to_string()
    }

    #[test]
    fn what_is_written_is_understood_or_refused() {
        for (text, after, due) in [
            ("every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30.000Z"),
            ("every 2 d", "2026-01-31T12:00:00.5Z", "2026-02-02T12:00:00.500Z"),
            ("0 3 * * *", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00.000Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00.000Z"),
            ("*/15 * * * *", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00.000Z"),
            ("30 4 * * SUN", "2026-11-21T07:00:00Z", "2026-11-22T04:30:00.000Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00.000Z"),
            ("0 0 L * *", "2028-02-01T00:00:00Z", "2028-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(next(text, after, &TimeZone::UTC), due, "{text}");
        }
        assert!("".parse::<When>().unwrap().is_never());
        for bad in [
            "every",
            "every 0s",
            "every 5",
            "every 400d",
            "every -1h",
            "3 o'clock",
            "* * * *",
            "0 0 3 * * *",
            "61 * * * *",
            "0 0 30 2 *",
        ] {
            assert!(bad.parse::<When>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_run_at_a_time_that_the_clock_skips_happens_after_the_gap_and_one_that_it_repeats_happens_once() {
        let zone = berlin();
        // 2026-03-29 02:00 CET becomes 03:00 CEST, which is 01:00 UTC.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", &zone), "2026-03-29T01:00:00.000Z");
        assert_eq!(next("30 2 * * *", "2026-03-29T01:00:00Z", &zone), "2026-03-30T00:30:00.000Z");
        // 2026-10-25 03:00 CEST becomes 02:00 CET: half past two comes twice, at 00:30 and 01:30 UTC.
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00Z", &zone), "2026-10-25T00:30:00.000Z");
        assert_eq!(next("30 2 * * *", "2026-10-25T00:30:00Z", &zone), "2026-10-26T01:30:00.000Z");
        // Each hour that there is.
        assert_eq!(next("0 * * * *", "2026-10-25T00:00:00Z", &zone), "2026-10-25T01:00:00.000Z");
        assert_eq!(next("0 * * * *", "2026-03-29T00:00:00Z", &zone), "2026-03-29T01:00:00.000Z");
    }
}
