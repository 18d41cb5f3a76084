//! The fence: where a node decides that an older epoch may no longer append.

use super::{Replica, Unanswered};
use crate::ids::Epoch;
use crate::meta::SegmentState;
use crate::mutation::{Mutation, on};
use crate::wire::message::{Address, FenceOk, Refusal};

impl Replica {
    /// Fences the segment for a takeover in a later epoch, and reports what is held: one step, so
    /// that nothing is stored or acknowledged in between.
    ///
    /// The epoch must have been seen in the metadata before, so that a hostile or confused client
    /// cannot brick a log with an epoch that does not exist. A segment that the metadata list but
    /// that no append has reached is fenced empty.
    ///
    /// # Errors
    /// With a refusal, when the epoch is older than one that fenced here already, or the buffer
    /// addressed is gone; or when the metadata must be read first.
    pub fn fence(&mut self, at: &Address) -> Result<FenceOk, Unanswered> {
        if !on(Mutation::AmnesiacFences) {
            self.check_addressed(at.incarnation)?;
        }
        if at.epoch < self.fence_epoch {
            return Err(Refusal::Fenced { epoch: self.fence_epoch }.into());
        }
        if at.epoch > self.known_epoch {
            return Err(Unanswered::NeedMetadata);
        }
        let held = self.held(at.segment)?;
        if held.record.epoch >= at.epoch && !on(Mutation::LossInOwnEpoch) {
            let why = format!("segment {} is of epoch {}, not an older one", at.segment, held.record.epoch);
            return Err(Refusal::Invalid(why).into());
        }
        let (marks, at_tail) = (held.marks, held.at_tail);
        let for_loss = matches!(held.record.state, SegmentState::Sealed(_));
        let unfenced = on(Mutation::TailUnfenced) || (for_loss && on(Mutation::LossUnfenced));
        if !unfenced {
            self.raise_fence(at.epoch);
        }
        Ok(FenceOk {
            tail: marks.tail,
            held: marks.held,
            writer_tail: marks.writer_tail,
            commit: marks.commit,
            freed: marks.freed,
            chain: at_tail.chain,
            last_timestamp: at_tail.last_timestamp,
        })
    }

    /// No stream of an older epoch appends from here on: neither the old writer's, nor an older
    /// takeover's repairs.
    pub(super) fn raise_fence(&mut self, epoch: Epoch) {
        if epoch <= self.fence_epoch {
            return;
        }
        self.fence_epoch = epoch;
        for held in self.segments.values_mut().filter(|held| held.record.epoch < epoch) {
            held.appender = None;
            // What the writer stored and is not durable yet never counts as the writer's any more.
            held.written = held.marks.writer_tail;
        }
    }
}
