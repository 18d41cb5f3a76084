//! Why a buffer cannot be opened or written to, and why what is in it cannot be vouched for.

use crate::journal::JournalError;
use crate::limits::FENCES_MAX;
use piculet_quorum::ids::{LogId, Nonce, SegmentNumber};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a buffer cannot be opened or written to.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// The sizes make no sense.
    #[error(
        "a buffer of {bytes} bytes in chunks of {chunk_bytes} is not possible: expected 1 to {} chunks of 1 byte to 4 GiB; correct buffer.memory.bytes",
        u32::MAX
    )]
    Options {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes of one chunk.
        chunk_bytes: usize,
    },
    /// Another process has the directory.
    #[error(
        "buffer directory {} is in use by another process: stop that process, or give this node a directory of its own",
        .path.display()
    )]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to a node of another cluster. Nothing in it has been touched.
    #[error(
        "buffer directory {} belongs to cluster {found}, and this node is of cluster {expected}: point `metadata` at the cluster that the directory belongs to, or give this node another directory; delete this one only if cluster {found} is gone for good",
        .path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster that it belongs to.
        found: Nonce,
        /// The cluster of this node.
        expected: Nonce,
    },
    /// The directory belongs to a later version of this program. Nothing in it has been touched.
    #[error(
        "{} is of format {found}, this program knows {expected} only: run the version that wrote it, or give this node another directory",
        .path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that this program knows.
        expected: u32,
    },
    /// The file system has too little room.
    #[error(
        "no room for the buffer in {}: it needs {wanted} bytes and the file system has {free} free for it; make the tmpfs larger (mount -o remount,size=...) or lower buffer.memory.bytes",
        .path.display()
    )]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes needed.
        wanted: u64,
        /// Bytes free, and those of the file that it replaces.
        free: u64,
    },
    /// There is no room for the fence of one more log.
    #[error(
        "the buffer in {} keeps the fences of {FENCES_MAX} logs and has room for no more: delete logs that are not needed, or spread them over more nodes",
        .path.display()
    )]
    TooManyFences {
        /// The directory.
        path: PathBuf,
    },
    /// What is kept does not fit any more.
    #[error(
        "{} keeps entries that do not fit in {bytes} bytes: raise buffer.disk.bytes to what it was before", .path.display()
    )]
    TooSmall {
        /// The directory.
        path: PathBuf,
        /// Bytes that are configured.
        bytes: u64,
    },
    /// The journal of a buffer of level `disk`.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system refuses.
    #[error("cannot {action} of the buffer at {}: {source}; check the path and its permissions", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Why a buffer cannot keep its incarnation: what is in it cannot be vouched for, or there was
/// nothing. Shown to operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No life was ever begun in this directory.
    #[error("no buffer has been in use in {} before", .path.display())]
    NoIdentity {
        /// The directory.
        path: PathBuf,
    },
    /// The machine has been started again since: what was in memory is gone.
    #[error("the machine has been started again since {} was in use (boot {found}, now {expected})", .path.display())]
    OtherBoot {
        /// The directory.
        path: PathBuf,
        /// The boot in which it was in use.
        found: Arc<str>,
        /// The boot now.
        expected: Arc<str>,
    },
    /// The directory was copied, restored or moved to another file system.
    #[error(
        "{} is a copy: it was in use as {found}, and is {now}", .path.display()
    )]
    OtherDirectory {
        /// The directory.
        path: PathBuf,
        /// What it was when it was in use.
        found: Arc<str>,
        /// What it is.
        now: Arc<str>,
    },
    /// The size in the configuration has been changed, and the buffer is empty. One that is not goes
    /// on in the size that it has.
    #[error(
        "{} is empty and was made for {found} bytes in chunks of {found_chunk}, and {bytes} in chunks of {chunk} are configured",
        .path.display()
    )]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Bytes that it was made for.
        found: u64,
        /// Bytes of its chunks.
        found_chunk: u64,
        /// Bytes that are configured.
        bytes: u64,
        /// Bytes of a chunk that are configured.
        chunk: u64,
    },
    /// A file is missing.
    #[error("{} is missing", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is damaged.
    #[error("{} is damaged at byte {offset}: {what}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The entries of a segment are damaged.
    #[error("log {log} segment {segment} is damaged in {} at byte {offset}: {what}", .path.display())]
    Segment {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// An earlier process could not make sure that what it wrote is at rest.
    #[error("{} failed in an earlier process: {reason}", .path.display())]
    FailedBefore {
        /// The directory.
        path: PathBuf,
        /// What failed.
        reason: Arc<str>,
    },
}
