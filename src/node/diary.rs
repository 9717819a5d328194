//! Evaluations in memory: what the conscience leaves of itself in short-term memory, in one transaction with its decision.

use std::sync::Arc;

use crate::conscience::{Action, Decision, Diary, Subject};
use crate::ledger::Unit;
use crate::memory::Memory;
use crate::memory::model::Store;
use crate::wire::Fault;

/// Characters of the action that are remembered.
const ACTION_CHARS: usize = 1_000;

/// Writes into memory.
pub(super) struct MemoryDiary(pub(super) Arc<Memory>);

impl Diary for MemoryDiary {
    fn remember(&self, unit: &mut Unit<'_>, decision: &Decision, explanation: &str) -> Result<String, Fault> {
        let action = match &decision.action {
            Action::Text(text) => text.clone(),
            call @ Action::Call(_) => Subject::new(call, None, None)?.text().to_owned(),
        };
        let action: String = action.chars().take(ACTION_CHARS).collect();
        let store = Store {
            content: format!("{action}\n{explanation}"),
            layer: Default::default(),
            tags: vec!["evaluation".to_owned(), decision.outcome.as_str().to_owned()],
            entity: decision.entity.clone(),
            importance: 0.5,
        };
        Ok(self.0.store(unit, &store)?.id)
    }
}
