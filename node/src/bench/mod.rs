//! `piculet bench`: measures, and says with every figure what it was measured with.

mod append;
mod suite;

use crate::cli::Failure;
use clap::Subcommand;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Append to a fresh log of a running cluster.
    Append(append::AppendArgs),
    /// Start a cluster on this machine and measure appends at windows 1, 64 and 1024.
    Suite(suite::SuiteArgs),
}

/// Runs a benchmark.
///
/// # Errors
/// When the cluster fails; there are no figures then.
pub async fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Append(args) => append::run(args).await,
        BenchCommand::Suite(args) => suite::run(args).await,
    }
}
