//! Control messages. A variant's place in its enum is its number on the wire: new ones go last.

use crate::batch::Place;
use crate::ids::{
    Chain, Epoch, Incarnation, Index, Level, LogId, LogName, NodeId, Nonce, Offset, Revision, SegmentNumber,
    Timestamp,
};
use crate::limits::HOLDER_BYTES_MAX;
use crate::meta::configure::ConfigureLog;
use crate::meta::create::CreateLog;
use crate::meta::declare::DeclareLost;
use crate::meta::delete::DeleteLog;
use crate::meta::loss::{Answered, RecordLoss};
use crate::meta::part::RecordPart;
use crate::meta::seal::{CreateOne, SealOne, SealSegment, Unsound};
use crate::meta::takeover::TakeOver;
use crate::meta::trim::TrimLog;
use crate::meta::{FAR, LogRecord, LogView, NodeRecord, NodeState, TxnOutcome, Versioned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// First frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on every connection; answered with [`Response::Welcome`].
    Hello(Hello),
    /// Every node that the metadata know; answered with [`Response::Nodes`].
    Nodes,
    /// What a name stands for; answered with [`Response::Log`].
    FindLog(LogName),
    /// Logs by name, after the one given; answered with [`Response::Names`].
    ListLogs {
        /// Only names behind this one.
        after: Option<LogName>,
        /// At most so many, and never more than [`LIST_PAGE`](crate::limits::LIST_PAGE).
        limit: u32,
    },
    /// A log and its segments from a number on, as many as fit; answered with [`Response::View`].
    ViewLog {
        /// The log.
        log: LogId,
        /// The first segment wanted; the newest two when missing.
        from: Option<SegmentNumber>,
    },
    /// A metadata transaction; answered with [`Response::Outcome`].
    Propose(Proposal),
    /// Fence a segment; answered with [`Response::Fenced`].
    Fence(Address),
    /// Batches of a segment for a takeover; answered with `Data` frames until `to`.
    Fetch {
        /// The segment, with the fetching takeover's epoch.
        at: Address,
        /// From this batch boundary on.
        from: Index,
        /// Up to this one.
        to: Index,
    },
    /// Appends to a log: `Open`, `Append` and `Commit` frames follow.
    Append(LogId),
    /// Entries of a segment for a reader; answered with `Data` and `Mark` frames.
    Subscribe {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
        /// From this index on.
        from: Index,
    },
    /// Watermarks of a segment; answered with one `Mark` frame.
    Watermarks {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
    },
    /// How the node is; answered with [`Response::Status`].
    Status,
    /// Whether a segment's writer is still there; answered with [`Response::WriterSeen`].
    WriterSeen {
        /// The log.
        log: LogId,
        /// The segment.
        segment: SegmentNumber,
    },
    /// The table of producers that a writer begins with, which from now on may append entries of
    /// producers; answered with [`Response::Producers`].
    Producers(LogId),
}

/// Answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Hello`].
    Welcome(Welcome),
    /// To [`Request::Nodes`].
    Nodes(Nodes),
    /// To [`Request::FindLog`].
    Log(Option<LogId>),
    /// To [`Request::ListLogs`].
    Names(Vec<(LogName, LogId)>),
    /// To [`Request::ViewLog`]; none when there is no such log.
    View(Option<Box<LogView>>),
    /// To [`Request::Propose`].
    Outcome(TxnOutcome),
    /// To [`Request::Fence`].
    Fenced(FenceOk),
    /// To [`Request::Status`].
    Status(Status),
    /// The request is refused.
    Refused(Refusal),
    /// To [`Request::WriterSeen`].
    WriterSeen(WriterSeen),
    /// To [`Request::Producers`].
    Producers(ProducersFrom),
}

/// A table of producers, and from where on entries are to be folded into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProducersFrom {
    /// Segment and index of the first entry that is not in the table. None when no entry of the log
    /// had a producer when it was asked for: then there is nothing to fold.
    pub from: Option<(SegmentNumber, Index)>,
    /// The table, as [`Producers`](crate::producers::Producers) encodes it.
    pub table: Vec<u8>,
}

/// What a member of a segment has seen of its writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WriterSeen {
    /// The life of the buffer that speaks.
    pub incarnation: Incarnation,
    /// The epoch of the log, as far as the member knows.
    pub epoch: Epoch,
    /// For how long, in milliseconds, the member has had no stream of appends to the segment in
    /// that segment's own epoch, counted from when it learned of the segment; none while it has one.
    pub gone_ms: Option<u64>,
    /// Who has or had the stream: the name in its certificate and its address.
    pub peer: Option<String>,
}

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of its program.
    pub version: String,
    /// The cluster that it expects, when it knows one.
    pub cluster: Option<Nonce>,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of its program.
    pub version: String,
    /// Its cluster.
    pub cluster: Nonce,
    /// Its name.
    pub node: NodeId,
    /// The life of each of its buffers.
    pub incarnations: BTreeMap<Level, Incarnation>,
    /// Its addresses, one per shard; a log's shard is `hash(log) mod n`.
    pub shards: Vec<String>,
}

/// A node, as the metadata have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeView {
    /// The current life of each of its buffers, with the revision of its record: what a transaction
    /// compares.
    pub lives: BTreeMap<Level, (Incarnation, Revision)>,
    /// What it says of itself, while it runs.
    pub running: Option<NodeRecord>,
}

/// Every node that the metadata know.
pub type Nodes = BTreeMap<NodeId, NodeView>;

/// A metadata transaction that a node carries out for a client, with the client's own compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Proposal {
    /// T0.
    Create(CreateLog),
    /// T1.
    TakeOver(TakeOver),
    /// T2 and T2c.
    Seal(Box<SealSegment>),
    /// T4.
    Trim(TrimLog),
    /// A tombstone.
    Delete(DeleteLog),
    /// T6.
    RecordLoss(Box<RecordLoss>),
    /// Other settings for a log.
    Configure(ConfigureLog),
    /// A node will not come back with what it held.
    DeclareLost(DeclareLost),
    /// T3, by the writer of a log of level `object`.
    RecordPart(Box<RecordPart>),
}

/// A segment of a log at one member, in the asker's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The log.
    pub log: LogId,
    /// The segment.
    pub segment: SegmentNumber,
    /// The epoch of whoever asks.
    pub epoch: Epoch,
    /// The life of the member's buffer that is meant.
    pub incarnation: Incarnation,
}

/// A writer, or a takeover that repairs, names the segment that its next appends belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Open {
    /// The segment at the member; the epoch is the opener's.
    pub at: Address,
    /// Whether the appends are repairs by a takeover rather than a writer's own.
    pub repair: bool,
}

/// Answer to [`Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Opened {
    /// The segment.
    pub segment: SegmentNumber,
    /// The life of the buffer that speaks.
    pub incarnation: Incarnation,
    /// The next index that the member would store: resend from here.
    pub tail: Index,
    /// The watermark that counts at the segment's level.
    pub held: Index,
}

/// A member refuses the appends of a segment, until the segment is opened again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The segment.
    pub segment: SegmentNumber,
    /// Why.
    pub why: Refusal,
}

/// A member of the segment has been fenced, and this is what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FenceOk {
    /// The next index that it would store.
    pub tail: Index,
    /// The watermark that counts at the segment's level.
    pub held: Index,
    /// What it holds of the writer's own appends.
    pub writer_tail: Index,
    /// Below it everything is committed, as far as it knows.
    pub commit: Index,
    /// Below it the memory has been freed, for it is archived.
    pub freed: Index,
    /// Chain at the tail.
    pub chain: Chain,
    /// Timestamp of the entry before the tail.
    pub last_timestamp: Timestamp,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: NodeId,
    /// The life of each of its buffers.
    pub incarnations: BTreeMap<Level, Incarnation>,
    /// Size of its buffers, of all levels together, in bytes.
    pub buffer_bytes: u64,
    /// How much of that is lent to segments.
    pub buffer_used: u64,
    /// CPU time that its process has used, in nanoseconds.
    pub cpu_nanos: u64,
    /// Segments of which it uploads the parts.
    pub uploading: Vec<(LogId, SegmentNumber)>,
    /// Whether its store honours `If-None-Match`.
    pub conditional_put: bool,
}

/// Why a node does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The buffer addressed is gone; the node lives on in another incarnation.
    #[error("the buffer addressed is gone: the node is in incarnation {current}")]
    WrongIncarnation {
        /// The node's incarnation.
        current: Incarnation,
    },
    /// A later epoch has taken the log over.
    #[error("fenced: the log has been taken over in epoch {epoch}")]
    Fenced {
        /// The latest epoch that the node has seen.
        epoch: Epoch,
    },
    /// The node is about to stop and takes no new segments.
    #[error("the node is about to stop and takes no new segments")]
    Draining,
    /// An append does not continue what the node holds.
    #[error("out of order: the node would store index {tail} next")]
    OutOfOrder {
        /// The next index that the node would store.
        tail: Index,
    },
    /// The segment is sealed.
    #[error("the segment is sealed at index {end}")]
    Sealed {
        /// Where it ends.
        end: Index,
    },
    /// The node's buffer is full; it frees memory as parts reach object storage.
    #[error("the node's buffer of {bytes} bytes is full; it frees memory as parts reach object storage")]
    Overloaded {
        /// Size of the buffer.
        bytes: u64,
    },
    /// An index has two contents: a broken invariant somewhere.
    #[error("ALARM: index {index} of the segment has another content here; nothing was changed")]
    Conflict {
        /// The index.
        index: Index,
    },
    /// The node has nothing of this segment from there on.
    #[error("the node holds nothing of this segment from there on")]
    NotHere,
    /// The client expects another cluster.
    #[error("this node is of cluster {cluster}; the client expects another")]
    WrongCluster {
        /// The node's cluster.
        cluster: Nonce,
    },
    /// The node cannot tell or do it now: metadata or object storage do not answer.
    #[error("not now: {0}")]
    Unavailable(String),
    /// A transaction was sent to the metadata store and its outcome is not known.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The request makes no sense; sending it again will not help.
    #[error("refused: {0}")]
    Invalid(String),
    /// Another stream has opened the segment since: the newest one appends.
    #[error("another stream has opened the segment since")]
    Superseded,
    /// The log has been deleted.
    #[error("the log has been deleted")]
    Deleted,
}

impl Address {
    /// The segment itself, in the epoch that it is written in.
    #[must_use]
    pub fn place(&self, epoch: Epoch) -> Place {
        Place { log: self.log, segment: self.segment, epoch }
    }
}

impl Proposal {
    /// The segment whose end it changes, with the `archived` watermark on which it rests.
    #[must_use]
    pub fn rests_on_parts(&self) -> Option<(LogId, SegmentNumber, Index)> {
        match self {
            Self::Seal(seal) => seal.seal.as_ref().map(|one| (seal.log, one.segment, one.archived)),
            Self::RecordLoss(loss) => Some((loss.log, loss.segment, loss.archived)),
            _ => None,
        }
    }

    /// Checks what a client may have made up: numbers so near the end of their range that counting on
    /// from them would reach it, records that do not exist, and texts without end.
    ///
    /// # Errors
    /// With what is wrong; there is no transaction then.
    pub fn check_range(&self) -> Result<(), Unsound> {
        let log = |read: &Versioned<LogRecord>| {
            read.revision > Revision(0) && read.value.epoch.0 <= FAR && read.value.next_segment.0 <= FAR
        };
        let sane = match self {
            Self::Create(_) => true,
            Self::Trim(trim) => trim.read.revision > Revision(0),
            Self::RecordPart(part) => part.is_of_writer() && part.end().is_some_and(|end| end.0 <= FAR),
            Self::Delete(delete) => log(&delete.read),
            Self::TakeOver(takeover) => {
                log(&takeover.read)
                    && takeover.holder.as_ref().is_none_or(|holder| holder.len() <= HOLDER_BYTES_MAX)
            }
            Self::Configure(configure) => configure.read.revision > Revision(0),
            Self::DeclareLost(declare) => declare.read.revision > Revision(0) && declare.read.value.0 <= FAR,
            Self::RecordLoss(loss) => {
                let answers = loss.answers.iter().map(Answered::revision);
                let mut members = loss.moved.iter().map(|(_, revision)| *revision).chain(answers);
                log(&loss.read)
                    && loss.record.revision > Revision(0)
                    && members.all(|revision| revision > Revision(0))
                    && loss.allowed != Some(Revision(0))
            }
            Self::Seal(seal) => {
                let one = |one: &SealOne| {
                    let end = Offset::checked_of(one.read.value.base, one.at.end);
                    one.read.revision > Revision(0)
                        && end.is_some_and(|end| end.0 <= FAR)
                        && one.segment.0 <= FAR
                        && one.holders.iter().chain(&one.moved).all(|(_, revision)| *revision > Revision(0))
                        && one
                            .allowed_loss
                            .as_ref()
                            .is_none_or(|loss| loss.config > Revision(0) && loss.trim.revision > Revision(0))
                };
                let create = |create: &CreateOne| {
                    create.holder.as_ref().is_none_or(|holder| holder.len() <= HOLDER_BYTES_MAX)
                        && create.ensemble.iter().all(|(_, revision)| *revision > Revision(0))
                };
                log(&seal.read)
                    && seal.seal.as_ref().is_none_or(one)
                    && seal.create.as_ref().is_none_or(create)
            }
        };
        if sane {
            return Ok(());
        }
        let why = "a number in it is near the end of its range, it quotes a record that does not exist, \
                   it is a part that no writer records, or the name of who asks is too long";
        Err(Unsound(why.to_owned()))
    }

    /// The transaction. [`check_range`](Self::check_range) comes first.
    #[must_use]
    pub fn txn(&self) -> crate::meta::Txn {
        match self {
            Self::Create(create) => create.txn(),
            Self::TakeOver(takeover) => takeover.txn(),
            Self::Seal(seal) => seal.txn(),
            Self::Trim(trim) => trim.txn(),
            Self::Delete(delete) => delete.txn(),
            Self::RecordLoss(loss) => loss.txn(),
            Self::Configure(configure) => configure.txn(),
            Self::DeclareLost(declare) => declare.txn(),
            Self::RecordPart(part) => part.txn(),
        }
    }
}

impl NodeView {
    /// The current life of its buffer of a level, with the revision that a transaction compares:
    /// zeros when it has never had one.
    #[must_use]
    pub fn incarnation(&self, level: Level) -> (Incarnation, Revision) {
        self.lives.get(&level).copied().unwrap_or_default()
    }

    /// Whether the node runs, takes new segments, has a buffer of this level, and is in the life of
    /// it that it registered.
    #[must_use]
    pub fn usable(&self, level: Level) -> bool {
        let record = self.running.as_ref().filter(|record| record.state == NodeState::Active);
        let said = record.and_then(|record| record.incarnations.get(&level));
        said.is_some_and(|said| *said == self.incarnation(level).0)
    }
}
