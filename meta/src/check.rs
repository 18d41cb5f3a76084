//! What both stores ask of a transaction before they try it, so that neither carries out what the
//! other would refuse.

use crate::error::MetaError;
use crate::records;
use piculet_quorum::limits::TXN_OPS_MAX;
use piculet_quorum::meta::{Key, LeaseId, Range, Txn, Write};

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
