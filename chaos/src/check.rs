//! Checks a history, in one pass over its appends and one over each reader: an append returns its
//! offset, so nothing has to be searched for.

use crate::history::{Content, Event, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// An append was acknowledged and the log does not hold it.
    Lost {
        /// Number of the entry.
        entry: u64,
        /// Where it was acknowledged.
        offset: u64,
    },
    /// The log holds something else where an append was acknowledged.
    Changed {
        /// Number of the entry that was acknowledged.
        entry: u64,
        /// Where.
        offset: u64,
    },
    /// One entry is in the log twice.
    Duplicated {
        /// Number of the entry.
        entry: u64,
        /// The two places.
        offsets: (u64, u64),
    },
    /// An entry stands before one that was appended before it.
    Reordered {
        /// Number of the entry that comes too late.
        entry: u64,
        /// Where it is.
        offset: u64,
        /// Number of the later entry that stands before it.
        behind: u64,
    },
    /// The log holds something that nobody appended.
    Foreign {
        /// Where.
        offset: u64,
    },
    /// An append was refused, and is in the log all the same.
    Refused {
        /// Number of the entry.
        entry: u64,
        /// Where it is.
        offset: u64,
    },
    /// Two appends were acknowledged at one offset, or later ones before earlier ones.
    Acknowledged {
        /// Number of the entry.
        entry: u64,
        /// Where.
        offset: u64,
    },
    /// A reader missed an offset, or saw one again.
    Jumped {
        /// The reader.
        reader: String,
        /// What came.
        offset: u64,
        /// What was to come.
        expected: u64,
    },
    /// A reader saw another content than the whole log has.
    Differs {
        /// The reader.
        reader: String,
        /// Where.
        offset: u64,
    },
    /// Nobody read the log to its end, so nothing is proved.
    Unread,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { entry, offset } => write!(f, "LOST: entry {entry}, acknowledged at offset {offset}"),
            Self::Changed { entry, offset } => {
                write!(
                    f,
                    "CHANGED: offset {offset}, where entry {entry} was acknowledged, holds something else"
                )
            }
            Self::Duplicated { entry, offsets: (first, second) } => {
                write!(f, "DUPLICATED: entry {entry} is at offsets {first} and {second}")
            }
            Self::Reordered { entry, offset, behind } => {
                write!(f, "REORDERED: entry {entry}, at offset {offset}, stands behind entry {behind}")
            }
            Self::Foreign { offset } => write!(f, "FOREIGN: nobody appended what is at offset {offset}"),
            Self::Refused { entry, offset } => {
                write!(f, "REFUSED: entry {entry} was said not to be appended, and is at offset {offset}")
            }
            Self::Acknowledged { entry, offset } => {
                write!(f, "ACKNOWLEDGED: entry {entry} at offset {offset}, not behind the one before")
            }
            Self::Jumped { reader, offset, expected } => {
                write!(f, "JUMPED: reader {reader} saw offset {offset} where {expected} was to come")
            }
            Self::Differs { reader, offset } => {
                write!(
                    f,
                    "DIFFERS: reader {reader} saw something at offset {offset} that the log does not hold"
                )
            }
            Self::Unread => f.write_str("UNREAD: no reader has seen the end of the log"),
        }
    }
}

/// What a history that is sound amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Appends of unknown outcome.
    pub unknown: u64,
    /// Those of them that are in the log.
    pub survived: u64,
    /// Appends that were refused.
    pub refused: u64,
    /// Entries in the log.
    pub entries: u64,
}

/// The appends of a history.
#[derive(Default)]
struct Appends<'a> {
    by_content: BTreeMap<&'a Content, u64>,
    contents: BTreeMap<u64, &'a Content>,
    acknowledged: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
}

/// Checks a history of one log. The log is what the last reader that saw its end has read.
///
/// # Errors
/// With everything that must never happen and did.
pub fn check(history: &[Record]) -> Result<Summary, Vec<Violation>> {
    let mut violations = Vec::new();
    let appends = appends(history, &mut violations);
    let logs = readers(history, &mut violations);
    let ended = history.iter().rev().find_map(|record| match &record.event {
        Event::End { reader, offset } => Some((reader.as_str(), *offset)),
        _ => None,
    });
    let none = Vec::new();
    let log = match ended.map(|(reader, offset)| (logs.get(reader).unwrap_or(&none), offset)) {
        Some((log, end)) if log.len() as u64 == end => log,
        _ => {
            violations.push(Violation::Unread);
            return Err(violations);
        }
    };
    for (reader, seen) in &logs {
        for (offset, content) in (0..).zip(seen) {
            if log.get(offset as usize) != Some(content) {
                violations.push(Violation::Differs { reader: (*reader).to_owned(), offset });
            }
        }
    }
    let survived = check_log(log, &appends, &mut violations);
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(Summary {
        acknowledged: appends.acknowledged.len() as u64,
        unknown: appends.unknown.len() as u64,
        survived,
        refused: appends.refused.len() as u64,
        entries: log.len() as u64,
    })
}

fn appends<'a>(history: &'a [Record], violations: &mut Vec<Violation>) -> Appends<'a> {
    let mut appends = Appends::default();
    let mut last = None;
    for record in history {
        match &record.event {
            Event::Invoked { entry, content, .. } => {
                appends.by_content.insert(content, *entry);
                appends.contents.insert(*entry, content);
            }
            Event::Acknowledged { entry, offset } => {
                if last.is_some_and(|last| (*entry, *offset) <= last || *offset <= last.1) {
                    violations.push(Violation::Acknowledged { entry: *entry, offset: *offset });
                }
                last = Some((*entry, *offset));
                appends.acknowledged.insert(*entry, *offset);
            }
            Event::Refused { entry, .. } => {
                appends.refused.insert(*entry);
            }
            Event::Unknown { entry, .. } => {
                appends.unknown.insert(*entry);
            }
            _ => {}
        }
    }
    appends
}

/// What each reader saw, from offset 0 on.
fn readers<'a>(
    history: &'a [Record],
    violations: &mut Vec<Violation>,
) -> BTreeMap<&'a str, Vec<&'a Content>> {
    let mut readers: BTreeMap<&str, Vec<&Content>> = BTreeMap::new();
    for record in history {
        let Event::Read { reader, offset, content } = &record.event else { continue };
        let seen = readers.entry(reader).or_default();
        let expected = seen.len() as u64;
        if *offset != expected {
            violations.push(Violation::Jumped { reader: reader.clone(), offset: *offset, expected });
        }
        seen.push(content);
    }
    readers
}

/// Compares the whole log with what was appended. Returns how many entries of unknown outcome are
/// in it.
fn check_log(log: &[&Content], appends: &Appends<'_>, violations: &mut Vec<Violation>) -> u64 {
    for (entry, offset) in &appends.acknowledged {
        match log.get(*offset as usize) {
            None => violations.push(Violation::Lost { entry: *entry, offset: *offset }),
            Some(found) if Some(found) != appends.contents.get(entry) => {
                violations.push(Violation::Changed { entry: *entry, offset: *offset });
            }
            Some(_) => {}
        }
    }
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut latest: Option<u64> = None;
    for (offset, content) in (0..).zip(log) {
        let Some(&entry) = appends.by_content.get(content) else {
            violations.push(Violation::Foreign { offset });
            continue;
        };
        if appends.refused.contains(&entry) {
            violations.push(Violation::Refused { entry, offset });
        }
        if let Some(first) = places.insert(entry, offset) {
            violations.push(Violation::Duplicated { entry, offsets: (first, offset) });
        } else if let Some(behind) = latest.filter(|latest| entry < *latest) {
            violations.push(Violation::Reordered { entry, offset, behind });
        }
        latest = latest.max(Some(entry));
    }
    places.keys().filter(|entry| appends.unknown.contains(entry)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(entry: u64) -> Content {
        Content::of(&entry.to_le_bytes())
    }

    /// Entries 0 to 5 were appended: 3 has an unknown outcome, 4 was refused, the others were
    /// acknowledged. Then the log was read, and held these.
    fn history(log: &[u64]) -> Vec<Record> {
        let mut events = Vec::new();
        for entry in 0..6 {
            events.push(Event::Invoked { entry, bytes: 8, content: content(entry) });
        }
        for (entry, offset) in [(0, 0), (1, 1), (2, 2)] {
            events.push(Event::Acknowledged { entry, offset });
        }
        events.push(Event::Unknown { entry: 3, why: String::new() });
        events.push(Event::Refused { entry: 4, why: String::new() });
        // The outcome of the third decides where the last one is.
        events.push(Event::Acknowledged { entry: 5, offset: if log.contains(&3) { 4 } else { 3 } });
        for (offset, entry) in (0..).zip(log) {
            events.push(Event::Read { reader: "final".to_owned(), offset, content: content(*entry) });
        }
        events.push(Event::End { reader: "final".to_owned(), offset: log.len() as u64 });
        (0..).zip(events).map(|(at_us, event)| Record { at_us, event }).collect()
    }

    #[test]
    fn a_sound_history_is_summed_up() {
        let with = Summary { acknowledged: 4, unknown: 1, survived: 1, refused: 1, entries: 5 };
        assert_eq!(check(&history(&[0, 1, 2, 3, 5])), Ok(with));
        let without = Summary { survived: 0, entries: 4, ..with };
        assert_eq!(check(&history(&[0, 1, 2, 5])), Ok(without));
    }

    fn violations(log: &[u64]) -> Vec<Violation> {
        check(&history(log)).expect_err("it is not sound")
    }

    #[test]
    fn a_lost_entry_is_found() {
        assert_eq!(violations(&[0, 1, 2, 3]), [Violation::Lost { entry: 5, offset: 4 }]);
        let found = violations(&[0, 2, 3, 5]);
        assert!(found.contains(&Violation::Changed { entry: 1, offset: 1 }), "{found:?}");
        assert!(found.contains(&Violation::Lost { entry: 5, offset: 4 }), "{found:?}");
        assert!(!violations(&[]).is_empty());
    }

    #[test]
    fn a_changed_entry_is_found() {
        let found = violations(&[0, 99, 2, 3, 5]);
        assert_eq!(found, [Violation::Changed { entry: 1, offset: 1 }, Violation::Foreign { offset: 1 }]);
    }

    #[test]
    fn a_duplicated_entry_is_found() {
        let found = violations(&[0, 1, 2, 3, 5, 3]);
        assert_eq!(found, [Violation::Duplicated { entry: 3, offsets: (3, 5) }]);
    }

    #[test]
    fn reordered_entries_are_found() {
        let found = violations(&[0, 2, 1, 3, 5]);
        assert!(found.contains(&Violation::Reordered { entry: 1, offset: 2, behind: 2 }), "{found:?}");
        // Also where nothing was acknowledged that could tell.
        let found = violations(&[0, 1, 2, 5, 3]);
        assert!(found.iter().any(|v| matches!(v, Violation::Reordered { entry: 3, .. })), "{found:?}");
    }

    #[test]
    fn an_entry_that_was_refused_is_found() {
        assert_eq!(
            violations(&[0, 1, 2, 3, 5, 4]).first(),
            Some(&Violation::Refused { entry: 4, offset: 5 })
        );
    }

    #[test]
    fn a_reader_that_jumps_or_sees_something_else_is_found() {
        let with = |events: Vec<Event>| {
            let mut history = history(&[0, 1, 2, 3, 5]);
            history.splice(0..0, events.into_iter().map(|event| Record { at_us: 0, event }));
            check(&history).expect_err("it is not sound")
        };
        let read = |offset, entry| Event::Read { reader: "tail".to_owned(), offset, content: content(entry) };
        let jumped = Violation::Jumped { reader: "tail".to_owned(), offset: 2, expected: 1 };
        assert_eq!(with(vec![read(0, 0), read(2, 2)])[0], jumped);
        let again = Violation::Jumped { reader: "tail".to_owned(), offset: 0, expected: 1 };
        assert_eq!(with(vec![read(0, 0), read(0, 0)])[0], again);
        let differs = Violation::Differs { reader: "tail".to_owned(), offset: 1 };
        assert_eq!(with(vec![read(0, 0), read(1, 99)]), [differs]);
    }

    #[test]
    fn acknowledgements_out_of_order_are_found() {
        let mut history = history(&[0, 1, 2, 3, 5]);
        for record in &mut history {
            if let Event::Acknowledged { entry: 2, offset } = &mut record.event {
                *offset = 1;
            }
        }
        let found = check(&history).expect_err("it is not sound");
        assert!(found.contains(&Violation::Acknowledged { entry: 2, offset: 1 }), "{found:?}");
    }

    #[test]
    fn a_log_that_nobody_read_to_its_end_proves_nothing() {
        let mut history = history(&[0, 1, 2, 3, 5]);
        let end = history.pop();
        assert_eq!(check(&history), Err(vec![Violation::Unread]));
        history.extend(end);
        history.retain(|record| !matches!(record.event, Event::Read { offset: 4, .. }));
        assert_eq!(check(&history), Err(vec![Violation::Unread]));
    }
}
