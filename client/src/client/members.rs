//! What members of a segment are asked by name.

use super::Client;
use crate::error::Error;
use piculet_quorum::ids::{LogId, NodeId, SegmentNumber};
use piculet_quorum::wire::message::{Request, Response, WriterSeen};

impl Client {
    /// What one member of a segment has seen of the segment's writer. It is what nodes ask each other
    /// before they recover a log. Waits for at most `call_timeout`, once connected. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NoNode`] when the member does not answer; [`Error::Refused`] when it does not hold
    /// the segment.
    pub async fn writer_seen(
        &self,
        node: &NodeId,
        log: LogId,
        segment: SegmentNumber,
    ) -> Result<WriterSeen, Error> {
        match self.pool.call_node(node, &Request::WriterSeen { log, segment }).await? {
            Response::WriterSeen(seen) => Ok(seen),
            _ => Err(Error::Refused(format!("node {node} answered WriterSeen with something else"))),
        }
    }
}
