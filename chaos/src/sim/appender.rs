//! A client that writes: drives the real writer, and appends at random.

use super::client::Stage;
use super::events::{Batch, ClientIx, Conn, Down, Event, Meta, MetaAnswer, NodeIx, Up};
use super::healing::LAST_APPENDS;
use super::journal::batch_of;
use super::loss::Losses;
use super::outcomes::LeftOpen;
use super::store::LOG;
use super::world::{MS, World};
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::glossary::Marks;
use piculet_quorum::ids::{Index, Offset, SegmentNumber, Timestamp};
use piculet_quorum::outcome::Outcome;
use piculet_quorum::time::Time;
use piculet_quorum::wire::message::{Address, Open};
use piculet_quorum::writer::{AssignError, Assigned, MetaReply, MetaRequest, Transmit, Writer, WriterEvent};
use std::collections::{BTreeMap, VecDeque};

/// What the driver of a writer keeps.
pub(crate) struct Appender {
    pub(crate) writer: Writer,
    /// What the last append left behind it.
    end: BatchEnd,
    /// Batches that the writer has not released, with the commit mark that their frames carry.
    kept: BTreeMap<(SegmentNumber, Index), (Batch, Index)>,
    /// Appends whose futures are open.
    open: VecDeque<(Offset, SegmentNumber, Batch)>,
    /// Appends since the faults have stopped.
    last_appends: u64,
    /// Whether the metadata request that is out reads the nodes.
    asked_nodes: bool,
}

impl Appender {
    pub(crate) fn new(writer: Writer, end: BatchEnd) -> Self {
        let (kept, open) = (BTreeMap::new(), VecDeque::new());
        Self { writer, end, kept, open, last_appends: 0, asked_nodes: false }
    }

    pub(crate) fn idle(&self) -> bool {
        self.open.is_empty()
    }
}

impl World {
    fn appender(&mut self, me: ClientIx) -> Option<&mut Appender> {
        match &mut self.clients[me].stage {
            Stage::Writing(appender) => Some(appender),
            _ => None,
        }
    }

    /// A takeover is complete: the client appends from now on.
    pub(crate) fn start_appending(&mut self, me: ClientIx, appender: Appender) {
        let streams = self.clients[me].streams.clone();
        assert!(streams.is_empty(), "a takeover dials nobody");
        self.clients[me].stage = Stage::Writing(Box::new(appender));
        self.schedule(0, Event::Append { client: me });
        let all: Vec<NodeIx> = (0..self.nodes.len()).collect();
        self.dial(me, all);
        self.drive_appender(me);
    }

    pub(crate) fn client_appends(&mut self, me: ClientIx) {
        let (now, healing) = (self.time(), self.healing);
        let count = self.rng.between(1, 4);
        let rests = self.rng.chance(15);
        let period =
            if rests { self.rng.between(50 * MS, 900 * MS) } else { self.rng.between(MS / 2, 8 * MS) };
        let first = self.next_id + 1;
        let Some(appender) = self.appender(me) else { return };
        if appender.last_appends >= LAST_APPENDS {
            appender.writer.close(now);
            return self.drive_appender(me);
        }
        let (end, batch) = batch_of(appender.end, first..first + count, Timestamp(now.0 / MS));
        let parked = appender.writer.parked();
        match appender.writer.assign(now, count as u32, 100 * count, end) {
            Ok(Assigned { place, first: index, offset, commit }) => {
                let batch = batch(index);
                appender.end = end;
                appender.kept.insert((place.segment, index), (batch, commit));
                appender.open.push_back((offset, place.segment, batch));
                appender.last_appends += u64::from(healing);
                self.next_id += count;
            }
            Err(AssignError::NoRoom(_)) => self.run.no_room += 1,
            Err(AssignError::Closed) => return self.drive_appender(me),
        }
        self.schedule(period, Event::Append { client: me });
        if parked {
            let all: Vec<NodeIx> = (0..self.nodes.len()).collect();
            self.dial(me, all);
        }
        self.drive_appender(me);
    }

    pub(crate) fn client_down(&mut self, me: ClientIx, at: NodeIx, conn: Conn, frame: Down) {
        if self.clients[me].streams.get(&at) != Some(&(conn, true)) {
            return;
        }
        let (now, node) = (self.time(), self.nodes[at].id.clone());
        let Some(appender) = self.appender(me) else { return };
        let writer = &mut appender.writer;
        match frame {
            Down::Opened(opened) => {
                let marks = Marks { tail: opened.tail, held: opened.held, ..Marks::default() };
                writer.handle_opened(now, &node, opened.segment, marks);
            }
            Down::Ack(ack) => writer.handle_ack(now, &node, ack.place.segment, ack.held),
            Down::Refused(segment, refusal) => writer.handle_refused(now, &node, segment, &refusal),
            Down::Archived(segment, index) => writer.handle_archived(now, segment, index),
        }
        self.drive_appender(me);
    }

    pub(crate) fn appender_meta(&mut self, me: ClientIx, answer: MetaAnswer) {
        let now = self.time();
        let Some(appender) = self.appender(me) else { return };
        let reply = match answer {
            MetaAnswer::Look(look) => {
                let (view, nodes) = *look;
                if appender.asked_nodes { MetaReply::Nodes(nodes) } else { MetaReply::View(Box::new(view)) }
            }
            MetaAnswer::Outcome(outcome) => MetaReply::Outcome(outcome),
            MetaAnswer::Failed => MetaReply::Failed,
        };
        appender.writer.handle_meta(now, reply);
        self.drive_appender(me);
    }

    pub(crate) fn appender_wakes(&mut self, me: ClientIx) {
        let now = self.time();
        if let Some(appender) = self.appender(me) {
            appender.writer.handle_timeout(now);
        }
        self.drive_appender(me);
    }

    /// What the driver's contract asks for after every input.
    pub(crate) fn drive_appender(&mut self, me: ClientIx) {
        let Some(appender) = self.appender(me) else { return };
        let request = appender.writer.poll_meta();
        if let Some(request) = request {
            appender.asked_nodes = matches!(request, MetaRequest::Nodes);
            self.ask_meta(
                me,
                match request {
                    MetaRequest::Nodes => Meta::Look(SegmentNumber(u64::MAX)),
                    MetaRequest::View(from) => Meta::Look(from),
                    MetaRequest::Propose(proposal) => Meta::Propose(Box::new(proposal)),
                },
            );
        }
        while let Some(event) = self.appender(me).and_then(|appender| appender.writer.poll_event()) {
            self.writer_event(me, event);
        }
        self.transmit(me);
        let Some(appender) = self.appender(me) else { return };
        let at = appender.writer.poll_timeout().map(|Time(at)| at);
        self.wake_at(me, at);
    }

    fn transmit(&mut self, me: ClientIx) {
        let now = self.time();
        let up: Vec<(NodeIx, Conn)> = self.clients[me]
            .streams
            .iter()
            .filter(|(_, (_, up))| *up)
            .map(|(node, (conn, _))| (*node, *conn))
            .collect();
        for (at, conn) in up {
            let node = self.nodes[at].id.clone();
            loop {
                let Some(appender) = self.appender(me) else { return };
                let Some(transmit) = appender.writer.poll_transmit(now, &node) else { break };
                let frames = appender.frames(transmit);
                for frame in frames {
                    self.send_up(conn, frame);
                }
            }
        }
    }

    fn writer_event(&mut self, me: ClientIx, event: WriterEvent) {
        match event {
            WriterEvent::Committed(offset) => loop {
                let Some(appender) = self.appender(me) else { return };
                let done = |(first, _, batch): &&(Offset, SegmentNumber, Batch)| {
                    first.plus(u64::from(batch.header.count)) <= offset
                };
                let Some((first, segment, batch)) = appender.open.front().filter(done).copied() else {
                    break;
                };
                appender.open.pop_front();
                self.acked(first, segment, &batch);
            },
            WriterEvent::Released(segment, index) => {
                let Some(appender) = self.appender(me) else { return };
                appender.kept.retain(|(of, _), (batch, _)| *of != segment || batch.header.end() > index);
            }
            WriterEvent::MemberLost(..) => self.run.lost_members += 1,
            WriterEvent::Opened(..) => self.run.rolls += 1,
            WriterEvent::Deleted => panic!("nobody deletes the log"),
            WriterEvent::Parked => {
                self.run.parks += 1;
                self.hang_up(me);
            }
            WriterEvent::Fenced(_) => {
                self.run.fenced += 1;
                self.fenced(me);
                self.end_client(me);
            }
            WriterEvent::Closed => {
                let Some(appender) = self.appender(me) else { return };
                assert!(appender.idle(), "closed with appends under way");
                self.faults.closed = me + 1 == self.clients.len();
                self.end_client(me);
            }
            WriterEvent::Forgotten(why) => {
                assert_ne!(self.losses, Losses::Budget, "I12: {why}");
                self.end_client(me);
            }
            WriterEvent::Broken(why) => panic!("client {me} is broken: {why}"),
        }
    }
}

impl World {
    /// What the writer's application does not know yet must come out right.
    fn fenced(&mut self, me: ClientIx) {
        let Some(appender) = self.appender(me) else { return };
        let sent: Vec<_> = appender.writer.unresolved().collect();
        let epoch = appender.writer.epoch();
        let left = appender.open.drain(..).map(|(offset, segment, batch)| {
            let at = batch.header.first;
            let sent = sent.iter().any(|s| s.segment == segment && s.from <= at && at < s.to);
            LeftOpen { epoch, segment, batch, offset, decided: (!sent).then_some(Outcome::NotAppended) }
        });
        let left: Vec<_> = left.collect();
        self.left_open(left);
    }
}

impl Appender {
    /// The frames of a transmission. Every batch in it must still be kept.
    fn frames(&self, transmit: Transmit) -> Vec<Up> {
        match transmit {
            Transmit::Open(place, incarnation) => {
                let (log, segment, epoch) = (LOG, place.segment, place.epoch);
                let at = Address { log, segment, epoch, incarnation };
                vec![Up::Open(Open { at, repair: false })]
            }
            Transmit::Commit(place, commit) => vec![Up::Commit(place, commit)],
            Transmit::Batches(place, from, to) => {
                assert!(from < to, "nothing to send");
                let mut frames = Vec::new();
                let mut next = from;
                while next < to {
                    let kept = self.kept.get(&(place.segment, next));
                    let (batch, commit) = kept.unwrap_or_else(|| panic!("{place:?} {next} was released"));
                    frames.push(Up::Append(place, *commit, *batch));
                    next = batch.header.end();
                }
                assert_eq!(next, to, "a transmission ends where a batch ends");
                frames
            }
        }
    }
}
