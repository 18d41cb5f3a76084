//! Frames on streams: everything but the appends, which the hot path reads and writes itself.

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use piculet_quorum::wire::codec::CodecError;
use piculet_quorum::wire::frame::{self, FrameError, Kind, PREFIX_BYTES};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use std::collections::VecDeque;

/// Most pieces that are taken from the stream at a time.
const CHUNKS_AT_ONCE: usize = 32;

/// A frame: its kind, and the body that its prefix announced.
pub type Frame = (Kind, Bytes);

/// Why no frame could be read. The reader is of no use afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFrameError {
    /// What came is not a frame.
    #[error(transparent)]
    Malformed(#[from] FrameError),
    /// The stream ended within a frame.
    #[error("the stream ended after {arrived} bytes of a frame of at least {expected}")]
    Truncated {
        /// Bytes of the frame that came, its prefix included.
        arrived: usize,
        /// Bytes that it should have had, as far as that is known.
        expected: usize,
    },
    /// The stream was reset, or the connection lost.
    #[error(transparent)]
    Stream(#[from] ReadError),
}

/// Why a message could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It cannot be encoded: it is too long. Nothing was sent.
    #[error(transparent)]
    Message(#[from] CodecError),
    /// The stream was stopped, or the connection lost.
    #[error(transparent)]
    Stream(#[from] WriteError),
}

/// Reads frames from a stream.
///
/// A frame that came in one piece is a slice of the datagram that brought it: nothing is copied or
/// allocated, and the datagram lives as long as the slice. A frame in several pieces is copied
/// together as they come; what a prefix claims allocates nothing.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    /// What has come and is not looked at yet.
    chunks: VecDeque<Bytes>,
    /// The beginning of a frame whose rest is in further chunks.
    partial: BytesMut,
    finished: bool,
}

impl FrameReader {
    /// A reader of the frames of `stream`, from where it stands.
    #[must_use]
    pub fn new(stream: RecvStream) -> Self {
        let chunks = VecDeque::with_capacity(CHUNKS_AT_ONCE);
        Self { stream, chunks, partial: BytesMut::new(), finished: false }
    }

    /// The next frame; `None` when the stream has ended behind a whole frame. Cancel-safe: what
    /// has come of a frame is kept.
    ///
    /// # Errors
    /// When what comes is not a frame, or the stream breaks off.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.finished {
                return self.end();
            }
            self.read().await?;
        }
    }

    /// The next frame, if all of it is here already: takes what the connection has received, and
    /// does not wait. `None` also at the end of the stream, which [`next`](Self::next) tells.
    ///
    /// # Errors
    /// As of [`next`](Self::next).
    pub fn next_buffered(&mut self) -> Result<Option<Frame>, ReadFrameError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.finished {
                return Ok(None);
            }
            match self.read().now_or_never() {
                Some(result) => result?,
                None => return Ok(None),
            }
        }
    }

    /// Gives the stream back, for a reader of another kind, with what has been taken from it and
    /// not returned as frames.
    #[must_use]
    pub fn into_parts(mut self) -> (RecvStream, Vec<Bytes>) {
        let mut taken = Vec::with_capacity(1 + self.chunks.len());
        if !self.partial.is_empty() {
            taken.push(self.partial.split().freeze());
        }
        taken.extend(self.chunks);
        (self.stream, taken)
    }

    /// Waits for chunks; called only when there are none. Cancel-safe, as nothing is taken from
    /// the stream before it is ready.
    async fn read(&mut self) -> Result<(), ReadError> {
        let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
        match self.stream.read_chunks(&mut chunks).await? {
            Some(count) => self.chunks.extend(chunks.into_iter().take(count)),
            None => self.finished = true,
        }
        Ok(())
    }

    /// Takes a frame out of the chunks, or leaves them all in `partial`.
    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        while let Some(chunk) = self.chunks.front_mut() {
            if self.partial.is_empty() {
                let Some((kind, len)) = whole(chunk)? else {
                    self.partial.extend_from_slice(chunk);
                    self.chunks.pop_front();
                    continue;
                };
                chunk.advance(PREFIX_BYTES);
                let body = chunk.split_to(len);
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
                return Ok(Some((kind, body)));
            }
            let missing = expected(&self.partial)? - self.partial.len();
            let piece = chunk.split_to(missing.min(chunk.len()));
            self.partial.extend_from_slice(&piece);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            if let Some((kind, _)) = whole(&self.partial)? {
                let mut body = std::mem::take(&mut self.partial).freeze();
                body.advance(PREFIX_BYTES);
                return Ok(Some((kind, body)));
            }
        }
        Ok(None)
    }

    fn end(&self) -> Result<Option<Frame>, ReadFrameError> {
        if self.partial.is_empty() {
            return Ok(None);
        }
        let (arrived, expected) = (self.partial.len(), expected(&self.partial)?);
        Err(ReadFrameError::Truncated { arrived, expected })
    }
}

/// Kind and body length of the frame that `bytes` begin with, if all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<(Kind, usize)>, FrameError> {
    let Some(prefix) = bytes.first_chunk() else { return Ok(None) };
    let (kind, len) = frame::parse_prefix(prefix)?;
    Ok((bytes.len() >= PREFIX_BYTES + len).then_some((kind, len)))
}

/// How long the frame that `bytes` begin with must get before more is known: its prefix, then the
/// whole of it.
fn expected(bytes: &[u8]) -> Result<usize, FrameError> {
    match bytes.first_chunk() {
        None => Ok(PREFIX_BYTES),
        Some(prefix) => Ok(PREFIX_BYTES + frame::parse_prefix(prefix)?.1),
    }
}

/// Sends a frame with a bincode body. Not cancel-safe: part of it may have gone.
///
/// # Errors
/// When the message is too long, or the stream is of no use any more.
pub async fn send_message<T: Serialize>(
    stream: &mut SendStream,
    kind: Kind,
    message: &T,
) -> Result<(), SendError> {
    let frame = frame::message(kind, message)?;
    stream.write_chunk(frame.into()).await?;
    Ok(())
}
