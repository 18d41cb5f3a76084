//! A tombstone for a log.

use crate::error::Error;
use crate::pool::{CallError, Pool, nonce};
use futures::future::join_all;
use piculet_quorum::ids::{Epoch, LogName, Timestamp};
use piculet_quorum::meta::delete::DeleteLog;
use piculet_quorum::meta::{LogView, TxnOutcome};
use piculet_quorum::wire::message::{Address, Proposal, Refusal, Request};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};

/// A member that does not answer within this time is not waited for.
const SILENT: Duration = Duration::from_millis(1500);

/// Deletes a log.
///
/// # Errors
/// As [`Client::delete_log`](crate::Client::delete_log).
pub(crate) async fn delete_log(pool: &Pool, name: &LogName, deadline: Instant) -> Result<(), Error> {
    let not_found = || Error::NotFound(name.clone());
    let log = pool.find_log(name).await?.ok_or_else(not_found)?;
    let mut proposed = false;
    loop {
        let view = match pool.view(log, None).await {
            Ok(view) => view,
            // The log is gone. It may have been us: an answer was lost. Somebody else's deletion at
            // the same moment comes to the same.
            Err(CallError::Gone(_)) if proposed => return Ok(()),
            Err(error) => return Err(error.of(name)),
        };
        let delete = DeleteLog { log, read: view.record.clone(), writer: nonce()?, at: now() };
        let epoch = delete.record().epoch;
        proposed = true;
        if let TxnOutcome::Applied(_) = pool.settle(Proposal::Delete(delete), deadline).await? {
            tell(pool, &view, epoch).await;
            tracing::info!(%name, %log, "deleted a log");
            return Ok(());
        }
    }
}

/// Tells the members of the open segment, which would learn of it from the metadata a moment later:
/// none of them acknowledges an append from here on. One that does not answer is not waited for long.
async fn tell(pool: &Pool, view: &LogView, epoch: Epoch) {
    let Some((segment, seen)) = view.open_segment() else { return };
    let told = seen.record.value.ensemble.iter().map(|member| async move {
        let at = Address { log: view.log, segment, epoch, incarnation: member.incarnation };
        match timeout(SILENT, pool.call_node(&member.node, &Request::Fence(at))).await {
            // That is how a member says that it knows.
            Ok(Ok(_) | Err(CallError::Refused(Refusal::Deleted | Refusal::WrongIncarnation { .. }))) => {}
            Ok(Err(error)) => {
                tracing::debug!(node = %member.node, %error, "a member may not know of a deletion")
            }
            Err(_) => tracing::debug!(node = %member.node, "a member does not answer to a deletion"),
        }
    });
    join_all(told).await;
}

fn now() -> Timestamp {
    // A clock before 1970 is no reason to keep a log: the time is for people to read.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
