//! What a node in this process answers.

use super::meta::Batches;
use super::node::{Inside, Local, Seen};
use crate::transport::{FrameReader, RecvStream, SendStream, send_message};
use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchVerifier, Place};
use piculet_quorum::ids::{Incarnation, Index, Level, LogId, SegmentNumber, Timestamp};
use piculet_quorum::limits::DATA_BYTES_TARGET;
use piculet_quorum::replica::{Admission, ChainAt, Replica, Session, Unanswered};
use piculet_quorum::wire::codec;
use piculet_quorum::wire::frame::{self, Kind, Mark};
use piculet_quorum::wire::message::{
    Address, FenceOk, Open, Opened, Proposal, Refusal, Refused, Request, Response, Status, Welcome,
    WriterSeen,
};
use std::future::pending;
use std::sync::Arc;
use tokio::time::Instant;

/// A client's stream ends whenever the client likes.
type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

pub(super) async fn stream(node: Arc<Inside>, peer: String, send: SendStream, receive: RecvStream) {
    // What the client does not want any more needs no answer.
    let _ = node.serve(&peer, send, FrameReader::new(receive)).await;
}

/// A stream of a segment's writer.
struct Writing<'a> {
    node: &'a Inside,
    at: (LogId, SegmentNumber),
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut writers = self.node.seen.lock();
        let writer = writers.get_mut(&self.at).expect("it was opened");
        (writer.streams, writer.since) = (writer.streams - 1, Instant::now());
    }
}

impl Inside {
    async fn serve(&self, peer: &str, mut send: SendStream, mut frames: FrameReader) -> Served {
        let Some((_, body)) = frames.next().await? else { return Ok(()) };
        let request: Request = codec::decode(&body)?;
        let deaf = self.faults.lock().deaf && !matches!(request, Request::Hello(_));
        if deaf {
            return pending().await;
        }
        let about_segments = matches!(
            request,
            Request::Fence(_)
                | Request::Fetch { .. }
                | Request::Append(_)
                | Request::Subscribe { .. }
                | Request::Watermarks { .. }
                | Request::WriterSeen { .. }
        );
        if about_segments && self.faults.lock().mute {
            return pending().await;
        }
        match request {
            Request::Append(log) => self.append(log, peer, send, frames).await,
            Request::Fetch { at, from, to } => self.fetch(at, from, to, send).await,
            Request::Subscribe { log, segment, from } => self.subscribe(log, segment, from, send).await,
            Request::Watermarks { log, segment } => {
                if self.shared.meta.lock().is_deleted(log) {
                    return refuse(&mut send, Refusal::Deleted).await;
                }
                match self.mark(log, segment) {
                    Some(mark) => {
                        *self.marks_asked.lock() += 1;
                        self.hold_marks().await?;
                        send.write_all(&mark.encode()).await?;
                    }
                    None => refuse(&mut send, Refusal::NotHere).await?,
                }
                Ok(())
            }
            #[cfg(feature = "object")]
            Request::Propose(Proposal::RecordPart(part)) => {
                let response = self.record_part(*part).await.unwrap_or_else(Response::Refused);
                send_message(&mut send, Kind::Response, &response).await?;
                Ok(())
            }
            other => {
                let response = self.answer(other).unwrap_or_else(Response::Refused);
                send_message(&mut send, Kind::Response, &response).await?;
                Ok(())
            }
        }
    }

    fn answer(&self, request: Request) -> Result<Response, Refusal> {
        let mut meta = self.shared.meta.lock();
        Ok(match request {
            Request::Hello(hello) => {
                if hello.cluster.is_some_and(|cluster| cluster != meta.cluster) {
                    return Err(Refusal::WrongCluster { cluster: meta.cluster });
                }
                Response::Welcome(Welcome {
                    version: String::new(),
                    cluster: meta.cluster,
                    node: self.id.clone(),
                    incarnations: [(Level::Memory, self.memory)].into(),
                    shards: vec![self.address.clone()],
                })
            }
            Request::Nodes => Response::Nodes(meta.nodes()),
            Request::FindLog(name) => Response::Log(meta.find(&name)),
            Request::ListLogs { after, .. } => Response::Names(meta.names(after.as_ref(), 3)),
            Request::ViewLog { .. } if meta.away => {
                meta.missed += 1;
                return Err(Refusal::Unavailable(
                    "the metadata are away, for the sake of the test".to_owned(),
                ));
            }
            Request::ViewLog { log, from } => Response::View(meta.view(log, from).map(Box::new)),
            Request::Propose(proposal) => {
                if let Proposal::Seal(seal) = &proposal {
                    seal.check(&Default::default()).map_err(|error| Refusal::Invalid(error.to_string()))?;
                    if let Some(refusal) = meta.refuse_seals.clone() {
                        meta.seals_refused += 1;
                        return Err(refusal);
                    }
                }
                let outcome = meta.propose(&proposal.txn());
                self.shared.changed();
                Response::Outcome(outcome?)
            }
            Request::Fence(at) => {
                drop(meta);
                Response::Fenced(self.fence(&at)?)
            }
            Request::WriterSeen { log, segment } => {
                drop(meta);
                Response::WriterSeen(self.writer_seen(log, segment)?)
            }
            Request::Producers(log) => Response::Producers(meta.producers(log)?),
            _ => Response::Status(Status {
                node: self.id.clone(),
                incarnations: [(Level::Memory, self.memory)].into(),
                buffer_bytes: 0,
                buffer_used: 0,
                cpu_nanos: 0,
                uploading: vec![],
                conditional_put: true,
            }),
        })
    }

    /// Does something with the log's replica, which has read the metadata just now.
    fn with<T>(&self, log: LogId, work: impl FnOnce(&mut Local) -> T) -> T {
        let meta = self.shared.meta.lock();
        let mut logs = self.logs.lock();
        let local = logs.entry(log).or_insert_with(|| Local {
            replica: Replica::new(self.id.clone(), self.memory, log),
            segments: Default::default(),
        });
        if let Some(view) = meta.view(log, None) {
            local.replica.learn_log(view.record.value.epoch);
        }
        for (number, segment) in meta.segments(log) {
            local.replica.learn_segment(number, &segment.record.value, segment.archived);
        }
        work(local)
    }

    fn fence(&self, at: &Address) -> Result<FenceOk, Refusal> {
        let fenced = self.with(at.log, |local| local.replica.fence(at)).map_err(refusal)?;
        let faults = *self.faults.lock();
        if faults.reborn_when_fenced {
            self.shared.meta.lock().move_incarnation(&self.id);
        }
        let at_rest = faults.at_rest.unwrap_or(fenced.held);
        Ok(FenceOk { held: fenced.held.min(at_rest), ..fenced })
    }

    /// Waits for as long as it keeps its watermarks to itself.
    async fn hold_marks(&self) -> Served {
        let mut changes = self.shared.watch();
        while self.faults.lock().slow_marks {
            changes.changed().await?;
        }
        Ok(())
    }

    fn writer_seen(&self, log: LogId, segment: SegmentNumber) -> Result<WriterSeen, Refusal> {
        let epoch = self.shared.meta.lock().record(log).value.epoch;
        self.with(log, |local| local.replica.marks(segment).map(|_| ())).ok_or(Refusal::NotHere)?;
        let mut writers = self.seen.lock();
        let writer = writers.entry((log, segment)).or_insert_with(Seen::never);
        let gone = u64::try_from(writer.since.elapsed().as_millis()).unwrap();
        let gone_ms = (writer.streams == 0).then_some(gone);
        Ok(WriterSeen { incarnation: self.memory, epoch, gone_ms, peer: writer.peer.clone() })
    }

    fn mark(&self, log: LogId, number: SegmentNumber) -> Option<Mark> {
        let known = self.shared.meta.lock().segment(log, number)?;
        let record = &known.record.value;
        let mark = self.with(log, |local| local.replica.mark(number)).unwrap_or_else(|| Mark {
            place: Place { log, segment: number, epoch: record.epoch },
            incarnation: Incarnation(0),
            commit: Index(0),
            writer_tail: Index(0),
            archived: known.archived.end,
            end: record.state.end().map(|at| at.end),
            settled: record.settled(),
            loss: record.loss.map(|loss| loss.from),
        });
        let commit = if self.faults.lock().hide_commit { Index(0) } else { mark.commit };
        Some(Mark { commit, ..mark })
    }

    async fn fetch(&self, at: Address, from: Index, to: Index, mut send: SendStream) -> Served {
        let batches = self.with(at.log, |local| local.batches(at.segment, from));
        let place = self.with(at.log, |local| local.replica.place(at.segment));
        let (Some(place), Some((first, _))) = (place, batches.first()) else {
            return refuse(&mut send, Refusal::NotHere).await;
        };
        if first.first > from {
            return refuse(&mut send, Refusal::NotHere).await;
        }
        for (header, bytes) in batches.into_iter().filter(|(header, _)| header.first < to) {
            let head = frame::data_head(&place, at.incarnation, header.bytes());
            send.write_all_chunks(&mut [Bytes::copy_from_slice(&head), bytes]).await?;
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        log: LogId,
        number: SegmentNumber,
        from: Index,
        mut send: SendStream,
    ) -> Served {
        *self.subscriptions.lock() += 1;
        if self.shared.meta.lock().is_deleted(log) {
            return refuse(&mut send, Refusal::Deleted).await;
        }
        let mut changes = self.shared.watch();
        let (mut next, mut last, mut sent) = (from, None, 0);
        loop {
            changes.borrow_and_update();
            let member = self.with(log, |local| local.replica.marks(number).is_some());
            let Some(mark) = self.mark(log, number).filter(|mark| member || mark.archived > next) else {
                return refuse(&mut send, Refusal::NotHere).await;
            };
            if last != Some(mark) {
                send.write_all(&mark.encode()).await?;
                last = Some(mark);
            }
            let mut batches = self.shared.meta.lock().stored(number, next);
            if batches.first().is_none_or(|(header, _)| header.first > next) {
                batches = self.with(log, |local| local.batches(number, next));
            }
            while !batches.is_empty() {
                let faults = *self.faults.lock();
                if faults.break_after.is_some_and(|after| sent >= after) {
                    send.reset(7_u32.into())?;
                    return Ok(());
                }
                let body = join(&mut batches, &mut next, faults.damage);
                let head = frame::data_head(&mark.place, self.memory, body.len());
                send.write_all_chunks(&mut [Bytes::copy_from_slice(&head), body]).await?;
                sent += 1;
            }
            let kept = mark.loss.or(mark.end);
            if kept.is_some_and(|kept| next >= kept) && (mark.settled || mark.loss.is_some()) {
                return Ok(());
            }
            changes.changed().await?;
        }
    }

    async fn append(&self, log: LogId, peer: &str, mut send: SendStream, mut frames: FrameReader) -> Served {
        let mut session: Option<(Session, SegmentNumber)> = None;
        let mut writing: Option<Writing<'_>> = None;
        while let Some((kind, body)) = frames.next().await? {
            match kind {
                Kind::Open => {
                    let open: Open = codec::decode(&body)?;
                    match self.with(log, |local| local.open(&open)) {
                        Ok((opened, answer)) => {
                            session = Some((opened, open.at.segment));
                            drop(writing.take());
                            writing = (!open.repair).then(|| self.writing(log, open.at.segment, peer));
                            send_message(&mut send, Kind::Opened, &answer).await?;
                        }
                        Err(why) => self.refused(&mut send, open.at.segment, why).await?,
                    }
                }
                Kind::Append if self.faults.lock().forgetful => {}
                Kind::Append | Kind::Commit => {
                    let Some((session, number)) = session else { continue };
                    let commit = frame::parse_commit(&body);
                    let place = frame::place(&body);
                    let ack = self.with(log, |local| {
                        if kind == Kind::Append {
                            local.store(session, number, &place, body.slice(32..))?;
                        }
                        local.replica.learn_commit(session, number, commit);
                        Ok(local.replica.ack(session, number))
                    });
                    self.shared.changed();
                    match ack {
                        Ok(Some(ack)) => send.write_all(&ack.encode()).await?,
                        Ok(None) => {}
                        Err(why) => self.refused(&mut send, number, why).await?,
                    }
                }
                other => return Err(format!("a {other:?} frame on an append stream").into()),
            }
        }
        Ok(())
    }

    fn writing(&self, log: LogId, segment: SegmentNumber, peer: &str) -> Writing<'_> {
        let mut writers = self.seen.lock();
        let writer = writers.entry((log, segment)).or_insert_with(Seen::never);
        writer.streams += 1;
        writer.peer = Some(peer.to_owned());
        Writing { node: self, at: (log, segment) }
    }

    async fn refused(&self, send: &mut SendStream, segment: SegmentNumber, why: Refusal) -> Served {
        Ok(send_message(send, Kind::Refused, &Refused { segment, why }).await?)
    }
}

impl Seen {
    fn never() -> Self {
        Self { streams: 0, since: Instant::now(), peer: None }
    }
}

impl Local {
    fn batches(&self, number: SegmentNumber, from: Index) -> Batches {
        let freed = self.replica.marks(number).map_or(Index(0), |marks| marks.freed);
        let stored = self.segments.get(&number).map(|stored| stored.batches.clone()).unwrap_or_default();
        stored.into_iter().filter(|(header, _)| header.end() > from.max(freed)).collect()
    }

    pub(super) fn open(&mut self, open: &Open) -> Result<(Session, Opened), Refusal> {
        let before = self.replica.marks(open.at.segment).map(|marks| marks.tail);
        let result = self.replica.open(open).map_err(refusal)?;
        if before.is_some_and(|before| before < result.1.tail) {
            self.segments.remove(&open.at.segment);
        }
        Ok(result)
    }

    pub(super) fn store(
        &mut self,
        session: Session,
        number: SegmentNumber,
        place: &Place,
        batch: Bytes,
    ) -> Result<(), Refusal> {
        let invalid = |error: String| Refusal::Invalid(error);
        let header = batch.first_chunk::<BATCH_HEADER_BYTES>().ok_or_else(|| invalid("short".to_owned()))?;
        let header = BatchHeader::decode(header, place).map_err(|error| invalid(error.to_string()))?;
        let mut verifier = BatchVerifier::new(header, Timestamp(0));
        verifier.feed(&batch[BATCH_HEADER_BYTES..], |_| ()).map_err(|error| invalid(error.to_string()))?;
        let end = verifier.finish().map_err(|error| invalid(error.to_string()))?;
        match self.replica.admit(session, number, &header) {
            Admission::Store => {
                self.replica.stored(session, number, &header, end)?;
                let stored = self.segments.entry(number).or_default();
                stored.batches.push((header, batch));
                stored.end = Some(end);
                Ok(())
            }
            Admission::Repeat => {
                let at = (ChainAt::Boundary(header.chain), ChainAt::Boundary(end.chain));
                self.replica.repeated(session, number, &header, end, at)
            }
            Admission::Refuse(refusal) => Err(refusal),
        }
    }
}

/// As many batches as go into one frame.
fn join(batches: &mut Batches, next: &mut Index, damage: bool) -> Bytes {
    let mut body = Vec::new();
    while !batches.is_empty() && body.len() < DATA_BYTES_TARGET {
        let (header, bytes) = batches.remove(0);
        body.extend_from_slice(&bytes);
        *next = header.end();
    }
    if damage {
        *body.last_mut().expect("there is a batch") ^= 1;
    }
    body.into()
}

async fn refuse(send: &mut SendStream, why: Refusal) -> Served {
    Ok(send_message(send, Kind::Response, &Response::Refused(why)).await?)
}

fn refusal(unanswered: Unanswered) -> Refusal {
    match unanswered {
        Unanswered::Refused(refusal) => refusal,
        Unanswered::NeedMetadata => Refusal::NotHere,
    }
}
