//! The takeover of a log's open segment: fence, find the end, copy what too few hold, publish.
//!
//! The steps are those of the protocol's §6. R1, the new epoch, is the driver's, and comes first.
//! R2 fences every member. R3 waits for the fence quorum, then a grace for the rest. R4 takes the
//! *maximum* tail. R5 copies up to it until enough members hold it, or the others stay silent.
//! R6 hands the driver the seal to propose.

#[cfg(test)]
mod tests;

use crate::ids::{Chain, Epoch, Index, LogId, NodeId, Revision, SegmentNumber};
use crate::limits::{ACK_QUORUM, RECOVERY_GRACE, RECOVERY_SILENCE};
use crate::meta::seal::{AllowedLoss, SealOne};
use crate::meta::{SegmentEnd, SegmentRecord, TrimRecord, Versioned};
use crate::mutation::{Mutation, on};
use crate::quorums::{self, Fenced};
use crate::time::{Span, Time};
use crate::wire::message::{Address, FenceOk, NodeView, Refusal};
use std::collections::{BTreeMap, VecDeque};

/// Settings of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecoveryOptions {
    /// How long to wait for members beyond the fence quorum.
    pub grace: Span,
    /// How long to wait for a silent member that could hold a copy.
    pub silence: Span,
}

impl Default for RecoveryOptions {
    fn default() -> Self {
        Self { grace: RECOVERY_GRACE, silence: RECOVERY_SILENCE }
    }
}

/// What a member is known to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum MemberState {
    /// It has been asked, or will be.
    Asked,
    /// It is fenced and holds this.
    Fenced(FenceOk),
    /// It does not answer; it is asked again at the time given.
    Silent(Time),
    /// It has provably forgotten: its node lives in another incarnation.
    Moved,
}

/// Something that one member, or two, have been asked to do beyond the fence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Busy {
    /// To show the chain at an index.
    Chain(NodeId, Index),
    /// To give, and to take, a copy.
    Copy { source: NodeId, target: NodeId },
}

/// The takeover of one segment in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    options: RecoveryOptions,
    log: LogId,
    epoch: Epoch,
    number: SegmentNumber,
    record: Versioned<SegmentRecord>,
    archived: SegmentEnd,
    nodes: BTreeMap<NodeId, NodeView>,
    members: BTreeMap<NodeId, MemberState>,
    /// When the fence quorum had answered.
    safe: Option<Time>,
    /// The end that R4 found.
    end: Option<SegmentEnd>,
    /// The revision of the log's settings, when these allow a loss, and how far it is trimmed.
    allow_loss: Option<(Revision, Versioned<TrimRecord>)>,
    /// Whether the end is only the most that is left, for too few members know where it was.
    short: bool,
    /// Chains that a longer member must confirm: (index, chain that a shorter one has there).
    unchecked: Vec<(Index, Chain)>,
    /// What is under way with members: nothing else is asked of them meanwhile.
    busy: Option<Busy>,
    /// Since when members that do not answer are waited for without any progress.
    idle: Option<Time>,
    /// The longest prefix that a member short of the end has reported.
    copied: Index,
    requests: VecDeque<RecoveryRequest>,
    outcome: Option<RecoveryOutcome>,
}

/// Something that the driver must do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryRequest {
    /// Fence a member; answer with [`Recovery::handle_fenced`] or [`Recovery::handle_silent`].
    Fence(NodeId, Address),
    /// Read the chain before the batch at an index from a member; answer with
    /// [`Recovery::handle_chain`] or [`Recovery::handle_silent`].
    Chain(NodeId, Address, Index),
    /// Copy from the first member to the second, from the second's tail up to the end; answer with
    /// [`Recovery::handle_copied`] or [`Recovery::handle_silent`] for whichever failed.
    Copy {
        /// Who has the batches.
        source: (NodeId, Address),
        /// Who gets them, as repairs.
        target: (NodeId, Address),
        /// Where the target goes on: its tail, or what is archived when it has less.
        from: Index,
        /// The end.
        to: Index,
    },
}

/// How a takeover of a segment ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecoveryOutcome {
    /// Publish this.
    Seal(Box<SealOne>),
    /// A later epoch is on its way.
    Fenced(Epoch),
    /// Too many members have forgotten what they held: what was acknowledged may be lost.
    Lost {
        /// Members that have provably forgotten.
        moved: Vec<NodeId>,
    },
    /// Two members hold different content at the same index: a broken invariant. Nothing was
    /// changed.
    Alarm(String),
}

impl Recovery {
    /// Takes over the log's open segment in `epoch`, which is newer than the segment's. `nodes` was
    /// read after the epoch was taken.
    #[must_use]
    pub fn new(
        now: Time,
        options: RecoveryOptions,
        log: LogId,
        epoch: Epoch,
        (number, record): (SegmentNumber, Versioned<SegmentRecord>),
        archived: SegmentEnd,
        nodes: BTreeMap<NodeId, NodeView>,
    ) -> Self {
        let level = record.value.level;
        let mut members = BTreeMap::new();
        for member in &record.value.ensemble {
            let current = nodes.get(&member.node).map(|view| view.incarnation(level).0);
            let moved = current.is_some_and(|current| current > member.incarnation);
            members.insert(member.node.clone(), if moved { MemberState::Moved } else { MemberState::Asked });
        }
        let mut recovery = Self {
            options,
            log,
            epoch,
            number,
            record,
            archived,
            nodes,
            members,
            safe: None,
            end: None,
            allow_loss: None,
            short: false,
            unchecked: Vec::new(),
            busy: None,
            idle: None,
            copied: Index(0),
            requests: VecDeque::new(),
            outcome: None,
        };
        let members = recovery.record.value.ensemble.len();
        if members < ACK_QUORUM {
            let why = format!("segment {number} has {members} members in its record; none is fenced");
            recovery.outcome = Some(RecoveryOutcome::Alarm(why));
            return recovery;
        }
        for node in recovery.members_that(|state| *state == MemberState::Asked) {
            let address = recovery.address(&node);
            recovery.requests.push_back(RecoveryRequest::Fence(node, address));
        }
        recovery.step(now);
        recovery
    }

    /// The log's settings, as of this revision, allow a loss: when too many members have forgotten
    /// the segment, it is sealed at the most that is left of it, once everybody who has not forgotten
    /// has been fenced. The end is never below the offset up to which the log is trimmed.
    pub fn allow_loss(&mut self, now: Time, config: Revision, trim: Versioned<TrimRecord>) {
        self.allow_loss = Some((config, trim));
        if matches!(self.outcome, Some(RecoveryOutcome::Lost { .. })) {
            self.outcome = None;
        }
        self.step(now);
    }

    /// A member answered the fence.
    pub fn handle_fenced(&mut self, now: Time, node: &NodeId, answer: Result<FenceOk, Refusal>) {
        match answer {
            Ok(fenced) => self.fenced_by(node, fenced),
            Err(Refusal::Fenced { epoch }) if epoch > self.epoch => {
                self.outcome.get_or_insert(RecoveryOutcome::Fenced(epoch));
            }
            Err(Refusal::WrongIncarnation { current })
                if self.record.value.member(node).is_some_and(|listed| current > listed) =>
            {
                self.moved(node);
            }
            Err(_) => self.retry_later(now, node),
        }
        self.step(now);
    }

    /// A member does not answer, or failed in the middle of a copy: it is asked again later.
    pub fn handle_silent(&mut self, now: Time, node: &NodeId) {
        let involved = match &self.busy {
            Some(Busy::Chain(asked, _)) => asked == node,
            Some(Busy::Copy { source, target }) => source == node || target == node,
            None => false,
        };
        if involved {
            self.busy = None;
        }
        self.retry_later(now, node);
        self.step(now);
    }

    /// The chain that a longer member has where a shorter one ends; none when it has freed that.
    pub fn handle_chain(&mut self, now: Time, at: Index, chain: Option<Chain>) {
        if matches!(&self.busy, Some(Busy::Chain(_, asked)) if *asked == at) {
            self.busy = None;
        }
        if let Some(place) = self.unchecked.iter().position(|(index, _)| *index == at) {
            let (index, expected) = self.unchecked.swap_remove(place);
            if let Some(found) = chain.filter(|found| *found != expected) {
                let why = format!("members disagree before index {index}: chain {found} against {expected}");
                self.outcome = Some(RecoveryOutcome::Alarm(why));
            }
        }
        self.step(now);
    }

    /// A copy reached the end: the member holds everything below `held`, and this is its chain.
    pub fn handle_copied(&mut self, now: Time, node: &NodeId, held: Index) {
        if matches!(&self.busy, Some(Busy::Copy { target, .. }) if target == node) {
            self.busy = None;
        }
        if let (Some(MemberState::Fenced(fenced)), Some(end)) = (self.members.get_mut(node), self.end)
            && held >= end.end
        {
            (fenced.tail, fenced.held) = (end.end, end.end);
            (fenced.chain, fenced.last_timestamp) = (end.chain, end.last_timestamp);
        }
        self.step(now);
    }

    /// Nodes as read anew: members may have been reborn meanwhile.
    pub fn handle_nodes(&mut self, now: Time, nodes: BTreeMap<NodeId, NodeView>) {
        self.nodes = nodes;
        let level = self.record.value.level;
        for member in self.record.value.ensemble.clone() {
            let current = self.nodes.get(&member.node).map(|view| view.incarnation(level).0);
            if current.is_some_and(|current| current > member.incarnation) {
                self.moved(&member.node);
            }
        }
        self.step(now);
    }

    /// Time has passed: silent members are asked again, and not waited for beyond the bounds.
    pub fn handle_timeout(&mut self, now: Time) {
        let again: Vec<NodeId> =
            self.members_that(|state| matches!(state, MemberState::Silent(at) if now >= *at));
        for node in again {
            let address = self.address(&node);
            self.members.insert(node.clone(), MemberState::Asked);
            self.requests.push_back(RecoveryRequest::Fence(node, address));
        }
        self.step(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.outcome.is_some() {
            return None;
        }
        let silent = self.members.values().filter_map(|state| match state {
            MemberState::Silent(at) => Some(*at),
            _ => None,
        });
        let free = self.busy.is_none();
        let grace =
            self.safe.filter(|_| free && self.end.is_none()).map(|safe| safe.after(self.options.grace));
        let bound = self.idle.filter(|_| free).map(|since| since.after(self.options.silence));
        silent.chain(grace).chain(bound).min()
    }

    /// The next thing to do.
    pub fn poll_request(&mut self) -> Option<RecoveryRequest> {
        if self.outcome.is_some() {
            return None;
        }
        self.requests.pop_front()
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&RecoveryOutcome> {
        self.outcome.as_ref()
    }

    /// Members that do not answer, for whoever wants to know why it takes so long.
    #[must_use]
    pub fn silent(&self) -> Vec<NodeId> {
        self.members_that(|state| matches!(state, MemberState::Asked | MemberState::Silent(_)))
    }

    /// A member that has provably forgotten never speaks for the segment again, not even by an
    /// answer from its earlier life that arrives late.
    fn moved(&mut self, node: &NodeId) {
        self.members.insert(node.clone(), MemberState::Moved);
        match &self.busy {
            Some(Busy::Chain(asked, _)) if asked == node => self.busy = None,
            Some(Busy::Copy { source, target }) if source == node || target == node => self.busy = None,
            _ => {}
        }
    }

    /// A member that answers after the end was found is compared with it like the others; when it
    /// holds more, the end is found anew, for none has been published.
    fn fenced_by(&mut self, node: &NodeId, fenced: FenceOk) {
        let Some(state) = self.members.get_mut(node) else { return };
        if *state == MemberState::Moved {
            return;
        }
        *state = MemberState::Fenced(fenced);
        let Some(end) = self.end else { return };
        if fenced.tail > end.end {
            (self.end, self.idle) = (None, None);
            return;
        }
        self.unchecked.extend(comparable(&fenced, &self.archived, &end));
        if fenced.tail > self.copied {
            (self.copied, self.idle) = (fenced.tail, None);
        }
    }

    fn retry_later(&mut self, now: Time, node: &NodeId) {
        let state = self.members.get_mut(node);
        if let Some(state @ (MemberState::Asked | MemberState::Silent(_) | MemberState::Fenced(_))) = state {
            // A member that failed while copying must report anew: it may have been reborn.
            *state = MemberState::Silent(now.after(Span::millis(100)));
        }
    }

    fn step(&mut self, now: Time) {
        if self.outcome.is_some() || self.busy.is_some() {
            return;
        }
        let fenced: Vec<(NodeId, FenceOk)> = self.fenced();
        if self.end.is_none() && !self.decide_end(now, &fenced) {
            return;
        }
        let Some(end) = self.end else { return };
        if self.check_next(&fenced) {
            return;
        }
        let holds = |f: &FenceOk| if on(Mutation::HoldersByTail) { f.tail } else { f.held };
        let holders: Vec<&NodeId> =
            fenced.iter().filter(|(_, f)| holds(f) >= end.end).map(|(n, _)| n).collect();
        if holders.len() >= ACK_QUORUM || self.archived.end == end.end {
            return self.publish(end, &holders);
        }
        let Some(source) = holders.first().map(|node| (*node).clone()) else {
            // Whoever had the longest prefix is gone, and the fence replies no longer show the end; or
            // has not synced it yet, and is asked again.
            for (node, _) in fenced.iter().filter(|(_, f)| f.tail >= end.end) {
                self.retry_later(now, node);
            }
            (self.end, self.safe, self.idle) = (None, None, None);
            return;
        };
        if let Some((target, shorter)) = fenced.iter().find(|(_, f)| f.held < end.end) {
            self.busy = Some(Busy::Copy { source: source.clone(), target: target.clone() });
            let from = shorter.tail.max(self.archived.end);
            let source = (source.clone(), self.address(&source));
            let target = (target.clone(), self.address(target));
            return self.requests.push_back(RecoveryRequest::Copy { source, target, from, to: end.end });
        }
        let waiting = self.members.values().any(|s| matches!(s, MemberState::Asked | MemberState::Silent(_)));
        let idle = *self.idle.get_or_insert(now);
        if !waiting || now >= idle.after(self.options.silence) {
            self.publish(end, &holders);
        }
    }

    /// R3 and R4. Returns whether the end is decided.
    fn decide_end(&mut self, now: Time, fenced: &[(NodeId, FenceOk)]) -> bool {
        let members = self.record.value.ensemble.len();
        let moved = self.members_that(|state| *state == MemberState::Moved);
        let everybody = fenced.len() + moved.len() == members;
        self.short = members - moved.len() < quorums::fence_quorum(members);
        if self.short {
            if self.allow_loss.is_none() {
                self.outcome = Some(RecoveryOutcome::Lost { moved });
            } else if everybody {
                self.decide_on(fenced);
            }
            return self.end.is_some();
        }
        match quorums::fenced(members, fenced.len()) {
            Fenced::Waiting => {
                self.safe = None;
                return false;
            }
            Fenced::Safe if !everybody => {
                let safe = *self.safe.get_or_insert(now);
                if now < safe.after(self.options.grace) {
                    return false;
                }
            }
            Fenced::Safe | Fenced::All => {}
        }
        self.decide_on(fenced);
        true
    }

    /// R4: the largest tail of those who answered, or what is archived.
    fn decide_on(&mut self, fenced: &[(NodeId, FenceOk)]) {
        let mut tails: Vec<&FenceOk> = fenced.iter().map(|(_, fenced)| fenced).collect();
        tails.sort_by_key(|fenced| fenced.tail);
        let longest = if on(Mutation::SmallestTail) {
            tails.first().copied()
        } else if on(Mutation::SecondTail) {
            tails.iter().rev().nth(1).copied()
        } else {
            tails.last().copied()
        };
        let end = match longest
            .filter(|longest| longest.tail >= self.archived.end || on(Mutation::EndsBelowArchive))
        {
            Some(FenceOk { tail, chain, last_timestamp, .. }) => {
                SegmentEnd { end: *tail, chain: *chain, last_timestamp: *last_timestamp }
            }
            None => self.archived,
        };
        self.unchecked = fenced.iter().filter_map(|(_, f)| comparable(f, &self.archived, &end)).collect();
        self.end = Some(end);
    }

    /// Checks one shorter prefix against the end, or asks a longer member about it. Returns whether
    /// something is left to be checked first.
    fn check_next(&mut self, fenced: &[(NodeId, FenceOk)]) -> bool {
        let Some(end) = self.end else { return false };
        while let Some((index, chain)) = self.unchecked.first().copied() {
            if index == end.end {
                if chain != end.chain {
                    let why =
                        format!("members disagree before index {index}: chain {chain} against {}", end.chain);
                    self.outcome = Some(RecoveryOutcome::Alarm(why));
                    return true;
                }
                self.unchecked.remove(0);
                continue;
            }
            let Some((longer, _)) = fenced.iter().find(|(_, f)| f.tail > index && f.freed <= index) else {
                self.unchecked.remove(0);
                continue;
            };
            self.busy = Some(Busy::Chain(longer.clone(), index));
            let address = self.address(longer);
            self.requests.push_back(RecoveryRequest::Chain(longer.clone(), address, index));
            return true;
        }
        false
    }

    /// R6.
    fn publish(&mut self, at: SegmentEnd, holders: &[&NodeId]) {
        let level = self.record.value.level;
        let revision = |node: &NodeId| self.nodes.get(node).map(|view| view.incarnation(level).1);
        let with = |node: &NodeId| revision(node).map(|revision: Revision| (node.clone(), revision));
        let moved = self.members_that(|state| match state {
            MemberState::Asked | MemberState::Silent(_) => on(Mutation::SilentIsGone),
            MemberState::Fenced(_) => false,
            MemberState::Moved => true,
        });
        let leave = self.allow_loss.clone().filter(|_| self.short);
        let allowed_loss = leave.map(|(config, trim)| AllowedLoss { config, trim, from: at.end });
        // What is left is not more because the segment ends further on.
        let end = allowed_loss.as_ref().map_or(at.end, |loss| loss.end(self.record.value.base));
        self.outcome = Some(RecoveryOutcome::Seal(Box::new(SealOne {
            segment: self.number,
            read: self.record.clone(),
            at: SegmentEnd { end, ..at },
            holders: holders.iter().filter_map(|node| with(node)).collect(),
            moved: moved.iter().filter_map(with).collect(),
            archived: self.archived.end,
            recovery: true,
            allowed_loss,
        })));
    }

    fn fenced(&self) -> Vec<(NodeId, FenceOk)> {
        let fenced = self.members.iter().filter_map(|(node, state)| match state {
            MemberState::Fenced(fenced) => Some((node.clone(), *fenced)),
            _ => None,
        });
        fenced.collect()
    }

    fn members_that(&self, is: impl Fn(&MemberState) -> bool) -> Vec<NodeId> {
        self.members.iter().filter(|(_, state)| is(state)).map(|(node, _)| node.clone()).collect()
    }

    fn address(&self, node: &NodeId) -> Address {
        let incarnation = self.record.value.member(node).expect("only members are addressed");
        Address { log: self.log, segment: self.number, epoch: self.epoch, incarnation }
    }
}

/// A member's tail and the chain there, when the end shows what that chain must be.
fn comparable(fenced: &FenceOk, archived: &SegmentEnd, end: &SegmentEnd) -> Option<(Index, Chain)> {
    (archived.end..=end.end).contains(&fenced.tail).then_some((fenced.tail, fenced.chain))
}
