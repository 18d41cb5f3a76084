//! The whole table, on a cluster of its own.

use super::append::{Load, Row, heading, measure};
use crate::cli::{Failure, Output, say};
use crate::local::{ClusterSpec, Etcd, LocalCluster, ScratchDir, Store, tools};
use clap::Args;
use piculet_client::transport::{Identity, TransportOptions};
use piculet_client::{Client, ClientOptions};
use tokio::task::LocalSet;

/// What the suite measures.
#[derive(Debug, Args)]
pub struct SuiteArgs {
    /// Seconds per line of the table.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Bytes per entry.
    #[arg(long, default_value_t = 1024)]
    size: u32,
    /// Times that the table is measured, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Datagram sizes: what any path carries, jumbo frames, loopback.
const DATAGRAMS: [u16; 3] = [1452, 8900, 65000];
const WINDOWS: [u32; 3] = [1, 64, 1024];

pub(super) async fn run(args: SuiteArgs, output: Output) -> Result<(), Failure> {
    let scratch = ScratchDir::create(&std::env::temp_dir())?;
    let mut etcd = Etcd::start(scratch.path()).await?;
    let store = Store::directory(&scratch.path().join("objects"));
    let mut spec =
        ClusterSpec::new(tools::piculet()?, scratch.path(), format!("{}/bench", etcd.url()), store);
    spec.buffer_bytes = 2 << 30;
    // Uploads are left to the end, so that the appends alone are measured.
    spec.flush_bytes = 64 << 20;
    let cluster = LocalCluster::start(spec).await?;
    let certs = cluster.certs();
    let file = |name: &str| certs.join(name);
    let nodes: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    say("client, three nodes and etcd share this machine's processors");
    heading(output)?;
    for _ in 0..args.rounds {
        for datagram in DATAGRAMS {
            for window in WINDOWS {
                let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
                let mut options = ClientOptions::new(nodes.clone(), identity);
                options.transport =
                    TransportOptions { max_datagram: datagram, ..TransportOptions::default() };
                let client = Client::connect(options).await?;
                let load = Load { size: args.size, window, seconds: args.seconds };
                let figures = LocalSet::new().run_until(measure(&client, &load)).await?;
                output.show(&Row::new(&load, &figures))?;
                client.close().await;
            }
        }
    }
    cluster.stop().await?;
    etcd.stop().await?;
    Ok(())
}
