//! T6: a loss is recorded of an end that is not settled, once its holders have forgotten it and
//! everybody else was fenced and has less.

use crate::state::{LOG, State, node};
use piculet_quorum::ids::{Index, Revision, SegmentNumber};
use piculet_quorum::meta::SegmentState;
use piculet_quorum::meta::loss::RecordLoss;
use piculet_quorum::mutation::{Mutation, on};
use piculet_quorum::wire::message::Address;

impl State {
    /// A member is fenced in the log's epoch, and says what it holds.
    pub(crate) fn fence_loss(&mut self, segment: usize, at: usize) -> bool {
        let Some(record) = self.store.segment(segment) else { return false };
        if !matches!(record.state, SegmentState::Sealed(_))
            || record.settled()
            || !self.is_member(segment, at)
        {
            return false;
        }
        let epoch = self.store.log().value.epoch;
        let number = SegmentNumber(segment as u64);
        let incarnation = self.nodes[at].replica.incarnation();
        let held = if on(Mutation::LossUnfenced) {
            self.nodes[at].replica.marks(number).map_or(Index(0), |marks| marks.held)
        } else {
            let address = Address { log: LOG, segment: number, epoch, incarnation };
            let Ok(fenced) = self.ask(at, segment, |replica| replica.fence(&address)) else { return false };
            fenced.held
        };
        let revision = self.store.life(at).map_or(Revision(0), |life| life.revision);
        self.wire.change(|wire| {
            wire.answers.retain(|(s, e, n, _)| (*s, *e, *n) != (segment, epoch.0, at));
            wire.answers.push((segment, epoch.0, at, (revision, held.0)));
            wire.answers.sort();
        });
        true
    }

    /// T6, from what was answered in the log's epoch.
    pub(crate) fn record_loss(&mut self, segment: usize) -> bool {
        let Some(record) = self.store.versioned(segment) else { return false };
        let read = self.store.log();
        let answered =
            self.wire.answers.iter().filter(|(s, e, ..)| (*s, *e) == (segment, read.value.epoch.0));
        let answers: Vec<_> =
            answered.map(|(.., at, (revision, held))| (node(*at), *revision, Index(*held))).collect();
        let mut moved = Vec::new();
        for member in &record.value.ensemble {
            if answers.iter().all(|(node, ..)| *node != member.node)
                && let Some(life) = self.store.life(crate::state::number(&member.node))
                && life.value.incarnation > member.incarnation
            {
                moved.push((member.node.clone(), life.revision));
            }
        }
        let archived = self.store.row(segment).archived();
        let number = SegmentNumber(segment as u64);
        let loss =
            RecordLoss { log: LOG, read, segment: number, record, archived, moved, answers, allowed: None };
        if loss.check(self.store.snapshot()).is_err() {
            return false;
        }
        self.store.change(|store| store.apply(&loss.txn()));
        true
    }
}
