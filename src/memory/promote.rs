//! Promotion: what matters moves from `short_term` to `long_term` before it expires, with its id and its history.

use std::sync::Arc;

use super::model::Layer;
use super::news::What;
use super::requests::{MAX_IDS, Promote, Promoted};
use super::store::{self, Kept};
use super::verbs::no_such_record;
use super::{Memory, upkeep};
use crate::clock::Timestamp;
use crate::engine::jobs::Progress;
use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// Records that are looked at with one read. Each may carry a whole content.
const PAGE: u32 = 200;
/// Records that one unit moves: well under 5 ms.
const UNIT: usize = 16;

impl Memory {
    /// Promotes what is named, or what is due.
    ///
    /// # Errors
    /// `invalid`; for named records `not_found`, and `conflict` when one is not in `short_term` or its seal is broken;
    /// `interrupted` when it was cancelled; when the ledger cannot be read or written.
    pub async fn promote(
        self: &Arc<Self>,
        request: &Promote,
        progress: &Progress,
    ) -> Result<Promoted, Fault> {
        if request.ids.len() > MAX_IDS {
            return Err(Fault::invalid(format!("ids: expected at most {MAX_IDS}")));
        }
        let _alone = self.maintenance.lock().await;
        let now = self.ledger.clock().now();
        let keys =
            if request.ids.is_empty() { self.due(now).await? } else { self.named(&request.ids, now).await? };
        let promoted =
            if request.dry_run { keys.len() as u64 } else { self.move_up(&keys, progress).await? };
        let mut ids: Vec<_> = keys.into_iter().map(|(_, id)| id).collect();
        ids.truncate(MAX_IDS);
        Ok(Promoted { dry_run: request.dry_run, promoted, ids })
    }

    async fn named(&self, ids: &[String], now: Timestamp) -> Result<Vec<(i64, String)>, Fault> {
        let (ids, seal) = (ids.to_vec(), self.seal.clone());
        let read = move |connection: &rusqlite::Connection| {
            ids.into_iter()
                .map(|id| {
                    let kept = store::find(connection, &seal, &id)?.filter(|kept| kept.is_live(now));
                    let kept = kept.ok_or_else(no_such_record)?;
                    if !kept.sound || kept.record.layer != Layer::ShortTerm {
                        let message = format!("{id} is not in short_term, or its seal is broken");
                        return Err(Fault::new(Code::Conflict, message));
                    }
                    Ok((kept.key, id))
                })
                .collect()
        };
        self.ledger.read(read).await
    }

    /// Keys and ids of the records that are due for promotion at `now`.
    pub(super) async fn due(&self, now: Timestamp) -> Result<Vec<(i64, String)>, Fault> {
        let retention = &self.config.retention;
        let horizon = retention.horizon();
        let mut due = Vec::new();
        for state in self.ledger.read(store::shards).await? {
            if state.shard.layer != Layer::ShortTerm || state.records == 0 || state.dropping {
                continue;
            }
            let mut after = 0;
            loop {
                let (seal, row) = (self.seal.clone(), state.row);
                let read = move |connection: &rusqlite::Connection| {
                    store::page(connection, &seal, Some(row), after, PAGE)
                };
                let page = self.ledger.read(read).await?;
                let Some(last) = page.last() else { break };
                after = last.key;
                let promotes = |kept: &Kept| {
                    kept.sound && kept.is_live(now) && retention.promotes(&kept.record, now, horizon)
                };
                due.extend(page.into_iter().filter(promotes).map(|kept| (kept.key, kept.record.id)));
            }
        }
        Ok(due)
    }

    /// Moves records to `long_term`, unless they have changed so that they may not; returns how many.
    pub(super) async fn move_up(
        self: &Arc<Self>,
        keys: &[(i64, String)],
        progress: &Progress,
    ) -> Result<u64, Fault> {
        let total = keys.len() as u64;
        let (mut promoted, mut done) = (0, 0);
        for chunk in keys.chunks(UNIT) {
            if progress.is_cancelled() {
                return Err(Fault::new(
                    Code::Interrupted,
                    "the promotion was cancelled; what was promoted stays so",
                ));
            }
            let (memory, chunk) = (self.clone(), chunk.to_vec());
            done += chunk.len() as u64;
            promoted += self
                .ledger
                .write(move |unit| {
                    let mut moved = 0;
                    for (key, _) in &chunk {
                        moved += u64::from(memory.move_one(unit, *key)?);
                    }
                    Ok(moved)
                })
                .await?;
            progress.report(done, total);
        }
        self.ledger.write(|unit| upkeep::record_run(unit, upkeep::PROMOTE)).await?;
        Ok(promoted)
    }

    fn move_one(self: &Arc<Self>, unit: &mut Unit<'_>, key: i64) -> Result<bool, Fault> {
        let Some(old) = store::find_by_key(unit, &self.seal, key)? else { return Ok(false) };
        if !old.sound || !old.is_live(unit.now()) || old.record.layer != Layer::ShortTerm {
            return Ok(false);
        }
        store::move_to(unit, &self.seal, &old, Layer::LongTerm)?;
        let mut moved = old.record;
        moved.layer = Layer::LongTerm;
        self.changed(unit, What::Promoted, &moved);
        Ok(true)
    }
}
