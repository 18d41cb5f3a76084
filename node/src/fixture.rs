//! Nodes in one process, for tests: a real buffer and a real directory of objects each, over
//! metadata in memory, and a writer that is driven by hand.

use crate::archive;
use crate::certs;
use crate::cleanup;
use crate::config::{DiskConfig, NodeConfig};
use crate::core::Core;
use crate::membership::{self, Life};
use crate::node::NodeError;
use crate::open;
use crate::peers::Peers;
use crate::settings::Sources;
use crate::view;
use async_trait::async_trait;
use parking_lot::Mutex;
use piculet_client::transport::Identity;
use piculet_meta::{Lease, MemoryStore, MetaError, Metadata, Watch};
use piculet_quorum::batch::{BatchBuilder, BatchEnd, BatchHeader, Place};
use piculet_quorum::ids::{
    Chain, Epoch, Incarnation, Index, Level, LogId, LogName, Nonce, Offset, Revision, SegmentNumber,
    Timestamp,
};
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::meta::delete::DeleteLog;
use piculet_quorum::meta::seal::{CreateOne, SealOne, SealSegment};
use piculet_quorum::meta::takeover::TakeOver;
use piculet_quorum::meta::trim::TrimLog;
use piculet_quorum::meta::{
    IncarnationRecord, Key, LogRecord, NodeRecord, NodeState, Range, Record, SegmentEnd, SegmentState,
    Snapshot, Txn, TxnOutcome, Write, register,
};
use piculet_quorum::producers::Producer;
use piculet_quorum::replica::Session;
use piculet_quorum::wire::message::{Address, Open};
use piculet_storage::journal::simulated::SimulatedDisk;
use piculet_storage::{Found, Objects};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The longest that anything may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until `holds`.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The incarnation of a node's memory buffer.
pub(crate) fn memory(core: &Core) -> Incarnation {
    core.incarnation(Level::Memory).expect("every node has one")
}

/// How much of a node's memory buffer is lent.
pub(crate) fn used(core: &Core) -> u64 {
    core.buffer(Level::Memory).expect("every node has one").arena().used_bytes()
}

/// What nodes share.
pub(crate) struct Fixture {
    pub(crate) meta: MemoryStore,
    dir: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self { meta: MemoryStore::default(), dir: tempfile::tempdir().unwrap() }
    }

    /// Where the objects lie.
    pub(crate) fn objects(&self) -> PathBuf {
        self.dir.path().join("objects")
    }

    /// Settings with parts of 64 KiB, which wait for nothing but their size.
    pub(crate) fn config(&self, name: &str) -> NodeConfig {
        let certs = self.dir.path().join("certs");
        let tls = |file: &str| certs.join(file).display().to_string();
        let set = [
            ("name", name.to_owned()),
            ("listen", "127.0.0.1:1".to_owned()),
            ("admin", "127.0.0.1:2".to_owned()),
            ("metadata", format!("sqlite:{}", self.dir.path().join("metadata.db").display())),
            ("store", format!("file://{}", self.objects().display())),
            ("drain_timeout", "20s".to_owned()),
            ("tls.ca", tls("ca.pem")),
            ("tls.cert", tls(&format!("{name}.pem"))),
            ("tls.key", tls(&format!("{name}.key"))),
            ("buffer.memory.dir", self.dir.path().join(name).display().to_string()),
            ("buffer.memory.bytes", "4MiB".to_owned()),
            ("buffer.memory.chunk_bytes", "64KiB".to_owned()),
            ("flush.bytes", "64KiB".to_owned()),
            ("flush.interval", "1h".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        NodeConfig::load(&Sources::default().with_set(&set)).unwrap()
    }

    /// A node that has just got its life, and nothing runs yet.
    pub(crate) async fn core(&self, name: &str) -> (Arc<Core>, Life) {
        self.core_with(self.config(name), Arc::new(self.meta.clone())).await
    }

    pub(crate) async fn core_with(&self, config: NodeConfig, meta: Arc<dyn Metadata>) -> (Arc<Core>, Life) {
        let cluster = membership::join_cluster(&*meta).await.unwrap();
        let found = open::find(&config, cluster).await.unwrap();
        let core = self.core_in(config, meta, cluster, found).await.unwrap();
        let life = core.life(Level::Memory).unwrap();
        (core, life)
    }

    /// Why a node does not start.
    pub(crate) async fn core_fails(&self, name: &str) -> NodeError {
        let config = self.config(name);
        let cluster = membership::join_cluster(&self.meta).await.unwrap();
        let found = open::find(&config, cluster).await.unwrap();
        let started = self.core_in(config, Arc::new(self.meta.clone()), cluster, found).await;
        started.err().expect("it does not start")
    }

    /// Puts a log's epoch back to what it was, as a backup does that is restored.
    pub(crate) async fn restore_epoch(&self, log: LogId, epoch: Epoch) {
        let key = Key::Log(log);
        let read = self.snapshot().await.log(&key).unwrap();
        let record = LogRecord { epoch, ..read.value };
        applied(&self.meta, &Txn::default().when(key.clone(), read.revision).put(key, Record::Log(record)))
            .await;
    }

    /// A node that has just got its lives, with a buffer of level `disk` besides, in small files on
    /// this disk.
    pub(crate) async fn core_on(&self, mut config: NodeConfig, disk: &SimulatedDisk) -> Arc<Core> {
        let cluster = membership::join_cluster(&self.meta).await.unwrap();
        let mut found = open::find(&config, cluster).await.unwrap();
        let dir = self.dir.path().join(format!("{}-disk", config.name));
        config.buffer.disk = Some(DiskConfig { dir: dir.clone(), bytes: 4 << 20, file_bytes: 8 << 10 });
        let options = config.disk().unwrap();
        found.insert(Level::Disk, Found::disk_on(disk.clone(), &dir, &options, cluster).unwrap());
        self.core_in(config, Arc::new(self.meta.clone()), cluster, found).await.unwrap()
    }

    async fn core_in(
        &self,
        config: NodeConfig,
        meta: Arc<dyn Metadata>,
        cluster: Nonce,
        found: BTreeMap<Level, Found>,
    ) -> Result<Arc<Core>, NodeError> {
        let mut begun = open::begin(&config, &*meta, found).await.unwrap();
        let objects = Objects::open(&config.store, cluster, &config.s3()).unwrap();
        objects.probe().await.unwrap();
        let live = begun.iter().map(|begun| (begun.level, begun.live.clone())).collect();
        let core = Arc::new(Core::new(config, cluster, meta, objects, live));
        let now = membership::read_everything(&*core.meta).await.unwrap();
        for begun in &mut begun {
            begun.take_up(&core, &now)?;
        }
        Ok(core)
    }

    /// What a node identifies itself with, by a CA that all nodes of the fixture share.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        let tls = self.config(name).tls;
        let dir = tls.ca.parent().unwrap();
        if !tls.ca.exists() {
            certs::create_ca(dir, 1).unwrap();
        }
        if !tls.cert.exists() {
            certs::issue_node(dir, name, &["127.0.0.1".to_owned()], 1).unwrap();
        }
        Identity::load(&tls.ca, &tls.cert, &tls.key).unwrap()
    }

    /// The way from a node to the others.
    pub(crate) fn peers(&self, core: &Arc<Core>) -> Arc<Peers> {
        Arc::new(Peers::new(Arc::clone(core), self.identity(core.id.as_str())))
    }

    /// Begins the next life of a node's memory buffer elsewhere.
    pub(crate) async fn displace(&self, core: &Core) -> IncarnationRecord {
        let key = Key::Incarnation(core.id.clone(), Level::Memory);
        let read = self.snapshot().await.incarnation(&key);
        let nonce = membership::fresh_nonce().unwrap();
        let (incarnation, txn) = register::next_life(&core.id, Level::Memory, read.as_ref(), nonce);
        applied(&self.meta, &txn).await;
        IncarnationRecord { incarnation, nonce }
    }

    /// Puts the record of a node that does nothing, for as long as the lease lives.
    pub(crate) async fn register(&self, core: &Core) -> Lease {
        let lease = self.meta.grant(core.config.lease_ttl()).await.unwrap();
        let record = NodeRecord {
            incarnations: core.incarnations(),
            addresses: core.config.advertise.clone(),
            admin: core.config.admin.to_string(),
            state: NodeState::Active,
            version: String::new(),
        };
        let mut txn = Txn::default();
        txn.writes.push(Write::PutLeased(Key::Node(core.id.clone()), Record::Node(record), lease.id()));
        applied(&self.meta, &txn).await;
        lease
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        self.meta.read(&[], &[Range::All]).await.unwrap()
    }
}

/// A node's background work, all of it but the servers. Dropping it ends it without a farewell, as
/// a crash does.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Running {
    pub(crate) fn start(core: &Arc<Core>) -> Self {
        let (stop, mut tasks) = (watch::Sender::new(false), JoinSet::new());
        let (node, stopped) = (Arc::clone(core), stop.subscribe());
        tasks.spawn(async move {
            membership::keep_registered(&node, stopped).await.unwrap();
        });
        let (node, mut stopped) = (Arc::clone(core), stop.subscribe());
        tasks.spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => {}
                ended = view::follow(&node) => panic!("the view has ended: {ended:?}"),
            }
        });
        tasks.spawn(archive::run(Arc::clone(core), stop.subscribe()));
        tasks.spawn(cleanup::run(Arc::clone(core), stop.subscribe()));
        Self { stop, tasks }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// The writer of a log, in its newest segment.
pub(crate) struct Writer {
    meta: MemoryStore,
    pub(crate) log: LogId,
    pub(crate) number: SegmentNumber,
    next: Index,
    before: BatchEnd,
    /// All batches so far.
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// Creates a log, takes it over and opens its first segment with these members.
    pub(crate) async fn create(meta: &MemoryStore, log: u64, members: &[(&Core, Life)]) -> Self {
        Self::create_at(Level::Memory, meta, log, members).await
    }

    /// The same at another level, of which these are the members' lives.
    pub(crate) async fn create_at(
        level: Level,
        meta: &MemoryStore,
        log: u64,
        members: &[(&Core, Life)],
    ) -> Self {
        let (log, name) = (LogId(log), LogName::new(format!("log-{log}")).unwrap());
        applied(meta, &CreateLog { name, log, durability: level, allow_loss: false }.txn()).await;
        let key = Key::Log(log);
        let read = meta.read(std::slice::from_ref(&key), &[]).await.unwrap().log(&key).unwrap();
        applied(meta, &TakeOver { log, read, writer: Nonce(7), holder: Some("fixture".to_owned()) }.txn())
            .await;
        let read = meta.read(std::slice::from_ref(&key), &[]).await.unwrap().log(&key).unwrap();
        let ensemble = members.iter().map(|(core, life)| (core.member(level), life.revision)).collect();
        let create = Some(CreateOne { level, ensemble, holder: Some("fixture".to_owned()) });
        applied(meta, &SealSegment { log, read, seal: None, create }.txn()).await;
        Self {
            meta: meta.clone(),
            log,
            number: SegmentNumber(0),
            next: Index(0),
            before: BatchEnd { chain: Chain(0), last_timestamp: Timestamp(0) },
            bytes: Vec::new(),
        }
    }

    /// The index behind what was appended to the segment.
    pub(crate) fn end(&self) -> Index {
        self.next
    }

    /// Opens the segment at a member.
    pub(crate) async fn open(&self, core: &Core) -> Session {
        let slot = core.refresh_log(self.log).await.unwrap().expect("the log was created");
        let at = Address { log: self.log, segment: self.number, epoch: Epoch(1), incarnation: memory(core) };
        let mut state = slot.lock();
        let session = state.replica.open(&Open { at, repair: false }).expect("it may append").0;
        slot.fence_at(core, &mut state).expect("the buffer takes it");
        session
    }

    /// Appends a batch with one entry of `len` bytes to these members; returns the index behind it.
    pub(crate) fn append(&mut self, members: &[(&Core, Session)], len: usize) -> Index {
        self.append_for(None, members, len)
    }

    /// The same for a producer, if one is given.
    pub(crate) fn append_for(
        &mut self,
        producer: Option<Producer>,
        members: &[(&Core, Session)],
        len: usize,
    ) -> Index {
        let (mut builder, mut body) = (BatchBuilder::new(self.before), Vec::new());
        let payload: Vec<u8> = (0..len as u64).map(|at| (at * 7 + self.next.0) as u8).collect();
        let now = Timestamp(self.before.last_timestamp.0 + 1);
        builder.push_of(producer.as_ref(), &[], &payload, now, &mut body);
        let header = builder.header(self.next, body.len());
        for (core, session) in members {
            self.store(core, *session, &header, &body, builder.end());
        }
        let place = Place { log: self.log, segment: self.number, epoch: Epoch(1) };
        self.bytes.extend([&header.encode(&place)[..], &body].concat());
        (self.next, self.before) = (header.end(), builder.end());
        self.next
    }

    fn store(&self, core: &Core, session: Session, header: &BatchHeader, body: &[u8], end: BatchEnd) {
        let slot = core.logs.get(self.log).expect("it was opened");
        let mut state = slot.lock();
        let state = &mut *state;
        let local = state.segments.get_mut(&self.number).expect("it was opened");
        local.buffer.begin(header).expect("there is room");
        local.buffer.fill(body);
        state.replica.stored(session, self.number, header, end).expect("it was admitted");
        local.buffer.publish(end, !state.replica.has_writer(self.number));
    }

    /// Tells these members that everything is committed.
    pub(crate) fn commit(&self, members: &[(&Core, Session)]) {
        for (core, session) in members {
            let slot = core.logs.get(self.log).expect("it was opened");
            slot.lock().replica.learn_commit(*session, self.number, self.next);
        }
    }

    /// Seals the segment behind everything that was appended.
    pub(crate) async fn seal(&self, holders: &[(&Core, Life)], archived: Index) {
        self.seal_with(holders, archived, None, false).await;
    }

    /// The same as whoever has taken the log over, which was never written to.
    pub(crate) async fn seal_as_takeover(&self, holders: &[(&Core, Life)]) {
        self.seal_with(holders, Index(0), None, true).await;
    }

    /// Seals it, and goes on in a next segment with these members.
    pub(crate) async fn roll(
        &mut self,
        holders: &[(&Core, Life)],
        archived: Index,
        members: &[(&Core, Life)],
    ) {
        let ensemble =
            members.iter().map(|(core, life)| (core.member(Level::Memory), life.revision)).collect();
        let create = CreateOne { level: Level::Memory, ensemble, holder: Some("fixture".to_owned()) };
        self.seal_with(holders, archived, Some(create), false).await;
        self.number = self.number.plus(1);
        self.next = Index(0);
        self.bytes.clear();
    }

    async fn seal_with(
        &self,
        holders: &[(&Core, Life)],
        archived: Index,
        create: Option<CreateOne>,
        recovery: bool,
    ) {
        let (log, segment) = (Key::Log(self.log), Key::Segment(self.log, self.number));
        let now = self.meta.read(&[log.clone(), segment.clone()], &[]).await.unwrap();
        let BatchEnd { chain, last_timestamp } = self.before;
        let seal = SealOne {
            segment: self.number,
            read: now.segment(&segment).unwrap(),
            at: SegmentEnd { end: self.next, chain, last_timestamp },
            holders: holders.iter().map(|(core, life)| (core.id.clone(), life.revision)).collect(),
            moved: vec![],
            archived,
            recovery,
            allowed_loss: None,
        };
        let read = now.log(&log).unwrap();
        let t2 = SealSegment { log: self.log, read, seal: Some(seal), create };
        applied(&self.meta, &t2.txn()).await;
    }

    /// The segment's parts from 0 on, as recorded, and its state.
    pub(crate) async fn archived(&self) -> (Index, SegmentState) {
        let key = Key::Segment(self.log, self.number);
        let ranges = [Range::Parts(self.log, self.number)];
        let now = self.meta.read(std::slice::from_ref(&key), &ranges).await.unwrap();
        let row = now.row(self.log, self.number).expect("the parts follow each other");
        (row.archived(), now.segment(&key).unwrap().value.state)
    }

    /// Puts a tombstone in the log's place, of this time.
    pub(crate) async fn delete(&self, at: Timestamp) {
        let key = Key::Log(self.log);
        let read = self.meta.read(std::slice::from_ref(&key), &[]).await.unwrap().log(&key).unwrap();
        let delete = DeleteLog { log: self.log, read, writer: Nonce(9), at };
        applied(&self.meta, &delete.txn()).await;
    }

    /// Trims the log.
    pub(crate) async fn trim(&self, to: Offset) {
        let key = Key::Trim(self.log);
        let read = self.meta.read(std::slice::from_ref(&key), &[]).await.unwrap().trim(&key).unwrap();
        applied(&self.meta, &TrimLog { log: self.log, read, to }.txn()).await;
    }

    /// Takes the log over, and does nothing more.
    pub(crate) async fn take_over(&self) {
        let key = Key::Log(self.log);
        let read = self.meta.read(std::slice::from_ref(&key), &[]).await.unwrap().log(&key).unwrap();
        let takeover = TakeOver { log: self.log, read, writer: Nonce(8), holder: Some("another".to_owned()) };
        applied(&self.meta, &takeover.txn()).await;
    }

    /// Waits until the parts reach everything that was appended.
    pub(crate) async fn until_archived(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.archived().await.0 != self.next {
            assert!(Instant::now() < deadline, "{:?} of {} archived", self.archived().await, self.next);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Reads all recorded parts back: exactly what was appended must be in them.
    pub(crate) async fn check_objects(&self, objects: &Objects) {
        let ranges = [Range::Parts(self.log, self.number)];
        let row = self.meta.read(&[], &ranges).await.unwrap().row(self.log, self.number).unwrap();
        let listed = objects.list().await.unwrap();
        let mut found = Vec::new();
        for (first, part) in &row.parts {
            let name = listed
                .iter()
                .map(|part| part.name)
                .find(|name| name.log == self.log && name.first == *first && name.end == part.value.at.end);
            let part = objects.get_part(&name.expect("a recorded part exists")).await.unwrap();
            let run = part.batches_from(*first).expect("it begins there");
            found.extend(run.pieces.concat());
        }
        assert!(found == self.bytes, "{} bytes archived of {}", found.len(), self.bytes.len());
    }
}

/// Carries out a transaction that must succeed.
pub(crate) async fn applied(meta: &MemoryStore, txn: &Txn) -> Revision {
    match meta.commit(txn).await.unwrap() {
        TxnOutcome::Applied(revision) => revision,
        TxnOutcome::Refused => panic!("refused: {txn:?}"),
    }
}

/// What becomes of a commit whose answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It was carried out.
    Answer,
    /// It never arrived.
    Request,
}

/// A metadata store that loses what it is told to lose, commit by commit.
#[derive(Clone, Default)]
pub(crate) struct Lossy {
    pub(crate) inner: MemoryStore,
    pub(crate) plan: Arc<Mutex<VecDeque<Option<Lost>>>>,
    pub(crate) behind_read: Arc<Mutex<Option<Txn>>>,
}

impl Lossy {
    /// The fates of the next commits; those after them get through.
    pub(crate) fn lose(&self, plan: impl IntoIterator<Item = Option<Lost>>) {
        self.plan.lock().extend(plan);
    }

    /// Lets somebody else's transaction land when the next read has been answered.
    pub(crate) fn land_behind_the_next_read(&self, txn: Txn) {
        *self.behind_read.lock() = Some(txn);
    }
}

#[async_trait]
impl Metadata for Lossy {
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
        let snapshot = self.inner.read(keys, ranges).await?;
        let behind = self.behind_read.lock().take();
        if let Some(txn) = behind {
            self.inner.commit(&txn).await?;
        }
        Ok(snapshot)
    }

    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        let fate = self.plan.lock().pop_front().flatten();
        if fate != Some(Lost::Request) {
            let outcome = self.inner.commit(txn).await?;
            if fate.is_none() {
                return Ok(outcome);
            }
        }
        Err(MetaError::Unknown(format!("the {fate:?} was lost")))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, MetaError> {
        self.inner.grant(ttl).await
    }

    async fn watch(&self, range: Range) -> Result<Watch, MetaError> {
        self.inner.watch(range).await
    }
}
