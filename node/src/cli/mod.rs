//! The command line: one file per command.

mod append;
mod certs;
mod completions;
mod config;
mod connect;
mod declare_lost;
mod dev;
mod entry;
mod failure;
mod input;
mod log;
mod node;
mod output;
mod ping;
mod read;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod version;

use crate::bench::BenchCommand;
use crate::demo::DemoArgs;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub use connect::ConnectArgs;
pub use failure::Failure;
pub use output::Output;
pub(crate) use output::{Show, say};

/// What commands other than a node log: a filter.
const LOG_VARIABLE: &str = "PICULET_LOG";

/// Piculet: a write-ahead log in the memory of three nodes, archived in object storage.
#[derive(Debug, Parser)]
#[command(
    name = "piculet",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes:
   0  done
   1  failed: the message says why
   2  wrong use of the command line or a wrong setting
   3  there is no such log, or it has been deleted
   4  there is a log of that name already
   5  a live writer holds the log, or another took it over
   6  the offset is trimmed, or beyond the tail
   7  no node answers, or too few
   8  refused for good: certificate, version, cluster
   9  the outcome is not known: look before trying again
  10  data is damaged or lost, or copies differ
  11  the nodes are overloaded: try again later
  12  the node's disk failed: replace it before the node is started again
  13  the log does not end at the offset that was expected

Examples:
  piculet dev                                   three nodes on this machine, to try it out
  echo hello | piculet append first --create
  piculet read first
  piculet log list --output json"
)]
pub struct Cli {
    /// Form of what is printed: text for people; json for programs, as docs/CLI.md describes it, and
    /// errors as {"error":{"code","message"}} on the standard error. `read` knows text as raw, too.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Node(node::NodeArgs),
    /// Show the settings and where they come from, or describe all there are.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make a certificate authority, and certificates for nodes and clients.
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Create, list, describe, change, truncate and delete logs.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Append to a log, from a file or the standard input.
    Append(append::AppendArgs),
    /// Read a log to the standard output.
    Read(read::ReadArgs),
    /// Show how the nodes are.
    Status(status::StatusArgs),
    /// Declare that a node will never come back with what it held.
    DeclareLost(declare_lost::DeclareLostArgs),
    /// Try every node: whether it answers, how fast, over which datagrams, and who it is.
    Ping(ping::PingArgs),
    /// Show the version of this program and of what it speaks and writes.
    Version(version::VersionArgs),
    /// Print a script that completes commands and options in a shell.
    Completions(completions::CompletionsArgs),
    /// Run three nodes on this machine, to try Piculet out; Ctrl-C stops them all.
    Dev(dev::DevArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Show on this machine that nothing is lost when nodes and writers are killed.
    Demo(DemoArgs),
}

/// Runs the command that the arguments ask for, to its end.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    match Cli::try_parse_from(&args) {
        Ok(cli) => run(cli),
        Err(error) if error.use_stderr() && asks_for_json(&args) => {
            let text = error.render().to_string();
            let failure = Failure::usage(text.trim_end().trim_start_matches("error: "));
            failure.report(Output::Json);
            ExitCode::from(failure.exit_code())
        }
        // Help and version come this way too; clap knows where each goes.
        Err(error) => error.exit(),
    }
}

/// Whether a command line that cannot be parsed has `--output json` in it.
fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--output=json")
        || args.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

fn run(cli: Cli) -> ExitCode {
    abort_on_panic();
    if !matches!(cli.command, Command::Node(_) | Command::Dev(_) | Command::Demo(_)) {
        end_with_the_pipe();
    }
    let output = cli.output;
    match carry_out(cli.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(output);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn carry_out(command: Command, output: Output) -> Result<(), Failure> {
    // A node's log is a matter of its settings.
    if !matches!(command, Command::Node(_)) {
        start_logging()?;
    }
    match command {
        Command::Node(args) => node::run(args),
        Command::Config(command) => config::run(command, output),
        Command::Certs(command) => certs::run(&command, output),
        Command::Log(command) => on_one_thread(log::run(command, output)),
        Command::Append(args) => on_one_thread(append::run(args, output)),
        Command::Read(args) => on_one_thread(read::run(args, output)),
        Command::Status(args) => on_one_thread(status::run(args, output)),
        Command::DeclareLost(args) => on_one_thread(declare_lost::run(args, output)),
        Command::Ping(args) => on_one_thread(ping::run(args, output)),
        Command::Version(args) => version::run(&args, output),
        Command::Completions(args) => completions::run(&args),
        Command::Dev(args) => on_one_thread(dev::run(args, output)),
        Command::Bench(command) => on_one_thread(crate::bench::run(command, output)),
        Command::Demo(args) => on_one_thread(crate::demo::run(args, output)),
    }
}

/// A client is fastest when all of it runs on one thread.
fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Logs go to the standard error, from WARN on unless `PICULET_LOG` says otherwise.
fn start_logging() -> Result<(), Failure> {
    let said = std::env::var_os(LOG_VARIABLE).unwrap_or_else(|| "warn".into());
    let text = said.to_str().filter(|text| crate::config::is_filter(text)).ok_or_else(|| {
        let expected = "expected a filter such as warn,piculet_client=debug";
        Failure::new("settings", format!("{LOG_VARIABLE} is {said:?}, {expected}"))
    })?;
    let filter = EnvFilter::try_new(text)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    Ok(())
}

/// A command whose reader has gone, as in `piculet read log | head`, ends at once and quietly.
fn end_with_the_pipe() {
    // SAFETY: SIG_DFL is a valid disposition, and no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// A violated invariant stops the process rather than letting it limp on.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
