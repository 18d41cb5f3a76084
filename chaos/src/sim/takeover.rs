//! A client that takes the log over: T1, the real recovery, T2, and then it writes.

use super::appender::Appender;
use super::client::Stage;
use super::events::{Answer, Batch, Caller, ClientIx, Meta, MetaAnswer, NodeIx, Rpc};
use super::loss::Losses;
use super::store::LOG;
use super::world::{MS, World};
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::{Index, Nonce, Revision, SegmentNumber};
use piculet_quorum::meta::seal::{CreateOne, SealOne, SealSegment};
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::{LogRecord, LogView, Member, SegmentRecord, SegmentState, TxnOutcome, Versioned};
use piculet_quorum::recovery::{Recovery, RecoveryOptions, RecoveryOutcome, RecoveryRequest};
use piculet_quorum::replica::Session;
use piculet_quorum::time::{Span, Time};
use piculet_quorum::wire::message::{Address, Nodes, Proposal};
use piculet_quorum::writer::Writer;
use std::collections::BTreeMap;

/// How long a recovery waits for members before whoever wants the log begins again.
const TAKEOVER_TIMEOUT: u64 = 5_000 * MS;

/// What a call to a node was for.
#[derive(Clone, Debug)]
enum Purpose {
    Fence(NodeIx),
    Chain(NodeIx, Index),
    Copy,
}

/// A copy under way: the target is opened, then given what is fetched from the source.
#[derive(Debug)]
struct Copy {
    source: (NodeIx, Address),
    target: (NodeIx, Address),
    to: Index,
    session: Option<Session>,
    left: Vec<Batch>,
    /// Whom the call that is out went to.
    asked: NodeIx,
}

/// A takeover.
#[derive(Debug)]
pub(crate) struct TakingOver {
    /// What the last attempt at the epoch is known by: a fresh value each time.
    writer: Option<Nonce>,
    /// Whether to leave the log without an open segment.
    park: bool,
    /// The record that a node has judged: the epoch is made from no other.
    judged: Option<Versioned<LogRecord>>,
    /// The log's record once the epoch is this client's.
    mine: Option<Versioned<LogRecord>>,
    /// The transaction that is out: repeated as it is while its outcome is unknown.
    proposal: Option<Proposal>,
    nodes: Nodes,
    recovery: Option<Recovery>,
    /// When the recovery is given up, and the log looked at anew.
    until: u64,
    calls: BTreeMap<u64, Purpose>,
    copy: Option<Copy>,
}

impl TakingOver {
    pub(crate) fn new(park: bool) -> Self {
        Self {
            writer: None,
            park,
            judged: None,
            mine: None,
            proposal: None,
            nodes: Nodes::new(),
            recovery: None,
            until: 0,
            calls: BTreeMap::new(),
            copy: None,
        }
    }

    /// By a node, of a log whose writer has gone.
    pub(crate) fn of_abandoned(judged: Versioned<LogRecord>) -> Self {
        Self { judged: Some(judged), ..Self::new(true) }
    }
}

impl World {
    fn taking_over(&mut self, me: ClientIx) -> &mut TakingOver {
        match &mut self.clients[me].stage {
            Stage::TakingOver(takeover) => takeover,
            _ => panic!("client {me} does not take over"),
        }
    }

    pub(crate) fn takeover_meta(&mut self, me: ClientIx, answer: MetaAnswer) {
        match answer {
            MetaAnswer::Failed => {
                let proposal = self.taking_over(me).proposal.clone();
                match proposal {
                    Some(proposal) => self.ask_meta(me, Meta::Propose(Box::new(proposal))),
                    None => self.look(me, SegmentNumber(0)),
                }
            }
            MetaAnswer::Outcome(TxnOutcome::Refused) => {
                self.taking_over(me).proposal = None;
                self.look(me, SegmentNumber(0));
            }
            MetaAnswer::Outcome(TxnOutcome::Applied(revision)) => self.takeover_applied(me, revision),
            MetaAnswer::Look(look) => self.takeover_looks(me, look.0, look.1),
        }
    }

    fn takeover_applied(&mut self, me: ClientIx, revision: Revision) {
        match self.taking_over(me).proposal.take().expect("a transaction was out") {
            Proposal::TakeOver(_) => self.look(me, SegmentNumber(0)),
            Proposal::Seal(proposal) => {
                let (log, created) = proposal.records();
                let log = Versioned { revision, value: log };
                match created {
                    Some((number, value)) => self.taken_over(me, log, number, Versioned { revision, value }),
                    None => {
                        self.run.guarded += u64::from(self.taking_over(me).judged.is_some());
                        self.end_client(me);
                    }
                }
            }
            other => panic!("nobody proposed {other:?}"),
        }
    }

    fn taken_over(
        &mut self,
        me: ClientIx,
        log: Versioned<LogRecord>,
        number: SegmentNumber,
        segment: Versioned<SegmentRecord>,
    ) {
        let (now, options) = (self.time(), self.options);
        let SegmentRecord { base_chain: chain, base_timestamp: last_timestamp, .. } = segment.value;
        let writer = Writer::new(now, options, LOG, log, number, segment);
        self.start_appending(me, Appender::new(writer, BatchEnd { chain, last_timestamp }));
    }

    /// What the log looks like: is the epoch mine yet, and what is to be done about its segments?
    fn takeover_looks(&mut self, me: ClientIx, view: LogView, nodes: Nodes) {
        let (now, until) = (self.time(), self.now + TAKEOVER_TIMEOUT);
        let attempt = Nonce(u128::from(self.next_id + 1));
        let takeover = self.taking_over(me);
        if let Some(recovery) = &mut takeover.recovery {
            recovery.handle_nodes(now, nodes);
            return self.drive_recovery(me);
        }
        let mine = Some(view.record.value.writer) == takeover.writer;
        if !mine && takeover.mine.is_some() {
            self.run.fenced += 1;
            return self.end_client(me);
        }
        if !mine && takeover.judged.as_ref().is_some_and(|judged| *judged != view.record) {
            return self.end_client(me);
        }
        if !mine {
            let take = Proposal::TakeOver(TakeOver {
                log: LOG,
                read: view.record,
                writer: attempt,
                holder: Some("taker".to_owned()),
            });
            (takeover.writer, takeover.proposal) = (Some(attempt), Some(take.clone()));
            self.next_id += 1;
            return self.ask_meta(me, Meta::Propose(Box::new(take)));
        }
        takeover.mine = Some(view.record.clone());
        takeover.nodes = nodes;
        let epoch = view.record.value.epoch;
        match view.open_segment() {
            Some((number, open)) if open.record.value.epoch == epoch => {
                let segment = open.record.clone();
                self.taken_over(me, view.record, number, segment);
            }
            Some((number, open)) => {
                let options = RecoveryOptions { grace: Span::millis(20), silence: Span::millis(300) };
                let nodes = takeover.nodes.clone();
                let segment = (number, open.record.clone());
                let mut recovery = Recovery::new(now, options, LOG, epoch, segment, open.archived, nodes);
                if let Some(config) = view.allows_loss() {
                    recovery.allow_loss(now, config, view.trim.clone());
                }
                takeover.recovery = Some(recovery);
                takeover.until = until;
                self.drive_recovery(me);
            }
            None if self.taking_over(me).park => self.end_client(me),
            None => self.propose_segment(me, None),
        }
    }

    fn choose_ensemble(&mut self, me: ClientIx) -> Vec<(Member, Revision)> {
        let nodes = self.taking_over(me).nodes.clone();
        let level = self.level;
        let mut fit: Vec<(Member, Revision)> = Vec::new();
        for (node, view) in nodes {
            let at = self.node_ix(&node);
            if view.usable(level) && self.nodes[at].reachable() && !self.nodes[at].paused {
                let (incarnation, revision) = view.incarnation(level);
                fit.push((Member { node, incarnation }, revision));
            }
        }
        while fit.len() > 3 {
            let out = self.rng.between(0, fit.len() as u64) as usize;
            fit.remove(out);
        }
        fit
    }

    fn propose_segment(&mut self, me: ClientIx, seal: Option<SealOne>) {
        let (ensemble, level) = (self.choose_ensemble(me), self.level);
        let takeover = self.taking_over(me);
        let park = takeover.park && seal.is_some();
        if ensemble.len() < 2 && !park {
            // Nobody can hold the next segment now: start over in a while.
            takeover.recovery = None;
            let at = self.now + 50 * MS;
            return self.wake_at(me, Some(at));
        }
        let read = takeover.mine.clone().expect("the epoch is this client's");
        let create = (!park).then_some(CreateOne { level, ensemble, holder: Some("taker".to_owned()) });
        let proposal = Proposal::Seal(Box::new(SealSegment { log: LOG, read, seal, create }));
        takeover.recovery = None;
        takeover.proposal = Some(proposal.clone());
        self.wake_at(me, None);
        self.ask_meta(me, Meta::Propose(Box::new(proposal)));
    }

    pub(crate) fn takeover_wakes(&mut self, me: ClientIx) {
        let (now, at) = (self.time(), self.now);
        let takeover = self.taking_over(me);
        let Some(recovery) = takeover.recovery.as_mut().filter(|_| at < takeover.until) else {
            takeover.recovery = None;
            takeover.calls.clear();
            takeover.copy = None;
            return self.look(me, SegmentNumber(0));
        };
        recovery.handle_timeout(now);
        if self.clients[me].asked.is_none() && self.rng.chance(300) {
            self.look(me, SegmentNumber(0));
        }
        self.drive_recovery(me);
    }

    fn drive_recovery(&mut self, me: ClientIx) {
        loop {
            let Some(recovery) = &mut self.taking_over(me).recovery else { return };
            let Some(request) = recovery.poll_request() else { break };
            self.carry_out(me, request);
        }
        let recovery = self.taking_over(me).recovery.as_ref().expect("it goes on");
        let Some(outcome) = recovery.outcome().cloned() else {
            let at = recovery.poll_timeout().map(|Time(at)| at);
            return self.wake_at(me, at);
        };
        let takeover = self.taking_over(me);
        takeover.calls.clear();
        takeover.copy = None;
        self.clients[me].asked = None;
        match outcome {
            RecoveryOutcome::Seal(seal) => self.propose_segment(me, Some(*seal)),
            RecoveryOutcome::Fenced(_) => {
                self.run.fenced += 1;
                self.end_client(me);
            }
            RecoveryOutcome::Lost { moved } => {
                let newest = self.store.now.log().value.next_segment.0 - 1;
                let open = self.store.now.segment(SegmentNumber(newest));
                let open = open.is_some_and(|segment| segment.value.state == SegmentState::Open);
                let mine = Some(self.store.now.log().value.writer) == self.taking_over(me).writer;
                self.taking_over(me).recovery = None;
                if self.losses == Losses::Any {
                    self.ask_for_leave();
                    let at = self.now + 50 * MS;
                    return self.wake_at(me, Some(at));
                }
                assert!(!(open && mine), "I11: lost, although {moved:?} are within the budget");
                self.look(me, SegmentNumber(0));
            }
            RecoveryOutcome::Alarm(why) => panic!("I6: {why}"),
        }
    }

    fn carry_out(&mut self, me: ClientIx, request: RecoveryRequest) {
        match request {
            RecoveryRequest::Fence(node, address) => {
                let at = self.node_ix(&node);
                self.client_calls(me, at, Rpc::Fence(address), Purpose::Fence(at));
            }
            RecoveryRequest::Chain(node, address, index) => {
                let at = self.node_ix(&node);
                self.client_calls(me, at, Rpc::Chain(address, index), Purpose::Chain(at, index));
            }
            RecoveryRequest::Copy { source, target, to, .. } => {
                self.run.copies += 1;
                let (from, into) = (self.node_ix(&source.0), self.node_ix(&target.0));
                let address = target.1;
                self.taking_over(me).copy = Some(Copy {
                    source: (from, source.1),
                    target: (into, address),
                    to,
                    session: None,
                    left: Vec::new(),
                    asked: into,
                });
                self.client_calls(me, into, Rpc::RepairOpen(address), Purpose::Copy);
            }
        }
    }

    fn client_calls(&mut self, me: ClientIx, at: NodeIx, rpc: Rpc, purpose: Purpose) {
        let id = self.call(Caller::Client(me), at, rpc, 100 * MS);
        self.taking_over(me).calls.insert(id, purpose);
    }

    pub(crate) fn takeover_answered(&mut self, me: ClientIx, id: u64, answer: Answer) {
        let now = self.time();
        let Some(purpose) = self.taking_over(me).calls.remove(&id) else { return };
        match purpose {
            Purpose::Fence(at) => {
                let node = self.nodes[at].id.clone();
                let Some(recovery) = &mut self.taking_over(me).recovery else { return };
                match answer {
                    Answer::Fenced(answer) => recovery.handle_fenced(now, &node, answer),
                    _ => recovery.handle_silent(now, &node),
                }
            }
            Purpose::Chain(at, index) => {
                let node = self.nodes[at].id.clone();
                let Some(recovery) = &mut self.taking_over(me).recovery else { return };
                match answer {
                    Answer::Chain(chain) => recovery.handle_chain(now, index, chain),
                    _ => recovery.handle_silent(now, &node),
                }
            }
            Purpose::Copy => self.copy_goes_on(me, answer),
        }
        self.drive_recovery(me);
    }

    fn copy_goes_on(&mut self, me: ClientIx, answer: Answer) {
        let now = self.time();
        let Some(mut copy) = self.taking_over(me).copy.take() else { return };
        let held = match answer {
            Answer::Opened(session, tail) if tail < copy.to => {
                copy.session = Some(session);
                copy.asked = copy.source.0;
                let (rpc, at) = (Rpc::Fetch(copy.source.1, tail, copy.to), copy.source.0);
                self.taking_over(me).copy = Some(copy);
                return self.client_calls(me, at, rpc, Purpose::Copy);
            }
            Answer::Opened(_, tail) => Some(tail),
            Answer::Batches(batches) => {
                copy.left = batches;
                None
            }
            Answer::Repaired(held) if copy.left.is_empty() => Some(held),
            Answer::Repaired(_) => None,
            _ => {
                let node = self.nodes[copy.asked].id.clone();
                let recovery = self.taking_over(me).recovery.as_mut();
                return recovery.into_iter().for_each(|recovery| recovery.handle_silent(now, &node));
            }
        };
        let target = copy.target.0;
        if let Some(held) = held {
            let node = self.nodes[target].id.clone();
            let recovery = self.taking_over(me).recovery.as_mut();
            return recovery.into_iter().for_each(|recovery| recovery.handle_copied(now, &node, held));
        }
        let rest = copy.left.split_off(copy.left.len().min(5));
        let batches = std::mem::replace(&mut copy.left, rest);
        let session = copy.session.expect("opened before it is filled");
        let rpc = Rpc::Repair(copy.target.1, session, batches);
        copy.asked = target;
        self.taking_over(me).copy = Some(copy);
        self.client_calls(me, target, rpc, Purpose::Copy);
    }
}
