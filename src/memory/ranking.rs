//! How hits are ordered: text, recency and importance in one score.
//!
//! With `t` the BM25 score divided by that of the best hit, `r = 2^(−age / half-life)` and `i` the importance:
//!
//! ```text
//! score = (w_text·t + w_recency·r + w_importance·i) / (w_text + w_recency + w_importance)
//! ```
//!
//! so the score lies in [0, 1]. BM25 as in Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), with
//! k1 = 1.2 and b = 0.75, and statistics over everything that the query touches. Pure; the weights are configuration.

use super::model::Parts;
use crate::clock::Timestamp;

/// Weights of the parts, and how fast recency fades. Weights are not negative and not all zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranking {
    /// Weight of the text's relevance.
    pub text: f64,
    /// Weight of recency.
    pub recency: f64,
    /// Weight of importance.
    pub importance: f64,
    /// After how many days recency is one half; more than 0.
    pub half_life_days: f64,
}

impl Default for Ranking {
    fn default() -> Self {
        Self { text: 0.7, recency: 0.2, importance: 0.1, half_life_days: 30.0 }
    }
}

impl Ranking {
    /// How recent `created` is at `now`: 1 for the present and the future, towards 0 with age.
    #[must_use]
    pub fn recency(&self, created: Timestamp, now: Timestamp) -> f64 {
        let age_days = now.millis().saturating_sub(created.millis()).max(0) as f64 / 86_400_000.0;
        (-age_days / self.half_life_days).exp2()
    }

    /// The score of a hit.
    #[must_use]
    pub fn score(&self, parts: &Parts) -> f64 {
        let sum = self.text * parts.text + self.recency * parts.recency + self.importance * parts.importance;
        let weights = self.text + self.recency + self.importance;
        if weights > 0.0 { (sum / weights).clamp(0.0, 1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recency_halves_with_each_half_life_and_the_future_counts_as_now() {
        let ranking = Ranking::default();
        let now = Timestamp::from_millis(1_800_000_000_000);
        let day = 86_400_000;
        assert!((ranking.recency(now, now) - 1.0).abs() < 1e-12);
        assert!((ranking.recency(now.plus_millis(-30 * day), now) - 0.5).abs() < 1e-12);
        assert!((ranking.recency(now.plus_millis(-60 * day), now) - 0.25).abs() < 1e-12);
        assert!((ranking.recency(now.plus_millis(day), now) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_score_is_the_weighted_mean_of_its_parts() {
        let ranking = Ranking::default();
        let score = |text, recency, importance| ranking.score(&Parts { text, recency, importance });
        assert!((score(1.0, 1.0, 1.0) - 1.0).abs() < 1e-12);
        assert!((score(1.0, 0.0, 0.0) - 0.7).abs() < 1e-12);
        assert!((score(0.5, 0.5, 1.0) - 0.55).abs() < 1e-12);
        assert!(score(0.0, 0.0, 0.0).abs() < 1e-12);
    }
}
