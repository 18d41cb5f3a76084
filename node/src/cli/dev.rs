//! `piculet dev`.

use super::output::{Show, say};
use super::{Failure, Output};
use crate::local::{ClusterSpec, LocalCluster, ScratchDir, Store, tools};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing else is needed: metadata are kept in a sqlite file and objects in a directory. Both stay
with the certificates in --dir, if that is given, and the next start goes on with them. The nodes'
memory is not kept: what it holds is archived before they stop. Logs whose writers have gone are
recovered and archived by the nodes.

Examples:
  piculet dev                     in a temporary directory, removed at the end
  piculet dev --dir ~/piculet     logs are there again the next time")]
pub(super) struct DevArgs {
    /// Where metadata, objects, certificates and logs are kept; a temporary directory unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Memory buffer of each node, in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    buffer_mib: u64,
}

/// A cluster that runs.
#[derive(Serialize)]
struct Running {
    /// What PICULET_NODES is set to.
    addresses: String,
    /// What PICULET_CERTS is set to.
    certs: PathBuf,
    nodes: Vec<Node>,
    metadata: String,
    objects: PathBuf,
}

#[derive(Serialize)]
struct Node {
    node: String,
    admin: String,
    log: PathBuf,
}

pub(super) async fn run(args: DevArgs, output: Output) -> Result<(), Failure> {
    // Before anything is started, so that no signal finds it half done.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
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
    say(&format!("starting three nodes in {} …", dir.display()));
    let objects = dir.join("objects");
    let metadata = format!("sqlite:{}", dir.join("metadata.db").display());
    let mut spec = ClusterSpec::new(tools::piculet()?, &dir, metadata.clone(), Store::directory(&objects));
    spec.buffer_bytes = args.buffer_mib << 20;
    let cluster = LocalCluster::start(spec).await?;
    output.show(&running(&cluster, metadata, objects))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    say("stopping: what is in memory is archived first …");
    Ok(cluster.stop().await?)
}

fn running(cluster: &LocalCluster, metadata: String, objects: PathBuf) -> Running {
    let addresses: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    let nodes = cluster.nodes().iter().map(|node| Node {
        node: node.name().to_owned(),
        admin: format!("http://{}", node.admin()),
        log: node.log(),
    });
    Running {
        addresses: addresses.join(","),
        certs: cluster.certs().to_owned(),
        nodes: nodes.collect(),
        metadata,
        objects,
    }
}

impl Show for Running {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "export PICULET_NODES={}", self.addresses)?;
        writeln!(out, "export PICULET_CERTS={}", quoted(&self.certs.display().to_string()))?;
        writeln!(out)?;
        for node in &self.nodes {
            writeln!(out, "{}  admin {}  log {}", node.node, node.admin, node.log.display())?;
        }
        writeln!(out, "metadata {}", self.metadata)?;
        writeln!(out, "objects in {}", self.objects.display())?;
        writeln!(out)?;
        writeln!(out, "Set the two variables in another terminal, then for example:")?;
        writeln!(out, "  echo hello | piculet append first --create")?;
        writeln!(out, "  piculet read first")?;
        writeln!(out, "  piculet status")?;
        writeln!(out, "Ctrl-C stops everything.")
    }
}

/// As a shell must be told it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_shells_would_split_is_quoted() {
        assert_eq!(quoted("/tmp/a-b_c.1"), "/tmp/a-b_c.1");
        assert_eq!(quoted("/tmp/it's here"), r"'/tmp/it'\''s here'");
    }
}
