//! What a writer keeps under its lock: the protocol's machine, the encoded batches until they are
//! released, and the tasks that wait for acknowledgements.

use super::ending::{Ending, Stopped};
use crate::error::Error;
use crate::record::{AppendOptions, Record};
use crate::takeover::Taken;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchBuilder, BatchEnd};
use piculet_quorum::entry::ENTRY_HEADER_BYTES;
use piculet_quorum::ids::{Index, Level, LogName, NodeId, Offset, SegmentNumber, Timestamp};
use piculet_quorum::limits::{BATCH_BYTES_MAX, BATCH_BYTES_TARGET, BATCH_ENTRIES_MAX, ENTRY_BYTES_MAX};
use piculet_quorum::meta::LogView;
use piculet_quorum::producers::{Judgement, LastAppend, PRODUCER_BYTES, Producer, ProducerId, Producers};
use piculet_quorum::time::Time;
use piculet_quorum::wire::frame::{APPEND_HEAD_BYTES, append_head};
use piculet_quorum::writer::{MetaReply, Transmit, Writer, WriterEvent, WriterOptions};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Instant, SystemTime};
use tokio::sync::Notify;

/// What precedes the entries in an encoded append.
const HEAD_BYTES: usize = APPEND_HEAD_BYTES + BATCH_HEADER_BYTES;
/// Size of the blocks that appends are encoded into.
const BLOCK_BYTES: usize = 1 << 20;

/// A writer, as its handle, its futures and its tasks share it.
pub(super) struct Shared {
    state: Mutex<State>,
    started: Instant,
    /// Told when the clock should be looked at again.
    pub(super) clock: Notify,
    /// Told when the machine may have a metadata request.
    pub(super) meta: Notify,
    /// Told when the set of nodes that a stream is wanted to may have changed.
    pub(super) nodes: Notify,
    /// Told when there may be something to upload.
    pub(super) upload: Arc<Notify>,
    /// Told when there is room again, or the writer has stopped.
    pub(super) room: Notify,
    /// Told when more is acknowledged, the writer has stopped, or more is known of what it left.
    pub(super) committed: Notify,
}

/// What is under the lock.
pub(super) struct State {
    pub(super) writer: Writer,
    name: LogName,
    pub(super) open: Option<OpenBatch>,
    block: BytesMut,
    /// What the last entry taken leaves behind it.
    end: BatchEnd,
    pub(super) next: Offset,
    pub(super) retained: BTreeMap<SegmentNumber, VecDeque<(Index, Bytes)>>,
    /// Tasks that wait for offsets from `committed` on.
    pub(super) waiters: VecDeque<Option<Waker>>,
    /// Tasks that wait for an entry that was appended before, in no order.
    pub(super) again: Vec<(Offset, Waker)>,
    pub(super) committed: Offset,
    /// The table of producers up to `next`; none until somebody has asked for one of them.
    producers: Option<Box<Producers>>,
    pub(super) ending: Option<Ending>,
    closing: bool,
    rolls: u64,
    /// How often the log was parked: links of an earlier time say nothing any more.
    parks: u64,
    /// One per node, told when there may be something to send to it.
    links: BTreeMap<NodeId, Arc<Notify>>,
    /// Told together with them.
    upload: Arc<Notify>,
    /// Whether the clock's task has been told of a commit mark that waits to be sent.
    clock_told: bool,
    /// Whether the clock's task sleeps until something is due, however far off.
    clock_rests: bool,
    /// What a node, or the object store, said last about refusing.
    pub(super) refusal: Option<String>,
}

/// A batch that has been taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    /// The offset of its first entry.
    pub(super) first: Offset,
    /// That of its last; of the first when the batch was appended before.
    pub(super) last: Offset,
    /// Whether it was appended before: then others may wait for the same entry.
    pub(super) again: bool,
}

/// Entries that have been taken and not been given their place yet.
pub(super) struct OpenBatch {
    builder: BatchBuilder,
    /// Room for the head, then the entries.
    bytes: BytesMut,
}

impl OpenBatch {
    pub(super) fn encoded(&self) -> usize {
        self.bytes.len() - APPEND_HEAD_BYTES
    }
}

impl Shared {
    pub(super) fn new(options: WriterOptions, taken: Taken) -> Self {
        let start = taken.segment.value.start();
        let end = BatchEnd { chain: start.chain, last_timestamp: start.last_timestamp };
        let writer = Writer::new(Time(0), options, taken.log, taken.record, taken.number, taken.segment);
        let next = writer.next_offset();
        let upload = Arc::new(Notify::new());
        let state = State {
            writer,
            name: taken.name,
            open: None,
            block: BytesMut::new(),
            end,
            next,
            retained: BTreeMap::new(),
            waiters: VecDeque::new(),
            again: Vec::new(),
            committed: next,
            producers: None,
            ending: None,
            closing: false,
            rolls: 0,
            parks: 0,
            links: BTreeMap::new(),
            upload: Arc::clone(&upload),
            clock_told: false,
            clock_rests: false,
            refusal: None,
        };
        Self {
            state: Mutex::new(state),
            started: Instant::now(),
            clock: Notify::new(),
            meta: Notify::new(),
            nodes: Notify::new(),
            upload,
            room: Notify::new(),
            committed: Notify::new(),
        }
    }

    /// The time on the writer's own clock.
    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment that a time on the writer's clock stands for.
    pub(super) fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.started + std::time::Duration::from_micros(time.0)).into()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What a link to a node may go on with, if it was made since the log was parked last and the
    /// writer has not stopped.
    pub(super) fn lock_link(&self, parks: u64) -> Option<MutexGuard<'_, State>> {
        let state = self.lock();
        (!state.is_stopped() && state.parks == parks).then_some(state)
    }

    /// Takes a batch, unless its producer has appended it before.
    pub(super) fn append(&self, records: &[Record<'_>], options: &AppendOptions) -> Result<Queued, Error> {
        let mut bytes = if options.producer.is_some() { PRODUCER_BYTES } else { 0 };
        for record in records {
            let len = record.len();
            if len > ENTRY_BYTES_MAX {
                return Err(Error::EntryTooLong(len));
            }
            bytes += ENTRY_HEADER_BYTES + len;
        }
        let entries = records.len();
        if entries == 0 || entries > BATCH_ENTRIES_MAX || BATCH_HEADER_BYTES + bytes > BATCH_BYTES_MAX {
            return Err(Error::BatchSize { entries, bytes: BATCH_HEADER_BYTES + bytes });
        }
        let mut state = self.lock();
        if let Some(ending) = &state.ending {
            return Err(ending.refusal());
        }
        if state.closing {
            return Err(Error::Closed);
        }
        if *options == AppendOptions::default() {
            return self.take(&mut state, records, bytes, None);
        }
        if let Some(first) = state.judge(options)? {
            return Ok(Queued { first, last: first, again: true });
        }
        let taken = self.take(&mut state, records, bytes, options.producer.as_ref())?;
        if let (Some(producer), Some(table)) = (options.producer, &mut state.producers) {
            table.fold(producer, taken.first);
        }
        Ok(taken)
    }

    fn take(
        &self,
        state: &mut State,
        records: &[Record<'_>],
        bytes: usize,
        mut producer: Option<&Producer>,
    ) -> Result<Queued, Error> {
        let full = state.open.as_ref().is_some_and(|open| {
            open.encoded() + bytes > BATCH_BYTES_TARGET
                || open.builder.count() as usize + records.len() > BATCH_ENTRIES_MAX
        });
        if full {
            self.flush(state);
        }
        let waiting = state.open.as_ref().map_or(0, OpenBatch::encoded);
        let wanted = (waiting + BATCH_HEADER_BYTES + bytes) as u64;
        let room = state.writer.room();
        if wanted > room {
            state.writer.give_up_laggards();
            self.pump(state);
            if wanted > state.writer.room() {
                let slow = match state.writer.level() {
                    Level::Memory | Level::Disk => "the nodes do not keep up",
                    Level::Object => "the object store does not keep up",
                };
                let why = state.refusal.clone().unwrap_or_else(|| slow.to_owned());
                return Err(Error::Overloaded { waiting: state.writer.retained() + waiting as u64, why });
            }
        }
        let timestamp = now_ms().max(state.end.last_timestamp);
        let State { open, block, end, .. } = state;
        let batch = open.get_or_insert_with(|| {
            let wanted = HEAD_BYTES + bytes;
            if block.capacity() < wanted.max(BATCH_BYTES_TARGET / 4) {
                *block = BytesMut::with_capacity(wanted.max(BLOCK_BYTES));
            }
            let mut bytes = std::mem::take(block);
            bytes.put_bytes(0, HEAD_BYTES);
            OpenBatch { builder: BatchBuilder::new(*end), bytes }
        });
        for record in records {
            // A batch is appended whole or not at all: its first entry speaks for the others.
            let (producer, headers) = (producer.take(), record.encoded_headers());
            batch.builder.push_of(producer, headers, record.payload(), timestamp, &mut batch.bytes);
        }
        *end = batch.builder.end();
        let first = state.next;
        state.next = first.plus(records.len() as u64);
        if state.writer.parked() {
            // There is no link that would do it.
            self.flush(state);
        }
        state.wake_links();
        self.stir(state);
        Ok(Queued { first, last: Offset(state.next.0 - 1), again: false })
    }

    /// Gives the open batch its place, so that it can be sent.
    pub(super) fn flush(&self, state: &mut State) {
        let Some(mut open) = state.open.take().filter(|_| !state.is_stopped()) else { return };
        let parked = state.writer.parked();
        let encoded = open.encoded();
        let (count, end) = (open.builder.count(), open.builder.end());
        let assigned = match state.writer.assign(self.now(), count, encoded as u64, end) {
            Ok(assigned) => assigned,
            Err(error) => {
                // Room was checked when the entries were taken, so the writer has stopped.
                return self.stop(state, Stopped::Broken(format!("an append found no place: {error}")));
            }
        };
        assert_eq!(
            assigned.offset.plus(u64::from(count)),
            state.next,
            "offsets are given out in the order of the calls"
        );
        let header = open.builder.header(assigned.first, open.bytes.len() - HEAD_BYTES);
        open.bytes[..APPEND_HEAD_BYTES].copy_from_slice(&append_head(
            &assigned.place,
            assigned.commit,
            encoded,
        ));
        open.bytes[APPEND_HEAD_BYTES..HEAD_BYTES].copy_from_slice(&header.encode(&assigned.place));
        let frame = open.bytes.split().freeze();
        state.block = open.bytes;
        state.retained.entry(assigned.place.segment).or_default().push_back((header.end(), frame));
        if parked {
            self.wake_all(state);
        }
        if state.writer.has_request() {
            self.meta.notify_one();
        }
    }

    /// The answer to the metadata request that is out.
    pub(super) fn answered(&self, reply: MetaReply) {
        let mut state = self.lock();
        // The machine must know of every entry before it parks the log: no link is left after that.
        self.flush(&mut state);
        state.writer.handle_meta(self.now(), reply);
        self.pump(&mut state);
        self.wake_all(&state);
    }

    /// Takes no further append, and seals once all are acknowledged.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        self.flush(&mut state);
        state.closing = true;
        let now = self.now();
        state.writer.close(now);
        self.pump(&mut state);
        self.wake_all(&state);
    }

    /// The handle is gone: nobody appends or closes any more.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        if !state.is_stopped() {
            self.stop(&mut state, Stopped::Dropped);
        }
        drop(state);
        self.give_up("the writer was dropped before it was known".to_owned());
    }

    /// The first segment with entries of a replaced writer whose outcome is not known yet.
    pub(super) fn unresolved(&self) -> Option<SegmentNumber> {
        self.lock().ending.as_ref()?.unresolved()
    }

    /// What the metadata show of the log, now that another writes it; nothing when it is gone.
    pub(super) fn learn(&self, view: Option<&LogView>) {
        self.conclude(|ending, state| match view {
            Some(view) => ending.learn(view, state.writer.epoch()),
            None => ending.log_is_gone(),
        });
    }

    /// What is not known of the last entries by now will stay unknown.
    pub(super) fn give_up(&self, why: String) {
        self.conclude(|ending, _| ending.give_up(why));
    }

    /// More is known of what a writer left behind: whoever waits for it is told.
    fn conclude(&self, work: impl FnOnce(&mut Ending, &State)) {
        let mut state = self.lock();
        let Some(mut ending) = state.ending.take() else { return };
        work(&mut ending, &state);
        let appended = ending.appended(state.committed);
        state.ending = Some(ending);
        state.commit(appended);
        state.wake_waiters();
        self.committed.notify_waiters();
    }

    /// The table of producers before the writer's first entry has been read: nothing was appended for
    /// one of them so far.
    pub(super) fn begin_producers(&self, table: Producers) {
        self.lock().producers.get_or_insert_with(|| Box::new(table));
    }

    /// The last append of a producer, be it acknowledged or on its way.
    pub(super) fn last_of(&self, id: ProducerId) -> Option<LastAppend> {
        self.lock().producers.as_ref()?.last(id)
    }

    pub(super) fn status(&self) -> super::WriterStatus {
        let state = self.lock();
        super::WriterStatus {
            members: state.writer.members(),
            committed: state.committed,
            next: state.next,
            room: state.writer.room(),
            rolls: state.rolls,
            parked: state.writer.parked(),
        }
    }

    /// Carries out what the machine has decided. Called after every input to it.
    pub(super) fn pump(&self, state: &mut State) {
        let mut wake_links = false;
        while let Some(event) = state.writer.poll_event() {
            match event {
                WriterEvent::Committed(offset) => {
                    state.commit(offset);
                    self.committed.notify_waiters();
                }
                WriterEvent::Released(segment, below) => {
                    state.release(segment, below);
                    self.room.notify_waiters();
                }
                WriterEvent::Opened(segment, members) => {
                    let members: Vec<&str> = members.iter().map(NodeId::as_str).collect();
                    tracing::info!(%segment, ?members, "rolled to a new segment");
                    state.rolls += 1;
                    wake_links = true;
                }
                WriterEvent::MemberLost(node, segment, why) => {
                    tracing::warn!(%node, %segment, %why, "a member is given up; appends go on with the others");
                    wake_links = true;
                }
                WriterEvent::Parked => {
                    tracing::debug!(log = %state.name, "nothing is appended: the log is parked");
                    state.parked();
                    self.nodes.notify_one();
                }
                WriterEvent::Fenced(epoch) => self.stop(state, Stopped::Fenced(epoch)),
                WriterEvent::Deleted => self.stop(state, Stopped::Deleted),
                WriterEvent::Closed => self.stop(state, Stopped::Closed),
                WriterEvent::Forgotten(why) | WriterEvent::Broken(why) => {
                    self.stop(state, Stopped::Broken(why));
                }
            }
        }
        if wake_links {
            self.wake_all(state);
        }
        if state.writer.has_request() {
            self.meta.notify_one();
        }
        if !state.clock_told && state.writer.commit_waits() {
            state.clock_told = true;
            self.clock.notify_one();
        }
    }

    /// Something may be there for every task.
    pub(super) fn wake_all(&self, state: &State) {
        state.wake_links();
        self.nodes.notify_one();
        self.clock.notify_one();
    }

    /// Something was sent or taken: a clock that rests must look what that makes due.
    pub(super) fn stir(&self, state: &mut State) {
        if std::mem::take(&mut state.clock_rests) {
            self.clock.notify_one();
        }
    }

    pub(super) fn stop(&self, state: &mut State, stopped: Stopped) {
        match &stopped {
            Stopped::Fenced(epoch) => tracing::warn!(%epoch, "another writer has taken the log over"),
            Stopped::Deleted => tracing::warn!(log = %state.name, "the log was deleted"),
            Stopped::Broken(why) => tracing::error!(%why, "the writer has stopped"),
            Stopped::Dropped if state.committed < state.next => {
                tracing::warn!(committed = %state.committed, next = %state.next, "a writer was dropped with appends on their way");
            }
            Stopped::Dropped => {}
            Stopped::Closed => {}
        }
        let sent = state.writer.unresolved().collect();
        state.ending = Some(Ending::new(stopped, state.name.clone(), state.committed, sent));
        state.open = None;
        state.retained.clear();
        state.wake_waiters();
        self.room.notify_waiters();
        self.committed.notify_waiters();
        self.wake_all(state);
    }
}

impl State {
    /// Whether an append is to be made; if not, for its producer has made it before, the offset that
    /// it has.
    fn judge(&self, options: &AppendOptions) -> Result<Option<Offset>, Error> {
        if let Some(producer) = options.producer {
            let Some(table) = &self.producers else {
                let problem = format!(
                    "the writer does not know yet what producer {} has appended; nothing was appended: await LogWriter::producer before",
                    producer.id
                );
                return Err(Error::Setting { setting: "producer", problem });
            };
            match table.judge(producer) {
                Judgement::New => {}
                Judgement::Duplicate(offset) => return Ok(Some(offset)),
                Judgement::Older(last) => return Err(Error::Duplicate { producer, last }),
            }
        }
        match options.expected_offset.filter(|expected| *expected != self.next) {
            Some(expected) => Err(Error::OffsetMismatch { expected, actual: self.next }),
            None => Ok(None),
        }
    }

    /// The channel of a node's link, made when it is new.
    pub(super) fn link(&mut self, node: &NodeId) -> Arc<Notify> {
        Arc::clone(self.links.entry(node.clone()).or_default())
    }

    /// What is to be sent next to a node, with its bytes put into `frames`.
    pub(super) fn next_transmit(
        &mut self,
        now: Time,
        node: &NodeId,
        frames: &mut Vec<Bytes>,
    ) -> Option<Transmit> {
        let transmit = self.writer.poll_transmit(now, node)?;
        if let Transmit::Batches(place, from, to) = &transmit {
            let retained = self.retained.get(&place.segment).expect("what is not released is retained");
            let first = retained.partition_point(|(end, _)| end <= from);
            let batches = retained.range(first..).take_while(|(end, _)| end <= to);
            frames.extend(batches.map(|(_, frame)| frame.clone()));
        }
        Some(transmit)
    }

    /// Whether nothing more will be sent.
    pub(super) fn is_stopped(&self) -> bool {
        self.ending.is_some()
    }

    /// How often the log was parked.
    pub(super) fn parks(&self) -> u64 {
        self.parks
    }

    /// The clock's task looks: returns whether nothing is on its way, so that it may rest.
    pub(super) fn clock_looks(&mut self) -> bool {
        self.clock_told = false;
        self.clock_rests = self.open.is_none() && self.committed == self.next;
        self.clock_rests
    }

    /// The log is parked: its links end, and what a writer at work keeps at hand goes.
    fn parked(&mut self) {
        self.parks += 1;
        self.wake_links();
        self.links.clear();
        assert!(self.open.is_none(), "entries without a place keep the log from being parked");
        self.block = BytesMut::new();
        self.wake_waiters();
        self.waiters = VecDeque::new();
    }

    fn wake_waiters(&mut self) {
        let again = self.again.drain(..).map(|(_, waker)| waker);
        for waker in self.waiters.drain(..).flatten().chain(again) {
            waker.wake();
        }
    }

    /// A node refuses: the reason is given to whoever finds no room.
    pub(super) fn refused(&mut self, node: &NodeId, refusal: &piculet_quorum::wire::message::Refusal) {
        self.refusal = Some(format!("{node}: {refusal}"));
    }

    pub(super) fn wake_links(&self) {
        for link in self.links.values() {
            link.notify_one();
        }
        self.upload.notify_one();
    }

    fn commit(&mut self, offset: Offset) {
        let count = (offset.0 - self.committed.0) as usize;
        self.committed = offset;
        let waiting = count.min(self.waiters.len());
        for waker in self.waiters.drain(..waiting).flatten() {
            waker.wake();
        }
        for (_, waker) in self.again.extract_if(.., |(at, _)| *at < offset) {
            waker.wake();
        }
    }

    fn release(&mut self, segment: SegmentNumber, below: Index) {
        let Some(retained) = self.retained.get_mut(&segment) else { return };
        while retained.front().is_some_and(|(end, _)| *end <= below) {
            retained.pop_front();
        }
        if retained.is_empty() {
            self.retained.remove(&segment);
        }
    }
}

fn now_ms() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
