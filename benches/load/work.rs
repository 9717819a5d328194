//! What is asked, and what counts as an answer.

use std::fmt;

use super::Failure;

/// Name of the node that is measured.
pub const NODE: &str = "load";

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A responder that sends the question back: the limit.
    Echo,
    /// `conscience/evaluate`.
    Evaluate,
    /// `memory/query`.
    Query,
    /// `memory/store`.
    Store,
    /// A store without orchd: an index writer, a commit and a transaction for each record.
    Naive,
}

impl Operation {
    /// In the order in which a round asks them.
    pub const ALL: [Self; 5] = [Self::Echo, Self::Evaluate, Self::Query, Self::Store, Self::Naive];

    /// As it stands in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Evaluate => "conscience/evaluate",
            Self::Query => "memory/query",
            Self::Store => "memory/store",
            Self::Naive => "naive store",
        }
    }

    /// The share of the echo's throughput that it has to reach.
    pub const fn aim(self) -> Option<f64> {
        match self {
            Self::Evaluate => Some(0.8),
            Self::Store => Some(0.5),
            _ => None,
        }
    }

    /// Where the question goes.
    pub fn topic(self) -> String {
        match self {
            Self::Echo => "load/echo".to_owned(),
            Self::Naive => "load/naive".to_owned(),
            command => format!("orch/{NODE}/{}", command.name()),
        }
    }

    /// The question with this number; about 200 bytes, for the query fewer.
    pub fn question(self, number: u64) -> Vec<u8> {
        match self {
            Self::Echo | Self::Evaluate => format!(
                r#"{{"action":"Number {number}: I will help the family in the house next door to carry what they need up the stairs, and tell them plainly what I have found out about the lift that does not work."}}"#
            ),
            Self::Query => format!(
                r#"{{"text":"{} {}","layers":["semantic"]}}"#,
                word(number.wrapping_mul(7_919)),
                word(number.wrapping_mul(104_729) + 13),
            ),
            Self::Store | Self::Naive => format!(
                r#"{{"content":"{}","layer":"episodic","tags":["load"],"importance":0.4}}"#,
                content(number)
            ),
        }
        .into_bytes()
    }

    /// Whether `answer` is one.
    ///
    /// # Errors
    /// With the answer, when it is an error.
    pub fn check(self, answer: &[u8]) -> Result<(), Failure> {
        const OK: &[u8] = br#""status":"ok""#;
        if matches!(self, Self::Echo | Self::Naive) || answer.windows(OK.len()).any(|part| part == OK) {
            return Ok(());
        }
        Err(format!("{self}: {}", String::from_utf8_lossy(answer)).into())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A made-up text of about 120 characters out of 4,000 words; the same for the same number.
pub fn content(number: u64) -> String {
    let mut seed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = format!("note {number}");
    while text.len() < 115 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(' ');
        text.push_str(&word(seed >> 33));
    }
    text
}

/// One of 4,000 words; the first ones come more often, as in a language.
fn word(pick: u64) -> String {
    const FIRST: [&str; 20] = [
        "ba", "co", "di", "fe", "ga", "ho", "ki", "lu", "me", "no", "pa", "ro", "si", "ta", "ve", "wo", "xa",
        "ye", "zu", "qi",
    ];
    let rank = (pick % 4_000) * ((pick / 4_000) % 100) / 100;
    let part = |at: u64| FIRST[(at % 20) as usize];
    format!("{}{}{}n", part(rank), part(rank / 20), part(rank / 400 + 3))
}
