//! What a node has at rest: the batches of its segments and the fence. At `memory` everything is at
//! rest at once, and outlives the process. At `disk` it is at rest once it is synced: a process that
//! is killed leaves all of it, a machine that crashes may lose what came after the last sync.
//!
//! What is here is what should be there. What is there is in the shipped buffer or journal: a start
//! takes up what they have, and it must be this. At `memory` all bytes come from there, too.

use super::events::Batch;
use super::journal::{Found, encode};
use super::memory::{FoundMemory, Memory, found};
use super::rng::Rng;
use super::store::LOG;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Epoch, Index, Level, SegmentNumber};
use piculet_quorum::replica::{ChainAt, Kept};
use piculet_storage::journal::{Change, Manifest};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

/// So many bytes of memory for each entry that a node may have: sometimes too few for small batches.
const BYTES_OF_ENTRY: u64 = 48;
/// So much at most is read at once.
const READ_BATCHES: usize = 20;
const READ_BYTES: usize = 2_000;

/// The batches of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    place: Place,
    /// Everything below has been freed.
    pub(crate) start: Index,
    at_start: BatchEnd,
    /// Each with whether the writer itself appended it.
    pub(crate) batches: VecDeque<(Batch, bool)>,
    /// How much of what was freed the writer appended itself.
    written: Index,
}

/// Something that was written and is not synced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Unsynced {
    /// A batch that starts at this index, behind this.
    Batch(SegmentNumber, Index, BatchEnd),
    /// A run that starts anew, with what was there before.
    Jump(SegmentNumber, Box<Run>),
    /// A fence, with the one before.
    Fence(Epoch),
}

/// One buffer of a node.
#[derive(Debug)]
pub(crate) struct Rest {
    level: Level,
    pub(crate) runs: BTreeMap<SegmentNumber, Run>,
    fence: Epoch,
    unsynced: VecDeque<Unsynced>,
    /// What the journal is to be told, each with how many operations were written by then.
    changes: VecDeque<(u64, Change)>,
    /// How many operations have been synced.
    synced: u64,
    /// Whether a sync is under way.
    pub(crate) syncing: bool,
    entries: usize,
    /// At level `memory`: the shipped buffer.
    memory: Option<Memory>,
    /// What was here before and after that during which the process was killed.
    torn: Option<Box<[Self; 2]>>,
}

impl Run {
    fn new(place: Place, start: Index, at_start: BatchEnd) -> Self {
        Self { place, start, at_start, batches: VecDeque::new(), written: Index(0) }
    }

    pub(crate) fn tail(&self) -> Index {
        self.batches.back().map_or(self.start, |(batch, _)| batch.header.end())
    }

    fn at_tail(&self) -> BatchEnd {
        self.batches.back().map_or(self.at_start, |(batch, _)| batch.end)
    }

    fn writer_tail(&self) -> Index {
        let last = self.batches.iter().rev().find(|(_, written)| *written);
        last.map_or(self.written, |(batch, _)| batch.header.end())
    }

    /// What a restarted process finds.
    pub(crate) fn kept(&self) -> Kept {
        let (tail, writer_tail) = (self.tail(), self.writer_tail());
        Kept { tail, writer_tail, freed: self.start, at_tail: self.at_tail() }
    }

    /// What is at an index, given the chain at the tail of an empty buffer.
    pub(crate) fn chain_at(&self, index: Index) -> ChainAt {
        if index < self.start {
            return ChainAt::Freed;
        }
        let at = self.batches.partition_point(|(batch, _)| batch.header.first < index);
        if let Some((batch, _)) = self.batches.get(at).filter(|(batch, _)| batch.header.first == index) {
            return ChainAt::Boundary(batch.header.chain);
        }
        match self.batches.back() {
            Some((batch, _)) if batch.header.end() == index => ChainAt::Boundary(batch.end.chain),
            Some((batch, _)) if batch.header.end() > index => ChainAt::Inside,
            // An empty buffer has no batch left that shows the chain at its tail.
            None if index == self.start => ChainAt::Freed,
            _ => ChainAt::Beyond,
        }
    }

    /// The batches that lie whole between two indices.
    pub(crate) fn between(&self, from: Index, to: Index) -> impl Iterator<Item = Batch> + '_ {
        let inside = move |batch: &Batch| batch.header.first >= from && batch.header.end() <= to;
        self.batches.iter().map(|(batch, _)| *batch).filter(inside)
    }
}

impl Rest {
    /// An empty one, of so many entries about.
    pub(crate) fn new(level: Level, capacity: usize) -> Self {
        let bytes = capacity as u64 * BYTES_OF_ENTRY;
        Self {
            level,
            runs: BTreeMap::new(),
            fence: Epoch(0),
            unsynced: VecDeque::new(),
            changes: VecDeque::new(),
            synced: 0,
            syncing: false,
            entries: 0,
            memory: (level == Level::Memory).then(|| Memory::new(bytes)),
            torn: None,
        }
    }

    /// The same without what is behind it.
    fn copy(&self) -> Self {
        Self {
            level: self.level,
            runs: self.runs.clone(),
            fence: self.fence,
            unsynced: self.unsynced.clone(),
            changes: VecDeque::new(),
            synced: 0,
            syncing: false,
            entries: self.entries,
            memory: None,
            torn: None,
        }
    }

    /// Changes what is here and, at `memory`, what is in the buffer.
    fn change(&mut self, here: impl FnOnce(&mut Self), there: impl FnOnce(&mut Memory)) {
        let Some(memory) = &self.memory else { return here(self) };
        let may_die = memory.is_dying() && !memory.has_died();
        let before = may_die.then(|| self.copy());
        if let Some(memory) = &mut self.memory {
            there(memory);
        }
        here(self);
        if let Some(before) = before
            && self.memory.as_ref().is_some_and(Memory::has_died)
        {
            self.torn = Some(Box::new([self.copy(), before]));
        }
    }

    /// How many entries are in memory.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    pub(crate) fn fence(&self) -> Epoch {
        self.fence
    }

    /// The fence as a crash of the machine would leave it.
    pub(crate) fn fence_at_rest(&self) -> Epoch {
        let oldest = self.unsynced.iter().find_map(|unsynced| match unsynced {
            Unsynced::Fence(before) => Some(*before),
            _ => None,
        });
        oldest.unwrap_or(self.fence)
    }

    /// How much of a segment is at rest.
    pub(crate) fn held(&self, number: SegmentNumber) -> Option<Index> {
        let run = self.runs.get(&number)?;
        let first = self.unsynced.iter().find_map(|unsynced| match unsynced {
            Unsynced::Batch(of, first, _) if *of == number => Some(*first),
            Unsynced::Jump(of, before) if *of == number => Some(before.tail()),
            _ => None,
        });
        // What is freed is archived, synced or not.
        Some(first.map_or_else(|| run.tail(), |first| first.max(run.start)))
    }

    /// Reserves the room of a batch; false when there is none.
    pub(crate) fn begin(&mut self, number: SegmentNumber, batch: &Batch) -> bool {
        let mut room = true;
        self.change(|_| {}, |memory| room = memory.begin(number, batch));
        room
    }

    /// The batch whose room was reserved is not wanted.
    pub(crate) fn discard(&mut self, number: SegmentNumber) {
        self.change(|_| {}, |memory| memory.discard(number));
    }

    /// Stores the batch whose room was reserved.
    pub(crate) fn store(&mut self, number: SegmentNumber, batch: Batch, written: bool) {
        let there = |memory: &mut Memory| memory.publish(number, &batch, written);
        self.change(|rest| rest.push(number, batch, written), there);
    }

    fn push(&mut self, number: SegmentNumber, batch: Batch, written: bool) {
        let run = self.runs.get_mut(&number).expect("a segment is learned before it is stored to");
        assert_eq!(run.tail(), batch.header.first, "the buffer is not what the marks say");
        let (place, before) = (run.place, run.at_tail());
        run.batches.push_back((batch, written));
        self.entries += batch.header.count as usize;
        self.write(Unsynced::Batch(number, batch.header.first, before), || Change::Batch {
            place,
            repair: !written,
            end: batch.header.end(),
            at_end: batch.end,
            bytes: vec![encode(&place, &batch)],
        });
    }

    pub(crate) fn set_fence(&mut self, epoch: Epoch) {
        if epoch <= self.fence {
            return;
        }
        let here = |rest: &mut Self| {
            let before = std::mem::replace(&mut rest.fence, epoch);
            rest.write(Unsynced::Fence(before), || Change::Fence { log: LOG, epoch });
        };
        self.change(here, |memory| memory.put_fence(epoch));
    }

    /// A segment is there, from the start that the metadata give it.
    pub(crate) fn create(&mut self, place: Place, at_start: BatchEnd) {
        let Entry::Vacant(run) = self.runs.entry(place.segment) else { return };
        run.insert(Run::new(place, Index(0), at_start));
        self.note(Change::Segment(Manifest::new(place, Index(0), at_start)));
        if let Some(memory) = &mut self.memory {
            memory.create(place, at_start);
        }
    }

    /// A segment starts anew at what is archived.
    pub(crate) fn jump(&mut self, number: SegmentNumber, start: Index, at_start: BatchEnd) {
        let there = |memory: &mut Memory| memory.jump(number, start, at_start);
        self.change(|rest| rest.start_anew(number, start, at_start), there);
    }

    fn start_anew(&mut self, number: SegmentNumber, start: Index, at_start: BatchEnd) {
        let before = self.runs.remove(&number).expect("a segment is learned before it is opened");
        let place = before.place;
        let mut run = Run::new(place, start, at_start);
        run.written = before.writer_tail();
        self.entries -= entries(&before);
        self.runs.insert(number, run);
        self.write(Unsynced::Jump(number, Box::new(before)), || Change::Jump {
            place,
            start,
            before: at_start,
        });
    }

    fn write(&mut self, unsynced: Unsynced, change: impl FnOnce() -> Change) {
        if self.level == Level::Disk {
            self.unsynced.push_back(unsynced);
            self.note(change());
        }
    }

    fn note(&mut self, change: Change) {
        if self.level == Level::Disk {
            self.changes.push_back((self.written_to(), change));
        }
    }

    /// What the journal has not been told of the operations up to one.
    pub(crate) fn changes(&mut self, written_to: u64) -> Vec<Change> {
        let count = self.changes.partition_point(|(at, _)| *at <= written_to);
        self.changes.drain(..count).map(|(_, change)| change).collect()
    }

    pub(crate) fn free_below(&mut self, number: SegmentNumber, index: Index) {
        if self.runs.contains_key(&number) {
            self.change(|rest| rest.pop_below(number, index), |memory| memory.free_below(number, index));
        }
    }

    fn pop_below(&mut self, number: SegmentNumber, index: Index) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        let start = run.start;
        while let Some((batch, written)) = run.batches.pop_front_if(|(batch, _)| batch.header.end() <= index)
        {
            run.start = batch.header.end();
            run.at_start = batch.end;
            if written {
                run.written = run.start;
            }
            self.entries -= batch.header.count as usize;
        }
        if run.start > start {
            let (place, index, before) = (run.place, run.start, run.at_start);
            self.note(Change::Freed { place, index, before });
        }
    }

    pub(crate) fn remove(&mut self, number: SegmentNumber) {
        let here = |rest: &mut Self| {
            if let Some(run) = rest.runs.remove(&number) {
                rest.entries -= entries(&run);
                rest.note(Change::Drop { place: run.place });
            }
        };
        self.change(here, |memory| memory.remove(number));
    }

    /// How many operations wait to be synced.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Where the operations so far end; and up to where they are synced.
    pub(crate) fn written_to(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    pub(crate) fn synced_to(&self) -> u64 {
        self.synced
    }

    /// The oldest operations are synced from now on.
    pub(crate) fn synced(&mut self, count: usize) {
        self.unsynced.drain(..count);
        self.synced += count as u64;
    }

    /// The process is gone. What it was doing when it was killed has happened or not.
    pub(crate) fn process_ends(&mut self) {
        self.syncing = false;
        let Some(image) = self.memory.as_mut().and_then(Memory::end) else { return };
        if let Some(torn) = self.torn.take() {
            let found = found(image);
            let Some(left) = torn.into_iter().find(|left| left.is_found(&found)) else {
                panic!("I7: what a kill leaves was never there: {found:?}; {self:?}");
            };
            (self.runs, self.fence, self.entries) = (left.runs, left.fence, left.entries);
        }
    }

    /// At `memory`, a process starts: what it finds must be what is here. A segment of which nothing
    /// was ever stored may be there or not.
    pub(crate) fn process_starts(&mut self) {
        let Some(memory) = &mut self.memory else { return };
        let found = memory.start();
        assert!(self.is_found(&found), "I7: what a restart finds was never there: {found:?}; {self:?}");
        self.runs.retain(|number, _| found.segments.contains_key(number));
    }

    fn is_found(&self, found: &FoundMemory) -> bool {
        let same = |(number, run): (&SegmentNumber, &Run)| match found.segments.get(number) {
            Some(segment) => {
                let batches = run.batches.iter().map(|(batch, _)| batch);
                (segment.place, segment.kept) == (run.place, run.kept()) && batches.eq(&segment.batches)
            }
            None => run.tail() == Index(0),
        };
        let here = |number: &SegmentNumber| self.runs.contains_key(number);
        self.fence == found.fence && self.runs.iter().all(same) && found.segments.keys().all(here)
    }

    /// At `memory`: the process is killed before so many more stores, unless it makes fewer before it is
    /// asked whether it lives on.
    pub(crate) fn dies_before(&mut self, stores: u64) {
        if let Some(memory) = &mut self.memory {
            memory.dies_before(stores);
        }
    }

    /// Whether the process has not been killed in the middle of something.
    pub(crate) fn lives_on(&mut self) -> bool {
        self.memory.as_mut().is_none_or(Memory::lives_on)
    }

    /// Whether it has: what it still does is seen by nobody.
    pub(crate) fn has_died(&self) -> bool {
        self.memory.as_ref().is_some_and(Memory::has_died)
    }

    /// At `memory`: some bits of what is left turn over. Returns whether a start would notice.
    pub(crate) fn rot(&self, rng: &mut Rng) -> bool {
        self.memory.as_ref().is_some_and(|memory| memory.rot(rng))
    }

    /// Whether memory runs short.
    pub(crate) fn short(&self) -> bool {
        self.memory.as_ref().is_some_and(Memory::short)
    }

    /// What is at an index of a segment that is here.
    pub(crate) fn chain_at(&self, number: SegmentNumber, index: Index) -> ChainAt {
        let memory = self.memory.as_ref();
        memory.map_or_else(|| self.runs[&number].chain_at(index), |memory| memory.chain_at(number, index))
    }

    /// The batches that lie whole between two indices of a segment that is here.
    pub(crate) fn between(&self, number: SegmentNumber, from: Index, to: Index) -> Vec<Batch> {
        match &self.memory {
            None => self.runs[&number].between(from, to).collect(),
            Some(memory) => {
                let mut batches = memory.read(number, from, to, usize::MAX);
                batches.retain(|batch| batch.header.first >= from);
                batches
            }
        }
    }

    /// Some batches from the one that has an index of a segment that is here.
    pub(crate) fn read(&self, number: SegmentNumber, from: Index) -> Vec<Batch> {
        let run = &self.runs[&number];
        match &self.memory {
            None => {
                let wanted = run.batches.iter().filter(|(batch, _)| batch.header.end() > from);
                wanted.take(READ_BATCHES).map(|(batch, _)| *batch).collect()
            }
            Some(memory) => memory.read(number, from, run.tail(), READ_BYTES),
        }
    }

    /// A process that starts has found this at rest. It must be what was written up to some moment,
    /// and all that was synced. Returns how much is lost, and what the journal has to be told to agree
    /// in the rest.
    pub(crate) fn settle_on(&mut self, found: &Found) -> (usize, Vec<Change>) {
        let like = |kept: &usize| {
            let mut left = self.copy();
            left.undo(*kept);
            left.agrees(found)
        };
        let Some(kept) = (0..=self.unsynced.len()).rev().find(like) else {
            panic!("I7: what a restart finds was never there: {found:?}; {self:?}");
        };
        let lost = self.unsynced.len() - kept;
        self.undo(kept);
        self.synced(kept);
        self.changes.clear();
        let here = |place: &Place| self.runs.contains_key(&place.segment);
        let dropped = found.segments.values().map(|manifest| manifest.place).filter(|place| !here(place));
        let new = self.runs.values().filter(|run| !found.segments.contains_key(&run.place.segment));
        let new = new.map(|run| Change::Segment(Manifest::new(run.place, run.start, run.at_start)));
        (lost, dropped.map(|place| Change::Drop { place }).chain(new).collect())
    }

    fn agrees(&self, found: &Found) -> bool {
        let same = |(number, run): (&SegmentNumber, &Run)| match found.segments.get(number) {
            Some(manifest) => {
                let Kept { tail, writer_tail, at_tail, .. } = run.kept();
                manifest.head <= run.start
                    && (manifest.tail, manifest.writer_tail(), manifest.at_tail)
                        == (tail, writer_tail, at_tail)
            }
            None => run.tail() == Index(0),
        };
        self.fence == found.fence && self.runs.iter().all(same)
    }

    /// Takes back what was written last, but for so many operations that are not synced.
    fn undo(&mut self, kept: usize) {
        while self.unsynced.len() > kept {
            match self.unsynced.pop_back().expect("more than are kept") {
                Unsynced::Fence(before) => self.fence = before,
                Unsynced::Jump(number, before) => {
                    if let Some(run) = self.runs.insert(number, *before) {
                        self.entries -= entries(&run);
                    }
                    self.entries += entries(&self.runs[&number]);
                }
                Unsynced::Batch(number, first, before) => {
                    let Some(run) = self.runs.get_mut(&number) else { continue };
                    match run.batches.pop_back() {
                        Some((batch, _)) => {
                            assert_eq!(batch.header.first, first, "operations are undone in order");
                            self.entries -= batch.header.count as usize;
                        }
                        None => {
                            (run.start, run.at_start) = (first, before);
                            run.written = run.written.min(first);
                        }
                    }
                }
            }
        }
    }
}

fn entries(run: &Run) -> usize {
    run.batches.iter().map(|(batch, _)| batch.header.count as usize).sum()
}
