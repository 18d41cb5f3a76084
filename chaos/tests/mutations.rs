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
                println!("{mutation:?}: seed {seed} breaks {broken}");
                if !expected.contains(&broken.as_str()) {
                    missed.push(format!(
                        "{mutation:?} breaks {broken} at seed {seed}, not {expected:?}: {why}"
                    ));
                }
            }
            None => missed.push(format!("{mutation:?} is not found in {SEEDS} seeds")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Each with the invariants of which it breaks one, whichever a seed meets first.
const BUGS: [(Mutation, &[&str]); 13] = [
    (Mutation::TailUnfenced, &["I1", "I2"]),
    (Mutation::SmallestTail, &["I1", "I2", "tail"]),
    (Mutation::SecondTail, &["I1", "I2"]),
    (Mutation::OneCopySettles, &["I11", "I12"]),
    (Mutation::UploadsUncommitted, &["I5"]),
    (Mutation::FenceNotKept, &["I7"]),
    (Mutation::FenceDropped, &["I7"]),
    (Mutation::ReaderTrustsOneTail, &["I2", "I11"]),
    (Mutation::SealsUndrained, &["I1"]),
    (Mutation::GoesOnAfterSeal, &["I6"]),
    (Mutation::AcksUnsettled, &["I11", "I12"]),
    (Mutation::CountsUnsynced, &["I11", "I12"]),
    (Mutation::LossBelowTrim, &["I10"]),
];
