//! A process that takes the log over: T1, the shipped recovery, T2, and then it writes.

use crate::nodes::batch_end;
use crate::shared::Shared;
use crate::state::{Invariant, LOG, Proc, State, node, number};
use piculet_quorum::batch::BatchHeader;
use piculet_quorum::ids::{Chain, Index, Nonce, Revision};
use piculet_quorum::meta::seal::{CreateOne, SealOne, SealSegment};
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::{LogRecord, Member, SegmentState, TxnOutcome, Versioned};
use piculet_quorum::recovery::{Recovery, RecoveryOptions, RecoveryOutcome, RecoveryRequest};
use piculet_quorum::replica::Session;
use piculet_quorum::time::{Span, Time};
use piculet_quorum::wire::message::{Address, FenceOk, Open, Refusal};

/// A takeover, and its driver.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Taking {
    /// The log's record with this process's epoch.
    mine: Versioned<LogRecord>,
    pub(crate) recovery: Option<Recovery>,
    now: Time,
    pub(crate) ticks: u8,
    /// A copy under way, with the stream to the target once it is open.
    pub(crate) copy: Option<(RecoveryRequest, Option<Session>)>,
    /// What is proposed, and repeated as it is until its outcome is known.
    pub(crate) proposal: Option<Box<SealSegment>>,
    /// Who is to be fenced: each request is answered once.
    pub(crate) asked: Vec<usize>,
    /// What nodes have answered, where answers may come late.
    pub(crate) answers: Vec<(usize, Result<FenceOk, Refusal>)>,
}

impl State {
    /// T1, by whoever is next.
    pub(crate) fn take_over(&mut self) {
        let by = self.procs.len();
        let read = self.store.log();
        let writer = Nonce(by as u128 + 1);
        let take = TakeOver { log: LOG, read, writer, holder: Some(String::new()) };
        self.store.change(|store| store.must(&take.txn()));
        self.procs.push(Shared::new(Proc::Over));
        self.look(by);
    }

    /// The log is read: what is to be done about its segments?
    fn look(&mut self, by: usize) {
        let mine = self.store.log();
        if mine.value.writer != Nonce(by as u128 + 1) {
            return self.procs[by].change(|proc| *proc = Proc::Over);
        }
        let newest = self.store.segments().checked_sub(1);
        let open = newest.and_then(|segment| Some((segment, self.store.versioned(segment)?)));
        let open = open.filter(|(_, record)| record.value.state == SegmentState::Open);
        let mut taking = Taking {
            mine: mine.clone(),
            recovery: None,
            now: Time(1),
            ticks: 0,
            copy: None,
            proposal: None,
            asked: Vec::new(),
            answers: Vec::new(),
        };
        match open {
            Some((segment, record)) if record.value.epoch == mine.value.epoch => {
                return self.start_writing(by, mine, segment, record);
            }
            Some((segment, record)) => {
                let options = RecoveryOptions { grace: Span(10), silence: Span(1_000) };
                let archived = self.store.row(segment).end(&record.value);
                let segment = (piculet_quorum::ids::SegmentNumber(segment as u64), record);
                let epoch = mine.value.epoch;
                let nodes = self.nodes_view();
                let mut recovery = Recovery::new(taking.now, options, LOG, epoch, segment, archived, nodes);
                let view = self.store.view(mine.value.next_segment);
                if let Some(config) = view.allows_loss() {
                    recovery.allow_loss(taking.now, config, view.trim);
                }
                taking.recovery = Some(recovery);
            }
            None => taking.proposal = self.proposal(&mine, None),
        }
        let over = taking.recovery.is_none() && taking.proposal.is_none();
        let next = if over { Proc::Over } else { Proc::Taking(Box::new(taking)) };
        self.procs[by].change(|proc| *proc = next);
        self.drive(by);
    }

    /// The next segment on whoever is there; none, if there are too few or no room for it.
    fn proposal(&self, mine: &Versioned<LogRecord>, seal: Option<SealOne>) -> Option<Box<SealSegment>> {
        let level = self.store.view(mine.value.next_segment).durability();
        let nodes = self.nodes_view();
        let usable = nodes.into_iter().filter(|(_, view)| view.usable(level));
        let ensemble: Vec<(Member, Revision)> = usable
            .map(|(node, view)| {
                let (incarnation, revision) = view.incarnation(level);
                (Member { node, incarnation }, revision)
            })
            .collect();
        let room = mine.value.next_segment.0 < crate::state::SEGMENTS as u64;
        let create = (ensemble.len() >= 2 && room).then_some(CreateOne { level, ensemble, holder: None });
        (seal.is_some() || create.is_some())
            .then(|| Box::new(SealSegment { log: LOG, read: mine.clone(), seal, create }))
    }

    fn with_recovery(&mut self, by: usize, act: impl FnOnce(&mut Recovery, Time)) -> bool {
        let done = self.procs[by].change(|proc| {
            let Proc::Taking(taking) = proc else { return false };
            let Some(recovery) = &mut taking.recovery else { return false };
            act(recovery, taking.now);
            true
        });
        done && {
            self.drive(by);
            true
        }
    }

    /// Carries out what can be done at once, and notes the rest.
    fn drive(&mut self, by: usize) {
        loop {
            let request = self.procs[by].change(|proc| match proc {
                Proc::Taking(taking) => taking.recovery.as_mut().and_then(Recovery::poll_request),
                Proc::Writing(_) | Proc::Over => None,
            });
            match request {
                Some(RecoveryRequest::Fence(node, _)) => self.procs[by].change(|proc| {
                    if let Proc::Taking(taking) = proc {
                        taking.asked.push(number(&node));
                        taking.asked.sort_unstable();
                    }
                }),
                Some(RecoveryRequest::Chain(node, address, index)) => {
                    let (at, there) = (number(&node), self.serves(&address, &node, index));
                    let chain = self.chain_at(at, &address, index);
                    self.procs[by].change(|proc| {
                        let Proc::Taking(taking) = proc else { return };
                        let now = taking.now;
                        let Some(recovery) = &mut taking.recovery else { return };
                        if there {
                            recovery.handle_chain(now, index, chain);
                        } else {
                            recovery.handle_silent(now, &node);
                        }
                    });
                }
                Some(copy @ RecoveryRequest::Copy { .. }) => self.procs[by].change(|proc| {
                    if let Proc::Taking(taking) = proc {
                        taking.copy = Some((copy, None));
                    }
                }),
                None => break,
            }
        }
        self.conclude(by);
    }

    fn serves(&self, address: &Address, node: &piculet_quorum::ids::NodeId, index: Index) -> bool {
        let (at, segment) = (number(node), usize::try_from(address.segment.0).expect("a few"));
        let there = self.nodes[at].alive && self.nodes[at].replica.incarnation() == address.incarnation;
        there && index.0 <= self.nodes[at].buffers[segment].len() as u64
    }

    fn chain_at(&self, at: usize, address: &Address, index: Index) -> Option<Chain> {
        let segment = usize::try_from(address.segment.0).expect("a few");
        let base = self.store.segment(segment)?.base_chain;
        let before = index.0.checked_sub(1);
        Some(before.map_or(base, |i| {
            let chain = self.nodes[at].buffers[segment].get(usize::try_from(i).expect("a few"));
            chain.map_or(base, |chain| Chain(*chain))
        }))
    }

    fn conclude(&mut self, by: usize) {
        let Proc::Taking(taking) = &*self.procs[by] else { return };
        let Some(outcome) = taking.recovery.as_ref().and_then(Recovery::outcome).cloned() else {
            return;
        };
        let mine = taking.mine.clone();
        match outcome {
            RecoveryOutcome::Seal(seal) => {
                let proposal = self.proposal(&mine, Some(*seal));
                self.procs[by].change(|proc| {
                    let Proc::Taking(taking) = proc else { return };
                    (taking.recovery, taking.copy, taking.proposal) = (None, None, proposal);
                    (taking.now, taking.ticks) = (Time(1), 0);
                    taking.answers.clear();
                    taking.asked.clear();
                });
            }
            RecoveryOutcome::Alarm(_) => {
                self.broken(Invariant::I6, "two members hold different content at one index");
                self.procs[by].change(|proc| *proc = Proc::Over);
            }
            RecoveryOutcome::Fenced(_) | RecoveryOutcome::Lost { .. } => {
                self.procs[by].change(|proc| *proc = Proc::Over);
            }
        }
    }

    /// A fence reaches a node; its answer arrives at once, or may come late.
    pub(crate) fn fence(&mut self, by: usize, at: usize, late: bool) -> bool {
        let Proc::Taking(taking) = &*self.procs[by] else { return false };
        if taking.recovery.is_none() || !taking.asked.contains(&at) || !self.nodes[at].alive {
            return false;
        }
        let Some(segment) = self.store.segments().checked_sub(1) else { return false };
        let epoch = taking.mine.value.epoch;
        let Some(incarnation) = self.store.segment(segment).and_then(|s| s.member(&node(at))) else {
            return false;
        };
        let number = piculet_quorum::ids::SegmentNumber(segment as u64);
        let address = Address { log: LOG, segment: number, epoch, incarnation };
        let answer = self.ask(at, segment, |replica| replica.fence(&address));
        if answer.is_ok() && !self.fence_rests(at) {
            return true;
        }
        if answer.is_ok() && self.nodes[at].replica.incarnation() != incarnation {
            self.broken(Invariant::I9, "a fence is answered by another life");
        }
        self.procs[by].change(|proc| {
            if let Proc::Taking(taking) = proc {
                taking.asked.retain(|of| *of != at);
            }
        });
        if !late {
            return self.with_recovery(by, |recovery, now| recovery.handle_fenced(now, &node(at), answer));
        }
        self.procs[by].change(|proc| {
            if let Proc::Taking(taking) = proc {
                taking.answers.retain(|(of, _)| *of != at);
                taking.answers.push((at, answer));
                taking.answers.sort_by_key(|(of, _)| *of);
            }
        });
        true
    }

    /// A late answer to a fence arrives.
    pub(crate) fn answer(&mut self, by: usize, at: usize) -> bool {
        let Proc::Taking(taking) = &*self.procs[by] else { return false };
        let answer = taking.answers.iter().find(|(of, _)| *of == at).map(|(_, answer)| answer.clone());
        let Some(answer) = answer else { return false };
        self.procs[by].change(|proc| {
            if let Proc::Taking(taking) = proc {
                taking.answers.retain(|(of, _)| *of != at);
            }
        });
        self.with_recovery(by, |recovery, now| recovery.handle_fenced(now, &node(at), answer))
    }

    /// Time passes, up to what the recovery waits for.
    pub(crate) fn tick(&mut self, by: usize) -> bool {
        let due = self.procs[by].change(|proc| {
            let Proc::Taking(taking) = proc else { return false };
            let Some(due) = taking.recovery.as_ref().and_then(Recovery::poll_timeout) else { return false };
            taking.now = taking.now.max(due);
            taking.ticks += 1;
            true
        });
        due && self.with_recovery(by, Recovery::handle_timeout)
    }

    /// The nodes are read anew.
    pub(crate) fn refresh(&mut self, by: usize) -> bool {
        let nodes = self.nodes_view();
        self.with_recovery(by, |recovery, now| recovery.handle_nodes(now, nodes))
    }

    /// The recovery starts over, from the fences on.
    pub(crate) fn restart_recovery(&mut self, by: usize) -> bool {
        let Proc::Taking(taking) = &*self.procs[by] else { return false };
        if taking.recovery.is_none() {
            return false;
        }
        self.spent.restarted += 1;
        self.ghost.change(|ghost| ghost.restarted_recovery = true);
        self.look(by);
        true
    }

    /// One more entry is copied from one member to another.
    pub(crate) fn copy(&mut self, by: usize) -> bool {
        let Proc::Taking(taking) = &*self.procs[by] else { return false };
        let Some((RecoveryRequest::Copy { source, target, from: _, to }, session)) = taking.copy.clone()
        else {
            return false;
        };
        let (from, into) = (number(&source.0), number(&target.0));
        let segment = usize::try_from(target.1.segment.0).expect("a few");
        if !self.nodes[into].alive || !self.nodes[from].alive {
            return false;
        }
        let session = match session {
            Some(session) => session,
            None => {
                let open = Open { at: target.1, repair: true };
                match self.ask(into, segment, |replica| replica.open(&open)) {
                    Ok((session, _)) => session,
                    Err(_) => return self.end_copy(by, |r, now| r.handle_silent(now, &target.0)),
                }
            }
        };
        let tail = self.nodes[into].replica.marks(target.1.segment).map_or(0, |marks| marks.tail.0);
        if tail < to.0 {
            if !self.serves(&source.1, &source.0, Index(tail + 1)) {
                return self.end_copy(by, |r, now| r.handle_silent(now, &source.0));
            }
            let chain = |index| self.chain_at(from, &source.1, Index(index));
            let (Some(before), Some(after)) = (chain(tail), chain(tail + 1)) else { return false };
            let header = BatchHeader { body_len: 1, count: 1, first: Index(tail), chain: before };
            if !self.store_batch(session, segment, into, &header, batch_end(after.0)) {
                return self.end_copy(by, |r, now| r.handle_silent(now, &target.0));
            }
            self.ghost.change(|ghost| ghost.repaired = true);
        }
        let held = self.nodes[into].replica.marks(target.1.segment).map_or(Index(0), |marks| marks.held);
        if held >= to && self.fence_rests(into) {
            return self.end_copy(by, |r, now| r.handle_copied(now, &target.0, held));
        }
        self.procs[by].change(|proc| {
            if let Proc::Taking(taking) = proc
                && let Some((_, open)) = &mut taking.copy
            {
                *open = Some(session);
            }
        });
        true
    }

    /// Whoever takes part in a copy does not answer.
    pub(crate) fn copy_fails(&mut self, by: usize, at: usize) -> bool {
        let Proc::Taking(taking) = &*self.procs[by] else { return false };
        let Some((RecoveryRequest::Copy { source, target, .. }, _)) = &taking.copy else { return false };
        if source.0 != node(at) && target.0 != node(at) {
            return false;
        }
        self.end_copy(by, |recovery, now| recovery.handle_silent(now, &node(at)))
    }

    /// The copy that is under way ends, well or not.
    fn end_copy(&mut self, by: usize, tell: impl FnOnce(&mut Recovery, Time)) -> bool {
        self.procs[by].change(|proc| {
            if let Proc::Taking(taking) = proc {
                taking.copy = None;
            }
        });
        self.with_recovery(by, tell)
    }

    /// T2 is carried out; its outcome is heard, or not.
    pub(crate) fn publish(&mut self, by: usize, heard: bool) -> bool {
        let Proc::Taking(taking) = &*self.procs[by] else { return false };
        let Some(proposal) = taking.proposal.clone() else { return false };
        let outcome = self.seal(&proposal);
        if !heard {
            self.spent.late += 1;
            return matches!(outcome, TxnOutcome::Applied(_));
        }
        match outcome {
            TxnOutcome::Applied(revision) => {
                let (log, created) = proposal.records();
                let log = Versioned { revision, value: log };
                match created {
                    Some((number, value)) => {
                        let segment = usize::try_from(number.0).expect("a few");
                        self.start_writing(by, log, segment, Versioned { revision, value });
                    }
                    None => self.procs[by].change(|proc| *proc = Proc::Over),
                }
            }
            TxnOutcome::Refused => self.look(by),
        }
        true
    }
}
