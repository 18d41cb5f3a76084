//! The roll: seals the segment in use and opens the next, without losing or reordering an append.
//!
//! 1. Read the nodes, while indices are still given out: an etcd outage does not stop the writer.
//! 2. Freeze: no further index in this segment. Appends go on in the next one, at the offsets that
//!    they will have; they are sent when it exists.
//! 3. Drain: wait until enough members hold everything that was given out, from the retransmit
//!    buffer if need be.
//! 4. Propose one transaction that publishes the end and creates the next segment, and repeat it
//!    until the records show what became of it.

use super::members::{Link, Segment};
use super::{MetaRequest, REFRESH, RETRY, Writer, WriterEvent};
use crate::ids::{Level, NodeId, Revision, SegmentNumber};
use crate::limits::{ACK_QUORUM, MEMBERS_MAX, SEGMENT_PARTS};
use crate::meta::seal::{CreateOne, SealOne, SealSegment};
use crate::meta::{LogView, Member, SegmentRecord, TxnOutcome, Versioned};
use crate::mutation::{Mutation, on};
use crate::time::Time;
use crate::wire::message::Proposal;

/// Where a roll is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Roll {
    /// None is under way.
    No,
    /// The nodes are being read, or will be at the time given.
    Reading { again: Option<Time> },
    /// The segment is frozen and drains; the next one, if there is to be one, will have these members.
    Draining { next: Option<Vec<(Member, Revision)>> },
    /// The transaction is out, or will be sent again at the time given.
    Proposing { proposal: Box<SealSegment>, again: Option<Time> },
    /// The transaction was refused, and the log is being read, or will be at the time given.
    Checking { again: Option<Time> },
    /// The newest segment is sealed, and a next one is created when something is appended.
    Parked,
    /// The last segment is sealed and there is no next one.
    Closed,
}

impl Writer {
    pub(super) fn start_closing(&mut self, now: Time) {
        if self.stopped || self.closing {
            return;
        }
        self.closing = true;
        if self.parked() {
            return self.stop(WriterEvent::Closed);
        }
        self.segments.back_mut().expect("there is always a newest segment").freeze();
        self.view_read = now;
        self.consider_roll(now);
        self.drained(now);
    }

    /// Parks the log, or starts a roll, if there is a reason and none is under way.
    pub(super) fn consider_roll(&mut self, now: Time) {
        if self.stopped {
            return;
        }
        self.consider_parking(now);
        if self.roll != Roll::No {
            return;
        }
        let newest = self.segments.back().expect("there is always a newest segment");
        let old = newest.assigned.0 > 0 && now >= newest.created.after(self.options.segment_age);
        let full = newest.bytes >= self.options.segment_bytes || newest.parts >= SEGMENT_PARTS;
        let better = newest.members.len() < MEMBERS_MAX
            && now >= newest.created.after(REFRESH)
            && self.choose_ensemble().is_some_and(|ensemble| ensemble.len() > newest.members.len());
        if self.closing || old || full || newest.has_lost() || better {
            self.read_nodes();
        }
    }

    /// Reads the nodes, on some of which a segment will be created.
    pub(super) fn read_nodes(&mut self) {
        self.roll = Roll::Reading { again: None };
        self.ask(MetaRequest::Nodes);
    }

    /// A node that the roll may have been waiting for is there.
    pub(super) fn node_came(&mut self) {
        if let Roll::Reading { again: again @ Some(_) } = &mut self.roll {
            *again = None;
            self.ask(MetaRequest::Nodes);
        }
    }

    /// Who can be a member of the next segment: nodes that run and that a stream is up to, those
    /// that have not just been given up first. Of those that have, only whoever was heard since:
    /// a segment with somebody who stays silent would have to be rolled again at once.
    fn choose_ensemble(&self) -> Option<Vec<(Member, Revision)>> {
        if self.level == Level::Object {
            return Some(Vec::new());
        }
        let newest = self.segments.iter().rev().find(|segment| segment.record.is_some())?;
        // Of a segment that was parked, nothing is known of its members but that they were chosen.
        let parked = newest.members.is_empty();
        let chosen =
            |member: &Member| newest.record.as_ref().is_some_and(|r| r.value.ensemble.contains(member));
        let rank = |member: &Member| match newest.members.iter().find(|known| known.node == member.node) {
            Some(known) if known.lost.is_none() => Some(0),
            None if self.suspects.get(&member.node).is_some_and(|until| self.alive < *until) => None,
            None if parked && chosen(member) => Some(0),
            None => Some(1),
            Some(known) if known.incarnation != member.incarnation => Some(1),
            Some(known) => known.answers.then_some(2),
        };
        let mut fit: Vec<(u8, Member, Revision)> = Vec::new();
        for (node, view) in self.nodes.iter().filter(|(_, view)| view.usable(self.level)) {
            let (incarnation, revision) = view.incarnation(self.level);
            let member = Member { node: node.clone(), incarnation };
            if self.links.get(node) == Some(&Link::Up(incarnation))
                && let Some(rank) = rank(&member)
            {
                fit.push((rank, member, revision));
            }
        }
        fit.sort();
        let fresh = fit.iter().filter(|(rank, ..)| *rank < 2).count();
        let wanted = if fresh >= ACK_QUORUM { fresh.min(MEMBERS_MAX) } else { fit.len().min(ACK_QUORUM) };
        fit.truncate(wanted);
        (fit.len() >= ACK_QUORUM)
            .then(|| fit.into_iter().map(|(_, member, revision)| (member, revision)).collect())
    }

    pub(super) fn nodes_arrived(&mut self, now: Time) {
        if !matches!(self.roll, Roll::Reading { .. }) {
            return;
        }
        let (frozen, creating) = (self.segments.iter().any(Segment::draining), self.creating());
        // A segment that holds appends already is created all the same, and closed after that.
        let closing = self.closing && self.segments.back().is_some_and(|newest| newest.record.is_some());
        let next = if closing {
            None
        } else {
            let Some(ensemble) = self.choose_ensemble() else {
                // Too few nodes can be reached; one that comes back is noticed at once.
                self.roll = Roll::Reading { again: Some(now.after(REFRESH)) };
                return;
            };
            if creating {
                return self.propose_segment(now, ensemble);
            }
            Some(ensemble)
        };
        if !frozen {
            self.segments.back_mut().expect("there is always a newest segment").freeze();
            self.view_read = now;
            self.follow(now);
        }
        self.roll = Roll::Draining { next };
        self.drained(now);
    }

    /// Proposes the seal once the frozen segment has drained.
    pub(super) fn drained(&mut self, now: Time) {
        let Roll::Draining { next } = &self.roll else { return };
        let Some(segment) = self.segments.iter().find(|segment| segment.draining()) else {
            return;
        };
        if !segment.drained() {
            return;
        }
        let record = segment.record.clone().expect("a segment that is frozen exists");
        let revision = |node: &NodeId| self.nodes.get(node).map(|view| view.incarnation(self.level));
        let (mut holders, mut moved) = (Vec::new(), Vec::new());
        for member in &segment.members {
            match revision(&member.node) {
                Some((current, revision)) if current > member.incarnation => {
                    moved.push((member.node.clone(), revision));
                }
                Some((current, revision))
                    if current == member.incarnation && member.held >= segment.assigned =>
                {
                    holders.push((member.node.clone(), revision));
                }
                _ => {}
            }
        }
        let archived = segment.archived;
        let at = segment.end.expect("it is frozen");
        if holders.is_empty() && archived < at.end {
            // Who holds it is not known to the metadata now, or has been reborn: look again.
            self.roll = Roll::Reading { again: Some(now.after(RETRY)) };
            return;
        }
        let proposal = SealSegment {
            log: self.log,
            read: self.record.clone(),
            seal: Some(SealOne {
                segment: segment.number,
                read: record,
                at,
                holders,
                moved,
                archived,
                recovery: false,
                allowed_loss: None,
            }),
            create: next.clone().map(|ensemble| CreateOne {
                level: self.level,
                ensemble,
                holder: self.holder.clone(),
            }),
        };
        self.propose(proposal);
    }

    pub(super) fn propose(&mut self, proposal: SealSegment) {
        let proposal = Box::new(proposal);
        self.ask(MetaRequest::Propose(Proposal::Seal(proposal.clone())));
        self.roll = Roll::Proposing { proposal, again: None };
    }

    pub(super) fn outcome_arrived(&mut self, now: Time, outcome: TxnOutcome) {
        let Roll::Proposing { proposal, .. } = &self.roll else { return };
        match outcome {
            TxnOutcome::Applied(revision) => {
                let sealed = proposal.seal.as_ref().map(|seal| (seal.segment, seal.settled()));
                let (record, created) = proposal.records();
                self.record = Versioned { revision, value: record };
                let created = created.map(|(number, value)| (number, Versioned { revision, value }));
                self.rolled(now, sealed, created);
            }
            TxnOutcome::Refused => {
                self.roll = Roll::Checking { again: None };
                self.check_again();
            }
        }
    }

    /// Reads the log from the segment on that a refused transaction would have sealed or created.
    fn check_again(&mut self) {
        if let Some(segment) = self.segments.iter().find(|segment| segment.sealed.is_none()) {
            self.ask(MetaRequest::View(segment.number));
        }
    }

    /// A transaction whose outcome is unknown is repeated as it is, until the records show one
    /// outcome or the other; anything else is asked for again.
    pub(super) fn meta_failed(&mut self, now: Time, proposed: bool) {
        if on(Mutation::GoesOnAfterSeal) && proposed {
            return self.forget_seal();
        }
        let later = Some(now.after(RETRY));
        match &mut self.roll {
            Roll::Reading { again } | Roll::Checking { again } => *again = later,
            Roll::Proposing { again, .. } if proposed && !on(Mutation::ProposesOnce) => *again = later,
            Roll::Proposing { .. } | Roll::No | Roll::Draining { .. } | Roll::Parked | Roll::Closed => {}
        }
    }

    /// The transaction is refused for good. Nothing else may be proposed in its stead, for an earlier
    /// sending of it may land yet; so the writer stops, and whoever opens the log next finds out.
    pub(super) fn never_proposed(&mut self, why: &str) {
        let Roll::Proposing { proposal, .. } = &self.roll else { return };
        let what = match &proposal.seal {
            Some(seal) => format!("segment {} cannot be sealed at {}", seal.segment, seal.at.end),
            None => format!("segment {} cannot be created", proposal.read.value.next_segment),
        };
        self.stop(WriterEvent::Broken(format!(
            "{what}, now or later: {why}; open the log again, and if that fails too keep the nodes as they are and report it"
        )));
    }

    /// A guard that is missing: the segment whose seal may yet land is written on.
    fn forget_seal(&mut self) {
        self.segments.retain(|segment| segment.record.is_some());
        if let Some(newest) = self.segments.back_mut() {
            newest.end = None;
        }
        self.roll = Roll::No;
    }

    pub(super) fn roll_deadline(&self) -> Option<Time> {
        match &self.roll {
            Roll::Reading { again } | Roll::Checking { again } | Roll::Proposing { again, .. } => *again,
            Roll::No | Roll::Draining { .. } | Roll::Parked | Roll::Closed => None,
        }
    }

    pub(super) fn roll_timeout(&mut self, now: Time) {
        match &mut self.roll {
            Roll::Reading { again } if again.is_some_and(|at| now >= at) => {
                *again = None;
                self.ask(MetaRequest::Nodes);
            }
            Roll::Checking { again } if again.is_some_and(|at| now >= at) => {
                *again = None;
                self.check_again();
            }
            Roll::Proposing { proposal, again } if again.is_some_and(|at| now >= at) => {
                *again = None;
                let again = MetaRequest::Propose(Proposal::Seal(proposal.clone()));
                self.ask(again);
            }
            _ => {}
        }
        self.drained(now);
    }

    /// What the metadata show of the log: whether it is still mine, and whether a proposal landed.
    pub(super) fn view_arrived(&mut self, now: Time, view: &LogView) {
        let record = &view.record.value;
        let mine = record.writer == self.record.value.writer && record.epoch == self.record.value.epoch;
        if !mine && !on(Mutation::TakesOthersSuccess) {
            let deleted = record.deleted.is_some();
            return self.stop(if deleted { WriterEvent::Deleted } else { WriterEvent::Fenced(record.epoch) });
        }
        for (number, seen) in &view.segments {
            self.raise_archived(now, *number, seen.archived.end);
            if let Some(segment) = self.segment(*number)
                && segment.sealed == Some(false)
                && seen.record.value.settled()
            {
                segment.sealed = Some(true);
            }
            self.advance(now, *number);
        }
        for segment in self.segments.iter_mut().filter(|segment| segment.is_deleted(view.first_segment)) {
            segment.archived = segment.assigned;
            segment.sealed = segment.sealed.map(|_| true);
        }
        self.advance_all(now);
        // A view may begin behind it, and then says nothing of what was archived.
        let seen = |segment: &&Segment| view.segments.contains_key(&segment.number);
        if let Some(segment) = self.segments.iter().filter(seen).find(|segment| self.forgotten(segment)) {
            let why = format!(
                "segment {} cannot be settled: every member of it has forgotten what was not archived; open the log again, which records what is lost",
                segment.number
            );
            return self.stop(WriterEvent::Forgotten(why));
        }
        if matches!(self.roll, Roll::Checking { .. }) {
            self.refused_because(now, view);
        }
    }

    /// Whether nothing can settle a published end any more: no member is in the life that it was in,
    /// and what they had archived before was in the view that has been read since.
    fn forgotten(&self, segment: &Segment) -> bool {
        let moved = |member: &Member| {
            let now = self.nodes.get(&member.node).map(|node| node.incarnation(self.level).0);
            now.is_some_and(|now| now > member.incarnation)
        };
        let ensemble = segment.record.as_ref().map_or(&[][..], |record| &record.value.ensemble);
        segment.unsettled() && !ensemble.is_empty() && ensemble.iter().all(moved)
    }

    /// A proposal was refused: adopt it if it had landed after all, else try again with what the
    /// records show now. The end stays the same whatever happens.
    fn refused_because(&mut self, now: Time, view: &LogView) {
        self.record = view.record.clone();
        let Some(segment) = self.segments.iter_mut().find(|segment| segment.sealed.is_none()) else {
            return;
        };
        let number = segment.number;
        let seen = view.segments.get(&number);
        if segment.record.is_none() && view.record.value.next_segment == number {
            // It was not created: the nodes may have changed since they were read.
            return self.read_nodes();
        }
        let follows = view.segments.get(&number.plus(1)).map(|next| (number.plus(1), next.record.clone()));
        let Some(seen) = seen else {
            if segment.is_deleted(view.first_segment)
                && (follows.is_some() || view.record.value.next_segment == number.plus(1))
            {
                return self.rolled(now, Some((number, true)), follows);
            }
            self.roll = Roll::Checking { again: Some(now.after(RETRY)) };
            return;
        };
        if segment.record.is_none() {
            return self.rolled(now, None, Some((number, seen.record.clone())));
        }
        if let Some(at) = seen.record.value.state.end() {
            if Some(*at) != segment.end {
                let said = segment.end.map(|at| at.end);
                let why = format!("segment {number} is sealed at {}, its writer said {said:?}", at.end);
                return self.stop(WriterEvent::Broken(why));
            }
            let sealed = Some((number, seen.record.value.settled()));
            return self.rolled(now, sealed, follows);
        }
        segment.record = Some(seen.record.clone());
        let parking = !self.closing && self.segments.back().is_some_and(|newest| newest.number == number);
        if parking { self.propose_park(now) } else { self.read_nodes() }
    }

    /// The seal is published, and the next segment, if the transaction created one, exists.
    fn rolled(
        &mut self,
        now: Time,
        sealed: Option<(SegmentNumber, bool)>,
        created: Option<(SegmentNumber, Versioned<SegmentRecord>)>,
    ) {
        if let Some((number, settled)) = sealed
            && let Some(segment) = self.segment(number)
        {
            segment.sealed = Some(settled);
        }
        match created {
            Some((number, record)) => {
                let nodes = record.value.ensemble.iter().map(|member| member.node.clone()).collect();
                let Some(segment) = self.segment(number).filter(|next| next.base == record.value.base) else {
                    let why = format!(
                        "segment {number} was created at offset {}, not by this writer",
                        record.value.base
                    );
                    return self.stop(WriterEvent::Broken(why));
                };
                segment.exists(now, record);
                self.roll = Roll::No;
                self.watch_members(now);
                self.events.push_back(WriterEvent::Opened(number, nodes));
            }
            // Something was appended while the log was being parked.
            None if self.creating() => self.read_nodes(),
            None if self.closing => self.roll = Roll::Closed,
            None => self.park(now),
        }
        self.advance_all(now);
        if self.roll == Roll::Closed && self.segments.iter().all(Segment::finished) {
            self.stop(WriterEvent::Closed);
        }
    }
}
