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
        assert!(self.part.at.end > self.first, "a part holds at least one batch");
        assert_eq!(self.before.is_none(), self.first == Index(0), "a part continues the row of parts");
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
            assert!(self.part.at.end <= seal.at.end, "a part ends at or below the segment's end");
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
