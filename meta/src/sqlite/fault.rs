//! What an error of sqlite means.

use super::CALL_TIMEOUT;
use crate::error::MetaError;
use rusqlite::{Error, ErrorCode};

/// Why work on a database failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// Another process held it. Nothing was written, and it is worth another try.
    #[error("{0}")]
    Busy(String),
    /// Nothing was written.
    #[error("{0}")]
    Before(String),
    /// It failed while the transaction was made durable: it may have been written.
    #[error("{0}")]
    Unknown(String),
    /// As it says; nothing was written.
    #[error(transparent)]
    For(MetaError),
}

/// What fails before a transaction is committed is rolled back with it.
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        if busy(&error) { Self::Busy(text(&error)) } else { Self::Before(text(&error)) }
    }
}

impl Failed {
    /// What a failed COMMIT means. Frames may be in the WAL whose sync failed: no reader sees them,
    /// but the recovery after a crash may. Only with the lock not taken there are none.
    pub(super) fn of_commit(error: &Error) -> Self {
        if busy(error) { Self::Busy(text(error)) } else { Self::Unknown(text(error)) }
    }
}

/// Whether another process is in the way, for the moment.
pub(super) fn busy(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The error as text, with what to do where that is known.
pub(super) fn text(error: &Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            return format!(
                "{error} by another process for {CALL_TIMEOUT:?}; look for a stopped or foreign process that has it open"
            );
        }
        Some(ErrorCode::DiskFull) => "make room on its file system",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "the file and its directory must be writable for the user that runs this"
        }
        Some(ErrorCode::CannotOpen) => {
            "it must be a file in a directory that is writable too, for sqlite keeps files beside it"
        }
        Some(ErrorCode::NotADatabase) => "name another file",
        Some(ErrorCode::DatabaseCorrupt) => "the file is damaged, restore it from a backup",
        Some(ErrorCode::SystemIoFailure) => "check its disk and that its file system is a local one",
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}
