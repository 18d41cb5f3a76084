//! `piculet status`.

use super::{ConnectArgs, Failure};
use crate::progress::size;
use clap::Args;
use piculet_client::NodeStatus;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: StatusArgs) -> Result<(), Failure> {
    let client = args.connect.connect().await?;
    println!(
        "{:<16} {:>11} {:>20} {:>10}  conditional put",
        "node", "incarnation", "buffer used", "uploading"
    );
    for NodeStatus { node, status } in client.status().await? {
        match status {
            Ok(status) => println!(
                "{node:<16} {:>11} {:>20} {:>10}  {}",
                status.memory,
                format!("{} of {}", size(status.buffer_used), size(status.buffer_bytes)),
                status.uploading.len(),
                if status.conditional_put { "yes" } else { "no: parts are put plainly" },
            ),
            Err(error) => println!("{node:<16} {error}"),
        }
    }
    for (node, view) in client.nodes().await? {
        if view.running.is_none() {
            println!("{node:<16} {:>11} not running", view.memory);
        }
    }
    client.close().await;
    Ok(())
}
