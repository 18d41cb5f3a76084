//! Bugs that real systems have shipped, put into the machines one at a time: the simulator finds each
//! within few seeds, and says which invariant is broken.

use piculet_chaos::sim;
use piculet_quorum::mutation::{Mutation, without};

/// So many seeds are tried at most.
const SEEDS: u64 = 300;

#[test]
fn known_bugs_are_found() {
    let sound = {
        let _missing = without(None);
        sim::first_that_fails(1..11)
    };
    assert_eq!(sound, None, "without a bug there is nothing to find");
    let mut missed = Vec::new();
    for (mutation, expected) in BUGS {
        let _missing = without(Some(mutation));
        match sim::first_that_fails(1..SEEDS) {
            Some((seed, broken, why)) => {
                println!(
                    "| `{mutation:?}` | {seed} | {broken} |  {}",
                    why.chars().take(100).collect::<String>()
                );
                if !expected.contains(&broken.as_str()) {
                    missed
                        .push(format!("{mutation:?} breaks {broken} at seed {seed}, expected {expected:?}"));
                }
            }
            None => missed.push(format!("{mutation:?} is not found in {SEEDS} seeds")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

const BUGS: [(Mutation, &[&str]); 22] = [
    (Mutation::TailUnfenced, &[]),
    (Mutation::AmnesiacAppends, &[]),
    (Mutation::AmnesiacFences, &[]),
    (Mutation::SmallestTail, &[]),
    (Mutation::SecondTail, &[]),
    (Mutation::OneCopySettles, &[]),
    (Mutation::HoldersByTail, &[]),
    (Mutation::UploadsOwnTail, &[]),
    (Mutation::EndsBelowArchive, &[]),
    (Mutation::UploadsUncommitted, &[]),
    (Mutation::FenceNotKept, &[]),
    (Mutation::FenceDropped, &[]),
    (Mutation::ReaderTrustsOneTail, &[]),
    (Mutation::ReaderTrustsUnsettled, &[]),
    (Mutation::StaleRepairsCount, &[]),
    (Mutation::SealsBlindly, &[]),
    (Mutation::RollsBlindly, &[]),
    (Mutation::SealsUndrained, &[]),
    (Mutation::GoesOnAfterSeal, &[]),
    (Mutation::AcksUnsettled, &[]),
    (Mutation::CountsUnsynced, &[]),
    (Mutation::AcksAfterFence, &[]),
];
