//! A node's buffer for one level: opened in two steps, because its incarnation is decided with the
//! metadata in between (PROTOCOL.md §10).
//!
//! 1. [`Found`] locks the directory, reads what is there and checks it.
//! 2. The node completes the swap that [`Found::unfinished`] names, records a fresh one with
//!    [`Found::begin_swap`], and makes it in the metadata.
//! 3. [`Found::adopt`] begins the life, with what is kept or with nothing.

mod dir;
mod error;

pub(crate) use dir::BufferDir;
pub use error::{BufferError, Damage};

use crate::arena::{Arena, ArenaOptions};
use crate::segment_buffer::SegmentBuffer;
use parking_lot::Mutex;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Epoch, Incarnation, Index, Level, LogId, Nonce, SegmentNumber};
use piculet_quorum::replica::Kept;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// How far a buffer has come in putting things at rest. Positions only grow, and mean nothing
/// outside the process that gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

impl Position {
    /// Everything.
    pub const MAX: Self = Self(u64::MAX);
}

/// A part of a segment that has become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The log.
    pub log: LogId,
    /// The segment.
    pub segment: SegmentNumber,
    /// Everything below it is durable.
    pub index: Index,
}

/// What an earlier life left of one segment: evidence for an operator, never a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The segment.
    pub place: Place,
    /// Below it entries had been freed.
    pub freed: Index,
    /// The index after the last entry.
    pub tail: Index,
}

/// What a buffer that keeps its incarnation has in it.
#[derive(Debug, Default)]
pub struct Contents {
    /// Every segment that something is at rest of. One that is not wanted any more must be given
    /// back with [`SegmentBuffer::remove`].
    pub segments: Vec<KeptSegment>,
    /// The highest epoch that fenced each log.
    pub fences: Vec<(LogId, Epoch)>,
}

/// A segment as an earlier process left it.
#[derive(Debug)]
pub struct KeptSegment {
    /// Its entries; [`SegmentBuffer::place`] says which segment it is.
    pub buffer: SegmentBuffer,
    /// Its watermarks.
    pub kept: Kept,
}

/// A buffer directory that is locked, whose contents have been read and checked, and whose life is
/// not decided yet. Dropping it changes nothing there.
#[derive(Debug)]
pub struct Found {
    dir: BufferDir,
    options: ArenaOptions,
    swap: Option<(Incarnation, Nonce)>,
    damage: Option<Damage>,
}

impl Found {
    /// The directory of a memory buffer, which is created if it is missing. Blocks: it reads and
    /// checks everything that is in the buffer.
    ///
    /// # Errors
    /// When another process has the directory, when it belongs to another cluster or a later
    /// version, or when the system refuses.
    pub fn memory(dir: &Path, options: &ArenaOptions, _cluster: Nonce) -> Result<Self, BufferError> {
        options.check()?;
        let dir = BufferDir::open(dir)?;
        let damage = Some(Damage::NoIdentity { path: dir.path().to_owned() });
        Ok(Self { dir, options: *options, swap: None, damage })
    }

    /// The life that was adopted last in this directory, if there is one.
    #[must_use]
    pub fn adopted(&self) -> Option<(Incarnation, Nonce)> {
        None
    }

    /// A swap that was begun and not adopted: it may have landed in the metadata, or may yet.
    #[must_use]
    pub fn unfinished(&self) -> Option<(Incarnation, Nonce)> {
        self.swap
    }

    /// Why the buffer cannot keep its incarnation, if it cannot.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// What is there of each segment, kept or not.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        Vec::new()
    }

    /// Records a swap, before the metadata are asked for it. It takes the place of an earlier one,
    /// whose outcome must be known.
    ///
    /// # Errors
    /// When the system refuses. Then it may or may not be recorded.
    pub fn begin_swap(&mut self, incarnation: Incarnation, nonce: Nonce) -> Result<(), BufferError> {
        self.swap = Some((incarnation, nonce));
        Ok(())
    }

    /// Begins the life whose swap was begun last, and has landed in the metadata. With `keep` it is
    /// the same incarnation and its contents stay; otherwise everything is discarded first. Blocks
    /// while the system allocates the memory: about a third of a second for 1 GiB.
    ///
    /// # Errors
    /// When there is too little room, or the system refuses.
    ///
    /// # Panics
    /// If no swap was begun, if a damaged buffer were kept, or if `keep` does not say whether the
    /// incarnation is the same.
    pub fn adopt(self, keep: bool) -> Result<(Arc<Buffer>, Contents), BufferError> {
        assert!(self.swap.is_some(), "a life begins with a swap");
        assert!(!keep || self.damage.is_none(), "a damaged buffer is not kept");
        let arena = Arena::create(&self.dir, &self.options)?;
        Ok((Arc::new(Buffer::new(self.dir, arena)), Contents::default()))
    }
}

/// The buffer that a node keeps entries of one level in. Its directory stays locked while it lives.
#[derive(Debug)]
pub struct Buffer {
    arena: Arc<Arena>,
    fences: Mutex<HashMap<LogId, Epoch>>,
    synced: watch::Sender<Position>,
    failed: watch::Sender<Option<Arc<str>>>,
    _dir: BufferDir,
}

impl Buffer {
    fn new(dir: BufferDir, arena: Arc<Arena>) -> Self {
        Self {
            arena,
            fences: Mutex::default(),
            synced: watch::Sender::new(Position::MAX),
            failed: watch::Sender::new(None),
            _dir: dir,
        }
    }

    /// The level of what is in it.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::Memory
    }

    /// The memory that entries lie in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// An empty segment whose first entry will have index `start`; `before` is what lies before it.
    /// Nothing of it is at rest until its first batch.
    #[must_use]
    pub fn segment(self: &Arc<Self>, place: Place, start: Index, before: BatchEnd) -> SegmentBuffer {
        SegmentBuffer::new(Arc::clone(&self.arena), place, start, before)
    }

    /// Puts at rest that `epoch` has fenced the log; an epoch below one that is at rest already
    /// changes nothing. It is durable once [`synced`](Self::synced) has reached the position: at
    /// `memory` that is so on return.
    ///
    /// # Errors
    /// When the system refuses. Then the fence must not be vouched for.
    pub fn put_fence(&self, log: LogId, epoch: Epoch) -> Result<Position, BufferError> {
        let mut fences = self.fences.lock();
        let fence = fences.entry(log).or_default();
        *fence = epoch.max(*fence);
        Ok(Position(0))
    }

    /// The log's tombstone has been read: its fence may go.
    pub fn forget_log(&self, log: LogId) {
        self.fences.lock().remove(&log);
    }

    /// How far everything is durable. At `memory` always [`Position::MAX`].
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<Position> {
        self.synced.subscribe()
    }

    /// What has become durable since the last call, each segment once. At `memory` nothing, for
    /// there what is published is durable.
    #[must_use]
    pub fn take_synced(&self) -> Vec<Synced> {
        Vec::new()
    }

    /// Why it cannot put things at rest any more, once that is so. It is so for good: the node must
    /// stop, and the directory remembers.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.failed.subscribe()
    }
}
