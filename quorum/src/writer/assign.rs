//! Gives out the indices of a writer's segments.

use super::Writer;
use crate::batch::{BatchEnd, Place};
use crate::ids::{Index, Offset, SegmentNumber};
use crate::time::Time;

/// Where a batch was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// Its segment, with the epoch.
    pub place: Place,
    /// Index of its first entry.
    pub first: Index,
    /// Offset of its first entry.
    pub offset: Offset,
    /// What is committed of that segment: the mark that the append carries.
    pub commit: Index,
}

/// Why no index was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AssignError {
    /// Too much is kept for members that have not acknowledged it.
    #[error("{0} bytes wait for acknowledgement, as many as the budget allows")]
    NoRoom(u64),
    /// The writer is closing, or has stopped.
    #[error("the writer is closed")]
    Closed,
}

/// Entries of one segment that may have been sent and are not known to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unresolved {
    /// The segment.
    pub segment: SegmentNumber,
    /// Offset of its first entry.
    pub base: Offset,
    /// Index of the first of them.
    pub from: Index,
    /// Index behind the last of them.
    pub to: Index,
}

impl Writer {
    /// Gives out indices for a batch of `count` entries and `bytes` encoded bytes that leaves `end`
    /// behind it. Of a log that is parked, or about to be, they are those of the segment that is
    /// created for it.
    ///
    /// # Errors
    /// When too much waits for acknowledgement, or the writer is closing.
    pub fn assign(
        &mut self,
        now: Time,
        count: u32,
        bytes: u64,
        end: BatchEnd,
    ) -> Result<Assigned, AssignError> {
        if self.stopped || self.closing {
            return Err(AssignError::Closed);
        }
        self.observe(now);
        if self.retained + bytes > self.options.retransmit_bytes && self.retained > 0 {
            self.give_up_laggards();
            self.consider_roll(now);
            if self.retained + bytes > self.options.retransmit_bytes {
                return Err(AssignError::NoRoom(self.retained));
            }
        }
        self.appended = now;
        self.unpark(now);
        self.retained += bytes;
        if self.segments.len() == 1 {
            // This append carries the mark.
            self.unannounced = None;
        }
        let epoch = self.record.value.epoch;
        let segment = self.segments.back_mut().expect("there is always a newest segment");
        assert!(segment.end.is_none(), "no index is given out beyond a proposed end");
        let first = segment.assign(count, bytes, end);
        let (number, base, commit) = (segment.number, segment.base, segment.commit);
        if segment.bytes >= self.options.segment_bytes {
            self.consider_roll(now);
        }
        let place = Place { log: self.log, segment: number, epoch };
        Ok(Assigned { place, first, offset: Offset::of(base, first), commit })
    }

    /// Bytes for which there is room before the oldest are released.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.options.retransmit_bytes.saturating_sub(self.retained)
    }

    /// Bytes that are kept until they are released.
    #[must_use]
    pub fn retained(&self) -> u64 {
        self.retained
    }

    /// What was given out in segments that exist, and is not known to be committed, in order. What
    /// was given out behind it waits for a segment that is not known to exist, and was never sent.
    pub fn unresolved(&self) -> impl Iterator<Item = Unresolved> {
        self.segments.iter().filter(|segment| segment.record.is_some()).filter_map(|segment| {
            let from = self.committed.index_in(segment.base).unwrap_or_default();
            let unresolved =
                Unresolved { segment: segment.number, base: segment.base, from, to: segment.assigned };
            (from < segment.assigned).then_some(unresolved)
        })
    }
}
