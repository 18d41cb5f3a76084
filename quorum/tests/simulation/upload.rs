//! A node's uploads: the archiver's steps carried out against an object store that misbehaves.

use crate::events::{Event, NodeIx, Upload};
use crate::store::LOG;
use crate::world::{MS, World};
use piculet_quorum::archiver::{Archiver, ArchiverStep, Sight};
use piculet_quorum::ids::{Chain, Index, SegmentNumber};
use piculet_quorum::meta::part::{RecordPart, mark_archived};
use piculet_quorum::meta::{
    FlushRecord, Key, Member, PartRecord, Record, SegmentEnd, SegmentState, Txn, TxnOutcome, Versioned, Write,
};
use std::collections::BTreeMap;

/// The object store: parts by their names, which say what is in them.
pub(crate) type Objects = BTreeMap<(SegmentNumber, Index, Index, Chain), Vec<u64>>;

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
                ArchiverStep::Upload(from, to) => self.start_upload(at, number, from, to),
                ArchiverStep::MarkArchived => {
                    let Some(read) = self.store.segment(number) else { continue };
                    let archived = self.store.archived(number, &read.value).end;
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
        let uploadable = node.replica.uploadable(number)?;
        let place = record.ensemble.iter().position(|member| member.node == node.id)? as u64;
        let elected = self.store.get(&Key::Flush(LOG, number)).map(|flush| {
            let Record::Flush(FlushRecord { uploader }) = &flush.value else { panic!("not a flush record") };
            *uploader == self.me(at)
        });
        let sole = match &record.state {
            SegmentState::Sealed(seal) => seal.holders == [node.id.clone()],
            _ => false,
        };
        Some(Sight {
            archived,
            uploadable,
            bytes: uploadable.0.saturating_sub(archived.0) * 100,
            end: record.state.end().map(|at| at.end),
            urgent: node.short() || self.healing,
            rank: (place + number.0) % record.ensemble.len() as u64,
            sole,
            elected,
        })
    }

    pub(crate) fn describe_upload(&self, at: NodeIx, number: SegmentNumber) -> String {
        let uploads = &self.nodes[at].uploads;
        let busy = uploads.busy.contains(&number);
        format!("{:?} {:?} busy {busy}", self.sight(at, number), uploads.archivers.get(&number))
    }

    /// The lease ends with the process; the key of a node that is gone is free.
    fn stand(&mut self, at: NodeIx, number: SegmentNumber) {
        let key = Key::Flush(LOG, number);
        let record = Record::Flush(FlushRecord { uploader: self.me(at) });
        let txn = Txn::default().when(key.clone(), piculet_quorum::ids::Revision(0)).put(key, record);
        self.apply(&txn);
    }

    fn resign(&mut self, at: NodeIx, number: SegmentNumber) {
        let key = Key::Flush(LOG, number);
        let revision = self.store.revision_of(&key);
        let mine = Some(FlushRecord { uploader: self.me(at) });
        let held = self.store.get(&key).map(|record| record.value.clone());
        if held == mine.map(Record::Flush) {
            let mut txn = Txn::default().when(key.clone(), revision);
            txn.writes.push(Write::Delete(key));
            self.apply(&txn);
        }
    }

    /// The lease of a process that is gone ends: its keys go.
    pub(crate) fn end_lease(&mut self, at: NodeIx) {
        let numbers: Vec<SegmentNumber> = self.store.unarchived().map(|(number, _)| number).collect();
        for number in numbers {
            self.resign(at, number);
        }
    }

    fn start_upload(&mut self, at: NodeIx, segment: SegmentNumber, from: Index, to: Index) {
        let most = self.rng.between(1, 30) as usize;
        let Some(buffer) = self.nodes[at].buffers.get(&segment) else { return };
        let wanted = buffer.batches.iter().filter(|b| b.header.first >= from && b.header.end() <= to);
        let batches: Vec<_> = wanted.take(most).copied().collect();
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
        let upload = Upload { segment, first: from, part, contents };
        let (stored, told) = self.faults.upload(&mut self.rng, self.healing);
        self.nodes[at].uploads.busy.push(segment);
        let (delay, life) = (self.rng.between(MS, 40 * MS), self.nodes[at].life);
        self.schedule(delay, Event::Uploaded { node: at, life, upload, stored, told });
    }

    /// An upload has ended: it is in the store or not, and the node was told so or not.
    pub(crate) fn uploaded(&mut self, at: NodeIx, life: u64, upload: Upload, stored: bool, told: bool) {
        let Upload { segment, first, part, contents } = upload;
        if stored {
            let name = (segment, first, part.at.end, part.at.chain);
            let known = self.objects.entry(name).or_insert_with(|| contents.clone());
            assert_eq!(*known, contents, "I5: one name of a part, two contents");
        }
        if self.nodes[at].life != life || !self.nodes[at].up {
            return;
        }
        if !told || !stored || self.store.away {
            return self.upload_ended(at, segment, false);
        }
        let Some(read) = self.store.segment(segment) else { return };
        let row = self.store.row(segment);
        let over = matches!(read.value.state, SegmentState::Archived(_));
        if over || row.archived() != first {
            return self.upload_ended(at, segment, true);
        }
        let before = row.last();
        let txn = RecordPart { log: LOG, segment, read, before, first, part }.txn();
        self.send_part(at, segment, txn);
    }

    fn send_part(&mut self, at: NodeIx, segment: SegmentNumber, txn: Txn) {
        let (delay, told) = self.faults.part_txn(&mut self.rng, self.healing);
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

/// The contents of a recorded part.
pub(crate) fn contents<'a>(
    objects: &'a Objects,
    segment: SegmentNumber,
    first: Index,
    part: &Versioned<PartRecord>,
) -> &'a [u64] {
    let name = (segment, first, part.value.at.end, part.value.at.chain);
    objects.get(&name).unwrap_or_else(|| panic!("I5: no object for the part {name:?}"))
}
