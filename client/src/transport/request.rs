//! One question, one answer, on a stream of their own.

use super::error::RESET_ABANDONED;
use super::frames::{FrameReader, ReadFrameError, SendError, send_message};
use piculet_quorum::wire::codec::{self, CodecError};
use piculet_quorum::wire::frame::Kind;
use piculet_quorum::wire::message::{Request, Response};
use quinn::{Connection, ConnectionError, ReadError, SendStream, VarInt, WriteError};
use std::time::Duration;
use tokio::time::timeout;

/// Priority of streams with requests: above those with entries, which have 0.
pub const CONTROL_PRIORITY: i32 = 1;

/// Why a request has no answer. Unless nothing was sent, the node may have carried it out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request is too long. Nothing was sent.
    #[error("the request cannot be sent: {0}")]
    Message(CodecError),
    /// The connection is gone.
    #[error("the connection was lost before the answer came: {0}")]
    Lost(#[from] ConnectionError),
    /// The answer did not come in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The node gave the request up: it is overloaded, or about to stop.
    #[error("the node gave the request up (code {0})")]
    Abandoned(VarInt),
    /// What came is not an answer of this version of the protocol.
    #[error("not an answer of this version of the protocol: {0}")]
    Protocol(String),
}

/// Asks a node and waits for its answer for at most `limit`, the wait for a free stream included.
/// Dropping the future resets the stream, which tells the node that nobody waits.
///
/// # Errors
/// When there is no sound answer in time. A refusal by the node is an answer.
pub async fn request(
    connection: &Connection,
    request: &Request,
    limit: Duration,
) -> Result<Response, RequestError> {
    timeout(limit, exchange(connection, request)).await.map_err(|_| RequestError::TimedOut(limit))?
}

async fn exchange(connection: &Connection, request: &Request) -> Result<Response, RequestError> {
    let (send, receive) = connection.open_bi().await?;
    let mut send = ResetOnDrop { stream: send, armed: true };
    send.ask(request).await?;
    let mut frames = FrameReader::new(receive);
    let (kind, body) = frames
        .next()
        .await?
        .ok_or_else(|| RequestError::Protocol("the stream ended without one".to_owned()))?;
    send.armed = false;
    if kind != Kind::Response {
        return Err(RequestError::Protocol(format!("a {kind:?} frame instead of a Response")));
    }
    codec::decode(&body).map_err(|error| RequestError::Protocol(error.to_string()))
}

/// A stream that is reset unless its exchange has ended: quinn would finish it, as if the request
/// were whole.
struct ResetOnDrop {
    stream: SendStream,
    armed: bool,
}

impl ResetOnDrop {
    async fn ask(&mut self, request: &Request) -> Result<(), RequestError> {
        // Setting the priority and finishing fail only when the peer has stopped the stream, and
        // so does the sending then: it may have answered all the same, and the answer says why.
        let _ = self.stream.set_priority(CONTROL_PRIORITY);
        match send_message(&mut self.stream, Kind::Request, request).await {
            Ok(()) | Err(SendError::Stream(WriteError::Stopped(_))) => {}
            Err(SendError::Message(error)) => return Err(RequestError::Message(error)),
            Err(SendError::Stream(WriteError::ConnectionLost(error))) => return Err(error.into()),
            Err(SendError::Stream(error)) => return Err(RequestError::Protocol(error.to_string())),
        }
        let _ = self.stream.finish();
        Ok(())
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if self.armed {
            // It fails when the peer has acknowledged all of the stream: the other half, which is
            // stopped when it is dropped, tells it then.
            let _ = self.stream.reset(RESET_ABANDONED);
        }
    }
}

impl From<ReadFrameError> for RequestError {
    fn from(error: ReadFrameError) -> Self {
        match error {
            ReadFrameError::Stream(ReadError::ConnectionLost(error)) => Self::Lost(error),
            ReadFrameError::Stream(ReadError::Reset(code)) => Self::Abandoned(code),
            other => Self::Protocol(other.to_string()),
        }
    }
}
