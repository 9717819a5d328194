//! How the index is cut: one shard for each layer and month (UTC) of creation.

use std::fmt;
use std::path::{Path, PathBuf};

use time::{Date, Month, PrimitiveDateTime, Time};

use crate::clock::Timestamp;
use crate::memory::model::Layer;

/// A layer's month. Displayed as `short_term/2026-11`, which is also its folder under the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// The layer.
    pub layer: Layer,
    /// Months since January of year 0: `year * 12 + month - 1`.
    month: i32,
}

impl Shard {
    /// The shard that a record of `layer` made at `created` belongs to.
    #[must_use]
    pub fn of(layer: Layer, created: Timestamp) -> Self {
        let date = created.to_datetime();
        Self { layer, month: date.year() * 12 + i32::from(u8::from(date.month())) - 1 }
    }

    /// The shard that is written `layer` and `yyyy-mm`; [`None`] when the month is not one.
    #[must_use]
    pub fn parse(layer: Layer, month: &str) -> Option<Self> {
        let (year, month) = month.rsplit_once('-')?;
        let (year, month) = (year.parse::<i32>().ok()?, month.parse::<i32>().ok()?);
        ((1..=12).contains(&month) && (-9_999..=9_999).contains(&year))
            .then_some(Self { layer, month: year * 12 + month - 1 })
    }

    /// The month as `yyyy-mm`.
    #[must_use]
    pub fn month(&self) -> String {
        format!("{:04}-{:02}", self.month.div_euclid(12), self.month.rem_euclid(12) + 1)
    }

    /// Its first moment, and the first of the next month.
    #[must_use]
    pub fn span(&self) -> (Timestamp, Timestamp) {
        (first_moment(self.month), first_moment(self.month + 1))
    }

    /// Whether it may hold records created in `from..to`.
    #[must_use]
    pub fn overlaps(&self, from: Option<Timestamp>, to: Option<Timestamp>) -> bool {
        let (start, end) = self.span();
        from.is_none_or(|from| from < end) && to.is_none_or(|to| to > start)
    }

    /// Its folder under the index folder.
    #[must_use]
    pub fn folder(&self, index: &Path) -> PathBuf {
        index.join(self.layer.as_str()).join(self.month())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.layer.as_str(), self.month())
    }
}

fn first_moment(month: i32) -> Timestamp {
    let number = u8::try_from(month.rem_euclid(12) + 1).unwrap_or(1);
    let date = Month::try_from(number)
        .and_then(|name| Date::from_calendar_date(month.div_euclid(12), name, 1))
        // Only the month after December 9999, the last that a date can name.
        .unwrap_or(Date::MAX);
    let seconds = PrimitiveDateTime::new(date, Time::MIDNIGHT).assume_utc().unix_timestamp();
    Timestamp::from_millis(seconds.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_month_begins_at_its_first_midnight_and_ends_at_the_next() {
        for (moment, month) in [
            ("2026-10-31T23:59:59.999Z", "2026-10"),
            ("2026-11-01T00:00:00Z", "2026-11"),
            ("2026-12-31T23:59:59.999Z", "2026-12"),
            ("2027-01-01T00:00:00Z", "2027-01"),
            ("2028-02-29T12:00:00Z", "2028-02"),
            ("1969-12-31T23:59:59.999Z", "1969-12"),
        ] {
            let shard = Shard::of(Layer::Working, at(moment));
            assert_eq!(shard.month(), month);
            assert_eq!(Shard::parse(Layer::Working, month), Some(shard));
            let (start, end) = shard.span();
            assert!(start <= at(moment) && at(moment) < end);
            assert_eq!(Shard::of(Layer::Working, start), shard);
            assert_ne!(Shard::of(Layer::Working, end), shard);
        }
        assert_eq!(Shard::parse(Layer::Working, "2026-13"), None);
        assert_eq!(Shard::parse(Layer::Working, "lately"), None);
    }

    #[test]
    fn only_months_that_a_range_reaches_overlap_with_it() {
        let november = Shard::of(Layer::Working, at("2026-11-15T00:00:00Z"));
        let cases = [
            (None, None, true),
            (Some("2026-12-01T00:00:00Z"), None, false),
            (Some("2026-11-30T23:59:59.999Z"), None, true),
            (None, Some("2026-11-01T00:00:00Z"), false),
            (None, Some("2026-11-01T00:00:00.001Z"), true),
        ];
        for (from, to, expected) in cases {
            assert_eq!(november.overlaps(from.map(at), to.map(at)), expected, "{from:?} {to:?}");
        }
    }
}
