//! What the stores ask of a transaction, so that none carries out what another would refuse.

use crate::error::MetaError;
use crate::records;
use piculet_quorum::limits::TXN_OPS_MAX;
use piculet_quorum::meta::{Key, LeaseId, Range, Txn, Write};

/// Largest transaction, in bytes; etcd's own limit is 1.5 MiB.
const TXN_BYTES_MAX: usize = 1 << 20;

/// Refuses a transaction whose keys and records have so many bytes.
pub(crate) fn bytes(bytes: usize) -> Result<(), MetaError> {
    if bytes > TXN_BYTES_MAX {
        let why = format!("a transaction of {bytes} bytes; at most {TXN_BYTES_MAX} fit, split it");
        return Err(MetaError::Invalid(why));
    }
    Ok(())
}

/// Refuses a transaction that etcd would refuse, or that would put a record where it does not
/// belong.
pub(crate) fn txn(txn: &Txn) -> Result<(), MetaError> {
    let invalid = |why: String| Err(MetaError::Invalid(why));
    let (compares, writes) = (txn.compares.len(), txn.writes.len());
    if compares > TXN_OPS_MAX || writes > TXN_OPS_MAX {
        return invalid(format!(
            "a transaction of {compares} compares and {writes} writes; at most {TXN_OPS_MAX} of each fit, split it"
        ));
    }
    for (at, write) in txn.writes.iter().enumerate() {
        match write {
            Write::Put(key, record) | Write::PutLeased(key, record, _) => {
                if !records::belongs(key, record) {
                    return invalid(format!("{record:?} does not belong under {key:?}"));
                }
                if txn.writes.iter().enumerate().any(|(other, write)| other != at && touches(write, key)) {
                    return invalid(format!("a transaction that writes {key:?} twice"));
                }
            }
            Write::DeleteRange(Range::Names(_, limit)) if *limit != 0 => {
                return invalid(format!(
                    "a range of {limit} names cannot be deleted; only a whole range can"
                ));
            }
            Write::Delete(_) | Write::DeleteRange(_) => {}
        }
    }
    Ok(())
}

/// The leases that a transaction puts records under.
pub(crate) fn leases(txn: &Txn) -> Vec<LeaseId> {
    let mut leases: Vec<LeaseId> = txn
        .writes
        .iter()
        .filter_map(|write| if let Write::PutLeased(_, _, lease) = write { Some(*lease) } else { None })
        .collect();
    leases.sort_unstable();
    leases.dedup();
    leases
}

fn touches(write: &Write, key: &Key) -> bool {
    match write {
        Write::Put(other, _) | Write::PutLeased(other, ..) | Write::Delete(other) => other == key,
        Write::DeleteRange(range) => range.contains(key),
    }
}
