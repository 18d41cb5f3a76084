//! Bugs that real systems have shipped, put into the machines one at a time: the simulator finds each
//! within few seeds, says which invariant is broken, and tells of it what a person needs.

use piculet_chaos::sim::{self, SimOptions};
use piculet_quorum::mutation::{Mutation, without};

/// So many seeds are tried at most.
const SEEDS: u64 = 600;

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

#[test]
fn a_failure_is_told_with_the_little_that_it_takes_and_how_it_ends() {
    let _missing = without(Some(Mutation::TailUnfenced));
    let options = SimOptions { first: 1, seeds: SEEDS, threads: 1 };
    let mut said = Vec::new();
    let failure = sim::run(&options, &mut |line| said.push(line.to_owned()));
    let report = failure.expect_err("a guard is missing").0;
    assert!(said.iter().any(|line| line.ends_with("making its schedule shorter")), "{said:?}");
    assert!(!report.contains("it does not fail again"), "{report}");
    let (first, rest) = report.split_once("\n\n").expect("what is broken, and more");
    assert!(first.starts_with("seed ") && first.contains(" fails: I"), "{first}");
    let (schedule, events) = rest.split_once("\n\n").expect("a schedule, and events");
    let mut schedule = schedule.lines();
    let needed = schedule.next().expect("how much of it is needed");
    assert!(needed.contains("faults and hazards are needed"), "{needed}");
    let counts: Vec<usize> = needed.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(counts.len() == 2 && 0 < counts[0] && counts[0] < counts[1], "{needed}");
    let at =
        |line: &&str| line.trim_start().split_once(" ms ").is_some_and(|(at, _)| at.parse::<f64>().is_ok());
    let hazards = schedule.clone().filter_map(|line| line.strip_prefix("hazards: ")).next().expect("hazards");
    let hazards = hazards.split(", ").filter(|hazard| *hazard != "none").count();
    assert_eq!(schedule.filter(at).count() + hazards, counts[0], "all that is needed is told: {rest}");
    let mut events = events.lines();
    let ends = events.next().expect("how it ends");
    assert!(ends.starts_with("the last events") && ends.contains("ends so: I"), "{ends}");
    assert!(events.filter(at).count() > 10, "the events before it: {rest}");
}

/// Each with the invariants of which it breaks one, whichever a seed meets first.
const BUGS: [(Mutation, &[&str]); 19] = [
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
    (Mutation::LossBelowTrim, &["I10", "liveness"]),
    (Mutation::HoldersUnguarded, &["I9"]),
    (Mutation::RollsBlindly, &["I4"]),
    (Mutation::SealsBlindly, &["I3", "I4", "tail"]),
    (Mutation::FreesCommitted, &["I8"]),
    (Mutation::DeletesUntrimmed, &["I10"]),
    (Mutation::ProposesOnce, &["liveness"]),
];
