//! The models as judges of what the conscience's rules leave open.

use std::sync::Arc;

use crate::conscience::{Brief, Judge, Spoken};
use crate::engine::command::BoxFuture;
use crate::llm::{Formal, Given, Llm};

/// Most tokens of an opinion: its reason has 200 characters, and some models think aloud first.
const MAX_TOKENS: u32 = 1_000;

/// Asks the models in their order.
pub(super) struct NodeJudge(pub(super) Arc<Llm>);

impl Judge for NodeJudge {
    fn ask(&self, brief: Brief) -> BoxFuture<Result<Spoken, Vec<String>>> {
        let llm = self.0.clone();
        Box::pin(async move {
            let asked = Formal {
                instructions: brief.instructions.to_owned(),
                question: brief.case,
                schema: brief.schema,
                max_tokens: MAX_TOKENS,
                limit: brief.limit,
            };
            let Given { answer, provider, model, missed } = llm.formal(asked, Brief::read).await?;
            Ok(Spoken { opinion: answer, by: provider, model, missed })
        })
    }
}
