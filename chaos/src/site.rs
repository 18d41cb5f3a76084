//! The processes of a scenario, and what is asked of them.

use crate::Failure;
use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions};
use piculet_node::local::{ClusterSpec, Etcd, LocalCluster, LocalNode, S3Server, ScratchDir, tools};
use piculet_quorum::ids::{Incarnation, Level, LogName, NodeId};
use piculet_quorum::meta::{LogView, SegmentState};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// As long as anything that must happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The life of every buffer of every node.
pub(crate) type Lives = BTreeMap<NodeId, BTreeMap<Level, Incarnation>>;

const POLL: Duration = Duration::from_millis(20);

/// Three nodes, etcd and an S3 server. Dropping it ends them all.
pub(crate) struct Site {
    pub(crate) cluster: LocalCluster,
    pub(crate) client: Client,
    // Behind the cluster, which needs them, and before the directory that they work in.
    _etcd: Etcd,
    _s3: S3Server,
    _dir: ScratchDir,
}

impl Site {
    /// Starts everything. Parts are small and uploaded early, so that much happens in little time.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let dir = ScratchDir::create(&std::env::temp_dir())?;
        let etcd = Etcd::start(dir.path()).await?;
        let s3 = S3Server::start(dir.path()).await?;
        let metadata = format!("{}/chaos", etcd.url());
        let mut spec = ClusterSpec::new(tools::piculet()?, dir.path(), metadata, s3.store("chaos"));
        spec.buffer_bytes = 64 << 20;
        spec.flush_bytes = 512 << 10;
        spec.flush_interval = Duration::from_millis(200);
        spec.flush_max_interval = Duration::from_secs(1);
        let cluster = LocalCluster::start(spec).await?;
        let client = Client::connect(options(&cluster)?).await?;
        Ok(Self { cluster, client, _etcd: etcd, _s3: s3, _dir: dir })
    }

    /// Settings of a client that knows all nodes.
    pub(crate) fn options(&self) -> Result<ClientOptions, Failure> {
        options(&self.cluster)
    }

    /// The name of the node at a place.
    pub(crate) fn name(&self, at: usize) -> String {
        self.cluster.nodes()[at].name().to_owned()
    }

    /// Waits until all nodes hold the log's newest segment in the lives that they are in, and
    /// everything before it is archived: from then on any one node may be lost.
    pub(crate) async fn whole(&self, log: &LogName) -> Result<(), Failure> {
        self.until("the log is held by three nodes, and older segments archived", async || {
            let view = self.client.describe_log(log).await.ok()?.view;
            let level = view.durability();
            let nodes = self.client.nodes().await.ok()?;
            let (newest, segment) = view.segments.last_key_value()?;
            let members = &segment.record.value.ensemble;
            let current = |node: &LocalNode| {
                members.iter().any(|member| {
                    let now = nodes.get(&member.node).filter(|view| view.usable(level));
                    member.node.as_str() == node.name()
                        && now.is_some_and(|now| now.incarnation(level).0 == member.incarnation)
                })
            };
            let open = segment.record.value.state == SegmentState::Open;
            let older =
                view.segments.range(..*newest).all(|(_, segment)| is_archived(&segment.record.value.state));
            (open && older && self.cluster.nodes().iter().all(current)).then_some(())
        })
        .await
    }

    /// The life of every buffer of every node.
    pub(crate) async fn lives(&self) -> Result<Lives, Failure> {
        let nodes = self.client.nodes().await?;
        let lives = nodes.iter().map(|(node, view)| {
            (node.clone(), view.lives.iter().map(|(level, (life, _))| (*level, *life)).collect())
        });
        Ok(lives.collect())
    }

    /// Waits until every segment of a log is archived.
    pub(crate) async fn archived(&self, log: &LogName) -> Result<LogView, Failure> {
        self.until("every segment is archived", async || {
            let view = self.client.describe_log(log).await.ok()?.view;
            view.segments.values().all(|s| is_archived(&s.record.value.state)).then_some(view)
        })
        .await
    }

    /// Waits until no node holds anything in memory.
    pub(crate) async fn empty(&self) -> Result<(), Failure> {
        self.until("all memory is given back", async || {
            let status = self.client.status().await.ok()?;
            let all = status.len() == self.cluster.nodes().len();
            let empty = status.iter().all(|s| s.status.as_ref().is_ok_and(|s| s.buffer_used == 0));
            (all && empty).then_some(())
        })
        .await
    }

    /// The lines of the nodes' logs that must not be there: those at level ERROR, and panics.
    pub(crate) fn complaints(&self) -> Result<Vec<String>, Failure> {
        let mut complaints = Vec::new();
        for node in self.cluster.nodes() {
            let text = std::fs::read_to_string(node.log())?;
            let bad =
                |line: &&str| line.split_whitespace().nth(1) == Some("ERROR") || line.contains("panicked");
            complaints.extend(text.lines().filter(bad).map(|line| format!("{}: {line}", node.name())));
        }
        Ok(complaints)
    }

    async fn until<T>(&self, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> Result<T, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe().await {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(format!("waited {PATIENCE:?} in vain: {what}").into());
            }
            sleep(POLL).await;
        }
    }
}

fn options(cluster: &LocalCluster) -> Result<ClientOptions, Failure> {
    let file = |name: &str| cluster.certs().join(name);
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
    Ok(ClientOptions::new(cluster.addrs().iter().map(ToString::to_string).collect(), identity))
}

fn is_archived(state: &SegmentState) -> bool {
    matches!(state, SegmentState::Archived(_))
}
