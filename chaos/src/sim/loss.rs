//! Losses beyond what the protocol makes up for: T6, driven as the nodes drive it, and what may then
//! be missing from the log. Each seed draws how much is lost in it.

use super::checks::Truth;
use super::events::{Answer, Caller, Event, Rpc};
use super::rng::Rng;
use super::schedule::Hazard;
use super::store::LOG;
use super::world::{MS, World};
use piculet_quorum::ids::{Index, Level, NodeId, Nonce, Offset, Revision, SegmentNumber};
use piculet_quorum::meta::configure::ConfigureLog;
use piculet_quorum::meta::loss::RecordLoss;
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::{ConfigRecord, Key, Member, SegmentRecord, SegmentState, SegmentView};
use piculet_quorum::meta::{Loss, TxnOutcome};
use piculet_quorum::quorums::fence_quorum;
use piculet_quorum::wire::message::{Address, Nodes};
use std::collections::BTreeMap;
use std::ops::Range;

/// How much is lost in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Losses {
    /// One member of a segment at most, and never the only holder of its end.
    Budget,
    /// One member of a segment at most: nothing that was acknowledged is ever lost.
    Holders,
    /// Any member at any moment: what was acknowledged is lost only with the log's leave.
    Any,
}

impl Losses {
    /// What a seed draws; and whether the log's settings allow losses from the start. Where they do
    /// not, an operator has to give leave.
    pub(crate) fn of(seed: u64) -> (Self, bool) {
        let mut rng = Rng::stream(seed, 2);
        let losses = match rng.between(0, 10) {
            0..5 => Self::Budget,
            5..7 => Self::Holders,
            _ => Self::Any,
        };
        (losses, losses == Self::Any && rng.chance(600))
    }
}

/// The search for what is left of one segment: each member that has not forgotten it is fenced.
#[derive(Debug)]
pub(crate) struct Search {
    proposal: RecordLoss,
    /// Who was asked, with the revision of its life, and with what.
    waiting: BTreeMap<u64, (Member, Revision, Address)>,
    until: u64,
}

/// Whether a segment waits for holders that are gone for good.
fn is_lost(segment: &SegmentView, nodes: &Nodes) -> bool {
    let record = &segment.record.value;
    let SegmentState::Sealed(seal) = &record.state else { return false };
    let gone = |holder: &NodeId| {
        record.ensemble.iter().any(|member| member.node == *holder && moved(nodes, record, member))
    };
    record.kept().is_some_and(|kept| segment.archived.end < kept) && seal.holders.iter().all(gone)
}

fn moved(nodes: &Nodes, record: &SegmentRecord, member: &Member) -> bool {
    nodes.get(&member.node).is_some_and(|view| view.incarnation(record.level).0 > member.incarnation)
}

impl World {
    /// Nodes look for segments whose every holder has forgotten them, and for those of which nobody is
    /// left who would upload what stands for the loss.
    pub(crate) fn loss_tick(&mut self) {
        let period = self.rng.between(20 * MS, 120 * MS);
        self.schedule(period, Event::LossTick);
        if self.store.away || self.loss_search.as_ref().is_some_and(|search| self.now < search.until) {
            return;
        }
        self.loss_search = None;
        let (view, nodes) =
            (self.store.now.view(SegmentNumber(self.store.first_unarchived)), self.listed_nodes());
        for (number, segment) in &view.segments {
            let record = &segment.record.value;
            let orphan = record.ensemble.iter().all(|member| moved(&nodes, record, member));
            if record.loss.is_some() && orphan {
                let at = self.rng.between(0, self.nodes.len() as u64) as usize;
                self.start_skip(at, *number);
            }
            if !is_lost(segment, &nodes) {
                continue;
            }
            if view.record.value.epoch > record.epoch {
                return self.search_loss(&view, *number, segment, &nodes);
            }
            // Its writer may still repair it: a takeover comes first, once that has gone. Where a segment
            // is open that is looked after as an abandoned one.
            let closed = view.open_segment().is_none();
            let alive = self.clients.iter().any(|client| client.writes_in(record.epoch));
            if closed && (!alive || self.rng.chance(50)) {
                let (read, writer) = (view.record.clone(), Nonce(u128::from(self.fresh_id())));
                let take = TakeOver { log: LOG, read, writer, holder: None };
                self.apply(&take.txn());
                return;
            }
        }
    }

    fn search_loss(
        &mut self,
        view: &piculet_quorum::meta::LogView,
        number: SegmentNumber,
        segment: &SegmentView,
        nodes: &Nodes,
    ) {
        let record = &segment.record.value;
        let revision = |node: &NodeId| nodes.get(node).map(|view| view.incarnation(record.level).1);
        let (gone, left): (Vec<&Member>, Vec<&Member>) =
            record.ensemble.iter().partition(|member| moved(nodes, record, member));
        let gone = gone.iter().filter_map(|member| Some((member.node.clone(), revision(&member.node)?)));
        let mut proposal = RecordLoss {
            log: LOG,
            read: view.record.clone(),
            segment: number,
            record: segment.record.clone(),
            archived: segment.archived.end,
            moved: gone.collect(),
            answers: Vec::new(),
            allowed: None,
        };
        if proposal.needs_leave() {
            proposal.allowed = view.allows_loss();
            if proposal.allowed.is_none() {
                return self.ask_for_leave();
            }
        }
        let mut waiting = BTreeMap::new();
        for member in left {
            let at = proposal.fence(member);
            let id = self.call(Caller::Loss, self.node_ix(&member.node), Rpc::Fence(at), 0);
            waiting.insert(id, (member.clone(), revision(&member.node).unwrap_or_default(), at));
        }
        self.loss_search = Some(Search { proposal, waiting, until: self.now + 150 * MS });
        self.loss_found();
    }

    pub(crate) fn loss_answered(&mut self, id: u64, answer: Answer) {
        let Some(search) = &mut self.loss_search else { return };
        let Some((member, revision, at)) = search.waiting.remove(&id) else { return };
        let Answer::Fenced(Ok(fenced)) = answer else {
            self.loss_search = None;
            return;
        };
        let counted = search.proposal.handle_fenced(&member, revision, &at, &fenced);
        counted.unwrap_or_else(|unsound| panic!("{unsound}"));
        self.loss_found();
    }

    /// Everybody who is left has answered: the loss is recorded, perhaps late.
    fn loss_found(&mut self) {
        let Some(search) = self.loss_search.take_if(|search| search.waiting.is_empty()) else { return };
        if search.proposal.from().is_some() {
            let late = self.strikes(Hazard::LossLate);
            let delay = self.rng.between(200, if late { 1_500 * MS } else { 4 * MS });
            self.schedule(delay, Event::LossLands { proposal: Box::new(search.proposal) });
        }
    }

    pub(crate) fn loss_lands(&mut self, proposal: &RecordLoss) {
        if self.store.away {
            return;
        }
        let txn = proposal.txn();
        let now = self.store.now.snapshot(txn.compares.iter().map(|(key, _)| key.clone()));
        proposal.check(&now).unwrap_or_else(|unsound| panic!("{unsound}: {proposal:?}"));
        self.run.t6 += u64::from(self.apply(&txn) != TxnOutcome::Refused);
    }

    /// Nobody can go on without a loss that the log's settings do not allow: an operator does, after
    /// a while.
    pub(crate) fn ask_for_leave(&mut self) {
        if !self.leave_asked {
            self.leave_asked = true;
            let delay = self.rng.between(10 * MS, 800 * MS);
            self.schedule(delay, Event::LeaveGiven);
        }
    }

    pub(crate) fn leave_given(&mut self) {
        self.leave_asked = false;
        let key = Key::Config(LOG);
        let read = self.store.now.snapshot([key.clone()]).config(&key).expect("every log has settings");
        if !self.store.away && !read.value.allow_loss {
            let config = ConfigRecord { allow_loss: true, ..read.value.clone() };
            self.apply(&ConfigureLog { log: LOG, read, config }.txn());
        }
    }

    /// What a transaction says is lost of a segment, and what may then be missing.
    pub(crate) fn check_loss(
        &mut self,
        number: SegmentNumber,
        before: &SegmentRecord,
        after: &SegmentRecord,
    ) {
        let loss = after.loss.unwrap_or_else(|| panic!("T6: a loss of segment {number} was taken back"));
        let lower = before
            .loss
            .is_none_or(|known| loss.from < known.from && (loss.acknowledged || !known.acknowledged));
        assert!(lower, "T6: the loss of segment {number} was raised from {:?} to {loss:?}", before.loss);
        let lives = |member: &&Member| {
            let node = &self.nodes[self.node_ix(&member.node)];
            node.incarnation == member.incarnation && !node.forgot
        };
        let left: Vec<&Member> = after.ensemble.iter().filter(lives).collect();
        let members = after.ensemble.len();
        assert!(left.len() < members, "T6: nobody has forgotten segment {number}, a loss is recorded");
        for member in &left {
            let node = &self.nodes[self.node_ix(&member.node)];
            let held = match self.level {
                // It may have synced more since it was fenced, and said what it held then.
                Level::Disk => node.replica.marks(number).map(|marks| marks.writer_tail),
                _ => node.rest.held(number),
            };
            let held = held.unwrap_or_default();
            assert!(held <= loss.from, "T6: {} holds segment {number} to {held}, {loss:?}", member.node);
        }
        let archived = self.store.now.archived(number, before).end;
        assert!(archived <= loss.from, "T6: segment {number} is archived to {archived}, {loss:?}");
        let end = after.state.end().expect("a loss is of a sealed segment").end;
        let from = Offset::of(after.base, loss.from).0;
        // Of an end that is short, nothing says how far the segment went.
        let to = if before.state == SegmentState::Open { u64::MAX } else { Offset::of(after.base, end).0 };
        if !loss.acknowledged {
            let nodes = self.listed_nodes();
            let told = after.ensemble.iter().filter(|member| !moved(&nodes, after, member)).count();
            assert!(told >= fence_quorum(members), "T6: {told} members decide alone that nothing is lost");
            return self.truth.lose_nothing(number, loss, from..to);
        }
        let key = Key::Config(LOG);
        let config = self.store.now.snapshot([key.clone()]).config(&key).expect("every log has settings");
        assert!(config.value.allow_loss, "T6: segment {number} lost {loss:?} without leave");
        self.run.losses += 1;
        self.run.given_up += self.truth.give_up(number, loss, from..to);
    }
}

impl Truth {
    /// Nothing that is lost without leave was acknowledged or shown.
    fn lose_nothing(&mut self, number: SegmentNumber, loss: Loss, offsets: Range<u64>) {
        let first = |of: &BTreeMap<u64, u64>| of.range(offsets.clone()).next().map(|(offset, _)| *offset);
        let (acked, seen) = (first(&self.acked), first(&self.seen));
        assert_eq!(acked, None, "I1: acknowledged, and in segment {number} lost without leave: {loss:?}");
        assert_eq!(seen, None, "I2: shown, and in segment {number} lost without leave: {loss:?}");
        self.losses.insert(number, loss);
    }

    /// Offsets are lost with the log's leave. Returns how many of them were acknowledged.
    fn give_up(&mut self, number: SegmentNumber, loss: Loss, offsets: Range<u64>) -> u64 {
        self.losses.insert(number, loss);
        if offsets.end == u64::MAX {
            self.tail_to = self.tail_to.min(offsets.start);
        }
        let acked: Vec<(u64, u64)> = self.acked.extract_if(offsets.clone(), |_, _| true).collect();
        let seen = self.seen.extract_if(offsets, |_, _| true);
        self.given_up.extend(seen.chain(acked.iter().copied()).map(|(at, content)| ((at, number), content)));
        acked.len() as u64
    }

    /// Whether an entry is among what is lost, and whether that took the log's leave.
    pub(crate) fn is_lost(&self, number: SegmentNumber, index: Index) -> Option<bool> {
        self.losses.get(&number).filter(|loss| loss.from <= index).map(|loss| loss.acknowledged)
    }

    /// A reader is shown another content at an offset than what was given up there: it must have been
    /// told of the loss.
    pub(crate) fn check_told(&self, offset: u64, content: u64, told: impl Fn(SegmentNumber) -> bool) {
        let at = (offset, SegmentNumber(0))..=(offset, SegmentNumber(u64::MAX));
        let untold = self.given_up.range(at).find(|((_, number), was)| **was != content && !told(*number));
        assert_eq!(untold, None, "loss: {content} is shown at offset {offset}, and no loss was told of");
    }
}
