//! Questions and the answers that belong to them.

use super::{CallError, Pool};
use crate::error::Error;
use piculet_quorum::ids::{LogId, LogName, Nonce, SegmentNumber};
use piculet_quorum::meta::{LogView, TxnOutcome};
use piculet_quorum::wire::message::{Nodes, ProducersFrom, Proposal, Refusal, Request, Response};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause before a transaction of unknown outcome is repeated.
const REPEAT: Duration = Duration::from_millis(100);

impl Pool {
    /// Reads the nodes from the metadata, and remembers them.
    ///
    /// # Errors
    /// When no node answers.
    pub(crate) async fn nodes(&self) -> Result<Nodes, CallError> {
        match self.call(&Request::Nodes).await? {
            Response::Nodes(nodes) => Ok(nodes),
            _ => Err(mismatch("Nodes")),
        }
    }

    /// The log of a name.
    ///
    /// # Errors
    /// When no node answers.
    pub(crate) async fn find_log(&self, name: &LogName) -> Result<Option<LogId>, CallError> {
        match self.call(&Request::FindLog(name.clone())).await? {
            Response::Log(log) => Ok(log),
            _ => Err(mismatch("FindLog")),
        }
    }

    /// A log with its segments from a number on, as many as fit; the newest two when there is no
    /// number. The read is linearizable.
    ///
    /// # Errors
    /// When no node answers, or what it shows is damaged; [`CallError::Gone`] when the log has been
    /// deleted.
    pub(crate) async fn view(
        &self,
        log: LogId,
        from: Option<SegmentNumber>,
    ) -> Result<Box<LogView>, CallError> {
        match self.call(&Request::ViewLog { log, from }).await? {
            Response::View(Some(view)) if view.log == log && view.record.value.deleted.is_none() => {
                // All that is done with it counts on its records. They may be put right, so whoever can
                // waits for that, as while no node can tell.
                view.check().map_err(|damage| CallError::NoNode(damage.to_string()))?;
                Ok(view)
            }
            Response::View(Some(view)) if view.log == log => Err(CallError::Gone(log)),
            Response::View(None) => Err(CallError::Gone(log)),
            _ => Err(mismatch("ViewLog")),
        }
    }

    /// The table of producers that a writer of the log begins with, and from where on it is to fold
    /// entries into it. From now on the log may have entries of producers.
    ///
    /// # Errors
    /// When no node answers; [`CallError::Gone`] when the log has been deleted;
    /// [`CallError::Unknown`] when it is to be asked again.
    pub(crate) async fn producers(&self, log: LogId) -> Result<ProducersFrom, CallError> {
        match self.call(&Request::Producers(log)).await {
            Ok(Response::Producers(found)) => Ok(found),
            Ok(_) => Err(mismatch("Producers")),
            Err(CallError::Refused(Refusal::Deleted)) => Err(CallError::Gone(log)),
            Err(CallError::Refused(Refusal::Unknown(why))) => Err(CallError::Unknown(why)),
            Err(error) => Err(error),
        }
    }

    /// Asks a node to carry out a transaction.
    ///
    /// # Errors
    /// [`CallError::Unknown`] when it may have been carried out, or may yet be.
    pub(crate) async fn propose(&self, proposal: Proposal) -> Result<TxnOutcome, CallError> {
        match self.call(&Request::Propose(proposal)).await {
            Ok(Response::Outcome(outcome)) => Ok(outcome),
            Ok(_) => Err(CallError::Unknown("a node answered with something else".to_owned())),
            Err(CallError::Refused(Refusal::Invalid(why))) => Err(CallError::Failed(Error::Refused(why))),
            Err(error) => Err(error),
        }
    }

    /// The same, repeated as it is until its outcome is known or the deadline has passed. Whoever is
    /// told that it is refused reads whether an earlier sending of it was carried out.
    ///
    /// # Errors
    /// [`CallError::Unknown`] when the deadline has passed and it may have been carried out, or may
    /// yet be; [`CallError::NoNode`] when it has not.
    pub(crate) async fn settle(
        &self,
        proposal: Proposal,
        deadline: Instant,
    ) -> Result<TxnOutcome, CallError> {
        let mut unknown = None;
        loop {
            let why = match self.propose(proposal.clone()).await {
                Err(CallError::Unknown(why)) => unknown.insert(why).clone(),
                Err(CallError::NoNode(why)) => why,
                settled => return settled,
            };
            if Instant::now() >= deadline {
                return Err(unknown.map_or(CallError::NoNode(why), CallError::Unknown));
            }
            tracing::debug!(%why, "a transaction of unknown outcome is repeated");
            sleep(REPEAT).await;
        }
    }
}

/// A fresh value for one attempt at a transaction.
///
/// # Errors
/// When the system has no random numbers.
pub(crate) fn nonce() -> Result<Nonce, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Refused(format!("the system has no random numbers: {error}")))?;
    Ok(Nonce(u128::from_le_bytes(bytes)))
}

/// The answer of another question.
fn mismatch(question: &str) -> CallError {
    let why = format!("a node answered {question} with something else: it runs another version");
    CallError::Failed(Error::Refused(why))
}
