//! The metadata transactions that a node carries out for its clients, after it has checked that they
//! are sound.

#[cfg(test)]
mod tests;

use super::Shared;
use super::control::{damaged, existing, refusal};
use crate::cleanup::{TOMBSTONE_GRACE, wall_clock};
use crate::peers::PeersError;
use piculet_quorum::ids::{Index, LogId, LogName, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::delete::DeleteLog;
use piculet_quorum::meta::part::RecordPart;
use piculet_quorum::meta::seal::{SealOne, Unsound};
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::trim::TrimLog;
use piculet_quorum::meta::{
    Key, LogRecord, PartRecord, Range, SegmentEnd, SegmentState, Snapshot, TxnOutcome,
};
use piculet_quorum::replica::ChainAt;
use piculet_quorum::wire::message::{Proposal, Refusal, Response};
use piculet_storage::limits::PART_OBJECT_BYTES_MAX;
use piculet_storage::part::PART_ENCODER;
use piculet_storage::{ObjectError, PartName};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// So many tails are searched for at a time for trims, each of which may take as long as a read.
static SEARCHES: Semaphore = Semaphore::const_new(4);
/// A segment behind so many others is only taken to be readable when none of these is in the way.
const SEGMENTS_BEFORE: u64 = 16;

/// Carries a client's transaction out, with the client's own compares; before that it checks that
/// the proposal is sound, and true of the records that it names.
pub(super) async fn propose(shared: &Shared, proposal: &Proposal) -> Result<Response, Refusal> {
    let meta = &shared.core.meta;
    let unsound = |unsound: Unsound| Refusal::Invalid(unsound.to_string());
    proposal.check_range().map_err(unsound)?;
    let txn = proposal.txn();
    let mut keys: Vec<Key> = txn.compares.iter().map(|(key, _)| key.clone()).collect();
    if let Proposal::Trim(trim) = proposal {
        keys.push(Key::Log(trim.log));
    }
    if let Proposal::Configure(configure) = proposal {
        keys.push(Key::Log(configure.log));
    }
    if let Proposal::RecordPart(part) = proposal {
        keys.push(Key::Log(part.log));
    }
    let rests = proposal.rests_on_parts();
    let parts = rests.map(|(log, segment, _)| Range::Parts(log, segment));
    let now = meta.read(&keys, parts.as_slice()).await.map_err(refusal)?;
    // What quotes another revision than the current one cannot be checked, and must not be tried: by
    // then the revision that is quoted may be there, with another record.
    if !txn.holds(&now) {
        return Ok(Response::Outcome(TxnOutcome::Refused));
    }
    match proposal {
        Proposal::Create(_) => {}
        Proposal::TakeOver(TakeOver { log, read, .. }) | Proposal::Delete(DeleteLog { log, read, .. }) => {
            let current = now.log(&Key::Log(*log));
            if current.as_ref() != Some(read) {
                return Err(Refusal::Invalid(format!("the record of log {log} is not as proposed")));
            }
            // The compares would hold: a tombstone is a record like any other.
            if read.value.deleted.is_some() {
                return Err(Refusal::Deleted);
            }
            if let Proposal::Delete(delete) = proposal {
                check_clock(delete.at, wall_clock())?;
            }
        }
        Proposal::Trim(trim) => check_trim(shared, trim, &now).await?,
        Proposal::Seal(seal) if seal.read.value.deleted.is_some() => return Err(Refusal::Deleted),
        Proposal::Seal(seal) => seal.check(&now).map_err(unsound)?,
        Proposal::RecordLoss(loss) if loss.read.value.deleted.is_some() => return Err(Refusal::Deleted),
        Proposal::RecordLoss(loss) => loss.check(&now).map_err(unsound)?,
        Proposal::Configure(configure) => {
            existing(&now, &Key::Log(configure.log)).ok_or(Refusal::Deleted)?;
            configure.check(&now).map_err(unsound)?;
        }
        Proposal::DeclareLost(declare) => declare.check(&now).map_err(unsound)?,
        Proposal::RecordPart(part) => {
            let record = existing(&now, &Key::Log(part.log)).ok_or(Refusal::Deleted)?.value;
            if !part.check(&record, &now).map_err(unsound)? {
                return Ok(Response::Outcome(TxnOutcome::Refused));
            }
            check_part(shared, part).await?;
        }
    }
    if let Some((log, segment, archived)) = rests {
        check_archived(log, segment, archived, &now)?;
    }
    if let Proposal::Seal(seal) = proposal
        && let Some(one) = &seal.seal
    {
        check_chain(shared, seal.log, one)?;
    }
    let outcome = meta.commit(&txn).await.map_err(refusal)?;
    say(proposal, outcome);
    Ok(Response::Outcome(outcome))
}

/// Checks what a writer says of its part. Of a segment's first one also that it is where this node
/// reads parts: a writer that was given another store would acknowledge what nobody can read.
async fn check_part(shared: &Shared, record: &RecordPart) -> Result<(), Refusal> {
    let RecordPart { log, segment, first, part, .. } = record;
    if part.encoder != PART_ENCODER || !(1..=PART_OBJECT_BYTES_MAX).contains(&part.bytes) {
        let PartRecord { encoder, bytes, .. } = part;
        let expected = format!("expected encoder {PART_ENCODER} and 1 to {PART_OBJECT_BYTES_MAX} bytes");
        return Err(Refusal::Invalid(format!("a part of encoder {encoder} and {bytes} bytes: {expected}")));
    }
    if *first > Index(0) {
        return Ok(());
    }
    let SegmentEnd { end, chain, .. } = part.at;
    let encoder = part.encoder;
    let name = PartName { log: *log, segment: *segment, first: *first, end, chain, encoder, skip: false };
    let (core, bytes) = (Arc::clone(&shared.core), part.bytes);
    let found = shared.background.spawn(async move { core.objects.get_producers(&name, bytes).await });
    match found.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error @ ObjectError::NotFound { .. })) => Err(Refusal::Invalid(format!(
            "{error}, the object store of the nodes: give the writer the same one"
        ))),
        Ok(Err(error)) if error.is_retryable() => Err(Refusal::Unavailable(error.to_string())),
        Ok(Err(error)) => Err(Refusal::Invalid(error.to_string())),
        Err(error) => Err(Refusal::Unavailable(format!("the node is stopping: {error}"))),
    }
}

/// What an operator must find in the log of a node.
fn say(proposal: &Proposal, outcome: TxnOutcome) {
    if outcome == TxnOutcome::Refused {
        return;
    }
    match proposal {
        Proposal::Seal(seal) => {
            if let Some(one) = seal.seal.as_ref().filter(|one| one.allowed_loss.is_some()) {
                tracing::error!(
                    log = %seal.log, segment = %one.segment, from = %one.kept(),
                    "too many members have forgotten a segment: it was sealed at what is left of it, and \
                     acknowledged entries behind that may be lost, as the log's settings allow"
                );
            }
        }
        Proposal::RecordLoss(loss) => {
            let (log, segment, from) = (loss.log, loss.segment, loss.from().unwrap_or_default());
            if loss.allowed.is_some() {
                tracing::error!(
                    %log, %segment, %from,
                    "too many members have forgotten a segment: acknowledged entries from this index on may be \
                     lost, as the log's settings allow"
                );
            } else {
                tracing::warn!(
                    %log, %segment, %from,
                    "the only holder of a segment's last entries is gone: none of them was ever acknowledged, and \
                     they are passed over"
                );
            }
        }
        Proposal::DeclareLost(declare) => {
            let (node, level, incarnation) = (&declare.node, declare.level, declare.read.value);
            tracing::warn!(%node, %level, %incarnation, "an operator declared what a node held to be lost");
        }
        _ => {}
    }
}

/// Checks the time of a deletion: for how long the tombstone stays is counted from it.
fn check_clock(at: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if u128::from(at.0.abs_diff(now.0)) <= TOMBSTONE_GRACE.as_millis() {
        return Ok(());
    }
    let why =
        format!("a deletion at {at} ms since 1970, while this node's clock is at {now}: set the clocks");
    Err(Refusal::Invalid(why))
}

/// Checks what a proposal says of a segment against the parts that there are.
fn check_archived(
    log: LogId,
    segment: SegmentNumber,
    proposed: Index,
    now: &Snapshot,
) -> Result<(), Refusal> {
    let archived = now.row(log, segment).map_err(|first| damaged(log, segment, first))?.archived();
    if archived < proposed {
        let why = format!("segment {segment} is archived up to {archived}, not {proposed}");
        return Err(Refusal::Invalid(why));
    }
    Ok(())
}

/// Checks a seal against what this node holds itself.
fn check_chain(shared: &Shared, log: LogId, one: &SealOne) -> Result<(), Refusal> {
    let Some(slot) = shared.core.logs.get(log) else { return Ok(()) };
    // Where a loss begins the chain is that of the end: nothing follows.
    let index = one.kept();
    let here = slot.lock().segments.get(&one.segment).map(|local| local.buffer.chain_at(index));
    match here {
        Some(ChainAt::Boundary(chain)) if chain != one.at.chain => Err(Refusal::Conflict { index }),
        Some(ChainAt::Inside) => Err(Refusal::Conflict { index }),
        _ => Ok(()),
    }
}

/// Checks that a log is only trimmed further, and not beyond what can be read of it.
async fn check_trim(shared: &Shared, trim: &TrimLog, now: &Snapshot) -> Result<(), Refusal> {
    let record = existing(now, &Key::Log(trim.log)).ok_or(Refusal::Deleted)?.value;
    let current = now.trim(&Key::Trim(trim.log));
    if current.as_ref() != Some(&trim.read) || trim.to <= trim.read.value.trim_offset {
        let why = format!("log {} is trimmed up to {}", trim.log, trim.read.value.trim_offset);
        return Err(Refusal::Invalid(format!("{why}: trimming it up to {} is not sound", trim.to)));
    }
    if trim.to <= known_visible(shared, trim.log, &record).await? {
        return Ok(());
    }
    let tail = visible_tail(shared, &record.name).await?;
    if trim.to <= tail {
        return Ok(());
    }
    let (log, to) = (trim.log, trim.to);
    let why =
        format!("log {log} cannot be trimmed up to {to}: only what lies before its tail, {tail}, can be");
    Err(Refusal::Invalid(why))
}

/// An offset up to which a log can be read for certain: by its records, and by what this node has
/// heard to be committed.
async fn known_visible(shared: &Shared, log: LogId, record: &LogRecord) -> Result<Offset, Refusal> {
    let Some(newest) = record.next_segment.0.checked_sub(1).map(SegmentNumber) else { return Ok(Offset(0)) };
    let key = Key::Segment(log, newest);
    let before = SegmentNumber(newest.0.saturating_sub(SEGMENTS_BEFORE));
    let ranges = [Range::Parts(log, newest), Range::Segments(log, before)];
    let now = shared.core.meta.read(std::slice::from_ref(&key), &ranges).await.map_err(refusal)?;
    // Trimmed and deleted: then everything was visible.
    let Some(segment) = now.segment(&key).map(|segment| segment.value) else { return Ok(record.next_base) };
    // What lies behind an end that is not settled cannot be read yet, committed or not.
    let mut older = (before.0..newest.0).map(|number| now.segment(&Key::Segment(log, SegmentNumber(number))));
    if older.any(|older| older.is_some_and(|older| !older.value.settled())) {
        return Ok(Offset(0));
    }
    let archived = now.row(log, newest).map_err(|first| damaged(log, newest, first))?.archived();
    let index = match &segment.state {
        SegmentState::Archived(at) => at.end,
        SegmentState::Sealed(seal) if seal.settled => seal.at.end,
        SegmentState::Sealed(_) => archived,
        SegmentState::Open => {
            let slot = shared.core.logs.get(log);
            let marks = slot.and_then(|slot| slot.lock().replica.marks(newest));
            marks.map_or(archived, |marks| marks.commit.max(archived))
        }
    };
    Offset::checked_of(segment.base, index).ok_or_else(|| {
        let what = format!("segment {newest} of log {log} starts at {}, {index} is too far", segment.base);
        Refusal::Unavailable(format!("metadata are damaged: {what}"))
    })
}

/// The log's tail as its members have it. This node may not be one of them, or have heard less of
/// what is committed than the client.
async fn visible_tail(shared: &Shared, name: &LogName) -> Result<Offset, Refusal> {
    let (peers, log) = (Arc::clone(&shared.peers), name.clone());
    let search = async move { Ok::<_, PeersError>(peers.client().await?.check_tail(&log).await?) };
    let found = match owned(&shared.background, &SEARCHES, search).await {
        Ok(Ok(tail)) => return Ok(tail),
        Ok(Err(error)) => error.to_string(),
        Err(why) => why,
    };
    let why = format!("the tail of log {name} cannot be found out, so it is not trimmed: {found}");
    Err(Refusal::Unavailable(why))
}

/// Runs `work` elsewhere, if `slots` has one for it. It ends with whoever waits for it.
async fn owned<T: Send + 'static>(
    elsewhere: &Handle,
    slots: &Semaphore,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, String> {
    let Ok(_slot) = slots.try_acquire() else { return Err("too many are looked for already".to_owned()) };
    let mut tasks = JoinSet::new();
    tasks.spawn_on(work, elsewhere);
    match tasks.join_next().await {
        Some(Ok(done)) => Ok(done),
        Some(Err(error)) => Err(format!("the node is stopping: {error}")),
        None => unreachable!("one was spawned"),
    }
}
