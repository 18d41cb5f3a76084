use super::*;
use crate::core::Core;
use crate::fixture::{Fixture, Writer, applied, eventually, memory, used};
use crate::membership::Life;
use crate::server::control;
use piculet_quorum::batch::{BatchBuilder, BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Timestamp};
use piculet_quorum::meta::{ConfigRecord, Key, Record, Txn};
use piculet_quorum::producers::{Producer, ProducerId};
use piculet_quorum::replica::Unanswered;
use piculet_quorum::wire::message::{Address, FenceOk, Refused, Request, Response};
use piculet_storage::journal::simulated::SimulatedDisk;
use tokio::runtime::Handle;

const PEER: &str = "app at 127.0.0.1:9";

/// What the streams of a node share, with a log of two members that nobody has written to.
async fn shared(fixture: &Fixture) -> (Shared, [(Arc<Core>, Life); 2], Writer) {
    let (a, b) = (fixture.core("a").await, fixture.core("b").await);
    let writer = Writer::create(&fixture.meta, 1, &[(&*a.0, a.1), (&*b.0, b.1)]).await;
    a.0.refresh_log(writer.log).await.unwrap();
    let (core, peers) = (Arc::clone(&a.0), fixture.peers(&a.0));
    (Shared { core, peers, background: Handle::current(), full: Arc::default() }, [a, b], writer)
}

fn open(core: &Core, writer: &Writer) -> Open {
    let (log, segment, incarnation) = (writer.log, writer.number, memory(core));
    Open { at: Address { log, segment, epoch: Epoch(1), incarnation }, repair: false }
}

/// The refusals that the stream would send.
fn refusals(stream: &mut Appends<'_>) -> Vec<Refused> {
    let mut out = stream.out.split().freeze();
    let mut refused = Vec::new();
    while !out.is_empty() {
        let prefix = out.split_to(PREFIX_BYTES);
        let (kind, len) = frame::parse_prefix(prefix.first_chunk().unwrap()).unwrap();
        let body = out.split_to(len);
        if kind == Kind::Refused {
            refused.push(codec::decode(&body).unwrap());
        }
    }
    refused
}

/// For how long the segment has been without a writer, and who that was.
fn sight(core: &Core, writer: &Writer) -> (bool, Option<String>) {
    let seen = core.writer_seen(writer.log, writer.number).unwrap();
    assert_eq!((seen.incarnation, seen.epoch), (memory(core), Epoch(1)));
    (seen.gone_ms.is_some(), seen.peer)
}

#[tokio::test]
async fn a_member_knows_whether_the_writer_is_there_and_who_it_was() {
    let fixture = Fixture::new();
    let (shared, _others, writer) = shared(&fixture).await;
    let core = &shared.core;
    assert_eq!(sight(core, &writer), (true, None), "it has not come yet");
    let mut first = Appends::new(&shared, writer.log, "first");
    first.try_open(&open(core, &writer)).unwrap();
    assert_eq!(sight(core, &writer), (false, Some("first".to_owned())));
    let mut second = Appends::new(&shared, writer.log, PEER);
    second.try_open(&open(core, &writer)).unwrap();
    // The end of a stream that another has superseded says nothing of the writer.
    drop(first);
    assert_eq!(sight(core, &writer), (false, Some(PEER.to_owned())));
    // As when the connection is lost: nobody closes the stream.
    drop(second);
    assert_eq!(sight(core, &writer), (true, Some(PEER.to_owned())));
    assert_eq!(core.writer_seen(LogId(9), writer.number).unwrap_err(), Refusal::NotHere);
}

#[tokio::test]
async fn a_repair_is_no_writer_and_a_fence_ends_one() {
    let fixture = Fixture::new();
    let (shared, _others, writer) = shared(&fixture).await;
    let core = &shared.core;
    let mut stream = Appends::new(&shared, writer.log, PEER);
    stream.try_open(&open(core, &writer)).unwrap();
    writer.take_over().await;
    core.refresh_log(writer.log).await.unwrap();
    let at = Address { epoch: Epoch(2), ..open(core, &writer).at };
    let mut repair = Appends::new(&shared, writer.log, "a takeover");
    repair.try_open(&Open { at, repair: true }).unwrap();
    let seen = core.writer_seen(writer.log, writer.number).unwrap();
    assert_eq!((seen.gone_ms.is_some(), seen.epoch), (true, Epoch(2)));
    assert_eq!(seen.peer.as_deref(), Some(PEER), "the one that repairs is not the writer");
    stream.look();
    let refused = refusals(&mut stream);
    assert!(
        matches!(&refused[..], [Refused { why: Refusal::Fenced { epoch: Epoch(2) }, .. }]),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_stream_forgets_the_segments_that_are_archived() {
    let fixture = Fixture::new();
    let (shared, [a, b], mut writer) = shared(&fixture).await;
    let core = &shared.core;
    let members = [(&*a.0, a.1), (&*b.0, b.1)];
    let mut stream = Appends::new(&shared, writer.log, PEER);
    for number in 0..5 {
        if number > 0 {
            // Empty: it is archived at once.
            writer.roll(&members, Index(0), &members).await;
            core.refresh_log(writer.log).await.unwrap();
        }
        stream.try_open(&open(core, &writer)).unwrap();
        stream.look();
        let sessions: Vec<u64> = stream.sessions.keys().map(|segment| segment.0).collect();
        assert_eq!(sessions, [number]);
    }
    assert_eq!(refusals(&mut stream), [], "all is well");
}

#[tokio::test]
async fn a_stream_is_told_that_its_log_was_deleted() {
    let fixture = Fixture::new();
    let (shared, _others, writer) = shared(&fixture).await;
    let core = &shared.core;
    let mut stream = Appends::new(&shared, writer.log, PEER);
    stream.open(&open(core, &writer)).await;
    assert_eq!(refusals(&mut stream), []);
    writer.delete(Timestamp(5)).await;
    core.refresh_log(writer.log).await.unwrap();
    stream.look();
    let deleted = Refused { segment: writer.number, why: Refusal::Deleted };
    assert_eq!(refusals(&mut stream), std::slice::from_ref(&deleted));
    stream.open(&open(core, &writer)).await;
    assert_eq!(refusals(&mut stream), std::slice::from_ref(&deleted));
    assert_eq!(core.writer_seen(writer.log, writer.number).unwrap_err(), Refusal::Deleted);
    drop(stream);

    // The same when nothing of it is left here.
    core.set_applied(fixture.snapshot().await.at);
    core.logs.sweep(core.applied());
    let mut stream = Appends::new(&shared, writer.log, PEER);
    assert_eq!(stream.try_open(&open(core, &writer)).map(|_| ()), Err(Unanswered::NeedMetadata));
    stream.open(&open(core, &writer)).await;
    assert_eq!(refusals(&mut stream), [deleted]);
}

/// An append of a batch at the start of the segment: one entry without a producer, and one with it.
fn entries(writer: &Writer, producer: Option<u64>) -> Bytes {
    let place = place(writer);
    let before = BatchEnd { chain: Chain(0), last_timestamp: Timestamp(0) };
    let (mut builder, mut body) = (BatchBuilder::new(before), Vec::new());
    builder.push(&[], &[7; 3000], Timestamp(1), &mut body);
    let producer = producer.map(|id| Producer { id: ProducerId::new(id).unwrap(), sequence: 1 });
    builder.push_of(producer.as_ref(), &[], &[8; 3000], Timestamp(1), &mut body);
    let header = builder.header(Index(0), body.len());
    let head = frame::append_head(&place, Index(0), header.bytes());
    [&head[..], &header.encode(&place), &body].concat().into()
}

/// Opens the segment and appends, the bytes coming in pieces.
async fn try_append(stream: &mut Appends<'_>, writer: &Writer, append: &Bytes) -> Vec<Refusal> {
    let core = Arc::clone(&stream.shared.core);
    stream.open(&open(&core, writer)).await;
    for piece in append.chunks(1000) {
        stream.take(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    refusals(stream).into_iter().map(|refused| refused.why).collect()
}

fn tail(core: &Core, writer: &Writer) -> (Index, Index) {
    let slot = core.logs.get(writer.log).unwrap();
    let state = slot.lock();
    let local = &state.segments[&writer.number];
    (state.replica.marks(writer.number).unwrap().tail, local.buffer.tail())
}

/// As a node does for a writer before that sends the first entry of a producer.
async fn let_producers_in(fixture: &Fixture, log: LogId) {
    let key = Key::Config(log);
    let read = fixture.snapshot().await.config(&key).unwrap();
    let config = Record::Config(ConfigRecord { producers: true, ..read.value });
    applied(&fixture.meta, &Txn::default().when(key.clone(), read.revision).put(key, config)).await;
}

#[tokio::test]
async fn an_entry_of_a_producer_is_refused_in_a_log_whose_settings_have_none() {
    let fixture = Fixture::new();
    let (shared, _others, writer) = shared(&fixture).await;
    let mut stream = Appends::new(&shared, writer.log, PEER);
    let of_producer = entries(&writer, Some(5));
    for _ in 0..2 {
        // The settings are read before it is refused for good, whatever was read before.
        let refused = try_append(&mut stream, &writer, &of_producer).await;
        assert!(matches!(&refused[..], [Refusal::Unavailable(why)] if why.contains("log 1 ")), "{refused:?}");
        let refused = try_append(&mut stream, &writer, &of_producer).await;
        assert!(matches!(&refused[..], [Refusal::Invalid(why)] if why.contains("log 1,")), "{refused:?}");
        assert_eq!(tail(&shared.core, &writer), (Index(0), Index(0)), "nothing of it is kept");
    }
    assert_eq!(try_append(&mut stream, &writer, &entries(&writer, None)).await, []);
    assert_eq!(tail(&shared.core, &writer), (Index(2), Index(2)), "others are taken");
}

#[tokio::test]
async fn an_entry_of_a_producer_is_taken_once_the_settings_are_known_to_allow_it() {
    let fixture = Fixture::new();
    let (shared, _others, writer) = shared(&fixture).await;
    let of_producer = entries(&writer, Some(5));
    let_producers_in(&fixture, writer.log).await;
    // The node's watch has not shown that yet, so it is read.
    let mut stream = Appends::new(&shared, writer.log, PEER);
    let refused = try_append(&mut stream, &writer, &of_producer).await;
    assert!(matches!(&refused[..], [Refusal::Unavailable(_)]), "{refused:?}");
    assert_eq!(try_append(&mut stream, &writer, &of_producer).await, []);
    assert_eq!(tail(&shared.core, &writer), (Index(2), Index(2)));
    drop(stream);

    // At a node whose watch has shown it nothing need be read.
    let fixture = Fixture::new();
    let (shared, _others, writer) = self::shared(&fixture).await;
    shared.core.learn_config(writer.log, &ConfigRecord { producers: true, ..ConfigRecord::default() });
    let mut stream = Appends::new(&shared, writer.log, PEER);
    assert_eq!(try_append(&mut stream, &writer, &entries(&writer, Some(5))).await, []);
    assert_eq!(tail(&shared.core, &writer), (Index(2), Index(2)));
}

/// A batch of one entry, the first of the segment.
fn batch(place: &Place, payload: &[u8]) -> Vec<u8> {
    let (mut builder, mut body) =
        (BatchBuilder::new(BatchEnd { chain: Chain(0), last_timestamp: Timestamp(0) }), Vec::new());
    builder.push(&[], payload, Timestamp(1), &mut body);
    [&builder.header(Index(0), body.len()).encode(place)[..], &body].concat()
}

/// The frame that carries a batch.
fn append(place: &Place, batch: &[u8]) -> Bytes {
    [&frame::append_head(place, Index(0), batch.len())[..], batch].concat().into()
}

fn place(writer: &Writer) -> Place {
    Place { log: writer.log, segment: writer.number, epoch: Epoch(1) }
}

/// All that a node has of the segment, and up to where.
fn stored(core: &Core, writer: &Writer) -> (Index, Vec<u8>) {
    let slot = core.logs.get(writer.log).unwrap();
    let state = slot.lock();
    let buffer = &state.segments[&writer.number].buffer;
    let run = buffer.read(Index(0), buffer.tail(), usize::MAX);
    (state.replica.marks(writer.number).unwrap().tail, run.map_or_else(Vec::new, |run| run.pieces.concat()))
}

#[tokio::test]
async fn the_rest_of_a_batch_is_refused_when_another_stream_or_a_fence_came_between() {
    for fenced in [false, true] {
        let fixture = Fixture::new();
        let (shared, _others, writer) = shared(&fixture).await;
        let (core, segment) = (&shared.core, writer.number);
        let [first, second] = [1, 2].map(|byte| batch(&place(&writer), &[byte; 3000]));
        let [said, other] = [&first, &second].map(|batch| append(&place(&writer), batch));
        let mut old = Appends::new(&shared, writer.log, "old");
        old.open(&open(core, &writer)).await;
        old.take(said.slice(..1500)).await.unwrap();
        assert_ne!(used(core), 0, "half of it is staged");
        let mut at = open(core, &writer).at;
        if fenced {
            writer.take_over().await;
            at.epoch = Epoch(2);
            let answer = control::answer(&shared, Request::Fence(at)).await;
            let empty = matches!(answer, Ok(Response::Fenced(FenceOk { tail: Index(0), .. })));
            assert!(empty, "{answer:?}");
            assert_eq!(used(core), 0, "what an older epoch was about to append is not here");
        }
        let mut new = Appends::new(&shared, writer.log, PEER);
        new.open(&Open { at, repair: fenced }).await;
        // Byte for byte: what the old stream sends would be of the length that the new one's lacks.
        new.take(other.slice(..1500)).await.unwrap();
        old.take(said.slice(1500..2500)).await.unwrap();
        new.take(other.slice(1500..2000)).await.unwrap();
        old.take(said.slice(2500..)).await.unwrap();
        new.take(other.slice(2000..)).await.unwrap();
        let why = if fenced { Refusal::Fenced { epoch: Epoch(2) } } else { Refusal::Superseded };
        assert_eq!(refusals(&mut old), [Refused { segment, why }]);
        assert_eq!(refusals(&mut new), []);
        assert!(
            stored(core, &writer) == (Index(1), second),
            "fenced {fenced}: the new stream's, and nothing else"
        );
    }
}

#[tokio::test]
async fn a_batch_that_is_not_what_its_frame_says_is_refused_and_the_stream_goes_on() {
    let fixture = Fixture::new();
    let (shared, others, writer) = shared(&fixture).await;
    let (core, segment) = (&shared.core, writer.number);
    let members = [(&*others[0].0, others[0].1), (&*others[1].0, others[1].1)];
    let another = Writer::create(&fixture.meta, 2, &members).await;
    core.refresh_log(another.log).await.unwrap();
    let sound = batch(&place(&writer), &[1; 3000]);
    let longer = [&sound[..], &[0; 40]].concat();
    let elsewhere = place(&another);
    let mut stream = Appends::new(&shared, writer.log, PEER);
    for (what, said) in [
        ("a batch and more", append(&place(&writer), &longer)),
        ("a batch of another log", append(&elsewhere, &batch(&elsewhere, &[2; 3000]))),
    ] {
        stream.open(&open(core, &writer)).await;
        for piece in [said.slice(..1000), said.slice(1000..)] {
            stream.take(piece).await.unwrap();
        }
        let refused = refusals(&mut stream);
        let lengths = |why: &Refusal| matches!(why, Refusal::Invalid(why) if why.contains("lengths"));
        assert!(
            matches!(&refused[..], [refused] if refused.segment == segment && lengths(&refused.why)),
            "{what}: {refused:?}"
        );
        assert_eq!(stored(core, &writer), (Index(0), vec![]), "{what}");
    }
    // The other log's segment has the number and epoch of this one's, and is not this one's.
    let open_other = frame::message(Kind::Open, &open(core, &another)).unwrap();
    stream.take(open_other.into()).await.unwrap();
    let refused = refusals(&mut stream);
    let of_the_other =
        |why: &Refusal| matches!(why, Refusal::Invalid(why) if why.contains("is for log 1, not 2"));
    assert!(matches!(&refused[..], [refused] if of_the_other(&refused.why)), "{refused:?}");
    assert_eq!(sight(core, &another), (true, None), "nobody has written there");

    stream.open(&open(core, &writer)).await;
    stream.take(append(&place(&writer), &sound)).await.unwrap();
    assert_eq!(refusals(&mut stream), []);
    assert!(stored(core, &writer) == (Index(1), sound));
}

/// Sends the next batch of the segment.
async fn append_next(stream: &mut Appends<'_>, writer: &mut Writer) {
    let from = writer.bytes.len();
    writer.append(&[], 1500);
    stream.take(append(&place(writer), &writer.bytes[from..])).await.unwrap();
    assert_eq!(refusals(stream), []);
}

#[tokio::test]
async fn a_restart_tells_what_the_writer_appended_from_what_was_repaired() {
    for level in [Level::Memory, Level::Disk] {
        let (fixture, disks) = (Fixture::new(), [SimulatedDisk::new(1), SimulatedDisk::new(2)]);
        let a = fixture.core_on(fixture.config("a"), &disks[0]).await;
        let b = fixture.core_on(fixture.config("b"), &disks[1]).await;
        let members = [&a, &b].map(|core| (&**core, core.life(level).unwrap()));
        let mut writer = Writer::create_at(level, &fixture.meta, 1, &members).await;
        let (log, number) = (writer.log, writer.number);
        let (core, peers) = (Arc::clone(&a), fixture.peers(&a));
        let shared = Shared { core, peers, background: Handle::current(), full: Arc::default() };
        let marks = |core: &Core| {
            core.count_synced(level);
            let slot = core.logs.get(log).expect("it is held");
            slot.lock().replica.marks(number).expect("it is held")
        };
        let (mut at, life) = (open(&a, &writer).at, a.incarnation(level).unwrap());
        at.incarnation = life;
        let mut stream = Appends::new(&shared, writer.log, PEER);
        stream.open(&Open { at, repair: false }).await;
        for _ in 0..2 {
            append_next(&mut stream, &mut writer).await;
        }
        eventually("it is at rest", || marks(&a).writer_tail == Index(2)).await;
        writer.take_over().await;
        at.epoch = Epoch(2);
        control::answer(&shared, Request::Fence(at)).await.unwrap();
        let mut repair = Appends::new(&shared, writer.log, "a takeover");
        repair.open(&Open { at, repair: true }).await;
        append_next(&mut repair, &mut writer).await;
        eventually("it is at rest", || marks(&a).held == Index(3)).await;
        assert_eq!(marks(&a).writer_tail, Index(2));

        drop((stream, repair));
        drop((shared, a));
        let a = fixture.core_on(fixture.config("a"), &disks[0]).await;
        assert_eq!(a.incarnation(level), Some(life));
        let after = marks(&a);
        assert_eq!((after.held, after.writer_tail), (Index(3), Index(2)), "{level}");
    }
}
