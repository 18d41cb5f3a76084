//! One test per rule of a node.

use super::*;
use crate::batch::BatchHeader;
use crate::ids::{Chain, Level, NodeId, Offset, Timestamp};
use crate::meta::{Member, Seal};
use crate::wire::message::{Address, Open};

const LOG: LogId = LogId(7);
const ZERO: SegmentNumber = SegmentNumber(0);

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

/// A segment of epoch 3.
fn record(state: SegmentState) -> SegmentRecord {
    SegmentRecord {
        epoch: Epoch(3),
        base: Offset(100),
        base_chain: chain(0),
        base_timestamp: Timestamp(0),
        level: Level::Memory,
        ensemble: ["a", "b", "c"].map(|n| Member { node: node(n), incarnation: Incarnation(1) }).to_vec(),
        state,
        loss: None,
    }
}

/// The chain before an index, in the only history that these tests know.
fn chain(index: u64) -> Chain {
    Chain(u128::from(index) + 1000)
}

fn at(end: u64) -> SegmentEnd {
    SegmentEnd { end: Index(end), chain: chain(end), last_timestamp: Timestamp(end) }
}

fn sealed(end: u64, settled: bool) -> SegmentState {
    SegmentState::Sealed(Seal { at: at(end), by_epoch: Epoch(4), holders: vec![node("a")], settled })
}

fn address(epoch: u64, incarnation: u64) -> Address {
    Address { log: LOG, segment: ZERO, epoch: Epoch(epoch), incarnation: Incarnation(incarnation) }
}

fn header(first: u64, count: u32) -> BatchHeader {
    BatchHeader { body_len: 24 * count, count, first: Index(first), chain: chain(first) }
}

fn after(header: &BatchHeader) -> BatchEnd {
    let end = header.end().0;
    BatchEnd { chain: chain(end), last_timestamp: Timestamp(end) }
}

/// A member that knows the segment, with the log in epoch `known`.
fn replica(known: u64) -> Replica {
    let mut replica = Replica::new(node("a"), Incarnation(1), LOG);
    let record = record(SegmentState::Open);
    assert_eq!(replica.learn_segment(ZERO, &record, record.start()), Learned::FreeBelow(Index(0)));
    replica.learn_log(Epoch(known));
    replica
}

fn open(replica: &mut Replica, epoch: u64, repair: bool) -> Result<(Session, u64), Unanswered> {
    let (session, opened) = replica.open(&Open { at: address(epoch, 1), repair })?;
    Ok((session, opened.tail.0))
}

fn store(replica: &mut Replica, session: Session, first: u64, count: u32) -> Result<(), Refusal> {
    let header = header(first, count);
    match replica.admit(session, ZERO, &header) {
        Admission::Store => replica.stored(session, ZERO, &header, after(&header)),
        Admission::Refuse(refusal) => Err(refusal),
        Admission::Repeat => panic!("{first} lies below the tail"),
    }
}

/// A member whose writer has appended two batches of five.
fn written(known: u64) -> (Replica, Session) {
    let mut replica = replica(known);
    let (session, tail) = open(&mut replica, 3, false).expect("the writer's own epoch");
    assert_eq!(tail, 0);
    store(&mut replica, session, 0, 5).expect("the first batch");
    store(&mut replica, session, 5, 5).expect("the second");
    (replica, session)
}

fn marks(replica: &Replica) -> Marks {
    replica.marks(ZERO).expect("the segment is held")
}

#[test]
fn appends_are_stored_in_order_and_acknowledged_together() {
    let (replica, session) = written(3);
    let ack = replica.ack(session, ZERO).expect("nothing has fenced it");
    assert_eq!((ack.tail, ack.held, ack.incarnation), (Index(10), Index(10), Incarnation(1)));
    assert_eq!(marks(&replica).writer_tail, Index(10));
}

#[test]
fn an_unknown_epoch_is_looked_up_first() {
    let mut replica = replica(3);
    assert_eq!(replica.fence(&address(9, 1)), Err(Unanswered::NeedMetadata));
    assert_eq!(open(&mut replica, 9, true), Err(Unanswered::NeedMetadata));
    assert_eq!(replica.fence_epoch(), Epoch(0), "an epoch that does not exist fences nothing");
    replica.learn_log(Epoch(9));
    assert!(replica.fence(&address(9, 1)).is_ok());
}

#[test]
fn an_unknown_segment_is_looked_up_first_and_then_fenced_empty() {
    let mut replica = Replica::new(node("a"), Incarnation(1), LOG);
    replica.learn_log(Epoch(4));
    assert_eq!(replica.fence(&address(4, 1)), Err(Unanswered::NeedMetadata));
    replica.learn_segment(ZERO, &record(SegmentState::Open), at(0));
    let fenced = replica.fence(&address(4, 1)).expect("known now");
    assert_eq!((fenced.tail, fenced.chain), (Index(0), chain(0)));
}

#[test]
fn another_incarnation_answers_nothing() {
    let (mut replica, _) = written(4);
    let wrong = Unanswered::Refused(Refusal::WrongIncarnation { current: Incarnation(1) });
    for incarnation in [0, 2] {
        assert_eq!(replica.fence(&address(4, incarnation)), Err(wrong.clone()));
        let open = Open { at: address(3, incarnation), repair: false };
        assert_eq!(replica.open(&open).map(|_| ()), Err(wrong.clone()));
    }
    assert_eq!(replica.fence_epoch(), Epoch(3), "and does nothing else");
}

#[test]
fn a_reborn_member_does_not_take_part() {
    let mut reborn = Replica::new(node("a"), Incarnation(2), LOG);
    assert_eq!(reborn.learn_segment(ZERO, &record(SegmentState::Open), at(0)), Learned::NotMine);
    assert_eq!(reborn.mark(ZERO), None);
}

#[test]
fn a_fence_reports_and_ends_acks_in_one_step() {
    let (mut replica, session) = written(4);
    let fenced = replica.fence(&address(4, 1)).expect("a later epoch");
    assert_eq!((fenced.tail, fenced.held, fenced.writer_tail), (Index(10), Index(10), Index(10)));
    assert_eq!(fenced.chain, chain(10));
    assert_eq!(replica.ack(session, ZERO), None, "no ack after a fence");
    let refused = store(&mut replica, session, 10, 1);
    assert_eq!(refused, Err(Refusal::Fenced { epoch: Epoch(4) }));
    assert_eq!(marks(&replica).tail, Index(10));
}

#[test]
fn at_disk_nothing_counts_before_it_is_synced_and_no_sync_after_the_fence_counts_as_the_writers() {
    let mut replica = Replica::new(node("a"), Incarnation(1), LOG);
    let record = SegmentRecord { level: Level::Disk, ..record(SegmentState::Open) };
    replica.learn_segment(ZERO, &record, record.start());
    replica.learn_log(Epoch(4));
    let (session, _) = open(&mut replica, 3, false).expect("it is opened");
    store(&mut replica, session, 0, 5).expect("it is stored");
    store(&mut replica, session, 5, 5).expect("it is stored");
    replica.learn_commit(session, ZERO, Index(10));
    let said = |replica: &Replica| {
        let Marks { tail, held, writer_tail, commit, .. } = marks(replica);
        (tail.0, held.0, writer_tail.0, commit.0)
    };
    assert_eq!(said(&replica), (10, 0, 0, 0));
    replica.persisted(ZERO, Index(5));
    assert_eq!(said(&replica), (10, 5, 5, 5));
    assert_eq!(replica.ack(session, ZERO).map(|ack| ack.held), Some(Index(5)));

    let fenced = replica.fence(&address(4, 1)).expect("it is fenced");
    assert_eq!((fenced.tail, fenced.held, fenced.writer_tail), (Index(10), Index(5), Index(5)));
    replica.persisted(ZERO, Index(10));
    assert_eq!(said(&replica), (10, 10, 5, 10), "what the writer said was committed stays so");
    assert_eq!(replica.ack(session, ZERO), None);
}

#[test]
fn a_batch_that_was_admitted_before_the_fence_is_not_stored_after_it() {
    let (mut replica, session) = written(4);
    let header = header(10, 3);
    assert_eq!(replica.admit(session, ZERO, &header), Admission::Store);
    replica.fence(&address(4, 1)).expect("a later epoch");
    let stored = replica.stored(session, ZERO, &header, after(&header));
    assert_eq!(stored, Err(Refusal::Fenced { epoch: Epoch(4) }));
    assert_eq!(marks(&replica).tail, Index(10));
}

#[test]
fn stale_epochs_are_refused() {
    let (mut replica, _) = written(5);
    replica.fence(&address(5, 1)).expect("a later epoch");
    let fenced = Unanswered::Refused(Refusal::Fenced { epoch: Epoch(5) });
    assert_eq!(replica.fence(&address(4, 1)), Err(fenced.clone()));
    assert_eq!(open(&mut replica, 3, false), Err(fenced.clone()), "the old writer reconnects");
    assert_eq!(open(&mut replica, 4, true), Err(fenced), "repair from an older takeover");
    assert!(replica.fence(&address(5, 1)).is_ok(), "the same takeover may ask again");
}

#[test]
fn a_fence_outlives_every_segment() {
    let (mut replica, _) = written(5);
    replica.fence(&address(5, 1)).expect("a later epoch");
    assert_eq!(replica.learn_segment(ZERO, &record(SegmentState::Archived(at(10))), at(10)), Learned::Drop);
    assert_eq!(replica.segments().count(), 0);
    let fenced = Unanswered::Refused(Refusal::Fenced { epoch: Epoch(5) });
    assert_eq!(replica.fence(&address(4, 1)), Err(fenced));
}

#[test]
fn an_old_record_does_not_bring_a_dropped_segment_back() {
    let (mut replica, _) = written(4);
    replica.learn_segment(ZERO, &record(SegmentState::Archived(at(10))), at(10));
    assert_eq!(replica.learn_segment(ZERO, &record(SegmentState::Open), at(5)), Learned::Drop);
    assert_eq!(replica.marks(ZERO), None, "it would come back empty");
}

#[test]
fn a_later_stream_ends_the_right_of_an_earlier_one() {
    let (mut replica, first) = written(3);
    let (second, tail) = open(&mut replica, 3, false).expect("the writer reconnects");
    assert_eq!(tail, 10, "it resends from there");
    assert_eq!(replica.ack(first, ZERO), None);
    assert!(matches!(store(&mut replica, first, 10, 1), Err(Refusal::Superseded)));
    store(&mut replica, second, 10, 1).expect("the stream in use");
    replica.close(first, ZERO);
    assert!(replica.may_append(second, ZERO), "closing the old one changes nothing");
}

#[test]
fn a_writer_appends_in_its_own_epoch_only_and_a_repair_in_a_later_one_only() {
    let mut replica = replica(4);
    for (epoch, repair) in [(4, false), (3, true)] {
        let refused = open(&mut replica, epoch, repair);
        assert!(matches!(refused, Err(Unanswered::Refused(Refusal::Invalid(_)))), "{refused:?}");
    }
    assert_eq!(replica.fence_epoch(), Epoch(0));
}

#[test]
fn a_gap_is_refused_with_the_tail() {
    let (mut replica, session) = written(3);
    assert_eq!(store(&mut replica, session, 11, 1), Err(Refusal::OutOfOrder { tail: Index(10) }));
}

#[test]
fn another_chain_at_the_tail_is_an_alarm() {
    let (replica, session) = written(3);
    let other = BatchHeader { chain: Chain(1), ..header(10, 1) };
    let alarm = Admission::Refuse(Refusal::Conflict { index: Index(10) });
    assert_eq!(replica.admit(session, ZERO, &other), alarm);
}

#[test]
fn a_duplicate_is_compared() {
    let (replica, session) = written(3);
    let known = |index| ChainAt::Boundary(chain(index));
    let judge = |first, count, here| {
        let header = header(first, count);
        assert_eq!(replica.admit(session, ZERO, &header), Admission::Repeat);
        replica.repeated(session, ZERO, &header, after(&header), here)
    };
    let alarm = |index| Err(Refusal::Conflict { index: Index(index) });
    assert_eq!(judge(5, 5, (known(5), known(10))), Ok(()));
    assert_eq!(judge(5, 5, (known(5), ChainAt::Boundary(Chain(1)))), alarm(5), "different content");
    assert_eq!(judge(5, 2, (known(5), ChainAt::Inside)), alarm(5), "it cuts a batch");
    assert_eq!(judge(7, 3, (ChainAt::Inside, known(10))), alarm(7), "it starts within one");
    assert_eq!(judge(5, 9, (known(5), ChainAt::Beyond)), alarm(5), "it reaches beyond the tail");
    assert_eq!(judge(0, 5, (ChainAt::Freed, ChainAt::Freed)), Ok(()), "what is freed is archived");
}

#[test]
fn nothing_is_stored_beyond_a_sealed_end() {
    let (mut replica, session) = written(3);
    replica.learn_segment(ZERO, &record(sealed(12, true)), at(0));
    let beyond = Err(Refusal::Sealed { end: Index(12) });
    assert_eq!(store(&mut replica, session, 10, 3), beyond, "it would pass the end");
    store(&mut replica, session, 10, 2).expect("what the writer resends below its own end");
    assert_eq!(store(&mut replica, session, 12, 1), beyond);
}

#[test]
fn commits_are_believed_as_far_as_they_are_held() {
    let (mut replica, session) = written(3);
    replica.learn_commit(session, ZERO, Index(7));
    assert_eq!(marks(&replica).commit, Index(7));
    replica.learn_commit(session, ZERO, Index(3));
    assert_eq!(marks(&replica).commit, Index(7), "it never shrinks");
    replica.learn_commit(session, ZERO, Index(12));
    assert_eq!(marks(&replica).commit, Index(10));
    store(&mut replica, session, 10, 4).expect("the next batch");
    assert_eq!(marks(&replica).commit, Index(12), "what was heard before is remembered");
}

#[test]
fn only_a_settled_end_commits() {
    let (mut replica, _) = written(4);
    replica.learn_segment(ZERO, &record(sealed(10, false)), at(0));
    assert_eq!(marks(&replica).commit, Index(0));
    assert_eq!(replica.uploadable(ZERO), Some(Index(10)), "but whoever holds all of it may upload it");
    let (mut replica, _) = written(4);
    replica.learn_segment(ZERO, &record(sealed(10, true)), at(0));
    assert_eq!(marks(&replica).commit, Index(10));
}

#[test]
fn an_open_segment_is_uploaded_up_to_the_commit() {
    let (mut replica, session) = written(3);
    assert_eq!(replica.uploadable(ZERO), Some(Index(0)));
    replica.learn_commit(session, ZERO, Index(5));
    assert_eq!(replica.uploadable(ZERO), Some(Index(5)));
}

#[test]
fn memory_is_freed_as_far_as_the_metadata_say_and_never_further() {
    let (mut replica, _) = written(3);
    let open = record(SegmentState::Open);
    assert_eq!(replica.learn_segment(ZERO, &open, at(5)), Learned::FreeBelow(Index(5)));
    assert_eq!(replica.learn_segment(ZERO, &open, at(0)), Learned::FreeBelow(Index(5)), "old news");
    assert_eq!(replica.learn_segment(ZERO, &open, at(20)), Learned::FreeBelow(Index(10)));
}

#[test]
fn a_repair_never_moves_the_writers_tail() {
    let (mut replica, _) = written(4);
    replica.fence(&address(4, 1)).expect("a later epoch");
    let (session, tail) = open(&mut replica, 4, true).expect("the takeover repairs");
    assert_eq!(tail, 10);
    store(&mut replica, session, 10, 4).expect("a repair at the tail");
    let Marks { tail, held, writer_tail, .. } = marks(&replica);
    assert_eq!((tail, held, writer_tail), (Index(14), Index(14), Index(10)));
    replica.learn_commit(session, ZERO, Index(14));
    assert_eq!(marks(&replica).commit, Index(0), "a repair says nothing of commits");
}

#[test]
fn a_repair_fences_by_itself() {
    let (mut replica, writer) = written(4);
    open(&mut replica, 4, true).expect("the takeover repairs");
    assert_eq!(replica.fence_epoch(), Epoch(4));
    assert_eq!(replica.ack(writer, ZERO), None);
}

#[test]
fn a_repair_of_a_short_node_starts_at_what_is_archived() {
    let (mut replica, _) = written(4);
    replica.learn_segment(ZERO, &record(SegmentState::Open), at(15));
    let (session, tail) = open(&mut replica, 4, true).expect("the takeover repairs");
    assert_eq!(tail, 15);
    let jumped = Marks {
        tail: Index(15),
        held: Index(15),
        writer_tail: Index(10),
        commit: Index(15),
        freed: Index(15),
    };
    assert_eq!(marks(&replica), jumped);
    store(&mut replica, session, 15, 2).expect("it goes on with the part's chain");
    assert_eq!(marks(&replica).tail, Index(17));
}

#[test]
fn a_writer_does_not_jump() {
    let (mut replica, _) = written(3);
    replica.learn_segment(ZERO, &record(SegmentState::Open), at(15));
    assert_eq!(open(&mut replica, 3, false).map(|(_, tail)| tail), Ok(10));
}

#[test]
fn a_sealed_end_that_contradicts_the_buffer_is_neither_served_nor_uploaded() {
    let (mut replica, _) = written(4);
    let end = SegmentEnd { chain: Chain(1), ..at(10) };
    let seal = Seal { at: end, by_epoch: Epoch(4), holders: vec![node("a")], settled: true };
    replica.learn_segment(ZERO, &record(SegmentState::Sealed(seal)), at(0));
    assert!(replica.contradicted(ZERO));
    assert_eq!(replica.mark(ZERO), None);
    assert_eq!(replica.uploadable(ZERO), Some(Index(0)));
    assert_eq!(marks(&replica).commit, Index(0));
}

#[test]
fn a_segment_that_was_asked_for_before_it_exists_comes_all_the_same() {
    let mut replica = Replica::new(node("a"), Incarnation(1), LOG);
    replica.drop_segment(ZERO);
    let record = record(SegmentState::Open);
    assert_eq!(replica.learn_segment(ZERO, &record, record.start()), Learned::FreeBelow(Index(0)));
}

#[test]
fn a_deleted_log_is_dropped_and_refused() {
    let mut replica = replica(4);
    let (session, _) = open(&mut replica, 3, false).expect("it may append");
    replica.learn_deleted();
    assert!(replica.deleted() && replica.segments().count() == 0);
    assert_eq!(replica.admit(session, ZERO, &header(0, 1)), Admission::Refuse(Refusal::Deleted));
    let deleted = Unanswered::Refused(Refusal::Deleted);
    assert_eq!(open(&mut replica, 3, false).map(|_| ()), Err(deleted.clone()));
    assert_eq!(replica.fence(&address(4, 1)), Err(deleted.clone()));
    // It was deleted for every life of every buffer.
    assert_eq!(replica.fence(&address(4, 2)), Err(deleted));
    // A record that was read before the tombstone does not bring it back.
    let record = record(SegmentState::Open);
    assert_eq!(replica.learn_segment(ZERO, &record, record.start()), Learned::Drop);
    assert_eq!(replica.segments().count(), 0);
}

#[test]
fn a_log_that_comes_back_is_still_fenced() {
    let mut replica = Replica::resumed(node("a"), Incarnation(1), LOG, Epoch(4));
    let record = record(SegmentState::Open);
    assert_eq!(replica.known_epoch(), Epoch(4));
    assert_eq!(replica.learn_segment(ZERO, &record, record.start()), Learned::FreeBelow(Index(0)));
    let fenced = Unanswered::Refused(Refusal::Fenced { epoch: Epoch(4) });
    assert_eq!(open(&mut replica, 3, false).map(|_| ()), Err(fenced.clone()));
    assert_eq!(replica.fence(&address(3, 1)), Err(fenced));
}

#[test]
fn only_the_writers_own_stream_is_a_writer() {
    let mut replica = replica(4);
    assert!(!replica.has_writer(ZERO));
    let (session, _) = open(&mut replica, 3, false).expect("it may append");
    assert!(replica.has_writer(ZERO));
    replica.close(session, ZERO);
    assert!(!replica.has_writer(ZERO));
    open(&mut replica, 3, false).expect("it may append");
    open(&mut replica, 4, true).expect("it may repair");
    assert!(replica.has_appender(ZERO) && !replica.has_writer(ZERO));
}

#[test]
fn a_loss_is_learned_of_a_sealed_segment_and_only_lowered() {
    let (mut replica, _) = written(4);
    replica.fence(&address(4, 1)).expect("the takeover's epoch");
    let lossy = |from| {
        let loss = crate::meta::Loss { from: Index(from), acknowledged: false, beyond: false };
        SegmentRecord { loss: Some(loss), ..record(sealed(20, false)) }
    };
    replica.learn_segment(ZERO, &record(sealed(20, false)), at(0));
    assert_eq!(replica.uploadable(ZERO), Some(Index(0)), "it is short of an end that is not settled");
    replica.learn_segment(ZERO, &lossy(10), at(0));
    assert_eq!(replica.uploadable(ZERO), Some(Index(10)), "it has all that is left");
    assert_eq!(replica.mark(ZERO).expect("it is served").loss, Some(Index(10)));
    assert_eq!(marks(&replica).commit, Index(0), "only the upload settles what is left");
    replica.learn_segment(ZERO, &lossy(5), at(0));
    replica.learn_segment(ZERO, &lossy(10), at(0));
    replica.learn_segment(ZERO, &record(sealed(20, true)), at(0));
    assert_eq!(replica.uploadable(ZERO), Some(Index(5)), "older records change nothing");
    assert_eq!(marks(&replica).commit, Index(0));
}

#[test]
fn a_segment_is_fenced_in_a_later_epoch_than_its_own() {
    let (mut replica, session) = written(3);
    let refused = replica.fence(&address(3, 1));
    assert!(matches!(refused, Err(Unanswered::Refused(Refusal::Invalid(_)))), "{refused:?}");
    store(&mut replica, session, 10, 5).expect("its writer goes on");
    assert_eq!(marks(&replica).writer_tail, Index(15));
}
