use super::*;
use crate::core::Core;
use crate::fixture::{Fixture, Writer, memory};
use crate::membership::Life;
use piculet_quorum::ids::{Epoch, Timestamp};
use piculet_quorum::replica::Unanswered;
use piculet_quorum::wire::message::{Address, Refused};
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
