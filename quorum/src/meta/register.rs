//! What a node's start writes: the cluster's identity, its buffer's next life, itself.

use super::{ClusterRecord, IncarnationRecord, Key, RECORD_FORMAT, Record, Txn, Versioned};
use crate::ids::{Incarnation, Level, NodeId, Nonce, Revision};

/// The first node ever names the cluster.
#[must_use]
pub fn name_cluster(cluster: Nonce) -> Txn {
    let record = Record::Cluster(ClusterRecord { cluster, format: RECORD_FORMAT });
    Txn::default().when(Key::Cluster, Revision(0)).put(Key::Cluster, record)
}

/// The next life of a buffer: compare-and-swap with a fresh nonce. The life is mine if my nonce is
/// in the record.
#[must_use]
pub fn next_life(
    node: &NodeId,
    level: Level,
    read: Option<&Versioned<IncarnationRecord>>,
    nonce: Nonce,
) -> (Incarnation, Txn) {
    let key = Key::Incarnation(node.clone(), level);
    let incarnation = read.map_or(Incarnation(1), |read| read.value.incarnation.plus(1));
    let revision = read.map_or(Revision(0), |read| read.revision);
    let record = Record::Incarnation(IncarnationRecord { incarnation, nonce });
    (incarnation, Txn::default().when(key.clone(), revision).put(key, record))
}
