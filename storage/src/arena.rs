//! A node's memory for entries: one mapped file, bounded, lent to segments in chunks.

use crate::buffer::{BufferDir, BufferError};
use crate::journal::Refused;
use crate::limits::{ARENA_BYTES, CHUNK_BYTES};
use crate::mapping::{Chunk, Pool, anonymous};
use crate::slots::{self, Extent, Layout, Slot};
use parking_lot::Mutex;
use piculet_quorum::batch::Place;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// How large an arena is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaOptions {
    /// Bytes that it holds; a remainder that fills no chunk is not used.
    pub bytes: u64,
    /// Bytes of one chunk, the least that a segment with entries holds.
    pub chunk_bytes: usize,
}

impl Default for ArenaOptions {
    fn default() -> Self {
        Self { bytes: ARENA_BYTES, chunk_bytes: CHUNK_BYTES }
    }
}

impl ArenaOptions {
    /// How many chunks there are.
    pub(crate) fn check(&self) -> Result<u32, BufferError> {
        let Self { bytes, chunk_bytes } = *self;
        bytes
            .checked_div(chunk_bytes as u64)
            .and_then(|chunks| u32::try_from(chunks).ok())
            .filter(|chunks| *chunks > 0 && u32::try_from(chunk_bytes).is_ok())
            .ok_or(BufferError::Options { bytes, chunk_bytes })
    }
}

/// There is no room. It comes as entries are archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too few chunks are free.
    #[error(
        "the buffer is full: {wanted} bytes are needed and {free} of {capacity} are free; it empties as entries are archived: check that the object store is reachable, or raise buffer.memory.bytes, which takes effect at a start that finds the buffer empty (at level disk, buffer.disk.bytes, at the next start)"
    )]
    Chunks {
        /// Bytes needed, in whole chunks.
        wanted: u64,
        /// Bytes free.
        free: u64,
        /// Bytes in all.
        capacity: u64,
    },
    /// No slot is free.
    #[error(
        "the buffer has entries, or the ends, of {slots} segments and room for no more: segments leave it as they are sealed and archived; raise buffer.memory.bytes if so many logs are written to at once, which takes effect at a start that finds the buffer empty (at level disk, buffer.disk.bytes, at the next start)"
    )]
    Slots {
        /// Segments that it has room for.
        slots: u32,
    },
    /// At level `disk`: the journal takes no batch now.
    #[error(transparent)]
    Journal(#[from] Refused),
}

/// The memory of a buffer.
#[derive(Debug)]
pub struct Arena {
    pool: Arc<Pool>,
    layout: Layout,
    table: Mutex<Table>,
}

/// Which slots are free.
#[derive(Debug)]
struct Table {
    free: Vec<u32>,
    next_serial: u64,
}

impl Arena {
    /// A fresh arena in a directory; one that is there is discarded.
    pub(crate) fn create(dir: &Arc<BufferDir>, layout: Layout) -> Result<Self, BufferError> {
        let file = dir.create_arena(layout.file_bytes())?;
        let pool = map(&file, &layout, dir)?;
        file.write_all_at(&layout.encode(), 0).map_err(dir.arena_failed("write to the file"))?;
        let table = Table { free: (0..layout.slots).rev().collect(), next_serial: 1 };
        Ok(Self { pool: Arc::new(pool), layout, table: Mutex::new(table) })
    }

    /// A fresh arena that goes with the process: what is in it is at rest elsewhere.
    pub(crate) fn anonymous(layout: Layout, dir: &Arc<BufferDir>) -> Result<Self, BufferError> {
        let file = anonymous(layout.file_bytes()).map_err(|source| BufferError::Io {
            path: dir.path().to_owned(),
            action: "allocate the memory",
            source,
        })?;
        let pool = map(&file, &layout, dir)?;
        let table = Table { free: (0..layout.slots).rev().collect(), next_serial: 1 };
        Ok(Self { pool: Arc::new(pool), layout, table: Mutex::new(table) })
    }

    /// The arena in a file that an earlier process left, of whose slots these are free.
    pub(crate) fn reopened(pool: Arc<Pool>, layout: Layout, free: Vec<u32>, next_serial: u64) -> Self {
        Self { pool, layout, table: Mutex::new(Table { free, next_serial }) }
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.layout.capacity()
    }

    /// Bytes of the chunks that are lent, to segments or to readers of what segments have freed.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.bytes_of(self.pool.chunks() - self.pool.free_chunks())
    }

    /// Bytes of one chunk.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        self.pool.chunk_bytes()
    }

    #[cfg(test)]
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Lends `count` chunks, put behind those in `to`; or none at all.
    pub(crate) fn take(&self, count: usize, to: &mut VecDeque<Chunk>) -> Result<(), Full> {
        self.pool.take(count, |chunk| to.push_back(chunk)).map_err(|free| Full::Chunks {
            wanted: self.bytes_of(count),
            free: self.bytes_of(free),
            capacity: self.capacity_bytes(),
        })
    }

    /// Gives chunks back: each is free as soon as no reader holds it.
    pub(crate) fn give_back(&self, chunks: impl IntoIterator<Item = Chunk>) {
        for chunk in chunks {
            slots::clear_owner(&self.pool, &self.layout, chunk.number());
            chunk.release();
        }
    }

    /// Puts at rest that a chunk is the one at `position` of the segment in a slot.
    pub(crate) fn assign(&self, chunk: &Chunk, slot: &Slot, position: u64) {
        slots::set_owner(&self.pool, &self.layout, chunk.number(), slot.serial(), position);
    }

    /// Puts a segment at rest.
    pub(crate) fn take_slot(&self, place: &Place, extent: &Extent) -> Result<Slot, Full> {
        let mut table = self.table.lock();
        let number = table.free.pop().ok_or(Full::Slots { slots: self.layout.slots })?;
        let serial = table.next_serial;
        table.next_serial += 1;
        drop(table);
        Ok(Slot::write(&self.pool, &self.layout, number, serial, place, extent))
    }

    /// Moves the tail of a segment, whose bytes are written.
    pub(crate) fn publish(&self, slot: &Slot, tail_at: u64) {
        slot.publish(&self.pool, &self.layout, tail_at);
    }

    /// Changes everything that is at rest of a segment besides its batches.
    pub(crate) fn update(&self, slot: &mut Slot, extent: &Extent) {
        slot.update(&self.pool, &self.layout, extent);
    }

    /// Nothing is at rest of the segment any more.
    pub(crate) fn give_slot_back(&self, slot: Slot) {
        let number = slot.clear(&self.pool, &self.layout);
        self.table.lock().free.push(number);
    }

    fn bytes_of(&self, chunks: usize) -> u64 {
        chunks as u64 * self.chunk_bytes() as u64
    }
}

/// Maps the file of an arena.
pub(crate) fn map(file: &File, layout: &Layout, dir: &Arc<BufferDir>) -> Result<Pool, BufferError> {
    Pool::new(file, layout.chunks_at(), layout.chunk_bytes, layout.chunks, Some(Arc::clone(dir)))
        .map_err(dir.arena_failed("map the file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Sync;
    use std::io;
    use std::path::Path;

    const SMALL: ArenaOptions = ArenaOptions { bytes: 1 << 20, chunk_bytes: 64 << 10 };

    fn open(dir: &Path, options: &ArenaOptions) -> Result<Arena, BufferError> {
        let layout = Layout::new(options)?;
        Arena::create(&Arc::new(BufferDir::open(dir)?), layout)
    }

    #[test]
    fn a_directory_is_created_and_locked_while_the_arena_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        let arena = open(&path, &SMALL).unwrap();
        assert_eq!((arena.capacity_bytes(), arena.used_bytes()), (1 << 20, 0));
        let busy = open(&path, &SMALL).unwrap_err();
        assert!(matches!(busy, BufferError::Busy { .. }), "{busy}");
        let text = busy.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains("another process"), "{text}");
        std::fs::remove_file(path.join("lock")).unwrap();
        let busy = open(&path, &SMALL).unwrap_err();
        assert!(matches!(busy, BufferError::Busy { .. }), "also when somebody removed the file: {busy}");
        drop(arena);
        open(&path, &SMALL).expect("it is free again");
    }

    #[test]
    fn what_an_earlier_start_left_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("arena"), vec![7; 3 << 20]).unwrap();
        let arena = open(dir.path(), &SMALL).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("arena")).unwrap().len(), arena.layout().file_bytes());
        let mut chunks = VecDeque::new();
        arena.take(16, &mut chunks).unwrap();
        chunks[3].set_readable(64 << 10);
        assert!(chunks[3].view(0..64 << 10).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_buffer_that_does_not_fit_is_refused_before_it_fills_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let huge = ArenaOptions { bytes: 1 << 50, chunk_bytes: 1 << 30 };
        let error = open(dir.path(), &huge).unwrap_err();
        let BufferError::NoSpace { wanted, free, .. } = &error else { panic!("{error}") };
        assert!(*wanted > 1 << 50 && *free > 0 && *free < 1 << 50);
        let text = error.to_string();
        for part in [dir.path().display().to_string(), wanted.to_string(), free.to_string()] {
            assert!(text.contains(&part), "{text} names {part}");
        }
        assert!(!dir.path().join("arena").exists());
        open(dir.path(), &SMALL).expect("the lock of the failed attempt is gone");
    }

    #[test]
    fn senseless_sizes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, chunk_bytes) in [(0, 1), (10, 0), (10, 11), (1 << 40, 1), (1 << 40, 1 << 33)] {
            let error = open(dir.path(), &ArenaOptions { bytes, chunk_bytes }).unwrap_err();
            assert!(matches!(error, BufferError::Options { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let error = open(&path, &SMALL).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }

    /// A tmpfs of 4 MiB, unmounted when the test ends; `None` unless root runs it.
    struct Tmpfs(tempfile::TempDir);

    impl Tmpfs {
        fn mount() -> Option<Self> {
            use std::os::unix::fs::MetadataExt;
            if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
                eprintln!("skipped: only root can mount a tmpfs");
                return None;
            }
            let dir = tempfile::tempdir().unwrap();
            let mounted = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=4m", "piculet-test"])
                .arg(dir.path())
                .status()
                .unwrap();
            assert!(mounted.success(), "a tmpfs is mounted");
            Some(Self(dir))
        }
    }

    impl Drop for Tmpfs {
        fn drop(&mut self) {
            let unmounted = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
            assert!(unmounted.unwrap().success(), "the tmpfs is unmounted");
        }
    }

    #[test]
    fn a_full_tmpfs_is_an_error_and_never_a_signal() {
        let Some(tmpfs) = Tmpfs::mount() else { return };
        let (one, two) = (tmpfs.0.path().join("one"), tmpfs.0.path().join("two"));
        let options = ArenaOptions { bytes: 3 << 20, chunk_bytes: 64 << 10 };
        let arena = open(&one, &options).unwrap();
        let error = open(&two, &options).unwrap_err();
        assert!(
            matches!(error, BufferError::NoSpace { wanted: 0x30_0000.., free: 1..=0x10_0000, .. }),
            "{error}"
        );

        let filler = File::create(two.join("filler")).unwrap();
        let full = crate::mapping::allocate(&filler, 4 << 20).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        std::fs::write(two.join("filler"), vec![1; 4 << 20]).expect_err("the tmpfs is full to the brim");
        let mut chunks = VecDeque::new();
        arena.take(48, &mut chunks).unwrap();
        for chunk in &mut chunks {
            chunk.write(0, &vec![2; 64 << 10]);
            chunk.set_readable(64 << 10);
        }
        assert!(chunks.iter().all(|chunk| chunk.view(0..64 << 10).iter().all(|byte| *byte == 2)));
        drop((chunks, arena));
        open(&one, &options).expect("what the last start left is no obstacle");
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_no_other_behind() {
        let Some(tmpfs) = Tmpfs::mount() else { return };
        let dir = BufferDir::open(tmpfs.0.path()).unwrap();
        dir.replace("small", b"before", Sync::No).unwrap();
        for sync in [Sync::No, Sync::Yes] {
            dir.replace("small", &vec![1; 5 << 20], sync).expect_err("it does not fit");
            assert_eq!(dir.read("small").unwrap().as_deref(), Some(&b"before"[..]));
            assert!(!tmpfs.0.path().join("small.new").exists(), "it would take all the room there is");
        }
    }
}
