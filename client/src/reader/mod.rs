//! Reading a log: entries in order, none skipped, none twice, none that may still vanish.
//!
//! | question | where |
//! |---|---|
//! | where does a reader begin | [`start`] |
//! | where is the tail | [`tail`] |
//! | how does it go from segment to segment | [`run`] |
//! | which node serves a segment, and what may be shown of it | [`segment`] |
//! | are these the bytes that were written | [`batches`] |

mod batches;
mod run;
mod segment;
mod start;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use tail::check_tail;

use crate::entry::Entry;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use futures::Stream;
use piculet_quorum::ids::{Index, LogId, LogName, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::LogView;
use run::Reading;
use start::{LogPlace, Plan};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces, of up to about 1 MiB of entries or one batch each, that wait for the application.
const PIECES: usize = 8;

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first entry that has not been trimmed.
    Earliest,
    /// Behind the last entry that was acknowledged when the reader was made.
    Latest,
    /// At this offset, which is neither trimmed nor beyond the tail.
    Offset(Offset),
    /// At the first entry whose timestamp, in milliseconds since the Unix epoch, is this or later;
    /// without one, behind the last entry that was acknowledged when the reader was made. Timestamps
    /// are those of the log's writers, and never decrease.
    Timestamp(Timestamp),
}

/// How a reader behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether it goes on waiting for new entries at the tail. If not, it ends at the tail as of
    /// the call that made it.
    pub follow: bool,
}

/// What the reading task hands over.
enum Piece {
    Entries(Vec<Entry>),
    End,
    Failed(Error),
}

/// Entries of a log in order: a [`Stream`] that ends after its first error.
///
/// A task reads ahead by a few MiB; dropping the reader ends it.
pub struct LogReader {
    pieces: mpsc::Receiver<Piece>,
    current: std::vec::IntoIter<Entry>,
    task: JoinHandle<()>,
    over: bool,
}

impl LogReader {
    pub(crate) async fn open(
        pool: Pool,
        client: &ClientOptions,
        name: &LogName,
        log: LogId,
        start: Start,
        options: ReadOptions,
    ) -> Result<Self, Error> {
        let plan = start::plan(&pool, client, (name, log), start, options.follow).await?;
        Ok(Self::reading(pool, client, (name, log), &plan))
    }

    /// The entries of a log from a place that may be trimmed, and yet be there, up to the beginning
    /// of a segment that exists.
    pub(crate) fn between(
        pool: Pool,
        client: &ClientOptions,
        log: (&LogName, LogId),
        (segment, index): (SegmentNumber, Index),
        until: SegmentNumber,
    ) -> Self {
        let until = LogPlace { segment: until, index: Index(0) };
        let at = LogPlace { segment, index };
        let plan = Plan { at, until: Some(until), floor: Offset(0), since: None };
        Self::reading(pool, client, log, &plan)
    }

    fn reading(pool: Pool, client: &ClientOptions, log: (&LogName, LogId), plan: &Plan) -> Self {
        let (out, pieces) = mpsc::channel(PIECES);
        let task = tokio::spawn(Reading::new(pool, client, log, plan, out).run(plan.at));
        Self { pieces, current: Vec::new().into_iter(), task, over: false }
    }

    /// The next entry; `None` at the end, when it does not follow. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when the log is trimmed beyond the reader's place; [`Error::NotFound`] when
    /// it has been deleted; [`Error::NoNode`] when no node could be read from for `read_timeout`; [`Error::Damaged`] when what comes is not
    /// what was written. Nothing follows an error: make a new reader.
    pub async fn next(&mut self) -> Option<Result<Entry, Error>> {
        std::future::poll_fn(|context| self.poll_entry(context)).await
    }

    fn poll_entry(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Entry, Error>>> {
        loop {
            if let Some(entry) = self.current.next() {
                return Poll::Ready(Some(Ok(entry)));
            }
            if self.over {
                return Poll::Ready(None);
            }
            match ready!(self.pieces.poll_recv(context)) {
                Some(Piece::Entries(entries)) => self.current = entries.into_iter(),
                Some(Piece::End) => self.over = true,
                Some(Piece::Failed(error)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.over = true;
                    return Poll::Ready(Some(Err(Error::Interrupted)));
                }
            }
        }
    }
}

impl Stream for LogReader {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_entry(context)
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").field("over", &self.over).finish_non_exhaustive()
    }
}

/// A log with all of its segments.
///
/// # Errors
/// When no node answers, the log has been deleted, or the metadata lack a segment.
pub(crate) async fn whole_view(pool: &Pool, name: &LogName, log: LogId) -> Result<LogView, Error> {
    let view =
        async |from| Ok::<_, Error>(*pool.view(log, Some(from)).await.map_err(|error| error.of(name))?);
    let mut whole = view(SegmentNumber(0)).await?;
    while let Some(next) = following(&whole) {
        let page = view(next).await?;
        if page.first_segment > next {
            // Trimmed while it was read: what went before has gone too.
            whole = view(page.first_segment).await?;
            continue;
        }
        if !page.segments.contains_key(&next) {
            return Err(Error::Refused(format!("segment {next} of log {log} has no record: report it")));
        }
        let mut segments = std::mem::take(&mut whole.segments);
        segments.extend(page.segments);
        whole = LogView { segments, ..page };
    }
    Ok(whole)
}

/// The segment that is missing behind those in the view, if one is.
fn following(view: &LogView) -> Option<SegmentNumber> {
    let next = view.segments.last_key_value().map_or(view.first_segment, |(number, _)| number.plus(1));
    (next < view.record.value.next_segment).then_some(next)
}
