//! T2: seal a log's open segment and create the next. T2c: create one when there is none open.
//!
//! `next_base` in the log's record is the only source of a segment's base.

use super::{
    Key, LogRecord, Loss, Member, Record, Seal, SegmentEnd, SegmentRecord, SegmentState, Snapshot,
    TrimRecord, Txn, Versioned, Write,
};
use crate::ids::{Index, Level, LogId, NodeId, Offset, Revision, SegmentNumber};
use crate::limits::ACK_QUORUM;
use crate::mutation::{Mutation, on};
use crate::quorums::{fence_quorum, fits};
use serde::{Deserialize, Serialize};

/// The seal of one segment and the creation of the next; one of them may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealSegment {
    /// The log.
    pub log: LogId,
    /// Its record as it was read; epoch and writer in it are mine.
    pub read: Versioned<LogRecord>,
    /// The segment to seal.
    pub seal: Option<SealOne>,
    /// The segment to create.
    pub create: Option<CreateOne>,
}

/// The segment that is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealOne {
    /// Its number.
    pub segment: SegmentNumber,
    /// Its record as it was read: open.
    pub read: Versioned<SegmentRecord>,
    /// Where it ends.
    pub at: SegmentEnd,
    /// Members that hold all that is [kept](Self::kept), with the revision of their incarnation record.
    pub holders: Vec<(NodeId, Revision)>,
    /// Members whose incarnation has moved, with the revision of their incarnation record.
    pub moved: Vec<(NodeId, Revision)>,
    /// Its `archived` watermark as it was read.
    pub archived: Index,
    /// Whether this is a takeover: then no part may have started at `archived` since it was read.
    pub recovery: bool,
    /// What a loss rests on, when so many members have forgotten the segment that the others cannot
    /// tell any more where it ended: entries beyond the most that is left of it may be lost.
    pub allowed_loss: Option<AllowedLoss>,
}

/// What a seal rests on that gives up what may have been behind the most that is left of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AllowedLoss {
    /// The revision of the log's settings, which allow it.
    pub config: Revision,
    /// The log's trim record as it was read. It is put again as it is, so that a trim which was
    /// checked against the longer log is refused when it lands after the seal.
    pub trim: Versioned<TrimRecord>,
    /// The most that is left: below it nothing is lost.
    pub from: Index,
}

/// The segment that is created.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CreateOne {
    /// Its durability.
    pub level: Level,
    /// Its members, with the revision of their incarnation record.
    pub ensemble: Vec<(Member, Revision)>,
    /// Who writes it, for people to read.
    pub holder: Option<String>,
}

/// Why a proposal is refused before it is tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proposal is not sound: {0}")]
pub struct Unsound(pub String);

impl AllowedLoss {
    /// Where a segment that starts at `base` ends: behind all that is left of it, and not below the
    /// trim offset, for no offset below that is ever given out again.
    #[must_use]
    pub fn end(&self, base: Offset) -> Index {
        let trimmed = self.trim.value.trim_offset.index_in(base);
        let trimmed = trimmed.filter(|_| !on(Mutation::LossBelowTrim));
        self.from.max(trimmed.unwrap_or_default())
    }
}

impl SealOne {
    /// Below it the segment has all of its entries: its end, or where its loss begins.
    #[must_use]
    pub fn kept(&self) -> Index {
        self.allowed_loss.as_ref().map_or(self.at.end, |loss| loss.from)
    }

    /// Whether everything that is kept is safe from now on: enough hold it, or everybody else has
    /// provably forgotten it.
    #[must_use]
    pub fn settled(&self) -> bool {
        let holders = self.holders.len();
        holders >= ACK_QUORUM
            || (on(Mutation::OneCopySettles) && holders > 0)
            || self.archived == self.kept()
            || holders > 0 && holders + self.moved.len() == self.read.value.ensemble.len()
    }

    fn record(&self, by_epoch: crate::ids::Epoch) -> SegmentRecord {
        let state = if self.archived == self.at.end {
            SegmentState::Archived(self.at)
        } else {
            let holders = self.holders.iter().map(|(node, _)| node.clone()).collect();
            SegmentState::Sealed(Seal { at: self.at, by_epoch, holders, settled: self.settled() })
        };
        let loss =
            self.allowed_loss.as_ref().map(|loss| Loss { from: loss.from, acknowledged: true, beyond: true });
        SegmentRecord { state, loss, ..self.read.value.clone() }
    }
}

impl SealSegment {
    /// The log's record and the new segment after the transaction.
    #[must_use]
    pub fn records(&self) -> (LogRecord, Option<(SegmentNumber, SegmentRecord)>) {
        let mut log = self.read.value.clone();
        if let Some(seal) = &self.seal {
            log.next_base = seal.read.value.base.plus(seal.at.end.0);
            log.chain = seal.at.chain;
            log.last_timestamp = seal.at.last_timestamp;
        }
        log.holder = self.create.as_ref().and_then(|create| create.holder.clone());
        let created = self.create.as_ref().map(|create| {
            let number = log.next_segment;
            log.next_segment = number.plus(1);
            let record = SegmentRecord {
                epoch: log.epoch,
                base: log.next_base,
                base_chain: log.chain,
                base_timestamp: log.last_timestamp,
                level: create.level,
                ensemble: create.ensemble.iter().map(|(member, _)| member.clone()).collect(),
                state: SegmentState::Open,
                loss: None,
            };
            (number, record)
        });
        (log, created)
    }

    /// The transaction: log and segment must be as they were read, and no member that counts may
    /// have been reborn.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let (log, created) = self.records();
        let roll = self.seal.as_ref().is_some_and(|seal| !seal.recovery);
        let (twice, mut txn) = (on(Mutation::SealsTwice), Txn::default());
        let blind = on(Mutation::SealsBlindly) || twice;
        if !(blind || on(Mutation::RollsBlindly) && roll) {
            txn = txn.when(Key::Log(self.log), self.read.revision);
        }
        txn = txn.put(Key::Log(self.log), Record::Log(log));
        if let Some(seal) = &self.seal {
            let key = Key::Segment(self.log, seal.segment);
            if !blind {
                txn = txn.when(key.clone(), seal.read.revision);
            }
            txn = txn.put(key, Record::Segment(seal.record(self.read.value.epoch)));
            if seal.archived == seal.at.end {
                // Nothing is left to upload, so the election of the uploader goes too.
                txn.writes.push(Write::Delete(Key::Flush(self.log, seal.segment)));
            }
            let counted = seal.holders.iter().chain(&seal.moved);
            for (node, revision) in counted.filter(|_| !on(Mutation::HoldersUnguarded)) {
                txn = txn.when(Key::Incarnation(node.clone(), seal.read.value.level), *revision);
            }
            if seal.recovery {
                txn = txn.when(Key::Part(self.log, seal.segment, seal.archived), Revision(0));
            }
            if let Some(AllowedLoss { config, trim, .. }) = &seal.allowed_loss {
                let key = Key::Trim(self.log);
                txn = txn.when(Key::Config(self.log), *config).when(key.clone(), trim.revision);
                txn = txn.put(key, Record::Trim(trim.value.clone()));
            }
        }
        if let (Some(create), Some((number, record))) = (&self.create, created) {
            let key = Key::Segment(self.log, number);
            if !twice {
                txn = txn.when(key.clone(), Revision(0));
            }
            txn = txn.put(key, Record::Segment(record));
            for (member, revision) in &create.ensemble {
                txn = txn.when(Key::Incarnation(member.node.clone(), create.level), *revision);
            }
        }
        txn
    }

    /// Every key that [`check`](Self::check) wants to see.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.txn().compares.into_iter().map(|(key, _)| key).collect()
    }

    /// Checks that the proposal is sound in itself, and true wherever the records that it names are
    /// still the ones in `now`. It is carried out with its own compares all the same.
    ///
    /// # Errors
    /// With what is wrong; such a proposal must not be carried out.
    pub fn check(&self, now: &Snapshot) -> Result<(), Unsound> {
        let fail = |what: String| Err(Unsound(what));
        let key = Key::Log(self.log);
        if now.log(&key).is_some_and(|log| log.revision == self.read.revision && log != self.read) {
            return fail(format!("the record of log {} is not as proposed", self.log));
        }
        if self.seal.is_none() && self.create.is_none() {
            return fail("it neither seals nor creates".to_owned());
        }
        if let Some(seal) = &self.seal {
            self.check_seal(seal, now)?;
            self.check_loss(seal, now)?;
        }
        let Some(create) = &self.create else { return Ok(()) };
        let members = create.ensemble.len();
        if !fits(create.level, members) {
            return fail(format!("an ensemble of {members} members at level {}", create.level));
        }
        for (at, (member, revision)) in create.ensemble.iter().enumerate() {
            if create.ensemble[..at].iter().any(|(other, _)| other.node == member.node) {
                return fail(format!("node {} is in the ensemble twice", member.node));
            }
            let key = Key::Incarnation(member.node.clone(), create.level);
            let current = now.incarnation(&key);
            if current.is_some_and(|c| c.revision == *revision && c.value.incarnation != member.incarnation) {
                return fail(format!("node {} is not in incarnation {}", member.node, member.incarnation));
            }
        }
        Ok(())
    }

    fn check_seal(&self, seal: &SealOne, now: &Snapshot) -> Result<(), Unsound> {
        let fail = |what: String| Err(Unsound(what));
        let number = seal.segment;
        let current = now.segment(&Key::Segment(self.log, number));
        if current.is_some_and(|segment| segment.revision == seal.read.revision && segment != seal.read) {
            return fail(format!("the record of segment {number} is not as proposed"));
        }
        if number.plus(1) != self.read.value.next_segment {
            return fail(format!("segment {number} is not the newest"));
        }
        if seal.read.value.state != SegmentState::Open {
            return fail(format!("segment {number} is not open"));
        }
        if seal.read.value.epoch > self.read.value.epoch {
            return fail(format!("segment {number} is of a later epoch"));
        }
        if seal.recovery == (seal.read.value.epoch == self.read.value.epoch) {
            return fail(format!("segment {number} is sealed as the wrong kind: recovery {}", seal.recovery));
        }
        if seal.kept() < seal.archived && !on(Mutation::EndsBelowArchive) {
            return fail(format!("end {} is below what is archived, {}", seal.kept(), seal.archived));
        }
        if seal.holders.is_empty() && seal.kept() > seal.archived {
            return fail(format!("nobody holds segment {number} up to {}", seal.kept()));
        }
        let ensemble = &seal.read.value.ensemble;
        let mut counted: Vec<&NodeId> =
            seal.holders.iter().chain(&seal.moved).map(|(node, _)| node).collect();
        counted.sort();
        counted.dedup();
        if counted.len() != seal.holders.len() + seal.moved.len() {
            return fail("a member is counted twice".to_owned());
        }
        let incarnation_of = |node: &NodeId, revision: Revision| {
            let current = now.incarnation(&Key::Incarnation(node.clone(), seal.read.value.level))?;
            (current.revision == revision).then_some(current.value.incarnation)
        };
        for (nodes, moved) in [(&seal.holders, false), (&seal.moved, true)] {
            for (node, revision) in nodes {
                let Some(member) = ensemble.iter().find(|member| member.node == *node) else {
                    return fail(format!("node {node} is no member of segment {number}"));
                };
                let wrong = incarnation_of(node, *revision)
                    .is_some_and(|current| (current != member.incarnation) != moved);
                if wrong && !on(Mutation::SilentIsGone) {
                    return fail(format!("node {node} is counted wrongly: reborn {moved}"));
                }
            }
        }
        Ok(())
    }

    /// A seal that gives up what may have been lies on the log's settings, and on what is left.
    fn check_loss(&self, seal: &SealOne, now: &Snapshot) -> Result<(), Unsound> {
        let Some(loss) = &seal.allowed_loss else { return Ok(()) };
        let (fail, number) = (|what: String| Err(Unsound(what)), seal.segment);
        let members = seal.read.value.ensemble.len();
        if !seal.recovery || members < ACK_QUORUM {
            return fail(format!("segment {number} is given up by who is not recovering it"));
        }
        if members - seal.moved.len() >= fence_quorum(members) {
            return fail(format!("enough members of segment {number} know where it ended: nothing is lost"));
        }
        if !seal.settled() {
            return fail(format!("a member of segment {number} that is left does not hold all that is kept"));
        }
        let current = now.config(&Key::Config(self.log));
        if current.is_some_and(|current| current.revision == loss.config && !current.value.allow_loss) {
            return fail(format!("the settings of log {} allow no loss", self.log));
        }
        let current = now.trim(&Key::Trim(self.log));
        if current.is_some_and(|current| current.revision == loss.trim.revision && current != loss.trim) {
            return fail(format!("the trim record of log {} is not as proposed", self.log));
        }
        let end = loss.end(seal.read.value.base);
        if seal.at.end != end {
            let trimmed = loss.trim.value.trim_offset;
            return fail(format!(
                "segment {number} has entries up to {} and log {} is trimmed to offset {trimmed}: it ends \
                 at {end}, not at {}",
                loss.from, self.log, seal.at.end
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Chain, Epoch, Incarnation, LogName, Nonce, Offset, Timestamp};
    use crate::meta::IncarnationRecord;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn at(end: u64) -> SegmentEnd {
        SegmentEnd { end: Index(end), chain: Chain(9), last_timestamp: Timestamp(1) }
    }

    fn proposal() -> SealSegment {
        let ensemble =
            ["a", "b", "c"].map(|n| Member { node: node(n), incarnation: Incarnation(1) }).to_vec();
        let segment = SegmentRecord {
            epoch: Epoch(1),
            base: Offset(100),
            base_chain: Chain(1),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: ensemble.clone(),
            state: SegmentState::Open,
            loss: None,
        };
        let log = LogRecord {
            name: LogName::new("l").expect("a valid name"),
            epoch: Epoch(2),
            writer: Nonce(1),
            holder: None,
            next_segment: SegmentNumber(4),
            next_base: Offset(100),
            chain: Chain(1),
            last_timestamp: Timestamp(0),
            deleted: None,
        };
        SealSegment {
            log: LogId(7),
            read: Versioned { revision: Revision(20), value: log },
            seal: Some(SealOne {
                segment: SegmentNumber(3),
                read: Versioned { revision: Revision(10), value: segment },
                at: at(50),
                holders: vec![(node("a"), Revision(1)), (node("b"), Revision(2))],
                moved: vec![],
                archived: Index(30),
                recovery: true,
                allowed_loss: None,
            }),
            create: Some(CreateOne {
                level: Level::Memory,
                ensemble: ensemble.into_iter().zip(1..).map(|(member, at)| (member, Revision(at))).collect(),
                holder: Some("me".to_owned()),
            }),
        }
    }

    fn edited(edit: impl FnOnce(&mut SealSegment)) -> SealSegment {
        let mut proposal = proposal();
        edit(&mut proposal);
        proposal
    }

    fn seal(proposal: &mut SealSegment) -> &mut SealOne {
        proposal.seal.as_mut().expect("it seals")
    }

    fn create(proposal: &mut SealSegment) -> &mut CreateOne {
        proposal.create.as_mut().expect("it creates")
    }

    #[test]
    fn a_segment_without_members_is_sealed_where_it_is_archived() {
        let object = |archived| {
            edited(|p| {
                (seal(p).read.value.level, seal(p).read.value.ensemble) = (Level::Object, vec![]);
                (seal(p).holders, seal(p).archived) = (vec![], Index(archived));
                (create(p).level, create(p).ensemble) = (Level::Object, vec![]);
            })
        };
        assert_eq!(object(50).check(&Snapshot::default()), Ok(()));
        let sealed = object(50).seal.expect("it seals");
        assert_eq!((sealed.settled(), sealed.record(Epoch(2)).state), (true, SegmentState::Archived(at(50))));
        let short = object(49);
        assert!(short.check(&Snapshot::default()).is_err(), "nobody holds what is not archived");
        assert!(!short.seal.expect("it seals").settled());
    }

    #[test]
    fn the_next_segment_starts_where_the_sealed_one_ends() {
        let (log, created) = proposal().records();
        let (number, record) = created.expect("it creates");
        assert_eq!((number, log.next_segment), (SegmentNumber(4), SegmentNumber(5)));
        assert_eq!((record.base, record.base_chain, log.next_base), (Offset(150), Chain(9), Offset(150)));
        assert_eq!(proposal().check(&Snapshot::default()), Ok(()));
    }

    #[test]
    fn every_record_that_is_put_is_compared() {
        for txn in [proposal().txn(), trimmed().txn()] {
            for write in &txn.writes {
                let Write::Put(key, _) = write else { panic!("only puts: {write:?}") };
                assert!(txn.compares.iter().any(|(compared, _)| compared == key), "{key:?}");
            }
        }
        let txn = proposal().txn();
        let guard = Key::Part(LogId(7), SegmentNumber(3), Index(30));
        assert!(txn.compares.contains(&(guard, Revision(0))), "a takeover is guarded against new parts");
    }

    #[test]
    fn every_life_that_counts_is_compared() {
        let proposal = edited(|p| {
            seal(p).read.value.level = Level::Disk;
            seal(p).holders = vec![(node("a"), Revision(1))];
            seal(p).moved = vec![(node("b"), Revision(2)), (node("c"), Revision(3))];
            let member = |name: &str| Member { node: node(name), incarnation: Incarnation(1) };
            let create = p.create.as_mut().expect("it creates");
            create.ensemble = vec![(member("d"), Revision(4)), (member("e"), Revision(5))];
        });
        let compares = proposal.txn().compares;
        let sealed = [("a", 1), ("b", 2), ("c", 3)].map(|(name, at)| (name, Level::Disk, at));
        let created = [("d", 4), ("e", 5)].map(|(name, at)| (name, Level::Memory, at));
        for (name, level, at) in sealed.into_iter().chain(created) {
            assert!(compares.contains(&(Key::Incarnation(node(name), level), Revision(at))), "{name}");
        }
        let mut now = Snapshot::default();
        let reborn = IncarnationRecord { incarnation: Incarnation(2), nonce: Nonce(1) };
        let reborn = Versioned { revision: Revision(4), value: Record::Incarnation(reborn) };
        now.records.insert(Key::Incarnation(node("d"), Level::Memory), reborn);
        assert!(proposal.check(&now).is_err(), "a new member in another life than the one quoted");
    }

    #[test]
    fn one_holder_settles_only_when_the_others_are_provably_gone() {
        let settled = |holders: &[&str], moved: &[&str]| {
            let mut proposal = proposal();
            let list = |names: &[&str]| names.iter().map(|n| (node(n), Revision(1))).collect::<Vec<_>>();
            seal(&mut proposal).holders = list(holders);
            seal(&mut proposal).moved = list(moved);
            seal(&mut proposal).settled()
        };
        assert!(settled(&["a", "b"], &[]));
        assert!(!settled(&["a"], &[]));
        assert!(!settled(&["a"], &["b"]));
        assert!(settled(&["a"], &["b", "c"]));
    }

    fn leave(from: u64, trim_offset: u64) -> AllowedLoss {
        let trim = TrimRecord { trim_offset: Offset(trim_offset) };
        let trim = Versioned { revision: Revision(9), value: trim };
        AllowedLoss { config: Revision(8), trim, from: Index(from) }
    }

    /// With `a` alone left of three, and this leave to lose what the others had.
    fn short(allowed_loss: Option<AllowedLoss>) -> SealSegment {
        edited(|p| {
            seal(p).holders.pop();
            seal(p).moved = vec![(node("b"), Revision(2)), (node("c"), Revision(3))];
            seal(p).allowed_loss = allowed_loss;
        })
    }

    /// The same of a log that is trimmed to offset 180: the segment, which starts at 100, ends there.
    fn trimmed() -> SealSegment {
        let mut proposal = short(Some(leave(50, 180)));
        seal(&mut proposal).at = at(80);
        proposal
    }

    #[test]
    fn a_loss_is_recorded_at_the_end_itself_with_the_settings_compared() {
        let short = short(Some(leave(50, 0)));
        assert_eq!(short.check(&Snapshot::default()), Ok(()));
        let txn = short.txn();
        assert!(txn.compares.contains(&(Key::Config(LogId(7)), Revision(8))));
        let loss = Some(Loss { from: Index(50), acknowledged: true, beyond: true });
        let lossy =
            |w: &Write| matches!(w, Write::Put(_, Record::Segment(s)) if s.loss == loss && s.settled());
        assert!(txn.writes.iter().any(lossy), "{txn:?}");
        let (_, created) = short.records();
        assert_eq!(created.expect("it creates").1.loss, None);
    }

    #[test]
    fn a_loss_takes_the_logs_leave_and_too_few_members() {
        let unsound = |p: &SealSegment| p.check(&Snapshot::default()).is_err();
        let with = |edit: fn(&mut SealOne)| {
            let mut proposal = short(Some(leave(50, 0)));
            edit(seal(&mut proposal));
            proposal
        };
        assert!(unsound(&with(|s| drop(s.moved.pop()))), "two members know where it ended");
        assert!(unsound(&with(|s| s.holders.clear())), "whoever is left does not hold it");
        assert!(!unsound(&with(|s| (s.holders.clear(), s.archived = Index(50)).0)), "unless it is archived");
        let mut now = Snapshot::default();
        let config = crate::meta::ConfigRecord::default();
        let config = Versioned { revision: Revision(8), value: Record::Config(config) };
        now.records.insert(Key::Config(LogId(7)), config);
        assert!(short(Some(leave(50, 0))).check(&now).is_err());
        assert_eq!(short(None).check(&now), Ok(()), "a seal without a loss rests on no leave");
    }

    #[test]
    fn a_loss_leaves_no_offset_below_the_trim_offset_to_be_given_out_again() {
        let unsound = |p: &SealSegment| p.check(&Snapshot::default()).is_err();
        let ending_at = |end| {
            let mut proposal = trimmed();
            seal(&mut proposal).at = at(end);
            proposal
        };
        assert!(!unsound(&ending_at(80)));
        assert!(unsound(&ending_at(50)), "offsets 150 to 179 are trimmed");
        assert!(unsound(&ending_at(81)), "offset 180 is not");
        let (log, created) = trimmed().records();
        assert_eq!((log.next_base, created.expect("it creates").1.base), (Offset(180), Offset(180)));
        for trim_offset in [0, 100, 150] {
            assert!(
                !unsound(&short(Some(leave(50, trim_offset)))),
                "{trim_offset} is not above what is left"
            );
        }
    }

    #[test]
    fn an_end_at_the_trim_offset_keeps_what_is_left_and_no_more() {
        let one = seal(&mut trimmed()).clone();
        assert_eq!((one.kept(), one.settled()), (Index(50), true));
        let record = one.record(Epoch(2));
        let loss = Some(Loss { from: Index(50), acknowledged: true, beyond: true });
        assert_eq!((record.loss, record.kept(), record.settled()), (loss, Some(Index(50)), true));
        let archived = |archived| {
            let mut proposal = trimmed();
            (seal(&mut proposal).holders, seal(&mut proposal).archived) = (vec![], Index(archived));
            seal(&mut proposal).moved.push((node("a"), Revision(1)));
            proposal
        };
        assert!(archived(49).check(&Snapshot::default()).is_err(), "nobody has the last one that is left");
        assert!(archived(51).check(&Snapshot::default()).is_err(), "more is left: it is archived");
        assert_eq!(archived(50).check(&Snapshot::default()), Ok(()));
        let record = seal(&mut archived(50)).record(Epoch(2));
        assert!(
            matches!(record.state, SegmentState::Sealed(_)),
            "a part stands for what is lost: {record:?}"
        );
        assert!(record.settled());
    }

    #[test]
    fn a_trim_that_was_checked_before_a_loss_is_refused_after_it() {
        let (key, trim) = (Key::Trim(LogId(7)), leave(50, 180).trim);
        let txn = trimmed().txn();
        assert!(txn.compares.contains(&(key.clone(), trim.revision)));
        assert!(txn.writes.contains(&Write::Put(key.clone(), Record::Trim(trim.value.clone()))));
        let rewritten = short(None).txn().writes.iter().any(|w| matches!(w, Write::Put(Key::Trim(_), _)));
        assert!(!rewritten, "without a loss no trim is in the way");
        let mut now = Snapshot::default();
        let mut shown = |trim_offset| {
            let value = Record::Trim(TrimRecord { trim_offset: Offset(trim_offset) });
            now.records.insert(key.clone(), Versioned { revision: trim.revision, value });
            trimmed().check(&now).is_ok()
        };
        assert!(shown(180) && !shown(170), "the record is not the one that it quotes");
    }

    #[test]
    fn a_seal_of_what_is_archived_is_archived_at_once() {
        let proposal = edited(|p| {
            seal(p).archived = Index(50);
            seal(p).holders.clear();
        });
        assert_eq!(proposal.check(&Snapshot::default()), Ok(()));
        let archived = Record::Segment(SegmentRecord {
            state: SegmentState::Archived(at(50)),
            ..proposal.seal.clone().expect("it seals").read.value
        });
        let txn = proposal.txn();
        assert!(txn.writes.iter().any(|w| matches!(w, Write::Put(_, r) if *r == archived)));
        assert!(txn.writes.contains(&Write::Delete(Key::Flush(LogId(7), SegmentNumber(3)))));
    }

    #[test]
    fn numbers_at_the_end_of_their_range_are_refused() {
        use crate::wire::message::Proposal;
        let range = |proposal: SealSegment| Proposal::Seal(Box::new(proposal)).check_range();
        assert_eq!(range(proposal()), Ok(()));
        assert!(range(edited(|p| seal(p).read.value.base = Offset(u64::MAX))).is_err());
        // Entries and segments still come behind the end.
        assert!(range(edited(|p| seal(p).at.end = Index(u64::MAX - 10 - 100))).is_err());
        assert!(range(edited(|p| seal(p).at.end = Index(u64::MAX / 2 - 99))).is_err());
        assert_eq!(range(edited(|p| seal(p).at.end = Index(u64::MAX / 2 - 100))), Ok(()));
        assert!(range(edited(|p| p.read.value.next_segment = SegmentNumber(u64::MAX - 10))).is_err());
        assert!(range(edited(|p| p.read.value.epoch = Epoch(u64::MAX - 10))).is_err());
        assert!(range(edited(|p| p.read.revision = Revision(0))).is_err(), "there is no such record");
        let lossy = |edit: fn(&mut AllowedLoss)| {
            let mut leave = leave(50, 180);
            edit(&mut leave);
            range(edited(|p| seal(p).allowed_loss = Some(leave)))
        };
        assert_eq!(lossy(|_| ()), Ok(()));
        assert!(lossy(|leave| leave.config = Revision(0)).is_err());
        assert!(lossy(|leave| leave.trim.revision = Revision(0)).is_err());
        assert!(range(edited(|p| p.read.value.next_segment = SegmentNumber(u64::MAX))).is_err());
        assert!(range(edited(|p| seal(p).segment = SegmentNumber(u64::MAX))).is_err());
        let mut read = proposal().read;
        read.value.epoch = Epoch(u64::MAX - 10);
        let takeover =
            crate::meta::takeover::TakeOver { log: LogId(1), read, writer: Nonce(1), holder: None };
        assert!(Proposal::TakeOver(takeover).check_range().is_err());
    }

    #[test]
    fn unsound_proposals_are_refused() {
        let mut now = Snapshot::default();
        let b = IncarnationRecord { incarnation: Incarnation(2), nonce: Nonce(5) };
        let b = Versioned { revision: Revision(2), value: Record::Incarnation(b) };
        now.records.insert(Key::Incarnation(node("b"), Level::Memory), b);
        let reborn = proposal().check(&now).expect_err("b was reborn");
        assert!(reborn.0.contains("node b"), "{reborn}");
        for (what, bad) in [
            ("below the archive", edited(|p| seal(p).archived = Index(51))),
            ("a stranger", edited(|p| seal(p).holders[0].0 = node("z"))),
            ("counted twice", edited(|p| seal(p).moved = vec![(node("a"), Revision(1))])),
            ("nobody holds it", edited(|p| seal(p).holders.clear())),
            ("not the newest", edited(|p| seal(p).segment = SegmentNumber(2))),
            ("not open", edited(|p| seal(p).read.value.state = SegmentState::Archived(at(1)))),
            ("of a later epoch", edited(|p| seal(p).read.value.epoch = Epoch(3))),
            ("a takeover as a roll", edited(|p| seal(p).recovery = false)),
            ("members where there are none", edited(|p| create(p).level = Level::Object)),
            ("no members", edited(|p| create(p).ensemble.clear())),
            ("one member", edited(|p| create(p).ensemble.truncate(1))),
            ("nothing", edited(|p| (p.seal, p.create) = (None, None))),
        ] {
            assert!(bad.check(&Snapshot::default()).is_err(), "{what}");
        }
    }

    /// Metadata in which log and segment are as this proposal has them.
    fn as_quoted(proposal: &SealSegment) -> Snapshot {
        let mut now = Snapshot::default();
        let (log, sealed) = (proposal.read.clone(), proposal.seal.as_ref().expect("it seals"));
        let log = Versioned { revision: log.revision, value: Record::Log(log.value) };
        now.records.insert(Key::Log(proposal.log), log);
        let segment = sealed.read.clone();
        let segment = Versioned { revision: segment.revision, value: Record::Segment(segment.value) };
        now.records.insert(Key::Segment(proposal.log, sealed.segment), segment);
        now
    }

    #[test]
    fn what_is_quoted_at_its_revision_is_quoted_as_it_is() {
        let now = as_quoted(&proposal());
        assert_eq!(proposal().check(&now), Ok(()));
        for (what, forged) in [
            ("a log's base", edited(|p| p.read.value.next_base = Offset(1000))),
            ("its chain", edited(|p| p.read.value.chain = Chain(1000))),
            ("its epoch", edited(|p| p.read.value.epoch = Epoch(9))),
            ("its writer", edited(|p| p.read.value.writer = Nonce(9))),
            ("a segment's base", edited(|p| seal(p).read.value.base = Offset(1000))),
            ("its epoch", edited(|p| seal(p).read.value.epoch = Epoch(0))),
            ("its level", edited(|p| seal(p).read.value.level = Level::Disk)),
            ("its ensemble", edited(|p| seal(p).read.value.ensemble.truncate(2))),
        ] {
            assert_eq!(forged.check(&Snapshot::default()), Ok(()), "{what}: it is sound in itself");
            let refused = forged.check(&now).map_err(|unsound| unsound.0);
            assert!(refused.is_err_and(|why| why.contains("not as proposed")), "{what}");
        }
    }

    #[test]
    fn a_member_in_its_listed_life_has_not_moved() {
        let alone = edited(|p| {
            seal(p).holders.pop();
            seal(p).moved = vec![(node("b"), Revision(2)), (node("c"), Revision(3))];
            p.create = None;
        });
        assert!(alone.seal.as_ref().is_some_and(SealOne::settled), "with one holder");
        let with_c_in = |incarnation| {
            let mut now = Snapshot::default();
            for (name, incarnation, revision) in [("b", 2, 2), ("c", incarnation, 3)] {
                let life = IncarnationRecord { incarnation: Incarnation(incarnation), nonce: Nonce(1) };
                let life = Versioned { revision: Revision(revision), value: Record::Incarnation(life) };
                now.records.insert(Key::Incarnation(node(name), Level::Memory), life);
            }
            alone.check(&now)
        };
        assert_eq!(with_c_in(2), Ok(()));
        let refused = with_c_in(1).expect_err("c may hold more");
        assert!(refused.0.contains("node c"), "{refused}");
    }

    #[test]
    fn no_machine_is_two_members() {
        let twice = edited(|p| {
            let ensemble = &mut create(p).ensemble;
            ensemble[1] = ensemble[0].clone();
        });
        let refused = twice.check(&Snapshot::default()).expect_err("its word would be a quorum");
        assert!(refused.0.contains("twice"), "{refused}");
    }

    #[test]
    fn only_a_recovery_gives_up_what_may_have_been() {
        let mut live = short(Some(leave(50, 0)));
        live.read.value.epoch = Epoch(1);
        seal(&mut live).recovery = false;
        let refused = live.check(&Snapshot::default()).expect_err("a live writer knows what it has assigned");
        assert!(refused.0.contains("not recovering"), "{refused}");
        let damaged = edited(|p| {
            seal(p).read.value.ensemble.truncate(1);
            seal(p).holders.truncate(1);
            seal(p).allowed_loss = Some(leave(50, 0));
        });
        assert!(damaged.check(&Snapshot::default()).is_err(), "an ensemble that has no quorum");
    }
}
