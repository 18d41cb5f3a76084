//! A node's place in its cluster: the cluster's identity, the lives of its buffers ([`life`]), and
//! its registration under a lease.

mod life;
#[cfg(test)]
mod tests;

pub use life::{Life, Place, Taken, end_life, take_life};

use crate::core::Core;
use piculet_meta::{Lease, MetaError, Metadata, spelt};
use piculet_quorum::ids::{Incarnation, Level, NodeId, Nonce};
use piculet_quorum::meta::{
    Damage, IncarnationRecord, Key, NodeRecord, NodeState, RECORD_FORMAT, Range, Record, Snapshot, Txn,
    TxnOutcome, Write, register,
};
use piculet_storage::BufferError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// The metadata store must answer within this time when a node starts.
pub const METADATA_WAIT: Duration = Duration::from_secs(30);
/// First and longest pause between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why a node has no place in its cluster.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The metadata store fails.
    #[error("{0}")]
    Metadata(#[from] MetaError),
    /// The metadata are of another version.
    #[error(
        "the metadata are of format {found}, this program knows {RECORD_FORMAT} only: run the version that wrote them, or give this cluster a prefix of its own"
    )]
    Format {
        /// Their format.
        found: u32,
    },
    /// Another start has taken the next life under the same name.
    #[error(
        "the name {node} is used twice: incarnation {mine} of its {level} buffer is this process's, but the metadata show {}; this node stops. Give every node a name of its own, and start each once",
        shown(.found)
    )]
    NameTwice {
        /// The name.
        node: NodeId,
        /// The buffer's level.
        level: Level,
        /// The incarnation of this process.
        mine: Incarnation,
        /// What the metadata have.
        found: Option<IncarnationRecord>,
    },
    /// Other starts came in between again and again.
    #[error("the name {node} is used by several processes that start again and again: stop all but one")]
    Contended {
        /// The name.
        node: NodeId,
    },
    /// The record of a life is damaged.
    #[error("{0} (key {key}), and this node does not start", key = spelt(&.0.key))]
    Damaged(#[from] Damage),
    /// A buffer's directory does not take what is begun.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

fn shown(found: &Option<IncarnationRecord>) -> String {
    found.as_ref().map_or_else(
        || "none at all".to_owned(),
        |found| format!("incarnation {} of start {}", found.incarnation, found.nonce),
    )
}

/// A fresh random value.
///
/// # Errors
/// When the system has none.
pub fn fresh_nonce() -> Result<Nonce, MembershipError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(MembershipError::Random)?;
    Ok(Nonce(u128::from_le_bytes(bytes)))
}

/// The identity of the cluster, which the first node ever gives it.
///
/// # Errors
/// When the metadata do not answer for [`METADATA_WAIT`], or are of another version.
pub async fn join_cluster(meta: &dyn Metadata) -> Result<Nonce, MembershipError> {
    let mine = fresh_nonce()?;
    let mut patience = Patience::new();
    loop {
        let snapshot = patience.read(meta, &[Key::Cluster]).await?;
        if let Some(Record::Cluster(cluster)) = snapshot.records.get(&Key::Cluster).map(|found| &found.value)
        {
            if cluster.format != RECORD_FORMAT {
                return Err(MembershipError::Format { found: cluster.format });
            }
            return Ok(cluster.cluster);
        }
        // Whatever comes of it, the record shows it.
        match meta.commit(&register::name_cluster(mine)).await {
            Ok(TxnOutcome::Applied(_)) => tracing::info!(cluster = %mine, "a new cluster"),
            Ok(TxnOutcome::Refused) => {}
            Err(error) => patience.after(error).await?,
        }
    }
}

/// All metadata, as they are now.
///
/// # Errors
/// When the metadata do not answer for [`METADATA_WAIT`].
pub async fn read_everything(meta: &dyn Metadata) -> Result<Snapshot, MembershipError> {
    let mut patience = Patience::new();
    loop {
        match meta.read(&[], &[Range::All]).await {
            Ok(snapshot) => return Ok(snapshot),
            Err(error) => patience.after(error).await?,
        }
    }
}

/// Patience with a metadata store that does not answer.
struct Patience {
    deadline: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { deadline: Instant::now() + METADATA_WAIT, pause: RETRY.0 }
    }

    async fn read(&mut self, meta: &dyn Metadata, keys: &[Key]) -> Result<Snapshot, MembershipError> {
        loop {
            match meta.read(keys, &[]).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => self.after(error).await?,
            }
        }
    }

    /// Waits a little after an error, unless waiting is of no use.
    async fn after(&mut self, error: MetaError) -> Result<(), MembershipError> {
        if !error.is_retryable() || Instant::now() >= self.deadline {
            return Err(error.into());
        }
        tracing::info!(%error, "metadata store does not answer, trying again");
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY.1);
        Ok(())
    }
}

/// Keeps the node registered until `stop` is true: holds a lease, and under it says where the node
/// is and whether it takes new segments. When the lease is lost there is a new one; the node goes
/// on serving meanwhile. In the end the lease is revoked.
///
/// # Errors
/// [`MembershipError::NameTwice`] when another start has taken over the name.
pub async fn keep_registered(core: &Core, mut stop: watch::Receiver<bool>) -> Result<(), MembershipError> {
    let mut stopped = std::pin::pin!(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    loop {
        let lease = tokio::select! {
            biased;
            _ = &mut stopped => return Ok(()),
            lease = grant(core) => lease,
        };
        let ended = tokio::select! {
            biased;
            _ = &mut stopped => None,
            result = serve_lease(core, &lease) => Some(result),
        };
        core.set_lease(None);
        match ended {
            Some(Ok(())) => {
                tracing::warn!(node = %core.id, "lease lost, registering again; the node goes on serving");
            }
            Some(Err(error)) => return Err(error),
            None => {
                if let Err(error) = lease.revoke().await {
                    tracing::warn!(%error, "lease not revoked: it ends by itself within its ttl");
                }
                return Ok(());
            }
        }
    }
}

/// Grants a lease, however long that takes.
async fn grant(core: &Core) -> Lease {
    let mut pause = RETRY.0;
    loop {
        match core.meta.grant(core.config.lease_ttl()).await {
            Ok(lease) => {
                core.meta_health.works();
                return lease;
            }
            Err(error) => core.meta_failed("to get a lease for this node", &error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Keeps the node's record under this lease until it is lost.
async fn serve_lease(core: &Core, lease: &Lease) -> Result<(), MembershipError> {
    let said = tokio::select! {
        biased;
        () = lease.lost() => return Ok(()),
        said = put_node(core, lease) => said?,
    };
    core.set_lease(Some(lease.id()));
    core.archive_now.notify_one();
    if !core.readiness.registered.swap(true, Ordering::AcqRel) {
        tracing::info!(node = %core.id, incarnations = %core.lives_in_words(), "registered");
    }
    if said == NodeState::Active {
        let say_draining = async {
            core.until_draining().await;
            put_node(core, lease).await
        };
        tokio::select! {
            biased;
            () = lease.lost() => return Ok(()),
            said = say_draining => { said?; }
        }
    }
    lease.lost().await;
    Ok(())
}

/// Puts the node's record, however long that takes, and returns the state that it says.
async fn put_node(core: &Core, lease: &Lease) -> Result<NodeState, MembershipError> {
    let key = |level: Level| Key::Incarnation(core.id.clone(), level);
    let keys: Vec<Key> = core.levels().map(key).collect();
    let mut pause = RETRY.0;
    loop {
        let state = if core.draining() { NodeState::Draining } else { NodeState::Active };
        let record = Record::Node(NodeRecord {
            incarnations: core.incarnations(),
            addresses: core.config.advertise.clone(),
            admin: core.config.admin.to_string(),
            state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        // Only in these lives: a process that was displaced must not hide its successor.
        let lives = core.buffers().map(|(level, live)| (key(level), live.life.revision));
        let mut txn = lives.fold(Txn::default(), |txn, (key, revision)| txn.when(key, revision));
        txn.writes.push(Write::PutLeased(Key::Node(core.id.clone()), record, lease.id()));
        match core.meta.commit(&txn).await {
            Ok(TxnOutcome::Applied(_)) => {
                core.meta_health.works();
                return Ok(state);
            }
            Ok(TxnOutcome::Refused) => match core.meta.read(&keys, &[]).await {
                Ok(snapshot) => check_lives(core, &snapshot)?,
                Err(error) => core.meta_failed("to read this node's incarnation", &error),
            },
            // The caller waits for this and starts over.
            Err(MetaError::LeaseGone(_)) => lease.lost().await,
            // It may have landed: to put it once more does no harm.
            Err(error) => core.meta_failed("to register this node", &error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Checks that a snapshot has the lives of its buffers that this process took.
///
/// # Errors
/// As [`check_life`].
pub fn check_lives(core: &Core, snapshot: &Snapshot) -> Result<(), MembershipError> {
    for level in core.levels() {
        let key = Key::Incarnation(core.id.clone(), level);
        check_life(core, level, snapshot.incarnation(&key).map(|found| found.value))?;
    }
    Ok(())
}

/// Checks that the metadata have the life of a buffer that this process took. A level that this
/// node has no buffer of is no concern of its.
///
/// # Errors
/// [`MembershipError::NameTwice`] when they do not: the process must stop at once.
pub fn check_life(
    core: &Core,
    level: Level,
    found: Option<IncarnationRecord>,
) -> Result<(), MembershipError> {
    let Some(life) = core.life(level) else { return Ok(()) };
    let mine = IncarnationRecord { incarnation: life.incarnation, nonce: life.nonce };
    if found == Some(mine) {
        return Ok(());
    }
    Err(MembershipError::NameTwice { node: core.id.clone(), level, mine: life.incarnation, found })
}
