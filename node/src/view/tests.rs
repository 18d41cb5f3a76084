use super::*;
use crate::fixture::{Fixture, Writer, applied, eventually, memory};
use piculet_quorum::ids::{Chain, Epoch, Incarnation, Level, NodeId, Offset, Timestamp};
use piculet_quorum::meta::{ConfigRecord, Member, PartRow, SegmentEnd, SegmentState, Txn, Write};
use piculet_quorum::wire::message::Address;
use std::sync::Arc;
use tokio::task::JoinHandle;

fn following(core: &Arc<Core>) -> JoinHandle<ViewError> {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        match follow(&core).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    })
}

fn segment(members: &[Member], state: SegmentState) -> SegmentRecord {
    SegmentRecord {
        epoch: Epoch(1),
        base: Offset(0),
        base_chain: Chain(0),
        base_timestamp: Timestamp(0),
        level: Level::Memory,
        ensemble: members.to_vec(),
        state,
        loss: None,
    }
}

fn end(end: u64) -> SegmentEnd {
    SegmentEnd { end: Index(end), chain: Chain(u128::from(end)), last_timestamp: Timestamp(1) }
}

fn part(to: u64) -> Record {
    Record::Part(PartRecord { at: end(to), bytes: 1, encoder: 1, skip: false })
}

fn held(core: &Core, log: u64) -> Vec<(u64, u64)> {
    let Some(log) = core.logs.get(LogId(log)) else { return vec![] };
    let state = log.lock();
    state.segments.iter().map(|(number, local)| (number.0, local.row.archived().0)).collect()
}

#[tokio::test]
async fn only_what_concerns_the_node_is_kept() {
    let fixture = Fixture::new();
    let (core, _) = fixture.core("a").await;
    let stranger = Member { node: NodeId::new("z").unwrap(), incarnation: Incarnation(1) };
    let earlier = Member { incarnation: Incarnation(memory(&core).0 + 1), ..core.member(Level::Memory) };
    let key = |log: u64, n: u64| Key::Segment(LogId(log), SegmentNumber(n));
    let put = |key: Key, record| Txn::default().put(key, record);
    let open = |members: &[Member]| Record::Segment(segment(members, SegmentState::Open));
    for (log, members) in
        [(1, [core.member(Level::Memory), stranger.clone()]), (2, [stranger.clone(), earlier])]
    {
        applied(&fixture.meta, &put(key(log, 0), open(&members))).await;
    }
    let done = SegmentState::Archived(end(0));
    let archived = Record::Segment(segment(&[core.member(Level::Memory), stranger.clone()], done));
    applied(&fixture.meta, &put(key(3, 0), archived)).await;
    let view = following(&core);
    eventually("the first snapshot is taken in", || core.readiness.missing().len() == 2).await;
    assert_eq!((held(&core, 1), core.logs.all().len()), (vec![(0, 0)], 1));

    // New segments, parts with and without the record, elections.
    applied(&fixture.meta, &put(key(1, 1), open(&[core.member(Level::Memory), stranger.clone()]))).await;
    let parts = |n, first, to| put(Key::Part(LogId(1), SegmentNumber(n), Index(first)), part(to));
    applied(&fixture.meta, &parts(0, 0, 5)).await;
    applied(&fixture.meta, &parts(0, 5, 7)).await;
    eventually("the parts are known", || held(&core, 1) == [(0, 7), (1, 0)]).await;
    applied(&fixture.meta, &put(key(4, 0), open(std::slice::from_ref(&stranger)))).await;
    let done =
        Record::Segment(segment(&[core.member(Level::Memory), stranger], SegmentState::Archived(end(9))));
    applied(&fixture.meta, &parts(0, 7, 9).put(key(1, 0), done)).await;
    eventually("the archived segment is dropped", || held(&core, 1) == [(1, 0)]).await;
    let mut delete = Txn::default();
    delete.writes.push(Write::Delete(key(1, 1)));
    let at = applied(&fixture.meta, &delete).await;
    eventually("the deleted segment is dropped", || held(&core, 1).is_empty()).await;
    eventually("everything is applied", || core.applied() >= StoreRevision(at.0)).await;
    assert_eq!(core.logs.all().len(), 1, "other logs leave no trace");
    view.abort();
}

#[tokio::test]
async fn a_part_that_does_not_connect_makes_the_segment_be_read_again() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let key = |first| Key::Part(writer.log, writer.number, Index(first));
    applied(&fixture.meta, &Txn::default().put(key(0), part(4))).await;
    core.refresh_log(writer.log).await.unwrap();
    assert_eq!(held(&core, 1), [(0, 4)]);
    let gap = applied(&fixture.meta, &Txn::default().put(key(6), part(9))).await;
    let change = vec![(key(6), Some(Versioned { revision: gap, value: part(9) }))];
    let again = changed(&core, StoreRevision(gap.0), change).unwrap();
    assert_eq!(again, [(writer.log, writer.number)]);
    applied(&fixture.meta, &Txn::default().put(key(4), part(6))).await;
    core.refresh_segment(writer.log, writer.number).await.unwrap();
    assert_eq!(held(&core, 1), [(0, 9)]);
}

#[tokio::test]
async fn what_is_older_than_what_is_known_brings_nothing_back() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let old = fixture.snapshot().await;
    core.learn_everything(&old);
    assert_eq!(held(&core, 1), [(0, 0)]);
    // A snapshot that is older than what a read has shown does not make a segment disappear.
    let gone = StoreRevision(old.at.0 + 5);
    let key = Key::Segment(writer.log, writer.number);
    let record = old.segment(&key).unwrap();
    core.learn_segment(gone, writer.log, writer.number, &record, PartRow::default());
    let mut empty = old.clone();
    empty.records.remove(&key);
    empty.at = StoreRevision(gone.0 - 1);
    core.learn_everything(&empty);
    core.forget_segment(empty.at, writer.log, writer.number);
    assert_eq!(held(&core, 1), [(0, 0)]);
    empty.at = gone;
    core.learn_everything(&empty);
    assert_eq!(held(&core, 1), []);

    // The watch is behind the read that showed that it is gone, and shows it once more.
    core.learn_everything(&old);
    core.set_applied(old.at);
    assert_eq!(held(&core, 1), []);
    core.set_applied(gone);
    core.learn_segments(&old);
    assert_eq!(held(&core, 1), []);
}

#[tokio::test]
async fn a_second_start_under_one_name_stops_the_first() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let view = following(&core);
    eventually("the first snapshot is taken in", || core.readiness.missing().len() == 2).await;
    let second = fixture.displace(&core).await;
    let error = view.await.unwrap();
    assert!(matches!(error, ViewError::Life(MembershipError::NameTwice { .. })), "{error}");
    assert!(error.to_string().contains("name a is used twice"), "{error}");
    // Whoever starts to watch after that sees it as well.
    let late = following(&core).await.unwrap();
    assert!(matches!(late, ViewError::Life(MembershipError::NameTwice { .. })), "{late}");
    assert_eq!(second.incarnation, life.incarnation.plus(1));
}

#[tokio::test]
async fn metadata_that_went_back_or_were_rebuilt_stop_the_node() {
    let fixture = Fixture::new();
    let (core, _) = fixture.core("a").await;
    let snapshot = fixture.snapshot().await;
    let mut rebuilt = snapshot.clone();
    rebuilt.records.remove(&Key::Cluster);
    let error = reset(&core, &rebuilt).await.unwrap_err();
    assert!(matches!(error, ViewError::Cluster { found: None, .. }), "{error}");
    reset(&core, &snapshot).await.unwrap();
    core.set_applied(StoreRevision(snapshot.at.0 + 1));
    let error = reset(&core, &snapshot).await.unwrap_err();
    assert!(matches!(error, ViewError::WentBack { .. }), "{error}");
    let gone = changed(
        &core,
        StoreRevision(snapshot.at.0 + 2),
        vec![(Key::Incarnation(core.id.clone(), Level::Memory), None)],
    );
    assert!(matches!(gone, Err(ViewError::Life(_))));
}

#[tokio::test]
async fn a_log_in_an_older_epoch_than_its_fence_stops_the_node_and_a_late_snapshot_does_not() {
    let fixture = Fixture::new();
    let ((core, life), (other, other_life)) = (fixture.core("a").await, fixture.core("b").await);
    let writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let before = fixture.snapshot().await;
    writer.take_over().await;
    let slot = core.refresh_log(writer.log).await.unwrap().expect("the log is there");
    let (log, segment, incarnation) = (writer.log, writer.number, memory(&core));
    slot.lock().replica.fence(&Address { log, segment, epoch: Epoch(2), incarnation }).unwrap();
    // Read before the takeover, and taken in after its fence.
    reset(&core, &before).await.unwrap();
    reset(&core, &fixture.snapshot().await).await.unwrap();

    fixture.restore_epoch(writer.log, Epoch(1)).await;
    let error = reset(&core, &fixture.snapshot().await).await.unwrap_err();
    let expected = ViewError::Fenced { log, fence: Epoch(2), found: Epoch(1) };
    assert_eq!(error.to_string(), expected.to_string());
}

#[tokio::test]
async fn a_damaged_record_of_a_segment_holds_up_nothing_else() {
    let fixture = Fixture::new();
    let ((core, life), (other, other_life)) = (fixture.core("a").await, fixture.core("b").await);
    let members = [(&*core, life), (&*other, other_life)];
    let writer = Writer::create(&fixture.meta, 1, &members).await;
    let sound = Writer::create(&fixture.meta, 2, &members).await;
    let view = following(&core);
    eventually("the first snapshot is taken in", || core.readiness.missing().len() == 2).await;
    let key = Key::Segment(writer.log, writer.number);
    let known = fixture.snapshot().await.segment(&key).unwrap().value;
    let put = |record: &SegmentRecord| Txn::default().put(key.clone(), Record::Segment(record.clone()));
    let mine = core.member(Level::Memory);
    let (mut parts, mut archived) = (Key::Part(sound.log, sound.number, Index(0)), 0);
    for ensemble in [vec![], vec![mine.clone()], vec![mine.clone(), mine]] {
        applied(&fixture.meta, &put(&SegmentRecord { ensemble, ..known.clone() })).await;
        archived += 3;
        let next = Key::Part(sound.log, sound.number, Index(archived));
        applied(&fixture.meta, &Txn::default().put(std::mem::replace(&mut parts, next), part(archived)))
            .await;
        eventually("the other log goes on", || held(&core, 2) == [(0, archived)]).await;
        core.learn_everything(&fixture.snapshot().await);
        core.refresh_segment(writer.log, writer.number).await.unwrap();
        let slot = core.logs.get(writer.log).expect("the log is there");
        assert_eq!(
            slot.lock().replica.record(writer.number),
            Some(&known),
            "and the segment stays as it was"
        );
    }
    // An end below what is archived frees nothing and drops nothing either.
    applied(&fixture.meta, &put(&known).put(Key::Part(writer.log, writer.number, Index(0)), part(5))).await;
    eventually("the record is as it was", || held(&core, 1) == [(0, 5)]).await;
    let state = SegmentState::Archived(end(4));
    let at = applied(&fixture.meta, &put(&SegmentRecord { state, ..known.clone() })).await;
    eventually("it has been seen", || core.applied() >= StoreRevision(at.0)).await;
    assert_eq!(held(&core, 1), [(0, 5)]);
    let state = SegmentState::Archived(end(5));
    applied(&fixture.meta, &put(&SegmentRecord { state, ..known })).await;
    eventually("what is sound is believed", || held(&core, 1).is_empty()).await;
    view.abort();
}

#[tokio::test]
async fn the_view_shows_which_logs_have_producers() {
    let fixture = Fixture::new();
    let ((core, life), (other, other_life)) = (fixture.core("a").await, fixture.core("b").await);
    let members = [(&*core, life), (&*other, other_life)];
    let known = || core.producers.lock().iter().map(|log| log.0).collect::<Vec<_>>();
    let let_in = |log: u64| {
        let key = Key::Config(LogId(log));
        Txn::default().put(key, Record::Config(ConfigRecord { producers: true, ..ConfigRecord::default() }))
    };
    for log in 1..4 {
        Writer::create(&fixture.meta, log, &members).await;
    }
    applied(&fixture.meta, &let_in(1)).await;
    let view = following(&core);
    eventually("it is in the first snapshot", || known() == [1]).await;
    applied(&fixture.meta, &let_in(3)).await;
    eventually("it is seen", || known() == [1, 3]).await;
    let mut gone = Txn::default();
    gone.writes.push(Write::Delete(Key::Config(LogId(1))));
    applied(&fixture.meta, &gone).await;
    eventually("it has gone with its log", || known() == [3]).await;
    view.abort();
}
