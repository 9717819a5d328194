//! Ollama's `/api/chat`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Completed, Said};
use crate::llm::Failure;
use crate::llm::http::Response;
use crate::llm::model::Prompt;

/// A whole answer, or one line of it when it comes piece by piece.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub model: Option<String>,
    message: Option<Said>,
    #[serde(default)]
    pub done: bool,
    pub done_reason: Option<String>,
    #[serde(default)]
    pub prompt_eval_count: u64,
    #[serde(default)]
    pub eval_count: u64,
    error: Option<String>,
}

pub(super) fn request(mut body: Value, prompt: &Prompt) -> Value {
    body["options"] = json!({ "num_predict": prompt.max_tokens });
    if let Some(temperature) = prompt.temperature {
        body["options"]["temperature"] = json!(temperature);
    }
    if let Some(schema) = &prompt.schema {
        body["format"] = schema.clone();
    }
    body
}

impl Answer {
    pub(super) fn parse(json: &[u8]) -> Result<Self, Failure> {
        let answer: Self = serde_json::from_slice(json).map_err(|_| Failure::Malformed)?;
        if answer.error.is_some() { Err(Failure::Server) } else { Ok(answer) }
    }

    pub(super) fn text(&mut self) -> Option<String> {
        self.message.take()?.content
    }
}

pub(super) fn read(response: &Response) -> Result<Completed, Failure> {
    let mut answer = Answer::parse(&response.body)?;
    if !answer.done {
        return Err(Failure::Malformed);
    }
    Ok(Completed {
        text: answer.text().ok_or(Failure::Malformed)?,
        model: answer.model,
        finish: answer.done_reason,
        tokens_in: answer.prompt_eval_count,
        tokens_out: answer.eval_count,
        cost: None,
    })
}
