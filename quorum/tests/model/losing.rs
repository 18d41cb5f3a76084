//! T6: a loss is recorded of an end that is not settled, once its holders have forgotten it and
//! everybody else was fenced and has less.

use crate::state::{Invariant, LOG, LossAnswer, State, node, number};
use piculet_quorum::ids::{Revision, SegmentNumber};
use piculet_quorum::meta::loss::RecordLoss;
use piculet_quorum::meta::{Member, SegmentState, TxnOutcome};

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
        let Some(member) = record.ensemble.iter().find(|member| member.node == node(at)).cloned() else {
            return false;
        };
        let Some(loss) = self.loss(segment) else { return false };
        let address = loss.fence(&member);
        let Ok(fenced) = self.ask(at, segment, |replica| replica.fence(&address)) else { return false };
        if !self.fence_rests(at) {
            return true;
        }
        let revision = self.store.life(at).map_or(Revision(0), |life| life.revision);
        self.wire.change(|wire| {
            let answer = LossAnswer { at: address, member, revision, fenced };
            wire.answers.retain(|known| (known.at, &known.member) != (answer.at, &answer.member));
            wire.answers.push(answer);
            wire.answers
                .sort_by_key(|answer| (answer.at.segment, answer.at.epoch, answer.member.node.clone()));
        });
        true
    }

    /// What is proposed of a segment before anybody has answered.
    fn loss(&self, segment: usize) -> Option<RecordLoss> {
        Some(RecordLoss {
            log: LOG,
            read: self.store.log(),
            segment: SegmentNumber(segment as u64),
            record: self.store.versioned(segment)?,
            archived: self.store.row(segment).archived(),
            moved: Vec::new(),
            answers: Vec::new(),
            allowed: None,
        })
    }

    /// T6, from what was answered in the log's epoch: at once, or so late that nobody waits for it.
    pub(crate) fn record_loss(&mut self, segment: usize, late: bool) -> bool {
        let Some(mut loss) = self.loss(segment) else { return false };
        for member in loss.record.value.ensemble.clone() {
            let answers = self.wire.answers.iter().filter(|answer| answer.member == member);
            let counted = answers.fold(false, |counted, answer| {
                let now = loss.handle_fenced(&member, answer.revision, &answer.at, &answer.fenced);
                counted || now.is_ok()
            });
            if !counted
                && let Some(life) = self.store.life(number(&member.node))
                && life.value.incarnation > member.incarnation
            {
                loss.moved.push((member.node, life.revision));
            }
        }
        if loss.check(self.store.snapshot()).is_err() {
            return false;
        }
        if late {
            self.spent.late_losses += 1;
            self.wire.change(|wire| wire.late.push(loss.txn()));
            return true;
        }
        let outcome = self.store.change(|store| store.apply(&loss.txn()));
        if matches!(outcome, TxnOutcome::Applied(_)) {
            let gone = |member: &&Member| loss.moved.iter().any(|(node, _)| *node == member.node);
            let mut counted = loss.record.value.ensemble.iter().filter(|member| !gone(member));
            if counted.any(|member| self.store.incarnation(number(&member.node)) != member.incarnation) {
                self.broken(Invariant::I9, "a loss is recorded from what another life has answered");
            }
        }
        true
    }
}
