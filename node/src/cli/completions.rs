//! `piculet completions`.

use super::{Cli, Failure};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};
use std::io::{self, Write};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(piculet completions bash)
  piculet completions zsh > ~/.zfunc/_piculet
  piculet completions fish > ~/.config/fish/completions/piculet.fish")]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    // Written at once: the generator itself panics where nobody takes what it writes.
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "piculet", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
