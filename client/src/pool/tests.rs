//! Connections and calls against nodes in this process.

use super::{CallError, Pool};
use crate::testing::{Cluster, Faults, log_name, node_id, soon};
use crate::{Client, ClientOptions, Error};
use futures::future::join_all;
use piculet_quorum::ids::{Level, LogId, Nonce};
use piculet_quorum::meta::create::CreateLog;
use piculet_quorum::wire::message::{Proposal, Request, Response};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

fn pool(cluster: &Cluster, seeds: &[&str]) -> Pool {
    Pool::new(&cluster.options(seeds)).unwrap()
}

fn deaf(cluster: &Cluster, node: &str) {
    cluster.node(node).set_faults(Faults { deaf: true, ..Faults::default() });
}

/// An address where nobody answers, for as long as the socket lives.
fn silent() -> (UdpSocket, String) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn one_address_of_several_is_enough() {
    let cluster = Cluster::start(&["a", "b"]);
    let (_socket, nobody) = silent();
    let mut options = cluster.options(&["b"]);
    options.nodes.insert(0, nobody);
    let pool = Pool::new(&options).unwrap();
    assert_eq!(soon(pool.any()).await.unwrap().node, node_id("b"));
    // The others are found by their names.
    assert_eq!(soon(pool.session_by_name(&node_id("a"))).await.unwrap().node, node_id("a"));
    let unknown = soon(pool.session_by_name(&node_id("z"))).await.map(|_| ()).unwrap_err();
    assert!(unknown.to_string().contains("node z"), "{unknown}");
}

#[tokio::test]
async fn who_does_not_answer_is_named() {
    let cluster = Cluster::start(&["a"]);
    let (_socket, nobody) = silent();
    let mut options = ClientOptions { nodes: vec![nobody.clone()], ..cluster.options(&[]) };
    options.transport.connect_timeout = Duration::from_millis(200);
    let error = soon(Pool::new(&options).unwrap().any()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NoNode(_)) && error.to_string().contains(&nobody), "{error}");
    // A stranger's certificate is refused for good.
    let stranger =
        ClientOptions { identity: Cluster::start(&[]).identity("client"), ..cluster.options(&["a"]) };
    let error = soon(Pool::new(&stranger).unwrap().any()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Connect(_)) && !error.is_retryable(), "{error}");
    let none = ClientOptions { nodes: vec![], ..options };
    assert!(matches!(Pool::new(&none).map(|_| ()), Err(Error::Setting { setting: "nodes", .. })));
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_connection() {
    let cluster = Cluster::start(&["a", "b"]);
    let pool = pool(&cluster, &["a"]);
    let any = soon(join_all((0..10).map(|_| pool.any()))).await;
    let b = node_id("b");
    let named = soon(join_all((0..10).map(|_| pool.session_by_name(&b)))).await;
    for sessions in [any, named] {
        let first = sessions[0].clone().unwrap();
        assert!(sessions.into_iter().all(|session| Arc::ptr_eq(&first, &session.unwrap())));
    }
}

#[tokio::test]
async fn a_failed_attempt_is_not_remembered() {
    let mut cluster = Cluster::start(&["a", "b"]);
    let mut options = cluster.options(&["a"]);
    options.transport.connect_timeout = Duration::from_millis(1000);
    let pool = Pool::new(&options).unwrap();
    soon(pool.nodes()).await.unwrap();
    cluster.node("b").stop();
    soon(pool.session_by_name(&node_id("b"))).await.map(|_| ()).unwrap_err();
    cluster.start_node("b");
    let nodes = soon(pool.nodes()).await.unwrap();
    let session = soon(pool.session_by_name(&node_id("b"))).await.unwrap();
    assert_eq!(session.incarnations[&Level::Memory], nodes[&node_id("b")].incarnation(Level::Memory).0);
}

#[tokio::test]
async fn nodes_of_another_name_or_cluster_are_refused() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let first = pool(&cluster, &["a"]);
    cluster.shared.meta.lock().move_node(&node_id("b"), cluster.node("c").address());
    let error = soon(first.session_by_name(&node_id("b"))).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("node b was expected") && error.contains("but c is there"), "{error}");
    cluster.shared.meta.lock().cluster = Nonce(78);
    let error = soon(first.session_by_name(&node_id("c"))).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::WrongCluster { found: Nonce(78), expected: Nonce(77), .. }), "{error}");
    // The setting says which one is expected.
    let options = ClientOptions { cluster: Some(Nonce(5)), ..cluster.options(&["a"]) };
    let error = soon(Client::connect(options.clone())).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::WrongCluster { found: Nonce(78), expected: Nonce(5), .. }), "{error}");
    assert!(error.to_string().contains(&options.nodes[0]) && !error.is_retryable(), "{error}");
    assert_eq!(error.code(), "wrong-cluster");
    let options = ClientOptions { cluster: Some(Nonce(78)), ..options };
    soon(Client::connect(options)).await.unwrap();
}

#[tokio::test]
async fn what_keeps_us_from_a_node_is_told_apart() {
    let cluster = Cluster::start(&["a"]);
    let quick = |nodes: &[&str]| {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        let mut options = ClientOptions { nodes, ..cluster.options(&[]) };
        options.transport.connect_timeout = Duration::from_millis(200);
        options
    };
    let address = cluster.node("a").address();
    let other_host = address.replace("127.0.0.1", "localhost");
    let (socket, nobody) = silent();
    let stranger = ClientOptions { identity: Cluster::start(&[]).identity("client"), ..quick(&[&address]) };
    let zero = ClientOptions { call_timeout: Duration::ZERO, ..quick(&[&address]) };
    for (options, code, says) in [
        (quick(&[&nobody]), "no-node", "UDP is blocked"),
        (quick(&["no-such-host.invalid:1"]), "unresolved-host", "no-such-host.invalid:1"),
        (quick(&["node-1"]), "bad-address", "it has no port"),
        (quick(&[&other_host]), "certificate", "made for another host"),
        (quick(&[]), "setting", "nodes"),
        (stranger, "certificate", "another CA"),
        (zero, "setting", "call_timeout"),
    ] {
        let error = soon(Client::connect(options)).await.map(|_| ()).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.is_retryable(), code == "no-node", "{error}");
    }
    drop(socket);
    let error = soon(Client::connect(quick(&[&nobody]))).await.map(|_| ()).unwrap_err();
    assert!(error.code() == "no-node" && error.to_string().contains("nobody listens"), "{error}");
}

#[tokio::test]
async fn a_question_goes_to_others_when_a_node_is_silent_or_gone() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let pool = pool(&cluster, &["a"]);
    soon(pool.nodes()).await.unwrap();
    deaf(&cluster, "a");
    soon(pool.nodes()).await.unwrap();
    // Whoever answered is asked first from now on, so a proposal does not go to the silent one.
    let create =
        CreateLog { name: log_name("log"), log: LogId(5), durability: Level::default(), allow_loss: false };
    soon(pool.propose(Proposal::Create(create))).await.unwrap();
    assert_eq!(soon(pool.find_log(&log_name("log"))).await.unwrap(), Some(LogId(5)));
    cluster.node("a").stop();
    cluster.node("b").stop();
    assert_eq!(soon(pool.find_log(&log_name("log"))).await.unwrap(), Some(LogId(5)));
    let answer = soon(pool.call_node(&node_id("c"), &Request::Status)).await;
    assert!(matches!(answer, Ok(Response::Status(_))), "{answer:?}");
}

#[tokio::test]
async fn a_proposal_without_an_answer_is_unknown() {
    let cluster = Cluster::start(&["a", "b"]);
    let options = ClientOptions { call_timeout: Duration::from_millis(1500), ..cluster.options(&["a"]) };
    let pool = Pool::new(&options).unwrap();
    soon(pool.any()).await.unwrap();
    deaf(&cluster, "a");
    let create =
        CreateLog { name: log_name("log"), log: LogId(5), durability: Level::default(), allow_loss: false };
    let error = soon(pool.propose(Proposal::Create(create))).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "{error}");
    let error = soon(pool.find_log(&log_name("log"))).await.unwrap_err();
    assert!(matches!(error, CallError::NoNode(_)), "{error}");
}
