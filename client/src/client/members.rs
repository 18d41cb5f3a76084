//! What members of a segment are asked by name.

use super::Client;
use crate::error::Error;
use crate::pool::CallError;
use piculet_quorum::ids::{LogId, NodeId, SegmentNumber};
use piculet_quorum::wire::message::{Refusal, Request, Response, WriterSeen};

impl Client {
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
