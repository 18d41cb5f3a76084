//! The node's view of the metadata: one watch on everything, of which it keeps what concerns it.

#[cfg(test)]
mod tests;

use crate::cleanup;
use crate::core::Core;
use crate::membership::{self, MembershipError};
use piculet_meta::{Watch, WatchEvent};
use piculet_quorum::ids::{Epoch, Index, LogId, Nonce, Offset, SegmentNumber};
use piculet_quorum::meta::{
    Key, PartRecord, Range, Record, SegmentRecord, SegmentState, Snapshot, StoreRevision, Versioned,
};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

/// Pause before a watch that could not be started is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Why a node must stop because of what the metadata show.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Its life is over.
    #[error(transparent)]
    Life(#[from] MembershipError),
    /// The metadata are another cluster's.
    #[error(
        "the metadata were of cluster {mine} and now are of {}: they were wiped or rebuilt, so this node stops; restore them, or start the node again as part of the new cluster",
        .found.map_or_else(|| "none".to_owned(), |found| found.to_string())
    )]
    Cluster {
        /// The cluster that the node joined.
        mine: Nonce,
        /// What the metadata have now.
        found: Option<Nonce>,
    },
    /// The metadata went back in time.
    #[error(
        "the metadata went back from revision {} to {}: an old backup was restored, so this node stops before it forgets entries because of that; start it again when the restored metadata are what you want",
        .seen.0, .found.0
    )]
    WentBack {
        /// The latest revision seen.
        seen: StoreRevision,
        /// What a later read shows.
        found: StoreRevision,
    },
    /// A log's epoch went back.
    #[error(
        "log {log} was fenced here in epoch {fence}, and in the metadata it is in epoch {found}, which is older: an old backup was restored, so this node stops before it forgets entries because of that; restore the metadata that belong to this cluster, then start it again"
    )]
    Fenced {
        /// The log.
        log: LogId,
        /// The epoch of the fence.
        fence: Epoch,
        /// What a later read shows.
        found: Epoch,
    },
}

/// Follows the metadata for as long as the node lives.
///
/// # Errors
/// When what they show means that the node must stop.
pub async fn follow(core: &Core) -> Result<Infallible, ViewError> {
    let mut watch = start(core).await;
    loop {
        match watch.next().await {
            WatchEvent::Reset(snapshot) => reset(core, &snapshot).await?,
            WatchEvent::Changed { at, changes } => {
                let unconnected = changed(core, at, changes)?;
                for (log, number) in unconnected {
                    tracing::warn!(%log, segment = %number, "a part does not continue what is known: reading the segment again");
                    if let Err(error) = core.refresh_segment(log, number).await {
                        core.meta_failed("to read a segment again", &error);
                    }
                }
            }
        }
        core.meta_health.works();
    }
}

async fn start(core: &Core) -> Watch {
    loop {
        match core.meta.watch(Range::All).await {
            Ok(watch) => return watch,
            Err(error) => core.meta_failed("to watch the metadata", &error),
        }
        sleep(RETRY).await;
    }
}

async fn reset(core: &Core, snapshot: &Snapshot) -> Result<(), ViewError> {
    let seen = core.applied();
    if snapshot.at < seen {
        return Err(ViewError::WentBack { seen, found: snapshot.at });
    }
    membership::check_lives(core, snapshot)?;
    check_cluster(core, snapshot.records.get(&Key::Cluster).map(|found| &found.value))?;
    check_fences(core, snapshot).await?;
    learn_lives(core, snapshot);
    core.learn_everything(snapshot);
    core.cleanup.learn_everything(snapshot, cleanup::wall_clock());
    core.set_applied(snapshot.at);
    core.readiness.informed.store(true, Ordering::Release);
    core.archive_now.notify_one();
    Ok(())
}

/// Takes in who lives in which life, and of which segments something is lost.
fn learn_lives(core: &Core, snapshot: &Snapshot) {
    let mut orphans = BTreeSet::new();
    for (key, record) in &snapshot.records {
        if let (Key::Segment(log, number), Record::Segment(segment)) = (key, &record.value)
            && waits_for_skip(segment)
        {
            orphans.insert((*log, *number));
        }
    }
    core.lives.lock().reset(core.clock.now(), snapshot);
    *core.orphans.lock() = orphans;
}

/// Takes in what one change shows of a node.
fn learn_life(core: &Core, key: &Key, record: Option<&Record>) {
    let mut lives = core.lives.lock();
    match (key, record) {
        (Key::Incarnation(node, level), Some(Record::Incarnation(life))) => {
            lives.begun(node, *level, life.incarnation);
        }
        (Key::Node(node), Some(_)) => lives.registered(node),
        (Key::Node(node), None) => lives.gone(core.clock.now(), node),
        _ => {}
    }
}

/// Whether something of a segment is lost, and it is not archived whole yet.
fn waits_for_skip(segment: &SegmentRecord) -> bool {
    segment.loss.is_some() && matches!(segment.state, SegmentState::Sealed(_))
}

fn check_cluster(core: &Core, found: Option<&Record>) -> Result<(), ViewError> {
    let found = match found {
        Some(Record::Cluster(record)) => Some(record.cluster),
        _ => None,
    };
    if found == Some(core.cluster) {
        return Ok(());
    }
    Err(ViewError::Cluster { mine: core.cluster, found })
}

/// Checks that no log was fenced here in a later epoch than the metadata have.
async fn check_fences(core: &Core, snapshot: &Snapshot) -> Result<(), ViewError> {
    for (log, fence) in core.fenced_beyond(snapshot) {
        // The fence may be younger than the snapshot. What is read from here on must show its epoch,
        // which was in the metadata before it fenced anything.
        let now = read_log(core, log).await;
        let alive = now.log(&Key::Log(log)).filter(|record| record.value.deleted.is_none());
        if let Some(found) = alive.map(|record| record.value.epoch).filter(|found| *found < fence) {
            return Err(ViewError::Fenced { log, fence, found });
        }
    }
    Ok(())
}

async fn read_log(core: &Core, log: LogId) -> Snapshot {
    loop {
        match core.meta.read(&[Key::Log(log)], &[]).await {
            Ok(snapshot) => return snapshot,
            Err(error) => core.meta_failed("to read a log that was fenced here", &error),
        }
        sleep(RETRY).await;
    }
}

/// What one transaction changed in one segment.
#[derive(Default)]
struct Change {
    record: Option<Versioned<SegmentRecord>>,
    parts: Vec<(Index, Versioned<PartRecord>)>,
}

/// Takes in what one transaction changed. Returns the segments that must be read again.
fn changed(
    core: &Core,
    at: StoreRevision,
    changes: Vec<(Key, Option<Versioned<Record>>)>,
) -> Result<Vec<(LogId, SegmentNumber)>, ViewError> {
    let mut segments: BTreeMap<(LogId, SegmentNumber), Change> = BTreeMap::new();
    for (key, versioned) in changes {
        learn_life(core, &key, versioned.as_ref().map(|versioned| &versioned.value));
        let (revision, record) = match versioned {
            Some(Versioned { revision, value }) => (revision, Some(value)),
            None => (Default::default(), None),
        };
        match (key, record) {
            (Key::Segment(log, number), Some(Record::Segment(value))) => {
                segments.entry((log, number)).or_default().record = Some(Versioned { revision, value });
            }
            (Key::Segment(log, number), None) => core.forget_segment(at, log, number),
            (Key::Part(log, number, first), Some(Record::Part(value))) => {
                let change = segments.entry((log, number)).or_default();
                change.parts.push((first, Versioned { revision, value }));
            }
            (Key::Log(log), Some(Record::Log(record))) => {
                core.learn_log(at, log, &record);
                if record.deleted.is_some() {
                    core.cleanup.deleted(log);
                }
            }
            (Key::Log(log), None) => {
                core.learn_deleted(at, log);
                core.cleanup.gone(log);
            }
            // One that was made with its log has trimmed nothing.
            (Key::Trim(log), Some(Record::Trim(trim))) if trim.trim_offset > Offset(0) => {
                core.cleanup.trimmed(log);
            }
            (Key::Flush(log, number), Some(Record::Flush(flush))) => {
                core.learn_uploader(at, log, number, Some((flush, revision)));
            }
            (Key::Flush(log, number), None) => {
                core.learn_uploader(at, log, number, None);
                core.archive_now.notify_one();
            }
            (Key::Incarnation(node, level), record) if node == core.id => {
                let found = match record {
                    Some(Record::Incarnation(record)) => Some(record),
                    _ => None,
                };
                membership::check_life(core, level, found)?;
            }
            (Key::Cluster, record) => check_cluster(core, record.as_ref())?,
            (Key::Config(log), Some(Record::Config(config))) => {
                core.learn_config(log, &config);
                if config.allow_loss && core.logs.get(log).is_some() {
                    core.allowed.lock().insert(log);
                }
            }
            // With the last of its log, whose id is never used again.
            (Key::Config(log), None) => {
                core.producers.lock().remove(&log);
            }
            // Other nodes and names are read when they are asked for.
            _ => {}
        }
    }
    let mut unconnected = Vec::new();
    for ((log, number), Change { record, parts }) in segments {
        if let Some(record) = &record {
            core.cleanup.segment_changed(log);
            if waits_for_skip(&record.value) {
                core.orphans.lock().insert((log, number));
            }
        }
        let sealed = record.as_ref().is_some_and(|record| record.value.state.end().is_some());
        if !core.learn_change(at, log, number, record.as_ref(), &parts) {
            unconnected.push((log, number));
        }
        if sealed && core.logs.get(log).is_some() {
            core.archive_now.notify_one();
        }
    }
    core.set_applied(at);
    Ok(unconnected)
}
