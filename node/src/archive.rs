//! The upload of what this node holds: for every segment, the protocol's [`Archiver`] decides what
//! to do next, and this carries it out.
//!
//! [`Archiver`]: piculet_quorum::archiver::Archiver

mod skip;
mod steps;
#[cfg(test)]
mod tests;
mod upload;
mod waiting;

pub(crate) use skip::complete;
pub use waiting::Waiting;

use crate::core::Core;
use crate::lives::Lives;
use crate::logs::{LocalSegment, Log};
use piculet_quorum::archiver::{ArchiverStep, Sight};
use piculet_quorum::ids::{Index, Level, LogId, NodeId, SegmentNumber};
use piculet_quorum::meta::{SegmentRecord, SegmentState};
use piculet_quorum::replica::Replica;
use std::sync::Arc;
use std::time::Duration;
use steps::{Job, Worked};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use upload::Upload;

/// Parts that are uploaded at a time.
pub const UPLOADS_MAX: usize = 4;
/// Steps of any kind that are under way at a time.
const JOBS_MAX: usize = 64;
/// All segments are looked at this often at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// And this often at most.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Archives what the node holds, until `stop` is true. What is under way then is given up, which
/// does no harm: nothing counts before its metadata transaction, and that is all or nothing.
pub async fn run(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let mut stopped = std::pin::pin!(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    let mut archive = Archive { core, jobs: JoinSet::new(), uploads: 0, turn: 0, crowded: false };
    loop {
        archive.look_at_all();
        let looked = Instant::now();
        let core = Arc::clone(&archive.core);
        let woken = async {
            core.archive_now.notified().await;
            sleep_until(looked + LOOK_PAUSE).await;
        };
        let mut woken = std::pin::pin!(woken);
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                Some(done) = archive.jobs.join_next() => {
                    archive.finished(done);
                    if std::mem::take(&mut archive.crowded) {
                        break;
                    }
                }
                () = &mut woken => break,
                () = sleep_until(looked + LOOK_INTERVAL) => break,
            }
        }
    }
}

struct Archive {
    core: Arc<Core>,
    jobs: JoinSet<Done>,
    /// How many of the jobs are uploads.
    uploads: usize,
    /// Which log is looked at first: another one each time, so that none always comes too late.
    turn: usize,
    /// Whether something was due and had to wait for a job to end.
    crowded: bool,
}

/// A job that has ended.
struct Done {
    log: Arc<Log>,
    number: SegmentNumber,
    upload: bool,
    worked: Worked,
}

impl Archive {
    fn look_at_all(&mut self) {
        let mut logs = self.core.logs.all();
        if logs.is_empty() {
            return;
        }
        self.turn = (self.turn + 1) % logs.len();
        logs.rotate_left(self.turn);
        for log in logs {
            self.look(&log);
        }
    }

    /// Takes the next step for every segment of a log that has one.
    fn look(&mut self, log: &Arc<Log>) {
        let (now, urgent) = (self.core.clock.now(), urgent(&self.core, log.level));
        let mut state = log.lock();
        let state = &mut *state;
        let core = Arc::clone(&self.core);
        let lives = core.lives.lock();
        for (number, local) in &mut state.segments {
            if local.archiving || idle(local) {
                continue;
            }
            if self.jobs.len() >= JOBS_MAX {
                self.crowded = true;
                return;
            }
            let Some(mut sight) = sight(&core, log.id, *number, &state.replica, local) else { continue };
            look_for_lost(&core, &lives, local, &mut sight);
            sight.urgent |= urgent;
            let job = match local.archiver.step(now, &sight) {
                ArchiverStep::Wait(_) => None,
                ArchiverStep::Upload(..) if self.uploads >= UPLOADS_MAX => {
                    self.crowded = true;
                    None
                }
                ArchiverStep::Upload(from, _) if is_lost_from(local, from) => Some(Job::Skip),
                ArchiverStep::Upload(from, to) => {
                    Upload::plan(&self.core, local, from, to).map(|upload| Job::Upload(Box::new(upload)))
                }
                ArchiverStep::Stand => self.core.lease().map(Job::Stand),
                ArchiverStep::Resign => local.uploader.as_ref().map(|(_, revision)| Job::Resign(*revision)),
                ArchiverStep::MarkArchived => Some(Job::Mark(local.record.clone(), sight.archived)),
            };
            if let Some(job) = job {
                local.archiving = true;
                self.start(log, *number, job);
            }
        }
    }

    fn start(&mut self, log: &Arc<Log>, number: SegmentNumber, job: Job) {
        let (core, log) = (Arc::clone(&self.core), Arc::clone(log));
        let upload = matches!(job, Job::Upload(_) | Job::Skip);
        self.uploads += usize::from(upload);
        self.jobs.spawn(async move {
            let worked = job.run(&core, log.id, number).await;
            Done { log, number, upload, worked }
        });
    }

    fn finished(&mut self, done: Result<Done, JoinError>) {
        let Done { log, number, upload, worked } =
            done.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => unreachable!("no job is aborted while the archive lives: {error}"),
            });
        self.uploads -= usize::from(upload);
        if let Some(local) = log.lock().segments.get_mut(&number) {
            let now = self.core.clock.now();
            local.archiving = false;
            match worked {
                Worked::Yes => {
                    local.archiver.succeeded();
                    local.waiting.is_over();
                }
                Worked::No => local.archiver.failed(now),
                Worked::Waits => {
                    local.archiver.waits(now);
                    if local.waiting.goes_on(now) {
                        tracing::warn!(
                            log = %log.id, segment = %number, before = %SegmentNumber(number.0.saturating_sub(1)),
                            "cannot archive a segment until the one before it is archived, and has waited for a minute: \
                             the log has producers; find out what keeps the one before"
                        );
                    }
                }
            }
        }
        self.look(&log);
    }
}

/// Whether everything of a segment from an index on is lost.
fn is_lost_from(local: &LocalSegment, index: Index) -> bool {
    let record = &local.record.value;
    record.loss.is_some() && record.kept() == Some(index)
}

/// Whether waiting is out of place: the node is about to stop, or its buffer of this level is nearly
/// full.
fn urgent(core: &Core, level: Level) -> bool {
    core.draining() || core.buffer(level).is_some_and(|buffer| buffer.nearly_full())
}

/// Whether a segment needs no look: it is open, and everything in it is archived.
fn idle(local: &LocalSegment) -> bool {
    local.record.value.state == SegmentState::Open && !local.has_unarchived()
}

/// What this node sees of a segment that it holds.
fn sight(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    replica: &Replica,
    local: &LocalSegment,
) -> Option<Sight> {
    let archived = replica.archived(number)?.end;
    let buffer = &local.buffer;
    // A member that is short of the archive has nothing to add to it.
    let uploadable = if buffer.freed() == archived {
        let committed = replica.uploadable(number)?.min(buffer.tail());
        buffer.floor_boundary(committed.max(archived)).unwrap_or(archived)
    } else {
        archived
    };
    let record = &local.record.value;
    let end = record.state.end().map(|at| at.end);
    // What is left has been uploaded: what is lost needs nobody who holds anything.
    let skip = end.filter(|end| is_lost_from(local, archived) && archived < *end);
    let uploadable = skip.unwrap_or(uploadable);
    let bytes =
        if uploadable > archived && skip.is_none() { buffer.bytes_between(archived, uploadable) } else { 0 };
    let sole = matches!(&record.state, SegmentState::Sealed(seal) if *seal.holders == [core.id.clone()]);
    Some(Sight {
        archived,
        uploadable,
        bytes,
        end,
        urgent: false,
        rank: rank(&core.id, log, number, record),
        sole,
        elected: local.uploader.as_ref().map(|(uploader, _)| *uploader == core.member(record.level)),
        forsaken: false,
    })
}

/// Adds what follows from members that are lost: until what the others hold is archived, it is there
/// once less than it should be.
fn look_for_lost(core: &Core, lives: &Lives, local: &LocalSegment, sight: &mut Sight) {
    let (now, segment) = (core.clock.now(), &local.record.value);
    sight.urgent = lives.lost(now, &core.id, segment).next().is_some();
    let uploader = local.uploader.as_ref().map(|(uploader, _)| uploader);
    sight.forsaken = uploader.is_some_and(|uploader| lives.is_lost(now, segment.level, uploader));
}

/// How many members come before this one in the order of election, which differs from segment to
/// segment.
fn rank(me: &NodeId, log: LogId, number: SegmentNumber, record: &SegmentRecord) -> u64 {
    let place = [log.0.to_le_bytes(), number.0.to_le_bytes()].concat();
    crate::rank::rank(me, record.ensemble.iter().map(|member| &member.node), &place)
}
