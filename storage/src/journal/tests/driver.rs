//! Drives a journal and keeps what it should hold after every change.

use crate::fixture::Batches;
use crate::journal::simulated::SimulatedDisk;
use crate::journal::{Change, Disk, JournalCore, JournalError, JournalOptions, Manifest, Replayed};
use bytes::Bytes;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, LogId, Nonce, SegmentNumber, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

pub(super) const CLUSTER: Nonce = Nonce(0xc105);
pub(super) const SMALL: JournalOptions =
    JournalOptions { bytes: 1 << 20, file_bytes: 4 << 10, queue_bytes: 64 << 10 };

/// What a journal should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) segments: BTreeMap<Place, Segment>,
    pub(super) fences: BTreeMap<LogId, Epoch>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) manifest: Manifest,
    /// Index after each batch, what it leaves behind, and its bytes.
    pub(super) batches: VecDeque<(Index, BatchEnd, Bytes)>,
}

/// What happens; numbers are reduced to what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Batch { log: u8, lengths: Vec<usize>, repair: bool },
    Roll { log: u8 },
    Free { segment: u8, batches: u8 },
    Drop { segment: u8 },
    Jump { segment: u8, by: u8 },
    Fence { log: u8, epoch: u8 },
    Forget { log: u8 },
    Flush,
    Close,
    Kill,
}

pub(super) fn steps(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let batch = (0..3_u8, prop::collection::vec(0..700_usize, 1..4), prop::bool::weighted(0.1));
    let step = prop_oneof![
        12 => batch.prop_map(|(log, lengths, repair)| Step::Batch { log, lengths, repair }),
        2 => (0..3_u8).prop_map(|log| Step::Roll { log }),
        6 => (any::<u8>(), 1..6_u8).prop_map(|(segment, batches)| Step::Free { segment, batches }),
        2 => any::<u8>().prop_map(|segment| Step::Drop { segment }),
        1 => (any::<u8>(), 0..9_u8).prop_map(|(segment, by)| Step::Jump { segment, by }),
        2 => (0..3_u8, any::<u8>()).prop_map(|(log, epoch)| Step::Fence { log, epoch }),
        1 => (0..3_u8).prop_map(|log| Step::Forget { log }),
        8 => Just(Step::Flush),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, count)
}

/// A journal on a simulated disk.
pub(super) struct Driver {
    pub(super) disk: SimulatedDisk,
    core: Option<JournalCore<SimulatedDisk>>,
    /// What it should hold after each change.
    pub(super) history: Vec<Contents>,
    /// How many changes are known to be at rest, and were one flush earlier.
    pub(super) synced: usize,
    pub(super) synced_before: usize,
}

impl Driver {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let core = JournalCore::create(disk.clone(), SMALL, CLUSTER).unwrap();
        let history = vec![Contents::default()];
        Self { disk, core: Some(core), history, synced: 0, synced_before: 0 }
    }

    pub(super) fn now(&self) -> &Contents {
        self.history.last().unwrap()
    }

    pub(super) fn core(&mut self) -> &mut JournalCore<SimulatedDisk> {
        self.core.as_mut().unwrap()
    }

    /// Opens what another disk holds, which must be sound.
    pub(super) fn reopen(&mut self, disk: SimulatedDisk) -> Result<(), JournalError> {
        self.core = None;
        self.disk = disk;
        let replayed = Replayed::read(self.disk.clone(), SMALL, CLUSTER)?;
        assert_eq!(replayed.damage(), None);
        let found = contents(&replayed);
        // Only whole changes, in their order, and none that was announced is missing.
        let at = (self.synced..self.history.len()).find(|at| self.history[*at] == found);
        let at = at.unwrap_or_else(|| {
            panic!("found {found:#?}\nbut announced were {} of {:#?}", self.synced, self.history)
        });
        self.history.truncate(at + 1);
        let resumed = replayed.resume();
        if resumed.is_ok() {
            (self.synced, self.synced_before) = (at, at);
        }
        self.core = Some(resumed?);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), JournalError> {
        self.core().flush()?;
        let now = self.history.len() - 1;
        if now > self.synced {
            self.synced_before = std::mem::replace(&mut self.synced, now);
        }
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<(), JournalError> {
        self.flush()?;
        self.core.take().unwrap().close()
    }

    pub(super) fn take(&mut self, step: &Step) -> Result<(), JournalError> {
        match step {
            Step::Batch { log, lengths, repair } => self.batch(*log, lengths, *repair),
            Step::Roll { log } => self.roll(*log),
            Step::Free { segment, batches } => self.free(*segment, *batches),
            Step::Drop { segment } => {
                if let Some(place) = self.pick(*segment) {
                    self.change(Change::Drop { place });
                }
            }
            Step::Jump { segment, by } => self.jump(*segment, *by),
            Step::Fence { log, epoch } => {
                self.change(Change::Fence { log: LogId((*log).into()), epoch: Epoch((*epoch).into()) });
            }
            Step::Forget { log } => self.change(Change::ForgetLog { log: LogId((*log).into()) }),
            Step::Flush => self.flush()?,
            Step::Close => {
                self.close()?;
                self.reopen(self.disk.clone())?;
            }
            Step::Kill => self.reopen(self.disk.clone())?,
        }
        Ok(())
    }

    fn newest(&self, log: u8) -> Option<Place> {
        let of_log = |place: &&Place| place.log.0 == u64::from(log);
        self.now().segments.keys().rfind(of_log).copied()
    }

    fn pick(&self, segment: u8) -> Option<Place> {
        let count = self.now().segments.len();
        (count > 0).then(|| *self.now().segments.keys().nth(usize::from(segment) % count).unwrap())
    }

    pub(super) fn roll(&mut self, log: u8) {
        let number = self.newest(log).map_or(0, |place| place.segment.0 + 1);
        let place = Place {
            log: LogId(log.into()),
            segment: SegmentNumber(number),
            epoch: Epoch(number + u64::from(log)),
        };
        let before = BatchEnd { chain: Chain(u128::from(number) << 70), last_timestamp: Timestamp(number) };
        self.change(Change::Segment(Manifest::new(place, Index(0), before)));
    }

    pub(super) fn batch(&mut self, log: u8, lengths: &[usize], repair: bool) {
        if self.newest(log).is_none() {
            self.roll(log);
        }
        let place = self.newest(log).unwrap();
        let manifest = self.now().segments[&place].manifest;
        let mut batches = Batches { place, next: manifest.tail, before: manifest.at_tail };
        let batch = batches.next(lengths);
        let middle = batch.bytes.len() / 2;
        let bytes = vec![batch.bytes.slice(..middle), batch.bytes.slice(middle..)];
        self.change(Change::Batch { place, repair, end: batches.next, at_end: batch.end, bytes });
    }

    pub(super) fn free(&mut self, segment: u8, batches: u8) {
        let Some(place) = self.pick(segment) else { return };
        let last = self.now().segments[&place].batches.iter().take(batches.into()).last();
        if let Some((index, before, _)) = last.cloned() {
            self.change(Change::Freed { place, index, before });
        }
    }

    fn jump(&mut self, segment: u8, by: u8) {
        let Some(place) = self.pick(segment) else { return };
        let Manifest { tail, at_tail, .. } = self.now().segments[&place].manifest;
        let before = BatchEnd { chain: Chain(at_tail.chain.0 ^ 0x1111), ..at_tail };
        self.change(Change::Jump { place, start: tail.plus(by.into()), before });
    }

    fn change(&mut self, change: Change) {
        let mut next = self.now().clone();
        next.apply(&change);
        self.history.push(next);
        self.core().append(change);
    }
}

impl Contents {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Segment(manifest) => {
                let segment = Segment { manifest: *manifest, batches: VecDeque::new() };
                self.segments.insert(manifest.place, segment);
            }
            Change::Batch { place, repair, end, at_end, bytes } => {
                let Segment { manifest, batches } = self.segments.get_mut(place).unwrap();
                if *repair && manifest.repaired_from.is_none() {
                    manifest.repaired_from = Some(manifest.tail);
                }
                (manifest.tail, manifest.at_tail) = (*end, *at_end);
                batches.push_back((*end, *at_end, bytes.concat().into()));
            }
            Change::Jump { place, start, before } => {
                let Segment { manifest, batches } = self.segments.get_mut(place).unwrap();
                manifest.repaired_from = manifest.repaired_from.or(Some(manifest.tail));
                (manifest.tail, manifest.at_tail) = (*start, *before);
                (manifest.head, manifest.before) = (*start, *before);
                batches.clear();
            }
            Change::Fence { log, epoch } => {
                let fence = self.fences.entry(*log).or_default();
                *fence = (*epoch).max(*fence);
            }
            Change::ForgetLog { log } => drop(self.fences.remove(log)),
            Change::Freed { place, index, before } => {
                let Segment { manifest, batches } = self.segments.get_mut(place).unwrap();
                (manifest.head, manifest.before) = (*index, *before);
                batches.retain(|(end, ..)| end > index);
            }
            Change::Drop { place } => drop(self.segments.remove(place)),
        }
    }
}

/// What a replay says.
pub(super) fn contents<D: Disk>(replayed: &Replayed<D>) -> Contents {
    let segment = |found: crate::journal::ReplayedSegment<'_>| {
        let read = |at| replayed.read_batch(at).unwrap();
        let batches = found.batches.iter().map(|at| (at.end, at.at_end, read(at))).collect();
        (found.manifest.place, Segment { manifest: *found.manifest, batches })
    };
    Contents { segments: replayed.segments().map(segment).collect(), fences: replayed.fences().collect() }
}
