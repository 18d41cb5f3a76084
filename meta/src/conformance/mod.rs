//! The contract of a [`Metadata`] store as a suite: one function per property.
//!
//! Each takes a [`Subject`] of its own, with a store that is empty, and panics when the store does
//! not keep the contract. [`conformance_suite!`](crate::conformance_suite) makes a test of each.

mod leases;
mod reads;
mod transactions;
mod watches;

pub use leases::*;
pub use reads::*;
pub use transactions::*;
pub use watches::*;

use crate::{Metadata, Watch, WatchEvent};
use async_trait::async_trait;
use piculet_quorum::ids::{Incarnation, Level, LogName, NodeId, Nonce, Revision};
use piculet_quorum::meta::{
    IncarnationRecord, Key, NodeRecord, NodeState, Range, Record, Snapshot, Txn, TxnOutcome, Versioned,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store; nobody else writes to it.
    fn store(&self) -> &dyn Metadata;

    /// Puts a record under a new lease of about one second, whose holder then dies without a word.
    async fn orphan(&self, key: Key, record: Record);
}

/// Makes one test of each property: `conformance_suite!(expression)` in a module of its own, where
/// the expression is awaited for each test and gives its [`Subject`].
#[macro_export]
macro_rules! conformance_suite {
    ($subject:expr) => {
        $crate::conformance_suite! { @each $subject,
            a_log_lives,
            a_log_is_created_once,
            a_deleted_log_goes_step_by_step,
            a_roll_seals_and_creates,
            a_life_of_a_buffer_is_taken_by_compare_and_swap,
            one_of_racing_transactions_wins,
            unsound_transactions_are_refused,
            a_transaction_without_effect_makes_no_revision,
            a_read_shows_one_moment,
            names_are_paged_in_order,
            long_ranges_are_read_whole,
            every_range_holds_its_keys,
            a_watch_sees_every_change_in_order,
            a_watch_sees_its_range_alone,
            a_watch_that_nobody_reads_misses_nothing,
            a_dropped_wait_loses_no_event,
            a_revoked_lease_takes_its_records,
            a_dropped_lease_takes_its_records,
            an_orphaned_lease_takes_its_records,
            a_kept_lease_outlives_its_ttl,
            a_record_put_anew_leaves_its_lease,
            a_record_needs_a_living_lease,
        }
    };
    (@each $subject:expr, $($property:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $property() {
                let subject = $subject.await;
                $crate::conformance::$property(&subject).await;
            }
        )+
    };
}

/// Bound on anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid node name")
}

fn log_name(name: &str) -> LogName {
    LogName::new(name).expect("a valid log name")
}

fn life_key(name: &str) -> Key {
    Key::Incarnation(node(name), Level::Memory)
}

fn life(incarnation: u64) -> Record {
    let incarnation = Incarnation(incarnation);
    Record::Incarnation(IncarnationRecord { incarnation, nonce: Nonce(incarnation.0.into()) })
}

fn running(version: &str) -> Record {
    Record::Node(NodeRecord {
        incarnations: [(Level::Memory, Incarnation(1))].into(),
        addresses: vec!["127.0.0.1:7781".to_owned()],
        admin: "127.0.0.1:7780".to_owned(),
        state: NodeState::Active,
        version: version.to_owned(),
    })
}

async fn everything(store: &dyn Metadata) -> Snapshot {
    read(store, &[], &[Range::All]).await
}

async fn read(store: &dyn Metadata, keys: &[Key], ranges: &[Range]) -> Snapshot {
    store.read(keys, ranges).await.expect("the store can be read")
}

async fn commit(store: &dyn Metadata, txn: &Txn) -> TxnOutcome {
    store.commit(txn).await.expect("the store takes transactions")
}

async fn apply(store: &dyn Metadata, txn: &Txn) -> Revision {
    match commit(store, txn).await {
        TxnOutcome::Applied(revision) => revision,
        TxnOutcome::Refused => panic!("refused: {txn:?}"),
    }
}

async fn next(watch: &mut Watch) -> WatchEvent {
    let event = tokio::time::timeout(PATIENCE, watch.next()).await;
    event.unwrap_or_else(|_| panic!("no event within {PATIENCE:?}"))
}

/// What is known after following a watch.
#[derive(Debug, Default)]
struct Followed {
    records: BTreeMap<Key, Versioned<Record>>,
}

impl Followed {
    /// Takes an event, which must not be older than what is known.
    fn take(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Reset(snapshot) => self.records = snapshot.records,
            WatchEvent::Changed { at, changes } => {
                assert!(!changes.is_empty(), "an event without a change at {at:?}");
                for (key, record) in changes {
                    let Some(record) = record else {
                        assert!(self.records.remove(&key).is_some(), "{key:?} was deleted twice");
                        continue;
                    };
                    assert_eq!(record.revision, Revision(at.0), "{key:?} is of another moment");
                    self.records.insert(key, record);
                }
            }
        }
    }

    /// Follows until `watch` shows exactly `records`.
    async fn until(&mut self, watch: &mut Watch, records: &BTreeMap<Key, Versioned<Record>>) {
        while self.records != *records {
            self.take(next(watch).await);
        }
    }
}

/// Waits until the store does not hold `key` any more.
async fn gone(store: &dyn Metadata, key: &Key) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while read(store, std::slice::from_ref(key), &[]).await.records.contains_key(key) {
        assert!(tokio::time::Instant::now() < deadline, "{key:?} is still there after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
