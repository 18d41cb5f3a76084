//! One test per rule of the writer, over peers that answer at once, or not at all.

mod append;
mod object;
mod park;
mod rolls;

use super::*;
use crate::batch::BatchEnd;
use crate::ids::{Chain, LogName, Nonce, Revision, Timestamp};
use crate::meta::seal::SealSegment;
use crate::meta::{
    LogView, Member, NodeRecord, NodeState, SegmentEnd, SegmentState, SegmentView, TxnOutcome,
};
use crate::wire::message::Proposal;

const LOG: LogId = LogId(7);
const ZERO: SegmentNumber = SegmentNumber(0);
const ONE: SegmentNumber = SegmentNumber(1);
/// Bytes of every batch.
const BYTES: u64 = 100;

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

fn chain(offset: u64) -> BatchEnd {
    BatchEnd { chain: Chain(u128::from(offset)), last_timestamp: Timestamp(0) }
}

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Answers,
    Silent,
    Full,
}

struct Peer {
    up: bool,
    incarnation: u64,
    mode: Mode,
    held: BTreeMap<SegmentNumber, u64>,
    got: Vec<Transmit>,
}

/// A writer among its peers.
struct Bench {
    writer: Writer,
    now: Time,
    peers: BTreeMap<NodeId, Peer>,
    /// Whether metadata requests are answered; otherwise they fail.
    etcd: bool,
    /// Whether they stay unanswered, for the test to answer.
    hold: bool,
    revision: u64,
    asked: Vec<MetaRequest>,
    events: Vec<WriterEvent>,
}

fn log_record() -> LogRecord {
    LogRecord {
        name: LogName::new("l").expect("a valid name"),
        epoch: Epoch(3),
        writer: Nonce(1),
        holder: None,
        next_segment: ONE,
        next_base: Offset(0),
        chain: Chain(0),
        last_timestamp: Timestamp(0),
        deleted: None,
    }
}

fn bench_with(members: &[&str], spare: &[&str], options: WriterOptions) -> Bench {
    let ensemble = members.iter().map(|n| Member { node: node(n), incarnation: Incarnation(1) }).collect();
    let segment = SegmentRecord {
        epoch: Epoch(3),
        base: Offset(0),
        base_chain: Chain(0),
        base_timestamp: Timestamp(0),
        level: Level::Memory,
        ensemble,
        state: SegmentState::Open,
        loss: None,
    };
    let record = Versioned { revision: Revision(5), value: log_record() };
    let segment = Versioned { revision: Revision(6), value: segment };
    let now = Time(1_000_000);
    let peer =
        || Peer { up: true, incarnation: 1, mode: Mode::Answers, held: BTreeMap::new(), got: Vec::new() };
    let mut bench = Bench {
        writer: Writer::new(now, options, LOG, record, ZERO, segment),
        now,
        peers: members.iter().chain(spare).map(|name| (node(name), peer())).collect(),
        etcd: true,
        hold: false,
        revision: 100,
        asked: Vec::new(),
        events: Vec::new(),
    };
    for name in members.iter().chain(spare) {
        bench.writer.handle_connected(now, &node(name), Incarnation(1));
    }
    bench.settle();
    bench
}

fn bench() -> Bench {
    bench_with(&["a", "b", "c"], &[], WriterOptions::default())
}

impl Bench {
    fn peer(&mut self, name: &str) -> &mut Peer {
        self.peers.get_mut(&node(name)).expect("a peer of the test")
    }

    fn set(&mut self, name: &str, mode: Mode) {
        self.peer(name).mode = mode;
    }

    fn view_of_nodes(&self) -> BTreeMap<NodeId, NodeView> {
        let view = |(name, peer): (&NodeId, &Peer)| {
            let memory = Incarnation(peer.incarnation);
            let running = NodeRecord {
                incarnations: [(Level::Memory, memory)].into(),
                addresses: vec![],
                admin: String::new(),
                state: NodeState::Active,
                version: String::new(),
            };
            let memory_revision = Revision(peer.incarnation);
            (
                name.clone(),
                NodeView {
                    lives: [(Level::Memory, (memory, memory_revision))].into(),
                    running: Some(running),
                },
            )
        };
        self.peers.iter().map(view).collect()
    }

    fn append(&mut self) -> Result<Offset, AssignError> {
        let end = chain(self.writer.next_offset().0 + 1);
        let assigned = self.writer.assign(self.now, 1, BYTES, end)?;
        self.settle();
        Ok(assigned.offset)
    }

    fn appends(&mut self, count: usize) {
        for _ in 0..count {
            self.append().expect("there is room");
        }
    }

    /// What the driver does after every input; peers and metadata answer at once.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "it never comes to rest");
            let mut rest = true;
            while let Some(event) = self.writer.poll_event() {
                self.events.push(event);
            }
            if let Some(request) = self.writer.poll_meta() {
                self.asked.push(request.clone());
                if !self.hold {
                    rest = false;
                    let reply = self.reply(&request);
                    self.writer.handle_meta(self.now, reply);
                }
            }
            let up: Vec<NodeId> = self.peers.iter().filter(|(_, p)| p.up).map(|(n, _)| n.clone()).collect();
            for name in up {
                while let Some(transmit) = self.writer.poll_transmit(self.now, &name) {
                    rest = false;
                    self.deliver(&name, transmit);
                }
            }
            if rest {
                return;
            }
        }
    }

    fn reply(&mut self, request: &MetaRequest) -> MetaReply {
        if !self.etcd {
            return MetaReply::Failed;
        }
        match request {
            MetaRequest::Nodes => MetaReply::Nodes(self.view_of_nodes()),
            MetaRequest::View(_) => MetaReply::Failed,
            MetaRequest::Propose(_) => {
                self.revision += 1;
                MetaReply::Outcome(TxnOutcome::Applied(Revision(self.revision)))
            }
        }
    }

    fn deliver(&mut self, name: &NodeId, transmit: Transmit) {
        let peer = self.peers.get_mut(name).expect("a peer of the test");
        peer.got.push(transmit);
        let (now, mode) = (self.now, peer.mode);
        match (transmit, mode) {
            (_, Mode::Silent) | (Transmit::Commit(..), _) => {}
            (Transmit::Open(place, incarnation), _) => {
                assert_eq!(incarnation.0, peer.incarnation, "a buffer that is gone is addressed");
                let held = Index(*peer.held.entry(place.segment).or_default());
                let marks = Marks { tail: held, held, ..Marks::default() };
                self.writer.handle_opened(now, name, place.segment, marks);
            }
            (Transmit::Batches(place, ..), Mode::Full) => {
                let refusal = Refusal::Overloaded { bytes: 1 };
                self.writer.handle_refused(now, name, place.segment, &refusal);
            }
            (Transmit::Batches(place, from, to), Mode::Answers) => {
                let held = peer.held.entry(place.segment).or_default();
                assert!(from.0 <= *held, "{name} is sent {from}, but has {held}");
                *held = to.0.max(*held);
                let held = Index(*held);
                self.writer.handle_ack(now, name, place.segment, held);
            }
        }
    }

    /// Time passes; timers are served when they are due.
    fn pass(&mut self, span: Span) {
        let until = self.now.after(span);
        let mut served = 0;
        while let Some(at) = self.writer.poll_timeout().filter(|at| *at <= until) {
            served += 1;
            assert!(served < 2_000, "timers that never end");
            self.now = self.now.max(at);
            self.writer.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn disconnect(&mut self, name: &str) {
        self.peer(name).up = false;
        self.writer.handle_disconnected(self.now, &node(name));
        self.settle();
    }

    fn connect(&mut self, name: &str, incarnation: u64) {
        let peer = self.peer(name);
        if peer.incarnation != incarnation {
            peer.held.clear();
        }
        (peer.up, peer.incarnation, peer.mode) = (true, incarnation, Mode::Answers);
        self.writer.handle_connected(self.now, &node(name), Incarnation(incarnation));
        self.settle();
    }

    fn lost(&self) -> Vec<(String, Lost)> {
        let lost = self.events.iter().filter_map(|event| match event {
            WriterEvent::MemberLost(node, _, lost) => Some((node.to_string(), lost.clone())),
            _ => None,
        });
        lost.collect()
    }

    fn opened(&self) -> Vec<(u64, usize)> {
        let opened = self.events.iter().filter_map(|event| match event {
            WriterEvent::Opened(number, nodes) => Some((number.0, nodes.len())),
            _ => None,
        });
        opened.collect()
    }

    fn proposals(&self) -> Vec<SealSegment> {
        let seals = self.asked.iter().filter_map(|request| match request {
            MetaRequest::Propose(Proposal::Seal(seal)) => Some((**seal).clone()),
            _ => None,
        });
        seals.collect()
    }

    /// The log as it looks after a proposal, or as this writer first found it.
    fn view(&self, after: Option<&SealSegment>) -> LogView {
        let mut record = self.writer.record.clone();
        let segment = self.writer.segments[0].record.clone().expect("the oldest exists");
        let number = self.writer.segments[0].number;
        let archived = segment.value.start();
        let mut segments = BTreeMap::from([(number, SegmentView { record: segment, archived, last: None })]);
        if let Some(proposal) = after {
            let (log, created) = proposal.records();
            record = Versioned { revision: Revision(77), value: log };
            if let Some(seal) = &proposal.seal {
                let holders = seal.holders.iter().map(|(node, _)| node.clone()).collect();
                let sealed =
                    crate::meta::Seal { at: seal.at, by_epoch: Epoch(3), holders, settled: seal.settled() };
                let old = segments.get_mut(&number).expect("just put");
                old.record.value.state = SegmentState::Sealed(sealed);
            }
            if let Some((number, value)) = created {
                let archived = value.start();
                let record = Versioned { revision: Revision(77), value };
                segments.insert(number, SegmentView { record, archived, last: None });
            }
        }
        LogView {
            log: LOG,
            record,
            config: Versioned { revision: Revision(1), value: crate::meta::ConfigRecord::default() },
            trim: Versioned { revision: Revision(1), value: crate::meta::TrimRecord::default() },
            first_segment: ZERO,
            segments,
        }
    }

    /// Answers the metadata request that is out.
    fn answer(&mut self, reply: MetaReply) {
        self.writer.handle_meta(self.now, reply);
        self.settle();
    }
}
