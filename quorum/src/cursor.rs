//! A reader's place in a segment: what it may be shown.
//!
//! Index `i` is visible when one of these holds, and never because of one node's own tail:
//!
//! * V1: a member reports `commit > i`;
//! * V2: two members at their listed incarnations report `writer_tail > i`;
//! * V3: the metadata say that the segment is sealed with a settled end beyond `i`;
//! * V4: `archived > i`.
//!
//! A loss is checked first: from there to the segment's end nothing is visible, whatever they say.

use crate::ids::{Incarnation, Index, NodeId, SegmentNumber};
use crate::meta::{SegmentEnd, SegmentRecord};
use crate::mutation::{Mutation, on};
use crate::quorums;
use crate::wire::frame::Mark;
use std::collections::BTreeMap;

/// A reader's place in one segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    segment: SegmentNumber,
    members: BTreeMap<NodeId, (Incarnation, Index)>,
    next: Index,
    visible: Index,
    end: Option<Index>,
    settled: bool,
    /// From where to the end everything is lost.
    loss: Option<Index>,
}

/// What a reader does next in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Show the entries from its place up to this index, as soon as they have come.
    UpTo(Index),
    /// Nothing more is visible yet.
    Wait,
    /// The segment is read to its end, or to where a loss begins: go on at the start of the next.
    NextSegment,
}

impl Cursor {
    /// A reader at `next` of a segment.
    #[must_use]
    pub fn new(segment: SegmentNumber, record: &SegmentRecord, archived: SegmentEnd, next: Index) -> Self {
        let members = record.ensemble.iter().map(|m| (m.node.clone(), (m.incarnation, Index(0)))).collect();
        let mut cursor =
            Self { segment, members, next, visible: Index(0), end: None, settled: false, loss: None };
        cursor.learn_record(record, archived.end);
        cursor
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> SegmentNumber {
        self.segment
    }

    /// The index that is shown next.
    #[must_use]
    pub fn next(&self) -> Index {
        self.next
    }

    /// Below it everything may be shown.
    #[must_use]
    pub fn visible(&self) -> Index {
        self.visible
    }

    /// Whether the segment's end is known.
    #[must_use]
    pub fn end(&self) -> Option<Index> {
        self.end
    }

    /// From where to the segment's end everything is lost, if anything is.
    #[must_use]
    pub fn loss(&self) -> Option<Index> {
        self.loss
    }

    /// Where what can be read of the segment ends, once its end is known.
    #[must_use]
    pub fn kept(&self) -> Option<Index> {
        self.end.map(|end| self.loss.map_or(end, |loss| loss.min(end)))
    }

    /// A node reports its watermarks of the segment.
    pub fn handle_mark(&mut self, node: &NodeId, mark: &Mark) {
        self.learn_end(mark.end, mark.settled, mark.loss);
        let mut visible = mark.archived;
        if let Some((incarnation, writer_tail)) = self.members.get_mut(node)
            && *incarnation == mark.incarnation
        {
            *writer_tail = (*writer_tail).max(mark.writer_tail);
            visible = visible.max(mark.commit);
            if on(Mutation::ReaderTrustsOneTail) {
                visible = visible.max(mark.writer_tail);
            }
        }
        self.raise(visible);
    }

    /// The metadata show the segment's record, and how far it is archived.
    pub fn learn_record(&mut self, record: &SegmentRecord, archived: Index) {
        let loss = record.loss.map(|loss| loss.from);
        self.learn_end(record.state.end().map(|at| at.end), record.settled(), loss);
        self.raise(archived);
    }

    /// Entries below `to` have been shown.
    pub fn shown(&mut self, to: Index) {
        assert!(to >= self.next && to <= self.visible, "shown up to {to}, visible is {}", self.visible);
        self.next = to;
    }

    /// What to do next.
    #[must_use]
    pub fn step(&self) -> Step {
        if self.next < self.visible {
            Step::UpTo(self.visible)
        } else if (self.settled || self.loss.is_some()) && self.kept().is_some_and(|kept| self.next >= kept) {
            Step::NextSegment
        } else {
            Step::Wait
        }
    }

    /// The largest `writer_tail` that members have reported. Once a fence quorum of them has, no
    /// acknowledged entry lies beyond it.
    #[must_use]
    pub fn largest_tail(&self) -> Index {
        self.members.values().map(|(_, tail)| *tail).max().unwrap_or_default()
    }

    fn learn_end(&mut self, end: Option<Index>, settled: bool, loss: Option<Index>) {
        let Some(end) = end else { return };
        self.end = Some(end);
        self.settled |= settled || on(Mutation::ReaderTrustsUnsettled);
        if let Some(loss) = loss.filter(|loss| self.loss.is_none_or(|known| *loss < known)) {
            // It is below what was settled only when the log's settings allow that.
            (self.loss, self.settled) = (Some(loss), settled);
            self.visible = self.visible.min(loss.max(self.next));
        }
    }

    fn raise(&mut self, visible: Index) {
        let two = quorums::committed(self.members.values().map(|(_, tail)| *tail));
        let settled = if self.settled { self.end.unwrap_or_default() } else { Index(0) };
        let visible = visible.max(two).max(settled);
        // What lies beyond a known end was cut off, or is lost: nobody is ever shown it.
        let visible = self.kept().map_or(visible, |kept| visible.min(kept));
        self.visible = self.visible.max(visible);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Place;
    use crate::ids::{Chain, Epoch, Level, LogId, Offset, Timestamp};
    use crate::meta::{Loss, Member, Seal, SegmentState};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn record(state: SegmentState) -> SegmentRecord {
        SegmentRecord {
            epoch: Epoch(1),
            base: Offset(0),
            base_chain: Chain(0),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: ["a", "b", "c"].map(|n| Member { node: node(n), incarnation: Incarnation(1) }).to_vec(),
            state,
            loss: None,
        }
    }

    fn cursor() -> Cursor {
        let record = record(SegmentState::Open);
        Cursor::new(SegmentNumber(0), &record, record.start(), Index(0))
    }

    fn mark(incarnation: u64, commit: u64, writer_tail: u64) -> Mark {
        Mark {
            place: Place { log: LogId(1), segment: SegmentNumber(0), epoch: Epoch(1) },
            incarnation: Incarnation(incarnation),
            commit: Index(commit),
            writer_tail: Index(writer_tail),
            archived: Index(0),
            end: None,
            settled: false,
            loss: None,
        }
    }

    #[test]
    fn one_nodes_tail_is_never_shown() {
        let mut cursor = cursor();
        cursor.handle_mark(&node("a"), &mark(1, 2, 9));
        cursor.handle_mark(&node("a"), &mark(1, 2, 12));
        assert_eq!(cursor.step(), Step::UpTo(Index(2)), "V1 only");
        cursor.handle_mark(&node("b"), &mark(1, 0, 7));
        assert_eq!(cursor.visible(), Index(7), "V2: two members have it");
    }

    #[test]
    fn a_reborn_member_and_a_stranger_do_not_count() {
        let mut cursor = cursor();
        cursor.handle_mark(&node("a"), &mark(1, 0, 9));
        cursor.handle_mark(&node("b"), &mark(2, 9, 9));
        cursor.handle_mark(&node("z"), &mark(1, 9, 9));
        assert_eq!(cursor.step(), Step::Wait);
    }

    #[test]
    fn an_end_that_is_not_settled_shows_nothing_and_ends_nothing() {
        let at = SegmentEnd { end: Index(5), chain: Chain(1), last_timestamp: Timestamp(0) };
        let seal = |settled| {
            record(SegmentState::Sealed(Seal { at, by_epoch: Epoch(2), holders: vec![node("a")], settled }))
        };
        let mut cursor = cursor();
        cursor.learn_record(&seal(false), Index(0));
        assert_eq!(cursor.step(), Step::Wait);
        cursor.learn_record(&seal(true), Index(0));
        assert_eq!(cursor.step(), Step::UpTo(Index(5)));
        cursor.shown(Index(5));
        assert_eq!(cursor.step(), Step::NextSegment);
    }

    #[test]
    fn what_lies_beyond_the_end_is_never_shown() {
        let at = SegmentEnd { end: Index(5), chain: Chain(1), last_timestamp: Timestamp(0) };
        let mut cursor = cursor();
        cursor.learn_record(&record(SegmentState::Archived(at)), Index(5));
        cursor.handle_mark(&node("a"), &mark(1, 0, 9));
        cursor.handle_mark(&node("b"), &mark(1, 0, 9));
        assert_eq!(cursor.step(), Step::UpTo(Index(5)));
    }

    /// A segment that ends at 10 and has lost everything from 4 on.
    fn lossy(archived: bool) -> SegmentRecord {
        let at = SegmentEnd { end: Index(10), chain: Chain(1), last_timestamp: Timestamp(0) };
        let holders = vec![node("b")];
        let sealed = SegmentState::Sealed(Seal { at, by_epoch: Epoch(2), holders, settled: false });
        let state = if archived { SegmentState::Archived(at) } else { sealed };
        SegmentRecord {
            loss: Some(Loss { from: Index(4), acknowledged: false, beyond: false }),
            ..record(state)
        }
    }

    #[test]
    fn what_is_lost_is_never_shown_and_passed_as_soon_as_what_is_left_was_read() {
        let mut cursor = cursor();
        cursor.learn_record(&lossy(false), Index(0));
        assert_eq!(cursor.step(), Step::Wait, "what is left is not safe yet");
        cursor.handle_mark(&node("a"), &mark(1, 9, 9));
        cursor.handle_mark(&node("b"), &mark(1, 9, 9));
        assert_eq!(cursor.step(), Step::UpTo(Index(4)), "neither a commit nor copies show what is lost");
        cursor.learn_record(&lossy(true), Index(10));
        assert_eq!(cursor.step(), Step::UpTo(Index(4)), "nor does its skip part");
        cursor.shown(Index(4));
        assert_eq!(cursor.step(), Step::NextSegment);
    }

    #[test]
    fn a_reader_that_starts_within_what_is_lost_passes_it_at_once() {
        let record = lossy(false);
        let cursor = Cursor::new(SegmentNumber(0), &record, record.start(), Index(7));
        assert_eq!(cursor.step(), Step::NextSegment);
    }

    #[test]
    fn a_loss_takes_back_what_was_settled_and_not_yet_shown() {
        let at = SegmentEnd { end: Index(10), chain: Chain(1), last_timestamp: Timestamp(0) };
        let seal = Seal { at, by_epoch: Epoch(2), holders: vec![node("a"), node("b")], settled: true };
        let mut cursor = cursor();
        cursor.learn_record(&record(SegmentState::Sealed(seal)), Index(0));
        cursor.shown(Index(2));
        assert_eq!(cursor.step(), Step::UpTo(Index(10)));
        let loss = Mark { end: Some(Index(10)), loss: Some(Index(4)), ..mark(1, 0, 0) };
        cursor.handle_mark(&node("a"), &loss);
        assert_eq!((cursor.step(), cursor.kept()), (Step::UpTo(Index(4)), Some(Index(4))));
        let before = Mark { end: Some(Index(10)), settled: true, ..mark(1, 0, 0) };
        cursor.handle_mark(&node("b"), &before);
        assert_eq!(cursor.visible(), Index(4), "news from before the loss change nothing");
    }

    #[test]
    fn an_empty_sealed_segment_is_passed_at_once() {
        let at = SegmentEnd { end: Index(0), chain: Chain(0), last_timestamp: Timestamp(0) };
        let record = record(SegmentState::Archived(at));
        let cursor = Cursor::new(SegmentNumber(0), &record, record.start(), Index(0));
        assert_eq!(cursor.step(), Step::NextSegment);
    }
}
