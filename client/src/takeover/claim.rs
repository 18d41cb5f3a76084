//! T1: the new epoch.

use super::{Takeover, taken_by};
use crate::error::Error;
use piculet_quorum::ids::Nonce;
use piculet_quorum::meta::LogRecord;
use piculet_quorum::meta::TxnOutcome;
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::wire::message::Proposal;

/// How often the epoch is tried for when others take the log over at the same time.
const ATTEMPTS: u32 = 5;

impl Takeover<'_> {
    /// Makes a new epoch of the log, ours: our nonce is in its record.
    pub(super) async fn claim(&self) -> Result<LogRecord, Error> {
        let mut view = self.pool.view(self.log, None).await?;
        for _ in 0..ATTEMPTS {
            // A fresh value for every attempt: an older one that lands late is not taken for it.
            let holder = self.options.holder();
            let takeover = TakeOver { log: self.log, read: view.record.clone(), writer: nonce()?, holder };
            let outcome = self.settle(Proposal::TakeOver(takeover.clone())).await?;
            if let TxnOutcome::Applied(_) = outcome {
                return Ok(takeover.record());
            }
            view = self.pool.view(self.log, None).await?;
            if view.record.value.writer == takeover.writer {
                return Ok(takeover.record());
            }
        }
        Err(taken_by(view.record.value.epoch))
    }
}

fn nonce() -> Result<Nonce, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Refused(format!("the system has no random numbers: {error}")))?;
    Ok(Nonce(u128::from_le_bytes(bytes)))
}
