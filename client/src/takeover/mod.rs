//! A takeover: the new epoch, the recovery of the last segment, and the next one.
//!
//! | step | where |
//! |---|---|
//! | T1, before any fence is sent | [`claim`] |
//! | R2 to R5: fence, find the end, copy | [`recover`], [`copy`] |
//! | R6 and T2, or T2c: publish the end, create the next segment | [`publish`] |
//!
//! A transaction of unknown outcome is repeated as it is until one outcome or the other is known.
//! A refused one means that something was read that is no longer so: it is read again.

mod claim;
mod copy;
mod publish;
mod recover;
#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{CallError, Pool};
use piculet_quorum::ids::{Epoch, LogId, LogName, SegmentNumber};
use piculet_quorum::meta::{LogRecord, SegmentRecord, TxnOutcome, Versioned};
use piculet_quorum::wire::message::Proposal;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause before something is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// A log that was taken over, with its newest segment open, empty and ours.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// The log.
    pub(crate) log: LogId,
    /// Its name.
    pub(crate) name: LogName,
    /// Its record, with our epoch.
    pub(crate) record: Versioned<LogRecord>,
    /// The segment.
    pub(crate) number: SegmentNumber,
    /// Its record.
    pub(crate) segment: Versioned<SegmentRecord>,
}

/// What every step of a takeover needs.
struct Takeover<'a> {
    pool: &'a Pool,
    options: &'a ClientOptions,
    log: LogId,
    name: &'a LogName,
    deadline: Instant,
}

/// Takes a log over.
///
/// # Errors
/// As [`Client::take_over`](crate::Client::take_over).
pub(crate) async fn take_over(pool: &Pool, options: &ClientOptions, name: &LogName) -> Result<Taken, Error> {
    let log = pool.find_log(name).await?.ok_or_else(|| Error::NotFound(name.clone()))?;
    let deadline = Instant::now() + options.takeover_timeout;
    let takeover = Takeover { pool, options, log, name, deadline };
    let claimed = takeover.claim().await?;
    loop {
        let view = pool.view(log, None).await?;
        if view.record.value.writer != claimed.writer {
            return Err(taken_by(view.record.value.epoch));
        }
        let seal = match view.open_segment() {
            Some((number, segment)) if segment.record.value.epoch == claimed.epoch => {
                // Ours already: an earlier proposal landed after all.
                let (record, segment) = (view.record.clone(), segment.record.clone());
                return Ok(Taken { log, name: name.clone(), record, number, segment });
            }
            Some((number, segment)) => Some(takeover.recover(claimed.epoch, number, segment).await?),
            None => None,
        };
        if let Some(taken) = takeover.publish(&view, seal).await? {
            let number = taken.number;
            tracing::info!(log = %name, epoch = %claimed.epoch, segment = %number, "took the log over");
            return Ok(taken);
        }
        takeover.pause("the metadata keep changing").await?;
    }
}

impl Takeover<'_> {
    /// Carries out a transaction, repeating it as it is until its outcome is known.
    async fn settle(&self, proposal: Proposal) -> Result<TxnOutcome, Error> {
        loop {
            match self.pool.propose(proposal.clone()).await {
                Ok(outcome) => return Ok(outcome),
                Err(CallError::Unknown(why) | CallError::NoNode(why)) => {
                    tracing::debug!(%why, "a transaction of unknown outcome is repeated");
                    self.pause(&why).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits a moment, unless the takeover has taken too long already.
    async fn pause(&self, why: &str) -> Result<(), Error> {
        if Instant::now() >= self.deadline {
            return Err(Error::TakeOver(format!(
                "given up after {:?}: {why}",
                self.options.takeover_timeout
            )));
        }
        sleep(RETRY).await;
        Ok(())
    }
}

fn taken_by(epoch: Epoch) -> Error {
    Error::TakeOver(format!("another writer took it over meanwhile, in epoch {epoch}"))
}
