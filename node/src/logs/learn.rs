//! What the metadata show of logs and their segments, taken in.

use super::Log;
use crate::core::Core;
use piculet_meta::{MetaError, spelt};
use piculet_quorum::ids::{Index, Level, LogId, Revision, SegmentNumber};
use piculet_quorum::meta::{
    ConfigRecord, Damage, FlushRecord, Key, LogRecord, PartRecord, PartRow, Range, Record, SegmentRecord,
    SegmentState, Snapshot, StoreRevision, Versioned,
};
use std::sync::Arc;

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
        if let Err(damage) = row.check(log, number, &record.value) {
            left_alone(&damage);
            return true;
        }
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

    /// Takes in a log's record as it was at a revision: its epoch, or that it is a tombstone.
    pub fn learn_log(&self, at: StoreRevision, log: LogId, record: &LogRecord) {
        if record.deleted.is_some() {
            if at > self.applied() {
                // What was read before may yet come in: it must find the tombstone.
                // Of which level it was does not matter any more.
                self.logs.get_or_create(self, log, Level::default());
            }
            self.learn_deleted(at, log);
        } else if let Some(slot) = self.logs.get(log) {
            slot.lock().learn_epoch(self, record.epoch);
        }
    }

    /// Takes in a log's settings, be they older than what is known: what is taken from them is never
    /// taken back.
    pub fn learn_config(&self, log: LogId, config: &ConfigRecord) {
        if config.producers {
            self.producers.lock().insert(log);
        }
    }

    /// Takes in that a log was deleted as of a revision: everything of it that is here goes at once,
    /// archived or not, and whoever writes or reads it is told.
    pub fn learn_deleted(&self, at: StoreRevision, log: LogId) {
        let mut news = false;
        if let Some(slot) = self.logs.get(log) {
            let mut state = slot.lock();
            news = !state.replica.deleted();
            state.learn_deleted(at);
            drop(state);
            if news {
                slot.notify_changed();
                tracing::info!(%log, "log was deleted: nothing of it is kept here any more");
            }
        }
        // After the log itself, which would else leave its fence behind when it goes.
        if self.logs.take_fence(log).is_some() || news {
            self.forget_fence(log);
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
    /// Returns the log at this node, or none when there is no such log, or not any more.
    ///
    /// # Errors
    /// When the metadata do not answer.
    pub async fn refresh_log(&self, log: LogId) -> Result<Option<Arc<Log>>, MetaError> {
        let keys = [Key::Log(log), Key::Config(log)];
        let snapshot = self.meta.read(&keys, &[]).await?;
        let Some(record) = self.learn_existence(&snapshot, log) else { return Ok(None) };
        let newest = record.value.next_segment.0.saturating_sub(1);
        let from = SegmentNumber(newest.saturating_sub(1));
        let ranges =
            [Range::Segments(log, from), Range::Parts(log, SegmentNumber(newest)), Range::Parts(log, from)];
        let snapshot = self.meta.read(&keys, &ranges).await?;
        let Some(record) = self.learn_existence(&snapshot, log) else { return Ok(None) };
        let slot = self.logs.get_or_create(self, log, level(&snapshot, log));
        if let Some(config) = snapshot.config(&Key::Config(log)) {
            self.learn_config(log, &config.value);
            // A snapshot of everything may come late, without these settings: the log itself keeps it.
            slot.lock().learn_config(&config.value);
        }
        self.learn_segments(&snapshot);
        self.learn_log(snapshot.at, log, &record.value);
        Ok(Some(slot))
    }

    /// The log's record in a snapshot that was read for it, unless it is a tombstone. A log without
    /// a record never was, or its tombstone has gone as well: ids are never used again.
    fn learn_existence(&self, snapshot: &Snapshot, log: LogId) -> Option<Versioned<LogRecord>> {
        // What is older than what is known says nothing: not that the log is gone, above all.
        let known = snapshot.at >= self.applied();
        match snapshot.log(&Key::Log(log)) {
            Some(record) if record.value.deleted.is_some() => {
                self.learn_log(snapshot.at, log, &record.value);
                None
            }
            None => {
                if known {
                    self.learn_deleted(snapshot.at, log);
                }
                None
            }
            alive => alive,
        }
    }

    /// Reads one segment, its parts and its election from the metadata (linearizable) and takes
    /// them in.
    ///
    /// # Errors
    /// When the metadata do not answer.
    pub async fn refresh_segment(&self, log: LogId, number: SegmentNumber) -> Result<(), MetaError> {
        let (key, flush) = (Key::Segment(log, number), Key::Flush(log, number));
        let keys = [key.clone(), flush.clone(), Key::Log(log)];
        let snapshot = self.meta.read(&keys, &[Range::Parts(log, number)]).await?;
        if snapshot.segment(&key).is_none() {
            self.forget_segment(snapshot.at, log, number);
        }
        self.learn_segments(&snapshot);
        if let Some(record) = snapshot.log(&Key::Log(log)) {
            self.learn_log(snapshot.at, log, &record.value);
        }
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
            // The segments of a deleted log are there until they are cleaned away.
            let deleted = snapshot.log(&Key::Log(*log)).is_some_and(|log| log.value.deleted.is_some());
            if deleted || self.slot_for(*log, segment).is_none() {
                continue;
            }
            let record = Versioned { revision: record.revision, value: segment.clone() };
            match snapshot.row(*log, *number) {
                Ok(row) => match row.check(*log, *number, segment) {
                    Ok(()) => self.learn_segment(snapshot.at, *log, *number, &record, row),
                    Err(damage) => left_alone(&damage),
                },
                Err(first) => tracing::error!(
                    %log, segment = %number, %first,
                    "metadata are damaged: a part does not end behind its start; the segment is left alone"
                ),
            }
        }
    }

    /// Takes in a snapshot of everything: also that what is not in it does not exist.
    pub fn learn_everything(&self, snapshot: &Snapshot) {
        self.producers.lock().retain(|log| snapshot.records.contains_key(&Key::Config(*log)));
        for (key, record) in &snapshot.records {
            if let (Key::Config(log), Record::Config(config)) = (key, &record.value) {
                self.learn_config(*log, config);
            }
        }
        self.learn_segments(snapshot);
        self.forget_fences_but(|log| {
            snapshot.log(&Key::Log(log)).is_some_and(|record| record.value.deleted.is_none())
        });
        for log in self.logs.all() {
            if let Some(record) = snapshot.log(&Key::Log(log.id)) {
                self.learn_log(snapshot.at, log.id, &record.value);
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
        let member = segment.member(&self.id);
        let mine = member.is_some() && member == self.incarnation(segment.level);
        let wanted = mine && !matches!(segment.state, SegmentState::Archived(_));
        match self.logs.get(log) {
            None if wanted => Some(self.logs.get_or_create(self, log, segment.level)),
            // Only a deleted log is known under another level than its own.
            known => known.filter(|slot| slot.level == segment.level),
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

/// What is known of the segment stays as it was: nothing that is held here is given up for a record
/// that cannot be true.
fn left_alone(damage: &Damage) {
    tracing::error!(key = spelt(&damage.key), %damage, "metadata are damaged: a segment stays as it was known");
}

/// The level of a log in a snapshot with its settings.
fn level(snapshot: &Snapshot, log: LogId) -> Level {
    match snapshot.records.get(&Key::Config(log)).map(|record| &record.value) {
        Some(Record::Config(config)) => config.durability,
        _ => Level::default(),
    }
}

fn uploader(snapshot: &Snapshot, key: &Key) -> Option<(FlushRecord, Revision)> {
    match snapshot.records.get(key)? {
        Versioned { revision, value: Record::Flush(flush) } => Some((flush.clone(), *revision)),
        _ => None,
    }
}
