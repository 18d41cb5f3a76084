//! A store in this process: the same contract as etcd, without a clock and without faults.
//!
//! Time never ends a lease here; [`MemoryStore::expire`] does.

use crate::check;
use crate::error::MetaError;
use crate::lease::{Ender, Lease};
use crate::watch::{Watch, WatchEvent};
use crate::{Metadata, records};
use async_trait::async_trait;
use parking_lot::Mutex;
use piculet_quorum::ids::Revision;
use piculet_quorum::meta::{
    Key, LeaseId, Range, Record, Snapshot, StoreRevision, Txn, TxnOutcome, Versioned, Write,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Revisions that are remembered for watches. One that falls further behind starts over.
const HISTORY_MAX: usize = 1024;

/// An in-process metadata store. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The revision, for those who wait for it to grow.
    revision: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    records: BTreeMap<Key, Stored>,
    leases: BTreeMap<LeaseId, watch::Sender<bool>>,
    leases_granted: i64,
    /// The newest changes; the last is of `revision`, and no revision is missing between.
    history: VecDeque<Vec<Change>>,
}

#[derive(Debug)]
struct Stored {
    record: Versioned<Record>,
    lease: Option<LeaseId>,
}

type Change = (Key, Option<Versioned<Record>>);

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), revision: watch::Sender::new(1) }
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            // As in etcd: an empty store has revision 1, so that no record ever has revision 1.
            revision: 1,
            records: BTreeMap::new(),
            leases: BTreeMap::new(),
            leases_granted: 0,
            history: VecDeque::new(),
        }
    }
}

impl MemoryStore {
    /// Ends a lease, as if its holder had stopped renewing it: the records under it are deleted,
    /// and the holder learns that it is lost. A lease that is gone already is left so.
    pub fn expire(&self, lease: LeaseId) {
        let mut state = self.0.state.lock();
        let Some(lost) = state.leases.remove(&lease) else { return };
        let keys: Vec<Key> = state
            .records
            .iter()
            .filter(|(_, stored)| stored.lease == Some(lease))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            state.records.remove(key);
        }
        state.advance(keys.into_iter().map(|key| (key, None)).collect());
        lost.send_replace(true);
        self.0.revision.send_replace(state.revision);
    }
}

#[async_trait]
impl Metadata for MemoryStore {
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
        Ok(self.0.state.lock().snapshot(keys, ranges))
    }

    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        check::txn(txn)?;
        let mut state = self.0.state.lock();
        let outcome = state.commit(txn)?;
        self.0.revision.send_replace(state.revision);
        Ok(outcome)
    }

    async fn grant(&self, _ttl: Duration) -> Result<Lease, MetaError> {
        let mut state = self.0.state.lock();
        state.leases_granted += 1;
        let id = LeaseId(state.leases_granted);
        let (sender, lost) = watch::channel(false);
        state.leases.insert(id, sender);
        Ok(Lease::new(id, lost, Ender::Memory(self.clone())))
    }

    async fn watch(&self, range: Range) -> Result<Watch, MetaError> {
        let range = match range {
            Range::Names(after, _) => Range::Names(after, 0),
            range => range,
        };
        let grown = self.0.revision.subscribe();
        Ok(Watch::memory(MemoryWatch { store: self.clone(), range, grown, seen: None }))
    }
}

impl State {
    fn snapshot(&self, keys: &[Key], ranges: &[Range]) -> Snapshot {
        let mut snapshot = Snapshot { at: StoreRevision(self.revision), records: BTreeMap::new() };
        for key in keys {
            if let Some(stored) = self.records.get(key) {
                snapshot.records.insert(key.clone(), stored.record.clone());
            }
        }
        for range in ranges {
            let limit = match range {
                Range::Names(_, limit) if *limit != 0 => *limit as usize,
                _ => usize::MAX,
            };
            let found = self.records.iter().filter(|(key, _)| range.contains(key)).take(limit);
            snapshot.records.extend(found.map(|(key, stored)| (key.clone(), stored.record.clone())));
        }
        snapshot
    }

    fn commit(&mut self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        let revision = |key: &Key| self.records.get(key).map_or(Revision(0), |stored| stored.record.revision);
        if txn.compares.iter().any(|(key, expected)| revision(key) != *expected) {
            return Ok(TxnOutcome::Refused);
        }
        let leases = check::leases(txn);
        if leases.iter().any(|lease| !self.leases.contains_key(lease)) {
            return Err(MetaError::LeaseGone(leases));
        }
        let next = Revision(self.revision + 1);
        let mut changes = Vec::new();
        for write in &txn.writes {
            match write {
                Write::Put(key, record) => changes.push(self.put(key, record, None, next)),
                Write::PutLeased(key, record, lease) => {
                    changes.push(self.put(key, record, Some(*lease), next));
                }
                Write::Delete(key) => {
                    changes.extend(self.records.remove(key).map(|_| (key.clone(), None)));
                }
                Write::DeleteRange(range) => {
                    let deleted = self.records.extract_if(.., |key, _| range.contains(key));
                    changes.extend(deleted.map(|(key, _)| (key, None)));
                }
            }
        }
        self.advance(changes);
        Ok(TxnOutcome::Applied(Revision(self.revision)))
    }

    fn put(&mut self, key: &Key, record: &Record, lease: Option<LeaseId>, revision: Revision) -> Change {
        assert!(records::belongs(key, record), "checked before");
        let record = Versioned { revision, value: record.clone() };
        self.records.insert(key.clone(), Stored { record: record.clone(), lease });
        (key.clone(), Some(record))
    }

    /// A new revision with these changes; without any there is none.
    fn advance(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(changes);
    }

    /// What was changed in `range` after revision `seen`: the first such event, or none so far;
    /// and the revision up to which that is known.
    fn after(&self, seen: Option<u64>, range: &Range) -> (u64, Option<WatchEvent>) {
        let oldest = self.revision - self.history.len() as u64;
        let Some(seen) = seen.filter(|seen| *seen >= oldest) else {
            let snapshot = self.snapshot(&[], std::slice::from_ref(range));
            return (self.revision, Some(WatchEvent::Reset(snapshot)));
        };
        for (revision, changes) in (oldest + 1..).zip(&self.history).skip((seen - oldest) as usize) {
            let changes: Vec<Change> =
                changes.iter().filter(|(key, _)| range.contains(key)).cloned().collect();
            if !changes.is_empty() {
                let at = StoreRevision(revision);
                return (revision, Some(WatchEvent::Changed { at, changes }));
            }
        }
        (self.revision, None)
    }
}

/// A watch on a [`MemoryStore`]: it remembers what it has seen and asks the store for what follows.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    store: MemoryStore,
    range: Range,
    grown: watch::Receiver<u64>,
    seen: Option<u64>,
}

impl MemoryWatch {
    /// The next event. Cancel-safe: it only waits where nothing has been taken.
    pub(crate) async fn next(&mut self) -> WatchEvent {
        loop {
            let (seen, event) = self.store.0.state.lock().after(self.seen, &self.range);
            self.seen = Some(seen);
            if let Some(event) = event {
                return event;
            }
            let grown = self.grown.wait_for(|revision| *revision > seen).await;
            grown.expect("the store that this watch holds has the sender");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use piculet_quorum::ids::{LogId, Offset};
    use piculet_quorum::meta::TrimRecord;

    fn put(trim_offset: u64) -> Txn {
        let record = Record::Trim(TrimRecord { trim_offset: Offset(trim_offset) });
        Txn::default().put(Key::Trim(LogId(1)), record)
    }

    #[tokio::test]
    async fn a_watch_that_fell_too_far_behind_starts_over() {
        let store = MemoryStore::default();
        let mut watch = store.watch(Range::All).await.expect("memory never fails");
        assert!(matches!(watch.next().await, WatchEvent::Reset(_)));
        for n in 0..HISTORY_MAX as u64 {
            store.commit(&put(n)).await.expect("memory never fails");
        }
        let first = watch.next().await;
        assert!(matches!(first, WatchEvent::Changed { at: StoreRevision(2), .. }), "{first:?}");
        for n in 0..2 {
            store.commit(&put(n)).await.expect("memory never fails");
        }
        let WatchEvent::Reset(now) = watch.next().await else { panic!("revision 3 was forgotten") };
        assert_eq!(now, store.read(&[], &[Range::All]).await.expect("memory never fails"));
    }

    #[tokio::test]
    async fn an_expired_lease_is_lost() {
        let store = MemoryStore::default();
        let lease = store.grant(Duration::from_secs(5)).await.expect("memory never fails");
        store.clone().expire(lease.id());
        lease.lost().await;
        assert_eq!(lease.revoke().await, Ok(()));
    }
}
