//! Which backups are kept. Pure.
//!
//! The newest of each of the last days, weeks, months and years that have any is kept, as restic does; and whatever is told,
//! the newest few.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::hash::Hash;

use jiff::tz::TimeZone;
use jiff::{Timestamp as Instant, Zoned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::vault::Snapshot;
use crate::clock::Timestamp;

/// How many are kept of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Keep {
    /// The newest.
    pub last: u32,
    /// Days, the newest of each.
    pub daily: u32,
    /// ISO weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// Everything younger than so many days, seen from the newest.
    pub within_days: u32,
    /// The newest that are kept whatever stands above; at least 1.
    pub floor: u32,
}

/// The ids of those that are not kept at `now`, the oldest first. `snapshots` are those of one node.
#[must_use]
pub fn superfluous(snapshots: &[Snapshot], keep: &Keep, zone: &TimeZone, now: Timestamp) -> Vec<String> {
    let mut newest_first: Vec<&Snapshot> = snapshots.iter().collect();
    newest_first.sort_by_cached_key(|snapshot| Reverse(snapshot.age(now)));
    let Some(newest) = newest_first.first().map(|snapshot| snapshot.time) else { return Vec::new() };
    let within = newest.plus_millis(-i64::from(keep.within_days) * 86_400_000);
    let mut days = Buckets::new(keep.daily);
    let mut weeks = Buckets::new(keep.weekly);
    let mut months = Buckets::new(keep.monthly);
    let mut years = Buckets::new(keep.yearly);
    let mut gone = Vec::new();
    for (place, snapshot) in newest_first.iter().enumerate() {
        let at = calendar(snapshot.time, zone);
        let week = at.date().iso_week_date();
        // Each bucket sees each snapshot, whatever the others say.
        let kept = [
            place < keep.last.max(keep.floor).max(1) as usize,
            keep.within_days > 0 && snapshot.time > within,
            days.takes(at.date()),
            weeks.takes((week.year(), week.week())),
            months.takes((at.year(), at.month())),
            years.takes(at.year()),
        ];
        if !kept.contains(&true) {
            gone.push(snapshot.id.clone());
        }
    }
    gone.reverse();
    gone
}

fn calendar(time: Timestamp, zone: &TimeZone) -> Zoned {
    let instant = Instant::from_millisecond(time.millis()).unwrap_or(Instant::UNIX_EPOCH);
    Zoned::new(instant, zone.clone())
}

/// The first of each bucket, until there are enough buckets.
struct Buckets<T> {
    most: u32,
    seen: HashSet<T>,
}

impl<T: Hash + Eq> Buckets<T> {
    fn new(most: u32) -> Self {
        Self { most, seen: HashSet::new() }
    }

    fn takes(&mut self, bucket: T) -> bool {
        self.seen.len() < self.most as usize && self.seen.insert(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Snapshot {
        let time = Timestamp::parse(text).unwrap();
        Snapshot {
            id: text.to_owned(),
            time,
            node: "n".to_owned(),
            tags: Vec::new(),
            bytes: None,
            added: None,
        }
    }

    /// One each six hours, `days` days long, from the first of January 2028.
    fn many(days: i64) -> Vec<Snapshot> {
        let start = Timestamp::parse("2028-01-01T03:00:00Z").unwrap();
        (0..days * 4).map(|n| at(&start.plus_millis(n * 6 * 3_600_000).to_string())).collect()
    }

    fn kept(snapshots: &[Snapshot], keep: &Keep) -> Vec<String> {
        let gone =
            superfluous(snapshots, keep, &TimeZone::UTC, Timestamp::parse("2029-01-01T00:00:00Z").unwrap());
        let left = snapshots.iter().filter(|snapshot| !gone.contains(&snapshot.id));
        left.map(|snapshot| snapshot.id[..13].to_owned()).collect()
    }

    #[test]
    fn of_each_day_week_month_and_year_the_newest_is_kept() {
        let year = many(366);
        let none = Keep { floor: 1, ..Keep::default() };
        assert_eq!(kept(&year, &none), ["2028-12-31T21"]);
        assert_eq!(
            kept(&year, &Keep { daily: 3, ..none.clone() }),
            ["2028-12-29T21", "2028-12-30T21", "2028-12-31T21"]
        );
        // 2028-12-31 is a Sunday, the end of its week.
        assert_eq!(kept(&year, &Keep { weekly: 2, ..none.clone() }), ["2028-12-24T21", "2028-12-31T21"]);
        assert_eq!(
            kept(&year, &Keep { monthly: 12, ..none.clone() })[..3],
            ["2028-01-31T21", "2028-02-29T21", "2028-03-31T21"]
        );
        assert_eq!(kept(&year, &Keep { yearly: 5, ..none.clone() }), ["2028-12-31T21"]);
        assert_eq!(kept(&year, &Keep { within_days: 1, ..none.clone() }).len(), 4);
        assert_eq!(kept(&year, &Keep { last: 7, ..none }).len(), 7);
    }

    #[test]
    fn the_floor_is_never_removed_and_nothing_is_asked_for_twice() {
        let few = many(1);
        assert_eq!(kept(&few, &Keep { floor: 3, ..Keep::default() }).len(), 3);
        assert_eq!(kept(&few, &Keep { floor: 100, ..Keep::default() }).len(), 4);
        assert_eq!(kept(&few, &Keep::default()).len(), 1, "the newest stays whatever is configured");
        assert!(kept(&[], &Keep::default()).is_empty());
    }

    #[test]
    fn a_backup_of_a_clock_that_was_ahead_is_not_the_newest() {
        let all = [at("2028-12-30T03:00:00Z"), at("2028-12-31T03:00:00Z"), at("2030-06-01T03:00:00Z")];
        let one = Keep { last: 1, floor: 1, ..Keep::default() };
        assert_eq!(kept(&all, &one), ["2028-12-31T03"]);
        assert_eq!(kept(&all, &Keep { floor: 2, ..one.clone() }), ["2028-12-30T03", "2028-12-31T03"]);
        // A little ahead is what clocks are.
        assert_eq!(kept(&[all[1].clone(), at("2029-01-01T00:05:00Z")], &one), ["2029-01-01T00"]);
    }

    #[test]
    fn gaps_do_not_use_up_what_is_kept() {
        let sparse = [at("2028-01-01T03:00:00Z"), at("2028-03-01T03:00:00Z"), at("2028-03-09T03:00:00Z")];
        let keep = Keep { daily: 3, floor: 1, ..Keep::default() };
        assert_eq!(kept(&sparse, &keep).len(), 3);
    }
}
