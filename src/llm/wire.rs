//! What providers are sent and what they send back: the chat completions of OpenAI and OpenRouter, and Ollama's `/api/chat`.
//!
//! Sources: <https://openrouter.ai/docs/api-reference/chat-completion>, <https://openrouter.ai/docs/api-reference/errors>,
//! <https://docs.ollama.com/api/chat>. Fields that are not needed are not read, so that new ones do no harm.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::model::Prompt;
use crate::outbound::Response;

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `POST {base}/chat/completions`.
    OpenAi,
    /// `POST {base}/api/chat`.
    Ollama,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Completed {
    pub text: String,
    pub model: Option<String>,
    /// Why it ended, in the provider's word: `stop`, `length`, …
    pub finish: Option<String>,
    pub tokens_in: u64,
    pub tokens_out: u64,
}

impl Dialect {
    /// Where completions are asked for, below the base address.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/chat/completions",
            Self::Ollama => "/api/chat",
        }
    }

    /// The request's body.
    pub(super) fn request(self, model: &str, prompt: &Prompt) -> Value {
        let mut body = json!({ "model": model, "messages": prompt.messages, "stream": false });
        match self {
            Self::OpenAi => {
                if let Some(temperature) = prompt.temperature {
                    body["temperature"] = json!(temperature);
                }
                body["max_tokens"] = json!(prompt.max_tokens);
            }
            Self::Ollama => {
                body["options"] = json!({ "num_predict": prompt.max_tokens });
                if let Some(temperature) = prompt.temperature {
                    body["options"]["temperature"] = json!(temperature);
                }
            }
        }
        body
    }

    /// What the answer says.
    pub(super) fn read(self, response: &Response) -> Result<Completed, Failure> {
        by_status(response.status, response)?;
        match self {
            Self::OpenAi => read_openai(response),
            Self::Ollama => read_ollama(response),
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

fn read_openai(response: &Response) -> Result<Completed, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        model: Option<String>,
        #[serde(default)]
        choices: Vec<Choice>,
        usage: Option<Usage>,
        error: Option<Trouble>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Option<Said>,
        finish_reason: Option<String>,
        error: Option<Trouble>,
    }
    #[derive(Deserialize)]
    struct Usage {
        #[serde(default)]
        prompt_tokens: u64,
        #[serde(default)]
        completion_tokens: u64,
    }
    // OpenRouter answers 200 and says in the body what went wrong once the model has begun.
    #[derive(Deserialize)]
    struct Trouble {
        code: Option<Value>,
    }
    let answer: Answer = serde_json::from_slice(&response.body).map_err(|_| Failure::Malformed)?;
    let choice = answer.choices.into_iter().next();
    let trouble =
        answer.error.or_else(|| choice.as_ref()?.error.as_ref().map(|t| Trouble { code: t.code.clone() }));
    if let Some(trouble) = trouble {
        let status = trouble.code.and_then(|code| code.as_u64()).and_then(|code| u16::try_from(code).ok());
        by_status(status.filter(|status| *status >= 400).unwrap_or(500), response)?;
    }
    let choice = choice.ok_or(Failure::Malformed)?;
    let text = choice.message.and_then(|said| said.content).ok_or(Failure::Malformed)?;
    let usage = answer.usage.unwrap_or(Usage { prompt_tokens: 0, completion_tokens: 0 });
    Ok(Completed {
        text,
        model: answer.model,
        finish: choice.finish_reason,
        tokens_in: usage.prompt_tokens,
        tokens_out: usage.completion_tokens,
    })
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

fn read_ollama(response: &Response) -> Result<Completed, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        model: Option<String>,
        message: Option<Said>,
        #[serde(default)]
        done: bool,
        done_reason: Option<String>,
        #[serde(default)]
        prompt_eval_count: u64,
        #[serde(default)]
        eval_count: u64,
        error: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(&response.body).map_err(|_| Failure::Malformed)?;
    if answer.error.is_some() {
        return Err(Failure::Server);
    }
    if !answer.done {
        return Err(Failure::Malformed);
    }
    let text = answer.message.and_then(|said| said.content).ok_or(Failure::Malformed)?;
    Ok(Completed {
        text,
        model: answer.model,
        finish: answer.done_reason,
        tokens_in: answer.prompt_eval_count,
        tokens_out: answer.eval_count,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::llm::model::Complete;

    fn response(status: u16, body: &str) -> Response {
        Response { status, retry_after: None, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    // The examples below are those of the providers' documentation, shortened.
    const OPENROUTER: &str = r#"{"id":"gen-xxxxxxxxxxxxxx","choices":[{"finish_reason":"stop","native_finish_reason":"stop",
        "message":{"role":"assistant","content":"Hello there!"}}],
        "usage":{"prompt_tokens":4,"completion_tokens":4,"total_tokens":8,"cost":0.00014},
        "model":"openai/gpt-3.5-turbo"}"#;
    const OLLAMA: &str = r#"{"model":"llama3.2","created_at":"2023-12-12T14:13:43.416799Z",
        "message":{"role":"assistant","content":"Hello! How are you today?"},"done":true,"done_reason":"stop",
        "total_duration":5191566416,"load_duration":2154458,"prompt_eval_count":26,"prompt_eval_duration":383809000,
        "eval_count":298,"eval_duration":4799921000}"#;

    #[test]
    fn completions_are_read() {
        let read = Dialect::OpenAi.read(&response(200, OPENROUTER)).unwrap();
        assert_eq!((read.text.as_str(), read.tokens_in, read.tokens_out), ("Hello there!", 4, 4));
        assert_eq!(
            (read.model.as_deref(), read.finish.as_deref()),
            (Some("openai/gpt-3.5-turbo"), Some("stop"))
        );
        let read = Dialect::Ollama.read(&response(200, OLLAMA)).unwrap();
        assert_eq!(
            (read.text.as_str(), read.tokens_in, read.tokens_out),
            ("Hello! How are you today?", 26, 298)
        );
        assert_eq!(read.finish.as_deref(), Some("stop"));
    }

    #[test]
    fn what_is_no_completion_is_a_failure_of_its_kind() {
        let cases = [
            (
                Dialect::OpenAi,
                401,
                r#"{"error":{"code":401,"message":"No auth credentials found"}}"#,
                Failure::Unauthorized,
            ),
            (
                Dialect::OpenAi,
                402,
                r#"{"error":{"code":402,"message":"Insufficient credits"}}"#,
                Failure::Payment,
            ),
            (Dialect::OpenAi, 429, "", Failure::RateLimited { after: None }),
            (Dialect::OpenAi, 400, "{}", Failure::Refused),
            (Dialect::OpenAi, 502, "<html>", Failure::Server),
            (
                Dialect::OpenAi,
                200,
                r#"{"error":{"code":502,"message":"Provider disconnected"}}"#,
                Failure::Server,
            ),
            (
                Dialect::OpenAi,
                200,
                r#"{"choices":[{"error":{"code":429,"message":"Rate limit"},"message":{"content":""}}]}"#,
                Failure::RateLimited { after: None },
            ),
            (Dialect::OpenAi, 200, r#"{"choices":[{"message":{"content":"cut of"#, Failure::Malformed),
            (Dialect::OpenAi, 200, r#"{"choices":[]}"#, Failure::Malformed),
            (Dialect::OpenAi, 200, r#"{"choices":[{"message":{"content":null}}]}"#, Failure::Malformed),
            (Dialect::Ollama, 404, r#"{"error":"model 'llama9' not found"}"#, Failure::Refused),
            (
                Dialect::Ollama,
                200,
                r#"{"error":"an error was encountered while running the model"}"#,
                Failure::Server,
            ),
            (Dialect::Ollama, 200, r#"{"message":{"content":"half"},"done":false}"#, Failure::Malformed),
            (Dialect::Ollama, 200, r#""just text""#, Failure::Malformed),
        ];
        for (dialect, status, body, failure) in cases {
            assert_eq!(dialect.read(&response(status, body)), Err(failure), "{status} {body}");
        }
    }

    #[test]
    fn requests_have_the_fields_that_the_providers_document() {
        let ask: Complete = serde_json::from_value(
            json!({ "system": "Be brief.", "prompt": "Hi", "temperature": 0.5, "max_tokens": 9 }),
        )
        .unwrap();
        let prompt = ask.prompt().unwrap();
        let messages =
            json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }]);
        assert_eq!(
            Dialect::OpenAi.request("m", &prompt),
            json!({ "model": "m", "messages": messages, "stream": false, "temperature": 0.5, "max_tokens": 9 })
        );
        assert_eq!(
            Dialect::Ollama.request("m", &prompt),
            json!({ "model": "m", "messages": messages, "stream": false, "options": { "num_predict": 9, "temperature": 0.5 } })
        );
    }
}
