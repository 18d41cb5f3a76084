//! The shipped journal of level `disk` on a simulated disk: what a crash leaves of it must be what
//! was written up to some moment, and never less than what was synced.

use super::events::Batch;
use super::rest::Rest;
use super::rng::Rng;
use super::store::LOG;
use bytes::{Bytes, BytesMut};
use piculet_quorum::batch::{BatchBuilder, BatchEnd, BatchHeader, Place};
use piculet_quorum::ids::{Epoch, Index, Nonce, SegmentNumber, Timestamp};
use piculet_storage::journal::simulated::SimulatedDisk;
use piculet_storage::journal::{Change, JournalCore, JournalOptions, Manifest, Replayed};
use std::collections::BTreeMap;

const CLUSTER: Nonce = Nonce(1);
/// Small files, so that they end often.
const OPTIONS: JournalOptions = JournalOptions { bytes: 1 << 20, file_bytes: 4 << 10, queue_bytes: 64 << 10 };

/// One node's journal.
pub(crate) struct Journal {
    disk: SimulatedDisk,
    /// None while no process has it.
    core: Option<JournalCore<SimulatedDisk>>,
}

/// What a replay has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) fence: Epoch,
    pub(crate) segments: BTreeMap<SegmentNumber, Manifest>,
}

impl Journal {
    /// An empty one.
    pub(crate) fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let core = JournalCore::create(disk.clone(), OPTIONS, CLUSTER).expect("an empty disk has room");
        Self { disk, core: Some(core) }
    }

    /// Puts changes at rest.
    pub(crate) fn sync(&mut self, changes: Vec<Change>) {
        let core = self.core.as_mut().expect("the process runs");
        changes.into_iter().for_each(|change| core.append(change));
        core.flush().expect("nothing is wrong with the disk");
    }

    /// The process is gone while it writes these changes, after so many operations of the disk.
    pub(crate) fn process_ends(&mut self, changes: Vec<Change>, operations: u64) {
        let Some(mut core) = self.core.take() else { return };
        changes.into_iter().for_each(|change| core.append(change));
        self.disk.power_off_after(operations);
        // It fails half-way, and whoever would be told is gone.
        let _ = core.flush();
        self.disk = self.disk.process_end();
    }

    /// The machine is gone, and with it any of what was not synced.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng) {
        self.disk = self.disk.power_cut(|forms| rng.between(0, forms as u64) as usize);
    }

    /// A bit of some file turns over.
    pub(crate) fn rot(&self, rng: &mut Rng) {
        let names = piculet_storage::journal::Disk::list(&self.disk).expect("a disk that works");
        let name = &names[rng.between(0, names.len() as u64) as usize];
        let bits = self.disk.bytes(name).map_or(0, |bytes| bytes.len() as u64 * 8);
        if bits > 0 {
            self.disk.flip(name, rng.between(0, bits) as usize);
        }
    }

    /// Whether a start would say that it cannot vouch for what is here.
    pub(crate) fn damaged(&self) -> bool {
        let replayed = Replayed::read(self.disk.clone(), OPTIONS, CLUSTER).expect("a disk that works");
        replayed.damage().is_some()
    }

    /// A process starts: reads all of it, and goes on behind that. Returns how much is lost.
    pub(crate) fn replay(&mut self, rest: &mut Rest) -> usize {
        let replayed = Replayed::read(self.disk.clone(), OPTIONS, CLUSTER).expect("a disk that works");
        assert!(replayed.damage().is_none(), "I7: a crash taken for damage: {:?}", replayed.damage());
        let fence = replayed.fences().find(|(log, _)| *log == LOG).map_or(Epoch(0), |(_, epoch)| epoch);
        let segments = replayed.segments().map(|segment| (segment.manifest.place.segment, *segment.manifest));
        let found = Found { fence, segments: segments.collect() };
        let (lost, missing) = rest.settle_on(&found);
        self.core = Some(replayed.resume().expect("a disk that works"));
        self.sync(missing);
        lost
    }
}

/// What a batch of such entries leaves behind it, and its bytes without the header.
fn build(before: BatchEnd, contents: std::ops::Range<u64>, at: Timestamp) -> (BatchBuilder, BytesMut) {
    let (mut builder, mut body) = (BatchBuilder::new(before), BytesMut::new());
    for content in contents {
        builder.push(&[], &content.to_le_bytes(), at, &mut body);
    }
    (builder, body)
}

/// A batch whose entries have these contents.
pub(crate) fn batch_of(
    before: BatchEnd,
    contents: std::ops::Range<u64>,
    at: Timestamp,
) -> (BatchEnd, impl FnOnce(Index) -> Batch) {
    let content = contents.start;
    let (builder, body) = build(before, contents, at);
    let end = builder.end();
    (end, move |first| Batch { header: builder.header(first, body.len()), end, content })
}

/// The contents of the entries in the body of such a batch.
pub(crate) fn contents_of(header: &BatchHeader, body: &[u8]) -> impl Iterator<Item = u64> {
    let entries = body.chunks(body.len() / header.count as usize);
    entries.map(|entry| u64::from_le_bytes(*entry.last_chunk().expect("a content has eight bytes")))
}

/// The bytes of a batch, as a node stores them.
pub(crate) fn encode(place: &Place, batch: &Batch) -> Bytes {
    let at = batch.end.last_timestamp;
    let before = BatchEnd { chain: batch.header.chain, last_timestamp: at };
    let contents = batch.content..batch.content + u64::from(batch.header.count);
    let (_, body) = build(before, contents, at);
    let mut bytes = BytesMut::from(&batch.header.encode(place)[..]);
    bytes.extend_from_slice(&body);
    bytes.freeze()
}
