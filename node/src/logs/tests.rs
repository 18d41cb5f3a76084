use super::*;
use crate::fixture::{Fixture, Writer, applied, memory, used};
use piculet_meta::Metadata;
use piculet_quorum::ids::Timestamp;
use piculet_quorum::meta::{Key, Record, Txn, Write};
use piculet_quorum::replica::Unanswered;
use piculet_quorum::wire::message::{Address, Open, Refusal};
use piculet_storage::Position;

fn open(core: &Core, writer: &Writer, epoch: u64) -> Open {
    let (log, segment, incarnation) = (writer.log, writer.number, memory(core));
    Open { at: Address { log, segment, epoch: Epoch(epoch), incarnation }, repair: false }
}

/// A log that is fenced in epoch 2, and whose only segment is archived, at the first of two nodes.
async fn fenced_and_archived(fixture: &Fixture, log: u64) -> (Arc<Core>, Writer) {
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let writer = Writer::create(&fixture.meta, log, &[(&*core, life), (&*other, other_life)]).await;
    writer.take_over().await;
    let slot = core.refresh_log(writer.log).await.unwrap().expect("the log is there");
    let fence = Address { epoch: Epoch(2), ..open(&core, &writer, 1).at };
    {
        let mut state = slot.lock();
        state.replica.fence(&fence).expect("the epoch is known");
        slot.fence_at(&core, &mut state).expect("the buffer takes it");
    }
    writer.seal_as_takeover(&[(&*core, life), (&*other, other_life)]).await;
    core.learn_everything(&fixture.snapshot().await);
    (core, writer)
}

#[tokio::test]
async fn a_log_without_segments_leaves_nothing_but_its_fence() {
    let fixture = Fixture::new();
    let (core, writer) = fenced_and_archived(&fixture, 1).await;
    let at = fixture.snapshot().await.at;
    let in_use = core.logs.get(writer.log).expect("it is in the table");
    assert!(in_use.lock().segments.is_empty());
    core.logs.sweep(at);
    assert!(core.logs.get(writer.log).is_some(), "somebody uses it");
    drop(in_use);
    core.logs.sweep(StoreRevision(at.0 - 1));
    assert!(core.logs.get(writer.log).is_some(), "the watch may still show the segment");
    core.logs.sweep(at);
    assert!(core.logs.get(writer.log).is_none() && core.logs.fences() == 1);

    core.set_applied(at);
    let back = core.refresh_log(writer.log).await.unwrap().expect("the log is there");
    let refused = back.lock().replica.open(&open(&core, &writer, 1)).map(|_| ());
    assert_eq!(refused, Err(Unanswered::Refused(Refusal::Fenced { epoch: Epoch(2) })));
    assert_eq!(core.logs.fences(), 0, "it is in one place only");
}

#[tokio::test]
async fn a_deleted_log_is_dropped_with_its_memory_and_its_fence() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = [(&*core, writer.open(&core).await)];
    writer.append(&session, 100 << 10);
    let before = fixture.snapshot().await;
    assert!(used(&core) > 0);

    writer.delete(Timestamp(5)).await;
    assert!(core.refresh_log(writer.log).await.unwrap().is_none());
    let slot = core.logs.get(writer.log).expect("until the watch has shown it");
    assert!(slot.lock().replica.deleted());
    assert_eq!(used(&core), 0, "nothing of it was archived");
    // Neither an older snapshot nor the records that are still there bring it back.
    let after = fixture.snapshot().await;
    core.learn_everything(&before);
    core.learn_everything(&after);
    core.refresh_segment(writer.log, writer.number).await.unwrap();
    assert!(slot.lock().segments.is_empty());
    drop(slot);

    core.set_applied(after.at);
    core.logs.sweep(after.at);
    assert!(core.logs.get(writer.log).is_none() && core.logs.fences() == 0);
    core.learn_segments(&after);
    assert!(core.logs.get(writer.log).is_none(), "the tombstone is in the snapshot");
}

#[tokio::test]
async fn metadata_that_went_back_delete_nothing() {
    let fixture = Fixture::new();
    let (core, life) = fixture.core("a").await;
    let (other, other_life) = fixture.core("b").await;
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = [(&*core, writer.open(&core).await)];
    writer.append(&session, 100 << 10);
    // Later than what a read of a restored backup shows, which lacks the log.
    core.set_applied(StoreRevision(1_000_000));
    let mut restored = Txn::default();
    restored.writes.push(Write::Delete(Key::Log(writer.log)));
    fixture.meta.commit(&restored).await.unwrap();
    assert!(core.refresh_log(writer.log).await.unwrap().is_none(), "it is not shown");
    assert!(used(&core) > 0, "and what is held stays");
}

#[tokio::test]
async fn the_fence_of_a_log_that_is_not_in_the_table_goes_with_its_tombstone() {
    let fixture = Fixture::new();
    let (core, writer) = fenced_and_archived(&fixture, 1).await;
    let at = fixture.snapshot().await.at;
    core.logs.sweep(at);
    core.set_applied(at);
    core.learn_everything(&fixture.snapshot().await);
    assert_eq!(core.logs.fences(), 1, "the log is there");
    writer.delete(Timestamp(5)).await;
    let now = fixture.snapshot().await;
    core.set_applied(now.at);
    core.learn_log(now.at, writer.log, &now.log(&Key::Log(writer.log)).unwrap().value);
    assert_eq!((core.logs.fences(), core.logs.all().len()), (0, 0));
}

#[test]
fn a_log_that_has_left_costs_a_few_tens_of_bytes() {
    let logs = Logs::default();
    for log in 0..10_000 {
        let fence = Fence { epoch: Epoch(1), at: Position::default() };
        logs.fences.lock().insert(LogId(log), fence);
    }
    // A slot, and one byte of control for each.
    let slot = size_of::<(LogId, Fence)>() + 1;
    let bytes = logs.fences.lock().capacity() * slot;
    assert!(bytes / logs.fences() <= 40, "{bytes} bytes for {} logs", logs.fences());
}

#[tokio::test]
async fn a_node_does_not_start_when_a_log_is_in_an_older_epoch_than_its_fence() {
    let fixture = Fixture::new();
    let (core, writer) = fenced_and_archived(&fixture, 1).await;
    drop(core);
    let (core, _) = fixture.core("a").await;
    assert_eq!(core.logs.fences(), 1, "the metadata have the epoch of the fence");
    drop(core);
    fixture.restore_epoch(writer.log, Epoch(1)).await;
    let why = fixture.core_fails("a").await;
    let expected = TakeUpError::Fenced { log: writer.log, fence: Epoch(2), recorded: Epoch(1) };
    assert_eq!(why.to_string(), expected.to_string());
}

#[tokio::test]
async fn a_node_does_not_start_when_a_segment_that_it_holds_has_a_damaged_record() {
    let fixture = Fixture::new();
    let ((core, life), (other, other_life)) = (fixture.core("a").await, fixture.core("b").await);
    let mut writer = Writer::create(&fixture.meta, 1, &[(&*core, life), (&*other, other_life)]).await;
    let session = writer.open(&core).await;
    writer.append(&[(&*core, session)], 100);
    drop(core);
    let key = Key::Segment(writer.log, writer.number);
    let sound = fixture.snapshot().await.segment(&key).unwrap().value;
    let put = |record: SegmentRecord| Txn::default().put(key.clone(), Record::Segment(record));
    // Without the check this would say that the segment is nobody's, and what is here be forgotten.
    applied(&fixture.meta, &put(SegmentRecord { ensemble: vec![], ..sound.clone() })).await;
    let why = fixture.core_fails("a").await.to_string();
    for expected in
        ["segment 0 of log 1 has 0 members", "seg/0000000000000001/00000000000000000000", "does not start"]
    {
        assert!(why.contains(expected), "{why}");
    }
    applied(&fixture.meta, &put(sound)).await;
    let (core, _) = fixture.core("a").await;
    let slot = core.logs.get(writer.log).expect("the log is there");
    let held = slot.lock().replica.marks(writer.number).map(|marks| marks.tail);
    assert_eq!(held, Some(writer.end()), "it is as it was");
}
