//! Appends with a fixed number under way: throughput, latency, CPU time per append.

use crate::cli::{ConnectArgs, Failure, Output, Show};
use crate::usage;
use clap::Args;
use hdrhistogram::Histogram;
use piculet_client::{Client, Error, LogWriter};
use piculet_quorum::ids::LogName;
use piculet_quorum::limits::ENTRY_BYTES_MAX;
use serde::Serialize;
use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{LocalSet, spawn_local};

/// How appends are made.
#[derive(Clone, Debug, Args)]
pub struct AppendArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    load: Load,
}

/// The load.
#[derive(Clone, Debug, Args)]
pub(super) struct Load {
    /// Bytes per entry.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=ENTRY_BYTES_MAX as i64))]
    pub(super) size: u32,
    /// Callers that each append and wait for the acknowledgement.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) window: u32,
    /// Seconds to measure, after half a second to warm up.
    #[arg(long, default_value_t = 5.0)]
    pub(super) seconds: f64,
}

/// Time before the measurement starts.
const WARM_UP: Duration = Duration::from_millis(500);

/// What was measured.
pub(super) struct Figures {
    /// Acknowledged appends a second.
    pub(super) rate: f64,
    /// Payload in MB (10^6 bytes) a second.
    pub(super) megabytes: f64,
    /// Latencies in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// CPU time of client and nodes per append, in microseconds, until every member had it.
    pub(super) cpu_client: f64,
    /// The nodes' share of it, all together.
    pub(super) cpu_nodes: f64,
    /// UDP payload that the path to the nodes was found to carry, in bytes.
    pub(super) datagram: u16,
}

/// The heading of a table of figures.
const HEADING: &str =
    "  size window  datagram  appends/s     MB/s   p50 µs   p99 µs  p999 µs   CPU µs/append (client + nodes)";

pub(super) async fn run(args: AppendArgs, output: Output) -> Result<(), Failure> {
    let client = args.connect.connect().await?;
    heading(output)?;
    let figures = LocalSet::new().run_until(measure(&client, &args.load)).await?;
    output.show(&Row::new(&args.load, &figures))?;
    client.close().await;
    Ok(())
}

/// People get a heading above the figures.
///
/// # Errors
/// When the standard output takes no more.
pub(super) fn heading(output: Output) -> io::Result<()> {
    match output {
        Output::Text => writeln!(io::stdout(), "{HEADING}"),
        Output::Json => Ok(()),
    }
}

/// One line of a table of figures.
#[derive(Serialize)]
pub(super) struct Row {
    size: u32,
    window: u32,
    datagram: u16,
    appends_per_second: f64,
    megabytes_per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    p999_micros: f64,
    cpu_client_micros: f64,
    cpu_nodes_micros: f64,
}

impl Row {
    #[must_use]
    pub(super) fn new(load: &Load, figures: &Figures) -> Self {
        let micros = |quantile| figures.latency.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            size: load.size,
            window: load.window,
            datagram: figures.datagram,
            appends_per_second: figures.rate,
            megabytes_per_second: figures.megabytes,
            p50_micros: micros(0.5),
            p99_micros: micros(0.99),
            p999_micros: micros(0.999),
            cpu_client_micros: figures.cpu_client,
            cpu_nodes_micros: figures.cpu_nodes,
        }
    }
}

impl Show for Row {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>6} {:>6} {:>9} {:>10.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1}   {:.2} ({:.2} + {:.2})",
            self.size,
            self.window,
            self.datagram,
            self.appends_per_second,
            self.megabytes_per_second,
            self.p50_micros,
            self.p99_micros,
            self.p999_micros,
            self.cpu_client_micros + self.cpu_nodes_micros,
            self.cpu_client_micros,
            self.cpu_nodes_micros,
        )
    }
}

struct Shared {
    writer: LogWriter,
    latency: RefCell<Histogram<u64>>,
    appended: RefCell<u64>,
    end: Instant,
}

/// Measures, within a `LocalSet`. The log is left behind: its name says what it was for.
///
/// # Errors
/// When the cluster fails.
pub(super) async fn measure(client: &Client, load: &Load) -> Result<Figures, Failure> {
    let name = format!("bench/append-{:x}", std::process::id() as u64 ^ unique());
    let name = LogName::new(name)?;
    client.create_log(&name).await?;
    let writer = client.take_over(&name).await?;
    let length = Duration::from_secs_f64(load.seconds.clamp(0.1, 3600.0));
    let latency = RefCell::new(Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?);
    let end = Instant::now() + WARM_UP + length;
    let shared = Rc::new(Shared { writer, latency, appended: RefCell::new(0), end });
    let payload: Rc<[u8]> = vec![0x5a; load.size as usize].into();
    let callers: Vec<_> =
        (0..load.window).map(|_| spawn_local(caller(Rc::clone(&shared), Rc::clone(&payload)))).collect();
    tokio::time::sleep(WARM_UP).await;
    shared.latency.borrow_mut().reset();
    let cpu_nodes = nodes_cpu(client).await?;
    let before = (*shared.appended.borrow(), usage::cpu(), cpu_nodes, Instant::now());
    for caller in callers {
        caller.await??;
    }
    let seconds = before.3.elapsed().as_secs_f64();
    let appends = (*shared.appended.borrow() - before.0) as f64;
    let shared = Rc::into_inner(shared).ok_or("a caller is still running")?;
    let datagram = client.path_datagram();
    // Sealing waits for what is under way; the CPU time of the last copies counts.
    shared.writer.close().await?;
    let per_append = |cpu: Duration| cpu.as_secs_f64() * 1e6 / appends;
    let cpu_nodes = nodes_cpu(client).await?.saturating_sub(before.2);
    Ok(Figures {
        rate: appends / seconds,
        megabytes: appends * f64::from(load.size) / seconds / 1e6,
        latency: shared.latency.into_inner(),
        cpu_client: per_append(usage::cpu().saturating_sub(before.1)),
        cpu_nodes: per_append(cpu_nodes),
        datagram,
    })
}

async fn caller(shared: Rc<Shared>, payload: Rc<[u8]>) -> Result<(), Error> {
    loop {
        let start = Instant::now();
        if start >= shared.end {
            return Ok(());
        }
        match shared.writer.append(&payload).await {
            Ok(_) => {
                let nanos = start.elapsed().as_nanos() as u64;
                shared.latency.borrow_mut().saturating_record(nanos);
                *shared.appended.borrow_mut() += 1;
            }
            Err(Error::Overloaded { .. }) => shared.writer.ready().await,
            Err(error) => return Err(error),
        }
    }
}

async fn nodes_cpu(client: &Client) -> Result<Duration, Failure> {
    let mut sum = Duration::ZERO;
    for node in client.status().await? {
        sum += Duration::from_nanos(node.status?.cpu_nanos);
    }
    Ok(sum)
}

fn unique() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_nanos() as u64
}
