//! T0: a new log.

use crate::error::Error;
use crate::pool::Pool;
use piculet_quorum::ids::{Level, LogId, LogName};
use piculet_quorum::meta::TxnOutcome;
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::wire::message::Proposal;
use tokio::time::Instant;

/// How a new log is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Whether to go on with what is left when so many nodes have lost their buffers that entries
    /// which were acknowledged may be lost. Readers are told where. If not, which is the default, the
    /// log waits for an operator then. It can be [changed](crate::Client::set_allow_loss) later.
    pub allow_loss: bool,
}

/// Creates a log.
///
/// # Errors
/// As [`Client::create_log`](crate::Client::create_log).
pub(crate) async fn create_log(
    pool: &Pool,
    name: &LogName,
    options: LogOptions,
    deadline: Instant,
) -> Result<LogId, Error> {
    loop {
        let log = random_log()?;
        let LogOptions { allow_loss } = options;
        let create = CreateLog { name: name.clone(), log, durability: Level::default(), allow_loss };
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
