//! A takeover: the new epoch, the recovery of the last segment, and the next one.
//!
//! | step | where |
//! |---|---|
//! | for an exclusive open: has the writer before gone | [`free`] |
//! | T1, before any fence is sent | [`claim`] |
//! | R2 to R5: fence, find the end, copy | [`recover`], [`copy`] |
//! | R6 and T2, or T2c: publish the end, create the next segment | [`publish`] |
//! | T6: what is lost of a segment that was sealed before | [`loss`] |
//!
//! There are three forms of it: [`take_over`] by force, [`open`] when the writer before has gone,
//! and [`recover_log`], which makes no segment and leaves the log without a writer.
//!
//! A transaction of unknown outcome is repeated as it is until one outcome or the other is known.
//! A refused one means that something was read that is no longer so: it is read again.

mod claim;
mod copy;
mod free;
mod loss;
mod publish;
mod recover;
#[cfg(test)]
mod tests;

pub(crate) use loss::record_loss;

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{CallError, Pool};
use crate::store::Store;
use piculet_quorum::ids::{Epoch, Level, LogId, LogName, SegmentNumber};
use piculet_quorum::limits::HOLDER_BYTES_MAX;
use piculet_quorum::meta::{LogRecord, LogView, SegmentRecord, TxnOutcome, Versioned};
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
    /// Where the writer will archive, at level `object`; none when there will be no writer.
    store: Option<&'a Store>,
    log: LogId,
    name: &'a LogName,
    /// What we call ourselves in the log's record; none when nobody means to write.
    holder: Option<String>,
    deadline: Instant,
}

/// Takes a log over, whoever has it.
///
/// # Errors
/// As [`Client::take_over`](crate::Client::take_over).
pub(crate) async fn take_over(
    pool: &Pool,
    store: &Store,
    options: &ClientOptions,
    name: &LogName,
) -> Result<Taken, Error> {
    let takeover = Takeover::find(pool, store, options, name).await?;
    let claimed = takeover.claim().await?;
    takeover.take(&claimed).await
}

/// Takes a log over that has no live writer.
///
/// # Errors
/// As [`Client::open`](crate::Client::open).
pub(crate) async fn open(
    pool: &Pool,
    store: &Store,
    options: &ClientOptions,
    name: &LogName,
) -> Result<Taken, Error> {
    let takeover = Takeover::find(pool, store, options, name).await?;
    loop {
        let judged = takeover.free().await?;
        if let Some(claimed) = takeover.claim_from(judged).await? {
            return takeover.take(&claimed).await;
        }
        takeover.pause("its record keeps changing").await?;
    }
}

/// Seals a log's open segment in a new epoch, made from this very record and from no other.
///
/// # Errors
/// As [`Client::recover_log`](crate::Client::recover_log).
pub(crate) async fn recover_log(
    pool: &Pool,
    options: &ClientOptions,
    log: LogId,
    read: Versioned<LogRecord>,
) -> Result<bool, Error> {
    let name = read.value.name.clone();
    let holder = Some(cut(&format!("recovery by {}", options.name)));
    let deadline = Instant::now() + options.takeover_timeout;
    let takeover = Takeover { pool, options, store: None, log, name: &name, holder, deadline };
    let view = takeover.view().await?;
    if view.record != read {
        return Ok(false);
    }
    if view.open_segment().is_none() {
        return Ok(true);
    }
    let Some(claimed) = takeover.claim_from(read).await? else { return Ok(false) };
    takeover.seal(&claimed).await?;
    tracing::info!(log = %name, epoch = %claimed.epoch, "recovered a log without a writer");
    Ok(true)
}

/// A name as a record takes it.
pub(crate) fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(HOLDER_BYTES_MAX)].to_owned()
}

impl<'a> Takeover<'a> {
    async fn find(
        pool: &'a Pool,
        store: &'a Store,
        options: &'a ClientOptions,
        name: &'a LogName,
    ) -> Result<Self, Error> {
        let log = pool.find_log(name).await?.ok_or_else(|| Error::NotFound(name.clone()))?;
        let deadline = Instant::now() + options.takeover_timeout;
        let holder = Some(cut(&options.name));
        Ok(Self { pool, options, store: Some(store), log, name, holder, deadline })
    }

    /// The log with its newest segments.
    async fn view(&self) -> Result<Box<LogView>, Error> {
        self.pool.view(self.log, None).await.map_err(|error| error.of(self.name))
    }

    /// The same, for as long as the epoch is ours.
    async fn view_of_ours(&self, claimed: &LogRecord) -> Result<Box<LogView>, Error> {
        let view = self.view().await?;
        if view.record.value.writer == claimed.writer {
            Ok(view)
        } else {
            Err(taken_by(view.record.value.epoch))
        }
    }

    /// Makes sure, before anything is changed, that this client can write a log of this level.
    async fn check_store(&self, view: &LogView) -> Result<(), Error> {
        match self.store.filter(|_| view.durability() == Level::Object) {
            Some(store) => store.ready(self.pool, self.name).await,
            None => Ok(()),
        }
    }

    /// Seals what is open, and opens a segment of ours.
    async fn take(&self, claimed: &LogRecord) -> Result<Taken, Error> {
        loop {
            let view = self.view_of_ours(claimed).await?;
            let seal = match view.open_segment() {
                Some((number, segment)) if segment.record.value.epoch == claimed.epoch => {
                    // Ours already: an earlier proposal landed after all.
                    let (record, segment) = (view.record.clone(), segment.record.clone());
                    return Ok(Taken { log: self.log, name: self.name.clone(), record, number, segment });
                }
                Some((number, segment)) => Some(self.recover(claimed.epoch, number, segment, &view).await?),
                None => None,
            };
            if let Some(taken) = self.publish(&view, seal).await? {
                let number = taken.number;
                tracing::info!(log = %self.name, epoch = %claimed.epoch, segment = %number, "took the log over");
                self.give_up_older(&view).await;
                return Ok(taken);
            }
            self.pause("the metadata keep changing").await?;
        }
    }

    /// Seals what is open.
    async fn seal(&self, claimed: &LogRecord) -> Result<(), Error> {
        loop {
            let view = self.view_of_ours(claimed).await?;
            let Some((number, segment)) = view.open_segment() else { return Ok(()) };
            let seal = self.recover(claimed.epoch, number, segment, &view).await?;
            if self.publish_end(&view, seal).await? {
                return Ok(());
            }
            self.pause("the metadata keep changing").await?;
        }
    }

    /// Carries out a transaction, repeating it as it is until its outcome is known.
    async fn settle(&self, proposal: Proposal) -> Result<TxnOutcome, Error> {
        match self.pool.settle(proposal, self.deadline).await {
            Err(CallError::Unknown(why) | CallError::NoNode(why)) => Err(self.given_up(&why)),
            settled => settled.map_err(|error| error.of(self.name)),
        }
    }

    /// Waits a moment, unless the takeover has taken too long already.
    async fn pause(&self, why: &str) -> Result<(), Error> {
        if Instant::now() >= self.deadline {
            return Err(self.given_up(why));
        }
        sleep(RETRY).await;
        Ok(())
    }

    fn given_up(&self, why: &str) -> Error {
        Error::TakeOver(format!("given up after {:?}: {why}", self.options.takeover_timeout))
    }
}

fn taken_by(epoch: Epoch) -> Error {
    Error::TakeOver(format!(
        "another writer took it over meanwhile, in epoch {epoch}; try again when that has gone"
    ))
}
