//! Segments of logs with producers whose upload waits for the segment before: nothing newer of the
//! log is archived until that one is, so somebody is told when it takes long.

use piculet_quorum::time::{Span, Time};

/// After so long somebody is told.
const TOLD_AFTER: Span = Span::secs(60);

/// Since when the upload of a segment waits for the segment before, if it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    since: Option<Time>,
    told: bool,
}

impl Waiting {
    /// It has to wait. True when that must be said now: once for a segment.
    pub(super) fn goes_on(&mut self, now: Time) -> bool {
        let since = *self.since.get_or_insert(now);
        let tell = !self.told && now.since(since) >= TOLD_AFTER;
        self.told |= tell;
        tell
    }

    /// It has to wait no longer.
    pub(super) fn is_over(&mut self) {
        self.since = None;
    }

    /// Whether it waits.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_only_when_it_takes_long() {
        let at = |secs: u64| Time(5).after(Span::secs(secs));
        let mut waiting = Waiting::default();
        assert!(!waiting.waits() && !waiting.goes_on(at(0)) && !waiting.goes_on(at(59)));
        waiting.is_over();
        assert!(!waiting.waits() && !waiting.goes_on(at(61)), "it begins anew");
        assert!(waiting.waits() && waiting.goes_on(at(121)));
        assert!(!waiting.goes_on(at(500)), "it was told");
    }
}
