//! A cluster in this process, for tests: nodes that speak the real protocol over loopback, with
//! the protocol's own replica in them, metadata in a map and objects in a list.

mod meta;
mod node;
#[cfg(feature = "object")]
mod parts;
mod serve;

pub(crate) use meta::Meta;
pub(crate) use node::{Faults, Node};
#[cfg(feature = "object")]
pub(crate) use parts::Recording;

use crate::options::ClientOptions;
use crate::transport::Identity;
use crate::{Client, Entry, Error, LogReader};
use parking_lot::Mutex;
use piculet_quorum::ids::{LogName, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

/// More than anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes within the deadline")
}

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn log_name(name: &str) -> LogName {
    LogName::new(name).unwrap()
}

/// What the nodes share.
pub(crate) struct Shared {
    pub(crate) meta: Mutex<Meta>,
    #[cfg(feature = "object")]
    pub(crate) parts: parts::Parts,
    /// Counts changes: whoever waits for one looks again.
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Nodes with one certificate authority and one metadata store.
pub(crate) struct Cluster {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
    pub(crate) shared: Arc<Shared>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    /// Starts nodes of these names.
    pub(crate) fn start(names: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        let shared = Shared {
            meta: Mutex::new(Meta::new()),
            #[cfg(feature = "object")]
            parts: parts::Parts::new(&dir.path().join("objects")),
            changes: watch::Sender::new(0),
        };
        let mut cluster = Self { issuer, dir, shared: Arc::new(shared), nodes: BTreeMap::new() };
        for name in names {
            cluster.start_node(name);
        }
        cluster
    }

    /// Starts a node, in a new life of its buffer.
    pub(crate) fn start_node(&mut self, name: &str) {
        let node = Node::start(&node_id(name), &self.identity(name), self.shared.clone());
        self.nodes.insert(node_id(name), node);
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[&node_id(name)]
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |extension: &str| self.dir.path().join(format!("{name}.{extension}"));
        std::fs::write(file("pem"), certificate.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        Identity::load(&self.dir.path().join("ca.pem"), &file("pem"), &file("key")).unwrap()
    }

    pub(crate) fn options(&self, seeds: &[&str]) -> ClientOptions {
        let seeds = seeds.iter().map(|name| self.node(name).address()).collect();
        ClientOptions::new(seeds, self.identity("client"))
    }

    pub(crate) async fn client(&self) -> Client {
        let first = self.nodes.keys().next().expect("a cluster has nodes").clone();
        soon(Client::connect(self.options(&[first.as_str()]))).await.unwrap()
    }

    /// A client, and a log named `log` with nothing in it.
    pub(crate) async fn client_and_log(&self) -> (Client, LogName) {
        let (client, name) = (self.client().await, log_name("log"));
        soon(client.create_log(&name)).await.unwrap();
        (client, name)
    }
}

/// The payloads that a reader yields, as text, up to its end or its first error.
pub(crate) async fn read_all(reader: &mut LogReader) -> (Vec<String>, Option<Error>) {
    let mut payloads = Vec::new();
    loop {
        match soon(reader.next()).await {
            Some(Ok(entry)) => payloads.push(text(&entry)),
            Some(Err(error)) => return (payloads, Some(error)),
            None => return (payloads, None),
        }
    }
}

/// The next so many payloads.
pub(crate) async fn read_some(reader: &mut LogReader, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        payloads.push(text(&soon(reader.next()).await.expect("it follows").unwrap()));
    }
    payloads
}

pub(crate) fn text(entry: &Entry) -> String {
    String::from_utf8(entry.payload.to_vec()).unwrap()
}

/// `prefix` with each number.
pub(crate) fn numbered(prefix: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{prefix}{number}")).collect()
}
