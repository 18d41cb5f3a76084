//! Where the log's tail is: the question a client asks with `check_tail`, over the shipped cursor. The
//! answer covers everything that was acknowledged before the question, and stays.

use super::events::{Answer, Caller, Event, Rpc};
use super::world::{MS, World};
use piculet_quorum::cursor::Cursor;
use piculet_quorum::ids::{Index, NodeId, Offset, SegmentNumber};
use piculet_quorum::meta::{LogView, SegmentState, SegmentView};
use piculet_quorum::quorums::fence_quorum;
use std::collections::{BTreeMap, BTreeSet};

/// So many segments before the tail are looked at for one whose end is not settled.
const SEGMENTS_BEFORE: u64 = 16;
/// Members that have not answered by then are asked again.
const PATIENCE: u64 = 60 * MS;

/// A search for the tail, one at a time.
#[derive(Debug, Default)]
pub(crate) struct TailSearch {
    /// The offset behind the last entry that was acknowledged when the search began, and how often
    /// acknowledged entries had been lost by then.
    began: Option<(u64, u64)>,
    stage: Stage,
    calls: BTreeMap<u64, NodeId>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Look,
    /// Members are asked for their tails.
    Asking { number: SegmentNumber, cursor: Box<Cursor>, heard: BTreeSet<NodeId>, until: u64 },
    /// Everything before the tail must become visible.
    Waiting { number: SegmentNumber, index: Index, offset: Offset, cursor: Option<Box<Cursor>> },
}

impl World {
    pub(crate) fn tail_tick(&mut self) {
        let period = self.rng.between(2 * MS, 25 * MS);
        self.schedule(period, Event::TailTick);
        if self.store.away {
            return;
        }
        let newest = self.store.now.log().value.next_segment.0;
        let view = self.store.now.view(SegmentNumber(newest.saturating_sub(SEGMENTS_BEFORE)));
        let promised = (self.truth.acked_to(), self.run.losses);
        self.tail.began.get_or_insert(promised);
        self.tail.stage = match std::mem::take(&mut self.tail.stage) {
            Stage::Look => self.tail_looks(&view),
            Stage::Asking { number, cursor, heard, until } => {
                let (open, segment) = (view.open_segment(), view.segments.get(&number));
                let members = segment.map_or(0, |segment| segment.record.value.ensemble.len());
                if segment.is_some() && heard.len() >= fence_quorum(members) {
                    // A segment sealed meanwhile has a successor that may hold acknowledged entries.
                    match open.filter(|(newest, _)| *newest == number) {
                        Some((_, segment)) => waiting(number, segment, cursor.largest_tail()),
                        None => Stage::Look,
                    }
                } else if self.now >= until {
                    Stage::Look
                } else {
                    Stage::Asking { number, cursor, heard, until }
                }
            }
            waiting => self.tail_waits(&view, waiting),
        };
    }

    fn tail_looks(&mut self, view: &LogView) -> Stage {
        let Some((number, segment)) = view.open_segment() else {
            let last = view.segments.iter().next_back();
            let sealed =
                last.and_then(|(number, found)| Some((*number, found.record.value.state.end()?.end)));
            let (number, index) = sealed.unwrap_or((view.record.value.next_segment, Index(0)));
            return Stage::Waiting { number, index, offset: view.record.value.next_base, cursor: None };
        };
        let cursor = Box::new(Cursor::new(number, &segment.record.value, segment.archived, Index(0)));
        self.tail_asks(number, segment);
        Stage::Asking { number, cursor, heard: BTreeSet::new(), until: self.now + PATIENCE }
    }

    fn tail_asks(&mut self, number: SegmentNumber, segment: &SegmentView) {
        self.tail.calls.clear();
        for member in &segment.record.value.ensemble {
            let id = self.call(Caller::Tail, self.node_ix(&member.node), Rpc::Marks(number), 0);
            self.tail.calls.insert(id, member.node.clone());
        }
    }

    fn tail_waits(&mut self, view: &LogView, stage: Stage) -> Stage {
        let Stage::Waiting { number, index, offset, cursor } = stage else { return stage };
        let mut older = view.segments.range(..number);
        if older.any(|(_, segment)| !segment.record.value.settled()) {
            return Stage::Waiting { number, index, offset, cursor };
        }
        if index == Index(0) {
            return self.tail_found(offset);
        }
        let Some(segment) = view.segments.get(&number) else {
            return self.tail_found(offset.min(view.base_behind(number)));
        };
        let record = &segment.record.value;
        let new = || Box::new(Cursor::new(number, record, segment.archived, Index(0)));
        let mut cursor = cursor.unwrap_or_else(new);
        cursor.learn_record(record, segment.archived.end);
        if cursor.visible() < cursor.kept().map_or(index, |kept| kept.min(index)) {
            self.tail_asks(number, segment);
            return Stage::Waiting { number, index, offset, cursor: Some(cursor) };
        }
        let index = cursor.end().map_or(index, |end| end.min(index));
        let open = record.state == SegmentState::Open;
        assert!(
            !open || self.truth.is_stored(number, index),
            "tail: {index} of segment {number} was never assigned"
        );
        self.tail_found(Offset::of(record.base, index))
    }

    fn tail_found(&mut self, tail: Offset) -> Stage {
        let (acked, losses) = self.tail.began.take().expect("the search has begun");
        // What was acknowledged then may have been lost meanwhile.
        if losses == self.run.losses {
            assert!(tail.0 >= acked, "tail: {tail}, and {acked} were acknowledged before it was asked for");
            self.truth.tail_to = self.truth.tail_to.max(tail.0);
        }
        self.run.tails += 1;
        self.tail.calls.clear();
        Stage::Look
    }

    pub(crate) fn tail_answered(&mut self, id: u64, answer: Answer) {
        let (Some(node), Answer::Marks(mark)) = (self.tail.calls.remove(&id), answer) else { return };
        match &mut self.tail.stage {
            Stage::Asking { number, cursor, heard, .. } if mark.place.segment == *number => {
                let of = self.store.now.segment(*number).and_then(|found| found.value.member(&node));
                if of == Some(mark.incarnation) {
                    cursor.handle_mark(&node, &mark);
                    heard.insert(node);
                }
            }
            Stage::Waiting { number, cursor: Some(cursor), .. } if mark.place.segment == *number => {
                cursor.handle_mark(&node, &mark);
            }
            _ => {}
        }
    }
}

/// Waits for everything below an index of an open segment.
fn waiting(number: SegmentNumber, segment: &SegmentView, index: Index) -> Stage {
    let offset = Offset::of(segment.record.value.base, index);
    Stage::Waiting { number, index, offset, cursor: None }
}
