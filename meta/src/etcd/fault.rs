//! What an error of the client library means for the one who called.
//!
//! etcd's own errors are known by their text (its clients have no other way), which always starts
//! with `etcdserver:`; anything else comes from the connection. The codes are gRPC's.

use crate::check;
use crate::error::MetaError;
use etcd_client::Error;
use piculet_quorum::meta::Txn;
use std::error::Error as _;

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadFault {
    /// It may succeed when it is repeated.
    Transient(String),
    /// The revision that was asked for is no longer there: the read must start over.
    Moved(String),
    /// etcd does not want to answer it at all.
    Refused(String),
}

/// What a failed read means.
pub(super) fn of_read(error: &Error) -> ReadFault {
    match from_etcd(error) {
        Some((OUT_OF_RANGE, _)) => ReadFault::Moved(text(error)),
        Some((INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED, _)) => ReadFault::Refused(text(error)),
        _ => ReadFault::Transient(text(error)),
    }
}

/// What a failed transaction means. Whatever is not certain is unknown: also "no space", which
/// etcd answers to a transaction that it has carried out when the quota filled up meanwhile.
pub(super) fn of_commit(error: &Error, txn: &Txn) -> MetaError {
    match from_etcd(error) {
        Some((NOT_FOUND, "etcdserver: requested lease not found")) => {
            MetaError::LeaseGone(check::leases(txn))
        }
        Some((INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED, _)) => MetaError::Invalid(text(error)),
        // Answered before the transaction is handed to the other members.
        Some((_, "etcdserver: too many requests")) => MetaError::Unavailable(text(error)),
        _ if never_sent(error) => MetaError::Unavailable(text(error)),
        _ => MetaError::Unknown(text(error)),
    }
}

/// Whether the error says that there is no such lease.
pub(super) fn lease_not_found(error: &Error) -> bool {
    // The library's own variant stands for an answer with a ttl of zero.
    matches!(error, Error::LeaseKeepAliveError(_)) || matches!(from_etcd(error), Some((NOT_FOUND, _)))
}

/// The error as text.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => {
            let mut text = status.message().to_owned();
            if text.is_empty() {
                text = format!("grpc code {}", status.code() as i32);
            }
            match status.source() {
                Some(source) => format!("{text}: {}", innermost(source)),
                None => text,
            }
        }
        error => error.to_string(),
    }
}

/// Code and text of an error that etcd itself answered with.
fn from_etcd(error: &Error) -> Option<(i32, &str)> {
    let Error::GRpcStatus(status) = error else { return None };
    status.message().starts_with("etcdserver:").then(|| (status.code() as i32, status.message()))
}

/// Whether nobody was there to send it to.
fn never_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let Some(source) = status.source() else { return false };
    innermost_io(source).is_some_and(|kind| kind == std::io::ErrorKind::ConnectionRefused)
}

fn innermost_io(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    chain(error).filter_map(|error| error.downcast_ref::<std::io::Error>()).map(std::io::Error::kind).last()
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
