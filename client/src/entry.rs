//! One entry, as a reader gets it.

use bytes::Bytes;
use piculet_quorum::ids::{Offset, Timestamp};

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
}
