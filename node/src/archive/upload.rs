//! The upload of one part: taken from the buffer, put into the store, recorded by T3.

use super::steps::{made_at, settle};
use crate::core::Core;
use crate::logs::{LocalSegment, extend};
use crate::metrics;
use crate::producers::{self, TableError};
use piculet_meta::MetaError;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Chain, Index, LogId, SegmentNumber};
use piculet_quorum::limits::PART_BYTES_MAX;
use piculet_quorum::meta::part::RecordPart;
use piculet_quorum::meta::{Damage, PartRecord, PartRow, SegmentEnd, SegmentRecord, SegmentState, Versioned};
use piculet_quorum::producers::Producers;
use piculet_storage::part::{self, PART_ENCODER};
use piculet_storage::{EncodedPart, ObjectError, PartError, PartHeader, Run};
use tokio::time::Instant;

/// A part to be uploaded, with what was known of the segment when it was taken.
pub(super) struct Upload {
    pub(super) record: Versioned<SegmentRecord>,
    row: PartRow,
    run: Run,
    /// The table of producers before the part, when this node has made the part before it.
    producers: Option<Producers>,
}

/// Why a part was not uploaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// This node holds something else than what the metadata have.
    #[error(
        "the chain at index {at} is {mine} in this node's buffer and {recorded} in the metadata; nothing was uploaded. Keep the buffer, and find out which is right"
    )]
    Chain { at: Index, mine: Chain, recorded: Chain },
    /// What this node holds is not sound.
    #[error("{0}; nothing was uploaded: this node's memory is damaged, take it out of service")]
    Encode(#[from] PartError),
    /// The store failed.
    #[error(transparent)]
    Put(#[from] ObjectError),
    /// The metadata store failed.
    #[error(transparent)]
    Record(#[from] MetaError),
    /// The part was not recorded, and nothing shows why.
    #[error(
        "the part from index {first} on was not recorded, and the metadata have not changed since they were read"
    )]
    Unrecorded { first: Index },
    /// The records of the segment and its parts are damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The records contradict each other.
    #[error("{0}; nothing was uploaded")]
    Producers(TableError),
}

impl From<TableError> for UploadError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Meta(error) => Self::Record(error),
            TableError::Object(error) => Self::Put(error),
            error @ (TableError::Damaged { .. } | TableError::Restless) => Self::Producers(error),
        }
    }
}

impl Upload {
    /// The part that comes next, at most as long as a part should be. Called under the log's lock.
    pub(super) fn plan(core: &Core, local: &LocalSegment, from: Index, to: Index) -> Option<Self> {
        // Where a loss begins is not always known to whoever says how far to go.
        let to = local.record.value.kept().map_or(to, |kept| to.min(kept));
        let bytes = core.config.flush.options().bytes.min(PART_BYTES_MAX);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let run = local.buffer.read(from, to, bytes).filter(|_| local.row.archived() == from)?;
        let producers =
            local.producers.as_ref().filter(|(at, _)| *at == from).map(|(_, table)| table.clone());
        Some(Self { record: local.record.clone(), row: local.row.clone(), run, producers })
    }

    /// Uploads and records it. When somebody else was faster, that is as good. False when it must
    /// wait for a segment before this one to be archived.
    pub(super) async fn run(
        mut self,
        core: &Core,
        log: LogId,
        number: SegmentNumber,
    ) -> Result<bool, UploadError> {
        self.check_chains()?;
        let begun = Instant::now();
        let Run { first, before, end, end_chain, .. } = self.run;
        let segment = &self.record.value;
        let at = SegmentEnd { end, chain: end_chain.chain, last_timestamp: end_chain.last_timestamp };
        let header = PartHeader {
            cluster: core.cluster,
            place: Place { log, segment: number, epoch: segment.epoch },
            level: segment.level,
            base: segment.base,
            first,
            before,
            at,
            skip: false,
        };
        let name = header.name();
        let producers = match self.producers_before(core, log, number).await {
            Ok(producers) => producers,
            // The part before has gone with its segment, or what is here is out of date otherwise.
            Err(_) if !self.is_current(core, log, number) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let Some(producers) = producers else { return Ok(!self.is_current(core, log, number)) };
        let encoded = encode(header, producers, self.run.pieces.clone()).await?;
        if !self.is_current(core, log, number) {
            // Somebody else was faster, or the log was deleted: there is nothing to put any more.
            return Ok(true);
        }
        core.objects.put_part(&name, &encoded).await?;
        core.store_health.works();
        let record = PartRecord { at, bytes: encoded.bytes, encoder: PART_ENCODER, skip: false };
        if self.record(core, log, number, &record).await? {
            keep_producers(core, log, number, (end, encoded.producers));
            metrics::uploaded(encoded.bytes, begun.elapsed());
            tracing::debug!(part = %name, bytes = encoded.bytes, "archived a part");
        } else if self.is_current(core, log, number) {
            return Err(UploadError::Unrecorded { first });
        }
        Ok(true)
    }

    /// The table of producers before the part; none while it cannot be told.
    async fn producers_before(
        &mut self,
        core: &Core,
        log: LogId,
        number: SegmentNumber,
    ) -> Result<Option<Producers>, TableError> {
        if let Some(known) = self.producers.take() {
            return Ok(Some(known));
        }
        producers::before_part(core, log, number, &self.row).await
    }

    /// Whether the segment is still as it was when the part was taken.
    fn is_current(&self, core: &Core, log: LogId, number: SegmentNumber) -> bool {
        let Some(log) = core.logs.get(log) else { return false };
        let state = log.lock();
        state.segments.get(&number).is_some_and(|now| now.row == self.row && now.record == self.record)
    }

    /// Whether this node's chain is the one that the metadata have, wherever they have one.
    fn check_chains(&self) -> Result<(), UploadError> {
        let segment = &self.record.value;
        let archived = self.row.end(segment);
        let same = |mine: BatchEnd, recorded: SegmentEnd| {
            if (mine.chain, mine.last_timestamp) == (recorded.chain, recorded.last_timestamp) {
                return Ok(());
            }
            Err(UploadError::Chain { at: recorded.end, mine: mine.chain, recorded: recorded.chain })
        };
        same(self.run.before, archived)?;
        match segment.state.end().filter(|at| at.end == self.run.end) {
            Some(end) => same(self.run.end_chain, *end),
            None => Ok(()),
        }
    }

    /// T3: the part counts from here on. True if it was this node that recorded it.
    async fn record(
        &self,
        core: &Core,
        log: LogId,
        number: SegmentNumber,
        part: &PartRecord,
    ) -> Result<bool, MetaError> {
        let (read, before, first) = (self.record.clone(), self.row.last(), self.run.first);
        let t3 = RecordPart { log, segment: number, read, before, first, part: part.clone() };
        let Some(revision) = settle(core, log, number, &t3.txn()).await? else { return Ok(false) };
        // Taken in at once, so that memory is freed without waiting for the watch.
        let (mut row, mut record) = (self.row.clone(), self.record.clone());
        let connected = extend(&mut row, first, &Versioned { revision, value: part.clone() });
        assert!(connected, "a part that was recorded continues the row");
        match &record.value.state {
            SegmentState::Sealed(seal) if seal.at.end == part.at.end => {
                let state = SegmentState::Archived(seal.at);
                record = Versioned { revision, value: SegmentRecord { state, ..record.value } };
            }
            _ => {}
        }
        core.learn_segment(made_at(revision), log, number, &record, row);
        Ok(true)
    }
}

/// The next part continues this table, if this node makes it.
fn keep_producers(core: &Core, log: LogId, number: SegmentNumber, producers: (Index, Producers)) {
    if let Some(log) = core.logs.get(log)
        && let Some(local) = log.lock().segments.get_mut(&number)
    {
        local.producers = Some(producers);
    }
}

/// Encodes a part on a thread where checksums over megabytes delay nobody.
async fn encode(
    header: PartHeader,
    producers: Producers,
    pieces: Vec<bytes::Bytes>,
) -> Result<EncodedPart, PartError> {
    let encoding = tokio::task::spawn_blocking(move || part::encode(&header, producers, &pieces));
    match encoding.await {
        Ok(encoded) => encoded,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("the encoding is never aborted: {error}"),
        },
    }
}
