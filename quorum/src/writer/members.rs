//! What each member of a writer's segments holds, and when it is given up.

use super::WriterEvent;
use crate::batch::BatchEnd;
use crate::ids::{Incarnation, Index, Level, NodeId, Offset, SegmentNumber};
use crate::limits::{ACK_QUORUM, MEMBERS_MAX};
use crate::meta::{SegmentEnd, SegmentRecord, Versioned};
use crate::mutation::{Mutation, on};
use crate::quorums;
use crate::time::{Span, Time};
use std::collections::{BTreeMap, VecDeque};

/// Why a member was given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lost {
    /// It did not acknowledge what it was sent.
    #[error("it acknowledges nothing")]
    Silent,
    /// There is no connection to it.
    #[error("no connection to it")]
    Unreachable,
    /// It is further behind than what is kept for resending.
    #[error("it is too far behind")]
    Behind,
    /// It lives in another incarnation: what it held is gone.
    #[error("it has lost its buffer")]
    Reborn,
    /// It is about to stop.
    #[error("it is about to stop")]
    Draining,
    /// It refuses.
    #[error("it refuses: {0}")]
    Refused(String),
}

impl Lost {
    /// Whether the member will never again take part in this segment. The others may still help to
    /// drain it.
    pub(super) fn for_good(&self) -> bool {
        matches!(self, Self::Reborn | Self::Refused(_))
    }
}

/// The stream to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Link {
    /// It is up, to this life of the node's buffer.
    Up(Incarnation),
    /// It has been down since then.
    Down(Time),
}

impl Link {
    pub(super) fn forgive(&mut self, now: Time) {
        if let Self::Down(since) = self {
            *since = now;
        }
    }
}

/// How far a segment is opened at a member, on the stream that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    /// Not yet, or no longer; not before the time given.
    Unopened(Time),
    /// Asked for; the member's tail is not known.
    Opening,
    /// Appends may be sent from `sent` on.
    Open,
}

/// One member of one segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct MemberState {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) stream: Stream,
    /// Whether the segment was ever opened there: then its tail must be asked for.
    pub(super) known: bool,
    /// Appends below it have been sent on this stream.
    pub(super) sent: Index,
    /// It holds everything below.
    pub(super) held: Index,
    /// The commit mark that it was sent last.
    pub(super) told: Index,
    /// Since when it owes an answer.
    pub(super) owes: Option<Time>,
    pub(super) lost: Option<Lost>,
    /// Whether anything was heard of it since it was given up.
    pub(super) answers: bool,
}

impl MemberState {
    fn new(node: NodeId, incarnation: Incarnation) -> Self {
        let zero = Index(0);
        let stream = Stream::Unopened(Time(0));
        Self {
            node,
            incarnation,
            stream,
            known: false,
            sent: zero,
            held: zero,
            told: zero,
            owes: None,
            lost: None,
            answers: true,
        }
    }

    pub(super) fn opened(&mut self, now: Time, tail: Index) {
        if self.stream == Stream::Opening {
            self.stream = Stream::Open;
            self.sent = tail;
            self.owes = Some(now);
        }
    }

    pub(super) fn acked(&mut self, now: Time, held: Index) {
        self.answers = true;
        if held > self.held {
            self.held = held;
            self.owes = self.owes.map(|_| now);
        }
        if self.held >= self.sent && self.stream == Stream::Open {
            self.owes = None;
        }
    }

    /// The member lost its place in the stream: ask for its tail and go on from there.
    pub(super) fn reopen(&mut self, now: Time) {
        self.stream = Stream::Unopened(now);
    }

    /// It has no memory to spare: that is an answer, so it owes none.
    pub(super) fn pause(&mut self, until: Time) {
        self.stream = Stream::Unopened(until);
        self.owes = None;
    }

    /// It cannot answer now: it goes on owing.
    pub(super) fn retry(&mut self, at: Time) {
        self.stream = Stream::Unopened(at);
    }
}

/// A range of a segment that was appended as one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Batch {
    pub(super) end: Index,
    pub(super) bytes: u64,
    /// What it leaves behind it.
    pub(super) after: BatchEnd,
}

/// One segment of a writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Segment {
    pub(super) number: SegmentNumber,
    /// Its record; none while the transaction that creates it is not known to have happened.
    pub(super) record: Option<Versioned<SegmentRecord>>,
    pub(super) base: Offset,
    pub(super) members: Vec<MemberState>,
    pub(super) assigned: Index,
    pub(super) at_assigned: BatchEnd,
    pub(super) bytes: u64,
    pub(super) created: Time,
    pub(super) commit: Index,
    /// The commit mark that is due to every member that no append has told it.
    pub(super) announce: Index,
    pub(super) archived: Index,
    /// Parts of it that are known to be recorded; at level `object` only, where the writer makes them.
    pub(super) parts: u32,
    /// Where it ends: no index at or beyond it is ever given out.
    pub(super) end: Option<SegmentEnd>,
    /// Whether its end is published, and if so, whether it is settled.
    pub(super) sealed: Option<bool>,
    pub(super) released: Index,
    /// Batches from `released` to `assigned`.
    pub(super) batches: VecDeque<Batch>,
}

impl Segment {
    pub(super) fn created(now: Time, number: SegmentNumber, record: Versioned<SegmentRecord>) -> Self {
        let start = BatchEnd { chain: record.value.base_chain, last_timestamp: record.value.base_timestamp };
        let mut segment = Self::pending(now, number, record.value.base, start);
        segment.exists(now, record);
        segment
    }

    /// A segment that is about to be created: indices are given out already, nothing is sent.
    pub(super) fn pending(now: Time, number: SegmentNumber, base: Offset, start: BatchEnd) -> Self {
        Self {
            number,
            record: None,
            base,
            members: Vec::new(),
            assigned: Index(0),
            at_assigned: start,
            bytes: 0,
            created: now,
            commit: Index(0),
            announce: Index(0),
            archived: Index(0),
            parts: 0,
            end: None,
            sealed: None,
            released: Index(0),
            batches: VecDeque::new(),
        }
    }

    /// The segment has been created.
    pub(super) fn exists(&mut self, now: Time, record: Versioned<SegmentRecord>) {
        assert_eq!(record.value.base, self.base, "segment {} starts where it was said to", self.number);
        let members = record.value.ensemble.iter();
        self.members = members.map(|m| MemberState::new(m.node.clone(), m.incarnation)).collect();
        for member in &mut self.members {
            member.owes = Some(now);
        }
        self.created = now;
        self.record = Some(record);
    }

    pub(super) fn assign(&mut self, count: u32, bytes: u64, end: BatchEnd) -> Index {
        let first = self.assigned;
        self.assigned = first.plus(u64::from(count));
        self.at_assigned = end;
        self.bytes += bytes;
        self.batches.push_back(Batch { end: self.assigned, bytes, after: end });
        first
    }

    /// Gives out no further index here.
    pub(super) fn freeze(&mut self) -> SegmentEnd {
        let BatchEnd { chain, last_timestamp } = self.at_assigned;
        let end = if on(Mutation::SealsUndrained) { self.commit } else { self.assigned };
        *self.end.get_or_insert(SegmentEnd { end, chain, last_timestamp })
    }

    pub(super) fn member(&mut self, node: &NodeId) -> Option<&mut MemberState> {
        self.members.iter_mut().find(|member| member.node == *node)
    }

    pub(super) fn connected(
        &mut self,
        now: Time,
        node: &NodeId,
        incarnation: Incarnation,
        events: &mut VecDeque<WriterEvent>,
    ) {
        let number = self.number;
        let Some(member) = self.member(node) else { return };
        if member.incarnation == incarnation {
            member.answers = true;
            member.stream = Stream::Unopened(now);
            member.owes = member.owes.map(|_| now);
        } else if member.lost != Some(Lost::Reborn) {
            member.lost = Some(Lost::Reborn);
            events.push_back(WriterEvent::MemberLost(node.clone(), number, Lost::Reborn));
        }
    }

    pub(super) fn disconnected(&mut self, node: &NodeId) {
        if let Some(member) = self.member(node) {
            member.stream = Stream::Unopened(Time(0));
        }
    }

    /// Members that have owed an answer, or been away, for too long.
    pub(super) fn overdue(
        &self,
        now: Time,
        timeout: Span,
        links: &BTreeMap<NodeId, Link>,
    ) -> (SegmentNumber, Vec<(NodeId, Lost)>) {
        let late = self.members.iter().filter(|member| member.lost.is_none()).filter_map(|member| {
            let (due, lost) = due(member, timeout, links)?;
            (now >= due).then(|| (member.node.clone(), lost))
        });
        (self.number, late.collect())
    }

    pub(super) fn deadline(&self, timeout: Span, links: &BTreeMap<NodeId, Link>) -> Option<Time> {
        let due = self.members.iter().filter(|member| member.lost.is_none());
        let due = due.filter_map(|member| due_at(member, timeout, links));
        let reopen =
            self.members.iter().filter_map(|member| match (member.stream, links.get(&member.node)) {
                (Stream::Unopened(at), Some(Link::Up(_))) if self.helps(member) => Some(at),
                _ => None,
            });
        due.chain(reopen).min()
    }

    pub(super) fn forgive(&mut self, now: Time) {
        for member in &mut self.members {
            member.owes = member.owes.map(|_| now);
        }
    }

    /// Raises the commit to what the members' marks, a settled seal and the archive give.
    pub(super) fn raise_commit(&mut self) -> bool {
        // What a reborn member has acknowledged in its earlier life is gone.
        let living = self.members.iter().filter(|member| member.lost != Some(Lost::Reborn));
        let acked = quorums::committed(living.map(|member| member.held));
        let settled = self.sealed == Some(true) || on(Mutation::AcksUnsettled) && self.sealed.is_some();
        let settled = if settled { self.end.map(|at| at.end) } else { None };
        let commit = acked.max(self.archived).max(settled.unwrap_or_default()).max(self.commit);
        assert!(commit <= self.assigned, "commit {commit} beyond what was given out, {}", self.assigned);
        let raised = commit > self.commit;
        self.commit = commit;
        raised
    }

    /// Drops the batches that are committed and held by every member that is not given up.
    pub(super) fn release(&mut self) -> (Index, u64) {
        let held = self.members.iter().filter(|member| member.lost.is_none()).map(|member| member.held);
        let below = held.min().unwrap_or(self.commit).min(self.commit);
        let mut bytes = 0;
        while let Some(batch) = self.batches.front().filter(|batch| batch.end <= below) {
            bytes += batch.bytes;
            self.released = batch.end;
            self.batches.pop_front();
        }
        (self.released, bytes)
    }

    pub(super) fn retains(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Members that lack the oldest batch that is kept, although it is committed.
    pub(super) fn laggards(&self) -> Vec<NodeId> {
        let Some(oldest) = self.batches.front().filter(|batch| batch.end <= self.commit) else {
            return Vec::new();
        };
        let behind = self.members.iter().filter(|member| member.lost.is_none() && member.held < oldest.end);
        behind.map(|member| member.node.clone()).collect()
    }

    /// Members that hold everything that was given out.
    pub(super) fn holders(&self) -> impl Iterator<Item = &MemberState> {
        self.members.iter().filter(|member| member.held >= self.assigned && member.lost != Some(Lost::Reborn))
    }

    /// Whether the end can be published: enough members hold all of it, or one does and the others
    /// are given up; or there is nothing to hold.
    pub(super) fn drained(&self) -> bool {
        let others_lost = || {
            let others = self.members.iter().filter(|member| member.held < self.assigned);
            others.into_iter().all(|member| member.lost.is_some())
        };
        let holders = self.holders().count();
        on(Mutation::SealsUndrained)
            || holders >= ACK_QUORUM
            || self.archived == self.assigned
            || (holders > 0 && others_lost())
    }

    /// Whether fewer members than wanted take part.
    pub(super) fn short(&self) -> bool {
        let wanting = |record: &Versioned<SegmentRecord>| record.value.level != Level::Object;
        let wanting = self.record.as_ref().is_some_and(wanting);
        wanting && (self.members.len() < MEMBERS_MAX || self.has_lost())
    }

    pub(super) fn has_lost(&self) -> bool {
        self.members.iter().any(|member| member.lost.is_some())
    }

    /// Whether any member is about to be given up unless it answers, or comes back.
    pub(super) fn watched(&self, links: &BTreeMap<NodeId, Link>) -> bool {
        let mut members = self.members.iter().filter(|member| member.lost.is_none());
        members.any(|member| due(member, Span(0), links).is_some())
    }

    /// Whether a member may be sent what it lacks: also one that was given up, for without it
    /// nothing might be committed until the metadata store answers and the segment can be rolled.
    /// But what it lacks may be gone.
    pub(super) fn helps(&self, member: &MemberState) -> bool {
        member.lost.as_ref().is_none_or(|lost| !lost.for_good() && member.held >= self.released)
    }

    /// Whether it exists and is frozen, and its end is not known to be published.
    pub(super) fn draining(&self) -> bool {
        self.record.is_some() && self.end.is_some() && self.sealed.is_none()
    }

    /// Whether it was deleted from a log that still has this writer and starts with `first` now: then
    /// its end was published, and all of it archived.
    pub(super) fn is_deleted(&self, first: SegmentNumber) -> bool {
        self.number < first && self.record.is_some() && self.end.is_some()
    }

    pub(super) fn unsettled(&self) -> bool {
        self.sealed == Some(false) && self.end.is_some_and(|at| self.commit < at.end)
    }

    /// Whether it has ended and everything in it is committed.
    pub(super) fn finished(&self) -> bool {
        self.end.is_some_and(|at| self.commit >= at.end)
    }

    /// Whether nothing is left to do for it: sealed, committed, and held by whoever is not given up.
    pub(super) fn done(&self) -> bool {
        self.sealed.is_some() && self.finished() && self.batches.is_empty()
    }
}

fn due(member: &MemberState, timeout: Span, links: &BTreeMap<NodeId, Link>) -> Option<(Time, Lost)> {
    match links.get(&member.node) {
        Some(Link::Down(since)) => Some((since.after(timeout), Lost::Unreachable)),
        _ => member.owes.map(|since| (since.after(timeout), Lost::Silent)),
    }
}

fn due_at(member: &MemberState, timeout: Span, links: &BTreeMap<NodeId, Link>) -> Option<Time> {
    due(member, timeout, links).map(|(at, _)| at)
}
