//! A reader: the real cursor over marks that come late and in any order, over objects that may be
//! deleted meanwhile, and over a log that is trimmed below it.

use super::events::{Answer, Batch, Caller, Event, Rpc};
use super::loss::Losses;
use super::upload::{ObjectName, name};
use super::world::{MS, World};
use piculet_quorum::cursor::{Cursor, Step};
use piculet_quorum::ids::{Index, Offset, SegmentNumber};
use piculet_quorum::meta::PartRow;
use piculet_quorum::wire::frame::Mark;
use std::collections::{BTreeMap, BTreeSet};

/// One reader, which starts at offset 0, or at the trim offset if that is later.
pub(crate) struct Reader {
    /// The offset that it shows next.
    pub(crate) next: u64,
    number: SegmentNumber,
    cursor: Option<Cursor>,
    base: u64,
    /// The parts of the segment, as last read.
    row: PartRow,
    /// The object that is being read.
    getting: Option<ObjectName>,
    calls: BTreeMap<u64, usize>,
    /// Segments of which it was told that something may be lost.
    told: BTreeSet<SegmentNumber>,
    /// Below this segment a trim has led it.
    trimmed_to: SegmentNumber,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            number: SegmentNumber(0),
            cursor: None,
            base: 0,
            row: PartRow::default(),
            getting: None,
            calls: BTreeMap::new(),
            told: BTreeSet::new(),
            trimmed_to: SegmentNumber(0),
        }
    }

    fn leave(&mut self, number: SegmentNumber) {
        self.number = number;
        self.cursor = None;
        self.getting = None;
        self.row = PartRow::default();
        self.calls.clear();
    }
}

impl World {
    pub(crate) fn reader_tick(&mut self, at: usize) {
        let most = if self.healing { 15 * MS } else { 40 * MS };
        let period = self.rng.between(5 * MS, most);
        self.schedule(period, Event::ReaderTick { reader: at });
        if self.readers[at].cursor.is_none() && !self.store.away {
            self.enter_segment(at);
        }
        if self.readers[at].cursor.is_none() {
            return;
        }
        if !self.store.away && self.rng.chance(200) {
            self.reader_looks(at);
        }
        let number = self.readers[at].number;
        let Some(from) = self.readers[at].cursor.as_ref().map(Cursor::next) else { return };
        for node in 0..self.nodes.len() {
            if self.rng.chance(400) {
                self.reader_calls(at, node, Rpc::Marks(number));
            }
            if self.rng.chance(300) {
                self.reader_calls(at, node, Rpc::Read(number, from));
            }
        }
        self.reader_steps(at, &BTreeMap::new());
    }

    fn reader_calls(&mut self, at: usize, node: usize, rpc: Rpc) {
        let id = self.call(Caller::Reader(at), node, rpc, 200 * MS);
        self.readers[at].calls.insert(id, node);
    }

    fn enter_segment(&mut self, at: usize) {
        let number = self.readers[at].number;
        let Some(segment) = self.store.now.segment(number) else {
            if number < self.store.now.first().value.first_segment {
                self.reader_trimmed(at);
            }
            return;
        };
        let archived = self.store.now.archived(number, &segment.value);
        let reader = &mut self.readers[at];
        reader.base = segment.value.base.0;
        assert!(reader.base <= reader.next, "I4: a segment starts where the one before ends");
        let from = Index(reader.next - reader.base);
        reader.row = self.store.now.row(number);
        reader.cursor = Some(Cursor::new(number, &segment.value, archived, from));
    }

    /// The segment has gone: the reader is told so, and goes on where the log now begins.
    fn reader_trimmed(&mut self, at: usize) {
        let trim = self.store.now.trim().value.trim_offset.0;
        let first = self.store.now.first().value.first_segment;
        let next = self.readers[at].next;
        // What was given up may have been read far beyond.
        assert!(
            trim >= next || self.losses == Losses::Any,
            "I10: what lies at {next} was deleted, the log is trimmed to {trim}"
        );
        let mut number = first;
        for (at, record) in self.store.now.segments(first.0) {
            number = at;
            match record.state.end() {
                Some(end) if record.base.0 + end.end.0 <= trim => number = at.plus(1),
                _ => break,
            }
        }
        self.run.trimmed_readers += 1;
        self.readers[at].next = trim;
        self.readers[at].trimmed_to = number;
        self.readers[at].leave(number);
    }

    fn reader_looks(&mut self, at: usize) {
        let number = self.readers[at].number;
        let Some(segment) = self.store.now.segment(number) else {
            assert!(number < self.store.now.first().value.first_segment, "I10: a record has gone");
            return self.reader_trimmed(at);
        };
        let archived = self.store.now.archived(number, &segment.value).end;
        let reader = &mut self.readers[at];
        reader.row = self.store.now.row(number);
        if let Some(cursor) = &mut reader.cursor {
            cursor.learn_record(&segment.value, archived);
        }
    }

    pub(crate) fn reader_answered(&mut self, at: usize, id: u64, answer: Answer) {
        let reader = &mut self.readers[at];
        let Some(node) = reader.calls.remove(&id) else { return };
        let node = self.nodes[node].id.clone();
        match answer {
            Answer::Marks(mark) => self.reader_hears(at, &node, &mark),
            Answer::Batches(batches) => {
                let have = batches.iter().flat_map(Batch::entries).collect();
                self.reader_steps(at, &have);
            }
            _ => {}
        }
    }

    fn reader_hears(&mut self, at: usize, node: &piculet_quorum::ids::NodeId, mark: &Mark) {
        let reader = &mut self.readers[at];
        if mark.place.segment == reader.number
            && let Some(cursor) = &mut reader.cursor
        {
            cursor.handle_mark(node, mark);
        }
        self.reader_steps(at, &BTreeMap::new());
    }

    /// The segment is read: the reader goes on behind it, and is told of what is lost of it.
    fn reader_leaves(&mut self, at: usize) {
        let reader = &mut self.readers[at];
        let (number, cursor) = (reader.number, reader.cursor.as_ref().expect("it reads"));
        if let Some(known) = cursor.loss() {
            if self.store.away {
                return;
            }
            let Some(segment) = self.store.now.segment(number) else { return self.reader_trimmed(at) };
            let record = segment.value;
            let loss = record.loss.expect("T6: a loss is never taken back");
            assert!(loss.from <= known, "T6: the loss of segment {number} was raised");
            let end = record.state.end().expect("a loss is of a sealed segment").end;
            let at_end = reader.next >= Offset::of(record.base, end).0;
            if loss.acknowledged && (loss.beyond || !at_end) {
                reader.told.insert(number);
                self.run.told_of_loss += 1;
            }
            reader.next = Offset::of(record.base, end).0;
        }
        reader.leave(number.plus(1));
    }

    /// An object is read. One that has gone was trimmed; the record tells.
    pub(crate) fn reader_gets(&mut self, at: usize, wanted: ObjectName) {
        if self.readers[at].getting.take_if(|getting| *getting == wanted).is_none() {
            return;
        }
        let (number, first, ..) = wanted;
        if let Some(contents) = self.objects.get(&wanted) {
            let have = (first.0..).zip(contents.iter().copied()).collect();
            return self.reader_steps(at, &have);
        }
        let deleted = number < self.store.now.first().value.first_segment;
        assert!(deleted, "I5: no object for the part {wanted:?}");
        self.reader_trimmed(at);
    }

    /// Shows what is visible and has come.
    fn reader_steps(&mut self, at: usize, have: &BTreeMap<u64, u64>) {
        let reader = &mut self.readers[at];
        let Some(cursor) = &mut reader.cursor else { return };
        if let Step::UpTo(to) = cursor.step() {
            while cursor.next() < to
                && let Some(content) = have.get(&cursor.next().0)
            {
                let (number, index) = (reader.number, cursor.next());
                let offset = reader.base + index.0;
                let (told, trimmed) = (&reader.told, reader.trimmed_to);
                self.truth.check_told(offset, *content, |of| of < trimmed || told.contains(&of));
                self.truth.seen(number, index, offset, *content);
                cursor.shown(index.plus(1));
                reader.next += 1;
            }
        }
        match cursor.step() {
            Step::NextSegment => self.reader_leaves(at),
            Step::UpTo(_) if reader.getting.is_none() => {
                let (number, next) = (reader.number, cursor.next());
                let mut parts = reader.row.parts.iter();
                let holds = |(first, part): &&(Index, _)| *first <= next && end_of(part) > next;
                if let Some((first, part)) = parts.find(holds) {
                    let name = name(number, *first, part);
                    reader.getting = Some(name);
                    let delay = self.rng.between(MS, 20 * MS);
                    self.schedule(delay, Event::ReaderGets { reader: at, name });
                }
            }
            Step::UpTo(_) | Step::Wait => {}
        }
    }
}

fn end_of(part: &piculet_quorum::meta::Versioned<piculet_quorum::meta::PartRecord>) -> Index {
    part.value.at.end
}
