//! What the driver archives itself: at level `object` no node holds an entry before it is archived,
//! so the writer's own process uploads, and what is archived is what is committed.
//!
//! Members that are not there are never waited for, given up or fenced. Whoever takes the log over
//! seals the segment at what is archived, and from then on no part of it can be recorded.

use super::members::Batch;
use super::{MetaRequest, Writer};
use crate::batch::BatchEnd;
use crate::ids::{Index, Level, SegmentNumber};
use crate::meta::{SegmentRecord, Versioned};
use crate::time::Time;

/// The next part of a segment without members: whole batches that are not archived.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The segment, which exists.
    pub segment: SegmentNumber,
    /// Its record.
    pub record: Versioned<SegmentRecord>,
    /// Index of its first entry.
    pub from: Index,
    /// Index behind its last.
    pub to: Index,
    /// Chain and timestamp behind its last.
    pub end: BatchEnd,
}

impl Writer {
    /// The oldest entries that are to be archived by the driver, if there are any: batches up to and
    /// with the one that reaches so many bytes. [`handle_archived`](Self::handle_archived) follows once
    /// they are recorded.
    #[must_use]
    pub fn waiting(&self, bytes: u64) -> Option<Waiting> {
        if self.stopped || self.level != Level::Object {
            return None;
        }
        self.segments.iter().find_map(|segment| {
            let record = segment.record.as_ref()?;
            let (mut sum, mut last) = (0, None);
            for batch in segment.batches.iter().filter(|batch| batch.end > segment.archived) {
                (sum, last) = (sum + batch.bytes, Some(batch));
                if sum >= bytes {
                    break;
                }
            }
            let Batch { end: to, after: end, .. } = *last?;
            let (segment, from) = (segment.number, segment.archived);
            Some(Waiting { segment, record: record.clone(), from, to, end })
        })
    }

    /// More of a segment is archived, perhaps. At level `object` that is what the application was waiting
    /// for, however long the upload took: the log is idle from then on, not before.
    pub(super) fn raise_archived(&mut self, now: Time, number: SegmentNumber, index: Index) {
        let alone = self.level == Level::Object;
        let Some(segment) = self.segment(number) else { return };
        let archived = index.min(segment.assigned);
        if archived <= segment.archived {
            return;
        }
        segment.archived = archived;
        if alone {
            segment.parts += 1;
            self.appended = self.appended.max(now);
        }
    }

    /// A part of a segment was refused: the metadata are asked whether the log is still this
    /// writer's.
    pub fn look(&mut self) {
        let oldest = self.segments.front().filter(|_| !self.stopped);
        if let Some(oldest) = oldest {
            self.look = Some(MetaRequest::View(oldest.number));
        }
    }
}
