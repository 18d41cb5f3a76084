//! Every limit and default of the protocol, with the relations between them checked at compile time.

use crate::time::Span;

/// Largest entry, in bytes: its payload and its encoded headers.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;
/// Largest encoded headers of one entry, in bytes.
pub const HEADERS_BYTES_MAX: usize = 64 << 10;
/// Largest encoded batch (its header and all its entries with theirs), in bytes: the largest entry
/// and its header fit.
pub const BATCH_BYTES_MAX: usize = ENTRY_BYTES_MAX + 4096;
/// Most entries in one batch.
pub const BATCH_ENTRIES_MAX: usize = 65_536;
/// Size that a writer lets a batch of separate appends grow to before it starts the next, in bytes.
pub const BATCH_BYTES_TARGET: usize = 256 << 10;
/// Most producers that a log remembers the last sequence of.
pub const PRODUCERS_MAX: usize = 1_000;
/// Longest description of who writes a log, in bytes.
pub const HOLDER_BYTES_MAX: usize = 128;
/// Largest control message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Largest piece of data that a node sends to a reader in one frame, in bytes.
pub const DATA_BYTES_TARGET: usize = 1 << 20;
/// Bytes of batches that a writer hands to a stream at a time.
pub const TRANSMIT_BYTES_TARGET: u64 = 1 << 20;
/// Most members of a segment.
pub const MEMBERS_MAX: usize = 3;
/// Members that must hold an entry before its append is acknowledged.
pub const ACK_QUORUM: usize = 2;
/// Most nodes that a cluster may list.
pub const NODES_MAX: usize = 256;
/// Most logs that one listing returns; the rest follows by name.
pub const LIST_PAGE: usize = 1_000;
/// Most segments that one view of a log shows; the rest follows by number.
pub const VIEW_SEGMENTS: usize = 64;
/// Most compares, and most puts, in one transaction (etcd's own limit is 128).
pub const TXN_OPS_MAX: usize = 127;

/// A writer gives a member up when bytes stay unacknowledged for this long.
pub const MEMBER_TIMEOUT: Span = Span::millis(500);
/// Encoded bytes that a writer keeps for one log until every member holds them.
pub const RETRANSMIT_BYTES: usize = 64 << 20;
/// A segment is rolled when it holds this many bytes.
pub const SEGMENT_BYTES: u64 = 1 << 30;
/// A segment of level `object` is rolled when it has this many parts: whoever looks at it reads the
/// records of all of them.
pub const SEGMENT_PARTS: u32 = 1_000;
/// A segment is rolled when it is this old.
pub const SEGMENT_AGE: Span = Span::secs(600);
/// A writer parks when everything is archived and nothing was appended for this long.
pub const IDLE_AFTER: Span = Span::secs(60);
/// A writer is taken to be gone when enough members have not had its stream for this long.
pub const WRITER_TIMEOUT: Span = Span::secs(5);
/// A takeover waits this long for the members beyond its fence quorum.
pub const RECOVERY_GRACE: Span = Span::millis(20);
/// A takeover waits this long for a silent member that it could copy to.
pub const RECOVERY_SILENCE: Span = Span::secs(2);
/// A part is uploaded when this many committed bytes wait.
pub const FLUSH_BYTES: u64 = 8 << 20;
/// A part is uploaded when this many committed bytes wait and the oldest is `FLUSH_INTERVAL` old.
pub const FLUSH_BYTES_MIN: u64 = 256 << 10;
/// See [`FLUSH_BYTES_MIN`].
pub const FLUSH_INTERVAL: Span = Span::secs(1);
/// A part is uploaded when the oldest committed entry has waited this long.
pub const FLUSH_INTERVAL_MAX: Span = Span::secs(60);
/// A commit mark is sent on its own when no append carries it within this time.
pub const COMMIT_DELAY: Span = Span(100);
/// Largest part, in bytes; a batch goes whole into one part, so one batch may exceed it.
pub const PART_BYTES_MAX: u64 = 64 << 20;

const _: () = {
    assert!(BATCH_BYTES_MAX > ENTRY_BYTES_MAX && HEADERS_BYTES_MAX < ENTRY_BYTES_MAX);
    assert!(BATCH_BYTES_TARGET < BATCH_BYTES_MAX);
    assert!(RETRANSMIT_BYTES > 2 * BATCH_BYTES_MAX, "the largest batch always fits the budget");
    assert!(MESSAGE_BYTES_MAX < BATCH_BYTES_MAX);
    assert!(PRODUCERS_MAX * 24 < MESSAGE_BYTES_MAX / 2, "a table of producers goes into one message");
    assert!(ACK_QUORUM < MEMBERS_MAX);
    assert!(ACK_QUORUM * 2 > MEMBERS_MAX, "two ack quorums share a member");
    assert!(FLUSH_BYTES_MIN <= FLUSH_BYTES && FLUSH_BYTES <= PART_BYTES_MAX);
    assert!(FLUSH_INTERVAL.0 <= FLUSH_INTERVAL_MAX.0);
    assert!(PART_BYTES_MAX < SEGMENT_BYTES);
    assert!(BATCH_BYTES_MAX < u32::MAX as usize);
};
