//! A short form of `make sim`.

use piculet_chaos::sim::{self, SimOptions};

#[test]
fn every_seed_keeps_the_invariants_and_catches_up() {
    let options = SimOptions { first: 1, seeds: 150, threads: 2 };
    match sim::run(&options, &mut |what| println!("{what}")) {
        Ok(summary) => println!("{summary}"),
        Err(failure) => panic!("{}", failure.0),
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let trace = |seed| {
        let mut lines = Vec::new();
        let summary = sim::trace(seed, &mut |line| lines.push(line.to_owned())).expect("it holds");
        assert!(lines.len() > 100, "it says what happens");
        (summary, lines)
    };
    for seed in 1..4 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    assert_ne!(trace(1), trace(2));
}
