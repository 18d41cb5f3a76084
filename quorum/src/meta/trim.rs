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
/// are deleted afterwards.
#[must_use]
pub fn delete_first_segment(
    log: LogId,
    first: &Versioned<FirstRecord>,
    trim: &Versioned<TrimRecord>,
    segment: &Versioned<SegmentRecord>,
) -> Option<Txn> {
    let SegmentState::Archived(at) = &segment.value.state else { return None };
    if segment.value.base.plus(at.end.0) > trim.value.trim_offset && !on(Mutation::DeletesUntrimmed) {
        return None;
    }
    let number = first.value.first_segment;
    let txn = Txn::default()
        .when(Key::First(log), first.revision)
        .when(Key::Trim(log), trim.revision)
        .when(Key::Segment(log, number), segment.revision);
    Some(without_segment(txn, log, number))
}
