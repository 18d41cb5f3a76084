//! What an earlier process left in the buffers, taken up before anything is answered.

use super::{Fence, LocalSegment};
use crate::core::Core;
use piculet_meta::spelt;
use piculet_quorum::batch::Place;
use piculet_quorum::ids::{Epoch, Index, Level, LogId, SegmentNumber};
use piculet_quorum::meta::{Damage, Key, SegmentRecord, SegmentState, Snapshot};
use piculet_quorum::replica::Learned;
use piculet_storage::{Contents, KeptSegment, Leftover, Position};

/// Leftovers that are named one by one.
const NAMED_MAX: usize = 32;

/// What was taken up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenUp {
    /// Segments that are held again.
    pub segments: usize,
    /// Logs that they are of.
    pub logs: usize,
    /// Bytes that they hold of the buffer.
    pub bytes: u64,
    /// Segments that nobody wants any more: archived whole, deleted, or another member's.
    pub dropped: usize,
    /// Fences.
    pub fences: usize,
}

/// Why a node cannot take up what its buffer has kept.
#[derive(Debug, thiserror::Error)]
pub enum TakeUpError {
    /// A segment is of another epoch than recorded.
    #[error(
        "segment {segment} of log {log} is here in epoch {epoch} and in the metadata in epoch {recorded}: they were not written for each other, so this node does not start; restore the metadata that belong to this cluster, or move the buffer directory away to forget what is in it"
    )]
    Epoch {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// Its epoch here.
        epoch: Epoch,
        /// Its epoch in the metadata.
        recorded: Epoch,
    },
    /// A log was fenced in a later epoch than recorded.
    #[error(
        "log {log} was fenced here in epoch {fence}, and in the metadata it is in epoch {recorded}, which is older: an old backup of the metadata was restored, so this node does not start; restore the metadata that belong to this cluster, or move the buffer directory away to forget what is in it"
    )]
    Fenced {
        /// The log.
        log: LogId,
        /// The epoch of the fence.
        fence: Epoch,
        /// The epoch in the metadata.
        recorded: Epoch,
    },
    /// The metadata are damaged.
    #[error(
        "metadata are damaged: the part at {first} of segment {segment} of log {log} does not end behind its start; this node holds entries of that segment and does not start before the metadata are restored"
    )]
    Parts {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// Where the part begins.
        first: Index,
    },
    /// The record of a segment is damaged.
    #[error(
        "{damage} (key {}); this node holds entries of that segment and does not start before that",
        spelt(&damage.key)
    )]
    Record {
        /// What is wrong with it.
        damage: Damage,
    },
}

impl Core {
    /// Takes up what a buffer has kept, as a snapshot of all metadata shows it that was read after
    /// the buffer's life was adopted. Called before anything is learned or answered.
    ///
    /// # Errors
    /// When the metadata contradict what is here: to go on without it would be to forget it.
    pub fn take_up(
        &self,
        level: Level,
        contents: Contents,
        snapshot: &Snapshot,
    ) -> Result<TakenUp, TakeUpError> {
        let mut taken = TakenUp::default();
        for (log, epoch) in contents.fences {
            let alive = snapshot.log(&Key::Log(log)).filter(|record| record.value.deleted.is_none());
            let Some(record) = alive else {
                self.forget_fence(log);
                continue;
            };
            // An epoch is in the metadata before it fences anything.
            let recorded = record.value.epoch;
            if recorded < epoch {
                return Err(TakeUpError::Fenced { log, fence: epoch, recorded });
            }
            taken.fences += 1;
            self.logs.fences.lock().insert(log, Fence { epoch, at: Position::default() });
        }
        for segment in contents.segments {
            let bytes = segment.buffer.held_bytes();
            if self.take_up_segment(level, segment, snapshot)? {
                taken.segments += 1;
                taken.bytes += bytes;
            } else {
                taken.dropped += 1;
            }
        }
        taken.logs = self.logs.all().iter().filter(|log| log.level == level).count();
        Ok(taken)
    }

    /// Takes up one segment, or gives it back when nobody wants it any more.
    fn take_up_segment(
        &self,
        level: Level,
        kept: KeptSegment,
        snapshot: &Snapshot,
    ) -> Result<bool, TakeUpError> {
        let KeptSegment { buffer, kept } = kept;
        let Place { log, segment, epoch } = *buffer.place();
        let alive = snapshot.log(&Key::Log(log)).is_some_and(|record| record.value.deleted.is_none());
        let record = snapshot.segment(&Key::Segment(log, segment)).filter(|_| alive);
        if let Some(record) = &record {
            // Before it is asked whether the segment is this node's at all: what is held is not given
            // back for a record that cannot be true.
            record.value.check(log, segment).map_err(|damage| TakeUpError::Record { damage })?;
        }
        let Some(record) = record.filter(|record| self.holds(level, &record.value)) else {
            buffer.remove();
            return Ok(false);
        };
        let recorded = record.value.epoch;
        if recorded != epoch {
            return Err(TakeUpError::Epoch { log, segment, epoch, recorded });
        }
        let row = snapshot.row(log, segment).map_err(|first| TakeUpError::Parts { log, segment, first })?;
        row.check(log, segment, &record.value).map_err(|damage| TakeUpError::Record { damage })?;
        let slot = self.logs.get_or_create(self, log, level);
        let mut state = slot.lock();
        let learned = state.replica.restore(segment, &record.value, row.end(&record.value), &kept);
        let Learned::FreeBelow(_) = learned else {
            buffer.remove();
            return Ok(false);
        };
        state.segments.insert(segment, LocalSegment::new(self, buffer, record.clone()));
        state.learn(self, snapshot.at, segment, &record, row);
        Ok(true)
    }

    /// Whether this node is a member of a segment in the life that its buffer of the level is in, and
    /// not all of the segment is archived.
    fn holds(&self, level: Level, record: &SegmentRecord) -> bool {
        let member = record.member(&self.id);
        let mine = record.level == level && member.is_some() && member == self.incarnation(level);
        mine && !matches!(record.state, SegmentState::Archived(_))
    }

    /// Says what a buffer that is not kept had in it: evidence for an operator, never a vote.
    pub fn tell_leftovers(&self, level: Level, leftovers: &[Leftover], snapshot: &Snapshot) {
        let mut told = 0;
        for Leftover { place, freed, tail } in leftovers {
            let archived = match snapshot.segment(&Key::Segment(place.log, place.segment)) {
                None => continue,
                Some(record) if matches!(record.value.state, SegmentState::Archived(_)) => continue,
                Some(_) => snapshot.row(place.log, place.segment).map_or(Index(0), |row| row.archived()),
            };
            if *tail <= archived {
                continue;
            }
            told += 1;
            if told <= NAMED_MAX {
                tracing::warn!(
                    %level, log = %place.log, segment = %place.segment, epoch = %place.epoch, %freed, %tail, %archived,
                    "forgotten here: entries of this segment above `archived` were in the buffer; the other members have what was acknowledged"
                );
            }
        }
        if told > NAMED_MAX {
            tracing::warn!(%level, more = told - NAMED_MAX, "more segments were forgotten here in the same way");
        }
    }
}
