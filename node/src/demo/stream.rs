//! The stream of lines into the log, at a bounded rate, with the latency of the appends.

use super::lines::Lines;
use super::report::Report;
use super::stage::Stage;
use super::{PATIENCE, hex};
use crate::cli::Failure;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use piculet_client::{Append, Error, LogWriter, WriterStatus};
use piculet_quorum::ids::LogName;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Every so many appends one is timed.
const SAMPLE: u64 = 16;
/// The stream is paced in slices of this length.
const SLICE: Duration = Duration::from_millis(20);

/// Lines in order, each handed out once; those that a crash took can be handed out again.
pub(super) struct Source {
    lines: Lines,
    rate: u64,
    hash: Sha256,
    next: u64,
    bytes: u64,
    /// Lines that may have to be handed out again, and the number of the first.
    kept: VecDeque<Vec<u8>>,
    kept_first: u64,
    /// The log must be at least this long when it is taken over.
    at_least: u64,
}

impl Source {
    pub(super) fn open(file: Option<&Path>, rate: u64) -> Result<Self, Failure> {
        let (lines, hash) = (Lines::open(file)?, Sha256::new());
        Ok(Self { lines, rate, hash, next: 0, bytes: 0, kept: VecDeque::new(), kept_first: 0, at_least: 0 })
    }

    pub(super) fn files(&self) -> usize {
        self.lines.files()
    }

    /// The number of the next line: how many there have been.
    pub(super) fn next_line(&self) -> u64 {
        self.next
    }

    /// How many bytes they have together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of all lines so far.
    pub(super) fn digest(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// So many lines were acknowledged: none of them may be missing.
    pub(super) fn expect_at_least(&mut self, acknowledged: u64) {
        self.at_least = acknowledged;
    }

    /// Lines for one slice of time, which is waited for. They are kept until they are acknowledged.
    pub(super) async fn slice(&mut self, slice_end: &mut Instant) -> Result<Vec<Vec<u8>>, Failure> {
        let budget = self.rate * SLICE.as_millis() as u64 / 1000;
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while bytes < budget {
            let line = self.lines.next()?;
            bytes += line.len() as u64;
            self.hash.update(&line);
            self.next += 1;
            self.kept.push_back(line.clone());
            lines.push(line);
        }
        self.bytes += bytes;
        tokio::time::sleep_until((*slice_end).into()).await;
        *slice_end =
            Instant::now().max(*slice_end + SLICE - Duration::from_millis(1)) + Duration::from_millis(1);
        Ok(lines)
    }

    /// Lines below `acknowledged` will never have to be handed out again.
    pub(super) fn forget(&mut self, acknowledged: u64) {
        while self.kept_first < acknowledged && self.kept.pop_front().is_some() {
            self.kept_first += 1;
        }
    }

    /// Lines from `first` on that have been handed out before.
    fn again(&self, first: u64) -> Result<Vec<Vec<u8>>, Failure> {
        let skip = first.checked_sub(self.kept_first).ok_or("a line that was acknowledged is missing")?;
        Ok(self.kept.iter().skip(skip as usize).cloned().collect())
    }
}

/// A writer of this process, fed from the source.
pub(super) struct Stream {
    writer: LogWriter,
    source: Source,
    slice_end: Instant,
    timed: mpsc::Sender<(Instant, Append)>,
    timer: JoinHandle<Result<(), Error>>,
    latency: Arc<Mutex<Histogram<u64>>>,
}

impl Stream {
    /// Takes the log over and appends what the writer before left undone.
    pub(super) async fn take_over(
        stage: &Stage,
        source: Source,
        name: &str,
        report: &mut Report,
    ) -> Result<Self, Failure> {
        let start = Instant::now();
        let writer = stage.client().take_over(&LogName::new(name)?).await?;
        let took = start.elapsed();
        let first = writer.status().next.0;
        if first < source.at_least || first > source.next {
            return Err(format!(
                "the log ends at offset {first}; {} lines were acknowledged and {} handed out",
                source.at_least, source.next
            )
            .into());
        }
        let again = source.again(first)?;
        report.step(&format!(
            "took the log over in epoch {} within {:.0} ms; it ends at offset {first}",
            writer.epoch(),
            took.as_secs_f64() * 1e3
        ));
        if source.at_least > 0 {
            report.took_over(took, first - source.at_least, again.len() as u64);
        }
        let (timed, receive) = mpsc::channel(1 << 16);
        let latency = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?;
        let latency = Arc::new(Mutex::new(latency));
        let timer = tokio::spawn(time_all(receive, Arc::clone(&latency)));
        let mut stream = Self { writer, source, slice_end: Instant::now(), timed, timer, latency };
        for (line, number) in again.iter().zip(first..) {
            stream.append(line, number).await?;
        }
        Ok(stream)
    }

    /// Appends for one slice of time.
    pub(super) async fn pump(&mut self, report: &mut Report) -> Result<(), Failure> {
        let first = self.source.next_line();
        let lines = self.source.slice(&mut self.slice_end).await?;
        for (line, number) in lines.iter().zip(first..) {
            self.append(line, number).await?;
        }
        let status = self.writer.status();
        self.source.forget(status.committed.0);
        report.progress(self.source.bytes(), status.committed.0, Some(&self.latency.lock()));
        Ok(())
    }

    async fn append(&mut self, line: &[u8], number: u64) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let append = self.writer.append(line);
            if number.is_multiple_of(SAMPLE) {
                match self.timed.try_send((start, append)) {
                    Ok(()) => return Ok(()),
                    Err(mpsc::error::TrySendError::Full((_, append))) => {
                        drop(append.queued()?);
                        return Ok(());
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        return Err("an append failed; see above".into());
                    }
                }
            }
            match append.queued() {
                Ok(_) => return Ok(()),
                Err(Error::Overloaded { why, .. }) => {
                    tokio::time::timeout(PATIENCE, self.writer.ready()).await.map_err(|_| {
                        format!("nothing was acknowledged for {} s: {why}", PATIENCE.as_secs())
                    })?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.source.bytes()
    }

    pub(super) fn status(&self) -> WriterStatus {
        self.writer.status()
    }

    /// Waits for every acknowledgement and closes the writer.
    pub(super) async fn finish(mut self, report: &mut Report) -> Result<(Source, Histogram<u64>), Failure> {
        self.writer.flush().await?;
        drop(self.timed);
        self.timer.await??;
        let latency = self.latency.lock().clone();
        let end = self.writer.close().await?;
        if end.0 != self.source.next_line() {
            return Err(
                format!("the log ends at {end}, {} lines were appended", self.source.next_line()).into()
            );
        }
        self.source.forget(end.0);
        report.progress(self.source.bytes(), end.0, None);
        Ok((self.source, latency))
    }
}

/// Waits for appends in their order, and takes the time that each took.
async fn time_all(
    mut timed: mpsc::Receiver<(Instant, Append)>,
    latency: Arc<Mutex<Histogram<u64>>>,
) -> Result<(), Error> {
    while let Some((start, append)) = timed.recv().await {
        append.await?;
        latency.lock().saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(())
}
