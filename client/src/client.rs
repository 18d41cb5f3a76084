//! The client: logs by name, and how the nodes are.

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{CallError, Pool};
use crate::reader::{self, LogReader, ReadOptions, Start};
use crate::takeover;
use crate::writer::LogWriter;
use futures::future::join_all;
use piculet_quorum::ids::{Level, LogId, LogName, NodeId};
use piculet_quorum::limits::LIST_PAGE;
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::meta::{LogView, TxnOutcome};
use piculet_quorum::wire::message::{Nodes, Proposal, Request, Response, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Pause before a transaction of unknown outcome is repeated.
const REPEAT: Duration = Duration::from_millis(100);

/// A client of a cluster. Cheap to clone; the clones share their connections, which live as long
/// as any of them, or a writer or reader made by one.
///
/// It runs on the tokio runtime on which it was made.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
    options: Arc<ClientOptions>,
}

/// A log, as the metadata have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDescription {
    /// Its name.
    pub name: LogName,
    /// Its record and all of its segments.
    pub view: LogView,
}

/// How a node is, as far as it says so.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// What it answers, or why there is no answer.
    pub status: Result<Status, Error>,
}

impl Client {
    /// Connects to the first node that answers, of those that the options name.
    ///
    /// # Errors
    /// [`Error::NoNode`] when none answers; [`Error::Connect`], [`Error::Endpoint`] or
    /// [`Error::Refused`] when a setting or a certificate is wrong.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(options: ClientOptions) -> Result<Self, Error> {
        let pool = Arc::new(Pool::new(&options)?);
        pool.any().await?;
        if let Err(error) = pool.nodes().await {
            tracing::warn!(%error, "connected, but the list of nodes cannot be read yet");
        }
        Ok(Self { pool, options: Arc::new(options) })
    }

    /// Creates a log.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is taken; [`Error::Unknown`] when no node said in
    /// time what became of the request; [`Error::NoNode`] when none answers.
    pub async fn create_log(&self, name: &LogName) -> Result<LogId, Error> {
        let deadline = Instant::now() + self.options.call_timeout * 2;
        let mut log = random_log()?;
        loop {
            let create = CreateLog { name: name.clone(), log, durability: Level::default() };
            let unknown = match self.pool.propose(Proposal::Create(create)).await {
                Ok(TxnOutcome::Applied(_)) => return Ok(log),
                Ok(TxnOutcome::Refused) => None,
                Err(CallError::Unknown(why)) => Some(why),
                Err(error) => return Err(error.into()),
            };
            match (self.pool.find_log(name).await, unknown) {
                (Ok(Some(found)), _) if found == log => return Ok(log),
                (Ok(Some(_)), _) => return Err(Error::AlreadyExists(name.clone())),
                // The id is taken, or another log of this name came and went: a new attempt.
                (Ok(None), None) => log = random_log()?,
                (Err(error), None) => return Err(error.into()),
                (_, Some(why)) if Instant::now() >= deadline => return Err(Error::Unknown(why)),
                (_, Some(_)) => sleep(REPEAT).await,
            }
        }
    }

    /// Every log, in the order of their names.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn list_logs(&self) -> Result<Vec<(LogName, LogId)>, Error> {
        let mut logs: Vec<(LogName, LogId)> = Vec::new();
        loop {
            let after = logs.last().map(|(name, _)| name.clone());
            let request = Request::ListLogs { after, limit: LIST_PAGE as u32 };
            let Response::Names(page) = self.pool.call(&request).await? else {
                return Err(Error::Refused("a node answered ListLogs with something else".to_owned()));
            };
            let ordered = logs.last().iter().copied().chain(&page).is_sorted_by(|a, b| a.0 < b.0);
            if !ordered {
                return Err(Error::Refused("a node lists logs out of order: report it".to_owned()));
            }
            if page.is_empty() {
                return Ok(logs);
            }
            logs.extend(page);
        }
    }

    /// A log and all of its segments.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log; when no node answers.
    pub async fn describe_log(&self, name: &LogName) -> Result<LogDescription, Error> {
        let log = self.find(name).await?;
        let view = reader::whole_view(&self.pool, log).await?;
        Ok(LogDescription { name: name.clone(), view })
    }

    /// Every node that the metadata know, running or not.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn nodes(&self) -> Result<Nodes, Error> {
        Ok(self.pool.nodes().await?)
    }

    /// How every running node is.
    ///
    /// # Errors
    /// When the list of nodes cannot be read.
    pub async fn status(&self) -> Result<Vec<NodeStatus>, Error> {
        let nodes = self.pool.nodes().await?;
        let running = nodes.into_iter().filter(|(_, view)| view.running.is_some());
        let asked = running.map(|(node, _)| async move {
            let status = match self.pool.call_node(&node, &Request::Status).await {
                Ok(Response::Status(status)) => Ok(status),
                Ok(_) => Err(Error::Refused(format!("node {node} answered Status with something else"))),
                Err(error) => Err(error.into()),
            };
            NodeStatus { node, status }
        });
        Ok(join_all(asked).await)
    }

    /// Becomes the log's only writer: fences the one before, finds out where its last segment
    /// ends, and opens a new one.
    ///
    /// Not to be abandoned lightly: a future that is dropped may have fenced the writer before.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log. [`Error::TakeOver`] when too few nodes are
    /// there, or another takes the log over at the same time. [`Error::Lost`] and
    /// [`Error::Alarm`] when the log needs an operator.
    pub async fn take_over(&self, name: &LogName) -> Result<LogWriter, Error> {
        let taken = takeover::take_over(&self.pool, &self.options, name).await?;
        Ok(LogWriter::start(self.pool.clone(), &self.options, taken))
    }

    /// Reads a log from `start`. Without [`ReadOptions::follow`] the reader ends at the log's tail
    /// as of this call: every entry whose append was acknowledged before is among what it yields.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Trimmed`] or [`Error::BeyondTail`] when there is nothing to
    /// read there; [`Error::NoNode`] when too few nodes answer to know the tail.
    pub async fn read(&self, name: &LogName, start: Start, options: ReadOptions) -> Result<LogReader, Error> {
        let log = self.find(name).await?;
        LogReader::open((*self.pool).clone(), &self.options, log, start, options).await
    }

    /// The largest UDP payload, in bytes, that the paths to all connected nodes were found to
    /// carry; 0 without a connection.
    #[must_use]
    pub fn path_datagram(&self) -> u16 {
        self.pool.path_datagram()
    }

    /// Closes every connection, those of writers and readers too, and waits for a moment until the
    /// nodes know.
    pub async fn close(&self) {
        // Nodes that are gone learn nothing however long one waits.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.pool.close()).await;
    }

    async fn find(&self, name: &LogName) -> Result<LogId, Error> {
        self.pool.find_log(name).await?.ok_or_else(|| Error::NotFound(name.clone()))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("nodes", &self.options.nodes).finish_non_exhaustive()
    }
}

fn random_log() -> Result<LogId, Error> {
    let random = getrandom::u64();
    random.map(LogId).map_err(|error| Error::Refused(format!("the system has no random numbers: {error}")))
}
