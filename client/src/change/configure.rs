//! A change of a log's settings.

use crate::error::Error;
use crate::pool::Pool;
use piculet_quorum::ids::LogName;
use piculet_quorum::meta::configure::ConfigureLog;
use piculet_quorum::meta::{ConfigRecord, TxnOutcome};
use piculet_quorum::wire::message::Proposal;
use tokio::time::Instant;

/// Says whether what too many nodes have forgotten of a log is given up.
///
/// # Errors
/// As [`Client::set_allow_loss`](crate::Client::set_allow_loss).
pub(crate) async fn set_allow_loss(
    pool: &Pool,
    name: &LogName,
    allow_loss: bool,
    deadline: Instant,
) -> Result<(), Error> {
    let log = pool.find_log(name).await?.ok_or_else(|| Error::NotFound(name.clone()))?;
    loop {
        let read = pool.view(log, None).await.map_err(|error| error.of(name))?.config;
        if read.value.allow_loss == allow_loss {
            return Ok(());
        }
        let config = ConfigRecord { allow_loss, ..read.value.clone() };
        let proposal = Proposal::Configure(ConfigureLog { log, read, config });
        if let TxnOutcome::Applied(_) = pool.settle(proposal, deadline).await.map_err(|e| e.of(name))? {
            return Ok(());
        }
    }
}
