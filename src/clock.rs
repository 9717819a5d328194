//! Wall-clock time as the project writes it, and where it comes from.
//!
//! A [`Clock`] is passed in wherever a decision depends on the date, so that tests own time. Durations and
//! deadlines use the monotonic [`std::time::Instant`] instead and never come from here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time: milliseconds since the Unix epoch, UTC. Written as RFC 3339 everywhere outside the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This point plus `millis` (may be negative); saturates instead of overflowing.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The calendar date and time in UTC; what lies outside the years −9999 to 9999 is clamped to the epoch.
    #[must_use]
    pub fn to_datetime(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Reads RFC 3339, with any offset.
    ///
    /// # Errors
    /// When `text` is not a date and time with an offset.
    pub fn parse(text: &str) -> Result<Self, time::error::Parse> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339)?;
        // A year has at most 3.2e10 seconds times 1e3: the quotient fits an i64 for every year that parses.
        Ok(Self((parsed.unix_timestamp_nanos() / 1_000_000) as i64))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.to_datetime();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|_| serde::de::Error::custom("expected a date and time as in RFC 3339"))
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time", "description": "RFC 3339, UTC" })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Where the date comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The clock of the machine.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            let since_epoch =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// A clock that asks `now`; for tests.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What systemd-timesyncd leaves once it has set the clock.
const SET_BY_TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// Whether the machine's clock is known to be right: systemd-timesyncd, or the kernel's time discipline, says so. `false` also
/// where neither can be asked: the systemd unit forbids the second, because with the same call a clock can be set.
#[must_use]
pub fn is_synchronized() -> bool {
    is_set(Path::new(SET_BY_TIMESYNCD)) || is_disciplined()
}

/// Whether there is a mark that the clock has been set.
fn is_set(mark: &Path) -> bool {
    mark.exists()
}

fn is_disciplined() -> bool {
    // SAFETY: all fields are integers, for which zero is a value; with `modes` zero nothing is changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the time of the call.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    answer != -1 && answer != libc::TIME_ERROR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_timesyncd_has_set_is_known_to_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("synchronized");
        assert!(!is_set(&mark));
        std::fs::write(&mark, "").unwrap();
        assert!(is_set(&mark));
    }

    #[test]
    fn rfc_3339_survives_a_round_trip_and_keeps_milliseconds() {
        for text in ["2026-11-21T00:36:14.125Z", "1969-12-31T23:59:59.999Z", "2000-02-29T12:00:00.000Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Timestamp::parse("2026-01-01T01:00:00+01:00").unwrap().to_string(),
            "2026-01-01T00:00:00.000Z"
        );
        assert!(Timestamp::parse("yesterday").is_err());
    }
}
