//! R5: batches from a member that has them to one that lacks them, through this process.

use crate::error::Error;
use crate::pool::{CallError, Pool, refused};
use crate::transport::{Frame, FrameReader, SendStream, send_message};
use bytes::{Buf, Bytes};
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader, Place};
use piculet_quorum::ids::{Chain, Index, NodeId};
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{self, Ack, Kind};
use piculet_quorum::wire::message::{Address, Open, Opened, Refusal, Refused, Request};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// A member that makes no progress for this long has failed.
const STALLED: Duration = Duration::from_secs(2);
/// Bytes of a `Data` frame before its batches.
const DATA_HEAD: usize = 32;

/// A copy from one member to another.
pub(super) struct Copying {
    pub(super) source: (NodeId, Address),
    pub(super) target: (NodeId, Address),
    /// The segment, with the epoch in which it is written.
    pub(super) place: Place,
    pub(super) from: Index,
    pub(super) to: Index,
}

/// Which member failed, and how.
#[derive(Debug)]
pub(super) struct CopyError {
    pub(super) node: NodeId,
    pub(super) error: CallError,
}

impl Copying {
    /// Copies. Returns what the target holds afterwards.
    pub(super) async fn run(&self, pool: &Pool) -> Result<Index, CopyError> {
        let opening = self.open_target(pool);
        let (mut send, mut acks, opened) = self.of_target(within(&self.target.0, opening).await)?;
        if opened.held >= self.to {
            return Ok(opened.held);
        }
        // A target that had more or less than it reported says so now; where it stands counts.
        let from = opened.tail;
        if from < self.from {
            tracing::debug!(node = %self.target.0, %from, "a member holds less than it said");
        }
        let held = tokio::try_join!(self.pump(pool, &mut send, from), self.acks(&mut acks))?.1;
        // It fails only when the target has stopped the stream: it holds everything already.
        let _ = send.finish();
        Ok(held)
    }

    async fn open_target(&self, pool: &Pool) -> Result<(SendStream, FrameReader, Opened), CallError> {
        let (node, at) = &self.target;
        let broken = |error: String| CallError::NoNode(format!("node {node}: {error}"));
        let session = pool.session_by_name(node).await.map_err(|error| broken(error.to_string()))?;
        let (mut send, mut frames) = session.stream(&Request::Append(at.log)).await?;
        let open = Open { at: *at, repair: true };
        send_message(&mut send, Kind::Open, &open).await.map_err(|error| broken(error.to_string()))?;
        match frames.next().await.map_err(|error| broken(error.to_string()))? {
            Some((Kind::Opened, body)) => {
                let opened: Opened = codec::decode(&body).map_err(|error| broken(error.to_string()))?;
                Ok((send, frames, opened))
            }
            frame => Err(unexpected(node, frame)),
        }
    }

    /// Reads batches from the source and appends them to the target.
    async fn pump(&self, pool: &Pool, send: &mut SendStream, from: Index) -> Result<(), CopyError> {
        let (node, at) = &self.source;
        let mut frames = self.of_source(within(node, fetch(pool, node, *at, from, self.to)).await)?;
        let mut next = from;
        while next < self.to {
            let body = self.of_source(within(node, next_data(&mut frames, node)).await)?;
            let mut pieces = Vec::new();
            for (header, batch) in self.of_source(split(node, self.place, body))? {
                if header.first != next || header.end() > self.to {
                    let why = format!(
                        "node {node} sent entries {} to {} where {next} to {} were due",
                        header.first,
                        header.end(),
                        self.to
                    );
                    return self.of_source(Err(CallError::NoNode(why)));
                }
                let head = frame::append_head(&self.place, Index(0), batch.len());
                pieces.push(Bytes::copy_from_slice(&head));
                pieces.push(batch);
                next = header.end();
            }
            let target = &self.target.0;
            let sent = async {
                let broken = |error| CallError::NoNode(format!("node {target}: {error}"));
                send.write_all_chunks(&mut pieces).await.map_err(broken)
            };
            // Why the target stopped the stream is in its answer, which `acks` reads first.
            self.of_target(within(target, sent).await)?;
        }
        Ok(())
    }

    /// Waits until the target holds everything.
    async fn acks(&self, frames: &mut FrameReader) -> Result<Index, CopyError> {
        let node = &self.target.0;
        let broken = |error: String| CallError::NoNode(format!("node {node}: {error}"));
        loop {
            let frame = async { frames.next().await.map_err(|error| broken(error.to_string())) };
            // The source may be slow too, and is timed on its own: this bound is the longer one.
            let frame = timeout(STALLED * 2, frame).await;
            match self
                .of_target(frame.unwrap_or_else(|_| Err(broken("no acknowledgement comes".to_owned()))))?
            {
                Some((Kind::Ack, body)) => {
                    let held = Ack::decode(&body).held;
                    if held >= self.to {
                        return Ok(held);
                    }
                }
                Some((Kind::Archived, _)) => {}
                frame => return self.of_target(Err(unexpected(node, frame))),
            }
        }
    }

    fn of_source<T>(&self, result: Result<T, CallError>) -> Result<T, CopyError> {
        result.map_err(|error| CopyError { node: self.source.0.clone(), error })
    }

    fn of_target<T>(&self, result: Result<T, CallError>) -> Result<T, CopyError> {
        result.map_err(|error| CopyError { node: self.target.0.clone(), error })
    }
}

/// The chain before the batch that starts at `index`, as `node` has it.
pub(super) async fn chain_at(
    pool: &Pool,
    node: &NodeId,
    at: Address,
    place: Place,
    index: Index,
) -> Result<Option<Chain>, CallError> {
    let mut frames = fetch(pool, node, at, index, index.plus(1)).await?;
    let body = next_data(&mut frames, node).await?;
    let Some((header, _)) = split(node, place, body)?.into_iter().next() else { return Ok(None) };
    if header.first != index {
        let why = format!(
            "index {index} of segment {} lies within a batch at node {node}, and between two elsewhere",
            place.segment
        );
        return Err(CallError::Failed(Error::Alarm(why)));
    }
    Ok(Some(header.chain))
}

async fn within<T>(node: &NodeId, step: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let late = || CallError::NoNode(format!("node {node} has made no progress for {STALLED:?}"));
    timeout(STALLED, step).await.unwrap_or_else(|_| Err(late()))
}

async fn fetch(
    pool: &Pool,
    node: &NodeId,
    at: Address,
    from: Index,
    to: Index,
) -> Result<FrameReader, CallError> {
    let broken = |error: Error| CallError::NoNode(format!("node {node}: {error}"));
    let session = pool.session_by_name(node).await.map_err(broken)?;
    let (mut send, frames) = session.stream(&Request::Fetch { at, from, to }).await?;
    // It fails only when the node has stopped the stream already: it may have answered.
    let _ = send.finish();
    Ok(frames)
}

async fn next_data(frames: &mut FrameReader, node: &NodeId) -> Result<Bytes, CallError> {
    let broken = |error: String| CallError::NoNode(format!("node {node}: {error}"));
    match frames.next().await.map_err(|error| broken(error.to_string()))? {
        Some((Kind::Data, mut body)) => {
            body.advance(DATA_HEAD);
            Ok(body)
        }
        Some(frame) => Err(unexpected(node, Some(frame))),
        None => Err(broken("the batches end too early".to_owned())),
    }
}

/// Cuts the batches of a `Data` frame apart. Their entries are checked by whoever stores them.
fn split(node: &NodeId, place: Place, mut body: Bytes) -> Result<Vec<(BatchHeader, Bytes)>, CallError> {
    let damaged = |what: String| CallError::NoNode(format!("node {node} sent damaged batches: {what}"));
    let mut batches = Vec::new();
    while !body.is_empty() {
        let bytes: &[u8; BATCH_HEADER_BYTES] =
            body.first_chunk().ok_or_else(|| damaged(format!("{} bytes of a header", body.len())))?;
        let header = BatchHeader::decode(bytes, &place).map_err(|error| damaged(error.to_string()))?;
        if body.len() < header.bytes() {
            return Err(damaged(format!("{} of {} bytes of a batch", body.len(), header.bytes())));
        }
        batches.push((header, body.split_to(header.bytes())));
    }
    Ok(batches)
}

/// A frame that has no place here, or the stream's end: most often it says why.
fn unexpected(node: &NodeId, frame: Option<Frame>) -> CallError {
    match frame {
        Some((Kind::Response, body)) => refused(node, &body),
        Some((Kind::Refused, body)) => match codec::decode::<Refused>(&body) {
            Ok(Refused { why: Refusal::Unavailable(why), .. }) => {
                CallError::NoNode(format!("node {node}: {why}"))
            }
            Ok(refused) => CallError::Refused(refused.why),
            Err(error) => CallError::NoNode(format!("node {node}: {error}")),
        },
        Some((kind, _)) => CallError::NoNode(format!("node {node} sent a {kind:?} frame out of place")),
        None => CallError::NoNode(format!("node {node} ended the stream")),
    }
}
