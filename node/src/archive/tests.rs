mod lost;
mod producers;

use super::*;
use crate::fixture::{Fixture, Lossy, Lost, Running, Writer, applied, eventually, used};
use crate::membership::Life;
use piculet_meta::Metadata;
use piculet_quorum::ids::{Chain, Index, Revision};
use piculet_quorum::meta::{FlushRecord, Key, Record, SegmentEnd, Txn, Write};

/// A node that runs, with the metadata store behind it.
async fn started(fixture: &Fixture, name: &str) -> (Arc<Core>, Life, Running) {
    let (core, life) = fixture.core(name).await;
    let running = Running::start(&core);
    (core, life, running)
}

async fn empty(core: &Core) {
    eventually("the buffer is empty", || used(core) == 0 && core.unarchived().is_empty()).await;
}

#[tokio::test]
async fn an_open_segment_is_uploaded_by_size_and_its_memory_freed() {
    let fixture = Fixture::new();
    let (core, life, running) = started(&fixture, "a").await;
    let (other, other_life) = fixture.core("b").await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = [(&*core, writer.open(&core).await)];
    for _ in 0..20 {
        writer.append(&session, 16 << 10);
        writer.commit(&session);
    }
    // The last of 64 KiB or more leaves less than that behind; five batches make a part each.
    eventually("less than a part is left", || used(&core) <= 2 * (64 << 10)).await;
    let left = writer.archived().await;
    assert!(left.0 >= Index(16) && left.1 == SegmentState::Open, "{left:?}");
    writer.append(&session, 64 << 10);
    writer.commit(&session);
    writer.until_archived().await;
    empty(&core).await;
    writer.check_objects(&core.objects).await;
    assert!(core.status().uploading == [(writer.log, writer.number)], "it keeps the role");
    running.stop().await;
    let flush = Key::Flush(writer.log, writer.number);
    assert!(!fixture.snapshot().await.records.contains_key(&flush), "the role goes with the lease");
}

#[tokio::test]
async fn nothing_beyond_commit_is_uploaded_while_a_segment_is_open() {
    let fixture = Fixture::new();
    let (core, life, running) = started(&fixture, "a").await;
    let (other, other_life) = fixture.core("b").await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = [(&*core, writer.open(&core).await)];
    let committed = writer.append(&session, 100 << 10);
    writer.commit(&session);
    writer.append(&session, 100 << 10);
    eventually("what is committed is uploaded", || {
        core.logs.get(writer.log).unwrap().lock().segments[&writer.number].row.archived() == committed
    })
    .await;
    for _ in 0..3 {
        core.archive_now.notify_one();
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    assert_eq!(writer.archived().await.0, committed);
    running.stop().await;
}

#[tokio::test]
async fn a_sealed_segment_is_archived_whole_and_dropped() {
    let fixture = Fixture::new();
    let (core, life, running) = started(&fixture, "a").await;
    let (other, other_life, other_running) = started(&fixture, "b").await;
    let members = [(&*core, life), (&*other, other_life)];
    let mut writer = Writer::create(&fixture.meta, 1, &members).await;
    let sessions = [(&*core, writer.open(&core).await), (&*other, writer.open(&other).await)];
    for _ in 0..10 {
        writer.append(&sessions, 20 << 10);
    }
    writer.commit(&sessions[..1]);
    writer.seal(&members, Index(0)).await;
    writer.until_archived().await;
    for core in [&core, &other] {
        empty(core).await;
        eventually("the segment is dropped", || {
            core.logs.get(writer.log).unwrap().lock().segments.is_empty()
        })
        .await;
    }
    assert!(matches!(writer.archived().await.1, SegmentState::Archived(at) if at.end == Index(10)));
    writer.check_objects(&core.objects).await;
    running.stop().await;
    other_running.stop().await;
}

#[tokio::test]
async fn another_member_takes_over_when_the_uploaders_lease_ends() {
    let fixture = Fixture::new();
    let (dead, dead_life) = fixture.core("a").await;
    let (core, life, running) = started(&fixture, "b").await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*dead, dead_life), (&*core, life)]).await;
    let lease = fixture.meta.grant(core.config.lease_ttl()).await.unwrap();
    let flush = Key::Flush(writer.log, writer.number);
    let mut stand = Txn::default().when(flush.clone(), Revision(0));
    let record = FlushRecord { uploader: dead.member(Level::Memory) };
    stand.writes.push(Write::PutLeased(flush.clone(), Record::Flush(record), lease.id()));
    applied(&fixture.meta, &stand).await;
    let session = [(&*core, writer.open(&core).await)];
    writer.append(&session, 100 << 10);
    writer.commit(&session);
    let uploader = || {
        let slot = core.logs.get(writer.log).unwrap();
        let state = slot.lock();
        state.segments[&writer.number].uploader.as_ref().map(|(uploader, _)| uploader.node.clone())
    };
    eventually("the dead uploader is known", || uploader() == Some(dead.id.clone())).await;
    core.archive_now.notify_one();
    assert_eq!(writer.archived().await.0, Index(0), "the role is somebody else's");
    fixture.meta.expire(lease.id());
    writer.until_archived().await;
    eventually("the role is taken over", || uploader() == Some(core.id.clone())).await;
    empty(&core).await;
    running.stop().await;
}

#[tokio::test]
async fn a_part_is_not_recorded_against_a_segment_that_was_sealed_meanwhile() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let members = [(&*core, life), (&*other, other_life)];
    let mut writer = Writer::create(&fixture.meta, 1, &members).await;
    let session = [(&*core, writer.open(&core).await)];
    let end = writer.append(&session, 100);
    writer.commit(&session);
    let slot = core.logs.get(writer.log).unwrap();
    let upload = Upload::plan(&core, &slot.lock().segments[&writer.number], Index(0), end).unwrap();
    writer.seal(&members, Index(0)).await;
    upload.run(&core, writer.log, writer.number).await.unwrap();
    assert_eq!(writer.archived().await.0, Index(0));
    assert!(matches!(slot.lock().segments[&writer.number].record.value.state, SegmentState::Sealed(_)));
    let again = Upload::plan(&core, &slot.lock().segments[&writer.number], Index(0), end).unwrap();
    again.run(&core, writer.log, writer.number).await.unwrap();
    assert!(matches!(writer.archived().await.1, SegmentState::Archived(_)));
    assert_eq!((slot.lock().segments.len(), used(&core)), (0, 0), "freed without a watch");
    writer.check_objects(&core.objects).await;
}

#[tokio::test]
async fn a_chain_that_differs_from_the_record_is_never_uploaded() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let members = [(&*core, life), (&*other, other_life)];
    let mut writer = Writer::create(&fixture.meta, 1, &members).await;
    let session = [(&*core, writer.open(&core).await)];
    let end = writer.append(&session, 100);
    let slot = core.logs.get(writer.log).unwrap();
    let mut upload = Upload::plan(&core, &slot.lock().segments[&writer.number], Index(0), end).unwrap();
    let SegmentEnd { last_timestamp, .. } = upload.record.value.start();
    upload.record.value.state = SegmentState::Archived(SegmentEnd { end, chain: Chain(1), last_timestamp });
    let error = upload.run(&core, writer.log, writer.number).await.unwrap_err();
    assert!(error.to_string().contains("chain"), "{error}");
    assert_eq!(writer.archived().await.0, Index(0));
    assert!(core.objects.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn uploads_go_on_when_the_store_works_again() {
    let fixture = Fixture::new();
    let (core, life, running) = started(&fixture, "a").await;
    let (other, other_life) = fixture.core("b").await;
    let members = [(&*core, life), (&*other, other_life)];
    let mut writer = Writer::create(&fixture.meta, 1, &members).await;
    let session = [(&*core, writer.open(&core).await)];
    std::fs::rename(fixture.objects(), fixture.objects().with_extension("away")).unwrap();
    std::fs::write(fixture.objects(), b"in the way").unwrap();
    writer.append(&session, 100 << 10);
    writer.commit(&session);
    eventually("an upload fails", || !core.store_health.is_up()).await;
    assert_eq!(writer.archived().await.0, Index(0));
    assert!(used(&core) > 0, "what is not archived is kept");
    std::fs::remove_file(fixture.objects()).unwrap();
    std::fs::rename(fixture.objects().with_extension("away"), fixture.objects()).unwrap();
    writer.until_archived().await;
    empty(&core).await;
    assert!(core.store_health.is_up());
    writer.check_objects(&core.objects).await;
    running.stop().await;
}

#[tokio::test]
async fn lost_requests_and_answers_change_nothing_in_the_end() {
    let fixture = Fixture::new();
    let lossy = Lossy { inner: fixture.meta.clone(), ..Lossy::default() };
    let (core, life) = fixture.core_with(fixture.config("a"), Arc::new(lossy.clone())).await;
    let (other, other_life) = fixture.core("b").await;
    let members = [(&*core, life), (&*other, other_life)];
    let mut writer = Writer::create(&fixture.meta, 1, &members).await;
    let session = [(&*core, writer.open(&core).await)];
    for _ in 0..6 {
        writer.append(&session, 70 << 10);
    }
    writer.commit(&session);
    let (answer, request) = (Some(Lost::Answer), Some(Lost::Request));
    lossy.lose([request, answer, answer, request, None, request, request, answer, None, answer]);
    let running = Running::start(&core);
    eventually("everything planned is lost", || lossy.plan.lock().is_empty()).await;
    writer.until_archived().await;
    lossy.lose([answer]);
    writer.seal(&members, writer.archived().await.0).await;
    empty(&core).await;
    eventually("the segment is dropped", || core.logs.get(writer.log).unwrap().lock().segments.is_empty())
        .await;
    writer.check_objects(&core.objects).await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_stops_or_is_full_archives_what_is_small() {
    let fixture = Fixture::new();
    let (core, life, running) = started(&fixture, "a").await;
    let (other, other_life) = fixture.core("b").await;
    let _registered = fixture.register(&other).await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = [(&*core, writer.open(&core).await)];
    writer.append(&session, 10);
    writer.commit(&session);
    assert_eq!(core.unarchived(), [(writer.log, writer.number)]);
    core.start_draining();
    writer.until_archived().await;
    empty(&core).await;
    running.stop().await;
}

#[test]
fn the_order_of_election_differs_from_segment_to_segment() {
    let node = |name: &str| NodeId::new(name).unwrap();
    let names = ["a", "b", "c"];
    let record = SegmentRecord {
        epoch: Default::default(),
        base: Default::default(),
        base_chain: Default::default(),
        base_timestamp: Default::default(),
        level: Default::default(),
        ensemble: names
            .map(|name| piculet_quorum::meta::Member { node: node(name), incarnation: Default::default() })
            .to_vec(),
        state: SegmentState::Open,
        loss: None,
    };
    let mut firsts = [0; 3];
    for segment in 0..300 {
        let ranks = names.map(|name| rank(&node(name), LogId(5), SegmentNumber(segment), &record));
        let mut sorted = ranks;
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2], "everybody has a place of its own");
        firsts[ranks.iter().position(|rank| *rank == 0).unwrap()] += 1;
    }
    assert!(firsts.iter().all(|times| *times > 50), "{firsts:?}");
}
