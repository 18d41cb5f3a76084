//! What there is: the store, nodes, processes that write or take over, and what is on the wire.
//!
//! The machines are the shipped ones. A message that was ever sent may be delivered at any later
//! time, again after a loss or a repair, or never: so messages are not queued, but represented by the
//! facts that make them deliverable, which only grow. Of a writer's appends to a member only the one at
//! that member's tail is delivered: what a machine answers to others, a repetition, a gap or another
//! content, is for the tests beside it.

use crate::shared::Shared;
use crate::store::Store;
use crate::takeover::Taking;
use crate::writing::Writing;
use piculet_quorum::ids::{Epoch, Level, LogId, NodeId, Revision};
use piculet_quorum::meta::{Member, Txn};
use piculet_quorum::replica::{Replica, Session};
use piculet_quorum::wire::message::{Address, FenceOk};
use std::sync::LazyLock;

/// The log.
pub(crate) const LOG: LogId = LogId(7);
/// Most nodes that there are.
pub(crate) const NODES: usize = 3;
/// Most segments that a log gets.
pub(crate) const SEGMENTS: usize = 4;

static NAMES: LazyLock<[NodeId; NODES]> =
    LazyLock::new(|| ["a", "b", "c"].map(|name| NodeId::new(name).expect("a valid name")));

/// A node's name.
pub(crate) fn node(at: usize) -> NodeId {
    NAMES[at].clone()
}

/// The number of a node.
pub(crate) fn number(node: &NodeId) -> usize {
    NAMES.iter().position(|name| name == node).expect("a node of the model")
}

/// Everything, at one moment.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct State {
    pub(crate) store: Shared<Store>,
    pub(crate) nodes: Vec<Shared<Node>>,
    /// Whoever took the log over, by epoch; the first is of epoch 1.
    pub(crate) procs: Vec<Shared<Proc>>,
    /// What is told to whom, for every segment.
    pub(crate) wire: Shared<Wire>,
    pub(crate) ghost: Shared<Ghost>,
    pub(crate) spent: Spent,
}

/// A node: its replica, and what the buffer holds.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Node {
    pub(crate) alive: bool,
    pub(crate) replica: Replica,
    /// Chains after each entry, by segment: they stand for the entries.
    pub(crate) buffers: [Vec<u128>; SEGMENTS],
    /// How many of them are synced, by segment: at `disk`, a restart keeps no more.
    pub(crate) synced: [u64; SEGMENTS],
    /// The highest fence that is synced: at `disk`, a restart keeps no later one.
    pub(crate) synced_fence: Epoch,
    /// The streams of writers: which process, which segment.
    pub(crate) streams: Vec<((usize, usize), Session)>,
}

/// A process, in one epoch.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) enum Proc {
    Taking(Box<Taking>),
    Writing(Box<Writing>),
    /// It stopped, and knows it.
    Over,
}

/// What was put on the wire, and in the stores, at some time.
#[derive(Clone, Debug, PartialEq, Hash, Default)]
pub(crate) struct Wire {
    /// What writers have given out, by segment and process.
    pub(crate) sent: Vec<Sent>,
    /// The largest acknowledgement that each node has sent, by segment.
    pub(crate) acks: [[u64; NODES]; SEGMENTS],
    /// The largest `writer_tail` that a member has shown to readers, by segment.
    pub(crate) shown: [[u64; NODES]; SEGMENTS],
    /// Objects: segment, first index, end, and the chains of what lies in it.
    pub(crate) objects: Vec<(usize, u64, u64, Vec<u128>)>,
    /// What members have answered to the fences that losses take.
    pub(crate) answers: Vec<LossAnswer>,
    /// Transactions whose outcome nobody waits for any more: they may yet land.
    pub(crate) late: Vec<Txn>,
}

/// What a member has answered to the fence that a loss takes.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct LossAnswer {
    pub(crate) at: Address,
    pub(crate) member: Member,
    /// Of its incarnation record, before it was fenced.
    pub(crate) revision: Revision,
    pub(crate) fenced: FenceOk,
}

/// What one process has given out in one segment.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Sent {
    pub(crate) by: usize,
    pub(crate) segment: usize,
    /// Whether the segment is known to exist: before that, nothing is sent.
    pub(crate) exists: bool,
    /// Chain before the first entry, and after each.
    pub(crate) chains: Vec<u128>,
    /// The largest commit mark that was sent.
    pub(crate) commit: u64,
}

/// What nobody in the model can see, but everybody was promised.
#[derive(Clone, Debug, PartialEq, Hash, Default)]
pub(crate) struct Ghost {
    /// What was acknowledged to the application, by segment.
    pub(crate) acked: [u64; SEGMENTS],
    /// What a reader could have been shown, by segment.
    pub(crate) seen: [u64; SEGMENTS],
    /// The end that was published first, by segment.
    pub(crate) ends: [Option<u64>; SEGMENTS],
    /// The end that a loss has left, by segment.
    pub(crate) kept: [Option<u64>; SEGMENTS],
    pub(crate) epoch: u64,
    /// What has happened that never may: the invariant, and how.
    pub(crate) broken: Option<(Invariant, &'static str)>,
    /// What should happen sometimes.
    pub(crate) repaired: bool,
    pub(crate) restarted_recovery: bool,
}

/// The invariants of the protocol, by their names there. I10 is about trims, which there are none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I11,
    I12,
    /// An assertion of a machine, which would have stopped the process.
    Assertion,
    /// A panic of the model itself, which is a mistake in the model.
    Model,
}

impl Invariant {
    /// The name of the property that says that it holds.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::I1 => "I1 acked ≤ end",
            Self::I2 => "I2 what was shown stays",
            Self::I3 => "I3 an end is written once",
            Self::I4 => "I4 one open segment, bases chain",
            Self::I5 => "I5 archived is there, whole",
            Self::I6 => "I6 one content",
            Self::I7 => "I7 marks and fences never shrink",
            Self::I8 => "I8 nothing unarchived is freed",
            Self::I9 => "I9 no other life counts",
            Self::I11 => "I11 acked is held or archived",
            Self::I12 => "I12 settled is held or archived",
            Self::Assertion => "no assertion fails",
            Self::Model => "the model is sound",
        }
    }
}

/// What the bounds allow less of now.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Default)]
pub(crate) struct Spent {
    pub(crate) crashes: u8,
    pub(crate) restarts: u8,
    pub(crate) late: u8,
    pub(crate) late_losses: u8,
    pub(crate) rolls: u8,
    pub(crate) restarted: u8,
}

impl State {
    /// Notes what never may happen; the first stays.
    pub(crate) fn broken(&mut self, invariant: Invariant, how: &'static str) {
        self.ghost.change(|ghost| {
            ghost.broken.get_or_insert((invariant, how));
        });
    }

    /// Whether a node lives in the life in which it is a member of a segment.
    pub(crate) fn is_member(&self, segment: usize, at: usize) -> bool {
        let listed = self.store.segment(segment).and_then(|record| record.member(&node(at)));
        self.nodes[at].alive && listed == Some(self.nodes[at].replica.incarnation())
    }

    pub(crate) fn nodes_view(&self) -> piculet_quorum::wire::message::Nodes {
        self.store.nodes(self.nodes.iter().map(|node| node.alive))
    }
}

impl Wire {
    /// What a process has given out in a segment, which begins behind `chain`.
    pub(crate) fn sent(&mut self, by: usize, segment: usize, chain: u128) -> &mut Sent {
        let known = |sent: &Sent| (sent.segment, sent.by) == (segment, by);
        if !self.sent.iter().any(known) {
            self.sent.push(Sent { by, segment, exists: false, chains: vec![chain], commit: 0 });
            self.sent.sort_by_key(|sent| (sent.segment, sent.by));
        }
        let at = self.sent.iter().position(known).expect("just put");
        &mut self.sent[at]
    }
}

impl Node {
    /// The highest fence that a restart keeps.
    pub(crate) fn fence_at_rest(&self, level: Level) -> Epoch {
        if level == Level::Disk { self.synced_fence } else { self.replica.fence_epoch() }
    }

    pub(crate) fn new(replica: Replica) -> Self {
        let synced_fence = replica.fence_epoch();
        let (buffers, synced, streams) = Default::default();
        Self { alive: true, replica, buffers, synced, synced_fence, streams }
    }
}
