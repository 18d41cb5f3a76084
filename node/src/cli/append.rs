//! `piculet append`.

use super::entry::EntryIn;
use super::input::{self, Cut};
use super::output::{Show, say};
use super::{ConnectArgs, Failure, Output};
use crate::progress::{Progress, size};
use clap::Args;
use piculet_client::{Client, Error, Headers, LogWriter, Record};
use piculet_quorum::ids::{LogName, Offset};
use piculet_quorum::limits::ENTRY_BYTES_MAX;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
#[command(after_help = "\
Ends when the input does and everything is acknowledged; the summary says at which offsets. When
another writer takes the log over meanwhile, or the nodes are lost, the message says below which
offset everything is safe. SIGINT and SIGTERM end the input: what was read is appended, and the log
is closed.

A log has one writer. While another is alive the command fails, and says who that is. One that was
killed counts as alive until the nodes miss it, some seconds, and is then waited for, some more.
--take-over does not wait, and stops the other.

With --expected-offset a script that is repeated appends once: give the offset at which it found the
log's end, and when something was appended since, nothing is appended now.

Examples:
  piculet append orders --file orders.ndjson     each line, with its newline, is an entry
  producer | piculet append orders --create      the same from a pipe, to a log that may be new
  piculet append images --file disk.img --record-bytes 65536
  piculet append orders --header source=shop < orders.ndjson
  echo first | piculet append starts --create --expected-offset 0
  piculet append orders --take-over < /dev/null  fence whoever writes it, and close it
  piculet append audit --store s3://bucket/prefix < audit.ndjson   a log of durability object
  piculet read old --output json | piculet append new --create --headers")]
pub(super) struct AppendArgs {
    /// The log's name.
    #[arg(value_parser = |name: &str| LogName::new(name))]
    log: LogName,
    /// What to append; the standard input unless given.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Cut the input into entries of this many bytes (the last may be shorter) instead of lines.
    #[arg(
        long,
        value_name = "BYTES",
        conflicts_with = "headers",
        value_parser = clap::value_parser!(u32).range(1..=ENTRY_BYTES_MAX as i64)
    )]
    record_bytes: Option<u32>,
    /// A header for every entry; repeat for more.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// Each line of the input is a JSON object with "payload" or "payload_base64", and "headers" if
    /// it has any: what `read --output json` prints.
    #[arg(long)]
    headers: bool,
    /// Append only if the first entry gets this offset, which is where the log ends; else append
    /// nothing and fail.
    #[arg(long, value_name = "OFFSET")]
    expected_offset: Option<u64>,
    /// Take the log over from its writer, alive or not: that one is fenced and fails.
    #[arg(long)]
    take_over: bool,
    /// Create the log if there is none of that name.
    #[arg(long)]
    create: bool,
    /// Print `acknowledged OFFSET` to the standard output whenever that has grown, ten times a
    /// second at most: every entry below the offset is safe.
    #[arg(long)]
    acks: bool,
    /// The object store of the nodes, for a log of durability `object` [env: PICULET_STORE].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How often `--acks` looks.
const ACKS_EVERY: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Serialize)]
struct Appended {
    entries: u64,
    bytes: u64,
    first_offset: u64,
    end_offset: u64,
    seconds: f64,
}

/// What is safe.
#[derive(Serialize)]
struct Acknowledged {
    acknowledged: u64,
}

pub(super) async fn run(args: AppendArgs, output: Output) -> Result<(), Failure> {
    let cut = match args.record_bytes {
        Some(bytes) => Cut::Bytes(bytes),
        None if args.headers => Cut::Json,
        None => Cut::Lines,
    };
    let headers = headers_of(&args.header)?;
    let mut pieces = input::start(args.file.as_deref(), cut, headers)?;
    let client = args.connect.connect_with(args.store.as_ref()).await?;
    let writer = open(&client, &args).await?;
    let bar = bar(&args);
    let first = writer.status().next;
    if let Some(expected) = args.expected_offset.map(Offset).filter(|expected| *expected != first) {
        // The log has no other writer now, so its next offset does not change.
        writer.close().await?;
        client.close().await;
        return Err(Error::OffsetMismatch { expected, actual: first }.into());
    }
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    let start = Instant::now();
    let mut acks = Acks { wanted: args.acks, output, told: None };
    acks.tell(&writer, &bar)?;
    let mut tick = tokio::time::interval(ACKS_EVERY);
    let mut stop = pin!(stopped());
    let mut end = Ok(());
    loop {
        let piece = tokio::select! {
            piece = pieces.recv() => piece,
            _ = tick.tick() => {
                acks.tell(&writer, &bar)?;
                continue;
            }
            // What was read is appended, and the log is left sealed.
            name = &mut stop => {
                let name = name?;
                bar.suspend(|| say(&format!("{name}: stopping; the rest of the input is not appended")));
                break;
            }
        };
        let Some(piece) = piece else { break };
        for entry in piece.entries {
            append(&writer, &entry).await.map_err(|error| told(&writer, error))?;
            entries += 1;
            bytes += entry.payload.len() as u64;
        }
        bar.set(bytes);
        if let Some(last) = piece.end {
            end = last;
            break;
        }
        // The writer's own tasks get their turn.
        tokio::task::yield_now().await;
    }
    writer.flush().await.map_err(|error| told(&writer, error))?;
    acks.tell(&writer, &bar)?;
    let seconds = start.elapsed().as_secs_f64();
    bar.done();
    let end_offset = writer.close().await?.0;
    client.close().await;
    if let Err(why) = end {
        return Err(Failure::new("input", why).with(&format!(
            "the {entries} entries before it were appended, at offsets {first} to {end_offset}"
        )));
    }
    summary(&Appended { entries, bytes, first_offset: first.0, end_offset, seconds }, output)?;
    Ok(())
}

async fn open(client: &Client, args: &AppendArgs) -> Result<LogWriter, Failure> {
    if args.create {
        match client.create_log(&args.log).await {
            Ok(_) | Err(Error::AlreadyExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let writer =
        if args.take_over { client.take_over(&args.log).await } else { client.open(&args.log).await };
    writer.map_err(|error| {
        let held = matches!(error, Error::Held { .. });
        let failure = Failure::from(error);
        if held { failure.with("--take-over does the latter") } else { failure }
    })
}

fn bar(args: &AppendArgs) -> Progress {
    // Whoever types the entries needs no bar between them.
    if args.file.is_none() && io::stdin().is_terminal() {
        return Progress::hidden();
    }
    let total = args.file.as_ref().and_then(|file| Some(std::fs::metadata(file).ok()?.len()));
    // Lines of JSON are longer than what is appended.
    Progress::bytes("appended", total.filter(|_| !args.headers))
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Headers::default().push(name, value.as_bytes()).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn headers_of(pairs: &[(String, String)]) -> Result<Headers, Failure> {
    let mut headers = Headers::default();
    for (name, value) in pairs {
        headers.push(name, value.as_bytes()).map_err(|error| Failure::usage(error.to_string()))?;
    }
    Ok(headers)
}

/// Waits until the command is told to stop.
async fn stopped() -> Result<&'static str, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT").map_err(Failure::from),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}

/// What has been printed for `--acks`.
struct Acks {
    wanted: bool,
    output: Output,
    told: Option<Offset>,
}

impl Acks {
    fn tell(&mut self, writer: &LogWriter, bar: &Progress) -> io::Result<()> {
        let committed = writer.status().committed;
        if !self.wanted || self.told == Some(committed) {
            return Ok(());
        }
        self.told = Some(committed);
        bar.suspend(|| self.output.show(&Acknowledged { acknowledged: committed.0 }))
    }
}

/// Appends without waiting for the acknowledgement, but waits while there is no room.
async fn append(writer: &LogWriter, entry: &EntryIn) -> Result<(), Error> {
    loop {
        match writer.append(Record::new(&entry.payload).headers(&entry.headers)).queued() {
            Ok(_) => return Ok(()),
            Err(Error::Overloaded { .. }) => writer.ready().await,
            Err(error) => return Err(error),
        }
    }
}

fn told(writer: &LogWriter, error: Error) -> Failure {
    let committed = writer.status().committed;
    Failure::from(error).with(&format!("every entry below offset {committed} is acknowledged"))
}

/// The summary is for people, or it is the result.
fn summary(appended: &Appended, output: Output) -> io::Result<()> {
    match output {
        Output::Text => output.write(appended, &mut io::stderr()),
        Output::Json => output.show(appended),
    }
}

impl Show for Appended {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "appended {} entries ({}) at offsets {} to {}, all acknowledged, in {:.1} s ({}/s)",
            self.entries,
            size(self.bytes),
            self.first_offset,
            self.end_offset,
            self.seconds,
            size((self.bytes as f64 / self.seconds.max(1e-3)) as u64),
        )
    }
}

impl Show for Acknowledged {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "acknowledged {}", self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_a_name_and_a_value() {
        assert_eq!(parse_header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_header("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_header("a").expect_err("no value").contains("NAME=VALUE"));
        assert!(parse_header("=b").expect_err("no name").contains("header name"));
        let pairs = vec![("a".to_owned(), "x".repeat(60_000)); 2];
        assert_eq!(headers_of(&pairs).expect_err("too long").exit_code(), 2);
    }
}
