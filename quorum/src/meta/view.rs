//! What a read of the metadata shows.

use super::key::Key;
use super::record::{ConfigRecord, LogRecord, Record, SegmentEnd, SegmentRecord, TrimRecord, Versioned};
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
        /// The settings under `key`, if there are any.
        config, Config, ConfigRecord
    }
    getter! {
        /// The trim record under `key`, if there is one.
        trim, Trim, TrimRecord
    }

    /// The unbroken row of a segment's parts, from index 0.
    ///
    /// # Errors
    /// With the first index of a part that does not end behind it: damaged metadata.
    pub fn row(&self, log: LogId, segment: SegmentNumber) -> Result<PartRow, Index> {
        let mut row = PartRow::default();
        while let Some(part) = self.part(&Key::Part(log, segment, row.archived())) {
            let first = row.archived();
            if part.value.at.end <= first {
                return Err(first);
            }
            row.parts.push((first, part));
        }
        Ok(row)
    }
}

/// The parts of a segment that follow each other without a gap, from index 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PartRow {
    /// Each with its first index.
    pub parts: Vec<(Index, Versioned<super::record::PartRecord>)>,
}

impl PartRow {
    /// Where the row ends: the segment's `archived` watermark.
    #[must_use]
    pub fn archived(&self) -> Index {
        self.parts.last().map_or(Index(0), |(_, part)| part.value.at.end)
    }

    /// Where the row ends, with chain and timestamp there.
    #[must_use]
    pub fn end(&self, segment: &SegmentRecord) -> SegmentEnd {
        self.parts.last().map_or_else(|| segment.start(), |(_, part)| part.value.at)
    }

    /// The last part, as the transaction that records the next one compares it.
    #[must_use]
    pub fn last(&self) -> Option<(Index, Revision)> {
        self.parts.last().map(|(first, part)| (*first, part.revision))
    }
}

/// A segment as a client needs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentView {
    /// Its record.
    pub record: Versioned<SegmentRecord>,
    /// How far it is in object storage.
    pub archived: SegmentEnd,
    /// The last part of its unbroken row, as the transaction that records the next one compares it;
    /// not told once the whole segment is archived.
    pub last: Option<(Index, Revision)>,
}

/// A log as a client needs it: its record and its segments from some number on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogView {
    /// The log.
    pub log: LogId,
    /// Its record.
    pub record: Versioned<LogRecord>,
    /// Its settings.
    pub config: Versioned<ConfigRecord>,
    /// How far it is trimmed.
    pub trim: Versioned<TrimRecord>,
    /// The first segment that there is.
    pub first_segment: SegmentNumber,
    /// The segments asked for.
    pub segments: BTreeMap<SegmentNumber, SegmentView>,
}

impl LogView {
    /// Durability of its next segments.
    #[must_use]
    pub fn durability(&self) -> crate::ids::Level {
        self.config.value.durability
    }

    /// The revision of its settings, when these allow that what too many members have forgotten is
    /// given up.
    #[must_use]
    pub fn allows_loss(&self) -> Option<Revision> {
        self.config.value.allow_loss.then_some(self.config.revision)
    }

    /// Entries below it are no longer wanted.
    #[must_use]
    pub fn trim_offset(&self) -> Offset {
        self.trim.value.trim_offset
    }

    /// Where the log goes on behind a segment that has been deleted: what was cut off from its end does
    /// not count.
    #[must_use]
    pub fn base_behind(&self, number: SegmentNumber) -> Offset {
        let next = self.segments.range(number..).next();
        next.map_or(self.record.value.next_base, |(_, segment)| segment.record.value.base)
    }

    /// The newest segment, when it is still open.
    #[must_use]
    pub fn open_segment(&self) -> Option<(SegmentNumber, &SegmentView)> {
        let (number, view) = self.segments.last_key_value()?;
        let newest = number.plus(1) == self.record.value.next_segment;
        let open = matches!(view.record.value.state, super::record::SegmentState::Open);
        (newest && open).then_some((*number, view))
    }
}
