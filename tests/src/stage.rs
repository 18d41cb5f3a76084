//! A cluster of its own for one test.

use crate::services::fresh;
use crate::{PATIENCE, Relay, Services, bounded, signal, until};
use piculet_client::transport::Identity;
use piculet_client::{
    Client, ClientOptions, Entry, LogDescription, LogOptions, ReadOptions, S3Options, Start, StoreOptions,
};
use piculet_node::local::{ClusterSpec, Etcd, LocalCluster, LocalNode, ScratchDir, Store, tools};
use piculet_quorum::ids::{Level, LogName};
use piculet_quorum::meta::SegmentState;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Clusters at a time: a small machine runs no more of them well.
static CLUSTERS: Semaphore = Semaphore::const_new(2);
/// As long as one test may take, once it has its cluster.
const TEST_LIMIT: Duration = Duration::from_secs(240);
/// Lines of a node's log that a failed test shows.
const LINES_SHOWN: usize = 25;

/// What a test wants of its cluster: three nodes.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Size of each node's buffer, in bytes.
    pub buffer_bytes: u64,
    /// A part is uploaded when this many bytes wait.
    pub flush_bytes: u64,
    /// How long waiting bytes get company, unless they are few.
    pub flush_interval: Duration,
    /// How long the oldest entry waits at most.
    pub flush_max_interval: Duration,
    /// Where parts go.
    pub store: StoreKind,
    /// Whether the cluster has an etcd of its own, which the test may stop.
    pub own_etcd: bool,
    /// Texts of lines at level ERROR that the test provokes.
    pub provokes: Vec<&'static str>,
}

/// Where a cluster's parts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The shared S3 server.
    S3,
    /// The shared S3 server, over a [`Relay`] that the test may cut.
    RelayedS3,
    /// A directory.
    Directory,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            buffer_bytes: 64 << 20,
            flush_bytes: 1 << 20,
            flush_interval: Duration::from_millis(200),
            flush_max_interval: Duration::from_secs(1),
            store: StoreKind::S3,
            own_etcd: false,
            provokes: Vec::new(),
        }
    }
}

/// A running cluster of three nodes.
#[derive(Debug)]
pub struct Stage {
    /// The nodes.
    pub cluster: LocalCluster,
    etcd: Option<Etcd>,
    relay: Option<Relay>,
    store: Store,
    dir: ScratchDir,
}

/// Runs a test on a cluster of its own, which is gone afterwards. No log of a node may have a line
/// at level ERROR, or a panic, that the setup does not name.
///
/// # Panics
/// When the cluster does not start, the body panics or takes too long, or a log has such a line.
pub async fn with_stage(setup: Setup, body: impl AsyncFnOnce(&mut Stage)) {
    let _turn = CLUSTERS.acquire().await.expect("the semaphore is never closed");
    let mut stage = Stage::start(&setup).await;
    let in_time = timeout(TEST_LIMIT, body(&mut stage)).await;
    assert!(in_time.is_ok(), "the test took longer than {TEST_LIMIT:?}");
    for node in stage.cluster.nodes() {
        check_log(&node.log(), &setup.provokes);
    }
}

/// Checks that a node's log has no line at level ERROR and no panic, but for those that have one
/// of the texts given.
///
/// # Panics
/// When it has.
pub fn check_log(log: &Path, provoked: &[&str]) {
    let text = fs::read_to_string(log).expect("a node has a log");
    let bad = |line: &&str| {
        let error = line.split_whitespace().nth(1) == Some("ERROR") || line.contains("panicked");
        error && !provoked.iter().any(|text| line.contains(text))
    };
    let bad: Vec<&str> = text.lines().filter(bad).collect();
    assert!(bad.is_empty(), "{}:\n{}", log.display(), bad.join("\n"));
}

/// Reads a whole log.
///
/// # Panics
/// When it cannot be read to its end in time.
pub async fn read_all(client: &Client, name: &LogName) -> Vec<Entry> {
    let reading = async {
        let mut reader = client.read(name, Start::Earliest, ReadOptions { follow: false }).await?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().await {
            entries.push(entry?);
        }
        Ok::<_, piculet_client::Error>(entries)
    };
    bounded("the log is read to its end", reading).await.expect("the log can be read")
}

impl Stage {
    async fn start(setup: &Setup) -> Self {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let etcd = match setup.own_etcd {
            true => Some(Etcd::start(dir.path()).await.expect("etcd starts")),
            false => None,
        };
        let metadata = match &etcd {
            Some(etcd) => format!("{}/{}", etcd.url(), fresh()),
            None => Services::shared().await.metadata(),
        };
        let (store, relay) = open_store(setup.store, dir.path()).await;
        let program = tools::piculet().expect("piculet is built: cargo build -p piculet-node");
        let mut spec = ClusterSpec::new(program, dir.path(), metadata, store.clone());
        spec.buffer_bytes = setup.buffer_bytes;
        spec.flush_bytes = setup.flush_bytes;
        spec.flush_interval = setup.flush_interval;
        spec.flush_max_interval = setup.flush_max_interval;
        let cluster = LocalCluster::start(spec).await.expect("three nodes start");
        Self { cluster, etcd, relay, store, dir }
    }

    /// A directory that is the test's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its etcd, when it has one of its own.
    ///
    /// # Panics
    /// When it has not.
    pub fn etcd(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("the setup asks for an etcd of its own")
    }

    /// The way to its store.
    ///
    /// # Panics
    /// When the store is reached without a relay.
    #[must_use]
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("the setup asks for a relay")
    }

    /// The identity of the client that the cluster's CA knows.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let file = |name: &str| self.cluster.certs().join(name);
        Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key")).expect("an identity")
    }

    /// Settings of a client that knows all nodes.
    #[must_use]
    pub fn options(&self) -> ClientOptions {
        ClientOptions::new(self.addresses(), self.identity())
    }

    /// Where the nodes serve QUIC.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.cluster.addrs().iter().map(ToString::to_string).collect()
    }

    /// Where the nodes keep their parts.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Settings of a client that may write logs of level `object`.
    #[must_use]
    pub fn options_with_store(&self) -> ClientOptions {
        let mut store = StoreOptions::new(&self.store.url);
        if let Some(access) = &self.store.s3 {
            store.s3 = S3Options {
                endpoint: Some(access.endpoint.clone()),
                region: Some(access.region.clone()),
                access_key_id: Some(access.access_key.clone()),
                secret_access_key: Some(access.secret_key.clone()),
                allow_http: true,
            };
        }
        ClientOptions { store: Some(store), ..self.options() }
    }

    /// A client with the usual settings.
    ///
    /// # Panics
    /// When no node answers.
    pub async fn client(&self) -> Client {
        Client::connect(self.options()).await.expect("a node answers")
    }

    /// A client, and a new log.
    ///
    /// # Panics
    /// When the log cannot be created.
    pub async fn client_and_log(&self) -> (Client, LogName) {
        self.client_and_log_of(Level::Memory).await
    }

    /// A client, and a new log of this durability.
    ///
    /// # Panics
    /// When the log cannot be created.
    pub async fn client_and_log_of(&self, durability: Level) -> (Client, LogName) {
        let client = self.client().await;
        let name = LogName::new(format!("tests/{}", fresh())).expect("a name");
        client
            .create_log_with(&name, LogOptions { durability, ..LogOptions::default() })
            .await
            .expect("the log is created");
        (client, name)
    }

    /// A node's log so far.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn log(&self, at: usize) -> String {
        fs::read_to_string(self.cluster.nodes()[at].log()).expect("a node has a log")
    }

    /// The place of a node in the cluster.
    ///
    /// # Panics
    /// When it is none of its nodes.
    #[must_use]
    pub fn position(&self, node: &str) -> usize {
        self.cluster.position(node).expect("it is a node of this cluster")
    }

    /// Kills a node with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, at: usize) {
        self.cluster.kill_node(at).expect("it runs");
    }

    /// Kills all nodes with SIGKILL, at once.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn kill_all(&mut self) {
        self.cluster.kill_all().expect("they run");
    }

    /// Starts every node that is not running, and waits until they are ready.
    ///
    /// # Panics
    /// When one does not get ready.
    pub async fn restart_all(&mut self) {
        self.cluster.start_all().await.expect("they start again");
    }

    /// The settings of a node: the table, and its file.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn settings(&self, at: usize) -> (toml::Table, PathBuf) {
        let file = self.dir().join(self.cluster.nodes()[at].name()).join("node.toml");
        let text = fs::read_to_string(&file).expect("a node has settings");
        (text.parse().expect("they are TOML"), file)
    }

    /// Takes from a node that is down what it held in memory, as a restart of its machine does.
    ///
    /// # Panics
    /// When it cannot be removed.
    pub fn forget(&self, at: usize) {
        let (settings, _) = self.settings(at);
        let dir = settings["buffer"]["memory"]["dir"].as_str().expect("a path");
        fs::remove_dir_all(dir).expect("it can be removed");
    }

    /// Starts a node again and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart(&mut self, at: usize) {
        self.cluster.start_node(at).await.expect("it starts again");
    }

    /// Stops a node with SIGTERM.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn terminate(&mut self, at: usize) -> ExitStatus {
        self.cluster.stop_node(at).await.expect("it ends")
    }

    /// Freezes a node: its sockets stay, and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self, at: usize) {
        signal(self.pid(at), libc::SIGSTOP);
    }

    /// Lets a frozen node go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self, at: usize) {
        signal(self.pid(at), libc::SIGCONT);
    }

    /// The process id of a node.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self, at: usize) -> u32 {
        self.cluster.nodes()[at].pid().expect("the node runs")
    }

    /// Waits until every segment is archived: for a log whose writer has closed.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn archived(&self, client: &Client, name: &LogName) -> LogDescription {
        until("every segment is archived", async || {
            let log = client.describe_log(name).await.ok()?;
            let mut segments = log.view.segments.values();
            let archived = segments.all(|s| matches!(s.record.value.state, SegmentState::Archived(_)));
            archived.then_some(log)
        })
        .await
    }

    /// Waits until no node holds anything in memory.
    ///
    /// # Panics
    /// When one still does in the end.
    pub async fn buffers_empty(&self, client: &Client) {
        until("memory is given back", async || {
            let status = client.status().await.ok()?;
            let empty = |s: &piculet_client::NodeStatus| s.status.as_ref().is_ok_and(|s| s.buffer_used == 0);
            (status.len() == self.running() && status.iter().all(empty)).then_some(())
        })
        .await;
    }

    fn running(&self) -> usize {
        self.cluster.nodes().iter().filter_map(LocalNode::pid).count()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs: Vec<PathBuf> = self.cluster.nodes().iter().map(LocalNode::log).collect();
            for log in logs {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
                eprintln!("--- {}\n{}", log.display(), last.join("\n"));
            }
        }
    }
}

async fn open_store(kind: StoreKind, dir: &Path) -> (Store, Option<Relay>) {
    if kind == StoreKind::Directory {
        return (Store::directory(&dir.join("objects")), None);
    }
    let services = Services::shared().await;
    let mut store = services.s3().store(&fresh());
    let access = store.s3.as_mut().expect("it is on S3");
    let relay = match kind {
        StoreKind::RelayedS3 => {
            let server = access.endpoint.trim_start_matches("http://").parse().expect("it is on loopback");
            let relay = bounded("the relay starts", Relay::start(server)).await;
            access.endpoint = format!("http://{}", relay.addr());
            Some(relay)
        }
        _ => None,
    };
    (store, relay)
}

const _: () = assert!(PATIENCE.as_secs() < TEST_LIMIT.as_secs(), "what is awaited is named");
