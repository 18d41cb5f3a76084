//! Metadata in one sqlite database file, which the processes of one machine share.
//!
//! | what | where |
//! |---|---|
//! | the file, its schema, connections | [`open`] |
//! | threads that run blocking calls | [`worker`] |
//! | transactions, leases | [`write`] |
//! | reads of one moment, changes since one | [`read`] |
//! | watches, and the thread that looks for what other processes did | [`follow`] |
//! | what an error means | [`fault`] |
//!
//! A store has three connections, opened once: one writes, one reads, one looks for changes. In
//! WAL mode readers and the writer do not wait for each other. A commit is on disk when it is
//! answered (`synchronous=FULL`).

mod fault;
mod follow;
mod open;
mod read;
#[cfg(test)]
mod tests;
mod worker;
mod write;

use crate::error::MetaError;
use crate::keeper::{self, NotRenewed, Renew};
use crate::keys::Keys;
use crate::lease::Lease;
use crate::watch::Watch;
use crate::{Metadata, check};
use async_trait::async_trait;
use fault::Failed;
use follow::{Poller, Seen};
use open::File;
use piculet_quorum::meta::{Key, LeaseId, Range, Snapshot, Txn, TxnOutcome};
use read::News;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use worker::Worker;

/// Bound on waiting for other processes, in every call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Shortest and longest ttl of a lease. The holder has to write to the disk three times in it.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10 * 365 * 86_400));
/// The keys of a file have the prefix that etcd's have by default, so that they read the same.
const PREFIX: &str = "piculet";

/// A database file. Clones share its connections; the threads end with the last of them.
#[derive(Clone)]
pub(crate) struct SqliteStore(Arc<Shared>);

struct Shared {
    file: Arc<File>,
    keys: Keys,
    writer: Worker,
    reader: Worker,
    seen: watch::Receiver<Seen>,
    /// Its end stops the thread that looks for changes.
    _poller: std::sync::mpsc::Sender<()>,
}

impl SqliteStore {
    /// Opens the database at `path`, or makes it.
    pub(crate) async fn open(url: &str, path: PathBuf) -> Result<Self, MetaError> {
        let url = url.to_owned();
        match tokio::task::spawn_blocking(move || Self::open_blocking(&url, &path)).await {
            Ok(store) => store,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(MetaError::Unavailable("the runtime is shutting down".to_owned())),
        }
    }

    fn open_blocking(url: &str, path: &std::path::Path) -> Result<Self, MetaError> {
        let (file, [writer, reader, looks]) = open::open(url, path)?;
        let file = Arc::new(file);
        let thread =
            |error: std::io::Error| MetaError::Unavailable(format!("no thread can be started: {error}"));
        let writer = Worker::start("meta-write", writer, file.clone()).map_err(thread)?;
        let reader = Worker::start("meta-read", reader, file.clone()).map_err(thread)?;
        let (stop, seen) = Poller::start(looks, file.clone(), writer.clone()).map_err(thread)?;
        let keys = Keys::new(PREFIX);
        Ok(Self(Arc::new(Shared { file, keys, writer, reader, seen, _poller: stop })))
    }

    /// What was changed in `range` after `seen`, or all of it when that is unknown.
    async fn news(&self, seen: Option<u64>, range: &Range) -> Result<News, MetaError> {
        let (keys, range) = (self.0.keys.clone(), range.clone());
        let news = self.0.reader.run(move |connection| read::news(connection, &keys, seen, &range)).await;
        news.map_err(|failed| self.unwritten(failed))
    }

    /// A failure after which nothing was written, or nothing that matters.
    fn unwritten(&self, failed: Failed) -> MetaError {
        match failed {
            Failed::For(error) => error,
            Failed::Busy(why) | Failed::Before(why) | Failed::Unknown(why) => {
                MetaError::Unavailable(format!("sqlite database {}: {why}", self.0.file))
            }
        }
    }

    /// A failure of something that writes.
    fn written(&self, failed: Failed) -> MetaError {
        match failed {
            Failed::Unknown(why) => MetaError::Unknown(format!("sqlite database {}: {why}", self.0.file)),
            failed => self.unwritten(failed),
        }
    }
}

#[async_trait]
impl Metadata for SqliteStore {
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
        let (spelling, keys, ranges) = (self.0.keys.clone(), keys.to_vec(), ranges.to_vec());
        let read = move |connection: &mut _| read::snapshot(connection, &spelling, &keys, &ranges);
        self.0.reader.run(read).await.map_err(|failed| self.unwritten(failed))
    }

    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        check::txn(txn)?;
        let (keys, txn) = (self.0.keys.clone(), txn.clone());
        let commit = move |connection: &mut _| write::commit(connection, &keys, &txn);
        self.0.writer.run(commit).await.map_err(|failed| self.written(failed))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, MetaError> {
        let ttl = ttl.clamp(TTL.0, TTL.1);
        let granted = Instant::now();
        let grant = move |connection: &mut _| write::grant(connection, ttl);
        let id = self.0.writer.run(grant).await.map_err(|failed| self.unwritten(failed))?;
        let lease = SqliteLease { store: self.clone(), id };
        Ok(keeper::keep(lease, id, ttl, granted))
    }

    async fn watch(&self, range: Range) -> Result<Watch, MetaError> {
        follow::start(self.clone(), range).await
    }
}

struct SqliteLease {
    store: SqliteStore,
    id: LeaseId,
}

#[async_trait]
impl Renew for SqliteLease {
    async fn renew(&mut self) -> Result<(), NotRenewed> {
        let id = self.id;
        let renew = move |connection: &mut _| write::renew(connection, id);
        match self.store.0.writer.run(renew).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(NotRenewed::Gone),
            Err(failed) => Err(NotRenewed::Failed(self.store.written(failed).to_string())),
        }
    }

    async fn revoke(&mut self) -> Result<(), MetaError> {
        let id = self.id;
        let revoke = move |connection: &mut _| write::revoke(connection, id);
        self.store.0.writer.run(revoke).await.map_err(|failed| match self.store.written(failed) {
            error @ MetaError::Unknown(_) => error,
            // A lease that was not ended ends by itself: whether it has is what is unknown.
            error => MetaError::Unknown(error.to_string()),
        })
    }
}
