//! Records that can be read and that the protocol never writes: an operator, a backup or a bug did.
//!
//! What counts on records counts on what is checked here. Whoever reads some of a log for the first
//! time (a node that learns of a segment, or shows a log; a client that is shown it) checks them, and
//! leaves alone what is damaged: nothing of it is concluded, forgotten or changed. Other logs go on.

use super::{IncarnationRecord, Key, LogRecord, LogView, PartRow, SegmentRecord, SegmentState};
use crate::ids::{Incarnation, Index, Level, LogId, NodeId, Offset, SegmentNumber};
use crate::limits::{ACK_QUORUM, MEMBERS_MAX};
use crate::quorums::fits;

/// No number that somebody else has given, and that is counted on from, is above it: what comes behind
/// never overflows.
pub(crate) const FAR: u64 = u64::MAX / 2;

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "metadata are damaged: {whose} {what}; put the record back as it was, from a backup: until then nothing is done with it"
)]
pub struct Damage {
    /// Where the record is.
    pub key: Key,
    whose: String,
    what: String,
}

impl Damage {
    fn of_log(log: LogId, what: String) -> Self {
        Self { key: Key::Log(log), whose: format!("the record of log {log}"), what }
    }

    fn of_segment(log: LogId, number: SegmentNumber, what: String) -> Self {
        let whose = format!("the record of segment {number} of log {log}");
        Self { key: Key::Segment(log, number), whose, what }
    }
}

impl IncarnationRecord {
    /// Checks the record of the life of a node's buffer of a level.
    ///
    /// # Errors
    /// When the protocol never writes such a record.
    pub fn check(&self, node: &NodeId, level: Level) -> Result<(), Damage> {
        let Incarnation(found) = self.incarnation;
        if (1..=FAR).contains(&found) {
            return Ok(());
        }
        let whose = format!("the record of the {level} buffer of node {node}");
        let what = format!("has incarnation {found}, expected 1 to {FAR}");
        Err(Damage { key: Key::Incarnation(node.clone(), level), whose, what })
    }
}

/// What is wrong with a number that is counted on from, if anything is.
fn far(name: &str, number: u64) -> Option<String> {
    (number > FAR).then(|| format!("has {name} {number}, expected {FAR} at most"))
}

impl LogRecord {
    /// Checks the record of a log.
    ///
    /// # Errors
    /// When the protocol never writes such a record.
    pub fn check(&self, log: LogId) -> Result<(), Damage> {
        let what = far("epoch", self.epoch.0)
            .or_else(|| far("next segment", self.next_segment.0))
            .or_else(|| far("next base", self.next_base.0));
        what.map_or(Ok(()), |what| Err(Damage::of_log(log, what)))
    }
}

impl SegmentRecord {
    /// Checks the record of a segment by itself.
    ///
    /// # Errors
    /// When the protocol never writes such a record.
    pub fn check(&self, log: LogId, number: SegmentNumber) -> Result<(), Damage> {
        let what = far("number", number.0)
            .or_else(|| far("epoch", self.epoch.0))
            .or_else(|| self.wrong_ensemble())
            .or_else(|| self.wrong_end());
        what.map_or(Ok(()), |what| Err(Damage::of_segment(log, number, what)))
    }

    fn wrong_ensemble(&self) -> Option<String> {
        let (level, count) = (self.level, self.ensemble.len());
        if !fits(level, count) {
            let expected = if fits(level, 0) { "0".into() } else { format!("{ACK_QUORUM} to {MEMBERS_MAX}") };
            return Some(format!("has {count} members at level {level}, expected {expected}"));
        }
        for (at, member) in self.ensemble.iter().enumerate() {
            if self.ensemble[..at].iter().any(|other| other.node == member.node) {
                return Some(format!("has node {} among its members twice, expected it once", member.node));
            }
            if member.incarnation == Incarnation(0) {
                return Some(format!("has node {} in incarnation 0, expected 1 or more", member.node));
            }
        }
        None
    }

    fn wrong_end(&self) -> Option<String> {
        let Some(at) = self.state.end() else {
            let loss = self.loss.map(|loss| loss.from);
            let wrong = loss.map(|from| format!("is open and has a loss from {from}, expected none"));
            return wrong.or_else(|| far("base", self.base.0));
        };
        if Offset::checked_of(self.base, at.end).is_none_or(|end| end.0 > FAR) {
            let (base, end) = (self.base, at.end);
            return Some(format!("has base {base} and end {end}, expected a sum of {FAR} at most"));
        }
        if let Some(loss) = self.loss.filter(|loss| loss.from > at.end) {
            let (from, end) = (loss.from, at.end);
            return Some(format!("has a loss from {from}, expected none behind its end {end}"));
        }
        let SegmentState::Sealed(seal) = &self.state else { return None };
        if seal.by_epoch < self.epoch {
            let (by, epoch) = (seal.by_epoch, self.epoch);
            return Some(format!("is sealed by epoch {by}, expected its own, {epoch}, or a later one"));
        }
        let stranger = |holder: &&NodeId| self.member(holder).is_none();
        let stranger = seal.holders.iter().find(stranger)?;
        Some(format!("has holder {stranger}, expected members of it alone"))
    }

    /// Checks the record against how far the segment is archived.
    fn check_archived(&self, log: LogId, number: SegmentNumber, archived: Index) -> Result<(), Damage> {
        let damaged = |what: String| Err(Damage::of_segment(log, number, what));
        match self.state.end().map(|at| at.end) {
            Some(end) if end < archived => {
                damaged(format!("ends at {end}, expected no end below {archived}, where its parts end"))
            }
            None if Offset::checked_of(self.base, archived).is_none_or(|end| end.0 > FAR) => {
                let base = self.base;
                damaged(format!(
                    "has base {base} and parts up to {archived}, expected a sum of {FAR} at most"
                ))
            }
            _ => Ok(()),
        }
    }
}

impl PartRow {
    /// Checks the record of a segment, by itself and against the row of its parts as it was at the
    /// same moment or before.
    ///
    /// # Errors
    /// When the protocol never writes such records.
    pub fn check(&self, log: LogId, number: SegmentNumber, record: &SegmentRecord) -> Result<(), Damage> {
        record.check(log, number)?;
        record.check_archived(log, number, self.archived())
    }
}

impl LogView {
    /// Checks everything that the view shows: each record by itself, and that the segments follow each
    /// other as they do in a log.
    ///
    /// # Errors
    /// At the first record that the protocol never writes.
    pub fn check(&self) -> Result<(), Damage> {
        let (log, record) = (self.log, &self.record.value);
        record.check(log)?;
        let mut before: Option<(SegmentNumber, &SegmentRecord)> = None;
        for (number, seen) in &self.segments {
            let segment = &seen.record.value;
            segment.check(log, *number)?;
            segment.check_archived(log, *number, seen.archived.end)?;
            let damaged = |what: String| Err(Damage::of_segment(log, *number, what));
            if *number >= record.next_segment {
                let next = record.next_segment;
                return damaged(format!("is there, expected none from the log's next segment, {next}, on"));
            }
            if segment.epoch > record.epoch {
                let (found, epoch) = (segment.epoch, record.epoch);
                return damaged(format!("has epoch {found}, expected the log's, {epoch}, or an earlier one"));
            }
            if let Some((_, older)) = before.filter(|(at, _)| at.plus(1) == *number) {
                self.check_next(*number, older, segment)?;
            }
            before = Some((*number, segment));
        }
        match before.filter(|(newest, _)| newest.plus(1) == record.next_segment) {
            Some((number, newest)) => {
                let end = newest.state.end().map_or(Index(0), |at| at.end);
                let (expected, found) = (Offset::of(newest.base, end), record.next_base);
                if found != expected {
                    let what =
                        format!("has next base {found}, expected {expected}, as segment {number} says");
                    return Err(Damage::of_log(log, what));
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Checks a segment against the one before it.
    fn check_next(
        &self,
        number: SegmentNumber,
        before: &SegmentRecord,
        segment: &SegmentRecord,
    ) -> Result<(), Damage> {
        let damaged = |what: String| Err(Damage::of_segment(self.log, number, what));
        let Some(end) = before.state.end().map(|at| at.end) else {
            return damaged("is there, expected none behind a segment that is open".to_owned());
        };
        let (expected, found) = (Offset::of(before.base, end), segment.base);
        if found != expected {
            return damaged(format!("has base {found}, expected {expected}, where the one before ends"));
        }
        if segment.epoch < before.epoch {
            let (found, epoch) = (segment.epoch, before.epoch);
            return damaged(format!(
                "has epoch {found}, expected {epoch} or a later one, as the one before has"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Chain, Epoch, LogName, Nonce, Revision, Timestamp};
    use crate::meta::{
        ConfigRecord, Loss, Member, PartRecord, Seal, SegmentEnd, SegmentView, TrimRecord, Versioned,
    };

    const LOG: LogId = LogId(7);
    const NUMBER: SegmentNumber = SegmentNumber(3);

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn member(name: &str, incarnation: u64) -> Member {
        Member { node: node(name), incarnation: Incarnation(incarnation) }
    }

    fn at(end: u64) -> SegmentEnd {
        SegmentEnd { end: Index(end), chain: Chain(9), last_timestamp: Timestamp(1) }
    }

    fn record(state: SegmentState) -> SegmentRecord {
        SegmentRecord {
            epoch: Epoch(2),
            base: Offset(100),
            base_chain: Chain(1),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: ["a", "b", "c"].map(|name| member(name, 1)).to_vec(),
            state,
            loss: None,
        }
    }

    fn sealed(end: u64) -> SegmentState {
        SegmentState::Sealed(Seal {
            at: at(end),
            by_epoch: Epoch(2),
            holders: vec![node("a")],
            settled: false,
        })
    }

    fn edited(state: SegmentState, edit: impl FnOnce(&mut SegmentRecord)) -> SegmentRecord {
        let mut record = record(state);
        edit(&mut record);
        record
    }

    fn ensemble(level: Level, members: &[Member]) -> SegmentRecord {
        edited(SegmentState::Open, |r| (r.level, r.ensemble) = (level, members.to_vec()))
    }

    /// The record by itself, and with parts up to index 20.
    fn found(record: &SegmentRecord) -> [Result<(), Damage>; 2] {
        let part = PartRecord { at: at(20), bytes: 1, encoder: 1, skip: false };
        let row = PartRow { parts: vec![(Index(0), Versioned { revision: Revision(5), value: part })] };
        [record.check(LOG, NUMBER), row.check(LOG, NUMBER, record)]
    }

    #[test]
    fn what_the_protocol_writes_is_sound() {
        let loss = |from| Some(Loss { from: Index(from), acknowledged: false, beyond: false });
        for sound in [
            record(SegmentState::Open),
            record(sealed(20)),
            record(SegmentState::Archived(at(50))),
            edited(sealed(50), |r| r.loss = loss(50)),
            edited(SegmentState::Archived(at(50)), |r| r.loss = loss(30)),
            ensemble(Level::Disk, &[member("a", 1), member("b", 9)]),
            ensemble(Level::Object, &[]),
        ] {
            assert_eq!(found(&sound), [Ok(()), Ok(())], "{sound:?}");
        }
    }

    #[test]
    fn a_damaged_record_of_a_segment_is_told_with_what_was_expected() {
        let seal = |edit: fn(&mut Seal)| {
            edited(sealed(50), |r| {
                let SegmentState::Sealed(seal) = &mut r.state else { panic!("{r:?} is sealed") };
                edit(seal);
            })
        };
        let (a, loss) =
            (member("a", 1), |from| Some(Loss { from: Index(from), acknowledged: true, beyond: false }));
        for (damaged, what) in [
            (ensemble(Level::Memory, &[]), "has 0 members at level memory, expected 2 to 3"),
            (ensemble(Level::Disk, std::slice::from_ref(&a)), "has 1 members at level disk, expected 2 to 3"),
            (ensemble(Level::Memory, &["a", "b", "c", "d"].map(|n| member(n, 1))), "has 4 members"),
            (
                ensemble(Level::Object, &[a.clone(), member("b", 1)]),
                "has 2 members at level object, expected 0",
            ),
            (ensemble(Level::Memory, &[a.clone(), member("a", 2)]), "has node a among its members twice"),
            (
                ensemble(Level::Memory, &[a, member("b", 0)]),
                "has node b in incarnation 0, expected 1 or more",
            ),
            (edited(SegmentState::Open, |r| r.loss = loss(3)), "is open and has a loss from 3"),
            (
                edited(sealed(50), |r| r.loss = loss(51)),
                "has a loss from 51, expected none behind its end 50",
            ),
            (seal(|seal| seal.by_epoch = Epoch(1)), "is sealed by epoch 1, expected its own, 2"),
            (seal(|seal| seal.holders.push(node("z"))), "has holder z, expected members"),
            (edited(SegmentState::Open, |r| r.epoch = Epoch(FAR + 1)), "has epoch 9223372036854775808"),
            (edited(SegmentState::Open, |r| r.base = Offset(u64::MAX)), "has base 18446744073709551615"),
            (record(sealed(u64::MAX)), "has base 100 and end 18446744073709551615"),
        ] {
            let [alone, _] = found(&damaged);
            let damage = alone.expect_err(what);
            assert_eq!(damage.key, Key::Segment(LOG, NUMBER));
            let text = damage.to_string();
            assert!(text.contains("segment 3 of log 7") && text.contains(what), "{text}, not {what}");
            assert!(text.contains("from a backup"), "what is to be done: {text}");
        }
        assert!(record(SegmentState::Open).check(LOG, SegmentNumber(u64::MAX)).is_err());
    }

    #[test]
    fn an_end_below_what_is_archived_is_damage() {
        for state in [sealed(19), SegmentState::Archived(at(19))] {
            let [alone, archived] = found(&record(state));
            assert_eq!(alone, Ok(()));
            let text = archived.expect_err("it ends below its parts").to_string();
            assert!(text.contains("ends at 19, expected no end below 20"), "{text}");
        }
    }

    #[test]
    fn a_life_that_cannot_be_counted_on_from_is_damage() {
        let check = |incarnation| {
            let life = IncarnationRecord { incarnation: Incarnation(incarnation), nonce: Nonce(1) };
            life.check(&node("a"), Level::Disk)
        };
        assert_eq!((check(1), check(FAR)), (Ok(()), Ok(())));
        for damaged in [0, FAR + 1, u64::MAX] {
            let damage = check(damaged).expect_err("it is damaged");
            assert_eq!(damage.key, Key::Incarnation(node("a"), Level::Disk));
            assert!(
                damage.to_string().contains(&format!("has incarnation {damaged}, expected 1")),
                "{damage}"
            );
        }
    }

    /// Segments 3 and 4: the first ends at offset 150, the second is open behind it.
    fn view() -> LogView {
        let log = LogRecord {
            name: LogName::new("l").expect("a valid name"),
            epoch: Epoch(4),
            writer: Nonce(1),
            holder: None,
            next_segment: SegmentNumber(5),
            next_base: Offset(150),
            chain: Chain(9),
            last_timestamp: Timestamp(1),
            deleted: None,
        };
        fn versioned<T>(value: T) -> Versioned<T> {
            Versioned { revision: Revision(1), value }
        }
        let seen = |record: SegmentRecord, archived| SegmentView {
            record: versioned(record),
            archived: at(archived),
            last: None,
        };
        let open = edited(SegmentState::Open, |r| (r.base, r.epoch) = (Offset(150), Epoch(4)));
        LogView {
            log: LOG,
            record: versioned(log),
            config: versioned(ConfigRecord::default()),
            trim: versioned(TrimRecord::default()),
            first_segment: SegmentNumber(0),
            segments: [(NUMBER, seen(record(sealed(50)), 20)), (NUMBER.plus(1), seen(open, 0))].into(),
        }
    }

    #[test]
    fn segments_that_do_not_follow_each_other_are_damage() {
        assert_eq!(view().check(), Ok(()));
        let newest = |view: &mut LogView, edit: fn(&mut SegmentRecord)| {
            let segment = view.segments.get_mut(&NUMBER.plus(1)).expect("it is there");
            edit(&mut segment.record.value);
        };
        let oldest = |view: &mut LogView, edit: fn(&mut SegmentView)| {
            edit(view.segments.get_mut(&NUMBER).expect("it is there"));
        };
        let log = |view: &mut LogView, edit: fn(&mut LogRecord)| edit(&mut view.record.value);
        type Edit<'a> = Box<dyn Fn(&mut LogView) + 'a>;
        let (first, second) = (Key::Segment(LOG, NUMBER), Key::Segment(LOG, NUMBER.plus(1)));
        let cases: Vec<(&Key, &str, Edit<'_>)> = vec![
            (&second, "has base 149", Box::new(|v| newest(v, |r| r.base = Offset(149)))),
            (&second, "has epoch 1", Box::new(|v| newest(v, |r| r.epoch = Epoch(1)))),
            (&second, "has epoch 5", Box::new(|v| newest(v, |r| r.epoch = Epoch(5)))),
            (&second, "has 1 members", Box::new(|v| newest(v, |r| r.ensemble.truncate(1)))),
            (&second, "open", Box::new(|v| oldest(v, |s| s.record.value.state = SegmentState::Open))),
            (&second, "next segment", Box::new(|v| log(v, |r| r.next_segment = SegmentNumber(4)))),
            (&first, "ends at 50", Box::new(|v| oldest(v, |s| s.archived = at(51)))),
            (&Key::Log(LOG), "has next base 151", Box::new(|v| log(v, |r| r.next_base = Offset(151)))),
            (&Key::Log(LOG), "has epoch", Box::new(|v| log(v, |r| r.epoch = Epoch(u64::MAX)))),
        ];
        for (key, what, edit) in cases {
            let mut view = view();
            edit(&mut view);
            let damage = view.check().expect_err(what);
            assert!(damage.key == *key && damage.to_string().contains(what), "{damage}, not {what}");
        }
    }
}
