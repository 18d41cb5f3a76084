//! The suite on a database file, with one handle and with two on the same file.

mod faults;
mod processes;

use async_trait::async_trait;
use piculet_meta::conformance::Subject;
use piculet_meta::{Lease, MetaError, MetaOptions, Metadata, Watch};
use piculet_quorum::ids::{Incarnation, Level, NodeId, Nonce};
use piculet_quorum::meta::{IncarnationRecord, Key, Range, Record, Snapshot, Txn, TxnOutcome, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Bound on anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(path: &Path) -> Arc<dyn Metadata> {
    let url = format!("sqlite:{}", path.display());
    piculet_meta::connect(&url, &MetaOptions::default()).await.expect("the file can be opened")
}

fn key(name: &str) -> Key {
    Key::Incarnation(NodeId::new(name).expect("a valid name"), Level::Memory)
}

fn life(incarnation: u64) -> Record {
    Record::Incarnation(IncarnationRecord { incarnation: Incarnation(incarnation), nonce: Nonce(1) })
}

fn put(name: &str, incarnation: u64) -> Txn {
    Txn::default().put(key(name), life(incarnation))
}

async fn everything(store: &dyn Metadata) -> Snapshot {
    store.read(&[], &[Range::All]).await.expect("the file can be read")
}

struct OnSqlite {
    store: Arc<dyn Metadata>,
    dir: TempDir,
}

impl OnSqlite {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let store = open(&dir.path().join("meta.db")).await;
        Self { store, dir }
    }

    /// With a second handle, opened separately as another process would: one writes, one reads.
    async fn start_two() -> Self {
        let mut subject = Self::start().await;
        let reads = open(&subject.dir.path().join("meta.db")).await;
        subject.store = Arc::new(Two { writes: subject.store, reads });
        subject
    }
}

#[async_trait]
impl Subject for OnSqlite {
    fn store(&self) -> &dyn Metadata {
        &*self.store
    }

    /// The holder lives on a runtime of its own, which is torn down under it: nothing renews or
    /// revokes its lease any more.
    async fn orphan(&self, key: Key, record: Record) {
        let path = self.dir.path().join("meta.db");
        let holder = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let lease = runtime.block_on(async {
                let store = open(&path).await;
                let lease = store.grant(Duration::from_secs(1)).await.expect("a lease is granted");
                let writes = vec![Write::PutLeased(key, record, lease.id())];
                store.commit(&Txn { compares: vec![], writes }).await.expect("it is put");
                lease
            });
            drop(runtime);
            drop(lease);
        };
        tokio::task::spawn_blocking(holder).await.expect("the holder does not panic");
    }
}

/// Two handles on one file, as one store.
struct Two {
    writes: Arc<dyn Metadata>,
    reads: Arc<dyn Metadata>,
}

#[async_trait]
impl Metadata for Two {
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
        self.reads.read(keys, ranges).await
    }

    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        self.writes.commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, MetaError> {
        self.reads.grant(ttl).await
    }

    async fn watch(&self, range: Range) -> Result<Watch, MetaError> {
        self.reads.watch(range).await
    }
}

mod alone {
    piculet_meta::conformance_suite!(super::OnSqlite::start());
}

mod shared {
    piculet_meta::conformance_suite!(super::OnSqlite::start_two());
}
