//! The shipped buffer of level `memory`: what a kill leaves of it, before whatever store, must be what
//! was there before or after what was being done.

use super::events::Batch;
use super::journal::{contents_of, encode};
use super::rng::Rng;
use super::store::LOG;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchEnd, BatchHeader, BatchVerifier, Place};
use piculet_quorum::ids::{Epoch, Index, SegmentNumber, Timestamp};
use piculet_quorum::replica::{ChainAt, Kept};
use piculet_storage::simulated::{Image, SimulatedBuffer};
use piculet_storage::{ArenaOptions, Contents, Damage, SegmentBuffer};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes of a body that come at once.
const PIECE_BYTES: usize = 50;
/// Batches of a few entries lie in several chunks.
const CHUNK_BYTES: usize = 256;

/// One node's buffer.
#[derive(Debug)]
pub(crate) struct Memory {
    options: ArenaOptions,
    /// None while no process has it.
    process: Option<Process>,
    /// What the last process left, if there was one.
    left: Option<Image>,
    /// The process is killed before so many more stores, unless it makes fewer.
    dies_before: Option<u64>,
    /// What is left of a process that was killed so, while it is still going on.
    died: Option<Image>,
}

#[derive(Debug)]
struct Process {
    buffer: Rc<SimulatedBuffer>,
    segments: BTreeMap<SegmentNumber, SegmentBuffer>,
}

/// What a process finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundSegment {
    pub(crate) place: Place,
    pub(crate) kept: Kept,
    pub(crate) batches: Vec<Batch>,
}

/// All of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FoundMemory {
    pub(crate) fence: Epoch,
    pub(crate) segments: BTreeMap<SegmentNumber, FoundSegment>,
}

impl FoundMemory {
    fn of(contents: &Contents) -> Self {
        let fence = contents.fences.iter().find(|(log, _)| *log == LOG).map_or(Epoch(0), |(_, epoch)| *epoch);
        let segments = contents.segments.iter().map(|segment| {
            let (place, kept) = (*segment.buffer.place(), segment.kept);
            let batches = read(&segment.buffer, kept.freed, kept.tail, usize::MAX);
            (place.segment, FoundSegment { place, kept, batches })
        });
        Self { fence, segments: segments.collect() }
    }
}

impl Memory {
    /// An empty one of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let options = ArenaOptions { bytes, chunk_bytes: CHUNK_BYTES };
        Self { options, process: None, left: None, dies_before: None, died: None }
    }

    /// Whether it is more than half full.
    pub(crate) fn short(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let arena = process.buffer.arena();
            arena.used_bytes() * 2 > arena.capacity_bytes()
        })
    }

    /// A process starts, and takes up what is there.
    pub(crate) fn start(&mut self) -> FoundMemory {
        let Some(image) = self.left.take() else {
            let buffer = SimulatedBuffer::create(&self.options).expect("there is memory");
            self.process = Some(Process { buffer: Rc::new(buffer), segments: BTreeMap::new() });
            return FoundMemory { fence: Epoch(0), segments: BTreeMap::new() };
        };
        let (buffer, contents) = open(&image);
        let found = FoundMemory::of(&contents);
        let segments = contents.segments.into_iter();
        let segments = segments.map(|kept| (kept.buffer.place().segment, kept.buffer)).collect();
        self.process = Some(Process { buffer: Rc::new(buffer), segments });
        found
    }

    /// The process is killed before so many more stores.
    pub(crate) fn dies_before(&mut self, stores: u64) {
        self.dies_before = self.process.is_some().then_some(stores);
    }

    /// It is not, unless that has happened. Returns whether it has.
    pub(crate) fn lives_on(&mut self) -> bool {
        self.dies_before = None;
        self.died.is_none()
    }

    /// Whether a kill is due, or has happened just now.
    pub(crate) fn is_dying(&self) -> bool {
        self.dies_before.is_some() || self.died.is_some()
    }

    pub(crate) fn has_died(&self) -> bool {
        self.died.is_some()
    }

    /// The process is gone. Returns what it leaves, if there was one.
    pub(crate) fn end(&mut self) -> Option<&Image> {
        let process = self.process.take()?;
        self.dies_before = None;
        let now = || process.buffer.image().expect("memory can be read");
        self.left = Some(self.died.take().unwrap_or_else(now));
        self.left.as_ref()
    }

    /// Some bits of what is left turn over. Returns whether a start says that it cannot vouch for the
    /// rest; if it does not, all must be as it was.
    pub(crate) fn rot(&self, rng: &mut Rng) -> bool {
        let Some(left) = &self.left else { return false };
        let mut turned = left.clone();
        for _ in 0..rng.between(1, 9) {
            // Tables and the chunks that are lent first lie in front.
            let most = rng.between(1, left.bits() as u64 + 1);
            turned.flip(rng.between(0, most) as usize);
        }
        match SimulatedBuffer::reopen(&turned).expect("there is memory") {
            Err(_) => true,
            Ok((_, contents)) => {
                assert_eq!(FoundMemory::of(&contents), found(left), "I6: turned bits change entries");
                false
            }
        }
    }

    /// Does something to the buffer, which may be the last that its process does.
    fn carry_out<T>(&mut self, work: impl FnOnce(&mut Process) -> T) -> T {
        let process = self.process.as_mut().expect("the process runs");
        let Some(left) = self.dies_before.filter(|_| self.died.is_none()) else { return work(process) };
        let buffer = Rc::clone(&process.buffer);
        let (result, stores) = buffer.killed_before(left, || work(process));
        self.dies_before = Some(left.saturating_sub(stores.made));
        self.died = stores.killed;
        result
    }

    fn with<T>(&mut self, number: SegmentNumber, work: impl FnOnce(&mut SegmentBuffer) -> T) -> T {
        self.carry_out(|process| work(process.segments.get_mut(&number).expect("it was created")))
    }

    fn segment(&self, number: SegmentNumber) -> &SegmentBuffer {
        &self.process.as_ref().expect("the process runs").segments[&number]
    }

    pub(crate) fn create(&mut self, place: Place, at_start: BatchEnd) {
        self.carry_out(|process| {
            let segment = process.buffer.segment(place, Index(0), at_start);
            process.segments.insert(place.segment, segment);
        });
    }

    /// Reserves the room of a batch; false when there is none.
    pub(crate) fn begin(&mut self, number: SegmentNumber, batch: &Batch) -> bool {
        self.with(number, |segment| segment.begin(&batch.header).is_ok())
    }

    /// The batch whose room was reserved is not wanted.
    pub(crate) fn discard(&mut self, number: SegmentNumber) {
        self.with(number, SegmentBuffer::discard);
    }

    /// Stores the batch whose room was reserved.
    pub(crate) fn publish(&mut self, number: SegmentNumber, batch: &Batch, written: bool) {
        self.with(number, |segment| {
            let bytes = encode(segment.place(), batch);
            bytes[BATCH_HEADER_BYTES..].chunks(PIECE_BYTES).for_each(|piece| segment.fill(piece));
            segment.publish(batch.end, !written);
        });
    }

    pub(crate) fn put_fence(&mut self, epoch: Epoch) {
        self.carry_out(|process| process.buffer.put_fence(LOG, epoch));
    }

    pub(crate) fn jump(&mut self, number: SegmentNumber, start: Index, at_start: BatchEnd) {
        self.with(number, |segment| segment.jump(start, at_start));
    }

    pub(crate) fn free_below(&mut self, number: SegmentNumber, index: Index) {
        self.with(number, |segment| {
            if let Some(boundary) = segment.floor_boundary(index) {
                segment.free_below(boundary);
            }
        });
    }

    pub(crate) fn remove(&mut self, number: SegmentNumber) {
        self.carry_out(|process| {
            if let Some(segment) = process.segments.remove(&number) {
                segment.remove();
            }
        });
    }

    pub(crate) fn chain_at(&self, number: SegmentNumber, index: Index) -> ChainAt {
        self.segment(number).chain_at(index)
    }

    /// The batches from the one that has `from` to the one that ends at `to`, at most so many bytes,
    /// but one in any case.
    pub(crate) fn read(&self, number: SegmentNumber, from: Index, to: Index, most: usize) -> Vec<Batch> {
        read(self.segment(number), from, to, most)
    }
}

/// What is in what a process left, which was never damaged.
pub(crate) fn found(image: &Image) -> FoundMemory {
    FoundMemory::of(&open(image).1)
}

fn open(image: &Image) -> (SimulatedBuffer, Contents) {
    let opened: Result<_, Damage> = SimulatedBuffer::reopen(image).expect("there is memory");
    opened.unwrap_or_else(|damage| panic!("I7: a kill taken for damage: {damage}"))
}

fn read(segment: &SegmentBuffer, from: Index, to: Index, most: usize) -> Vec<Batch> {
    let from = segment.floor_boundary(from).unwrap_or(from);
    let Some(run) = segment.read(from, to, most) else { return Vec::new() };
    let (bytes, mut batches) = (run.pieces.concat(), Vec::new());
    let (mut left, mut last) = (&bytes[..], run.before.last_timestamp);
    while !left.is_empty() {
        let (batch, rest) = decode(segment.place(), left, last);
        (left, last) = (rest, batch.end.last_timestamp);
        batches.push(batch);
    }
    batches
}

/// A batch, and the bytes behind it.
fn decode<'a>(place: &Place, bytes: &'a [u8], last: Timestamp) -> (Batch, &'a [u8]) {
    let (header, body) = bytes.split_first_chunk::<BATCH_HEADER_BYTES>().expect("a whole header");
    let header = BatchHeader::decode(header, place).expect("the header that was stored");
    let (body, rest) = body.split_at(header.body_len as usize);
    let mut verifier = BatchVerifier::new(header, last);
    verifier.feed(body, |_| {}).expect("the entries that were stored");
    let end = verifier.finish().expect("all of them");
    let mut contents = contents_of(&header, body);
    let content = contents.next().expect("a batch has entries");
    let row = contents.zip(content + 1..).all(|(content, expected)| content == expected);
    assert!(row, "I6: the contents of {header:?} are not those of any batch");
    (Batch { header, end, content }, rest)
}
