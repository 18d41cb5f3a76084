//! What an error of the client library means for the one who called.
//!
//! etcd's own errors are known by their text (its clients have no other way), which always starts
//! with `etcdserver:`; anything else comes from the connection. The codes are gRPC's.

use super::ADVICE;
use crate::check;
use crate::error::MetaError;
use etcd_client::Error;
use piculet_quorum::meta::Txn;
use std::error::Error as _;

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

/// What a server says to a client whose certificate it does not accept, or that has none.
const CERTIFICATE_ALERTS: [&str; 9] = [
    "AccessDenied",
    "BadCertificate",
    "CertificateExpired",
    "CertificateRequired",
    "CertificateRevoked",
    "CertificateUnknown",
    "HandshakeFailure",
    "UnknownCA",
    "UnsupportedCertificate",
];

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadFault {
    /// It may succeed when it is repeated; what to say when it does not.
    Transient(MetaError),
    /// The revision that was asked for is no longer there: the read must start over.
    Moved(String),
    /// etcd does not want to answer it at all.
    Refused(MetaError),
}

/// What a failed read means.
pub(super) fn of_read(error: &Error) -> ReadFault {
    if let Some(why) = denied(error) {
        return ReadFault::Refused(MetaError::Denied(why));
    }
    match from_etcd(error) {
        Some((OUT_OF_RANGE, _)) => ReadFault::Moved(text(error)),
        Some((INVALID_ARGUMENT, _)) if !stale_token(error) => {
            ReadFault::Refused(MetaError::Invalid(text(error)))
        }
        // Another member may have a better certificate.
        _ => ReadFault::Transient(not_reached(error)),
    }
}

/// What it means that a lease was not granted, or that the log-in failed: nothing was written.
pub(super) fn of_grant(error: &Error) -> MetaError {
    denied(error).map_or_else(|| not_reached(error), MetaError::Denied)
}

/// What a failed transaction means. Whatever is not certain is unknown: also "no space", which
/// etcd answers to a transaction that it has carried out when the quota filled up meanwhile.
pub(super) fn of_commit(error: &Error, txn: &Txn) -> MetaError {
    if let Some(why) = denied(error) {
        return MetaError::Denied(why);
    }
    match from_etcd(error) {
        Some((NOT_FOUND, "etcdserver: requested lease not found")) => {
            MetaError::LeaseGone(check::leases(txn))
        }
        // Found out before the transaction is carried out; the next one goes out with a new token.
        Some(_) if stale_token(error) => MetaError::Unavailable(text(error)),
        Some((INVALID_ARGUMENT, _)) => MetaError::Invalid(text(error)),
        // Answered before the transaction is handed to the other members.
        Some((_, "etcdserver: too many requests")) => MetaError::Unavailable(text(error)),
        _ if never_sent(error) => not_reached(error),
        _ => MetaError::Unknown(text(error)),
    }
}

/// Whether the error says that there is no such lease.
pub(super) fn lease_not_found(error: &Error) -> bool {
    // The library's own variant stands for an answer with a ttl of zero.
    matches!(error, Error::LeaseKeepAliveError(_)) || matches!(from_etcd(error), Some((NOT_FOUND, _)))
}

/// Whether users or their rights were changed after the token was given out: a new one will do.
pub(super) fn stale_token(error: &Error) -> bool {
    matches!(from_etcd(error), Some((_, "etcdserver: revision of auth store is old")))
}

/// The error as text.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => {
            let mut text = status.message().to_owned();
            if text.is_empty() {
                text = format!("grpc code {}", status.code() as i32);
            }
            match status.source().map(innermost) {
                Some(why) if why != text => format!("{text}: {why}"),
                _ => text,
            }
        }
        Error::TransportError(error) => innermost(error),
        error => error.to_string(),
    }
}

/// Nobody was reached who could have carried anything out.
fn not_reached(error: &Error) -> MetaError {
    match handshake(error) {
        Some(why) => MetaError::Denied(why),
        None => {
            let why = text(error);
            let tls = if why.contains("tls handshake") { ", and that it speaks TLS" } else { "" };
            MetaError::Unavailable(format!("{why}; {ADVICE}{tls}"))
        }
    }
}

/// Why etcd does not let us do it, with what to look at.
fn denied(error: &Error) -> Option<String> {
    let advice = match from_etcd(error)? {
        (INVALID_ARGUMENT, "etcdserver: user name is empty") => "etcd wants a user name and a password",
        (_, "etcdserver: authentication failed, invalid user ID or password") => {
            "check the user name and the password"
        }
        (FAILED_PRECONDITION, "etcdserver: authentication is not enabled") => {
            "etcd has no users: leave the user name and the password out"
        }
        (PERMISSION_DENIED, _) => "the user needs a role that reads and writes the keys under the prefix",
        (UNAUTHENTICATED, _) => "check the user name and the password",
        _ => return None,
    };
    Some(format!("{}; {advice}", text(error)))
}

/// Why a TLS handshake failed, if it did, with what to look at. Known by its text: an alert that
/// comes after our half of the handshake has lost its type on the way here.
fn handshake(error: &Error) -> Option<String> {
    let Error::GRpcStatus(status) = error else { return None };
    let why = innermost(status.source()?);
    let advice = if why.starts_with("invalid peer certificate") {
        "etcd's certificate is not one to trust: check the ca, the name or address in the url, and the clock"
    } else if CERTIFICATE_ALERTS.contains(&why.strip_prefix("received fatal alert: ")?) {
        "etcd wants another client certificate: check the cert and the key"
    } else {
        return None;
    };
    Some(format!("{why}; {advice}"))
}

/// Code and text of an error that etcd itself answered with.
fn from_etcd(error: &Error) -> Option<(i32, &str)> {
    let Error::GRpcStatus(status) = error else { return None };
    status.message().starts_with("etcdserver:").then(|| (status.code() as i32, status.message()))
}

/// Whether nobody was there to send it to, or nobody who would have taken it.
fn never_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let Some(source) = status.source() else { return false };
    handshake(error).is_some()
        || innermost_io(source).is_some_and(|kind| kind == std::io::ErrorKind::ConnectionRefused)
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
