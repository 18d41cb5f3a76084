//! Appends that were under way when their writer was fenced: what the metadata tell of them must be
//! what is in the log.

use super::events::Batch;
use super::world::World;
use piculet_quorum::ids::{Epoch, Index, Offset, SegmentNumber};
use piculet_quorum::outcome::{Fate, Outcome};

/// An append whose future was open when its writer was fenced.
#[derive(Debug)]
pub(crate) struct LeftOpen {
    /// The writer's.
    pub(crate) epoch: Epoch,
    pub(crate) segment: SegmentNumber,
    pub(crate) batch: Batch,
    pub(crate) offset: Offset,
    /// What became of it, once that is known, or known not to be known ever.
    pub(crate) decided: Option<Outcome>,
}

impl World {
    pub(crate) fn left_open(&mut self, left: Vec<LeftOpen>) {
        self.truth.left_open.extend(left);
        self.decide_outcomes();
    }

    /// The metadata have changed: they may tell of some more.
    pub(crate) fn decide_outcomes(&mut self) {
        let mut left_open = std::mem::take(&mut self.truth.left_open);
        for left in left_open.iter_mut().filter(|left| left.decided.is_none()) {
            let view = self.store.now.view(left.segment);
            let fate = Fate::of(&view, left.epoch, left.segment);
            let header = left.batch.header;
            let [first, last] = [header.first, Index(header.end().0 - 1)].map(|index| fate.outcome(index));
            assert_eq!(first, last, "a batch is all there, or not at all: {left:?}");
            left.decided = (first != Outcome::Undecided).then_some(first);
        }
        self.truth.left_open = left_open;
    }

    /// At the end, with everything archived and read: each is known, and it is so.
    pub(crate) fn check_outcomes(&mut self) {
        let left_open = std::mem::take(&mut self.truth.left_open);
        for left in &left_open {
            if self.truth.is_lost(left.segment, left.batch.header.first) == Some(true) {
                continue;
            }
            let decided = match left.decided.unwrap_or_else(|| panic!("never decided: {left:?}")) {
                Outcome::Unknown(_) => continue,
                outcome => outcome == Outcome::Appended,
            };
            for (at, content) in (left.offset.0..).zip(left.batch.entries().map(|(_, content)| content)) {
                let there = self.truth.seen.get(&at) == Some(&content);
                let trimmed = at < self.store.now.trim().value.trim_offset.0;
                let right = there == decided || (decided && trimmed);
                assert!(right, "fate: offset {at}, content {content}, there {there}: {left:?}");
            }
            self.run.found += u64::from(decided);
            self.run.cut_off += u64::from(!decided);
        }
    }
}
