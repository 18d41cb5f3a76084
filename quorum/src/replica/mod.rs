//! A node's side of one log: what it may store, acknowledge, report and forget.
//!
//! The node drives one [`Replica`] per log under one lock, so that a check and the append or the
//! report that follows from it are one step. The bytes lie in the node's buffer; the replica holds
//! positions, chains and epochs. [`append`] decides appends and repairs, [`fence`] fences.

mod append;
mod fence;
#[cfg(test)]
mod tests;

pub use append::{Admission, ChainAt, Session};

use crate::batch::{BatchEnd, Place};
use crate::glossary::Marks;
use crate::ids::{Epoch, Incarnation, Index, LogId, NodeId, SegmentNumber};
use crate::meta::{SegmentEnd, SegmentRecord, SegmentState};
use crate::mutation::{Mutation, on};
use crate::wire::frame::Mark;
use crate::wire::message::Refusal;
use std::collections::{BTreeMap, BTreeSet};

/// A node's side of one log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    node: NodeId,
    incarnation: Incarnation,
    log: LogId,
    /// The highest epoch that has fenced or written here. Never shrinks in an incarnation, not
    /// even when every segment is dropped.
    fence_epoch: Epoch,
    /// The highest epoch that the metadata have shown for the log.
    known_epoch: Epoch,
    segments: BTreeMap<SegmentNumber, Held>,
    /// The segments dropped last: an old record that arrives late does not bring them back, empty.
    dropped: BTreeSet<SegmentNumber>,
    /// Whether the log's tombstone has been read: then nothing of it is here, or ever will be.
    deleted: bool,
    sessions: u64,
}

/// How many dropped segments are remembered. A record that is older than that many is not expected.
const DROPPED_MAX: usize = 64;

/// One segment at this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    record: SegmentRecord,
    /// How far the segment is in object storage, as read from the metadata.
    archived: SegmentEnd,
    marks: Marks,
    /// Chain and timestamp at the tail.
    at_tail: BatchEnd,
    /// How far the writer itself has stored, durable or not; not beyond its tail once it is fenced.
    written: Index,
    /// The stream that may append, if there is one, and whether what it appends are repairs.
    appender: Option<(Session, bool)>,
    /// The largest commit mark that the writer has told, be it beyond what is held.
    heard: Index,
    /// Whether the sealed end has another chain than what is held here.
    contradicted: bool,
}

/// What an earlier process has left of a segment in this life of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The index after the last entry.
    pub tail: Index,
    /// How much of that the writer appended itself.
    pub writer_tail: Index,
    /// Below it entries had been freed.
    pub freed: Index,
    /// Chain and timestamp at the tail.
    pub at_tail: BatchEnd,
}

/// Why a question to a replica has no answer yet, or a bad one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Unanswered {
    /// The metadata must be read first ([`Replica::learn_log`], [`Replica::learn_segment`]); then
    /// ask again. If they still show nothing, the answer is a refusal.
    NeedMetadata,
    /// This is the answer.
    Refused(Refusal),
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What learning about a segment changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Learned {
    /// Nothing that concerns this node: it is no member in this incarnation.
    NotMine,
    /// The segment is held here; memory below the index may be freed.
    FreeBelow(Index),
    /// The segment is archived whole, or its log deleted: drop it and all its memory.
    Drop,
}

impl Replica {
    /// A node's side of `log`, in one life of its buffer, with nothing in it.
    #[must_use]
    pub fn new(node: NodeId, incarnation: Incarnation, log: LogId) -> Self {
        Self::resumed(node, incarnation, log, Epoch(0))
    }

    /// A node's side of a log that it has held before in this life of its buffer, with nothing in it
    /// any more but the highest epoch that had fenced or written here.
    #[must_use]
    pub fn resumed(node: NodeId, incarnation: Incarnation, log: LogId, fence_epoch: Epoch) -> Self {
        Self {
            node,
            incarnation,
            log,
            fence_epoch: if on(Mutation::FenceNotKept) { Epoch(0) } else { fence_epoch },
            known_epoch: Epoch(0),
            segments: BTreeMap::new(),
            dropped: BTreeSet::new(),
            deleted: false,
            sessions: 0,
        }
    }

    /// Takes note that the metadata have shown this epoch for the log.
    pub fn learn_log(&mut self, epoch: Epoch) {
        self.known_epoch = self.known_epoch.max(epoch);
    }

    /// Takes note of a segment as the metadata have it, and of how far it is archived. An older
    /// record than one learned before is ignored.
    /// A record that contradicts what is held makes the segment [`contradicted`](Self::contradicted).
    pub fn learn_segment(
        &mut self,
        number: SegmentNumber,
        record: &SegmentRecord,
        archived: SegmentEnd,
    ) -> Learned {
        if record.member(&self.node) != Some(self.incarnation) && !self.amnesiac(record) {
            return Learned::NotMine;
        }
        self.learn_log(record.epoch);
        if self.deleted {
            return Learned::Drop;
        }
        if matches!(record.state, SegmentState::Archived(_)) || self.dropped.contains(&number) {
            self.segments.remove(&number);
            self.remember_dropped(number);
            return Learned::Drop;
        }
        let held = self.segments.entry(number).or_insert_with(|| Held {
            record: record.clone(),
            archived: record.start(),
            marks: Marks::default(),
            at_tail: BatchEnd { chain: record.base_chain, last_timestamp: record.base_timestamp },
            written: Index(0),
            appender: None,
            heard: Index(0),
            contradicted: false,
        });
        if held.is_before(record) {
            (held.record.state, held.record.loss) = (record.state.clone(), record.loss);
        }
        if archived.end > held.archived.end {
            held.archived = archived;
        }
        held.settle();
        let free = if on(Mutation::FreesCommitted) { held.marks.commit } else { held.archived.end };
        held.marks.freed = held.marks.freed.max(free.min(held.marks.tail));
        held.marks.assert_sound();
        Learned::FreeBelow(held.marks.freed)
    }

    /// Takes up a segment again that an earlier process kept in this life of the buffer, as the
    /// metadata have it now, before anything else is learned of it. What it had heard of commits is
    /// forgotten. Returns what [`learn_segment`](Self::learn_segment) would.
    pub fn restore(
        &mut self,
        number: SegmentNumber,
        record: &SegmentRecord,
        archived: SegmentEnd,
        kept: &Kept,
    ) -> Learned {
        match self.learn_segment(number, record, archived) {
            Learned::FreeBelow(_) => {}
            other => return other,
        }
        let held = self.segments.get_mut(&number).expect("a segment that was learned is held");
        assert_eq!(held.marks.tail, Index(0), "a segment is restored before anything is appended to it");
        held.marks.tail = kept.tail;
        held.marks.held = kept.tail;
        held.marks.writer_tail = kept.writer_tail;
        held.marks.freed = kept.freed;
        held.written = kept.writer_tail;
        held.at_tail = kept.at_tail;
        self.learn_segment(number, record, archived)
    }

    /// Takes note of the log's tombstone: everything of it is dropped, archived or not, and all that
    /// would append, fence or repair is refused from here on. Nobody writes in the epoch of a
    /// tombstone, and a log that was deleted never comes back under its id.
    pub fn learn_deleted(&mut self) {
        self.deleted = true;
        self.segments.clear();
        self.dropped.clear();
    }

    /// Whether the log's tombstone has been read.
    #[must_use]
    pub fn deleted(&self) -> bool {
        self.deleted
    }

    /// Forgets a segment whose record has gone from the metadata. One that is not held has never
    /// been there: its number may yet come.
    pub fn drop_segment(&mut self, number: SegmentNumber) {
        if self.segments.remove(&number).is_some() {
            self.remember_dropped(number);
        }
    }

    /// Whether the metadata say that the segment ends with other content than what is held here: a
    /// broken invariant somewhere. It is neither served nor uploaded from here any more.
    #[must_use]
    pub fn contradicted(&self, number: SegmentNumber) -> bool {
        self.segments.get(&number).is_some_and(|held| held.contradicted)
    }

    fn remember_dropped(&mut self, number: SegmentNumber) {
        if on(Mutation::FenceDropped) {
            self.fence_epoch = Epoch(0);
        }
        self.dropped.insert(number);
        if self.dropped.len() > DROPPED_MAX {
            self.dropped.pop_first();
        }
    }

    /// The incarnation that this replica speaks for.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The highest epoch that has fenced or written here.
    #[must_use]
    pub fn fence_epoch(&self) -> Epoch {
        self.fence_epoch
    }

    /// The highest epoch of the log that is known here: the metadata have shown it, or it has
    /// fenced or written here.
    #[must_use]
    pub fn known_epoch(&self) -> Epoch {
        self.known_epoch.max(self.fence_epoch)
    }

    /// The segments held here.
    pub fn segments(&self) -> impl Iterator<Item = SegmentNumber> + '_ {
        self.segments.keys().copied()
    }

    /// The watermarks of a segment held here.
    #[must_use]
    pub fn marks(&self, number: SegmentNumber) -> Option<Marks> {
        Some(self.segments.get(&number)?.marks)
    }

    /// The record of a segment held here, as last learned.
    #[must_use]
    pub fn record(&self, number: SegmentNumber) -> Option<&SegmentRecord> {
        Some(&self.segments.get(&number)?.record)
    }

    /// How far a segment held here is archived, as last learned.
    #[must_use]
    pub fn archived(&self, number: SegmentNumber) -> Option<SegmentEnd> {
        Some(self.segments.get(&number)?.archived)
    }

    /// The place of a segment held here.
    #[must_use]
    pub fn place(&self, number: SegmentNumber) -> Option<Place> {
        let epoch = self.segments.get(&number)?.record.epoch;
        Some(Place { log: self.log, segment: number, epoch })
    }

    /// The watermarks of a segment held here, as a reader is told them.
    #[must_use]
    pub fn mark(&self, number: SegmentNumber) -> Option<Mark> {
        let held = self.segments.get(&number).filter(|held| !held.contradicted)?;
        Some(Mark {
            place: self.place(number)?,
            incarnation: self.incarnation,
            commit: held.marks.commit,
            writer_tail: held.marks.writer_tail,
            archived: held.archived.end,
            end: held.record.state.end().map(|at| at.end),
            settled: held.record.settled(),
            loss: held.record.loss.map(|loss| loss.from),
        })
    }

    /// Below it a segment held here may be uploaded: what is committed, and once a settled end is
    /// known, or this node is the only one to have what lies below the end, everything up to it, or
    /// to where a loss begins.
    #[must_use]
    pub fn uploadable(&self, number: SegmentNumber) -> Option<Index> {
        let held = self.segments.get(&number)?;
        Some(match (&held.record.state, held.record.kept()) {
            _ if held.contradicted => held.archived.end,
            (SegmentState::Open, _) if on(Mutation::UploadsUncommitted) => held.marks.held,
            (SegmentState::Sealed(_), Some(kept)) if on(Mutation::UploadsOwnTail) => kept,
            (SegmentState::Sealed(_), Some(kept)) if held.marks.held >= kept => kept,
            (SegmentState::Sealed(_), Some(kept)) => held.marks.commit.min(kept),
            (SegmentState::Archived(_), _) => held.archived.end,
            (SegmentState::Open | SegmentState::Sealed(_), _) => held.marks.commit,
        })
    }

    fn held(&mut self, number: SegmentNumber) -> Result<&mut Held, Unanswered> {
        self.segments.get_mut(&number).ok_or(Unanswered::NeedMetadata)
    }

    /// A guard that is missing: a buffer that speaks for what an earlier life of it held.
    fn amnesiac(&self, record: &SegmentRecord) -> bool {
        let speaks = on(Mutation::AmnesiacAppends) || on(Mutation::AmnesiacFences);
        speaks && record.member(&self.node).is_some()
    }

    /// The log has not been deleted, which is so for every life of a buffer, and whoever asks means
    /// this one.
    fn check_addressed(&self, incarnation: Incarnation) -> Result<(), Unanswered> {
        if self.deleted {
            return Err(Refusal::Deleted.into());
        }
        if incarnation != self.incarnation {
            return Err(Refusal::WrongIncarnation { current: self.incarnation }.into());
        }
        Ok(())
    }
}

impl Held {
    /// Whether a record is a later one than what is known: the first with an end, or one that says
    /// that more is lost.
    fn is_before(&self, record: &SegmentRecord) -> bool {
        match (&self.record.state, &record.state) {
            (SegmentState::Open, _) => true,
            (SegmentState::Sealed(_), SegmentState::Sealed(_)) => {
                let lost = |record: &SegmentRecord| record.loss.map_or(Index(u64::MAX), |loss| loss.from);
                lost(record) < lost(&self.record)
            }
            _ => false,
        }
    }

    /// A settled end commits what lies below it; an end that is not settled commits nothing.
    fn settle(&mut self) {
        let Some(at) = self.record.state.end().copied() else { return };
        self.contradicted |= self.marks.tail == at.end && self.at_tail.chain != at.chain;
        if self.contradicted {
            return;
        }
        if self.record.settled() {
            let kept = self.record.kept().unwrap_or(at.end);
            self.marks.commit = self.marks.commit.max(kept.min(self.marks.held));
        }
    }
}
