//! A node's buffer for one level: opened in two steps, because its incarnation is decided with the
//! metadata in between (PROTOCOL.md §10).
//!
//! 1. [`Found`] locks the directory, reads what is there and checks it.
//! 2. The node completes the swap that [`Found::unfinished`] names, records a fresh one with
//!    [`Found::begin_swap`], and makes it in the metadata.
//! 3. [`Found::adopt`] begins the life, with what is kept or with nothing.

mod dir;
mod disk;
mod error;
pub(crate) mod fences;
mod identity;
#[cfg(test)]
mod tests;

pub(crate) use dir::BufferDir;
#[cfg(test)]
pub(crate) use dir::Sync;
pub use disk::DiskOptions;
pub use error::{BufferError, Damage};

use crate::arena::{Arena, ArenaOptions};
use crate::journal::{Change, Journal, Stopped};
use crate::reopen::{Reopened, Segment};
use crate::segment_buffer::SegmentBuffer;
use crate::slots::Layout;
use disk::FoundJournal;
use fences::Fences;
use identity::{Boot, Identity, Proof};
use parking_lot::Mutex;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Epoch, Incarnation, Index, Level, LogId, Nonce, SegmentNumber};
use piculet_quorum::replica::Kept;
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
    dir: Arc<BufferDir>,
    layout: Layout,
    cluster: Nonce,
    /// What the directory says of itself, if it says anything.
    identity: Option<Identity>,
    /// Where the directory is, and in which boot the machine is.
    proof: Proof,
    arena: Option<Reopened>,
    fences: Option<Fences>,
    /// At level `disk`, and instead of the arena and the fences.
    journal: Option<Box<dyn FoundJournal>>,
    damage: Option<Damage>,
}

impl Found {
    /// The directory of a memory buffer, which is created if it is missing. Blocks: it reads and
    /// checks everything that is in the buffer.
    ///
    /// # Errors
    /// When another process has the directory, when it belongs to another cluster or a later
    /// version, when a buffer that must begin anew would not fit, or when the system refuses.
    pub fn memory(dir: &Path, options: &ArenaOptions, cluster: Nonce) -> Result<Self, BufferError> {
        Self::memory_in(dir, options, cluster, Boot::now()?)
    }

    fn memory_in(
        dir: &Path,
        options: &ArenaOptions,
        cluster: Nonce,
        boot: Boot,
    ) -> Result<Self, BufferError> {
        let layout = Layout::new(options)?;
        let (dir, identity, unreadable, proof) = identify(dir, cluster, boot)?;
        let path = dir.path().to_owned();
        let Some(identity) = identity.filter(|identity| identity.adopted.is_some()) else {
            // Nothing in it was ever vouched for.
            let damage = unreadable.unwrap_or(Damage::NoIdentity { path });
            dir.check_room(layout.file_bytes())?;
            return Ok(Self::with_nothing(dir, layout, cluster, identity, proof, damage));
        };
        let (arena, arena_damage) = open_arena(&dir, &layout)?;
        let (fences, fences_damage) = match Fences::read(&dir)? {
            Ok(fences) => (Some(fences), None),
            Err(damage) => (None, Some(damage)),
        };
        let moved = identity.proof.damage(&proof, &path);
        let damage = moved.or(arena_damage).or(fences_damage);
        if damage.is_some() {
            // Before a swap ends the life of what is here: a setting that cannot be is taken back, and
            // nothing has happened.
            dir.check_room(layout.file_bytes())?;
        }
        let identity = Some(identity);
        Ok(Self { dir, layout, cluster, identity, proof, arena, fences, journal: None, damage })
    }

    fn with_nothing(
        dir: Arc<BufferDir>,
        layout: Layout,
        cluster: Nonce,
        identity: Option<Identity>,
        proof: Proof,
        damage: Damage,
    ) -> Self {
        let (arena, fences, journal) = (None, None, None);
        Self { dir, layout, cluster, identity, proof, arena, fences, journal, damage: Some(damage) }
    }

    /// The life that was adopted last in this directory, if there is one.
    #[must_use]
    pub fn adopted(&self) -> Option<(Incarnation, Nonce)> {
        self.identity?.adopted
    }

    /// A swap that was begun and not adopted: it may have landed in the metadata, or may yet.
    #[must_use]
    pub fn unfinished(&self) -> Option<(Incarnation, Nonce)> {
        self.identity?.unfinished
    }

    /// Why the buffer cannot keep its incarnation, if it cannot.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// What is there of each segment, as far as it agrees, be it kept or not.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Leftover> {
        if let Some(journal) = &self.journal {
            return journal.leftovers();
        }
        let segments = self.arena.iter().flat_map(Reopened::segments);
        let leftover = |segment: &Segment| Leftover {
            place: segment.place,
            freed: segment.frames.head().index,
            tail: segment.frames.tail().index,
        };
        segments.map(leftover).collect()
    }

    /// Records a swap, before the metadata are asked for it. It takes the place of an earlier one,
    /// whose outcome must be known.
    ///
    /// # Errors
    /// When the system refuses. Then it may or may not be recorded.
    pub fn begin_swap(&mut self, incarnation: Incarnation, nonce: Nonce) -> Result<(), BufferError> {
        // What proves the adopted life stays as it was: a copied directory stays found out.
        let (adopted, proof) =
            self.identity.map_or((None, self.proof), |identity| (identity.adopted, identity.proof));
        let unfinished = Some((incarnation, nonce));
        let identity = Identity { cluster: self.cluster, adopted, unfinished, proof };
        identity.write(&self.dir)?;
        self.identity = Some(identity);
        Ok(())
    }

    /// The swap that was begun last, of the same incarnation, has landed in the metadata: the contents
    /// are of that life from here on. Before another one is begun, which would be all that is known.
    ///
    /// # Errors
    /// When the system refuses. Then it may or may not be recorded.
    pub fn swap_landed(&mut self) -> Result<(), BufferError> {
        let Some(identity) = self.identity else { return Ok(()) };
        let same =
            |life: &(Incarnation, Nonce)| identity.adopted.is_some_and(|(adopted, _)| adopted == life.0);
        if let Some(life) = identity.unfinished.filter(same) {
            let identity = Identity { adopted: Some(life), unfinished: None, ..identity };
            identity.write(&self.dir)?;
            self.identity = Some(identity);
        }
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
        let life = self.unfinished().expect("a life begins with a swap");
        let same = self.adopted().is_some_and(|(incarnation, _)| incarnation == life.0);
        assert!(!keep || self.damage.is_none(), "a damaged buffer is not kept");
        assert_eq!(keep, same, "the contents stay if the incarnation does, and only then");
        let Self { dir, layout, cluster, proof, arena, fences, journal, .. } = self;
        if let Some(journal) = journal {
            let begun = journal.adopt(keep, layout)?;
            Identity { cluster, adopted: Some(life), unfinished: None, proof }.write(&dir)?;
            return Ok(begun);
        }
        let (arena, fences, segments) = if keep {
            let arena = arena.expect("a buffer without damage has its arena");
            tell_other_size(&dir, &arena.layout, &layout);
            let (arena, segments) = arena.adopt();
            (arena, fences.expect("a buffer without damage has its fences"), segments)
        } else {
            drop((arena, fences));
            (Arc::new(Arena::create(&dir, layout)?), Fences::create(&dir)?, Vec::new())
        };
        Identity { cluster, adopted: Some(life), unfinished: None, proof }.write(&dir)?;
        let kept = |buffer: SegmentBuffer| KeptSegment { kept: buffer.kept(), buffer };
        let segments = segments.into_iter().map(kept).collect();
        let contents = Contents { segments, fences: fences.all() };
        Ok((Arc::new(Buffer::new(arena, Rest::Memory(Mutex::new(fences)))), contents))
    }
}

/// Locks a directory, and reads who it belongs to: whose it is, what is wrong with that, and where
/// it is now.
#[expect(clippy::type_complexity, reason = "its parts go into a `Found` each")]
fn identify(
    dir: &Path,
    cluster: Nonce,
    boot: Boot,
) -> Result<(Arc<BufferDir>, Option<Identity>, Option<Damage>, Proof), BufferError> {
    let dir = Arc::new(BufferDir::open(dir)?);
    let (identity, unreadable) = match Identity::read(&dir)? {
        Ok(identity) => (identity, None),
        Err(damage) => (None, Some(damage)),
    };
    if let Some(identity) = identity.filter(|identity| identity.cluster != cluster) {
        let path = dir.path().to_owned();
        return Err(BufferError::OtherCluster { path, found: identity.cluster, expected: cluster });
    }
    let proof = dir.proof(boot)?;
    Ok((dir, identity, unreadable, proof))
}

/// What an earlier process left of the arena, and what is wrong with it.
fn open_arena(
    dir: &Arc<BufferDir>,
    layout: &Layout,
) -> Result<(Option<Reopened>, Option<Damage>), BufferError> {
    let Some(file) = dir.open_arena()? else {
        return Ok((None, Some(Damage::Missing { path: dir.arena_file() })));
    };
    let found = match Reopened::open(&file, dir)? {
        Ok(found) => found,
        Err(damage) => return Ok((None, Some(damage))),
    };
    // What is there outlives a change of the settings: a new size waits until nothing is.
    let other_size = found.segments().is_empty() && !found.layout.same_size(layout);
    let other_size = other_size.then(|| Damage::OtherSize {
        path: dir.arena_file(),
        found: found.layout.capacity(),
        found_chunk: found.layout.chunk_bytes as u64,
        bytes: layout.capacity(),
        chunk: layout.chunk_bytes as u64,
    });
    let damage = found.damage.clone().or(other_size);
    Ok((Some(found), damage))
}

/// Says that a buffer goes on in the size that it has, if another is configured.
fn tell_other_size(dir: &BufferDir, has: &Layout, configured: &Layout) {
    if !has.same_size(configured) {
        tracing::warn!(
            file = %dir.arena_file().display(),
            bytes = has.capacity(),
            chunk_bytes = has.chunk_bytes,
            configured_bytes = configured.capacity(),
            configured_chunk_bytes = configured.chunk_bytes,
            "the memory buffer keeps the size that it was made with, for it is not empty: the configured size \
             takes effect at a start that finds it empty, as after a stop that could archive everything"
        );
    }
}

/// The buffer that a node keeps entries of one level in. Its directory stays locked while it, one of
/// its segments or anything read from it lives.
#[derive(Debug)]
pub struct Buffer {
    arena: Arc<Arena>,
    rest: Rest,
    synced: watch::Sender<Position>,
    failed: watch::Sender<Option<Stopped>>,
}

/// Where what is not in the arena is at rest.
#[derive(Debug)]
enum Rest {
    Memory(Mutex<Fences>),
    Disk(Arc<Journal>),
}

impl Buffer {
    fn new(arena: Arc<Arena>, rest: Rest) -> Self {
        Self { arena, rest, synced: watch::Sender::new(Position::MAX), failed: watch::Sender::new(None) }
    }

    /// The level of what is in it.
    #[must_use]
    pub fn level(&self) -> Level {
        match self.rest {
            Rest::Memory(_) => Level::Memory,
            Rest::Disk(_) => Level::Disk,
        }
    }

    /// The memory that entries lie in.
    #[must_use]
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Whether more than three quarters of its memory are lent, or of what its journal may take in use.
    #[must_use]
    pub fn nearly_full(&self) -> bool {
        let lent = self.arena.used_bytes() > self.arena.capacity_bytes() / 4 * 3;
        lent || matches!(&self.rest, Rest::Disk(journal) if journal.nearly_full())
    }

    /// An empty segment whose first entry will have index `start`; `before` is what lies before it.
    /// Nothing of it is at rest until its first batch.
    #[must_use]
    pub fn segment(self: &Arc<Self>, place: Place, start: Index, before: BatchEnd) -> SegmentBuffer {
        let segment = SegmentBuffer::new(Arc::clone(&self.arena), place, start, before);
        match &self.rest {
            Rest::Memory(_) => segment,
            Rest::Disk(journal) => segment.with_journal(Arc::clone(journal), false),
        }
    }

    /// Puts at rest that `epoch` has fenced the log; an epoch below one that is at rest already
    /// changes nothing. It is durable once [`synced`](Self::synced) has reached the position: at
    /// `memory` that is so on return.
    ///
    /// # Errors
    /// When the system refuses. Then the fence must not be vouched for.
    pub fn put_fence(&self, log: LogId, epoch: Epoch) -> Result<Position, BufferError> {
        match &self.rest {
            Rest::Memory(fences) => fences.lock().put(log, epoch).map(|()| Position(0)),
            Rest::Disk(journal) => Ok(journal.put(Change::Fence { log, epoch })),
        }
    }

    /// The log's tombstone has been read: its fence may go.
    pub fn forget_log(&self, log: LogId) {
        match &self.rest {
            Rest::Memory(fences) => fences.lock().forget(log),
            Rest::Disk(journal) => drop(journal.put(Change::ForgetLog { log })),
        }
    }

    /// How far everything is durable. At `memory` always [`Position::MAX`].
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<Position> {
        match &self.rest {
            Rest::Memory(_) => self.synced.subscribe(),
            Rest::Disk(journal) => journal.synced(),
        }
    }

    /// What has become durable since the last call, each segment once. At `memory` nothing, for
    /// there what is published is durable.
    #[must_use]
    pub fn take_synced(&self) -> Vec<Synced> {
        match &self.rest {
            Rest::Memory(_) => Vec::new(),
            Rest::Disk(journal) => journal.take_synced(),
        }
    }

    /// Why it cannot put things at rest any more, once that is so. The node must stop; unless what was
    /// announced is sound the directory remembers.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<Stopped>> {
        match &self.rest {
            Rest::Memory(_) => self.failed.subscribe(),
            Rest::Disk(journal) => journal.failed(),
        }
    }
}
