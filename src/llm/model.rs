//! What is asked of models, and what they answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::Fault;

/// Most characters of all messages together.
const MAX_CHARS: usize = 100_000;

/// Most messages of one request.
const MAX_MESSAGES: usize = 200;

/// Most tokens that may be asked for.
const MAX_TOKENS: u32 = 16_384;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// Sets the frame.
    System,
    /// Asks.
    User,
    /// Answered before.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Speaker,
    /// What is said.
    pub content: String,
}

/// Asks a model to go on. Either `prompt` or `messages`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// What to answer: one message of the user.
    pub prompt: Option<String>,
    /// A whole conversation, the oldest first: 1 to 200 messages.
    #[schemars(length(min = 1, max = 200))]
    pub messages: Option<Vec<Message>>,
    /// The frame, before everything else.
    pub system: Option<String>,
    /// Most tokens of the answer: 1 to 16,384.
    #[serde(default = "default_tokens")]
    #[schemars(range(min = 1, max = 16_384))]
    pub max_tokens: u32,
    /// How freely it answers, from 0 to 2; the provider's default when absent.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// Whether to tell the answer on `events/jobs` piece by piece as it comes. Whoever may hear events hears it too.
    #[serde(default)]
    pub stream: bool,
}

const fn default_tokens() -> u32 {
    1_024
}

/// A request that was checked.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub messages: Vec<Message>,
    pub max_tokens: u32,
    pub temperature: Option<f64>,
    /// JSON Schema that the answer has to follow.
    pub schema: Option<serde_json::Value>,
}

impl Complete {
    /// Checks it.
    pub(super) fn prompt(self) -> Result<Prompt, Fault> {
        let said = match (self.prompt, self.messages) {
            (Some(prompt), None) => vec![Message { role: Speaker::User, content: prompt }],
            (None, Some(messages)) => messages,
            _ => return Err(Fault::invalid("expected either `prompt` or `messages`")),
        };
        if said.is_empty() || said.len() > MAX_MESSAGES {
            return Err(Fault::invalid(format!("messages: expected 1 to {MAX_MESSAGES}")));
        }
        let frame = self.system.map(|content| Message { role: Speaker::System, content });
        let messages: Vec<_> = frame.into_iter().chain(said).collect();
        if messages.iter().map(|message| message.content.chars().count()).sum::<usize>() > MAX_CHARS {
            return Err(Fault::invalid(format!("expected at most {MAX_CHARS} characters in all messages")));
        }
        if messages.iter().all(|message| message.content.trim().is_empty()) {
            return Err(Fault::invalid("expected a text that is not blank"));
        }
        if !(1..=MAX_TOKENS).contains(&self.max_tokens) {
            return Err(Fault::invalid(format!("max_tokens: expected 1 to {MAX_TOKENS}")));
        }
        if self.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            return Err(Fault::invalid("temperature: expected a number from 0 to 2"));
        }
        Ok(Prompt { messages, max_tokens: self.max_tokens, temperature: self.temperature, schema: None })
    }
}

/// What a model answered.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Completion {
    /// The answer.
    pub text: String,
    /// The model, as its provider calls it.
    pub model: String,
    /// `remote` or `local`.
    pub provider: String,
    /// Why it ended, in the provider's word: `stop`, `length`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// Tokens of the question, as the provider counts.
    pub tokens_in: u64,
    /// Tokens of the answer.
    pub tokens_out: u64,
    /// What it cost in US dollars, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// How long it took, in milliseconds, with all that failed before.
    pub latency_ms: u64,
}

/// Asks how the providers are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskProviders {}

/// The providers, in the order in which they are asked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Providers {
    /// None when no model is configured.
    pub providers: Vec<ProviderState>,
}

/// How a provider is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProviderState {
    /// `remote` or `local`.
    pub provider: String,
    /// The model that is asked for.
    pub model: String,
    /// `closed`: it is asked; `open`: it is left alone; `half_open`: one request tries it.
    pub breaker: String,
    /// How often the breaker has opened since the start.
    pub trips: u64,
    /// Requests that it answered today (UTC).
    pub requests: u64,
    /// Tokens of questions and answers today (UTC).
    pub tokens: u64,
    /// Tokens that it may cost in a day; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily_tokens: Option<u64>,
    /// What it cost today (UTC) in US dollars.
    pub cost_usd: f64,
    /// US dollars that it may cost in a day; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily_usd: Option<f64>,
    /// How often it should have answered and did not, since the start: the next one was asked, or none was left.
    pub fallbacks: u64,
    /// How long its last answer took, in milliseconds; absent when it has given none, since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// Why it failed last; absent when it has not, since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}
