//! The log of decisions: who asked what, and what came of it.
//!
//! A decision is put down within [`FLUSH_EVERY`] of its answer, many in one commit, so that judging waits for no disk; one
//! that opens a review, is about an entity or is remembered is put down before its answer. What has not been put down yet is
//! bounded: beyond that nothing is judged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rusqlite::{Connection, ToSql};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::verdict::{AppliedRule, Outcome};
use crate::clock::Timestamp;
use crate::ledger::{Ledger, Unit};
use crate::wire::{Code, Fault};

/// How often decisions are put down.
pub(super) const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Decisions that may wait to be put down.
const WAITING: usize = 16_384;

/// Decisions that are put down, or removed, in one unit of work: well under 5 ms.
const BATCH: u32 = 100;

/// Batches that are handed over together, to share a commit: what 30,000 evaluations a second leave behind in [`FLUSH_EVERY`].
const SHARING: usize = 16;

/// Most decisions of one answer.
const MAX_LIMIT: u32 = 100;

/// A decision as it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Names it; a UUID.
    pub decision_id: String,
    /// When it was made.
    pub at: Timestamp,
    /// Who asked.
    pub principal: Arc<str>,
    /// Whom it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// What was to be done.
    pub action: Action,
    /// What else was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// In [-1, 1].
    pub moral_score: f64,
    /// Weights in favour less weights against.
    pub weighted_score: f64,
    /// The rules that applied.
    pub rules: Arc<[AppliedRule]>,
    /// SHA-256 of the rules that were asked, in hex.
    pub rule_set_hash: Arc<str>,
    /// Who judged.
    pub judge: String,
    /// The model that judged, when one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether a model should have judged, and none could.
    #[serde(default, skip_serializing_if = "super::model::is_false")]
    pub degraded: bool,
    /// What would have come of it by the rules alone, when a model judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_rules: Option<Outcome>,
    /// The review that it opened or joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_id: Option<String>,
}

/// Asks for recorded decisions, the newest first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListDecisions {
    /// Only those made at this time or later.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Only those made before this time.
    #[serde(default)]
    pub to: Option<Timestamp>,
    /// Only those about this entity.
    #[serde(default)]
    pub entity: Option<String>,
    /// Only those that came out so.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Most decisions, from 1 to 100; 20 by default.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 100))]
    pub limit: u32,
    /// `next` of the answer before, for those that follow.
    #[serde(default)]
    pub after: Option<u64>,
}

const fn default_limit() -> u32 {
    20
}

/// Recorded decisions.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Decisions {
    /// The newest first.
    pub decisions: Vec<Decision>,
    /// Where the next page begins; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

impl ListDecisions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// `invalid`, with the field and its range.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if (1..=MAX_LIMIT).contains(&self.limit) {
            Ok(())
        } else {
            Err(Fault::invalid(format!("limit: expected a number from 1 to {MAX_LIMIT}")))
        }
    }
}

/// Decisions that wait to be put down.
#[derive(Debug, Default)]
pub(super) struct Journal {
    waiting: Mutex<Vec<Decision>>,
    /// Held while decisions are put down, so that whoever has flushed finds all that waited before.
    flushing: tokio::sync::Mutex<()>,
}

impl Journal {
    /// Has `decision` put down soon.
    ///
    /// # Errors
    /// `busy` when too many wait.
    pub(super) fn note(&self, decision: Decision) -> Result<(), Fault> {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING {
            return Err(Fault::new(Code::Busy, "the log of decisions cannot keep up").retry_after(100));
        }
        waiting.push(decision);
        Ok(())
    }

    /// Puts down what waits by now. What cannot be put down waits on.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub(super) async fn flush(&self, ledger: &Ledger) -> Result<(), Fault> {
        let _alone = self.flushing.lock().await;
        // What comes meanwhile is left for the next time: otherwise, under load, one commit would follow upon the other.
        let mut left = self.waiting().len();
        while left > 0 {
            let count = left.min(BATCH as usize * SHARING);
            let taken: Arc<[Decision]> = self.waiting().drain(..count).collect();
            left -= count;
            let batches = (0..taken.len()).step_by(BATCH as usize).map(|first| {
                let range = first..taken.len().min(first + BATCH as usize);
                let (taken, here) = (Arc::clone(&taken), range.clone());
                let written = ledger.write(move |unit| {
                    taken[here.clone()].iter().try_for_each(|decision| insert(unit, decision))
                });
                async move { written.await.map_err(|fault| (fault, range)) }
            });
            let failed: Vec<_> = join_all(batches).await.into_iter().filter_map(Result::err).collect();
            if let Some((fault, _)) = failed.first() {
                let kept = failed.iter().flat_map(|(_, range)| taken[range.clone()].iter().cloned());
                self.waiting().splice(0..0, kept);
                return Err(fault.clone());
            }
        }
        Ok(())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Decision>> {
        // A panic elsewhere leaves whole decisions.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts `decision` down.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn insert(unit: &Unit<'_>, decision: &Decision) -> Result<(), Fault> {
    let body = serde_json::to_string(decision).map_err(|_| Fault::internal())?;
    unit.prepare_cached(
        "INSERT INTO conscience_decision (id, at, entity, outcome, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        &decision.decision_id,
        decision.at.millis(),
        &decision.entity,
        decision.outcome.as_str(),
        body,
    ))?;
    Ok(())
}

/// The decisions that `wanted` asks for.
///
/// # Errors
/// When the ledger cannot be read.
pub(super) fn list(connection: &Connection, wanted: &ListDecisions) -> Result<Decisions, Fault> {
    let mut sql = "SELECT seq, body FROM conscience_decision WHERE seq < ?1".to_owned();
    let after = wanted.after.map_or(i64::MAX, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(after)];
    let mut condition = |text: &str, value: Box<dyn ToSql>| {
        values.push(value);
        sql.push_str(&format!(" AND {text} ?{}", values.len()));
    };
    if let Some(from) = wanted.from {
        condition("at >=", Box::new(from.millis()));
    }
    if let Some(to) = wanted.to {
        condition("at <", Box::new(to.millis()));
    }
    if let Some(entity) = &wanted.entity {
        condition("entity =", Box::new(entity.clone()));
    }
    if let Some(outcome) = wanted.outcome {
        condition("outcome =", Box::new(outcome.as_str()));
    }
    // One more than wanted tells whether there is a next page.
    values.push(Box::new(i64::from(wanted.limit) + 1));
    sql.push_str(&format!(" ORDER BY seq DESC LIMIT ?{}", values.len()));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut found = rows
        .map(|row| {
            let (seq, body) = row?;
            let decision = serde_json::from_str(&body).map_err(|error| {
                tracing::error!(seq, %error, "a recorded decision cannot be read");
                Fault::internal()
            })?;
            Ok((seq.unsigned_abs(), decision))
        })
        .collect::<Result<Vec<(u64, Decision)>, Fault>>()?;
    let more = found.len() > wanted.limit as usize;
    found.truncate(wanted.limit as usize);
    let next = found.last().filter(|_| more).map(|(seq, _)| *seq);
    Ok(Decisions { decisions: found.into_iter().map(|(_, decision)| decision).collect(), next })
}

/// Removes some of the decisions made before `before`, or beyond the newest `rows`; whether there may be more.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn prune(unit: &Unit<'_>, before: Timestamp, rows: u64) -> Result<bool, Fault> {
    // One after the other, each by an index: asked for together, every row would be looked at to find that none has to go.
    let too_many = "DELETE FROM conscience_decision WHERE seq IN (
                        SELECT seq FROM conscience_decision
                        WHERE seq <= (SELECT coalesce(max(seq), 0) FROM conscience_decision) - ?1
                        ORDER BY seq LIMIT ?2)";
    let too_old = "DELETE FROM conscience_decision WHERE seq IN (
                       SELECT seq FROM conscience_decision WHERE at < ?1 ORDER BY at LIMIT ?2)";
    for (sql, limit) in [(too_many, i64::try_from(rows).unwrap_or(i64::MAX)), (too_old, before.millis())] {
        if unit.prepare_cached(sql)?.execute((limit, BATCH))? == BATCH as usize {
            return Ok(true);
        }
    }
    Ok(false)
}
