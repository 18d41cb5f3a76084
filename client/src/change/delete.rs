//! A tombstone for a log.

use crate::error::Error;
use crate::pool::{CallError, Pool, nonce};
use piculet_quorum::ids::{LogName, Timestamp};
use piculet_quorum::meta::TxnOutcome;
use piculet_quorum::meta::delete::DeleteLog;
use piculet_quorum::wire::message::Proposal;
use std::time::SystemTime;
use tokio::time::Instant;

/// Deletes a log.
///
/// # Errors
/// As [`Client::delete_log`](crate::Client::delete_log).
pub(crate) async fn delete_log(pool: &Pool, name: &LogName, deadline: Instant) -> Result<(), Error> {
    let not_found = || Error::NotFound(name.clone());
    let log = pool.find_log(name).await?.ok_or_else(not_found)?;
    let mut proposed = false;
    loop {
        let read = match pool.view(log, None).await {
            Ok(view) => view.record,
            // The log is gone. It may have been us: an answer was lost. Somebody else's deletion at
            // the same moment comes to the same.
            Err(CallError::Gone(_)) if proposed => return Ok(()),
            Err(error) => return Err(error.of(name)),
        };
        let delete = DeleteLog { log, read, writer: nonce()?, at: now() };
        proposed = true;
        if let TxnOutcome::Applied(_) = pool.settle(Proposal::Delete(delete), deadline).await? {
            tracing::info!(%name, %log, "deleted a log");
            return Ok(());
        }
    }
}

fn now() -> Timestamp {
    // A clock before 1970 is no reason to keep a log: the time is for people to read.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
