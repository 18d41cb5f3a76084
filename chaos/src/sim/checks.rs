//! What must hold after every event, named as in the protocol.

use super::events::Batch;
use super::healing::Healing;
use super::loss::Losses;
use super::outcomes::LeftOpen;
use super::store::LOG;
use super::upload::name;
use super::world::World;
use piculet_quorum::glossary::Marks;
use piculet_quorum::ids::{Epoch, Incarnation, Index, Offset, SegmentNumber};
use piculet_quorum::meta::{Key, Loss, Record, Seal, SegmentRecord, SegmentState, Txn, TxnOutcome, Write};
use piculet_quorum::quorums;
use piculet_quorum::wire::message::Proposal;
use std::collections::BTreeMap;

/// What has happened, as somebody who sees everything would tell it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// The content of every entry that any node has stored.
    stored: BTreeMap<(SegmentNumber, Index), u64>,
    /// The content of every acknowledged offset.
    pub(crate) acked: BTreeMap<u64, u64>,
    /// The content of every offset that a reader was shown.
    pub(crate) seen: BTreeMap<u64, u64>,
    /// The largest tail that a client was told.
    pub(crate) tail_to: u64,
    /// The marks of each life of each buffer, and the commit of each process.
    marks: BTreeMap<(usize, Incarnation, SegmentNumber), (Marks, u64)>,
    fences: BTreeMap<(usize, Incarnation), Epoch>,
    /// What is recorded as lost of a segment.
    pub(crate) losses: BTreeMap<SegmentNumber, Loss>,
    /// What was acknowledged or shown at an offset, and given up with the log's leave.
    pub(crate) given_up: BTreeMap<(u64, SegmentNumber), u64>,
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
        if let Some(acknowledged) = self.is_lost(number, index) {
            // A reader that has not learned of a loss goes on for a while, if there is leave for it.
            assert!(acknowledged, "I2: offset {offset} is shown, and nothing was ever visible there");
            return;
        }
        let known = *self.seen.entry(offset).or_insert(content);
        assert_eq!(known, content, "I2: offset {offset} was shown with another content");
        if let Some(acked) = self.acked.get(&offset) {
            assert_eq!(*acked, content, "I1: offset {offset} was acknowledged with another content");
        }
    }

    /// Whether everything below an index of a segment was stored somewhere.
    pub(crate) fn is_stored(&self, number: SegmentNumber, index: Index) -> bool {
        index.0.checked_sub(1).is_none_or(|last| self.stored.contains_key(&(number, Index(last))))
    }

    pub(crate) fn acked_count(&self) -> u64 {
        self.acked.len() as u64
    }

    /// The offset behind the last acknowledged entry.
    pub(crate) fn acked_to(&self) -> u64 {
        self.acked.last_key_value().map_or(0, |(offset, _)| offset + 1)
    }

    /// The offset behind the last one that was shown.
    pub(crate) fn seen_to(&self) -> u64 {
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

    /// Every acknowledged offset from `trim` on was shown.
    pub(crate) fn all_seen(&self, trim: u64) -> bool {
        self.acked.range(trim..).all(|(offset, _)| self.seen.contains_key(offset))
    }
}

impl World {
    /// Carries a transaction out, and checks what it did to the segments.
    pub(crate) fn apply(&mut self, txn: &Txn) -> TxnOutcome {
        let segments = txn.writes.iter().filter_map(|write| match write {
            Write::Put(Key::Segment(_, number), _) => Some(*number),
            _ => None,
        });
        let before: Vec<_> = segments.map(|number| (number, self.store.now.segment(number))).collect();
        self.check_deletion(txn);
        let epoch = self.store.now.log().value.epoch;
        let outcome = self.store.apply(txn);
        if outcome == TxnOutcome::Refused {
            return outcome;
        }
        for (number, before) in before {
            let after = self.store.now.segment(number).expect("just put").value;
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
        assert!(self.store.now.log().value.epoch >= epoch, "I4: the epoch of the log goes back");
        self.decide_outcomes();
        outcome
    }

    /// I10, before the transaction is carried out, if it will be.
    fn check_deletion(&self, txn: &Txn) {
        let trim = self.store.now.trim().value.trim_offset;
        if !txn.compares.iter().all(|(key, revision)| self.store.now.revision_of(key) == *revision) {
            return;
        }
        for write in &txn.writes {
            match write {
                Write::Put(_, Record::Trim(record)) => {
                    assert!(record.trim_offset >= trim, "I10: the trim offset falls");
                    // A loss may take back what was visible. The offsets stay taken.
                    let taken = self.store.now.log().value.next_base.0;
                    let taken = if self.losses == Losses::Any { taken } else { 0 };
                    let visible = self.truth.seen_to().max(taken);
                    let sound = record.trim_offset == trim || record.trim_offset.0 <= visible;
                    assert!(sound, "I10: trimmed beyond what is visible");
                }
                Write::Delete(Key::Segment(_, number)) => {
                    let record = self.store.now.segment(*number).expect("it is deleted once").value;
                    let end = record.state.end().map(|at| Offset::of(record.base, at.end));
                    assert!(
                        end.is_some_and(|end| end <= trim),
                        "I10: deleted above the trim offset: {record:?}"
                    );
                }
                _ => {}
            }
        }
    }

    /// How far the segment is archived that a takeover proposes to seal.
    pub(crate) fn archived_before(&self, proposal: &Proposal) -> Option<Index> {
        let Proposal::Seal(proposal) = proposal else { return None };
        let seal = proposal.seal.as_ref().filter(|seal| seal.recovery)?;
        Some(self.store.now.archived(seal.segment, &seal.read.value).end)
    }

    /// A takeover's end is found knowing of all that is archived.
    pub(crate) fn check_seal_guard(&self, proposal: &Proposal, archived: Option<Index>) {
        if let (Proposal::Seal(proposal), Some(archived)) = (proposal, archived)
            && let Some(seal) = &proposal.seal
        {
            let known = seal.archived;
            assert_eq!(known, archived, "T2: a takeover that knew of less that is archived has sealed");
        }
    }

    fn check_change(&mut self, number: SegmentNumber, before: Option<SegmentRecord>, after: &SegmentRecord) {
        let Some(before) = before else { return self.check_created(number, after) };
        let kept = SegmentRecord { state: after.state.clone(), loss: after.loss, ..before.clone() };
        assert_eq!(kept, *after, "a segment changes only in its state, and in what is lost of it");
        if before.loss != after.loss {
            self.check_loss(number, &before, after);
        }
        if let Some(end) = before.state.end() {
            assert_eq!(after.state.end(), Some(end), "I3: the end of segment {number} was written twice");
        }
        let Some(at) = after.state.end() else { panic!("I3: segment {number} was reopened") };
        let archived = self.store.now.archived(number, after);
        assert!(archived.end <= at.end, "archived beyond the end of segment {number}");
        if matches!(after.state, SegmentState::Archived(_)) {
            assert_eq!(archived, *at, "I5: segment {number} is archived with another end");
        }
        if before.state == SegmentState::Open {
            let end = Offset::of(after.base, at.end).0;
            let (acked, seen, tail) = (self.truth.acked_to(), self.truth.seen_to(), self.truth.tail_to);
            assert!(tail <= end, "tail: told of {tail}, segment {number} ends at {end}");
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
            let held = node.rest.held(number);
            let kept = record.kept().unwrap_or(seal.at.end);
            let whole = node.forgot || held.is_some_and(|held| held >= kept);
            assert!(whole, "I9: {holder} holds {held:?} of segment {number}, counted up to {kept}");
        }
    }

    fn check_created(&self, number: SegmentNumber, created: &SegmentRecord) {
        assert_eq!(created.state, SegmentState::Open);
        let (base, trim) = (created.base, self.store.now.trim().value.trim_offset);
        assert!(base >= trim, "I10: segment {number} starts at {base}, the log is trimmed to {trim}");
        let open = self.store.unarchived().filter(|(_, record)| record.state == SegmentState::Open);
        assert_eq!(open.count(), 1, "I4: two open segments");
        if number.0 == 0 {
            return;
        }
        let Some(last) = self.store.now.segment(SegmentNumber(number.0 - 1)) else {
            // It has been trimmed away already.
            let first = self.store.now.first().value.first_segment;
            return assert_eq!(number, first, "I4: segments follow each other");
        };
        let last = last.value;
        let at = last.state.end().expect("I4: only one is open");
        assert_eq!(created.base, Offset::of(last.base, at.end), "I4: the base of segment {number}");
        assert_eq!(created.base_chain, at.chain, "I4: the chain before segment {number}");
    }

    /// I5: the object is there, and holds what was stored under its indices.
    fn check_part(&mut self, number: SegmentNumber, first: Index) {
        let row = self.store.now.row(number);
        let Some((_, part)) = row.parts.iter().find(|(at, _)| *at == first) else {
            panic!("I5: the part at {first} of segment {number} is outside the row");
        };
        let name = name(number, first, part);
        let inside = self.objects.get(&name).unwrap_or_else(|| panic!("I5: no object for the part {name:?}"));
        let record = self.store.now.segment(number).expect("a part is of a segment").value;
        if record.state == SegmentState::Open {
            let committed = self.ever_committed(number, &record);
            let end = part.value.at.end;
            assert!(end <= committed, "I5: segment {number} archived to {end}, committed to {committed}");
        }
        if part.value.skip {
            assert_eq!(record.loss.map(|loss| loss.from), Some(first), "I5: a part for what is not lost");
            self.run.skips += 1;
            return assert!(inside.is_empty());
        }
        assert_eq!(inside.len() as u64, part.value.at.end.0 - first.0, "I5: the length of a part");
        for (index, content) in (first.0..).zip(inside) {
            let stored = self.truth.stored.get(&(number, Index(index)));
            assert_eq!(stored, Some(content), "I5: segment {number}, index {index}");
        }
    }

    /// How far a quorum has ever held a segment.
    fn ever_committed(&self, number: SegmentNumber, record: &SegmentRecord) -> Index {
        let held = record.ensemble.iter().map(|member| {
            let at = (self.node_ix(&member.node), member.incarnation, number);
            self.truth.marks.get(&at).map_or(Index(0), |(marks, _)| marks.held)
        });
        quorums::committed(held)
    }

    /// An append was acknowledged to its application.
    pub(crate) fn acked(&mut self, first: Offset, number: SegmentNumber, batch: &Batch) {
        if let Some(acknowledged) = self.truth.is_lost(number, batch.header.first) {
            return assert!(acknowledged, "I1: acknowledged behind the loss of segment {number}");
        }
        let base = first.0 - batch.header.first.0;
        if let Some(record) = self.store.now.segment(number).map(|segment| segment.value) {
            assert_eq!(base, record.base.0, "the offset of an append in segment {number}");
            let end = record.state.end().map(|at| at.end);
            assert!(
                end.is_none_or(|end| batch.header.end() <= end),
                "I1: acknowledged beyond the end of segment {number}"
            );
        } else {
            let deleted = number < self.store.now.first().value.first_segment;
            assert!(deleted, "I1: acknowledged in segment {number}, which has no record");
        }
        for (index, content) in batch.entries() {
            let offset = base + index;
            let stored = self.truth.stored.get(&(number, Index(index)));
            assert_eq!(stored, Some(&content), "I1: acknowledged offset {offset} is something else");
            let known = *self.truth.acked.entry(offset).or_insert(content);
            assert_eq!(known, content, "I1: offset {offset} was acknowledged twice");
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
            let archived = self.store.now.archived(number, record).end;
            let held = record.ensemble.iter().filter_map(|member| {
                let node = &self.nodes[self.node_ix(&member.node)];
                let lives = !node.forgot && node.incarnation == member.incarnation;
                let held = node.rest.held(number).filter(|_| lives)?;
                let start = node.rest.runs[&number].start;
                assert!(start <= archived, "I8: {} freed below {start}", member.node);
                Some(held.0)
            });
            let gone = record.ensemble.iter().filter(|member| {
                let node = &self.nodes[self.node_ix(&member.node)];
                node.forgot || node.incarnation != member.incarnation
            });
            let beyond = self.losses == Losses::Any && gone.count() > 1;
            let most = held.max().unwrap_or(0).max(archived.0);
            assert!(
                most >= needed || beyond,
                "{}: segment {number} is needed up to {needed}, there is {most}; {record:?}; lives {:?}",
                if record.settled() { "I12" } else { "I11" },
                self.nodes.iter().map(|node| (node.incarnation, node.forgot)).collect::<Vec<_>>()
            );
        }
    }

    /// I7: within one incarnation, a node's promises only grow.
    fn check_marks(&mut self) {
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            let life = (at, node.incarnation);
            let fence = node.rest.fence_at_rest();
            let before = self.truth.fences.insert(life, fence);
            let kept = before.is_none_or(|before| before <= fence) && node.replica.fence_epoch() >= fence;
            assert!(kept, "I7: a fence was forgotten");
            for number in node.replica.segments() {
                let marks = node.replica.marks(number).expect("it is held");
                marks.assert_sound();
                let run = node.rest.runs.get(&number).unwrap_or_else(|| panic!("{number} is not at rest"));
                assert_eq!(run.tail(), marks.tail, "the buffer is not what the marks say");
                let known = self.truth.marks.insert((at, node.incarnation, number), (marks, node.life));
                if let Some((known, life)) = known.filter(|_| number.0 >= self.store.first_unarchived) {
                    // What is archived need not be at rest here, and may be forgotten: nothing hangs on it.
                    let archived = node.replica.archived(number).map_or(Index(0), |at| at.end);
                    let grows = known.held <= marks.held.max(archived)
                        && known.writer_tail <= marks.writer_tail.max(archived)
                        && (known.commit <= marks.commit || life != node.life);
                    assert!(grows, "I7: {} went from {known:?} to {marks:?}", node.id);
                }
            }
            let held = node.rest.runs.keys().find(|number| node.replica.marks(**number).is_none());
            assert_eq!(held, None, "memory without a segment");
        }
    }

    /// Whether everything has caught up, now that the faults have stopped.
    pub(crate) fn finished(&self) -> bool {
        let end = self.store.now.log().value.next_base.0;
        (self.faults.closed || self.ends != Healing::Replaced)
            && self.store.unarchived().next().is_none()
            && self.readers.iter().all(|reader| reader.next == end)
            && self.truth.all_seen(self.store.now.trim().value.trim_offset.0)
            && self.truth.acked_to() <= end
            && self.nodes.iter().all(|node| node.up && node.rest.runs.is_empty())
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
            self.nodes.iter().map(|node| node.rest.runs.keys().map(|number| number.0).collect()).collect();
        let clients: Vec<String> = self.clients.iter().map(super::client::Client::describe).collect();
        format!(
            "it does not catch up: {:?}, closed {}, {sights:?}, unarchived {unarchived:?}, held {held:?}, readers at {:?} of {}, \
             clients {clients:?}, log {LOG:?}",
            self.ends,
            self.faults.closed,
            self.readers.iter().map(|reader| reader.next).collect::<Vec<_>>(),
            self.store.now.log().value.next_base,
        )
    }
}
