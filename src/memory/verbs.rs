//! What changes one record, in the transaction of the command: store, update, forget, pin. And fetching one.

use std::sync::Arc;

use uuid::Uuid;

use super::Memory;
use super::index::Shard;
use super::model::{self, Layer, Record, Store, Stored};
use super::news::What;
use super::requests::{
    Forget, Forgotten, Get, Got, OneOrMany, Pin, Pinned, StoreAnswer, StoreRequest, StoredMany, Update,
    Updated,
};
use super::retention::DAY_MS;
use super::store::{self, Kept};
use super::versions;
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::soul;
use crate::wire::{Code, Fault};

/// Old versions of one record that are kept at most, however long they would be.
const MAX_VERSIONS: u32 = 100;

impl Memory {
    /// Keeps one record or many that were validated: all, or none.
    ///
    /// # Errors
    /// `conflict` when namespace or user have no room; when the ledger cannot be written.
    pub fn store_all(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        request: &StoreRequest,
    ) -> Result<StoreAnswer, Fault> {
        match request {
            OneOrMany::One(store) => self.store(unit, store).map(OneOrMany::One),
            OneOrMany::Many(many) => {
                let stored =
                    many.records.iter().map(|store| self.store(unit, store)).collect::<Result<_, _>>()?;
                Ok(OneOrMany::Many(StoredMany { stored }))
            }
        }
    }

    /// Keeps a record that was validated.
    ///
    /// # Errors
    /// As [`Memory::store_all`].
    pub fn store(self: &Arc<Self>, unit: &mut Unit<'_>, request: &Store) -> Result<Stored, Fault> {
        let checksum = model::checksum(&request.content);
        if request.if_absent
            && let Some(same) = store::same(unit, &self.seal, &request.namespace, &checksum, unit.now())?
        {
            let sequence = store::sequence(unit, same.shard)?;
            let Record { id, layer, checksum, .. } = same.record;
            if let Some(entity) = &request.entity {
                soul::memory_stored(unit, entity, &id)?;
            }
            return Ok(Stored { id, layer, sequence, checksum, existing: true });
        }
        let record = Record {
            id: new_id(unit.now()),
            layer: request.layer,
            content: request.content.clone(),
            tags: request.tags.clone(),
            entity: request.entity.clone(),
            namespace: request.namespace.clone(),
            user: request.user.clone(),
            source: request.source.clone(),
            importance: request.importance,
            created: unit.now(),
            updated: None,
            expires: request.expires,
            pinned: request.pinned,
            version: 1,
            accesses: 0,
            last_access: None,
            checksum,
        };
        let sequence = store::insert(unit, &self.seal, &self.config.limits, &record)?;
        if let Some(entity) = &record.entity {
            soul::memory_stored(unit, entity, &record.id)?;
        }
        self.changed(unit, What::Stored, &record);
        Ok(Stored {
            id: record.id,
            layer: record.layer,
            sequence,
            checksum: record.checksum,
            existing: false,
        })
    }

    /// Gives a record a new version; the old one is kept as long as configured.
    ///
    /// # Errors
    /// `not_found`; `conflict` when it has another version than the request expects, its seal is broken, or there is no
    /// room; when the ledger cannot be written.
    pub fn update(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        request: &Update,
        asker: &str,
    ) -> Result<Updated, Fault> {
        let old = self.sound(unit, &request.id)?;
        let present = old.record.version;
        if request.if_version.is_some_and(|expected| expected != present) {
            return Err(Fault::new(Code::Conflict, format!("if_version: the record has version {present}")));
        }
        let new = request.apply(&old.record, asker, unit.now());
        let history = self.config.retention.history_days > 0;
        let sequence = store::replace(unit, &self.seal, &self.config.limits, &old, &new, history)?;
        versions::trim(unit, old.key, new.version.saturating_sub(MAX_VERSIONS))?;
        if new.entity != old.record.entity {
            if let Some(entity) = &old.record.entity {
                soul::memory_not_about(unit, entity, &new.id)?;
            }
            if let Some(entity) = &new.entity {
                soul::memory_about(unit, entity, &new.id)?;
            }
        }
        self.changed(unit, What::Updated, &new);
        Ok(Updated { id: new.id, version: new.version, sequence, checksum: new.checksum })
    }

    /// Forgets a record, purges it, or takes back that it was forgotten.
    ///
    /// # Errors
    /// `not_found`; `conflict` when what was not forgotten is to be restored; when the ledger cannot be written.
    pub fn forget(self: &Arc<Self>, unit: &mut Unit<'_>, request: &Forget) -> Result<Forgotten, Fault> {
        let old = store::find(unit, &self.seal, &request.id)?.ok_or_else(no_such_record)?;
        if request.purge {
            store::purge(unit, old.key, true, false)?.ok_or_else(no_such_record)?;
            soul::memory_removed(unit, &old.record.id)?;
            self.changed(unit, What::Purged, &old.record);
            self.erase_after(unit);
            return Ok(Forgotten { forgotten: true, purged: true, purge_after: None });
        }
        if request.undo {
            if old.forgotten.is_none() {
                return Err(Fault::new(Code::Conflict, "the record is not forgotten"));
            }
            store::restore(unit, &self.config.limits, &old)?;
            self.changed(unit, What::Restored, &old.record);
            return Ok(Forgotten { forgotten: false, purged: false, purge_after: None });
        }
        if old.forgotten.is_some() {
            return Err(no_such_record());
        }
        store::forget(unit, &old)?;
        self.changed(unit, What::Forgotten, &old.record);
        let grace = i64::from(self.config.retention.forgotten_days) * DAY_MS;
        Ok(Forgotten { forgotten: true, purged: false, purge_after: Some(unit.now().plus_millis(grace)) })
    }

    /// Has pruning spare a record, or no longer.
    ///
    /// # Errors
    /// `not_found`; `conflict` when its seal is broken; when the ledger cannot be written.
    pub fn pin(self: &Arc<Self>, unit: &mut Unit<'_>, request: &Pin) -> Result<Pinned, Fault> {
        let old = self.sound(unit, &request.id)?;
        if old.record.pinned != request.pinned {
            store::pin(unit, &self.seal, &old, request.pinned)?;
            let what = if request.pinned { What::Pinned } else { What::Unpinned };
            self.changed(unit, what, &old.record);
        }
        Ok(Pinned { id: old.record.id, pinned: request.pinned })
    }

    /// The live record of that id, whose seal holds.
    fn sound(self: &Arc<Self>, unit: &Unit<'_>, id: &str) -> Result<Kept, Fault> {
        let kept = store::find(unit, &self.seal, id)?.ok_or_else(no_such_record)?;
        self.answerable(kept, unit.now())
    }

    /// One record.
    ///
    /// # Errors
    /// `not_found`; `conflict` when its seal is broken; when the ledger cannot be read.
    pub async fn get(&self, request: Get) -> Result<Got, Fault> {
        let seal = self.seal.clone();
        let read = move |connection: &rusqlite::Connection| {
            let Some(kept) = store::find(connection, &seal, &request.id)? else { return Ok(None) };
            let history = request.history.then(|| versions::history(connection, &seal, &kept)).transpose()?;
            Ok(Some((kept, history)))
        };
        let (kept, history) = self.ledger.read(read).await?.ok_or_else(no_such_record)?;
        let now = self.ledger.clock().now();
        let kept = self.answerable(kept, now)?;
        self.recalled([kept.key], now);
        let decayed_importance = self.config.retention.decayed(&kept.record, now);
        let (history, broken_versions) = history.unzip();
        let broken_versions = broken_versions.unwrap_or_default();
        if !broken_versions.is_empty() {
            self.broken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::error!(
                id = kept.record.id,
                versions = broken_versions.len(),
                "the seal of an old version is broken: the ledger was changed from outside; restore a backup, or purge the record"
            );
            self.news.add(What::Broken, kept.record.id.clone(), kept.record.layer);
        }
        Ok(Got { record: kept.record, decayed_importance, history, broken_versions })
    }

    /// `kept`, if it may be in an answer.
    fn answerable(&self, kept: Kept, now: Timestamp) -> Result<Kept, Fault> {
        if kept.forgotten.is_some() {
            return Err(no_such_record());
        }
        if !kept.sound {
            self.report_broken(vec![kept]);
            return Err(Fault::new(
                Code::Conflict,
                "the record's seal is broken: it was changed from outside the node; restore a backup, or purge it",
            ));
        }
        if !kept.is_live(now) {
            return Err(no_such_record());
        }
        Ok(kept)
    }

    /// Says that records were left out of an answer because their seals are broken; returns their ids.
    pub(super) fn report_broken(&self, broken: Vec<Kept>) -> Vec<String> {
        if broken.is_empty() {
            return Vec::new();
        }
        self.broken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let ids: Vec<_> = broken.into_iter().map(|kept| (kept.record.id, kept.record.layer)).collect();
        tracing::error!(
            records = ids.len(),
            first = ids[0].0,
            "the seal of a record is broken: the ledger was changed from outside; restore a backup, or purge it"
        );
        for (id, layer) in &ids {
            self.news.add(What::Broken, id.clone(), *layer);
        }
        ids.into_iter().map(|(id, _)| id).collect()
    }

    /// Counts that records were recalled.
    pub(super) fn recalled(&self, keys: impl IntoIterator<Item = i64>, now: Timestamp) {
        keys.into_iter().for_each(|key| self.accesses.count(key, now));
    }

    /// Has the index follow, and tells the change, once it is committed.
    pub(super) fn changed(self: &Arc<Self>, unit: &mut Unit<'_>, what: What, record: &Record) {
        let (memory, id, layer, created) = (self.clone(), record.id.clone(), record.layer, record.created);
        unit.after_commit(move || {
            memory.projection.control().notify();
            if let Some(semantic) = &memory.semantic {
                match what {
                    What::Stored => semantic.stored(),
                    // It may have come from another layer.
                    _ => Layer::ALL.iter().for_each(|layer| semantic.changed(Shard::of(*layer, created))),
                }
            }
            memory.news.add(what, id, layer);
        });
    }

    /// Has what was purged leave the ledger's log, once that is committed.
    pub(super) fn erase_after(self: &Arc<Self>, unit: &mut Unit<'_>) {
        let memory = self.clone();
        unit.after_commit(move || {
            memory.log_holds_purged.store(true, std::sync::atomic::Ordering::Release);
            if let Some(semantic) = &memory.semantic {
                semantic.purged();
            }
        });
    }
}

/// A UUID version 7 of `now`, so that ids sort by time also where the clock is not the machine's.
pub(super) fn new_id(now: Timestamp) -> String {
    let millis = now.millis().max(0).unsigned_abs();
    // The remainder is below 1,000.
    let nanos = (millis % 1_000) as u32 * 1_000_000;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1_000, nanos)).to_string()
}

pub(super) fn no_such_record() -> Fault {
    Fault::not_found("no record has this id")
}
