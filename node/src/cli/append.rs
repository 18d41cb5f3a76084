//! `piculet append`.

use super::{ConnectArgs, Failure};
use crate::progress::{Progress, size};
use clap::Args;
use piculet_client::{Error, LogWriter};
use piculet_quorum::ids::{LogName, Offset};
use piculet_quorum::limits::{BATCH_BYTES_TARGET, ENTRY_BYTES_MAX};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  piculet append orders --file orders.ndjson     each line, with its newline, is an entry
  producer | piculet append orders               the same from a pipe
  piculet append images --file disk.img --record-bytes 65536")]
pub(super) struct AppendArgs {
    /// The log's name. Any other writer of it is stopped.
    #[arg(value_parser = |name: &str| LogName::new(name))]
    log: LogName,
    /// What to append; the standard input unless given.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Cut the input into entries of this many bytes (the last may be shorter) instead of lines.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=ENTRY_BYTES_MAX as i64))]
    record_bytes: Option<u32>,
    /// Create the log if there is none of that name.
    #[arg(long)]
    create: bool,
    /// Print `acknowledged OFFSET` to the standard output whenever that has grown, ten times a
    /// second at most: every entry below the offset is safe.
    #[arg(long)]
    acks: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// How often `--acks` looks.
const ACKS_EVERY: Duration = Duration::from_millis(100);

/// Entries of the input, read on a thread of their own.
type Records = Vec<Vec<u8>>;

pub(super) async fn run(args: AppendArgs) -> Result<(), Failure> {
    let mut records = start_reading(&args)?;
    let client = args.connect.connect().await?;
    if args.create {
        match client.create_log(&args.log).await {
            Ok(_) | Err(Error::AlreadyExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let total = args.file.as_ref().and_then(|file| Some(std::fs::metadata(file).ok()?.len()));
    let progress = Progress::bytes("appended", total);
    let writer = client.take_over(&args.log).await?;
    let first = writer.status().next;
    let (mut entries, mut bytes) = (0_u64, 0_u64);
    let start = Instant::now();
    let mut acks = Acks { wanted: args.acks, told: None };
    acks.tell(&writer)?;
    let mut tick = tokio::time::interval(ACKS_EVERY);
    let mut stop = pin!(stopped());
    loop {
        let read = tokio::select! {
            read = records.recv() => read,
            _ = tick.tick() => {
                acks.tell(&writer)?;
                continue;
            }
            // What was read is appended, and the log is left sealed.
            name = &mut stop => {
                eprintln!("{}: stopping; the rest of the input is not appended", name?);
                break;
            }
        };
        let Some(read) = read else { break };
        for record in read? {
            append(&writer, &record).await.map_err(|error| told(&writer, &error))?;
            entries += 1;
            bytes += record.len() as u64;
        }
        progress.set(bytes);
        // The writer's own tasks get their turn.
        tokio::task::yield_now().await;
    }
    writer.flush().await.map_err(|error| told(&writer, &error))?;
    acks.tell(&writer)?;
    let seconds = start.elapsed().as_secs_f64();
    progress.done();
    let end = writer.close().await?;
    client.close().await;
    eprintln!(
        "appended {entries} entries ({}) at offsets {first} to {end}, all acknowledged, in {seconds:.1} s ({}/s)",
        size(bytes),
        size((bytes as f64 / seconds.max(1e-3)) as u64),
    );
    Ok(())
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
    told: Option<Offset>,
}

impl Acks {
    fn tell(&mut self, writer: &LogWriter) -> Result<(), Failure> {
        let committed = writer.status().committed;
        if self.wanted && self.told != Some(committed) {
            self.told = Some(committed);
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {committed}")?;
            out.flush()?;
        }
        Ok(())
    }
}

/// Appends without waiting for the acknowledgement, but waits while there is no room.
async fn append(writer: &LogWriter, record: &[u8]) -> Result<(), Error> {
    loop {
        match writer.append(record).queued() {
            Ok(()) => return Ok(()),
            Err(Error::Overloaded { .. }) => writer.ready().await,
            Err(error) => return Err(error),
        }
    }
}

fn told(writer: &LogWriter, error: &Error) -> Failure {
    let committed = writer.status().committed;
    format!("{error}; every entry below offset {committed} is acknowledged").into()
}

fn start_reading(args: &AppendArgs) -> Result<mpsc::Receiver<Result<Records, String>>, Failure> {
    let input: Box<dyn Read + Send> = match &args.file {
        Some(path) => Box::new(
            std::fs::File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))?,
        ),
        None => Box::new(std::io::stdin()),
    };
    let record_bytes = args.record_bytes;
    let (send, receive) = mpsc::channel(16);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut input = BufReader::with_capacity(1 << 20, input);
        let mut line = 0_u64;
        loop {
            let (read, at_end) = gather(&mut input, record_bytes, &mut line);
            let failed = read.is_err();
            // It fails when the command has failed and takes no more.
            if send.blocking_send(read).is_err() || failed || at_end {
                return;
            }
        }
    })?;
    Ok(receive)
}

/// Reads about a batch's worth of entries, or fewer when the next would have to be waited for: what
/// a slow producer has written goes on its way.
fn gather(
    input: &mut BufReader<impl Read>,
    record_bytes: Option<u32>,
    line: &mut u64,
) -> (Result<Records, String>, bool) {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES_TARGET {
        let mut record = Vec::new();
        let limit = record_bytes.map_or(ENTRY_BYTES_MAX as u64 + 1, u64::from);
        let mut limited = input.by_ref().take(limit);
        let read = match record_bytes {
            Some(_) => limited.read_to_end(&mut record),
            None => limited.read_until(b'\n', &mut record),
        };
        *line += 1;
        match read {
            Err(error) => return (Err(format!("cannot read the input: {error}")), false),
            Ok(0) => return (Ok(records), true),
            Ok(read) if read > ENTRY_BYTES_MAX => {
                let why = format!(
                    "line {line} is longer than the {ENTRY_BYTES_MAX} bytes that an entry may have; \
                     use --record-bytes to cut the input into entries of a fixed size"
                );
                return (Err(why), false);
            }
            Ok(read) => bytes += read,
        }
        records.push(record);
        let next_is_here = match record_bytes {
            Some(len) => input.buffer().len() >= len as usize,
            None => input.buffer().contains(&b'\n'),
        };
        if !next_is_here {
            break;
        }
    }
    (Ok(records), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], record_bytes: Option<u32>) -> Records {
        let (mut input, mut line, mut records) = (BufReader::new(input), 0, Vec::new());
        loop {
            let (read, at_end) = gather(&mut input, record_bytes, &mut line);
            records.extend(read.expect("it reads"));
            if at_end {
                return records;
            }
        }
    }

    #[test]
    fn entries_put_together_are_the_input() {
        let input = b"one\n\nthree\r\nno newline at the end";
        assert_eq!(all(input, None), [&b"one\n"[..], b"\n", b"three\r\n", b"no newline at the end"]);
        assert_eq!(all(input, Some(10)).concat(), input);
        assert_eq!(all(input, Some(10)).len(), 4);
        assert!(all(b"", None).is_empty());
    }

    /// A pipe with something in it, whose producer takes its time.
    struct Slow(&'static [u8]);

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            assert!(!self.0.is_empty(), "it waits although there is something to append");
            self.0.read(buf)
        }
    }

    #[test]
    fn what_is_here_does_not_wait_for_what_is_not() {
        let (read, at_end) = gather(&mut BufReader::new(Slow(b"one\ntwo\nthr")), None, &mut 0);
        assert_eq!((read.expect("it reads"), at_end), (vec![b"one\n".to_vec(), b"two\n".to_vec()], false));
        let (read, _) = gather(&mut BufReader::new(Slow(b"onetwoth")), Some(3), &mut 0);
        assert_eq!(read.expect("it reads"), [b"one", b"two"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let input = vec![b'x'; ENTRY_BYTES_MAX + 1];
        let (read, _) = gather(&mut BufReader::new(&input[..]), None, &mut 0);
        assert!(read.expect_err("it is refused").starts_with("line 1 is longer"));
        let (read, _) = gather(&mut BufReader::new(&input[1..]), None, &mut 0);
        assert_eq!(read.expect("the longest line is fine")[0].len(), ENTRY_BYTES_MAX);
    }
}
