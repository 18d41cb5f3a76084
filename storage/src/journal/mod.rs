//! The journal of level `disk`: what must outlive a power cut, in a row of files.
//!
//! A buffer of level `disk` keeps its entries in memory, like one of level `memory`, and every batch,
//! manifest, fence, jump and drop in a journal as well. [`JournalCore`] is the journal itself: single
//! threaded, over a small [`Disk`], so that a simulator can drive it. [`Journal`] wraps it in a thread
//! that writes all that waits with one sync: group commit. [`Replayed`] is what a start finds.
//!
//! # The row of files
//! Files are called `journal-` and their *generation*, a number that only grows, in 16 hex digits. A
//! file is allocated as a whole; it holds a header and then records, one behind the other.
//! It begins with a *checkpoint*: every live manifest and fence again, and a record that says how many
//! there are. It ends with a *seal*, after which the next file follows. So a file is needed only for
//! the batches in it: the oldest is deleted when all of its batches have been freed, and never
//! another one before it.
//!
//! The next file is at rest, entry of the directory and all, before the seal that promises it is
//! written, and the seal is synced before the next file gets a record. Therefore: after a seal the
//! next file must be there, and behind the first file without a seal nothing counts.
//!
//! # What a damaged record means
//! Every record carries `synced`: how far the journal was known to be at rest when it was written. A
//! bad record below the largest `synced` that is found anywhere, also behind the bad record, is
//! damage. At or above it the journal ends there: the process was stopped while it wrote. Records are
//! bound to their file by a random number in the file's header: neither bytes of a deleted file nor a
//! payload made to look like a record is taken for one.
//!
//! A start never writes behind what it found, for a valid record may lie behind a torn one. It syncs
//! the last file, seals it where it ends, gives back the room behind that, and goes on in a new one. A
//! clean stop leaves an end mark, so that all before it is below a `synced`. Damage in the last group of
//! records before a stop that was not clean looks like a torn end.
//!
//! # A failure is for good
//! After a write or a sync has failed nobody knows what is at rest: pages that could not be written
//! may be marked clean. The journal writes nothing more, and the file `health`, allocated beforehand,
//! keeps the reason: the next start reports it as damage. The syncs of a start count like all others,
//! for they put at rest what a killed process has left in the page cache. Only when there is no room
//! for the next file, which comes before anything else is written, everything is as it was: the journal
//! stops, and the next start goes on with it when there is room.

mod core;
mod disk;
mod live;
mod parse;
mod record;
mod replay;
#[cfg(any(test, feature = "conformance"))]
pub mod simulated;
mod state;
#[cfg(test)]
mod tests;
mod thread;

pub use self::core::JournalCore;
pub use self::disk::{Disk, RealDisk};
pub use self::live::Manifest;
pub use self::record::Change;
pub use self::replay::{Replayed, ReplayedSegment};
pub use self::state::BatchAt;
pub use self::thread::{Journal, Refused, Reservation};

use crate::limits::{
    JOURNAL_BYTES, JOURNAL_FILE_BYTES, JOURNAL_FILE_BYTES_MAX, JOURNAL_FILE_BYTES_MIN, JOURNAL_QUEUE_BYTES,
};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How large a journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Bytes that all files together may take before batches are refused.
    pub bytes: u64,
    /// Bytes of one file; one that needs more for its checkpoint or a single batch is larger.
    pub file_bytes: u64,
    /// Bytes of batches that may wait to be written.
    pub queue_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { bytes: JOURNAL_BYTES, file_bytes: JOURNAL_FILE_BYTES, queue_bytes: JOURNAL_QUEUE_BYTES }
    }
}

impl JournalOptions {
    pub(crate) fn check(&self) -> Result<(), JournalError> {
        let Self { bytes, file_bytes, .. } = *self;
        let sizes = JOURNAL_FILE_BYTES_MIN..=JOURNAL_FILE_BYTES_MAX;
        let fine = sizes.contains(&file_bytes) && bytes >= 2 * file_bytes;
        if fine { Ok(()) } else { Err(JournalError::Options { bytes, file_bytes }) }
    }
}

/// Why a journal has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The first reason.
    pub reason: Arc<str>,
    /// Whether what was announced is at rest all the same, and the next start goes on with it. If not,
    /// nobody knows what is, and nothing of it counts any more.
    pub sound: bool,
}

/// A place in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file.
    pub generation: u64,
    /// Bytes from its start.
    pub offset: u64,
}

/// Why a journal cannot be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The sizes make no sense.
    #[error(
        "a journal of {bytes} bytes in files of {file_bytes} is not possible: expected files of {JOURNAL_FILE_BYTES_MIN} to {JOURNAL_FILE_BYTES_MAX} bytes and room for two of them; correct buffer.disk.bytes and buffer.disk.file_bytes"
    )]
    Options {
        /// Bytes in all.
        bytes: u64,
        /// Bytes of one file.
        file_bytes: u64,
    },
    /// The file system is full.
    #[error(
        "no room for the journal: {} needs {wanted} bytes and the file system has {free} free; make room there or move the directory to a larger disk, then start the node again", .path.display()
    )]
    NoSpace {
        /// The file that did not fit.
        path: PathBuf,
        /// Bytes needed.
        wanted: u64,
        /// Bytes free.
        free: u64,
    },
    /// A file was written by a later version of this program. Nothing has been touched.
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
    /// The system refuses.
    #[error("cannot {action} {}: {source}; check the disk, the path and its permissions", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
    /// An earlier failure has stopped the journal.
    #[error("the journal has stopped for good: {0}")]
    Failed(Arc<str>),
}

impl JournalError {
    /// Whether it came before anything was written that is not synced: then what is at rest is known.
    fn left_the_disk_alone(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Io { action: CREATE, .. })
    }
}

/// What is done to a file before anything is written to it.
const CREATE: &str = "create";

const FILE_PREFIX: &str = "journal-";
/// Records name a generation in 32 bits.
const GENERATION_MAX: u64 = u32::MAX as u64;
const HEALTH_FILE: &str = "health";
/// Bytes of the file that keeps the reason of a failure.
const HEALTH_BYTES: u64 = 4096;

fn file_name(generation: u64) -> String {
    format!("{FILE_PREFIX}{generation:016x}")
}

/// The generation of a file of ours. Others are left alone, also those of a generation that no
/// record can name: there never was one, for that takes 2^32 files.
fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(FILE_PREFIX).filter(|digits| digits.len() == 16)?;
    let generation = u64::from_str_radix(digits, 16).ok()?;
    (generation < GENERATION_MAX && file_name(generation) == name).then_some(generation)
}
