//! A watch, as its owner sees it.

use crate::memory::MemoryWatch;
use piculet_quorum::meta::{Key, Record, Snapshot, StoreRevision, Versioned};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What a watch shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All of the range at one moment. What was known before is void: what is not in the snapshot
    /// does not exist.
    Reset(Snapshot),
    /// What one transaction, or the end of one lease, changed in the range.
    Changed {
        /// The moment.
        at: StoreRevision,
        /// The new records, none where one was deleted. Never empty; each key at most once.
        changes: Vec<(Key, Option<Versioned<Record>>)>,
    },
}

/// A watch on a range of keys; dropping it ends it.
#[derive(Debug)]
pub struct Watch(Source);

#[derive(Debug)]
enum Source {
    Memory(MemoryWatch),
    Task {
        events: mpsc::Receiver<WatchEvent>,
        /// The task that sends them; it is aborted with the watch.
        _task: JoinSet<()>,
    },
}

impl Watch {
    pub(crate) fn memory(watch: MemoryWatch) -> Self {
        Self(Source::Memory(watch))
    }

    pub(crate) fn task(events: mpsc::Receiver<WatchEvent>, task: JoinSet<()>) -> Self {
        Self(Source::Task { events, _task: task })
    }

    /// The next event, in the order of the changes. Cancel-safe: no event is lost when the future
    /// is dropped.
    pub async fn next(&mut self) -> WatchEvent {
        match &mut self.0 {
            Source::Memory(watch) => watch.next().await,
            Source::Task { events, .. } => match events.recv().await {
                Some(event) => event,
                // The task never ends by itself: the runtime is shutting down, and this with it.
                None => std::future::pending().await,
            },
        }
    }
}
