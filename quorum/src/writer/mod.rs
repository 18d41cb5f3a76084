//! The writer of a log: gives out indices, decides what is committed, and rolls segments.
//!
//! The driver encodes batches, keeps their bytes until they are released, holds one stream to each
//! node, and carries out metadata requests. The machine says which range goes where. [`members`]
//! follows what each member holds, [`roll`] seals a segment and opens the next, [`park`] seals an
//! idle one and opens none, [`metadata`] says what is asked of the metadata, [`transmit`] what is
//! sent, [`upload`] what the driver archives itself at level `object`, where no member holds anything.
//! [`assign`] gives out the indices.

mod assign;
mod members;
mod metadata;
mod park;
mod roll;
#[cfg(test)]
mod tests;
mod transmit;
mod upload;

pub use assign::{AssignError, Assigned, Unresolved};
pub use members::Lost;
pub use metadata::{MetaReply, MetaRequest};
pub use transmit::Transmit;
pub use upload::Waiting;

use crate::glossary::Marks;
use crate::ids::{Epoch, Incarnation, Index, Level, LogId, NodeId, Offset, SegmentNumber};
use crate::limits::{
    COMMIT_DELAY, IDLE_AFTER, MEMBER_TIMEOUT, RETRANSMIT_BYTES, SEGMENT_AGE, SEGMENT_BYTES,
    TRANSMIT_BYTES_TARGET,
};
use crate::meta::{LogRecord, SegmentRecord, Versioned};
use crate::time::{Span, Time};
use crate::wire::message::{NodeView, Refusal};
use members::{Link, Segment};
use metadata::Asked;
use roll::Roll;
use std::collections::{BTreeMap, VecDeque};

/// Settings of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriterOptions {
    /// A member is given up when bytes stay unacknowledged, or its link down, for this long.
    pub member_timeout: Span,
    /// Encoded bytes that are kept until every member holds them.
    pub retransmit_bytes: u64,
    /// A segment is rolled when it holds this many bytes.
    pub segment_bytes: u64,
    /// A segment is rolled when it is this old and not empty.
    pub segment_age: Span,
    /// The log is parked when nothing was appended for this long and everything is archived; at level
    /// `object` it counts from the last part that was recorded, when that was later.
    pub idle_after: Span,
    /// A commit mark is sent on its own when no append carries it within this time.
    pub commit_delay: Span,
    /// Bytes of batches that one transmission carries, but for the batch that reaches it.
    pub transmit_bytes: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            member_timeout: MEMBER_TIMEOUT,
            retransmit_bytes: RETRANSMIT_BYTES as u64,
            segment_bytes: SEGMENT_BYTES,
            segment_age: SEGMENT_AGE,
            idle_after: IDLE_AFTER,
            commit_delay: COMMIT_DELAY,
            transmit_bytes: TRANSMIT_BYTES_TARGET,
        }
    }
}

/// The writer of a log in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    options: WriterOptions,
    log: LogId,
    level: Level,
    /// Who writes, for people to read.
    holder: Option<String>,
    /// The log's record as this writer's last transaction left it.
    record: Versioned<LogRecord>,
    /// From the oldest segment that is not done with to the one that indices are given out in.
    segments: VecDeque<Segment>,
    links: BTreeMap<NodeId, Link>,
    nodes: BTreeMap<NodeId, NodeView>,
    /// Nodes that were given up, and until when they are not chosen again unless they connect anew.
    suspects: BTreeMap<NodeId, Time>,
    nodes_read: Time,
    view_read: Time,
    roll: Roll,
    /// Whether nothing more is to be appended: the last segment is sealed and no other follows.
    closing: bool,
    /// When an index was given out last or, at level `object`, a part was found to be recorded.
    appended: Time,
    retained: u64,
    committed: Offset,
    /// When a commit mark became known that no transmission has carried to everybody.
    unannounced: Option<Time>,
    /// When [`Writer::handle_timeout`] was called last.
    ran: Time,
    /// When anything was heard last, be it a clock's tick.
    alive: Time,
    events: VecDeque<WriterEvent>,
    /// What the roll wants of the metadata next.
    request: Option<MetaRequest>,
    /// What else is to be looked up, when the roll wants nothing: it never displaces the roll's.
    look: Option<MetaRequest>,
    asked: Option<Asked>,
    stopped: bool,
}

/// Something that the driver must know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WriterEvent {
    /// Every entry below the offset is acknowledged.
    Committed(Offset),
    /// The batches of the segment below the index need not be kept any longer.
    Released(SegmentNumber, Index),
    /// A member is given up; the segment will be rolled.
    MemberLost(NodeId, SegmentNumber, Lost),
    /// Indices are now given out in this segment, held by these nodes.
    Opened(SegmentNumber, Vec<NodeId>),
    /// The log is parked: sealed, with no segment open and nothing left to do. The driver ends its
    /// streams, of which the machine knows nothing any more; the next index given out opens a
    /// segment, and wants streams again.
    Parked,
    /// A later epoch has taken over: what became of what is not committed can be read from the
    /// metadata, see [`Writer::unresolved`].
    Fenced(Epoch),
    /// The log has been deleted: nothing that is not committed is wanted any more.
    Deleted,
    /// The writer has closed: everything is committed and the last segment sealed.
    Closed,
    /// All members of a published segment have forgotten what was neither settled nor archived: it
    /// can never be acknowledged. Whoever takes the log over records the loss.
    Forgotten(String),
    /// The metadata contradict what this writer did: it stops rather than doing damage.
    Broken(String),
}

/// How long a failed metadata request, or a refused opening of a segment, waits before it is repeated.
const RETRY: Span = Span::millis(50);
/// How long a node that was given up is not chosen again, unless it connects anew: longer than the
/// transport needs to find out that it is gone.
const SUSPICION: Span = Span::secs(6);
/// How often nodes, or a seal that is not settled, are looked at while something is amiss.
const REFRESH: Span = Span::secs(1);

impl Writer {
    /// The writer of a log whose takeover is complete: `record` is the log's record, with this
    /// writer's epoch, and the segment is its newest, open and empty.
    #[must_use]
    pub fn new(
        now: Time,
        options: WriterOptions,
        log: LogId,
        record: Versioned<LogRecord>,
        number: SegmentNumber,
        segment: Versioned<SegmentRecord>,
    ) -> Self {
        assert_eq!(segment.value.epoch, record.value.epoch, "the writer's own segment");
        let committed = segment.value.base;
        let level = segment.value.level;
        let mut writer = Self {
            options,
            log,
            level,
            holder: record.value.holder.clone(),
            segments: VecDeque::from([Segment::created(now, number, segment)]),
            record,
            links: BTreeMap::new(),
            nodes: BTreeMap::new(),
            suspects: BTreeMap::new(),
            nodes_read: Time(0),
            view_read: now,
            roll: Roll::No,
            closing: false,
            appended: now,
            retained: 0,
            committed,
            unannounced: None,
            ran: now,
            alive: now,
            events: VecDeque::new(),
            request: None,
            look: None,
            asked: None,
            stopped: false,
        };
        writer.watch_members(now);
        writer
    }

    /// Whether a commit mark waits to be sent: then time matters soon.
    #[must_use]
    pub fn commit_waits(&self) -> bool {
        self.unannounced.is_some()
    }

    /// Below it every entry is acknowledged.
    #[must_use]
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// The offset of the next entry.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        let segment = self.segments.back().expect("there is always a newest segment");
        Offset::of(segment.base, segment.assigned)
    }

    /// The epoch of this writer.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.record.value.epoch
    }

    /// The durability of the log's segments.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// The members of the newest segment that exists.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        let newest = self.segments.iter().rev().find(|segment| segment.record.is_some());
        newest.map_or_else(Vec::new, |segment| segment.members.iter().map(|m| m.node.clone()).collect())
    }

    /// The nodes that the writer wants a stream to: members of its segments, and whoever may
    /// become one. None while the log is parked.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<NodeId, Option<Vec<String>>> {
        if self.parked() {
            return BTreeMap::new();
        }
        let addresses = |node: &NodeId| Some(self.nodes.get(node)?.running.as_ref()?.addresses.clone());
        let records = self.segments.iter().filter_map(|segment| segment.record.as_ref());
        let members = records.flat_map(|record| &record.value.ensemble).map(|member| &member.node);
        let usable = self.nodes.iter().filter(|(_, view)| view.usable(self.level)).map(|(node, _)| node);
        members.chain(usable).map(|node| (node.clone(), addresses(node))).collect()
    }

    /// A stream to a node is up, to this life of its buffer.
    pub fn handle_connected(&mut self, now: Time, node: &NodeId, incarnation: Incarnation) {
        if self.stopped || self.parked() {
            return;
        }
        self.observe(now);
        self.links.insert(node.clone(), Link::Up(incarnation));
        self.suspects.remove(node);
        for segment in &mut self.segments {
            segment.connected(now, node, incarnation, &mut self.events);
        }
        self.advance_all(now);
        self.node_came();
        self.consider_roll(now);
    }

    /// The stream to a node is gone.
    pub fn handle_disconnected(&mut self, now: Time, node: &NodeId) {
        self.observe(now);
        if let Some(link @ Link::Up(_)) = self.links.get_mut(node) {
            *link = Link::Down(now);
        }
        for segment in &mut self.segments {
            segment.disconnected(node);
        }
    }

    /// A member answered the opening of a segment.
    pub fn handle_opened(&mut self, now: Time, node: &NodeId, number: SegmentNumber, held: Marks) {
        if self.stopped {
            return;
        }
        self.observe(now);
        let Some(segment) = self.segment(number) else { return };
        let tail = held.tail.min(segment.assigned);
        // It may have missed every mark so far: appends that are resent carry old ones.
        segment.announce = segment.commit;
        if let Some(member) = segment.member(node) {
            member.opened(now, tail);
        }
        self.handle_ack(now, node, number, held.held);
    }

    /// A member holds everything of the segment below `held`.
    pub fn handle_ack(&mut self, now: Time, node: &NodeId, number: SegmentNumber, held: Index) {
        if self.stopped {
            return;
        }
        self.observe(now);
        let Some(segment) = self.segment(number) else { return };
        if held > segment.assigned {
            let what = format!("it acknowledges index {held}, which was never given out");
            self.lose(node, number, Lost::Refused(what));
            return self.consider_roll(now);
        }
        if let Some(member) = segment.member(node) {
            member.acked(now, held);
        }
        self.advance(now, number);
    }

    /// Everything of the segment below `index` is in object storage.
    pub fn handle_archived(&mut self, now: Time, number: SegmentNumber, index: Index) {
        if self.stopped {
            return;
        }
        self.observe(now);
        self.raise_archived(now, number, index);
        self.advance(now, number);
        self.consider_roll(now);
    }

    /// A member refused appends of a segment, or its opening.
    pub fn handle_refused(&mut self, now: Time, node: &NodeId, number: SegmentNumber, refusal: &Refusal) {
        if self.stopped {
            return;
        }
        self.observe(now);
        let mine = self.record.value.epoch;
        if let Refusal::Fenced { epoch } = refusal
            && *epoch > mine
        {
            return self.stop(WriterEvent::Fenced(*epoch));
        }
        if *refusal == Refusal::Deleted {
            return self.stop(WriterEvent::Deleted);
        }
        let Some(segment) = self.segment(number) else { return };
        let end = segment.end.map(|at| at.end);
        let Some(member) = segment.member(node) else { return };
        member.answers = true;
        match refusal {
            Refusal::OutOfOrder { .. } => member.reopen(now),
            Refusal::Overloaded { .. } => member.pause(now.after(RETRY)),
            // A stream of a connection that is gone may have been heard late.
            Refusal::Unavailable(_) | Refusal::Superseded => member.retry(now.after(RETRY)),
            Refusal::Sealed { end: sealed } if end == Some(*sealed) => member.reopen(now),
            Refusal::Sealed { .. } => {
                member.retry(now.after(REFRESH));
                self.look = Some(MetaRequest::View(number));
            }
            Refusal::WrongIncarnation { .. } => self.lose(node, number, Lost::Reborn),
            Refusal::Draining => self.lose(node, number, Lost::Draining),
            other => self.lose(node, number, Lost::Refused(other.to_string())),
        }
        self.consider_roll(now);
        self.advance(now, number);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.stopped {
            return;
        }
        self.observe(now);
        self.ran = now;
        if self.unannounced.is_some_and(|since| now >= since.after(self.options.commit_delay)) {
            self.unannounced = None;
            for segment in &mut self.segments {
                segment.announce = segment.commit;
            }
        }
        let overdue = |segment: &Segment| segment.overdue(now, self.options.member_timeout, &self.links);
        let late: Vec<_> = self.segments.iter().map(overdue).collect();
        for (number, late) in late {
            for (node, lost) in late {
                self.lose(&node, number, lost);
            }
        }
        self.advance_all(now);
        self.roll_timeout(now);
        self.consider_roll(now);
        self.refresh(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.stopped || self.parked() {
            return None;
        }
        let members =
            self.segments.iter().filter_map(|s| s.deadline(self.options.member_timeout, &self.links));
        let commit = self.unannounced.map(|since| since.after(self.options.commit_delay));
        let refresh = self.next_look().map(|(at, _)| at.max(self.ran.after(RETRY)));
        let refresh = refresh.filter(|_| self.asked.is_none());
        let age = self.segments.back().map(|s| s.created.after(self.options.segment_age));
        // A tick while a member is waited for shows that this process runs: see `observe`.
        let watched = self.segments.iter().any(|segment| segment.watched(&self.links));
        let tick = watched.then(|| self.ran.after(Span(self.options.member_timeout.0 / 4)));
        let roll = self.roll_deadline().into_iter().chain(self.park_due());
        let all = members.chain(commit).chain(refresh).chain(age).chain(roll).chain(tick);
        all.filter(|at| *at > self.ran).min()
    }

    /// The next thing that the driver must know.
    pub fn poll_event(&mut self) -> Option<WriterEvent> {
        self.events.pop_front()
    }

    /// Seals what is there and opens nothing: [`WriterEvent::Closed`] follows once all of it is
    /// acknowledged and the seal published; at once when the log is parked.
    pub fn close(&mut self, now: Time) {
        self.start_closing(now);
    }

    fn stop(&mut self, event: WriterEvent) {
        if !self.stopped {
            self.stopped = true;
            (self.request, self.look) = (None, None);
            self.events.push_back(event);
        }
    }

    fn segment(&mut self, number: SegmentNumber) -> Option<&mut Segment> {
        self.segments.iter_mut().find(|segment| segment.number == number)
    }

    fn lose(&mut self, node: &NodeId, number: SegmentNumber, lost: Lost) {
        let Some(segment) = self.segment(number) else { return };
        let Some(member) = segment.member(node) else { return };
        if member.lost.as_ref().is_none_or(|known| !known.for_good() && lost.for_good()) {
            member.lost = Some(lost.clone());
            member.answers = !matches!(lost, Lost::Silent | Lost::Unreachable);
            self.suspects.insert(node.clone(), self.alive.after(SUSPICION));
            self.events.push_back(WriterEvent::MemberLost(node.clone(), number, lost));
        }
    }

    /// Draws the conclusions from changes in any segment; those that are done with go.
    fn advance_all(&mut self, now: Time) {
        let numbers: Vec<SegmentNumber> = self.segments.iter().map(|segment| segment.number).collect();
        for number in numbers {
            self.advance(now, number);
        }
    }

    /// Draws the conclusions from new marks of a segment.
    fn advance(&mut self, now: Time, number: SegmentNumber) {
        let Some(segment) = self.segment(number) else { return };
        if segment.raise_commit() {
            self.unannounced.get_or_insert(now);
        }
        self.release(number);
        let mut committed = self.committed;
        for segment in &self.segments {
            committed = committed.max(Offset::of(segment.base, segment.commit));
            if segment.end.is_none_or(|at| segment.commit < at.end) {
                break;
            }
        }
        if committed > self.committed {
            self.committed = committed;
            self.events.push_back(WriterEvent::Committed(committed));
        }
        self.drained(now);
        if self.roll == Roll::Closed && self.segments.iter().all(Segment::finished) {
            self.stop(WriterEvent::Closed);
        }
        // One segment that exists is always kept: the next is created from what is known of it.
        while self.segments.get(1).is_some_and(|next| next.record.is_some()) && self.segments[0].done() {
            self.segments.pop_front();
        }
    }

    fn release(&mut self, number: SegmentNumber) {
        let Some(segment) = self.segment(number) else { return };
        let (below, bytes) = segment.release();
        if bytes > 0 {
            self.retained -= bytes;
            self.events.push_back(WriterEvent::Released(number, below));
        }
    }

    /// The budget is used up: members that lack what others have committed are the reason, unless
    /// nothing is committed at all.
    pub fn give_up_laggards(&mut self) {
        let Some(segment) = self.segments.iter().find(|segment| segment.retains()) else { return };
        let number = segment.number;
        for node in segment.laggards() {
            self.lose(&node, number, Lost::Behind);
        }
        self.release(number);
    }

    /// Something is heard. Silence is no evidence against a member while this process did not run
    /// itself: whatever is heard first after a pause may be a member's answer, not the clock.
    fn observe(&mut self, now: Time) {
        let pause = now.since(self.alive);
        self.alive = self.alive.max(now);
        if pause.0 > self.options.member_timeout.0 / 2 {
            for segment in &mut self.segments {
                segment.forgive(now);
            }
            for link in self.links.values_mut() {
                link.forgive(now);
            }
        }
    }

    /// Every member has a link, if only one that is not up yet.
    fn watch_members(&mut self, now: Time) {
        for member in self.segments.iter().flat_map(|segment| &segment.members) {
            self.links.entry(member.node.clone()).or_insert(Link::Down(now));
        }
    }
}
