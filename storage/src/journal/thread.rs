//! Group commit: one thread writes what all logs have handed over, with one sync.

use super::core::JournalCore;
use super::disk::Disk;
use super::record::{Change, batch_record_bytes};
use super::{JournalError, Stopped};
use crate::buffer::{Position, Synced};
use parking_lot::{Condvar, Mutex};
use piculet_quorum::batch::Place;
use piculet_quorum::ids::Index;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Why a batch is not taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too much waits to be written.
    #[error("{waiting} bytes wait to be written to the journal, and {limit} may: the disk is slow")]
    Waiting {
        /// Bytes that wait.
        waiting: u64,
        /// Bytes that may.
        limit: u64,
    },
    /// The files take all the room that they may, or that there is.
    #[error(
        "the journal has room for {room} more bytes, and {wanted} are wanted: make room on its file system, check that the object store is reachable, or raise buffer.disk.bytes"
    )]
    Room {
        /// Bytes needed.
        wanted: u64,
        /// Bytes of room.
        room: u64,
    },
}

/// A journal with the thread that writes it. What is handed over is written with all else that waits
/// by then: nothing waits for company. Closing it, or dropping it, writes what waits and leaves an
/// end mark.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something has been put into the queue.
    wake: Condvar,
    /// What has become durable and not been asked for.
    news: Mutex<BTreeMap<Place, Index>>,
    synced: watch::Sender<Position>,
    failed: watch::Sender<Option<Stopped>>,
    queue_bytes: u64,
    /// With less room than this it is nearly full.
    room_low: u64,
}

#[derive(Debug, Default)]
struct Queue {
    changes: Vec<Change>,
    /// Of the change that was handed over last.
    position: Position,
    /// Bytes of the batches that room was taken for, wait, or are being written.
    reserved: u64,
    /// Bytes that the files had room for when that was counted, `reserved` included.
    room: u64,
    /// Whether to count the room again.
    recount: bool,
    closing: bool,
    stopped: bool,
}

impl Journal {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start<D>(core: JournalCore<D>) -> io::Result<Self>
    where
        D: Disk + Send + 'static,
    {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { room: room_of(&core), ..Queue::default() }),
            wake: Condvar::new(),
            news: Mutex::default(),
            synced: watch::Sender::new(Position(0)),
            failed: watch::Sender::new(None),
            queue_bytes: core.options().queue_bytes,
            room_low: core.options().bytes / 4,
        });
        let of_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("journal".to_owned()).spawn(move || of_thread.run(core))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes room for a batch of `bytes` bytes.
    ///
    /// # Errors
    /// When too much waits, or the room is short.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, Refused> {
        let wanted = batch_record_bytes(bytes);
        let mut queue = self.shared.queue.lock();
        // One batch is always taken, however large.
        if queue.reserved > 0 && queue.reserved + wanted > self.shared.queue_bytes {
            return Err(Refused::Waiting { waiting: queue.reserved, limit: self.shared.queue_bytes });
        }
        if queue.reserved + wanted > queue.room {
            queue.recount = true;
            self.shared.wake.notify_one();
            return Err(Refused::Room { wanted, room: queue.room.saturating_sub(queue.reserved) });
        }
        queue.reserved += wanted;
        Ok(Reservation { journal: Arc::clone(self), bytes: wanted })
    }

    /// Whether less than a quarter of the room is left that its files may take, or that its file system
    /// has: what pins the oldest file, however little, should be archived.
    #[must_use]
    pub fn nearly_full(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.room.saturating_sub(queue.reserved) < self.shared.room_low
    }

    /// Hands over a change that is no batch. It is durable once [`synced`](Self::synced) has reached
    /// the position: never, after a failure. Does not block on the disk.
    ///
    /// # Panics
    /// If it is a batch: those need a [`Reservation`].
    pub fn put(&self, change: Change) -> Position {
        assert!(!matches!(change, Change::Batch { .. }), "room is taken for a batch before it is put");
        self.push(change)
    }

    fn push(&self, change: Change) -> Position {
        let mut queue = self.shared.queue.lock();
        queue.position.0 += 1;
        if !queue.stopped {
            queue.changes.push(change);
            self.shared.wake.notify_one();
        }
        queue.position
    }

    /// How far everything is durable.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<Position> {
        self.shared.synced.subscribe()
    }

    /// What has become durable since the last call, each segment once.
    #[must_use]
    pub fn take_synced(&self) -> Vec<Synced> {
        let news = std::mem::take(&mut *self.shared.news.lock());
        let synced = |(place, index): (Place, _)| Synced { log: place.log, segment: place.segment, index };
        news.into_iter().map(synced).collect()
    }

    /// Why the journal has stopped, if it has: for good.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<Stopped>> {
        self.shared.failed.subscribe()
    }
}

/// Room for one batch. It is given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    journal: Arc<Journal>,
    bytes: u64,
}

impl Reservation {
    /// Hands the batch over, as [`Journal::put`] does other changes.
    ///
    /// # Panics
    /// If it has other bytes than room was taken for.
    pub fn put(mut self, batch: Change) -> Position {
        assert_eq!(batch.record_bytes(), self.bytes, "the batch that room was taken for");
        // The room is in use until the batch is written.
        self.bytes = 0;
        self.journal.push(batch)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.journal.shared.queue.lock().settle(self.bytes);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the journal has panicked");
        }
    }
}

impl Queue {
    fn settle(&mut self, bytes: u64) {
        self.reserved = self.reserved.checked_sub(bytes).expect("room is taken for a batch before it is put");
    }
}

/// What the thread found to do.
struct Work {
    changes: Vec<Change>,
    position: Position,
    closing: bool,
}

impl Shared {
    fn run<D: Disk>(&self, mut core: JournalCore<D>) {
        let _guard = PanicGuard(self);
        loop {
            let Work { changes, position, closing } = self.wait();
            let (mut news, mut bytes) = (Vec::new(), 0);
            for change in changes {
                news.extend(durable(&change));
                if matches!(change, Change::Batch { .. }) {
                    bytes += change.record_bytes();
                }
                core.append(change);
            }
            if let Err(error) = core.flush() {
                return self.stop(&error);
            }
            self.announce(news, position);
            let room = room_of(&core);
            let mut queue = self.queue.lock();
            queue.settle(bytes);
            queue.room = room;
            if closing && queue.changes.is_empty() {
                drop(queue);
                if let Err(error) = core.close() {
                    self.stop(&error);
                }
                return;
            }
        }
    }

    fn wait(&self) -> Work {
        let mut queue = self.queue.lock();
        while queue.changes.is_empty() && !queue.recount && !queue.closing {
            self.wake.wait(&mut queue);
        }
        queue.recount = false;
        let changes = std::mem::take(&mut queue.changes);
        Work { changes, position: queue.position, closing: queue.closing }
    }

    fn announce(&self, marks: Vec<(Place, Option<Index>)>, position: Position) {
        let mut news = self.news.lock();
        for (place, mark) in marks {
            match mark {
                Some(index) => drop(news.insert(place, index)),
                None => drop(news.remove(&place)),
            }
        }
        drop(news);
        self.synced.send_if_modified(|synced| std::mem::replace(synced, position) != position);
    }

    fn stop(&self, error: &JournalError) {
        self.keep(Stopped { reason: error.to_string().into(), sound: error.left_the_disk_alone() });
    }

    /// Keeps the first reason.
    fn keep(&self, stopped: Stopped) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.changes.clear();
        drop(queue);
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(stopped);
            first
        });
    }
}

/// What a change makes durable of its segment; none when it is dropped.
fn durable(change: &Change) -> Option<(Place, Option<Index>)> {
    match change {
        Change::Batch { place, end, .. } => Some((*place, Some(*end))),
        Change::Jump { place, start, .. } => Some((*place, Some(*start))),
        Change::Drop { place } => Some((*place, None)),
        _ => None,
    }
}

/// Without an answer there is no room: no batch is taken until there is one.
fn room_of<D: Disk>(core: &JournalCore<D>) -> u64 {
    core.room_bytes().unwrap_or_else(|error| {
        tracing::warn!(%error, "the room for the journal is not known");
        0
    })
}

/// Nobody waits for ever for a thread that has panicked.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "the thread of the journal has panicked".into();
            self.0.keep(Stopped { reason, sound: false });
        }
    }
}
