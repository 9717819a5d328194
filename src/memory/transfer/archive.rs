//! Archiving: old months move into compressed files. Nothing is removed before the file was read back, where it is to stay, and
//! every record in it is sound; what is pinned stays here.

use std::sync::Arc;

use super::super::index::{Shard, ShardState};
use super::super::model::Layer;
use super::super::news::What;
use super::super::prune::{Planned, Untouched};
use super::super::retention;
use super::super::store::{self, Kept};
use super::export::Only;
use super::import::count_sound;
use super::requests::{Archive, Archived, ArchivedMonth, Export, Exported};
use super::{Memory, Named, blocking, refused};
use crate::engine::jobs::Progress;
use crate::wire::{Code, Fault};

/// How often a month is written anew because it was changed meanwhile.
const TRIES: u32 = 3;
/// Records that are read at once.
const PAGE: u32 = 200;
/// Archives that a month may have, one more than that.
const MOST_OF_A_MONTH: u32 = 1_000;

impl Memory {
    /// Moves the months before `request.before` into files.
    ///
    /// # Errors
    /// `invalid` when that is no month, or one to come; `conflict` when a month keeps being changed, or a file is not what
    /// was written; `interrupted` when it was cancelled; when ledger, files or object storage cannot be used. Months that
    /// were done stay so.
    pub async fn archive(
        self: &Arc<Self>,
        request: &Archive,
        progress: &Progress,
    ) -> Result<Archived, Fault> {
        let before = Shard::parse(Layer::ShortTerm, &request.before)
            .map(|shard| shard.span().0)
            .filter(|before| *before <= self.ledger.clock().now())
            .ok_or_else(|| Fault::invalid("before: expected a month yyyy-mm that has begun"))?;
        let _alone = self.maintenance.lock().await;
        let mut states = self.ledger.read(store::shards).await?;
        states.retain(|state| {
            state.shard.span().1 <= before
                && state.records > state.pinned
                && (request.layers.is_empty() || request.layers.contains(&state.shard.layer))
        });
        states.sort_by_key(|state| (state.shard.span().0, state.shard.layer));
        let total = states.iter().map(|state| state.records).sum();
        let storage = self.config.archive.as_ref().map(|remote| remote.bucket.to_string());
        let mut archived = Archived { storage, months: Vec::new(), records: 0 };
        let mut done = 0;
        let mut archive_all = async || {
            for state in &states {
                progress.report(done, total);
                let month = self.archive_month(state, (done, total), progress).await?;
                archived.records += month.file.records;
                archived.months.push(month);
                done += state.records;
            }
            Ok::<_, Fault>(())
        };
        let outcome = archive_all().await;
        if archived.storage.is_some() {
            self.clear_staging().await;
        }
        outcome?;
        let shards: Vec<_> = states.iter().map(|state| state.shard).collect();
        self.give_back(&shards).await?;
        progress.report(total, total);
        Ok(archived)
    }

    async fn archive_month(
        self: &Arc<Self>,
        state: &ShardState,
        steps: (u64, u64),
        progress: &Progress,
    ) -> Result<ArchivedMonth, Fault> {
        let named = self.unused_name(state.shard, progress).await?;
        let request = Export { file: named.name.clone(), ..Export::default() };
        let only = Only { row: Some(state.row), unpinned: true };
        let same = |other: &ShardState| other.shard == state.shard;
        for _ in 0..TRIES {
            let began = self.ledger.clock().now();
            let read = |connection: &rusqlite::Connection| {
                Ok((store::shards(connection)?, store::last_key(connection)?))
            };
            let (states, last_key) = self.ledger.read(read).await?;
            let before = states.into_iter().find(same);
            let (quiet, _steps, _cancel) = Progress::new();
            let file = self.write_file(&named, &request, only, &quiet).await?;
            if let Err(fault) = self.read_back(&named, &file, state.row).await {
                discard(&named).await;
                return Err(fault);
            }
            self.put_away(&named, &file.sha256, progress).await?;
            let after = self.ledger.read(store::shards).await?.into_iter().find(same);
            if let (Some(before), Some(after)) = (before, after)
                && before.changed == after.changed
                && let Some(step) = retention::step(&after, after.shard.span().1)
            {
                let planned = Planned { state: after, step, records: file.records };
                let why = (What::Archived, Some(Untouched { last_key, before: began }));
                self.carry_out(&planned, why, progress, steps).await?;
                return Ok(ArchivedMonth { layer: after.shard.layer, month: after.shard.month(), file });
            }
        }
        self.withdraw(&named).await;
        discard(&named).await;
        Err(Fault::new(Code::Conflict, "the month keeps being changed: nothing of it was removed, try again"))
    }

    /// Reads a month's file back, which has to have all of the month.
    async fn read_back(&self, named: &Named, file: &Exported, row: i64) -> Result<(), Fault> {
        let why = if file.broken > 0 {
            let first = self.first_broken(row).await?.unwrap_or_default();
            format!("{} of the month's records have broken seals, the first is {first}", file.broken)
        } else {
            let of = named.clone();
            let sound = blocking(move || count_sound(&of).map_err(|error| refused(&error))).await?;
            if sound == file.records {
                return Ok(());
            }
            "the month's file is not what was written to it".into()
        };
        Err(Fault::new(Code::Conflict, format!("{why}: nothing was removed")))
    }

    /// The id of the first record of a month that would be archived, were its seal not broken.
    async fn first_broken(&self, row: i64) -> Result<Option<String>, Fault> {
        let now = self.ledger.clock().now();
        let mut after = 0;
        loop {
            let seal = self.seal.clone();
            let read = move |connection: &rusqlite::Connection| {
                store::page(connection, &seal, Some(row), after, PAGE)
            };
            let page = self.ledger.read(read).await?;
            let Some(last) = page.last() else { return Ok(None) };
            after = last.key;
            let broken = |kept: &Kept| !kept.sound && kept.is_live(now) && !kept.record.pinned;
            if let Some(found) = page.into_iter().find(broken) {
                return Ok(Some(found.record.id));
            }
        }
    }

    /// A name that no file has: a month may be archived more than once.
    async fn unused_name(&self, shard: Shard, progress: &Progress) -> Result<Named, Fault> {
        let stem = format!("{}-{}", shard.layer.as_str(), shard.month());
        let names = std::iter::once(format!("{stem}.jsonl.zst"))
            .chain((2..MOST_OF_A_MONTH).map(move |number| format!("{stem}-{number}.jsonl.zst")));
        if let Some(unused) = self.unused_in_storage(names.clone(), progress).await? {
            return Ok(unused);
        }
        for name in names {
            let named = self.transfer_file(&name)?;
            if !named.path().exists() {
                return Ok(named);
            }
        }
        Err(too_many())
    }
}

/// Removes a file that is not needed, and its checksum. What cannot be removed is overwritten by nothing: names are used once.
async fn discard(named: &Named) {
    let paths = [named.path(), named.beside("sha256")];
    let remove = move || {
        for path in paths {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "an archive that was refused could not be removed");
            }
        }
        Ok(())
    };
    let _ = blocking(remove).await;
}

/// A month has more archives than there are names for.
pub(super) fn too_many() -> Fault {
    Fault::new(Code::Conflict, "there are too many archives of this month")
}
