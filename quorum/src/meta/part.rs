//! T3: record a part. The commit point of an upload is this transaction, not the PUT. With the last
//! one of a sealed segment the election of its uploader goes too.
//!
//! Nodes record what they upload. At level `object` the writer uploads, and a node records it after
//! it has checked what the writer says.

use super::seal::Unsound;
use super::{
    Key, LogRecord, PartRecord, Record, SegmentRecord, SegmentState, Snapshot, Txn, Versioned, Write,
};
use crate::ids::{Index, Level, LogId, Offset, Revision, SegmentNumber};
use serde::{Deserialize, Serialize};

/// A part that lies in the store, to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordPart {
    /// The log.
    pub log: LogId,
    /// The segment.
    pub segment: SegmentNumber,
    /// Its record as it was read.
    pub read: Versioned<SegmentRecord>,
    /// First index of the part before this one, and the revision of its record; none at index 0.
    pub before: Option<(Index, Revision)>,
    /// First index of the part.
    pub first: Index,
    /// The part.
    pub part: PartRecord,
}

impl RecordPart {
    /// Whether a writer may propose this at all: a part with a range, of the open segment without
    /// members that it writes, behind the one before.
    #[must_use]
    pub fn is_of_writer(&self) -> bool {
        let segment = &self.read.value;
        let continues = match self.before {
            None => self.first == Index(0),
            Some((before, revision)) => before < self.first && revision > Revision(0),
        };
        let alone = segment.level == Level::Object && segment.ensemble.is_empty();
        let open = segment.state == SegmentState::Open && self.read.revision > Revision(0);
        alone && open && continues && self.part.at.end > self.first && !self.part.skip
    }

    /// Where the part ends in its log; none when there is no such offset.
    #[must_use]
    pub fn end(&self) -> Option<Offset> {
        Offset::checked_of(self.read.value.base, self.part.at.end)
    }

    /// Checks that what a writer proposes is true wherever the records that it names are still the
    /// ones in `now`. It is carried out with its own compares all the same. False when the log has
    /// another epoch than its segment: whoever made that will seal the segment.
    ///
    /// # Errors
    /// With what is wrong; such a proposal must not be carried out.
    pub fn check(&self, log: &LogRecord, now: &Snapshot) -> Result<bool, Unsound> {
        let (number, first) = (self.segment, self.first);
        let current = now.segment(&Key::Segment(self.log, number));
        if current.is_some_and(|segment| segment.revision == self.read.revision && segment != self.read) {
            return Err(Unsound(format!("the record of segment {number} is not as proposed")));
        }
        if let Some((before, revision)) = self.before
            && let Some(part) = now.part(&Key::Part(self.log, number, before))
            && part.revision == revision
            && part.value.at.end != first
        {
            let end = part.value.at.end;
            return Err(Unsound(format!(
                "a part at {first} of segment {number}, which has parts up to {end}"
            )));
        }
        Ok(log.epoch == self.read.value.epoch)
    }

    /// The transaction: the segment must be as it was read, the part before must end where this
    /// one starts, and none may start there.
    #[must_use]
    pub fn txn(&self) -> Txn {
        assert!(self.part.at.end > self.first, "a part has a range");
        assert_eq!(self.before.is_none(), self.first == Index(0), "a part continues the row of parts");
        let open = self.read.value.state == SegmentState::Open;
        assert!(!(open && self.part.skip), "what is lost of a segment is known once it is sealed");
        let segment = Key::Segment(self.log, self.segment);
        let part = Key::Part(self.log, self.segment, self.first);
        let mut txn = Txn::default()
            .when(segment.clone(), self.read.revision)
            .when(part.clone(), Revision(0))
            .put(part, Record::Part(self.part.clone()));
        if let Some((first, revision)) = self.before {
            txn = txn.when(Key::Part(self.log, self.segment, first), revision);
        }
        if let SegmentState::Sealed(seal) = &self.read.value.state {
            let kept = self.read.value.kept().expect("a sealed segment has an end");
            if self.part.skip {
                assert_eq!((self.first, self.part.at), (kept, seal.at), "a skip part has what is lost");
            } else {
                assert!(self.part.at.end <= kept, "a part ends at or below the segment's end, or its loss");
            }
            if self.part.at.end == seal.at.end {
                let state = SegmentState::Archived(seal.at);
                txn = txn.put(segment, Record::Segment(SegmentRecord { state, ..self.read.value.clone() }));
                txn.writes.push(Write::Delete(Key::Flush(self.log, self.segment)));
            }
        }
        txn
    }
}

/// A sealed segment whose parts reach its end already: only its state is left to change.
#[must_use]
pub fn mark_archived(
    log: LogId,
    segment: SegmentNumber,
    read: &Versioned<SegmentRecord>,
    archived: Index,
) -> Option<Txn> {
    let SegmentState::Sealed(seal) = &read.value.state else { return None };
    if seal.at.end != archived {
        return None;
    }
    let key = Key::Segment(log, segment);
    let record = SegmentRecord { state: SegmentState::Archived(seal.at), ..read.value.clone() };
    let mut txn = Txn::default().when(key.clone(), read.revision).put(key, Record::Segment(record));
    txn.writes.push(Write::Delete(Key::Flush(log, segment)));
    Some(txn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Chain, Epoch, Level, NodeId, Offset, Timestamp};
    use crate::meta::{Loss, Seal, SegmentEnd};

    fn at(end: u64) -> SegmentEnd {
        SegmentEnd { end: Index(end), chain: Chain(end.into()), last_timestamp: Timestamp(0) }
    }

    /// A part of a segment that ends at 10 and has lost everything from 4 on.
    fn record(first: u64, end: u64, skip: bool) -> RecordPart {
        let holders = vec![NodeId::new("a").expect("a valid name")];
        let seal = Seal { at: at(10), by_epoch: Epoch(2), holders, settled: false };
        let segment = SegmentRecord {
            epoch: Epoch(1),
            base: Offset(0),
            base_chain: Chain(0),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: vec![],
            state: SegmentState::Sealed(seal),
            loss: Some(Loss { from: Index(4), acknowledged: false, beyond: false }),
        };
        RecordPart {
            log: LogId(1),
            segment: SegmentNumber(2),
            read: Versioned { revision: Revision(5), value: segment },
            before: (first > 0).then_some((Index(0), Revision(6))),
            first: Index(first),
            part: PartRecord { at: at(end), bytes: 1, encoder: 1, skip },
        }
    }

    /// A part of an open segment that its writer archives.
    fn of_writer(first: u64) -> RecordPart {
        let mut record = record(first, first + 4, false);
        let segment = &mut record.read.value;
        (segment.level, segment.state, segment.loss) = (Level::Object, SegmentState::Open, None);
        record
    }

    fn log(epoch: u64) -> LogRecord {
        LogRecord {
            name: crate::ids::LogName::new("l").expect("a valid name"),
            epoch: Epoch(epoch),
            writer: crate::ids::Nonce(1),
            holder: None,
            next_segment: SegmentNumber(3),
            next_base: Offset(0),
            chain: Chain(0),
            last_timestamp: Timestamp(0),
            deleted: None,
        }
    }

    #[test]
    fn a_writer_records_parts_of_open_segments_without_members_only() {
        assert!(of_writer(0).is_of_writer() && of_writer(4).is_of_writer());
        let with = |edit: fn(&mut RecordPart)| {
            let mut part = of_writer(4);
            edit(&mut part);
            part.is_of_writer()
        };
        for (what, fine) in [
            ("nodes archive it", with(|p| p.read.value.level = Level::Disk)),
            ("a skip part", with(|p| p.part.skip = true)),
            ("no range", with(|p| p.part.at.end = p.first)),
            ("a gap before it", with(|p| p.before = None)),
            ("behind itself", with(|p| p.before = Some((Index(4), Revision(6))))),
            ("a part that there is not", with(|p| p.before = Some((Index(0), Revision(0))))),
            ("no record", with(|p| p.read.revision = Revision(0))),
            ("sealed", with(|p| p.read.value.state = record(0, 4, false).read.value.state)),
        ] {
            assert!(!fine, "{what}");
        }
        assert!(!record(0, 4, false).is_of_writer());
    }

    #[test]
    fn what_a_writer_says_of_a_part_is_checked() {
        let part = of_writer(4);
        let before = PartRecord { at: at(4), bytes: 1, encoder: 1, skip: false };
        let now = |end: u64, segment: &Versioned<SegmentRecord>| {
            let mut now = Snapshot::default();
            let segment =
                Versioned { revision: segment.revision, value: Record::Segment(segment.value.clone()) };
            now.records.insert(Key::Segment(LogId(1), SegmentNumber(2)), segment);
            let value = Record::Part(PartRecord { at: at(end), ..before.clone() });
            let key = Key::Part(LogId(1), SegmentNumber(2), Index(0));
            now.records.insert(key, Versioned { revision: Revision(6), value });
            now
        };
        assert_eq!(part.check(&log(1), &now(4, &part.read)), Ok(true));
        assert_eq!(part.check(&log(2), &now(4, &part.read)), Ok(false), "the log has been taken over");
        assert!(part.check(&log(1), &now(3, &part.read)).is_err(), "a gap");
        let mut other = part.read.clone();
        other.value.base = Offset(9);
        assert!(part.check(&log(1), &now(4, &other)).is_err(), "another record at the same revision");
        assert!(
            part.txn().compares.contains(&(Key::Part(LogId(1), SegmentNumber(2), Index(4)), Revision(0)))
        );
    }

    #[test]
    fn a_skip_part_completes_a_segment_with_a_loss_which_keeps_it() {
        let data = record(0, 4, false).txn();
        assert_eq!(data.writes.len(), 1, "the segment is not archived yet: {data:?}");
        let skip = record(4, 10, true);
        let loss = skip.read.value.loss;
        let archived = |write: &Write| matches!(write, Write::Put(_, Record::Segment(s)) if s.state == SegmentState::Archived(at(10)) && s.loss == loss);
        assert!(skip.txn().writes.iter().any(archived));
    }

    #[test]
    #[should_panic(expected = "or its loss")]
    fn data_are_never_recorded_beyond_a_loss() {
        drop(record(0, 6, false).txn());
    }

    #[test]
    #[should_panic(expected = "what is lost")]
    fn a_skip_part_has_exactly_what_is_lost() {
        drop(record(3, 10, true).txn());
    }
}
