//! Takes up the file of a memory buffer that an earlier process left: reads which segments there
//! are, and checks every batch of each. Nothing is changed in the file.

#[cfg(test)]
mod tests;

use crate::arena::{self, Arena};
use crate::batches::{Row, RowError};
use crate::buffer::{BufferDir, BufferError, Damage};
use crate::frames::{Boundary, Frames};
use crate::mapping::{Chunk, Pool, allocate};
use crate::segment_buffer::SegmentBuffer;
use crate::slots::{self, Extent, HEADER_BYTES, Layout, Slot};
use piculet_quorum::batch::Place;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// What is in the file.
#[derive(Debug)]
pub(crate) struct Reopened {
    pub(crate) layout: Layout,
    pool: Arc<Pool>,
    segments: Vec<Segment>,
    /// The first that was found.
    pub(crate) damage: Option<Damage>,
    free_slots: Vec<u32>,
    next_serial: u64,
}

/// One segment, as far as it agrees.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) place: Place,
    pub(crate) frames: Frames,
    slot: Slot,
    extent: Extent,
    chunks: VecDeque<Chunk>,
}

impl Reopened {
    /// Reads and checks the file. Damage is no error.
    pub(crate) fn open(file: &File, dir: &Arc<BufferDir>) -> Result<Result<Self, Damage>, BufferError> {
        let file_bytes = file.metadata().map_err(dir.arena_failed("look at the file"))?.len();
        let damaged = |what: String| Damage::File { path: dir.arena_file(), offset: 0, what };
        let mut header = [0; HEADER_BYTES];
        if file_bytes < HEADER_BYTES as u64 {
            return Ok(Err(damaged(format!("{file_bytes} bytes are too few for a buffer"))));
        }
        file.read_exact_at(&mut header, 0).map_err(dir.arena_failed("read the header"))?;
        if let Some(found) = Layout::later_version(&header) {
            return Err(BufferError::Version { path: dir.arena_file(), found, expected: slots::VERSION });
        }
        match Layout::decode(&header, file_bytes) {
            Ok(layout) => {
                // A copy may have holes, and a mapping must not: there would be no way to refuse.
                allocate(file, file_bytes).map_err(dir.arena_failed("allocate the file"))?;
                let pool = Arc::new(arena::map(file, &layout, dir)?);
                Ok(Ok(Self::check(pool, layout, dir.arena_file())))
            }
            Err(what) => Ok(Err(damaged(what))),
        }
    }

    /// Reads and checks what is mapped; `path` is what damage names.
    pub(crate) fn check(pool: Arc<Pool>, layout: Layout, path: PathBuf) -> Self {
        let mut damage = Vec::new();
        let (mut found, mut free_slots) = (Vec::new(), Vec::new());
        for number in (0..layout.slots).rev() {
            match Slot::read(&pool, &layout, number) {
                Ok(None) => free_slots.push(number),
                Ok(Some(slot)) => found.push((number, slot)),
                Err((offset, what)) => damage.push(Damage::File { path: path.clone(), offset, what }),
            }
        }
        let owners: Vec<(u32, (u64, u64))> = (0..layout.chunks)
            .filter_map(|chunk| Some((chunk, slots::owner(&pool, &layout, chunk)?)))
            .collect();
        let serials = found.iter().map(|(_, (slot, ..))| slot.serial());
        let next_serial = serials.chain(owners.iter().map(|(_, (serial, _))| *serial)).max().unwrap_or(0);
        let check = Check { pool: &pool, layout: &layout, path: &path, owners: by_owner(&owners) };
        let (mut segments, mut places) = (Vec::new(), HashSet::new());
        for (number, (slot, place, extent)) in found.into_iter().rev() {
            let at = layout.slot_at(number) as u64;
            if !places.insert((place.log, place.segment)) {
                damage.push(check.damage(&place, at, "it is in two slots".to_owned()));
                continue;
            }
            match check.chunks(&slot, &extent) {
                Ok(chunks) => {
                    let (segment, result) = check.walk(place, slot, extent, chunks);
                    segments.push(segment);
                    damage.extend(result.err());
                }
                Err(what) => damage.push(check.damage(&place, at, what)),
            }
        }
        let damage = damage.into_iter().next();
        // Saturating, for the number may come from a damaged file.
        Self { layout, segments, damage, free_slots, next_serial: next_serial.saturating_add(1), pool }
    }

    /// What is there of each segment, as far as it agrees.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The arena, with what is in it. Chunks that no segment needs become free, at rest too.
    pub(crate) fn adopt(self) -> (Arc<Arena>, Vec<SegmentBuffer>) {
        assert!(self.damage.is_none(), "what is damaged is not adopted");
        let Self { layout, pool, segments, free_slots, next_serial, .. } = self;
        let needed: HashSet<u32> =
            segments.iter().flat_map(|segment| segment.chunks.iter().map(Chunk::number)).collect();
        for chunk in (0..layout.chunks).filter(|chunk| !needed.contains(chunk)) {
            if slots::owner(&pool, &layout, chunk).is_some() {
                slots::clear_owner(&pool, &layout, chunk);
            }
        }
        let arena = Arc::new(Arena::reopened(pool, layout, free_slots, next_serial));
        let buffers = segments.into_iter().map(|segment| {
            let Segment { place, frames, slot, extent, chunks } = segment;
            SegmentBuffer::reopened(Arc::clone(&arena), place, frames, chunks, extent.repaired_from, slot)
        });
        let buffers = buffers.collect();
        (arena, buffers)
    }
}

/// A chunk of a segment's stream: the segment's serial number, and which chunk of the stream.
type Part = (u64, u64);

/// Which chunks say that they are which part; there must be one.
fn by_owner(owners: &[(u32, Part)]) -> HashMap<Part, Vec<u32>> {
    let mut by_owner: HashMap<Part, Vec<u32>> = HashMap::new();
    for (chunk, part) in owners {
        by_owner.entry(*part).or_default().push(*chunk);
    }
    by_owner
}

struct Check<'a> {
    pool: &'a Arc<Pool>,
    layout: &'a Layout,
    path: &'a PathBuf,
    owners: HashMap<Part, Vec<u32>>,
}

impl Check<'_> {
    fn damage(&self, place: &Place, offset: u64, what: String) -> Damage {
        let (log, segment, path) = (place.log, place.segment, self.path.clone());
        Damage::Segment { log, segment, path, offset, what }
    }

    /// The chunks from a segment's head to its tail, each readable as far as batches reach.
    fn chunks(&self, slot: &Slot, extent: &Extent) -> Result<VecDeque<Chunk>, String> {
        let chunk_bytes = self.layout.chunk_bytes as u64;
        let (head, tail) = (extent.head.at, extent.tail_at);
        if head == tail {
            return Ok(VecDeque::new());
        }
        let wanted = head / chunk_bytes..tail.div_ceil(chunk_bytes);
        let mut numbers = Vec::new();
        for part in wanted {
            let readable = (tail - part * chunk_bytes).min(chunk_bytes) as usize;
            match self.owners.get(&(slot.serial(), part)).map(Vec::as_slice) {
                Some([chunk]) => numbers.push((*chunk, readable)),
                Some(several) => return Err(format!("chunks {several:?} all say that they are its {part}")),
                None => return Err(format!("chunk {part} of its entries is missing")),
            }
        }
        Ok(self.pool.take_up(&numbers).into())
    }

    /// Checks every batch. The segment has those before the first that does not agree.
    fn walk(
        &self,
        place: Place,
        slot: Slot,
        extent: Extent,
        chunks: VecDeque<Chunk>,
    ) -> (Segment, Result<(), Damage>) {
        let head = extent.head;
        let mut frames = Frames::new(head);
        let mut row = Row::new(place, head.index, head.before);
        let result = self.feed(&mut row, &mut frames, &chunks, &extent).and_then(|()| row.finish());
        let result = result.map(drop).map_err(|error| {
            let (at, chunk_bytes) = (frames.tail().at, self.layout.chunk_bytes as u64);
            let chunk = &chunks[(at / chunk_bytes - head.at / chunk_bytes) as usize];
            self.damage(&place, self.offset(chunk, at), error.to_string())
        });
        (Segment { place, frames, slot, extent, chunks }, result)
    }

    fn feed(
        &self,
        row: &mut Row,
        frames: &mut Frames,
        chunks: &VecDeque<Chunk>,
        extent: &Extent,
    ) -> Result<(), RowError> {
        let chunk_bytes = self.layout.chunk_bytes as u64;
        let (head, tail) = (extent.head.at, extent.tail_at);
        for (part, chunk) in (head / chunk_bytes..).zip(chunks) {
            let start = part * chunk_bytes;
            let from = head.saturating_sub(start) as usize;
            let to = (tail - start).min(chunk_bytes) as usize;
            row.feed(&chunk.view(from..to), |_, end| {
                frames.push(Boundary { at: head + end.at, ..*end });
            })?;
        }
        Ok(())
    }

    /// Where in the file a position of a stream lies, which is in this chunk.
    fn offset(&self, chunk: &Chunk, at: u64) -> u64 {
        let chunk_bytes = self.layout.chunk_bytes as u64;
        self.layout.chunks_at() as u64 + u64::from(chunk.number()) * chunk_bytes + at % chunk_bytes
    }
}
