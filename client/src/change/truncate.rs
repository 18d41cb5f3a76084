//! T4: entries that are no longer wanted.

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use crate::reader;
use piculet_quorum::ids::{LogName, Offset};
use piculet_quorum::meta::TxnOutcome;
use piculet_quorum::meta::trim::TrimLog;
use piculet_quorum::wire::message::Proposal;
use tokio::time::Instant;

/// Raises a log's trim offset to `before`. Returns the one that holds afterwards.
///
/// # Errors
/// As [`Client::truncate_log`](crate::Client::truncate_log).
pub(crate) async fn truncate_log(
    pool: &Pool,
    options: &ClientOptions,
    name: &LogName,
    before: Offset,
) -> Result<Offset, Error> {
    let log = pool.find_log(name).await?.ok_or_else(|| Error::NotFound(name.clone()))?;
    let mut trim = pool.view(log, None).await.map_err(|error| error.of(name))?.trim;
    if before <= trim.value.trim_offset {
        return Ok(trim.value.trim_offset);
    }
    let tail = reader::check_tail(pool, options, name, log).await?;
    if before > tail {
        return Err(Error::BeyondTail { offset: before, tail });
    }
    let deadline = Instant::now() + options.call_timeout * 2;
    while before > trim.value.trim_offset {
        let proposal = Proposal::Trim(TrimLog { log, read: trim, to: before });
        if let TxnOutcome::Applied(_) = pool.settle(proposal, deadline).await? {
            return Ok(before);
        }
        // Ours, should its answer have been lost, or somebody else's.
        trim = pool.view(log, None).await.map_err(|error| error.of(name))?.trim;
    }
    Ok(trim.value.trim_offset)
}
