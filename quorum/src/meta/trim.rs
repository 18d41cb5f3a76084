//! T4: raise a log's trim offset. T5: delete its first segment, when it lies wholly below.

use super::delete::without_segment;
use super::{FirstRecord, Key, Record, SegmentRecord, SegmentState, TrimRecord, Txn, Versioned};
use crate::ids::{LogId, Offset};
use crate::mutation::{Mutation, on};
use serde::{Deserialize, Serialize};

/// T4. Whoever proposes it has made sure that `to` is not above the visible tail.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TrimLog {
    /// The log.
    pub log: LogId,
    /// Its trim record as it was read.
    pub read: Versioned<TrimRecord>,
    /// Entries below this offset are no longer wanted. Above the one that was read.
    pub to: Offset,
}

impl TrimLog {
    /// The transaction: the record must be as it was read.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let key = Key::Trim(self.log);
        let record = Record::Trim(TrimRecord { trim_offset: self.to });
        Txn::default().when(key.clone(), self.read.revision).put(key, record)
    }
}

/// T5: `None` unless the first segment is archived and wholly below the trim offset. Its objects
/// are deleted afterwards. One that ends right there stays for as long as readers are to be told that
/// acknowledged entries behind it may be lost, though these were never trimmed.
#[must_use]
pub fn delete_first_segment(
    log: LogId,
    first: &Versioned<FirstRecord>,
    trim: &Versioned<TrimRecord>,
    segment: &Versioned<SegmentRecord>,
) -> Option<Txn> {
    let SegmentState::Archived(at) = &segment.value.state else { return None };
    let (end, trimmed) = (segment.value.base.plus(at.end.0), trim.value.trim_offset);
    let lossy = segment.value.loss.is_some_and(|loss| loss.beyond);
    let kept = end > trimmed || lossy && end == trimmed;
    if kept && !on(Mutation::DeletesUntrimmed) {
        return None;
    }
    let number = first.value.first_segment;
    let txn = Txn::default()
        .when(Key::First(log), first.revision)
        .when(Key::Trim(log), trim.revision)
        .when(Key::Segment(log, number), segment.revision);
    Some(without_segment(txn, log, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Chain, Epoch, Index, Level, Revision, SegmentNumber, Timestamp};
    use crate::meta::{Loss, SegmentEnd};

    /// Whether a segment from offset 100 to 150 is deleted.
    fn is_deleted(trim_offset: u64, loss: Option<Loss>) -> bool {
        let at = SegmentEnd { end: Index(50), chain: Chain(9), last_timestamp: Timestamp(1) };
        let segment = SegmentRecord {
            epoch: Epoch(1),
            base: Offset(100),
            base_chain: Chain(1),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: vec![],
            state: SegmentState::Archived(at),
            loss,
        };
        let first = FirstRecord { first_segment: SegmentNumber(3) };
        let first = Versioned { revision: Revision(1), value: first };
        let trim = TrimRecord { trim_offset: Offset(trim_offset) };
        let trim = Versioned { revision: Revision(2), value: trim };
        let segment = Versioned { revision: Revision(3), value: segment };
        delete_first_segment(LogId(7), &first, &trim, &segment).is_some()
    }

    #[test]
    fn what_lies_wholly_below_the_trim_offset_is_deleted() {
        assert!(!is_deleted(149, None) && is_deleted(150, None));
    }

    #[test]
    fn a_loss_behind_the_trim_offset_is_told_until_the_log_is_trimmed_further() {
        let lossy = |trim_offset, acknowledged, beyond| {
            is_deleted(trim_offset, Some(Loss { from: Index(20), acknowledged, beyond }))
        };
        assert!(!lossy(150, true, true) && lossy(151, true, true));
        assert!(lossy(150, true, false) && lossy(150, false, false), "nothing behind the end is lost");
    }
}
