//! How each node is reached: whether it answers, how fast, over which datagrams, and who it is.
//!
//! Every address gets a connection of its own, so that what one of them suffers from says nothing of
//! another, and every failure is the one of that address.

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{greet, same_cluster};
use crate::transport::{Connection, Endpoint, PeerIdentity, request};
use futures::future::join_all;
use piculet_quorum::ids::{Incarnation, Level, NodeId, Nonce};
use piculet_quorum::wire::message::{Nodes, Request, Response, Welcome};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Questions whose round trips are measured.
const ROUND_TRIPS: usize = 10;
/// Discovery of the datagram size is taken to have ended when it has found nothing larger for this
/// long: a few probes' time on a slow path.
const QUIET: Duration = Duration::from_millis(500);
/// How often the datagram size found is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Discovery is not waited for beyond this.
const DISCOVERY: Duration = Duration::from_secs(4);

/// One address of a node, and what came of trying it.
#[derive(Clone, Debug)]
pub struct NodePing {
    /// The address, `host:port`.
    pub address: String,
    /// The node that the metadata have there, as far as a node has told; none for an address that
    /// only the options name.
    pub listed: Option<NodeId>,
    /// What was found, or what is wrong and what to do.
    pub found: Result<Ping, Error>,
}

/// What a node that answers is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Its name.
    pub node: NodeId,
    /// Version of its program.
    pub version: String,
    /// Its cluster.
    pub cluster: Nonce,
    /// The life of each of its buffers.
    pub incarnations: BTreeMap<Level, Incarnation>,
    /// Who it is, as its certificate says.
    pub identity: PeerIdentity,
    /// The shortest round trip of ten, with the node's work on a trivial question.
    pub round_trip_min: Duration,
    /// The median of the ten.
    pub round_trip_median: Duration,
    /// The largest UDP payload, in bytes, that the path was found to carry.
    pub datagram: u16,
}

/// Tries every address that the options name, and every one that the nodes behind them list.
///
/// It takes as long as the slowest: `connect_timeout` for an address that does not answer, a second
/// or two for one that does. Cancel-safe.
///
/// # Errors
/// [`Error::Setting`] or [`Error::Endpoint`] when a setting is of no use, before anything is tried.
/// What is wrong with an address is in its [`NodePing`]. A node of another cluster than
/// `options.cluster`, or than the first one that answered, is an [`Error::WrongCluster`] there.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn ping_all(options: &ClientOptions) -> Result<Vec<NodePing>, Error> {
    options.check()?;
    let endpoint = Endpoint::client(&options.identity, &options.transport)?;
    let given: BTreeSet<String> = options.nodes.iter().cloned().collect();
    let first = join_all(given.iter().map(|address| ping(&endpoint, options, address))).await;
    let mut nodes = Nodes::new();
    let mut pings = BTreeMap::new();
    for (address, result) in given.into_iter().zip(first) {
        let found = result.map(|(ping, listed)| {
            nodes.extend(listed);
            ping
        });
        pings.insert(address, found);
    }
    let running = nodes.iter().filter_map(|(node, view)| Some((node, view.running.as_ref()?)));
    let listed: BTreeMap<String, NodeId> = running
        .flat_map(|(node, record)| record.addresses.iter().map(|at| (at.clone(), node.clone())))
        .collect();
    let others: Vec<&String> = listed.keys().filter(|address| !pings.contains_key(*address)).collect();
    let second = join_all(others.iter().map(|address| ping(&endpoint, options, address))).await;
    pings.extend(
        others.into_iter().cloned().zip(second.into_iter().map(|result| result.map(|(ping, _)| ping))),
    );
    endpoint.close();
    // Nodes that are gone learn nothing however long one waits.
    let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    let expected = options.cluster.or_else(|| pings.values().flatten().map(|ping| ping.cluster).next());
    let judged = pings.into_iter().map(|(address, found)| {
        let found = found.and_then(|ping| same_cluster(&address, expected, ping.cluster).map(|()| ping));
        NodePing { listed: listed.get(&address).cloned(), address, found }
    });
    Ok(judged.collect())
}

/// Tries one address. Returns the nodes that the one there lists too, if it can.
async fn ping(endpoint: &Endpoint, options: &ClientOptions, address: &str) -> Result<(Ping, Nodes), Error> {
    let connection = endpoint.connect(address).await?;
    let limit = options.call_timeout;
    let Welcome { version, cluster, node, incarnations, .. } =
        greet(&connection, address, options.cluster, limit).await?;
    let mut round_trips = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let asked = Instant::now();
        let answer = request(&connection, &Request::Status, limit).await;
        answer.map_err(|error| Error::NoNode(format!("node {node} at {address}: {error}")))?;
        round_trips.push(asked.elapsed());
    }
    round_trips.sort();
    // A node whose metadata are away lists none: the other addresses may be told by another.
    let nodes = match request(&connection, &Request::Nodes, limit).await {
        Ok(Response::Nodes(nodes)) => nodes,
        _ => Nodes::new(),
    };
    let identity = PeerIdentity::of_connection(&connection)
        .ok_or_else(|| Error::Refused(format!("the node at {address} has shown no certificate")))?;
    let datagram = discovered(&connection, options.transport.max_datagram).await;
    let ping = Ping {
        node,
        version,
        cluster,
        incarnations,
        identity,
        round_trip_min: round_trips[0],
        round_trip_median: round_trips[ROUND_TRIPS / 2],
        datagram,
    };
    Ok((ping, nodes))
}

/// The datagram size at which discovery has come to rest.
async fn discovered(connection: &Connection, largest: u16) -> u16 {
    let size = || connection.stats().path.current_mtu;
    let started = Instant::now();
    let (mut found, mut since) = (size(), started);
    while found < largest && since.elapsed() < QUIET && started.elapsed() < DISCOVERY {
        sleep(LOOK).await;
        if size() != found {
            (found, since) = (size(), Instant::now());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, node_id, soon};
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::SystemTime;

    #[tokio::test]
    async fn every_node_is_tried_and_described() {
        let cluster = Cluster::start(&["a", "b", "c"]);
        let pings = soon(ping_all(&cluster.options(&["b"]))).await.unwrap();
        assert_eq!(pings.len(), 3);
        for name in ["a", "b", "c"] {
            let ping = pings.iter().find(|ping| ping.listed == Some(node_id(name))).unwrap();
            assert_eq!(ping.address, cluster.node(name).address());
            let found = ping.found.as_ref().unwrap();
            assert_eq!((&found.node, found.cluster), (&node_id(name), Nonce(77)));
            assert_eq!(found.identity.subject().unwrap(), format!("CN={name}"));
            assert!(found.identity.expires().unwrap() > SystemTime::now());
            assert!(found.round_trip_min <= found.round_trip_median);
            assert!(found.datagram > 1200, "loopback carries more than {}", found.datagram);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_of_each_address() {
        let cluster = Cluster::start(&["a", "b"]);
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
        let silent_at = silent.local_addr().unwrap().to_string();
        let mut options = cluster.options(&["a"]);
        options.nodes.extend([silent_at.clone(), closed.clone(), "no-such-host.invalid:7781".to_owned()]);
        options.transport.connect_timeout = Duration::from_millis(500);
        let stopped = cluster.node("b").address();
        // The metadata still list it.
        cluster.node("b").vanish();
        let pings = soon(ping_all(&options)).await.unwrap();
        let of = |address: &str| &pings.iter().find(|ping| ping.address == address).unwrap().found;
        assert!(of(&cluster.node("a").address()).is_ok());
        for (address, code, says) in [
            (silent_at.as_str(), "no-node", "UDP is blocked"),
            (closed.as_str(), "no-node", "nobody listens"),
            ("no-such-host.invalid:7781", "unresolved-host", "cannot resolve"),
            (stopped.as_str(), "no-node", ""),
        ] {
            let error = of(address).as_ref().unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(says) && error.to_string().contains(address), "{error}");
        }
    }

    #[tokio::test]
    async fn another_cluster_is_said_with_both_names() {
        let cluster = Cluster::start(&["a"]);
        let options = ClientOptions { cluster: Some(Nonce(5)), ..cluster.options(&["a"]) };
        let pings = soon(ping_all(&options)).await.unwrap();
        let error = pings[0].found.as_ref().unwrap_err();
        assert!(matches!(error, Error::WrongCluster { found: Nonce(77), expected: Nonce(5), .. }), "{error}");
        let none = ClientOptions { nodes: vec![], ..options };
        assert!(matches!(soon(ping_all(&none)).await, Err(Error::Setting { setting: "nodes", .. })));
    }
}
