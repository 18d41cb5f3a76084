//! The client: logs by name, and how the nodes are.

mod members;

use crate::change::{self, LogOptions};
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use crate::reader::{self, LogReader, ReadOptions, Start};
use crate::store::Store;
use crate::takeover;
use crate::writer::LogWriter;
use futures::future::join_all;
use piculet_quorum::ids::{LogId, LogName, NodeId, Offset};
use piculet_quorum::limits::LIST_PAGE;
use piculet_quorum::meta::{LogRecord, LogView, Versioned};
use piculet_quorum::wire::message::{Nodes, Request, Response, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A client of a cluster. Cheap to clone; the clones share their connections, which live as long
/// as any of them, or a writer or reader made by one.
///
/// It runs on the tokio runtime on which it was made.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
    store: Arc<Store>,
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
    /// Connects to the first node that answers, of those that the options name. Cancel-safe.
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
        let store = Arc::new(Store::new(&options));
        Ok(Self { pool, store, options: Arc::new(options) })
    }

    /// Creates a log.
    ///
    /// Not cancel-safe: when the future is dropped the log may have been created, or may yet be.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is taken; [`Error::Unknown`] when no node said in
    /// time what became of the request; [`Error::NoNode`] when none answers.
    pub async fn create_log(&self, name: &LogName) -> Result<LogId, Error> {
        self.create_log_with(name, LogOptions::default()).await
    }

    /// Creates a log that is not as others are. Not cancel-safe, as
    /// [`create_log`](Self::create_log).
    ///
    /// # Errors
    /// As [`create_log`](Self::create_log); [`Error::Refused`] when too few nodes have a buffer of
    /// the log's durability.
    pub async fn create_log_with(&self, name: &LogName, options: LogOptions) -> Result<LogId, Error> {
        let deadline = Instant::now() + self.options.call_timeout * 2;
        change::create_log(&self.pool, name, options, deadline).await
    }

    /// Says whether a log goes on with what is left when too many nodes have lost their buffers:
    /// see [`LogOptions::allow_loss`]. What has been lost already is given up soon afterwards, by the
    /// nodes that are left, or when the log is opened next.
    ///
    /// Not cancel-safe: when the future is dropped the change may have been made, or may yet be.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log; [`Error::Unknown`] when no node said in time
    /// what became of the request; [`Error::NoNode`] when none answers.
    pub async fn set_allow_loss(&self, name: &LogName, allow_loss: bool) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.call_timeout * 2;
        change::set_allow_loss(&self.pool, name, allow_loss, deadline).await
    }

    /// Deletes a log: its name is free at once, its writer is fenced, and nobody reads it any more.
    /// The nodes delete what they and object storage hold of it in the background.
    ///
    /// Not cancel-safe: when the future is dropped the log may have been deleted, or may yet be.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log; [`Error::Unknown`] when no node said in time
    /// what became of the request; [`Error::NoNode`] when none answers.
    pub async fn delete_log(&self, name: &LogName) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.call_timeout * 2;
        change::delete_log(&self.pool, name, deadline).await
    }

    /// Gives up every entry before an offset: they are not read any more, and deleted segment by
    /// segment in the background. Returns the offset before which entries are given up, which is
    /// higher than `before` when the log had been truncated further already.
    ///
    /// Not cancel-safe: when the future is dropped the log may have been truncated, or may yet be.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log; [`Error::BeyondTail`] when `before` is above
    /// the tail; [`Error::NoNode`] when too few nodes answer to know the tail, or none does;
    /// [`Error::Unknown`] when no node said in time what became of the request.
    pub async fn truncate_log(&self, name: &LogName, before: Offset) -> Result<Offset, Error> {
        change::truncate_log(&self.pool, &self.options, name, before).await
    }

    /// The log's tail, linearizably: the offset behind the last entry that was acknowledged before
    /// this call, or later. Every entry before it can be read. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log; [`Error::NoNode`] when too few nodes answer
    /// within `read_timeout` to know the tail.
    pub async fn check_tail(&self, name: &LogName) -> Result<Offset, Error> {
        let log = self.find(name).await?;
        reader::check_tail(&self.pool, &self.options, name, log).await
    }

    /// Every log, in the order of their names. Cancel-safe.
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

    /// A log and all of its segments. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log; when no node answers.
    pub async fn describe_log(&self, name: &LogName) -> Result<LogDescription, Error> {
        let log = self.find(name).await?;
        let view = reader::whole_view(&self.pool, name, log).await?;
        Ok(LogDescription { name: name.clone(), view })
    }

    /// Every node that the metadata know, running or not. Cancel-safe.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn nodes(&self) -> Result<Nodes, Error> {
        Ok(self.pool.nodes().await?)
    }

    /// How every running node is. Cancel-safe.
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

    /// Becomes the log's only writer, if no other is alive: finds out where the log's last segment
    /// ends, and opens a new one. A writer that ended without closing is waited for until enough
    /// nodes have missed it for `writer_timeout`. One that is idle has parked after `idle_after`, and
    /// counts as none. Of several who open a log at the same time, one does.
    ///
    /// Not cancel-safe: when the future is dropped the log may have a new epoch and no writer. The
    /// next one to open it waits for `writer_timeout` then.
    ///
    /// # Errors
    /// [`Error::Held`] when a live writer has the log; [`Error::NotFound`] when there is no such
    /// log. [`Error::Setting`] or [`Error::Store`] when its durability is
    /// [`Level::Object`](crate::Level::Object) and the client has no object store, or cannot write to it.
    /// [`Error::TakeOver`] when too few nodes are there, or another takes the log over at the same
    /// time. [`Error::Lost`] and [`Error::Alarm`] when the log needs an operator.
    pub async fn open(&self, name: &LogName) -> Result<LogWriter, Error> {
        let taken = takeover::open(&self.pool, &self.store, &self.options, name).await?;
        Ok(LogWriter::start(self.pool.clone(), self.store.clone(), &self.options, taken))
    }

    /// Becomes the log's only writer by force: fences the one before, alive or not, finds out where
    /// its last segment ends, and opens a new one. What [`open`](Self::open) does without force.
    ///
    /// Not cancel-safe: a future that is dropped may have fenced the writer before.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such log. [`Error::Setting`] and [`Error::Store`] as
    /// [`open`](Self::open). [`Error::TakeOver`] when too few nodes are there, or another takes the log
    /// over at the same time. [`Error::Lost`] and [`Error::Alarm`] when the log needs an operator.
    pub async fn take_over(&self, name: &LogName) -> Result<LogWriter, Error> {
        let taken = takeover::take_over(&self.pool, &self.store, &self.options, name).await?;
        Ok(LogWriter::start(self.pool.clone(), self.store.clone(), &self.options, taken))
    }

    /// Recovers a log whose writer has gone: fences it in a new epoch, finds out where the log's
    /// last segment ends, and seals it, without opening another. It is what nodes call; applications
    /// open the log instead. `read` is the log's record as it was when the writer was judged to have
    /// gone: the new epoch is made from it or not at all. Returns whether nothing is open any more;
    /// `false` when the record is another by now, and nothing was changed.
    ///
    /// Not cancel-safe: a future that is dropped may have fenced the writer before; the log is
    /// recovered by whoever tries next.
    ///
    /// # Errors
    /// As [`take_over`](Self::take_over).
    pub async fn recover_log(&self, log: LogId, read: Versioned<LogRecord>) -> Result<bool, Error> {
        takeover::recover_log(&self.pool, &self.options, log, read).await
    }

    /// Reads a log from `start`. Without [`ReadOptions::follow`] the reader ends at the log's tail
    /// as of this call: every entry whose append was acknowledged before is among what it yields.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Trimmed`] or [`Error::BeyondTail`] when there is nothing to
    /// read there; [`Error::NoNode`] when too few nodes answer to know the tail.
    pub async fn read(&self, name: &LogName, start: Start, options: ReadOptions) -> Result<LogReader, Error> {
        let log = self.find(name).await?;
        LogReader::open((*self.pool).clone(), &self.options, name, log, start, options).await
    }

    /// The largest UDP payload, in bytes, that the paths to all connected nodes were found to
    /// carry; 0 without a connection.
    #[must_use]
    pub fn path_datagram(&self) -> u16 {
        self.pool.path_datagram()
    }

    /// Closes every connection, those of writers and readers too, and waits for a moment until the
    /// nodes know. When the future is dropped the connections are closed all the same.
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
