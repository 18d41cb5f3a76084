//! T0: a new log.

use crate::error::Error;
use crate::pool::Pool;
use piculet_quorum::ids::{Level, LogId, LogName};
use piculet_quorum::meta::TxnOutcome;
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::wire::message::Proposal;
use tokio::time::Instant;

/// Creates a log.
///
/// # Errors
/// As [`Client::create_log`](crate::Client::create_log).
pub(crate) async fn create_log(pool: &Pool, name: &LogName, deadline: Instant) -> Result<LogId, Error> {
    loop {
        let log = random_log()?;
        let create = CreateLog { name: name.clone(), log, durability: Level::default() };
        if let TxnOutcome::Applied(_) = pool.settle(Proposal::Create(create), deadline).await? {
            return Ok(log);
        }
        match pool.find_log(name).await? {
            Some(found) if found == log => return Ok(log),
            Some(_) => return Err(Error::AlreadyExists(name.clone())),
            // The id is taken, or another log of this name came and went: a new attempt.
            None => {}
        }
    }
}

fn random_log() -> Result<LogId, Error> {
    let random = getrandom::u64();
    random.map(LogId).map_err(|error| Error::Refused(format!("the system has no random numbers: {error}")))
}
