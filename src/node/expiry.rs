//! What ends by itself unless somebody renews it, certificates and API keys, and whether somebody has put other files in the
//! place of those that the link to the broker uses.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::Broker;
use crate::gate::keys::Keys;
use crate::tls::expiry;

/// Days before the end from which on the node counts as degraded.
const SOON_DAYS: i64 = 7;

const DAY_MILLIS: i64 = 86_400_000;

/// Something that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Expiry {
    /// `authority`, `client_certificate`, or `api_key` for the one that ends first.
    pub what: &'static str,
    /// When it ends.
    pub at: Timestamp,
    /// Whole days until then; negative when it has ended.
    pub days: i64,
}

impl Expiry {
    fn new(what: &'static str, at: Timestamp, now: Timestamp) -> Self {
        Self { what, at, days: (at.millis() - now.millis()).div_euclid(DAY_MILLIS) }
    }

    /// Whether it is time to renew it.
    #[must_use]
    pub const fn is_soon(&self) -> bool {
        self.days < SOON_DAYS
    }
}

/// Where to look.
#[derive(Clone)]
pub(super) struct Watched {
    certificates: Vec<(&'static str, PathBuf)>,
    /// All that the link to the broker reads.
    files: Vec<PathBuf>,
    keys: Arc<Keys>,
}

/// What tells one content of a file from another without reading it: device, number, size, and time of change.
type Fingerprint = Option<(u64, u64, u64, i64, i64)>;

/// What was found at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// What ends, and when.
    pub expires: Vec<Expiry>,
    /// Of each file.
    pub files: Vec<Fingerprint>,
}

impl Watched {
    pub(super) fn new(broker: &Broker, keys: Arc<Keys>) -> Self {
        let certificates = [("authority", &broker.ca_file), ("client_certificate", &broker.client_cert_file)];
        let certificates = certificates.into_iter().filter_map(|(what, file)| Some((what, file.clone()?)));
        let files = [
            &broker.ca_file,
            &broker.client_cert_file,
            &broker.client_key_file,
            &broker.password_file,
            &broker.jwt_key_file,
        ];
        Self {
            certificates: certificates.collect(),
            files: files.into_iter().flatten().cloned().collect(),
            keys,
        }
    }

    /// What there is now. A certificate that cannot be read is left out: the link to the broker complains of it.
    pub(super) async fn look(&self, now: Timestamp) -> Found {
        let (certificates, files) = (self.certificates.clone(), self.files.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let ends = certificates.into_iter().map(|(what, file)| (what, expiry::of_file(&file)));
            (ends.collect::<Vec<_>>(), files.iter().map(|file| fingerprint(file)).collect())
        });
        let (mut ends, files) = looked.await.unwrap_or_default();
        ends.push(("api_key", self.keys.next_end(now)));
        let expires = ends.into_iter().filter_map(|(what, end)| Some(Expiry::new(what, end?, now))).collect();
        Found { expires, files }
    }
}

fn fingerprint(file: &Path) -> Fingerprint {
    let found = std::fs::metadata(file).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_go_below_zero() {
        let at = Timestamp::from_millis(10 * DAY_MILLIS);
        for (now, days, soon) in [
            (0, 10, false),
            (1, 9, false),
            (3 * DAY_MILLIS, 7, false),
            (3 * DAY_MILLIS + 1, 6, true),
            (10 * DAY_MILLIS + 1, -1, true),
        ] {
            let expiry = Expiry::new("authority", at, Timestamp::from_millis(now));
            assert_eq!((expiry.days, expiry.is_soon()), (days, soon), "{now}");
        }
    }
}
