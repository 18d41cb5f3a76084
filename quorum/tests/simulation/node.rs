//! A node: its replica of the log, the buffer behind it, its streams, and what it knows.

use crate::events::{Answer, Batch, Caller, ClientIx, Conn, Down, Event, Known, NodeIx, Rpc, Up};
use crate::store::LOG;
use crate::upload::Uploads;
use crate::world::{MS, World};
use piculet_quorum::ids::{Chain, Incarnation, Index, Level, NodeId, Nonce, SegmentNumber};
use piculet_quorum::meta::register::next_life;
use piculet_quorum::meta::{IncarnationRecord, Key, Record, Txn, Versioned};
use piculet_quorum::replica::{Admission, ChainAt, Learned, Replica, Session, Unanswered};
use piculet_quorum::wire::message::{Address, Open, Refusal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The batches of one segment at one node.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// Everything below has been freed.
    pub(crate) start: Index,
    pub(crate) batches: VecDeque<Batch>,
}

impl Buffer {
    pub(crate) fn tail(&self) -> Index {
        self.batches.back().map_or(self.start, |batch| batch.header.end())
    }

    /// What is at an index, given the chain at the tail of an empty buffer.
    fn chain_at(&self, index: Index) -> ChainAt {
        if index < self.start {
            return ChainAt::Freed;
        }
        if let Some(batch) = self.batches.iter().find(|batch| batch.header.first == index) {
            return ChainAt::Boundary(batch.header.chain);
        }
        match self.batches.back() {
            Some(batch) if batch.header.end() == index => ChainAt::Boundary(batch.end.chain),
            Some(batch) if batch.header.end() > index => ChainAt::Inside,
            // An empty buffer has no batch left that shows the chain at its tail.
            None if index == self.start => ChainAt::Freed,
            _ => ChainAt::Beyond,
        }
    }

    fn free_below(&mut self, index: Index) {
        while let Some(batch) = self.batches.front().filter(|batch| batch.header.end() <= index) {
            self.start = batch.header.end();
            self.batches.pop_front();
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Counts its processes: what one of them began means nothing to the next.
    pub(crate) life: u64,
    pub(crate) up: bool,
    /// Its memory is gone and it has not been reborn yet.
    pub(crate) forgot: bool,
    pub(crate) paused: bool,
    pub(crate) isolated: bool,
    pub(crate) lag: u64,
    pub(crate) backlog: Vec<Event>,
    capacity: usize,
    pub(crate) replica: Replica,
    pub(crate) buffers: BTreeMap<SegmentNumber, Buffer>,
    sessions: BTreeMap<(Conn, SegmentNumber), Session>,
    pub(crate) conns: BTreeSet<Conn>,
    /// Streams whose next frame waits for metadata, with the frames behind it.
    stalled: BTreeMap<Conn, VecDeque<Up>>,
    pub(crate) uploads: Uploads,
}

impl Node {
    pub(crate) fn new(id: NodeId, capacity: usize) -> Self {
        Self {
            replica: Replica::new(id.clone(), Incarnation(0), LOG),
            id,
            incarnation: Incarnation(0),
            life: 0,
            up: false,
            forgot: true,
            paused: false,
            isolated: false,
            lag: 0,
            backlog: Vec::new(),
            capacity,
            buffers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            conns: BTreeSet::new(),
            stalled: BTreeMap::new(),
            uploads: Uploads::default(),
        }
    }

    fn entries(&self) -> usize {
        let batches = self.buffers.values().flat_map(|buffer| &buffer.batches);
        batches.map(|batch| batch.header.count as usize).sum()
    }

    /// Whether its memory runs short.
    pub(crate) fn short(&self) -> bool {
        self.entries() * 2 > self.capacity
    }

    /// Whether the network reaches it.
    pub(crate) fn reachable(&self) -> bool {
        self.up && !self.isolated
    }

    /// The process is gone; its memory too, unless the mapping outlives it.
    pub(crate) fn stop(&mut self, forget: bool) {
        self.up = false;
        self.paused = false;
        self.backlog.clear();
        self.conns.clear();
        self.stalled.clear();
        for ((_, number), session) in std::mem::take(&mut self.sessions) {
            self.replica.close(session, number);
        }
        self.uploads = Uploads::default();
        if forget {
            self.forgot = true;
            self.buffers.clear();
        }
    }

    fn buffer(&mut self, number: SegmentNumber) -> &mut Buffer {
        self.buffers.entry(number).or_default()
    }

    /// The buffer starts anew when an opening has moved the tail beyond it.
    fn follow_jump(&mut self, number: SegmentNumber) {
        let tail = self.replica.marks(number).expect("it is open").tail;
        let buffer = self.buffer(number);
        if buffer.tail() != tail {
            assert!(tail > buffer.tail(), "a tail that went back");
            *buffer = Buffer { start: tail, batches: VecDeque::new() };
        }
    }
}

impl World {
    /// A node's process starts: it takes a new life of its buffer, or shows that it lost nothing.
    pub(crate) fn start_node(&mut self, at: NodeIx) {
        let nonce = Nonce(u128::from(self.fresh_id()));
        let node = &self.nodes[at];
        let key = Key::Incarnation(node.id.clone(), Level::Memory);
        let read = self.store.snapshot([key.clone()]).incarnation(&key);
        let (incarnation, txn) = if node.forgot {
            next_life(&node.id, Level::Memory, read.as_ref(), nonce)
        } else {
            let Versioned { revision, value } = read.expect("it has lived before");
            let record = Record::Incarnation(IncarnationRecord { nonce, ..value });
            (value.incarnation, Txn::default().when(key.clone(), revision).put(key, record))
        };
        let applied = self.apply(&txn);
        assert!(matches!(applied, piculet_quorum::meta::TxnOutcome::Applied(_)), "a start that is refused");
        let node = &mut self.nodes[at];
        if node.forgot {
            node.replica = Replica::new(node.id.clone(), incarnation, LOG);
            node.incarnation = incarnation;
        }
        node.forgot = false;
        node.up = true;
        node.life += 1;
    }

    pub(crate) fn node_returns(&mut self, at: NodeIx) {
        if self.store.away {
            self.schedule(50 * MS, Event::NodeUp { node: at });
        } else {
            self.start_node(at);
        }
    }

    pub(crate) fn node_resumes(&mut self, at: NodeIx) {
        self.nodes[at].paused = false;
        for event in std::mem::take(&mut self.nodes[at].backlog) {
            self.happen(event);
        }
    }

    pub(crate) fn node_hello(&mut self, client: ClientIx, at: NodeIx, conn: Conn) {
        if !self.nodes[at].reachable() {
            return self.schedule(20 * MS, Event::Dropped { client, node: at, conn });
        }
        self.nodes[at].conns.insert(conn);
        let incarnation = self.nodes[at].incarnation;
        let delay = self.delay(at);
        self.schedule(delay, Event::Welcome { client, node: at, conn, incarnation });
    }

    pub(crate) fn node_hung_up(&mut self, at: NodeIx, conn: Conn) {
        let node = &mut self.nodes[at];
        node.conns.remove(&conn);
        node.stalled.remove(&conn);
        let mine: Vec<_> = node.sessions.keys().filter(|(of, _)| *of == conn).copied().collect();
        for key in mine {
            let session = node.sessions.remove(&key).expect("just seen");
            node.replica.close(session, key.1);
        }
    }

    pub(crate) fn node_up(&mut self, at: NodeIx, conn: Conn, frame: Up) {
        let node = &mut self.nodes[at];
        if !node.up || !node.conns.contains(&conn) {
            return;
        }
        if let Some(waiting) = node.stalled.get_mut(&conn) {
            return waiting.push_back(frame);
        }
        self.node_frame(at, conn, frame, false);
    }

    /// Handles a frame. When it must wait for metadata, the stream waits with it.
    fn node_frame(&mut self, at: NodeIx, conn: Conn, frame: Up, informed: bool) {
        match frame {
            Up::Open(open) => self.node_open(at, conn, open, informed),
            Up::Append(place, commit, batch) => {
                let Some(session) = self.nodes[at].sessions.get(&(conn, place.segment)).copied() else {
                    return;
                };
                match self.node_store(at, session, place.segment, &batch) {
                    Ok(()) => {
                        self.nodes[at].replica.learn_commit(session, place.segment, commit);
                        let (delay, life) = (self.rng.between(10, MS), self.nodes[at].life);
                        let segment = place.segment;
                        self.schedule(delay, Event::AckDue { node: at, life, conn, segment });
                    }
                    Err(refusal) => {
                        let node = &mut self.nodes[at];
                        node.sessions.remove(&(conn, place.segment));
                        node.replica.close(session, place.segment);
                        self.send_down(conn, Down::Refused(place.segment, refusal));
                    }
                }
            }
            Up::Commit(place, commit) => {
                let node = &mut self.nodes[at];
                if let Some(session) = node.sessions.get(&(conn, place.segment)) {
                    node.replica.learn_commit(*session, place.segment, commit);
                }
            }
        }
    }

    fn node_open(&mut self, at: NodeIx, conn: Conn, open: Open, informed: bool) {
        let node = &mut self.nodes[at];
        let number = open.at.segment;
        match node.replica.open(&open) {
            Ok((session, opened)) => {
                node.sessions.insert((conn, number), session);
                node.follow_jump(number);
                self.send_down(conn, Down::Opened(opened));
            }
            Err(Unanswered::NeedMetadata) if !informed => {
                node.stalled.insert(conn, VecDeque::from([Up::Open(open)]));
                let (delay, life) = (self.rng.between(MS / 2, 5 * MS), self.nodes[at].life);
                self.schedule(delay, Event::Informed { node: at, life, conn });
            }
            Err(Unanswered::NeedMetadata) => self.send_down(conn, Down::Refused(number, Refusal::NotHere)),
            Err(Unanswered::Refused(refusal)) => self.send_down(conn, Down::Refused(number, refusal)),
        }
    }

    pub(crate) fn node_informed(&mut self, at: NodeIx, life: u64, conn: Conn) {
        if self.nodes[at].life != life || !self.nodes[at].up {
            return;
        }
        let Some(mut waiting) = self.nodes[at].stalled.remove(&conn) else { return };
        if self.store.away {
            if let Some(Up::Open(open)) = waiting.pop_front() {
                let refusal = Refusal::Unavailable("the metadata store is away".to_owned());
                self.send_down(conn, Down::Refused(open.at.segment, refusal));
            }
        } else {
            self.learn_now(at);
        }
        let mut informed = true;
        while let Some(frame) = waiting.pop_front() {
            self.node_frame(at, conn, frame, informed);
            informed = false;
            if let Some(stalled) = self.nodes[at].stalled.get_mut(&conn) {
                stalled.append(&mut waiting);
            }
        }
    }

    /// Stores a batch, or recognizes it.
    fn node_store(
        &mut self,
        at: NodeIx,
        session: Session,
        number: SegmentNumber,
        batch: &Batch,
    ) -> Result<(), Refusal> {
        let node = &mut self.nodes[at];
        let Batch { header, end, .. } = *batch;
        match node.replica.admit(session, number, &header) {
            Admission::Refuse(refusal) => {
                assert!(!matches!(refusal, Refusal::Conflict { .. }), "I6: {refusal}");
                Err(refusal)
            }
            Admission::Store if node.entries() + header.count as usize > node.capacity => {
                self.run.overloads += 1;
                Err(Refusal::Overloaded { bytes: self.nodes[at].capacity as u64 })
            }
            Admission::Store => {
                node.replica.stored(session, number, &header, end)?;
                node.buffer(number).batches.push_back(*batch);
                self.truth.stored(number, batch);
                Ok(())
            }
            Admission::Repeat => {
                let buffer = node.buffer(number);
                let here = (buffer.chain_at(header.first), buffer.chain_at(header.end()));
                let judged = node.replica.repeated(session, number, &header, end, here);
                assert!(!matches!(judged, Err(Refusal::Conflict { .. })), "I6: {judged:?} {here:?}");
                judged
            }
        }
    }

    pub(crate) fn node_ack(&mut self, at: NodeIx, life: u64, conn: Conn, number: SegmentNumber) {
        let node = &self.nodes[at];
        if node.life != life || !node.up {
            return;
        }
        let Some(session) = node.sessions.get(&(conn, number)) else { return };
        if let Some(ack) = node.replica.ack(*session, number) {
            assert!(
                node.replica.fence_epoch() <= ack.place.epoch,
                "an ack for epoch {} after the fence of {}",
                ack.place.epoch,
                node.replica.fence_epoch()
            );
            self.send_down(conn, Down::Ack(ack));
        }
    }

    pub(crate) fn node_tick(&mut self, at: NodeIx) {
        let period = self.rng.between(10 * MS, 30 * MS);
        self.schedule(period, Event::NodeTick { node: at });
        if !self.nodes[at].up || self.nodes[at].paused || self.store.away {
            return;
        }
        let known = self.store.known(self.nodes[at].replica.segments());
        let late = if !self.healing && self.rng.chance(50) { 300 * MS } else { 3 * MS };
        let (delay, life) = (self.rng.between(100, late), self.nodes[at].life);
        self.schedule(delay, Event::Learns { node: at, life, known });
        self.upload_what_is_due(at);
    }

    pub(crate) fn node_learns(&mut self, at: NodeIx, life: u64, known: &Known) {
        if self.nodes[at].life == life && self.nodes[at].up {
            self.learn(at, known);
        }
    }

    pub(crate) fn learn_now(&mut self, at: NodeIx) {
        let known = self.store.known(self.nodes[at].replica.segments());
        self.learn(at, &known);
    }

    fn learn(&mut self, at: NodeIx, known: &Known) {
        let node = &mut self.nodes[at];
        node.replica.learn_log(known.epoch);
        let mut told = Vec::new();
        for (number, record, archived) in &known.segments {
            match node.replica.learn_segment(*number, record, *archived) {
                Learned::NotMine => {}
                Learned::FreeBelow(index) => node.buffer(*number).free_below(index),
                Learned::Drop => {
                    node.buffers.remove(number);
                }
            }
            let streams = node.sessions.keys().filter(|(_, of)| of == number);
            told.extend(streams.map(|(conn, _)| (*conn, *number, archived.end)));
        }
        for (conn, number, archived) in told {
            self.send_down(conn, Down::Archived(number, archived));
        }
    }

    pub(crate) fn node_call(&mut self, caller: Caller, id: u64, at: NodeIx, rpc: Rpc, informed: bool) {
        if !self.nodes[at].reachable() {
            return;
        }
        if informed && !self.store.away {
            self.learn_now(at);
        }
        let Some(answer) = self.answer(at, &rpc) else {
            if informed {
                return;
            }
            let delay = self.rng.between(MS / 2, 5 * MS);
            return self.schedule(delay, Event::Call { caller, id, node: at, rpc, informed: true });
        };
        if !self.healing && self.rng.chance(20) {
            return;
        }
        let delay = self.delay(at);
        self.schedule(delay, Event::Answered { caller, id, answer });
    }

    /// The answer to a request; none while the metadata must be read first.
    fn answer(&mut self, at: NodeIx, rpc: &Rpc) -> Option<Answer> {
        let node = &mut self.nodes[at];
        let failed = Some(Answer::Failed);
        match rpc {
            Rpc::Fence(address) => match node.replica.fence(address) {
                Ok(fenced) => Some(Answer::Fenced(Ok(fenced))),
                Err(Unanswered::NeedMetadata) => None,
                Err(Unanswered::Refused(refusal)) => Some(Answer::Fenced(Err(refusal))),
            },
            Rpc::Chain(address, index) => match node.held_by(address)?.chain_at(*index) {
                ChainAt::Boundary(chain) => Some(Answer::Chain(Some(chain))),
                ChainAt::Freed => Some(Answer::Chain(None)),
                other => panic!("I6: members disagree about batches: {other:?} at {index}"),
            },
            Rpc::Fetch(address, from, to) => {
                let buffer = node.held_by(address)?;
                if buffer.start > *from || buffer.tail() < *to {
                    return failed;
                }
                let wanted =
                    buffer.batches.iter().filter(|b| b.header.first >= *from && b.header.end() <= *to);
                Some(Answer::Batches(wanted.copied().collect()))
            }
            Rpc::RepairOpen(address) => match node.replica.open(&Open { at: *address, repair: true }) {
                Ok((session, opened)) => {
                    node.follow_jump(address.segment);
                    Some(Answer::Opened(session, opened.tail))
                }
                Err(Unanswered::NeedMetadata) => None,
                Err(Unanswered::Refused(_)) => failed,
            },
            Rpc::Repair(address, session, batches) => {
                let written = node.replica.marks(address.segment).map(|marks| marks.writer_tail);
                for batch in batches {
                    if self.node_store(at, *session, address.segment, batch).is_err() {
                        return failed;
                    }
                }
                let replica = &self.nodes[at].replica;
                let after = replica.marks(address.segment).map(|marks| marks.writer_tail);
                assert_eq!(written, after, "a repair moved the writer's tail");
                let ack = replica.ack(*session, address.segment);
                ack.map_or(failed, |ack| Some(Answer::Repaired(ack.held)))
            }
            Rpc::Marks(number) => node.replica.mark(*number).map_or(failed, |mark| Some(Answer::Marks(mark))),
            Rpc::Read(number, from) => match node.buffers.get(number) {
                Some(buffer) if buffer.start <= *from => {
                    let wanted = buffer.batches.iter().filter(|batch| batch.header.end() > *from);
                    Some(Answer::Batches(wanted.take(20).copied().collect()))
                }
                _ => failed,
            },
        }
    }
}

impl Node {
    /// The buffer that a takeover addresses, if it is still that one.
    fn held_by(&mut self, address: &Address) -> Option<&Buffer> {
        (address.incarnation == self.incarnation).then(|| self.buffers.get(&address.segment))?
    }
}

/// A chain over the contents of entries, in place of the one over their bytes.
pub(crate) fn chain_over(before: Chain, content: u64) -> Chain {
    let mut header = [0; piculet_quorum::entry::ENTRY_HEADER_BYTES];
    header[..8].copy_from_slice(&content.to_le_bytes());
    before.extended(&header)
}
