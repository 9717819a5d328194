//! Contents and queries of words that are as unevenly common as those of a language.

use fastrand::Rng;

/// Words that there are.
const VOCABULARY: f64 = 50_000.0;

/// A word: rank r is about r times as rare as the first (Zipf), by the inverse of its distribution.
fn word(random: &mut Rng) -> String {
    let rank = VOCABULARY.powf(random.f64());
    format!("a{}", rank as u64)
}

/// Contents, each a function of its number.
pub struct Contents {
    seed: u64,
}

impl Contents {
    /// Of a run with so many.
    pub const fn new(records: usize) -> Self {
        Self { seed: records as u64 }
    }

    /// 10 to 40 words.
    pub fn of(&self, number: usize) -> String {
        let mut random = Rng::with_seed(self.seed ^ ((number as u64) << 20));
        let words = random.usize(10..=40);
        (0..words).map(|_| word(&mut random)).collect::<Vec<_>>().join(" ")
    }
}

/// Pairs of words.
pub fn queries(count: usize) -> Vec<String> {
    let mut random = Rng::with_seed(11);
    (0..count).map(|_| format!("{} {}", word(&mut random), word(&mut random))).collect()
}
