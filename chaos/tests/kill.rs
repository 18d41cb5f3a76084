//! A short form of the scenario, with another seed each time.

use piculet_chaos::history;
use piculet_chaos::kill::{self, KillOptions};
use piculet_quorum::ids::Level;
use std::time::SystemTime;

#[test]
fn nothing_is_lost_when_nodes_are_killed() {
    let seed = match std::env::var("PICULET_CHAOS_SEED") {
        Ok(seed) => seed.parse().expect("PICULET_CHAOS_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_micros() as u64,
    };
    println!("seed {seed}; PICULET_CHAOS_SEED={seed} repeats its choices");
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
    let options =
        KillOptions { rounds: 2, seed, all: false, durability: Level::Memory, out: Some(out.clone()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let summary = runtime.block_on(kill::run(&options, &mut |what| println!("{what}")));
    let file = out.join(format!("kill-{seed}.jsonl"));
    let summary = summary.unwrap_or_else(|failure| panic!("{}\nhistory: {}", failure.0, file.display()));
    assert!(summary.acknowledged > 400, "{summary:?}");

    // The file tells the same as the memory.
    let kept = history::load(&file).expect("it was written");
    assert_eq!(piculet_chaos::check::check(&kept), Ok(summary));
    let kills = kept.iter().filter(|record| matches!(record.event, history::Event::Killed { .. }));
    assert_eq!(kills.count(), 2);
    std::fs::remove_file(file).expect("it is there");
}
