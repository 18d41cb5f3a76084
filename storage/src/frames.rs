//! Where the batches of a stream of bytes begin, and what lies before each.

use crate::slots::Extent;
use bytes::Bytes;
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::Index;
use std::collections::VecDeque;

/// Whole batches, one behind the other, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first entry.
    pub first: Index,
    /// Chain and timestamp before the first entry.
    pub before: BatchEnd,
    /// Index after the last entry.
    pub end: Index,
    /// Chain and timestamp after the last entry.
    pub end_chain: BatchEnd,
    /// The bytes, cut anywhere.
    pub pieces: Vec<Bytes>,
    /// How many bytes there are in all pieces.
    pub bytes: usize,
}

/// A place between two batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    /// Index of the entry that comes next.
    pub(crate) index: Index,
    /// Position of the batch that comes next in the stream.
    pub(crate) at: u64,
    /// What the batch before leaves behind it.
    pub(crate) before: BatchEnd,
}

/// The boundaries of a stream: where each batch starts, then where the last one ends.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    starts: VecDeque<Boundary>,
    tail: Boundary,
}

/// Room that an empty list keeps, so that a log that is written to and archived in turn does not
/// allocate each time.
const SPARE: usize = 16;

impl Frames {
    pub(crate) fn new(tail: Boundary) -> Self {
        Self { starts: VecDeque::new(), tail }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The first boundary.
    pub(crate) fn head(&self) -> &Boundary {
        self.starts.front().unwrap_or(&self.tail)
    }

    /// The last boundary.
    pub(crate) fn tail(&self) -> &Boundary {
        &self.tail
    }

    /// What is at rest of the stream besides its batches.
    pub(crate) fn extent(&self, repaired_from: Option<Index>) -> Extent {
        Extent { head: *self.head(), tail_at: self.tail.at, repaired_from }
    }

    /// Adds a batch that ends at `end`.
    pub(crate) fn push(&mut self, end: Boundary) {
        assert!(end.index > self.tail.index && end.at > self.tail.at, "a batch has entries and bytes");
        self.starts.push_back(std::mem::replace(&mut self.tail, end));
    }

    /// Lets positions start over while there is no batch in the stream.
    pub(crate) fn start_over(&mut self) {
        assert!(self.is_empty(), "only an empty stream starts over");
        self.tail.at = 0;
        self.starts.shrink_to(SPARE);
    }

    /// The boundary at `index`, if there is one.
    pub(crate) fn at(&self, index: Index) -> Option<&Boundary> {
        self.floor(index).filter(|boundary| boundary.index == index)
    }

    /// The last boundary at or below `index`, if there is one.
    pub(crate) fn floor(&self, index: Index) -> Option<&Boundary> {
        if index >= self.tail.index {
            return Some(&self.tail);
        }
        self.starts.partition_point(|start| start.index <= index).checked_sub(1).map(|i| &self.starts[i])
    }

    /// Where to stop when reading from `from`: behind as many whole batches as end at or below `to`
    /// and have at most `max_bytes` together, but behind one in any case if it ends at or below
    /// `to`. `None` when not even that does.
    pub(crate) fn stop(&self, from: &Boundary, to: Index, max_bytes: usize) -> Option<&Boundary> {
        let limit = from.at.saturating_add(max_bytes as u64);
        let within = |b: &Boundary| b.index <= from.index || (b.index <= to && b.at <= limit);
        let count = self.starts.partition_point(within);
        let last = if count == self.starts.len() && within(&self.tail) {
            &self.tail
        } else {
            &self.starts[count.checked_sub(1)?]
        };
        if last.index > from.index {
            return Some(last);
        }
        let first_end = self.starts.get(count).unwrap_or(&self.tail);
        (first_end.index > from.index && first_end.index <= to).then_some(first_end)
    }

    /// Forgets the batches below the boundary `index`.
    pub(crate) fn drop_below(&mut self, index: Index) {
        while self.starts.front().is_some_and(|start| start.index < index) {
            self.starts.pop_front();
        }
    }
}
