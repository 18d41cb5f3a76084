//! What an uploader takes out of a writer's state, and what it reports to it.

use super::ending::Stopped;
use super::state::Shared;
use bytes::Bytes;
use piculet_quorum::ids::{Index, SegmentNumber};
use piculet_quorum::wire::frame::APPEND_HEAD_BYTES;
use piculet_quorum::writer::Waiting;

/// The entries of the next part.
pub(super) struct Gathered {
    pub(super) next: Waiting,
    /// Their batches.
    pub(super) pieces: Vec<Bytes>,
}

impl Shared {
    /// Everything that waits to be archived, up to about so many bytes; none while nothing does.
    pub(super) fn gather(&self, bytes: u64) -> Option<Gathered> {
        let mut state = self.lock();
        if state.is_stopped() {
            return None;
        }
        self.flush(&mut state);
        let next = state.writer.waiting(bytes)?;
        let retained = state.retained.get(&next.segment).expect("what is not released is retained");
        let first = retained.partition_point(|(end, _)| *end <= next.from);
        let batches = retained.range(first..).take_while(|(end, _)| *end <= next.to);
        let pieces = batches.map(|(_, frame)| frame.slice(APPEND_HEAD_BYTES..)).collect();
        // What was sent must be answered in time.
        self.stir(&mut state);
        Some(Gathered { next, pieces })
    }

    /// A part that ends there is recorded.
    pub(super) fn archived(&self, segment: SegmentNumber, end: Index) {
        let mut state = self.lock();
        if state.is_stopped() {
            // What became of it is read from the metadata.
            return;
        }
        // The machine must know of every entry before it parks the log.
        self.flush(&mut state);
        state.writer.handle_archived(self.now(), segment, end);
        self.pump(&mut state);
        self.wake_all(&state);
    }

    /// A part was refused: finds out whether the log is still this writer's.
    pub(super) fn look(&self) {
        let mut state = self.lock();
        state.writer.look();
        self.pump(&mut state);
    }

    /// Why nothing is archived now: whoever finds no room is told.
    pub(super) fn troubled(&self, why: Option<String>) {
        self.lock().refusal = why;
    }

    /// Nothing more can be archived.
    pub(super) fn broken(&self, why: String) {
        let mut state = self.lock();
        if !state.is_stopped() {
            self.stop(&mut state, Stopped::Broken(why));
        }
    }
}
