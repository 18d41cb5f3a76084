//! The watermarks, each defined once, with its owner and the relations that always hold.
//!
//! All but `trim offset` are indexes in a segment, and exclusive: what lies *below* is meant.
//!
//! | watermark | owner | meaning |
//! |---|---|---|
//! | `assigned` | the writer | the next index that it would give out |
//! | `tail` | a member | the next index that it would store |
//! | `held` | a member | the watermark that counts at the segment's level; at `memory` it is `tail` |
//! | `writer_tail` | a member | `held`, counting the writer's own appends only, not repairs; frozen when fenced |
//! | `commit` | writer and members | so many members hold every entry below it that no single loss can undo it |
//! | `freed` | a member | below it the member's memory has been given back |
//! | `archived` | metadata | below it everything is in object storage and recorded |
//! | `end` | metadata | where a sealed segment ends |
//! | `trim offset` | metadata | below it the log's entries are no longer wanted (an offset) |
//!
//! At a member: `freed ≤ tail`, `freed ≤ archived`, `writer_tail ≤ held ≤ tail`, `commit ≤ held`.
//! At the writer: `commit ≤ assigned`. In the metadata: `archived ≤ end`. A member that is not in
//! the ack quorum may hear of commits beyond its own tail; it keeps what it can vouch for.

use crate::ids::Index;
use serde::{Deserialize, Serialize};

/// A member's watermarks of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Marks {
    /// The next index that the member would store.
    pub tail: Index,
    /// The watermark that counts at the segment's level.
    pub held: Index,
    /// What it holds of the writer's own appends.
    pub writer_tail: Index,
    /// Below it everything is committed, as far as the member knows.
    pub commit: Index,
    /// Below it the memory has been given back.
    pub freed: Index,
}

impl Marks {
    /// Stops the process when a relation between the watermarks is broken.
    pub fn assert_sound(&self) {
        assert!(self.freed <= self.tail, "freed beyond the tail: {self:?}");
        assert!(self.held <= self.tail, "held beyond the tail: {self:?}");
        assert!(self.writer_tail <= self.held, "writer tail beyond what is held: {self:?}");
        assert!(self.commit <= self.held, "commit beyond what is held: {self:?}");
    }
}
