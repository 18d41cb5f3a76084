//! A log's table of producers, read from the end of its newest part: what the next part continues,
//! and what a writer begins with.
//!
//! The table is a fold over all entries of the log, so the first part of a segment can be made only
//! once the segment before it is archived. Most logs have no producers, and their uploads need not
//! wait: whoever appends the first entry of a producer has the log's record of settings say so
//! before. A (linearizable) read that finds it silent when a segment exists shows that nothing before
//! that segment is of a producer, and so that the table there is empty.

use crate::core::Core;
use piculet_meta::MetaError;
use piculet_quorum::ids::{Index, LogId, SegmentNumber};
use piculet_quorum::meta::{
    ConfigRecord, Key, PartRecord, PartRow, Range, Record, Snapshot, Txn, TxnOutcome, Versioned,
};
use piculet_quorum::producers::Producers;
use piculet_quorum::wire::message::ProducersFrom;
use piculet_storage::{ObjectError, PartName};

/// How often a read starts over because the log changes under it.
const ATTEMPTS: u32 = 16;

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The metadata store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The object store failed, or the part is damaged.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The records contradict each other.
    #[error(
        "metadata are damaged: part at {first} of segment {segment} of log {log} does not end behind its start"
    )]
    Damaged { log: LogId, segment: SegmentNumber, first: Index },
    /// The log has changed at every attempt.
    #[error("the log changes all the time: not read within {ATTEMPTS} attempts; try again")]
    Restless,
}

/// The table at the end of a row of parts that is not empty.
async fn at_end_of(
    core: &Core,
    log: LogId,
    segment: SegmentNumber,
    first: Index,
    part: &PartRecord,
) -> Result<Producers, ObjectError> {
    let (end, chain) = (part.at.end, part.at.chain);
    let name = PartName { log, segment, first, end, chain, encoder: part.encoder, skip: part.skip };
    core.objects.get_producers(&name, part.bytes).await
}

/// The table where a row of parts of a segment ends, whether there are any or not. None as for
/// [`before_segment`].
pub(crate) async fn before_part(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    row: &PartRow,
) -> Result<Option<Producers>, TableError> {
    match row.parts.last() {
        None => before_segment(core, log, number).await,
        Some((first, part)) => Ok(Some(at_end_of(core, log, number, *first, &part.value).await?)),
    }
}

/// The table before the first entry of a segment that this node holds. None while that cannot be
/// told: a segment before it is not archived yet, or this one has its first part already, or is gone.
async fn before_segment(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
) -> Result<Option<Producers>, TableError> {
    let keys = [Key::Config(log), Key::First(log)];
    // That no part of it is there is seen at the same moment as the first segment: a part before it
    // would only have been deleted when a newer one was there.
    let now = core.meta.read(&keys, &[Range::Parts(log, number)]).await?;
    let Some(config) = config(&now, log) else { return Ok(None) };
    if !row(&now, log, number)?.parts.is_empty() {
        return Ok(None);
    }
    if !config.value.producers {
        return Ok(Some(Producers::default()));
    }
    let mut at = number;
    while at > first_segment(&now, log) {
        at = SegmentNumber(at.0 - 1);
        let key = Key::Segment(log, at);
        let now = core.meta.read(std::slice::from_ref(&key), &[Range::Parts(log, at)]).await?;
        let row = row(&now, log, at)?;
        let archived = now.segment(&key).and_then(|segment| {
            let end = segment.value.state.end()?.end;
            Some(row.archived() >= end)
        });
        if archived != Some(true) {
            return Ok(None);
        }
        if let Some((first, part)) = row.parts.last() {
            return Ok(Some(at_end_of(core, log, at, *first, &part.value).await?));
        }
    }
    Ok(Some(Producers::default()))
}

/// The table that a writer begins with, which from now on may append entries of producers. None when
/// there is no such log.
pub(crate) async fn for_writer(core: &Core, log: LogId) -> Result<Option<ProducersFrom>, TableError> {
    for _ in 0..ATTEMPTS {
        let keys = [Key::Log(log), Key::Config(log), Key::First(log)];
        let now = core.meta.read(&keys, &[]).await?;
        let record = now.log(&keys[0]).filter(|record| record.value.deleted.is_none());
        let Some((record, config)) = record.zip(config(&now, log)) else { return Ok(None) };
        if !config.value.producers {
            // Whoever else does the same does no harm: it is never taken back.
            let value = ConfigRecord { producers: true, ..config.value };
            let txn = Txn::default().when(keys[1].clone(), config.revision);
            match core.meta.commit(&txn.put(keys[1].clone(), Record::Config(value))).await? {
                TxnOutcome::Applied(_) => {
                    // What the writer sends next may well be here before the node's watch shows this.
                    core.producers.lock().insert(log);
                    return Ok(Some(ProducersFrom { from: None, table: Vec::new() }));
                }
                TxnOutcome::Refused => continue,
            }
        }
        let first = first_segment(&now, log);
        if let Some(found) = newest(core, log, first, record.value.next_segment).await? {
            return Ok(Some(found));
        }
    }
    Err(TableError::Restless)
}

/// The table at the end of the newest part, if there is one. None when a segment was deleted
/// meanwhile.
async fn newest(
    core: &Core,
    log: LogId,
    first_segment: SegmentNumber,
    next_segment: SegmentNumber,
) -> Result<Option<ProducersFrom>, TableError> {
    let mut at = next_segment;
    while at > first_segment {
        at = SegmentNumber(at.0 - 1);
        let key = Key::Segment(log, at);
        let now = core.meta.read(std::slice::from_ref(&key), &[Range::Parts(log, at)]).await?;
        if now.segment(&key).is_none() {
            return Ok(None);
        }
        let row = row(&now, log, at)?;
        if let Some((first, part)) = row.parts.last() {
            let table = match at_end_of(core, log, at, *first, &part.value).await {
                Ok(table) => table.encode(),
                // Deleted with its segment, as a newer one is there.
                Err(ObjectError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            return Ok(Some(ProducersFrom { from: Some((at, row.archived())), table }));
        }
    }
    Ok(Some(ProducersFrom { from: Some((first_segment, Index(0))), table: Vec::new() }))
}

fn row(now: &Snapshot, log: LogId, segment: SegmentNumber) -> Result<PartRow, TableError> {
    now.row(log, segment).map_err(|first| TableError::Damaged { log, segment, first })
}

fn first_segment(now: &Snapshot, log: LogId) -> SegmentNumber {
    now.first(&Key::First(log)).map(|first| first.value.first_segment).unwrap_or_default()
}

fn config(now: &Snapshot, log: LogId) -> Option<Versioned<ConfigRecord>> {
    match now.records.get(&Key::Config(log))? {
        Versioned { revision, value: Record::Config(value) } => {
            Some(Versioned { revision: *revision, value: value.clone() })
        }
        _ => None,
    }
}
