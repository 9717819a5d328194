//! Writing records to a file. The file grows beside its final name in pieces, each synced and followed by a note of how far
//! it is; a compressed piece is a zstd frame of its own, and frames in a row are one file.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::model::Record;
use super::super::store::{self, Kept};
use super::requests::{Export, Exported};
use super::{Memory, Named, blocking, cancelled, digest, refused};
use crate::clock::Timestamp;
use crate::engine::jobs::Progress;
use crate::ledger::generation::sync_dir;
use crate::soul;
use crate::wire::Fault;

/// Records that are read at once. Each may carry a whole content.
const PAGE: u32 = 200;
/// Bytes of text after which a piece is written.
const PIECE_BYTES: usize = 4 << 20;
/// zstd's level: its own default.
const LEVEL: i32 = 3;

/// How far an export is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    /// What was asked for: another export does not go on from here.
    request: Export,
    /// Records up to this key are in the file.
    after: i64,
    /// Length of the file.
    bytes: u64,
    records: u64,
    broken: u64,
}

/// What to write besides the request's own filters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Only {
    /// Records of one shard.
    pub row: Option<i64>,
    /// Without the pinned ones.
    pub unpinned: bool,
}

impl Memory {
    /// Writes the records that `request` names to a file.
    ///
    /// # Errors
    /// `invalid` when the file's name is none; `forbidden` when no folder is configured; `interrupted` when it was
    /// cancelled; when ledger or file cannot be read or written.
    pub async fn export(&self, request: &Export, progress: &Progress) -> Result<Exported, Fault> {
        let named = self.transfer_file(&request.file)?;
        self.write_file(&named, request, Only::default(), progress).await
    }

    pub(super) async fn write_file(
        &self,
        named: &Named,
        request: &Export,
        only: Only,
        progress: &Progress,
    ) -> Result<Exported, Fault> {
        let (of, asked) = (named.clone(), request.clone());
        let mut place = blocking(move || resume(&of, asked).map_err(|error| refused(&error))).await?;
        let resumed = place.after > 0;
        let now = self.ledger.clock().now();
        let total: u64 = self.ledger.read(store::shards).await?.iter().map(|state| state.records).sum();
        let mut seen = place.records;
        loop {
            let mut piece = Vec::new();
            let mut more = true;
            while more && piece.len() < PIECE_BYTES {
                if progress.is_cancelled() {
                    return Err(cancelled());
                }
                let (seal, after) = (self.seal.clone(), place.after);
                let read = move |connection: &rusqlite::Connection| {
                    let page = store::page(connection, &seal, only.row, after, PAGE)?;
                    let linked = |kept: Kept| Ok((soul::linked_to(connection, &kept.record.id)?, kept));
                    page.into_iter().map(linked).collect::<Result<Vec<_>, Fault>>()
                };
                let page = self.ledger.read(read).await?;
                more = page.len() == PAGE as usize;
                place.after = page.last().map_or(place.after, |(_, kept)| kept.key);
                seen += page.len() as u64;
                write_lines(page, request, only, now, &mut place, &mut piece)?;
                progress.report(seen.min(total), total);
            }
            let of = named.clone();
            place = blocking(move || append(&of, &piece, place).map_err(|error| refused(&error))).await?;
            if !more {
                break;
            }
        }
        let of = named.clone();
        let (sha256, bytes) = blocking(move || finish(&of).map_err(|error| refused(&error))).await?;
        let Place { records, broken, .. } = place;
        Ok(Exported { file: named.name.clone(), records, bytes, sha256, broken, resumed })
    }
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'r> {
    #[serde(flatten)]
    record: &'r Record,
    /// Entities that it is linked to in the soul, besides the one that it names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    linked: Vec<String>,
}

fn write_lines(
    page: Vec<(Vec<String>, Kept)>,
    request: &Export,
    only: Only,
    now: Timestamp,
    place: &mut Place,
    piece: &mut Vec<u8>,
) -> Result<(), Fault> {
    let filter = request.filter();
    let wanted = |kept: &Kept| {
        kept.is_live(now) && filter.admits(&kept.record) && !(only.unpinned && kept.record.pinned)
    };
    for (mut linked, kept) in page.into_iter().filter(|(_, kept)| wanted(kept)) {
        if !kept.sound {
            place.broken += 1;
            continue;
        }
        linked.retain(|name| kept.record.entity.as_ref() != Some(name));
        let line = Line { record: &kept.record, linked };
        serde_json::to_writer(&mut *piece, &line).map_err(|_| Fault::internal())?;
        piece.push(b'\n');
        place.records += 1;
    }
    Ok(())
}

/// Where an earlier run of the same export stopped, with the file cut to what is certain; else the beginning.
fn resume(named: &Named, request: Export) -> io::Result<Place> {
    let part = named.beside("part");
    let found = super::open(&named.beside("state"))
        .ok()
        .and_then(|file| serde_json::from_reader::<_, Place>(file).ok());
    if let Some(place) = found.filter(|place| place.request == request)
        && let Ok(file) = OpenOptions::new().write(true).custom_flags(super::FLAGS).open(&part)
        && file.metadata()?.len() >= place.bytes
    {
        file.set_len(place.bytes)?;
        return Ok(place);
    }
    remove(&named.beside("state"))?;
    remove(&part)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    Ok(Place { request, after: 0, bytes: 0, records: 0, broken: 0 })
}

/// Adds a piece, durably, and notes the place.
fn append(named: &Named, piece: &[u8], mut place: Place) -> io::Result<Place> {
    let mut file = OpenOptions::new().write(true).custom_flags(super::FLAGS).open(named.beside("part"))?;
    file.seek(SeekFrom::Start(place.bytes))?;
    if named.is_compressed() && (!piece.is_empty() || place.bytes == 0) {
        file.write_all(&zstd::encode_all(piece, LEVEL)?)?;
    } else {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    place.bytes = file.stream_position()?;
    let text = serde_json::to_vec(&place)?;
    write_durably(&named.beside("state"), &text)?;
    Ok(place)
}

/// Gives the file its name, and puts its checksum beside it in the form of `sha256sum`.
fn finish(named: &Named) -> io::Result<(String, u64)> {
    let part = named.beside("part");
    let (sha256, bytes) = digest(&part)?;
    write_durably(&named.beside("sha256"), format!("{sha256}  {}\n", named.name).as_bytes())?;
    std::fs::rename(&part, named.path())?;
    remove(&named.beside("state"))?;
    sync_dir(&named.folder).map_err(io::Error::other)?;
    Ok((sha256, bytes))
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    remove(fresh)?;
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
