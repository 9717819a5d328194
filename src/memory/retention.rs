//! How long memories are kept, what they are worth, and when a pruning is too much to be done unasked.
//!
//! Pure: what is to be removed is a function of the configuration, the date and what is there.

use std::time::Duration;

use super::index::ShardState;
use super::model::{Layer, Record};
use crate::clock::Timestamp;

/// Records that a layer may lose unasked whatever its share of them is.
const VERY_FEW: u64 = 3;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// How long one layer keeps records, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Days since creation; 0 is for ever.
    pub days: u32,
    /// Bytes of contents and index; 0 is without limit.
    pub max_bytes: u64,
}

/// How memory is kept within bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// For each of [`Layer::ALL`], in that order.
    pub layers: [Keep; 5],
    /// Days until what was forgotten is purged.
    pub forgotten_days: u32,
    /// Days that an old version is kept after its replacement; 0 keeps none.
    pub history_days: u32,
    /// Time from one pruning to the next; [`None`] for none unasked.
    pub interval: Option<Duration>,
    /// Share of all records, in [0, 1], above which a run waits for a confirmation.
    pub max_share: f64,
    /// Removing no more records than this is never too much, as long as pruning runs when it should.
    pub max_share_floor: u64,
    /// Decayed importance from which a record is promoted before it expires.
    pub promote_importance: f64,
    /// Recalls from which it is; 0 for never.
    pub promote_accesses: u64,
    /// Days in which importance decays to one half; 0 for no decay.
    pub half_life_days: f64,
}

impl Default for Retention {
    fn default() -> Self {
        let keep = |days| Keep { days, max_bytes: 1_024 << 20 };
        Self {
            layers: [7, 365, 30, 730, 0].map(keep),
            forgotten_days: 7,
            history_days: 30,
            interval: Some(Duration::from_secs(3_600)),
            max_share: 0.5,
            max_share_floor: 100,
            promote_importance: 0.6,
            promote_accesses: 3,
            half_life_days: 30.0,
        }
    }
}

impl Retention {
    /// What is kept of `layer`.
    #[must_use]
    pub fn of(&self, layer: Layer) -> Keep {
        // The order of the layers is that of their declaration.
        self.layers[layer as usize]
    }

    /// Records of `layer` created before this are too old at `now`; [`None`] when none ever is.
    #[must_use]
    pub fn cutoff(&self, layer: Layer, now: Timestamp) -> Option<Timestamp> {
        let days = self.of(layer).days;
        (days > 0).then(|| now.plus_millis(-i64::from(days) * DAY_MS))
    }

    /// Importance as it has decayed at `now`: `i · 2^(−t / half-life)`, with `t` the time since the record was last written
    /// or recalled. A function of time alone: asking often changes nothing.
    #[must_use]
    pub fn decayed(&self, record: &Record, now: Timestamp) -> f64 {
        if self.half_life_days <= 0.0 {
            return record.importance;
        }
        let touched =
            [record.updated, record.last_access].into_iter().flatten().fold(record.created, Ord::max);
        let days = now.millis().saturating_sub(touched.millis()).max(0) as f64 / DAY_MS as f64;
        record.importance * (-days / self.half_life_days).exp2()
    }

    /// Whether a record of `short_term` is to be promoted, should it expire by `horizon`: because it matters, or is often
    /// recalled. What is pinned stays where it is, and what has an end of its own keeps that.
    #[must_use]
    pub fn promotes(&self, record: &Record, now: Timestamp, horizon: Duration) -> bool {
        let horizon = i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX);
        let due = self.cutoff(Layer::ShortTerm, now.plus_millis(horizon));
        record.layer == Layer::ShortTerm
            && !record.pinned
            && record.expires.is_none()
            && due.is_some_and(|due| record.created < due)
            && (self.decayed(record, now) >= self.promote_importance
                || self.promote_accesses > 0 && record.accesses >= self.promote_accesses)
    }

    /// How far ahead a promotion looks: twice the time to the next run, and at least a day, so that none comes too late.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        let day = Duration::from_secs(86_400);
        self.interval.map_or(day, |interval| (interval * 2).max(day))
    }

    /// Whether losing `lost` of `held` is too much to be done unasked. A small number never is as long as pruning runs when it
    /// should: what was forgotten, and old versions, have then had the time that they were promised.
    ///
    /// When the last run is further back than runs are apart the clock may have jumped, so that no number is small, and
    /// whatever can be lost counts.
    #[must_use]
    pub fn is_too_much(
        &self,
        lost: &Holdings,
        held: &Holdings,
        last: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        if self.is_regular(last, now) {
            lost.records > self.max_share_floor && self.is_over(lost.records, held.records)
        } else {
            self.is_over(lost.records, held.records) || self.is_over(lost.all(), held.all())
        }
    }

    /// Whether a run that is not regular empties a layer: the share is then that of each layer, since a small one would not be
    /// noticed among all records. A very small one is not worth a person's time whenever a node was off for some days.
    #[must_use]
    pub fn empties_a_layer(
        &self,
        layers: impl IntoIterator<Item = (u64, u64)>,
        last: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let over = |(removed, present)| removed > VERY_FEW && self.is_over(removed, present);
        !self.is_regular(last, now) && layers.into_iter().any(over)
    }

    /// The time by which what was forgotten, and old versions, are to be due: `now`, as long as pruning runs when it should.
    /// Else that of the last run: should the clock have jumped, what has become due since can still be brought back, and the
    /// next run takes it.
    #[must_use]
    pub fn believed(&self, last: Option<Timestamp>, now: Timestamp) -> Timestamp {
        if self.is_regular(last, now) { now } else { last.unwrap_or(Timestamp::from_millis(0)) }
    }

    /// Whether the last run is no further back than runs are apart.
    fn is_regular(&self, last: Option<Timestamp>, now: Timestamp) -> bool {
        let apart = i64::try_from(self.horizon().as_millis()).unwrap_or(i64::MAX);
        last.is_some_and(|last| now.millis().saturating_sub(last.millis()) <= apart)
    }

    fn is_over(&self, lost: u64, held: u64) -> bool {
        lost as f64 > self.max_share * held as f64
    }
}

/// What memory holds, or a run would take from it, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Records that are not forgotten.
    pub records: u64,
    /// Forgotten records.
    pub forgotten: u64,
    /// Old versions.
    pub versions: u64,
}

impl Holdings {
    const fn all(&self) -> u64 {
        self.records.saturating_add(self.forgotten).saturating_add(self.versions)
    }
}

/// What is to be removed of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of it.
    Drop,
    /// What was created before this and is not pinned.
    Before(Timestamp),
}

/// The step for a shard when everything created before `cutoff` has to go; [`None`] when nothing in it can be older.
#[must_use]
pub fn step(state: &ShardState, cutoff: Timestamp) -> Option<Step> {
    let (start, end) = state.shard.span();
    if state.records == 0 && state.forgotten == 0 && !state.dropping || start >= cutoff {
        None
    } else if end <= cutoff && state.pinned == 0 {
        Some(Step::Drop)
    } else {
        Some(Step::Before(cutoff))
    }
}

/// How many bytes of contents have to go, oldest first, so that contents and index fit into `max_bytes`. The index shrinks
/// in proportion.
#[must_use]
pub fn excess(max_bytes: u64, content_bytes: u64, index_bytes: u64) -> u64 {
    let size = content_bytes.saturating_add(index_bytes);
    if max_bytes == 0 || size <= max_bytes || size == 0 {
        return 0;
    }
    let left = u128::from(content_bytes) * u128::from(max_bytes) / u128::from(size);
    content_bytes - u64::try_from(left).unwrap_or(content_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::index::Shard;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn record(json: serde_json::Value) -> Record {
        let mut whole = serde_json::json!({
            "id": "a", "layer": "short_term", "content": "c", "importance": 0.8, "created": "2026-11-01T00:00:00Z",
            "checksum": "x",
        });
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn importance_halves_with_each_half_life_since_the_record_was_touched() {
        let retention = Retention::default();
        let plain = record(serde_json::json!({}));
        assert!((retention.decayed(&plain, at("2026-11-01T00:00:00Z")) - 0.8).abs() < 1e-12);
        assert!((retention.decayed(&plain, at("2026-12-01T00:00:00Z")) - 0.4).abs() < 1e-12);
        assert!(
            (retention.decayed(&plain, at("2026-10-01T00:00:00Z")) - 0.8).abs() < 1e-12,
            "no rise before"
        );
        let recalled = record(serde_json::json!({ "last_access": "2026-12-01T00:00:00Z" }));
        assert!((retention.decayed(&recalled, at("2026-12-31T00:00:00Z")) - 0.4).abs() < 1e-12);
        let still = Retention { half_life_days: 0.0, ..retention };
        assert!((still.decayed(&plain, at("2030-01-01T00:00:00Z")) - 0.8).abs() < 1e-12);
    }

    #[test]
    fn what_matters_or_is_recalled_is_promoted_when_it_would_expire_soon() {
        let retention = Retention::default();
        let horizon = retention.horizon();
        let promotes = |json, now| retention.promotes(&record(json), at(now), horizon);
        let soon = "2026-11-07T00:00:01Z";
        assert!(promotes(serde_json::json!({}), soon));
        assert!(
            promotes(serde_json::json!({}), "2026-11-20T00:00:00Z")
                == (0.8 * (-19.0f64 / 30.0).exp2() >= 0.6)
        );
        assert!(!promotes(serde_json::json!({}), "2026-11-06T00:00:00Z"), "there is time");
        assert!(!promotes(serde_json::json!({ "importance": 0.5 }), soon));
        assert!(promotes(serde_json::json!({ "importance": 0.1, "accesses": 3 }), soon));
        assert!(!promotes(serde_json::json!({ "importance": 0.1, "accesses": 2 }), soon));
        assert!(!promotes(serde_json::json!({ "layer": "working" }), soon));
        assert!(!promotes(serde_json::json!({ "pinned": true }), soon));
        assert!(!promotes(serde_json::json!({ "expires": "2026-12-01T00:00:00Z" }), soon));
    }

    #[test]
    fn a_month_is_dropped_only_when_all_of_it_is_too_old_and_nothing_in_it_is_pinned() {
        let shard = Shard::parse(Layer::Working, "2026-10").unwrap();
        let state = ShardState {
            shard,
            records: 5,
            content_bytes: 5,
            changed: 5,
            settled: 0,
            forgotten: 0,
            pinned: 0,
            dropping: false,
            purged: 0,
            compacted: 0,
            row: 1,
        };
        let (start, end) = shard.span();
        assert_eq!(step(&state, start), None);
        assert_eq!(step(&state, start.plus_millis(1)), Some(Step::Before(start.plus_millis(1))));
        assert_eq!(step(&state, end.plus_millis(-1)), Some(Step::Before(end.plus_millis(-1))));
        assert_eq!(step(&state, end), Some(Step::Drop));
        assert_eq!(step(&ShardState { pinned: 1, ..state }, end), Some(Step::Before(end)));
        assert_eq!(step(&ShardState { records: 0, ..state }, end), None);
    }

    #[test]
    fn cutoffs_follow_the_days_of_each_layer_and_zero_is_for_ever() {
        let retention = Retention::default();
        let now = at("2026-11-21T00:00:00Z");
        let expected = [
            (Layer::ShortTerm, Some("2026-11-14T00:00:00Z")),
            (Layer::LongTerm, Some("2025-11-21T00:00:00Z")),
            (Layer::Working, Some("2026-10-22T00:00:00Z")),
            (Layer::Episodic, Some("2024-11-21T00:00:00Z")),
            (Layer::Semantic, None),
        ];
        for (layer, cutoff) in expected {
            assert_eq!(retention.cutoff(layer, now), cutoff.map(at), "{layer:?}");
        }
    }

    #[test]
    fn too_much_is_more_than_the_share_and_more_than_the_floor_while_runs_are_regular() {
        let retention = Retention::default();
        let now = at("2026-11-21T12:00:00Z");
        let (regular, late) = (Some("2026-11-20T12:00:00Z"), Some("2026-11-20T11:59:59Z"));
        let records = |records| Holdings { records, ..Holdings::default() };
        for (lost, held, last, expected) in [
            (100, 100, regular, false),
            (101, 202, regular, false),
            (101, 201, regular, true),
            (5_000, 10_000, regular, false),
            (5_001, 10_000, regular, true),
            (100, 100, late, true),
            (51, 100, None, true),
            (50, 100, late, false),
            (0, 0, None, false),
        ] {
            let last = last.map(at);
            assert_eq!(
                retention.is_too_much(&records(lost), &records(held), last, now),
                expected,
                "{lost} of {held}"
            );
        }
    }

    #[test]
    fn what_was_forgotten_and_old_versions_count_when_the_clock_may_have_jumped() {
        let retention = Retention::default();
        let now = at("2026-11-21T12:00:00Z");
        let (regular, late) = (Some(at("2026-11-20T12:00:00Z")), Some(at("2026-11-20T11:59:59Z")));
        let of = |(records, forgotten, versions)| Holdings { records, forgotten, versions };
        for (lost, held, last, expected) in [
            ((0, 6, 0), (5, 6, 0), late, true),
            ((0, 5, 0), (5, 5, 0), late, false),
            ((0, 0, 6), (5, 0, 6), None, true),
            ((2, 2, 2), (4, 4, 3), late, true),
            // Many others do not make the loss of records small.
            ((6, 0, 0), (10, 100, 100), late, true),
            ((0, 900, 900), (1, 900, 900), regular, false),
        ] {
            assert_eq!(
                retention.is_too_much(&of(lost), &of(held), last, now),
                expected,
                "{lost:?} of {held:?}"
            );
        }
    }

    #[test]
    fn no_layer_is_emptied_unasked_when_the_clock_may_have_jumped() {
        let retention = Retention::default();
        let now = at("2026-11-21T12:00:00Z");
        let (regular, late) = (Some(at("2026-11-20T12:00:00Z")), Some(at("2026-11-20T11:59:59Z")));
        for (layers, last, expected) in [
            ([(300, 300), (0, 8_273)], regular, false),
            ([(300, 300), (0, 8_273)], late, true),
            ([(151, 300), (0, 8_273)], None, true),
            ([(150, 300), (4_000, 8_273)], late, false),
            ([(0, 0), (0, 0)], late, false),
            ([(3, 3), (0, 8_273)], late, false),
            ([(4, 4), (0, 8_273)], late, true),
        ] {
            assert_eq!(retention.empties_a_layer(layers, last, now), expected, "{layers:?} {last:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_in_contents_and_the_index_shrinks_with_them() {
        assert_eq!(excess(0, 1_000, 1_000), 0, "no limit");
        assert_eq!(excess(2_000, 1_000, 1_000), 0);
        assert_eq!(excess(1_000, 1_000, 1_000), 500);
        assert_eq!(excess(1_000, 4_000, 0), 3_000);
    }
}
