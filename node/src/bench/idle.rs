//! What idle logs cost: memory and processor time of nodes and client.

use crate::cli::{Failure, Output, Show, say};
use crate::local::{ClusterSpec, Etcd, LocalCluster, LocalNode, ScratchDir, Store, tools};
use crate::progress::Progress;
use clap::Args;
use futures::{StreamExt, stream};
use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions, LogWriter};
use piculet_quorum::ids::LogName;
use piculet_quorum::time::Span;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many logs, and of what.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// Logs that are written once and then left alone, their writers open.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    logs: u32,
    /// Seconds to watch them idle.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// A writer parks after this long here; 60 s is the default.
const IDLE_AFTER: Span = Span::secs(2);
/// Logs that are opened at a time.
const AT_A_TIME: usize = 64;
/// As long as all of them may take to park.
const PARKING_LIMIT: Duration = Duration::from_secs(600);
/// Idle logs that are written to again in the end.
const WOKEN: usize = 100;

/// What was measured.
#[derive(Debug, Serialize)]
struct Figures {
    logs: u32,
    /// Seconds until all were written to, and until all were parked and archived.
    written_seconds: f64,
    parked_seconds: f64,
    /// Heap of each node before, and with the idle logs.
    nodes: Vec<Memory>,
    node_bytes_per_log: f64,
    client_bytes_per_log: f64,
    /// Processor time of the three nodes together, while the logs are idle, as a share of one.
    nodes_cpu_percent: f64,
    /// Seconds until so many of them were written to again.
    woken: usize,
    woken_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Memory {
    node: String,
    before_bytes: u64,
    bytes: u64,
}

impl Show for Figures {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(out, "idle logs               {}", self.logs)?;
        writeln!(
            out,
            "written to within       {:.1} s, all parked after {:.1} s",
            self.written_seconds, self.parked_seconds
        )?;
        for node in &self.nodes {
            let (before, now) = (mib(node.before_bytes), mib(node.bytes));
            writeln!(out, "memory of {:<13} {now:.1} MiB, {before:.1} MiB before", node.node)?;
        }
        writeln!(out, "a node, per idle log    {:.0} bytes", self.node_bytes_per_log)?;
        writeln!(out, "the client, per writer  {:.0} bytes", self.client_bytes_per_log)?;
        writeln!(out, "processor, three nodes  {:.1} % of one", self.nodes_cpu_percent)?;
        writeln!(out, "{} written to again  {:.1} s", self.woken, self.woken_seconds)
    }
}

pub(super) async fn run(args: IdleArgs, output: Output) -> Result<(), Failure> {
    let scratch = ScratchDir::create(&std::env::temp_dir())?;
    let mut etcd = Etcd::start(scratch.path()).await?;
    let store = Store::directory(&scratch.path().join("objects"));
    let mut spec = ClusterSpec::new(tools::piculet()?, scratch.path(), format!("{}/idle", etcd.url()), store);
    spec.buffer_bytes = 2 << 30;
    spec.flush_interval = Duration::from_millis(200);
    spec.flush_max_interval = Duration::from_millis(500);
    let cluster = LocalCluster::start(spec).await?;
    let file = |name: &str| cluster.certs().join(name);
    let nodes: Vec<String> = cluster.addrs().iter().map(ToString::to_string).collect();
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
    let mut options = ClientOptions::new(nodes, identity);
    options.writer.idle_after = IDLE_AFTER;
    let client = Client::connect(options).await?;
    say("client, three nodes and etcd share this machine's processors");
    let figures = measure(&args, &cluster, &client).await?;
    output.show(&figures)?;
    client.close().await;
    cluster.stop().await?;
    etcd.stop().await?;
    Ok(())
}

async fn measure(args: &IdleArgs, cluster: &LocalCluster, client: &Client) -> Result<Figures, Failure> {
    let pids: Vec<u32> = cluster.nodes().iter().filter_map(LocalNode::pid).collect();
    let (before, before_client) = (memory_of(&pids)?, memory(std::process::id())?);
    let start = Instant::now();
    let writers = open_all(args.logs, client).await?;
    let written_seconds = start.elapsed().as_secs_f64();
    parked(client, &writers).await?;
    let parked_seconds = start.elapsed().as_secs_f64();

    let cpu = cluster_cpu(client).await?;
    sleep(Duration::from_secs(args.seconds)).await;
    let cpu = cluster_cpu(client).await?.saturating_sub(cpu);
    let (after, after_client) = (memory_of(&pids)?, memory(std::process::id())?);
    let names = cluster.nodes().iter().map(LocalNode::name);
    let nodes: Vec<Memory> = names
        .zip(before.iter().zip(&after))
        .map(|(node, (before, bytes))| Memory { node: node.to_owned(), before_bytes: *before, bytes: *bytes })
        .collect();
    let per_log = |bytes: u64| bytes as f64 / f64::from(args.logs);
    let grown: u64 = nodes.iter().map(|node| node.bytes.saturating_sub(node.before_bytes)).sum();

    let start = Instant::now();
    let again: Vec<_> = writers.iter().take(WOKEN).map(|writer| writer.append("again")).collect();
    let woken = again.len();
    for append in again {
        let offset = append.await?;
        if offset.0 != 1 {
            return Err(format!("an idle log went on at offset {offset}, not 1").into());
        }
    }
    Ok(Figures {
        logs: args.logs,
        written_seconds,
        parked_seconds,
        node_bytes_per_log: per_log(grown) / nodes.len() as f64,
        nodes,
        client_bytes_per_log: per_log(after_client.saturating_sub(before_client)),
        nodes_cpu_percent: cpu.as_secs_f64() * 100.0 / args.seconds as f64,
        woken,
        woken_seconds: start.elapsed().as_secs_f64(),
    })
}

async fn open_all(logs: u32, client: &Client) -> Result<Vec<LogWriter>, Failure> {
    let progress = Progress::entries("logs opened:");
    progress.out_of(u64::from(logs));
    let mut opening = stream::iter(0..logs)
        .map(|n| async move {
            let name = LogName::new(format!("idle/{n}"))?;
            client.create_log(&name).await?;
            let writer = client.take_over(&name).await?;
            writer.append("once").await?;
            Ok::<_, Failure>(writer)
        })
        .buffer_unordered(AT_A_TIME);
    let mut writers = Vec::new();
    while let Some(writer) = opening.next().await {
        writers.push(writer?);
        progress.set(writers.len() as u64);
    }
    progress.done();
    Ok(writers)
}

async fn parked(client: &Client, writers: &[LogWriter]) -> Result<(), Failure> {
    let deadline = Instant::now() + PARKING_LIMIT;
    loop {
        let busy = writers.iter().filter(|writer| !writer.status().parked).count();
        let mut held = 0;
        for node in client.status().await? {
            held += node.status?.buffer_used;
        }
        if busy == 0 && held == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("{busy} writers have not parked within {PARKING_LIMIT:?}").into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn cluster_cpu(client: &Client) -> Result<Duration, Failure> {
    let mut sum = Duration::ZERO;
    for node in client.status().await? {
        sum += Duration::from_nanos(node.status?.cpu_nanos);
    }
    Ok(sum)
}

fn memory_of(pids: &[u32]) -> Result<Vec<u64>, Failure> {
    pids.iter().map(|pid| memory(*pid)).collect()
}

/// Anonymous memory of a process that is in RAM, in bytes: its heap and stacks, without the buffer.
fn memory(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| format!("{path} has no RssAnon"))? * 1024)
}
