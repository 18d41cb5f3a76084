//! Short forms of the scenario, with another seed each time.

use piculet_chaos::history;
use piculet_chaos::kill::{self, KillOptions};
use piculet_quorum::ids::Level;
use std::time::SystemTime;

fn seed() -> u64 {
    match std::env::var("PICULET_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("PICULET_CHAOS_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_micros() as u64,
    }
}

/// Two rounds, each of which kills so many nodes, and the history of them.
fn two_rounds(all: bool, durability: Level, nodes: usize) {
    let seed = seed();
    println!("seed {seed}; PICULET_CHAOS_SEED={seed} repeats its choices");
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{durability}-{nodes}"));
    let options = KillOptions { rounds: 2, seed, all, durability, out: Some(out.clone()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let summary = runtime.block_on(kill::run(&options, &mut |what| println!("{what}")));
    let file = out.join(format!("kill-{seed}.jsonl"));
    let summary = summary.unwrap_or_else(|failure| panic!("{}\nhistory: {}", failure.0, file.display()));
    assert!(summary.acknowledged > 400, "{summary:?}");

    // The file tells the same as the memory.
    let kept = history::load(&file).expect("it was written");
    assert_eq!(piculet_chaos::check::check(&kept), Ok(summary));
    let kills = kept.iter().filter(|record| matches!(record.event, history::Event::Killed { .. }));
    assert_eq!(kills.count(), 2 * nodes);
    std::fs::remove_file(file).expect("it is there");
}

#[test]
fn nothing_is_lost_when_nodes_are_killed() {
    two_rounds(false, Level::Memory, 1);
}

#[test]
fn nothing_in_shared_memory_is_lost_when_all_nodes_are_killed_at_once() {
    two_rounds(true, Level::Memory, 3);
}

#[test]
fn nothing_on_disk_is_lost_when_all_nodes_are_killed_at_once() {
    two_rounds(true, Level::Disk, 3);
}
