//! The hot path: a writer's stream, or that of a takeover that repairs.
//!
//! Chunks are parsed where they lie. A batch is checked as it passes and copied once, from the
//! datagram into the mapping; what has come is acknowledged once per read.

mod sessions;
#[cfg(test)]
mod tests;

use super::Shared;
use crate::logs::{Log, LogState};
use crate::metrics;
use bytes::{Buf, Bytes, BytesMut};
use futures::future::Either;
use piculet_client::transport::{FrameReader, ReadError, RecvStream, SendStream, WriteError};
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchVerifier};
use piculet_quorum::ids::{Index, Level, LogId, SegmentNumber, Timestamp};
use piculet_quorum::replica::Admission;
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{self, APPEND_HEAD_BYTES, FrameError, Kind, PREFIX_BYTES};
use piculet_quorum::wire::message::{Open, Refusal};
use sessions::Opening;
use std::collections::BTreeMap;
use std::future::Pending;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Most pieces that are taken from the stream at a time.
const CHUNKS_AT_ONCE: usize = 64;
/// What is collected of an `Append` frame before its batch's entries are looked at.
const APPEND_HEADERS_BYTES: usize = APPEND_HEAD_BYTES + BATCH_HEADER_BYTES;

/// Serves one stream of `peer` until it ends.
pub(super) async fn serve(
    shared: &Shared,
    log: LogId,
    peer: &str,
    mut send: SendStream,
    frames: FrameReader,
) {
    let (receive, taken) = frames.into_parts();
    let mut stream = Appends::new(shared, log, peer);
    let ended = stream.run(&mut send, receive, taken).await;
    if let Ended::Malformed(error) = &ended {
        tracing::info!(%log, %error, "refused what is not a frame of a writer");
        stream.tell_refused(SegmentNumber(u64::MAX), Refusal::Invalid(error.to_string()));
        // Whether the client takes it is its own affair: the stream ends here.
        if send.write_chunk(stream.out.split().freeze()).await.is_ok() {
            super::finish(&mut send).await;
        }
    }
    tracing::debug!(%log, %peer, why = %ended, "a writer's stream has ended");
}

/// What a notification resolves, if there is one to wait for.
fn listen(notify: Option<&Notify>) -> Either<Notified<'_>, Pending<()>> {
    notify.map_or_else(|| Either::Right(std::future::pending()), |notify| Either::Left(notify.notified()))
}

/// Why a stream of appends has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client closed it")]
    Closed,
    #[error(transparent)]
    Read(ReadError),
    #[error("the client takes no answers: {0}")]
    Write(WriteError),
    #[error(transparent)]
    Malformed(#[from] FrameError),
}

/// One stream of appends to one log.
struct Appends<'a> {
    shared: &'a Shared,
    log: LogId,
    /// Whose it is, as people know them.
    peer: &'a str,
    slot: Option<Arc<Log>>,
    sessions: BTreeMap<SegmentNumber, Opening>,
    parser: Parser,
    /// Whether the log's settings must be read, or have been, before an entry of a producer is
    /// refused for good.
    settings: Settings,
    /// The version of the log that was looked at last.
    looked: u64,
    /// Frames for the client.
    out: BytesMut,
}

/// What has been done to find out whether the log takes entries of producers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settings {
    /// Nothing: what is known has been enough.
    Unasked,
    /// An append was refused for now: the settings are read with the next `Open`.
    Wanted,
    /// They were read since.
    Read,
}

/// Where the stream is in its frames.
struct Parser {
    head: [u8; APPEND_HEADERS_BYTES],
    head_len: usize,
    now: Now,
}

enum Now {
    /// In the prefix of a frame, or in the headers of an append: what has come is in `head`.
    Head,
    /// In the body of a short frame: this much is missing, the rest is here.
    Message(Kind, Vec<u8>, usize),
    /// In the entries of a batch.
    Batch {
        segment: SegmentNumber,
        commit: Index,
        header: BatchHeader,
        verifier: BatchVerifier,
        repeat: bool,
    },
    /// In a frame that is passed over: so much is left of it.
    Skip(usize),
}

/// What a frame that is complete asks for beyond the lock.
enum Then {
    /// The piece is used up.
    More,
    /// Open a segment; the rest of the piece comes afterwards.
    Open(Open),
}

impl<'a> Appends<'a> {
    fn new(shared: &'a Shared, log: LogId, peer: &'a str) -> Self {
        Self {
            shared,
            log,
            peer,
            slot: None,
            sessions: BTreeMap::new(),
            parser: Parser { head: [0; APPEND_HEADERS_BYTES], head_len: 0, now: Now::Head },
            settings: Settings::Unasked,
            looked: u64::MAX,
            out: BytesMut::with_capacity(4096),
        }
    }
}

impl Appends<'_> {
    async fn run(&mut self, send: &mut SendStream, mut receive: RecvStream, taken: Vec<Bytes>) -> Ended {
        for chunk in taken {
            if let Err(error) = self.take(chunk).await {
                return error.into();
            }
        }
        let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
        loop {
            let slot = self.slot.clone();
            // Registered before looking, so that nothing that changes meanwhile is missed.
            let mut changed = pin!(listen(slot.as_ref().map(|slot| &slot.changed)));
            let syncs = slot.as_ref().filter(|slot| slot.level == Level::Disk);
            let mut synced = pin!(listen(syncs.map(|slot| &slot.synced)));
            for heard in [&mut changed, &mut synced] {
                if let Either::Left(heard) = heard.as_mut().as_pin_mut() {
                    heard.enable();
                }
            }
            self.look();
            self.acknowledge();
            if !self.out.is_empty()
                && let Err(error) = send.write_chunk(self.out.split().freeze()).await
            {
                return Ended::Write(error);
            }
            tokio::select! {
                biased;
                read = receive.read_chunks(&mut chunks) => match read {
                    Ok(Some(count)) => {
                        for chunk in &mut chunks[..count] {
                            if let Err(error) = self.take(std::mem::take(chunk)).await {
                                return error.into();
                            }
                        }
                    }
                    Ok(None) => return Ended::Closed,
                    Err(error) => return Ended::Read(error),
                },
                () = changed => {}
                () = synced => {}
            }
        }
    }

    /// Takes in a piece of the stream.
    async fn take(&mut self, mut piece: Bytes) -> Result<(), FrameError> {
        while !piece.is_empty() {
            let then = match self.slot.clone() {
                Some(slot) => {
                    let mut state = slot.lock();
                    self.feed(Some(&mut state), &mut piece)?
                }
                None => self.feed(None, &mut piece)?,
            };
            if let Then::Open(open) = then {
                self.open(&open).await;
            }
        }
        Ok(())
    }

    fn feed(&mut self, mut state: Option<&mut LogState>, piece: &mut Bytes) -> Result<Then, FrameError> {
        while !piece.is_empty() {
            match &mut self.parser.now {
                Now::Head => self.feed_head(state.as_deref_mut(), piece)?,
                Now::Skip(left) => {
                    let skipped = piece.len().min(*left);
                    piece.advance(skipped);
                    *left -= skipped;
                    if *left == 0 {
                        self.parser.now = Now::Head;
                    }
                }
                Now::Message(kind, body, missing) => {
                    let taken = piece.len().min(*missing);
                    body.extend_from_slice(&piece.split_to(taken));
                    *missing -= taken;
                    if *missing == 0 {
                        let (kind, body) = (*kind, std::mem::take(body));
                        self.parser.now = Now::Head;
                        if let Some(open) = self.message(state.as_deref_mut(), kind, &body) {
                            return Ok(Then::Open(open));
                        }
                    }
                }
                Now::Batch { .. } => {
                    let state = state.as_deref_mut().expect("a batch is only begun at a log that is held");
                    self.feed_batch(state, piece);
                }
            }
        }
        Ok(Then::More)
    }

    /// Collects a frame's prefix and, of an append, everything before the entries.
    fn feed_head(&mut self, state: Option<&mut LogState>, piece: &mut Bytes) -> Result<(), FrameError> {
        let parser = &mut self.parser;
        let wanted = if parser.head_len < PREFIX_BYTES { PREFIX_BYTES } else { APPEND_HEADERS_BYTES };
        let taken = piece.len().min(wanted - parser.head_len);
        parser.head[parser.head_len..][..taken].copy_from_slice(&piece[..taken]);
        parser.head_len += taken;
        piece.advance(taken);
        if parser.head_len == PREFIX_BYTES {
            let prefix = parser.head.first_chunk().expect("a prefix is shorter");
            let (kind, len) = frame::parse_prefix(prefix)?;
            if kind == Kind::Append && len >= APPEND_HEADERS_BYTES - PREFIX_BYTES {
                return Ok(());
            }
            parser.head_len = 0;
            parser.now = match kind {
                Kind::Open | Kind::Commit if len > 0 => {
                    Now::Message(kind, Vec::with_capacity(len.min(256)), len)
                }
                Kind::Open | Kind::Append => return Err(FrameError::Length { kind, len }),
                kind => return Err(FrameError::Misplaced { kind }),
            };
        } else if parser.head_len == APPEND_HEADERS_BYTES {
            parser.head_len = 0;
            let head = parser.head;
            self.begin_batch(state, &head);
        }
        Ok(())
    }

    /// The headers of an append are complete: decides what becomes of its entries.
    fn begin_batch(&mut self, state: Option<&mut LogState>, head: &[u8; APPEND_HEADERS_BYTES]) {
        let (_, len) =
            frame::parse_prefix(head.first_chunk().expect("a prefix is shorter")).expect("parsed before");
        let body = &head[PREFIX_BYTES..];
        let (place, commit) = (frame::place(body), frame::parse_commit(body));
        let left = len - (APPEND_HEADERS_BYTES - PREFIX_BYTES);
        self.parser.now = Now::Skip(left);
        let segment = place.segment;
        // Without a session the segment was refused before: what was on its way is passed over.
        let (Some(opening), Some(state)) = (self.sessions.get(&segment), state) else { return };
        let header = body[32..].first_chunk().expect("a batch header");
        let header = match BatchHeader::decode(header, &place) {
            Ok(header) if header.body_len as usize == left && place.log == self.log => header,
            Ok(_) => {
                return self.refuse(
                    state,
                    segment,
                    Refusal::Invalid("the append's lengths disagree".to_owned()),
                );
            }
            Err(error) => return self.refuse(state, segment, Refusal::Invalid(error.to_string())),
        };
        let repeat = match state.replica.admit(opening.session, segment, &header) {
            Admission::Store => false,
            Admission::Repeat => true,
            Admission::Refuse(refusal) => return self.refuse(state, segment, refusal),
        };
        let Some(local) = state.segments.get_mut(&segment) else { return };
        // What is here already was checked against what came before it when it came first.
        let before = if repeat { Timestamp(0) } else { local.buffer.end().last_timestamp };
        if !repeat && let Err(full) = local.buffer.begin(&header) {
            // The client is told only that there is no room: whoever can make some reads it here.
            if let Some(passed_over) = self.shared.full.due(self.shared.core.clock.now()) {
                tracing::warn!(log = %self.log, %segment, %full, passed_over, "appends are refused as overloaded");
            }
            let level = self.slot.as_ref().map_or_else(Level::default, |slot| slot.level);
            let bytes = self.shared.core.buffer(level).map_or(0, |buffer| buffer.arena().capacity_bytes());
            self.shared.core.archive_now.notify_one();
            return self.refuse(state, segment, Refusal::Overloaded { bytes });
        }
        let verifier = BatchVerifier::new(header, before);
        self.parser.now = Now::Batch { segment, commit, header, verifier, repeat };
    }

    /// Takes in entries of a batch, and the whole batch when it is complete.
    fn feed_batch(&mut self, state: &mut LogState, piece: &mut Bytes) {
        let Now::Batch { segment, commit, header, verifier, repeat } = &mut self.parser.now else { return };
        let (segment, commit, header, repeat) = (*segment, *commit, *header, *repeat);
        let part = piece.split_to(piece.len().min(verifier.body_left()));
        let mut of_producer = false;
        let checked = verifier.feed(&part, |entry| of_producer |= entry.producer.is_some());
        let left = verifier.body_left();
        let end = if left == 0 { Some(verifier.finish()) } else { None };
        // A fence, or another stream, may have come since the last piece: then what was staged is
        // gone, and the place is not this stream's any more.
        let session = self.sessions.get(&segment).map(|opening| opening.session);
        let Some(session) = session.filter(|session| state.replica.may_append(*session, segment)) else {
            self.parser.now = if left == 0 { Now::Head } else { Now::Skip(left) };
            return self.refuse_lost(state, segment);
        };
        let checked = checked.map_err(|error| Refusal::Invalid(error.to_string()));
        let checked = if of_producer { checked.and_then(|()| self.check_producers(state)) } else { checked };
        let Some(local) = state.segments.get_mut(&segment) else { return };
        if let Err(refusal) = checked {
            local.buffer.discard();
            self.parser.now = if left == 0 { Now::Head } else { Now::Skip(left) };
            return self.refuse(state, segment, refusal);
        }
        if !repeat {
            local.buffer.fill(&part);
        }
        let Some(end) = end else { return };
        self.parser.now = Now::Head;
        let stored = end.map_err(|error| Refusal::Invalid(error.to_string())).and_then(|end| {
            if repeat {
                let here = (local.buffer.chain_at(header.first), local.buffer.chain_at(header.end()));
                return state.replica.repeated(session, segment, &header, end, here);
            }
            state.replica.stored(session, segment, &header, end)?;
            local.buffer.publish(end, !state.replica.has_writer(segment));
            metrics::appended(&header);
            Ok(())
        });
        match stored {
            Ok(()) => {
                state.replica.learn_commit(session, segment, commit);
                if let Some(opening) = self.sessions.get_mut(&segment) {
                    opening.dirty = true;
                }
            }
            Err(refusal) => {
                if let Some(local) = state.segments.get_mut(&segment) {
                    local.buffer.discard();
                }
                self.refuse(state, segment, refusal);
            }
        }
    }

    /// A short frame is complete. Returns what must be done without the lock.
    fn message(&mut self, state: Option<&mut LogState>, kind: Kind, body: &[u8]) -> Option<Open> {
        match kind {
            Kind::Open => match codec::decode::<Open>(body) {
                Ok(open) if open.at.log == self.log => Some(open),
                Ok(open) => {
                    let why = format!("the stream is for log {}, not {}", self.log, open.at.log);
                    self.tell_refused(open.at.segment, Refusal::Invalid(why));
                    None
                }
                Err(error) => {
                    self.tell_refused(SegmentNumber(u64::MAX), Refusal::Invalid(error.to_string()));
                    None
                }
            },
            Kind::Commit => {
                let segment = frame::place(body).segment;
                if let (Some(opening), Some(state)) = (self.sessions.get(&segment), state) {
                    state.replica.learn_commit(opening.session, segment, frame::parse_commit(body));
                    if let Some(slot) = &self.slot {
                        slot.grown.notify_waiters();
                    }
                }
                None
            }
            _ => None,
        }
    }
}
