//! What metadata records hold. They are kept as JSON, so that an operator can read them.

use crate::ids::{
    Chain, Epoch, Incarnation, Index, Level, LogId, LogName, NodeId, Nonce, Offset, Revision, SegmentNumber,
    Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A record with the revision of the write that made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// Changes with every write of the key.
    pub revision: Revision,
    /// What is in it.
    pub value: T,
}

/// Any record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Record {
    /// Under [`Key::Cluster`](super::Key::Cluster).
    Cluster(ClusterRecord),
    /// Under [`Key::Incarnation`](super::Key::Incarnation).
    Incarnation(IncarnationRecord),
    /// Under [`Key::Node`](super::Key::Node).
    Node(NodeRecord),
    /// Under [`Key::Name`](super::Key::Name).
    Name(NameRecord),
    /// Under [`Key::Log`](super::Key::Log).
    Log(LogRecord),
    /// Under [`Key::Config`](super::Key::Config).
    Config(ConfigRecord),
    /// Under [`Key::Trim`](super::Key::Trim).
    Trim(TrimRecord),
    /// Under [`Key::First`](super::Key::First).
    First(FirstRecord),
    /// Under [`Key::Segment`](super::Key::Segment).
    Segment(SegmentRecord),
    /// Under [`Key::Part`](super::Key::Part).
    Part(PartRecord),
    /// Under [`Key::Flush`](super::Key::Flush).
    Flush(FlushRecord),
}

/// The cluster's identity. A restored or rebuilt store gets a new one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Random; named in every session.
    pub cluster: Nonce,
    /// Version of the form of all these records.
    pub format: u32,
}

/// The version of the form of all these records.
pub const RECORD_FORMAT: u32 = 1;

/// One buffer's current life. Changed by compare-and-swap at every start; never deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IncarnationRecord {
    /// Which life it is.
    pub incarnation: Incarnation,
    /// The value of the start that made it.
    pub nonce: Nonce,
}

/// Whether a node takes part in new segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Yes.
    Active,
    /// No: it is about to stop.
    Draining,
}

/// A running node, kept alive by its lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The life of each of its buffers.
    pub incarnations: BTreeMap<Level, Incarnation>,
    /// Where it serves QUIC, one address per shard; a log's shard is `hash(log) mod n`.
    pub addresses: Vec<String>,
    /// Where it serves HTTP to its operators.
    pub admin: String,
    /// Whether it takes new segments.
    pub state: NodeState,
    /// Version of its program.
    pub version: String,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NameRecord {
    /// The log.
    pub log: LogId,
}

/// A log: who writes it and where its next segment starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogRecord {
    /// Its name.
    pub name: LogName,
    /// Grows with every takeover.
    pub epoch: Epoch,
    /// The value of the takeover that made this epoch.
    pub writer: Nonce,
    /// Who writes, for people to read; none when the writer has closed or parked.
    #[serde(default)]
    pub holder: Option<String>,
    /// Number of the segment that will be created next.
    pub next_segment: SegmentNumber,
    /// Offset at which it will start: the end of the last sealed segment.
    pub next_base: Offset,
    /// Chain at that offset.
    pub chain: Chain,
    /// Timestamp of the entry before that offset.
    pub last_timestamp: Timestamp,
    /// When the log was deleted, by the clock of whoever did: a tombstone. Its segments are being
    /// deleted, or will be.
    #[serde(default)]
    pub deleted: Option<Timestamp>,
}

/// A log's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// Durability of its segments.
    pub durability: Level,
    /// Whether a segment whose members have lost too much is sealed at what is left of it, with the
    /// loss recorded, instead of waiting for an operator.
    #[serde(default)]
    pub allow_loss: bool,
    /// Whether entries of the log may have a producer. Set before the first of them is appended, and
    /// never taken back: while it is not set, the log's table of producers is empty.
    #[serde(default)]
    pub producers: bool,
}

/// How far a log is trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrimRecord {
    /// Entries below it are no longer wanted. Only grows.
    pub trim_offset: Offset,
}

/// Where a log's segments begin: those below were trimmed and deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FirstRecord {
    /// The first segment that has a record. A missing one at or above it is an error.
    pub first_segment: SegmentNumber,
}

/// One member of a segment: a node, in one life of its buffer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The life of its buffer of the segment's level.
    pub incarnation: Incarnation,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The epoch in which it is written.
    pub epoch: Epoch,
    /// Offset of its first entry.
    pub base: Offset,
    /// Chain before its first entry.
    pub base_chain: Chain,
    /// Timestamp of the entry before its first.
    pub base_timestamp: Timestamp,
    /// Its durability.
    pub level: Level,
    /// Who holds it. Never changes.
    pub ensemble: Vec<Member>,
    /// Whether its end is known.
    pub state: SegmentState,
    /// What of it is lost, if anything is. Recorded with the end, or once that is known.
    #[serde(default)]
    pub loss: Option<Loss>,
}

/// What is lost of a sealed segment: nobody has it, and nobody is ever shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Loss {
    /// From here to the segment's end its entries are lost. It may only fall.
    pub from: Index,
    /// Whether acknowledged entries may be among what is lost. If not, none of it ever was.
    pub acknowledged: bool,
    /// Whether more may have lain beyond the end: a segment of which nobody knows any more how far it
    /// went is sealed at what is left of it (then `from` is the end itself), or, when the log had been
    /// trimmed beyond that, at the trim offset. Its offsets beyond the end are given out again.
    #[serde(default)]
    pub beyond: bool,
}

/// Where a segment is in its life; it only moves forward.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentState {
    /// It may grow.
    Open,
    /// Its end is known and will never change.
    Sealed(Seal),
    /// All of it is in object storage.
    Archived(SegmentEnd),
}

/// Where a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentEnd {
    /// Index after its last entry.
    pub end: Index,
    /// Chain after its last entry.
    pub chain: Chain,
    /// Timestamp of its last entry, or of the one before the segment when it is empty.
    pub last_timestamp: Timestamp,
}

/// The end of a segment, and who can be asked for what lies below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seal {
    /// Where it ends.
    pub at: SegmentEnd,
    /// The epoch that sealed it.
    pub by_epoch: Epoch,
    /// Members that held everything below the end when it was sealed.
    pub holders: Vec<NodeId>,
    /// Whether everything below the end is safe, and so visible. When not: one holder has it, and
    /// the others could not be asked.
    pub settled: bool,
}

/// One immutable object with a committed range of a segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartRecord {
    /// Where the range ends; the key has its first index.
    pub at: SegmentEnd,
    /// Length of the object in bytes.
    pub bytes: u64,
    /// Version of the encoder that made it.
    pub encoder: u32,
    /// Whether the range is lost: then the object holds where it begins and ends, and no entries.
    #[serde(default)]
    pub skip: bool,
}

/// Who uploads a segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlushRecord {
    /// The elected member.
    pub uploader: Member,
}

impl SegmentState {
    /// Where the segment ends, when that is known.
    #[must_use]
    pub fn end(&self) -> Option<&SegmentEnd> {
        match self {
            Self::Open => None,
            Self::Sealed(seal) => Some(&seal.at),
            Self::Archived(at) => Some(at),
        }
    }
}

impl SegmentRecord {
    /// Where the segment starts, as the end of nothing.
    #[must_use]
    pub fn start(&self) -> SegmentEnd {
        SegmentEnd { end: Index(0), chain: self.base_chain, last_timestamp: self.base_timestamp }
    }

    /// Whether everything below the segment's end is safe, and so visible. An open segment's end
    /// is not known, and so not settled.
    #[must_use]
    pub fn settled(&self) -> bool {
        match &self.state {
            SegmentState::Open => false,
            SegmentState::Sealed(seal) => seal.settled,
            SegmentState::Archived(_) => true,
        }
    }

    /// Below it the segment has all of its entries, or will have them once its seal is settled: its
    /// end, or where a loss begins. None while it is open.
    #[must_use]
    pub fn kept(&self) -> Option<Index> {
        let end = self.state.end()?.end;
        Some(self.loss.map_or(end, |loss| loss.from.min(end)))
    }

    /// The incarnation under which `node` is a member, if it is one.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<Incarnation> {
        self.ensemble.iter().find(|member| member.node == *node).map(|member| member.incarnation)
    }
}
