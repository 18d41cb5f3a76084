//! What the journal's records add up to: the live segments and fences, and which files they need.

use super::record::Change;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Epoch, Index, LogId};
use std::collections::{BTreeMap, VecDeque};

/// What the journal knows of a segment, without its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The segment.
    pub place: Place,
    /// Entries below it have been freed, or never were here.
    pub head: Index,
    /// What lies before the head.
    pub before: BatchEnd,
    /// The index after the last entry.
    pub tail: Index,
    /// What lies before the tail.
    pub at_tail: BatchEnd,
    /// Where repairs, not the writer's own appends, begin; none when there were none.
    pub repaired_from: Option<Index>,
}

impl Manifest {
    /// A segment without entries whose first one will have index `start`; `before` is what lies
    /// before it.
    #[must_use]
    pub fn new(place: Place, start: Index, before: BatchEnd) -> Self {
        Self { place, head: start, before, tail: start, at_tail: before, repaired_from: None }
    }

    /// How far the writer itself has appended.
    #[must_use]
    pub fn writer_tail(&self) -> Index {
        self.repaired_from.unwrap_or(self.tail)
    }
}

#[derive(Clone, Debug)]
struct Segment {
    manifest: Manifest,
    /// Which files its batches lie in: the file, and the index after its last batch there.
    runs: VecDeque<(u64, Index)>,
}

/// The state that the records up to here have made.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    segments: BTreeMap<Place, Segment>,
    fences: BTreeMap<LogId, Epoch>,
    /// How many segments have batches in a file.
    needed: BTreeMap<u64, usize>,
}

impl Live {
    pub(super) fn manifest(&self, place: &Place) -> Option<&Manifest> {
        self.segments.get(place).map(|segment| &segment.manifest)
    }

    pub(super) fn manifests(&self) -> impl ExactSizeIterator<Item = &Manifest> {
        self.segments.values().map(|segment| &segment.manifest)
    }

    pub(super) fn fences(&self) -> impl ExactSizeIterator<Item = (LogId, Epoch)> {
        self.fences.iter().map(|(log, epoch)| (*log, *epoch))
    }

    /// Whether a batch in this file, or an older one, is still needed.
    pub(super) fn needs_up_to(&self, generation: u64) -> bool {
        self.needed.first_key_value().is_some_and(|(oldest, _)| *oldest <= generation)
    }

    /// Takes note of a change that lies in the file `generation`. One that contradicts what is known
    /// changes nothing and says why.
    pub(super) fn apply(&mut self, change: &Change, generation: u64) -> Result<(), String> {
        match change {
            Change::Segment(manifest) => self.add(manifest)?,
            Change::Batch { place, repair, end, at_end, .. } => {
                let segment = segment(&mut self.segments, place)?;
                let manifest = &mut segment.manifest;
                if *end <= manifest.tail || at_end.last_timestamp < manifest.at_tail.last_timestamp {
                    return Err(format!("a batch ends at {end}, not beyond the tail {}", manifest.tail));
                }
                if *repair {
                    manifest.repaired_from.get_or_insert(manifest.tail);
                }
                (manifest.tail, manifest.at_tail) = (*end, *at_end);
                match segment.runs.back_mut().filter(|(last, _)| *last == generation) {
                    Some((_, last)) => *last = *end,
                    None => {
                        segment.runs.push_back((generation, *end));
                        *self.needed.entry(generation).or_default() += 1;
                    }
                }
            }
            Change::Jump { place, start, before } => {
                let manifest = &mut segment(&mut self.segments, place)?.manifest;
                if *start < manifest.tail {
                    return Err(format!("a jump to {start}, below the tail {}", manifest.tail));
                }
                manifest.repaired_from.get_or_insert(manifest.tail);
                (manifest.tail, manifest.at_tail) = (*start, *before);
                self.free(place, *start, *before);
            }
            Change::Freed { place, index, before } => {
                let manifest = &mut segment(&mut self.segments, place)?.manifest;
                if *index < manifest.head || *index > manifest.tail {
                    let (head, tail) = (manifest.head, manifest.tail);
                    return Err(format!("entries are freed below {index}, outside {head} to {tail}"));
                }
                self.free(place, *index, *before);
            }
            Change::Fence { log, epoch } => {
                let fence = self.fences.entry(*log).or_insert(*epoch);
                *fence = (*fence).max(*epoch);
            }
            Change::ForgetLog { log } => {
                self.fences.remove(log);
            }
            Change::Drop { place } => {
                let runs = std::mem::take(&mut segment(&mut self.segments, place)?.runs);
                self.segments.remove(place);
                runs.iter().for_each(|(file, _)| self.release(*file));
            }
        }
        Ok(())
    }

    /// A segment that is known already is listed again by every checkpoint, as it is then.
    fn add(&mut self, manifest: &Manifest) -> Result<(), String> {
        if manifest.head > manifest.tail {
            return Err(format!("a manifest from {} to {}", manifest.head, manifest.tail));
        }
        let known = self
            .segments
            .entry(manifest.place)
            .or_insert_with(|| Segment { manifest: *manifest, runs: VecDeque::new() });
        if known.manifest == *manifest {
            return Ok(());
        }
        Err(format!("a manifest says {manifest:?}, the records before it {:?}", known.manifest))
    }

    fn free(&mut self, place: &Place, index: Index, before: BatchEnd) {
        let mut unused = Vec::new();
        if let Some(Segment { manifest, runs }) = self.segments.get_mut(place) {
            (manifest.head, manifest.before) = (index, before);
            while let Some((file, _)) = runs.front().filter(|(_, end)| *end <= index) {
                unused.push(*file);
                runs.pop_front();
            }
        }
        unused.into_iter().for_each(|file| self.release(file));
    }

    fn release(&mut self, file: u64) {
        let count = self.needed.get_mut(&file).expect("a file with batches is counted");
        *count -= 1;
        if *count == 0 {
            self.needed.remove(&file);
        }
    }
}

fn segment<'a>(segments: &'a mut BTreeMap<Place, Segment>, place: &Place) -> Result<&'a mut Segment, String> {
    segments.get_mut(place).ok_or_else(|| "its segment is in no manifest".to_owned())
}
