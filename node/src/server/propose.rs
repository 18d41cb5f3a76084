//! The metadata transactions that a node carries out for its clients, after it has checked that they
//! are sound.

#[cfg(test)]
mod tests;

use super::Shared;
use super::control::{damaged, existing, refusal};
use crate::peers::PeersError;
use piculet_quorum::ids::{LogId, LogName, Offset, SegmentNumber};
use piculet_quorum::meta::delete::DeleteLog;
use piculet_quorum::meta::seal::{SealOne, Unsound};
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::trim::TrimLog;
use piculet_quorum::meta::{Key, LogRecord, Range, SegmentState, Snapshot};
use piculet_quorum::replica::ChainAt;
use piculet_quorum::wire::message::{Proposal, Refusal, Response};
use std::sync::Arc;

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
    let sealed = match proposal {
        Proposal::Seal(seal) => seal.seal.as_ref(),
        Proposal::Create(_) | Proposal::TakeOver(_) | Proposal::Trim(_) | Proposal::Delete(_) => None,
    };
    let parts = sealed.map(|one| Range::Parts(proposal.log(), one.segment));
    let now = meta.read(&keys, parts.as_slice()).await.map_err(refusal)?;
    match proposal {
        Proposal::Create(_) => {}
        Proposal::TakeOver(TakeOver { log, read, .. }) | Proposal::Delete(DeleteLog { log, read, .. }) => {
            let current = now.log(&Key::Log(*log));
            if current.is_some_and(|log| log.revision == read.revision && log != *read) {
                return Err(Refusal::Invalid(format!("the record of log {log} is not as proposed")));
            }
            // The compares would hold: a tombstone is a record like any other.
            if read.value.deleted.is_some() {
                return Err(Refusal::Deleted);
            }
        }
        Proposal::Trim(trim) => check_trim(shared, trim, &now).await?,
        Proposal::Seal(seal) if seal.read.value.deleted.is_some() => return Err(Refusal::Deleted),
        Proposal::Seal(seal) => seal.check(&now).map_err(unsound)?,
    }
    if let Some(one) = sealed {
        check_seal(shared, proposal.log(), one, &now)?;
    }
    meta.commit(&txn).await.map(Response::Outcome).map_err(refusal)
}

/// Checks a seal against the parts that there are, and against what this node holds itself.
fn check_seal(shared: &Shared, log: LogId, one: &SealOne, now: &Snapshot) -> Result<(), Refusal> {
    let archived = now.row(log, one.segment).map_err(|first| damaged(log, one.segment, first))?.archived();
    if archived < one.archived {
        let why = format!("segment {} is archived up to {archived}, not {}", one.segment, one.archived);
        return Err(Refusal::Invalid(why));
    }
    let Some(slot) = shared.core.logs.get(log) else { return Ok(()) };
    let here = slot.lock().segments.get(&one.segment).map(|local| local.buffer.chain_at(one.at.end));
    match here {
        Some(ChainAt::Boundary(chain)) if chain != one.at.chain => {
            Err(Refusal::Conflict { index: one.at.end })
        }
        Some(ChainAt::Inside) => Err(Refusal::Conflict { index: one.at.end }),
        _ => Ok(()),
    }
}

/// Checks that a log is only trimmed further, and not beyond what can be read of it.
async fn check_trim(shared: &Shared, trim: &TrimLog, now: &Snapshot) -> Result<(), Refusal> {
    let record = existing(now, &Key::Log(trim.log)).ok_or(Refusal::Deleted)?.value;
    let current = now.trim(&Key::Trim(trim.log));
    let quoted = current.is_none_or(|now| now.revision != trim.read.revision || now == trim.read);
    if !quoted || trim.to <= trim.read.value.trim_offset {
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
    let ranges = [Range::Parts(log, newest)];
    let now = shared.core.meta.read(std::slice::from_ref(&key), &ranges).await.map_err(refusal)?;
    // Trimmed and deleted: then everything was visible.
    let Some(segment) = now.segment(&key).map(|segment| segment.value) else { return Ok(record.next_base) };
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
    Ok(segment.base.plus(index.0))
}

/// The log's tail as its members have it. This node may not be one of them, or have heard less of
/// what is committed than the client.
async fn visible_tail(shared: &Shared, name: &LogName) -> Result<Offset, Refusal> {
    let (peers, log) = (Arc::clone(&shared.peers), name.clone());
    let asked = shared
        .background
        .spawn(async move { Ok::<_, PeersError>(peers.client().await?.check_tail(&log).await?) });
    let unavailable = |why: String| {
        Refusal::Unavailable(format!(
            "the tail of log {name} cannot be found out, so it is not trimmed: {why}"
        ))
    };
    match asked.await {
        Ok(Ok(tail)) => Ok(tail),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(error) => Err(unavailable(format!("the node is stopping: {error}"))),
    }
}
