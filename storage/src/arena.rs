//! A node's memory for entries: one mapped file, bounded, lent to segments in chunks.

use crate::buffer::{BufferDir, BufferError};
use crate::limits::{ARENA_BYTES, CHUNK_BYTES};
use crate::mapping::{Chunk, Pool};
use std::collections::VecDeque;
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

/// The arena has too few free chunks. Chunks become free as entries are archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the memory buffer is full: {wanted} bytes are needed and {free} of {capacity} are free; it empties as entries are archived: check that the object store is reachable, or raise buffer.memory.bytes"
)]
pub struct Full {
    /// Bytes needed, in whole chunks.
    pub wanted: u64,
    /// Bytes free.
    pub free: u64,
    /// Bytes in all.
    pub capacity: u64,
}

/// The memory of a buffer.
#[derive(Debug)]
pub struct Arena {
    pool: Arc<Pool>,
}

impl Arena {
    /// A fresh arena in a directory; one that is there is discarded.
    pub(crate) fn create(dir: &BufferDir, options: &ArenaOptions) -> Result<Arc<Self>, BufferError> {
        let chunks = options.check()?;
        let file = dir.create_arena(u64::from(chunks) * options.chunk_bytes as u64)?;
        let pool = Pool::new(&file, options.chunk_bytes, chunks).map_err(|source| BufferError::Io {
            path: dir.path().to_owned(),
            action: "map the file",
            source,
        })?;
        Ok(Arc::new(Self { pool: Arc::new(pool) }))
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.bytes_of(self.pool.chunks())
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

    /// Lends `count` chunks, put behind those in `to`; or none at all.
    pub(crate) fn take(&self, count: usize, to: &mut VecDeque<Chunk>) -> Result<(), Full> {
        self.pool.take(count, |chunk| to.push_back(chunk)).map_err(|free| Full {
            wanted: self.bytes_of(count),
            free: self.bytes_of(free),
            capacity: self.capacity_bytes(),
        })
    }

    fn bytes_of(&self, chunks: usize) -> u64 {
        chunks as u64 * self.chunk_bytes() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::Path;

    const SMALL: ArenaOptions = ArenaOptions { bytes: 1 << 20, chunk_bytes: 64 << 10 };

    fn open(dir: &Path, options: &ArenaOptions) -> Result<(BufferDir, Arc<Arena>), BufferError> {
        options.check()?;
        let dir = BufferDir::open(dir)?;
        let arena = Arena::create(&dir, options)?;
        Ok((dir, arena))
    }

    #[test]
    fn a_directory_is_created_and_locked_while_the_arena_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er");
        let (dir_lock, arena) = open(&path, &SMALL).unwrap();
        assert_eq!((arena.capacity_bytes(), arena.used_bytes()), (1 << 20, 0));
        let busy = open(&path, &SMALL).unwrap_err();
        assert!(matches!(busy, BufferError::Busy { .. }), "{busy}");
        let text = busy.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains("another process"), "{text}");
        drop((dir_lock, arena));
        open(&path, &SMALL).expect("it is free again");
    }

    #[test]
    fn what_an_earlier_start_left_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("arena"), vec![7; 3 << 20]).unwrap();
        let (_lock, arena) = open(dir.path(), &SMALL).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("arena")).unwrap().len(), 1 << 20);
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
        assert!(*wanted == 1 << 50 && *free > 0 && *free < 1 << 50);
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
        let (lock, arena) = open(&one, &options).unwrap();
        let error = open(&two, &options).unwrap_err();
        assert!(
            matches!(error, BufferError::NoSpace { wanted: 0x30_0000, free: 1..=0x10_0000, .. }),
            "{error}"
        );

        let filler = std::fs::File::create(two.join("filler")).unwrap();
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
        drop((chunks, arena, lock));
        open(&one, &options).expect("what the last start left is no obstacle");
    }
}
