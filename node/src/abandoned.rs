//! Logs that have lost their writer: when a quorum of a segment's members has been without it for
//! long enough, one of them seals the segment, so that it is archived and costs nothing any more
//! (PROTOCOL.md §6). And segments whose every holder has gone: what is lost of them is recorded, so that
//! readers and the archive go on behind it ([`loss`]).
//!
//! Nobody is deposed on one node's word: what the members say is judged in
//! [`piculet_quorum::liveness`], and the new epoch is guarded by the very record that was judged.

mod loss;
#[cfg(test)]
mod tests;

use crate::core::Core;
use crate::logs::Log;
use crate::metrics;
use crate::peers::{Peers, PeersError};
use crate::rank::rank;
use futures::future::join_all;
use piculet_client::Error;
use piculet_meta::MetaError;
use piculet_quorum::ids::{Epoch, Level, LogId, LogName, NodeId, SegmentNumber};
use piculet_quorum::liveness::{self, Liveness, judge, not_contradicted};
use piculet_quorum::meta::{Key, LogRecord, Member, SegmentState, Versioned};
use piculet_quorum::time::{Span, Time};
use piculet_quorum::wire::message::{Refusal, WriterSeen};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Recoveries that a node has under way at a time.
pub const RECOVERIES_MAX: usize = 4;
/// All logs are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A member goes ahead of the next one in rank by this much.
const RANK_DELAY: Span = Span::secs(1);
/// A member that does not answer within this time is silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A recovery is given up after this long.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(40);
/// Pause before the members are asked again.
const ASK_PAUSE: Span = Span::secs(2);
/// First and longest pause after a recovery that failed.
const RETRY: (Span, Span) = (Span::secs(2), Span::secs(60));

/// Looks after the logs whose writer has gone, until `stop` is true, and lets those leave the table
/// of which nothing is left. A writer has gone when it has had no stream for `writer_timeout`.
///
/// What is under way in the end is given up, which does no harm: every step is guarded.
pub async fn run(core: Arc<Core>, peers: Arc<Peers>, writer_timeout: Span, mut stop: watch::Receiver<bool>) {
    let mut stopped = std::pin::pin!(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    let mut guard = Guard { core, peers, writer_timeout, jobs: JoinSet::new(), tried: BTreeMap::new() };
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(done) = guard.jobs.join_next() => guard.finished(done),
            _ = looks.tick() => guard.look(),
        }
    }
    guard.jobs.shutdown().await;
    guard.peers.close().await;
}

/// A segment that may have been abandoned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Abandoned {
    log: LogId,
    segment: SegmentNumber,
    /// The log's epoch, as far as it is known here.
    epoch: Epoch,
    /// Since when nobody has appended or repaired here, in that epoch of the log.
    since: Time,
    rank: u64,
}

/// What has been tried for a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    failures: u32,
    /// Nothing is tried before this.
    next: Time,
    under_way: bool,
}

struct Guard {
    core: Arc<Core>,
    peers: Arc<Peers>,
    writer_timeout: Span,
    jobs: JoinSet<Done>,
    tried: BTreeMap<(LogId, SegmentNumber), Tried>,
}

/// A job that has ended.
struct Done {
    log: LogId,
    segment: SegmentNumber,
    result: Result<Did, NotRecovered>,
}

/// What a job has come to.
enum Did {
    /// It sealed the log.
    Sealed(LogName),
    /// It looked after what is lost of the segment.
    Loss,
}

/// Why a log was not recovered.
#[derive(Debug, thiserror::Error)]
enum NotRecovered {
    /// There is no reason to, or not yet.
    #[error("not now: {0}")]
    NotNow(String),
    /// Too few of the segment's members are left that know what they held.
    #[error("the buffers of {} are gone, and with them, perhaps, acknowledged entries: keep this node running; `piculet log set LOG --allow-loss true` lets the log go on with what is left of it, and readers are told where",
        .0.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" and "))]
    Lost(Vec<NodeId>),
    /// The metadata cannot be read.
    #[error("{0}")]
    Metadata(#[from] MetaError),
    /// Other nodes cannot be spoken to.
    #[error(transparent)]
    Peers(#[from] PeersError),
    /// The recovery failed.
    #[error("log {name} cannot be sealed: {source}")]
    Recovery { name: LogName, source: Error },
    /// What is lost could not be recorded.
    #[error("what is lost of the segment cannot be recorded: {0}")]
    Loss(Error),
    /// The recovery took too long.
    #[error("log {name} is not sealed after {RECOVERY_TIMEOUT:?}: too few members of its segment answer")]
    TooLong { name: LogName },
}

impl Guard {
    fn look(&mut self) {
        let core = &self.core;
        core.logs.sweep(core.applied());
        let now = core.clock.now();
        let mut open = BTreeSet::new();
        let (mut due, mut lost) = (Vec::new(), core.orphans.lock().clone());
        open.extend(&lost);
        for log in core.logs.all() {
            loss::candidates(core, &log, self.writer_timeout, &mut open, &mut lost);
            let Some(found) = candidate(core, &log, now, &mut open) else { continue };
            let delay = if core.draining() { 0 } else { found.rank * RANK_DELAY.0 };
            if now.since(found.since) >= Span(self.writer_timeout.0.saturating_add(delay)) {
                due.push(found);
            }
        }
        // Those that were tried longest ago first: what cannot be recovered now keeps nothing else waiting.
        due.sort_by_key(|found| {
            self.tried.get(&(found.log, found.segment)).map_or(Time(0), |tried| tried.next)
        });
        self.tried.retain(|key, tried| tried.under_way || open.contains(key));
        let allowed = std::mem::take(&mut *self.core.allowed.lock());
        for (_, tried) in self.tried.iter_mut().filter(|((log, _), _)| allowed.contains(log)) {
            tried.next = now;
        }
        for Abandoned { log, segment, epoch, .. } in due {
            let (core, peers, timeout) =
                (Arc::clone(&self.core), Arc::clone(&self.peers), self.writer_timeout);
            self.start(now, (log, segment), async move {
                attempt(&core, &peers, (log, segment, epoch), timeout).await.map(Did::Sealed)
            });
        }
        for (log, segment) in lost {
            let (core, peers, timeout) =
                (Arc::clone(&self.core), Arc::clone(&self.peers), self.writer_timeout);
            self.start(now, (log, segment), async move {
                loss::attempt(&core, &peers, (log, segment), timeout).await.map(|()| Did::Loss)
            });
        }
    }

    /// Starts a job for a segment, unless one is under way, it is too early for another, or there is
    /// no room.
    fn start(
        &mut self,
        now: Time,
        (log, segment): (LogId, SegmentNumber),
        job: impl Future<Output = Result<Did, NotRecovered>> + Send + 'static,
    ) {
        if self.jobs.len() >= RECOVERIES_MAX {
            return;
        }
        let tried = self.tried.entry((log, segment)).or_default();
        if tried.under_way || now < tried.next {
            return;
        }
        tried.under_way = true;
        self.jobs.spawn(async move { Done { log, segment, result: job.await } });
    }

    fn finished(&mut self, done: Result<Done, JoinError>) {
        let Done { log, segment, result } = done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => unreachable!("no recovery is aborted while its guard lives: {error}"),
        });
        let now = self.core.clock.now();
        let tried = self.tried.entry((log, segment)).or_default();
        tried.under_way = false;
        tried.next = now.after(ASK_PAUSE);
        let error = match result {
            Ok(Did::Sealed(name)) => {
                return tracing::info!(%log, %name, %segment, "sealed a log whose writer has gone");
            }
            Ok(Did::Loss) => return tracing::debug!(%log, %segment, "looked after what is lost"),
            Err(error @ NotRecovered::NotNow(_)) => return tracing::debug!(%log, %segment, %error),
            Err(error @ NotRecovered::Lost(_)) => {
                tried.next = now.after(RETRY.1);
                tried.failures = tried.failures.saturating_add(1);
                if tried.failures == 1 {
                    tracing::error!(%log, %segment, %error, "a log cannot go on, and its writer has gone");
                }
                return;
            }
            Err(error) => error,
        };
        let pause = RETRY.0.0.saturating_mul(1 << tried.failures.min(16)).min(RETRY.1.0);
        tried.next = now.after(Span(pause));
        tried.failures = tried.failures.saturating_add(1);
        if tried.failures > 1 {
            return tracing::debug!(%log, %segment, %error, "still not sealed");
        }
        tracing::warn!(
            %log, %segment, %error,
            "cannot look after a log whose writer or holders have gone, trying again with growing pauses; \
             until then its entries stay in memory as far as they are not known to be committed"
        );
    }
}

/// The open segment of a log of which nobody is known here to append or repair. All open ones are
/// noted in `open`.
fn candidate(
    core: &Core,
    log: &Log,
    now: Time,
    open: &mut BTreeSet<(LogId, SegmentNumber)>,
) -> Option<Abandoned> {
    let mut state = log.lock();
    state.note_writers(now);
    let (epoch, epoch_since) = state.epoch();
    let (number, local) = state.segments.last_key_value()?;
    let record = &local.record.value;
    if record.state != SegmentState::Open || state.replica.contradicted(*number) {
        return None;
    }
    open.insert((log.id, *number));
    // A takeover that repairs is at work.
    if state.replica.has_appender(*number) {
        return None;
    }
    let gone_since = state.writer_gone_since(*number)?;
    let members = record.ensemble.iter().map(|member| &member.node);
    let rank = rank(&core.id, members, &log.id.0.to_le_bytes());
    Some(Abandoned { log: log.id, segment: *number, epoch, since: gone_since.max(epoch_since), rank })
}

/// Asks the other members and, if they agree that the writer has gone, seals the log.
async fn attempt(
    core: &Core,
    peers: &Peers,
    (log, segment, epoch): (LogId, SegmentNumber, Epoch),
    writer_timeout: Span,
) -> Result<LogName, NotRecovered> {
    let (read, ensemble) = read(core, log, segment, epoch).await?;
    writer_gone(core, peers, (log, segment, epoch), &ensemble, writer_timeout).await?;
    let (client, name) = (peers.client().await?, read.value.name.clone());
    metrics::recovery_started();
    let recovered = timeout(RECOVERY_TIMEOUT, client.recover_log(log, read)).await;
    let result = match recovered {
        Ok(Ok(true)) => {
            metrics::recovery_succeeded();
            return Ok(name);
        }
        Ok(Ok(false)) => NotRecovered::NotNow("somebody else has changed its record".to_owned()),
        Ok(Err(source)) => NotRecovered::Recovery { name, source },
        Err(_) => NotRecovered::TooLong { name },
    };
    metrics::recovery_failed();
    Err(result)
}

/// Asks the members of a segment whether its writer has gone: fails unless enough of them say so.
async fn writer_gone(
    core: &Core,
    peers: &Peers,
    (log, segment, epoch): (LogId, SegmentNumber, Epoch),
    ensemble: &[Member],
    writer_timeout: Span,
) -> Result<(), NotRecovered> {
    let (answers, silent) = ask(core, peers, log, segment, ensemble).await?;
    match judge(ensemble, epoch, &answers, &silent, writer_timeout) {
        Liveness::Gone => {}
        Liveness::Alive { peer } => {
            let who = peer.unwrap_or_else(|| "its writer".to_owned());
            return Err(NotRecovered::NotNow(format!("another member still has {who}")));
        }
        Liveness::Unsure => {
            let not_sure =
                || NotRecovered::NotNow("the members are not sure that its writer has gone".to_owned());
            let (nodes, allowed) = beyond_recovery(core, log, ensemble).await?;
            match (nodes.is_empty(), allowed) {
                (true, _) => return Err(not_sure()),
                (false, false) => return Err(NotRecovered::Lost(nodes)),
                (false, true) if !not_contradicted(ensemble, epoch, &answers, writer_timeout) => {
                    return Err(not_sure());
                }
                (false, true) => {}
            }
        }
    }
    Ok(())
}

/// The members that have forgotten the segment, when they are too many, and whether the log's
/// settings allow what is lost with that.
async fn beyond_recovery(
    core: &Core,
    log: LogId,
    ensemble: &[Member],
) -> Result<(Vec<NodeId>, bool), NotRecovered> {
    let level = core.logs.get(log).map_or_else(Level::default, |log| log.level);
    let key = |node: &NodeId| Key::Incarnation(node.clone(), level);
    let mut keys: Vec<Key> = ensemble.iter().map(|member| key(&member.node)).collect();
    keys.push(Key::Config(log));
    let now = core.meta.read(&keys, &[]).await?;
    let current = |node: &NodeId| now.incarnation(&key(node)).map(|found| found.value.incarnation);
    let allowed = now.config(&Key::Config(log)).is_some_and(|config| config.value.allow_loss);
    Ok((liveness::beyond_recovery(ensemble, current), allowed))
}

/// Reads the log and its segment, which must be as they are known here.
async fn read(
    core: &Core,
    log: LogId,
    segment: SegmentNumber,
    epoch: Epoch,
) -> Result<(Versioned<LogRecord>, Vec<Member>), NotRecovered> {
    let (key, segment_key) = (Key::Log(log), Key::Segment(log, segment));
    let now = core.meta.read(&[key.clone(), segment_key.clone()], &[]).await?;
    let found = now.log(&key).zip(now.segment(&segment_key)).filter(|(record, found)| {
        record.value.deleted.is_none()
            && record.value.epoch == epoch
            && record.value.next_segment == segment.plus(1)
            && found.value.state == SegmentState::Open
    });
    match found {
        Some((record, found)) => Ok((record, found.value.ensemble)),
        None => {
            // Taken in at once: the log is looked at as it is from the next time on.
            core.refresh_log(log).await?;
            Err(NotRecovered::NotNow("its records have changed".to_owned()))
        }
    }
}

/// What the members of a segment say of its writer, and which of them say nothing.
async fn ask(
    core: &Core,
    peers: &Peers,
    log: LogId,
    segment: SegmentNumber,
    ensemble: &[Member],
) -> Result<(BTreeMap<NodeId, WriterSeen>, BTreeSet<NodeId>), NotRecovered> {
    let (mut answers, mut silent) = (BTreeMap::new(), BTreeSet::new());
    match core.writer_seen(log, segment) {
        // The others need not be asked.
        Ok(seen) if seen.gone_ms.is_none() => {
            return Err(NotRecovered::NotNow("its writer is back".to_owned()));
        }
        Ok(seen) => {
            answers.insert(core.id.clone(), seen);
        }
        // As with the others.
        Err(Refusal::NotHere) => {
            silent.insert(core.id.clone());
        }
        Err(refusal) => return Err(NotRecovered::NotNow(refusal.to_string())),
    }
    let client = peers.client().await?;
    let others = ensemble.iter().map(|member| &member.node).filter(|node| **node != core.id);
    let asked = others.map(|node| async move {
        (node, timeout(ANSWER_TIMEOUT, client.writer_seen(node, log, segment)).await)
    });
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(Ok(Some(seen))) => {
                answers.insert(node.clone(), seen);
            }
            // Whoever has nothing of the segment has no stream to it either.
            Ok(Ok(None) | Err(Error::NoNode(_))) | Err(_) => {
                silent.insert(node.clone());
            }
            // What it would say is open.
            Ok(Err(error)) => {
                tracing::debug!(%log, %segment, %node, %error, "a member says nothing of a writer");
            }
        }
    }
    Ok((answers, silent))
}

impl Core {
    /// What this node has had of a segment's writer.
    ///
    /// # Errors
    /// [`Refusal::NotHere`] when the segment is not held here, [`Refusal::Deleted`] when the log has
    /// been deleted.
    pub fn writer_seen(&self, log: LogId, segment: SegmentNumber) -> Result<WriterSeen, Refusal> {
        let slot = self.logs.get(log).ok_or(Refusal::NotHere)?;
        let mut state = slot.lock();
        if state.replica.deleted() {
            return Err(Refusal::Deleted);
        }
        let now = self.clock.now();
        state.note_writers(now);
        let local = state.segments.get(&segment).ok_or(Refusal::NotHere)?;
        Ok(WriterSeen {
            incarnation: state.replica.incarnation(),
            epoch: state.epoch().0,
            gone_ms: state.writer_gone_since(segment).map(|since| now.since(since).0 / 1_000),
            peer: local.writer.peer.clone(),
        })
    }
}
