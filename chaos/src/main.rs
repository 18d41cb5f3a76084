//! `piculet-chaos`: chaos on live processes, and in simulated clusters.

use clap::{Parser, Subcommand};
use piculet_chaos::check::check;
use piculet_chaos::history;
use piculet_chaos::kill::{self, KillOptions};
use piculet_chaos::sim::{self, SimOptions};
use piculet_chaos::{Failure, check::Summary};
use piculet_quorum::ids::Level;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Chaos: real nodes, a real etcd, a real S3 server and faults; or the same state machines in a
/// simulated cluster.
///
/// Exit codes: 0 everything that is promised held, 1 it did not (or could not be tried), 2 wrong
/// use of the command line.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill nodes with SIGKILL at random moments while a writer appends.
    Kill {
        /// How often nodes are killed.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rounds: u32,
        /// What all random choices come from; the time of day unless given.
        #[arg(long)]
        seed: Option<u64>,
        /// Kill all nodes at once, not one at a time.
        #[arg(long)]
        all: bool,
        /// The durability of the log.
        #[arg(long, value_parser = durability, default_value = "memory")]
        durability: Level,
        /// Keep the history in this directory, as JSON lines.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Simulate clusters that misbehave, in this process, from seeds.
    Sim {
        /// How many seeds, after those that are kept because they once failed.
        #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Run this seed alone.
        #[arg(long, conflicts_with_all = ["seeds", "first"])]
        seed: Option<u64>,
        /// Print what happens in that seed, event by event.
        #[arg(long, requires = "seed")]
        trace: bool,
        /// How many seeds run at a time; one for each core unless given.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
        threads: Option<u16>,
    },
    /// Check a history that was kept.
    Check {
        /// The file.
        history: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Kill { rounds, seed, all, durability, out } => {
            let seed = seed.unwrap_or_else(seed_of_now);
            run_kill(&KillOptions { rounds, seed, all, durability, out }).map(in_words)
        }
        Command::Sim { seed: Some(seed), trace: true, .. } => {
            sim::trace(seed, &mut |line| println!("{line}"))
        }
        Command::Sim { seeds, first, seed, threads, .. } => {
            let (first, seeds) = seed.map_or((first, seeds), |seed| (seed, 1));
            let cores = || std::thread::available_parallelism().map_or(1, usize::from);
            let threads = threads.map_or_else(cores, usize::from);
            sim::run(&SimOptions { first, seeds, threads }, &mut |what| println!("{what}"))
        }
        Command::Check { history } => run_check(&history).map(in_words),
    };
    match result {
        Ok(held) => {
            println!("all of it holds: {held}");
            ExitCode::SUCCESS
        }
        Err(Failure(why)) => {
            eprintln!("piculet-chaos: {why}");
            ExitCode::FAILURE
        }
    }
}

fn in_words(summary: Summary) -> String {
    let Summary { acknowledged, unknown, survived, refused, entries } = summary;
    format!(
        "{entries} entries, {acknowledged} acknowledged, {unknown} unknown ({survived} of them are \
         there), {refused} refused; none lost, changed, reordered or twice"
    )
}

fn run_kill(options: &KillOptions) -> Result<Summary, Failure> {
    let start = Instant::now();
    let mut say = |what: &str| println!("{:>6.1} s  {what}", start.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(kill::run(options, &mut say));
    result.map_err(|Failure(why)| Failure(format!("seed {}: {why}", options.seed)))
}

fn durability(text: &str) -> Result<Level, String> {
    let level = Level::BUFFERED.into_iter().find(|level| level.to_string() == text);
    level.ok_or_else(|| format!("expected {}", Level::BUFFERED.map(|level| level.to_string()).join(" or ")))
}

fn run_check(file: &std::path::Path) -> Result<Summary, Failure> {
    check(&history::load(file)?).map_err(|violations| {
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        Failure(lines.join("\n"))
    })
}

fn seed_of_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
}
