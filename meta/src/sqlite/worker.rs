//! Threads for calls that block: each has one connection and a bounded queue.

use super::CALL_TIMEOUT;
use super::fault::Failed;
use super::open::File;
use rusqlite::Connection;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

/// Calls that wait for a thread; beyond them, callers wait.
const JOBS_MAX: usize = 128;
/// Pause before another try at a database that another process holds.
const BUSY_WAIT: Duration = Duration::from_millis(2);
/// What a call gets beyond [`CALL_TIMEOUT`] for the disk to answer.
const DISK_TIMEOUT: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread with a connection; it ends when the last clone of this is dropped.
#[derive(Clone)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    file: Arc<File>,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(name: &str, mut connection: Connection, file: Arc<File>) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(JOBS_MAX);
        let run = move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut connection);
            }
        };
        // It is not waited for: it ends with its queue, and a transaction that is cut off by the
        // end of the process is as good as never begun.
        drop(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
        Ok(Self { jobs, file })
    }

    /// Runs `work`, again and again while the database is busy, and waits for what came of it: for
    /// [`CALL_TIMEOUT`] and [`DISK_TIMEOUT`] at most. What did not start by then never does.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&mut Connection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failed> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let (reply, answer) = oneshot::channel();
        let file = self.file.clone();
        let job = move |connection: &mut Connection| {
            if reply.is_closed() {
                return;
            }
            let outcome = file.still_there().and_then(|()| insist(connection, deadline, &mut work));
            // Whoever asked may have gone away meanwhile.
            drop(reply.send(outcome));
        };
        let slot = match timeout_at(deadline.into(), self.jobs.reserve()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => return Err(Failed::Before("its thread has ended".to_owned())),
            Err(_) => return Err(Failed::Before(format!("{JOBS_MAX} calls wait for it already"))),
        };
        slot.send(Box::new(job));
        match timeout_at((deadline + DISK_TIMEOUT).into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Failed::Unknown("its thread has ended".to_owned())),
            Err(_) => Err(Failed::Unknown(format!(
                "no answer within {:?}; check its disk",
                CALL_TIMEOUT + DISK_TIMEOUT
            ))),
        }
    }

    /// Queues work that nobody waits for; false when the queue is full.
    pub(super) fn try_queue(&self, work: impl FnOnce(&mut Connection) + Send + 'static) -> bool {
        self.jobs.try_send(Box::new(work)).is_ok()
    }
}

/// Does `work` until the database is not busy, at least once.
pub(super) fn insist<T>(
    connection: &mut Connection,
    deadline: Instant,
    mut work: impl FnMut(&mut Connection) -> Result<T, Failed>,
) -> Result<T, Failed> {
    loop {
        match work(connection) {
            Err(Failed::Busy(_)) if Instant::now() < deadline => std::thread::sleep(BUSY_WAIT),
            outcome => return outcome,
        }
    }
}
