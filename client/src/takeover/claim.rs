//! T1: the new epoch.

use super::{Takeover, taken_by};
use crate::error::Error;
use crate::pool::nonce;
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::{LogRecord, TxnOutcome, Versioned};
use piculet_quorum::wire::message::Proposal;

/// How often the epoch is tried for when others take the log over at the same time.
const ATTEMPTS: u32 = 5;

impl Takeover<'_> {
    /// Makes a new epoch of the log, ours, whoever has it.
    pub(super) async fn claim(&self) -> Result<LogRecord, Error> {
        let mut epoch = None;
        for _ in 0..ATTEMPTS {
            let view = self.view().await?;
            self.check_store(&view).await?;
            let read = view.record;
            epoch = Some(read.value.epoch);
            if let Some(record) = self.claim_from(read).await? {
                return Ok(record);
            }
        }
        Err(taken_by(epoch.unwrap_or_default()))
    }

    /// Makes a new epoch of the log, ours, unless its record is no longer the one that was read: our
    /// nonce is in the new one.
    pub(super) async fn claim_from(&self, read: Versioned<LogRecord>) -> Result<Option<LogRecord>, Error> {
        // A fresh value for every attempt: an older one that lands late is not taken for it.
        let takeover = TakeOver { log: self.log, read, writer: nonce()?, holder: self.holder.clone() };
        if let TxnOutcome::Applied(_) = self.settle(Proposal::TakeOver(takeover.clone())).await? {
            return Ok(Some(takeover.record()));
        }
        // An answer may have been lost: then the refusal is of a repetition.
        let landed = self.view().await?.record.value.writer == takeover.writer;
        Ok(landed.then(|| takeover.record()))
    }
}
