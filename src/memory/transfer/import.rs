//! Bringing records in from a file: in small units, each of which commits with it how far the file has been read. So an
//! import that was cut off goes on with the next line, and none is brought in twice.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::super::model::{self, Layer, Record};
use super::super::news::What;
use super::super::store::{self, Kept};
use super::requests::{Import, Imported, Rejected};
use super::{Memory, Named, blocking, cancelled, digest, open, refused};
use crate::clock::Timestamp;
use crate::engine::jobs::Progress;
use crate::ledger::Unit;
use crate::soul;
use crate::wire::{Code, Fault};

/// Lines that one unit brings in: a few milliseconds.
const UNIT_LINES: usize = 32;
/// Bytes of text that one unit brings in.
const UNIT_BYTES: usize = 128 << 10;
/// Longest line, in bytes.
const LINE_BYTES: usize = 8 << 20;
/// What some programs begin a text with.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Rejected lines that are listed.
const MOST_ERRORS: usize = 10;

/// A line of the file: a record as it is exported, of which only the content is required.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<String>,
    #[serde(default)]
    layer: Layer,
    content: String,
    #[serde(default)]
    tags: Vec<String>,
    entity: Option<String>,
    namespace: Option<String>,
    user: Option<String>,
    source: Option<String>,
    importance: Option<f64>,
    created: Option<Timestamp>,
    updated: Option<Timestamp>,
    expires: Option<Timestamp>,
    #[serde(default)]
    pinned: bool,
    version: Option<u32>,
    #[serde(default)]
    accesses: u64,
    last_access: Option<Timestamp>,
    checksum: Option<String>,
    /// Entities that it is linked to in the soul, besides the one that it names.
    #[serde(default)]
    linked: Vec<String>,
}

/// How far an import is, as the ledger keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    position: u64,
    request: Import,
    counted: Imported,
}

/// Reads a file line by line, and knows how much of it is read.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// Bytes of the text that were read.
    position: u64,
}

impl Lines {
    /// `read` counts the bytes of the file, compressed or not.
    fn open(named: &Named, position: u64, read: Arc<AtomicU64>) -> io::Result<Self> {
        let file = BufReader::new(Counting { inner: open(&named.path())?, read });
        let mut reader: Box<dyn BufRead + Send> = if named.is_compressed() {
            Box::new(BufReader::new(zstd::Decoder::with_buffer(file)?))
        } else {
            Box::new(file)
        };
        io::copy(&mut reader.by_ref().take(position), &mut io::sink())?;
        Ok(Self { reader, position })
    }

    /// The next lines, fewer at the end.
    fn some(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < UNIT_LINES && bytes < UNIT_BYTES {
            let mut line = Vec::new();
            let read = self.reader.by_ref().take(LINE_BYTES as u64).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            if read == LINE_BYTES && line.last() != Some(&b'\n') {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
            }
            if self.position == 0 && line.starts_with(BYTE_ORDER_MARK) {
                line.drain(..BYTE_ORDER_MARK.len());
            }
            self.position += read as u64;
            bytes += read;
            lines.push(line);
        }
        Ok(lines)
    }
}

struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Where a line stands.
struct At<'a> {
    /// Of the file, hexadecimal.
    sha256: &'a str,
    /// From 1 on.
    number: u64,
}

impl At<'_> {
    /// The id of a record that has none of its own: the same each time this file is brought into `namespace`, so that what
    /// is asked for twice comes in once. A UUID of version 8.
    fn id(&self, namespace: &str) -> String {
        let Self { sha256, number } = self;
        let digest = model::checksum(&format!("{sha256} {number} {namespace}"));
        // The first half of 64 hexadecimal digits: there are always as many.
        let bytes = u128::from_str_radix(&digest[..32], 16).unwrap_or_default().to_be_bytes();
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }
}

/// What became of a line.
enum Fate {
    Imported,
    Replaced,
    Skipped,
}

impl Memory {
    /// Brings in the records of a file.
    ///
    /// # Errors
    /// `invalid` when the file's name is none, its checksum is wrong or its text is not; `forbidden` when no folder, or no
    /// object storage, is configured; `not_found`; `interrupted` when it was cancelled; when ledger, file or object storage
    /// cannot be used.
    pub async fn import(self: &Arc<Self>, request: &Import, progress: &Progress) -> Result<Imported, Fault> {
        if let Some(namespace) = &request.namespace {
            model::length("namespace", namespace, model::MAX_NAME_CHARS)?;
        }
        let _alone = self.maintenance.lock().await;
        if !request.from_storage {
            return self.import_file(self.transfer_file(&request.file)?, request, progress).await;
        }
        let imported = match self.fetch(&request.file, progress).await {
            Ok(named) => self.import_file(named, request, progress).await,
            Err(fault) => Err(fault),
        };
        self.clear_staging().await;
        imported
    }

    async fn import_file(
        self: &Arc<Self>,
        named: Named,
        request: &Import,
        progress: &Progress,
    ) -> Result<Imported, Fault> {
        let of = named.clone();
        let (sha256, size) = blocking(move || checked(&of)).await?;
        let mut place = self.place(request, &sha256).await?;
        place.counted.resumed = place.position > 0;
        let read = Arc::new(AtomicU64::new(0));
        let (of, counter, position) = (named.clone(), read.clone(), place.position);
        let mut lines =
            blocking(move || Lines::open(&of, position, counter).map_err(|error| unreadable(&error))).await?;
        loop {
            if progress.is_cancelled() {
                return Err(cancelled());
            }
            let (back, some) = blocking(move || {
                let some = lines.some().map_err(|error| unreadable(&error))?;
                Ok((lines, some))
            })
            .await?;
            lines = back;
            let done = some.is_empty();
            place.position = lines.position;
            place = self.bring_in(some, place, &sha256, done).await?;
            progress.report(read.load(Ordering::Relaxed).min(size), size);
            if done {
                return Ok(place.counted);
            }
        }
    }

    /// Where an earlier import of the same file stopped, or its beginning.
    async fn place(&self, request: &Import, sha256: &str) -> Result<Place, Fault> {
        let (file, digest) = (request.file.clone(), sha256.to_owned());
        let read = move |connection: &rusqlite::Connection| {
            let sql = "SELECT progress FROM memory_import WHERE file = ?1 AND digest = ?2";
            Ok(connection.query_row(sql, [file, digest], |row| row.get::<_, String>(0)).optional()?)
        };
        let kept = self.ledger.read(read).await?;
        let kept = kept.and_then(|text| serde_json::from_str::<Place>(&text).ok());
        Ok(kept.filter(|place| place.request == *request).unwrap_or_else(|| Place {
            position: 0,
            request: request.clone(),
            counted: Imported { file: request.file.clone(), ..Imported::default() },
        }))
    }

    /// One unit: some lines, and how far they bring the import.
    async fn bring_in(
        self: &Arc<Self>,
        lines: Vec<Vec<u8>>,
        place: Place,
        sha256: &str,
        done: bool,
    ) -> Result<Place, Fault> {
        let (memory, sha256) = (self.clone(), sha256.to_owned());
        let unit = move |unit: &mut Unit<'_>| {
            let mut place = place.clone();
            for line in &lines {
                place.counted.lines += 1;
                unit.prepare_cached("SAVEPOINT line")?.execute([])?;
                let at = At { sha256: &sha256, number: place.counted.lines };
                let fate = memory.bring_in_line(unit, line, &at, &place.request);
                if fate.is_err() {
                    unit.prepare_cached("ROLLBACK TO line")?.execute([])?;
                }
                unit.prepare_cached("RELEASE line")?.execute([])?;
                match fate {
                    Ok(Fate::Imported) => place.counted.imported += 1,
                    Ok(Fate::Replaced) => place.counted.replaced += 1,
                    Ok(Fate::Skipped) => place.counted.skipped += 1,
                    Err(fault) if matches!(fault.code, Code::Invalid | Code::Malformed | Code::Conflict) => {
                        place.counted.rejected += 1;
                        if place.counted.errors.len() < MOST_ERRORS {
                            place
                                .counted
                                .errors
                                .push(Rejected { line: place.counted.lines, reason: fault.message });
                        }
                    }
                    Err(fault) => return Err(fault),
                }
            }
            if done {
                unit.execute("DELETE FROM memory_import WHERE file = ?1", [&place.request.file])?;
            } else {
                let text = serde_json::to_string(&place).map_err(|_| Fault::internal())?;
                unit.prepare_cached(
                    "INSERT OR REPLACE INTO memory_import (file, digest, position, progress, changed) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    place.request.file,
                    sha256,
                    store::signed(place.position),
                    text,
                    unit.now().millis()
                ])?;
            }
            Ok(place)
        };
        self.ledger.write(unit).await
    }

    fn bring_in_line(
        self: &Arc<Self>,
        unit: &mut Unit<'_>,
        line: &[u8],
        at: &At<'_>,
        request: &Import,
    ) -> Result<Fate, Fault> {
        let (record, linked) = self.record_of(line, at, request, unit.now())?;
        let fate = match store::find(unit, &self.seal, &record.id)? {
            None => Fate::Imported,
            Some(old) if !request.replace || is_same(&old, &record) => return Ok(Fate::Skipped),
            Some(old) => {
                store::purge(unit, old.key, true, false)?;
                self.erase_after(unit);
                Fate::Replaced
            }
        };
        store::insert(unit, &self.seal, &self.config.limits, &record)?;
        for name in record.entity.iter().chain(&linked) {
            soul::memory_about(unit, name, &record.id)?;
        }
        self.changed(unit, What::Imported, &record);
        Ok(fate)
    }

    /// The record of a line, and the entities that it is linked to besides the one that it names.
    fn record_of(
        &self,
        line: &[u8],
        at: &At<'_>,
        request: &Import,
        now: Timestamp,
    ) -> Result<(Record, Vec<String>), Fault> {
        let line: Line = crate::wire::Encoding::Json.decode(line)?;
        let checksum = model::checksum(&line.content);
        if line.checksum.as_ref().is_some_and(|told| *told != checksum) {
            return Err(Fault::invalid("checksum: it is not that of the content"));
        }
        let mut store = model::Store {
            layer: line.layer,
            tags: line.tags,
            entity: line.entity,
            namespace: request.namespace.clone().or(line.namespace).unwrap_or_else(model::default_namespace),
            user: line.user,
            source: line.source,
            importance: line.importance.unwrap_or(0.5),
            expires: line.expires,
            pinned: line.pinned || request.pin,
            ..model::Store::new(line.content)
        };
        store.validate(self.config.max_content_chars)?;
        let id = match line.id {
            None => at.id(&store.namespace),
            // In one form, so that a record is not there twice.
            Some(id) => uuid::Uuid::try_parse(&id)
                .map_err(|_| Fault::invalid("id: expected a UUID, as in an export, or none"))?
                .to_string(),
        };
        let model::Store {
            content,
            layer,
            tags,
            entity,
            namespace,
            user,
            source,
            importance,
            expires,
            pinned,
            ..
        } = store;
        let record = Record {
            id,
            layer,
            content,
            tags,
            entity,
            namespace,
            user,
            source,
            importance,
            created: line.created.unwrap_or(now),
            updated: line.updated,
            expires,
            pinned,
            version: line.version.unwrap_or(1).max(1),
            accesses: line.accesses.min(model::MAX_ACCESSES.into()),
            last_access: line.last_access,
            checksum,
        };
        Ok((record, line.linked))
    }
}

/// Whether `old` is what `new` says, but for how often it was recalled: to replace it would only cost its history.
fn is_same(old: &Kept, new: &Record) -> bool {
    let Record { accesses, last_access, .. } = old.record;
    old.forgotten.is_none() && old.sound && old.record == Record { accesses, last_access, ..new.clone() }
}

/// Digest and size of the file, which has to be what its checksum beside it says, if there is one.
fn checked(named: &Named) -> Result<(String, u64), Fault> {
    let (sha256, size) = digest(&named.path()).map_err(|error| refused(&error))?;
    let mut told = String::new();
    match open(&named.beside("sha256")) {
        Ok(file) => {
            file.take(1_024).read_to_string(&mut told).map_err(|error| refused(&error))?;
            if told.split_whitespace().next() != Some(sha256.as_str()) {
                return Err(Fault::invalid("file: it is not what the checksum beside it says"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(&error)),
    }
    Ok((sha256, size))
}

/// What could not be read as the text it should be.
pub(super) fn unreadable(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
            tracing::warn!(%error, "a file to import is damaged");
            Fault::invalid(
                "file: it is damaged, or not compressed as its name says, or has a line of more than 8 MiB",
            )
        }
        _ => refused(error),
    }
}

/// Reads a file back: how many records it has, each of which is what its checksum says.
pub(super) fn count_sound(named: &Named) -> io::Result<u64> {
    let mut lines = Lines::open(named, 0, Arc::default())?;
    let mut sound = 0;
    loop {
        let some = lines.some()?;
        if some.is_empty() {
            return Ok(sound);
        }
        for line in some {
            let record: Record = serde_json::from_slice(&line)?;
            sound += u64::from(model::checksum(&record.content) == record.checksum);
        }
    }
}
