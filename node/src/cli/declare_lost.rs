//! `piculet declare-lost`.

use super::output::Show;
use super::{ConnectArgs, Failure, Output};
use clap::Args;
use piculet_client::{Level, NodeId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

#[derive(Debug, Args)]
#[command(after_help = "\
For a node that is destroyed, or whose buffer is: logs whose last entries only it and others that are
gone could have held wait for it else, for nobody can tell a node that is gone from one that is only
away. From then on it counts as lost. Should it come back all the same, it finds itself reborn, with an
empty buffer: what it held is gone, though it may have been acknowledged. So be sure first.

A log then goes on by itself when enough others hold the rest. When they do not, it stops and says so,
unless `piculet log set LOG --allow-loss true` lets it go on with what is left.

Refused while the node is registered: its lease lives for some seconds after it died. With --force it
is done all the same, and the node, if it lives, ends.

Examples:
  piculet declare-lost node-2
  piculet declare-lost node-2 --level memory")]
pub(super) struct DeclareLostArgs {
    /// The node.
    #[arg(value_parser = |name: &str| NodeId::new(name))]
    node: NodeId,
    /// Which of its buffers; all that it has had unless given: memory, disk.
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    level: Option<Level>,
    /// Even though the node is registered, and so may well be alive.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_level(text: &str) -> Result<Level, String> {
    let mut levels = [Level::Memory, Level::Disk].into_iter();
    levels.find(|level| level.to_string() == text).ok_or_else(|| "expected memory or disk".to_owned())
}

/// The lives that are current now.
#[derive(Serialize)]
struct Declared {
    node: NodeId,
    incarnations: BTreeMap<String, u64>,
}

pub(super) async fn run(args: DeclareLostArgs, output: Output) -> Result<(), Failure> {
    let client = args.connect.connect().await?;
    let levels: Vec<Level> = match args.level {
        Some(level) => vec![level],
        None => {
            let nodes = client.nodes().await?;
            let had = nodes.get(&args.node).map(|view| view.lives.keys().copied().collect());
            // Of a node that is not known the refusal says so.
            had.unwrap_or_else(|| vec![Level::Memory])
        }
    };
    let mut incarnations = BTreeMap::new();
    for level in levels {
        let now = client.declare_lost(&args.node, level, args.force).await?;
        incarnations.insert(level.to_string(), now.0);
    }
    client.close().await;
    Ok(output.show(&Declared { node: args.node, incarnations })?)
}

impl Show for Declared {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for (level, incarnation) in &self.incarnations {
            writeln!(
                out,
                "what {} held in its {level} buffer counts as lost; its incarnation is {incarnation} now",
                self.node
            )?;
        }
        Ok(())
    }
}
