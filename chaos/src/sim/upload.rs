//! A node's uploads: the archiver's steps carried out against an object store that misbehaves.

use super::events::{Event, NodeIx, Put, Upload};
use super::schedule::Hazard;
use super::store::LOG;
use super::world::{MS, World};
use piculet_quorum::archiver::{Archiver, ArchiverStep, Sight};
use piculet_quorum::ids::{Chain, Index, SegmentNumber};
use piculet_quorum::meta::part::{RecordPart, mark_archived};
use piculet_quorum::meta::{
    FlushRecord, Key, Member, PartRecord, Record, SegmentEnd, SegmentState, Txn, TxnOutcome, Versioned, Write,
};
use std::collections::BTreeMap;

/// The name of a part, which says what is in it.
pub(crate) type ObjectName = (SegmentNumber, Index, Index, Chain, bool);

/// The object store.
pub(crate) type Objects = BTreeMap<ObjectName, Vec<u64>>;

/// The segments that a node uploads.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    archivers: BTreeMap<SegmentNumber, Archiver>,
    /// Those with an upload or a transaction under way.
    busy: Vec<SegmentNumber>,
}

impl World {
    pub(crate) fn upload_what_is_due(&mut self, at: NodeIx) {
        let segments: Vec<SegmentNumber> = self.nodes[at].replica.segments().collect();
        self.nodes[at].uploads.archivers.retain(|number, _| segments.contains(number));
        for number in segments {
            if self.nodes[at].uploads.busy.contains(&number) {
                continue;
            }
            let Some(sight) = self.sight(at, number) else { continue };
            let (now, flush) = (self.time(), self.flush);
            let archivers = &mut self.nodes[at].uploads.archivers;
            let archiver = archivers.entry(number).or_insert_with(|| Archiver::new(flush));
            match archiver.step(now, &sight) {
                ArchiverStep::Wait(_) => {}
                ArchiverStep::Stand => self.stand(at, number),
                ArchiverStep::Resign => self.resign(at, number),
                ArchiverStep::Upload(from, _) if self.is_lost_from(at, number, from) => {
                    self.start_skip(at, number);
                }
                ArchiverStep::Upload(from, to) => self.start_upload(at, number, from, to),
                ArchiverStep::MarkArchived => {
                    let Some(read) = self.store.now.segment(number) else { continue };
                    let archived = self.store.now.archived(number, &read.value).end;
                    if let Some(txn) = mark_archived(LOG, number, &read, archived) {
                        self.send_part(at, number, txn);
                    }
                }
            }
        }
    }

    fn me(&self, at: NodeIx) -> Member {
        Member { node: self.nodes[at].id.clone(), incarnation: self.nodes[at].incarnation }
    }

    fn sight(&self, at: NodeIx, number: SegmentNumber) -> Option<Sight> {
        let node = &self.nodes[at];
        let record = node.replica.record(number)?;
        let archived = node.replica.archived(number)?.end;
        let kept = node.rest.runs.get(&number)?;
        let uploadable = node.replica.uploadable(number)?;
        let uploadable = if kept.start == archived { uploadable.max(archived) } else { archived };
        let end = record.state.end().map(|at| at.end);
        // What is lost needs nobody who holds anything.
        let skip = end.filter(|end| self.is_lost_from(at, number, archived) && archived < *end);
        let uploadable = skip.unwrap_or(uploadable);
        let place = record.ensemble.iter().position(|member| member.node == node.id)? as u64;
        let uploader = node.mirror.get(&Key::Flush(LOG, number)).map(|flush| {
            let Record::Flush(FlushRecord { uploader }) = &flush.value else { panic!("not a flush record") };
            uploader
        });
        let time = self.time();
        let sole = match &record.state {
            SegmentState::Sealed(seal) => seal.holders == [node.id.clone()],
            _ => false,
        };
        Some(Sight {
            archived,
            uploadable,
            bytes: uploadable.0.saturating_sub(archived.0) * 100,
            end,
            urgent: node.short() || node.lives.lost(time, &node.id, record).next().is_some(),
            rank: (place + number.0) % record.ensemble.len() as u64,
            sole,
            elected: uploader.map(|uploader| *uploader == self.me(at)),
            forsaken: uploader.is_some_and(|uploader| node.lives.is_lost(time, record.level, uploader)),
        })
    }

    pub(crate) fn describe_upload(&self, at: NodeIx, number: SegmentNumber) -> String {
        let uploads = &self.nodes[at].uploads;
        let busy = uploads.busy.contains(&number);
        format!("{:?} {:?} busy {busy}", self.sight(at, number), uploads.archivers.get(&number))
    }

    /// The key goes with the lease of the node.
    fn stand(&mut self, at: NodeIx, number: SegmentNumber) {
        let key = Key::Flush(LOG, number);
        let record = Record::Flush(FlushRecord { uploader: self.me(at) });
        let mut txn = Txn::default().when(key.clone(), piculet_quorum::ids::Revision(0));
        txn.writes.push(Write::PutLeased(key, record, self.nodes[at].lease));
        self.apply(&txn);
    }

    fn resign(&mut self, at: NodeIx, number: SegmentNumber) {
        let key = Key::Flush(LOG, number);
        let mut txn = Txn::default().when(key.clone(), self.nodes[at].mirror.revision_of(&key));
        txn.writes.push(Write::Delete(key));
        self.run.resignations += 1;
        self.apply(&txn);
    }

    fn start_upload(&mut self, at: NodeIx, segment: SegmentNumber, from: Index, to: Index) {
        let most = self.rng.between(1, 30) as usize;
        if !self.nodes[at].rest.runs.contains_key(&segment) {
            return;
        }
        let mut batches = self.nodes[at].rest.between(segment, from, to);
        batches.truncate(most);
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return };
        assert_eq!(first.header.first, from, "node {at} lacks what it is to upload of segment {segment}");
        let end = SegmentEnd {
            end: last.header.end(),
            chain: last.end.chain,
            last_timestamp: last.end.last_timestamp,
        };
        let contents: Vec<u64> =
            batches.iter().flat_map(|batch| batch.entries()).map(|(_, content)| content).collect();
        let part = PartRecord { at: end, bytes: contents.len() as u64 * 100, encoder: 1, skip: false };
        self.send_upload(at, Upload { segment, first: from, part, contents });
    }

    /// Whether everything of a segment from an index on is lost, as far as a node knows.
    fn is_lost_from(&self, at: NodeIx, number: SegmentNumber, index: Index) -> bool {
        let record = self.nodes[at].replica.record(number);
        record.is_some_and(|record| record.loss.is_some() && record.kept() == Some(index))
    }

    /// What stands for a loss is uploaded by any node, whether it holds anything of the segment or not,
    /// once all that is left is archived.
    pub(crate) fn start_skip(&mut self, at: NodeIx, segment: SegmentNumber) {
        let node = &self.nodes[at];
        let ready = node.up && !node.paused && !node.uploads.busy.contains(&segment) && !self.store.away;
        let Some(record) = self.store.now.segment(segment).filter(|_| ready).map(|found| found.value) else {
            return;
        };
        let SegmentState::Sealed(seal) = &record.state else { return };
        let archived = self.store.now.archived(segment, &record).end;
        if record.loss.is_some() && record.kept() == Some(archived) && archived < seal.at.end {
            let part = PartRecord { at: seal.at, bytes: 0, encoder: 1, skip: true };
            self.send_upload(at, Upload { segment, first: archived, part, contents: Vec::new() });
        }
    }

    fn send_upload(&mut self, at: NodeIx, upload: Upload) {
        let segment = upload.segment;
        let put = self.put();
        self.nodes[at].uploads.busy.push(segment);
        let most = if self.strikes(Hazard::PutSlow) { 1_500 * MS } else { 40 * MS };
        let (mut delay, life) = (self.rng.between(MS, most), self.nodes[at].life);
        if matches!(put, Put::Told | Put::Untold) {
            self.schedule(delay, Event::PutArrives { upload: upload.clone() });
        }
        if put == Put::Lost && self.strikes(Hazard::PutLate) {
            let late = self.rng.between(200 * MS, 3_000 * MS);
            self.schedule(late, Event::PutArrives { upload: upload.clone() });
        }
        if matches!(put, Put::Lost | Put::Untold) {
            delay = 100 * MS;
        }
        self.schedule(delay + 1, Event::Uploaded { node: at, life, upload, put });
    }

    /// What becomes of an upload.
    fn put(&mut self) -> Put {
        if !self.healing && self.faults.objects_away && self.rng.chance(900) {
            return if self.rng.chance(500) { Put::Refused } else { Put::Lost };
        }
        if self.strikes(Hazard::PutConflicts) {
            Put::Refused
        } else if self.strikes(Hazard::PutFails) {
            Put::Lost
        } else if self.strikes(Hazard::PutUntold) {
            Put::Untold
        } else {
            Put::Told
        }
    }

    /// An upload reaches the store. One whose name is there already must be the same.
    pub(crate) fn put_arrives(&mut self, upload: Upload) {
        let Upload { segment, first, part, contents } = upload;
        let name = object_name(segment, first, &part);
        self.run.repeated_puts += u64::from(self.objects.contains_key(&name));
        let known = self.objects.entry(name).or_insert_with(|| contents.clone());
        assert_eq!(*known, contents, "I5: one name of a part, two contents");
    }

    /// An upload has ended, as far as the node was told.
    pub(crate) fn uploaded(&mut self, at: NodeIx, life: u64, upload: Upload, put: Put) {
        let Upload { segment, first, part, contents } = upload;
        if self.nodes[at].life != life || !self.nodes[at].up {
            return;
        }
        // After a time-out a node looks, and never assumes.
        let name = object_name(segment, first, &part);
        let there = match put {
            Put::Told => true,
            Put::Refused => false,
            Put::Lost | Put::Untold => self.objects.get(&name) == Some(&contents),
        };
        if !there || self.store.away {
            return self.upload_ended(at, segment, false);
        }
        let Some(read) = self.store.now.segment(segment) else {
            return self.upload_ended(at, segment, true);
        };
        let row = self.store.now.row(segment);
        let over = matches!(read.value.state, SegmentState::Archived(_));
        // Something may have been lost while it was under way.
        let lost = !part.skip && read.value.kept().is_some_and(|kept| part.at.end > kept);
        if over || lost || row.archived() != first {
            return self.upload_ended(at, segment, true);
        }
        let before = row.last();
        let txn = RecordPart { log: LOG, segment, read, before, first, part }.txn();
        self.send_part(at, segment, txn);
    }

    fn send_part(&mut self, at: NodeIx, segment: SegmentNumber, txn: Txn) {
        let late = self.strikes(Hazard::PartLate);
        let delay = if late { self.rng.between(50 * MS, 900 * MS) } else { self.rng.between(200, 4 * MS) };
        let told = !late && !self.strikes(Hazard::PartUntold);
        let life = self.nodes[at].life;
        if !self.nodes[at].uploads.busy.contains(&segment) {
            self.nodes[at].uploads.busy.push(segment);
        }
        if !told {
            self.upload_ended(at, segment, false);
        }
        self.schedule(delay, Event::PartLands { node: at, life, segment, txn, told });
    }

    pub(crate) fn part_lands(
        &mut self,
        at: NodeIx,
        life: u64,
        segment: SegmentNumber,
        txn: &Txn,
        told: bool,
    ) {
        let outcome = (!self.store.away).then(|| self.apply(txn));
        if told && self.nodes[at].life == life && self.nodes[at].up {
            self.upload_ended(at, segment, matches!(outcome, Some(TxnOutcome::Applied(_))));
        }
    }

    fn upload_ended(&mut self, at: NodeIx, segment: SegmentNumber, worked: bool) {
        let now = self.time();
        let uploads = &mut self.nodes[at].uploads;
        uploads.busy.retain(|number| *number != segment);
        if let Some(archiver) = uploads.archivers.get_mut(&segment) {
            if worked {
                archiver.succeeded();
            } else {
                archiver.failed(now);
            }
        }
    }
}

/// The name of a recorded part.
pub(crate) fn name(segment: SegmentNumber, first: Index, part: &Versioned<PartRecord>) -> ObjectName {
    object_name(segment, first, &part.value)
}

/// What stands for a loss has another name than the entries that somebody may still put there.
fn object_name(segment: SegmentNumber, first: Index, part: &PartRecord) -> ObjectName {
    (segment, first, part.at.end, part.at.chain, part.skip)
}
