//! Why a writer has stopped, and what became of the entries that were on their way.

use crate::error::Error;
use piculet_quorum::ids::{Epoch, LogName, Offset, SegmentNumber};
use piculet_quorum::meta::LogView;
use piculet_quorum::outcome::{Fate, Gone};
use piculet_quorum::writer::Unresolved;
use std::collections::BTreeMap;

/// Why no further append is acknowledged.
#[derive(Clone, Debug)]
pub(super) enum Stopped {
    Closed,
    Fenced(Epoch),
    Deleted,
    Broken(String),
    /// The application has dropped it.
    Dropped,
}

/// What is known of entries that were not acknowledged when the writer stopped.
#[derive(Clone, Debug)]
enum Verdict {
    Appended,
    NotAppended,
    Unknown(String),
}

/// The end of a writer, with the entries that it left behind.
#[derive(Debug)]
pub(super) struct Ending {
    why: Stopped,
    name: LogName,
    /// Ranges of offsets by the first, each with the offset behind its last.
    known: BTreeMap<Offset, (Offset, Verdict)>,
    /// What is not known yet.
    pending: Vec<Unresolved>,
}

impl Ending {
    /// The end of a writer that has `committed` everything below and may have sent `sent` too; what
    /// follows that was never sent.
    pub(super) fn new(why: Stopped, name: LogName, committed: Offset, sent: Vec<Unresolved>) -> Self {
        let unsent = sent.last().map_or(committed, |last| Offset::of(last.base, last.to));
        let known = BTreeMap::from([(unsent, (Offset(u64::MAX), Verdict::NotAppended))]);
        let deleted = matches!(why, Stopped::Deleted);
        let mut ending = Self { why, name, known, pending: sent };
        if deleted {
            ending.give_up(Gone::Deleted.to_string());
        }
        ending
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.why, Stopped::Closed)
    }

    /// The first segment with entries whose outcome is not known yet: only a writer that was
    /// replaced can find out more.
    pub(super) fn unresolved(&self) -> Option<SegmentNumber> {
        let replaced = matches!(self.why, Stopped::Fenced(_) | Stopped::Deleted);
        self.pending.first().filter(|_| replaced).map(|first| first.segment)
    }

    /// Why an append that is made now fails: nothing is appended.
    pub(super) fn refusal(&self) -> Error {
        match &self.why {
            Stopped::Closed | Stopped::Dropped => Error::Closed,
            Stopped::Fenced(epoch) => Error::Fenced { epoch: *epoch },
            Stopped::Deleted => Error::Deleted(self.name.clone()),
            Stopped::Broken(why) => {
                Error::Refused(format!("the writer stopped: {why}; the entry was not appended"))
            }
        }
    }

    /// What became of the entries from one offset to another: none while it is not known.
    pub(super) fn of(&self, from: Offset, to: Offset) -> Option<Result<(), Error>> {
        match &self.why {
            Stopped::Closed => return Some(Err(Error::Closed)),
            Stopped::Broken(why) => return Some(Err(Error::Stopped(why.clone()))),
            Stopped::Dropped => return Some(Err(Error::Stopped("it was dropped".to_owned()))),
            Stopped::Fenced(_) | Stopped::Deleted => {}
        }
        let overlaps = |first: Offset, behind: Offset| first < to && behind > from;
        let pending =
            |left: &Unresolved| overlaps(Offset::of(left.base, left.from), Offset::of(left.base, left.to));
        if self.pending.iter().any(pending) {
            return None;
        }
        let known = self.known.iter().filter(|(first, (behind, _))| overlaps(**first, *behind));
        let mut result = Ok(());
        for (_, (_, verdict)) in known {
            match verdict {
                Verdict::Appended => {}
                Verdict::NotAppended if result.is_ok() => result = Err(self.refusal()),
                Verdict::NotAppended => {}
                Verdict::Unknown(why) => return Some(Err(Error::OutcomeUnknown { why: why.clone() })),
            }
        }
        Some(result)
    }

    /// Where the entries end that were appended, from `committed` on without a gap.
    pub(super) fn appended(&self, mut committed: Offset) -> Offset {
        while let Some((behind, Verdict::Appended)) = self.known.get(&committed) {
            committed = *behind;
        }
        committed
    }

    /// Takes in what the metadata show of the log, which this writer wrote in `epoch`.
    pub(super) fn learn(&mut self, view: &LogView, epoch: Epoch) {
        if view.record.value.deleted.is_some() {
            self.why = Stopped::Deleted;
        }
        for mut left in std::mem::take(&mut self.pending) {
            match Fate::of(view, epoch, left.segment) {
                Fate::Gone(why) => self.note(&left, Verdict::Unknown(why.to_string())),
                Fate::Recorded { appended, end } => {
                    let appended = appended.clamp(left.from, left.to);
                    self.note(&Unresolved { to: appended, ..left }, Verdict::Appended);
                    left.from = appended;
                    if let Some(end) = end.map(|end| end.clamp(left.from, left.to)) {
                        self.note(&Unresolved { from: end, ..left }, Verdict::NotAppended);
                        left.to = end;
                    }
                    if left.from < left.to {
                        self.pending.push(left);
                    }
                }
            }
        }
    }

    /// What is not known by now will stay unknown.
    pub(super) fn give_up(&mut self, why: String) {
        for left in std::mem::take(&mut self.pending) {
            self.note(&left, Verdict::Unknown(why.clone()));
        }
    }

    /// The log's record is gone: it was deleted a while ago.
    pub(super) fn log_is_gone(&mut self) {
        self.why = Stopped::Deleted;
        self.give_up(Gone::Deleted.to_string());
    }

    fn note(&mut self, range: &Unresolved, verdict: Verdict) {
        if range.from < range.to {
            let [from, to] = [range.from, range.to].map(|index| Offset::of(range.base, index));
            self.known.insert(from, (to, verdict));
        }
    }
}
