//! The command line: one file per command.

mod append;
mod certs;
mod connect;
mod dev;
mod log;
mod read;
mod status;

use crate::bench::BenchCommand;
use crate::config::{NodeConfig, NodeFlags};
use crate::demo::DemoArgs;
use clap::{Args, Parser, Subcommand};
use piculet_quorum::ids::NodeId;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub use connect::ConnectArgs;

/// Piculet: a write-ahead log in the memory of three nodes, archived in object storage.
///
/// Exit codes: 0 done, 1 failed (the message says why), 2 wrong use of the command line.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Node(NodeArgs),
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

#[derive(Debug, Args)]
struct NodeArgs {
    /// The node's settings, a TOML file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Its name, instead of the file's.
    #[arg(long, value_parser = |name: &str| NodeId::new(name))]
    name: Option<NodeId>,
    /// Where it serves QUIC, instead of the file's.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where it serves HTTP to its operators, instead of the file's.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
}

/// A command's failure, as its user reads it.
#[derive(Debug)]
pub struct Failure(String);

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Runs a command to its end.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    start_logging(&cli.command);
    abort_on_panic();
    if !matches!(cli.command, Command::Node(_) | Command::Dev(_) | Command::Demo(_)) {
        end_with_the_pipe();
    }
    let result = match cli.command {
        Command::Node(args) => run_node(args),
        Command::Certs(command) => certs::run(&command),
        Command::Log(command) => on_one_thread(log::run(command)),
        Command::Append(args) => on_one_thread(append::run(args)),
        Command::Read(args) => on_one_thread(read::run(args)),
        Command::Status(args) => on_one_thread(status::run(args)),
        Command::Dev(args) => on_one_thread(dev::run(args)),
        Command::Bench(command) => on_one_thread(crate::bench::run(command)),
        Command::Demo(args) => on_one_thread(crate::demo::run(args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            eprintln!("piculet: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A client is fastest when all of it runs on one thread.
fn on_one_thread(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn run_node(args: NodeArgs) -> Result<(), Failure> {
    let flags = NodeFlags { name: args.name, listen: args.listen, admin: args.admin };
    let config = NodeConfig::load(&args.config, &flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("piculet-background")
        .enable_all()
        .build()?;
    Ok(runtime.block_on(crate::node::run(config))?)
}

/// Logs go to the standard error: a node's from INFO on, a client's from WARN on, unless
/// `PICULET_LOG` says otherwise.
fn start_logging(command: &Command) {
    let usual = if matches!(command, Command::Node(_)) { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("PICULET_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
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
