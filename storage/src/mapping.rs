//! The shared mapping behind the arena, and the only unsafe code of this crate.
//!
//! A mapping is divided into chunks of one size. A chunk is lent to one [`Chunk`] at a time, which
//! alone may write to it, and only at or above its *readable* mark; views are given out only below
//! that mark, and it never falls. So no byte that a view shows is ever written again, for as long
//! as any view of the chunk exists: the chunk is lent again only after it has been released and the
//! last of them is gone. One that is dropped without being released stays lent.
//!
//! What lies before the chunks is read and written in words, each store a release: whatever a
//! process stored before the store at which it was killed, the next process finds.

use crate::buffer::BufferDir;
use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A mapped file, divided into chunks, and the chunks that nobody holds.
#[derive(Debug)]
pub(crate) struct Pool {
    map: MmapRaw,
    /// Where the chunks begin.
    chunks_at: usize,
    chunk_bytes: usize,
    chunks: usize,
    /// The chunk that was given back last is lent first: its pages are likely to be warm. Has room
    /// for all of them, so that giving back never allocates.
    free: Mutex<Vec<u32>>,
    /// The directory of the file stays locked until the last view is gone, for the next to lock it
    /// may write where the view looks.
    _dir: Option<Arc<BufferDir>>,
}

impl Pool {
    /// Maps `file`: `chunks_at` bytes, then the chunks. They must be allocated already, and nobody
    /// else may write to them or shorten the file while the mapping lives, which the lock of `dir`
    /// makes sure of.
    pub(crate) fn new(
        file: &File,
        chunks_at: usize,
        chunk_bytes: usize,
        chunks: u32,
        dir: Option<Arc<BufferDir>>,
    ) -> io::Result<Self> {
        let bytes = chunk_bytes.checked_mul(chunks as usize).and_then(|bytes| bytes.checked_add(chunks_at));
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        assert!(file.metadata()?.len() >= bytes as u64, "the mapping lies within the file");
        let map = MmapOptions::new().len(bytes).map_raw(file)?;
        let free = Mutex::new((0..chunks).rev().collect());
        Ok(Self { map, chunks_at, chunk_bytes, chunks: chunks as usize, free, _dir: dir })
    }

    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    pub(crate) fn free_chunks(&self) -> usize {
        self.free.lock().len()
    }

    /// Lends `count` chunks, or none when fewer are free: then it says how many are.
    pub(crate) fn take(self: &Arc<Self>, count: usize, mut each: impl FnMut(Chunk)) -> Result<(), usize> {
        let mut free = self.free.lock();
        if free.len() < count {
            return Err(free.len());
        }
        for _ in 0..count {
            let number = free.pop().expect("as many are free as were counted under the same lock");
            each(self.lend(number, 0));
        }
        Ok(())
    }

    /// Lends these chunks, which an earlier process had, each readable up to a mark.
    pub(crate) fn take_up(self: &Arc<Self>, chunks: &[(u32, usize)]) -> Vec<Chunk> {
        let mut lent = vec![false; self.chunks];
        for (number, readable) in chunks {
            assert!(*readable <= self.chunk_bytes, "a mark within the chunk");
            assert!(!std::mem::replace(&mut lent[*number as usize], true), "a chunk has one owner");
        }
        let mut free = self.free.lock();
        let before = free.len();
        free.retain(|number| !lent[*number as usize]);
        assert_eq!(before - free.len(), chunks.len(), "what is taken up was free");
        chunks.iter().map(|(number, readable)| self.lend(*number, *readable)).collect()
    }

    fn lend(self: &Arc<Self>, number: u32, readable: usize) -> Chunk {
        let released = AtomicBool::new(false);
        Chunk { lease: Arc::new(Lease { pool: self.clone(), number, released }), readable }
    }

    /// The word at byte `at` of the file, which lies before the chunks.
    pub(crate) fn load(&self, at: usize) -> u64 {
        u64::from_le(self.word(at).load(Ordering::Acquire))
    }

    /// Puts a word at rest at byte `at` of the file, after everything that was stored before.
    pub(crate) fn store(&self, at: usize, value: u64) {
        #[cfg(any(test, feature = "conformance"))]
        hook::call();
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.chunks_at, "byte {at} is no word before the chunks");
        // SAFETY: the word lies within the mapping and is aligned, for the mapping begins at a page.
        // What lies before the chunks is only ever reached through this function.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    fn start_of(&self, number: u32) -> *mut u8 {
        assert!((number as usize) < self.chunks);
        // SAFETY: the chunk lies within the mapping, which has `chunks * chunk_bytes` bytes from
        // `chunks_at` on.
        unsafe { self.map.as_mut_ptr().add(self.chunks_at + number as usize * self.chunk_bytes) }
    }
}

/// One chunk, held by its writer and by every view of it.
#[derive(Debug)]
struct Lease {
    pool: Arc<Pool>,
    number: u32,
    released: AtomicBool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if *self.released.get_mut() {
            self.pool.free.lock().push(self.number);
        }
    }
}

/// The right to write to one chunk, above what is readable of it.
#[derive(Debug)]
pub(crate) struct Chunk {
    lease: Arc<Lease>,
    readable: usize,
}

impl Chunk {
    /// Which chunk of the pool it is.
    pub(crate) fn number(&self) -> u32 {
        self.lease.number
    }

    /// Gives the chunk back, as soon as its last view is gone.
    pub(crate) fn release(self) {
        // Whoever drops the last reference sees it, as `Arc` orders drops.
        self.lease.released.store(true, Ordering::Relaxed);
    }

    /// Writes `bytes` at position `at` of the chunk.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        let pool = &self.lease.pool;
        let end = at.checked_add(bytes.len()).expect("a position within a chunk");
        assert!(at >= self.readable, "byte {at} of a chunk is readable up to {}", self.readable);
        assert!(end <= pool.chunk_bytes, "byte {end} is beyond a chunk of {}", pool.chunk_bytes);
        #[cfg(any(test, feature = "conformance"))]
        hook::call();
        // SAFETY: the destination lies within this chunk, as just checked. The chunk is lent to
        // this `Chunk` alone, borrowed mutably here, so nobody else writes to it. Views, the only
        // references into the chunks, lie below `readable` of their chunk, so none overlaps the
        // destination, and `bytes` does not either.
        unsafe {
            let to = pool.start_of(self.lease.number).add(at);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Makes everything below `to` readable, for good.
    pub(crate) fn set_readable(&mut self, to: usize) {
        assert!(self.readable <= to && to <= self.lease.pool.chunk_bytes, "the readable mark only grows");
        self.readable = to;
    }

    /// The bytes at `range`, which must be readable. They hold the chunk until they are dropped.
    pub(crate) fn view(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.readable, "only what is readable is shown");
        Bytes::from_owner(View { lease: self.lease.clone(), range })
    }
}

struct View {
    lease: Arc<Lease>,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lay below the chunk's readable mark when the view was made, so it is
        // within the mapping, initialised (fresh pages are zero), and not written to again while
        // the lease is held, which the view does. The mapping lives as long as the lease's pool.
        unsafe {
            let start = self.lease.pool.start_of(self.lease.number).add(self.range.start);
            std::slice::from_raw_parts(start, self.range.len())
        }
    }
}

/// Allocates the first `bytes` of `file` for good, so that writing to a mapping of them cannot fail.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: a system call on a descriptor that is open for as long as `file` is borrowed.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
            0 => return Ok(()),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Gives the room of bytes `from..to` of `file` back; zeros are read there from then on. False when the
/// file system has no holes.
pub(crate) fn release(file: &File, from: u64, to: u64) -> io::Result<bool> {
    let position = |at| libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG));
    let (at, len) = (position(from)?, position(to.saturating_sub(from))?);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    loop {
        // SAFETY: a system call on a descriptor that is open for as long as `file` is borrowed.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// A file of `bytes` zeros in memory, without a name: it goes with the last who has it open.
pub(crate) fn anonymous(bytes: u64) -> io::Result<File> {
    // SAFETY: a system call with a name that ends with a zero.
    let file = unsafe { libc::memfd_create(c"piculet-buffer".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened, and nobody else has it.
    let file = unsafe { File::from_raw_fd(file) };
    allocate(&file, bytes)?;
    Ok(file)
}

/// What the system says of the file system that a file lies on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileSystem {
    /// Tells it from others, and a tmpfs from those mounted before.
    pub(crate) id: u64,
    pub(crate) tmpfs: bool,
    /// Bytes that this process may still use; `None` when there is no limit.
    pub(crate) free_bytes: Option<u64>,
}

impl FileSystem {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
        // SAFETY: a system call on an open descriptor, with a buffer of the right type.
        if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all-zero bytes are a valid `statfs`, and the call has filled it in.
        let stat = unsafe { stat.assume_init() };
        // A tmpfs without a size limit counts no blocks at all.
        let limited = stat.f_blocks > 0;
        let free_bytes = limited.then(|| stat.f_bavail.saturating_mul(stat.f_bsize.unsigned_abs()));
        // SAFETY: the type is two 32-bit numbers, which it does not let anybody see.
        let [low, high] = unsafe { std::mem::transmute::<libc::fsid_t, [u32; 2]>(stat.f_fsid) };
        let id = u64::from(low) | u64::from(high) << 32;
        Ok(Self { id, tmpfs: stat.f_type == libc::TMPFS_MAGIC, free_bytes })
    }
}

/// What tests do at every store into a mapping: just before it nothing of it is there yet.
#[cfg(any(test, feature = "conformance"))]
pub(crate) mod hook {
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut()>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Ends a hook, also when what it looks at panics.
    struct Unset;

    impl Drop for Unset {
        fn drop(&mut self) {
            HOOK.set(None);
        }
    }

    pub(crate) fn call() {
        HOOK.with_borrow_mut(|hook| {
            if let Some(hook) = hook {
                hook();
            }
        });
    }

    /// Calls `hook` before every store of this thread while `during` runs.
    pub(crate) fn with<T>(hook: impl FnMut() + 'static, during: impl FnOnce() -> T) -> T {
        HOOK.set(Some(Box::new(hook)));
        let _unset = Unset;
        during()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(chunk_bytes: usize, chunks: u32) -> Arc<Pool> {
        let file = tempfile::tempfile().unwrap();
        allocate(&file, 4096 + chunk_bytes as u64 * u64::from(chunks)).unwrap();
        Arc::new(Pool::new(&file, 4096, chunk_bytes, chunks, None).unwrap())
    }

    fn take(pool: &Arc<Pool>, count: usize) -> Result<Vec<Chunk>, usize> {
        let mut chunks = Vec::new();
        pool.take(count, |chunk| chunks.push(chunk)).map(|()| chunks)
    }

    #[test]
    fn a_chunk_is_free_again_when_its_last_reader_is_gone() {
        let pool = pool(16, 2);
        let mut chunks = take(&pool, 1).unwrap();
        chunks[0].write(0, b"abcd");
        chunks[0].set_readable(4);
        let (view, part) = (chunks[0].view(0..4), chunks[0].view(1..3));
        chunks.into_iter().for_each(Chunk::release);
        assert_eq!(take(&pool, 2).map(|_| ()), Err(1));
        drop(view);
        assert_eq!((pool.free_chunks(), &part[..]), (1, &b"bc"[..]));
        drop(part);
        assert_eq!(pool.free_chunks(), 2);
    }

    #[test]
    fn taking_is_all_or_nothing() {
        let pool = pool(16, 3);
        let one = take(&pool, 1).unwrap();
        assert_eq!(take(&pool, 3).map(|_| ()), Err(2));
        assert_eq!(pool.free_chunks(), 2);
        one.into_iter().for_each(Chunk::release);
        assert_eq!(take(&pool, 3).map(|chunks| chunks.len()), Ok(3));
    }

    #[test]
    fn a_chunk_that_is_dropped_and_not_released_stays_lent() {
        let pool = pool(16, 2);
        drop(take(&pool, 1).unwrap());
        assert_eq!(pool.free_chunks(), 1);
    }

    #[test]
    fn chunks_are_taken_up_again_with_what_is_in_them() {
        let file = tempfile::tempfile().unwrap();
        allocate(&file, 4096 + 48).unwrap();
        let open = || Arc::new(Pool::new(&file, 4096, 16, 3, None).unwrap());
        let before = open();
        take(&before, 2).unwrap()[1].write(0, b"abcd");
        before.store(8, 77);
        drop(before);
        let pool = open();
        assert_eq!((pool.load(8), pool.load(0)), (77, 0));
        let chunks = pool.take_up(&[(1, 4)]);
        assert_eq!((chunks[0].number(), &chunks[0].view(0..4)[..]), (1, &b"abcd"[..]));
        let others: Vec<u32> = take(&pool, 2).unwrap().iter().map(Chunk::number).collect();
        assert_eq!((others, pool.free_chunks()), (vec![0, 2], 0));
    }

    #[test]
    #[should_panic(expected = "is readable up to 4")]
    fn what_is_readable_is_never_written_again() {
        let mut chunks = take(&pool(16, 1), 1).unwrap();
        chunks[0].set_readable(4);
        chunks[0].write(3, b"x");
    }

    #[test]
    #[should_panic(expected = "beyond a chunk of 16")]
    fn a_write_stays_within_its_chunk() {
        take(&pool(16, 2), 1).unwrap()[0].write(15, b"xy");
    }

    #[test]
    #[should_panic(expected = "only what is readable")]
    fn a_view_stays_below_the_readable_mark() {
        let mut chunks = take(&pool(16, 1), 1).unwrap();
        chunks[0].set_readable(4);
        drop(chunks[0].view(2..5));
    }
}
