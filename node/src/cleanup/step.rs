//! What can be deleted of a log next.

use crate::core::Core;
use piculet_meta::{MetaError, spelt};
use piculet_quorum::ids::{LogId, SegmentNumber, Timestamp};
use piculet_quorum::meta::delete::{delete_segment_of_deleted, delete_tombstone};
use piculet_quorum::meta::trim::delete_first_segment;
use piculet_quorum::meta::{Key, Range, Record, Snapshot, Txn};
use piculet_storage::PartName;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A tombstone stays this long at least, by the clocks of whoever deleted the log and of the node
/// that looks: whatever was on its way to the log still finds it.
pub const TOMBSTONE_GRACE: Duration = Duration::from_secs(3600);

/// The next step for one log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing can be deleted.
    Nothing,
    /// Not before this has passed.
    Wait(Duration),
    /// The records contradict each other.
    Damaged(String),
    /// Its first segment can be deleted; the parts are those that are recorded.
    Segment { number: SegmentNumber, txn: Txn, parts: Vec<PartName> },
    /// Its tombstone can be deleted.
    Tombstone(Txn),
}

/// Reads (linearizable) what can be deleted of a log next.
pub(super) async fn read(core: &Core, log: LogId) -> Result<Step, MetaError> {
    let first_key = Key::First(log);
    let keys = |number| {
        [Key::Log(log), Key::Config(log), Key::Trim(log), Key::First(log), Key::Segment(log, number)]
    };
    let mut number = first_segment(&core.meta.read(std::slice::from_ref(&first_key), &[]).await?, &first_key);
    loop {
        let snapshot = core.meta.read(&keys(number), &[Range::Parts(log, number)]).await?;
        let now = first_segment(&snapshot, &first_key);
        if now == number {
            let step = of(log, &snapshot, wall_clock());
            let next = snapshot.log(&Key::Log(log)).filter(|record| record.value.deleted.is_none());
            if let Some(next) = next.map(|record| record.value.next_segment)
                && matches!(&step, Step::Segment { parts, .. } if !parts.is_empty())
                && has_producers(&snapshot, log)
                && !newer_part(core, log, number, next).await?
            {
                return Ok(Step::Nothing);
            }
            return Ok(step);
        }
        // Another node was faster. It only grows, so this ends.
        number = now;
    }
}

/// Whether the log may have entries of producers: then its newest part stays until there is a newer
/// one, for it has the table.
fn has_producers(snapshot: &Snapshot, log: LogId) -> bool {
    let config = snapshot.records.get(&Key::Config(log)).map(|record| &record.value);
    matches!(config, Some(Record::Config(config)) if config.producers)
}

/// Whether a segment behind this one has a part. Once there is one there will always be.
async fn newer_part(
    core: &Core,
    log: LogId,
    number: SegmentNumber,
    next: SegmentNumber,
) -> Result<bool, MetaError> {
    for later in number.0 + 1..next.0 {
        let range = Range::Parts(log, SegmentNumber(later));
        if !core.meta.read(&[], &[range]).await?.records.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn first_segment(snapshot: &Snapshot, key: &Key) -> SegmentNumber {
    snapshot.first(key).map(|first| first.value.first_segment).unwrap_or_default()
}

/// The time for people, in milliseconds since 1970.
pub(crate) fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What can be deleted next of a log, whose records the snapshot has: those of the log itself, and
/// of its first segment with its parts.
pub(super) fn of(log: LogId, snapshot: &Snapshot, now: Timestamp) -> Step {
    let Some(record) = snapshot.log(&Key::Log(log)) else { return Step::Nothing };
    let Some(first) = snapshot.first(&Key::First(log)) else {
        return Step::Damaged("the log has no record of its first segment's number".to_owned());
    };
    let number = first.value.first_segment;
    if number >= record.value.next_segment {
        let Some(deleted) = record.value.deleted else { return Step::Nothing };
        let grace = u64::try_from(TOMBSTONE_GRACE.as_millis()).unwrap_or(u64::MAX);
        let left = deleted.0.saturating_add(grace).saturating_sub(now.0).min(grace);
        return match delete_tombstone(log, &record, &first) {
            Some(txn) if left == 0 => Step::Tombstone(txn),
            Some(_) => Step::Wait(Duration::from_millis(left)),
            None => Step::Nothing,
        };
    }
    let txn = match snapshot.segment(&Key::Segment(log, number)) {
        None => return Step::Damaged(format!("there is no record of the log's first segment, {number}")),
        Some(segment) if record.value.deleted.is_some() => {
            delete_segment_of_deleted(log, &record, &first, &segment)
        }
        // The newest segment stays, for the next one continues it.
        Some(_) if number.plus(1) == record.value.next_segment => None,
        Some(segment) => {
            if let Err(damage) = segment.value.check(log, number) {
                return Step::Damaged(format!("{damage} (key {})", spelt(&damage.key)));
            }
            snapshot.trim(&Key::Trim(log)).and_then(|trim| delete_first_segment(log, &first, &trim, &segment))
        }
    };
    let Some(txn) = txn else { return Step::Nothing };
    let parts = snapshot.records.iter().filter_map(|(key, record)| match (key, &record.value) {
        (Key::Part(of, segment, first), Record::Part(part)) if *of == log && *segment == number => {
            let (end, chain) = (part.at.end, part.at.chain);
            let (encoder, skip) = (part.encoder, part.skip);
            Some(PartName { log, segment: number, first: *first, end, chain, encoder, skip })
        }
        _ => None,
    });
    Step::Segment { number, txn, parts: parts.collect() }
}
