//! The node's table of logs: for each, the protocol's replica and the buffers of its segments,
//! under one lock, so that a check and what follows from it are one step.
//!
//! What the metadata show comes in from two sides: the node's one watch, in order, and reads that
//! somebody could not wait for. So everything that is taken in says as of which revision it is, and
//! what is older than what is known already changes nothing.
//!
//! A log of which nothing is left here, and which nobody uses, leaves the table: only its fence is
//! kept, for as long as this life of the buffer lasts.

mod fences;
mod kept;
mod learn;
#[cfg(test)]
mod tests;

pub use fences::Fence;
pub use kept::{TakeUpError, TakenUp};
pub(crate) use learn::extend;

use crate::archive::Waiting;
use crate::core::Core;
use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};
use piculet_quorum::archiver::Archiver;
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::{Epoch, Index, Level, LogId, Revision, SegmentNumber};
use piculet_quorum::meta::{ConfigRecord, Member, PartRow, SegmentRecord, StoreRevision, Versioned};
use piculet_quorum::producers::Producers;
use piculet_quorum::replica::{Learned, Replica};
use piculet_quorum::time::Time;
use piculet_storage::SegmentBuffer;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Every log that this node holds something of, or has been asked to fence. Shared by the server,
/// the archiver, the metadata view and the metrics.
#[derive(Default)]
pub struct Logs {
    table: DashMap<LogId, Arc<Log>>,
    /// The highest epoch that has fenced or written in each log that has left the table. Locked
    /// after the table, where both are.
    fences: Mutex<HashMap<LogId, Fence>>,
}

/// One log at this node.
pub struct Log {
    /// Its id.
    pub id: LogId,
    /// The level of its segments.
    pub level: Level,
    state: Mutex<LogState>,
    /// Told when a record, the archive or the right to append to one of its segments has changed.
    pub changed: Notify,
    /// How often that has happened.
    version: AtomicU64,
    /// Told when a tail or a commit mark has grown.
    pub grown: Notify,
    /// Told when more is held because it has been synced: only at a level that syncs.
    pub synced: Notify,
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
    /// The revision as of which the log was deleted, when it was.
    deleted_at: Option<StoreRevision>,
    /// The log's epoch, and since when it is known here.
    epoch: (Epoch, Time),
    /// The fence that was handed to the buffer last.
    fence: Fence,
    /// Whether the log is known to take entries of producers.
    takes_producers: bool,
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
    /// Whether its upload waits for the segment before.
    pub waiting: Waiting,
    /// The table of producers at the end of the part that this node uploaded last.
    pub producers: Option<(Index, Producers)>,
    /// What this node has had of its writer.
    pub writer: WriterSight,
}

/// What a member has had of a segment's writer: the stream of appends in the segment's own epoch.
#[derive(Clone, Debug)]
pub struct WriterSight {
    /// Since when there is none, counted from when the segment was learned of; none while there is
    /// one.
    gone_since: Option<Time>,
    /// Who has or had it, as people know them.
    pub peer: Option<String>,
}

impl WriterSight {
    fn note(&mut self, there: bool, now: Time) {
        self.gone_since = if there { None } else { Some(self.gone_since.unwrap_or(now)) };
    }

    /// Since when the writer has had no stream here; none while it has one.
    #[must_use]
    pub fn gone_since(&self) -> Option<Time> {
        self.gone_since
    }
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

    /// The log's place in the table. Of a level that the node has no buffer of, its replica is in no
    /// life at all, and every message to it is to another.
    fn get_or_create(&self, core: &Core, log: LogId, level: Level) -> Arc<Log> {
        let fresh = || {
            let fence = self.take_fence(log).unwrap_or_default();
            let incarnation = core.incarnation(level).unwrap_or_default();
            let replica = Replica::resumed(core.id.clone(), incarnation, log, fence.epoch);
            let state = Mutex::new(LogState {
                replica,
                segments: BTreeMap::new(),
                gone: BTreeMap::new(),
                deleted_at: None,
                epoch: (fence.epoch, core.clock.now()),
                fence,
                takes_producers: false,
            });
            Arc::new(Log {
                id: log,
                level,
                state,
                changed: Notify::new(),
                version: AtomicU64::new(0),
                grown: Notify::new(),
                synced: Notify::new(),
            })
        };
        Arc::clone(&self.table.entry(log).or_insert_with(fresh))
    }

    /// Lets every log leave the table of which nothing is left here and which nobody uses: all that
    /// is kept of it is its fence, and of a deleted one not even that. `applied` is the revision up
    /// to which the node's watch has come: what it may yet show is not left to be misunderstood.
    pub fn sweep(&self, applied: StoreRevision) {
        let unused = self.table.iter().filter(|log| Arc::strong_count(log) == 1);
        let unused: Vec<LogId> = unused.map(|log| log.id).collect();
        for log in unused {
            // Nobody can come by it while its place in the table is locked.
            self.table.remove_if(&log, |_, slot| {
                if Arc::strong_count(slot) > 1 {
                    return false;
                }
                let state = slot.lock();
                let left = state.is_empty(applied);
                // One that the buffer has not taken yet is not forgotten here either.
                let deleted = state.replica.deleted();
                let left = left && (deleted || state.fence.epoch == state.replica.fence_epoch());
                if left && !deleted && state.fence.epoch > Epoch(0) {
                    self.fences.lock().insert(log, state.fence);
                }
                left
            });
        }
    }

    fn take_fence(&self, log: LogId) -> Option<Fence> {
        self.fences.lock().remove(&log)
    }

    /// How many logs have left nothing but their fence.
    #[must_use]
    pub fn fences(&self) -> usize {
        self.fences.lock().len()
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
    fn new(core: &Core, buffer: SegmentBuffer, record: Versioned<SegmentRecord>) -> Self {
        Self {
            buffer,
            record,
            row: PartRow::default(),
            uploader: None,
            uploader_at: StoreRevision::default(),
            seen_at: StoreRevision::default(),
            archiver: Archiver::new(core.config.flush.options()),
            archiving: false,
            waiting: Waiting::default(),
            producers: None,
            writer: WriterSight { gone_since: Some(core.clock.now()), peer: None },
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
    /// Takes note of which segments have a writer's stream here, now that one may have begun or
    /// ended.
    pub fn note_writers(&mut self, now: Time) {
        for (number, local) in &mut self.segments {
            local.writer.note(self.replica.has_writer(*number), now);
        }
    }

    /// For how long the writer has had no stream to a segment, nor to another of the same epoch: it
    /// may not know yet that it has rolled. None while it has one.
    #[must_use]
    pub fn writer_gone_since(&self, number: SegmentNumber) -> Option<Time> {
        let local = self.segments.get(&number)?;
        let same = |other: &&LocalSegment| other.record.value.epoch == local.record.value.epoch;
        let gone: Option<Vec<Time>> =
            self.segments.values().filter(same).map(|other| other.writer.gone_since()).collect();
        gone?.into_iter().max()
    }

    /// Whether the log's settings are known to let it have entries of producers. When they are not,
    /// only a read of them tells.
    #[must_use]
    pub fn takes_producers(&mut self, core: &Core, log: LogId) -> bool {
        self.takes_producers = self.takes_producers || core.producers.lock().contains(&log);
        self.takes_producers
    }

    fn learn_config(&mut self, config: &ConfigRecord) {
        self.takes_producers = self.takes_producers || config.producers;
    }

    /// The log's epoch as far as it is known here, and since when it is.
    #[must_use]
    pub fn epoch(&self) -> (Epoch, Time) {
        self.epoch
    }

    fn learn_epoch(&mut self, core: &Core, epoch: Epoch) {
        self.replica.learn_log(epoch);
        self.note_epoch(core);
    }

    fn note_epoch(&mut self, core: &Core) {
        let known = self.replica.known_epoch();
        if known > self.epoch.0 {
            self.epoch = (known, core.clock.now());
        }
    }

    fn learn_deleted(&mut self, at: StoreRevision) {
        self.replica.learn_deleted();
        std::mem::take(&mut self.segments).into_values().for_each(|local| local.buffer.remove());
        self.gone.clear();
        self.deleted_at = self.deleted_at.max(Some(at));
    }

    /// Whether nothing is left of the log, and nothing that the watch has not shown yet could be
    /// taken for something of it.
    fn is_empty(&self, applied: StoreRevision) -> bool {
        self.segments.is_empty()
            && self.gone.values().all(|gone| *gone <= applied)
            && self.deleted_at.is_none_or(|deleted| deleted <= applied)
    }

    /// Forgets a segment, as of a revision, and gives its memory back.
    fn drop_segment(&mut self, core: &Core, at: StoreRevision, number: SegmentNumber) {
        self.replica.drop_segment(number);
        if let Some(local) = self.segments.remove(&number) {
            local.buffer.remove();
        }
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
        let learned = self.replica.learn_segment(number, &record.value, row.end(&record.value));
        self.note_epoch(core);
        match learned {
            Learned::NotMine => {}
            Learned::Drop => self.drop_segment(core, at, number),
            Learned::FreeBelow(index) => {
                let place = self.replica.place(number).expect("a segment that was learned is held");
                let local = self.segments.entry(number).or_insert_with(|| {
                    let start = record.value.start();
                    let before = BatchEnd { chain: start.chain, last_timestamp: start.last_timestamp };
                    let buffer = core.buffer(record.value.level).expect("a member has a buffer of the level");
                    LocalSegment::new(core, buffer.segment(place, Index(0), before), record.clone())
                });
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
    pub fn follow_jump(&mut self, number: SegmentNumber) {
        let Some(marks) = self.replica.marks(number) else { return };
        let Some(local) = self.segments.get_mut(&number) else { return };
        if local.buffer.tail() < marks.tail {
            let at = self.replica.archived(number).expect("a segment that is held");
            assert_eq!(at.end, marks.tail, "a replica jumps to what is archived");
            let before = BatchEnd { chain: at.chain, last_timestamp: at.last_timestamp };
            local.buffer.jump(at.end, before);
        }
    }
}
