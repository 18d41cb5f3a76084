//! What every part of a running node shares.

use crate::cleanup;
use crate::config::NodeConfig;
use crate::health::Health;
use crate::lives::Lives;
use crate::logs::Logs;
use crate::membership::Life;
use crate::metrics;
use parking_lot::Mutex;
use piculet_meta::{MetaError, Metadata};
use piculet_quorum::ids::{Incarnation, Level, LogId, NodeId, Nonce, SegmentNumber};
use piculet_quorum::meta::{LeaseId, Member, StoreRevision};
use piculet_quorum::time::Time;
use piculet_storage::{Arena, Buffer, Objects};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A running node.
pub struct Core {
    /// Its settings.
    pub config: NodeConfig,
    /// Its name.
    pub id: NodeId,
    /// Its cluster.
    pub cluster: Nonce,
    /// The metadata store.
    pub meta: Arc<dyn Metadata>,
    /// Whether the metadata store answers.
    pub meta_health: Health,
    /// The object store.
    pub objects: Objects,
    /// Whether the object store answers.
    pub store_health: Health,
    /// Its buffers, by the level of the segments that they are for.
    buffers: BTreeMap<Level, LiveBuffer>,
    /// Every log that it holds something of.
    pub logs: Logs,
    /// Told when the archiver should look before its time.
    pub archive_now: Notify,
    /// Logs of which something may have to be deleted.
    pub cleanup: cleanup::Queue,
    /// What time it is for the protocol.
    pub clock: Clock,
    /// What it still needs before it can be used.
    pub readiness: Readiness,
    /// The current life of every node's buffers, as far as the node's watch has shown it. Locked after a
    /// log, where both are.
    pub lives: Mutex<Lives>,
    /// Segments of which something is lost, and that are perhaps held by nobody any more.
    pub orphans: Mutex<BTreeSet<(LogId, SegmentNumber)>>,
    /// Logs whose settings have begun to allow a loss: what waits for that need not wait longer.
    pub allowed: Mutex<BTreeSet<LogId>>,
    /// Logs whose settings let them have entries of producers, as far as this node knows:
    /// that is never taken back. Locked after a log, where both are.
    pub producers: Mutex<BTreeSet<LogId>>,
    lease: watch::Sender<Option<LeaseId>>,
    draining: watch::Sender<bool>,
    applied: AtomicU64,
}

/// A buffer, in the life that it is in.
#[derive(Clone)]
pub struct LiveBuffer {
    /// The life.
    pub life: Life,
    /// What it keeps.
    pub buffer: Arc<Buffer>,
}

/// The node's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since it was started.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::default().after(self.0.elapsed().into())
    }
}

/// The steps after which a node can be used.
#[derive(Debug, Default)]
pub struct Readiness {
    /// It has been registered with the metadata store once.
    pub registered: AtomicBool,
    /// A first snapshot of the metadata has been taken in.
    pub informed: AtomicBool,
    /// The QUIC server listens.
    pub serving: AtomicBool,
}

impl Readiness {
    /// What is missing, in words.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let steps = [
            (&self.registered, "not registered with the metadata store yet"),
            (&self.informed, "no snapshot of the metadata taken in yet"),
            (&self.serving, "the quic server does not listen yet"),
        ];
        let missing = steps.into_iter().filter(|(step, _)| !step.load(Ordering::Acquire));
        missing.map(|(_, what)| what).collect()
    }
}

impl Core {
    /// A node whose buffers have just begun their lives.
    #[must_use]
    pub fn new(
        config: NodeConfig,
        cluster: Nonce,
        meta: Arc<dyn Metadata>,
        objects: Objects,
        buffers: BTreeMap<Level, LiveBuffer>,
    ) -> Self {
        Self {
            id: config.name.clone(),
            config,
            cluster,
            meta,
            meta_health: Health::new("metadata store"),
            objects,
            store_health: Health::new("object store"),
            buffers,
            logs: Logs::default(),
            archive_now: Notify::new(),
            cleanup: cleanup::Queue::default(),
            clock: Clock::start(),
            readiness: Readiness::default(),
            lives: Mutex::default(),
            orphans: Mutex::default(),
            allowed: Mutex::default(),
            producers: Mutex::default(),
            lease: watch::Sender::new(None),
            draining: watch::Sender::new(false),
            applied: AtomicU64::new(0),
        }
    }

    /// This node, as a member of segments of a level; in no life where it has no buffer of it.
    #[must_use]
    pub fn member(&self, level: Level) -> Member {
        Member { node: self.id.clone(), incarnation: self.incarnation(level).unwrap_or_default() }
    }

    /// The life that its buffer of a level is in, if it has one.
    #[must_use]
    pub fn life(&self, level: Level) -> Option<Life> {
        self.buffers.get(&level).map(|live| live.life)
    }

    /// The incarnation of its buffer of a level, if it has one.
    #[must_use]
    pub fn incarnation(&self, level: Level) -> Option<Incarnation> {
        self.life(level).map(|life| life.incarnation)
    }

    /// Its buffer of a level, if it has one.
    #[must_use]
    pub fn buffer(&self, level: Level) -> Option<&Arc<Buffer>> {
        self.buffers.get(&level).map(|live| &live.buffer)
    }

    /// The levels that it has a buffer of.
    pub fn levels(&self) -> impl Iterator<Item = Level> + '_ {
        self.buffers.keys().copied()
    }

    /// Its buffers, in the order of their levels.
    pub fn buffers(&self) -> impl Iterator<Item = (Level, &LiveBuffer)> {
        self.buffers.iter().map(|(level, live)| (*level, live))
    }

    /// The memory that the entries of all its buffers lie in.
    pub(crate) fn arenas(&self) -> impl Iterator<Item = &Arena> {
        self.buffers().map(|(_, live)| &**live.buffer.arena())
    }

    /// The incarnation of each of its buffers.
    #[must_use]
    pub fn incarnations(&self) -> BTreeMap<Level, Incarnation> {
        self.buffers().map(|(level, live)| (level, live.life.incarnation)).collect()
    }

    /// The same, for logs.
    #[must_use]
    pub fn lives_in_words(&self) -> String {
        let lives = self.incarnations().into_iter().map(|(level, life)| format!("{level} {life}"));
        lives.collect::<Vec<_>>().join(", ")
    }

    /// Whether the node is about to stop: it takes no new segments.
    #[must_use]
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// From now on the node takes no new segments.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
        for log in self.logs.all() {
            log.notify_changed();
        }
        self.archive_now.notify_one();
    }

    /// Resolves when the node is about to stop. Cancel-safe.
    pub async fn until_draining(&self) {
        let begun = self.draining.subscribe().wait_for(|draining| *draining).await.is_ok();
        debug_assert!(begun, "the sender lives as long as this");
    }

    /// The node's lease, for elections; none while it has lost it.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        *self.lease.borrow()
    }

    pub(crate) fn set_lease(&self, lease: Option<LeaseId>) {
        self.lease.send_replace(lease);
    }

    /// The revision up to which the node has taken in every change of the metadata.
    #[must_use]
    pub fn applied(&self) -> StoreRevision {
        StoreRevision(self.applied.load(Ordering::Acquire))
    }

    /// Every change up to this revision has been taken in.
    pub fn set_applied(&self, at: StoreRevision) {
        self.applied.fetch_max(at.0, Ordering::AcqRel);
    }

    /// Takes note that the metadata store failed while `trying` something.
    pub fn meta_failed(&self, trying: &str, error: &MetaError) {
        metrics::metadata_failed();
        self.meta_health.failed(trying, error);
    }
}
