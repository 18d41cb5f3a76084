//! A writer under steady load that remembers what became of every append.

use crate::{Ledger, PATIENCE, bounded, payload};
use bytes::Bytes;
use piculet_client::{Append, Error, LogWriter};
use piculet_quorum::ids::Offset;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Most appends that wait for their acknowledgement.
const WINDOW: usize = 64;
/// Entries that are appended at a time, and the pause behind them: a load that leaves a shared
/// machine room for the nodes.
const SLICE: (u64, Duration) = (8, Duration::from_millis(2));

/// A writer that appends distinguishable entries of 0 to 2 KiB, and knows the fate of each.
pub struct Appender {
    writer: LogWriter,
    stream: u64,
    next: u64,
    pending: VecDeque<(Bytes, Append)>,
    ledger: Ledger,
}

impl Appender {
    /// Appends with this writer. Entries of another epoch differ.
    #[must_use]
    pub fn new(writer: LogWriter) -> Self {
        let stream = writer.epoch().0;
        Self { writer, stream, next: 0, pending: VecDeque::new(), ledger: Ledger::default() }
    }

    /// The writer.
    #[must_use]
    pub fn writer(&self) -> &LogWriter {
        &self.writer
    }

    /// What was acknowledged so far.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Appends an entry of this length, and waits for older ones when too many wait.
    ///
    /// # Errors
    /// With the first that failed.
    pub async fn append(&mut self, len: usize) -> Result<(), Error> {
        let payload = payload(self.stream, self.next, len);
        self.next += 1;
        let append = self.writer.append(&payload);
        self.pending.push_back((payload, append));
        while self.pending.len() > WINDOW {
            self.oldest().await?;
        }
        Ok(())
    }

    /// Appends a few entries of different lengths.
    ///
    /// # Errors
    /// With the first append that failed.
    pub async fn pump(&mut self) -> Result<(), Error> {
        for _ in 0..SLICE.0 {
            self.append((self.next * 257 % 2049) as usize).await?;
        }
        sleep(SLICE.1).await;
        Ok(())
    }

    /// Appends until the condition holds.
    ///
    /// # Panics
    /// When an append fails, or the condition does not hold in time.
    pub async fn pump_until(&mut self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !bounded(what, holds(self)).await {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
            self.pump()
                .await
                .unwrap_or_else(|error| panic!("an append failed while waiting: {what}: {error}"));
        }
    }

    /// Appends until so many more entries are acknowledged.
    ///
    /// # Panics
    /// When an append fails.
    pub async fn pump_more(&mut self, entries: usize) {
        let wanted = self.ledger.len() + entries;
        self.pump_until("appends are acknowledged", async |appender| appender.ledger.len() >= wanted).await;
    }

    /// Waits for everything that was appended.
    ///
    /// # Errors
    /// With the first append that failed; the others wait on.
    pub async fn settle(&mut self) -> Result<(), Error> {
        while !self.pending.is_empty() {
            self.oldest().await?;
        }
        Ok(())
    }

    /// Waits for everything, closes the writer, and hands over what must be in the log.
    ///
    /// # Panics
    /// When an append fails, or the log does not end where it should.
    pub async fn close(mut self) -> Ledger {
        self.settle().await.expect("every append is acknowledged");
        let end: Offset = bounded("the writer closes", self.writer.close()).await.expect("it closes");
        assert_eq!(end, self.ledger.end(), "the log ends behind the last append");
        self.ledger
    }

    /// Lets go of the writer without a farewell, as a process that dies. What waits may have been
    /// appended. Returns what must be in the log.
    #[must_use]
    pub fn abandon(self) -> Ledger {
        let Self { writer, pending, mut ledger, .. } = self;
        drop(writer);
        for (payload, _) in pending {
            ledger.unknown(payload);
        }
        ledger
    }

    /// Expects the writer to have been replaced: what waits was appended up to some entry, and
    /// nothing behind it. Returns how many were not, and what must be in the log.
    ///
    /// # Panics
    /// When an append fails in another way.
    pub async fn fenced(mut self) -> (usize, Ledger) {
        let mut failed = 0;
        while !self.pending.is_empty() {
            match self.oldest().await {
                Ok(()) => assert_eq!(failed, 0, "nothing is acknowledged behind what failed"),
                Err(error @ Error::Fenced { .. }) => {
                    assert!(!error.outcome_unknown() && !error.is_retryable(), "{error}");
                    failed += 1;
                }
                Err(error) => panic!("a writer that was replaced says: {error}"),
            }
        }
        (failed, self.ledger)
    }

    async fn oldest(&mut self) -> Result<(), Error> {
        let Some((payload, append)) = self.pending.pop_front() else { return Ok(()) };
        match bounded("an append is acknowledged or fails", append).await {
            Ok(offset) => self.ledger.acknowledged(offset, payload),
            Err(error) => {
                if error.outcome_unknown() {
                    self.ledger.unknown(payload);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}
