//! Questions and the answers that belong to them.

use super::{CallError, Pool};
use crate::error::Error;
use piculet_quorum::ids::{LogId, LogName, SegmentNumber};
use piculet_quorum::meta::{LogView, TxnOutcome};
use piculet_quorum::wire::message::{Nodes, Proposal, Refusal, Request, Response};

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
    /// When no node answers, or there is no such log.
    pub(crate) async fn view(
        &self,
        log: LogId,
        from: Option<SegmentNumber>,
    ) -> Result<Box<LogView>, CallError> {
        match self.call(&Request::ViewLog { log, from }).await? {
            Response::View(Some(view)) if view.log == log => Ok(view),
            Response::View(None) => {
                let why = format!("log {log} is not in the metadata any more");
                Err(CallError::Failed(Error::Refused(why)))
            }
            _ => Err(mismatch("ViewLog")),
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
}

/// The answer of another question.
pub(crate) fn mismatch(question: &str) -> CallError {
    let why = format!("a node answered {question} with something else: it runs another version");
    CallError::Failed(Error::Refused(why))
}
