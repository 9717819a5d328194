//! What is wrong with a configuration, and where it stands.
//!
//! A [`Mistake`] always says what would be right. It never holds the value of a key that names a secret, nor the
//! text of a line that could not be read: either may hold a secret that was put in the wrong place.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from. Later ones win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it: the documented default.
    Default,
    /// There is no configuration file that it could stand in.
    NoFile,
    /// The host name of the machine.
    Hostname,
    /// A line of the configuration file, counted from 1.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A `--set key=value` flag, by its key.
    Flag(String),
    /// What `orchd init` was told, before it stands in a file.
    Answer,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::NoFile => f.write_str("(no configuration file)"),
            Self::Hostname => f.write_str("host name"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => write!(f, "${variable}"),
            Self::Flag(key) => write!(f, "--set {key}"),
            Self::Answer => f.write_str("(answer)"),
        }
    }
}

/// How much a mistake matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, and should be changed.
    Warning,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{}{wrong}; {right}", if *severity == Severity::Warning { "warning: " } else { "" }, Label(key))]
pub struct Mistake {
    /// Where it stands.
    pub origin: Origin,
    /// The key it is about, such as `broker.url`; empty where no key can be named.
    pub key: String,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
    /// How much it matters.
    pub severity: Severity,
}

/// A key and a colon, or nothing.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

impl Mistake {
    /// An error at `origin` about `key`.
    #[must_use]
    pub fn error(
        origin: Origin,
        key: impl Into<String>,
        wrong: impl Into<String>,
        right: impl Into<String>,
    ) -> Self {
        Self { origin, key: key.into(), wrong: wrong.into(), right: right.into(), severity: Severity::Error }
    }

    /// The same as a warning.
    #[must_use]
    pub fn as_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }
}

/// The candidate that `written` most likely stands for: one that differs by few letters, or else has the same last
/// part (`url` for `broker.url`); `None` when nothing is near.
pub(super) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let same_end = last(written);
    candidates
        .map(|candidate| {
            let whole = distance(written, candidate);
            // The end of the path says more than its section: a key put in the wrong section is a common slip.
            let end = distance(&same_end, &last(candidate));
            (whole.min(end + 1), whole, candidate)
        })
        .filter(|(near, _, candidate)| *near <= 1 + last(candidate).len() / 3)
        .min()
        .map(|(_, _, candidate)| candidate)
}

/// How many letters must be added, removed or replaced to make `a` of `b`, letter case aside.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_ascii_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_ascii_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_suggested_and_nothing_when_none_is_near() {
        let keys = ["broker.url", "broker.username", "node.name", "limits.reads_in_flight"];
        for (written, expected) in [
            ("broker.ulr", Some("broker.url")),
            ("url", Some("broker.url")),
            ("broker.name", Some("node.name")),
            ("node.Name", Some("node.name")),
            ("limits.reads_inflight", Some("limits.reads_in_flight")),
            ("colour.of_the_box", None),
        ] {
            assert_eq!(nearest(written, keys.into_iter()), expected, "{written}");
        }
    }

    #[test]
    fn a_mistake_reads_as_one_line_with_place_key_and_remedy() {
        let origin = Origin::File { path: "orchd.toml".into(), line: 7 };
        let mistake = Mistake::error(origin, "broker.url", "is empty", "write `mqtts://host:8883`");
        assert_eq!(mistake.to_string(), "orchd.toml:7: broker.url: is empty; write `mqtts://host:8883`");
        assert_eq!(
            mistake.as_warning().to_string(),
            "orchd.toml:7: warning: broker.url: is empty; write `mqtts://host:8883`"
        );
    }
}
