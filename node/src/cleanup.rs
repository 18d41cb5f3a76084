//! The deletion of what nobody wants any more: first segments that lie wholly below their log's trim
//! offset (T5), and all of a deleted log, in the end its tombstone.
//!
//! Each step is one guarded transaction, after which the objects of the segment that it deleted are
//! deleted by name. Two nodes that clean the same log do no harm; so that not all of them try, the
//! first in rank begins at once, and each of the others so much later if there is something left.

mod queue;
mod step;
#[cfg(test)]
mod tests;

pub use queue::Queue;
pub use step::TOMBSTONE_GRACE;
pub(crate) use step::wall_clock;

use crate::core::Core;
use crate::rank::rank;
use futures::StreamExt;
use piculet_meta::MetaError;
use piculet_quorum::ids::{LogId, NodeId, SegmentNumber};
use piculet_quorum::meta::{Key, Range, Txn, TxnOutcome};
use piculet_storage::{ObjectError, PartName};
use queue::Due;
use std::sync::Arc;
use std::time::Duration;
use step::Step;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// Logs that are cleaned at a time.
const CLEANERS_MAX: usize = 4;
/// Objects of one segment that are deleted at a time.
const DELETIONS_MAX: usize = 8;
/// How often the deletion of one object is tried.
const DELETE_ATTEMPTS: u32 = 4;
/// Pause before it is tried again.
const DELETE_RETRY: Duration = Duration::from_secs(1);
/// Pause after a step that failed.
const RETRY: Duration = Duration::from_secs(10);
/// A node that is not the first in rank leaves this much time to each one before it.
const FAILOVER: Duration = Duration::from_secs(15);

/// Cleans logs as they become due, until `stop` is true. What is under way then is left to the other
/// nodes, or to the next start.
pub async fn run(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let mut stopped = std::pin::pin!(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    let mut jobs: JoinSet<(LogId, Option<Due>)> = JoinSet::new();
    loop {
        while jobs.len() < CLEANERS_MAX {
            let Some((log, asked)) = core.cleanup.take(Instant::now()) else { break };
            let core = Arc::clone(&core);
            jobs.spawn(async move { (log, clean(&core, log, asked).await) });
        }
        // Where there is no room, a job that ends makes some.
        let next = core.cleanup.next().filter(|_| jobs.len() < CLEANERS_MAX);
        let next = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(done) = jobs.join_next() => {
                let (log, again) = finished(done);
                core.cleanup.finished(log, again);
            }
            () = core.cleanup.woken() => {}
            () = next => {}
        }
    }
    jobs.shutdown().await;
}

fn finished<T>(done: Result<T, JoinError>) -> T {
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("no cleaner is aborted before the end: {error}"),
    })
}

/// Cleans a log, as far as it can be cleaned now and it is this node's turn. Returns when it should
/// be looked at again, if it should.
async fn clean(core: &Core, log: LogId, asked: Instant) -> Option<Due> {
    let later = |pause| {
        let at = Instant::now() + pause;
        Some(Due { asked: at, at })
    };
    let mut my_turn = false;
    loop {
        let step = match step::read(core, log).await {
            Ok(Step::Nothing) => return None,
            Ok(Step::Wait(pause)) => return later(pause),
            Ok(Step::Damaged(why)) => {
                tracing::error!(%log, %why, "metadata are damaged: nothing more of the log is deleted");
                return None;
            }
            Ok(step) => step,
            Err(error) => {
                core.meta_failed("to read what can be deleted", &error);
                return later(RETRY);
            }
        };
        if !my_turn {
            match turn(core, log, asked).await {
                Ok(at) if at > Instant::now() => return Some(Due { asked, at }),
                Ok(_) => my_turn = true,
                Err(error) => {
                    core.meta_failed("to read the nodes", &error);
                    return later(RETRY);
                }
            }
        }
        let worked = match step {
            Step::Segment { number, txn, parts } => delete_segment(core, log, number, &txn, parts).await,
            Step::Tombstone(txn) => delete_tombstone(core, log, &txn).await,
            Step::Nothing | Step::Wait(_) | Step::Damaged(_) => unreachable!("handled above"),
        };
        if !worked {
            return later(RETRY);
        }
    }
}

/// When it is this node's turn to clean a log that it was asked to clean.
async fn turn(core: &Core, log: LogId, asked: Instant) -> Result<Instant, MetaError> {
    let snapshot = core.meta.read(&[], &[Range::Nodes]).await?;
    let nodes: Vec<&NodeId> = snapshot
        .records
        .keys()
        .filter_map(|key| if let Key::Node(node) = key { Some(node) } else { None })
        .collect();
    let rank = rank(&core.id, nodes.into_iter(), &log.0.to_le_bytes());
    Ok(asked + FAILOVER * u32::try_from(rank).unwrap_or(u32::MAX))
}

/// Carries a transaction out. Nothing when its outcome is not known, or it did not happen at all.
async fn commit(core: &Core, txn: &Txn) -> Option<TxnOutcome> {
    match core.meta.commit(txn).await {
        Ok(outcome) => {
            core.meta_health.works();
            Some(outcome)
        }
        Err(error) => {
            core.meta_failed("to delete what is not wanted any more", &error);
            None
        }
    }
}

/// Deletes a log's first segment, and its objects when it has gone. False when it should be tried
/// again after a pause.
async fn delete_segment(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    txn: &Txn,
    parts: Vec<PartName>,
) -> bool {
    let mut gone = matches!(commit(core, txn).await, Some(TxnOutcome::Applied(_)));
    if !gone {
        // It may have happened all the same, or another node has done it: the record shows it.
        let key = Key::First(log);
        match core.meta.read(std::slice::from_ref(&key), &[]).await {
            Ok(now) => gone = now.first(&key).is_none_or(|first| first.value.first_segment > number),
            Err(error) => core.meta_failed("to read whether a segment was deleted", &error),
        }
    }
    if gone {
        tracing::info!(%log, segment = %number, objects = parts.len(), "deleted a segment");
        delete_objects(core, parts).await;
    }
    gone
}

/// Deletes what object storage still has of a deleted log, whoever put it there, and then the log's
/// last records. False when it should be tried again after a pause.
async fn delete_tombstone(core: &Core, log: LogId, txn: &Txn) -> bool {
    let left = match core.objects.list_log(log).await {
        Ok(left) => left,
        Err(error) => {
            core.store_health.failed("to list the objects of a deleted log", &error);
            return false;
        }
    };
    delete_objects(core, left.into_iter().map(|part| part.name).collect()).await;
    let gone = matches!(commit(core, txn).await, Some(TxnOutcome::Applied(_)));
    if gone {
        tracing::info!(%log, "nothing is left of a deleted log");
    }
    gone
}

/// Deletes objects. One that cannot be deleted is named in the log, and left behind.
async fn delete_objects(core: &Core, parts: Vec<PartName>) {
    let deletions = parts.into_iter().map(|part| async move {
        if let Err(error) = delete_object(core, &part).await {
            tracing::warn!(
                object = %part, %error,
                "an object that nothing refers to any more was not deleted, and is left behind: delete it by hand"
            );
        }
    });
    futures::stream::iter(deletions).buffer_unordered(DELETIONS_MAX).collect::<Vec<()>>().await;
}

async fn delete_object(core: &Core, part: &PartName) -> Result<(), ObjectError> {
    let mut attempts = 1;
    loop {
        match core.objects.delete(part).await {
            Err(error) if attempts < DELETE_ATTEMPTS && error.is_retryable() => {
                core.store_health.failed("to delete an object", &error);
                attempts += 1;
                sleep(DELETE_RETRY).await;
            }
            Ok(()) => {
                core.store_health.works();
                return Ok(());
            }
            failed => return failed,
        }
    }
}
