//! `piculet read`.

use super::entry::EntryOut;
use super::start::{self, From};
use super::{ConnectArgs, Failure, Output};
use crate::progress::Progress;
use clap::Args;
use futures::FutureExt;
use piculet_client::{Client, Entry, Offset, ReadOptions};
use piculet_quorum::ids::LogName;
use std::io::{self, BufWriter, IsTerminal, Write};

#[derive(Debug, Args)]
#[command(after_help = "\
Entries are written as they were appended, with nothing between them: what `append` read comes out
again, byte for byte (`--output raw`, which is the default). With `--output json` each is an object
on a line of its own, with its offset, timestamp and headers; `append --headers` takes these back.
Without --follow it ends at the tail: everything acknowledged before the call is read.

Examples:
  piculet read orders                            everything, then end
  piculet read orders --from latest --follow     what is appended from now on
  piculet read orders --from -10min --output json
  piculet read orders --from 2026-11-23T16:00:00Z --limit 100
  piculet read orders --from 1000 --newline      from offset 1000 on, a newline after each entry")]
pub(super) struct ReadArgs {
    /// The log's name.
    #[arg(value_parser = |name: &str| LogName::new(name))]
    log: LogName,
    /// Where to start: earliest, latest, an offset, a time as in 2026-11-23T16:00:00Z, or a time
    /// before now as in -10min (s, min, h, d, w). A time means the first entry that is not older.
    #[arg(
        long,
        default_value = "earliest",
        value_name = "PLACE",
        allow_hyphen_values = true,
        value_parser = start::parse
    )]
    from: From,
    /// Wait for more at the end, instead of ending there.
    #[arg(long)]
    follow: bool,
    /// End after this many entries.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write a newline after each entry.
    #[arg(long)]
    newline: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: ReadArgs, output: Output) -> Result<(), Failure> {
    if args.newline && output == Output::Json {
        return Err(Failure::usage("--newline is for raw entries: each JSON object is on a line already"));
    }
    let client = args.connect.connect().await?;
    let options = ReadOptions { follow: args.follow };
    let mut reader = client.read(&args.log, args.from.start(), options).await?;
    let mut bar = Bar::new(&client, &args).await?;
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let mut entries = 0;
    while args.limit.is_none_or(|limit| entries < limit) {
        let next = match reader.next().now_or_never() {
            Some(next) => next,
            None => {
                // Nothing is here at the moment: whoever follows sees what there is.
                out.flush()?;
                bar.progress.set(entries);
                reader.next().await
            }
        };
        let Some(entry) = next else { break };
        let entry = entry?;
        bar.begin(entry.offset);
        write(&entry, output, args.newline, &mut out)?;
        entries += 1;
        if entries.is_multiple_of(BAR_EVERY) {
            bar.progress.set(entries);
        }
    }
    out.flush()?;
    bar.progress.done();
    client.close().await;
    Ok(())
}

/// The bar moves after so many entries, and whenever they are waited for.
const BAR_EVERY: u64 = 1024;

/// How far the reading is.
struct Bar {
    progress: Progress,
    /// Where it will end, until it has begun.
    tail: Option<Offset>,
    limit: Option<u64>,
}

impl Bar {
    /// A bar would run through the entries where both are on one terminal, and has no end to show
    /// where more is waited for.
    async fn new(client: &Client, args: &ReadArgs) -> Result<Self, Failure> {
        let progress = if args.follow || io::stdout().is_terminal() {
            Progress::hidden()
        } else {
            Progress::entries("read")
        };
        let tail = if progress.is_seen() { Some(client.check_tail(&args.log).await?) } else { None };
        Ok(Self { progress, tail, limit: args.limit })
    }

    /// Once the first entry is there, it is known how many there will be.
    fn begin(&mut self, first: Offset) {
        if let Some(tail) = self.tail.take() {
            let total = tail.0.saturating_sub(first.0);
            self.progress.out_of(self.limit.map_or(total, |limit| limit.min(total)));
        }
    }
}

fn write(entry: &Entry, output: Output, newline: bool, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Text => out.write_all(&entry.payload)?,
        Output::Json => {
            let entry =
                EntryOut::new(entry.offset, entry.timestamp, entry.producer, entry.headers(), &entry.payload);
            serde_json::to_writer(&mut *out, &entry)?;
        }
    }
    if newline || output == Output::Json { out.write_all(b"\n") } else { Ok(()) }
}
