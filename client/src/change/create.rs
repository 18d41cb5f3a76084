//! T0: a new log.

use crate::error::Error;
use crate::pool::Pool;
use piculet_quorum::ids::{Level, LogId, LogName};
use piculet_quorum::limits::ACK_QUORUM;
use piculet_quorum::meta::TxnOutcome;
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::wire::message::Proposal;
use tokio::time::Instant;

/// How a new log is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// What an append is acknowledged for: [`Level::Memory`] survives the loss of any one machine and
    /// a crash of all three nodes' processes; [`Level::Disk`] a power cut of everything as well;
    /// [`Level::Object`] the loss of every node, and its writers need the object store
    /// (`ClientOptions::store`). It cannot be changed later.
    pub durability: Level,
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
    let LogOptions { durability, allow_loss } = options;
    if durability == Level::Disk {
        check_buffers(pool, durability).await?;
    }
    loop {
        let log = random_log()?;
        let create = CreateLog { name: name.clone(), log, durability, allow_loss };
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

/// Checks that there can be a segment of this level: a buffer for it is a setting of each node.
async fn check_buffers(pool: &Pool, level: Level) -> Result<(), Error> {
    let nodes = pool.nodes().await?;
    let with: Vec<_> = nodes.iter().filter(|(_, view)| view.lives.contains_key(&level)).collect();
    if with.len() >= ACK_QUORUM {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "a log of durability {level} needs {ACK_QUORUM} nodes with a buffer of that level, and {} of {} have one; set buffer.{level}.dir on the nodes and start them again",
        with.len(),
        nodes.len()
    )))
}

fn random_log() -> Result<LogId, Error> {
    let random = getrandom::u64();
    random.map(LogId).map_err(|error| Error::Refused(format!("the system has no random numbers: {error}")))
}
