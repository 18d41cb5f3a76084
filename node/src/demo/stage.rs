//! The processes of the demo, and what is asked of them.

use super::report::Report;
use super::stream::Source;
use crate::cli::Failure;
use crate::local::{ClusterSpec, Etcd, LocalCluster, S3Server, ScratchDir, Store, tools};
use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions, NodeStatus};
use piculet_quorum::ids::{LogName, Offset};
use piculet_quorum::meta::{Key, Record};
use piculet_storage::{ListedPart, Objects, S3Options};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

const LOG: &str = "demo/lines";

/// etcd, an S3 server and three nodes.
pub(super) struct Stage {
    client: Client,
    cluster: LocalCluster,
    s3: S3Server,
    etcd: Etcd,
    store: Store,
    metadata: String,
    /// Behind everything that lies in it.
    _scratch: ScratchDir,
}

impl Stage {
    pub(super) async fn start() -> Result<Self, Failure> {
        let scratch = ScratchDir::create(&std::env::temp_dir())?;
        let etcd = Etcd::start(scratch.path()).await?;
        let s3 = S3Server::start(scratch.path()).await?;
        let store = s3.store("demo");
        let metadata = format!("{}/demo", etcd.url());
        let mut spec = ClusterSpec::new(tools::piculet()?, scratch.path(), metadata.clone(), store.clone());
        spec.flush_bytes = 4 << 20;
        let cluster = LocalCluster::start(spec).await?;
        let file = |name: &str| cluster.certs().join(name);
        let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
        let nodes = cluster.addrs().iter().map(ToString::to_string).collect();
        let client = Client::connect(ClientOptions::new(nodes, identity)).await?;
        Ok(Self { client, cluster, s3, etcd, store, metadata, _scratch: scratch })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn metadata(&self) -> &str {
        &self.metadata
    }

    pub(super) fn store_url(&self) -> &str {
        &self.store.url
    }

    pub(super) async fn create_log(&self) -> Result<String, Failure> {
        self.client.create_log(&LogName::new(LOG)?).await?;
        Ok(LOG.to_owned())
    }

    /// The node that is elected to upload the newest segment, if one is.
    pub(super) async fn uploader(&self) -> Result<Option<String>, Failure> {
        let log = self.client.describe_log(&LogName::new(LOG)?).await?;
        let Some((newest, _)) = log.view.segments.last_key_value() else { return Ok(None) };
        for NodeStatus { node, status } in self.client.status().await? {
            if status.is_ok_and(|status| status.uploading.contains(&(log.view.log, *newest))) {
                return Ok(Some(node.to_string()));
            }
        }
        Ok(None)
    }

    /// Below it everything is in object storage.
    pub(super) async fn archived(&self) -> Result<Offset, Failure> {
        let log = self.client.describe_log(&LogName::new(LOG)?).await?;
        let mut archived = Offset(0);
        for segment in log.view.segments.values() {
            archived = segment.record.value.base.plus(segment.archived.end.0);
            if segment.record.value.state.end().is_none_or(|at| segment.archived.end < at.end) {
                break;
            }
        }
        Ok(archived)
    }

    /// Where the log ends, once its writer has closed.
    pub(super) async fn tail(&self) -> Result<Offset, Failure> {
        Ok(self.client.describe_log(&LogName::new(LOG)?).await?.view.record.value.next_base)
    }

    pub(super) fn kill(&mut self, node: &str) -> Result<(), Failure> {
        let at = self.cluster.position(node).ok_or_else(|| format!("there is no node {node}"))?;
        Ok(self.cluster.kill_node(at)?)
    }

    pub(super) async fn restart(&mut self, node: &str) -> Result<(), Failure> {
        let at = self.cluster.position(node).ok_or_else(|| format!("there is no node {node}"))?;
        Ok(self.cluster.start_node(at).await?)
    }

    /// How much of each node's buffer is used.
    pub(super) async fn buffers(&self) -> Result<Vec<(String, u64)>, Failure> {
        let mut used = Vec::new();
        for NodeStatus { node, status } in self.client.status().await? {
            used.push((node.to_string(), status?.buffer_used));
        }
        Ok(used)
    }

    /// Every object in the store.
    pub(super) async fn objects(&self) -> Result<Vec<ListedPart>, Failure> {
        let meta = piculet_meta::connect(&self.metadata, &piculet_meta::MetaOptions::default()).await?;
        let snapshot = meta.read(&[Key::Cluster], &[]).await?;
        let cluster = match snapshot.records.get(&Key::Cluster).map(|record| &record.value) {
            Some(Record::Cluster(record)) => record.cluster,
            _ => return Err("the metadata name no cluster".into()),
        };
        let access = self.s3.access();
        let options = S3Options {
            endpoint: Some(access.endpoint.clone()),
            region: Some(access.region.clone()),
            access_key_id: Some(access.access_key.clone()),
            secret_access_key: Some(access.secret_key.clone()),
            allow_http: true,
        };
        Ok(Objects::open(&self.store.url, cluster, &options)?.list().await?)
    }

    /// Starts `piculet append` and waits until it has taken the log over.
    pub(super) async fn writer_process(&self) -> Result<WriterProcess, Failure> {
        let nodes: Vec<String> = self.cluster.addrs().iter().map(ToString::to_string).collect();
        let mut child = Command::new(tools::piculet()?)
            .args(["append", LOG, "--acks", "--nodes"])
            .arg(nodes.join(","))
            .arg("--certs")
            .arg(self.cluster.certs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or("the writer process has no input")?;
        let output = child.stdout.take().ok_or("the writer process has no output")?;
        let (seen, acknowledged) = watch::channel(None);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(offset) =
                    line.strip_prefix("acknowledged ").and_then(|offset| offset.parse().ok())
                {
                    seen.send_replace(Some(offset));
                }
            }
        });
        let mut process = WriterProcess { child, input, acknowledged, slice_end: Instant::now() };
        let started = process.acknowledged.wait_for(Option::is_some);
        tokio::time::timeout(super::PATIENCE, started)
            .await
            .map_err(|_| "the writer process did not take the log over")?
            .map_err(|_| "the writer process ended")?;
        Ok(process)
    }

    /// Ends everything in good order.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.client.close().await;
        self.cluster.stop().await?;
        Ok(self.etcd.stop().await?)
    }
}

/// A writer in a process of its own.
pub(super) struct WriterProcess {
    child: Child,
    input: ChildStdin,
    acknowledged: watch::Receiver<Option<u64>>,
    slice_end: Instant,
}

impl WriterProcess {
    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Below it everything is acknowledged, as the process has said.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.borrow().unwrap_or_default()
    }

    /// Hands it lines for one slice of time.
    pub(super) async fn feed(&mut self, source: &mut Source, report: &mut Report) -> Result<(), Failure> {
        let lines = source.slice(&mut self.slice_end).await?;
        self.input.write_all(&lines.concat()).await?;
        self.input.flush().await?;
        source.forget(self.acknowledged());
        report.progress(source.bytes(), self.acknowledged(), None);
        Ok(())
    }

    /// Kills it, and returns what it had seen acknowledged.
    pub(super) async fn kill(mut self) -> Result<u64, Failure> {
        self.child.kill().await?;
        // What it said before its end is still in the pipe.
        let ended = async { while self.acknowledged.changed().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(10), ended).await.map_err(|_| "its output does not end")?;
        Ok(self.acknowledged())
    }
}
