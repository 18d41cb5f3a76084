//! `piculet bench`: measures, and says with every figure what it was measured with.

mod append;
mod idle;
mod suite;
mod takeover;

use crate::cli::{Failure, Output};
use clap::Subcommand;

/// What is measured.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  piculet bench suite                          a cluster on this machine, and the whole table
  piculet bench append --nodes 10.0.0.1:7781 --window 1024")]
pub enum BenchCommand {
    /// Append to a fresh log of a running cluster.
    #[command(after_help = "\
The log is left behind; its name begins with bench/.

Examples:
  piculet bench append --seconds 10
  piculet bench append --size 100 --window 1024 --output json")]
    Append(append::AppendArgs),
    /// Start a cluster on this machine and measure appends at windows 1, 64 and 1024.
    #[command(after_help = "\
etcd is looked for under PICULET_ETCD, in .tools (where `make setup` puts it) and on the PATH.

Examples:
  piculet bench suite
  piculet bench suite --seconds 2 --rounds 3 --output json")]
    Suite(suite::SuiteArgs),
    /// Start a cluster on this machine and measure what idle logs cost it.
    #[command(after_help = "\
Each log is written to once and then left alone, its writer open, until it has parked.

Examples:
  piculet bench idle
  piculet bench idle --logs 1000 --output json")]
    Idle(idle::IdleArgs),
    /// Start a cluster on this machine and measure how long takeovers take.
    #[command(after_help = "\
Measured from the call until the new writer can append: new epoch, fence, end of the last segment,
next segment. The writer before has gone: once from an idle log, once with 16 entries on their way.
A takeover of an idle log is to take at most 50 ms at the 99th percentile.

Examples:
  piculet bench takeover
  piculet bench takeover --at-most 50          exit code 1 when it takes longer
  piculet bench takeover --rounds 1000 --output json")]
    Takeover(takeover::TakeoverArgs),
}

/// Runs a benchmark.
///
/// # Errors
/// When the cluster fails; there are no figures then.
pub async fn run(command: BenchCommand, output: Output) -> Result<(), Failure> {
    match command {
        BenchCommand::Append(args) => append::run(args, output).await,
        BenchCommand::Suite(args) => suite::run(args, output).await,
        BenchCommand::Idle(args) => idle::run(args, output).await,
        BenchCommand::Takeover(args) => takeover::run(args, output).await,
    }
}
