//! The writer of a log: appends without waiting, acknowledgements in order.
//!
//! The protocol's decisions are made by [`piculet_quorum::writer::Writer`]. Around it: [`state`]
//! keeps the bytes and the waiting futures under one lock, [`link`] holds the stream to one node,
//! [`background`] runs the clock and the metadata requests.

mod background;
mod link;
mod state;

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use crate::takeover::Taken;
use piculet_quorum::ids::{Epoch, LogId, LogName, NodeId, Offset};
use state::Shared;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// The only writer of a log, until another takes it over.
///
/// Appends are queued in the order of the calls and acknowledged in that order; each returns a
/// future that completes when the entry is safe. The futures need not be polled for the appends to
/// go on, and dropping one does not take its append back.
///
/// Dropping the writer gives up what is not acknowledged yet: [`close`](Self::close) it.
pub struct LogWriter {
    shared: Arc<Shared>,
    background: JoinHandle<()>,
    name: LogName,
    log: LogId,
    epoch: Epoch,
}

/// The acknowledgement of an append: completes with the offset of its first entry.
///
/// Cancel-safe: dropping it loses the news, not the append.
#[must_use = "the append goes on, but only the future tells whether it was acknowledged"]
pub struct Append {
    shared: Arc<Shared>,
    result: Result<(Offset, Offset), Option<Error>>,
}

/// What a writer has done and what it is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterStatus {
    /// The nodes that hold the newest segment.
    pub members: Vec<NodeId>,
    /// Every entry below it is acknowledged.
    pub committed: Offset,
    /// The offset that the next entry gets.
    pub next: Offset,
    /// Bytes for which there is room before acknowledgements must come.
    pub room: u64,
    /// Segments that were opened after the first.
    pub rolls: u64,
}

impl LogWriter {
    pub(crate) fn start(pool: Arc<Pool>, options: &ClientOptions, taken: Taken) -> Self {
        let (name, log, epoch) = (taken.name.clone(), taken.log, taken.record.value.epoch);
        let shared = Arc::new(Shared::new(options.writer, taken));
        let background = tokio::spawn(background::run(Arc::clone(&shared), pool, log));
        Self { shared, background, name, log, epoch }
    }

    /// Appends an entry of up to 16 MiB.
    ///
    /// The future fails with [`Error::EntryTooLong`], [`Error::Overloaded`] or [`Error::Closed`]
    /// when nothing was appended, and with [`Error::Fenced`] or [`Error::Stopped`] when that is
    /// not known.
    pub fn append(&self, payload: impl AsRef<[u8]>) -> Append {
        self.append_batch(&[payload.as_ref()])
    }

    /// Appends up to 65,536 entries, 16 MiB in all, that stay together: after any failure all of
    /// them are there or none. The future completes with the offset of the first; the others
    /// follow it.
    ///
    /// It fails as that of [`append`](Self::append), and with [`Error::BatchSize`] when the batch
    /// is outside the limits.
    pub fn append_batch(&self, payloads: &[impl AsRef<[u8]>]) -> Append {
        let result = self.shared.append(payloads).map_err(Some);
        Append { shared: Arc::clone(&self.shared), result }
    }

    /// Completes when there is room for another 1 MiB, or the writer has stopped. Cancel-safe.
    pub async fn ready(&self) {
        self.shared.ready().await;
    }

    /// Completes when everything appended before the call is acknowledged. Cancel-safe.
    ///
    /// # Errors
    /// As the futures of the appends.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.flushed().await
    }

    /// Waits for every acknowledgement, seals the log's last segment and stops.
    ///
    /// # Errors
    /// When another writer has taken the log over, or the writer had stopped before.
    pub async fn close(self) -> Result<Offset, Error> {
        self.shared.close();
        self.shared.closed().await
    }

    /// The log's name.
    #[must_use]
    pub fn name(&self) -> &LogName {
        &self.name
    }

    /// The log's id.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The epoch that this writer took over in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> WriterStatus {
        self.shared.status()
    }
}

impl Append {
    /// Gives the acknowledgement up, and tells only whether the append was taken: it goes on.
    ///
    /// # Errors
    /// When nothing was appended, as [`LogWriter::append`] says.
    pub fn queued(self) -> Result<(), Error> {
        match self.result {
            Ok(_) => Ok(()),
            Err(error) => Err(error.unwrap_or(Error::Closed)),
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shared.abandon();
        self.background.abort();
    }
}

impl Future for Append {
    type Output = Result<Offset, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match &mut this.result {
            Ok((first, last)) => this.shared.poll_append(*last, context).map_ok(|()| *first),
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(Error::Closed))),
        }
    }
}
