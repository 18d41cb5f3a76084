//! The stream from a writer to one node: appends out, acknowledgements in.

use super::state::{Shared, State};
use crate::pool::{Pool, Session};
use crate::transport::{Frame, FrameReader, RecvStream, SendStream, send_message};
use bytes::Bytes;
use piculet_quorum::glossary::Marks;
use piculet_quorum::ids::{LogId, NodeId};
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{self, Ack, Kind};
use piculet_quorum::wire::message::{Address, Open, Opened, Refused, Request};
use piculet_quorum::writer::Transmit;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// First and longest pause between attempts to reach a node.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Keeps a stream to `node` for as long as the writer runs. Cancelled by being dropped.
pub(super) async fn run(shared: Arc<Shared>, pool: Arc<Pool>, log: LogId, node: NodeId, wake: Arc<Notify>) {
    let mut pause = RECONNECT.0;
    loop {
        match connect(&pool, log, &node).await {
            Ok((session, send, frames)) => {
                pause = RECONNECT.0;
                {
                    let mut state = shared.lock();
                    state.writer.handle_connected(shared.now(), &node, session.memory);
                    shared.pump(&mut state);
                }
                wake.notify_one();
                let why = tokio::select! {
                    why = send_all(&shared, &node, &wake, send) => why,
                    why = receive_all(&shared, &node, &wake, frames) => why,
                };
                tracing::info!(%node, %why, "the stream to a node has ended");
                let mut state = shared.lock();
                state.writer.handle_disconnected(shared.now(), &node);
                shared.pump(&mut state);
                shared.wake_all(&state);
            }
            Err(why) => tracing::debug!(%node, %why, "a node cannot be reached"),
        }
        if shared.lock().is_stopped() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

async fn connect(
    pool: &Pool,
    log: LogId,
    node: &NodeId,
) -> Result<(Arc<Session>, SendStream, FrameReader), String> {
    let session = pool.session_by_name(node).await.map_err(|error| error.to_string())?;
    let (mut send, receive): (SendStream, RecvStream) =
        session.connection.open_bi().await.map_err(|error| error.to_string())?;
    send_message(&mut send, Kind::Request, &Request::Append(log)).await.map_err(|error| error.to_string())?;
    Ok((session, send, FrameReader::new(receive)))
}

/// Sends whatever the machine has for the node, as it comes. Returns why it cannot go on.
async fn send_all(shared: &Shared, node: &NodeId, wake: &Notify, mut send: SendStream) -> String {
    let mut frames: Vec<Bytes> = Vec::new();
    loop {
        wake.notified().await;
        // One turn for others: what they append meanwhile goes into the same batch.
        tokio::task::yield_now().await;
        loop {
            frames.clear();
            {
                let mut state = shared.lock();
                shared.flush(&mut state);
                if !gather(shared, &mut state, node, &mut frames) {
                    break;
                }
            }
            if let Err(error) = send.write_all_chunks(&mut frames).await {
                return error.to_string();
            }
        }
        if shared.lock().is_stopped() {
            return "the writer has stopped".to_owned();
        }
    }
}

/// Puts everything that is to be sent now into `frames`, up to one piece of batches.
fn gather(shared: &Shared, state: &mut State, node: &NodeId, frames: &mut Vec<Bytes>) -> bool {
    let now = shared.now();
    while let Some(transmit) = state.next_transmit(now, node, frames) {
        match transmit {
            Transmit::Open(place, incarnation) => {
                let at = Address { log: place.log, segment: place.segment, epoch: place.epoch, incarnation };
                let open = frame::message(Kind::Open, &Open { at, repair: false });
                frames.push(open.expect("an Open message is short").into());
            }
            Transmit::Commit(place, commit) => {
                frames.push(Bytes::copy_from_slice(&frame::commit(&place, commit)));
            }
            Transmit::Batches(..) => break,
        }
    }
    !frames.is_empty()
}

/// Takes in what the node answers. Returns why it cannot go on.
async fn receive_all(shared: &Shared, node: &NodeId, wake: &Notify, mut frames: FrameReader) -> String {
    loop {
        let mut next = match frames.next().await {
            Ok(Some(frame)) => Some(frame),
            Ok(None) => return "the node closed it".to_owned(),
            Err(error) => return error.to_string(),
        };
        let mut state = shared.lock();
        let mut others = false;
        while let Some(frame) = next {
            match take_in(shared, &mut state, node, &frame) {
                Ok(quiet) => others |= !quiet,
                Err(why) => return why,
            }
            next = match frames.next_buffered() {
                Ok(next) => next,
                Err(error) => return error.to_string(),
            };
        }
        shared.pump(&mut state);
        if others {
            wake.notify_one();
            shared.clock.notify_one();
        }
    }
}

/// Takes in one frame. Returns whether it was a mere acknowledgement, after which there is nothing
/// new to send to this node.
fn take_in(shared: &Shared, state: &mut State, node: &NodeId, (kind, body): &Frame) -> Result<bool, String> {
    let now = shared.now();
    let unsound = |error: codec::CodecError| error.to_string();
    match kind {
        Kind::Ack => {
            let ack = Ack::decode(body);
            state.writer.handle_ack(now, node, ack.place.segment, ack.held);
            return Ok(true);
        }
        Kind::Archived => {
            let place = frame::place(body);
            state.writer.handle_archived(now, place.segment, frame::parse_archived(body));
        }
        Kind::Opened => {
            let opened: Opened = codec::decode(body).map_err(unsound)?;
            let marks = Marks { tail: opened.tail, held: opened.held, ..Marks::default() };
            state.writer.handle_opened(now, node, opened.segment, marks);
        }
        Kind::Refused => {
            let refused: Refused = codec::decode(body).map_err(unsound)?;
            tracing::debug!(%node, segment = %refused.segment, why = %refused.why, "a node refuses");
            state.refused(node, &refused.why);
            state.writer.handle_refused(now, node, refused.segment, &refused.why);
        }
        other => return Err(format!("the node sent a {other:?} frame to a writer")),
    }
    Ok(false)
}
