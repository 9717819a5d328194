//! The chat completions of OpenAI and OpenRouter.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Completed, Said, by_status};
use crate::llm::Failure;
use crate::llm::http::Response;
use crate::llm::model::Prompt;

#[derive(Deserialize)]
pub(super) struct Answer {
    pub model: Option<String>,
    #[serde(default)]
    pub choices: Vec<Choice>,
    pub usage: Option<Usage>,
    pub error: Option<Trouble>,
}

#[derive(Deserialize)]
pub(super) struct Choice {
    message: Option<Said>,
    /// In place of `message` when the answer comes piece by piece.
    pub delta: Option<Said>,
    pub finish_reason: Option<String>,
    error: Option<Trouble>,
}

#[derive(Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    /// OpenRouter: US dollars.
    cost: Option<f64>,
}

/// OpenRouter answers 200 and says in the body what went wrong once the model has begun.
#[derive(Deserialize)]
pub(super) struct Trouble {
    code: Option<Value>,
}

pub(super) fn request(mut body: Value, prompt: &Prompt, stream: bool) -> Value {
    if let Some(temperature) = prompt.temperature {
        body["temperature"] = json!(temperature);
    }
    body["max_tokens"] = json!(prompt.max_tokens);
    if let Some(schema) = &prompt.schema {
        let schema = json!({ "name": "answer", "strict": true, "schema": schema });
        body["response_format"] = json!({ "type": "json_schema", "json_schema": schema });
    }
    if stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    body
}

impl Answer {
    /// What it says went wrong.
    pub(super) fn trouble(&self, response: &Response) -> Result<(), Failure> {
        let choice = self.choices.first();
        let Some(trouble) = self.error.as_ref().or_else(|| choice?.error.as_ref()) else { return Ok(()) };
        let status = trouble.code.as_ref().and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        by_status(status.filter(|status| *status >= 400).unwrap_or(500), response)
    }
}

impl Usage {
    pub(super) fn note(&self, completed: &mut Completed) {
        completed.tokens_in = self.prompt_tokens;
        completed.tokens_out = self.completion_tokens;
        completed.cost = self.cost.filter(|cost| *cost >= 0.0);
    }
}

pub(super) fn read(response: &Response) -> Result<Completed, Failure> {
    let answer: Answer = serde_json::from_slice(&response.body).map_err(|_| Failure::Malformed)?;
    answer.trouble(response)?;
    let choice = answer.choices.into_iter().next().ok_or(Failure::Malformed)?;
    let text = choice.message.and_then(|said| said.content).ok_or(Failure::Malformed)?;
    let mut completed =
        Completed { text, model: answer.model, finish: choice.finish_reason, ..Completed::default() };
    if let Some(usage) = answer.usage {
        usage.note(&mut completed);
    }
    Ok(completed)
}
