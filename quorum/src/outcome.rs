//! What became of entries that a replaced writer had sent and that were never acknowledged to it:
//! read from the records of their segment, never guessed.

use crate::ids::{Epoch, Index, SegmentNumber};
use crate::meta::LogView;
use crate::mutation::{Mutation, on};

/// What a read of the metadata tells of one segment of a writer that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The segment's record is there.
    Recorded {
        /// Entries below it were appended: they will stay.
        appended: Index,
        /// Entries at it and beyond were not appended, and never will be: the segment ends there, or
        /// what lay behind is lost. None while the segment has no end.
        end: Option<Index>,
    },
    /// The record is gone, and with it what it would have told.
    Gone(Gone),
}

/// Why a segment has no record any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Gone {
    /// It was trimmed away.
    #[error("its segment was trimmed away meanwhile")]
    Trimmed,
    /// The whole log was deleted.
    #[error("the log was deleted")]
    Deleted,
}

/// What became of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is in the log.
    Appended,
    /// It is not, and never will be.
    NotAppended,
    /// The records do not tell yet: read them again.
    Undecided,
    /// They will never tell.
    Unknown(Gone),
}

impl Fate {
    /// Of segment `number`, in which the writer of `epoch` had given out indices. The view was read
    /// from that segment on.
    #[must_use]
    pub fn of(view: &LogView, epoch: Epoch, number: SegmentNumber) -> Self {
        let log = &view.record.value;
        if log.deleted.is_some() {
            return Self::Gone(Gone::Deleted);
        }
        if number < view.first_segment {
            return Self::Gone(Gone::Trimmed);
        }
        let nothing = Self::Recorded { appended: Index(0), end: Some(Index(0)) };
        let Some(seen) = view.segments.get(&number) else {
            let created = number < log.next_segment;
            return if created { Self::Recorded { appended: Index(0), end: None } } else { nothing };
        };
        let record = &seen.record.value;
        if record.epoch != epoch {
            // The writer's own was never created: this one is another's.
            return nothing;
        }
        // A loss comes first: what is lost counts as archived in the end, and was not appended.
        let end = record.kept();
        let settled = record.settled() || on(Mutation::OutcomeUnsettled);
        let settled = end.filter(|_| settled).unwrap_or_default();
        let archived = end.map_or(seen.archived.end, |end| seen.archived.end.min(end));
        Self::Recorded { appended: settled.max(archived), end }
    }

    /// What became of the entry at `index`.
    #[must_use]
    pub fn outcome(&self, index: Index) -> Outcome {
        match *self {
            Self::Recorded { appended, .. } if index < appended => Outcome::Appended,
            Self::Recorded { end: Some(end), .. } if index >= end => Outcome::NotAppended,
            Self::Recorded { .. } => Outcome::Undecided,
            Self::Gone(why) => Outcome::Unknown(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Chain, Level, LogId, LogName, NodeId, Nonce, Offset, Revision, Timestamp};
    use crate::meta::{
        ConfigRecord, LogRecord, Loss, Seal, SegmentEnd, SegmentRecord, SegmentState, SegmentView,
        TrimRecord, Versioned,
    };
    use std::collections::BTreeMap;

    const MINE: Epoch = Epoch(3);
    const NUMBER: SegmentNumber = SegmentNumber(5);

    fn at(end: u64) -> SegmentEnd {
        SegmentEnd { end: Index(end), chain: Chain(1), last_timestamp: Timestamp(1) }
    }

    fn sealed(end: u64, settled: bool) -> SegmentState {
        let holders = vec![NodeId::new("a").expect("a valid name")];
        SegmentState::Sealed(Seal { at: at(end), by_epoch: Epoch(4), holders, settled })
    }

    fn view(state: SegmentState, archived: u64) -> LogView {
        let log = LogRecord {
            name: LogName::new("l").expect("a valid name"),
            epoch: Epoch(4),
            writer: Nonce(2),
            holder: None,
            next_segment: NUMBER.plus(1),
            next_base: Offset(0),
            chain: Chain(0),
            last_timestamp: Timestamp(0),
            deleted: None,
        };
        let segment = SegmentRecord {
            epoch: MINE,
            base: Offset(100),
            base_chain: Chain(0),
            base_timestamp: Timestamp(0),
            level: Level::Memory,
            ensemble: vec![],
            state,
            loss: None,
        };
        let record = Versioned { revision: Revision(2), value: segment };
        LogView {
            log: LogId(1),
            record: Versioned { revision: Revision(1), value: log },
            config: Versioned { revision: Revision(1), value: ConfigRecord::default() },
            trim: Versioned { revision: Revision(1), value: TrimRecord::default() },
            first_segment: SegmentNumber(2),
            segments: BTreeMap::from([(NUMBER, SegmentView { record, archived: at(archived), last: None })]),
        }
    }

    fn outcomes(view: &LogView, indices: [u64; 3]) -> [Outcome; 3] {
        indices.map(|index| Fate::of(view, MINE, NUMBER).outcome(Index(index)))
    }

    #[test]
    fn the_end_decides_once_what_lies_below_it_is_safe() {
        use Outcome::{Appended, NotAppended, Undecided};
        let indices = [0, 9, 10];
        assert_eq!(outcomes(&view(SegmentState::Open, 0), indices), [Undecided; 3]);
        assert_eq!(outcomes(&view(SegmentState::Open, 4), indices), [Appended, Undecided, Undecided]);
        let unsettled = outcomes(&view(sealed(10, false), 4), indices);
        assert_eq!(unsettled, [Appended, Undecided, NotAppended], "an unsettled end may still lose entries");
        let appended = [Appended, Appended, NotAppended];
        assert_eq!(outcomes(&view(sealed(10, true), 0), indices), appended);
        assert_eq!(outcomes(&view(sealed(10, false), 10), indices), appended);
        assert_eq!(outcomes(&view(SegmentState::Archived(at(10)), 10), indices), appended);
    }

    #[test]
    fn what_is_lost_was_not_appended_whatever_else_the_records_say() {
        use Outcome::{Appended, NotAppended, Undecided};
        let lossy = |state, archived| {
            let mut view = view(state, archived);
            let record = &mut view.segments.get_mut(&NUMBER).expect("just put").record.value;
            record.loss = Some(Loss { from: Index(5), acknowledged: false, beyond: false });
            outcomes(&view, [4, 5, 9])
        };
        assert_eq!(lossy(sealed(10, false), 0), [Undecided, NotAppended, NotAppended]);
        assert_eq!(lossy(sealed(10, false), 5), [Appended, NotAppended, NotAppended]);
        assert_eq!(lossy(SegmentState::Archived(at(10)), 10), [Appended, NotAppended, NotAppended]);
    }

    #[test]
    fn a_segment_that_is_not_mine_or_was_never_created_has_nothing_of_mine() {
        let mut others = view(sealed(10, true), 10);
        others.segments.get_mut(&NUMBER).expect("just put").record.value.epoch = Epoch(4);
        assert_eq!(outcomes(&others, [0, 9, 10]), [Outcome::NotAppended; 3]);
        let mut missing = view(SegmentState::Open, 0);
        missing.segments.clear();
        assert_eq!(outcomes(&missing, [0, 9, 10]), [Outcome::Undecided; 3], "it exists, and was not shown");
        missing.record.value.next_segment = NUMBER;
        assert_eq!(outcomes(&missing, [0, 9, 10]), [Outcome::NotAppended; 3]);
    }

    #[test]
    fn what_is_gone_will_never_be_known() {
        let mut trimmed = view(sealed(10, true), 10);
        (trimmed.first_segment, trimmed.segments) = (NUMBER.plus(1), BTreeMap::new());
        assert_eq!(outcomes(&trimmed, [0, 9, 10]), [Outcome::Unknown(Gone::Trimmed); 3]);
        let mut deleted = view(sealed(10, true), 10);
        deleted.record.value.deleted = Some(Timestamp(9));
        assert_eq!(outcomes(&deleted, [0, 9, 10]), [Outcome::Unknown(Gone::Deleted); 3]);
    }
}
