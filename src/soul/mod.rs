//! Entities that the node deals with: trust, emotions, and the memories about them.
//!
//! Promises: trust and intensities are in [0, 1] and depend on what happened and on time alone, not on how often anyone
//! looks; what an evaluation or a store does here is in the transaction of its cause. Must not: know topics or MQTT, or
//! read another service's tables.

pub mod formulas;
pub mod model;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rusqlite::Connection;

use crate::clock::{Clock, Timestamp};
use crate::engine::command::{Answer, Entry};
use crate::engine::jobs::Progress;
use crate::ledger::{Ledger, Unit};
use crate::wire::{Code, Fault};
use formulas::{FIRST_TRUST, Feelings, empathy, felt_about, merged};
use model::{
    AskHistory, Decay, Decayed, Deleted, Emotions, Entities, Entity, Felt, History, Link, Linked, List,
    MAX_ENTITIES, Merge, Named, Order, Unlinked, Upsert, Upserted, WithMemories, check_limit, check_name,
    check_unit,
};
use store::{Happened, Stored};

/// Entities that one unit of a decay removes.
const BATCH: usize = 50;

/// Names that a decay shows.
const SHOWN: usize = 100;

/// The running service.
pub struct Soul {
    ledger: Ledger,
    clock: Clock,
}

/// Every command of the soul.
#[must_use]
pub fn commands() -> Vec<Entry<Soul>> {
    const SERVICE: &str = "soul";
    vec![
        Entry::write(
            SERVICE,
            "upsert",
            "Adds an entity, or changes what is known of it",
            |_: &Arc<Soul>, _, request: Upsert| {
                request.check()?;
                Ok(move |unit: &mut Unit<'_>| upsert(unit, &request))
            },
        ),
        Entry::write(
            SERVICE,
            "record",
            "Records an emotion towards an entity",
            |_: &Arc<Soul>, _, request: Felt| {
                check_name(&request.name)?;
                check_unit("intensity", request.intensity)?;
                Ok(move |unit: &mut Unit<'_>| {
                    let felt = (request.emotion, request.intensity);
                    let entity = known_or_new(unit, &request.name)?;
                    feel(unit, entity, "record", felt, None).map(|entity| shown(&entity, unit.now()))
                })
            },
        ),
        Entry::read(
            SERVICE,
            "get",
            "Shows one entity and the memories about it",
            |soul: Arc<Soul>, _, request: Named| async move { soul.get(request.name).await.map(Answer::from) },
        ),
        Entry::read(SERVICE, "list", "Lists entities", |soul: Arc<Soul>, _, request: List| async move {
            check_limit(request.limit)?;
            soul.list(request).await.map(Answer::from)
        }),
        Entry::write(SERVICE, "link", "Links a memory to an entity", |_: &Arc<Soul>, _, request: Link| {
            request.check()?;
            Ok(move |unit: &mut Unit<'_>| {
                let entity = known(unit, &request.name)?;
                if !store::is_memory(unit, &request.memory)? {
                    return Err(Fault::not_found("no memory has this id"));
                }
                let (linked, evicted) = store::link(unit, entity.key, &request.memory)?;
                Ok(Linked { linked, evicted })
            })
        }),
        Entry::write(
            SERVICE,
            "unlink",
            "Takes the link between a memory and an entity away",
            |_: &Arc<Soul>, _, request: Link| {
                request.check()?;
                Ok(move |unit: &mut Unit<'_>| {
                    let entity = known(unit, &request.name)?;
                    Ok(Unlinked { unlinked: store::unlink(unit, entity.key, &request.memory)? })
                })
            },
        ),
        Entry::read(
            SERVICE,
            "history",
            "Shows what happened with an entity",
            |soul: Arc<Soul>, _, request: AskHistory| async move {
                check_limit(request.limit)?;
                let events = soul.ledger.read(move |connection| {
                    let entity = known(connection, &request.name)?;
                    store::history(connection, entity.key, request.before, request.limit)
                });
                Ok(History { events: events.await? }.into())
            },
        ),
        Entry::job(
            SERVICE,
            "decay",
            "Counts the entities that are hardly trusted any more, and removes them when asked to",
            true,
            |soul: Arc<Soul>, _, request: Decay, progress| async move {
                check_unit("below", request.below)?;
                soul.decay(&request, &progress).await.map(Answer::from)
            },
        ),
        Entry::write(
            SERVICE,
            "delete",
            "Removes an entity, its history and its links; memories stay",
            |_: &Arc<Soul>, _, request: Named| {
                Ok(move |unit: &mut Unit<'_>| {
                    store::delete(unit, known(unit, &request.name)?.key)?;
                    Ok(Deleted { deleted: true })
                })
            },
        )
        .when_full(),
        Entry::write(
            SERVICE,
            "merge",
            "Makes two entities one, with the history and links of both",
            |_: &Arc<Soul>, _, request: Merge| {
                request.check()?;
                Ok(move |unit: &mut Unit<'_>| merge(unit, &request))
            },
        ),
    ]
}

/// An evaluation that named an entity: what it makes one feel is recorded. Part of the evaluation's transaction.
///
/// # Errors
/// When the ledger cannot be written.
pub fn evaluated(unit: &Unit<'_>, name: &str, score: f64, decision: &str) -> Result<(), Fault> {
    match known_or_new(unit, name) {
        Ok(entity) => feel(unit, entity, "evaluation", felt_about(score), Some(decision)).map(drop),
        Err(fault) => passed_over(fault),
    }
}

/// A memory that names an entity was stored: it is linked. Part of the store's transaction.
///
/// # Errors
/// When the ledger cannot be written.
pub fn memory_stored(unit: &Unit<'_>, name: &str, memory: &str) -> Result<(), Fault> {
    match known_or_new(unit, name) {
        Ok(mut entity) => {
            store::link(unit, entity.key, memory)?;
            entity.interactions += 1;
            entity.last_interaction = entity.last_interaction.max(unit.now());
            store::update(unit, &entity)
        }
        Err(fault) => passed_over(fault),
    }
}

/// A memory that is about an entity was brought in, or changed: it is linked, which is no dealing with the entity. Part of
/// the transaction.
///
/// # Errors
/// When the ledger cannot be written.
pub fn memory_about(unit: &Unit<'_>, name: &str, memory: &str) -> Result<(), Fault> {
    match known_or_new(unit, name) {
        Ok(entity) => store::link(unit, entity.key, memory).map(drop),
        Err(fault) => passed_over(fault),
    }
}

/// A memory no longer names an entity: it is linked to it no more. Part of the transaction.
///
/// # Errors
/// When the ledger cannot be written.
pub fn memory_not_about(unit: &Unit<'_>, name: &str, memory: &str) -> Result<(), Fault> {
    match store::find(unit, name)? {
        Some(entity) => store::unlink(unit, entity.key, memory).map(drop),
        None => Ok(()),
    }
}

/// The names of the entities that a memory is linked to.
///
/// # Errors
/// When the ledger cannot be read.
pub fn linked_to(connection: &Connection, memory: &str) -> Result<Vec<String>, Fault> {
    store::linked_to(connection, memory)
}

/// A memory is gone, and so are the links to it. Part of the transaction that removes it.
///
/// # Errors
/// When the ledger cannot be written.
pub fn memory_removed(unit: &Unit<'_>, memory: &str) -> Result<(), Fault> {
    store::unlink_everywhere(unit, memory)
}

/// The memories that are linked to an entity; none where nobody has the name.
///
/// # Errors
/// When the ledger cannot be read.
pub fn linked(connection: &Connection, name: &str) -> Result<Vec<String>, Fault> {
    store::find(connection, name)?
        .map_or_else(|| Ok(Vec::new()), |entity| store::links(connection, entity.key))
}

/// A name that cannot be an entity, or one entity too many, must not undo what it only accompanies.
fn passed_over(fault: Fault) -> Result<(), Fault> {
    if matches!(fault.code, Code::Invalid) {
        tracing::debug!(reason = fault.message, "an entity was not recorded");
        return Ok(());
    }
    Err(fault)
}

fn known(connection: &Connection, name: &str) -> Result<Stored, Fault> {
    store::find(connection, name)?.ok_or_else(|| Fault::not_found("no entity has this name"))
}

fn known_or_new(unit: &Unit<'_>, name: &str) -> Result<Stored, Fault> {
    if let Some(entity) = store::find(unit, name)? {
        return Ok(entity);
    }
    check_name(name)?;
    add(unit, name, FIRST_TRUST)
}

fn add(unit: &Unit<'_>, name: &str, trust: f64) -> Result<Stored, Fault> {
    if store::count(unit)? >= MAX_ENTITIES {
        return Err(Fault::invalid(format!("there are {MAX_ENTITIES} entities, and no more may be added")));
    }
    store::insert(unit, name, trust)
}

fn upsert(unit: &Unit<'_>, request: &Upsert) -> Result<Upserted, Fault> {
    let found = store::find(unit, &request.name)?;
    let created = found.is_none();
    let mut entity = match found {
        Some(entity) => entity,
        None => add(unit, &request.name, FIRST_TRUST)?,
    };
    if let Some(note) = &request.note {
        entity.note = Some(note.clone());
    }
    if let Some(trust) = request.trust {
        let feelings = Feelings { trust, ..entity.feelings_at(unit.now()) };
        entity.feelings = feelings;
        entity.as_of = entity.as_of.max(unit.now());
    }
    store::update(unit, &entity)?;
    Ok(Upserted { created, entity: shown(&entity, unit.now()) })
}

fn feel(
    unit: &Unit<'_>,
    mut entity: Stored,
    cause: &'static str,
    felt: (formulas::Emotion, f64),
    reference: Option<&str>,
) -> Result<Stored, Fault> {
    let feelings = entity.feelings_at(unit.now()).felt(felt.0, felt.1);
    entity.meet(unit.now(), feelings);
    entity.interactions += 1;
    store::update(unit, &entity)?;
    let event = Happened { cause, felt: Some(felt), trust: feelings.trust, reference };
    store::happened(unit, entity.key, &event)?;
    Ok(entity)
}

fn merge(unit: &Unit<'_>, request: &Merge) -> Result<Entity, Fault> {
    let from = known(unit, &request.from)?;
    let mut into = known(unit, &request.into)?;
    let now = unit.now();
    let feelings =
        merged((&into.feelings_at(now), into.interactions), (&from.feelings_at(now), from.interactions));
    into.feelings = feelings;
    into.as_of = into.as_of.max(now);
    into.interactions += from.interactions;
    into.last_interaction = into.last_interaction.max(from.last_interaction);
    into.created = into.created.min(from.created);
    into.note = into.note.or(from.note);
    store::update(unit, &into)?;
    store::move_all(unit, from.key, into.key)?;
    store::delete(unit, from.key)?;
    let event =
        Happened { cause: "merge", felt: None, trust: feelings.trust, reference: Some(&request.from) };
    store::happened(unit, into.key, &event)?;
    Ok(shown(&into, now))
}

/// As others see it at `now`.
fn shown(entity: &Stored, now: Timestamp) -> Entity {
    let feelings = entity.feelings_at(now);
    Entity {
        name: entity.name.clone(),
        note: entity.note.clone(),
        trust: feelings.trust,
        emotions: Emotions::from(&feelings),
        dominant: feelings.dominant(),
        empathy: empathy(&feelings.intensities),
        interactions: entity.interactions,
        last_interaction: entity.last_interaction,
        created: entity.created,
    }
}

impl Soul {
    /// The service over `ledger`.
    #[must_use]
    pub fn new(ledger: Ledger, clock: Clock) -> Arc<Self> {
        Arc::new(Self { ledger, clock })
    }

    async fn get(&self, name: String) -> Result<WithMemories, Fault> {
        let now = self.clock.now();
        let read = self.ledger.read(move |connection| {
            let entity = known(connection, &name)?;
            Ok(WithMemories { entity: shown(&entity, now), memories: store::links(connection, entity.key)? })
        });
        read.await
    }

    async fn list(&self, request: List) -> Result<Entities, Fault> {
        let now = self.clock.now();
        let read = self.ledger.read(move |connection| {
            // Trust is of now, not of the rows: SQLite cannot order by it. There are at most 10,000.
            let mut entities: Vec<_> =
                store::all(connection)?.iter().map(|entity| shown(entity, now)).collect();
            let total = entities.len() as u64;
            entities.sort_by(|one, other| {
                let order = match request.by {
                    Order::Trust => other.trust.total_cmp(&one.trust),
                    Order::LastInteraction => other.last_interaction.cmp(&one.last_interaction),
                };
                order.then_with(|| one.name.cmp(&other.name))
            });
            let page =
                entities.into_iter().skip(request.offset as usize).take(request.limit as usize).collect();
            Ok(Entities { entities: page, total })
        });
        read.await
    }

    /// Decay itself needs no run: it follows from time. What this does is to find, and remove, who has decayed away.
    async fn decay(&self, request: &Decay, progress: &Progress) -> Result<Decayed, Fault> {
        let (now, below) = (self.clock.now(), request.below);
        let all = self.ledger.read(store::all).await?;
        let faded: Vec<_> =
            all.iter().filter(|entity| entity.feelings_at(now).trust < below).cloned().collect();
        let mut done = Decayed {
            entities: all.len() as u64,
            below: faded.len() as u64,
            removed: 0,
            names: faded.iter().take(SHOWN).map(|entity| entity.name.clone()).collect(),
        };
        if !request.prune || request.dry_run {
            return Ok(done);
        }
        for batch in faded.chunks(BATCH) {
            if progress.is_cancelled() {
                return Err(Fault::new(
                    Code::Interrupted,
                    "the decay was cancelled; what it removed is gone",
                ));
            }
            let names: Vec<_> = batch.iter().map(|entity| entity.name.clone()).collect();
            let removed = self.ledger.write(move |unit| {
                let mut removed = 0;
                for name in &names {
                    // It may have been met meanwhile.
                    if let Some(entity) = store::find(unit, name)?
                        && entity.feelings_at(now).trust < below
                    {
                        store::delete(unit, entity.key)?;
                        removed += 1;
                    }
                }
                Ok(removed)
            });
            done.removed += removed.await?;
            progress.report(done.removed, done.below);
        }
        Ok(done)
    }
}
