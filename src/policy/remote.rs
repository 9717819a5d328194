//! Policies that an OPA server evaluates: `POST` of `{"input": …}` to the address of a rule, as OPA's Data API has it.
//!
//! It is given a second or so, and what it said is remembered shortly. A breaker leaves a server alone that fails again and
//! again. Whatever goes wrong is an error, and never an answer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::Uri;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::{Finding, MAX_INPUT_BYTES, PolicyError, finding};
use crate::cache::Cache;
use crate::outbound::{Breaker, Http};

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Answers that are remembered.
const CACHED: usize = 10_000;

/// Failures in a row after which the server is left alone, and for how long.
const FAILURES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);

/// Where the server is, and how it is asked.
#[derive(Clone, Debug)]
pub struct OpaOptions {
    /// The address of the rule: `http://127.0.0.1:8181/v1/data/orchd/gate/deny`.
    pub url: String,
    /// Authorities (PEM) that its certificate may come from.
    pub ca_file: PathBuf,
    /// A file with a token that is shown as `Bearer`; read for each question.
    pub token_file: Option<PathBuf>,
    /// Longest time of one question.
    pub limit: Duration,
    /// How long an answer is remembered; zero for not at all.
    pub cached: Duration,
}

/// An OPA server.
pub struct Opa {
    options: OpaOptions,
    url: Uri,
    http: Http,
    breaker: Breaker,
    cache: Cache<[u8; 32], Finding>,
}

/// A question that is ready to be asked.
pub struct Prepared {
    body: Vec<u8>,
    key: [u8; 32],
}

#[derive(Serialize)]
struct Asked<'a, T> {
    input: &'a T,
}

/// `result` is missing where the rule is not defined, or there is none of that name.
#[derive(Deserialize)]
struct Answered {
    result: Option<serde_json::Value>,
}

impl Opa {
    /// Asks nothing yet. Blocks: it reads certificates.
    ///
    /// # Errors
    /// [`PolicyError::Server`] when the address or the certificates are none.
    pub fn new(options: OpaOptions) -> Result<Self, PolicyError> {
        let url = options.url.parse().map_err(|_| PolicyError::Server("its address is none".to_owned()))?;
        let http = Http::new(&options.ca_file).map_err(|error| PolicyError::Server(error.to_string()))?;
        let cache = Cache::fleeting(CACHED, options.cached);
        Ok(Self { options, url, http, breaker: Breaker::new(FAILURES, PAUSE), cache })
    }

    /// Readies `input`; what is the same in `alike` gets the same answer for as long as it is remembered.
    ///
    /// # Errors
    /// [`PolicyError::Input`].
    pub fn prepare(&self, input: &impl Serialize, alike: &impl Serialize) -> Result<Prepared, PolicyError> {
        let json = |value: Result<Vec<u8>, serde_json::Error>| {
            value.ok().filter(|bytes| bytes.len() <= MAX_INPUT_BYTES).ok_or(PolicyError::Input)
        };
        let body = json(serde_json::to_vec(&Asked { input }))?;
        let mut key = [0; 32];
        let alike = json(serde_json::to_vec(alike))?;
        key.copy_from_slice(digest::digest(&digest::SHA256, &alike).as_ref());
        Ok(Prepared { body, key })
    }

    /// What was said shortly before.
    #[must_use]
    pub fn recall(&self, prepared: &Prepared) -> Option<Finding> {
        self.cache.get(&prepared.key)
    }

    /// Asks.
    ///
    /// # Errors
    /// [`PolicyError::Server`] when there is no answer in time, or none that is one.
    pub async fn ask(&self, prepared: Prepared) -> Result<Finding, PolicyError> {
        let Prepared { body, key } = prepared;
        let failed = |reason: &str| PolicyError::Server(reason.to_owned());
        let permit =
            self.breaker.ask(Instant::now()).map_err(|_| failed("it is left alone after failures"))?;
        let asked = tokio::time::timeout(self.options.limit, self.attempt(body)).await;
        match asked.unwrap_or_else(|_| Err(failed("it did not answer in time"))) {
            Ok(found) => {
                permit.succeeded();
                self.cache.insert(key, found.clone());
                Ok(found)
            }
            Err(error) => {
                if permit.failed(Instant::now()) {
                    tracing::warn!(%error, "the breaker of the policy server has opened");
                }
                Err(error)
            }
        }
    }

    async fn attempt(&self, body: Vec<u8>) -> Result<Finding, PolicyError> {
        let failed = |reason: String| PolicyError::Server(reason);
        let token = match &self.options.token_file {
            Some(path) => {
                let read = tokio::fs::read_to_string(path).await;
                Some(read.map_err(|_| failed("the file of its token cannot be read".to_owned()))?)
            }
            None => None,
        };
        let token = token.as_deref().map(str::trim_end);
        let response = self.http.post(&self.url, token, body, MAX_ANSWER, None).await;
        let response = response.map_err(|error| failed(error.to_string()))?;
        if response.status != 200 {
            return Err(failed(format!("it answered with status {}", response.status)));
        }
        let answered: Answered = serde_json::from_slice(&response.body)
            .map_err(|_| failed("its answer is no JSON object".to_owned()))?;
        let Some(result) = answered.result else {
            return Err(failed(
                "it has no such rule, or the rule is undefined: give it a default".to_owned(),
            ));
        };
        finding(result.into())
    }
}
