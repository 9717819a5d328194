//! Keys that an identity provider publishes at an address: fetched at intervals, and kept in a file, so that a start without
//! the network finds those of the last time. A token fetches nothing, whatever it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::SECURITY_LOG;
use super::guard::Guard;
use crate::outbound::Http;

/// Largest document that is read, in bytes.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// Longest time of one attempt.
const LIMIT: Duration = Duration::from_secs(10);

/// Pause after a failure; it doubles, up to the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// From one look at the settings to the next, so that a reload is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Their address.
    pub url: String,
    /// Authorities (PEM) that the certificate of the server may come from.
    pub ca_file: PathBuf,
    /// Time from one fetch to the next.
    pub every: Duration,
    /// Where they are kept.
    pub cache: PathBuf,
}

/// Fetches the keys of the guard's source until told to stop. What cannot be fetched or used leaves the present keys as
/// they are.
pub async fn keep(guard: Arc<Guard>, stop: CancellationToken) {
    let mut fetched: Option<Source> = None;
    let mut pause = FIRST_PAUSE;
    let mut due = tokio::time::Instant::now();
    loop {
        let source = guard.jwks();
        if source != fetched {
            (due, pause) = (tokio::time::Instant::now(), FIRST_PAUSE);
        }
        if let Some(source) = &source
            && tokio::time::Instant::now() >= due
        {
            match fetch(source, &guard).await {
                Ok(()) => (due, pause) = (tokio::time::Instant::now() + source.every, FIRST_PAUSE),
                Err(reason) => {
                    tracing::warn!(target: SECURITY_LOG, reason, "auth.jwks_url: the keys of the last time stay in force");
                    due = tokio::time::Instant::now() + pause;
                    pause = (pause * 2).min(source.every);
                }
            }
        }
        fetched = source;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn fetch(source: &Source, guard: &Guard) -> Result<(), String> {
    let url = source.url.parse().map_err(|_| "the address is none".to_owned())?;
    let ca = source.ca_file.clone();
    let http = tokio::task::spawn_blocking(move || Http::new(&ca)).await;
    let http = http.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let response = tokio::time::timeout(LIMIT, http.get(&url, MAX_BYTES)).await;
    let response =
        response.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    if response.status != 200 {
        return Err(format!("the answer has status {}", response.status));
    }
    let json = String::from_utf8(response.body.to_vec()).map_err(|_| "the answer is no text".to_owned())?;
    if !guard.trust(source, &json).map_err(|error| error.to_string())? {
        return Ok(());
    }
    tracing::info!(target: SECURITY_LOG, "auth.jwks_url: other keys are trusted from now on");
    let (path, url) = (source.cache.clone(), source.url.clone());
    let kept = tokio::task::spawn_blocking(move || put(&path, Kept { url, jwks: json })).await;
    match kept {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "auth.jwks_url: the keys could not be kept for the next start")
        }
        Err(error) => tracing::warn!(%error, "auth.jwks_url: the keys could not be kept for the next start"),
    }
    Ok(())
}

/// What was fetched, as it is kept. It counts only for the address that it is from.
#[derive(Serialize, Deserialize)]
struct Kept {
    url: String,
    jwks: String,
}

/// The JWKS that was fetched from `url` and kept in the file at `path`, if it is there. Blocks for as long as the disk needs.
pub(super) fn kept(path: &Path, url: &str) -> Option<String> {
    let kept: Kept = serde_json::from_str(&crate::small_file::read(path).ok()?).ok()?;
    (kept.url == url).then_some(kept.jwks)
}

/// Complete or as before.
fn put(path: &Path, kept: Kept) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(&kept)?)?;
    std::fs::File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_counts_for_its_address_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        assert_eq!(kept(&path, "https://one/jwks"), None);
        put(&path, Kept { url: "https://one/jwks".into(), jwks: "{\"keys\":[]}".into() }).unwrap();
        assert_eq!(kept(&path, "https://one/jwks").as_deref(), Some("{\"keys\":[]}"));
        for other in ["https://two/jwks", "https://one/jwks/", ""] {
            assert_eq!(kept(&path, other), None, "{other}");
        }
        std::fs::write(&path, "{\"keys\":[]}").unwrap();
        assert_eq!(kept(&path, ""), None, "from nobody knows where");
    }
}
