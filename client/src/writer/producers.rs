//! The table of producers that a writer begins with: that at the end of the newest part, and what
//! the entries behind it add.

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{CallError, Pool};
use crate::reader::LogReader;
use piculet_quorum::ids::{LogId, LogName, Offset, SegmentNumber};
use piculet_quorum::producers::Producers;

/// How often a reading starts over because what it reads is trimmed away, or its start is not known
/// to have been recorded.
const ATTEMPTS: u32 = 8;

/// What a writer was when it began.
pub(super) struct Beginning {
    /// Its first segment.
    pub(super) segment: SegmentNumber,
    /// The offset of its first entry.
    pub(super) base: Offset,
}

/// Reads the table of a log before the first segment of its writer, which has appended nothing for a
/// producer yet.
pub(super) async fn read(
    pool: &Pool,
    options: &ClientOptions,
    log: (&LogName, LogId),
    beginning: &Beginning,
) -> Result<Producers, Error> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match attempt(pool, options, log, beginning).await {
            // A newer part is there, or the same may be asked again.
            Err(error @ (Error::Trimmed { .. } | Error::Unknown(_))) if attempts < ATTEMPTS => {
                tracing::debug!(%error, "the table of producers is read again");
            }
            result => return result,
        }
    }
}

async fn attempt(
    pool: &Pool,
    options: &ClientOptions,
    (name, log): (&LogName, LogId),
    beginning: &Beginning,
) -> Result<Producers, Error> {
    let found = pool.producers(log).await.map_err(|error| match error {
        CallError::Gone(_) => Error::Deleted(name.clone()),
        other => other.of(name),
    })?;
    let mut table = Producers::decode(&found.table).map_err(|error| {
        Error::Refused(format!("a node answered with what is no table of producers: {error}"))
    })?;
    if let Some(from) = found.from.filter(|(segment, _)| *segment < beginning.segment) {
        let mut entries = LogReader::between(pool.clone(), options, (name, log), from, beginning.segment);
        while let Some(entry) = entries.next().await {
            let entry = match entry {
                Ok(entry) => entry,
                // What is lost was undone with its entries.
                Err(error @ Error::LossPossible { .. }) => {
                    tracing::debug!(%error, "the table of producers is read on behind it");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(producer) = entry.producer {
                table.fold(producer, entry.offset);
            }
        }
    }
    if table.end() > beginning.base {
        let why = "another writer has taken the log over and appended for producers: open the log again";
        return Err(Error::Refused(why.to_owned()));
    }
    Ok(table)
}
