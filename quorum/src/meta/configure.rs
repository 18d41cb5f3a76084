//! A change of a log's settings.

use super::seal::Unsound;
use super::{ConfigRecord, Key, Record, Snapshot, Txn, Versioned};
use crate::ids::LogId;
use serde::{Deserialize, Serialize};

/// Other settings for a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConfigureLog {
    /// The log.
    pub log: LogId,
    /// Its settings as they were read.
    pub read: Versioned<ConfigRecord>,
    /// What they are to be.
    pub config: ConfigRecord,
}

impl ConfigureLog {
    /// The transaction: the settings must be as they were read.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let key = Key::Config(self.log);
        Txn::default().when(key.clone(), self.read.revision).put(key, Record::Config(self.config.clone()))
    }

    /// Checks that the proposal is true of the settings in `now`, and changes none that is for ever.
    ///
    /// # Errors
    /// With what is wrong; such a proposal must not be carried out.
    pub fn check(&self, now: &Snapshot) -> Result<(), Unsound> {
        let current = now.config(&Key::Config(self.log));
        if current.is_some_and(|current| current.revision == self.read.revision && current != self.read) {
            return Err(Unsound(format!("the settings of log {} are not as proposed", self.log)));
        }
        if self.config.durability != self.read.value.durability {
            return Err(Unsound("a log's durability is fixed when it is created".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Level, Revision};

    #[test]
    fn the_durability_of_a_log_is_for_ever() {
        let config = |durability, allow_loss| ConfigRecord { durability, allow_loss };
        let read = Versioned { revision: Revision(4), value: config(Level::Memory, false) };
        let to = |config| ConfigureLog { log: LogId(1), read: read.clone(), config };
        assert_eq!(to(config(Level::Memory, true)).check(&Snapshot::default()), Ok(()));
        assert!(to(config(Level::Disk, true)).check(&Snapshot::default()).is_err());
        let mut now = Snapshot::default();
        let other = Versioned { revision: Revision(4), value: Record::Config(config(Level::Memory, true)) };
        now.records.insert(Key::Config(LogId(1)), other);
        assert!(to(config(Level::Memory, true)).check(&now).is_err(), "it quotes what was never there");
    }
}
