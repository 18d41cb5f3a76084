//! `piculet dev`.

use super::Failure;
use crate::local::{ClusterSpec, Etcd, LocalCluster, ScratchDir, Store, tools};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "\
etcd is looked for under PICULET_ETCD, in .tools (where `make setup` puts it) and on the PATH.
Metadata, objects and certificates are kept in the directory, if one is given. The nodes' memory is
not: what it holds is archived before they stop, but for the last entries of a writer that was
killed and whose log nobody has taken over since; such a log cannot be taken over afterwards.")]
pub(super) struct DevArgs {
    /// Where metadata, objects, certificates and logs are kept; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Memory buffer of each node, in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    buffer_mib: u64,
}

pub(super) async fn run(args: DevArgs) -> Result<(), Failure> {
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(ScratchDir::create(&std::env::temp_dir())?),
    };
    let dir = match (&args.dir, &temporary) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of them was just made"),
    };
    std::fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    eprintln!("starting etcd and three nodes in {} …", dir.display());
    let mut etcd = Etcd::start(&dir).await?;
    let objects = dir.join("objects");
    let metadata = format!("{}/piculet", etcd.url());
    let mut spec = ClusterSpec::new(tools::piculet()?, &dir, metadata, Store::directory(&objects));
    spec.buffer_bytes = args.buffer_mib << 20;
    let cluster = LocalCluster::start(spec).await?;
    let addresses: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    println!("export PICULET_NODES={}", addresses.join(","));
    println!("export PICULET_CERTS={}", cluster.certs().display());
    println!();
    for node in cluster.nodes() {
        println!("{}  admin http://{}  log {}", node.name(), node.admin(), node.log().display());
    }
    println!("objects in {}", objects.display());
    println!();
    println!("Set the two variables in another terminal, then for example:");
    println!("  echo hello | piculet append first --create");
    println!("  piculet read first");
    println!("Ctrl-C stops everything.");
    tokio::signal::ctrl_c().await?;
    eprintln!("stopping: what is in memory is archived first …");
    cluster.stop().await?;
    etcd.stop().await?;
    Ok(())
}
