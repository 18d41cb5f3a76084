//! T4: raise a log's trim offset. T5: delete its first segment, when it lies wholly below.

use super::{
    FirstRecord, Key, Range, Record, SegmentRecord, SegmentState, TrimRecord, Txn, Versioned, Write,
};
use crate::ids::{LogId, Offset};

/// T4: `None` when the log is trimmed that far already. The caller has made sure that `to` is not
/// above the visible tail.
#[must_use]
pub fn raise_trim(log: LogId, read: &Versioned<TrimRecord>, to: Offset) -> Option<Txn> {
    let key = Key::Trim(log);
    (to > read.value.trim_offset).then(|| {
        let record = Record::Trim(TrimRecord { trim_offset: to });
        Txn::default().when(key.clone(), read.revision).put(key, record)
    })
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
    if segment.value.base.plus(at.end.0) > trim.value.trim_offset {
        return None;
    }
    let number = first.value.first_segment;
    let raised = Record::First(FirstRecord { first_segment: number.plus(1) });
    let mut txn = Txn::default()
        .when(Key::First(log), first.revision)
        .when(Key::Trim(log), trim.revision)
        .when(Key::Segment(log, number), segment.revision)
        .put(Key::First(log), raised);
    txn.writes.push(Write::Delete(Key::Segment(log, number)));
    txn.writes.push(Write::DeleteRange(Range::Parts(log, number)));
    Some(txn)
}
