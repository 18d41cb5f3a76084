//! The command line: one file per command.

mod append;
mod certs;
mod config;
mod connect;
mod dev;
mod log;
mod node;
mod read;
mod status;

use crate::bench::BenchCommand;
use crate::demo::DemoArgs;
use crate::settings::SettingsError;
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub use connect::ConnectArgs;

/// What commands other than a node log: a filter.
const LOG_VARIABLE: &str = "PICULET_LOG";

/// Piculet: a write-ahead log in the memory of three nodes, archived in object storage.
///
/// Exit codes: 0 done, 1 failed (the message says why), 2 wrong use of the command line
/// or of a setting.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
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
    /// Create, list and describe logs.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Append to a log, from a file or the standard input: takes the log over.
    Append(append::AppendArgs),
    /// Read a log to the standard output.
    Read(read::ReadArgs),
    /// Show how the nodes are.
    Status(status::StatusArgs),
    /// Run etcd and three nodes on this machine, to try Piculet out; Ctrl-C stops them all.
    Dev(dev::DevArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Show on this machine that nothing is lost when nodes and writers are killed.
    Demo(DemoArgs),
}

/// A command's failure, as its user reads it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), code: 1 }
    }
}

impl Failure {
    /// The settings are refused: as wrong a use as that of a flag.
    fn refused(error: SettingsError) -> Self {
        Self { message: error.to_string(), code: 2 }
    }
}

/// Runs a command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    abort_on_panic();
    if !matches!(cli.command, Command::Node(_) | Command::Dev(_) | Command::Demo(_)) {
        end_with_the_pipe();
    }
    let result = carry_out(cli.command);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            eprintln!("piculet: {message}");
            ExitCode::from(code)
        }
    }
}

fn carry_out(command: Command) -> Result<(), Failure> {
    // A node's log is a matter of its settings.
    if !matches!(command, Command::Node(_)) {
        start_logging()?;
    }
    match command {
        Command::Node(args) => node::run(args),
        Command::Config(command) => config::run(command),
        Command::Certs(command) => certs::run(&command),
        Command::Log(command) => on_one_thread(log::run(command)),
        Command::Append(args) => on_one_thread(append::run(args)),
        Command::Read(args) => on_one_thread(read::run(args)),
        Command::Status(args) => on_one_thread(status::run(args)),
        Command::Dev(args) => on_one_thread(dev::run(args)),
        Command::Bench(command) => on_one_thread(crate::bench::run(command)),
        Command::Demo(args) => on_one_thread(crate::demo::run(args)),
    }
}

/// A client is fastest when all of it runs on one thread.
fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Logs go to the standard error, from WARN on unless `PICULET_LOG` says otherwise.
fn start_logging() -> Result<(), Failure> {
    let said = std::env::var_os(LOG_VARIABLE).unwrap_or_else(|| "warn".into());
    let text = said.to_str().filter(|text| crate::config::is_filter(text)).ok_or_else(|| Failure {
        message: format!("{LOG_VARIABLE} is {said:?}, expected a filter such as warn,piculet_client=debug"),
        code: 2,
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
