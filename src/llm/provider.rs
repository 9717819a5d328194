//! One provider: its address, its breaker and budget, and how it is asked.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Uri;

use super::Failure;
use super::chain::millis;
use super::model::{Prompt, ProviderState};
use super::usage::Usage;
use super::wire::{Completed, Dialect, Stream};
use crate::clock::Clock;
use crate::engine::Events;
use crate::engine::jobs::Progress;
use crate::observe::Metrics;
use crate::outbound::{Breaker, Http, Permit};

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// Times that one request is tried, where trying again can help.
const ATTEMPTS: u32 = 2;

/// Pause before the second try, plus as much again at random.
const PAUSE: Duration = Duration::from_millis(200);

/// Longest pause that a provider may ask for and still be tried again by the same request.
const PATIENCE: Duration = Duration::from_secs(2);

/// A provider that had at least this long, and did not answer, counts as failed although its asker waited no longer.
const FAIR: Duration = Duration::from_secs(5);

/// What may be used in a day.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Tokens of questions and answers.
    pub tokens: Option<u64>,
    /// US dollars.
    pub usd: Option<f64>,
    /// US dollars for a million tokens of questions and of answers, where the provider does not say what it charges.
    pub usd_per_million: (f64, f64),
}

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
    /// What may be used in a day.
    pub budget: Budget,
}

/// What a provider is asked, and for whom.
pub(super) struct Question<'q, R> {
    pub prompt: &'q Prompt,
    /// Longest time that an answer is of use.
    pub limit: Duration,
    /// Who is told the answer piece by piece.
    pub listener: Option<&'q Progress>,
    /// What it is read as; an answer that this does not take is none.
    pub read: R,
}

/// Where a provider's troubles are told.
pub(super) struct Told {
    pub metrics: Metrics,
    pub events: Events,
    pub clock: Clock,
}

pub(super) struct Provider {
    pub name: &'static str,
    pub options: Options,
    pub usage: Usage,
    breaker: Breaker,
    dialect: Dialect,
    told: Told,
    fallbacks: AtomicU64,
    last: Mutex<Last>,
}

/// How it went last.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    failure: Option<&'static str>,
    latency: Option<Duration>,
}

impl Provider {
    pub(super) fn new(
        name: &'static str,
        dialect: Dialect,
        options: Options,
        breaker: Breaker,
        usage: Usage,
        told: Told,
    ) -> Self {
        let last = Mutex::default();
        Self { name, options, usage, breaker, dialect, told, fallbacks: AtomicU64::new(0), last }
    }

    pub(super) fn state(&self) -> ProviderState {
        let last = *self.last();
        ProviderState {
            provider: self.name.to_owned(),
            model: self.options.model.clone(),
            breaker: self.breaker.word(Instant::now()).to_owned(),
            trips: self.breaker.trips(),
            requests: self.usage.requests_today(),
            tokens: self.usage.tokens_today(),
            daily_tokens: self.options.budget.tokens,
            cost_usd: self.usage.cost_today(),
            daily_usd: self.options.budget.usd,
            fallbacks: self.fallbacks.load(Ordering::Relaxed),
            latency_ms: last.latency.map(millis),
            last_failure: last.failure.map(str::to_owned),
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it, when its breaker and budget allow.
    pub(super) async fn ask<T, R>(
        &self,
        http: &Http,
        question: &Question<'_, R>,
    ) -> Result<(Completed, T), Failure>
    where
        R: Fn(&Completed) -> Option<T>,
    {
        let asked = self.try_to_ask(http, question).await;
        if let Err(failure) = asked {
            self.fallbacks.fetch_add(1, Ordering::Relaxed);
            if !matches!(failure, Failure::Open { .. } | Failure::Budget) {
                self.last().failure = Some(failure.label());
            }
        }
        asked
    }

    async fn try_to_ask<T, R>(
        &self,
        http: &Http,
        question: &Question<'_, R>,
    ) -> Result<(Completed, T), Failure>
    where
        R: Fn(&Completed) -> Option<T>,
    {
        if self.is_spent() {
            return Err(Failure::Budget);
        }
        let permit = self.breaker.ask(Instant::now()).map_err(|left| Failure::Open { left })?;
        let (started, allowed) = (Instant::now(), question.limit.min(self.options.limit));
        // A probe is one request, whatever comes of it.
        let attempts = if permit.is_probe() { 1 } else { ATTEMPTS };
        let Ok(asked) = tokio::time::timeout(allowed, self.attempts(http, question, attempts)).await else {
            if allowed >= self.options.limit.min(FAIR) {
                self.failed(permit, Failure::Timeout);
            }
            return Err(Failure::Timeout);
        };
        let read = match asked {
            Ok(completed) => {
                // It is paid for, whether it is of use or not.
                self.count(&completed).await;
                (question.read)(&completed).map(|value| (completed, value)).ok_or(Failure::Malformed)
            }
            Err(failure) => Err(failure),
        };
        match read {
            Ok(read) => {
                self.last().latency = Some(started.elapsed());
                self.succeeded(permit);
                Ok(read)
            }
            // It is there, and understood that this request is none for it.
            Err(Failure::Refused) => {
                self.succeeded(permit);
                Err(Failure::Refused)
            }
            Err(failure) => {
                self.failed(permit, failure);
                Err(failure)
            }
        }
    }

    fn is_spent(&self) -> bool {
        let Budget { tokens, usd, .. } = self.options.budget;
        tokens.is_some_and(|limit| self.usage.tokens_today() >= limit)
            || usd.is_some_and(|limit| self.usage.cost_today() >= limit)
    }

    async fn count(&self, completed: &Completed) {
        let (tokens_in, tokens_out) = (completed.tokens_in, completed.tokens_out);
        self.told.metrics.llm_tokens(self.name, tokens_in.saturating_add(tokens_out));
        let (per_in, per_out) = self.options.budget.usd_per_million;
        let by_price = (tokens_in as f64 * per_in + tokens_out as f64 * per_out) / 1e6;
        let cost = completed.cost.unwrap_or(by_price);
        self.told.metrics.llm_cost(self.name, cost);
        self.usage.count(completed, cost).await;
    }

    fn succeeded(&self, permit: Permit<'_>) {
        if permit.succeeded() {
            tracing::info!(provider = self.name, "a model's breaker has closed");
            self.tell("breaker_closed", &format!("the {} model answers again", self.name));
        }
    }

    fn failed(&self, permit: Permit<'_>, failure: Failure) {
        if permit.failed(Instant::now()) {
            let failure = failure.label();
            tracing::warn!(provider = self.name, failure, "a model's breaker has opened");
            let message = format!("the {} model is left alone for a while: {failure}", self.name);
            self.tell("breaker_opened", &message);
        }
    }

    fn tell(&self, error: &'static str, message: &str) {
        self.told.events.tell_error(error, message, self.told.clock.now());
    }

    async fn attempts<R>(
        &self,
        http: &Http,
        question: &Question<'_, R>,
        most: u32,
    ) -> Result<Completed, Failure> {
        let Question { prompt, listener, .. } = *question;
        let key = self.key().await?;
        let request = self.dialect.request(&self.options.model, prompt, listener.is_some());
        let body = serde_json::to_vec(&request).map_err(|_| Failure::Refused)?;
        let mut attempt = 1;
        loop {
            let asked = match listener {
                Some(listener) => self.stream(http, key.as_deref(), body.clone(), listener).await,
                None => http
                    .post(&self.options.url, key.as_deref(), body.clone(), MAX_ANSWER, None)
                    .await
                    .map_err(Failure::from)
                    .and_then(|response| self.dialect.read(&response)),
            };
            let pause = match &asked {
                Err(failure) if attempt < most => match failure.pause() {
                    Some(pause) if pause <= PATIENCE => pause.max(PAUSE),
                    _ => return asked,
                },
                _ => return asked,
            };
            tokio::time::sleep(pause + PAUSE.mul_f64(fastrand::f64())).await;
            attempt += 1;
        }
    }

    /// Asks for the answer piece by piece, and says each to `listener`.
    async fn stream(
        &self,
        http: &Http,
        key: Option<&str>,
        body: Vec<u8>,
        listener: &Progress,
    ) -> Result<Completed, Failure> {
        let mut stream = Stream::new(self.dialect);
        listener.say_anew();
        let mut feed = |bytes: &[u8]| listener.say(&stream.feed(bytes));
        let response = http.post(&self.options.url, key, body, MAX_ANSWER, Some(&mut feed)).await?;
        if !(200..300).contains(&response.status) {
            return self.dialect.read(&response);
        }
        stream.end()
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
