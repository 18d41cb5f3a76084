//! Uploads: the shipped rule decides what, T3 records it.

use crate::state::{Invariant, LOG, State};
use piculet_quorum::archiver::{Archiver, ArchiverStep, FlushOptions, Sight};
use piculet_quorum::ids::{Chain, Index, SegmentNumber, Timestamp};
use piculet_quorum::meta::part::{RecordPart, mark_archived};
use piculet_quorum::meta::{PartRecord, SegmentEnd, Txn};
use piculet_quorum::time::{Span, Time};

impl State {
    /// A member uploads what it may, so many entries at most, and records it: at once, or so late that
    /// nobody waits for it.
    pub(crate) fn upload(&mut self, at: usize, segment: usize, most: u64, late: bool) -> bool {
        if !self.is_member(segment, at) {
            return false;
        }
        self.learn(at, segment);
        let number = SegmentNumber(segment as u64);
        let Some(read) = self.store.versioned(segment) else { return false };
        let row = self.store.row(segment);
        let Some(uploadable) = self.nodes[at].replica.uploadable(number) else { return false };
        let sight = Sight {
            archived: row.archived(),
            uploadable,
            bytes: u64::MAX,
            end: read.value.state.end().map(|end| end.end),
            urgent: true,
            rank: 0,
            sole: true,
            elected: None,
            forsaken: false,
        };
        let options = FlushOptions { bytes: 0, bytes_min: 0, interval: Span(0), interval_max: Span(0) };
        let txn = match Archiver::new(options).step(Time(1), &sight) {
            ArchiverStep::Upload(first, end) => {
                let end = end.min(first.plus(most.min(end.0)));
                let Some(at) = self.put(at, segment, first, end) else { return false };
                let part = PartRecord { at, bytes: 1, encoder: 1, skip: false };
                let before = row.last();
                RecordPart { log: LOG, segment: number, read, before, first, part }.txn()
            }
            ArchiverStep::MarkArchived => {
                let Some(txn) = mark_archived(LOG, number, &read, row.archived()) else { return false };
                txn
            }
            ArchiverStep::Wait(_) | ArchiverStep::Stand | ArchiverStep::Resign => return false,
        };
        if late {
            self.spent.late += 1;
            self.wire.change(|wire| wire.late.push(txn));
        } else {
            self.store.change(|store| store.apply(&txn));
        }
        true
    }

    /// Puts what a member has of a range into an object, unless that is there.
    fn put(&mut self, at: usize, segment: usize, first: Index, end: Index) -> Option<SegmentEnd> {
        let (from, to) = (usize::try_from(first.0).ok()?, usize::try_from(end.0).ok()?);
        let buffer = &self.nodes[at].buffers[segment];
        let content: Vec<u128> = buffer.get(from..to.min(buffer.len()))?.to_vec();
        let chain = *content.last()?;
        let there = self.wire.objects.iter().find(|(s, f, e, _)| (*s, *f, *e) == (segment, first.0, end.0));
        match there {
            Some((.., found)) if *found != content => {
                self.broken(Invariant::I6, "two members make one object with different content");
            }
            Some(_) => {}
            None => self.wire.change(|wire| {
                wire.objects.push((segment, first.0, end.0, content));
                wire.objects.sort();
            }),
        }
        Some(SegmentEnd { end, chain: Chain(chain), last_timestamp: Timestamp(0) })
    }

    /// A transaction lands that nobody waits for any more.
    pub(crate) fn land(&mut self, which: usize) {
        let txn: Txn = self.wire.change(|wire| wire.late.remove(which));
        self.store.change(|store| store.apply(&txn));
    }
}
