//! Who writes, and who reads, while things go wrong; each notes all that it sees.

use crate::Failure;
use crate::history::{Content, Event, Recorder};
use crate::random::Random;
use crate::site::PATIENCE;
use bytes::Bytes;
use piculet_client::{Append, Client, Error, LogWriter, ReadOptions, Start};
use piculet_quorum::ids::{LogName, Offset};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Most appends that wait for their acknowledgement.
const WINDOW: usize = 64;
/// Most appends between two pauses, and the longest pause, so that a small machine has time for
/// the nodes too.
const BURST: (u64, Duration) = (32, Duration::from_millis(12));
/// Entries are shorter than this, most of them much.
const ENTRY_BYTES: u64 = 16 << 10;

/// A writer that appends entries of random sizes, each with its number in it.
pub(crate) struct Appending {
    pub(crate) client: Client,
    pub(crate) log: LogName,
    pub(crate) seed: u64,
    pub(crate) recorder: Recorder,
    /// Told how far appends are acknowledged.
    pub(crate) progress: watch::Sender<Offset>,
    /// Told when to end.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Appends on their way.
type Pending = VecDeque<(u64, Append)>;

impl Appending {
    /// Appends until it is told to stop, then waits for everything and closes the writer. When a
    /// writer fails, what waits is of unknown outcome, and the log is taken over again. Returns
    /// where the log ends, and how often it was taken over.
    pub(crate) async fn run(self) -> Result<(Offset, u32), Failure> {
        let (mut random, mut next, mut takeovers) = (Random::new(self.seed, 1), 0, 0);
        loop {
            let writer = within("the log is taken over", self.client.take_over(&self.log)).await??;
            takeovers += 1;
            let mut pending = Pending::new();
            if let Err(error) = self.append(&writer, &mut pending, &mut random, &mut next).await? {
                self.give_up(pending, &error).await?;
                continue;
            }
            let end = within("the writer closes", writer.close()).await??;
            return Ok((end, takeovers));
        }
    }

    /// Appends with one writer. The inner result is the writer's own failure.
    async fn append(
        &self,
        writer: &LogWriter,
        pending: &mut Pending,
        random: &mut Random,
        next: &mut u64,
    ) -> Result<Result<(), Error>, Failure> {
        while !*self.stop.borrow() {
            for _ in 0..=random.below(BURST.0) {
                let payload = payload(random, *next);
                let (bytes, content) = (payload.len() as u64, Content::of(&payload));
                self.recorder.record(Event::Invoked { entry: *next, bytes, content })?;
                pending.push_back((*next, writer.append(&payload)));
                *next += 1;
            }
            while pending.len() > WINDOW {
                if let Err(error) = self.oldest(writer, pending).await? {
                    return Ok(Err(error));
                }
            }
            sleep(random.up_to(BURST.1)).await;
        }
        while !pending.is_empty() {
            if let Err(error) = self.oldest(writer, pending).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Waits for the oldest append. The inner result is the writer's failure.
    async fn oldest(&self, writer: &LogWriter, pending: &mut Pending) -> Result<Result<(), Error>, Failure> {
        let Some((entry, append)) = pending.pop_front() else { return Ok(Ok(())) };
        match within(&format!("the append of entry {entry} ends"), append).await? {
            Ok(offset) => {
                self.recorder.record(Event::Acknowledged { entry, offset: offset.0 })?;
                self.progress.send_replace(offset.plus(1));
            }
            Err(error) if error.outcome_unknown() => {
                self.recorder.record(Event::Unknown { entry, why: error.to_string() })?;
                return Ok(Err(error));
            }
            Err(error) => {
                self.recorder.record(Event::Refused { entry, why: error.to_string() })?;
                if !matches!(error, Error::Overloaded { .. }) {
                    return Ok(Err(error));
                }
                within("the writer has room again", writer.ready()).await?;
            }
        }
        Ok(Ok(()))
    }

    /// What waited for a writer that has failed.
    async fn give_up(&self, pending: Pending, error: &Error) -> Result<(), Failure> {
        for (entry, append) in pending {
            let event = match within("an append of a failed writer ends", append).await? {
                Ok(offset) => Event::Acknowledged { entry, offset: offset.0 },
                Err(error) if error.outcome_unknown() => Event::Unknown { entry, why: error.to_string() },
                Err(error) => Event::Refused { entry, why: error.to_string() },
            };
            self.recorder.record(event)?;
        }
        // Somebody else writes: taking the log back and forth would never end.
        if matches!(error, Error::Fenced { .. }) {
            return Err(format!("a writer was replaced that nobody replaces here: {error}").into());
        }
        Ok(())
    }
}

/// Reads a log from its beginning, following it until it has seen the entry before the offset that
/// it is told; what it has read is noted under its name.
pub(crate) async fn follow(
    client: Client,
    log: LogName,
    recorder: Recorder,
    reader: String,
    mut end: watch::Receiver<Option<Offset>>,
) -> Result<(), Failure> {
    let mut entries = client.read(&log, Start::Earliest, ReadOptions { follow: true }).await?;
    let (mut seen, mut told) = (0, true);
    loop {
        if end.borrow().is_some_and(|end| seen >= end.0) {
            return Ok(());
        }
        tokio::select! {
            entry = entries.next() => {
                let entry = entry.ok_or("a reader that follows came to an end")??;
                let content = Content::of(&entry.payload);
                recorder.record(Event::Read { reader: reader.clone(), offset: entry.offset.0, content })?;
                seen += 1;
            }
            // The sender goes when the scenario has failed.
            changed = end.changed(), if told => told = changed.is_ok(),
        }
    }
}

/// Reads a whole log, and notes its end.
pub(crate) async fn read_all(client: &Client, log: &LogName, recorder: &Recorder) -> Result<(), Failure> {
    let reader = "final".to_owned();
    let mut entries = client.read(log, Start::Earliest, ReadOptions { follow: false }).await?;
    let mut end = 0;
    while let Some(entry) = within("the log is read to its end", entries.next()).await? {
        let entry = entry?;
        let content = Content::of(&entry.payload);
        recorder.record(Event::Read { reader: reader.clone(), offset: entry.offset.0, content })?;
        end = entry.offset.0 + 1;
    }
    recorder.record(Event::End { reader, offset: end })
}

/// An entry that no other is equal to: its number, then random bytes.
fn payload(random: &mut Random, entry: u64) -> Bytes {
    let longest = ENTRY_BYTES >> random.below(8);
    let len = 8 + random.below(longest) as usize;
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&entry.to_le_bytes());
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// Awaits something that must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(PATIENCE, future).await.map_err(|_| Failure(format!("waited {PATIENCE:?} in vain: {what}")))
}
