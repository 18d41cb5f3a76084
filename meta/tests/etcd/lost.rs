//! Requests and replies that are lost on the way, for every kind of transaction: the whole life of
//! a log, with the connection cut around each transaction.

use super::process::{Etcd, PATIENCE};
use async_trait::async_trait;
use parking_lot::Mutex;
use piculet_meta::conformance::{self, Subject};
use piculet_meta::{Lease, MetaError, MetaOptions, Metadata, Watch, connect};
use piculet_quorum::ids::Revision;
use piculet_quorum::meta::{Key, Range, Record, Snapshot, Txn, TxnOutcome, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Hands them on.
    Open,
    /// Cuts the connection at the first from the client, which etcd does not get.
    NoRequests,
    /// Lets etcd have all and the client nothing.
    NoReplies,
    /// Cuts all connections.
    Cut,
}

/// Stands between a store and its etcd.
struct Proxy {
    url: String,
    way: watch::Sender<Way>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(etcd: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let url = etcd.url().replace(&etcd.port().to_string(), &port.to_string());
        let (way, ways) = watch::channel(Way::Open);
        let to = etcd.port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", to)).await.expect("etcd listens");
                connections.spawn(carry(client, server, ways.clone()));
            }
        });
        Self { url, way, _tasks: tasks }
    }
}

/// Carries bytes until either side ends or the connection is to be cut.
async fn carry(mut client: TcpStream, mut server: TcpStream, ways: watch::Receiver<Way>) {
    let mut cut = ways.clone();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.split(), server.split());
    let (mut request, mut reply) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            () = async { drop(cut.wait_for(|way| *way == Way::Cut).await) } => return,
            read = from_client.read(&mut request) => {
                let Ok(count @ 1..) = read else { return };
                let way = *ways.borrow();
                if !matches!(way, Way::Open | Way::NoReplies) || to_server.write_all(&request[..count]).await.is_err() {
                    return;
                }
            }
            read = from_server.read(&mut reply) => {
                let Ok(count @ 1..) = read else { return };
                let way = *ways.borrow();
                if way == Way::Open && to_client.write_all(&reply[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Loses each transaction once, and then does what a caller has to do: repeats it as it is until
/// the outcome is known, and takes a refusal for a success if its own values are in the records.
struct Lossy {
    direct: Arc<dyn Metadata>,
    through: Arc<dyn Metadata>,
    proxy: Proxy,
    etcd: Etcd,
    /// [`Way::NoRequests`] or [`Way::NoReplies`].
    loses: Way,
    lost: Mutex<Vec<Txn>>,
}

impl Lossy {
    async fn start(loses: Way) -> Self {
        let etcd = Etcd::start();
        let direct = etcd.connect().await;
        let proxy = Proxy::start(&etcd).await;
        let through = connect(&proxy.url, &MetaOptions::default()).await.expect("the url is fine");
        Self { direct, through, proxy, etcd, loses, lost: Mutex::default() }
    }

    /// Whether every compare holds at present.
    async fn would_apply(&self, txn: &Txn) -> bool {
        let keys: Vec<Key> = txn.compares.iter().map(|(key, _)| key.clone()).collect();
        let now = self.direct.read(&keys, &[]).await.expect("etcd answers");
        txn.compares.iter().all(|(key, expected)| now.revision(key) == *expected)
    }

    /// Tries it with its request or its reply lost; the outcome is unknown.
    async fn lose(&self, txn: &Txn) {
        // So that there is a connection that can be lost.
        self.through.read(&[Key::Cluster], &[]).await.expect("etcd answers");
        let before = self.direct.read(&[], &[]).await.expect("etcd answers").at;
        self.proxy.way.send_replace(self.loses);
        let cut_when_landed = async {
            if self.loses == Way::NoReplies {
                let deadline = Instant::now() + PATIENCE;
                while self.direct.read(&[], &[]).await.expect("etcd answers").at == before {
                    assert!(Instant::now() < deadline, "etcd got the request");
                }
                self.proxy.way.send_replace(Way::Cut);
            }
        };
        let (outcome, ()) = tokio::join!(self.through.commit(txn), cut_when_landed);
        assert!(matches!(outcome, Err(MetaError::Unknown(_))), "{outcome:?}: {txn:?}");
        let landed = self.direct.read(&[], &[]).await.expect("etcd answers").at != before;
        assert_eq!(landed, self.loses == Way::NoReplies, "{txn:?}");
        self.proxy.way.send_replace(Way::Open);
        self.lost.lock().push(txn.clone());
    }

    /// The revision at which the records show that the transaction was carried out.
    async fn mine(&self, txn: &Txn) -> Option<Revision> {
        let put = |write: &Write| match write {
            Write::Put(key, record) | Write::PutLeased(key, record, _) => Some((key.clone(), record.clone())),
            Write::Delete(_) | Write::DeleteRange(_) => None,
        };
        let puts: Vec<(Key, Record)> = txn.writes.iter().filter_map(put).collect();
        let keys: Vec<Key> = puts.iter().map(|(key, _)| key.clone()).collect();
        let now = self.through.read(&keys, &[]).await.expect("etcd answers");
        let mut at = None;
        for (key, record) in puts {
            let found = now.records.get(&key).filter(|found| found.value == record)?;
            assert_eq!(*at.get_or_insert(found.revision), found.revision, "all of it at one moment");
        }
        at
    }
}

#[async_trait]
impl Metadata for Lossy {
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
        self.through.read(keys, ranges).await
    }

    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        if txn.compares.is_empty() || !self.would_apply(txn).await {
            return self.direct.commit(txn).await;
        }
        self.lose(txn).await;
        let deadline = Instant::now() + PATIENCE;
        let outcome = loop {
            match self.through.commit(txn).await {
                Ok(outcome) => break outcome,
                Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
            }
        };
        match (outcome, self.loses) {
            (TxnOutcome::Applied(_), Way::NoRequests) => Ok(outcome),
            (TxnOutcome::Refused, Way::NoReplies) => {
                Ok(TxnOutcome::Applied(self.mine(txn).await.expect("it had landed")))
            }
            other => panic!("{other:?}: {txn:?}"),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, MetaError> {
        self.direct.grant(ttl).await
    }

    async fn watch(&self, range: Range) -> Result<Watch, MetaError> {
        self.direct.watch(range).await
    }
}

#[async_trait]
impl Subject for Lossy {
    fn store(&self) -> &dyn Metadata {
        self
    }

    async fn orphan(&self, _: Key, _: Record) {
        panic!("leases are not what this is about, at {}", self.etcd.url());
    }
}

/// Everything that a log and a node ever ask of the metadata.
async fn lives_through(loses: Way) {
    let subject = Lossy::start(loses).await;
    conformance::a_log_lives(&subject).await;
    let lost = std::mem::take(&mut *subject.lost.lock());
    let wrote = |is: fn(&Write) -> bool| lost.iter().any(|txn| txn.writes.iter().any(is));
    for (what, lost) in [
        ("the name of the cluster", wrote(|write| matches!(write, Write::Put(Key::Cluster, _)))),
        ("T0", wrote(|write| matches!(write, Write::Put(Key::Name(_), _)))),
        ("T1, T2", wrote(|write| matches!(write, Write::Put(Key::Log(_), _)))),
        ("T2, T2c", wrote(|write| matches!(write, Write::Put(Key::Segment(..), _)))),
        ("T3", wrote(|write| matches!(write, Write::Put(Key::Part(..), _)))),
        ("T4", wrote(|write| matches!(write, Write::Put(Key::Trim(_), _)))),
        ("T5", wrote(|write| matches!(write, Write::DeleteRange(_)))),
    ] {
        assert!(lost, "no transaction was lost of {what}");
    }
}

#[tokio::test]
async fn a_log_lives_though_every_request_is_lost_once() {
    lives_through(Way::NoRequests).await;
}

#[tokio::test]
async fn a_log_lives_though_every_reply_is_lost_once() {
    lives_through(Way::NoReplies).await;
}

#[tokio::test]
async fn a_roll_seals_and_creates_though_every_reply_is_lost_once() {
    conformance::a_roll_seals_and_creates(&Lossy::start(Way::NoReplies).await).await;
}

#[tokio::test]
async fn a_log_is_created_once_though_every_reply_is_lost_once() {
    conformance::a_log_is_created_once(&Lossy::start(Way::NoReplies).await).await;
}

#[tokio::test]
async fn a_life_of_a_buffer_is_taken_though_every_reply_is_lost_once() {
    conformance::a_life_of_a_buffer_is_taken_by_compare_and_swap(&Lossy::start(Way::NoReplies).await).await;
}
