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

/// A writer's link to one node, for as long as the writer runs and the log is not parked.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<Pool>,
    pub(super) log: LogId,
    pub(super) node: NodeId,
    pub(super) wake: Arc<Notify>,
    /// How often the log had been parked when the link was made.
    pub(super) parks: u64,
}

/// Keeps a stream to the node. Cancelled by being dropped.
pub(super) async fn run(link: Link) {
    let Link { shared, pool, log, node, wake, parks } = link;
    let mut pause = RECONNECT.0;
    loop {
        match connect(&pool, log, &node).await {
            Ok((session, send, frames)) => {
                pause = RECONNECT.0;
                {
                    let Some(mut state) = shared.lock_link(parks) else { return };
                    let incarnation = session.incarnation(state.writer.level());
                    state.writer.handle_connected(shared.now(), &node, incarnation);
                    shared.pump(&mut state);
                    shared.stir(&mut state);
                }
                wake.notify_one();
                let why = tokio::select! {
                    why = send_all(&shared, parks, &node, &wake, send) => why,
                    why = receive_all(&shared, parks, &node, &wake, frames) => why,
                };
                let Some(mut state) = shared.lock_link(parks) else { return };
                tracing::info!(%node, %why, "the stream to a node has ended");
                state.writer.handle_disconnected(shared.now(), &node);
                shared.pump(&mut state);
                shared.wake_all(&state);
            }
            Err(why) => tracing::debug!(%node, %why, "a node cannot be reached"),
        }
        if shared.lock_link(parks).is_none() {
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
async fn send_all(shared: &Shared, parks: u64, node: &NodeId, wake: &Notify, mut send: SendStream) -> String {
    let mut frames: Vec<Bytes> = Vec::new();
    loop {
        wake.notified().await;
        // One turn for others: what they append meanwhile goes into the same batch.
        tokio::task::yield_now().await;
        loop {
            frames.clear();
            {
                let Some(mut state) = shared.lock_link(parks) else {
                    return "the writer wants no stream any more".to_owned();
                };
                shared.flush(&mut state);
                if !gather(shared, &mut state, node, &mut frames) {
                    break;
                }
            }
            if let Err(error) = send.write_all_chunks(&mut frames).await {
                return error.to_string();
            }
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
    let some = !frames.is_empty();
    if some {
        // What was sent must be answered in time.
        shared.stir(state);
    }
    some
}

/// Takes in what the node answers. Returns why it cannot go on.
async fn receive_all(
    shared: &Shared,
    parks: u64,
    node: &NodeId,
    wake: &Notify,
    mut frames: FrameReader,
) -> String {
    loop {
        let mut next = match frames.next().await {
            Ok(Some(frame)) => Some(frame),
            Ok(None) => return "the node closed it".to_owned(),
            Err(error) => return error.to_string(),
        };
        let Some(mut state) = shared.lock_link(parks) else {
            return "the writer wants no stream any more".to_owned();
        };
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
