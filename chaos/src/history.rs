//! What happened in a scenario, in the order in which it was seen, as JSON lines.
//!
//! ```json
//! {"at_us":812345,"event":"invoked","entry":17,"bytes":304,"content":"9c3e…"}
//! {"at_us":812777,"event":"acknowledged","entry":17,"offset":17}
//! ```

use crate::Failure;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

/// Fingerprint of an entry's payload, as 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Content(String);

impl Content {
    /// The fingerprint of this payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self(format!("{:032x}", xxh3_128(payload)))
    }
}

/// Something that a client saw or the scenario did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The scenario starts.
    Started {
        /// Its name.
        scenario: String,
        /// What all its random choices come from.
        seed: u64,
    },
    /// An append was called, for an entry of this number; no two entries have the same content.
    Invoked {
        /// Number of the entry: appends are called in the order of their numbers.
        entry: u64,
        /// Length of its payload.
        bytes: u64,
        /// Its payload.
        content: Content,
    },
    /// The append was acknowledged.
    Acknowledged {
        /// Number of the entry.
        entry: u64,
        /// Where it is.
        offset: u64,
    },
    /// The append was refused: nothing was appended.
    Refused {
        /// Number of the entry.
        entry: u64,
        /// Why.
        why: String,
    },
    /// Whether it was appended is not known, and never will be to its caller.
    Unknown {
        /// Number of the entry.
        entry: u64,
        /// Why.
        why: String,
    },
    /// A reader saw an entry.
    Read {
        /// The reader.
        reader: String,
        /// The offset that it was told.
        offset: u64,
        /// The payload.
        content: Content,
    },
    /// A reader saw the end of the log: there is nothing at this offset or beyond.
    End {
        /// The reader.
        reader: String,
        /// The offset.
        offset: u64,
    },
    /// A node was killed with SIGKILL.
    Killed {
        /// The node.
        node: String,
    },
    /// It was started again, and is ready.
    Restarted {
        /// The node.
        node: String,
    },
}

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the scenario's start.
    pub at_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Gathers a history, and writes it to a file if there is one. Cheap to clone; the clones share it.
#[derive(Clone, Debug)]
pub struct Recorder {
    start: Instant,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    records: Vec<Record>,
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Recorder {
    /// A recorder that keeps the history in memory, and in the file too.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(file: Option<&Path>) -> Result<Self, Failure> {
        let open = |path: &Path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), BufWriter::new(file))),
            Err(error) => Err(Failure(format!("cannot write the history to {}: {error}", path.display()))),
        };
        let file = file.map(open).transpose()?;
        Ok(Self { start: Instant::now(), kept: Arc::new(Mutex::new(Kept { records: Vec::new(), file })) })
    }

    /// Takes note of an event.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&self, event: Event) -> Result<(), Failure> {
        let mut kept = self.kept.lock();
        // Under the lock, so that times grow with the order.
        let record = Record { at_us: self.start.elapsed().as_micros() as u64, event };
        if let Some((path, file)) = &mut kept.file {
            let line = serde_json::to_string(&record)?;
            let written = writeln!(file, "{line}");
            written.map_err(|error| format!("cannot write the history to {}: {error}", path.display()))?;
        }
        kept.records.push(record);
        Ok(())
    }

    /// The history so far; what is in the file is complete up to here.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn history(&self) -> Result<Vec<Record>, Failure> {
        let mut kept = self.kept.lock();
        if let Some((path, file)) = &mut kept.file {
            let written = file.flush();
            written.map_err(|error| format!("cannot write the history to {}: {error}", path.display()))?;
        }
        Ok(kept.records.clone())
    }
}

/// Reads a history from a file.
///
/// # Errors
/// When it cannot be read, or a line is not an event.
pub fn load(path: &Path) -> Result<Vec<Record>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the history {}: {error}", path.display()))?;
    let parse = |(number, line): (usize, &str)| {
        let parsed = serde_json::from_str(line);
        parsed.map_err(|error| Failure(format!("{}:{}: {error}", path.display(), number + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_comes_back_from_its_file() {
        let path = std::env::temp_dir().join(format!("piculet-history-{}.jsonl", std::process::id()));
        let recorder = Recorder::new(Some(&path)).expect("it can be written");
        let content = Content::of(b"x");
        for event in [
            Event::Started { scenario: "kill".to_owned(), seed: u64::MAX },
            Event::Invoked { entry: 0, bytes: 1, content: content.clone() },
            Event::Unknown { entry: 0, why: "fenced".to_owned() },
            Event::Killed { node: "node-1".to_owned() },
            Event::Read { reader: "final".to_owned(), offset: 0, content },
            Event::End { reader: "final".to_owned(), offset: 1 },
        ] {
            recorder.record(event).expect("it is written");
        }
        let history = recorder.history().expect("it is written");
        let loaded = load(&path);
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(loaded, Ok(history));
    }
}
