//! `piculet demo`: the promise, shown on real processes.
//!
//! Every line is appended once, in order, as one entry, so the offset of an entry is the number of
//! its line. That is what makes the proof simple: whoever takes the log over after a crash reads
//! off where to go on, and in the end the log must be the stream of lines, byte for byte.

mod lines;
mod report;
mod stage;
mod stream;

use crate::cli::{Failure, Output};
use clap::Args;
use piculet_client::{ReadOptions, Start};
use report::Report;
use sha2::{Digest, Sha256};
use stage::Stage;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stream::{Source, Stream};

/// What is shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Starts etcd, an S3 server and three nodes on loopback, streams lines into a log, kills the node that
uploads and a writer in the middle of its work, and compares what is read back with what went in.
etcd and the S3 server are looked for under PICULET_ETCD and PICULET_WEED, in .tools (where `make
setup` puts them) and on the PATH.

Examples:
  piculet demo
  piculet demo --mib 256 --rate 50
  piculet demo --file orders.ndjson --output json")]
pub struct DemoArgs {
    /// Stream the lines of this file, over and over; the Rust sources in cargo's registry unless given.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Stream at least this much, in MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    mib: u64,
    /// Stream at most this much a second, in MiB.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1 << 10))]
    rate: u64,
}

/// As long as anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo.
///
/// # Errors
/// When something that is promised does not happen.
pub async fn run(args: DemoArgs, output: Output) -> Result<(), Failure> {
    let source = Source::open(args.file.as_deref(), args.rate << 20)?;
    let mut report = Report::start(args.mib << 20, output);
    report.step(&format!(
        "streaming lines of {} file(s), at most {} MiB a second",
        source.files(),
        args.rate
    ));
    report.step("starting etcd, an S3 server and three nodes, each a process of its own");
    let mut stage = Stage::start().await?;
    let name = stage.create_log().await?;
    report.step(&format!("metadata {}, objects {}", stage.metadata(), stage.store_url()));

    let mut stream = Stream::take_over(&stage, source, &name, &mut report).await?;
    kill_the_uploader(&mut stage, &mut stream, &mut report).await?;
    let source = kill_the_writer(&stage, stream, &mut report).await?;
    let mut stream = Stream::take_over(&stage, source, &name, &mut report).await?;
    while stream.bytes() < args.mib << 20 {
        stream.pump(&mut report).await?;
    }
    let (source, latency) = stream.finish(&mut report).await?;
    report.latency(&latency);

    read_back(&stage, &name, &source, &mut report).await?;
    show_objects(&stage, &mut report).await?;
    wait_for_empty_buffers(&stage, &mut report).await?;
    stage.stop().await?;
    Ok(report.end()?)
}

/// Kills the very node that uploads the open segment; appends go on with two, another uploads what
/// it left, and when it is back there are three again.
async fn kill_the_uploader(
    stage: &mut Stage,
    stream: &mut Stream,
    report: &mut Report,
) -> Result<(), Failure> {
    let start = Instant::now();
    let uploader = loop {
        stream.pump(report).await?;
        if let Some(node) = stage.uploader().await?
            && stream.status().members.len() == 3
        {
            break node;
        }
        give_up_after(start, "no node was elected to upload the open segment")?;
    };
    let at_kill = stream.status();
    stage.kill(&uploader)?;
    let start = Instant::now();
    report.step(&format!("killed {uploader}, the elected uploader, with SIGKILL at offset {}", at_kill.next));
    while stream.status().members.len() != 2 || stream.status().committed <= at_kill.next {
        stream.pump(report).await?;
        give_up_after(start, "appends did not go on with two nodes")?;
    }
    let members = stream.status().members;
    report.step(&format!(
        "appends go on with {} and {}; offset {} is acknowledged",
        members[0],
        members[1],
        stream.status().committed
    ));
    let start = Instant::now();
    let heir = loop {
        stream.pump(report).await?;
        let archived = stage.archived().await?;
        if archived > at_kill.committed
            && let Some(heir) = stage.uploader().await?
        {
            report.step(&format!(
                "everything acknowledged before the kill is in object storage: offset {archived}"
            ));
            break heir;
        }
        give_up_after(start, "nobody uploaded what the killed node left")?;
    };
    if heir == uploader {
        return Err(format!("{uploader} was killed, and is said to upload").into());
    }
    report.step(&format!("{heir} uploads now"));
    stage.restart(&uploader).await?;
    let start = Instant::now();
    while stream.status().members.len() != 3 {
        stream.pump(report).await?;
        give_up_after(start, "the restarted node did not take part again")?;
    }
    report.step(&format!("restarted {uploader}; three nodes hold the log again"));
    Ok(())
}

/// Another process takes the log over, and is killed in the middle of its appends.
async fn kill_the_writer(stage: &Stage, stream: Stream, report: &mut Report) -> Result<Source, Failure> {
    let (mut source, latency) = stream.finish(report).await?;
    report.latency(&latency);
    let mut writer = stage.writer_process().await?;
    report.step(&format!("a writer of its own process (pid {}) has taken the log over", writer.pid()));
    let first = source.next_line();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) || writer.acknowledged() <= first {
        writer.feed(&mut source, report).await?;
        give_up_after(start, "the writer process got nothing acknowledged")?;
    }
    let fed = source.next_line();
    let acknowledged = writer.kill().await?;
    report.step(&format!(
        "killed it with SIGKILL: {fed} lines were handed to it, it saw {acknowledged} acknowledged"
    ));
    source.expect_at_least(acknowledged);
    Ok(source)
}

/// Reads the whole log and compares it with what was streamed.
async fn read_back(stage: &Stage, name: &str, source: &Source, report: &mut Report) -> Result<(), Failure> {
    let name = piculet_quorum::ids::LogName::new(name)?;
    let mut reader = stage.client().read(&name, Start::Earliest, ReadOptions { follow: false }).await?;
    let (mut hash, mut entries, mut bytes) = (Sha256::new(), 0_u64, 0_u64);
    let start = Instant::now();
    while let Some(entry) = reader.next().await {
        let entry = entry?;
        if entry.offset.0 != entries {
            return Err(format!("offset {} came where {entries} was expected", entry.offset).into());
        }
        hash.update(&entry.payload);
        entries += 1;
        bytes += entry.payload.len() as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    let (expected, found) = (source.digest(), hex(&hash.finalize()));
    if entries != source.next_line() || found != expected {
        return Err(format!(
            "the log is not what was appended: {entries} entries, sha256 {found}; expected {} entries, sha256 {expected}",
            source.next_line()
        )
        .into());
    }
    report.read_back(entries, bytes, seconds, &found);
    Ok(())
}

async fn show_objects(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let (next, archived) = (stage.tail().await?, stage.archived().await?);
        if archived >= next {
            break;
        }
        give_up_after(start, "the log was not archived to its end")?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report.objects(&stage.objects().await?);
    Ok(())
}

async fn wait_for_empty_buffers(stage: &Stage, report: &mut Report) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let used = stage.buffers().await?;
        if used.iter().all(|(_, used)| *used == 0) {
            report.buffers(&used);
            return Ok(());
        }
        give_up_after(start, &format!("memory was not given back: {used:?}"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn give_up_after(start: Instant, what: &str) -> Result<(), Failure> {
    if start.elapsed() > PATIENCE {
        return Err(format!("{what} within {} s", PATIENCE.as_secs()).into());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
