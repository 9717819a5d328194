//! Language models: a remote provider first, then the local one.
//!
//! Promises: each provider has a breaker, a limit of time and a budget of its own; a provider that is slow or gone delays
//! nobody who asks for something else; an answer that did not come from the first provider says so (`degraded`). Must not:
//! put a question, an answer or a key into a log or an error.

pub mod model;
mod provider;
mod usage;
mod wire;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::engine::command::{Answer, Entry};
use crate::ledger::Ledger;
use crate::observe::Metrics;
use crate::outbound::{Breaker, Http, HttpError};
use crate::tls::TlsError;
use crate::wire::topic::Target;
use crate::wire::{Code, Fault};
use model::{AskProviders, Complete, Completion, ProviderState, Providers};
use provider::Provider;
use usage::Usage;
use wire::Dialect;

pub use provider::Options as ProviderOptions;

/// Why a provider gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.label())]
enum Failure {
    /// No connection, or it ended.
    Unreachable,
    /// Not in time.
    Timeout,
    /// The key is not accepted, or cannot be read.
    Unauthorized,
    /// Nothing left to pay with.
    Payment,
    /// Too many requests.
    RateLimited { after: Option<Duration> },
    /// The provider's own trouble.
    Server,
    /// The provider understood, and this request is none for it.
    Refused,
    /// Not the answer that was agreed.
    Malformed,
    /// A larger answer than anyone needs.
    TooLarge,
    /// Its breaker is open.
    Open { left: Duration },
    /// Its budget of the day is spent.
    Budget,
}

impl Failure {
    const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::Payment => "payment_required",
            Self::RateLimited { .. } => "rate_limited",
            Self::Server => "server_error",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Open { .. } => "breaker_open",
            Self::Budget => "budget_spent",
        }
    }

    /// How long to wait before trying again; `None` where that cannot help.
    const fn pause(self) -> Option<Duration> {
        match self {
            Self::Unreachable | Self::Server => Some(Duration::ZERO),
            Self::RateLimited { after: Some(after) } => Some(after),
            Self::RateLimited { after: None } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable => Self::Unreachable,
            HttpError::Key => Self::Unauthorized,
            HttpError::TooLarge => Self::TooLarge,
        }
    }
}

/// Which models there are.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// An OpenAI-compatible provider, such as OpenRouter: base address, such as `https://openrouter.ai/api/v1`.
    pub remote: Option<Model>,
    /// Ollama: base address, such as `http://127.0.0.1:11434`.
    pub local: Option<Model>,
    /// Authorities that providers' certificates may come from (PEM).
    pub ca_file: PathBuf,
    /// Requests to models at the same time; more are answered `busy`.
    pub at_once: usize,
    /// Failures in a row that open a breaker.
    pub breaker_failures: u32,
    /// How long an open breaker leaves its provider alone.
    pub breaker_pause: Duration,
}

/// A model and where it is.
#[derive(Clone, Debug)]
pub struct Model {
    /// Base address.
    pub url: String,
    /// Name of the model.
    pub name: String,
    /// File of the API key.
    pub key_file: Option<PathBuf>,
    /// Longest time of one request.
    pub limit: Duration,
    /// Tokens that may be used in a day.
    pub daily_tokens: Option<u64>,
}

/// Why models cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address that is none; the configuration has checked it before.
    #[error("the address of a model is not a URL")]
    Address,
    /// The ledger.
    #[error("the ledger refused: {0}")]
    Ledger(Fault),
}

/// The running service.
pub struct Llm {
    /// In the order in which they are asked.
    providers: Vec<Provider>,
    http: Option<Http>,
    at_once: Semaphore,
    metrics: Metrics,
}

/// Every command of the models.
#[must_use]
pub fn commands() -> Vec<Entry<Llm>> {
    const SERVICE: &str = "llm";
    vec![
        Entry::read(
            SERVICE,
            "complete",
            "Has a model answer: the remote one, else the local one",
            |llm: Arc<Llm>, _, request: Complete| async move { llm.complete(request).await },
        )
        .also_on(&[Target::Any]),
        Entry::read(
            SERVICE,
            "providers",
            "Shows how the providers of models are",
            |llm: Arc<Llm>, _, _: AskProviders| async move { Ok(llm.providers().into()) },
        ),
    ]
}

impl Llm {
    /// The service with what is configured; without a model, it answers `unavailable`.
    ///
    /// # Errors
    /// When the authorities or the ledger cannot be read.
    pub async fn open(
        config: Config,
        ledger: &Ledger,
        clock: &Clock,
        metrics: Metrics,
    ) -> Result<Arc<Self>, OpenError> {
        let wanted = [("remote", Dialect::OpenAi, config.remote), ("local", Dialect::Ollama, config.local)];
        let mut providers = Vec::new();
        for (name, dialect, model) in wanted {
            let Some(model) = model else { continue };
            let options = ProviderOptions {
                url: provider::address(&model.url, dialect).ok_or(OpenError::Address)?,
                model: model.name,
                key_file: model.key_file,
                limit: model.limit,
                daily_tokens: model.daily_tokens,
            };
            let usage = Usage::open(name, ledger.clone(), clock.clone()).await.map_err(OpenError::Ledger)?;
            let breaker = Breaker::new(config.breaker_failures, config.breaker_pause);
            providers.push(Provider::new(name, dialect, options, breaker, usage));
        }
        let http = if providers.is_empty() {
            None
        } else {
            let ca = config.ca_file;
            let opened = tokio::task::spawn_blocking(move || Http::new(&ca)).await;
            Some(opened.map_err(|_| OpenError::Address)??)
        };
        Ok(Arc::new(Self { providers, http, at_once: Semaphore::new(config.at_once), metrics }))
    }

    async fn complete(&self, request: Complete) -> Result<Answer<Completion>, Fault> {
        let started = Instant::now();
        let prompt = request.prompt()?;
        let Some(http) = &self.http else {
            return Err(Fault::new(Code::Unavailable, "no model is configured on this node"));
        };
        // Not waited for: whoever waits here would hold the place of a command that needs no model.
        let Ok(_place) = self.at_once.try_acquire() else {
            return Err(Fault::new(Code::Busy, "too many questions to models at once").retry_after(1_000));
        };
        let mut failed = Vec::new();
        for provider in &self.providers {
            let asked = Instant::now();
            match provider.ask(http, &prompt).await {
                Ok(completed) => {
                    self.metrics.llm_request(provider.name, "ok", asked.elapsed());
                    self.metrics.llm_tokens(provider.name, completed.tokens_in + completed.tokens_out);
                    provider.usage.count(&completed).await;
                    let body = Completion {
                        text: completed.text,
                        model: completed.model.unwrap_or_else(|| provider.options.model.clone()),
                        provider: provider.name.to_owned(),
                        finish_reason: completed.finish,
                        tokens_in: completed.tokens_in,
                        tokens_out: completed.tokens_out,
                        latency_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    };
                    let degraded = failed.iter().map(|(name, _)| format!("llm_{name}")).collect();
                    return Ok(Answer { body, degraded });
                }
                Err(failure) => {
                    self.metrics.llm_request(provider.name, failure.label(), asked.elapsed());
                    failed.push((provider.name, failure));
                }
            }
        }
        Err(none_answered(&failed))
    }

    fn providers(&self) -> Providers {
        let now = Instant::now();
        let state = |provider: &Provider| ProviderState {
            provider: provider.name.to_owned(),
            model: provider.options.model.clone(),
            breaker: provider.breaker.word(now).to_owned(),
            trips: provider.breaker.trips(),
            requests: provider.usage.requests_today(),
            tokens: provider.usage.tokens_today(),
            daily_tokens: provider.options.daily_tokens,
            last_failure: provider.last_failure().map(str::to_owned),
        };
        Providers { providers: self.providers.iter().map(state).collect() }
    }
}

/// What the asker is told: which provider failed in which way, and when it may be worth another try.
fn none_answered(failed: &[(&'static str, Failure)]) -> Fault {
    let reasons: Vec<_> =
        failed.iter().map(|(name, failure)| format!("{name}: {}", failure.label())).collect();
    if failed.iter().all(|(_, failure)| *failure == Failure::Refused) {
        return Fault::invalid(format!("no model took the request ({})", reasons.join(", ")));
    }
    let wait = failed
        .iter()
        .filter_map(|(_, failure)| match failure {
            Failure::Open { left } => Some(*left),
            Failure::RateLimited { after } => *after,
            _ => None,
        })
        .min();
    let fault = Fault::new(Code::Unavailable, format!("no model answered ({})", reasons.join(", ")));
    match wait {
        Some(wait) => fault.retry_after(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        None => fault,
    }
}
