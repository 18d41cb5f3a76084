//! Reading a log: entries in order, none skipped, none twice, none that may still vanish.
//!
//! | question | where |
//! |---|---|
//! | where does a reader begin, and where is the tail | [`start`] |
//! | how does it go from segment to segment | [`run`] |
//! | which node serves a segment, and what may be shown of it | [`segment`] |
//! | are these the bytes that were written | [`batches`] |

mod batches;
mod run;
mod segment;
mod start;
#[cfg(test)]
mod tests;

use crate::entry::Entry;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use futures::Stream;
use piculet_quorum::ids::{LogId, Offset, SegmentNumber};
use piculet_quorum::meta::LogView;
use run::Reading;
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
        log: LogId,
        start: Start,
        options: ReadOptions,
    ) -> Result<Self, Error> {
        let plan = start::plan(&pool, client, log, start, options.follow).await?;
        let (out, pieces) = mpsc::channel(PIECES);
        let task = tokio::spawn(Reading::new(pool, client, log, &plan, out).run(plan.at));
        Ok(Self { pieces, current: Vec::new().into_iter(), task, over: false })
    }

    /// The next entry; `None` at the end, when it does not follow. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when the log is trimmed beyond the reader's place; [`Error::NoNode`]
    /// when no node could be read from for a long time; [`Error::Damaged`] when what comes is not
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
/// When no node answers, or the metadata lack a segment.
pub(crate) async fn whole_view(pool: &Pool, log: LogId) -> Result<LogView, Error> {
    let mut whole = *pool.view(log, Some(SegmentNumber(0))).await?;
    while let Some(next) = following(&whole) {
        let page = *pool.view(log, Some(next)).await?;
        if page.first_segment > next {
            // Trimmed while it was read: what went before has gone too.
            whole = *pool.view(log, Some(page.first_segment)).await?;
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
