//! What a reader gets.

use bytes::Bytes;
use piculet_quorum::headers;
use piculet_quorum::ids::{Offset, Timestamp};
use piculet_quorum::producers::Producer;

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position in the log.
    pub offset: Offset,
    /// When the writer took it.
    pub timestamp: Timestamp,
    /// What was appended. A slice of what came over the network: keeping a small payload for long
    /// keeps up to 1 MiB around it too.
    pub payload: Bytes,
    /// The producer that it was appended for and its sequence, if it was for one.
    pub producer: Option<Producer>,
    /// Its headers, encoded and checked.
    pub(crate) headers: Bytes,
}

/// What a reader comes to: an entry, or offsets at which there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An entry.
    Entry(Entry),
    /// There is nothing at these offsets, and nothing that was acknowledged ever was: what a writer had
    /// sent before it died went with the only node that had it.
    Skipped {
        /// The first offset that has no entry.
        from: Offset,
        /// Where the log goes on.
        to: Offset,
    },
    /// Entries that were acknowledged may be lost here: more nodes lost their buffers than the log is
    /// made for, and its settings say to go on with what was left.
    LossPossible {
        /// The offset from which on entries may be lost.
        from: Offset,
        /// Where the log goes on. Nobody may know how many there were: the offsets from here on were
        /// given out again, and this may be the same as `from`.
        to: Offset,
    },
}

impl Entry {
    /// An entry without headers and producer, as tests of whatever takes entries want it.
    #[must_use]
    pub fn new(offset: Offset, timestamp: Timestamp, payload: Bytes) -> Self {
        Self { offset, timestamp, payload, producer: None, headers: Bytes::new() }
    }

    /// Its headers, in the order in which they were added. A name may occur more than once.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        // Their form was checked when the entry came, so nothing is left out here.
        headers::decode(&self.headers).map_while(Result::ok)
    }

    /// The value of the first header of this name, if there is one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}
