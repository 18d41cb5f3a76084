//! Several nodes as processes on loopback.

use super::{LocalError, Port, Process, ScratchDir, Store, free_port, http};
use crate::certs;
use crate::config::node::SCHEMA;
use piculet_quorum::limits::{FLUSH_BYTES, FLUSH_INTERVAL, FLUSH_INTERVAL_MAX};
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// As long as a node may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// As long as a node may take to end in good order.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// What a node logs may be said from outside.
const LOG_VARIABLES: &str = "PICULET_NODE_LOG";
/// Where buffers lie: the tmpfs that every Linux has.
const TMPFS: &str = "/dev/shm";
/// Size of a file of a node's disk buffer: three nodes share a disk.
const DISK_FILE_BYTES: u64 = 16 << 20;

/// What a local cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// The `piculet` program.
    pub program: PathBuf,
    /// Where each node has a directory with its settings and its log.
    pub dir: PathBuf,
    /// Where the certificates are; those that the cluster needs are made if there is no CA there.
    pub certs: PathBuf,
    /// Number of nodes.
    pub nodes: usize,
    /// `etcd://host:port/prefix`.
    pub metadata: String,
    /// Where parts go.
    pub store: Store,
    /// Size of each node's memory buffer, in bytes.
    pub buffer_bytes: u64,
    /// Size of each node's disk buffer, in bytes.
    pub disk_bytes: u64,
    /// A part is uploaded when this many bytes wait.
    pub flush_bytes: u64,
    /// How long waiting bytes get company, unless they are few.
    pub flush_interval: Duration,
    /// How long the oldest entry waits at most.
    pub flush_max_interval: Duration,
}

impl ClusterSpec {
    /// Three nodes with buffers of 256 MiB at each level and the usual settings,
    /// everything but the memory in `dir`.
    #[must_use]
    pub fn new(program: PathBuf, dir: &Path, metadata: String, store: Store) -> Self {
        Self {
            program,
            dir: dir.to_path_buf(),
            certs: dir.join("certs"),
            nodes: 3,
            metadata,
            store,
            buffer_bytes: 256 << 20,
            disk_bytes: 256 << 20,
            flush_bytes: FLUSH_BYTES,
            flush_interval: FLUSH_INTERVAL.into(),
            flush_max_interval: FLUSH_INTERVAL_MAX.into(),
        }
    }
}

/// Running nodes. Dropping it kills them and removes their buffers; settings and logs stay.
#[derive(Debug)]
pub struct LocalCluster {
    nodes: Vec<LocalNode>,
    spec: ClusterSpec,
    // Behind `nodes`: the buffers are removed when the nodes are gone.
    _buffers: ScratchDir,
}

/// One node of a local cluster, running or not.
#[derive(Debug)]
pub struct LocalNode {
    name: String,
    dir: PathBuf,
    listen: Port,
    admin: Port,
    process: Option<Process>,
}

impl LocalNode {
    /// Its name: `node-1`, `node-2`…
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves QUIC.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listen.addr()
    }

    /// Where it serves HTTP to its operators.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin.addr()
    }

    /// The process id, if it has been started and was neither killed nor stopped here.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    fn running(&mut self) -> Result<&mut Process, LocalError> {
        let node = self.name.clone();
        self.process.as_mut().ok_or(LocalError::Node { node, state: "is not running" })
    }

    async fn launch(&mut self, spec: &ClusterSpec) -> Result<(), LocalError> {
        if self.process.is_some() {
            return Err(LocalError::Node { node: self.name.clone(), state: "is running already" });
        }
        let mut command = Command::new(&spec.program);
        command.arg("node").arg("--config").arg(self.dir.join("node.toml"));
        // The file is all there is to it, whatever this process was told.
        for variable in std::env::vars_os().map(|(name, _)| name) {
            let name = variable.to_string_lossy();
            if name.starts_with(SCHEMA.prefix) && !name.starts_with(LOG_VARIABLES) {
                command.env_remove(&variable);
            }
        }
        if let Some(s3) = &spec.store.s3 {
            command.env("AWS_ACCESS_KEY_ID", &s3.access_key).env("AWS_SECRET_ACCESS_KEY", &s3.secret_key);
            // The keys above are all there is to it, and no proxy leads to loopback.
            command.env_remove("AWS_SESSION_TOKEN").env("NO_PROXY", "127.0.0.1");
        }
        self.process = Some(Process::start(&self.name, command, &self.log()).await?);
        Ok(())
    }

    async fn ready(&mut self) -> Result<(), LocalError> {
        let admin = self.admin();
        let ready = || async move { http::get(admin, "/readyz").await.is_ok_and(|a| a.status == 200) };
        self.running()?.until("say that it is ready", READY_LIMIT, ready).await
    }
}

impl LocalCluster {
    /// Makes what is missing (directories, certificates, settings), starts all nodes and waits
    /// until they are ready.
    ///
    /// # Errors
    /// When one cannot be started, ends, or is not ready within a minute; none is left running.
    pub async fn start(mut spec: ClusterSpec) -> Result<Self, LocalError> {
        for path in [&mut spec.program, &mut spec.dir, &mut spec.certs] {
            *path = std::path::absolute(&*path).map_err(LocalError::io("find", path.display()))?;
        }
        let buffers = ScratchDir::create(Path::new(TMPFS))?;
        let mut nodes = Vec::with_capacity(spec.nodes);
        for number in 1..=spec.nodes {
            let name = format!("node-{number}");
            let dir = spec.dir.join(&name);
            nodes.push(LocalNode { name, dir, listen: free_port()?, admin: free_port()?, process: None });
        }
        if !spec.certs.join("ca.pem").exists() {
            make_certs(&spec.certs, &nodes)?;
        }
        for node in &nodes {
            let memory = buffers.path().join(&node.name);
            let settings = settings(&spec, node, &memory, &node.dir.join("disk"));
            let file = node.dir.join("node.toml");
            let written = fs::create_dir_all(&node.dir).and_then(|()| fs::write(&file, settings));
            written.map_err(LocalError::io("write", file.display()))?;
        }
        let mut cluster = Self { nodes, spec, _buffers: buffers };
        for node in &mut cluster.nodes {
            node.launch(&cluster.spec).await?;
        }
        for node in &mut cluster.nodes {
            node.ready().await?;
        }
        Ok(cluster)
    }

    /// Its nodes, in the order of their names: `node-1` is at 0.
    #[must_use]
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// Where the nodes serve QUIC, running or not.
    #[must_use]
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(LocalNode::addr).collect()
    }

    /// The place of the node of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Where the certificates are: `ca.pem`, and `client.pem` and `client.key` for a client.
    #[must_use]
    pub fn certs(&self) -> &Path {
        &self.spec.certs
    }

    /// Starts a node that was killed or stopped and waits until it is ready. Cancel-safe: the node
    /// goes on starting.
    ///
    /// # Errors
    /// When it is running already, ends, or is not ready within a minute.
    pub async fn start_node(&mut self, at: usize) -> Result<(), LocalError> {
        let (node, spec) = self.node(at)?;
        node.launch(spec).await?;
        node.ready().await
    }

    /// Kills a node with SIGKILL, as a crash would. Blocks for the milliseconds until it is gone.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_node(&mut self, at: usize) -> Result<(), LocalError> {
        let (node, _) = self.node(at)?;
        node.running()?.kill()?;
        node.process = None;
        Ok(())
    }

    /// Kills every node that is running with SIGKILL, all at once. Blocks for the milliseconds until
    /// they are gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill_all(&mut self) -> Result<(), LocalError> {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            process.send_kill()?;
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                process.kill()?;
            }
        }
        Ok(())
    }

    /// Starts every node that is not running, all at once, and waits until they are ready.
    /// Cancel-safe: the nodes go on starting.
    ///
    /// # Errors
    /// As [`start_node`](Self::start_node).
    pub async fn start_all(&mut self) -> Result<(), LocalError> {
        let Self { nodes, spec, .. } = self;
        for node in nodes.iter_mut().filter(|node| node.process.is_none()) {
            node.launch(spec).await?;
        }
        for node in nodes {
            node.ready().await?;
        }
        Ok(())
    }

    /// Stops a node with SIGTERM and waits for its end.
    ///
    /// # Errors
    /// When it is not running, or not gone within a minute; it is killed then.
    pub async fn stop_node(&mut self, at: usize) -> Result<ExitStatus, LocalError> {
        let (node, _) = self.node(at)?;
        let ended = node.running()?.stop(STOP_LIMIT).await;
        node.process = None;
        ended
    }

    /// Stops every node that is running.
    ///
    /// # Errors
    /// With the first that was not gone within a minute, or did not end in good order; all are gone
    /// all the same.
    pub async fn stop(mut self) -> Result<(), LocalError> {
        let mut result = Ok(());
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.is_some() {
                result = result.and(self.stop_well(at).await);
            }
        }
        result
    }

    async fn stop_well(&mut self, at: usize) -> Result<(), LocalError> {
        let status = self.stop_node(at).await?;
        let node = &self.nodes[at];
        if status.success() {
            return Ok(());
        }
        Err(LocalError::Node {
            node: format!("{} ({status}, see {})", node.name, node.log().display()),
            state: "ended badly",
        })
    }

    fn node(&mut self, at: usize) -> Result<(&mut LocalNode, &ClusterSpec), LocalError> {
        let missing = || LocalError::Node { node: format!("at {at}"), state: "is not in this cluster" };
        let node = self.nodes.get_mut(at).ok_or_else(missing)?;
        Ok((node, &self.spec))
    }
}

fn make_certs(dir: &Path, nodes: &[LocalNode]) -> Result<(), LocalError> {
    certs::create_ca(dir, certs::CA_DAYS)?;
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    for node in nodes {
        certs::issue_node(dir, &node.name, &hosts, certs::LEAF_DAYS)?;
    }
    Ok(certs::issue_client(dir, "client", certs::LEAF_DAYS)?)
}

/// The settings of a node, in the order of the file.
#[derive(Serialize)]
struct Settings<'a> {
    name: &'a str,
    listen: SocketAddr,
    admin: SocketAddr,
    metadata: &'a str,
    store: &'a str,
    store_options: Option<StoreOptions<'a>>,
    tls: Tls,
    buffer: Buffers<'a>,
    flush: Flush,
}

#[derive(Serialize)]
struct StoreOptions<'a> {
    endpoint: &'a str,
    region: &'a str,
    allow_http: bool,
}

#[derive(Serialize)]
struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Serialize)]
struct Buffers<'a> {
    memory: Buffer<'a>,
    disk: DiskBuffer<'a>,
}

#[derive(Serialize)]
struct Buffer<'a> {
    dir: &'a Path,
    bytes: u64,
}

#[derive(Serialize)]
struct DiskBuffer<'a> {
    dir: &'a Path,
    bytes: u64,
    file_bytes: u64,
}

#[derive(Serialize)]
struct Flush {
    bytes: u64,
    /// In milliseconds.
    interval: u64,
    /// In milliseconds.
    max_interval: u64,
}

fn settings(spec: &ClusterSpec, node: &LocalNode, memory: &Path, disk: &Path) -> String {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let settings = Settings {
        name: &node.name,
        listen: node.addr(),
        admin: node.admin(),
        metadata: &spec.metadata,
        store: &spec.store.url,
        store_options: spec.store.s3.as_ref().map(|s3| StoreOptions {
            endpoint: &s3.endpoint,
            region: &s3.region,
            allow_http: s3.endpoint.starts_with("http://"),
        }),
        tls: Tls {
            ca: spec.certs.join("ca.pem"),
            cert: spec.certs.join(format!("{}.pem", node.name)),
            key: spec.certs.join(format!("{}.key", node.name)),
        },
        buffer: Buffers {
            memory: Buffer { dir: memory, bytes: spec.buffer_bytes },
            disk: DiskBuffer { dir: disk, bytes: spec.disk_bytes, file_bytes: DISK_FILE_BYTES },
        },
        flush: Flush {
            bytes: spec.flush_bytes,
            interval: millis(spec.flush_interval),
            max_interval: millis(spec.flush_max_interval),
        },
    };
    toml::to_string(&settings).expect("settings are plain tables of text and numbers")
}

#[cfg(test)]
mod tests {
    use super::super::S3Access;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    /// In place of a node: run by the test below in a process of its own, it takes the settings,
    /// fills its buffer's directory and says that it is ready until it is killed.
    #[test]
    #[ignore = "waits to be killed"]
    fn fake_node() {
        let Ok(config) = std::env::var("PICULET_TEST_CONFIG") else { return };
        let settings = fs::read_to_string(config).expect("the settings are there");
        let settings: toml::Table = settings.parse().expect("the settings are TOML");
        let text = |value: &toml::Value| value.as_str().expect("it is text").to_owned();
        for file in ["ca", "cert", "key"] {
            assert!(Path::new(&text(&settings["tls"][file])).is_file(), "{file}");
        }
        assert_eq!(text(&settings["store_options"]["endpoint"]), "http://127.0.0.1:1");
        assert_eq!(settings["flush"]["interval"].as_integer(), Some(1000));
        assert_eq!(std::env::var("AWS_SECRET_ACCESS_KEY").expect("it is set"), "secret");
        let buffer = PathBuf::from(text(&settings["buffer"]["memory"]["dir"]));
        fs::create_dir_all(&buffer).expect("the buffer can be made");
        fs::write(buffer.join("arena"), [0; 4096]).expect("the buffer can be filled");
        let listener = TcpListener::bind(text(&settings["admin"])).expect("the port is free");
        println!("fake {} serves", settings["name"]);
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 1024];
            let len = stream.read(&mut request).expect("a request");
            assert!(request[..len].starts_with(b"GET /readyz "));
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nready").expect("it is listened to");
        }
    }

    fn spec(dir: &Path, script: &str) -> ClusterSpec {
        let program = dir.join("piculet");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let s3 = S3Access {
            endpoint: "http://127.0.0.1:1".to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "key".to_owned(),
            secret_key: "secret".to_owned(),
        };
        let store = Store { url: "s3://bucket/prefix".to_owned(), s3: Some(s3) };
        ClusterSpec::new(program, dir, "etcd://127.0.0.1:1/piculet".to_owned(), store)
    }

    fn fake_spec(dir: &Path) -> ClusterSpec {
        let this = std::env::current_exe().expect("this program");
        let test = "--ignored --exact --nocapture local::cluster::tests::fake_node";
        let script = "[ \"$1 $2\" = 'node --config' ] || exit 9\nexport PICULET_TEST_CONFIG=\"$3\"";
        spec(dir, &format!("{script}\nexec '{}' {test}", this.display()))
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn local_nodes_start_die_and_come_back() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let mut cluster = LocalCluster::start(fake_spec(dir.path())).await.expect("all are ready");
        let pids: Vec<u32> = cluster.nodes().iter().filter_map(LocalNode::pid).collect();
        assert_eq!(pids.len(), 3);
        let at = cluster.position("node-2").expect("there is a node-2");
        let (addrs, buffers) = (cluster.addrs(), cluster._buffers.path().to_path_buf());
        assert!(buffers.join("node-2/arena").exists());

        cluster.kill_node(at).expect("it runs");
        assert!(!alive(pids[at]) && alive(pids[0]));
        assert!(matches!(cluster.kill_node(at), Err(LocalError::Node { .. })));
        cluster.start_node(at).await.expect("it is ready again");
        assert!(matches!(cluster.start_node(at).await, Err(LocalError::Node { .. })));
        assert_ne!(cluster.nodes()[at].pid(), Some(pids[at]));
        assert_eq!(cluster.addrs(), addrs);

        cluster.stop_node(0).await.expect("it ends");
        assert!(!alive(pids[0]));
        assert!(matches!(cluster.stop_node(7).await, Err(LocalError::Node { .. })));
        let error = cluster.stop().await.expect_err("these know no good order").to_string();
        assert!(error.contains("node-2") && error.contains("ended badly"), "{error}");
        assert!(!alive(pids[2]) && !buffers.exists());
    }

    #[tokio::test]
    async fn local_nodes_that_do_not_start_say_why_and_leave_nothing() {
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let spec = spec(dir.path(), "echo 'no such luck'; exit 4");
        let error = LocalCluster::start(spec).await.expect_err("it cannot start").to_string();
        for part in ["node-1", "exit status: 4", "no such luck"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
