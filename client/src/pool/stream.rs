//! Streams of frames to one node.

use super::{CallError, Pool, Session};
use crate::transport::{FrameReader, SendStream, send_message};
use piculet_quorum::ids::{LogId, NodeId, SegmentNumber};
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{Kind, Mark};
use piculet_quorum::wire::message::{Refusal, Request, Response};

impl Session {
    /// Opens a stream with a request. Dropping both halves ends it on both sides.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn stream(&self, request: &Request) -> Result<(SendStream, FrameReader), CallError> {
        let gone = |error: String| CallError::NoNode(format!("node {}: {error}", self.node));
        let (mut send, receive) = self.connection.open_bi().await.map_err(|error| gone(error.to_string()))?;
        send_message(&mut send, Kind::Request, request).await.map_err(|error| gone(error.to_string()))?;
        Ok((send, FrameReader::new(receive)))
    }
}

impl Pool {
    /// A node's watermarks of a segment.
    ///
    /// # Errors
    /// When the node does not answer or refuses. There is no time-out: the caller drops the future.
    pub(crate) async fn watermarks(
        &self,
        node: &NodeId,
        log: LogId,
        segment: SegmentNumber,
    ) -> Result<Mark, CallError> {
        let gone = |error: String| CallError::NoNode(format!("node {node}: {error}"));
        let session = self.session_by_name(node).await.map_err(|error| gone(error.to_string()))?;
        let (mut send, mut frames) = session.stream(&Request::Watermarks { log, segment }).await?;
        // It fails only when the node has stopped the stream already: it may have answered.
        let _ = send.finish();
        let frame = frames.next().await.map_err(|error| gone(error.to_string()))?;
        match frame {
            Some((Kind::Mark, body)) => {
                let mark = Mark::decode(&body).map_err(|error| gone(error.to_string()))?;
                if mark.place.log != log || mark.place.segment != segment {
                    return Err(gone("its watermarks are of another segment".to_owned()));
                }
                Ok(mark)
            }
            Some((Kind::Response, body)) => Err(refused(node, &body)),
            other => Err(gone(format!("a {:?} frame instead of a Mark", other.map(|(kind, _)| kind)))),
        }
    }
}

/// What a `Response` frame means where only a refusal may come.
pub(crate) fn refused(node: &NodeId, body: &[u8]) -> CallError {
    match codec::decode(body) {
        Ok(Response::Refused(Refusal::Unavailable(why))) => {
            CallError::NoNode(format!("node {node}: not now: {why}"))
        }
        Ok(Response::Refused(refusal)) => CallError::Refused(refusal),
        Ok(_) => CallError::NoNode(format!("node {node} answered with something else")),
        Err(error) => CallError::NoNode(format!("node {node}: {error}")),
    }
}
