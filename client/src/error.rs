//! What a client reports, and what its user should do about it.

use crate::transport::{ConnectError, EndpointError};
use piculet_quorum::ids::{Epoch, Index, LogName, NodeId, Offset, SegmentNumber};
use piculet_quorum::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_BYTES_MAX};
use std::sync::Arc;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No node could be reached, or none answered in time. Check the addresses, and that UDP is
    /// open; then try again.
    #[error("no node answers: {0}")]
    NoNode(String),
    /// A node refused the connection for good: certificates, protocol version or cluster.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The local end of the connection cannot be set up.
    #[error(transparent)]
    Endpoint(Arc<EndpointError>),
    /// There is no such log. Create it first.
    #[error("there is no log named {0}; create it first")]
    NotFound(LogName),
    /// There is a log of that name already.
    #[error("a log named {0} exists already")]
    AlreadyExists(LogName),
    /// An entry is longer than the limit. Nothing was appended.
    #[error("an entry of {0} bytes is longer than the {ENTRY_BYTES_MAX} bytes allowed; nothing was appended")]
    EntryTooLong(usize),
    /// A batch is larger than the limit, or empty. Nothing was appended.
    #[error(
        "a batch of {entries} entries in {bytes} bytes is outside the limits (1 to {BATCH_ENTRIES_MAX} entries, {BATCH_BYTES_MAX} bytes encoded); nothing was appended"
    )]
    BatchSize {
        /// Its entries.
        entries: usize,
        /// Its length when encoded.
        bytes: usize,
    },
    /// Too much waits for acknowledgement: the nodes are slow or their buffers full. The entry was
    /// not appended: wait with `LogWriter::ready`, then append it again.
    #[error(
        "{waiting} bytes wait for acknowledgement ({why}); the entry was not appended: wait until the writer is ready"
    )]
    Overloaded {
        /// Bytes that wait.
        waiting: u64,
        /// What the nodes say.
        why: String,
    },
    /// Another writer has taken the log over. The entry was not appended. To go on writing, take the
    /// log over again.
    #[error("another writer took the log over in epoch {epoch}; this entry was not appended")]
    Fenced {
        /// The other writer's epoch.
        epoch: Epoch,
    },
    /// The log was deleted. The entry was not appended.
    #[error("the log {0} was deleted; this entry was not appended")]
    Deleted(LogName),
    /// The writer was replaced while the append was under way, and the records do not tell whether
    /// it was appended: read the log to know.
    #[error(
        "another writer took the log over; whether this entry was appended is not known: {why}; read the log before appending it again"
    )]
    OutcomeUnknown {
        /// Why it is not known.
        why: String,
    },
    /// The writer is closed. The entry was not appended.
    #[error("the writer is closed; the entry was not appended")]
    Closed,
    /// The writer was dropped or stopped while the append was under way: whether it was appended
    /// is not known.
    #[error("the writer stopped ({0}); whether this entry was appended is not known")]
    Stopped(String),
    /// A takeover waits for members of the last segment; it cannot finish without them.
    #[error("cannot take the log over: {0}")]
    TakeOver(String),
    /// More members of the last segment have forgotten what they held than the protocol can make
    /// up for: entries that were acknowledged may be lost. Nothing was changed.
    #[error(
        "segment {segment} cannot be recovered: the buffers of {} are gone, and with them, perhaps, acknowledged entries; nothing was changed",
        names(nodes)
    )]
    Lost {
        /// The segment.
        segment: SegmentNumber,
        /// The members that have forgotten.
        nodes: Vec<NodeId>,
    },
    /// Nodes hold different content at the same place, which must never happen. Nothing was
    /// changed: report it.
    #[error("ALARM: {0}; nothing was changed")]
    Alarm(String),
    /// A change of the metadata was asked for and no node said what became of it. Look whether it
    /// was made before trying again.
    #[error("whether the change was made is not known: {0}")]
    Unknown(String),
    /// Entries were trimmed away: start at the offset given or later.
    #[error("entries before offset {trim_offset} were trimmed")]
    Trimmed {
        /// The first offset that is still there.
        trim_offset: Offset,
    },
    /// An offset beyond the end of the log was asked for.
    #[error("offset {offset} is beyond the end of the log, {tail}")]
    BeyondTail {
        /// What was asked for.
        offset: Offset,
        /// Where the log ends now.
        tail: Offset,
    },
    /// What came is not what was written. It is not the end of the log: report it.
    #[error("damaged data at index {index} of segment {segment}: {what}")]
    Damaged {
        /// The segment.
        segment: SegmentNumber,
        /// The index in it.
        index: Index,
        /// What is wrong.
        what: String,
    },
    /// The reader was stopped before it was through, because its runtime ends. It is not the end of
    /// the log.
    #[error("the reader was stopped before it was through: its runtime ends")]
    Interrupted,
    /// A node refused the request; sending it again will not help.
    #[error("{0}")]
    Refused(String),
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ")
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Arc::new(error))
    }
}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Self {
        Self::Endpoint(Arc::new(error))
    }
}

impl Error {
    /// Whether the same call may succeed later. An append with an unknown outcome is not
    /// retryable: it might be appended twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoNode(_) | Self::Overloaded { .. } | Self::TakeOver(_))
    }

    /// Whether an append that failed with this may nevertheless have been appended.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Stopped(_))
    }
}
