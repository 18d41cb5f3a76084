//! What must hold after every event, named as in the protocol.

use crate::events::Batch;
use crate::outcomes::LeftOpen;
use crate::store::LOG;
use crate::upload::contents;
use crate::world::World;
use piculet_quorum::glossary::Marks;
use piculet_quorum::ids::{Epoch, Incarnation, Index, Offset, SegmentNumber};
use piculet_quorum::meta::{Key, Record, Seal, SegmentRecord, SegmentState, Txn, TxnOutcome, Write};
use std::collections::BTreeMap;

/// What has happened, as somebody who sees everything would tell it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// The content of every entry that any node has stored.
    stored: BTreeMap<(SegmentNumber, Index), u64>,
    /// The content of every acknowledged offset.
    acked: BTreeMap<u64, u64>,
    /// The content of every offset that a reader was shown.
    pub(crate) seen: BTreeMap<u64, u64>,
    marks: BTreeMap<(usize, Incarnation, SegmentNumber), Marks>,
    fences: BTreeMap<(usize, Incarnation), Epoch>,
    /// Appends that writers had under way when they were fenced.
    pub(crate) left_open: Vec<LeftOpen>,
}

impl Truth {
    pub(crate) fn stored(&mut self, number: SegmentNumber, batch: &Batch) {
        for (index, content) in batch.entries() {
            let known = *self.stored.entry((number, Index(index))).or_insert(content);
            assert_eq!(known, content, "I6: two contents at segment {number}, index {index}");
        }
    }

    pub(crate) fn seen(&mut self, number: SegmentNumber, index: Index, offset: u64, content: u64) {
        assert_eq!(self.stored.get(&(number, index)), Some(&content), "I2: shown, but never stored");
        let known = *self.seen.entry(offset).or_insert(content);
        assert_eq!(known, content, "I2: offset {offset} was shown with another content");
        if let Some(acked) = self.acked.get(&offset) {
            assert_eq!(*acked, content, "I1: offset {offset} was acknowledged with another content");
        }
    }

    /// The offset behind the last acknowledged entry.
    pub(crate) fn acked_to(&self) -> u64 {
        self.acked.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }

    fn seen_to(&self) -> u64 {
        self.seen.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }

    /// The index behind the last entry of a segment, from one offset to another, that was
    /// acknowledged or shown. Behind an end that is not settled there may be later ones.
    fn promised(&self, base: u64, end: u64) -> u64 {
        let last = |offsets: &BTreeMap<u64, u64>| {
            offsets.range(base..end.max(base)).next_back().map_or(0, |(offset, _)| offset + 1 - base)
        };
        last(&self.acked).max(last(&self.seen))
    }

    /// Every acknowledged offset was shown.
    pub(crate) fn all_seen(&self) -> bool {
        self.acked.keys().all(|offset| self.seen.contains_key(offset))
    }
}

impl World {
    /// Carries a transaction out, and checks what it did to the segments.
    pub(crate) fn apply(&mut self, txn: &Txn) -> TxnOutcome {
        let segments = txn.writes.iter().filter_map(|write| match write {
            Write::Put(Key::Segment(_, number), _) => Some(*number),
            _ => None,
        });
        let before: Vec<_> = segments.map(|number| (number, self.store.segment(number))).collect();
        let outcome = self.store.apply(txn);
        if outcome == TxnOutcome::Refused {
            return outcome;
        }
        for (number, before) in before {
            let after = self.store.segment(number).expect("just put").value;
            self.check_change(number, before.map(|before| before.value), &after);
        }
        for write in &txn.writes {
            if let Write::Put(Key::Part(_, number, first), Record::Part(_)) = write {
                self.run.parts += 1;
                self.check_part(*number, *first);
            }
        }
        let open = self.store.unarchived().filter(|(_, record)| record.state == SegmentState::Open);
        assert!(open.count() <= 1, "I4: two open segments");
        self.decide_outcomes();
        outcome
    }

    fn check_change(&mut self, number: SegmentNumber, before: Option<SegmentRecord>, after: &SegmentRecord) {
        let Some(before) = before else { return self.check_created(number, after) };
        let kept = SegmentRecord { state: after.state.clone(), ..before.clone() };
        assert_eq!(kept, *after, "a segment changes only in its state");
        if let Some(end) = before.state.end() {
            assert_eq!(after.state.end(), Some(end), "I3: the end of segment {number} was written twice");
        }
        let Some(at) = after.state.end() else { panic!("I3: segment {number} was reopened") };
        let archived = self.store.archived(number, after);
        assert!(archived.end <= at.end, "archived beyond the end of segment {number}");
        if matches!(after.state, SegmentState::Archived(_)) {
            assert_eq!(archived, *at, "I5: segment {number} is archived with another end");
        }
        if before.state == SegmentState::Open {
            let end = Offset::of(after.base, at.end).0;
            let (acked, seen) = (self.truth.acked_to(), self.truth.seen_to());
            assert!(acked <= end, "I1: acknowledged up to {acked}, segment {number} ends at {end}");
            assert!(seen <= end, "I2: shown up to {seen}, segment {number} ends at {end}");
            if let SegmentState::Sealed(seal) = &after.state {
                self.check_holders(number, after, seal);
            }
        }
    }

    /// I9: whoever is counted as a holder lives in the listed incarnation and holds everything.
    fn check_holders(&self, number: SegmentNumber, record: &SegmentRecord, seal: &Seal) {
        for holder in &seal.holders {
            let at = self.node_ix(holder);
            let node = &self.nodes[at];
            assert_eq!(record.member(holder), Some(node.incarnation), "I9: {holder} was reborn");
            let held = node.replica.marks(number).map(|marks| marks.held);
            let whole = node.forgot || held.is_some_and(|held| held >= seal.at.end);
            assert!(whole, "I9: {holder} holds {held:?} of segment {number}, counted up to {}", seal.at.end);
        }
    }

    fn check_created(&self, number: SegmentNumber, created: &SegmentRecord) {
        assert_eq!(created.state, SegmentState::Open);
        let open = self.store.unarchived().filter(|(_, record)| record.state == SegmentState::Open);
        assert_eq!(open.count(), 1, "I4: two open segments");
        if number.0 == 0 {
            return;
        }
        let last = self.store.segment(SegmentNumber(number.0 - 1)).expect("segments follow each other").value;
        let at = last.state.end().expect("I4: only one is open");
        assert_eq!(created.base, Offset::of(last.base, at.end), "I4: the base of segment {number}");
        assert_eq!(created.base_chain, at.chain, "I4: the chain before segment {number}");
    }

    /// I5: the object is there, and holds what was stored under its indices.
    fn check_part(&self, number: SegmentNumber, first: Index) {
        let row = self.store.row(number);
        let Some((_, part)) = row.parts.iter().find(|(at, _)| *at == first) else {
            panic!("I5: the part at {first} of segment {number} is outside the row");
        };
        let inside = contents(&self.objects, number, first, part);
        assert_eq!(inside.len() as u64, part.value.at.end.0 - first.0, "I5: the length of a part");
        for (index, content) in (first.0..).zip(inside) {
            let stored = self.truth.stored.get(&(number, Index(index)));
            assert_eq!(stored, Some(content), "I5: segment {number}, index {index}");
        }
    }

    /// An append was acknowledged to its application.
    pub(crate) fn acked(&mut self, first: Offset, number: SegmentNumber, batch: &Batch) {
        let record = self.store.segment(number).expect("what is acknowledged lies in a segment").value;
        assert_eq!(first, Offset::of(record.base, batch.header.first), "the offset of an append");
        if let Some(at) = record.state.end() {
            assert!(batch.header.end() <= at.end, "I1: acknowledged beyond the end of segment {number}");
        }
        for (index, content) in batch.entries() {
            let offset = record.base.0 + index;
            let stored = self.truth.stored.get(&(number, Index(index)));
            assert_eq!(stored, Some(&content), "I1: acknowledged offset {offset} is something else");
            let known = *self.truth.acked.entry(offset).or_insert(content);
            assert_eq!(known, content, "I1: offset {offset} was acknowledged twice");
            self.run.acked += 1;
        }
    }

    /// Checks what may have changed with any event.
    pub(crate) fn check(&mut self) {
        self.check_marks();
        for (number, record) in self.store.unarchived() {
            let needed = match record.state.end() {
                None => self.truth.promised(record.base.0, u64::MAX),
                Some(at) if record.settled() => at.end.0,
                Some(at) => self.truth.promised(record.base.0, Offset::of(record.base, at.end).0),
            };
            let archived = self.store.archived(number, record).end;
            let held = record.ensemble.iter().filter_map(|member| {
                let node = &self.nodes[self.node_ix(&member.node)];
                let lives = !node.forgot && node.incarnation == member.incarnation;
                let marks = node.replica.marks(number).filter(|_| lives)?;
                let buffer = node.buffers.get(&number)?;
                assert_eq!(buffer.tail(), marks.tail, "the buffer is not what the marks say");
                assert!(buffer.start <= archived, "I8: {} freed below {}", member.node, buffer.start);
                Some(marks.held.0)
            });
            let most = held.max().unwrap_or(0).max(archived.0);
            assert!(
                most >= needed,
                "I11: segment {number} is needed up to {needed}, there is {most}; {record:?}; lives {:?}",
                self.nodes.iter().map(|node| (node.incarnation, node.forgot)).collect::<Vec<_>>()
            );
        }
    }

    /// I7: within one incarnation, a node's promises only grow.
    fn check_marks(&mut self) {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.forgot) {
            let life = (at, node.incarnation);
            let fence = node.replica.fence_epoch();
            let before = self.truth.fences.insert(life, fence);
            assert!(before.is_none_or(|before| before <= fence), "I7: a fence was forgotten");
            for number in node.replica.segments() {
                let marks = node.replica.marks(number).expect("it is held");
                marks.assert_sound();
                let known = self.truth.marks.insert((at, node.incarnation, number), marks);
                if let Some(known) = known.filter(|_| number.0 >= self.store.first_unarchived) {
                    let grows = known.held <= marks.held
                        && known.writer_tail <= marks.writer_tail
                        && known.commit <= marks.commit
                        && known.freed <= marks.freed;
                    assert!(grows, "I7: {} went from {known:?} to {marks:?}", node.id);
                }
            }
            let dropped = node.buffers.keys().find(|number| node.replica.marks(**number).is_none());
            assert_eq!(dropped, None, "memory without a segment");
        }
    }

    /// Whether everything has caught up, now that the faults have stopped.
    pub(crate) fn finished(&self) -> bool {
        let end = self.store.log().value.next_base.0;
        self.faults.closed
            && self.store.unarchived().next().is_none()
            && self.readers.iter().all(|reader| reader.next == end)
            && self.truth.all_seen()
            && self.truth.acked_to() <= end
            && self.nodes.iter().all(|node| node.replica.segments().next().is_none())
            && self.clients.iter().all(|client| client.gone())
    }

    /// Why it has not.
    pub(crate) fn unfinished(&self) -> String {
        let unarchived: Vec<_> = self.store.unarchived().collect();
        let sights: Vec<String> = unarchived
            .first()
            .into_iter()
            .flat_map(|(number, _)| (0..self.nodes.len()).map(|at| self.describe_upload(at, *number)))
            .collect();
        let held: Vec<Vec<u64>> =
            self.nodes.iter().map(|node| node.replica.segments().map(|number| number.0).collect()).collect();
        let clients: Vec<String> = self.clients.iter().map(crate::client::Client::describe).collect();
        format!(
            "it does not catch up: closed {}, {sights:?}, unarchived {unarchived:?}, held {held:?}, readers at {:?} of {}, \
             clients {clients:?}, log {LOG:?}",
            self.faults.closed,
            self.readers.iter().map(|reader| reader.next).collect::<Vec<_>>(),
            self.store.log().value.next_base,
        )
    }
}
