//! A reader: the real cursor over marks that come late and in any order.

use crate::events::{Answer, Batch, Caller, Event, Rpc};
use crate::upload::contents;
use crate::world::{MS, World};
use piculet_quorum::cursor::{Cursor, Step};
use piculet_quorum::ids::{Index, SegmentNumber};
use piculet_quorum::wire::frame::Mark;
use std::collections::BTreeMap;

/// One reader, which starts at offset 0.
pub(crate) struct Reader {
    /// The offset that it shows next.
    pub(crate) next: u64,
    number: SegmentNumber,
    cursor: Option<Cursor>,
    base: u64,
    calls: BTreeMap<u64, usize>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { next: 0, number: SegmentNumber(0), cursor: None, base: 0, calls: BTreeMap::new() }
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
        let number = self.readers[at].number;
        if !self.store.away && self.rng.chance(200) {
            self.reader_looks(at);
        }
        let from = self.readers[at].cursor.as_ref().expect("just seen").next();
        for node in 0..self.nodes.len() {
            if self.rng.chance(600) {
                self.reader_calls(at, node, Rpc::Marks(number));
            }
            if self.rng.chance(400) {
                self.reader_calls(at, node, Rpc::Read(number, from));
            }
        }
        self.reader_steps(at, None);
    }

    fn reader_calls(&mut self, at: usize, node: usize, rpc: Rpc) {
        let id = self.call(Caller::Reader(at), node, rpc, 200 * MS);
        self.readers[at].calls.insert(id, node);
    }

    fn enter_segment(&mut self, at: usize) {
        let reader = &mut self.readers[at];
        let Some(segment) = self.store.segment(reader.number) else { return };
        let archived = self.store.archived(reader.number, &segment.value);
        reader.base = segment.value.base.0;
        assert_eq!(reader.base, reader.next, "I4: a segment starts where the one before ends");
        reader.cursor = Some(Cursor::new(reader.number, &segment.value, archived, Index(0)));
    }

    fn reader_looks(&mut self, at: usize) {
        let reader = &mut self.readers[at];
        let (Some(segment), Some(cursor)) = (self.store.segment(reader.number), &mut reader.cursor) else {
            return;
        };
        cursor.learn_record(&segment.value, self.store.archived(reader.number, &segment.value).end);
    }

    pub(crate) fn reader_answered(&mut self, at: usize, id: u64, answer: Answer) {
        let reader = &mut self.readers[at];
        let Some(node) = reader.calls.remove(&id) else { return };
        let node = self.nodes[node].id.clone();
        match answer {
            Answer::Marks(mark) => self.reader_hears(at, &node, &mark),
            Answer::Batches(batches) => self.reader_steps(at, Some(&batches)),
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
        self.reader_steps(at, None);
    }

    /// Shows what is visible and has come, from a node's buffer or from object storage.
    fn reader_steps(&mut self, at: usize, come: Option<&[Batch]>) {
        let reader = &mut self.readers[at];
        let Some(cursor) = &mut reader.cursor else { return };
        if let Step::UpTo(to) = cursor.step() {
            let mut have: BTreeMap<u64, u64> = BTreeMap::new();
            for batch in come.into_iter().flatten() {
                have.extend(batch.entries());
            }
            for (first, part) in self.store.row(reader.number).parts {
                if part.value.at.end > cursor.next() {
                    let inside = contents(&self.objects, reader.number, first, &part);
                    have.extend((first.0..).zip(inside.iter().copied()));
                }
            }
            while cursor.next() < to
                && let Some(content) = have.get(&cursor.next().0)
            {
                let (number, index) = (reader.number, cursor.next());
                self.truth.seen(number, index, reader.base + index.0, *content);
                cursor.shown(index.plus(1));
                reader.next += 1;
            }
        }
        if cursor.step() == Step::NextSegment {
            reader.number = reader.number.plus(1);
            reader.cursor = None;
            reader.calls.clear();
        }
    }
}
