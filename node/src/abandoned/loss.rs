//! Sealed segments that wait for holders who are gone for good: what is lost of them is recorded, and
//! what stands for it in object storage uploaded, should nobody be left who holds anything.
//!
//! The decision, and what it rests on, is in [`piculet_quorum::meta::loss`].

use super::{NotRecovered, writer_gone};
use crate::archive;
use crate::core::Core;
use crate::logs::{LocalSegment, Log};
use crate::peers::Peers;
use piculet_client::Error;
use piculet_quorum::ids::{LogId, NodeId, SegmentNumber};
use piculet_quorum::meta::{Key, SegmentRecord, SegmentState};
use piculet_quorum::time::Span;
use std::collections::BTreeSet;

/// Notes the segments of a log that are held here, and that every holder of their end has forgotten,
/// as far as this node knows. While their writer is there, or was only just now, it repairs them.
pub(super) fn candidates(
    core: &Core,
    log: &Log,
    writer_timeout: Span,
    open: &mut BTreeSet<(LogId, SegmentNumber)>,
    lost: &mut BTreeSet<(LogId, SegmentNumber)>,
) {
    let mut state = log.lock();
    let now = core.clock.now();
    state.note_writers(now);
    let waiting: Vec<SegmentNumber> = state
        .segments
        .iter()
        .filter(|(number, local)| !state.replica.contradicted(**number) && is_stuck(core, local))
        .map(|(number, _)| *number)
        .collect();
    for number in waiting {
        open.insert((log.id, number));
        if state.writer_gone_since(number).is_some_and(|since| now.since(since) >= writer_timeout) {
            lost.insert((log.id, number));
        }
    }
}

/// Whether everybody who held a sealed segment whole has forgotten it, and this node is short of it.
fn is_stuck(core: &Core, local: &LocalSegment) -> bool {
    let record = &local.record.value;
    let (SegmentState::Sealed(seal), Some(kept)) = (&record.state, record.kept()) else { return false };
    let lives = core.lives.lock();
    let gone = |node: &NodeId| {
        let mut members = record.ensemble.iter();
        members.any(|member| member.node == *node && lives.is_reborn(record.level, member))
    };
    local.row.archived() < kept && local.buffer.tail() < kept && seal.holders.iter().all(gone)
}

/// Looks after what is lost of one segment.
pub(super) async fn attempt(
    core: &Core,
    peers: &Peers,
    (log, number): (LogId, SegmentNumber),
    writer_timeout: Span,
) -> Result<(), NotRecovered> {
    let (key, log_key) = (Key::Segment(log, number), Key::Log(log));
    let now = core.meta.read(&[key.clone(), log_key.clone()], &[]).await?;
    let Some(segment) = now.segment(&key).map(|found| found.value) else { return forget(core, log, number) };
    if !matches!(segment.state, SegmentState::Sealed(_)) {
        return forget(core, log, number);
    }
    let Some(epoch) = now.log(&log_key).map(|record| record.value.epoch) else {
        return forget(core, log, number);
    };
    // In the segment's own epoch its writer may still repair it, and a new epoch would depose it.
    if epoch <= segment.epoch {
        writer_gone(core, peers, (log, number, epoch), &segment.ensemble, writer_timeout).await?;
    }
    let client = peers.client().await?;
    match client.record_loss(log, number).await {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(Error::Lost { nodes, .. }) => return Err(NotRecovered::Lost(nodes)),
        Err(error) => return Err(NotRecovered::Loss(error)),
    }
    if segment.loss.is_some() && is_orphan(core, &segment).await? {
        // When it fails that is said, and it is tried again.
        archive::complete(core, log, number).await;
    }
    Ok(())
}

/// The segment needs nobody any more.
fn forget(core: &Core, log: LogId, number: SegmentNumber) -> Result<(), NotRecovered> {
    core.orphans.lock().remove(&(log, number));
    Ok(())
}

/// Whether no member of a segment is left that holds anything of it, and would upload what is missing.
async fn is_orphan(core: &Core, segment: &SegmentRecord) -> Result<bool, NotRecovered> {
    let key = |node: &NodeId| Key::Incarnation(node.clone(), segment.level);
    let keys: Vec<Key> = segment.ensemble.iter().map(|member| key(&member.node)).collect();
    let now = core.meta.read(&keys, &[]).await?;
    Ok(segment.ensemble.iter().all(|member| {
        now.incarnation(&key(&member.node)).is_some_and(|now| now.value.incarnation > member.incarnation)
    }))
}
