//! Entries for readers and takeovers: from memory without a copy, else from object storage.

use super::control::damaged_record;
use super::{Shared, finish, respond};
use crate::core::Core;
use bytes::Bytes;
use piculet_client::transport::{SendStream, WriteError};
use piculet_quorum::batch::Place;
use piculet_quorum::ids::{Epoch, Incarnation, Index, LogId, SegmentNumber};
use piculet_quorum::limits::DATA_BYTES_TARGET;
use piculet_quorum::meta::{Key, PartRow, Range, SegmentRecord, Versioned};
use piculet_quorum::wire::frame::{self, Mark};
use piculet_quorum::wire::message::{Address, Refusal, Response};
use piculet_storage::{Part, PartName, Run};
use std::pin::pin;
use std::sync::Arc;

/// Why a stream to a reader ends before its time.
enum Ended {
    /// The reader has gone.
    Gone(WriteError),
    /// It is refused.
    Refused(Refusal),
}

impl From<WriteError> for Ended {
    fn from(error: WriteError) -> Self {
        Self::Gone(error)
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn end(send: &mut SendStream, result: Result<(), Ended>) {
    match result {
        Ok(()) => finish(send).await,
        Err(Ended::Gone(error)) => tracing::debug!(%error, "a reader has gone"),
        Err(Ended::Refused(refusal)) => respond(send, &Response::Refused(refusal)).await,
    }
}

/// Sends a segment's entries from `from` on, and its watermarks whenever they change, until all
/// of it has been sent. Entries are sent ahead of their commit: the reader holds them back.
pub(super) async fn subscribe(
    shared: &Shared,
    log: LogId,
    segment: SegmentNumber,
    from: Index,
    send: &mut SendStream,
) {
    let mut reading = Reading { shared, log, segment, next: from, told: None, part: None };
    let result = reading.run(send).await;
    end(send, result).await;
}

/// Sends one `Mark` frame.
pub(super) async fn watermarks(shared: &Shared, log: LogId, segment: SegmentNumber, send: &mut SendStream) {
    let mark = match held(&shared.core, log, segment) {
        Some(mark) => Ok(mark),
        None => look_up(&shared.core, log, segment).await,
    };
    let result = match mark {
        Ok(mark) => send.write_chunk(Bytes::copy_from_slice(&mark.encode())).await.map_err(Ended::Gone),
        Err(refusal) => Err(Ended::Refused(refusal)),
    };
    end(send, result).await;
}

/// Sends a segment's batches from the boundary `from` to `to`, for a takeover that has fenced it here.
pub(super) async fn fetch(shared: &Shared, at: Address, from: Index, to: Index, send: &mut SendStream) {
    let result = fetch_all(&shared.core, at, from, to, send).await;
    end(send, result).await;
}

/// The watermarks of a segment that this node does not know of: as a member that has heard of it
/// just now and holds nothing, or as the metadata have them.
async fn look_up(core: &Core, log: LogId, segment: SegmentNumber) -> Result<Mark, Refusal> {
    core.refresh_segment(log, segment).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    match held(core, log, segment) {
        Some(mark) => Ok(mark),
        None => archived(core, log, segment).await.map(|seen| seen.mark(log, segment)),
    }
}

async fn fetch_all(
    core: &Core,
    at: Address,
    from: Index,
    to: Index,
    send: &mut SendStream,
) -> Result<(), Ended> {
    let mut next = from;
    while next < to {
        let (run, place) = {
            let slot = core.logs.get(at.log).ok_or(Refusal::NotHere)?;
            let state = slot.lock();
            if state.replica.deleted() {
                return Err(Refusal::Deleted.into());
            }
            if at.incarnation != state.replica.incarnation() {
                return Err(Refusal::WrongIncarnation { current: state.replica.incarnation() }.into());
            }
            if at.epoch != state.replica.fence_epoch() {
                return Err(Refusal::Fenced { epoch: state.replica.fence_epoch() }.into());
            }
            let local = state.segments.get(&at.segment).ok_or(Refusal::NotHere)?;
            let (buffer, place) = (&local.buffer, state.replica.place(at.segment).ok_or(Refusal::NotHere)?);
            if to > buffer.tail() {
                return Err(Refusal::NotHere.into());
            }
            // Whoever asks for less than a batch gets the whole of it, and nothing behind it.
            let cut = buffer.floor_boundary(to) != Some(to);
            let (end, bytes) = if cut { (buffer.tail(), 0) } else { (to, DATA_BYTES_TARGET) };
            (buffer.read(next, end, bytes).ok_or(Refusal::NotHere)?, place)
        };
        next = run.end;
        send_run(send, &place, at.incarnation, run).await?;
    }
    Ok(())
}

async fn send_run(
    send: &mut SendStream,
    place: &Place,
    incarnation: Incarnation,
    run: Run,
) -> Result<(), WriteError> {
    let head = frame::data_head(place, incarnation, run.bytes);
    let mut pieces = Vec::with_capacity(1 + run.pieces.len());
    pieces.push(Bytes::copy_from_slice(&head));
    pieces.extend(run.pieces);
    send.write_all_chunks(&mut pieces).await
}

/// The watermarks of a segment that is held here.
fn held(core: &Core, log: LogId, segment: SegmentNumber) -> Option<Mark> {
    core.logs.get(log)?.lock().replica.mark(segment)
}

/// What the metadata show of a segment that is not held here.
struct Seen {
    record: Versioned<SegmentRecord>,
    row: PartRow,
}

impl Seen {
    fn mark(&self, log: LogId, segment: SegmentNumber) -> Mark {
        let record = &self.record.value;
        Mark {
            place: Place { log, segment, epoch: record.epoch },
            incarnation: Incarnation(0),
            commit: Index(0),
            writer_tail: Index(0),
            archived: self.row.archived(),
            end: record.state.end().map(|at| at.end),
            settled: record.settled(),
            loss: record.loss.map(|loss| loss.from),
        }
    }
}

/// What the metadata have of a segment; a log that has no record, or only a tombstone, is deleted.
async fn archived(core: &Core, log: LogId, segment: SegmentNumber) -> Result<Seen, Refusal> {
    let (key, log_key) = (Key::Segment(log, segment), Key::Log(log));
    let keys = [key.clone(), log_key.clone()];
    let snapshot = core.meta.read(&keys, &[Range::Parts(log, segment)]).await;
    let snapshot = snapshot.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    if snapshot.log(&log_key).is_none_or(|log| log.value.deleted.is_some()) {
        return Err(Refusal::Deleted);
    }
    let record = snapshot.segment(&key).ok_or(Refusal::NotHere)?;
    let row = snapshot.row(log, segment).map_err(|first| {
        Refusal::Unavailable(format!("metadata are damaged: part at {first} does not end behind its start"))
    })?;
    row.check(log, segment, &record.value).map_err(|damage| damaged_record(&damage))?;
    Ok(Seen { record, row })
}

/// Where the entries of a segment end, once that is known: at its end, or where a loss begins.
fn end_of(mark: &Mark) -> Option<Index> {
    mark.end.map(|end| mark.loss.map_or(end, |loss| loss.min(end)))
}

/// One reader's way through a segment.
struct Reading<'a> {
    shared: &'a Shared,
    log: LogId,
    segment: SegmentNumber,
    /// Everything before it has been sent.
    next: Index,
    told: Option<Mark>,
    /// The part that was read last.
    part: Option<Arc<Part>>,
}

/// What there is to send.
enum Found {
    /// Batches from memory, of the life of the buffer that is named.
    Run(Place, Incarnation, Run),
    /// Batches that memory has not any more.
    Archived,
    /// Nothing yet.
    Nothing,
    /// The segment is not held here.
    NotHeld,
}

impl Reading<'_> {
    async fn run(&mut self, send: &mut SendStream) -> Result<(), Ended> {
        loop {
            let slot = self.shared.core.logs.get(self.log);
            let Some(slot) = slot else { return self.run_archived(send).await };
            // Registered before looking, so that nothing that changes meanwhile is missed.
            let (mut grown, mut changed) = (pin!(slot.grown.notified()), pin!(slot.changed.notified()));
            grown.as_mut().enable();
            changed.as_mut().enable();
            let (mark, found) = {
                let state = slot.lock();
                let mark = state.replica.mark(self.segment);
                let found = match (state.segments.get(&self.segment), mark) {
                    (Some(local), Some(mark)) => {
                        let tail = end_of(&mark).unwrap_or(Index(u64::MAX)).min(local.buffer.tail());
                        if self.next >= tail {
                            Found::Nothing
                        } else if self.next < local.buffer.freed() {
                            Found::Archived
                        } else {
                            let at = local.buffer.floor_boundary(self.next).unwrap_or(self.next);
                            match local.buffer.read(at, tail, DATA_BYTES_TARGET) {
                                Some(run) => Found::Run(mark.place, mark.incarnation, run),
                                None => Found::Nothing,
                            }
                        }
                    }
                    _ => Found::NotHeld,
                };
                (mark, found)
            };
            if let Some(mark) = mark {
                self.tell(send, mark).await?;
            }
            match found {
                Found::Run(place, incarnation, run) => {
                    self.next = run.end;
                    send_run(send, &place, incarnation, run).await?;
                }
                Found::Archived => {
                    let epoch = mark.map_or(Epoch(0), |mark| mark.place.epoch);
                    self.send_archived(send, epoch).await?;
                }
                Found::NotHeld => return self.run_archived(send).await,
                Found::Nothing => {
                    if mark.is_some_and(|mark| self.is_through(&mark)) {
                        return Ok(());
                    }
                    tokio::select! {
                        () = grown => {}
                        () = changed => {}
                        _ = send.stopped() => return Ok(()),
                    }
                }
            }
        }
    }

    /// Whether everything that will ever be there has been sent.
    fn is_through(&self, mark: &Mark) -> bool {
        (mark.settled || mark.loss.is_some()) && end_of(mark).is_some_and(|end| self.next >= end)
    }

    /// Sends what object storage has; for a segment that is not held here that is all there is.
    async fn run_archived(&mut self, send: &mut SendStream) -> Result<(), Ended> {
        loop {
            let seen = archived(&self.shared.core, self.log, self.segment).await?;
            let mark = seen.mark(self.log, self.segment);
            self.tell(send, mark).await?;
            if self.is_through(&mark) {
                return Ok(());
            }
            if self.next >= mark.archived {
                return Err(Refusal::NotHere.into());
            }
            self.send_from_row(send, &seen.row, mark.place.epoch).await?;
        }
    }

    async fn send_archived(&mut self, send: &mut SendStream, epoch: Epoch) -> Result<(), Ended> {
        let row = self
            .shared
            .core
            .logs
            .get(self.log)
            .and_then(|slot| slot.lock().segments.get(&self.segment).map(|local| local.row.clone()));
        match row {
            Some(row) => self.send_from_row(send, &row, epoch).await,
            // It has been archived whole in this very moment.
            None => Ok(()),
        }
    }

    /// Sends everything of the part that holds the next index.
    async fn send_from_row(
        &mut self,
        send: &mut SendStream,
        row: &PartRow,
        epoch: Epoch,
    ) -> Result<(), Ended> {
        let after = row.parts.partition_point(|(first, _)| *first <= self.next);
        let (first, record) = row.parts[..after].last().ok_or(Refusal::NotHere)?;
        let name = PartName {
            log: self.log,
            segment: self.segment,
            first: *first,
            end: record.value.at.end,
            chain: record.value.at.chain,
            encoder: record.value.encoder,
            skip: record.value.skip,
        };
        if name.skip {
            // Nothing is there to be sent; the mark says so.
            return Err(Refusal::NotHere.into());
        }
        let part = self.read_part(name).await?;
        let place = Place { log: self.log, segment: self.segment, epoch };
        while self.next < record.value.at.end {
            let run = part.read(self.next, record.value.at.end, DATA_BYTES_TARGET);
            let run = run
                .ok_or_else(|| Refusal::Unavailable(format!("part at {first} lacks index {}", self.next)))?;
            self.next = run.end;
            send_run(send, &place, Incarnation(0), run).await?;
        }
        Ok(())
    }

    /// Reads a part where that delays no append.
    async fn read_part(&mut self, name: PartName) -> Result<Arc<Part>, Refusal> {
        if let Some(part) = self.part.as_ref().filter(|part| part.header().name() == name) {
            return Ok(Arc::clone(part));
        }
        let core = Arc::clone(&self.shared.core);
        let read = self.shared.background.spawn(async move { core.objects.get_part(&name).await });
        let part = match read.await {
            Ok(Ok(part)) => Arc::new(part),
            Ok(Err(error)) => {
                tracing::warn!(log = %self.log, segment = %self.segment, %error, "a part cannot be read");
                return Err(Refusal::Unavailable(error.to_string()));
            }
            Err(error) => return Err(Refusal::Unavailable(format!("the node is stopping: {error}"))),
        };
        self.part = Some(Arc::clone(&part));
        Ok(part)
    }

    async fn tell(&mut self, send: &mut SendStream, mark: Mark) -> Result<(), WriteError> {
        if self.told == Some(mark) {
            return Ok(());
        }
        self.told = Some(mark);
        send.write_chunk(Bytes::copy_from_slice(&mark.encode())).await
    }
}
