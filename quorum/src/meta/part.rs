//! T3: record a part. The commit point of an upload is this transaction, not the PUT. With the last
//! one of a sealed segment the election of its uploader goes too.

use super::{Key, PartRecord, Record, SegmentRecord, SegmentState, Txn, Versioned, Write};
use crate::ids::{Index, LogId, Revision, SegmentNumber};

/// A part that lies in the store, to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
            loss: Some(Loss { from: Index(4), acknowledged: false }),
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
