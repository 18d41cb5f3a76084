//! The `piculet` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    piculet_node::cli::main(std::env::args_os())
}
