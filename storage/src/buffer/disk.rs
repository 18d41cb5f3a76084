//! Level `disk`: entries lie in an arena like those of level `memory`, which goes with the process;
//! what is at rest is in a journal.

#[cfg(test)]
mod tests;

use super::identity::Boot;
use super::{Buffer, BufferDir, BufferError, Contents, Damage, Found, KeptSegment, Leftover, Rest, identify};
use crate::arena::{Arena, ArenaOptions};
use crate::journal::{Disk, Journal, JournalOptions, RealDisk, Replayed, ReplayedSegment};
use crate::limits::{ARENA_BYTES, CHUNK_BYTES, JOURNAL_FILE_BYTES, JOURNAL_QUEUE_BYTES};
use crate::segment_buffer::SegmentBuffer;
use crate::slots::Layout;
use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader};
use piculet_quorum::ids::Nonce;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How large a buffer of level `disk` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Bytes of entries that it holds, in memory and on disk; a remainder that fills no chunk is not
    /// used. The files of the journal may take twice as much and four files, for what is freed goes
    /// in whole files.
    pub bytes: u64,
    /// Bytes of one chunk, the least that a segment with entries holds in memory.
    pub chunk_bytes: usize,
    /// Bytes of one file of the journal.
    pub file_bytes: u64,
    /// Bytes of batches that may wait for the journal.
    pub queue_bytes: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            bytes: ARENA_BYTES,
            chunk_bytes: CHUNK_BYTES,
            file_bytes: JOURNAL_FILE_BYTES,
            queue_bytes: JOURNAL_QUEUE_BYTES,
        }
    }
}

impl DiskOptions {
    fn arena(&self) -> ArenaOptions {
        ArenaOptions { bytes: self.bytes, chunk_bytes: self.chunk_bytes }
    }

    fn journal(&self) -> JournalOptions {
        let Self { bytes, file_bytes, queue_bytes, .. } = *self;
        let bytes = bytes.saturating_mul(2).saturating_add(file_bytes.saturating_mul(4));
        JournalOptions { bytes, file_bytes, queue_bytes }
    }
}

/// A journal that was read and checked, on whatever disk.
pub(super) trait FoundJournal: std::fmt::Debug + Send {
    /// What is there of each segment.
    fn leftovers(&self) -> Vec<Leftover>;

    /// Goes on with what is here, or discards it first.
    fn adopt(self: Box<Self>, keep: bool, layout: Layout) -> Result<(Arc<Buffer>, Contents), BufferError>;
}

#[derive(Debug)]
struct FoundOn<D: Disk> {
    dir: Arc<BufferDir>,
    replayed: Replayed<D>,
    /// What it holds, in memory again; nothing when it is damaged.
    loaded: Option<(Arc<Arena>, Vec<SegmentBuffer>)>,
}

impl Found {
    /// The directory of a buffer of level `disk`, which is created if it is missing. Blocks: it reads
    /// and checks everything that is in the journal, and loads what is kept into memory.
    ///
    /// # Errors
    /// When another process has the directory, when it belongs to another cluster or a later
    /// version, when what it keeps does not fit into the memory any more, or when the system refuses.
    pub fn disk(dir: &Path, options: &DiskOptions, cluster: Nonce) -> Result<Self, BufferError> {
        Self::open_disk(dir, options, cluster, |lock| {
            let failed = |action| move |source| BufferError::Io { path: dir.to_owned(), action, source };
            sync_above(dir).map_err(failed("sync the directories above"))?;
            RealDisk::open(dir, Some(Arc::clone(lock))).map_err(failed("open the directory"))
        })
    }

    /// The same, with the journal on another disk than the directory's.
    ///
    /// # Errors
    /// As [`disk`](Self::disk).
    #[cfg(any(test, feature = "conformance"))]
    pub fn disk_on<D>(disk: D, dir: &Path, options: &DiskOptions, cluster: Nonce) -> Result<Self, BufferError>
    where
        D: Disk + std::fmt::Debug + Send + 'static,
    {
        Self::open_disk(dir, options, cluster, |_| Ok(disk))
    }

    fn open_disk<D>(
        dir: &Path,
        options: &DiskOptions,
        cluster: Nonce,
        disk: impl FnOnce(&Arc<BufferDir>) -> Result<D, BufferError>,
    ) -> Result<Self, BufferError>
    where
        D: Disk + std::fmt::Debug + Send + 'static,
    {
        let layout = Layout::new(&options.arena())?;
        let (dir, identity, unreadable, proof) = identify(dir, cluster, Boot::ANY)?;
        let replayed = Replayed::read(disk(&dir)?, options.journal(), cluster)?;
        let moved = match identity.filter(|identity| identity.adopted.is_some()) {
            Some(identity) => identity.proof.damage(&proof, dir.path()),
            None => Some(Damage::NoIdentity { path: dir.path().to_owned() }),
        };
        let damage = unreadable.or(moved).or_else(|| replayed.damage().cloned());
        let loaded = damage.is_none().then(|| load(&replayed, layout, &dir)).transpose()?;
        let found = FoundOn { dir: Arc::clone(&dir), replayed, loaded };
        let journal: Option<Box<dyn FoundJournal>> = Some(Box::new(found));
        let (arena, fences) = (None, None);
        Ok(Self { dir, layout, cluster, identity, proof, arena, fences, journal, damage })
    }
}

impl<D> FoundJournal for FoundOn<D>
where
    D: Disk + std::fmt::Debug + Send + 'static,
{
    fn leftovers(&self) -> Vec<Leftover> {
        let segments = self.replayed.segments().map(|segment| segment.manifest);
        segments.map(|m| Leftover { place: m.place, freed: m.head, tail: m.tail }).collect()
    }

    fn adopt(self: Box<Self>, keep: bool, layout: Layout) -> Result<(Arc<Buffer>, Contents), BufferError> {
        let Self { dir, replayed, loaded } = *self;
        let (core, fences, loaded) = if keep {
            let fences = replayed.fences().collect();
            (replayed.resume()?, fences, loaded)
        } else {
            drop(loaded);
            (replayed.discard()?, Vec::new(), None)
        };
        let (arena, segments) = match loaded {
            Some(loaded) => loaded,
            None => (Arc::new(Arena::anonymous(layout, &dir)?), Vec::new()),
        };
        let journal = Journal::start(core).map_err(|source| BufferError::Io {
            path: dir.path().to_owned(),
            action: "start the thread for the journal",
            source,
        })?;
        let journal = Arc::new(journal);
        let kept = |segment: SegmentBuffer| {
            let buffer = segment.with_journal(Arc::clone(&journal), true);
            KeptSegment { kept: buffer.kept(), buffer }
        };
        let segments = segments.into_iter().map(kept).collect();
        Ok((Arc::new(Buffer::new(arena, Rest::Disk(journal))), Contents { segments, fences }))
    }
}

/// Brings everything that a journal holds into memory again.
fn load<D: Disk>(
    replayed: &Replayed<D>,
    layout: Layout,
    dir: &Arc<BufferDir>,
) -> Result<(Arc<Arena>, Vec<SegmentBuffer>), BufferError> {
    let arena = Arc::new(Arena::anonymous(layout, dir)?);
    let mut segments = Vec::new();
    for ReplayedSegment { manifest, batches } in replayed.segments() {
        let mut segment =
            SegmentBuffer::new(Arc::clone(&arena), manifest.place, manifest.head, manifest.before);
        for at in batches {
            let bytes = replayed.read_batch(at)?;
            let header = header_of(&bytes, &segment);
            segment.begin(&header).map_err(|_| BufferError::TooSmall {
                path: dir.path().to_owned(),
                bytes: layout.capacity(),
            })?;
            segment.fill(&bytes[BATCH_HEADER_BYTES..]);
            segment.publish(at.at_end, false);
        }
        segments.push(segment.with_repairs(manifest.repaired_from));
    }
    Ok((arena, segments))
}

fn header_of(bytes: &Bytes, segment: &SegmentBuffer) -> BatchHeader {
    let header = bytes.first_chunk().expect("a batch that was checked has a header");
    BatchHeader::decode(header, segment.place()).expect("a batch that was checked is read as it was")
}

/// Puts at rest that there is a directory: the entries of all that it lies in.
fn sync_above(path: &Path) -> io::Result<()> {
    for above in std::fs::canonicalize(path)?.ancestors().skip(1) {
        match File::open(above) {
            Ok(above) => above.sync_all()?,
            // What may not be read was not made by this process.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
