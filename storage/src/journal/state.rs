//! The records of a journal, put together again.

use super::live::{Live, Manifest};
use super::parse::Parsed;
use super::record::Change;
use crate::batches::Row;
use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchEnd, BatchHeader, Place};
use piculet_quorum::ids::{Chain, Index};
use std::collections::{BTreeMap, VecDeque};

/// Where a batch lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchAt {
    /// Index of its first entry.
    pub first: Index,
    /// Index after its last entry.
    pub end: Index,
    /// What it leaves behind it.
    pub at_end: BatchEnd,
    /// The chain that it continues.
    pub(super) chain: Chain,
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
    pub(super) crc: u32,
}

/// What the records up to here say.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) live: Live,
    /// Of every live segment, the batches that were found. Those before may lie in files that have
    /// been deleted: then they are freed further on.
    pub(super) batches: BTreeMap<Place, VecDeque<BatchAt>>,
    /// Whether a checkpoint has been complete.
    pub(super) whole: bool,
    /// Whether the last record is the mark of a clean stop.
    pub(super) clean: bool,
}

/// A record that contradicts those before it: its segment, and why.
type Contradiction = (Option<Place>, String);

impl State {
    /// Takes the next record, of the file `generation`. Returns whether the next file follows.
    pub(super) fn take(&mut self, record: Parsed, generation: u64) -> Result<bool, Contradiction> {
        self.clean = matches!(record, Parsed::End);
        match record {
            Parsed::Seal => return Ok(true),
            Parsed::End => {}
            Parsed::Checkpoint { segments, fences } => {
                let known = (self.live.manifests().len() as u64, self.live.fences().len() as u64);
                if known != (segments, fences) {
                    let (listed, found) = known;
                    let what = format!(
                        "a list has {segments} segments and {fences} fences, the records before it {listed} and {found}"
                    );
                    return Err((None, what));
                }
                self.whole = true;
            }
            Parsed::Batch { place, repair, offset, bytes } => {
                self.listed(&place)?;
                self.take_batch(place, repair, generation, offset, &bytes)
                    .map_err(|what| (Some(place), what))?;
            }
            Parsed::Change(change) => self.take_change(&change, generation)?,
        }
        Ok(false)
    }

    /// Before the first checkpoint is complete there is nothing but its list.
    fn listed(&self, place: &Place) -> Result<(), Contradiction> {
        if self.whole {
            return Ok(());
        }
        Err((Some(*place), "a record comes before the first list of segments is whole".to_owned()))
    }

    fn take_batch(
        &mut self,
        place: Place,
        repair: bool,
        generation: u64,
        offset: u64,
        bytes: &Bytes,
    ) -> Result<(), String> {
        let Manifest { tail, at_tail, .. } =
            *self.live.manifest(&place).ok_or("a batch comes before its segment is listed")?;
        let (header, at_end) = check(place, tail, at_tail, bytes)?;
        let (first, end, chain) = (header.first, header.end(), header.chain);
        self.live.apply(&Change::Batch { place, repair, end, at_end, bytes: Vec::new() }, generation)?;
        let (bytes, crc) = (bytes.len(), crc32c::crc32c(bytes));
        let at = BatchAt { first, end, at_end, chain, generation, offset, bytes, crc };
        self.batches.entry(place).or_default().push_back(at);
        Ok(())
    }

    fn take_change(&mut self, change: &Change, generation: u64) -> Result<(), Contradiction> {
        let place = match change {
            Change::Segment(Manifest { place, .. }) => {
                self.batches.entry(*place).or_default();
                Some(*place)
            }
            Change::Fence { .. } | Change::ForgetLog { .. } => None,
            Change::Batch { place, .. } => Some(*place),
            Change::Jump { place, .. } => {
                self.listed(place)?;
                self.batches.entry(*place).or_default().clear();
                Some(*place)
            }
            Change::Freed { place, index, before } => {
                self.listed(place)?;
                self.free(place, *index, before).map_err(|what| (Some(*place), what))?;
                Some(*place)
            }
            Change::Drop { place } => {
                self.listed(place)?;
                self.batches.remove(place);
                Some(*place)
            }
        };
        self.live.apply(change, generation).map_err(|what| (place, what))
    }

    fn free(&mut self, place: &Place, index: Index, before: &BatchEnd) -> Result<(), String> {
        let batches = self.batches.entry(*place).or_default();
        while let Some(batch) = batches.pop_front_if(|batch| batch.first < index) {
            if batch.end > index || (batch.end == index && batch.at_end != *before) {
                return Err(format!("entries are freed below {index}, where no batch begins"));
            }
        }
        Ok(())
    }

    /// A segment whose batches do not reach from its head to its tail, and why.
    pub(super) fn incomplete(&self) -> Option<(Place, String)> {
        self.live.manifests().find_map(|manifest| {
            let Manifest { place, head, before, tail, .. } = *manifest;
            let first = self.batches.get(&place).and_then(VecDeque::front);
            let from = first.map_or(tail, |batch| batch.first);
            let what = if from != head {
                format!("the batches from index {head} to {from} are in no file from this one on")
            } else if first.is_some_and(|batch| batch.chain != before.chain) {
                format!("the batch at index {head} does not continue what was freed before it")
            } else {
                return None;
            };
            Some((place, what))
        })
    }
}

/// Whether the bytes are one sound batch that continues its segment.
fn check(
    place: Place,
    tail: Index,
    at_tail: BatchEnd,
    bytes: &Bytes,
) -> Result<(BatchHeader, BatchEnd), String> {
    let header = bytes.first_chunk::<BATCH_HEADER_BYTES>().ok_or("a batch is shorter than its header")?;
    let header = BatchHeader::decode(header, &place).map_err(|error| error.to_string())?;
    if header.bytes() != bytes.len() {
        return Err(format!("a batch of {} bytes lies in {}", header.bytes(), bytes.len()));
    }
    let mut row = Row::new(place, tail, at_tail);
    row.feed(bytes, |_, _| ()).map_err(|error| error.to_string())?;
    let end = row.finish().map_err(|error| error.to_string())?;
    Ok((header, end.before))
}
