//! Deleting a log: a tombstone in place of its record, at a new epoch that nobody writes in. Its
//! name is free at once; its segments, and in the end the tombstone, are deleted afterwards.

use super::{FirstRecord, Key, LogRecord, Range, Record, SegmentRecord, Txn, Versioned, Write};
use crate::ids::{LogId, Nonce, SegmentNumber, Timestamp};
use serde::{Deserialize, Serialize};

/// A tombstone for a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeleteLog {
    /// The log.
    pub log: LogId,
    /// Its record as it was read.
    pub read: Versioned<LogRecord>,
    /// A fresh value: the deletion is mine if it is in the record.
    pub writer: Nonce,
    /// When, by the clock of whoever deletes it.
    pub at: Timestamp,
}

impl DeleteLog {
    /// The record that the deletion makes.
    #[must_use]
    pub fn record(&self) -> LogRecord {
        LogRecord {
            epoch: self.read.value.epoch.plus(1),
            writer: self.writer,
            holder: None,
            deleted: Some(self.at),
            ..self.read.value.clone()
        }
    }

    /// The transaction: the record must be as it was read, and so the name is still this log's.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let key = Key::Log(self.log);
        let mut txn =
            Txn::default().when(key.clone(), self.read.revision).put(key, Record::Log(self.record()));
        txn.writes.push(Write::Delete(Key::Name(self.read.value.name.clone())));
        txn
    }
}

/// Deletes the first segment of a deleted log, whatever state it is in: `None` when the log is not
/// deleted. Whatever would be recorded of the segment afterwards is refused, for its record is gone.
#[must_use]
pub fn delete_segment_of_deleted(
    log: LogId,
    tombstone: &Versioned<LogRecord>,
    first: &Versioned<FirstRecord>,
    segment: &Versioned<SegmentRecord>,
) -> Option<Txn> {
    tombstone.value.deleted?;
    let number = first.value.first_segment;
    let txn = Txn::default()
        .when(Key::Log(log), tombstone.revision)
        .when(Key::First(log), first.revision)
        .when(Key::Segment(log, number), segment.revision);
    Some(without_segment(txn, log, number))
}

/// Deletes what is left of a deleted log: `None` while it has segments, or is not deleted.
#[must_use]
pub fn delete_tombstone(
    log: LogId,
    tombstone: &Versioned<LogRecord>,
    first: &Versioned<FirstRecord>,
) -> Option<Txn> {
    tombstone.value.deleted?;
    if first.value.first_segment < tombstone.value.next_segment {
        return None;
    }
    let mut txn =
        Txn::default().when(Key::Log(log), tombstone.revision).when(Key::First(log), first.revision);
    txn.writes.extend([Key::Config(log), Key::Trim(log), Key::First(log), Key::Log(log)].map(Write::Delete));
    Some(txn)
}

/// Raises the number of the first segment behind `number`, and deletes that with its parts.
pub(super) fn without_segment(mut txn: Txn, log: LogId, number: SegmentNumber) -> Txn {
    let raised = Record::First(FirstRecord { first_segment: number.plus(1) });
    txn = txn.put(Key::First(log), raised);
    txn.writes.push(Write::Delete(Key::Segment(log, number)));
    txn.writes.push(Write::DeleteRange(Range::Parts(log, number)));
    txn
}
