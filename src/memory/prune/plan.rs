//! What a pruning would remove: looked up in small reads, before anything is.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::{Connection, params};

use super::super::index::{Shard, ShardState};
use super::super::model::Layer;
use super::super::requests::Prune;
use super::super::retention::{self, DAY_MS, Step};
use super::super::{Memory, store};
use crate::clock::Timestamp;
use crate::wire::Fault;

/// Records that one read looks at; a few milliseconds.
const WINDOW: u32 = 5_000;

/// One shard's part of a pruning.
pub struct Planned {
    pub state: ShardState,
    pub step: Step,
    /// Records that it removes.
    pub records: u64,
}

/// A pruning before it is done.
pub struct Plan {
    pub steps: Vec<Planned>,
    /// Records that have an end of their own which has come and that no step removes, by layer.
    pub ended: HashMap<Layer, u64>,
    /// Records of all layers, before.
    pub present: u64,
    pub states: Vec<ShardState>,
    /// Bytes of each shard's index, before.
    pub index_bytes: HashMap<Shard, u64>,
}

impl Plan {
    /// Records that are removed of `layer`.
    pub fn removed(&self, layer: Layer) -> u64 {
        let of_layer = |planned: &&Planned| planned.state.shard.layer == layer;
        let steps: u64 = self.steps.iter().filter(of_layer).map(|planned| planned.records).sum();
        steps + self.ended.get(&layer).copied().unwrap_or(0)
    }

    /// Of each layer the records that are removed, and those that it has.
    pub fn by_layer(&self) -> impl Iterator<Item = (u64, u64)> {
        Layer::ALL.into_iter().map(|layer| {
            let states = self.states.iter().filter(|state| state.shard.layer == layer);
            (self.removed(layer), states.map(|state| state.records).sum())
        })
    }

    /// Records that are removed of all layers.
    pub fn removed_in_all(&self) -> u64 {
        Layer::ALL.into_iter().map(|layer| self.removed(layer)).sum()
    }
}

/// What pruning needs to know of a record.
pub struct Sight {
    pub key: i64,
    pub created: Timestamp,
    bytes: u64,
    spared: bool,
}

impl Memory {
    /// Plans what `request` removes at `now`. Records with the keys of `promoted` are spared.
    pub(super) async fn plan(
        &self,
        request: &Prune,
        now: Timestamp,
        promoted: &HashSet<i64>,
    ) -> Result<Plan, Fault> {
        let states = self.ledger.read(store::shards).await?;
        let index_bytes = self.index_bytes(&states).await?;
        let present = states.iter().map(|state| state.records).sum();
        let mut plan = Plan { steps: Vec::new(), ended: HashMap::new(), present, states, index_bytes };
        let wanted = |layer: Layer| request.layers.is_empty() || request.layers.contains(&layer);
        for layer in Layer::ALL.into_iter().filter(|layer| wanted(*layer)) {
            let mut shards: Vec<_> =
                plan.states.iter().copied().filter(|state| state.shard.layer == layer).collect();
            shards.sort_by_key(|state| state.shard);
            let index =
                shards.iter().map(|state| plan.index_bytes.get(&state.shard).copied().unwrap_or(0)).sum();
            let steps = self.plan_layer(layer, &shards, index, now, promoted).await?;
            plan.steps.extend(steps);
        }
        plan.ended = self.ended(now, &plan.steps).await?;
        plan.ended.retain(|layer, _| wanted(*layer));
        Ok(plan)
    }

    /// Sizes of the index on disk.
    pub(super) async fn index_bytes(&self, states: &[ShardState]) -> Result<HashMap<Shard, u64>, Fault> {
        let folders: Vec<_> = states.iter().map(|state| state.shard).collect();
        let index = self.ledger.folder().join(super::super::INDEX_FOLDER);
        let walk =
            move || folders.into_iter().map(|shard| (shard, folder_bytes(&shard.folder(&index)))).collect();
        tokio::task::spawn_blocking(walk).await.map_err(|_| Fault::internal())
    }

    /// By age first; then, while the rest does not fit, the oldest.
    async fn plan_layer(
        &self,
        layer: Layer,
        shards: &[ShardState],
        index_bytes: u64,
        now: Timestamp,
        promoted: &HashSet<i64>,
    ) -> Result<Vec<Planned>, Fault> {
        let retention = &self.config.retention;
        let content: u64 = shards.iter().map(|state| state.content_bytes).sum();
        let mut excess = retention::excess(retention.of(layer).max_bytes, content, index_bytes);
        let age = retention.cutoff(layer, now).unwrap_or(Timestamp::from_millis(i64::MIN));
        let mut planned = Vec::new();
        for state in shards {
            let (start, end) = state.shard.span();
            let by_age = retention::step(state, age);
            if by_age.is_none() && excess == 0
                || state.records == 0 && state.forgotten == 0 && !state.dropping
            {
                continue;
            }
            let whole = by_age == Some(Step::Drop);
            // How many go is known of a whole month, unless some of it moves away first.
            if !whole || !promoted.is_empty() {
                let sights = self.sights(state.row, promoted).await?;
                let cutoff = if whole { end } else { later_cutoff(&sights, age, excess).min(end) };
                let gone: Vec<_> =
                    sights.iter().filter(|sight| !sight.spared && sight.created < cutoff).collect();
                excess = excess.saturating_sub(gone.iter().map(|sight| sight.bytes).sum());
                if gone.is_empty() && !whole || cutoff <= start {
                    continue;
                }
                let step = retention::step(state, cutoff).unwrap_or(Step::Before(cutoff));
                planned.push(Planned { state: *state, step, records: gone.len() as u64 });
            } else {
                excess = excess.saturating_sub(state.content_bytes);
                planned.push(Planned { state: *state, step: Step::Drop, records: state.records });
            }
        }
        Ok(planned)
    }

    /// Everything in a shard that is not forgotten, as pruning sees it.
    async fn sights(&self, row: i64, promoted: &HashSet<i64>) -> Result<Vec<Sight>, Fault> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let window = self.ledger.read(move |connection| window(connection, row, after)).await?;
            let Some(last) = window.last() else { return Ok(all) };
            after = last.key;
            all.extend(window.into_iter().map(|mut sight| {
                sight.spared |= promoted.contains(&sight.key);
                sight
            }));
        }
    }

    /// How many records have an end of their own that has come, and are not removed by `steps`.
    async fn ended(&self, now: Timestamp, steps: &[Planned]) -> Result<HashMap<Layer, u64>, Fault> {
        // For each shard from when on a record is left; nothing of one that is dropped is.
        let left: HashMap<i64, i64> = steps
            .iter()
            .map(|planned| match planned.step {
                Step::Drop => (planned.state.row, i64::MAX),
                Step::Before(cutoff) => (planned.state.row, cutoff.millis()),
            })
            .collect();
        let count = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT s.layer, r.shard, r.created FROM memory_record r JOIN memory_shard s USING (shard)
                 WHERE r.expires <= ?1 AND r.pinned = 0 AND r.forgotten IS NULL",
            )?;
            let mut rows = statement.query([now.millis()])?;
            let mut counted = HashMap::new();
            while let Some(row) = rows.next()? {
                let (layer, shard, created): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                if let Some(layer) = Layer::parse(&layer)
                    && left.get(&shard).is_none_or(|from| created >= *from)
                {
                    *counted.entry(layer).or_default() += 1;
                }
            }
            Ok(counted)
        };
        self.ledger.read(count).await
    }
}

/// The cutoff that makes room for `excess` bytes, at least `age`: to the minute, so that counting takes little memory.
fn later_cutoff(sights: &[Sight], age: Timestamp, excess: u64) -> Timestamp {
    const MINUTE: i64 = DAY_MS / 1_440;
    let mut minutes: BTreeMap<i64, u64> = BTreeMap::new();
    for sight in sights.iter().filter(|sight| !sight.spared) {
        *minutes.entry(sight.created.millis().div_euclid(MINUTE)).or_default() += sight.bytes;
    }
    let mut gone = 0;
    let mut cutoff = age;
    for (minute, bytes) in minutes {
        if gone >= excess {
            break;
        }
        gone += bytes;
        cutoff = cutoff.max(Timestamp::from_millis((minute + 1).saturating_mul(MINUTE)));
    }
    cutoff
}

/// The next records of a shard after `after`, by key.
pub fn window(connection: &Connection, row: i64, after: i64) -> Result<Vec<Sight>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT key, created, octet_length(content), pinned FROM memory_record
         WHERE shard = ?1 AND key > ?2 AND forgotten IS NULL ORDER BY key LIMIT ?3",
    )?;
    let rows = statement.query_map(params![row, after, WINDOW], |row| {
        Ok(Sight {
            key: row.get(0)?,
            created: Timestamp::from_millis(row.get(1)?),
            bytes: store::unsigned(row, 2)?,
            spared: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}
