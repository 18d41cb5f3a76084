//! Warnings that would come with every request, said now and then.

use parking_lot::Mutex;
use piculet_quorum::time::{Span, Time};

/// How long nothing is said after a warning.
const QUIET: Span = Span::secs(10);

/// Decides which of many equal warnings is said.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Time>,
    /// Warnings since then.
    passed_over: u64,
}

impl Seldom {
    /// When a warning is to be said now: how many were passed over since the last.
    pub(super) fn due(&self, now: Time) -> Option<u64> {
        let mut said = self.said.lock();
        if said.last.is_some_and(|last| now < last.after(QUIET)) {
            said.passed_over += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.passed_over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_said_at_once_and_then_seldom_and_none_is_forgotten() {
        let (seldom, start) = (Seldom::default(), Time::default());
        assert_eq!(seldom.due(start), Some(0));
        for millis in [0, 5, 9_999] {
            assert_eq!(seldom.due(start.after(Span::millis(millis))), None);
        }
        assert_eq!(seldom.due(start.after(QUIET)), Some(3));
        assert_eq!(seldom.due(start.after(QUIET)), None);
    }
}
