//! Parking: a log that nobody appends to has no open segment and no stream, and costs its nodes
//! nothing. The writer keeps its epoch.
//!
//! 1. Nothing was appended for `idle_after`, and everything is archived: the segment is sealed with
//!    no next one. Nobody need hold any of it, so no node is asked. At level `object`, where nothing is
//!    acknowledged before it is archived, that time begins anew with each part.
//! 2. The next append is queued at the offset that it will have. The nodes are read, streams come
//!    up again, and a segment is created on those whose stream is up.
//!
//! An append that comes while the seal is under way is queued the same way, and its segment created
//! when the seal is published. Whatever reply is lost, a transaction is repeated as it is until the
//! records show what became of it, as in a roll.

use super::members::Segment;
use super::roll::Roll;
use super::{MetaRequest, REFRESH, RETRY, Writer, WriterEvent};
use crate::ids::Revision;
use crate::limits::MEMBERS_MAX;
use crate::meta::Member;
use crate::meta::seal::{CreateOne, SealOne, SealSegment};
use crate::time::{Span, Time};

impl Writer {
    /// Whether the log is parked: sealed, with no segment open.
    #[must_use]
    pub fn parked(&self) -> bool {
        self.roll == Roll::Parked
    }

    /// The only segment that is not done with, when it is open and all of it is committed, and no
    /// roll has frozen it.
    fn resting(&self) -> Option<&Segment> {
        let segment = self.segments.front().filter(|_| self.segments.len() == 1)?;
        let unfrozen = matches!(self.roll, Roll::No | Roll::Reading { .. }) && segment.end.is_none();
        (unfrozen && !self.closing && segment.commit == segment.assigned).then_some(segment)
    }

    /// When the log is to be parked, if all of it is archived.
    pub(super) fn park_due(&self) -> Option<Time> {
        let segment = self.resting()?;
        let archived = segment.archived == segment.assigned;
        archived.then_some(self.appended.after(self.options.idle_after))
    }

    /// When to look how far an idle segment is archived: a member's word on it may have been lost.
    pub(super) fn archive_look(&self) -> Option<(Time, MetaRequest)> {
        let segment = self.resting()?;
        let pause = REFRESH.max(Span(self.options.idle_after.0 / 4));
        let at = self.appended.after(self.options.idle_after).max(self.view_read.after(pause));
        (segment.archived < segment.assigned).then_some((at, MetaRequest::View(segment.number)))
    }

    pub(super) fn consider_parking(&mut self, now: Time) {
        if self.park_due().is_some_and(|due| now >= due) {
            self.propose_park(now);
        }
    }

    /// Proposes to seal the newest segment, whose end is archived, and to open none.
    pub(super) fn propose_park(&mut self, now: Time) {
        self.view_read = now;
        let segment = self.segments.back_mut().expect("there is always a newest segment");
        let at = segment.freeze();
        let read = segment.record.clone().expect("a segment that is parked exists");
        let seal = SealOne {
            segment: segment.number,
            read,
            at,
            holders: Vec::new(),
            moved: Vec::new(),
            archived: at.end,
            recovery: false,
            allowed_loss: None,
        };
        let read = self.record.clone();
        self.propose(SealSegment { log: self.log, read, seal: Some(seal), create: None });
    }

    /// The seal is published and nothing was appended meanwhile: everything that cost anything goes.
    pub(super) fn park(&mut self, now: Time) {
        self.roll = Roll::Parked;
        let newest = self.segments.back_mut().expect("there is always a newest segment");
        // Laggards need not have what is archived.
        newest.members.clear();
        let number = newest.number;
        self.advance(now, number);
        self.links.clear();
        (self.unannounced, self.look) = (None, None);
        self.events.push_back(WriterEvent::Parked);
    }

    /// Appends behind a seal that has no next segment are queued for one that will be created; if
    /// the log is parked already, that begins now.
    pub(super) fn unpark(&mut self, now: Time) {
        if self.segments.back().is_some_and(|newest| newest.end.is_some()) {
            self.follow(now);
            if self.parked() {
                self.read_nodes();
            }
        }
    }

    /// Puts a segment that is to be created behind the newest, which is frozen.
    pub(super) fn follow(&mut self, now: Time) {
        let newest = self.segments.back().expect("there is always a newest segment");
        let end = newest.end.expect("a segment follows one that is frozen");
        let base = newest.base.plus(end.end.0);
        let next = Segment::pending(now, newest.number.plus(1), base, newest.at_assigned);
        self.segments.push_back(next);
    }

    /// Whether the segment before it is sealed, and one is to be created.
    pub(super) fn creating(&self) -> bool {
        let waiting = self.segments.back().is_some_and(|newest| newest.record.is_none());
        waiting && !self.segments.iter().any(Segment::draining)
    }

    /// Proposes the segment that appends wait for, when the one before it is sealed already.
    pub(super) fn propose_segment(&mut self, now: Time, ensemble: Vec<(Member, Revision)>) {
        let usable = self.nodes.values().filter(|view| view.usable(self.level)).count();
        let newest = self.segments.back().expect("there is always a newest segment");
        let patient = now < newest.created.after(self.options.member_timeout);
        if patient && ensemble.len() < usable.min(MEMBERS_MAX) {
            // The streams of a log that was parked are only just coming up.
            self.roll = Roll::Reading { again: Some(now.after(RETRY)) };
            return;
        }
        let create = CreateOne { level: self.level, ensemble, holder: self.holder.clone() };
        let read = self.record.clone();
        self.propose(SealSegment { log: self.log, read, seal: None, create: Some(create) });
    }
}
