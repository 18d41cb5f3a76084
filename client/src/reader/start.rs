//! Where a reader begins, and where the log's tail is.

use super::Start;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use piculet_quorum::cursor::Cursor;
use piculet_quorum::ids::{Index, LogId, Offset, SegmentNumber};
use piculet_quorum::meta::{LogView, SegmentState, SegmentView};
use piculet_quorum::quorums::fence_quorum;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A member that does not answer within this time is asked again.
const SILENT: Duration = Duration::from_millis(1000);
/// Pause before members are asked again.
const RETRY: Duration = Duration::from_millis(100);

/// A place in a log, as readers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogPlace {
    pub(super) segment: SegmentNumber,
    pub(super) index: Index,
}

/// What a reader is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where it begins.
    pub(super) at: LogPlace,
    /// Where it ends; never, when it follows.
    pub(super) until: Option<LogPlace>,
    /// Entries at lower offsets are not wanted, should what was the tail be cut off.
    pub(super) floor: Offset,
}

/// The place behind everything that was acknowledged when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tail {
    at: LogPlace,
    offset: Offset,
}

/// Finds out where to begin and to end.
pub(super) async fn plan(
    pool: &Pool,
    options: &ClientOptions,
    log: LogId,
    start: Start,
    follow: bool,
) -> Result<Plan, Error> {
    let view = pool.view(log, None).await?;
    // What lies below the last seal is not beyond the tail, wherever that is.
    let sealed = matches!(start, Start::Offset(offset) if offset < view.record.value.next_base);
    let tail = if follow && (sealed || start == Start::Earliest) {
        None
    } else {
        Some(tail(pool, options, log).await?)
    };
    let until = tail.filter(|_| !follow).map(|tail| tail.at);
    let (at, floor) = match (start, tail) {
        (Start::Latest, Some(tail)) => (tail.at, Offset(0)),
        (Start::Latest, None) => unreachable!("the tail is looked for whenever it is where to begin"),
        (Start::Earliest, _) => (locate(pool, &view, view.trim_offset(), true).await?, view.trim_offset()),
        (Start::Offset(offset), tail) => {
            if offset < view.trim_offset() {
                return Err(Error::Trimmed { trim_offset: view.trim_offset() });
            }
            let at = match tail {
                Some(tail) if offset > tail.offset => {
                    return Err(Error::BeyondTail { offset, tail: tail.offset });
                }
                Some(tail) if offset == tail.offset => tail.at,
                _ => locate(pool, &view, offset, false).await?,
            };
            (at, offset)
        }
    };
    Ok(Plan { at, until, floor })
}

/// The segment and index of an offset below the tail. With `or_later`, what has been deleted
/// meanwhile is passed over.
async fn locate(pool: &Pool, newest: &LogView, offset: Offset, or_later: bool) -> Result<LogPlace, Error> {
    let holds = |view: &LogView| {
        let below = view.segments.iter().rev().find(|(_, s)| s.record.value.base <= offset);
        below.and_then(|(number, s)| {
            let index = offset.index_in(s.record.value.base)?;
            Some(LogPlace { segment: *number, index })
        })
    };
    if let Some(place) = holds(newest) {
        return Ok(place);
    }
    let mut from = newest.first_segment;
    let mut found = None;
    loop {
        let page = pool.view(newest.log, Some(from)).await?;
        found = holds(&page).or(found);
        let beyond = page.segments.values().any(|s| s.record.value.base > offset);
        let next = super::following(&page).filter(|next| *next > from && !beyond);
        match (next, found, page.segments.first_key_value()) {
            (Some(next), ..) => from = next,
            (None, Some(place), _) => return Ok(place),
            (None, None, first) if or_later => {
                let segment = first.map_or(page.record.value.next_segment, |(number, _)| *number);
                return Ok(LogPlace { segment, index: Index(0) });
            }
            (None, None, first) => {
                let trim_offset = first.map_or(page.record.value.next_base, |(_, s)| s.record.value.base);
                return Err(Error::Trimmed { trim_offset });
            }
        }
    }
}

/// The tail: every entry acknowledged before the call lies before it.
async fn tail(pool: &Pool, options: &ClientOptions, log: LogId) -> Result<Tail, Error> {
    let deadline = Instant::now() + options.read_timeout;
    loop {
        let view = pool.view(log, None).await?;
        let Some((number, segment)) = view.open_segment() else {
            let offset = view.record.value.next_base;
            let last = view.segments.iter().next_back();
            let sealed = last.and_then(|(number, s)| Some((*number, s.record.value.state.end()?.end)));
            let (segment, index) = sealed.unwrap_or((view.record.value.next_segment, Index(0)));
            return Ok(Tail { at: LogPlace { segment, index }, offset });
        };
        match writer_tail(pool, log, number, segment).await {
            Ok(index) => {
                // A segment sealed meanwhile has a successor that may hold acknowledged entries.
                let again = pool.view(log, Some(number)).await?;
                let state = again.segments.get(&number).map(|s| &s.record.value.state);
                if state == Some(&SegmentState::Open) {
                    let at = LogPlace { segment: number, index };
                    return Ok(Tail { at, offset: Offset::of(segment.record.value.base, index) });
                }
            }
            Err(silent) if Instant::now() >= deadline => {
                let needed = fence_quorum(segment.record.value.ensemble.len());
                return Err(Error::NoNode(format!(
                    "the tail of the log is known once {needed} members of segment {number} answer: {silent}"
                )));
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

/// The largest tail that a fence quorum of an open segment's members report, or why there is none.
async fn writer_tail(
    pool: &Pool,
    log: LogId,
    number: SegmentNumber,
    segment: &SegmentView,
) -> Result<Index, String> {
    let record = &segment.record.value;
    let mut cursor = Cursor::new(number, record, segment.archived, Index(0));
    let mut asked: FuturesUnordered<_> =
        record
            .ensemble
            .iter()
            .map(|member| async move {
                (member, timeout(SILENT, pool.watermarks(&member.node, log, number)).await)
            })
            .collect();
    let mut answers = 0;
    let mut why = Vec::new();
    while let Some((member, answer)) = asked.next().await {
        match answer {
            Ok(Ok(mark)) if mark.incarnation == member.incarnation => {
                cursor.handle_mark(&member.node, &mark);
                answers += 1;
                if answers >= fence_quorum(record.ensemble.len()) {
                    return Ok(cursor.largest_tail());
                }
            }
            Ok(Ok(_)) => why.push(format!("node {} has lost its buffer", member.node)),
            Ok(Err(error)) => why.push(error.to_string()),
            Err(_) => why.push(format!("node {} does not answer", member.node)),
        }
    }
    Err(why.join("; "))
}
