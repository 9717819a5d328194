//! What providers are sent and what they send back: the chat completions of OpenAI and OpenRouter, and Ollama's `/api/chat`.
//!
//! Sources: <https://openrouter.ai/docs/api-reference/chat-completion>, <https://openrouter.ai/docs/api-reference/errors>,
//! <https://openrouter.ai/docs/features/structured-outputs>, <https://openrouter.ai/docs/api-reference/streaming>,
//! <https://docs.ollama.com/api/chat>, <https://docs.ollama.com/api/streaming>. Fields that are not needed are not read, so that new ones do no harm.

mod ollama;
mod openai;
mod stream;

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::http::Response;
use super::model::Prompt;

pub(super) use stream::Stream;

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `POST {base}/chat/completions`.
    OpenAi,
    /// `POST {base}/api/chat`.
    Ollama,
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Completed {
    pub text: String,
    pub model: Option<String>,
    /// Why it ended, in the provider's word: `stop`, `length`, …
    pub finish: Option<String>,
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// What it cost in US dollars, where the provider says so.
    pub cost: Option<f64>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

impl Dialect {
    /// Where completions are asked for, below the base address.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/chat/completions",
            Self::Ollama => "/api/chat",
        }
    }

    /// The request's body; with `stream` the answer comes piece by piece.
    pub(super) fn request(self, model: &str, prompt: &Prompt, stream: bool) -> Value {
        let body = json!({ "model": model, "messages": prompt.messages, "stream": stream });
        match self {
            Self::OpenAi => openai::request(body, prompt, stream),
            Self::Ollama => ollama::request(body, prompt),
        }
    }

    /// What the answer says, which came in one piece.
    pub(super) fn read(self, response: &Response) -> Result<Completed, Failure> {
        by_status(response.status, response)?;
        match self {
            Self::OpenAi => openai::read(response),
            Self::Ollama => ollama::read(response),
        }
    }
}

fn by_status(status: u16, response: &Response) -> Result<(), Failure> {
    match status {
        200..=299 => Ok(()),
        401 | 403 => Err(Failure::Unauthorized),
        402 => Err(Failure::Payment),
        408 | 504 => Err(Failure::Timeout),
        429 => Err(Failure::RateLimited { after: response.retry_after }),
        400..=499 => Err(Failure::Refused),
        _ => Err(Failure::Server),
    }
}
