//! The part that stands for what is lost of a segment. It follows from the metadata alone, so any
//! node can upload it, whether it holds anything of the segment or not.

use super::steps::{Worked, report, settle};
use super::upload::UploadError;
use crate::core::Core;
use crate::producers::{self, TableError};
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{LogId, SegmentNumber};
use piculet_quorum::meta::part::RecordPart;
use piculet_quorum::meta::{Key, PartRecord, Range, SegmentState};
use piculet_storage::PartHeader;
use piculet_storage::part::{self, PART_ENCODER};

/// Completes the parts of a segment whose entries are archived up to where its loss begins; nothing
/// is done of any other.
pub(crate) async fn complete(core: &Core, log: LogId, number: SegmentNumber) -> Worked {
    report(core, log, number, try_complete(core, log, number).await)
}

async fn try_complete(core: &Core, log: LogId, number: SegmentNumber) -> Result<bool, UploadError> {
    let key = Key::Segment(log, number);
    let now = core.meta.read(std::slice::from_ref(&key), &[Range::Parts(log, number)]).await?;
    let Some(read) = now.segment(&key) else { return Ok(true) };
    let segment = &read.value;
    let row = now.row(log, number).map_err(|first| TableError::Damaged { log, segment: number, first })?;
    row.check(log, number, segment)?;
    let SegmentState::Sealed(seal) = &segment.state else { return Ok(true) };
    let (begins, at) = (row.end(segment), seal.at);
    if segment.loss.is_none() || segment.kept() != Some(begins.end) || begins.end == at.end {
        return Ok(true);
    }
    let header = PartHeader {
        cluster: core.cluster,
        place: Place { log, segment: number, epoch: segment.epoch },
        level: segment.level,
        base: segment.base,
        first: begins.end,
        before: BatchEnd { chain: begins.chain, last_timestamp: begins.last_timestamp },
        at,
        skip: true,
    };
    let Some(producers) = producers::before_part(core, log, number, &row).await? else { return Ok(false) };
    let (name, encoded) = (header.name(), part::encode(&header, producers, &[])?);
    core.objects.put_part(&name, &encoded).await?;
    core.store_health.works();
    let part = PartRecord { at, bytes: encoded.bytes, encoder: PART_ENCODER, skip: true };
    let t3 = RecordPart { log, segment: number, read, before: row.last(), first: begins.end, part };
    if settle(core, log, number, &t3.txn()).await?.is_some() {
        tracing::info!(part = %name, "completed the archive of a segment of which something is lost");
        core.refresh_segment(log, number).await?;
    }
    Ok(true)
}
