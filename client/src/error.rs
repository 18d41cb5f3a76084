//! What a client reports, and what its user should do about it.

use crate::transport::{ConnectError, EndpointError, HandshakeError};
use piculet_quorum::ids::{Epoch, Index, LogName, NodeId, Nonce, Offset, SegmentNumber};
use piculet_quorum::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_BYTES_MAX};
use piculet_quorum::producers::{LastAppend, Producer};
use std::sync::Arc;

/// Why a call failed.
///
/// Every message says what is wrong, with the value, and what to do. [`code`](Self::code) is for
/// programs, [`is_retryable`](Self::is_retryable) for loops, and
/// [`outcome_unknown`](Self::outcome_unknown) tells what may have happened all the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No node could be reached, or none answered in time. Check the addresses, and that UDP is
    /// open; then try again.
    #[error("no node answers: {0}; check the addresses, that the nodes run and that UDP gets through")]
    NoNode(String),
    /// There is no connection to a node, for a reason that time does not cure: its address, a
    /// certificate or the version of the protocol.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The local end of the connection cannot be set up.
    #[error(transparent)]
    Endpoint(Arc<EndpointError>),
    /// The object store that the client was given cannot be written to now. Check that it is reachable
    /// and that the credentials allow it; then try again.
    #[error("the object store of the client cannot be used: {0}")]
    Store(String),
    /// A setting of the client is of no use. Correct it.
    #[error("setting {setting}: {problem}")]
    Setting {
        /// The setting's name in [`ClientOptions`](crate::ClientOptions).
        setting: &'static str,
        /// What is wrong with its value and what was expected.
        problem: String,
    },
    /// A node is of another cluster than the one expected. Give addresses of nodes of one cluster.
    #[error(
        "the node at {address} is of cluster {found}, not of {expected}; give addresses of nodes of one cluster"
    )]
    WrongCluster {
        /// The node's address.
        address: String,
        /// The node's cluster.
        found: Nonce,
        /// The cluster of the setting, or else that of the node that answered first.
        expected: Nonce,
    },
    /// There is no such log. Create it first.
    #[error("there is no log named {0}; create it first, or check the name")]
    NotFound(LogName),
    /// There is a log of that name already.
    #[error("a log named {0} exists already; use it, or choose another name")]
    AlreadyExists(LogName),
    /// A live writer has the log. Nothing was changed. Stop it, or take the log over from it by force.
    #[error(
        "log {log} is held by {holder}{} in epoch {epoch}; stop that writer, or take the log over from it",
        peer.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default()
    )]
    Held {
        /// The log.
        log: LogName,
        /// What its writer calls itself: [`ClientOptions::name`](crate::ClientOptions::name).
        holder: String,
        /// The name in the writer's certificate and its address, as a node sees them.
        peer: Option<String>,
        /// The writer's epoch.
        epoch: Epoch,
    },
    /// An entry is longer than the limit. Nothing was appended.
    #[error(
        "an entry of {0} bytes is longer than the {ENTRY_BYTES_MAX} bytes allowed; nothing was appended: cut it into several"
    )]
    EntryTooLong(usize),
    /// A batch is larger than the limit, or empty. Nothing was appended.
    #[error(
        "a batch of {entries} entries in {bytes} bytes is outside the limits (1 to {BATCH_ENTRIES_MAX} entries, {BATCH_BYTES_MAX} bytes encoded); nothing was appended: make it smaller"
    )]
    BatchSize {
        /// Its entries.
        entries: usize,
        /// Its length when encoded.
        bytes: usize,
    },
    /// The log's next offset is not the one that the append expected. Nothing was appended: find out
    /// what was appended meanwhile.
    #[error(
        "the entry would have offset {actual}, and {expected} was expected; nothing was appended: read what is there from {expected} on, or give the offset where the log ends now"
    )]
    OffsetMismatch {
        /// The offset that was expected.
        expected: Offset,
        /// The offset that the next entry gets.
        actual: Offset,
    },
    /// The producer has appended a later sequence, so this append is taken for one that was made
    /// before. Nothing was appended now. Only where the last append of a producer went is known.
    #[error(
        "producer {} has appended sequence {} at offset {}; sequence {} is below it, so that it counts as appended before: nothing was appended now",
        producer.id, last.sequence, last.offset, producer.sequence
    )]
    Duplicate {
        /// What was to be appended.
        producer: Producer,
        /// The producer's last append.
        last: LastAppend,
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
    /// The log was deleted. The entry was not appended: create it again, or use another.
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
    /// The writer is closed. The entry was not appended: open the log again.
    #[error("the writer is closed; the entry was not appended: open the log again")]
    Closed,
    /// The writer was dropped or stopped while the append was under way: whether it was appended
    /// is not known. Open the log again and read its last entries.
    #[error(
        "the writer stopped ({0}); whether this entry was appended is not known: open the log again and read its last entries"
    )]
    Stopped(String),
    /// The log cannot be opened or taken over now: too few of its nodes answer, or another takes it
    /// over at the same time. Try again.
    #[error("cannot take the log over: {0}")]
    TakeOver(String),
    /// More members of a segment have forgotten what they held than the protocol can make up for:
    /// entries that were acknowledged may be lost. Nothing was changed. Allow the log to go on with what
    /// is left ([`Client::set_allow_loss`](crate::Client::set_allow_loss)), or leave it as it is: a
    /// reader that starts at the earliest entry and follows sees what there is.
    #[error(
        "segment {segment} cannot be recovered: the buffers of {} are gone, and with them, perhaps, acknowledged entries; nothing was changed: `piculet log set LOG --allow-loss true` lets the log go on with what is left of it, and readers are told where; `piculet read LOG --follow` shows what there is",
        names(nodes)
    )]
    Lost {
        /// The segment.
        segment: SegmentNumber,
        /// The members that have forgotten.
        nodes: Vec<NodeId>,
    },
    /// Nodes hold different content at the same place, which must never happen. Nothing was
    /// changed: keep the nodes as they are and report it.
    #[error("ALARM: {0}; nothing was changed: keep the nodes as they are and report it")]
    Alarm(String),
    /// A change of the metadata was asked for and no node said what became of it: it may have been
    /// made, or may yet be. Look before trying again.
    #[error("whether the change was made is not known: {0}; look before trying again")]
    Unknown(String),
    /// Entries were trimmed away: start at the offset given or later.
    #[error("entries before offset {trim_offset} were trimmed; start there or later")]
    Trimmed {
        /// The first offset that is still there.
        trim_offset: Offset,
    },
    /// An offset beyond the end of the log was asked for. Nothing was changed.
    #[error("offset {offset} is beyond the end of the log; its tail is {tail}: give that or less")]
    BeyondTail {
        /// What was asked for.
        offset: Offset,
        /// Where the log ends now.
        tail: Offset,
    },
    /// Entries that were acknowledged may be lost from this offset on: more nodes lost their buffers
    /// than the log is made for, and its settings say to go on with what was left. The reader can be
    /// read on; another one starts at `to`.
    #[error(
        "entries that were acknowledged may be lost from offset {from} on, for too many nodes lost their buffers; the log goes on at offset {to}: read on, or start there"
    )]
    LossPossible {
        /// The offset from which on entries may be lost.
        from: Offset,
        /// Where the log goes on: it may be the same, for nobody may know how many there were.
        to: Offset,
    },
    /// What came is not what was written, whichever node it came from. It is not the end of the log:
    /// report it.
    #[error(
        "damaged data at index {index} of segment {segment}: {what}; this is not the end of the log: report it"
    )]
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
    #[error(
        "the reader was stopped before it was through, for its runtime ends: this is not the end of the log"
    )]
    Interrupted,
    /// A node refused the request, or answered with what this version does not understand; sending it
    /// again will not help.
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
    /// What is wrong, for a message that says more.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::NoNode(why) => why.clone(),
            other => other.to_string(),
        }
    }

    /// The error's stable name, for programs: in lower case, with hyphens. docs/CLIENT.md lists all
    /// of them, with what to do. Errors that ask the same of a user share a name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoNode(_) => "no-node",
            Self::Connect(error) => connect_code(error),
            Self::Endpoint(error) => match &**error {
                EndpointError::Options(_) => "setting",
                EndpointError::Tls(_) => "certificate",
                EndpointError::InUse { .. } => "address-in-use",
                EndpointError::Socket { .. } => "socket",
            },
            Self::Setting { .. } => "setting",
            Self::Store(_) => "store",
            Self::WrongCluster { .. } => "wrong-cluster",
            Self::NotFound(_) => "not-found",
            Self::AlreadyExists(_) => "already-exists",
            Self::Held { .. } => "held",
            Self::EntryTooLong(_) => "entry-too-long",
            Self::BatchSize { .. } => "batch-size",
            Self::OffsetMismatch { .. } => "offset-mismatch",
            Self::Duplicate { .. } => "duplicate",
            Self::Overloaded { .. } => "overloaded",
            Self::Fenced { .. } => "fenced",
            Self::Closed => "closed",
            Self::OutcomeUnknown { .. } | Self::Stopped(_) | Self::Unknown(_) => "unknown-outcome",
            Self::Deleted(_) => "deleted",
            Self::TakeOver(_) => "takeover-failed",
            Self::Lost { .. } => "lost",
            Self::Alarm(_) => "alarm",
            Self::Trimmed { .. } => "trimmed",
            Self::BeyondTail { .. } => "beyond-tail",
            Self::LossPossible { .. } => "loss-possible",
            Self::Damaged { .. } => "damaged",
            Self::Interrupted => "interrupted",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether the same call may succeed later, with nothing changed in between. What has an unknown
    /// outcome is not retryable: it might be done twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoNode(_)
            | Self::Store(_)
            | Self::Overloaded { .. }
            | Self::TakeOver(_)
            | Self::Held { .. } => true,
            Self::Connect(error) => connect_code(error) == "no-node",
            _ => false,
        }
    }

    /// Whether what failed with this may have been done all the same, or may yet be: an append, or
    /// a change of the metadata.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Stopped(_) | Self::Unknown(_))
    }
}

fn connect_code(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Address { .. } => "bad-address",
        ConnectError::Resolve { .. } => "unresolved-host",
        ConnectError::Local { .. } => "socket",
        ConnectError::Handshake { error, .. } => match error {
            HandshakeError::OtherProtocol => "protocol-version",
            HandshakeError::TheyRefused { .. } | HandshakeError::WeRefused { .. } => "certificate",
            HandshakeError::NoAnswer { .. } | HandshakeError::NobodyListens | HandshakeError::Lost(_) => {
                "no-node"
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Alert, OptionsError, TransportOptions};
    use piculet_quorum::producers::ProducerId;
    use std::time::Duration;

    const MANUAL: &str = include_str!("../../docs/CLIENT.md");

    fn connect(error: HandshakeError) -> Error {
        ConnectError::Handshake { address: "10.0.0.1:7781".to_owned(), error }.into()
    }

    fn bad_option() -> OptionsError {
        TransportOptions { keep_alive: Duration::ZERO, ..TransportOptions::default() }.check().unwrap_err()
    }

    /// One of every kind.
    fn every() -> Vec<Error> {
        let (log, why) = (LogName::new("orders").unwrap(), || "why it is so".to_owned());
        let address = "127.0.0.1:7781".parse().unwrap();
        let io = || std::io::ErrorKind::PermissionDenied.into();
        let nodes = vec![NodeId::new("node-1").unwrap()];
        let (segment, index, epoch) = (SegmentNumber(3), Index(5), Epoch(4));
        vec![
            Error::NoNode(why()),
            connect(HandshakeError::NobodyListens),
            connect(HandshakeError::OtherProtocol),
            connect(HandshakeError::TheyRefused { alert: Alert::UnknownCa }),
            connect(HandshakeError::WeRefused { alert: Alert::Expired, detail: why() }),
            ConnectError::Address { address: "node-1".to_owned(), problem: "it has no port" }.into(),
            ConnectError::Resolve { address: "node-1:7781".to_owned(), error: io() }.into(),
            EndpointError::Options(bad_option()).into(),
            EndpointError::InUse { address }.into(),
            EndpointError::Socket { address, error: io() }.into(),
            Error::Setting { setting: "nodes", problem: why() },
            Error::Store(why()),
            Error::WrongCluster { address: "a:1".to_owned(), found: Nonce(1), expected: Nonce(2) },
            Error::NotFound(log.clone()),
            Error::AlreadyExists(log.clone()),
            Error::Held { log, holder: "me".to_owned(), peer: Some("\"w\" at b:1".to_owned()), epoch },
            Error::EntryTooLong(1),
            Error::BatchSize { entries: 0, bytes: 0 },
            Error::OffsetMismatch { expected: Offset(1), actual: Offset(2) },
            Error::Duplicate {
                producer: Producer { id: ProducerId::new(7).unwrap(), sequence: 1 },
                last: LastAppend { sequence: 2, offset: Offset(3) },
            },
            Error::Overloaded { waiting: 1, why: why() },
            Error::Fenced { epoch },
            Error::Deleted(LogName::new("orders").unwrap()),
            Error::OutcomeUnknown { why: why() },
            Error::Closed,
            Error::Stopped(why()),
            Error::TakeOver(why()),
            Error::Lost { segment, nodes },
            Error::Alarm(why()),
            Error::Unknown(why()),
            Error::Trimmed { trim_offset: Offset(7) },
            Error::BeyondTail { offset: Offset(9), tail: Offset(8) },
            Error::LossPossible { from: Offset(5), to: Offset(5) },
            Error::Damaged { segment, index, what: why() },
            Error::Interrupted,
            Error::Refused(why()),
        ]
    }

    #[test]
    fn the_manual_lists_every_code_with_what_may_be_tried_again() {
        for error in every() {
            let code = error.code();
            let row = MANUAL.lines().find(|line| line.starts_with(&format!("| `{code}` |")));
            let cells: Vec<&str> = row.unwrap_or_else(|| panic!("no row for {code}")).split('|').collect();
            assert_eq!(cells[4].trim() == "yes", error.is_retryable(), "{code}");
            assert!(!(error.is_retryable() && error.outcome_unknown()), "{code}: it would be done twice");
        }
    }

    #[test]
    fn messages_begin_like_the_middle_of_a_sentence_and_end_without_a_full_stop() {
        for error in every() {
            let message = error.to_string();
            let first = message.chars().next().unwrap();
            let begins = !first.is_uppercase() || message.starts_with("ALARM");
            assert!(begins && !message.ends_with('.') && !message.contains('\n'), "{message}");
        }
    }
}
