//! The entries of one segment at one node, in chunks of the arena.
//!
//! The batches of a segment form one stream of bytes, each whole as it came: its header, then its
//! entries. Positions in the stream grow, and start over when nothing is left in it. Chunk `n` of the
//! stream holds the positions from `n * chunk_bytes` on; the segment has the chunks from
//! `first_chunk` on.
//!
//! ```text
//!        freed                    tail
//! chunk    |                        |    staged batch
//! [....####################][#######.......]
//!      ^ head               ^       ^ tail of the frames
//! ```

#[cfg(test)]
mod tests;

use crate::arena::{Arena, Full};
use crate::frames::{Boundary, Frames, Run};
use crate::journal::{Change, Journal, Manifest, Reservation};
use crate::mapping::Chunk;
use crate::slots::Slot;
use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchEnd, BatchHeader, Place};
use piculet_quorum::ids::Index;
use piculet_quorum::replica::{ChainAt, Kept};
use std::collections::VecDeque;
use std::sync::Arc;

/// The entries of one segment at one node.
///
/// A batch is written in steps: [`begin`](Self::begin) reserves its room, [`fill`](Self::fill)
/// takes its bytes as they come, and [`publish`](Self::publish) makes it visible, when it has been
/// verified; or [`discard`](Self::discard) forgets it. Nothing here checks what the bytes mean.
///
/// What is published is at rest: the next process finds it, also when this one is killed. So a
/// segment that is dropped stays at rest, and keeps its room; [`remove`](Self::remove) gives it back.
#[derive(Debug)]
pub struct SegmentBuffer {
    arena: Arc<Arena>,
    place: Place,
    frames: Frames,
    staged: Option<Staged>,
    chunks: VecDeque<Chunk>,
    first_chunk: u64,
    /// The index from which on what was published are repairs.
    repaired_from: Option<Index>,
    /// What is at rest of it; nothing before its first batch.
    slot: Option<Slot>,
    /// At level `disk`.
    journal: Option<Journaled>,
}

#[derive(Debug)]
struct Staged {
    header: BatchHeader,
    /// Bytes of the body that have come.
    filled: usize,
    /// The room for it in the journal, if there is one.
    room: Option<Reservation>,
}

/// The journal of a segment at level `disk`.
#[derive(Debug)]
struct Journaled {
    journal: Arc<Journal>,
    /// Whether the segment is in it.
    listed: bool,
}

impl SegmentBuffer {
    /// An empty segment whose first entry will have index `start`; `before` is what lies before it.
    pub(crate) fn new(arena: Arc<Arena>, place: Place, start: Index, before: BatchEnd) -> Self {
        let frames = Frames::new(Boundary { index: start, at: 0, before });
        Self {
            arena,
            place,
            frames,
            staged: None,
            chunks: VecDeque::new(),
            first_chunk: 0,
            repaired_from: None,
            slot: None,
            journal: None,
        }
    }

    /// The same at level `disk`, over an arena that nothing is at rest in. `listed` says whether the
    /// journal has the segment, as it is here.
    pub(crate) fn with_journal(mut self, journal: Arc<Journal>, listed: bool) -> Self {
        self.journal = Some(Journaled { journal, listed });
        self
    }

    /// The same, of which repairs began at an index.
    pub(crate) fn with_repairs(mut self, repaired_from: Option<Index>) -> Self {
        self.repaired_from = repaired_from;
        self
    }

    /// A segment that an earlier process left, with the chunks from its head to its tail.
    pub(crate) fn reopened(
        arena: Arc<Arena>,
        place: Place,
        frames: Frames,
        chunks: VecDeque<Chunk>,
        repaired_from: Option<Index>,
        slot: Slot,
    ) -> Self {
        let first_chunk = frames.head().at / arena.chunk_bytes() as u64;
        let (staged, slot, journal) = (None, Some(slot), None);
        Self { arena, place, frames, staged, chunks, first_chunk, repaired_from, slot, journal }
    }

    /// Starts a batch behind the tail, and reserves all the room that it needs.
    ///
    /// # Errors
    /// When there is no room. Nothing has changed then.
    ///
    /// # Panics
    /// If a batch is staged already, or this one does not continue the segment: the caller has
    /// compared its index and chain.
    pub fn begin(&mut self, header: &BatchHeader) -> Result<(), Full> {
        let tail = *self.frames.tail();
        assert!(self.staged.is_none(), "one batch is staged at a time");
        assert_eq!(
            (header.first, header.chain),
            (tail.index, tail.before.chain),
            "a batch continues the segment"
        );
        let journal = self.journal.as_ref();
        let room = journal.map(|at| at.journal.reserve(header.bytes())).transpose()?;
        let chunk_bytes = self.arena.chunk_bytes() as u64;
        let chunks = (tail.at + header.bytes() as u64).div_ceil(chunk_bytes) - self.first_chunk;
        let had = self.chunks.len();
        let missing = (chunks as usize).saturating_sub(had);
        if missing > 0 {
            self.arena.take(missing, &mut self.chunks)?;
        }
        let slot = match &mut self.slot {
            Some(slot) => slot,
            none => match self.arena.take_slot(&self.place, &self.frames.extent(self.repaired_from)) {
                Ok(slot) => none.insert(slot),
                Err(full) => {
                    self.arena.give_back(self.chunks.drain(had..));
                    return Err(full);
                }
            },
        };
        for (position, chunk) in (self.first_chunk..).zip(&self.chunks).skip(had) {
            self.arena.assign(chunk, slot, position);
        }
        self.write(tail.at, &header.encode(&self.place));
        self.staged = Some(Staged { header: *header, filled: 0, room });
        Ok(())
    }

    /// Takes the next bytes of the staged batch's body, at most [`staged_left`](Self::staged_left).
    pub fn fill(&mut self, piece: &[u8]) {
        assert!(piece.len() <= self.staged_left(), "a piece of {} bytes beyond the batch", piece.len());
        if let Some(staged) = &mut self.staged {
            let at = self.frames.tail().at + (BATCH_HEADER_BYTES + staged.filled) as u64;
            staged.filled += piece.len();
            self.write(at, piece);
        }
    }

    /// Bytes of the staged batch's body that have not come yet; 0 when none is staged.
    #[must_use]
    pub fn staged_left(&self) -> usize {
        self.staged.as_ref().map_or(0, |staged| staged.header.body_len as usize - staged.filled)
    }

    /// Makes the staged batch visible, which must be complete, and puts it at rest; `end` is what it
    /// leaves behind it. At level `disk` it is at rest when the journal says so. `repair` says that it
    /// did not come from the segment's writer, which never appends behind a repair.
    pub fn publish(&mut self, end: BatchEnd, repair: bool) {
        let left = self.staged_left();
        let staged = self.staged.take().expect("a batch is staged");
        let tail = *self.frames.tail();
        assert_eq!(left, 0, "a batch is published when it is complete");
        assert!(end.last_timestamp >= tail.before.last_timestamp, "timestamps never decrease");
        if repair && self.repaired_from.is_none() {
            self.repaired_from = Some(tail.index);
            self.put_extent();
        }
        self.list();
        let at = tail.at + staged.header.bytes() as u64;
        let slot = self.slot.as_ref().expect("a segment has a slot since its first batch began");
        self.arena.publish(slot, at);
        self.for_each_chunk(tail.at, at, |chunk, _, to| chunk.set_readable(to));
        let index = staged.header.end();
        self.frames.push(Boundary { index, at, before: end });
        if let Some(room) = staged.room {
            let bytes = self.view(tail.at, at);
            room.put(Change::Batch { place: self.place, repair, end: index, at_end: end, bytes });
        }
    }

    /// Puts the segment in the journal, before anything else of it.
    fn list(&mut self) {
        let Boundary { index, before, .. } = *self.frames.tail();
        if let Some(Journaled { journal, listed }) = &mut self.journal
            && !std::mem::replace(listed, true)
        {
            journal.put(Change::Segment(Manifest::new(self.place, index, before)));
        }
    }

    /// Puts a change in the journal, if that has the segment.
    fn put(&self, change: Change) {
        if let Some(Journaled { journal, listed: true }) = &self.journal {
            journal.put(change);
        }
    }

    /// Forgets the staged batch, if there is one.
    pub fn discard(&mut self) {
        if self.staged.take().is_some() {
            self.release();
        }
    }

    /// Continues at `start`, which is above the tail: everything below it is archived, and what is
    /// here is given back, a staged batch too. `before` is what lies before it. What follows are
    /// repairs. When nothing was at rest of the segment and there is no room, the jump is at rest
    /// with the first batch behind it; until then a kill undoes it, which loses nothing.
    pub fn jump(&mut self, start: Index, before: BatchEnd) {
        let tail = *self.frames.tail();
        assert!(start > tail.index, "a jump from {} to {start}", tail.index);
        self.staged = None;
        self.list();
        self.put(Change::Jump { place: self.place, start, before });
        self.repaired_from.get_or_insert(tail.index);
        self.first_chunk = 0;
        self.frames = Frames::new(Boundary { index: start, at: 0, before });
        if self.slot.is_none() {
            self.slot = self.arena.take_slot(&self.place, &self.frames.extent(self.repaired_from)).ok();
        } else {
            self.put_extent();
        }
        self.arena.give_back(self.chunks.drain(..));
    }

    /// Gives back everything, at rest too: the segment is archived whole, or its log deleted.
    pub fn remove(mut self) {
        self.put(Change::Drop { place: self.place });
        if let Some(slot) = self.slot.take() {
            self.arena.give_slot_back(slot);
        }
        self.arena.give_back(self.chunks.drain(..));
    }

    /// The segment.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The index that the next batch will have.
    #[must_use]
    pub fn tail(&self) -> Index {
        self.frames.tail().index
    }

    /// Chain and timestamp at the tail.
    #[must_use]
    pub fn end(&self) -> BatchEnd {
        self.frames.tail().before
    }

    /// The index below which entries have been freed, or never were here.
    #[must_use]
    pub fn freed(&self) -> Index {
        self.frames.head().index
    }

    /// The chain before `index`, as far as it is known.
    #[must_use]
    pub fn chain_at(&self, index: Index) -> ChainAt {
        if index < self.freed() {
            ChainAt::Freed
        } else if index > self.tail() {
            ChainAt::Beyond
        } else {
            self.frames.at(index).map_or(ChainAt::Inside, |b| ChainAt::Boundary(b.before.chain))
        }
    }

    /// Stored bytes of the batches in `[from, to)`. Both must be boundaries that are here.
    #[must_use]
    pub fn bytes_between(&self, from: Index, to: Index) -> u64 {
        assert!(from <= to, "a range from {from} to {to}");
        let position = |index| match self.frames.at(index) {
            Some(boundary) => boundary.at,
            None => panic!("{index} is no boundary of {:?}", self.place),
        };
        position(to) - position(from)
    }

    /// The largest boundary at or below `index`; `None` when that has been freed.
    #[must_use]
    pub fn floor_boundary(&self, index: Index) -> Option<Index> {
        self.frames.floor(index).map(|boundary| boundary.index)
    }

    /// Whole batches from the boundary `from` on, none beyond `to`: as many as have at most
    /// `max_bytes` together, but at least one. Their bytes are not copied; they keep their chunks
    /// lent until they are dropped. `None` when there is no such batch, or when `from` is not a
    /// boundary that is here.
    #[must_use]
    pub fn read(&self, from: Index, to: Index, max_bytes: usize) -> Option<Run> {
        let start = self.frames.at(from)?;
        let stop = self.frames.stop(start, to, max_bytes)?;
        Some(Run {
            first: start.index,
            before: start.before,
            end: stop.index,
            end_chain: stop.before,
            pieces: self.view(start.at, stop.at),
            bytes: (stop.at - start.at) as usize,
        })
    }

    /// Frees the batches below the boundary `index`, which is at most the tail. Chunks that lie
    /// wholly below it go back to the arena, as soon as no reader holds them; all of them, when
    /// nothing is left. An index that is freed already changes nothing.
    pub fn free_below(&mut self, index: Index) {
        if index <= self.freed() {
            return;
        }
        assert!(self.frames.at(index).is_some(), "{index} is no boundary of {:?}", self.place);
        self.frames.drop_below(index);
        let before = self.frames.head().before;
        self.put(Change::Freed { place: self.place, index, before });
        if !self.release() {
            self.put_extent();
        }
    }

    /// What is at rest when a process ends.
    pub(crate) fn kept(&self) -> Kept {
        Kept {
            tail: self.tail(),
            writer_tail: self.repaired_from.unwrap_or(Index(u64::MAX)).min(self.tail()),
            freed: self.freed(),
            at_tail: self.end(),
        }
    }

    /// Bytes of the chunks that are lent to this segment.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.chunks.len() as u64 * self.arena.chunk_bytes() as u64
    }

    /// Gives back the chunks that are below the head or, unless a batch is staged, above the tail.
    /// Returns whether what is at rest besides the batches has been brought up to date.
    fn release(&mut self) -> bool {
        let chunk_bytes = self.arena.chunk_bytes() as u64;
        if self.staged.is_none() && self.frames.is_empty() {
            if self.chunks.is_empty() {
                return false;
            }
            self.first_chunk = 0;
            self.frames.start_over();
            self.put_extent();
            self.arena.give_back(self.chunks.drain(..));
            return true;
        }
        let first = self.frames.head().at / chunk_bytes;
        let below = (first - self.first_chunk) as usize;
        if below > 0 {
            self.put_extent();
            self.arena.give_back(self.chunks.drain(..below));
            self.first_chunk = first;
        }
        if self.staged.is_none() {
            let end = self.frames.tail().at.div_ceil(chunk_bytes);
            self.arena.give_back(self.chunks.drain((end - first) as usize..));
        }
        below > 0
    }

    /// Puts at rest where the batches begin and end.
    fn put_extent(&mut self) {
        if let Some(slot) = &mut self.slot {
            self.arena.update(slot, &self.frames.extent(self.repaired_from));
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut left = bytes;
        self.for_each_chunk(at, at + bytes.len() as u64, |chunk, from, to| {
            let (now, later) = left.split_at(to - from);
            chunk.write(from, now);
            left = later;
        });
    }

    fn view(&self, from: u64, to: u64) -> Vec<Bytes> {
        let spans = Spans::new(from, to, self.first_chunk, self.arena.chunk_bytes());
        spans.map(|(chunk, from, to)| self.chunks[chunk].view(from..to)).collect()
    }

    fn for_each_chunk(&mut self, from: u64, to: u64, mut each: impl FnMut(&mut Chunk, usize, usize)) {
        for (chunk, from, to) in Spans::new(from, to, self.first_chunk, self.arena.chunk_bytes()) {
            each(&mut self.chunks[chunk], from, to);
        }
    }
}

/// The pieces of a range of positions: which of the segment's chunks, from where, to where in it.
struct Spans {
    chunk: usize,
    from: usize,
    left: u64,
    chunk_bytes: usize,
}

impl Spans {
    fn new(from: u64, to: u64, first_chunk: u64, chunk_bytes: usize) -> Self {
        let chunk = (from / chunk_bytes as u64 - first_chunk) as usize;
        Self { chunk, from: (from % chunk_bytes as u64) as usize, left: to - from, chunk_bytes }
    }
}

impl Iterator for Spans {
    type Item = (usize, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let len = self.left.min((self.chunk_bytes - self.from) as u64) as usize;
        let span = (self.chunk, self.from, self.from + len);
        self.left -= len as u64;
        self.chunk += 1;
        self.from = 0;
        Some(span)
    }
}
