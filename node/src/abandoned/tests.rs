use super::*;
use crate::fixture::{Fixture, Running, Writer, applied, eventually, memory, used};
use crate::local::free_port;
use crate::membership::Life;
use crate::server::Server;
use piculet_client::Client;
use piculet_client::{ClientOptions, Item, Offset, ReadOptions, Start};
use piculet_quorum::ids::{Index, LogName, Nonce};
use piculet_quorum::meta::Loss;
use piculet_quorum::meta::register::next_life;
use piculet_quorum::wire::message::{Address, Open};
use tokio::time::{Instant, sleep};

/// A node with its server, and all its background work but that which is tested here.
struct Node {
    core: Arc<Core>,
    life: Life,
    peers: Arc<Peers>,
    server: Server,
    running: Running,
}

async fn node(fixture: &Fixture, name: &str) -> Node {
    let mut config = fixture.config(name);
    // The port is free again when it is bound: tests of one process take different ones.
    let port = free_port().unwrap();
    config.listen = port.addr();
    config.advertise = vec![port.addr().to_string()];
    let (core, life) = fixture.core_with(config, Arc::new(fixture.meta.clone())).await;
    let peers = fixture.peers(&core);
    let server = Server::start(Arc::clone(&core), fixture.identity(name), Arc::clone(&peers)).await.unwrap();
    let running = Running::start(&core);
    Node { core, life, peers, server, running }
}

/// Three nodes that know of each other.
async fn three(fixture: &Fixture) -> [Node; 3] {
    let nodes = [node(fixture, "a").await, node(fixture, "b").await, node(fixture, "c").await];
    for node in &nodes {
        eventually("the node is registered", || node.core.lease().is_some()).await;
    }
    nodes
}

async fn stop(nodes: impl IntoIterator<Item = Node>) {
    for Node { server, running, peers, .. } in nodes {
        peers.close().await;
        server.stop().await;
        running.stop().await;
    }
}

/// Runs what is tested here at a node, until it is told to stop.
fn guarded(node: &Node, writer_timeout: Span) -> (watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let (core, peers) = (Arc::clone(&node.core), Arc::clone(&node.peers));
    (stop, tokio::spawn(run(core, peers, writer_timeout, stopped)))
}

async fn unguarded(guards: impl IntoIterator<Item = (watch::Sender<bool>, tokio::task::JoinHandle<()>)>) {
    for (stop, task) in guards {
        stop.send_replace(true);
        task.await.unwrap();
    }
}

/// The log's record and the state of its first segment.
async fn records(fixture: &Fixture, log: LogId) -> (LogRecord, SegmentState) {
    let now = fixture.snapshot().await;
    let segment = now.segment(&Key::Segment(log, SegmentNumber(0))).unwrap();
    (now.log(&Key::Log(log)).unwrap().value, segment.value.state)
}

/// A log whose writer has a stream at each of these nodes.
async fn written(fixture: &Fixture, nodes: &[Node; 3]) -> Writer {
    let members = nodes.each_ref().map(|node| (&*node.core, node.life));
    let writer = Writer::create(&fixture.meta, 1, &members).await;
    for node in nodes {
        node.core.refresh_log(writer.log).await.unwrap();
    }
    writer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_writer_has_gone_is_sealed_and_nothing_of_it_is_lost() {
    let fixture = Fixture::new();
    let nodes = three(&fixture).await;
    let guards = nodes.each_ref().map(|node| guarded(node, Span::millis(300)));
    let seeds = nodes[0].core.config.advertise.clone();
    let options = || ClientOptions::new(seeds.clone(), fixture.identity("app"));
    let client = Client::connect(options()).await.unwrap();
    let name = LogName::new("orders").unwrap();
    let log = client.create_log(&name).await.unwrap();
    let writer = client.take_over(&name).await.unwrap();
    for n in 0..100_u64 {
        assert_eq!(writer.append(&n.to_le_bytes()[..]).await.unwrap(), Offset(n));
    }
    // As when the process ends: nobody closes the writer.
    drop((writer, client));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (record, state) = records(&fixture, log).await;
        if record.holder.is_none() {
            assert_eq!((record.epoch, record.next_base, record.next_segment.0), (Epoch(2), Offset(100), 1));
            assert_ne!(state, SegmentState::Open);
            break;
        }
        assert!(Instant::now() < deadline, "{record:?}");
        sleep(Duration::from_millis(20)).await;
    }
    for node in &nodes {
        eventually("nothing of it is left here", || node.core.logs.all().is_empty()).await;
        assert_eq!(node.core.logs.fences(), 1, "but the fence");
    }
    let client = Client::connect(options()).await.unwrap();
    let mut reader = client.read(&name, Start::Offset(Offset(0)), ReadOptions::default()).await.unwrap();
    let mut count = 0_u64;
    while let Some(entry) = reader.next().await.transpose().unwrap() {
        assert_eq!(&entry.payload[..], count.to_le_bytes());
        count += 1;
    }
    assert_eq!(count, 100);
    drop((reader, client));
    unguarded(guards).await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_only_one_node_misses_is_left_alone() {
    let fixture = Fixture::new();
    let nodes = three(&fixture).await;
    let writer = written(&fixture, &nodes).await;
    let [a, b, c] = &nodes;
    let sessions = [(b, writer.open(&b.core).await), (c, writer.open(&c.core).await)];
    let place = (writer.log, writer.number, Epoch(1));
    for (node, session) in sessions {
        let refused = attempt(&a.core, &a.peers, place, Span(0)).await.unwrap_err();
        assert!(matches!(&refused, NotRecovered::NotNow(why) if why.contains("another member")), "{refused}");
        node.core.logs.get(writer.log).unwrap().lock().replica.close(session, writer.number);
    }
    let (record, state) = records(&fixture, writer.log).await;
    assert_eq!((record.epoch, state), (Epoch(1), SegmentState::Open), "nothing was changed");

    // It has left the others too, but not for long enough.
    let refused = attempt(&a.core, &a.peers, place, Span::secs(3600)).await.unwrap_err();
    assert!(matches!(&refused, NotRecovered::NotNow(why) if why.contains("not sure")), "{refused}");
    attempt(&a.core, &a.peers, place, Span(0)).await.unwrap();
    let (record, state) = records(&fixture, writer.log).await;
    assert_eq!((record.epoch, record.holder), (Epoch(2), None));
    assert!(matches!(state, SegmentState::Archived(_)), "it was empty: {state:?}");
    // Another member that saw the same a moment ago leaves it alone.
    let refused = attempt(&b.core, &b.peers, place, Span(0)).await.unwrap_err();
    assert!(matches!(&refused, NotRecovered::NotNow(_)), "{refused}");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_concludes_nothing() {
    let fixture = Fixture::new();
    let nodes = three(&fixture).await;
    let writer = written(&fixture, &nodes).await;
    let [a, b, c] = nodes;
    stop([b, c]).await;
    let refused =
        attempt(&a.core, &a.peers, (writer.log, writer.number, Epoch(1)), Span(0)).await.unwrap_err();
    assert!(matches!(&refused, NotRecovered::NotNow(why) if why.contains("not sure")), "{refused}");
    assert_eq!(records(&fixture, writer.log).await.0.epoch, Epoch(1));
    stop([a]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_does_not_wait_for_a_writer_that_has_gone() {
    let fixture = Fixture::new();
    let nodes = three(&fixture).await;
    let mut writer = written(&fixture, &nodes).await;
    let mut sessions = Vec::new();
    for node in &nodes {
        sessions.push((&*node.core, writer.open(&node.core).await));
    }
    // Nobody has heard that it is committed, so it is not archived while the segment is open.
    writer.append(&sessions, 1000);
    for (core, session) in sessions {
        core.logs.get(writer.log).unwrap().lock().replica.close(session, writer.number);
    }
    let guard = guarded(&nodes[0], Span::millis(100));
    nodes[0].core.start_draining();
    eventually("everything is archived", || nodes[0].core.unarchived().is_empty()).await;
    unguarded([guard]).await;
    assert!(matches!(records(&fixture, writer.log).await.1, SegmentState::Archived(_)));
    stop(nodes).await;
}

#[tokio::test]
async fn a_segment_is_a_candidate_while_nobody_appends_or_repairs() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let log = core.refresh_log(writer.log).await.unwrap().unwrap();
    let seen = |now: Time| {
        let mut open = BTreeSet::new();
        let found = candidate(&core, &log, now, &mut open);
        assert!(open.len() == 1, "it is open");
        found
    };
    let never = seen(core.clock.now()).expect("its writer has not come");
    assert_eq!((never.segment, never.epoch), (writer.number, Epoch(1)));
    let session = writer.open(&core).await;
    assert_eq!(seen(core.clock.now()), None);
    log.lock().replica.close(session, writer.number);
    let gone = seen(core.clock.now()).expect("its writer has gone");
    assert!(gone.since > never.since, "counted from when it went");
    // It starts over when the epoch moves.
    writer.take_over().await;
    core.refresh_log(writer.log).await.unwrap();
    let moved = seen(core.clock.now()).expect("nobody has come");
    assert!(moved.since > gone.since && moved.epoch == Epoch(2), "{moved:?}");
    let at = Address { log: log.id, segment: writer.number, epoch: Epoch(2), incarnation: memory(&core) };
    log.lock().replica.open(&Open { at, repair: true }).unwrap();
    assert_eq!(seen(core.clock.now()), None, "a takeover repairs");
    assert_ne!(never.rank, {
        let place = writer.log.0.to_le_bytes();
        rank(&other.id, [&core.id, &other.id].into_iter(), &place)
    });
}

/// The reply to its roll was lost: it does not know of the next segment yet, and is there.
#[tokio::test]
async fn a_writer_that_still_streams_the_segment_before_has_not_gone() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = writer.open(&core).await;
    writer.append(&[(&*core, session)], 100);
    let before = writer.number;
    let members = [(&*core, life), (&*other, other_life)];
    writer.roll(&members, Index(0), &members).await;
    let log = core.refresh_log(writer.log).await.unwrap().unwrap();
    let found = || candidate(&core, &log, core.clock.now(), &mut BTreeSet::new());
    assert_eq!(found(), None);
    assert_eq!(core.writer_seen(writer.log, writer.number).unwrap().gone_ms, None);
    log.lock().replica.close(session, before);
    assert_eq!(found().map(|found| found.segment), Some(writer.number), "now it has gone");
    assert!(core.writer_seen(writer.log, writer.number).unwrap().gone_ms.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sole_holder_took_with_it_is_given_up_by_those_who_are_left() {
    let fixture = Fixture::new();
    let nodes = three(&fixture).await;
    let mut writer = written(&fixture, &nodes).await;
    let [a, b, c] = nodes;
    let mut sessions = Vec::new();
    for node in [&a, &b, &c] {
        sessions.push((&*node.core, writer.open(&node.core).await));
    }
    writer.append(&sessions, 100);
    let end = writer.append(&sessions[2..], 100);
    for (core, session) in sessions {
        core.logs.get(writer.log).unwrap().lock().replica.close(session, writer.number);
    }
    writer.take_over().await;
    writer.seal_as_takeover(&[(&*c.core, c.life)]).await;
    // It goes before it has uploaded anything, and comes back without its buffer.
    let (id, key) = (c.core.id.clone(), Key::Incarnation(c.core.id.clone(), Level::Memory));
    stop([c]).await;
    let life = fixture.snapshot().await.incarnation(&key).unwrap();
    let (_, reborn) = next_life(&id, Level::Memory, Some(&life), Nonce(99));
    applied(&fixture.meta, &reborn).await;

    let guards = [&a, &b].map(|node| guarded(node, Span::millis(300)));
    let deadline = Instant::now() + Duration::from_secs(30);
    let segment = Key::Segment(writer.log, writer.number);
    let record = loop {
        let record = fixture.snapshot().await.segment(&segment).unwrap().value;
        if matches!(record.state, SegmentState::Archived(_)) {
            break record;
        }
        assert!(Instant::now() < deadline, "{record:?}");
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(record.loss, Some(Loss { from: Index(1), acknowledged: false, beyond: false }));
    assert_eq!(record.state.end().map(|at| at.end), Some(end));
    let row = fixture.snapshot().await.row(writer.log, writer.number).unwrap();
    let parts: Vec<_> = row.parts.iter().map(|(first, part)| (first.0, part.value.skip)).collect();
    assert_eq!(parts, [(0, false), (1, true)]);
    for node in [&a, &b] {
        eventually("nothing of it is left here", || used(&node.core) == 0).await;
    }

    let options = ClientOptions::new(a.core.config.advertise.clone(), fixture.identity("app"));
    let client = Client::connect(options).await.unwrap();
    let name = LogName::new("log-1").unwrap();
    let mut reader = client.read(&name, Start::Earliest, ReadOptions::default()).await.unwrap();
    assert!(matches!(reader.next_item().await, Some(Ok(Item::Entry(entry))) if entry.offset == Offset(0)));
    let skipped = reader.next_item().await.unwrap().unwrap();
    assert_eq!(skipped, Item::Skipped { from: Offset(1), to: Offset(2) });
    assert!(reader.next_item().await.is_none());
    drop((reader, client));
    unguarded(guards).await;
    stop([a, b]).await;
}
