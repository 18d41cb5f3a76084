//! Where a reader begins.

use super::Start;
use super::tail::Search;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use piculet_quorum::ids::{Index, LogId, LogName, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::{LogView, SegmentRecord};

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
    /// Entries below this offset are not wanted either when they are older than this.
    pub(super) since: Option<(Timestamp, Offset)>,
}

/// Finds out where to begin and to end.
pub(super) async fn plan(
    pool: &Pool,
    options: &ClientOptions,
    (name, log): (&LogName, LogId),
    start: Start,
    follow: bool,
) -> Result<Plan, Error> {
    let search = Search::new(pool, options, name, log);
    let view = search.view(None).await?;
    // What lies below the last seal is not beyond the tail, wherever that is.
    let sealed = matches!(start, Start::Offset(offset) if offset < view.record.value.next_base);
    let tail = if follow && (sealed || start == Start::Earliest) { None } else { Some(search.tail().await?) };
    let until = tail.filter(|_| !follow).map(|tail| tail.at);
    let mut since = None;
    let (at, floor) = match (start, tail) {
        (Start::Latest, Some(tail)) => (tail.at, Offset(0)),
        (Start::Latest | Start::Timestamp(_), None) => {
            unreachable!("the tail is looked for whenever it may be where to begin")
        }
        (Start::Timestamp(wanted), Some(tail)) => {
            since = Some((wanted, tail.offset));
            let earliest = locate(&search, &view, view.trim_offset(), true).await?;
            let at = written_since(&search, &view, wanted).await?.unwrap_or(tail.at);
            (at.max(earliest).min(tail.at), view.trim_offset())
        }
        (Start::Earliest, _) => (locate(&search, &view, view.trim_offset(), true).await?, view.trim_offset()),
        (Start::Offset(offset), tail) => {
            if offset < view.trim_offset() {
                return Err(Error::Trimmed { trim_offset: view.trim_offset() });
            }
            let at = match tail {
                Some(tail) if offset > tail.offset => {
                    return Err(Error::BeyondTail { offset, tail: tail.offset });
                }
                Some(tail) if offset == tail.offset => tail.at,
                _ => locate(&search, &view, offset, false).await?,
            };
            (at, offset)
        }
    };
    Ok(Plan { at, until, floor, since })
}

/// The segment and index of an offset below the tail. With `or_later`, what has been deleted
/// meanwhile is passed over; and of segments that begin at the offset it is the first, for of an empty
/// one a loss may have to be told, as of one that ends there.
async fn locate(
    search: &Search<'_>,
    newest: &LogView,
    offset: Offset,
    or_later: bool,
) -> Result<LogPlace, Error> {
    // With whether it is one that begins there: an earlier page may have another.
    let holds = |view: &LogView| {
        let segments = view.segments.iter().map(|(number, s)| (*number, &s.record.value));
        let mut begun = segments.clone().filter(|_| or_later);
        let first = begun.find_map(|(number, record)| Some((number, begin(record, offset)?)));
        let below = || segments.rev().find_map(|(n, record)| Some((n, offset.index_in(record.base)?)));
        let found = first.or_else(below);
        found.map(|(segment, index)| (LogPlace { segment, index }, first.is_some()))
    };
    if let Some((place, first)) = holds(newest)
        && (!first || place.segment == newest.first_segment)
    {
        return Ok(place);
    }
    let mut from = newest.first_segment;
    let mut found = None;
    loop {
        let page = search.view(Some(from)).await?;
        if !found.is_some_and(|(_, first)| first) {
            found = holds(&page).or(found);
        }
        let beyond = page.segments.values().any(|s| s.record.value.base > offset);
        let next = super::following(&page).filter(|next| *next > from && !beyond);
        match (next, found, page.segments.first_key_value()) {
            (Some(next), ..) => from = next,
            (None, Some((place, _)), _) => return Ok(place),
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

/// Where to begin in a segment that starts at an offset, or that ends there with a loss: what was
/// acknowledged from the offset on may be among it.
fn begin(record: &SegmentRecord, offset: Offset) -> Option<Index> {
    if record.base == offset {
        return Some(Index(0));
    }
    let lossy = record.loss.is_some_and(|loss| loss.beyond);
    let end = record.state.end().filter(|_| lossy)?.end;
    record.kept().filter(|_| Offset::checked_of(record.base, end) == Some(offset))
}

/// The start of the segment before whose end the first entry lies that is not older than `wanted`:
/// the last segment that begins before it. Nothing when there is no segment.
async fn written_since(
    search: &Search<'_>,
    newest: &LogView,
    wanted: Timestamp,
) -> Result<Option<LogPlace>, Error> {
    let start = |segment| LogPlace { segment, index: Index(0) };
    // The one looked for is `found` or lies in `low..high`.
    let (mut low, mut high) = (newest.first_segment, newest.record.value.next_segment);
    let mut found = None;
    while low < high {
        let middle = SegmentNumber(low.0 + (high.0 - low.0) / 2);
        let page = search.view(Some(middle)).await?;
        let older = |number: &SegmentNumber| {
            page.segments.get(number).is_some_and(|s| s.record.value.base_timestamp < wanted)
        };
        let Some((first, last)) = page.segments.keys().next().zip(page.segments.keys().next_back()) else {
            // Everything up to here was deleted meanwhile.
            low = middle.plus(1);
            continue;
        };
        match page.segments.keys().rev().find(|number| older(number)) {
            Some(number) if number == last => (found, low) = (Some(*number), number.plus(1)),
            Some(number) => return Ok(Some(start(*number))),
            // What was before it has been deleted.
            None if *first > middle => return Ok(Some(start(*first))),
            None => high = middle,
        }
    }
    let first = Some(newest.first_segment).filter(|first| *first < newest.record.value.next_segment);
    Ok(found.or(first).map(start))
}
