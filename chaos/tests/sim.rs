//! A short form of the simulation.

use piculet_chaos::sim::{self, SimOptions};

#[test]
fn every_seed_keeps_the_invariants_and_catches_up() {
    let options = SimOptions { first: 1, seeds: 150, threads: 2 };
    match sim::run(&options, &mut |what| println!("{what}")) {
        Ok(summary) => println!("{summary}"),
        Err(failure) => panic!("{}", failure.0),
    }
}
