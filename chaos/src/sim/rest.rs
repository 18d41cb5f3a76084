//! What a node has at rest: the batches of its segments and the fence. At `memory` everything is at
//! rest at once, and outlives the process. At `disk` it is at rest once it is synced: a process that
//! is killed leaves all of it, a machine that crashes may lose what came after the last sync.

use super::events::Batch;
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::{Epoch, Index, Level, SegmentNumber};
use piculet_quorum::replica::{ChainAt, Kept};
use std::collections::{BTreeMap, VecDeque};

/// The batches of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Run {
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
    Jump(SegmentNumber, Option<Box<Run>>),
    /// A fence, with the one before.
    Fence(Epoch),
}

/// One buffer of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rest {
    level: Level,
    pub(crate) runs: BTreeMap<SegmentNumber, Run>,
    fence: Epoch,
    unsynced: VecDeque<Unsynced>,
    /// How many operations have been synced.
    synced: u64,
    /// Whether a sync is under way.
    pub(crate) syncing: bool,
    entries: usize,
}

impl Run {
    pub(crate) fn new(start: Index, at_start: BatchEnd) -> Self {
        Self { start, at_start, batches: VecDeque::new(), written: Index(0) }
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
    pub(crate) fn new(level: Level) -> Self {
        Self {
            level,
            runs: BTreeMap::new(),
            fence: Epoch(0),
            unsynced: VecDeque::new(),
            synced: 0,
            syncing: false,
            entries: 0,
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
            Unsynced::Jump(of, before) if *of == number => {
                Some(before.as_ref().map_or(Index(0), |before| before.tail()))
            }
            _ => None,
        });
        // What is freed is archived, synced or not.
        Some(first.map_or(run.tail(), |first| first.max(run.start)))
    }

    pub(crate) fn store(&mut self, number: SegmentNumber, batch: Batch, written: bool) {
        let run = self.runs.get_mut(&number).expect("a segment is learned before it is stored to");
        assert_eq!(run.tail(), batch.header.first, "the buffer is not what the marks say");
        let before = run.at_tail();
        run.batches.push_back((batch, written));
        self.entries += batch.header.count as usize;
        self.write(Unsynced::Batch(number, batch.header.first, before));
    }

    pub(crate) fn set_fence(&mut self, epoch: Epoch) {
        if epoch > self.fence {
            let before = std::mem::replace(&mut self.fence, epoch);
            self.write(Unsynced::Fence(before));
        }
    }

    /// A segment is there, from the start that the metadata give it.
    pub(crate) fn create(&mut self, number: SegmentNumber, at_start: BatchEnd) {
        self.runs.entry(number).or_insert_with(|| Run::new(Index(0), at_start));
    }

    /// A segment starts anew at what is archived.
    pub(crate) fn jump(&mut self, number: SegmentNumber, start: Index, at_start: BatchEnd) {
        let mut run = Run::new(start, at_start);
        let before = self.runs.remove(&number).map(Box::new);
        if let Some(before) = &before {
            run.written = before.writer_tail();
            self.entries -= entries(before);
        }
        self.runs.insert(number, run);
        self.write(Unsynced::Jump(number, before));
    }

    fn write(&mut self, unsynced: Unsynced) {
        if self.level == Level::Disk {
            self.unsynced.push_back(unsynced);
        }
    }

    pub(crate) fn free_below(&mut self, number: SegmentNumber, index: Index) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        while let Some((batch, written)) =
            run.batches.pop_front_if(|(batch, _)| batch.header.end() <= index)
        {
            run.start = batch.header.end();
            run.at_start = batch.end;
            if written {
                run.written = run.start;
            }
            self.entries -= batch.header.count as usize;
        }
    }

    pub(crate) fn remove(&mut self, number: SegmentNumber) {
        if let Some(run) = self.runs.remove(&number) {
            self.entries -= entries(&run);
        }
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

    /// The process is gone.
    pub(crate) fn process_ends(&mut self) {
        self.syncing = false;
    }

    /// A process that starts syncs what it finds before it counts it.
    pub(crate) fn replayed(&mut self) {
        self.synced(self.unsynced.len());
    }

    /// The machine crashes: of what was not synced so much is left, and nothing that came later.
    pub(crate) fn machine_crashes(&mut self, kept: usize) {
        while self.unsynced.len() > kept {
            match self.unsynced.pop_back().expect("more than are kept") {
                Unsynced::Fence(before) => self.fence = before,
                Unsynced::Jump(number, Some(before)) => {
                    if let Some(run) = self.runs.insert(number, *before) {
                        self.entries -= entries(&run);
                    }
                    self.entries += entries(&self.runs[&number]);
                }
                Unsynced::Jump(number, None) => self.remove(number),
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
        self.process_ends();
    }
}

fn entries(run: &Run) -> usize {
    run.batches.iter().map(|(batch, _)| batch.header.count as usize).sum()
}
