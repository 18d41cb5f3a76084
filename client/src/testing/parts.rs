//! Parts that writers put into object storage themselves, and record by way of a node.

use super::meta::Batches;
use super::node::Inside;
use crate::StoreOptions;
use bytes::Bytes;
use parking_lot::Mutex;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader};
use piculet_quorum::ids::{Index, LogId, Nonce, SegmentNumber};
use piculet_quorum::meta::part::RecordPart;
use piculet_quorum::meta::{PartRecord, TxnOutcome};
use piculet_quorum::producers::Producers;
use piculet_quorum::wire::message::{Proposal, Refusal, Response};
use piculet_storage::{Objects, Part, PartName, S3Options};
use std::path::{Path, PathBuf};

/// What becomes of the transactions that record parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Recording {
    /// They are carried out and answered.
    #[default]
    Fine,
    /// They are lost on their way.
    Lost,
    /// They are carried out, and their answers are lost.
    Unanswered,
}

/// The store of the cluster, a directory.
pub(crate) struct Parts {
    dir: PathBuf,
    objects: Objects,
    pub(crate) recording: Mutex<Recording>,
    /// Every part that was recorded.
    pub(crate) recorded: Mutex<Vec<(PartName, u64)>>,
    /// How often a transaction of one came.
    pub(crate) asked: Mutex<u32>,
}

impl Parts {
    pub(super) fn new(dir: &Path) -> Self {
        let url = format!("file://{}", dir.display());
        let objects = Objects::open(&url, Nonce(77), &S3Options::default()).unwrap();
        let (recording, recorded, asked) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { dir: dir.to_owned(), objects, recording, recorded, asked }
    }

    /// What a client is told to use.
    pub(crate) fn options(&self) -> StoreOptions {
        StoreOptions::new(self.objects.url())
    }

    /// Takes the store away.
    pub(crate) fn take_away(&self) {
        std::fs::rename(&self.dir, self.dir.with_extension("away")).unwrap();
        std::fs::write(&self.dir, b"no directory").unwrap();
    }

    /// Brings it back.
    pub(crate) fn bring_back(&self) {
        std::fs::remove_file(&self.dir).unwrap();
        std::fs::rename(self.dir.with_extension("away"), &self.dir).unwrap();
    }

    /// The table of producers at the end of the part that was recorded last.
    pub(crate) async fn producers(&self) -> Producers {
        let (name, bytes) = *self.recorded.lock().last().expect("a part was recorded");
        self.objects.get_producers(&name, bytes).await.unwrap()
    }
}

impl Inside {
    pub(super) async fn record_part(&self, proposal: RecordPart) -> Result<Response, Refusal> {
        let invalid = |why: String| Refusal::Invalid(why);
        let parts = &self.shared.parts;
        *parts.asked.lock() += 1;
        let RecordPart { log, segment, first, part: PartRecord { at, bytes, encoder, skip }, .. } =
            proposal.clone();
        let name = PartName { log, segment, first, end: at.end, chain: at.chain, encoder, skip };
        let part = parts.objects.get_part(&name).await.map_err(|error| invalid(error.to_string()))?;
        let recording = *parts.recording.lock();
        let lost = || Refusal::Unknown("lost, for the sake of the test".to_owned());
        if recording == Recording::Lost {
            return Err(lost());
        }
        let proposal = Proposal::RecordPart(Box::new(proposal));
        proposal.check_range().map_err(|error| invalid(error.to_string()))?;
        let outcome = {
            let mut meta = self.shared.meta.lock();
            let outcome = meta.propose(&proposal.txn())?;
            if let TxnOutcome::Applied(_) = outcome {
                let batches = batches(&part, first);
                meta.fold(segment, first, &batches);
                meta.objects.entry(segment).or_default().extend(batches);
                parts.recorded.lock().push((name, bytes));
            }
            outcome
        };
        self.shared.changed();
        if recording == Recording::Unanswered { Err(lost()) } else { Ok(Response::Outcome(outcome)) }
    }
}

fn batches(part: &Part, first: Index) -> Batches {
    let run = part.read(first, part.header().at.end, usize::MAX).expect("a part has its range");
    let (mut bytes, mut batches) = (Bytes::from(run.pieces.concat()), Vec::new());
    while !bytes.is_empty() {
        let head = bytes.first_chunk::<BATCH_HEADER_BYTES>().expect("whole batches");
        let header = BatchHeader::decode(head, &part.header().place).unwrap();
        batches.push((header, bytes.split_to(header.bytes())));
    }
    batches
}

impl super::Cluster {
    /// How often a part was to be recorded.
    pub(crate) fn parts_asked(&self) -> u32 {
        *self.shared.parts.asked.lock()
    }

    /// What becomes of the recording of parts from now on.
    pub(crate) fn record_parts(&self, recording: Recording) {
        *self.shared.parts.recording.lock() = recording;
    }

    /// The parts of a segment that were recorded.
    pub(crate) fn parts_of(&self, log: LogId, segment: SegmentNumber) -> usize {
        let recorded = self.shared.parts.recorded.lock();
        recorded.iter().filter(|(name, _)| (name.log, name.segment) == (log, segment)).count()
    }
}
