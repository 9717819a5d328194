//! How trust and emotions follow from what happened and from the time that has passed. Pure.
//!
//! The formulas are this project's own, from its design; there is no outside standard for them. They are monotone and
//! bounded, which the tests show, and nothing is claimed for them beyond that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An emotion that an entity evokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Emotion {
    /// Valence 1.0.
    Joy,
    /// Valence −0.3.
    Sadness,
    /// Valence −0.5.
    Anger,
    /// Valence 0.5.
    Neutral,
    /// Valence 1.2.
    Love,
}

impl Emotion {
    /// All of them, in the order of [`Feelings::intensities`].
    pub const ALL: [Self; 5] = [Self::Joy, Self::Sadness, Self::Anger, Self::Neutral, Self::Love];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joy => "joy",
            Self::Sadness => "sadness",
            Self::Anger => "anger",
            Self::Neutral => "neutral",
            Self::Love => "love",
        }
    }

    /// What it counts for in [`empathy`].
    const fn valence(self) -> f64 {
        match self {
            Self::Joy => 1.0,
            Self::Sadness => -0.3,
            Self::Anger => -0.5,
            Self::Neutral => 0.5,
            Self::Love => 1.2,
        }
    }
}

/// Trust in somebody of whom nothing is known.
pub const FIRST_TRUST: f64 = 0.5;

/// Trust below which an entity is forgotten when that is asked for.
pub const PRUNE_BELOW: f64 = 0.1;

/// Decay for each hour: above 0.7, from there down to 0.3, and below.
const DECAY: [(f64, f64); 3] = [(0.7, 0.0005), (0.3, 0.001), (0.0, 0.002)];

/// Trust, and the intensity of each emotion, at one time. All in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Feelings {
    /// 0 none, 1 full.
    pub trust: f64,
    /// In the order of [`Emotion::ALL`].
    pub intensities: [f64; 5],
}

impl Feelings {
    /// Towards somebody of whom nothing is known.
    #[must_use]
    pub const fn first(trust: f64) -> Self {
        Self { trust, intensities: [0.0; 5] }
    }

    /// As they are `millis` later, when nothing happened. A time that runs backwards changes nothing.
    #[must_use]
    pub fn after(&self, millis: i64) -> Self {
        let hours = millis.max(0) as f64 / 3_600_000.0;
        Self {
            trust: decayed(self.trust, hours),
            intensities: self.intensities.map(|intensity| decayed(intensity, hours)),
        }
    }

    /// After `emotion` was felt with `intensity`: it takes the place of what was left of that emotion, and moves trust by
    /// the empathy of all.
    #[must_use]
    pub fn felt(mut self, emotion: Emotion, intensity: f64) -> Self {
        for (kept, of) in self.intensities.iter_mut().zip(Emotion::ALL) {
            if of == emotion {
                *kept = intensity.clamp(0.0, 1.0);
            }
        }
        self.trust = trust_after(self.trust, empathy(&self.intensities));
        self
    }

    /// The strongest emotion; none when all have faded.
    #[must_use]
    pub fn dominant(&self) -> Option<Emotion> {
        let (emotion, intensity) = Emotion::ALL
            .into_iter()
            .zip(self.intensities)
            .max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        (intensity > 0.0).then_some(emotion)
    }
}

/// `value` after `hours`: it falls by 0.001 an hour, half as fast above 0.7, twice as fast below 0.3, to 0. Going through
/// the bands exactly makes it a function of time alone: in steps or at once, it arrives at the same.
#[must_use]
pub fn decayed(value: f64, hours: f64) -> f64 {
    let (mut value, mut left) = (value, hours.max(0.0));
    for (floor, rate) in DECAY {
        if value > floor {
            let to_floor = (value - floor) / rate;
            if left < to_floor {
                return value - left * rate;
            }
            left -= to_floor;
            value = floor;
        }
    }
    value
}

/// The mean of the valences, weighted by intensity, mapped from [-1, 1] to [0, 1] and clamped. Nothing felt is 0.5.
#[must_use]
pub fn empathy(intensities: &[f64; 5]) -> f64 {
    let total: f64 = intensities.iter().sum();
    if total <= 0.0 {
        return 0.5;
    }
    let weighted: f64 =
        Emotion::ALL.iter().zip(intensities).map(|(emotion, intensity)| emotion.valence() * intensity).sum();
    ((weighted / total + 1.0) / 2.0).clamp(0.0, 1.0)
}

/// Empathy above 0.7 lifts trust by half of what exceeds it, below 0.3 lowers it by 0.3 of what is missing.
#[must_use]
pub fn trust_after(trust: f64, empathy: f64) -> f64 {
    let change = if empathy > 0.7 {
        (empathy - 0.7) * 0.5
    } else if empathy < 0.3 {
        (empathy - 0.3) * 0.3
    } else {
        0.0
    };
    (trust + change).clamp(0.0, 1.0)
}

/// What an evaluation with `score` in [-1, 1] makes one feel, and how strongly: joy from 0.5, neutral from 0, sadness
/// down to −0.5, anger below.
#[must_use]
pub fn felt_about(score: f64) -> (Emotion, f64) {
    match score.clamp(-1.0, 1.0) {
        score if score >= 0.5 => (Emotion::Joy, score),
        score if score >= 0.0 => (Emotion::Neutral, 0.5),
        score if score > -0.5 => (Emotion::Sadness, -score),
        score => (Emotion::Anger, -score),
    }
}

/// Two entities that turn out to be one: trust is the mean weighted by how often each was met, of each emotion the stronger
/// stays.
#[must_use]
pub fn merged(one: (&Feelings, u64), other: (&Feelings, u64)) -> Feelings {
    // One more for each, so that entities that were never met count alike.
    let (w1, w2) = (one.1 as f64 + 1.0, other.1 as f64 + 1.0);
    let mut intensities = one.0.intensities;
    for (kept, theirs) in intensities.iter_mut().zip(other.0.intensities) {
        *kept = kept.max(theirs);
    }
    Feelings { trust: (one.0.trust * w1 + other.0.trust * w2) / (w1 + w2), intensities }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 3_600_000;

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn decay_by_the_table() {
        // Value, hours, value then: within a band, to its edge, through two and three bands, to nothing.
        for (from, hours, to) in [
            (0.9, 100.0, 0.85),
            (0.9, 400.0, 0.7),
            (0.9, 500.0, 0.6),
            (0.5, 100.0, 0.4),
            (0.4, 150.0, 0.2),
            (0.8, 200.0 + 400.0 + 100.0, 0.1),
            (0.2, 50.0, 0.1),
            (0.2, 100.0, 0.0),
            (0.2, 1e9, 0.0),
            (0.5, 0.0, 0.5),
        ] {
            assert!(close(decayed(from, hours), to), "{from} after {hours} h is {}", decayed(from, hours));
        }
    }

    #[test]
    fn empathy_and_trust_by_the_table() {
        let alone = |emotion: Emotion| Feelings::first(0.5).felt(emotion, 1.0);
        for (emotion, feels, trust) in [
            (Emotion::Joy, 1.0, 0.65),
            (Emotion::Love, 1.0, 0.65),
            (Emotion::Neutral, 0.75, 0.525),
            (Emotion::Sadness, 0.35, 0.5),
            (Emotion::Anger, 0.25, 0.485),
        ] {
            let after = alone(emotion);
            assert!(close(empathy(&after.intensities), feels), "{emotion:?}");
            assert!(close(after.trust, trust), "{emotion:?} leads to {}", after.trust);
            assert_eq!(after.dominant(), Some(emotion));
        }
        assert!(close(empathy(&[0.0; 5]), 0.5));
        assert_eq!(Feelings::first(0.5).dominant(), None);
    }

    #[test]
    fn an_evaluation_is_felt_by_the_table() {
        for (score, felt) in [
            (1.0, (Emotion::Joy, 1.0)),
            (0.5, (Emotion::Joy, 0.5)),
            (0.49, (Emotion::Neutral, 0.5)),
            (0.0, (Emotion::Neutral, 0.5)),
            (-0.2, (Emotion::Sadness, 0.2)),
            (-0.5, (Emotion::Anger, 0.5)),
            (-7.0, (Emotion::Anger, 1.0)),
        ] {
            assert_eq!(felt_about(score), felt, "{score}");
        }
    }

    fn emotion() -> impl Strategy<Value = Emotion> {
        prop::sample::select(Emotion::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn ten_decays_in_a_day_equal_one(trust in 0.0..=1.0f64, joy in 0.0..=1.0f64, cuts in prop::collection::vec(0..DAY, 9)) {
            let start = Feelings { trust, intensities: [joy, 0.0, 1.0, 0.3, 0.7] };
            let mut cuts = cuts;
            cuts.sort_unstable();
            cuts.push(DAY);
            let (mut stepped, mut at) = (start, 0);
            for cut in cuts {
                stepped = stepped.after(cut - at);
                at = cut;
            }
            let at_once = start.after(DAY);
            prop_assert!(close(stepped.trust, at_once.trust));
            for (one, other) in stepped.intensities.into_iter().zip(at_once.intensities) {
                prop_assert!(close(one, other));
            }
        }

        #[test]
        fn everything_stays_in_range_whatever_happens(
            trust in 0.0..=1.0f64,
            steps in prop::collection::vec((emotion(), -2.0..=2.0f64, -DAY..400 * DAY), 0..60),
        ) {
            let mut feelings = Feelings::first(trust);
            for (emotion, intensity, pause) in steps {
                let later = feelings.after(pause);
                prop_assert!(later.trust <= feelings.trust);
                feelings = later.felt(emotion, intensity);
                prop_assert!((0.0..=1.0).contains(&feelings.trust));
                prop_assert!(feelings.intensities.iter().all(|intensity| (0.0..=1.0).contains(intensity)));
                feelings = merged((&feelings, 3), (&Feelings::first(trust), 0));
                prop_assert!((0.0..=1.0).contains(&feelings.trust));
            }
        }
    }
}
