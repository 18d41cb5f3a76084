//! A node: its replica of the log, the buffer behind it, its streams, and what it knows.

use super::events::{Answer, Batch, Caller, ClientIx, Conn, Down, Event, NodeIx, Rpc, Up};
use super::journal::Journal;
use super::rest::Rest;
use super::schedule::Hazard;
use super::store::{LOG, Records};
use super::upload::Uploads;
use super::world::{MS, World};
use piculet_node::lives::Lives;
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::{Incarnation, Level, NodeId, SegmentNumber};
use piculet_quorum::meta::register::Start;
use piculet_quorum::meta::{IncarnationRecord, LeaseId, SegmentEnd};
use piculet_quorum::replica::{Admission, ChainAt, Replica, Session, Unanswered};
use piculet_quorum::wire::message::{Address, Open, Refusal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// Until when its uploads stand still.
    pub(crate) stalled_until: u64,
    pub(crate) backlog: Vec<Event>,
    pub(crate) capacity: usize,
    pub(crate) replica: Replica,
    pub(crate) rest: Rest,
    /// At level `disk`: the journal behind it.
    pub(crate) journal: Option<Journal>,
    /// The metadata as its watch has brought them, and when the watch tells next.
    pub(crate) mirror: Records,
    pub(crate) watch_at: u64,
    /// What that says of who is lost.
    pub(crate) lives: Lives,
    /// Whether it reads all metadata anew.
    pub(crate) rereading: bool,
    pub(crate) lease: LeaseId,
    /// What its directory says of its life.
    pub(crate) start: Start,
    /// The life that the process which starts has begun.
    pub(crate) mine: Option<IncarnationRecord>,
    /// Counts the processes, those included that never served.
    pub(crate) boot: u64,
    pub(crate) sessions: BTreeMap<(Conn, SegmentNumber), Session>,
    pub(crate) conns: BTreeSet<Conn>,
    /// Streams whose next frame waits for metadata, with the frames behind it.
    pub(crate) stalled: BTreeMap<Conn, VecDeque<Up>>,
    /// Answers that wait for a sync, with the operation that it must reach.
    pub(crate) unsynced: VecDeque<(u64, Caller, u64, Due)>,
    pub(crate) uploads: Uploads,
    /// Since when the writer has had no stream here, by segment; none while it has one.
    pub(crate) writers: BTreeMap<SegmentNumber, Option<u64>>,
}

/// An answer that is due once everything so far is at rest.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Answer(Answer),
    /// What is held then.
    Repaired(Session, SegmentNumber),
}

impl Node {
    pub(crate) fn new(id: NodeId, level: Level, capacity: usize) -> Self {
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
            stalled_until: 0,
            backlog: Vec::new(),
            capacity,
            rest: Rest::new(level, capacity),
            journal: (level == Level::Disk).then(|| Journal::new(0)),
            mirror: Records::default(),
            watch_at: 0,
            lives: Lives::default(),
            rereading: false,
            lease: LeaseId(0),
            start: Start::default(),
            mine: None,
            boot: 0,
            sessions: BTreeMap::new(),
            conns: BTreeSet::new(),
            stalled: BTreeMap::new(),
            unsynced: VecDeque::new(),
            uploads: Uploads::default(),
            writers: BTreeMap::new(),
        }
    }

    /// Whether its memory runs short.
    pub(crate) fn short(&self) -> bool {
        self.rest.entries() * 2 > self.capacity || self.rest.short()
    }

    /// Whether the network reaches it.
    pub(crate) fn reachable(&self) -> bool {
        self.up && !self.isolated
    }

    /// What the replica has decided goes to rest: the fence, and a start at what is archived.
    fn follow(&mut self, number: SegmentNumber) {
        self.rest.set_fence(self.replica.fence_epoch());
        let tail = self.replica.marks(number).expect("it is open").tail;
        if self.rest.runs[&number].tail() != tail {
            let archived = self.replica.archived(number).expect("it is open");
            assert!(tail == archived.end && tail > self.rest.runs[&number].tail(), "a jump to {tail}");
            self.rest.jump(number, tail, batch_end(&archived));
        }
    }
}

/// What is left behind an end of a segment.
pub(crate) fn batch_end(at: &SegmentEnd) -> BatchEnd {
    BatchEnd { chain: at.chain, last_timestamp: at.last_timestamp }
}

impl World {
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
                        if self.nodes[at].rest.unsynced() > 0 {
                            return self.start_sync(at);
                        }
                        self.ack_soon(at, conn, place.segment);
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
                node.follow(number);
                self.start_sync(at);
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

    pub(crate) fn ack_soon(&mut self, node: NodeIx, conn: Conn, segment: SegmentNumber) {
        let (delay, life) = (self.rng.between(10, MS), self.nodes[node].life);
        self.schedule(delay, Event::AckDue { node, life, conn, segment });
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
            Admission::Store if node.rest.entries() + header.count as usize > node.capacity => {
                self.run.overloads += 1;
                Err(Refusal::Overloaded { bytes: self.nodes[at].capacity as u64 })
            }
            Admission::Store if !node.rest.begin(number, batch) => {
                self.run.full += 1;
                Err(Refusal::Overloaded { bytes: self.nodes[at].capacity as u64 })
            }
            Admission::Store => {
                if let Err(refusal) = node.replica.stored(session, number, &header, end) {
                    node.rest.discard(number);
                    return Err(refusal);
                }
                let written = node.replica.has_writer(number);
                node.rest.store(number, *batch, written);
                self.truth.stored(number, batch);
                Ok(())
            }
            Admission::Repeat => {
                let rest = &node.rest;
                let here = (rest.chain_at(number, header.first), rest.chain_at(number, header.end()));
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

    pub(crate) fn node_call(&mut self, caller: Caller, id: u64, at: NodeIx, rpc: Rpc, informed: bool) {
        if !self.nodes[at].reachable() {
            return;
        }
        if informed && !self.store.away {
            self.learn_now(at);
        }
        let Some(due) = self.answer(at, &rpc) else {
            if informed {
                return;
            }
            let delay = self.rng.between(MS / 2, 5 * MS);
            return self.schedule(delay, Event::Call { caller, id, node: at, rpc, informed: true });
        };
        let node = &mut self.nodes[at];
        let waits = matches!(&due, Due::Repaired(..))
            || matches!(&due, Due::Answer(Answer::Fenced(Ok(_)) | Answer::Opened(..)));
        if waits && node.rest.unsynced() > 0 {
            node.unsynced.push_back((node.rest.written_to(), caller, id, due));
            return self.start_sync(at);
        }
        self.give_answer(at, caller, id, due);
    }

    /// Sends an answer. What it tells is at rest.
    pub(crate) fn give_answer(&mut self, at: NodeIx, caller: Caller, id: u64, due: Due) {
        let answer = match due {
            Due::Answer(answer) => answer,
            Due::Repaired(session, number) => {
                let ack = self.nodes[at].replica.ack(session, number);
                ack.map_or(Answer::Failed, |ack| Answer::Repaired(ack.held))
            }
        };
        if !self.nodes[at].rest.has_died() && !self.strikes(Hazard::AnswerLost) {
            let delay = self.delay(at);
            self.schedule(delay, Event::Answered { caller, id, answer });
        }
    }

    /// The answer to a request; none while the metadata must be read first.
    fn answer(&mut self, at: NodeIx, rpc: &Rpc) -> Option<Due> {
        let node = &mut self.nodes[at];
        let failed = Some(Due::Answer(Answer::Failed));
        Some(Due::Answer(match rpc {
            Rpc::Fence(address) => match node.replica.fence(address) {
                Ok(fenced) => {
                    node.rest.set_fence(node.replica.fence_epoch());
                    Answer::Fenced(Ok(fenced))
                }
                Err(Unanswered::NeedMetadata) => return None,
                Err(Unanswered::Refused(refusal)) => Answer::Fenced(Err(refusal)),
            },
            Rpc::Chain(address, index) => match node.held_by(address)?.chain_at(address.segment, *index) {
                ChainAt::Boundary(chain) => Answer::Chain(Some(chain)),
                ChainAt::Freed => Answer::Chain(None),
                other => panic!("I6: members disagree about batches: {other:?} at {index}"),
            },
            Rpc::Fetch(address, from, to) => {
                let rest = node.held_by(address)?;
                let run = &rest.runs[&address.segment];
                if run.start > *from || run.tail() < *to {
                    return failed;
                }
                Answer::Batches(rest.between(address.segment, *from, *to))
            }
            Rpc::RepairOpen(address) => match node.replica.open(&Open { at: *address, repair: true }) {
                Ok((session, opened)) => {
                    node.follow(address.segment);
                    Answer::Opened(session, opened.tail)
                }
                Err(Unanswered::NeedMetadata) => return None,
                Err(Unanswered::Refused(_)) => return failed,
            },
            Rpc::Repair(address, session, batches) => return self.repair(at, address, *session, batches),
            Rpc::Marks(number) => node.replica.mark(*number).map_or(Answer::Failed, Answer::Marks),
            Rpc::Read(number, from) => match node.rest.runs.get(number) {
                Some(run) if run.start <= *from => Answer::Batches(node.rest.read(*number, *from)),
                _ => return failed,
            },
        }))
    }

    fn repair(&mut self, at: NodeIx, address: &Address, session: Session, batches: &[Batch]) -> Option<Due> {
        let number = address.segment;
        let written = |world: &Self| world.nodes[at].replica.marks(number).map(|marks| marks.writer_tail);
        let before = written(self);
        for batch in batches {
            if self.node_store(at, session, number, batch).is_err() {
                return Some(Due::Answer(Answer::Failed));
            }
        }
        assert_eq!(before, written(self), "a repair moved the writer's tail");
        Some(Due::Repaired(session, number))
    }
}

impl Node {
    /// What a takeover addresses, if it is still in that life of the buffer.
    fn held_by(&self, address: &Address) -> Option<&Rest> {
        let here = self.rest.runs.contains_key(&address.segment);
        (here && address.incarnation == self.incarnation).then_some(&self.rest)
    }
}
