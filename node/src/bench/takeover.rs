//! How long a takeover takes: from the call until the log has a writer again.

use crate::cli::{Failure, Output, Show, say};
use crate::local::{ClusterSpec, Etcd, LocalCluster, ScratchDir, Store, tools};
use clap::Args;
use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions};
use piculet_quorum::ids::LogName;
use serde::Serialize;
use std::io::{self, Write};
use tokio::time::Instant;

/// How many takeovers.
#[derive(Debug, Args)]
pub struct TakeoverArgs {
    /// Takeovers that are measured, of each kind.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    rounds: u32,
    /// Fail when the 99th percentile over an idle log is above so many milliseconds.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=600_000))]
    at_most: Option<u32>,
}

/// What a takeover of an idle log may take at the 99th percentile, in milliseconds, where nothing else
/// is asked for.
const BOUND_MS: u32 = 50;

/// One kind of takeover, in milliseconds.
#[derive(Debug, Serialize)]
struct Figures {
    kind: &'static str,
    rounds: u32,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// What the 99th percentile may be, and whether it was kept; where there is a bound.
    #[serde(flatten)]
    bound: Option<Bound>,
}

#[derive(Debug, Serialize)]
struct Bound {
    p99_bound_ms: u32,
    kept: bool,
}

impl Show for Figures {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { kind, rounds, p50_ms, p99_ms, max_ms, bound } = self;
        write!(out, "{kind:<28} {rounds:>7} {p50_ms:>9.2} {p99_ms:>9.2} {max_ms:>9.2}")?;
        if let Some(Bound { p99_bound_ms, kept }) = bound {
            let kept = if *kept { "kept" } else { "not kept" };
            write!(out, "   bound for p99 {p99_bound_ms} ms: {kept}")?;
        }
        writeln!(out)
    }
}

pub(super) async fn run(args: TakeoverArgs, output: Output) -> Result<(), Failure> {
    let scratch = ScratchDir::create(&std::env::temp_dir())?;
    let mut etcd = Etcd::start(scratch.path()).await?;
    let store = Store::directory(&scratch.path().join("objects"));
    let url = format!("{}/takeover", etcd.url());
    let cluster =
        LocalCluster::start(ClusterSpec::new(tools::piculet()?, scratch.path(), url, store)).await?;
    let file = |name: &str| cluster.certs().join(name);
    let nodes: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
    let client = Client::connect(ClientOptions::new(nodes, identity)).await?;
    say("client, three nodes and etcd share this machine's processors");
    if output == Output::Text {
        say(&format!("{:<28} {:>7} {:>9} {:>9} {:>9}", "takeover", "rounds", "p50 ms", "p99 ms", "max ms"));
    }
    let idle = measure(&client, args.rounds, "of an idle log", 0).await?;
    let idle = idle.within(args.at_most.unwrap_or(BOUND_MS));
    output.show(&idle)?;
    output.show(&measure(&client, args.rounds, "with entries on their way", 16).await?)?;
    client.close().await;
    cluster.stop().await?;
    etcd.stop().await?;
    if let (Some(at_most), Some(Bound { kept: false, .. })) = (args.at_most, &idle.bound) {
        let p99 = idle.p99_ms;
        return Err(Failure::new(
            "bound-missed",
            format!(
                "the 99th percentile of takeovers of an idle log is {p99:.2} ms, expected at most {at_most} ms; measure again when nothing else runs on this machine"
            ),
        ));
    }
    Ok(())
}

impl Figures {
    fn within(mut self, p99_bound_ms: u32) -> Self {
        self.bound = Some(Bound { p99_bound_ms, kept: self.p99_ms <= f64::from(p99_bound_ms) });
        self
    }
}

/// Takes one log over again and again, whose last writer has acknowledged one entry and has gone
/// with `unacknowledged` more on their way.
async fn measure(
    client: &Client,
    rounds: u32,
    kind: &'static str,
    unacknowledged: usize,
) -> Result<Figures, Failure> {
    let name = LogName::new(format!("takeover/{unacknowledged}"))?;
    client.create_log(&name).await?;
    let mut writer = client.take_over(&name).await?;
    let mut times = Vec::with_capacity(rounds as usize);
    for _ in 0..rounds {
        writer.append("acknowledged").await?;
        let on_their_way: Vec<_> = (0..unacknowledged).map(|_| writer.append("on its way")).collect();
        drop((writer, on_their_way));
        let start = Instant::now();
        writer = client.take_over(&name).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    writer.close().await?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).ceil() as usize];
    Ok(Figures { kind, rounds, p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0), bound: None })
}
