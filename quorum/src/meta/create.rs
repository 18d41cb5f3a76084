//! T0: create a log.

use super::{ConfigRecord, FirstRecord, Key, LogRecord, NameRecord, Record, TrimRecord, Txn};
use crate::ids::{Chain, Epoch, Level, LogId, LogName, Nonce, Offset, Revision, SegmentNumber, Timestamp};
use serde::{Deserialize, Serialize};

/// A new log under a name that is free. The id is random and fresh for every attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CreateLog {
    /// Its name.
    pub name: LogName,
    /// Its id.
    pub log: LogId,
    /// Durability of its first segments.
    pub durability: Level,
}

impl CreateLog {
    /// The transaction: name and id must be absent.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let record = LogRecord {
            name: self.name.clone(),
            epoch: Epoch(0),
            writer: Nonce(0),
            holder: None,
            next_segment: SegmentNumber(0),
            next_base: Offset(0),
            chain: Chain(0),
            last_timestamp: Timestamp(0),
            deleted: None,
        };
        Txn::default()
            .when(Key::Name(self.name.clone()), Revision(0))
            .when(Key::Log(self.log), Revision(0))
            .put(Key::Name(self.name.clone()), Record::Name(NameRecord { log: self.log }))
            .put(Key::Log(self.log), Record::Log(record))
            .put(
                Key::Config(self.log),
                Record::Config(ConfigRecord { durability: self.durability, ..ConfigRecord::default() }),
            )
            .put(Key::Trim(self.log), Record::Trim(TrimRecord::default()))
            .put(Key::First(self.log), Record::First(FirstRecord::default()))
    }
}
