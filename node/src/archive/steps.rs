//! The steps of the archiver, each carried out against the metadata and the object store.

use super::skip;
use super::upload::{Upload, UploadError};
use crate::core::Core;
use crate::metrics;
use piculet_meta::MetaError;
use piculet_quorum::ids::{Index, LogId, Revision, SegmentNumber};
use piculet_quorum::meta::{
    FlushRecord, Key, LeaseId, Record, SegmentRecord, StoreRevision, Txn, TxnOutcome, Versioned, Write, part,
};

/// One step for one segment.
pub(super) enum Job {
    /// Ask for the role of its uploader, under this lease.
    Stand(LeaseId),
    /// Give the role back, which was got at this revision.
    Resign(Revision),
    /// Mark it archived, for its parts reach its end.
    Mark(Versioned<SegmentRecord>, Index),
    /// Upload a part and record it.
    Upload(Box<Upload>),
    /// Upload and record the part that stands for what is lost of it.
    Skip,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worked {
    Yes,
    /// It failed and should be tried again after a pause.
    No,
    /// It must wait for something else, and should be tried again after a pause.
    Waits,
}

impl Job {
    /// Does it.
    pub(super) async fn run(self, core: &Core, log: LogId, number: SegmentNumber) -> Worked {
        let (trying, result) = match self {
            Self::Stand(lease) => ("to be elected uploader", stand(core, log, number, lease).await),
            Self::Resign(revision) => ("to resign as uploader", resign(core, log, number, revision).await),
            Self::Mark(read, archived) => match mark(core, log, number, &read, archived).await {
                Ok(false) => return Worked::No,
                result => ("to mark a segment archived", result.map(drop)),
            },
            Self::Skip => return skip::complete(core, log, number).await,
            Self::Upload(upload) => return report(core, log, number, upload.run(core, log, number).await),
        };
        match result {
            Ok(()) => {
                core.meta_health.works();
                Worked::Yes
            }
            Err(error) => {
                core.meta_failed(trying, &error);
                Worked::No
            }
        }
    }
}

pub(super) fn report(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    result: Result<bool, UploadError>,
) -> Worked {
    match result {
        Ok(done) => {
            core.meta_health.works();
            return if done { Worked::Yes } else { Worked::Waits };
        }
        Err(UploadError::Record(error)) => core.meta_failed("to record a part", &error),
        Err(UploadError::Put(error)) if error.is_retryable() => {
            core.store_health.failed("to put a part", &error);
        }
        Err(error @ UploadError::Unrecorded { .. }) => {
            tracing::warn!(%log, segment = %number, %error, "uploading the part again");
        }
        // Something is there that must not be: said each time, for nobody may overlook it.
        Err(error) => tracing::error!(%log, segment = %number, %error, "ALARM: cannot archive a segment"),
    }
    metrics::upload_failed();
    Worked::No
}

/// Carries a transaction out. Its revision when it was applied, none when it was not or nobody
/// knows: then the segment has been read again, and shows what there is.
pub(super) async fn settle(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    txn: &Txn,
) -> Result<Option<Revision>, MetaError> {
    match core.meta.commit(txn).await {
        Ok(TxnOutcome::Applied(revision)) => return Ok(Some(revision)),
        Ok(TxnOutcome::Refused) => {}
        Err(error @ MetaError::Unknown(_)) => core.meta_failed("to change a segment's metadata", &error),
        Err(error) => return Err(error),
    }
    core.refresh_segment(log, number).await?;
    Ok(None)
}

/// The revision of the store at which a write with this revision was made: a key's revision is the
/// store's at that moment.
pub(super) fn made_at(revision: Revision) -> StoreRevision {
    StoreRevision(revision.0)
}

async fn stand(core: &Core, log: LogId, number: SegmentNumber, lease: LeaseId) -> Result<(), MetaError> {
    let key = Key::Flush(log, number);
    let Some(slot) = core.logs.get(log) else { return Ok(()) };
    let record = FlushRecord { uploader: core.member(slot.level) };
    let mut txn = Txn::default().when(key.clone(), Revision(0));
    txn.writes.push(Write::PutLeased(key, Record::Flush(record.clone()), lease));
    if let Some(revision) = settle(core, log, number, &txn).await? {
        metrics::elected();
        core.learn_uploader(made_at(revision), log, number, Some((record, revision)));
    }
    Ok(())
}

async fn resign(core: &Core, log: LogId, number: SegmentNumber, mine: Revision) -> Result<(), MetaError> {
    let key = Key::Flush(log, number);
    let mut txn = Txn::default().when(key.clone(), mine);
    txn.writes.push(Write::Delete(key));
    if let Some(revision) = settle(core, log, number, &txn).await? {
        core.learn_uploader(made_at(revision), log, number, None);
    }
    Ok(())
}

/// Returns whether anything has changed: a record that is damaged meanwhile is left alone, and stays as
/// it was known.
async fn mark(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    read: &Versioned<SegmentRecord>,
    archived: Index,
) -> Result<bool, MetaError> {
    // The parts that are there are seen at one moment, and none goes without its segment.
    let Some(txn) = part::mark_archived(log, number, read, archived) else { return Ok(true) };
    if settle(core, log, number, &txn).await?.is_some() {
        core.refresh_segment(log, number).await?;
        return Ok(true);
    }
    let Some(slot) = core.logs.get(log) else { return Ok(true) };
    let state = slot.lock();
    Ok(state.segments.get(&number).is_none_or(|local| local.record.revision != read.revision))
}
