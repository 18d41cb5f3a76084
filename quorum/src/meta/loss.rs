//! T6: record what is lost of a sealed segment.
//!
//! An end that is not settled has one holder. When that is lost before it has uploaded, and every
//! other member answers a fence with a shorter tail, nothing of what they lack was ever acknowledged
//! or seen: it is given up without anybody being asked. When more members are lost than the protocol
//! makes up for, acknowledged entries may be among it: that takes the log's leave.

use super::seal::Unsound;
use super::{
    Key, LogRecord, Loss, Member, Record, Seal, SegmentRecord, SegmentState, Snapshot, Txn, Versioned,
};
use crate::ids::{Index, LogId, NodeId, Revision, SegmentNumber};
use crate::limits::ACK_QUORUM;
use crate::mutation::{Mutation, on};
use crate::quorums::fence_quorum;
use crate::wire::message::{Address, FenceOk};
use serde::{Deserialize, Serialize};

/// What every member of a sealed segment was found to be: together they lack some of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordLoss {
    /// The log.
    pub log: LogId,
    /// Its record as it was read. Its epoch is above the segment's, and the members below were
    /// fenced in it: nobody appends to the segment any more.
    pub read: Versioned<LogRecord>,
    /// The segment.
    pub segment: SegmentNumber,
    /// Its record as it was read: sealed.
    pub record: Versioned<SegmentRecord>,
    /// Its `archived` watermark as it was read.
    pub archived: Index,
    /// Members that have forgotten it, with the revision of their incarnation record: every holder
    /// is among them.
    pub moved: Vec<(NodeId, Revision)>,
    /// Every other member, with what it held when it was fenced ([`handle_fenced`](Self::handle_fenced)).
    pub answers: Vec<Answered>,
    /// The revision of the log's settings that allow the loss, when acknowledged entries may be among
    /// it.
    pub allowed: Option<Revision>,
}

/// What a member held when it was fenced for a loss: what it said at any other time does not count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answered {
    node: NodeId,
    /// Of its incarnation record.
    revision: Revision,
    held: Index,
}

impl Answered {
    /// The revision of the member's incarnation record, which is compared.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

impl RecordLoss {
    /// The fence that a member must answer before it counts: in the log's epoch, so that nobody appends
    /// to what it holds any more, and in the life in which it is a member.
    #[must_use]
    pub fn fence(&self, member: &Member) -> Address {
        let (epoch, incarnation) = (self.read.value.epoch, member.incarnation);
        Address { log: self.log, segment: self.segment, epoch, incarnation }
    }

    /// Counts what a member has answered to a fence; `revision` is that of its incarnation record, read
    /// before it was fenced.
    ///
    /// # Errors
    /// When it answered another fence than [the one that it must](Self::fence): then nothing is counted.
    pub fn handle_fenced(
        &mut self,
        member: &Member,
        revision: Revision,
        at: &Address,
        fenced: &FenceOk,
    ) -> Result<(), Unsound> {
        if *at != self.fence(member) {
            let (node, epoch) = (&member.node, self.read.value.epoch);
            return Err(Unsound(format!(
                "node {node} was fenced in epoch {} for another loss, not in {epoch}: fence it again",
                at.epoch
            )));
        }
        let held = if on(Mutation::LossByTail) { fenced.tail } else { fenced.held };
        self.answers.push(Answered { node: member.node.clone(), revision, held });
        Ok(())
    }

    /// Where the loss begins: behind all that anybody still has. None when nothing more is lost than
    /// is recorded already.
    #[must_use]
    pub fn from(&self) -> Option<Index> {
        let held = self.answers.iter().map(|answered| answered.held).max().unwrap_or_default();
        let from = held.max(self.archived);
        self.record.value.kept().filter(|kept| from < *kept).map(|_| from)
    }

    /// Whether acknowledged entries may be among what is lost, so that the log's settings must allow
    /// it: too many members have forgotten, or the end was settled, and so visible.
    #[must_use]
    pub fn needs_leave(&self) -> bool {
        let members = self.record.value.ensemble.len();
        let few = members < ACK_QUORUM || members.saturating_sub(self.moved.len()) < fence_quorum(members);
        few || self.record.value.settled()
    }

    /// The segment's record after the transaction: what is left below the loss is settled by its
    /// upload alone. Only for a proposal that is [sound](Self::check).
    #[must_use]
    pub fn segment_record(&self) -> SegmentRecord {
        let SegmentState::Sealed(seal) = &self.record.value.state else { return self.record.value.clone() };
        let Some(from) = self.from() else { return self.record.value.clone() };
        let holders = self.answers.iter().filter(|answered| answered.held >= from);
        let holders = holders.map(|answered| answered.node.clone()).collect();
        let before = self.record.value.loss;
        let acknowledged = self.allowed.is_some() || before.is_some_and(|loss| loss.acknowledged);
        let beyond = before.is_some_and(|loss| loss.beyond);
        SegmentRecord {
            state: SegmentState::Sealed(Seal { holders, settled: false, ..seal.clone() }),
            loss: Some(Loss { from, acknowledged, beyond }),
            ..self.record.value.clone()
        }
    }

    /// The transaction: log, segment and settings must be as they were read, no part may have started
    /// at `archived` since, and no member may have been reborn.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let key = Key::Segment(self.log, self.segment);
        let mut txn = Txn::default()
            .when(Key::Log(self.log), self.read.revision)
            .when(key.clone(), self.record.revision);
        if !on(Mutation::LossIgnoresParts) {
            txn = txn.when(Key::Part(self.log, self.segment, self.archived), Revision(0));
        }
        let level = self.record.value.level;
        let moved = self.moved.iter().map(|(node, revision)| (node, *revision));
        let answers = self.answers.iter().map(|answered| (&answered.node, answered.revision));
        for (node, revision) in moved.chain(answers) {
            txn = txn.when(Key::Incarnation(node.clone(), level), revision);
        }
        if let Some(config) = self.allowed {
            txn = txn.when(Key::Config(self.log), config);
        }
        txn.put(key, Record::Segment(self.segment_record()))
    }

    /// Checks that the proposal is sound in itself, and true wherever the records that it names are
    /// still the ones in `now`. It is carried out with its own compares all the same.
    ///
    /// # Errors
    /// With what is wrong; such a proposal must not be carried out.
    pub fn check(&self, now: &Snapshot) -> Result<(), Unsound> {
        let (fail, number) = (|what: String| Err(Unsound(what)), self.segment);
        let current = now.log(&Key::Log(self.log));
        if current.is_some_and(|log| log.revision == self.read.revision && log != self.read) {
            return fail(format!("the record of log {} is not as proposed", self.log));
        }
        let current = now.segment(&Key::Segment(self.log, number));
        if current.is_some_and(|found| found.revision == self.record.revision && found != self.record) {
            return fail(format!("the record of segment {number} is not as proposed"));
        }
        let SegmentState::Sealed(seal) = &self.record.value.state else {
            return fail(format!("segment {number} is not sealed, or is archived"));
        };
        if self.read.value.epoch <= self.record.value.epoch && !on(Mutation::LossInOwnEpoch) {
            return fail(format!("the writer of segment {number} may still append to it"));
        }
        if seal.holders.iter().any(|holder| self.moved.iter().all(|(node, _)| node != holder)) {
            return fail(format!("a holder of segment {number} has not forgotten it"));
        }
        if self.from().is_none() {
            return fail(format!("nothing more of segment {number} is lost than is recorded"));
        }
        self.check_members(now)?;
        let current = now.config(&Key::Config(self.log));
        match self.allowed {
            None if self.needs_leave() => fail(format!(
                "acknowledged entries of segment {number} may be lost: it takes the log's leave"
            )),
            Some(config) if current.is_some_and(|now| now.revision == config && !now.value.allow_loss) => {
                fail(format!("the settings of log {} allow no loss", self.log))
            }
            _ => Ok(()),
        }
    }

    /// Every member is accounted for, once, in the life that it is in.
    fn check_members(&self, now: &Snapshot) -> Result<(), Unsound> {
        let number = self.segment;
        let level = self.record.value.level;
        let moved = self.moved.iter().map(|(node, revision)| (node, *revision, true));
        let answers = self.answers.iter().map(|answered| (&answered.node, answered.revision, false));
        let named: Vec<_> = moved.chain(answers).collect();
        for member in &self.record.value.ensemble {
            let mut of = named.iter().filter(|(node, ..)| **node == member.node);
            let (Some((node, revision, moved)), None) = (of.next(), of.next()) else {
                return Err(Unsound(format!("node {} is not accounted for once", member.node)));
            };
            let current = now.incarnation(&Key::Incarnation((*node).clone(), level));
            let current = current.filter(|current| current.revision == *revision);
            if current.is_some_and(|now| (now.value.incarnation != member.incarnation) != *moved) {
                return Err(Unsound(format!("node {node} is counted wrongly: reborn {moved}")));
            }
        }
        if named.len() != self.record.value.ensemble.len() {
            return Err(Unsound(format!("somebody is no member of segment {number}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Chain, Epoch, Incarnation, Level, LogName, Nonce, Offset, SegmentNumber, Timestamp};
    use crate::meta::{ConfigRecord, IncarnationRecord, Member, SegmentEnd, Write};

    const NUMBER: SegmentNumber = SegmentNumber(3);

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn answered(name: &str, revision: u64, held: u64) -> Answered {
        Answered { node: node(name), revision: Revision(revision), held: Index(held) }
    }

    /// An end at 50 that `a` alone held, with `b` and `c` left, which have 30 and 20.
    fn proposal() -> RecordLoss {
        let member = |name: &&str| Member { node: node(name), incarnation: Incarnation(1) };
        let at = SegmentEnd { end: Index(50), chain: Chain(9), last_timestamp: Timestamp(1) };
        let seal = Seal { at, by_epoch: Epoch(2), holders: vec![node("a")], settled: false };
        let segment = SegmentRecord {
            epoch: Epoch(1),
            base: Offset(100),
            base_chain: Chain(1),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: ["a", "b", "c"].iter().map(member).collect(),
            state: SegmentState::Sealed(seal),
            loss: None,
        };
        let log = LogRecord {
            name: LogName::new("l").expect("a valid name"),
            epoch: Epoch(2),
            writer: Nonce(1),
            holder: None,
            next_segment: NUMBER.plus(1),
            next_base: Offset(150),
            chain: Chain(9),
            last_timestamp: Timestamp(1),
            deleted: None,
        };
        RecordLoss {
            log: LogId(7),
            read: Versioned { revision: Revision(20), value: log },
            segment: NUMBER,
            record: Versioned { revision: Revision(10), value: segment },
            archived: Index(10),
            moved: vec![(node("a"), Revision(1))],
            answers: vec![answered("b", 2, 30), answered("c", 3, 20)],
            allowed: None,
        }
    }

    fn edited(edit: impl FnOnce(&mut RecordLoss)) -> RecordLoss {
        let mut proposal = proposal();
        edit(&mut proposal);
        proposal
    }

    fn seal(proposal: &mut RecordLoss) -> &mut Seal {
        match &mut proposal.record.value.state {
            SegmentState::Sealed(seal) => seal,
            other => panic!("{other:?}"),
        }
    }

    fn refused(proposal: &RecordLoss) -> bool {
        proposal.check(&Snapshot::default()).is_err()
    }

    #[test]
    fn the_loss_of_a_sole_holder_begins_behind_what_the_others_have() {
        let proposal = proposal();
        assert_eq!(proposal.check(&Snapshot::default()), Ok(()));
        assert!(!proposal.needs_leave());
        let record = proposal.segment_record();
        assert_eq!(record.loss, Some(Loss { from: Index(30), acknowledged: false, beyond: false }));
        let SegmentState::Sealed(seal) = &record.state else { panic!("{record:?}") };
        assert_eq!((seal.at.end, seal.settled, &seal.holders[..]), (Index(50), false, &[node("b")][..]));
        let archived = edited(|p| p.archived = Index(40));
        assert_eq!(archived.from(), Some(Index(40)), "what is archived is not lost");
    }

    #[test]
    fn everything_that_it_rests_on_is_compared() {
        let txn = edited(|p| p.allowed = Some(Revision(8))).txn();
        let incarnation = |name, at| (Key::Incarnation(node(name), Level::Memory), Revision(at));
        let compared = [
            (Key::Log(LogId(7)), Revision(20)),
            (Key::Segment(LogId(7), NUMBER), Revision(10)),
            (Key::Part(LogId(7), NUMBER, Index(10)), Revision(0)),
            incarnation("a", 1),
            incarnation("b", 2),
            incarnation("c", 3),
            (Key::Config(LogId(7)), Revision(8)),
        ];
        assert_eq!(txn.compares, compared);
        assert!(matches!(&txn.writes[..], [Write::Put(Key::Segment(..), _)]));
    }

    #[test]
    fn a_segment_whose_writer_may_still_append_loses_nothing() {
        assert!(refused(&edited(|p| p.record.value.epoch = p.read.value.epoch)));
        assert!(refused(&edited(|p| p.record.value.state = SegmentState::Open)));
    }

    #[test]
    fn nothing_is_lost_while_a_holder_lives_or_a_member_is_not_heard() {
        assert!(refused(&edited(|p| seal(p).holders = vec![node("a"), node("b")])));
        assert!(refused(&edited(|p| p.answers.truncate(1))));
        assert!(refused(&edited(|p| p.answers.push(answered("b", 2, 9)))));
        assert!(refused(&edited(|p| p.answers.push(answered("z", 2, 9)))));
        assert!(refused(&edited(|p| p.answers[0].held = Index(50))), "somebody has all of it");
    }

    #[test]
    fn only_what_is_at_rest_at_a_member_that_was_fenced_for_it_counts() {
        let mut proposal = edited(|p| p.answers.clear());
        let b = Member { node: node("b"), incarnation: Incarnation(1) };
        let at = proposal.fence(&b);
        assert_eq!(
            (at.epoch, at.incarnation),
            (Epoch(2), Incarnation(1)),
            "the log's epoch, not the segment's"
        );
        let fenced = FenceOk {
            tail: Index(40),
            held: Index(30),
            writer_tail: Index(20),
            commit: Index(0),
            freed: Index(0),
            chain: Chain(5),
            last_timestamp: Timestamp(1),
        };
        let older = Address { epoch: Epoch(1), ..at };
        let reborn = Address { incarnation: Incarnation(2), ..at };
        for other in [older, reborn, Address { segment: NUMBER.plus(1), ..at }] {
            assert!(proposal.handle_fenced(&b, Revision(2), &other, &fenced).is_err(), "{other:?}");
        }
        assert_eq!(proposal.answers, []);
        assert_eq!(proposal.handle_fenced(&b, Revision(2), &at, &fenced), Ok(()));
        assert_eq!(proposal.answers, [answered("b", 2, 30)]);
    }

    #[test]
    fn acknowledged_entries_are_given_up_with_leave_only() {
        let two = |allowed| {
            edited(|p| {
                p.moved.push((node("b"), Revision(2)));
                p.answers.remove(0);
                p.allowed = allowed;
            })
        };
        assert!(two(None).needs_leave() && refused(&two(None)));
        let allowed = two(Some(Revision(8)));
        assert!(!refused(&allowed));
        assert_eq!(
            allowed.segment_record().loss,
            Some(Loss { from: Index(20), acknowledged: true, beyond: false })
        );
        let settled = |allowed| {
            edited(|p| {
                seal(p).settled = true;
                p.allowed = allowed;
            })
        };
        assert!(refused(&settled(None)) && !refused(&settled(Some(Revision(8)))));
        let SegmentState::Sealed(now) = settled(Some(Revision(8))).segment_record().state else {
            panic!("it stays sealed")
        };
        assert!(!now.settled, "what was settled shows nothing of what is lost any more");
        let mut now = Snapshot::default();
        let config = ConfigRecord::default();
        let config = Versioned { revision: Revision(8), value: Record::Config(config) };
        now.records.insert(Key::Config(LogId(7)), config);
        assert!(allowed.check(&now).is_err(), "it is not true of the settings");
    }

    #[test]
    fn a_loss_is_lowered_and_never_raised() {
        let again = |from, acknowledged| {
            edited(|p| {
                p.record.value.loss = Some(Loss { from: Index(from), acknowledged, beyond: false });
                p.moved.push((node("b"), Revision(2)));
                p.answers.remove(0);
                p.allowed = Some(Revision(8));
            })
        };
        assert!(refused(&again(20, false)) && refused(&again(15, false)));
        let lower = again(30, false);
        assert!(!refused(&lower));
        assert_eq!(
            lower.segment_record().loss,
            Some(Loss { from: Index(20), acknowledged: true, beyond: false })
        );
    }

    #[test]
    fn members_are_counted_in_the_life_that_they_are_in() {
        let with = |name: &str, revision, incarnation| {
            let mut now = Snapshot::default();
            let record = IncarnationRecord { incarnation: Incarnation(incarnation), nonce: Nonce(1) };
            let record = Versioned { revision: Revision(revision), value: Record::Incarnation(record) };
            now.records.insert(Key::Incarnation(node(name), Level::Memory), record);
            proposal().check(&now).is_ok()
        };
        assert!(with("a", 1, 2) && !with("a", 1, 1), "a holder that is in its old life is not gone");
        assert!(with("b", 2, 1) && !with("b", 2, 2), "one that was reborn speaks for nothing");
        assert!(with("b", 99, 2), "another revision is refused by the compare");
    }

    #[test]
    fn what_is_quoted_at_its_revision_is_quoted_as_it_is() {
        let honest = proposal();
        let mut now = Snapshot::default();
        let log = Versioned { revision: Revision(20), value: Record::Log(honest.read.value.clone()) };
        now.records.insert(Key::Log(honest.log), log);
        let segment =
            Versioned { revision: Revision(10), value: Record::Segment(honest.record.value.clone()) };
        now.records.insert(Key::Segment(honest.log, NUMBER), segment);
        assert_eq!(honest.check(&now), Ok(()));
        for (what, forged) in [
            ("a log's epoch", edited(|p| p.read.value.epoch = Epoch(9))),
            ("its base", edited(|p| p.read.value.next_base = Offset(1000))),
            ("a segment's end", edited(|p| seal(p).at.end = Index(90))),
            ("its base", edited(|p| p.record.value.base = Offset(1000))),
            ("its epoch", edited(|p| p.record.value.epoch = Epoch(0))),
            ("its holders", edited(|p| (seal(p).holders, seal(p).settled) = (vec![], false))),
            ("its level", edited(|p| p.record.value.level = Level::Disk)),
        ] {
            assert_eq!(forged.check(&Snapshot::default()), Ok(()), "{what}: it is sound in itself");
            let refused = forged.check(&now).map_err(|unsound| unsound.0);
            assert!(refused.is_err_and(|why| why.contains("not as proposed")), "{what}");
        }
    }
}
