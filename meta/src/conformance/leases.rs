//! Leases: a record under one goes when it ends, whatever way it ends, and not before.

use super::{Followed, Subject, apply, commit, everything, gone, life, life_key, next, node, read, running};
use crate::{Lease, MetaError, Metadata, WatchEvent};
use piculet_quorum::ids::Revision;
use piculet_quorum::meta::{Key, LeaseId, Range, Record, Txn, TxnOutcome, Write};
use std::time::Duration;

const TTL: Duration = Duration::from_secs(2);

async fn grant(store: &dyn Metadata) -> Lease {
    store.grant(TTL).await.expect("the store grants leases")
}

fn put_leased(key: Key, record: Record, lease: LeaseId) -> Txn {
    Txn { compares: vec![], writes: vec![Write::PutLeased(key, record, lease)] }
}

fn node_key() -> Key {
    Key::Node(node("a"))
}

/// Revoked: all of its records go at once, which a watch sees as one change, and others stay.
pub async fn a_revoked_lease_takes_its_records(subject: &dyn Subject) {
    let store = subject.store();
    let (lease, other) = (grant(store).await, grant(store).await);
    assert_ne!(lease.id(), other.id());
    let mut both = put_leased(node_key(), running("1"), lease.id());
    both.writes.push(Write::PutLeased(life_key("a"), life(1), lease.id()));
    both.writes.push(Write::Put(life_key("b"), life(1)));
    both.writes.push(Write::PutLeased(Key::Node(node("b")), running("1"), other.id()));
    apply(store, &both).await;
    let mut watch = store.watch(Range::All).await.expect("it can be watched");
    let mut followed = Followed::default();
    followed.take(next(&mut watch).await);
    assert_eq!(lease.revoke().await, Ok(()));
    let now = everything(store).await;
    let kept: Vec<&Key> = now.records.keys().collect();
    assert_eq!(kept, [&life_key("b"), &Key::Node(node("b"))]);
    let event = next(&mut watch).await;
    assert!(matches!(&event, WatchEvent::Changed { changes, .. } if changes.len() == 2), "{event:?}");
    followed.take(event);
    followed.until(&mut watch, &now.records).await;
}

/// Dropped: its records go in the background.
pub async fn a_dropped_lease_takes_its_records(subject: &dyn Subject) {
    let store = subject.store();
    let lease = grant(store).await;
    apply(store, &put_leased(node_key(), running("1"), lease.id())).await;
    drop(lease);
    gone(store, &node_key()).await;
}

/// Its holder stops renewing it: its records go by themselves.
pub async fn an_orphaned_lease_takes_its_records(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = store.watch(Range::Nodes).await.expect("it can be watched");
    let (mut followed, mut seen) = (Followed::default(), false);
    followed.take(next(&mut watch).await);
    subject.orphan(node_key(), running("orphaned")).await;
    gone(store, &node_key()).await;
    while !seen || !followed.records.is_empty() {
        followed.take(next(&mut watch).await);
        seen |= followed.records.contains_key(&node_key());
    }
}

/// Kept alive: its records are there for as long as the lease is held, however long that is.
pub async fn a_kept_lease_outlives_its_ttl(subject: &dyn Subject) {
    let store = subject.store();
    let lease = grant(store).await;
    apply(store, &put_leased(node_key(), running("1"), lease.id())).await;
    let held = tokio::time::Instant::now() + 3 * TTL;
    while tokio::time::Instant::now() < held {
        assert!(read(store, &[node_key()], &[]).await.records.contains_key(&node_key()), "it is held");
        let lost = tokio::time::timeout(TTL / 20, lease.lost()).await;
        assert!(lost.is_err(), "a lease that is kept alive is not lost");
    }
    assert_eq!(lease.revoke().await, Ok(()));
    assert!(everything(store).await.records.is_empty());
}

/// Put again under another lease or none, a record no longer goes with its first.
pub async fn a_record_put_anew_leaves_its_lease(subject: &dyn Subject) {
    let store = subject.store();
    let (first, second) = (grant(store).await, grant(store).await);
    apply(store, &put_leased(node_key(), running("1"), first.id())).await;
    apply(store, &put_leased(life_key("a"), life(1), first.id())).await;
    apply(store, &put_leased(node_key(), running("2"), second.id())).await;
    apply(store, &Txn::default().put(life_key("a"), life(2))).await;
    assert_eq!(first.revoke().await, Ok(()));
    assert_eq!(everything(store).await.records.len(), 2);
    assert_eq!(second.revoke().await, Ok(()));
    let left = everything(store).await.records;
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [life_key("a")]);
}

/// A record under a lease that has ended is not put, nor is anything else with it. Stale guards
/// refuse such a transaction like any other.
pub async fn a_record_needs_a_living_lease(subject: &dyn Subject) {
    let store = subject.store();
    let lease = grant(store).await;
    let id = lease.id();
    assert_eq!(lease.revoke().await, Ok(()));
    let txn = put_leased(node_key(), running("1"), id).put(life_key("a"), life(1));
    assert_eq!(store.commit(&txn).await, Err(MetaError::LeaseGone(vec![id])));
    assert_eq!(commit(store, &txn.when(life_key("a"), Revision(9))).await, TxnOutcome::Refused);
    assert!(everything(store).await.records.is_empty());
}
