//! Level `disk`, over a disk that is told when to sync, to fail and to lose its power: what rests on
//! a sync is told when that has returned, is there after a power cut, and else is never told.

use super::*;
use crate::fixture::{Fixture, Writer, eventually};
use crate::local::free_port;
use parking_lot::Mutex;
use piculet_client::transport::{Connection, request};
use piculet_quorum::batch::Place;
use piculet_quorum::glossary::Marks;
use piculet_quorum::ids::{Epoch, Incarnation, Index, LogId, Timestamp};
use piculet_quorum::wire::frame::{self, Ack};
use piculet_quorum::wire::message::{Address, Open};
use piculet_storage::journal::simulated::SimulatedDisk;

const LEVEL: Level = Level::Disk;
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a `Data` frame before its batches.
const DATA_HEAD: usize = 32;

/// What a client asks for, each of which rests on a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The writer opens the segment in epoch 1.
    Open,
    /// It appends a batch.
    Append,
    /// A takeover in epoch 2 fences it.
    Fence,
    /// Another takeover, in epoch 3, opens it for repairs before it was fenced.
    OpenRepair,
    /// It appends a batch.
    Repair,
}

const EVERY_STEP: [Step; 5] = [Step::Open, Step::Append, Step::Fence, Step::OpenRepair, Step::Repair];

/// A stream to the node, and all that came back on it.
struct Stream {
    send: SendStream,
    heard: Arc<Mutex<Vec<(Kind, bytes::Bytes)>>>,
    _reader: JoinSet<()>,
}

impl Stream {
    async fn new(connection: &Connection, request: &Request) -> Self {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send_message(&mut send, Kind::Request, request).await.unwrap();
        let (heard, mut frames, mut reader) = (Arc::default(), FrameReader::new(receive), JoinSet::new());
        let all: Arc<Mutex<Vec<_>>> = Arc::clone(&heard);
        reader.spawn(async move {
            while let Ok(Some(frame)) = frames.next().await {
                all.lock().push(frame);
            }
        });
        Self { send, heard, _reader: reader }
    }

    fn has(&self, kind: Kind, what: impl Fn(&[u8]) -> bool) -> bool {
        self.heard.lock().iter().any(|(found, body)| *found == kind && what(body))
    }
}

/// A node with its server, a log of level `disk` that it is a member of, and whoever writes and
/// takes over that log.
struct Site {
    fixture: Fixture,
    disk: SimulatedDisk,
    core: Arc<Core>,
    writer: Writer,
    server: Server,
    endpoint: Endpoint,
    connection: Connection,
    /// Streams, by the step that began each.
    streams: Vec<(Step, Stream)>,
    /// What was told: the highest epoch, and how much is held.
    told: (Epoch, Index),
}

impl Site {
    async fn new(seed: u64) -> Self {
        let (fixture, disk) = (Fixture::new(), SimulatedDisk::new(seed));
        let mut config = fixture.config("a");
        config.listen = free_port().unwrap().addr();
        let transport = config.transport();
        let core = fixture.core_on(config, &disk).await;
        let other = fixture.core_on(fixture.config("b"), &SimulatedDisk::new(seed)).await;
        let members = [&core, &other].map(|core| (&**core, core.life(LEVEL).unwrap()));
        let writer = Writer::create_at(LEVEL, &fixture.meta, 1, &members).await;
        let peers = fixture.peers(&core);
        let server = Server::start(Arc::clone(&core), fixture.identity("a"), peers).await.unwrap();
        let endpoint = Endpoint::client(&fixture.identity("b"), &transport).unwrap();
        let connection = endpoint.connect(&server.local_addr().to_string()).await.unwrap();
        let (streams, told) = (Vec::new(), (Epoch(0), Index(0)));
        Self { fixture, disk, core, writer, server, endpoint, connection, streams, told }
    }

    /// The number of takeovers by then, and one more.
    fn epoch(step: Step) -> Epoch {
        match step {
            Step::Open | Step::Append => Epoch(1),
            Step::Fence => Epoch(2),
            Step::OpenRepair | Step::Repair => Epoch(3),
        }
    }

    fn incarnation(&self) -> Incarnation {
        self.core.incarnation(LEVEL).unwrap()
    }

    fn stream(&mut self, step: Step) -> &mut Stream {
        let began = match step {
            Step::Append => Step::Open,
            Step::Repair => Step::OpenRepair,
            step => step,
        };
        let found = self.streams.iter_mut().rev().find(|(step, _)| *step == began);
        &mut found.expect("its stream was begun").1
    }

    /// Asks the node for it, and waits until the node has done it but for the sync.
    async fn ask(&mut self, step: Step) {
        let (log, segment, epoch) = (self.writer.log, self.writer.number, Self::epoch(step));
        let at = Address { log, segment, epoch, incarnation: self.incarnation() };
        match step {
            Step::Open | Step::OpenRepair => {
                let repair = step == Step::OpenRepair;
                if repair {
                    self.writer.take_over().await;
                }
                let mut stream = Stream::new(&self.connection, &Request::Append(log)).await;
                send_message(&mut stream.send, Kind::Open, &Open { at, repair }).await.unwrap();
                self.streams.push((step, stream));
            }
            Step::Fence => {
                self.writer.take_over().await;
                let stream = Stream::new(&self.connection, &Request::Fence(at)).await;
                self.streams.push((step, stream));
            }
            Step::Append | Step::Repair => {
                let from = self.writer.bytes.len();
                self.writer.append(&[], 1500);
                let batch = self.writer.bytes[from..].to_vec();
                let place = Place { log, segment, epoch: Epoch(1) };
                let head = frame::append_head(&place, Index(0), batch.len());
                let frame = [&head[..], &batch].concat();
                self.stream(step).send.write_all(&frame).await.unwrap();
            }
        }
        eventually("the node has done it", || self.done(step)).await;
    }

    /// The fence and the watermarks of the segment, as the node has them.
    fn marks(&self) -> Option<(Epoch, Marks)> {
        marks(&self.core, &self.writer)
    }

    fn done(&self, step: Step) -> bool {
        let Some((fence, marks)) = self.marks() else { return false };
        match step {
            Step::Append | Step::Repair => marks.tail == self.writer.end(),
            step => fence == Self::epoch(step),
        }
    }

    /// Whether the client was told of what it asked for last.
    fn heard(&mut self, step: Step) -> bool {
        let end = self.writer.end();
        let stream = self.stream(step);
        match step {
            Step::Open | Step::OpenRepair => stream.has(Kind::Opened, |_| true),
            Step::Append | Step::Repair => stream.has(Kind::Ack, |body| Ack::decode(body).held >= end),
            Step::Fence => stream.has(Kind::Response, |_| true),
        }
    }

    /// Notes what the client was told.
    fn note(&mut self, step: Step) {
        self.told.0 = self.told.0.max(Self::epoch(step));
        if matches!(step, Step::Append | Step::Repair) {
            self.told.1 = self.writer.end();
        }
    }

    async fn told(&mut self, step: Step) {
        eventually("the client is told", || self.heard(step)).await;
        self.note(step);
    }

    /// The node answers something else; had it told more before that, it would have come by now.
    async fn round_trips(&self) {
        for _ in 0..3 {
            request(&self.connection, &Request::Status, LIMIT).await.unwrap();
        }
    }

    fn failed(&self) -> bool {
        self.core.buffer(LEVEL).unwrap().failed().borrow().is_some()
    }

    /// Ends the process. What is left of its disk is another one.
    async fn end(self) -> (Fixture, Writer) {
        let Self { fixture, core, writer, server, endpoint, streams, disk, .. } = self;
        drop(streams);
        endpoint.close();
        server.stop().await;
        disk.hold_syncs(false);
        assert_eq!(Arc::strong_count(&core), 1, "the process has ended");
        (fixture, writer)
    }
}

fn marks(core: &Core, writer: &Writer) -> Option<(Epoch, Marks)> {
    let slot = core.logs.get(writer.log)?;
    let state = slot.lock();
    Some((state.replica.fence_epoch(), state.replica.marks(writer.number)?))
}

#[tokio::test]
async fn nothing_is_told_before_the_sync_has_returned() {
    let mut site = Site::new(1).await;
    for step in EVERY_STEP {
        let syncs = site.disk.syncs();
        site.disk.hold_syncs(true);
        site.ask(step).await;
        site.round_trips().await;
        assert!(!site.heard(step), "{step:?} was told before it was at rest");
        let held = site.marks().unwrap().1.held;
        assert_eq!(held, site.told.1, "{step:?}: what is not at rest is not held");
        site.disk.hold_syncs(false);
        site.told(step).await;
        assert!(site.disk.syncs() > syncs, "{step:?} was synced");
    }
    site.end().await;
}

#[tokio::test]
async fn nothing_is_ever_told_when_the_sync_fails() {
    for (nth, failing) in EVERY_STEP.into_iter().enumerate() {
        let mut site = Site::new(2).await;
        for step in &EVERY_STEP[..nth] {
            site.ask(*step).await;
            site.told(*step).await;
        }
        site.disk.fail_syncs_after(0);
        site.ask(failing).await;
        eventually("the journal has failed", || site.failed()).await;
        // Nor what is asked afterwards.
        let later = if matches!(failing, Step::OpenRepair | Step::Repair) { failing } else { Step::Fence };
        if later != failing {
            site.ask(later).await;
        }
        site.round_trips().await;
        for step in [failing, later] {
            assert!(!site.heard(step), "{step:?} was told though {failing:?} is not at rest");
        }
        site.end().await;
    }
}

/// A generator of numbers for what a power cut leaves of what was not synced; nothing for seed 0.
fn choose(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
        (state >> 33) as usize % below
    }
}

/// Starts the node again on what is left of its disk: what was told is there.
async fn check_after(
    fixture: &Fixture,
    writer: &Writer,
    lives: Incarnation,
    told: (Epoch, Index),
    left: &SimulatedDisk,
    when: &str,
) {
    let core = fixture.core_on(fixture.config("a"), left).await;
    assert_eq!(core.incarnation(LEVEL), Some(lives), "{when}: a power cut is no damage");
    let slot = core.refresh_log(writer.log).await.unwrap().expect("the log is there");
    let (fence, marks) = marks(&core, writer).expect("it is a member of the segment");
    assert!(fence >= told.0, "{when}: epoch {} was told, and {fence} is at rest", told.0);
    assert!(marks.held >= told.1, "{when}: {} was acknowledged, and {} is held", told.1, marks.held);
    let state = slot.lock();
    let buffer = &state.segments[&writer.number].buffer;
    let bytes =
        buffer.read(Index(0), marks.held, usize::MAX).map_or_else(Vec::new, |run| run.pieces.concat());
    assert!(writer.bytes.starts_with(&bytes), "{when}: other entries than were appended");
    assert!(marks.held == Index(0) || !bytes.is_empty(), "{when}: what is held can be read");
}

#[tokio::test]
async fn what_was_told_outlives_a_power_cut_at_every_write_and_sync() {
    let mut steps = vec![Step::Open];
    steps.extend([Step::Append; 4]);
    steps.extend([Step::Fence, Step::OpenRepair]);
    steps.extend([Step::Repair; 3]);
    let mut cuts = 0;
    for operations in 1.. {
        let mut site = Site::new(operations).await;
        let life = site.incarnation();
        site.disk.power_off_after(operations);
        for step in &steps {
            site.ask(*step).await;
            eventually("the client is told, or the power is off", || site.heard(*step) || site.failed())
                .await;
            if site.heard(*step) {
                site.note(*step);
            }
            if site.failed() {
                break;
            }
        }
        let (ended, told) = (!site.failed(), site.told);
        let left = [0, operations, operations + 1000].map(|seed| site.disk.power_cut(choose(seed)));
        let (fixture, writer) = site.end().await;
        for (variant, left) in left.iter().enumerate() {
            let when = format!("power off after {operations} operations, variant {variant}");
            check_after(&fixture, &writer, life, told, left, &when).await;
        }
        if ended {
            break;
        }
        cuts += 1;
    }
    assert!(cuts >= 2 * steps.len(), "{cuts} cuts are less than one at each write and sync");
}

impl Site {
    /// What a node sends of the segment up to `to` to whoever fetches it, and how it ends.
    async fn fetch(&self, at: Address, to: Index) -> (Vec<u8>, Option<Refusal>) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        send_message(&mut send, Kind::Request, &Request::Fetch { at, from: Index(0), to }).await.unwrap();
        let (mut frames, mut bytes, mut refused) = (FrameReader::new(receive), Vec::new(), None);
        while let Some((kind, body)) = frames.next().await.unwrap() {
            match kind {
                Kind::Data => bytes.extend_from_slice(&body[DATA_HEAD..]),
                _ => match codec::decode(&body).unwrap() {
                    Response::Refused(refusal) => refused = Some(refusal),
                    other => panic!("{other:?}"),
                },
            }
        }
        (bytes, refused)
    }
}

#[tokio::test]
async fn only_the_takeover_that_fenced_a_segment_last_copies_it() {
    let mut site = Site::new(3).await;
    for step in [Step::Open, Step::Append, Step::Append, Step::Fence] {
        site.ask(step).await;
        site.told(step).await;
    }
    let (incarnation, end) = (site.incarnation(), site.writer.end());
    let (log, segment) = (site.writer.log, site.writer.number);
    let at = Address { log, segment, epoch: Epoch(2), incarnation };
    assert_eq!(site.fetch(at, end).await, (site.writer.bytes.clone(), None));
    let fenced = Refusal::Fenced { epoch: Epoch(2) };
    let reborn = Refusal::WrongIncarnation { current: incarnation };
    for (what, at, to, refusal) in [
        ("an older epoch", Address { epoch: Epoch(1), ..at }, end, fenced.clone()),
        ("one that has not fenced it", Address { epoch: Epoch(3), ..at }, end, fenced),
        ("a later life", Address { incarnation: incarnation.plus(1), ..at }, end, reborn.clone()),
        ("an earlier one", Address { incarnation: Incarnation(incarnation.0 - 1), ..at }, end, reborn),
        ("beyond the tail", at, end.plus(1), Refusal::NotHere),
        ("another segment", Address { segment: segment.plus(1), ..at }, end, Refusal::NotHere),
        ("another log", Address { log: LogId(9), ..at }, end, Refusal::NotHere),
    ] {
        assert_eq!(site.fetch(at, to).await, (vec![], Some(refusal)), "{what}");
    }
    site.writer.delete(Timestamp(5)).await;
    site.core.refresh_log(log).await.unwrap();
    assert_eq!(site.fetch(at, end).await, (vec![], Some(Refusal::Deleted)));
    site.end().await;
}
