//! What can happen in a simulated cluster.

use super::store::Records;
use super::upload::ObjectName;
use piculet_quorum::batch::{BatchEnd, BatchHeader, Place};
use piculet_quorum::ids::{Chain, Epoch, Incarnation, Index, SegmentNumber};
use piculet_quorum::meta::loss::RecordLoss;
use piculet_quorum::meta::{LeaseId, LogView, PartRecord, SegmentEnd, SegmentRecord, Txn, TxnOutcome};
use piculet_quorum::replica::Session;
use piculet_quorum::wire::frame::{Ack, Mark};
use piculet_quorum::wire::message::{Address, FenceOk, Nodes, Open, Opened, Proposal, Refusal};

/// A node, by its place in the cluster.
pub(crate) type NodeIx = usize;
/// A client, by the order in which they started.
pub(crate) type ClientIx = usize;
/// One stream between a client and a node.
pub(crate) type Conn = u64;

/// A batch without its bytes: the entries have the contents `content`, `content + 1`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    pub(crate) end: BatchEnd,
    pub(crate) content: u64,
}

impl Batch {
    /// Each entry's index with its content.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (first, content) = (self.header.first.0, self.content);
        (0..u64::from(self.header.count)).map(move |i| (first + i, content + i))
    }
}

/// A frame on the way from a client to a node.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Up {
    Open(Open),
    Append(Place, Index, Batch),
    Commit(Place, Index),
}

/// A frame on the way back.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Down {
    Opened(Opened),
    Ack(Ack),
    Refused(SegmentNumber, Refusal),
    Archived(SegmentNumber, Index),
}

/// A request outside a stream of appends.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Rpc {
    Fence(Address),
    Chain(Address, Index),
    Fetch(Address, Index, Index),
    RepairOpen(Address),
    Repair(Address, Session, Vec<Batch>),
    Marks(SegmentNumber),
    Read(SegmentNumber, Index),
}

/// The answer to an [`Rpc`]; none means that the node failed to do it.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Answer {
    Fenced(Result<FenceOk, Refusal>),
    Chain(Option<Chain>),
    Batches(Vec<Batch>),
    Opened(Session, Index),
    Repaired(Index),
    Marks(Mark),
    Failed,
}

/// Who made an [`Rpc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    Client(ClientIx),
    Reader(usize),
    /// Who searches for what is left of a segment.
    Loss,
    /// Who searches for the log's tail.
    Tail,
}

/// A client's request of the metadata.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Meta {
    Look(SegmentNumber),
    Propose(Box<Proposal>),
}

/// The answer to a [`Meta`].
#[derive(Clone, Debug, Hash)]
pub(crate) enum MetaAnswer {
    Look(Box<(LogView, Nodes)>),
    Outcome(TxnOutcome),
    Failed,
}

/// What a node learns from the metadata: the log's epoch, the segments that it asked for, and which
/// of them have gone.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Known {
    pub(crate) epoch: Epoch,
    pub(crate) segments: Vec<(SegmentNumber, SegmentRecord, SegmentEnd)>,
    pub(crate) gone: Vec<SegmentNumber>,
}

/// A part on its way to the object store.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Upload {
    pub(crate) segment: SegmentNumber,
    pub(crate) first: Index,
    pub(crate) part: PartRecord,
    pub(crate) contents: Vec<u64>,
}

/// What an object store says to a put that only succeeds when the name is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Put {
    /// It answers in time: stored, or what it has under that name is the same (412).
    Told,
    /// Another put is under way (409), or the store is overloaded (503): nothing was stored.
    Refused,
    /// No answer in time, and nothing was stored.
    Lost,
    /// No answer in time, and it was stored.
    Untold,
}

/// Something that happens at a moment. `life` tells a process from the one that follows it.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Event {
    Up {
        node: NodeIx,
        conn: Conn,
        frame: Up,
    },
    Down {
        client: ClientIx,
        node: NodeIx,
        conn: Conn,
        frame: Down,
    },
    Dial {
        client: ClientIx,
        node: NodeIx,
    },
    Hello {
        client: ClientIx,
        node: NodeIx,
        conn: Conn,
    },
    Welcome {
        client: ClientIx,
        node: NodeIx,
        conn: Conn,
        incarnation: Incarnation,
    },
    /// The client learns that a stream is gone, or never came.
    Dropped {
        client: ClientIx,
        node: NodeIx,
        conn: Conn,
    },
    /// The node learns that a stream is gone.
    HungUp {
        node: NodeIx,
        conn: Conn,
    },
    AckDue {
        node: NodeIx,
        life: u64,
        conn: Conn,
        segment: SegmentNumber,
    },
    Call {
        caller: Caller,
        id: u64,
        node: NodeIx,
        rpc: Rpc,
        informed: bool,
    },
    Answered {
        caller: Caller,
        id: u64,
        answer: Answer,
    },
    MetaArrives {
        client: ClientIx,
        id: u64,
        meta: Meta,
    },
    MetaAnswered {
        client: ClientIx,
        id: u64,
        answer: MetaAnswer,
    },
    Wake {
        client: ClientIx,
        generation: u64,
    },
    Append {
        client: ClientIx,
    },
    NodeTick {
        node: NodeIx,
    },
    /// The watch of a node's metadata brings everything up to a revision.
    Watched {
        node: NodeIx,
        life: u64,
        to: u64,
    },
    /// A node has read all metadata anew, because its watch had to start over.
    Reread {
        node: NodeIx,
        life: u64,
        records: Records,
    },
    /// A sync of a node's disk has ended, with so many operations in it.
    Synced {
        node: NodeIx,
        life: u64,
        count: usize,
    },
    /// The metadata that a frame had to wait for are there, or do not come.
    Informed {
        node: NodeIx,
        life: u64,
        conn: Conn,
    },
    Uploaded {
        node: NodeIx,
        life: u64,
        upload: Upload,
        put: Put,
    },
    /// An upload that was given up long ago arrives in the store.
    PutArrives {
        upload: Upload,
    },
    PartLands {
        node: NodeIx,
        life: u64,
        segment: SegmentNumber,
        txn: Txn,
        told: bool,
    },
    ReaderTick {
        reader: usize,
    },
    /// A reader reads an object.
    ReaderGets {
        reader: usize,
        name: ObjectName,
    },
    /// Somebody who no longer wants old entries trims the log.
    TrimTick,
    TrimLands {
        txn: Txn,
    },
    /// Some node deletes what was trimmed.
    CleanTick,
    CleanLands {
        txn: Txn,
        objects: Vec<ObjectName>,
    },
    ObjectsDeleted {
        objects: Vec<ObjectName>,
    },
    /// The transaction of a node's start lands, if nothing else has happened to its record.
    StartLands {
        txn: Txn,
    },
    /// Some node looks for segments that nobody holds any more.
    LossTick,
    /// A client asks where the tail is, or goes on asking.
    TailTick,
    LossLands {
        proposal: Box<RecordLoss>,
    },
    /// Some node looks whether the writer has gone.
    GuardTick,
    /// An operator lets the log lose entries.
    LeaveGiven,
    LeaseExpires {
        lease: LeaseId,
    },
    /// A fault, by its place in the schedule.
    Fault {
        at: usize,
    },
    IsolationEnds {
        node: NodeIx,
    },
    MetaReturns,
    ObjectsReturn,
    NodeUp {
        node: NodeIx,
        boot: u64,
    },
    NodeResumes {
        node: NodeIx,
    },
    ClientResumes {
        client: ClientIx,
    },
    Heal,
    LastWriter,
    Verdict,
}
