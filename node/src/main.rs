//! The `piculet` command.

use clap::Parser;
use piculet_node::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    piculet_node::cli::run(Cli::parse())
}
