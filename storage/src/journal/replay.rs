//! What a journal holds when it is opened.

use super::core::{JournalCore, ReadFile, failed};
use super::disk::Disk;
use super::live::Manifest;
use super::parse::{BadRecord, FoundRecord, latest_synced, parse};
use super::record::{FILE_HEADER_BYTES, FileHeader, VERSION};
use super::state::{BatchAt, State};
use super::{FILE_PREFIX, HEALTH_FILE, JournalError, JournalOptions, Location, file_name, generation_of};
use crate::buffer::Damage;
use bytes::Bytes;
use piculet_quorum::batch::Place;
use piculet_quorum::ids::{Epoch, LogId, Nonce};
use std::collections::VecDeque;
use std::io;

/// A live segment that a replay has found.
#[derive(Clone, Copy, Debug)]
pub struct ReplayedSegment<'a> {
    /// What is known of it.
    pub manifest: &'a Manifest,
    /// Its batches from the head to the tail; without damage they are all there.
    pub batches: &'a VecDeque<BatchAt>,
}

/// The contents of a journal, read and checked. Nothing has been changed yet.
#[derive(Debug)]
pub struct Replayed<D: Disk> {
    disk: D,
    options: JournalOptions,
    cluster: Nonce,
    state: State,
    /// Where the journal ends; none when the row is damaged before that.
    last: Option<ReadFile<D::File>>,
    /// The sealed files before it, the oldest first.
    sealed: Vec<ReadFile<D::File>>,
    damage: Option<Damage>,
}

impl<D: Disk> Replayed<D> {
    /// Reads and checks everything, one file at a time.
    ///
    /// # Errors
    /// When the sizes make no sense, or the system refuses. What is damaged is no error, see
    /// [`damage`](Self::damage).
    pub fn read(disk: D, options: JournalOptions, cluster: Nonce) -> Result<Self, JournalError> {
        options.check()?;
        let names = disk.list().map_err(|error| failed(&disk, "", "list", error))?;
        let mut generations: Vec<u64> = names.iter().filter_map(|name| generation_of(name)).collect();
        generations.sort_unstable();
        let health = read_health(&disk, &names)?;
        let mut row = RowOfFiles::new(&disk, cluster);
        for generation in generations {
            row.read(generation)?;
        }
        let damage = health.or_else(|| row.finish());
        let RowOfFiles { state, last, sealed, .. } = row;
        Ok(Self { disk, options, cluster, state, last, sealed, damage })
    }

    /// Why what is here cannot be vouched for, if it cannot.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Whether the last process has ended the journal cleanly.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.state.clean
    }

    /// The live segments. With damage: what could be read of them.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = ReplayedSegment<'_>> {
        self.state.live.manifests().map(|manifest| {
            let batches = &self.state.batches[&manifest.place];
            ReplayedSegment { manifest, batches }
        })
    }

    /// The highest epoch that fenced each log.
    pub fn fences(&self) -> impl ExactSizeIterator<Item = (LogId, Epoch)> {
        self.state.live.fences()
    }

    /// Reads a batch again.
    ///
    /// # Errors
    /// When the system refuses, or has other bytes than before.
    pub fn read_batch(&self, at: &BatchAt) -> Result<Bytes, JournalError> {
        let name = file_name(at.generation);
        let oldest = self.last.as_ref().map(|last| last.header.generation - self.sealed.len() as u64);
        let index = oldest.and_then(|oldest| usize::try_from(at.generation.checked_sub(oldest)?).ok());
        let sealed = index.and_then(|index| self.sealed.get(index));
        let read = || {
            let found = sealed.or(self.last.as_ref()).ok_or(io::ErrorKind::NotFound)?;
            let mut bytes = vec![0; at.bytes];
            self.disk.read(&found.file, at.offset, &mut bytes)?;
            if crc32c::crc32c(&bytes) == at.crc {
                return Ok(Bytes::from(bytes));
            }
            let what = format!("the batch at byte {} has changed since it was checked", at.offset);
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        };
        read().map_err(|error| failed(&self.disk, &name, "read", error))
    }

    /// Goes on with what is here: it is made sure that all of it is at rest, and a new file begun.
    ///
    /// # Errors
    /// When there is too little room, or the system refuses. [`JournalError::Failed`] when that cannot
    /// be made sure of: nothing of what is here counts then.
    ///
    /// # Panics
    /// If there is damage.
    pub fn resume(self) -> Result<JournalCore<D>, JournalError> {
        let Self { disk, options, state, last, sealed, damage, .. } = self;
        assert!(damage.is_none(), "a damaged journal is not taken up: {damage:?}");
        let last = last.expect("a journal without damage has a last file");
        JournalCore::resume(disk, options, state.live, last, sealed)
    }

    /// Removes everything that is here, and begins an empty journal.
    ///
    /// # Errors
    /// When there is too little room, or the system refuses.
    pub fn discard(self) -> Result<JournalCore<D>, JournalError> {
        JournalCore::create(self.disk, self.options, self.cluster)
    }
}

/// Whether an earlier process has stopped after a failure.
fn read_health<D: Disk>(disk: &D, names: &[String]) -> Result<Option<Damage>, JournalError> {
    if !names.iter().any(|name| name == HEALTH_FILE) {
        return Ok(Some(Damage::Missing { path: disk.path(HEALTH_FILE) }));
    }
    let read = || {
        let file = disk.open(HEALTH_FILE)?;
        let mut bytes = vec![0; disk.length(&file)? as usize];
        disk.read(&file, 0, &mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| failed(disk, HEALTH_FILE, "read", error))?;
    let reason = String::from_utf8_lossy(&bytes);
    let reason = reason.trim_end_matches('\0');
    Ok((!reason.is_empty()).then(|| Damage::FailedBefore { path: disk.path(""), reason: reason.into() }))
}

/// A whole file.
struct Loaded<F> {
    file: F,
    header: FileHeader,
    bytes: Bytes,
}

/// The files, one after the other.
struct RowOfFiles<'a, D: Disk> {
    disk: &'a D,
    cluster: Nonce,
    state: State,
    /// The first file that has no seal, up to its last record, and what comes there instead.
    last: Option<ReadFile<D::File>>,
    bad: Option<BadRecord>,
    sealed: Vec<ReadFile<D::File>>,
    /// The generation that comes next; none before the first file.
    next: Option<u64>,
    /// The largest `synced` of all records.
    latest: Location,
    damage: Option<Damage>,
}

impl<'a, D: Disk> RowOfFiles<'a, D> {
    fn new(disk: &'a D, cluster: Nonce) -> Self {
        let (state, latest) = (State::default(), Location::default());
        let (sealed, next, damage) = (Vec::new(), None, None);
        Self { disk, cluster, state, last: None, bad: None, sealed, next, latest, damage }
    }

    /// Takes the next file. After damage nothing more is looked at.
    fn read(&mut self, generation: u64) -> Result<(), JournalError> {
        if self.damage.is_some() {
            return Ok(());
        }
        if let Some(missing) = self.next.filter(|next| *next != generation) {
            self.damage = Some(Damage::Missing { path: self.path(missing) });
            return Ok(());
        }
        self.next = Some(generation + 1);
        match self.load(generation)? {
            Ok(loaded) if self.last.is_none() => self.take(loaded),
            // Nothing counts behind the end, but its records tell what was at rest.
            Ok(Loaded { header, bytes, .. }) => {
                self.latest = self.latest.max(latest_synced(&bytes, FILE_HEADER_BYTES, &header));
            }
            Err(damage) if self.last.is_none() => self.damage = Some(damage),
            // It was being made, for no seal promises it; or the seal is damaged too, and then the
            // files before this one show it.
            Err(_) => {}
        }
        Ok(())
    }

    /// A whole file, or what is wrong with its frame.
    fn load(&self, generation: u64) -> Result<Result<Loaded<D::File>, Damage>, JournalError> {
        let (disk, name) = (self.disk, file_name(generation));
        let damaged = |offset, what| Ok(Err(Damage::File { path: disk.path(&name), offset, what }));
        let refused = |error| failed(disk, &name, "read", error);
        let file = disk.open(&name).map_err(refused)?;
        let length = disk.length(&file).map_err(refused)?;
        let mut start = [0; FILE_HEADER_BYTES];
        if length < FILE_HEADER_BYTES as u64 {
            return damaged(length, "the file ends within its header".to_owned());
        }
        disk.read(&file, 0, &mut start).map_err(refused)?;
        if let Some(found) = FileHeader::later_version(&start) {
            return Err(JournalError::Version { path: disk.path(&name), found, expected: VERSION });
        }
        let header = match FileHeader::decode(&start) {
            Ok(header) => header,
            Err(what) => return damaged(0, what),
        };
        let FileHeader { cluster, bytes, .. } = header;
        if (cluster, header.generation) != (self.cluster, generation) {
            return damaged(0, format!("it is file {} of cluster {cluster}", header.generation));
        }
        if length < bytes {
            return damaged(length, format!("the file ends, expected {bytes} bytes"));
        }
        let mut all = vec![0; bytes as usize];
        disk.read(&file, 0, &mut all).map_err(refused)?;
        Ok(Ok(Loaded { file, header, bytes: Bytes::from(all) }))
    }

    fn take(&mut self, loaded: Loaded<D::File>) {
        let Loaded { file, header, bytes } = loaded;
        let mut at = FILE_HEADER_BYTES;
        loop {
            match parse(&bytes, at, &header) {
                Ok(FoundRecord { parsed, synced, next }) => {
                    self.latest = self.latest.max(synced);
                    match self.state.take(parsed, header.generation) {
                        Ok(true) => {
                            return self.sealed.push(ReadFile { file, header, end: next as u64 });
                        }
                        Ok(false) => at = next,
                        Err((place, what)) => {
                            self.damage = Some(self.contradiction(header.generation, place, at, what));
                            return;
                        }
                    }
                }
                Err(bad) => {
                    self.latest = self.latest.max(latest_synced(&bytes, at, &header));
                    self.bad = Some(bad);
                    self.last = Some(ReadFile { file, header, end: at as u64 });
                    return;
                }
            }
        }
    }

    fn contradiction(&self, generation: u64, place: Option<Place>, at: usize, what: String) -> Damage {
        let (path, offset) = (self.path(generation), at as u64);
        match place {
            Some(Place { log, segment, .. }) => Damage::Segment { log, segment, path, offset, what },
            None => Damage::File { path, offset, what },
        }
    }

    /// Whether all that was at rest is here.
    fn finish(&mut self) -> Option<Damage> {
        if self.damage.is_some() {
            return self.damage.take();
        }
        let none = || Damage::Missing { path: self.disk.path(&format!("{FILE_PREFIX}*")) };
        let Some(next) = self.next else { return Some(none()) };
        let Some(last) = &self.last else { return Some(Damage::Missing { path: self.path(next) }) };
        let generation = last.header.generation;
        let (path, end) = (self.path(generation), Location { generation, offset: last.end });
        if self.latest > end {
            let Location { generation, offset } = self.latest;
            let bad = self.bad.as_ref().map(ToString::to_string).unwrap_or_default();
            let what = format!(
                "a record is damaged that was at rest: {bad}; everything up to byte {offset} of {} was",
                file_name(generation)
            );
            return Some(Damage::File { path, offset: end.offset, what });
        }
        if !self.state.whole {
            let what = "the journal ends before its first list of segments is whole".to_owned();
            return Some(Damage::File { path, offset: end.offset, what });
        }
        let oldest = generation - self.sealed.len() as u64;
        let (place, what) = self.state.incomplete()?;
        let Place { log, segment, .. } = place;
        Some(Damage::Segment { log, segment, path: self.path(oldest), offset: 0, what })
    }

    fn path(&self, generation: u64) -> std::path::PathBuf {
        self.disk.path(&file_name(generation))
    }
}
