//! Delta debugging (Zeller and Hildebrandt 2002) of a schedule: leave out ever smaller pieces of it
//! for as long as it goes on to fail in the same way.

use super::schedule::Schedule;

/// So often a schedule is tried at most.
const ATTEMPTS_MAX: u32 = 400;

/// The shortest schedule found that still `fails`, and how many were tried.
pub(crate) fn shorten(whole: &Schedule, fails: impl Fn(&Schedule) -> bool) -> (Schedule, u32) {
    let (mut best, mut attempts, mut pieces) = (whole.clone(), 0, 2);
    while best.len() > 0 && attempts < ATTEMPTS_MAX {
        let (len, mut shorter) = (best.len(), None);
        pieces = pieces.min(len);
        for piece in 0..pieces {
            let (from, to) = (piece * len / pieces, (piece + 1) * len / pieces);
            let candidate = best.only(|place| !(from..to).contains(&place));
            attempts += 1;
            if fails(&candidate) {
                shorter = Some(candidate);
                break;
            }
        }
        match shorter {
            Some(candidate) => {
                best = candidate;
                pieces = (pieces - 1).max(2);
            }
            None if pieces == len => break,
            None => pieces *= 2,
        }
    }
    (best, attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_left() {
        let whole = Schedule::of(3);
        let needed = [whole.faults[1], whole.faults[whole.faults.len() - 1]];
        let fails = |schedule: &Schedule| needed.iter().all(|fault| schedule.faults.contains(fault));
        let (short, _) = shorten(&whole, fails);
        assert_eq!(short.faults, needed);
        assert_eq!(short.len(), 2, "no hazard is needed");
    }

    #[test]
    fn a_failure_that_needs_nothing_is_left_with_nothing() {
        let (short, attempts) = shorten(&Schedule::of(4), |_| true);
        assert_eq!(short.len(), 0);
        assert!(attempts < 20, "{attempts}");
    }
}
