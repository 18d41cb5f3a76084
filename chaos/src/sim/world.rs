//! The simulated cluster: its clock, its network and what lives in it.

use super::checks::Truth;
use super::client::Client;
use super::events::{Caller, ClientIx, Conn, Down, Event, NodeIx, Up};
use super::faults::Faults;
use super::healing::Healing;
use super::loss::{Losses, Search};
use super::node::Node;
use super::reader::Reader;
use super::rng::Rng;
use super::schedule::{FAULTS_END, Hazard, Hazards, Schedule};
use super::store::Store;
use super::tail::TailSearch;
use super::tally::Tally;
use super::upload::Objects;
use piculet_quorum::archiver::FlushOptions;
use piculet_quorum::ids::{Epoch, Level, NodeId};
use piculet_quorum::time::{Span, Time};
use piculet_quorum::writer::WriterOptions;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Microseconds in a millisecond.
pub(crate) const MS: u64 = 1_000;
/// So much is shown of an event.
const SHOWN_CHARS: usize = 300;
/// When a run starts.
const START: u64 = 1_000_000;
/// By this moment everything must have caught up.
const HEAL_END: u64 = START + 40_000 * MS;
/// More events than any run has that does not spin.
const EVENTS_MAX: u64 = 2_000_000;

/// One stream, as the network knows it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client: ClientIx,
    pub(crate) node: NodeIx,
    /// When the last frame arrives, in each direction: the next arrives later.
    up: u64,
    down: u64,
    /// When the stream broke, in each direction: what would arrive later is lost.
    pub(crate) cut: Option<(u64, u64)>,
}

/// Shows an event of a run that failed.
pub(crate) type Recorder = Box<dyn FnMut(String)>;

/// The whole cluster.
pub(crate) struct World {
    pub(crate) now: u64,
    sequence: u64,
    /// Boxed, for they are large and the queue moves them about.
    queue: BTreeMap<(u64, u64), Box<Event>>,
    pub(crate) rng: Rng,
    /// The level of the log.
    pub(crate) level: Level,
    pub(crate) schedule: Schedule,
    hazards: Hazards,
    pub(crate) store: Store,
    pub(crate) objects: Objects,
    pub(crate) nodes: Vec<Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) links: BTreeMap<Conn, Link>,
    pub(crate) faults: Faults,
    pub(crate) truth: Truth,
    pub(crate) options: WriterOptions,
    pub(crate) flush: FlushOptions,
    pub(crate) run: Tally,
    pub(crate) healing: bool,
    /// Who is left when the faults stop.
    pub(crate) ends: Healing,
    pub(crate) losses: Losses,
    pub(crate) loss_search: Option<Search>,
    pub(crate) tail: TailSearch,
    /// Without a stream for so many milliseconds, a writer has gone.
    pub(crate) writer_timeout: u64,
    /// The log's epoch, and since when the nodes know of it.
    pub(crate) epoch_since: (Epoch, u64),
    /// Whether an operator has been asked to let the log lose entries.
    pub(crate) leave_asked: bool,
    pub(crate) next_id: u64,
    trace: DefaultHasher,
    recorder: Option<Recorder>,
}

impl World {
    pub(crate) fn new(schedule: Schedule, recorder: Option<Recorder>) -> Self {
        let seed = schedule.seed;
        let mut rng = Rng::stream(seed, 0);
        let level = if rng.chance(500) { Level::Memory } else { Level::Disk };
        let member_timeout = Span::millis(rng.between(60, 400));
        let options = WriterOptions {
            member_timeout,
            retransmit_bytes: rng.between(3_000, 30_000),
            segment_bytes: rng.between(3_000, 20_000),
            segment_age: Span::millis(rng.between(300, 2_000)),
            idle_after: Span::millis(rng.between(20, 400)),
            commit_delay: Span(rng.between(100, 2_000)),
            transmit_bytes: rng.between(100, 3_000),
        };
        let interval = Span::millis(rng.between(20, 100));
        let flush = FlushOptions {
            bytes: rng.between(1_000, 5_000),
            bytes_min: rng.between(100, 1_000),
            interval,
            interval_max: Span(interval.0 * rng.between(1, 5)),
        };
        let writer_timeout = Rng::stream(seed, 3).between(60, 500);
        let (losses, allowed) = Losses::of(seed);
        let mut world = Self {
            now: START,
            sequence: 0,
            queue: BTreeMap::new(),
            rng,
            level,
            hazards: schedule.hazards(),
            schedule,
            store: Store::new(level, allowed),
            objects: Objects::default(),
            nodes: Vec::new(),
            clients: Vec::new(),
            readers: Vec::new(),
            links: BTreeMap::new(),
            faults: Faults::default(),
            truth: Truth::default(),
            options,
            flush,
            run: Tally::default(),
            healing: false,
            ends: Healing::of(seed),
            epoch_since: (Epoch(0), START),
            losses,
            loss_search: None,
            tail: TailSearch::default(),
            writer_timeout,
            leave_asked: false,
            next_id: 0,
            trace: DefaultHasher::new(),
            recorder,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let count = if self.rng.chance(500) { 3 } else { 4 };
        for at in 0..count {
            let id = NodeId::new(format!("n{at}")).expect("a valid name");
            let capacity = self.rng.between(60, 400) as usize;
            self.nodes.push(Node::new(id, self.level, capacity));
            self.schedule(0, Event::NodeUp { node: at, boot: 0 });
            self.schedule(at as u64, Event::NodeTick { node: at });
        }
        self.start_client();
        self.readers.push(Reader::new());
        self.schedule(0, Event::ReaderTick { reader: 0 });
        self.schedule(5 * MS, Event::TailTick);
        self.schedule(50 * MS, Event::GuardTick);
        if self.losses != Losses::Budget {
            self.schedule(100 * MS, Event::LossTick);
        }
        if self.rng.chance(500) {
            self.schedule(500 * MS, Event::TrimTick);
            self.schedule(500 * MS, Event::CleanTick);
        }
        for at in 0..self.schedule.faults.len() {
            self.schedule(self.schedule.faults[at].at, Event::Fault { at });
        }
        self.schedule(FAULTS_END, Event::Heal);
    }

    /// Whether a hazard strikes now.
    pub(crate) fn strikes(&mut self, hazard: Hazard) -> bool {
        !self.healing && self.hazards.strikes(hazard)
    }

    pub(crate) fn time(&self) -> Time {
        Time(self.now)
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.schedule_at(self.now + delay, event);
    }

    fn schedule_at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), Box::new(event));
    }

    /// How long a message takes: mostly short, sometimes long, longer to and from a slow node.
    pub(crate) fn delay(&mut self, node: NodeIx) -> u64 {
        let most = if self.strikes(Hazard::LongDelay) { 60 * MS } else { 2 * MS };
        self.rng.between(50, most) + self.nodes[node].lag
    }

    pub(crate) fn send_up(&mut self, conn: Conn, frame: Up) {
        let (node, delay) = (self.links[&conn].node, self.delay(self.links[&conn].node));
        let link = self.links.get_mut(&conn).expect("a stream that was dialled");
        if link.cut.is_none() {
            link.up = (self.now + delay).max(link.up + 1);
            let at = link.up;
            self.schedule_at(at, Event::Up { node, conn, frame });
        }
    }

    pub(crate) fn send_down(&mut self, conn: Conn, frame: Down) {
        if self.nodes[self.links[&conn].node].rest.has_died() {
            return;
        }
        let delay = self.delay(self.links[&conn].node);
        let link = self.links.get_mut(&conn).expect("a stream that was dialled");
        if link.cut.is_none() {
            link.down = (self.now + delay).max(link.down + 1);
            let (at, client, node) = (link.down, link.client, link.node);
            self.schedule_at(at, Event::Down { client, node, conn, frame });
        }
    }

    pub(crate) fn connect(&mut self, client: ClientIx, node: NodeIx) -> Conn {
        let conn = self.fresh_id();
        self.links.insert(conn, Link { client, node, up: 0, down: 0, cut: None });
        conn
    }

    /// A stream breaks: what is on the way may be lost, and either side learns of it in its time.
    pub(crate) fn break_link(&mut self, conn: Conn) {
        let (up, down) = (self.rng.between(0, 20 * MS), self.rng.between(0, 20 * MS));
        let now = self.now;
        let link = self.links.get_mut(&conn).expect("a stream that was dialled");
        if link.cut.is_some() {
            return;
        }
        link.cut = Some((now + up, now + down));
        let (client, node) = (link.client, link.node);
        let late = if self.healing { 30 * MS } else { 150 * MS };
        let (to_client, to_node) = (self.rng.between(0, late), self.rng.between(0, late));
        self.schedule(down.max(to_client) + 1, Event::Dropped { client, node, conn });
        self.schedule(up.max(to_node) + 1, Event::HungUp { node, conn });
    }

    fn lost(&self, event: &Event) -> bool {
        match event {
            Event::Up { conn, .. } | Event::Hello { conn, .. } => {
                self.links[conn].cut.is_some_and(|(up, _)| self.now > up)
            }
            Event::Down { conn, .. } | Event::Welcome { conn, .. } => {
                self.links[conn].cut.is_some_and(|(_, down)| self.now > down)
            }
            _ => false,
        }
    }

    /// Lets the cluster live until it has caught up.
    pub(crate) fn run(mut self) -> Tally {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            assert!(at >= self.now, "time runs backwards");
            self.now = at;
            assert!(at <= HEAL_END, "liveness: {}", self.unfinished());
            self.run.events += 1;
            assert!(self.run.events < EVENTS_MAX, "liveness: too many events, something spins");
            (at, &*event).hash(&mut self.trace);
            if let Some(recorder) = &mut self.recorder
                && !routine(&event)
            {
                let line = format!("{:>9.3} ms {event:?}", (at - START) as f64 / MS as f64);
                recorder(line.chars().take(SHOWN_CHARS).collect());
            }
            if self.lost(&event) {
                continue;
            }
            if matches!(*event, Event::Verdict) {
                if self.finished() {
                    self.check_outcomes();
                    break;
                }
                self.schedule(20 * MS, Event::Verdict);
                continue;
            }
            let reads_only = caller_of(&event).is_some_and(only_reads);
            self.happen(*event);
            if !reads_only {
                self.check();
            }
        }
        self.run.segments = self.store.now.log().value.next_segment.0;
        self.run.acked = self.truth.acked_count();
        self.run.trace = self.trace.finish();
        self.run
    }

    /// Hands an event to whom it concerns, unless that process is stopped just now.
    pub(crate) fn happen(&mut self, event: Event) {
        if let Some(node) = node_of(&event)
            && self.nodes[node].paused
        {
            return self.nodes[node].backlog.push(event);
        }
        if let Some(client) = client_of(&event)
            && self.clients[client].paused
        {
            return self.clients[client].backlog.push(event);
        }
        let in_danger = stores(&event).filter(|node| self.may_die_in(*node));
        self.hand_over(event);
        if let Some(node) = in_danger {
            self.dies_or_lives_on(node);
        }
    }

    fn hand_over(&mut self, event: Event) {
        match event {
            Event::Up { node, conn, frame } => self.node_up(node, conn, frame),
            Event::Down { client, node, conn, frame } => self.client_down(client, node, conn, frame),
            Event::Dial { client, node } => self.client_dial(client, node),
            Event::Hello { client, node, conn } => self.node_hello(client, node, conn),
            Event::Welcome { client, node, conn, incarnation } => {
                self.client_welcome(client, node, conn, incarnation);
            }
            Event::Dropped { client, node, conn } => self.client_dropped(client, node, conn),
            Event::HungUp { node, conn } => self.node_hung_up(node, conn),
            Event::AckDue { node, life, conn, segment } => self.node_ack(node, life, conn, segment),
            Event::Call { caller, id, node, rpc, informed } => {
                self.node_call(caller, id, node, rpc, informed);
            }
            Event::Answered { caller, id, answer } => self.answered(caller, id, answer),
            Event::MetaArrives { client, id, meta } => self.meta_arrives(client, id, meta),
            Event::MetaAnswered { client, id, answer } => self.meta_answered(client, id, answer),
            Event::Wake { client, generation } => self.client_wakes(client, generation),
            Event::Append { client } => self.client_appends(client),
            Event::NodeTick { node } => self.node_tick(node),
            Event::Watched { node, life, to } => self.node_watched(node, life, to),
            Event::Reread { node, life, records } => self.node_reread(node, life, records),
            Event::Synced { node, life, count } => self.node_synced(node, life, count),
            Event::Informed { node, life, conn } => self.node_informed(node, life, conn),
            Event::Uploaded { node, life, upload, put } => self.uploaded(node, life, upload, put),
            Event::PutArrives { upload } => self.put_arrives(upload),
            Event::PartLands { node, life, segment, txn, told } => {
                self.part_lands(node, life, segment, &txn, told);
            }
            Event::ReaderTick { reader } => self.reader_tick(reader),
            Event::ReaderGets { reader, name } => self.reader_gets(reader, name),
            Event::TrimTick => self.trim_tick(),
            Event::TrimLands { txn } => self.trim_lands(&txn),
            Event::CleanTick => self.clean_tick(),
            Event::CleanLands { txn, objects } => self.clean_lands(&txn, objects),
            Event::ObjectsDeleted { objects } => self.objects_deleted(&objects),
            Event::TailTick => self.tail_tick(),
            Event::GuardTick => self.guard_tick(),
            Event::LossTick => self.loss_tick(),
            Event::LossLands { proposal } => self.loss_lands(&proposal),
            Event::LeaveGiven => self.leave_given(),
            Event::StartLands { txn } => self.start_lands(&txn),
            Event::LeaseExpires { lease } => self.store.end_lease(lease),
            Event::Fault { at } => self.fault(at),
            Event::IsolationEnds { node } => self.nodes[node].isolated = false,
            Event::MetaReturns => self.store.away = false,
            Event::ObjectsReturn => self.faults.objects_away = false,
            Event::NodeUp { node, boot } => self.node_returns(node, boot),
            Event::NodeResumes { node } => self.node_resumes(node),
            Event::ClientResumes { client } => self.client_resumes(client),
            Event::Heal => self.heal(),
            Event::LastWriter => self.last_writer(),
            Event::Verdict => unreachable!("judged where events are taken"),
        }
    }
}

/// What happens all the time and changes little is not shown.
fn routine(event: &Event) -> bool {
    matches!(event, Event::NodeTick { .. } | Event::ReaderTick { .. } | Event::LossTick | Event::Verdict)
        || matches!(event, Event::TailTick | Event::GuardTick)
        || caller_of(event).is_some_and(only_reads)
}

/// The node whose process handles the event.
fn node_of(event: &Event) -> Option<NodeIx> {
    match event {
        Event::Up { node, .. }
        | Event::Hello { node, .. }
        | Event::HungUp { node, .. }
        | Event::AckDue { node, .. }
        | Event::Call { node, .. }
        | Event::Watched { node, .. }
        | Event::Reread { node, .. }
        | Event::Synced { node, .. }
        | Event::Informed { node, .. }
        | Event::Uploaded { node, .. } => Some(*node),
        _ => None,
    }
}

/// The node that stores something when it handles the event, perhaps.
fn stores(event: &Event) -> Option<NodeIx> {
    match event {
        Event::Up { node, .. }
        | Event::Call { node, .. }
        | Event::Watched { node, .. }
        | Event::Reread { node, .. }
        | Event::Informed { node, .. } => Some(*node),
        _ => None,
    }
}

/// On whose behalf the event is, when it is a call or its answer.
fn caller_of(event: &Event) -> Option<Caller> {
    match event {
        Event::Call { caller, .. } | Event::Answered { caller, .. } => Some(*caller),
        Event::ReaderTick { reader } | Event::ReaderGets { reader, .. } => Some(Caller::Reader(*reader)),
        Event::TailTick => Some(Caller::Tail),
        _ => None,
    }
}

fn only_reads(caller: Caller) -> bool {
    matches!(caller, Caller::Reader(_) | Caller::Tail)
}

/// The client whose process handles the event.
fn client_of(event: &Event) -> Option<ClientIx> {
    match event {
        Event::Down { client, .. }
        | Event::Dial { client, .. }
        | Event::Welcome { client, .. }
        | Event::Dropped { client, .. }
        | Event::MetaAnswered { client, .. }
        | Event::Wake { client, .. }
        | Event::Append { client }
        | Event::Answered { caller: Caller::Client(client), .. } => Some(*client),
        _ => None,
    }
}
