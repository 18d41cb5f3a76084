//! `piculet node`.

use super::Failure;
use crate::config::NodeConfig;
use crate::config::node::LogConfig;
use crate::settings::Sources;
use clap::Args;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Args)]
#[command(after_help = "\
Settings come from the file, from PICULET_NODE_… variables and from flags, in rising priority.
`piculet config doc` describes all of them, `piculet config show` says where each value came from.
SIGTERM and SIGINT end it in good order: it takes no new segments, archives what it holds, and goes.

Examples:
  piculet node --config node.toml
  piculet node --config node.toml --set buffer.memory.bytes=4GiB --set flush.interval=500ms")]
pub(super) struct NodeArgs {
    /// The node's settings, a TOML file; not needed when the rest says everything that is required.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its name: the setting `name`.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where it serves QUIC: the setting `listen`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where it serves HTTP to its operators: the setting `admin`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<String>,
    /// Override a setting; repeat for more.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

/// What `--set` takes.
pub(super) fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE such as flush.interval=500ms".to_owned()),
    }
}

pub(super) fn run(args: NodeArgs) -> Result<(), Failure> {
    let mut sources = Sources::environment()
        .with_flag("--name", "name", args.name)
        .with_flag("--listen", "listen", args.listen)
        .with_flag("--admin", "admin", args.admin)
        .with_set(&args.set);
    sources.file = args.config;
    let config = NodeConfig::load(&sources)?;
    start_logging(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("piculet-background")
        .enable_all()
        .build()?;
    Ok(runtime.block_on(crate::node::run(config))?)
}

fn start_logging(log: &LogConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&log.filter)?;
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log.json {
        logging.json().init();
    } else {
        logging.with_ansi(false).init();
    }
    Ok(())
}
