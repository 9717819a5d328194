//! Where the lines of `tracing` go: to journald with structured fields under systemd, to standard error as text or
//! JSON otherwise.
//!
//! The contract of the log: ERROR means data loss or that a person is needed, WARN that it recovers by itself. No
//! payload and no secret is ever a field. Standard output is never written: it belongs to the command line.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Journald when standard error is connected to it, else text.
    #[default]
    Auto,
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not follow `target=level,…`.
    #[error("expected a log filter such as \"info\" or \"info,orchd::mqtt=debug\": {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process has already set up logging.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Changes the filter of the running process.
#[derive(Clone, Debug)]
pub struct FilterHandle(reload::Handle<EnvFilter, Registry>);

impl FilterHandle {
    /// Replaces the filter; the old one stays when `filter` is wrong.
    ///
    /// # Errors
    /// [`Error::Filter`] when `filter` cannot be read.
    pub fn set_filter(&self, filter: &str) -> Result<(), Error> {
        let filter = EnvFilter::try_new(filter)?;
        // Fails only when the subscriber is gone, and then there is nothing left to filter.
        self.0.reload(filter).map_err(|_| Error::AlreadySet)
    }
}

/// Sets up logging for the whole process, once. `env` answers as `std::env::var_os` (`JOURNAL_STREAM`, `NO_COLOR`).
///
/// # Errors
/// [`Error::Filter`] when `filter` cannot be read, [`Error::AlreadySet`] at a second call.
pub fn init(
    format: Format,
    filter: &str,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<FilterHandle, Error> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(filter)?);
    tracing_subscriber::registry()
        .with(filter)
        .with(output(format, env))
        .try_init()
        .map_err(|_| Error::AlreadySet)?;
    Ok(FilterHandle(handle))
}

type Filtered = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn output(format: Format, env: impl Fn(&str) -> Option<OsString>) -> Box<dyn Layer<Filtered> + Send + Sync> {
    let text = || fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Json => text().json().flatten_event(true).boxed(),
        Format::Auto if connected_to_journal(env("JOURNAL_STREAM"), std::io::stderr()) => {
            match tracing_journald::layer() {
                Ok(journald) => journald.with_field_prefix(Some("ORCHD".to_owned())).boxed(),
                // The journal still reads standard error, and writes the time itself.
                Err(_) => text().without_time().with_ansi(false).boxed(),
            }
        }
        Format::Auto | Format::Text => {
            text().with_ansi(std::io::stderr().is_terminal() && env("NO_COLOR").is_none()).boxed()
        }
    }
}

/// Whether `stream` is the one that systemd connected to the journal: `JOURNAL_STREAM` is inherited, so systemd.exec(5)
/// asks to compare its `device:inode` with the stream's own.
fn connected_to_journal(journal_stream: Option<OsString>, stream: impl AsFd) -> bool {
    let Some(journal_stream) = journal_stream else { return false };
    let Ok(stat) = rustix::fs::fstat(stream) else { return false };
    journal_stream.to_str() == Some(&format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stream_that_systemd_named_is_the_journal() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let named = |device, inode| Some(OsString::from(format!("{device}:{inode}")));
        assert!(connected_to_journal(named(stat.st_dev, stat.st_ino), &file));
        assert!(!connected_to_journal(named(stat.st_dev, stat.st_ino + 1), &file));
        assert!(!connected_to_journal(None, &file));
        assert!(!connected_to_journal(Some("nonsense".into()), &file));
    }

    #[test]
    fn a_wrong_filter_is_refused_and_the_old_one_stays() {
        let (layer, handle) = reload::Layer::new(EnvFilter::new("info"));
        let _subscriber = tracing_subscriber::registry().with(layer);
        let handle = FilterHandle(handle);
        assert!(handle.set_filter("orchd=loud").is_err());
        assert_eq!(handle.0.with_current(ToString::to_string).unwrap(), "info");
        handle.set_filter("warn,orchd::mqtt=debug").unwrap();
        assert_eq!(handle.0.with_current(ToString::to_string).unwrap(), "orchd::mqtt=debug,warn");
    }
}
