//! One provider: its address, its breaker, and how it is asked.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Uri;

use super::Failure;
use super::model::Prompt;
use super::usage::Usage;
use super::wire::{Completed, Dialect};
use crate::outbound::{Breaker, Http};

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// Times that one request is tried, where trying again can help.
const ATTEMPTS: u32 = 2;

/// Pause before the second try, plus as much again at random.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause that a provider may ask for and still be tried again by the same request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where and how a provider is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// Base address: `https://…`, or `http://…`.
    pub url: Uri,
    /// The model.
    pub model: String,
    /// The file of the API key, read for each request.
    pub key_file: Option<PathBuf>,
    /// Longest time of one request, with its second try.
    pub limit: Duration,
    /// Tokens that it may use in a day.
    pub daily_tokens: Option<u64>,
}

pub(super) struct Provider {
    pub name: &'static str,
    pub options: Options,
    pub breaker: Breaker,
    pub usage: Usage,
    dialect: Dialect,
    last_failure: Mutex<Option<&'static str>>,
}

impl Provider {
    pub(super) fn new(
        name: &'static str,
        dialect: Dialect,
        options: Options,
        breaker: Breaker,
        usage: Usage,
    ) -> Self {
        Self { name, options, breaker, usage, dialect, last_failure: Mutex::new(None) }
    }

    /// Why it failed last.
    pub(super) fn last_failure(&self) -> Option<&'static str> {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it, when its breaker and budget allow.
    pub(super) async fn ask(&self, http: &Http, prompt: &Prompt) -> Result<Completed, Failure> {
        if self.options.daily_tokens.is_some_and(|limit| self.usage.tokens_today() >= limit) {
            return Err(Failure::Budget);
        }
        let permit = self.breaker.ask(Instant::now()).map_err(|left| Failure::Open { left })?;
        let asked = tokio::time::timeout(self.options.limit, self.attempts(http, prompt)).await;
        match asked.unwrap_or(Err(Failure::Timeout)) {
            Ok(completed) => {
                permit.succeeded();
                Ok(completed)
            }
            // It is there, and understood that this request is none for it.
            Err(Failure::Refused) => {
                permit.succeeded();
                Err(self.note(Failure::Refused))
            }
            Err(failure) => {
                if permit.failed(Instant::now()) {
                    tracing::warn!(
                        provider = self.name,
                        failure = failure.label(),
                        "a model's breaker has opened"
                    );
                }
                Err(self.note(failure))
            }
        }
    }

    fn note(&self, failure: Failure) -> Failure {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.label());
        failure
    }

    async fn attempts(&self, http: &Http, prompt: &Prompt) -> Result<Completed, Failure> {
        let key = self.key().await?;
        let body = serde_json::to_vec(&self.dialect.request(&self.options.model, prompt))
            .map_err(|_| Failure::Refused)?;
        let mut attempt = 1;
        loop {
            let asked = http
                .post(&self.options.url, key.as_deref(), body.clone(), MAX_ANSWER)
                .await
                .map_err(Failure::from)
                .and_then(|response| self.dialect.read(&response));
            let pause = match &asked {
                Err(failure) if attempt < ATTEMPTS => match failure.pause() {
                    Some(pause) if pause <= PATIENCE => pause.max(PAUSE),
                    _ => return asked,
                },
                _ => return asked,
            };
            tokio::time::sleep(pause + PAUSE.mul_f64(fastrand::f64())).await;
            attempt += 1;
        }
    }

    /// The API key, read anew so that a rotated one is used at once.
    async fn key(&self) -> Result<Option<String>, Failure> {
        let Some(path) = self.options.key_file.clone() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        match read {
            Ok(Ok(key)) => Ok(Some(key.trim_end().to_owned())),
            // The path is in the configuration, which `orchd config check` looks at.
            _ => Err(Failure::Unauthorized),
        }
    }
}

/// The address below `base` where completions are asked for.
pub(super) fn address(base: &str, dialect: Dialect) -> Option<Uri> {
    format!("{}{}", base.trim_end_matches('/'), dialect.path()).parse().ok()
}
