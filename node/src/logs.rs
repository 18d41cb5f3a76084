//! The node's table of logs: for each, the protocol's replica and the buffers of its segments,
//! under one lock, so that a check and what follows from it are one step.
//!
//! What the metadata show comes in from two sides: the node's one watch, in order, and reads that
//! somebody could not wait for. So everything that is taken in says as of which revision it is, and
//! what is older than what is known already changes nothing.

use crate::core::Core;
use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};
use piculet_meta::MetaError;
use piculet_quorum::archiver::Archiver;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Index, LogId, Revision, SegmentNumber};
use piculet_quorum::meta::{
    FlushRecord, Key, LogRecord, Member, PartRecord, PartRow, Range, Record, SegmentRecord, SegmentState,
    Snapshot, StoreRevision, Versioned,
};
use piculet_quorum::replica::{Learned, Replica};
use piculet_storage::SegmentBuffer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Every log that this node holds something of, or has been asked to fence. Shared by the server,
/// the archiver, the metadata view and the metrics.
#[derive(Default)]
pub struct Logs {
    table: DashMap<LogId, Arc<Log>>,
}

/// One log at this node.
pub struct Log {
    /// Its id.
    pub id: LogId,
    state: Mutex<LogState>,
    /// Told when a record, the archive or the right to append to one of its segments has changed.
    pub changed: Notify,
    /// How often that has happened.
    version: AtomicU64,
    /// Told when a tail or a commit mark has grown.
    pub grown: Notify,
}

/// What is under a log's lock.
pub struct LogState {
    /// The protocol's side.
    pub replica: Replica,
    /// The bytes and the archiving of each segment that the replica holds.
    pub segments: BTreeMap<SegmentNumber, LocalSegment>,
    /// Segments that are gone as of a revision that the node's watch has not reached yet: until
    /// then it may still show them, and they must not come back empty.
    gone: BTreeMap<SegmentNumber, StoreRevision>,
}

/// The node's own part of one segment.
pub struct LocalSegment {
    /// Its entries, from what is freed to the tail.
    pub buffer: SegmentBuffer,
    /// Its record, as last read.
    pub record: Versioned<SegmentRecord>,
    /// Its parts, as last read.
    pub row: PartRow,
    /// Who is elected to upload it, with the revision of the election.
    pub uploader: Option<(Member, Revision)>,
    /// The revision as of which `uploader` is known.
    uploader_at: StoreRevision,
    /// The latest revision at which the segment was seen.
    seen_at: StoreRevision,
    /// This node's own part in the upload.
    pub archiver: Archiver,
    /// Whether an upload, or another step of the archiver, is under way.
    pub archiving: bool,
}

impl Logs {
    /// The log, if this node has anything of it.
    #[must_use]
    pub fn get(&self, log: LogId) -> Option<Arc<Log>> {
        self.table.get(&log).map(|entry| Arc::clone(&entry))
    }

    /// Every log that this node has anything of.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Log>> {
        self.table.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    fn get_or_create(&self, core: &Core, log: LogId) -> Arc<Log> {
        let fresh = || {
            let replica = Replica::new(core.id.clone(), core.memory, log);
            let state = Mutex::new(LogState { replica, segments: BTreeMap::new(), gone: BTreeMap::new() });
            Arc::new(Log {
                id: log,
                state,
                changed: Notify::new(),
                version: AtomicU64::new(0),
                grown: Notify::new(),
            })
        };
        Arc::clone(&self.table.entry(log).or_insert_with(fresh))
    }
}

impl Log {
    /// Tells whoever waits that a record, the archive or the right to append has changed.
    pub fn notify_changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// A number that grows with every change that [`changed`](Self::changed) is told of.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Locks the log. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock()
    }
}

impl LocalSegment {
    fn new(core: &Core, place: Place, record: Versioned<SegmentRecord>) -> Self {
        let start = record.value.start();
        let before = BatchEnd { chain: start.chain, last_timestamp: start.last_timestamp };
        Self {
            buffer: SegmentBuffer::new(Arc::clone(&core.arena), place, Index(0), before),
            record,
            row: PartRow::default(),
            uploader: None,
            uploader_at: StoreRevision::default(),
            seen_at: StoreRevision::default(),
            archiver: Archiver::new(core.config.flush.options()),
            archiving: false,
        }
    }

    /// Whether something of the segment is only in the nodes' memory, as far as this node knows.
    #[must_use]
    pub fn has_unarchived(&self) -> bool {
        self.buffer.tail() > self.row.archived()
    }

    /// Whether `member` is elected to upload the segment.
    #[must_use]
    pub fn uploaded_by(&self, member: &Member) -> bool {
        self.uploader.as_ref().is_some_and(|(uploader, _)| uploader == member)
    }
}

impl LogState {
    /// Forgets a segment, as of a revision, and gives its memory back.
    fn drop_segment(&mut self, core: &Core, at: StoreRevision, number: SegmentNumber) {
        self.replica.drop_segment(number);
        self.segments.remove(&number);
        if at > core.applied() {
            self.gone.insert(number, at);
        }
    }

    /// Takes in a segment's record and parts as the metadata had them at a revision.
    fn learn(
        &mut self,
        core: &Core,
        at: StoreRevision,
        number: SegmentNumber,
        record: &Versioned<SegmentRecord>,
        row: PartRow,
    ) {
        let applied = core.applied();
        self.gone.retain(|_, gone| *gone > applied);
        if at < applied || self.gone.get(&number).is_some_and(|gone| *gone >= at) {
            return;
        }
        match self.replica.learn_segment(number, &record.value, row.end(&record.value)) {
            Learned::NotMine => {}
            Learned::Drop => self.drop_segment(core, at, number),
            Learned::FreeBelow(index) => {
                let place = self.replica.place(number).expect("a segment that was learned is held");
                let local = self
                    .segments
                    .entry(number)
                    .or_insert_with(|| LocalSegment::new(core, place, record.clone()));
                local.seen_at = local.seen_at.max(at);
                if record.revision >= local.record.revision {
                    local.record = record.clone();
                }
                if row.archived() >= local.row.archived() {
                    local.row = row;
                }
                // A part of another member ends where a batch does, unless a writer has cut the same
                // entries differently for different members: then a little more is kept.
                if let Some(boundary) = local.buffer.floor_boundary(index) {
                    local.buffer.free_below(boundary);
                }
                if self.replica.contradicted(number) {
                    tracing::error!(
                        log = %place.log, segment = %number,
                        "the sealed end has another content than what is held here: the segment is not served \
                         from here; keep this node running and report it"
                    );
                }
            }
        }
    }

    /// Starts the buffer of a segment anew where the replica has jumped to: nothing before it is
    /// needed any more, for it is archived.
    pub fn follow_jump(&mut self, core: &Core, number: SegmentNumber) {
        let (Some(marks), Some(place)) = (self.replica.marks(number), self.replica.place(number)) else {
            return;
        };
        let Some(local) = self.segments.get_mut(&number) else { return };
        if local.buffer.tail() < marks.tail {
            let at = self.replica.archived(number).expect("a segment that is held");
            assert_eq!(at.end, marks.tail, "a replica jumps to what is archived");
            let before = BatchEnd { chain: at.chain, last_timestamp: at.last_timestamp };
            local.buffer = SegmentBuffer::new(Arc::clone(&core.arena), place, at.end, before);
        }
    }
}

impl Core {
    /// Takes in what the metadata showed of one segment at a revision.
    pub fn learn_segment(
        &self,
        at: StoreRevision,
        log: LogId,
        number: SegmentNumber,
        record: &Versioned<SegmentRecord>,
        row: PartRow,
    ) {
        let Some(slot) = self.slot_for(log, &record.value) else { return };
        slot.lock().learn(self, at, number, record, row);
        slot.notify_changed();
    }

    /// Takes in what one transaction changed in a segment: its record, or parts, or both. False
    /// when the parts do not continue what is known, so that the segment must be read again.
    #[must_use]
    pub fn learn_change(
        &self,
        at: StoreRevision,
        log: LogId,
        number: SegmentNumber,
        record: Option<&Versioned<SegmentRecord>>,
        parts: &[(Index, Versioned<PartRecord>)],
    ) -> bool {
        let slot = match record {
            Some(record) => self.slot_for(log, &record.value),
            None => self.logs.get(log),
        };
        let Some(slot) = slot else { return true };
        let mut state = slot.lock();
        let local = state.segments.get(&number);
        let Some(record) = record.or_else(|| local.map(|local| &local.record)).cloned() else { return true };
        let mut row = local.map(|local| local.row.clone()).unwrap_or_default();
        let connected = parts.iter().all(|(first, part)| extend(&mut row, *first, part));
        state.learn(self, at, number, &record, row);
        drop(state);
        slot.notify_changed();
        connected
    }

    /// Takes in that a segment's record was gone at a revision.
    pub fn forget_segment(&self, at: StoreRevision, log: LogId, number: SegmentNumber) {
        let Some(slot) = self.logs.get(log) else { return };
        let mut state = slot.lock();
        // One that is not held may yet come, and one that was seen later is there.
        if state.segments.get(&number).is_some_and(|local| local.seen_at <= at) {
            state.drop_segment(self, at, number);
            drop(state);
            slot.notify_changed();
        }
    }

    /// Takes in a log's epoch.
    pub fn learn_log(&self, log: LogId, record: &LogRecord) {
        if let Some(slot) = self.logs.get(log) {
            slot.lock().replica.learn_log(record.epoch);
        }
    }

    /// Takes in who was elected to upload a segment at a revision.
    pub fn learn_uploader(
        &self,
        at: StoreRevision,
        log: LogId,
        number: SegmentNumber,
        flush: Option<(FlushRecord, Revision)>,
    ) {
        let Some(slot) = self.logs.get(log) else { return };
        let mut state = slot.lock();
        if let Some(local) = state.segments.get_mut(&number).filter(|local| local.uploader_at <= at) {
            local.uploader_at = at;
            local.uploader = flush.map(|(record, revision)| (record.uploader, revision));
        }
    }

    /// Reads a log and its newest segments from the metadata (linearizable) and takes them in.
    /// Returns the log at this node, or none when there is no such log.
    ///
    /// # Errors
    /// When the metadata do not answer.
    pub async fn refresh_log(&self, log: LogId) -> Result<Option<Arc<Log>>, MetaError> {
        let key = Key::Log(log);
        let Some(record) = self.meta.read(std::slice::from_ref(&key), &[]).await?.log(&key) else {
            return Ok(None);
        };
        let newest = record.value.next_segment.0.saturating_sub(1);
        let from = SegmentNumber(newest.saturating_sub(1));
        let ranges =
            [Range::Segments(log, from), Range::Parts(log, SegmentNumber(newest)), Range::Parts(log, from)];
        let snapshot = self.meta.read(std::slice::from_ref(&key), &ranges).await?;
        let slot = self.logs.get_or_create(self, log);
        self.learn_segments(&snapshot);
        if let Some(record) = snapshot.log(&key) {
            self.learn_log(log, &record.value);
        }
        Ok(Some(slot))
    }

    /// Reads one segment, its parts and its election from the metadata (linearizable) and takes
    /// them in.
    ///
    /// # Errors
    /// When the metadata do not answer.
    pub async fn refresh_segment(&self, log: LogId, number: SegmentNumber) -> Result<(), MetaError> {
        let (key, flush) = (Key::Segment(log, number), Key::Flush(log, number));
        let keys = [key.clone(), flush.clone()];
        let snapshot = self.meta.read(&keys, &[Range::Parts(log, number)]).await?;
        if snapshot.segment(&key).is_none() {
            self.forget_segment(snapshot.at, log, number);
        }
        self.learn_segments(&snapshot);
        self.learn_uploader(snapshot.at, log, number, uploader(&snapshot, &flush));
        Ok(())
    }

    /// Takes in every segment that a snapshot shows and that concerns this node, with its parts:
    /// the snapshot has all parts of each of them, or none of its parts matters.
    pub fn learn_segments(&self, snapshot: &Snapshot) {
        for (key, record) in &snapshot.records {
            let (Key::Segment(log, number), Record::Segment(segment)) = (key, &record.value) else {
                continue;
            };
            if self.slot_for(*log, segment).is_none() {
                continue;
            }
            let record = Versioned { revision: record.revision, value: segment.clone() };
            match snapshot.row(*log, *number) {
                Ok(row) => self.learn_segment(snapshot.at, *log, *number, &record, row),
                Err(first) => tracing::error!(
                    %log, segment = %number, %first,
                    "metadata are damaged: a part does not end behind its start; the segment is left alone"
                ),
            }
        }
    }

    /// Takes in a snapshot of everything: also that what is not in it does not exist.
    pub fn learn_everything(&self, snapshot: &Snapshot) {
        self.learn_segments(snapshot);
        for log in self.logs.all() {
            if let Some(record) = snapshot.log(&Key::Log(log.id)) {
                self.learn_log(log.id, &record.value);
            }
            let held: Vec<_> = log.lock().segments.iter().map(|(n, local)| (*n, local.seen_at)).collect();
            for (number, seen_at) in held {
                if seen_at <= snapshot.at && !snapshot.records.contains_key(&Key::Segment(log.id, number)) {
                    self.forget_segment(snapshot.at, log.id, number);
                }
                let flush = uploader(snapshot, &Key::Flush(log.id, number));
                self.learn_uploader(snapshot.at, log.id, number, flush);
            }
        }
    }

    /// The log's place in the table, made if this segment is a reason to have one: what is archived
    /// already, or another life's, is none.
    fn slot_for(&self, log: LogId, segment: &SegmentRecord) -> Option<Arc<Log>> {
        let mine = segment.member(&self.id) == Some(self.memory);
        let wanted = mine && !matches!(segment.state, SegmentState::Archived(_));
        match self.logs.get(log) {
            None if wanted => Some(self.logs.get_or_create(self, log)),
            known => known,
        }
    }
}

/// Puts a part behind the row, unless it is there already; false when it does not continue it.
pub(crate) fn extend(row: &mut PartRow, first: Index, part: &Versioned<PartRecord>) -> bool {
    if first == row.archived() && part.value.at.end > first {
        row.parts.push((first, part.clone()));
    }
    first < row.archived()
}

fn uploader(snapshot: &Snapshot, key: &Key) -> Option<(FlushRecord, Revision)> {
    match snapshot.records.get(key)? {
        Versioned { revision, value: Record::Flush(flush) } => Some((flush.clone(), *revision)),
        _ => None,
    }
}
