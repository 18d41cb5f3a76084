//! T1: take a log over. Before any fence is sent.

use super::{Key, LogRecord, Record, Txn, Versioned};
use crate::ids::{LogId, Nonce};
use serde::{Deserialize, Serialize};

/// A new epoch for a log, mine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TakeOver {
    /// The log.
    pub log: LogId,
    /// Its record as it was read.
    pub read: Versioned<LogRecord>,
    /// A fresh value: the takeover is mine if it is in the record.
    pub writer: Nonce,
    /// Who takes it over, for people to read; none when nobody means to write, and the log stays free.
    pub holder: Option<String>,
}

impl TakeOver {
    /// The record that the takeover makes.
    #[must_use]
    pub fn record(&self) -> LogRecord {
        LogRecord {
            epoch: self.read.value.epoch.plus(1),
            writer: self.writer,
            holder: self.holder.clone(),
            ..self.read.value.clone()
        }
    }

    /// The transaction: the record must be as it was read.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let key = Key::Log(self.log);
        Txn::default().when(key.clone(), self.read.revision).put(key, Record::Log(self.record()))
    }
}
