//! What a read of the metadata shows.

use super::key::Key;
use super::record::{LogRecord, Record, SegmentRecord, Versioned};
use crate::ids::{Index, LogId, Offset, Revision, SegmentNumber};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Revision of a whole store; grows with every write to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreRevision(pub u64);

/// Several keys as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// The moment.
    pub at: StoreRevision,
    /// Those of the keys asked for that exist.
    pub records: BTreeMap<Key, Versioned<Record>>,
}

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $record:ty) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self, key: &Key) -> Option<Versioned<$record>> {
            match self.records.get(key)? {
                Versioned { revision, value: Record::$variant(value) } => {
                    Some(Versioned { revision: *revision, value: value.clone() })
                }
                _ => None,
            }
        }
    };
}

impl Snapshot {
    /// The revision of `key`, 0 when it is absent: what a transaction compares.
    #[must_use]
    pub fn revision(&self, key: &Key) -> Revision {
        self.records.get(key).map_or(Revision(0), |record| record.revision)
    }

    getter! {
        /// The log record under `key`, if there is one.
        log, Log, LogRecord
    }
    getter! {
        /// The segment record under `key`, if there is one.
        segment, Segment, SegmentRecord
    }
    getter! {
        /// The incarnation record under `key`, if there is one.
        incarnation, Incarnation, super::record::IncarnationRecord
    }
    getter! {
        /// The part record under `key`, if there is one.
        part, Part, super::record::PartRecord
    }
    getter! {
        /// The record of the first segment under `key`, if there is one.
        first, First, super::record::FirstRecord
    }
    getter! {
        /// The trim record under `key`, if there is one.
        trim, Trim, super::record::TrimRecord
    }

    /// The end of the unbroken row of parts of a segment, from index 0: its `archived` watermark.
    #[must_use]
    pub fn archived(&self, log: LogId, segment: SegmentNumber) -> Index {
        let mut archived = Index(0);
        while let Some(part) = self.part(&Key::Part(log, segment, archived)) {
            assert!(
                part.value.at.end > archived,
                "part at {archived} of segment {segment} of log {log} is empty"
            );
            archived = part.value.at.end;
        }
        archived
    }
}

/// A segment as a client needs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentView {
    /// Its record.
    pub record: Versioned<SegmentRecord>,
    /// Index below which it is in object storage.
    pub archived: Index,
}

/// A log as a client needs it: its record and its segments from some number on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogView {
    /// The log.
    pub log: LogId,
    /// Its record.
    pub record: Versioned<LogRecord>,
    /// Durability of its next segments.
    pub durability: crate::ids::Level,
    /// Entries below it are no longer wanted.
    pub trim_offset: Offset,
    /// The first segment that there is.
    pub first_segment: SegmentNumber,
    /// The segments asked for.
    pub segments: BTreeMap<SegmentNumber, SegmentView>,
}

impl LogView {
    /// The newest segment, when it is still open.
    #[must_use]
    pub fn open_segment(&self) -> Option<(SegmentNumber, &SegmentView)> {
        let (number, view) = self.segments.last_key_value()?;
        let newest = number.plus(1) == self.record.value.next_segment;
        let open = matches!(view.record.value.state, super::record::SegmentState::Open);
        (newest && open).then_some((*number, view))
    }
}
