//! Watches: one thread per store looks for what other connections did, and wakes the task of every
//! watch, which then reads what that means for it.

use super::fault::Failed;
use super::open::File;
use super::read::{self, News};
use super::worker::{Worker, insist};
use super::{CALL_TIMEOUT, SqliteStore, write};
use crate::Metadata;
use crate::error::MetaError;
use crate::watch::{Watch, WatchEvent};
use piculet_quorum::meta::{Range, Snapshot};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Pause between two looks. A look at a database in which nothing happened reads a few bytes of
/// shared memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(15);
/// Events that wait for the owner of a watch; beyond them, the database keeps them.
const EVENTS_MAX: usize = 64;
/// First and longest wait before a watch that broke off tries again.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What the last look has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    revision: u64,
    /// Times that the revision was lower than before: the content was replaced by an older one.
    went_back: u64,
}

/// The thread that looks for changes, and for leases whose time is over.
pub(super) struct Poller {
    connection: Connection,
    file: Arc<File>,
    writer: Worker,
    seen: watch::Sender<Seen>,
    /// sqlite's own count of what other connections committed, at the last look.
    version: Option<i64>,
    /// When the next lease is over.
    expires: Option<i64>,
    /// Whether the writer was asked to end leases, and has not tried yet.
    expiring: Arc<AtomicBool>,
    failing: bool,
}

impl Poller {
    /// Starts it; it runs until the first part of the answer is dropped.
    pub(super) fn start(
        connection: Connection,
        file: Arc<File>,
        writer: Worker,
    ) -> std::io::Result<(std::sync::mpsc::Sender<()>, watch::Receiver<Seen>)> {
        let (stop, stopped) = channel();
        let (sender, seen) = watch::channel(Seen::default());
        let mut poller = Self {
            connection,
            file,
            writer,
            seen: sender,
            version: None,
            expires: None,
            expiring: Arc::default(),
            failing: false,
        };
        let run = move || {
            while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let outcome = poller.look();
                poller.tell(outcome);
            }
        };
        // It ends with the store, within one look.
        drop(std::thread::Builder::new().name("meta-look".to_owned()).spawn(run)?);
        Ok((stop, seen))
    }

    fn look(&mut self) -> Result<(), Failed> {
        self.file.still_there()?;
        // Before the content: what comes between the two shows at the next look.
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.version != Some(version) {
            let transaction = self.connection.transaction()?;
            let revision = read::revision(&transaction)?;
            let next = "SELECT min(expires) FROM leases";
            self.expires = transaction.prepare_cached(next)?.query_row([], |row| row.get(0))?;
            self.version = Some(version);
            self.seen.send_if_modified(|seen| {
                seen.went_back += u64::from(revision < seen.revision);
                std::mem::replace(&mut seen.revision, revision) != revision
            });
        }
        if self.expires.is_some_and(write::is_over) && !self.expiring.swap(true, Ordering::Relaxed) {
            let (expiring, file) = (self.expiring.clone(), self.file.clone());
            let queued = self.writer.try_queue(move |connection| {
                let deadline = Instant::now() + CALL_TIMEOUT;
                if let Err(failed) = insist(connection, deadline, write::expire) {
                    tracing::warn!(database = %file, error = %failed, "leases not ended, trying again");
                }
                expiring.store(false, Ordering::Relaxed);
            });
            if !queued {
                self.expiring.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn tell(&mut self, outcome: Result<(), Failed>) {
        match outcome {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(database = %self.file, "changes of the metadata are seen again");
            }
            // Somebody recovers or closes the database at this moment.
            Ok(()) | Err(Failed::Busy(_)) => {}
            Err(failed) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(database = %self.file, error = %failed, "changes of the metadata are not seen");
                }
            }
        }
    }
}

/// Starts a watch with a first snapshot.
pub(super) async fn start(store: SqliteStore, range: Range) -> Result<Watch, MetaError> {
    let range = match range {
        Range::Names(after, _) => Range::Names(after, 0),
        range => range,
    };
    let seen = store.0.seen.clone();
    let went_back = seen.borrow().went_back;
    let first = store.read(&[], std::slice::from_ref(&range)).await?;
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let follower = Follower { store, range, events: sender, seen, went_back, failing: false };
    let mut task = JoinSet::new();
    task.spawn(follower.run(first));
    Ok(Watch::task(events, task))
}

struct Follower {
    store: SqliteStore,
    range: Range,
    events: mpsc::Sender<WatchEvent>,
    seen: watch::Receiver<Seen>,
    went_back: u64,
    failing: bool,
}

impl Follower {
    /// Hands out the snapshot and everything after it, until nobody wants it any more.
    async fn run(mut self, first: Snapshot) {
        let mut upto = first.at.0;
        let mut events = vec![WatchEvent::Reset(first)];
        loop {
            for event in events {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
            let went_back = self.went_back;
            let more = self.seen.wait_for(|seen| seen.revision > upto || seen.went_back != went_back).await;
            let Ok(seen) = more.map(|seen| *seen) else {
                tracing::error!(range = ?self.range, "nobody looks for changes of the metadata any more");
                return;
            };
            let known = (seen.went_back == went_back).then_some(upto);
            self.went_back = seen.went_back;
            let news = self.news(known).await;
            (upto, events) = (news.upto, news.events);
        }
    }

    async fn news(&mut self, known: Option<u64>) -> News {
        let mut wait = RETRY_WAIT.0;
        loop {
            match self.store.news(known, &self.range).await {
                Ok(news) => {
                    if std::mem::replace(&mut self.failing, false) {
                        tracing::info!(range = ?self.range, "metadata watch works again");
                    }
                    return news;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(range = ?self.range, %error, "metadata watch is held up, trying again");
                    }
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_WAIT.1);
        }
    }
}
