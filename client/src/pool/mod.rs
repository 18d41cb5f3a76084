//! Connections to nodes, and the questions that go over them.
//!
//! There is one connection to a node, whoever uses it. The pool remembers names, addresses and
//! incarnations as the metadata had them last, so that a node is found by its name alone. All of
//! its nodes are of one cluster: the first one says which. [`call`] asks any node or a certain
//! one, [`ask`] knows which answer belongs to which question, [`stream`] opens streams of frames.

mod ask;
mod call;
mod greet;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use ask::nonce;
pub(crate) use call::CallError;
pub(crate) use greet::{greet, same_cluster};
pub(crate) use stream::refused;

use crate::error::Error;
use crate::options::ClientOptions;
use crate::transport::{ConnectError, Connection, Endpoint, HandshakeError};
use futures::future::{BoxFuture, WeakShared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future};
use parking_lot::{Mutex, MutexGuard};
use piculet_quorum::ids::{Incarnation, Level, NodeId, Nonce};
use piculet_quorum::wire::message::{Nodes, Welcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A connection to a node that has said who it is.
#[derive(Debug)]
pub(crate) struct Session {
    /// The connection.
    pub(crate) connection: Connection,
    /// The node's name.
    pub(crate) node: NodeId,
    /// The life of each of its buffers.
    pub(crate) incarnations: BTreeMap<Level, Incarnation>,
}

impl Session {
    /// The life of the node's buffer of a level; 0 when it has none.
    pub(crate) fn incarnation(&self, level: Level) -> Incarnation {
        self.incarnations.get(&level).copied().unwrap_or_default()
    }

    /// Whether the connection is up, as far as is known: a node that has just died is noticed
    /// late.
    pub(crate) fn is_live(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

/// An attempt to get a session. It goes on while anybody waits for it, and only then.
type Attempt = BoxFuture<'static, Result<Arc<Session>, Error>>;

/// The connections of one client. Cheap to clone; the clones share everything.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    seeds: Vec<String>,
    call_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: Option<Nonce>,
    nodes: Nodes,
    /// Where nodes were last known to be, running or not.
    addresses: BTreeMap<NodeId, Vec<String>>,
    sessions: BTreeMap<NodeId, Arc<Session>>,
    attempts: BTreeMap<NodeId, WeakShared<Attempt>>,
    attempt_any: Option<WeakShared<Attempt>>,
    /// The node that answered last: the next question goes there first.
    preferred: Option<NodeId>,
}

impl State {
    fn live(&self, node: &NodeId) -> Option<Arc<Session>> {
        self.sessions.get(node).filter(|session| session.is_live()).cloned()
    }

    /// Every live session, the preferred one first.
    fn all_live(&self) -> Vec<Arc<Session>> {
        let mut live: Vec<_> = self.sessions.values().filter(|session| session.is_live()).cloned().collect();
        live.sort_by_key(|session| Some(&session.node) != self.preferred.as_ref());
        live
    }
}

impl Pool {
    /// A pool without a connection yet.
    ///
    /// # Errors
    /// When no node is given, a setting is out of bounds, or the socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, Error> {
        options.check()?;
        let endpoint = Endpoint::client(&options.identity, &options.transport)?;
        let (seeds, call_timeout) = (options.nodes.clone(), options.call_timeout);
        let state = State { cluster: options.cluster, ..State::default() };
        let shared = Shared { endpoint, seeds, call_timeout, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The live connection to a node, or a new one to where the metadata have it. Callers at the
    /// same time share one attempt.
    ///
    /// # Errors
    /// When no known address leads to that node.
    pub(crate) async fn session_by_name(&self, node: &NodeId) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.live(node) {
            return Ok(session);
        }
        let mut addresses = self.addresses(node);
        if addresses.is_empty() {
            self.nodes().await?;
            addresses = self.addresses(node);
        }
        if addresses.is_empty() {
            return Err(Error::NoNode(format!("node {node} is not running, so its address is not known")));
        }
        self.attempt(node, addresses).await
    }

    /// A live connection to any node, or a new one: the first that comes about.
    ///
    /// # Errors
    /// When no node answers, or all refuse.
    pub(crate) async fn any(&self) -> Result<Arc<Session>, Error> {
        let live = self.state().all_live().into_iter().next();
        match live {
            Some(session) => Ok(session),
            None => self.attempt_any().await,
        }
    }

    /// The smallest datagram limit among the paths of the live sessions.
    pub(crate) fn path_datagram(&self) -> u16 {
        let limits =
            self.state().all_live().into_iter().map(|session| session.connection.stats().path.current_mtu);
        limits.min().unwrap_or_default()
    }

    /// The cluster, once a node has answered, or as the options have it.
    #[cfg(feature = "object")]
    pub(crate) fn cluster(&self) -> Option<Nonce> {
        self.state().cluster
    }

    /// The live session to a node, if there is one.
    pub(crate) fn live(&self, node: &NodeId) -> Option<Arc<Session>> {
        self.state().live(node)
    }

    /// The nodes as the metadata had them when they were read last.
    pub(crate) fn known_nodes(&self) -> Nodes {
        self.state().nodes.clone()
    }

    /// Closes every connection and waits until the nodes have had the time to learn of it.
    pub(crate) async fn close(&self) {
        self.shared.endpoint.close();
        self.shared.endpoint.wait_idle().await;
    }

    /// Takes note of where a node is.
    pub(crate) fn learn_addresses(&self, node: &NodeId, addresses: &[String]) {
        self.state().addresses.insert(node.clone(), addresses.to_vec());
    }

    fn learn_nodes(&self, nodes: &Nodes) {
        let mut state = self.state();
        for (node, view) in nodes {
            if let Some(running) = &view.running {
                state.addresses.insert(node.clone(), running.addresses.clone());
            }
        }
        state.nodes.clone_from(nodes);
    }

    fn addresses(&self, node: &NodeId) -> Vec<String> {
        self.state().addresses.get(node).cloned().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    fn attempt(&self, node: &NodeId, addresses: Vec<String>) -> future::Shared<Attempt> {
        let mut state = self.state();
        if let Some(attempt) = state.attempts.get(node).and_then(WeakShared::upgrade) {
            return attempt;
        }
        let attempt = self.clone().dial(node.clone(), addresses).boxed().shared();
        state.attempts.insert(node.clone(), attempt.downgrade().expect("it has not been polled yet"));
        attempt
    }

    fn attempt_any(&self) -> future::Shared<Attempt> {
        let mut state = self.state();
        if let Some(attempt) = state.attempt_any.as_ref().and_then(WeakShared::upgrade) {
            return attempt;
        }
        let running = state.nodes.values().filter_map(|view| view.running.as_ref());
        let mut addresses: Vec<String> = running.flat_map(|record| record.addresses.clone()).collect();
        addresses.extend(self.shared.seeds.iter().cloned());
        addresses.sort();
        addresses.dedup();
        let attempt = self.clone().dial_any(addresses).boxed().shared();
        state.attempt_any = Some(attempt.downgrade().expect("it has not been polled yet"));
        attempt
    }

    async fn dial(self, node: NodeId, addresses: Vec<String>) -> Result<Arc<Session>, Error> {
        let mut errors = Vec::new();
        for address in &addresses {
            match self.open(address, Some(&node)).await {
                Ok(session) => return Ok(session),
                Err(error) => errors.push(error),
            }
        }
        Err(none_of(errors))
    }

    async fn dial_any(self, addresses: Vec<String>) -> Result<Arc<Session>, Error> {
        let mut attempts: FuturesUnordered<_> =
            addresses.iter().map(|address| self.open(address, None)).collect();
        let mut errors = Vec::new();
        while let Some(result) = attempts.next().await {
            match result {
                Ok(session) => return Ok(session),
                Err(error) => errors.push(error),
            }
        }
        Err(none_of(errors))
    }

    /// Connects to an address and exchanges names.
    async fn open(&self, address: &str, expected: Option<&NodeId>) -> Result<Arc<Session>, Error> {
        let connection = self.shared.endpoint.connect(address).await?;
        let (cluster, limit) = (self.state().cluster, self.shared.call_timeout);
        let welcome = greet(&connection, address, cluster, limit).await?;
        if let Some(expected) = expected.filter(|expected| **expected != welcome.node) {
            let found = welcome.node;
            return Err(Error::Refused(format!(
                "node {expected} was expected at {address}, but {found} is there; check the addresses that the nodes give"
            )));
        }
        self.register(address, connection, welcome)
    }

    fn register(
        &self,
        address: &str,
        connection: Connection,
        welcome: Welcome,
    ) -> Result<Arc<Session>, Error> {
        let Welcome { cluster, node, incarnations, .. } = welcome;
        let mut state = self.state();
        let ours = *state.cluster.get_or_insert(cluster);
        same_cluster(address, Some(ours), cluster)?;
        if let Some(session) = state.live(&node).filter(|session| session.incarnations == incarnations) {
            return Ok(session);
        }
        tracing::debug!(%node, ?incarnations, address, "connected");
        let session = Arc::new(Session { connection, node: node.clone(), incarnations });
        state.sessions.insert(node, session.clone());
        Ok(session)
    }
}

/// What several failures come to: one that time does not cure tells most.
fn none_of(errors: Vec<Error>) -> Error {
    let final_one = |error: &&Error| match error {
        Error::Connect(error) => matches!(
            &**error,
            ConnectError::Address { .. }
                | ConnectError::Handshake {
                    error: HandshakeError::OtherProtocol
                        | HandshakeError::TheyRefused { .. }
                        | HandshakeError::WeRefused { .. },
                    ..
                }
        ),
        Error::Refused(_) | Error::WrongCluster { .. } => true,
        _ => false,
    };
    if let Some(error) = errors.iter().find(final_one) {
        return error.clone();
    }
    // A single name that stands for nothing is said as what it is.
    if let [Error::Connect(error)] = &errors[..]
        && matches!(&**error, ConnectError::Resolve { .. })
    {
        return Error::Connect(error.clone());
    }
    Error::NoNode(errors.iter().map(Error::reason).collect::<Vec<_>>().join("; "))
}
