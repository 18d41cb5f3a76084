//! Transactions: each is refused as a whole when any guard is stale.

use super::{Subject, apply, commit, everything, life, life_key, log_name, node, read};
use crate::{MetaError, Metadata};
use piculet_quorum::ids::{
    Chain, Incarnation, Index, Level, LogId, NodeId, Nonce, Offset, Revision, SegmentNumber, Timestamp,
};
use piculet_quorum::limits::TXN_OPS_MAX;
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::meta::delete::{DeleteLog, delete_segment_of_deleted, delete_tombstone};
use piculet_quorum::meta::part::{RecordPart, mark_archived};
use piculet_quorum::meta::register::{name_cluster, next_life};
use piculet_quorum::meta::seal::{CreateOne, SealOne, SealSegment};
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::trim::{TrimLog, delete_first_segment};
use piculet_quorum::meta::{
    Key, LogRecord, Member, PartRecord, Range, SegmentEnd, SegmentRecord, SegmentState, Txn, TxnOutcome,
    Versioned, Write,
};

const LOG: LogId = LogId(7);

fn first() -> SegmentNumber {
    SegmentNumber(0)
}

fn end(index: u64) -> SegmentEnd {
    SegmentEnd { end: Index(index), chain: Chain(index.into()), last_timestamp: Timestamp(index) }
}

/// Every compare of `txn`, made stale, refuses it and leaves the store as it is. Then it is
/// applied, and all that it puts has its revision. Repeated, it is refused: it compares what it
/// wrote.
async fn guarded(store: &dyn Metadata, txn: Txn) -> Revision {
    let before = everything(store).await;
    assert!(!txn.compares.is_empty(), "a transaction without a guard: {txn:?}");
    for at in 0..txn.compares.len() {
        for stale in [0, 1, txn.compares[at].1.0.wrapping_sub(1), txn.compares[at].1.0 + 1, u64::MAX] {
            // No record ever has revision 1.
            if stale == txn.compares[at].1.0 {
                continue;
            }
            let mut other = txn.clone();
            other.compares[at].1 = Revision(stale);
            assert_eq!(commit(store, &other).await, TxnOutcome::Refused, "{other:?}");
        }
    }
    assert_eq!(everything(store).await, before, "a refused transaction changed the store: {txn:?}");
    let revision = apply(store, &txn).await;
    let after = everything(store).await;
    assert_eq!(after.at.0, revision.0, "the store is at the revision of its last write");
    for write in &txn.writes {
        match write {
            Write::Put(key, record) | Write::PutLeased(key, record, _) => {
                let put = Versioned { revision, value: record.clone() };
                assert_eq!(after.records.get(key), Some(&put), "{key:?}");
            }
            Write::Delete(key) => assert!(!after.records.contains_key(key), "{key:?}"),
            Write::DeleteRange(range) => assert!(!after.records.keys().any(|key| range.contains(key))),
        }
    }
    assert_eq!(commit(store, &txn).await, TxnOutcome::Refused, "repeated: {txn:?}");
    assert_eq!(everything(store).await, after, "a repeated transaction changed the store: {txn:?}");
    revision
}

async fn log_record(store: &dyn Metadata) -> Versioned<LogRecord> {
    read(store, &[Key::Log(LOG)], &[]).await.log(&Key::Log(LOG)).expect("the log is there")
}

async fn segment(store: &dyn Metadata, number: u64) -> Versioned<SegmentRecord> {
    let key = Key::Segment(LOG, SegmentNumber(number));
    read(store, std::slice::from_ref(&key), &[]).await.segment(&key).expect("the segment is there")
}

async fn register(store: &dyn Metadata, name: &str) -> (Member, Revision) {
    let key = life_key(name);
    let now = read(store, std::slice::from_ref(&key), &[]).await.incarnation(&key);
    let (incarnation, txn) = next_life(&node(name), Level::Memory, now.as_ref(), Nonce(name.len() as u128));
    let revision = guarded(store, txn).await;
    (Member { node: node(name), incarnation }, revision)
}

fn holders(members: &[(Member, Revision)]) -> Vec<(NodeId, Revision)> {
    members.iter().map(|(member, revision)| (member.node.clone(), *revision)).collect()
}

/// A cluster of three nodes with a log that was taken over and has an open segment.
async fn open_log(store: &dyn Metadata) -> Vec<(Member, Revision)> {
    guarded(store, name_cluster(Nonce(1))).await;
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        members.push(register(store, name).await);
    }
    guarded(
        store,
        CreateLog { name: log_name("orders/eu"), log: LOG, durability: Level::Memory, allow_loss: false }
            .txn(),
    )
    .await;
    let read = log_record(store).await;
    guarded(store, TakeOver { log: LOG, read, writer: Nonce(11), holder: Some("a".to_owned()) }.txn()).await;
    let create = CreateOne { level: Level::Memory, ensemble: members.clone(), holder: None };
    let read = log_record(store).await;
    guarded(store, SealSegment { log: LOG, read, seal: None, create: Some(create) }.txn()).await;
    assert_eq!(segment(store, 0).await.value.state, SegmentState::Open);
    members
}

async fn record_part(store: &dyn Metadata, before: Option<(u64, Revision)>, from: u64, to: u64) -> Revision {
    let part = RecordPart {
        log: LOG,
        segment: first(),
        read: segment(store, 0).await,
        before: before.map(|(index, revision)| (Index(index), revision)),
        first: Index(from),
        part: PartRecord { at: end(to), bytes: 100, encoder: 1, skip: false },
    };
    guarded(store, part.txn()).await
}

/// From its creation to the deletion of its first segment: T0, T1, T2c, T3, T2 of a takeover, T4
/// and T5, each refused when any of its guards is stale.
pub async fn a_log_lives(subject: &dyn Subject) {
    let store = subject.store();
    let members = open_log(store).await;
    let part = record_part(store, None, 0, 10).await;
    let part = record_part(store, Some((0, part)), 10, 30).await;

    let read_log = log_record(store).await;
    guarded(
        store,
        TakeOver { log: LOG, read: read_log, writer: Nonce(12), holder: Some("b".to_owned()) }.txn(),
    )
    .await;
    let seal = SealOne {
        segment: first(),
        read: segment(store, 0).await,
        at: end(50),
        holders: holders(&members[..2]),
        moved: vec![],
        archived: Index(30),
        recovery: true,
        allowed_loss: None,
    };
    let create = Some(CreateOne { level: Level::Memory, ensemble: members.clone(), holder: None });
    let read_log = log_record(store).await;
    guarded(store, SealSegment { log: LOG, read: read_log, seal: Some(seal), create }.txn()).await;
    assert_eq!(segment(store, 1).await.value.base, Offset(50));

    record_part(store, Some((10, part)), 30, 50).await;
    assert_eq!(segment(store, 0).await.value.state, SegmentState::Archived(end(50)));
    let now = everything(store).await;
    assert_eq!(now.row(LOG, first()).expect("the row is sound").archived(), Index(50));

    let trim = now.trim(&Key::Trim(LOG)).expect("the log has a trim record");
    guarded(store, TrimLog { log: LOG, read: trim, to: Offset(50) }.txn()).await;
    let now = everything(store).await;
    let (from, trim) = (now.first(&Key::First(LOG)), now.trim(&Key::Trim(LOG)));
    let (from, trim) = (from.expect("there is one"), trim.expect("there is one"));
    let delete = delete_first_segment(LOG, &from, &trim, &segment(store, 0).await);
    guarded(store, delete.expect("it is wholly trimmed")).await;
    let left = everything(store).await.records;
    assert!(!left.keys().any(|key| Range::Parts(LOG, first()).contains(key)), "its parts are gone");
    assert!(left.contains_key(&Key::Segment(LOG, SegmentNumber(1))), "the next segment is still there");
}

/// A deleted log: its name is free, its segments go whatever state they are in, the tombstone last.
pub async fn a_deleted_log_goes_step_by_step(subject: &dyn Subject) {
    let store = subject.store();
    open_log(store).await;
    let name = log_name("orders/eu");
    let living = log_record(store).await;
    let from = async || everything(store).await.first(&Key::First(LOG)).expect("there is one");
    assert!(delete_segment_of_deleted(LOG, &living, &from().await, &segment(store, 0).await).is_none());
    let delete = DeleteLog { log: LOG, read: living, writer: Nonce(20), at: Timestamp(9) };
    guarded(store, delete.txn()).await;
    assert_eq!(read(store, &[Key::Name(name.clone())], &[]).await.records.len(), 0, "the name is free");
    let tombstone = log_record(store).await;
    assert_eq!(tombstone.value, delete.record());
    let again = CreateLog { name, log: LogId(8), durability: Level::Memory, allow_loss: false };
    guarded(store, again.txn()).await;

    assert!(delete_tombstone(LOG, &tombstone, &from().await).is_none(), "it has a segment yet");
    let segments = delete_segment_of_deleted(LOG, &tombstone, &from().await, &segment(store, 0).await);
    guarded(store, segments.expect("it is deleted")).await;
    guarded(store, delete_tombstone(LOG, &tombstone, &from().await).expect("nothing is left")).await;
    let left = everything(store).await.records;
    let of_log =
        [Key::Log(LOG), Key::Config(LOG), Key::Trim(LOG), Key::First(LOG), Key::Segment(LOG, first())];
    assert!(of_log.iter().all(|key| !left.contains_key(key)), "{left:?}");
    assert!(left.contains_key(&Key::Log(LogId(8))), "the log that has the name now is untouched");
}

/// T0: a name that is taken, or an id that is, creates nothing of a second log.
pub async fn a_log_is_created_once(subject: &dyn Subject) {
    let store = subject.store();
    let create = |name: &str, log| {
        CreateLog { name: log_name(name), log, durability: Level::Memory, allow_loss: false }.txn()
    };
    guarded(store, create("a/b", LOG)).await;
    let before = everything(store).await;
    assert_eq!(commit(store, &create("a/b", LogId(8))).await, TxnOutcome::Refused, "the name is taken");
    assert_eq!(commit(store, &create("a/c", LOG)).await, TxnOutcome::Refused, "the id is taken");
    assert_eq!(everything(store).await, before);
    guarded(store, create("a", LogId(8))).await;
}

/// T2 of a live writer, and the sealed segment that its parts already reach.
pub async fn a_roll_seals_and_creates(subject: &dyn Subject) {
    let store = subject.store();
    let members = open_log(store).await;
    let seal = SealOne {
        segment: first(),
        read: segment(store, 0).await,
        at: end(10),
        holders: holders(&members[1..]),
        moved: vec![],
        archived: Index(0),
        recovery: false,
        allowed_loss: None,
    };
    let create = Some(CreateOne { level: Level::Memory, ensemble: members[1..].to_vec(), holder: None });
    let read = log_record(store).await;
    let roll = SealSegment { log: LOG, read, seal: Some(seal), create };
    // A holder that is reborn between the read and the transaction refuses it.
    let sealed = roll.txn();
    let (reborn, revision) = register(store, "c").await;
    assert_eq!(reborn.incarnation, Incarnation(2));
    assert_eq!(commit(store, &sealed).await, TxnOutcome::Refused);
    let again = |(member, at): &(Member, Revision)| {
        if member.node == reborn.node { (reborn.clone(), revision) } else { (member.clone(), *at) }
    };
    let mut roll = roll;
    let seal = roll.seal.as_mut().expect("it seals");
    seal.holders = holders(&members[..2]);
    roll.create =
        Some(CreateOne { level: Level::Memory, ensemble: members.iter().map(again).collect(), holder: None });
    guarded(store, roll.txn()).await;

    let read = segment(store, 0).await;
    assert!(mark_archived(LOG, first(), &read, Index(9)).is_none());
    guarded(store, mark_archived(LOG, first(), &read, Index(10)).expect("its parts reach its end")).await;
}

/// A start takes the next life with its own nonce; another start that read the same loses.
pub async fn a_life_of_a_buffer_is_taken_by_compare_and_swap(subject: &dyn Subject) {
    let store = subject.store();
    let (key, name) = (life_key("a"), node("a"));
    let current = async || read(store, std::slice::from_ref(&key), &[]).await.incarnation(&key);
    assert_eq!(current().await, None);
    for expected in 1..=3 {
        let read = current().await;
        let (incarnation, mine) = next_life(&name, Level::Memory, read.as_ref(), Nonce(expected));
        let (_, other) = next_life(&name, Level::Memory, read.as_ref(), Nonce(100 + expected));
        assert_eq!(u128::from(incarnation.0), expected);
        apply(store, &mine).await;
        assert_eq!(commit(store, &other).await, TxnOutcome::Refused);
        assert_eq!(current().await.expect("it was put").value.nonce, Nonce(expected));
    }
}

/// Of takeovers that read the same record, one is applied, and its value is in the record.
pub async fn one_of_racing_transactions_wins(subject: &dyn Subject) {
    let store = subject.store();
    apply(
        store,
        &CreateLog { name: log_name("l"), log: LOG, durability: Level::Memory, allow_loss: false }.txn(),
    )
    .await;
    for round in 0..10_u128 {
        let read = log_record(store).await;
        let racers: Vec<TakeOver> = (0..8)
            .map(|racer| TakeOver {
                log: LOG,
                read: read.clone(),
                writer: Nonce(round * 8 + racer),
                holder: Some("c".to_owned()),
            })
            .collect();
        let txns: Vec<Txn> = racers.iter().map(TakeOver::txn).collect();
        let outcomes = futures::future::join_all(txns.iter().map(|txn| commit(store, txn))).await;
        let won = |outcome: &&TxnOutcome| matches!(outcome, TxnOutcome::Applied(_));
        assert_eq!(outcomes.iter().filter(won).count(), 1, "{outcomes:?}");
        let winner = outcomes.iter().position(|outcome| won(&outcome)).expect("one has won");
        let now = log_record(store).await;
        assert_eq!(TxnOutcome::Applied(now.revision), outcomes[winner]);
        assert_eq!(now.value, racers[winner].record());
    }
}

/// A transaction that a store could carry out only in part, or not at all, is refused whole.
pub async fn unsound_transactions_are_refused(subject: &dyn Subject) {
    let store = subject.store();
    let put = |name: &str| Txn::default().put(life_key(name), life(1));
    let with = |mut txn: Txn, write: Write| {
        txn.writes.push(write);
        txn
    };
    let many =
        |count: usize| (0..count).fold(Txn::default(), |txn, n| txn.put(life_key(&format!("n{n}")), life(1)));
    let compares =
        |count: usize| (0..count).fold(put("a"), |txn, n| txn.when(life_key(&format!("n{n}")), Revision(0)));
    for (what, txn) in [
        ("a key twice", with(put("a"), Write::Put(life_key("a"), life(2)))),
        ("a key put and deleted", with(put("a"), Write::Delete(life_key("a")))),
        ("a key deleted by range", with(put("a"), Write::DeleteRange(Range::Incarnations))),
        ("a key of everything", with(put("a"), Write::DeleteRange(Range::All))),
        ("a record of another kind", Txn::default().put(Key::Cluster, life(1))),
        ("so many names", with(put("a"), Write::DeleteRange(Range::Names(None, 3)))),
        ("too many puts", many(TXN_OPS_MAX + 1)),
        ("too many compares", compares(TXN_OPS_MAX + 1)),
    ] {
        let refused = store.commit(&txn).await;
        assert!(matches!(refused, Err(MetaError::Invalid(_))), "{what}: {refused:?}");
    }
    assert!(everything(store).await.records.is_empty());
    apply(store, &many(TXN_OPS_MAX)).await;
    let deletes = with(Txn::default(), Write::Delete(life_key("n0")));
    apply(store, &with(deletes, Write::DeleteRange(Range::Incarnations))).await;
    assert!(everything(store).await.records.is_empty(), "deletions may overlap");
    apply(store, &compares(TXN_OPS_MAX)).await;
}

/// Nothing written, no new revision: an empty transaction, or the deletion of what is absent.
pub async fn a_transaction_without_effect_makes_no_revision(subject: &dyn Subject) {
    let store = subject.store();
    let revision = apply(store, &Txn::default().put(life_key("a"), life(1))).await;
    let writes = vec![Write::Delete(life_key("b")), Write::DeleteRange(Range::Nodes)];
    for txn in [Txn::default(), Txn { compares: vec![], writes }] {
        assert_eq!(apply(store, &txn).await, revision, "{txn:?}");
    }
    assert_eq!(everything(store).await.at.0, revision.0);
    let next = apply(store, &Txn::default().put(life_key("a"), life(1))).await;
    assert!(next > revision, "a put of the same record is a write");
}
