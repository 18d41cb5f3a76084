//! What members of a segment are asked by name.

use super::Client;
use crate::error::Error;
use crate::pool::CallError;
use crate::{change, takeover};
use piculet_quorum::ids::{Incarnation, Level, LogId, NodeId, SegmentNumber};
use piculet_quorum::wire::message::{Refusal, Request, Response, WriterSeen};
use tokio::time::Instant;

impl Client {
    /// Records what is lost of a sealed segment, when everybody who held all of it has forgotten it:
    /// where what is left ends. It is what nodes call. Returns whether a loss was recorded; there may
    /// be none, or not yet.
    ///
    /// Not cancel-safe: when the future is dropped the loss may have been recorded, or may yet be.
    ///
    /// # Errors
    /// [`Error::Lost`] when acknowledged entries may be lost and the log's settings do not allow
    /// that; [`Error::TakeOver`] while a member that has not forgotten the segment does not answer;
    /// [`Error::NotFound`] when the log has been deleted; [`Error::NoNode`] when no node answers.
    pub async fn record_loss(&self, log: LogId, segment: SegmentNumber) -> Result<bool, Error> {
        takeover::record_loss(&self.pool, &self.options, log, segment).await
    }

    /// Declares that a node will never come back with what its buffer of this level held: for an
    /// operator who knows that it is destroyed. It counts as lost from then on; should it come back
    /// all the same, it finds itself reborn, with an empty buffer. Refused while the node is
    /// registered, unless by force: then the node, if it lives, ends. Returns the incarnation that is
    /// current now.
    ///
    /// Not cancel-safe: when the future is dropped the declaration may have been made, or may yet be.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such node or buffer, or the node is registered;
    /// [`Error::Unknown`] when no node said in time what became of the request; [`Error::NoNode`]
    /// when none answers.
    pub async fn declare_lost(&self, node: &NodeId, level: Level, force: bool) -> Result<Incarnation, Error> {
        let deadline = Instant::now() + self.options.call_timeout * 2;
        change::declare_lost(&self.pool, node, level, force, deadline).await
    }

    /// What one member of a segment has seen of the segment's writer; none when it does not hold the
    /// segment. It is what nodes ask each other
    /// before they recover a log. Waits for at most `call_timeout`, once connected. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NoNode`] when the member does not answer.
    pub async fn writer_seen(
        &self,
        node: &NodeId,
        log: LogId,
        segment: SegmentNumber,
    ) -> Result<Option<WriterSeen>, Error> {
        match self.pool.call_node(node, &Request::WriterSeen { log, segment }).await {
            Ok(Response::WriterSeen(seen)) => Ok(Some(seen)),
            Err(CallError::Refused(Refusal::NotHere)) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => Err(Error::Refused(format!("node {node} answered WriterSeen with something else"))),
        }
    }
}
