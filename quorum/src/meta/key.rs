//! What metadata is kept under, as types. How a key is spelt in a store is that store's affair.

use crate::ids::{Index, Level, LogId, LogName, NodeId, SegmentNumber};
use serde::{Deserialize, Serialize};

/// One metadata key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// Identity of the cluster.
    Cluster,
    /// The current life of one buffer of a node.
    Incarnation(NodeId, Level),
    /// A running node; goes with its lease. A hint, never safety.
    Node(NodeId),
    /// A log's name.
    Name(LogName),
    /// A log.
    Log(LogId),
    /// A log's settings.
    Config(LogId),
    /// How far a log is trimmed.
    Trim(LogId),
    /// Where a log's segments begin.
    First(LogId),
    /// A segment.
    Segment(LogId, SegmentNumber),
    /// A part, by its first index.
    Part(LogId, SegmentNumber, Index),
    /// The election of a segment's uploader; goes with its lease.
    Flush(LogId, SegmentNumber),
}

/// A set of keys that is listed, watched or deleted as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Range {
    /// Everything of this cluster.
    All,
    /// Every [`Key::Node`].
    Nodes,
    /// Every [`Key::Incarnation`].
    Incarnations,
    /// [`Key::Name`]s in the order of their text, after the one given, at most so many (0: all).
    Names(Option<LogName>, u32),
    /// The [`Key::Segment`]s of a log, from a number on.
    Segments(LogId, SegmentNumber),
    /// The [`Key::Part`]s of one segment.
    Parts(LogId, SegmentNumber),
}

impl Range {
    /// Whether `key` belongs to this set; a count in the range does not limit it.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::All, _) | (Self::Nodes, Key::Node(_)) | (Self::Incarnations, Key::Incarnation(..)) => true,
            (Self::Names(after, _), Key::Name(name)) => after.as_ref().is_none_or(|after| name > after),
            (Self::Segments(log, from), Key::Segment(of, segment)) => log == of && segment >= from,
            (Self::Parts(log, segment), Key::Part(of, at, _)) => log == of && segment == at,
            _ => false,
        }
    }
}
