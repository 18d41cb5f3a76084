//! Every limit and default of storage, with the relations between them checked at compile time.

use piculet_quorum::limits::{BATCH_BYTES_MAX, PART_BYTES_MAX};
use piculet_quorum::producers::PRODUCERS_BYTES_MAX;
use std::time::Duration;

/// Default size of a node's memory buffer, in bytes.
pub const ARENA_BYTES: u64 = 1 << 30;
/// Default size of one chunk of the memory buffer, in bytes: what a segment that is written to
/// holds at least.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Default bytes that the files of a journal may take together before batches are refused.
pub const JOURNAL_BYTES: u64 = 2 << 30;
/// Default bytes of one file of a journal.
pub const JOURNAL_FILE_BYTES: u64 = 64 << 20;
/// Least bytes of one file of a journal.
pub const JOURNAL_FILE_BYTES_MIN: u64 = 4 << 10;
/// Most bytes of one file of a journal.
pub const JOURNAL_FILE_BYTES_MAX: u64 = 1 << 30;
/// Default bytes of batches that may wait for a journal to write them.
pub const JOURNAL_QUEUE_BYTES: u64 = 64 << 20;
/// Segments of which a memory buffer can have something at rest, for each of its chunks.
pub const SLOTS_PER_CHUNK: u64 = 8;
/// A memory buffer has no more room for segments than one for each so many bytes of its size, but
/// for [`SLOTS_MIN`] in any case.
pub const SLOT_PER_BYTES: u64 = 16 << 10;
/// Segments of which even the smallest memory buffer can have something at rest.
pub const SLOTS_MIN: u64 = 64;
/// Logs of which a memory buffer can keep the fence.
pub const FENCES_MAX: usize = 1 << 21;
/// The file of fences is rewritten when it has this many records more than twice those that count.
pub const FENCES_STALE_MAX: u64 = 1 << 10;

/// A part's index has one entry for at least so many bytes of batches.
pub const PART_INDEX_BYTES: u64 = 64 << 10;
/// Largest part object that is written or read, in bytes: a full part, one batch more, and the
/// object's own frame and index.
pub const PART_OBJECT_BYTES_MAX: u64 = PART_BYTES_MAX + BATCH_BYTES_MAX as u64 + (1 << 20);

/// A call to an object store ends within this time, its retries included.
pub const OBJECT_TIMEOUT: Duration = Duration::from_secs(30);
/// One request to an object store ends within this time.
pub const OBJECT_REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection to an object store is made within this time.
pub const OBJECT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No request is repeated when the call has taken this long.
pub const OBJECT_RETRY_TIMEOUT: Duration = Duration::from_secs(25);
/// A request is repeated at most so often.
pub const OBJECT_RETRIES_MAX: usize = 5;

const _: () = {
    assert!(ARENA_BYTES >= 2 * BATCH_BYTES_MAX as u64, "a segment can take a batch while one is read");
    assert!(ARENA_BYTES.is_multiple_of(CHUNK_BYTES as u64));
    assert!(JOURNAL_BYTES >= 2 * ARENA_BYTES, "what is in memory fits, and as much that is freed");
    assert!(JOURNAL_FILE_BYTES >= 2 * BATCH_BYTES_MAX as u64);
    assert!(JOURNAL_FILE_BYTES_MAX + BATCH_BYTES_MAX as u64 <= u32::MAX as u64);
    assert!(JOURNAL_QUEUE_BYTES >= 2 * BATCH_BYTES_MAX as u64);
    assert!(CHUNK_BYTES <= u32::MAX as usize);
    assert!(
        PART_OBJECT_BYTES_MAX / PART_INDEX_BYTES * 24 + (PRODUCERS_BYTES_MAX as u64) < 1 << 20,
        "a part's index and its table of producers fit"
    );
    assert!(OBJECT_CONNECT_TIMEOUT.as_secs() < OBJECT_REQUEST_TIMEOUT.as_secs());
    assert!(OBJECT_REQUEST_TIMEOUT.as_secs() < OBJECT_RETRY_TIMEOUT.as_secs());
    assert!(OBJECT_RETRY_TIMEOUT.as_secs() < OBJECT_TIMEOUT.as_secs());
};
