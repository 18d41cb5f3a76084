//! The writer of a log: appends without waiting, acknowledgements in order.
//!
//! The protocol's decisions are made by [`piculet_quorum::writer::Writer`]. Around it: [`state`]
//! keeps the bytes and the waiting futures under one lock, [`link`] holds the stream to one node,
//! [`background`] runs the clock and the metadata requests, [`upload`] archives what no node holds. When the writer is replaced, [`resolve`]
//! reads what became of the entries that were on their way, and [`ending`] keeps it. What producers
//! have appended before is read by [`producers`], once somebody asks for one of them.

mod background;
mod ending;
#[cfg(feature = "object")]
mod gather;
mod link;
mod producers;
mod resolve;
mod state;
#[cfg(test)]
mod tests;
#[cfg(not(feature = "object"))]
#[path = "no_upload.rs"]
mod upload;
#[cfg(feature = "object")]
mod upload;
mod waiting;

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use crate::record::{AppendOptions, Record};
use crate::store::Store;
use crate::takeover::Taken;
use piculet_quorum::ids::{Epoch, Level, LogId, LogName, NodeId, Offset};
use piculet_quorum::producers::{LastAppend, ProducerId};
use piculet_quorum::time::Span;
use producers::Beginning;
use state::{Queued, Shared};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

/// The only writer of a log, until another takes it over.
///
/// Appends are queued in the order of the calls and acknowledged in that order; each returns a
/// future that completes when the entry is safe. The futures need not be polled for the appends to
/// go on, and dropping one does not take its append back.
///
/// When another writer takes the log over, appends that were on their way complete as soon as it is
/// known what became of them: with their offset, or with [`Error::Fenced`] when they were not
/// appended. That is read from the log's records once the other writer has sealed the segment, so it
/// may take a while; after `ClientOptions::takeover_timeout`, or when the records are gone, they
/// fail with [`Error::OutcomeUnknown`].
///
/// A log to which nothing is appended for `WriterOptions::idle_after` (60 s) is parked once all of
/// it is archived: no node holds anything for it, and there is no traffic. The next append takes
/// two round trips more, to the metadata, than others.
///
/// Of a log of durability [`Level::Object`] no node holds anything: the writer's own tasks put the
/// entries into the object store, and what waits is lost with its process.
///
/// Dropping the writer gives up what is not acknowledged yet: [`close`](Self::close) it.
pub struct LogWriter {
    shared: Arc<Shared>,
    background: JoinHandle<()>,
    name: LogName,
    log: LogId,
    epoch: Epoch,
    pool: Arc<Pool>,
    options: ClientOptions,
    beginning: Beginning,
    /// Whether what producers have appended before has been read.
    producers: OnceCell<()>,
}

/// The acknowledgement of an append: completes with the offset of its first entry.
///
/// Cancel-safe: dropping it loses the news, not the append.
#[must_use = "the append goes on, but only the future tells whether it was acknowledged"]
pub struct Append {
    shared: Arc<Shared>,
    result: Result<Queued, Option<Error>>,
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
    /// Whether the log is parked: nothing is on its way, and no node holds a segment for it.
    pub parked: bool,
}

impl LogWriter {
    pub(crate) fn start(pool: Arc<Pool>, store: Arc<Store>, options: &ClientOptions, taken: Taken) -> Self {
        let (name, log, epoch) = (taken.name.clone(), taken.log, taken.record.value.epoch);
        let beginning = Beginning { segment: taken.number, base: taken.segment.value.base };
        let mut settings = options.writer;
        if taken.segment.value.level == Level::Object {
            // Without members, a writer that records nothing for as long as others wait is taken for
            // gone: it parks before.
            let patience = Span::from(options.writer_timeout);
            settings.idle_after = settings.idle_after.min(Span(patience.0 / 2));
        }
        let shared = Arc::new(Shared::new(settings, taken));
        let patience = options.takeover_timeout;
        let tasks = background::run(Arc::clone(&shared), Arc::clone(&pool), store, log, patience);
        let background = tokio::spawn(tasks);
        let (options, producers) = (options.clone(), OnceCell::new());
        Self { shared, background, name, log, epoch, pool, options, beginning, producers }
    }

    /// Appends an entry of up to 16 MiB, headers included; of these up to 64 KiB, encoded.
    ///
    /// It is queued at once, in the order of the calls. The future fails with
    /// [`Error::EntryTooLong`], [`Error::Overloaded`], [`Error::Closed`], [`Error::Fenced`] or
    /// [`Error::Deleted`] when nothing was appended, and with [`Error::OutcomeUnknown`] or
    /// [`Error::Stopped`] when that is not known.
    pub fn append<'a>(&self, record: impl Into<Record<'a>>) -> Append {
        self.append_records(&[record.into()], &AppendOptions::default())
    }

    /// The same, at an offset that is expected, or for a producer, so that it is appended once however
    /// often it is repeated.
    ///
    /// Whether the offset is the one expected is decided in the order of the calls. The future of an
    /// append that its producer has made before, be it with another writer, completes with the
    /// offset that it got then, once that one is safe; what is expected does not matter to it.
    ///
    /// It fails as that of [`append`](Self::append), and with [`Error::OffsetMismatch`],
    /// [`Error::Duplicate`] or, before [`producer`](Self::producer) has completed once,
    /// [`Error::Setting`] when nothing was appended.
    pub fn append_with<'a>(&self, record: impl Into<Record<'a>>, options: &AppendOptions) -> Append {
        self.append_records(&[record.into()], options)
    }

    /// Appends up to 65,536 entries, 16 MiB in all, that stay together: after any failure all of
    /// them are there or none. The future completes with the offset of the first; the others
    /// follow it.
    ///
    /// It fails as that of [`append`](Self::append), and with [`Error::BatchSize`] when the batch
    /// is outside the limits.
    pub fn append_batch<'a, R: Into<Record<'a>>>(&self, records: impl IntoIterator<Item = R>) -> Append {
        self.append_batch_with(records, &AppendOptions::default())
    }

    /// The same with the options of [`append_with`](Self::append_with). The batch is one append of
    /// its producer: its first entry carries the sequence, and speaks for the others.
    pub fn append_batch_with<'a, R: Into<Record<'a>>>(
        &self,
        records: impl IntoIterator<Item = R>,
        options: &AppendOptions,
    ) -> Append {
        let records: Vec<Record<'a>> = records.into_iter().map(Into::into).collect();
        self.append_records(&records, options)
    }

    fn append_records(&self, records: &[Record<'_>], options: &AppendOptions) -> Append {
        let result = self.shared.append(records, options).map_err(Some);
        Append { shared: Arc::clone(&self.shared), result }
    }

    /// The last append of a producer, be it acknowledged or still on its way; none when it has made
    /// none, or so long ago that 1,000 others have appended since.
    ///
    /// From the first call on the writer may append for producers, all of them. That call asks a node
    /// for what they have appended, and reads the entries that are not in object storage yet: it
    /// takes as long as that takes, and waits until all of them are known to be safe. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NoNode`] when no node answers, or one that has an entry not for
    /// `ClientOptions::read_timeout`; [`Error::Deleted`] or [`Error::NotFound`] when the log was
    /// deleted; [`Error::Refused`] when another writer has it; [`Error::Damaged`].
    pub async fn producer(&self, id: ProducerId) -> Result<Option<LastAppend>, Error> {
        let read = async || {
            let log = (&self.name, self.log);
            let table = producers::read(&self.pool, &self.options, log, &self.beginning).await?;
            self.shared.begin_producers(table);
            Ok::<_, Error>(())
        };
        self.producers.get_or_try_init(read).await?;
        Ok(self.shared.last_of(id))
    }

    /// Completes when there is room for another 1 MiB, or the writer has stopped. Cancel-safe.
    pub async fn ready(&self) {
        self.shared.ready().await;
    }

    /// Completes when everything appended before the call is acknowledged. When another writer takes
    /// the log over, completes once it is known what became of it. Cancel-safe.
    ///
    /// # Errors
    /// As the futures of the appends: with [`Error::OutcomeUnknown`] when that is not known of one
    /// of them, else with [`Error::Fenced`] when one was not appended.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.flushed().await
    }

    /// Waits for every acknowledgement, seals the log's last segment and stops. Returns the offset
    /// behind the last entry.
    ///
    /// Not cancel-safe: dropping the future drops the writer, closed or not.
    ///
    /// # Errors
    /// [`Error::Fenced`] or [`Error::Deleted`] when the log was taken over or deleted, once it is
    /// known what became of the appends; [`Error::Refused`] when the writer had stopped before.
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
    /// Tells at once whether the append was taken. It is on its way then, and the future that comes
    /// back tells when it is safe; whoever does not want to know drops it.
    ///
    /// # Errors
    /// When nothing was appended, as [`LogWriter::append`] says.
    pub fn queued(mut self) -> Result<Self, Error> {
        match &mut self.result {
            Ok(_) => Ok(self),
            Err(error) => Err(error.take().unwrap_or(Error::Closed)),
        }
    }
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, log, epoch, .. } = self;
        let mut debug = f.debug_struct("LogWriter");
        debug.field("name", name).field("log", log).field("epoch", epoch).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Append {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Append");
        match &self.result {
            Ok(taken) => debug.field("first", &taken.first).field("last", &taken.last),
            Err(error) => debug.field("error", error),
        };
        debug.finish_non_exhaustive()
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
            Ok(taken) => this.shared.poll_append(taken, context).map_ok(|()| taken.first),
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(Error::Closed))),
        }
    }
}
