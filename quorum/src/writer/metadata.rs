//! What the writer asks of the metadata: for its rolls, and while something is amiss.

use super::members::Segment;
use super::{REFRESH, Writer, WriterEvent};
use crate::ids::{Level, NodeId, SegmentNumber};
use crate::meta::{LogView, TxnOutcome};
use crate::time::Time;
use crate::wire::message::{NodeView, Proposal};
use std::collections::BTreeMap;

/// A metadata request, to be answered with [`Writer::handle_meta`]. One at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MetaRequest {
    /// Read the nodes.
    Nodes,
    /// Read the log, from this segment on.
    View(SegmentNumber),
    /// Carry out a transaction.
    Propose(Proposal),
}

/// Answer to a [`MetaRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MetaReply {
    /// To [`MetaRequest::Nodes`].
    Nodes(BTreeMap<NodeId, NodeView>),
    /// To [`MetaRequest::View`].
    View(Box<LogView>),
    /// To [`MetaRequest::Propose`]: the outcome is known.
    Outcome(TxnOutcome),
    /// To any: the log has been deleted.
    Deleted,
    /// To [`MetaRequest::Propose`]: it is refused for good, with this reason. Only an earlier sending of it may have
    /// been carried out, or may yet be.
    Never(String),
    /// To any: it failed; a transaction may have been carried out, or may yet be.
    Failed,
}

/// The kind of the metadata request that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Nodes,
    View,
    Propose,
}

impl Writer {
    /// Whether there is a metadata request to carry out.
    #[must_use]
    pub fn has_request(&self) -> bool {
        (self.request.is_some() || self.look.is_some()) && self.asked.is_none()
    }

    /// The answer to the metadata request that is out.
    pub fn handle_meta(&mut self, now: Time, reply: MetaReply) {
        let Some(asked) = self.asked.take() else { return };
        if self.stopped {
            return;
        }
        self.observe(now);
        match reply {
            MetaReply::Nodes(nodes) => {
                (self.nodes, self.nodes_read) = (nodes, now);
                self.watch_members(now);
                self.nodes_arrived(now);
            }
            MetaReply::View(view) => {
                self.view_read = now;
                self.view_arrived(now, &view);
            }
            MetaReply::Outcome(outcome) => self.outcome_arrived(now, outcome),
            MetaReply::Deleted => self.stop(WriterEvent::Deleted),
            MetaReply::Never(why) if asked == Asked::Propose => self.never_proposed(&why),
            MetaReply::Never(_) | MetaReply::Failed => self.meta_failed(now, asked == Asked::Propose),
        }
        self.consider_roll(now);
    }

    /// The next metadata request.
    pub fn poll_meta(&mut self) -> Option<MetaRequest> {
        if self.asked.is_some() || self.stopped {
            return None;
        }
        let request = self.request.take().or_else(|| self.look.take())?;
        self.asked = Some(match &request {
            MetaRequest::Nodes => Asked::Nodes,
            MetaRequest::View(_) => Asked::View,
            MetaRequest::Propose(_) => Asked::Propose,
        });
        Some(request)
    }

    pub(super) fn ask(&mut self, request: MetaRequest) {
        self.request = Some(request);
    }

    /// What only the metadata can tell, and when to look again: what became of a segment that does
    /// not drain or settle, and which nodes there are while members are wanting.
    pub(super) fn next_look(&self) -> Option<(Time, MetaRequest)> {
        if self.parked() {
            return None;
        }
        let stuck = |segment: &&Segment| segment.draining() || segment.unsettled();
        let stuck = self.segments.iter().find(stuck).map(|segment| segment.number);
        // Whether the members of what is not settled have forgotten it is read too.
        let short = self.segments.back().is_some_and(|segment| segment.short() && !self.closing)
            || self.level != Level::Object && self.segments.iter().any(Segment::unsettled);
        let view = stuck.map(|number| (self.view_read.after(REFRESH), MetaRequest::View(number)));
        let nodes = short.then(|| (self.nodes_read.after(REFRESH), MetaRequest::Nodes));
        view.into_iter().chain(nodes).chain(self.archive_look()).min_by_key(|(at, _)| *at)
    }

    pub(super) fn refresh(&mut self, now: Time) {
        if self.asked.is_some() || self.request.is_some() || self.look.is_some() {
            return;
        }
        let Some((_, request)) = self.next_look().filter(|(at, _)| now >= *at) else { return };
        match &request {
            MetaRequest::View(_) => self.view_read = now,
            _ => self.nodes_read = now,
        }
        self.look = Some(request);
    }
}
