//! The upload of a segment's parts by one of its members.
//!
//! A member asks for the role when there is something to upload, keeps it while it makes progress,
//! and gives it back when it does not. The election only saves work: two members that upload the
//! same range make the same object, and one transaction wins.

use crate::ids::Index;
use crate::limits::{FLUSH_BYTES, FLUSH_BYTES_MIN, FLUSH_INTERVAL, FLUSH_INTERVAL_MAX};
use crate::time::{Span, Time};

/// When a part is uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlushOptions {
    /// When this many committed bytes wait.
    pub bytes: u64,
    /// When this many wait and the oldest has waited for `interval`.
    pub bytes_min: u64,
    /// See `bytes_min`; also the unit of patience with an uploader that makes no progress.
    pub interval: Span,
    /// When the oldest has waited this long.
    pub interval_max: Span,
}

impl Default for FlushOptions {
    fn default() -> Self {
        Self {
            bytes: FLUSH_BYTES,
            bytes_min: FLUSH_BYTES_MIN,
            interval: FLUSH_INTERVAL,
            interval_max: FLUSH_INTERVAL_MAX,
        }
    }
}

/// What a member sees of its segment when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sight {
    /// Below it everything is recorded as archived.
    pub archived: Index,
    /// Below it this member may upload: committed, or settled, or it is the sole holder.
    pub uploadable: Index,
    /// Bytes between the two at this member.
    pub bytes: u64,
    /// Where the segment ends, when it is sealed.
    pub end: Option<Index>,
    /// Whether waiting is out of place: a member is lost, memory runs short, or the node stops.
    pub urgent: bool,
    /// How many members come before this one in the order in which they stand for election.
    pub rank: u64,
    /// Whether this member is the only one that holds the segment.
    pub sole: bool,
    /// Whether somebody has the role, as far as this node knows: `Some(true)` when it is this one.
    pub elected: Option<bool>,
    /// Whether whoever has the role is lost, and only its lease keeps it.
    pub forsaken: bool,
}

/// What a member does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArchiverStep {
    /// Nothing, until the time given or until it sees something new.
    Wait(Option<Time>),
    /// Ask for the role.
    Stand,
    /// Upload a part that starts at the first index and ends at most at the second.
    Upload(Index, Index),
    /// Everything is archived: mark the segment so.
    MarkArchived,
    /// Give the role back.
    Resign,
}

/// One member's part in the upload of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Archiver {
    options: FlushOptions,
    /// The place of the oldest waiting entry, and since when it waits.
    waiting: Option<(Index, Time)>,
    /// Since when the archive has not grown although something was due.
    stalled: Option<(Index, Time)>,
    /// Since when this member has had the role.
    tenure: Option<Time>,
    /// Not to act before this time: something just failed.
    not_before: Time,
    failures: u32,
    /// How often in a row it had to wait for something else.
    waits: u32,
}

/// The longest pause after repeated failures.
const PAUSE_MAX: Span = Span::secs(5);
/// How long members wait for those that come before them in the order of election.
const RANK_DELAY: Span = Span::millis(200);

impl Archiver {
    /// A member that has not looked yet.
    #[must_use]
    pub fn new(options: FlushOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// What to do, from what the member sees.
    pub fn step(&mut self, now: Time, sight: &Sight) -> ArchiverStep {
        if sight.end == Some(sight.archived) {
            return self.unless_paused(now, ArchiverStep::MarkArchived);
        }
        self.look(now, sight);
        self.tenure = (sight.elected == Some(true)).then(|| self.tenure.unwrap_or(now));
        let Some(due) = self.due(sight) else {
            // A seal may show that this member lacks what is left.
            let short = sight.end.is_some() && sight.elected == Some(true);
            return if short { ArchiverStep::Resign } else { ArchiverStep::Wait(None) };
        };
        if now < due {
            return ArchiverStep::Wait(Some(due));
        }
        let (_, since) = *self.stalled.get_or_insert((sight.archived, now));
        let patience = Span(3 * self.options.interval.0.max(1));
        let turn = since.after(Span(RANK_DELAY.0 * sight.rank));
        match sight.elected {
            // What went wrong before this member had the role is not counted against it.
            Some(true)
                if self.failures > 0
                    && self.tenure.is_some_and(|tenure| now >= tenure.max(since).after(patience)) =>
            {
                self.stalled = Some((sight.archived, now));
                ArchiverStep::Resign
            }
            Some(true) => self.unless_paused(now, ArchiverStep::Upload(sight.archived, sight.uploadable)),
            _ if sight.sole || now >= since.after(Span(2 * patience.0)) || sight.forsaken && now >= turn => {
                self.unless_paused(now, ArchiverStep::Upload(sight.archived, sight.uploadable))
            }
            Some(false) if sight.forsaken => ArchiverStep::Wait(Some(turn)),
            Some(false) => ArchiverStep::Wait(Some(since.after(Span(2 * patience.0)))),
            None if now < turn => ArchiverStep::Wait(Some(turn)),
            None => self.unless_paused(now, ArchiverStep::Stand),
        }
    }

    /// The last step worked.
    pub fn succeeded(&mut self) {
        (self.failures, self.waits) = (0, 0);
        self.not_before = Time(0);
    }

    /// The last step has to wait for something that others do: the next ones come after a pause that
    /// grows, and it is not counted against the member.
    pub fn waits(&mut self, now: Time) {
        self.waits = self.waits.saturating_add(1);
        let pause = Span::millis(25 << self.waits.min(7));
        self.not_before = now.after(pause.min(PAUSE_MAX));
    }

    /// The last step failed: the next ones come after a pause that grows.
    pub fn failed(&mut self, now: Time) {
        self.failures = self.failures.saturating_add(1);
        let pause = Span::millis(50 << self.failures.min(7));
        self.not_before = now.after(pause.min(PAUSE_MAX));
    }

    fn unless_paused(&self, now: Time, step: ArchiverStep) -> ArchiverStep {
        if now < self.not_before { ArchiverStep::Wait(Some(self.not_before)) } else { step }
    }

    fn look(&mut self, now: Time, sight: &Sight) {
        if self.stalled.is_some_and(|(at, _)| at != sight.archived) {
            self.stalled = None;
        }
        if sight.uploadable <= sight.archived {
            self.waiting = None;
        } else if self.waiting.is_none_or(|(at, _)| at < sight.archived) {
            self.waiting = Some((sight.archived, now));
        }
    }

    /// When the waiting entries are due for upload, if there are any.
    fn due(&self, sight: &Sight) -> Option<Time> {
        let (_, since) = self.waiting?;
        let now_due = sight.urgent || sight.bytes >= self.options.bytes;
        Some(if now_due || sight.end.is_some() {
            since
        } else if sight.bytes >= self.options.bytes_min {
            since.after(self.options.interval)
        } else {
            since.after(self.options.interval_max)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGHT: Sight = Sight {
        archived: Index(0),
        uploadable: Index(0),
        bytes: 0,
        end: None,
        urgent: false,
        rank: 0,
        sole: false,
        elected: None,
        forsaken: false,
    };

    fn at(ms: u64) -> Time {
        Time(1_000_000).after(Span::millis(ms))
    }

    fn waiting(bytes: u64) -> Sight {
        Sight { uploadable: Index(10), bytes, ..SIGHT }
    }

    #[test]
    fn parts_are_uploaded_by_size_by_age_and_at_the_end() {
        let options = FlushOptions::default();
        let mut archiver = Archiver::new(options);
        assert_eq!(archiver.step(at(0), &SIGHT), ArchiverStep::Wait(None));
        let little = waiting(options.bytes_min - 1);
        assert_eq!(archiver.step(at(0), &little), ArchiverStep::Wait(Some(at(60_000))));
        let some = waiting(options.bytes_min);
        assert_eq!(archiver.step(at(10), &some), ArchiverStep::Wait(Some(at(1_000))));
        assert_eq!(archiver.step(at(1_000), &some), ArchiverStep::Stand);
        let mut fresh = Archiver::new(options);
        assert_eq!(fresh.step(at(0), &waiting(options.bytes)), ArchiverStep::Stand);
        let mut sealed = Archiver::new(options);
        assert_eq!(sealed.step(at(0), &Sight { end: Some(Index(10)), ..little }), ArchiverStep::Stand);
        let mut urgent = Archiver::new(options);
        assert_eq!(urgent.step(at(0), &Sight { urgent: true, ..little }), ArchiverStep::Stand);
    }

    #[test]
    fn the_elected_member_uploads_and_the_others_wait_their_turn() {
        let options = FlushOptions::default();
        let due = waiting(options.bytes);
        let mut elected = Archiver::new(options);
        let step = elected.step(at(0), &Sight { elected: Some(true), ..due });
        assert_eq!(step, ArchiverStep::Upload(Index(0), Index(10)));
        let mut third = Archiver::new(options);
        assert_eq!(third.step(at(0), &Sight { rank: 2, ..due }), ArchiverStep::Wait(Some(at(400))));
        assert_eq!(third.step(at(400), &Sight { rank: 2, ..due }), ArchiverStep::Stand);
        let mut other = Archiver::new(options);
        let elsewhere = Sight { elected: Some(false), ..due };
        assert_eq!(other.step(at(0), &elsewhere), ArchiverStep::Wait(Some(at(6_000))));
        let step = other.step(at(6_000), &elsewhere);
        assert_eq!(
            step,
            ArchiverStep::Upload(Index(0), Index(10)),
            "no progress for long: upload without the role"
        );
    }

    #[test]
    fn nobody_waits_for_an_uploader_that_is_lost() {
        let mut second = Archiver::new(FlushOptions::default());
        let due = Sight { urgent: true, rank: 1, elected: Some(false), forsaken: true, ..waiting(1) };
        assert_eq!(second.step(at(0), &due), ArchiverStep::Wait(Some(at(200))), "the first has its turn");
        assert_eq!(second.step(at(200), &due), ArchiverStep::Upload(Index(0), Index(10)));
    }

    #[test]
    fn a_member_that_keeps_failing_resigns() {
        let mut archiver = Archiver::new(FlushOptions::default());
        let due = Sight { elected: Some(true), ..waiting(FLUSH_BYTES) };
        let mut now = at(0);
        let mut uploads = 0;
        loop {
            match archiver.step(now, &due) {
                ArchiverStep::Upload(..) => {
                    uploads += 1;
                    archiver.failed(now);
                }
                ArchiverStep::Wait(Some(until)) => now = until,
                ArchiverStep::Resign => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(now >= at(3_000) && uploads > 1, "{uploads} uploads until {now:?}");
    }

    #[test]
    fn a_member_that_has_to_wait_keeps_the_role() {
        let mut archiver = Archiver::new(FlushOptions::default());
        let due = Sight { elected: Some(true), ..waiting(FLUSH_BYTES) };
        let (mut now, mut uploads) = (at(0), 0);
        while now < at(60_000) {
            match archiver.step(now, &due) {
                ArchiverStep::Upload(..) => {
                    uploads += 1;
                    archiver.waits(now);
                }
                ArchiverStep::Wait(Some(until)) => now = until,
                other => panic!("{other:?}"),
            }
        }
        assert!((20..40).contains(&uploads), "{uploads} uploads in a minute");
        archiver.succeeded();
        assert_eq!(archiver.step(now, &due), ArchiverStep::Upload(Index(0), Index(10)));
    }

    #[test]
    fn a_member_that_failed_long_ago_tries_before_it_resigns() {
        let options = FlushOptions { interval: Span::millis(20), ..FlushOptions::default() };
        let mut archiver = Archiver::new(options);
        let due = waiting(options.bytes);
        archiver.step(at(0), &due);
        archiver.failed(at(0));
        let elected = Sight { elected: Some(true), ..due };
        assert_eq!(archiver.step(at(5_000), &elected), ArchiverStep::Upload(Index(0), Index(10)));
    }

    #[test]
    fn a_sealed_segment_is_marked_when_its_parts_reach_the_end() {
        let mut archiver = Archiver::new(FlushOptions::default());
        let whole = Sight { archived: Index(10), uploadable: Index(10), end: Some(Index(10)), ..SIGHT };
        assert_eq!(archiver.step(at(0), &whole), ArchiverStep::MarkArchived);
    }

    #[test]
    fn a_member_that_lacks_the_rest_of_a_sealed_segment_gives_the_role_back() {
        let mut archiver = Archiver::new(FlushOptions::default());
        let short = Sight {
            archived: Index(10),
            uploadable: Index(10),
            end: Some(Index(20)),
            elected: Some(true),
            ..SIGHT
        };
        assert_eq!(archiver.step(at(0), &short), ArchiverStep::Resign);
    }
}
