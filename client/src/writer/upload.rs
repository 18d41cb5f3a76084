//! The upload of a log of level `object`: no node holds its entries before they are archived, so the
//! writer puts them into the object store itself, and an append is acknowledged once its part is
//! recorded.
//!
//! 1. Whatever waits when no upload is under way becomes one part; what comes meanwhile, the next.
//! 2. The part is encoded and named as nodes do it: one range has one content and one name.
//! 3. It is put. What has timed out is looked for; a smaller part is made then, for the line may be slow,
//!    and nothing has been recorded. What has failed otherwise is put again until it is there, as is a
//!    part of one batch, for there is no smaller one.
//! 4. It is recorded (T3), by way of any node. A transaction of unknown outcome is repeated as it is,
//!    until one outcome or the other is known. One that is refused means that something has changed:
//!    it had been carried out before, or the log is another writer's.

mod size;

use super::gather::Gathered;
use super::state::Shared;
use crate::error::Error;
use crate::pool::{CallError, Pool};
use crate::store::{Store, StoreOptions};
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Index, Level, LogId, Nonce, Revision, SegmentNumber};
use piculet_quorum::meta::part::RecordPart;
use piculet_quorum::meta::{LogView, PartRecord, SegmentEnd, TxnOutcome};
use piculet_quorum::producers::Producers;
use piculet_quorum::wire::message::Proposal;
use piculet_quorum::writer::Waiting;
use piculet_storage::part::{self, PART_ENCODER};
use piculet_storage::{EncodedPart, ObjectError, Objects, PartError, PartHeader, PartName, Put};
use size::PartSize;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// First and longest pause before a step that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A step that goes on failing is warned about this often.
const WARN: Duration = Duration::from_secs(30);

/// Uploads what is appended until the writer has stopped; nothing unless its log needs it. What is
/// under way then is given up: it counts only if it was recorded.
pub(super) async fn run(shared: &Shared, pool: &Pool, log: LogId, store: &Store) {
    let Some((objects, options)) = store.opened() else { return };
    if shared.lock().writer.level() != Level::Object {
        return;
    }
    let mut uploader = Uploader::new(shared, pool, log, objects, options);
    tokio::select! {
        () = shared.ended() => {}
        broken = uploader.run() => shared.broken(broken.0),
    }
}

/// Where an uploader puts parts.
pub(super) trait PartStore {
    /// The cluster whose parts it takes.
    fn cluster(&self) -> Nonce;

    /// As [`Objects::put_part`].
    async fn put_part(&self, name: &PartName, part: &EncodedPart) -> Result<Put, ObjectError>;
}

impl PartStore for Objects {
    fn cluster(&self) -> Nonce {
        self.cluster()
    }

    async fn put_part(&self, name: &PartName, part: &EncodedPart) -> Result<Put, ObjectError> {
        self.put_part(name, part).await
    }
}

/// What an uploader asks of the metadata: a node carries it out.
struct Metadata<'a> {
    pool: &'a Pool,
    log: LogId,
}

impl Metadata<'_> {
    async fn record(&self, part: &RecordPart) -> Result<TxnOutcome, CallError> {
        self.pool.propose(Proposal::RecordPart(Box::new(part.clone()))).await
    }

    async fn view(&self, from: Option<SegmentNumber>) -> Result<Box<LogView>, CallError> {
        self.pool.view(self.log, from).await
    }

    /// The table of producers at the end of the newest part.
    async fn producers(&self) -> Result<Vec<u8>, CallError> {
        Ok(self.pool.producers(self.log).await?.table)
    }
}

/// Why nothing more can be uploaded: going on might do damage.
pub(super) struct Broken(String);

/// The part that was recorded last.
#[derive(Clone, Copy)]
struct Last {
    segment: SegmentNumber,
    first: Index,
    at: SegmentEnd,
    /// None when it is not told: the segment has been sealed behind the part.
    revision: Option<Revision>,
}

/// Makes parts of what a writer was given, one after the other.
pub(super) struct Uploader<'a, S> {
    shared: &'a Shared,
    objects: &'a S,
    linger: Duration,
    metadata: Metadata<'a>,
    last: Option<Last>,
    /// The table of producers at the end of the last part; none before the first.
    producers: Option<Producers>,
    size: PartSize,
    /// The last part was not put in time, and a smaller one is being made.
    late: Option<Trouble<'a>>,
}

impl<'a, S: PartStore> Uploader<'a, S> {
    pub(super) fn new(
        shared: &'a Shared,
        pool: &'a Pool,
        log: LogId,
        objects: &'a S,
        options: &StoreOptions,
    ) -> Self {
        let (metadata, size) = (Metadata { pool, log }, PartSize::new(options.part_bytes));
        let linger = options.linger;
        Self { shared, objects, linger, metadata, last: None, producers: None, size, late: None }
    }

    /// Uploads until going on might do damage.
    pub(super) async fn run(&mut self) -> Broken {
        loop {
            let Some(gathered) = self.shared.gather(self.size.limit()) else {
                self.shared.upload.notified().await;
                // One turn for others: what they append meanwhile goes into the same part.
                tokio::task::yield_now().await;
                if !self.linger.is_zero() {
                    sleep(self.linger).await;
                }
                continue;
            };
            if let Err(broken) = self.archive(gathered).await {
                return broken;
            }
        }
    }

    /// Makes a part of what was gathered, puts it and records it; or finds that it must be smaller.
    async fn archive(&mut self, gathered: Gathered) -> Result<(), Broken> {
        let Gathered { next: Waiting { segment, record: read, from: first, to, end }, pieces } = gathered;
        let record = &read.value;
        let last = self.last.filter(|last| last.segment == segment);
        if last.is_some_and(|last| last.revision.is_none()) {
            // The segment takes no other part: somebody else has sealed it, as the writer will hear.
            self.shared.look();
            sleep(RETRY.0).await;
            return Ok(());
        }
        let before = last.map_or_else(|| record.start(), |last| last.at);
        if before.end != first {
            let why = format!(
                "segment {segment} is archived up to {first}, its writer has archived {}",
                before.end
            );
            return Err(Broken(why));
        }
        let at = SegmentEnd { end: to, chain: end.chain, last_timestamp: end.last_timestamp };
        let header = PartHeader {
            cluster: self.objects.cluster(),
            place: Place { log: self.metadata.log, segment, epoch: record.epoch },
            level: record.level,
            base: record.base,
            first,
            before: BatchEnd { chain: before.chain, last_timestamp: before.last_timestamp },
            at,
            skip: false,
        };
        let producers = self.producers_before().await?;
        let below = PartSize::below(&pieces);
        let encoded = encode(header.clone(), producers, pieces).await.map_err(|error| {
            Broken(format!(
                "what was appended does not make a part: {error}; this process's memory is damaged"
            ))
        })?;
        if !self.put(&header, &encoded, below).await? {
            return Ok(());
        }
        let part = RecordPart {
            log: self.metadata.log,
            segment,
            read,
            before: last.and_then(|last| Some((last.first, last.revision?))),
            first,
            part: PartRecord { at, bytes: encoded.bytes, encoder: PART_ENCODER, skip: false },
        };
        let revision = self.record(&part).await?;
        tracing::debug!(part = %header.name(), bytes = encoded.bytes, "archived a part");
        self.last = Some(Last { segment, first, at, revision });
        self.producers = Some(encoded.producers);
        self.shared.archived(segment, to);
        Ok(())
    }

    /// The table before the next part. Before this writer's first it is that of the newest part, for
    /// everything before its first segment is archived; and empty when the log's settings say, now
    /// that this segment exists, that no entry so far has a producer.
    async fn producers_before(&mut self) -> Result<Producers, Broken> {
        if let Some(known) = &self.producers {
            return Ok(known.clone());
        }
        let mut trouble = Trouble::new(self.shared, "to read what producers have appended before");
        loop {
            let read = async {
                if !self.metadata.view(None).await?.config.value.producers {
                    return Ok(Vec::new());
                }
                self.metadata.producers().await
            };
            match read.await {
                Ok(table) => {
                    trouble.over();
                    let table = Producers::decode(&table).map_err(|error| {
                        Broken(format!("a node answered with no table of producers: {error}"))
                    })?;
                    return Ok(self.producers.insert(table).clone());
                }
                Err(error @ CallError::Failed(_)) => return Err(Broken(error.to_string())),
                Err(error) => {
                    if let CallError::Gone(_) = error {
                        self.shared.look();
                    }
                    trouble.wait(&error.to_string()).await;
                }
            }
        }
    }

    /// Puts a part. False when that was not done in time and there is a limit to make a smaller one
    /// with, which applies from now on. What was sent may still turn up in the store: no record names it.
    async fn put(
        &mut self,
        header: &PartHeader,
        part: &EncodedPart,
        below: Option<u64>,
    ) -> Result<bool, Broken> {
        let new = || Trouble::new(self.shared, "to put a part into the object store");
        let mut trouble = self.late.take().unwrap_or_else(new);
        loop {
            let begun = Instant::now();
            let error = match self.objects.put_part(&header.name(), part).await {
                Ok(_) => {
                    self.size.put(part.bytes, begun.elapsed());
                    trouble.over();
                    return Ok(true);
                }
                Err(error) if error.is_retryable() => error,
                Err(error @ ObjectError::Different { .. }) => return Err(Broken(format!("ALARM: {error}"))),
                Err(error) => return Err(Broken(error.to_string())),
            };
            trouble.wait(&error.to_string()).await;
            if let Some(limit) = below.filter(|_| error.is_timeout()) {
                tracing::debug!(part = %header.name(), bytes = part.bytes, limit, "makes a smaller part");
                self.size.shrink(limit);
                self.late = Some(trouble);
                return Ok(false);
            }
        }
    }

    /// T3. Returns the revision of the part's record; none when it is not told, for the segment has
    /// been sealed behind the part and takes no other.
    async fn record(&self, part: &RecordPart) -> Result<Option<Revision>, Broken> {
        let mut trouble = Trouble::new(self.shared, "to record a part");
        loop {
            let why = match self.metadata.record(part).await {
                Ok(TxnOutcome::Applied(revision)) => {
                    trouble.over();
                    return Ok(Some(revision));
                }
                Ok(TxnOutcome::Refused) | Err(CallError::Refused(_) | CallError::Gone(_)) => {
                    // An earlier sending may have been carried out, and its answer lost.
                    if let Some(revision) = self.recorded(part).await {
                        trouble.over();
                        return Ok(revision);
                    }
                    self.shared.look();
                    "it was refused; the metadata are asked why".to_owned()
                }
                Err(CallError::Failed(Error::Refused(why))) => return Err(Broken(why)),
                Err(error) => error.to_string(),
            };
            trouble.wait(&why).await;
        }
    }

    /// Whether this very part is the last of its segment, and the revision of its record where that is
    /// told.
    async fn recorded(&self, part: &RecordPart) -> Option<Option<Revision>> {
        let view = self.metadata.view(Some(part.segment)).await.ok()?;
        let epoch = part.read.value.epoch;
        let Some(seen) = view.segments.get(&part.segment) else {
            // Trimmed away under this writer, who seals only what is archived whole.
            let mine = view.record.value.epoch == epoch && part.segment < view.first_segment;
            return mine.then_some(None);
        };
        let same = seen.record.value.epoch == epoch && seen.archived == part.part.at;
        same.then(|| seen.last.filter(|(first, _)| *first == part.first).map(|(_, revision)| revision))
    }
}

/// A step that may fail for as long as it likes: appends wait meanwhile.
struct Trouble<'a> {
    shared: &'a Shared,
    what: &'static str,
    pause: Duration,
    warned: Option<Instant>,
}

impl<'a> Trouble<'a> {
    fn new(shared: &'a Shared, what: &'static str) -> Self {
        Self { shared, what, pause: RETRY.0, warned: None }
    }

    /// It has failed: waits before it is tried again.
    async fn wait(&mut self, why: &str) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN) {
            self.warned = Some(Instant::now());
            tracing::warn!(%why, "cannot {}; appends wait, and it is tried until it succeeds", self.what.trim_start_matches("to "));
        }
        self.shared.troubled(Some(format!("failed {}: {why}", self.what)));
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY.1);
    }

    /// It has succeeded.
    fn over(self) {
        if self.warned.is_some() {
            tracing::info!("succeeded {}: appends go on", self.what);
            self.shared.troubled(None);
        }
    }
}

/// Encodes a part on a thread where checksums over megabytes delay nobody.
async fn encode(
    header: PartHeader,
    producers: Producers,
    pieces: Vec<bytes::Bytes>,
) -> Result<EncodedPart, PartError> {
    let encoding = tokio::task::spawn_blocking(move || part::encode(&header, producers, &pieces));
    match encoding.await {
        Ok(encoded) => encoded,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
