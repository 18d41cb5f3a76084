//! A node from its start to its end.

#[cfg(test)]
mod tests;

use crate::abandoned;
use crate::admin::{self, AdminError};
use crate::archive;
use crate::cleanup;
use crate::config::{NodeConfig, PasswordError};
use crate::core::Core;
use crate::logs::TakeUpError;
use crate::membership::{self, Life, METADATA_WAIT, MembershipError};
use crate::open;
use crate::peers::Peers;
use crate::server::{self, Server, ServerError};
use crate::view::{self, ViewError};
use piculet_client::transport::{Identity, TlsError};
use piculet_meta::{MetaError, Metadata};
use piculet_quorum::ids::{Level, LogId, NodeId, SegmentNumber};
use piculet_storage::journal::Stopped;
use piculet_storage::{BufferError, ObjectError, StoreError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// A node that is about to stop looks this often whether its buffer is empty.
const DRAIN_POLL: Duration = Duration::from_millis(50);
/// How long a node whose buffer failed waits for the metadata store.
const END_LIFE: Duration = Duration::from_secs(5);
/// Segments that a node names when it stops before they are archived.
const NAMED_MAX: usize = 8;

/// Why a node does not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its certificate is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its buffer cannot be opened.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// The metadata store cannot be opened.
    #[error(transparent)]
    MetadataUrl(MetaError),
    /// The password of the metadata store cannot be read.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The metadata store does not answer, or not as it should.
    #[error("cannot join the cluster through {url} (an answer is awaited for {METADATA_WAIT:?}): {source}")]
    Metadata {
        /// Its URL.
        url: String,
        /// What is wrong.
        source: MembershipError,
    },
    /// The object store cannot be opened.
    #[error(transparent)]
    StoreUrl(#[from] StoreError),
    /// The object store cannot be used.
    #[error("object store {url} cannot be used: {source}")]
    Store {
        /// Its URL.
        url: String,
        /// What is wrong.
        source: Box<ObjectError>,
    },
    /// The QUIC server cannot be started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The admin server cannot be started.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The process cannot be told to stop.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// What its buffer has kept cannot be taken up.
    #[error(transparent)]
    TakeUp(#[from] TakeUpError),
    /// A buffer cannot put anything at rest any more.
    #[error(
        "the {level} buffer failed: {reason}; this node answers nothing more, for what it was about to acknowledge may not be on disk. Replace the disk before this node is started again: it will begin with an empty buffer, and the others have what was acknowledged"
    )]
    BufferFailed {
        /// Its level.
        level: Level,
        /// The first reason.
        reason: Arc<str>,
    },
    /// A buffer finds no room for what it must put at rest.
    #[error(
        "the {level} buffer has stopped: {reason}. Nothing is lost: what was acknowledged is at rest, and counts again as soon as the node runs"
    )]
    BufferStopped {
        /// Its level.
        level: Level,
        /// What it has no room for.
        reason: Arc<str>,
    },
    /// The life of the node's buffer is over.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The metadata show that the node must stop.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Runs a node until SIGTERM or SIGINT, and then until what it holds is archived, for at most
/// `drain_timeout`. A second signal ends it at once.
///
/// # Errors
/// When it cannot start, or must stop for the sake of the data: another process has taken over its
/// name, or the metadata are no longer those of its cluster.
pub async fn run(config: NodeConfig) -> Result<(), NodeError> {
    let mut signals = Signals::listen()?;
    let mut node = tokio::select! {
        started = Node::start(config) => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the start was complete");
            return Ok(());
        }
    };
    let name = tokio::select! {
        error = node.failure() => return Err(node.abandon(error).await),
        name = signals.next() => name,
    };
    tracing::info!(signal = name, node = %node.core.id, "stopping: archiving what is held first");
    let core = Arc::clone(&node.core);
    tokio::select! {
        error = node.failure() => return Err(node.abandon(error).await),
        name = signals.next() => exit_at_once(&core, name),
        () = drain(&core) => {}
    }
    tokio::select! {
        () = node.stop() => {}
        name = signals.next() => exit_at_once(&core, name),
    }
    tracing::info!(node = %core.id, "stopped");
    Ok(())
}

/// Ends the process without waiting for anything, as a crash would.
fn exit_at_once(core: &Core, signal: &str) -> ! {
    tracing::warn!(signal, node = %core.id, "told twice to stop, ending at once: {}", left(&core.unarchived()));
    std::process::exit(1)
}

/// The signals that stop a node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, NodeError> {
        let listen = |kind| signal(kind).map_err(NodeError::Signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A running node.
struct Node {
    core: Arc<Core>,
    server: Option<Server>,
    /// What runs beside the server; each ends when `stop` is true, or with an error that ends the
    /// node.
    tasks: JoinSet<Result<(), NodeError>>,
    stop: watch::Sender<bool>,
}

impl Node {
    async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let identity = Identity::load(&config.tls.ca, &config.tls.cert, &config.tls.key)?;
        // Taken early, answered late: a port in use is found before the buffer's old life ends.
        let listener = admin::bind(config.admin).await?;
        server::check_free(config.listen)?;
        let core = open::open(config).await?;
        let peers = Arc::new(Peers::new(Arc::clone(&core), identity.clone()));
        let server = Server::start(Arc::clone(&core), identity, Arc::clone(&peers)).await?;
        core.readiness.serving.store(true, Ordering::Release);
        let mut node =
            Self { core, server: Some(server), tasks: JoinSet::new(), stop: watch::Sender::new(false) };
        node.watch_buffers();
        node.spawn(listener, peers);
        tracing::info!(
            node = %node.core.id, cluster = %node.core.cluster, incarnations = node.core.lives_in_words(),
            listen = %node.core.config.listen, admin = %node.core.config.admin, "serving"
        );
        Ok(node)
    }

    fn spawn(&mut self, listener: TcpListener, peers: Arc<Peers>) {
        let (core, stop) = (Arc::clone(&self.core), self.stop.subscribe());
        self.tasks.spawn(async move { Ok(membership::keep_registered(&core, stop).await?) });
        let (core, stop) = (Arc::clone(&self.core), self.stop.subscribe());
        self.tasks.spawn(async move {
            admin::serve(core, listener, stop).await;
            Ok(())
        });
        let (core, mut stop) = (Arc::clone(&self.core), self.stop.subscribe());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Ok(()),
                followed = view::follow(&core) => match followed {
                    Ok(never) => match never {},
                    Err(error) => Err(error.into()),
                },
            }
        });
        let (core, stop) = (Arc::clone(&self.core), self.stop.subscribe());
        self.tasks.spawn(async move {
            archive::run(core, stop).await;
            Ok(())
        });
        let (core, stop) = (Arc::clone(&self.core), self.stop.subscribe());
        self.tasks.spawn(async move {
            let writer_timeout = core.config.writer_timeout().into();
            abandoned::run(core, peers, writer_timeout, stop).await;
            Ok(())
        });
        let (core, stop) = (Arc::clone(&self.core), self.stop.subscribe());
        self.tasks.spawn(async move {
            cleanup::run(core, stop).await;
            Ok(())
        });
    }

    /// Waits for the end of each buffer.
    fn watch_buffers(&mut self) {
        for (level, live) in self.core.buffers() {
            let (mut failed, mut stop) = (live.buffer.failed(), self.stop.subscribe());
            self.tasks.spawn(async move {
                tokio::select! {
                    biased;
                    stopped = failed.wait_for(Option::is_some) => match stopped.as_deref().cloned() {
                        Ok(Some(Stopped { reason, sound: true })) => {
                            Err(NodeError::BufferStopped { level, reason })
                        }
                        Ok(Some(Stopped { reason, sound: false })) => {
                            Err(NodeError::BufferFailed { level, reason })
                        }
                        // The buffer has gone with the node.
                        _ => Ok(()),
                    },
                    _ = stop.wait_for(|stop| *stop) => Ok(()),
                }
            });
        }
    }

    /// The first error that ends the node. Cancel-safe.
    async fn failure(&mut self) -> NodeError {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = joined(ended) {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Ends the node because of an error: it serves nobody from here on.
    async fn abandon(self, error: NodeError) -> NodeError {
        tracing::error!(node = %self.core.id, %error, "the node must stop");
        let core = Arc::clone(&self.core);
        self.stop().await;
        if let NodeError::BufferFailed { level, .. } = &error
            && let Some(life) = core.life(*level)
        {
            end_life(&*core.meta, &core.id, *level, &life).await;
        }
        error
    }

    /// Ends the server, then everything else; the lease is revoked last.
    async fn stop(mut self) {
        self.core.readiness.serving.store(false, Ordering::Release);
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = joined(ended) {
                tracing::warn!(%error, "while the node was stopping");
            }
        }
    }
}

/// Ends the life of a buffer that has failed, so that nobody waits for what it may have held; the
/// next start does it in any case.
pub(crate) async fn end_life(meta: &dyn Metadata, node: &NodeId, level: Level, life: &Life) {
    let ended = membership::end_life(meta, node, level, life);
    match timeout(END_LIFE, ended).await {
        Ok(Ok(true)) => {
            tracing::info!(%level, incarnation = %life.incarnation, "this life of the buffer is over")
        }
        Ok(Ok(false)) => tracing::info!(%level, "this life of the buffer was over already"),
        Ok(Err(error)) => tracing::warn!(%level, %error, "the buffer's life ends at the next start only"),
        Err(_) => {
            tracing::warn!(%level, "the buffer's life ends at the next start only: no answer in {END_LIFE:?}")
        }
    }
}

/// What a task returned; its panic is ours.
fn joined(ended: Result<Result<(), NodeError>, JoinError>) -> Result<(), NodeError> {
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("no task of a node is aborted: {error}"),
    })
}

/// Waits until everything that the node holds is archived, but no longer than it is set to.
async fn drain(core: &Core) {
    let deadline = Instant::now() + core.config.drain_timeout();
    core.start_draining();
    loop {
        let unarchived = core.unarchived();
        if unarchived.is_empty() {
            tracing::info!("everything that this node held is archived");
            return;
        }
        if Instant::now() >= deadline {
            let waited = core.config.drain_timeout();
            tracing::warn!(?waited, "stopping all the same: {}", left(&unarchived));
            return;
        }
        sleep(DRAIN_POLL).await;
    }
}

/// What this node has not archived when it stops now.
fn left(unarchived: &[(LogId, SegmentNumber)]) -> String {
    if unarchived.is_empty() {
        return "nothing is left".to_owned();
    }
    let named: Vec<String> = unarchived
        .iter()
        .take(NAMED_MAX)
        .map(|(log, number)| format!("log {:016x} segment {number}", log.0))
        .collect();
    let more = unarchived.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "{}{more} not archived yet; it stays in this node's buffer, and its next start goes on with it; what was \
         acknowledged is held by another member as well",
        named.join(", ")
    )
}

impl Core {
    /// Segments of which this node holds something that is not archived.
    #[must_use]
    pub fn unarchived(&self) -> Vec<(LogId, SegmentNumber)> {
        let logs = self.logs.all().into_iter();
        let mut unarchived: Vec<_> = logs
            .flat_map(|log| {
                let state = log.lock();
                let waiting = state.segments.iter().filter(|(_, local)| local.has_unarchived());
                waiting.map(|(number, _)| (log.id, *number)).collect::<Vec<_>>()
            })
            .collect();
        unarchived.sort_unstable();
        unarchived
    }
}
