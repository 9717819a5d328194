//! Pruning: what its layer no longer keeps goes, whole months where that is possible, and the disk is given back.
//!
//! It is cut into units of a few milliseconds, so that no command waits for it, and each unit looks again whether what it
//! removes may still go. A run that a crash cut off leaves nothing undone that the next one does not do.

mod plan;

pub(super) use plan::Planned;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use self::plan::Plan;
use super::index::ShardState;
use super::model::Layer;
use super::news::What;
use super::requests::{Prune, Pruned, PrunedLayer};
use super::retention::{DAY_MS, Holdings, Step};
use super::{Memory, store, upkeep};
use crate::clock::Timestamp;
use crate::engine::jobs::Progress;
use crate::ledger::Unit;
use crate::soul;
use crate::wire::{Code, Fault};

/// Longest time that one unit removes records.
const UNIT_TIME: Duration = Duration::from_millis(3);
/// Keys that are looked up for one unit.
const KEYS: u32 = 256;
/// How long the index may take to let go of a month.
const DROP_LIMIT: Duration = Duration::from_secs(60);

/// Why a record goes.
#[derive(Clone, Copy)]
struct Why {
    what: What,
    layer: Layer,
    /// Whether the index follows record by record.
    follow: bool,
    /// Whether it is spared when it is pinned.
    spare_pinned: bool,
    /// What has to hold besides.
    untouched: Option<Untouched>,
}

/// Spares what came or was changed after the ledger was read for an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untouched {
    /// The last key that there was.
    pub last_key: i64,
    /// Only what was written before.
    pub before: Timestamp,
}

impl Memory {
    /// Removes what is too old or does not fit, promotes before what matters, purges what was forgotten long ago.
    ///
    /// # Errors
    /// `conflict` when it would remove more than the configured share and is not confirmed: the message has the word to
    /// confirm with; `interrupted` when it was cancelled; when the ledger cannot be read or written.
    pub async fn prune(
        self: &Arc<Self>,
        request: &Prune,
        word: Option<&str>,
        progress: &Progress,
    ) -> Result<Pruned, Fault> {
        let _alone = self.maintenance.lock().await;
        let now = self.ledger.clock().now();
        let mut due = self.due(now).await?;
        if !request.layers.is_empty() && !request.layers.contains(&Layer::ShortTerm) {
            due.clear();
        }
        let keys: HashSet<i64> = due.iter().map(|(key, _)| *key).collect();
        let plan = self.plan(request, now, &keys).await?;
        let (lost, held) = self.at_stake(&plan, now).await?;
        let last = self.ledger.read(|connection| upkeep::last_run(connection, upkeep::PRUNE)).await?;
        let retention = &self.config.retention;
        let too_much = retention.is_too_much(&lost, &held, last, now)
            || retention.empties_a_layer(plan.by_layer(), last, now);
        let expected = self.word(request, now);
        let confirmed = word == Some(&*expected);
        // A person who looks at it has the clock in view.
        let by = if too_much || confirmed { now } else { retention.believed(last, now) };
        let lost = if by == now { lost } else { self.at_stake(&plan, by).await?.0 };
        let mut pruned = self.describe(request, &plan, &lost, due.len() as u64);
        if request.dry_run {
            pruned.confirm = too_much.then_some(expected);
            return Ok(pruned);
        }
        if too_much && !confirmed {
            let share = self.config.retention.max_share * 100.0;
            return Err(Fault::new(
                Code::Conflict,
                format!(
                    "it would remove {} of {} records, {} of {} forgotten ones and {} of {} old versions, more than {share:.0} % of \
                     all, or of a layer: look at the node's clock, and if that is right, confirm it today: memory/prune/confirm with word = \
                     \"{expected}\"",
                    lost.records, held.records, lost.forgotten, held.forgotten, lost.versions, held.versions
                ),
            ));
        }
        let total = lost.records + lost.forgotten;
        self.move_up(&due, progress).await?;
        for step in &plan.steps {
            let done = removed(&pruned);
            progress.report(done, total);
            let gone = self.carry_out(step, (What::Pruned, None), progress, (done, total)).await?;
            if let Some(layer) = pruned.layers.iter_mut().find(|layer| layer.layer == step.state.shard.layer)
            {
                layer.removed += gone;
                layer.months_dropped += u64::from(step.step == Step::Drop);
            }
        }
        self.remove_ended(request, now, &mut pruned, (progress, total)).await?;
        pruned.purged = self.purge_forgotten(by, progress, (removed(&pruned), total)).await?;
        pruned.versions = self.remove_versions(by).await?;
        let touched: Vec<_> = plan.states.iter().map(|state| state.shard).collect();
        self.give_back(&touched).await?;
        self.ledger.write(|unit| upkeep::record_run(unit, upkeep::PRUNE)).await?;
        self.measure_after(&mut pruned).await?;
        progress.report(total, total);
        Ok(pruned)
    }

    /// The word that confirms a run today, with these retention settings.
    fn word(&self, request: &Prune, now: Timestamp) -> String {
        let date = now.to_string();
        let settings = (&self.config.retention.layers, &request.layers);
        self.seal.token(&format!("prune {} {settings:?}", &date[..10]))
    }

    /// How it is before, and in a dry run what would go.
    fn describe(&self, request: &Prune, plan: &Plan, lost: &Holdings, due: u64) -> Pruned {
        let wanted = |layer: &Layer| request.layers.is_empty() || request.layers.contains(layer);
        let layers = Layer::ALL.into_iter().filter(wanted).map(|layer| {
            let states: Vec<_> = plan.states.iter().filter(|state| state.shard.layer == layer).collect();
            let records = states.iter().map(|state| state.records).sum();
            let bytes =
                |state: &&ShardState| state.content_bytes + plan.index_bytes.get(&state.shard).unwrap_or(&0);
            let drops = |planned: &&Planned| planned.state.shard.layer == layer && planned.step == Step::Drop;
            let (removed, months_dropped) = if request.dry_run {
                (plan.removed(layer), plan.steps.iter().filter(drops).count() as u64)
            } else {
                (0, 0)
            };
            PrunedLayer {
                layer,
                removed,
                months_dropped,
                records_before: records,
                records_after: records.saturating_sub(removed),
                bytes_before: states.iter().map(bytes).sum(),
                bytes_after: None,
            }
        });
        let layers = layers.collect();
        let (purged, versions) = if request.dry_run { (lost.forgotten, lost.versions) } else { (0, 0) };
        Pruned {
            dry_run: request.dry_run,
            layers,
            promoted: due,
            purged,
            versions,
            ledger_bytes_before: self.ledger.disk_bytes(),
            ledger_bytes_after: None,
            confirm: None,
        }
    }

    async fn measure_after(&self, pruned: &mut Pruned) -> Result<(), Fault> {
        let states = self.ledger.read(store::shards).await?;
        let index = self.index_bytes(&states).await?;
        for layer in &mut pruned.layers {
            let of_layer = || states.iter().filter(|state| state.shard.layer == layer.layer);
            layer.records_after = of_layer().map(|state| state.records).sum();
            let bytes = |state: &ShardState| state.content_bytes + index.get(&state.shard).unwrap_or(&0);
            layer.bytes_after = Some(of_layer().map(bytes).sum());
        }
        pruned.ledger_bytes_after = Some(self.ledger.disk_bytes());
        Ok(())
    }

    /// Removes what `planned` says; returns how many records.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        planned: &Planned,
        (what, untouched): (What, Option<Untouched>),
        progress: &Progress,
        (before, total): (u64, u64),
    ) -> Result<u64, Fault> {
        let state = &planned.state;
        let layer = state.shard.layer;
        let mut removed = 0;
        let cutoff = match planned.step {
            Step::Before(cutoff) => cutoff,
            Step::Drop => {
                let end = state.shard.span().1;
                if self.begin_drop(state.row).await? {
                    let why = Why { what, layer, follow: false, spare_pinned: true, untouched };
                    let row = state.row;
                    let keys = move |connection: &Connection| all_of_dropping(connection, row);
                    let removing = self.remove(keys, why, progress, (before, total));
                    removed += removing.await?;
                    if self.end_drop(state).await? {
                        return Ok(removed);
                    }
                }
                // Something in it was pinned or came back meanwhile: what may go is removed one by one.
                end
            }
        };
        let mut after = 0;
        loop {
            let row = state.row;
            let window = self.ledger.read(move |connection| plan::window(connection, row, after)).await?;
            let Some(last) = window.last() else { return Ok(removed) };
            after = last.key;
            let old = window.into_iter().filter(|sight| sight.created < cutoff);
            let why = Why { what, layer, follow: true, spare_pinned: true, untouched };
            removed += self.remove_keys(old.map(|sight| sight.key).collect(), why, progress).await?;
            progress.report(before + removed, total);
        }
    }

    /// Removes the records whose keys `next` gives, until it gives none: it looks in the ledger each time.
    async fn remove(
        self: &Arc<Self>,
        next: impl Fn(&Connection) -> Result<Vec<i64>, Fault> + Clone + Send + 'static,
        why: Why,
        progress: &Progress,
        (before, total): (u64, u64),
    ) -> Result<u64, Fault> {
        let mut removed = 0;
        loop {
            let look = next.clone();
            let keys = self.ledger.read(move |connection| look(connection)).await?;
            if keys.is_empty() {
                return Ok(removed);
            }
            let gone = self.remove_keys(keys, why, progress).await?;
            removed += gone;
            progress.report(before + removed, total);
            if gone == 0 {
                // None of them may go any more.
                return Ok(removed);
            }
        }
    }

    /// Removes records in units of at most [`UNIT_TIME`]. Returns how many there were.
    async fn remove_keys(
        self: &Arc<Self>,
        keys: Vec<i64>,
        why: Why,
        progress: &Progress,
    ) -> Result<u64, Fault> {
        let (mut removed, mut done) = (0, 0);
        while done < keys.len() {
            if progress.is_cancelled() {
                return Err(Fault::new(Code::Interrupted, "it was cancelled; what was removed stays so"));
            }
            let memory = self.clone();
            let listed = keys[done..keys.len().min(done + KEYS as usize)].to_vec();
            let (looked_at, gone) =
                self.ledger.write(move |unit| memory.remove_some(unit, &listed, why)).await?;
            done += looked_at;
            removed += gone;
        }
        Ok(removed)
    }

    /// Removes the first of `keys`, as many as there is time for. Returns how many keys were dealt with, and how many
    /// records are gone.
    fn remove_some(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        keys: &[i64],
        why: Why,
    ) -> Result<(usize, u64), Fault> {
        let started = Instant::now();
        let (mut done, mut gone) = (0, Vec::new());
        for key in keys {
            done += 1;
            if let Some(Untouched { last_key, before }) = why.untouched
                && (*key > last_key || !store::written_before(unit, *key, before)?)
            {
                continue;
            }
            if let Some(purged) = store::purge(unit, *key, why.follow, why.spare_pinned)? {
                soul::memory_removed(unit, &purged.id)?;
                gone.push(purged.id);
            }
            if started.elapsed() >= UNIT_TIME {
                break;
            }
        }
        let removed = gone.len() as u64;
        let memory = self.clone();
        self.erase_after(unit);
        unit.after_commit(move || {
            if why.follow {
                memory.projection.control().notify();
            }
            gone.into_iter().for_each(|id| memory.news.add(why.what, id, why.layer));
        });
        Ok((done, removed))
    }

    /// Has the index let go of a month. `false` when something in it is pinned.
    async fn begin_drop(self: &Arc<Self>, row: i64) -> Result<bool, Fault> {
        let control = self.projection.control().clone();
        self.ledger
            .write(move |unit| {
                // Two sequences: the index is at most at the first, so that whatever it still has is known to be old.
                let allocate = || -> Result<i64, rusqlite::Error> {
                    unit.prepare_cached("INSERT INTO memory_change (shard, record) VALUES (?1, 0)")?.execute([row])?;
                    Ok(unit.last_insert_rowid())
                };
                let (first, second) = (allocate()?, allocate()?);
                let begun = unit
                    .prepare_cached(
                        "UPDATE memory_shard SET dropping = 1, settled = ?2, changed = ?3 WHERE shard = ?1 AND pinned = 0",
                    )?
                    .execute(params![row, first, second])?;
                if begun > 0 {
                    unit.prepare_cached("DELETE FROM memory_change WHERE shard = ?1")?.execute([row])?;
                    let control = control.clone();
                    unit.after_commit(move || control.notify());
                } else {
                    unit.prepare_cached("DELETE FROM memory_change WHERE sequence IN (?1, ?2)")?
                        .execute([first, second])?;
                }
                Ok(begun > 0)
            })
            .await
    }

    /// Ends the removal of a month, once the index has let go of it. `false` when it has come back to life.
    async fn end_drop(&self, state: &ShardState) -> Result<bool, Fault> {
        let shard = state.shard;
        let now = self.ledger.read(store::shards).await?.into_iter().find(|state| state.shard == shard);
        let Some(now) = now.filter(|state| state.dropping) else { return Ok(false) };
        if !self.projection.control().wait_latest(&[now], DROP_LIMIT).await {
            // The next run ends it.
            return Ok(true);
        }
        self.projection.release(shard);
        let (row, removed) = (state.row, now.changed);
        let control = self.projection.control().clone();
        let ended = move |unit: &mut Unit<'_>| {
            // As a shard that never had a record: who brings some back begins it anew, and nothing is missing.
            let ended = unit
                .prepare_cached(
                    "UPDATE memory_shard SET dropping = 0, changed = 0, settled = 0, purged = 0, compacted = 0
                     WHERE shard = ?1 AND dropping = 1
                       AND NOT EXISTS (SELECT 1 FROM memory_record r WHERE r.shard = ?1)",
                )?
                .execute([row])?;
            if ended > 0 {
                let control = control.clone();
                unit.after_commit(move || control.forget(shard, removed));
            } else {
                // Something is left: the month goes on, and its index is built anew.
                unit.prepare_cached("UPDATE memory_shard SET dropping = 0 WHERE shard = ?1")?
                    .execute([row])?;
            }
            Ok(ended > 0)
        };
        self.ledger.write(ended).await
    }

    /// Records that have an end of their own which has come.
    async fn remove_ended(
        self: &Arc<Self>,
        request: &Prune,
        now: Timestamp,
        pruned: &mut Pruned,
        (progress, total): (&Progress, u64),
    ) -> Result<(), Fault> {
        for layer in
            Layer::ALL.into_iter().filter(|layer| request.layers.is_empty() || request.layers.contains(layer))
        {
            let keys = move |connection: &Connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT r.key FROM memory_record r JOIN memory_shard s USING (shard)
                     WHERE r.expires <= ?1 AND r.pinned = 0 AND r.forgotten IS NULL AND s.layer = ?2 LIMIT ?3",
                )?;
                let rows =
                    statement.query_map(params![now.millis(), layer.as_str(), KEYS], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            };
            let why = Why { what: What::Pruned, layer, follow: true, spare_pinned: true, untouched: None };
            let gone = self.remove(keys, why, progress, (removed(pruned), total)).await?;
            pruned
                .layers
                .iter_mut()
                .filter(|pruned| pruned.layer == layer)
                .for_each(|pruned| pruned.removed += gone);
        }
        Ok(())
    }

    /// Records whose time of grace after they were forgotten is over.
    async fn purge_forgotten(
        self: &Arc<Self>,
        now: Timestamp,
        progress: &Progress,
        (before, total): (u64, u64),
    ) -> Result<u64, Fault> {
        let grace_ended = self.grace_ended(now).millis();
        let mut purged = 0;
        for layer in Layer::ALL {
            let keys = move |connection: &Connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT r.key FROM memory_record r JOIN memory_shard s USING (shard)
                     WHERE r.forgotten <= ?1 AND s.layer = ?2 LIMIT ?3",
                )?;
                let rows =
                    statement.query_map(params![grace_ended, layer.as_str(), KEYS], |row| row.get(0))?;
                Ok(rows.collect::<Result<_, _>>()?)
            };
            let why = Why { what: What::Purged, layer, follow: true, spare_pinned: false, untouched: None };
            purged += self.remove(keys, why, progress, (before + purged, total)).await?;
        }
        Ok(purged)
    }

    fn grace_ended(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(-i64::from(self.config.retention.forgotten_days) * DAY_MS)
    }

    fn history_ended(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(-i64::from(self.config.retention.history_days) * DAY_MS)
    }

    async fn remove_versions(self: &Arc<Self>, now: Timestamp) -> Result<u64, Fault> {
        let before = self.history_ended(now).millis();
        let mut removed = 0;
        loop {
            let memory = self.clone();
            let some = self.ledger.write(move |unit| {
                let gone = unit
                    .prepare_cached(
                        "DELETE FROM memory_version WHERE entry IN
                             (SELECT entry FROM memory_version WHERE replaced <= ?1 LIMIT 50)",
                    )?
                    .execute([before])?;
                if gone > 0 {
                    memory.erase_after(unit);
                }
                Ok(gone as u64)
            });
            match some.await? {
                0 => return Ok(removed),
                gone => removed += gone,
            }
        }
    }

    /// What `plan` removes and what would be purged besides at `now`, and all that there is.
    async fn at_stake(&self, plan: &Plan, now: Timestamp) -> Result<(Holdings, Holdings), Fault> {
        let (forgotten, replaced) = (self.grace_ended(now).millis(), self.history_ended(now).millis());
        let count = move |connection: &Connection| {
            let one =
                |sql: &str, before: i64| connection.query_row(sql, [before], |row| store::unsigned(row, 0));
            let versions = "SELECT count(*) FROM memory_version WHERE replaced <= ?1";
            Ok((
                one("SELECT count(*) FROM memory_record WHERE forgotten <= ?1", forgotten)?,
                one(versions, replaced)?,
                one(versions, i64::MAX)?,
            ))
        };
        let (purged, old, versions) = self.ledger.read(count).await?;
        let lost = Holdings { records: plan.removed_in_all(), forgotten: purged, versions: old };
        let forgotten = plan.states.iter().map(|state| state.forgotten).sum();
        Ok((lost, Holdings { records: plan.present, forgotten, versions }))
    }
}

/// Records that a run has removed so far.
fn removed(pruned: &Pruned) -> u64 {
    pruned.layers.iter().map(|layer| layer.removed).sum()
}

/// Keys of a month that is being dropped; none once it has come back to life.
fn all_of_dropping(connection: &Connection, row: i64) -> Result<Vec<i64>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT key FROM memory_record
         WHERE shard = ?1 AND (SELECT dropping FROM memory_shard WHERE shard = ?1) = 1 LIMIT ?2",
    )?;
    let rows = statement.query_map(params![row, KEYS], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
