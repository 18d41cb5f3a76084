//! Guarded transactions as data. Stores and simulators interpret them; the protocol makes them.

use super::key::{Key, Range};
use super::record::Record;
use super::view::Snapshot;
use crate::ids::Revision;
use serde::{Deserialize, Serialize};

/// All writes happen, together, if every compare holds; otherwise none does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Txn {
    /// Keys whose revision must be the one given; 0: must be absent.
    pub compares: Vec<(Key, Revision)>,
    /// What is written then.
    pub writes: Vec<Write>,
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Write {
    /// Puts a record that stays.
    Put(Key, Record),
    /// Puts a record that goes when the lease ends.
    PutLeased(Key, Record, LeaseId),
    /// Deletes a key.
    Delete(Key),
    /// Deletes every key of a range.
    DeleteRange(Range),
}

/// Identity of a lease in the store that granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub i64);

/// What became of a transaction whose outcome is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TxnOutcome {
    /// It was carried out; everything that it put has this revision.
    Applied(Revision),
    /// A compare did not hold: read again, then decide.
    Refused,
}

impl Txn {
    /// Adds a compare. Two that contradict each other make a transaction that is always refused.
    #[must_use]
    pub fn when(mut self, key: Key, revision: Revision) -> Self {
        if !self.compares.contains(&(key.clone(), revision)) {
            self.compares.push((key, revision));
        }
        self
    }

    /// Whether every compare holds in `now`, for which the keys compared were read. Revisions never
    /// come back: a key that has moved on stays so, and one that quotes what is not yet made it up.
    #[must_use]
    pub fn holds(&self, now: &Snapshot) -> bool {
        self.compares.iter().all(|(key, revision)| now.revision(key) == *revision)
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: Key, record: Record) -> Self {
        self.writes.push(Write::Put(key, record));
        self
    }
}
