//! The suite on a real etcd, one process for each test.

mod auth;
mod faults;
mod lost;
mod process;
mod tls;

use async_trait::async_trait;
use piculet_meta::conformance::Subject;
use piculet_meta::{MetaOptions, Metadata};
use piculet_quorum::meta::{Key, Record, Txn, Write};
use process::Etcd;
use std::sync::Arc;
use std::time::Duration;

struct OnEtcd {
    store: Arc<dyn Metadata>,
    etcd: Etcd,
}

impl OnEtcd {
    async fn start() -> Self {
        let etcd = Etcd::start();
        let store = etcd.connect().await;
        Self { store, etcd }
    }
}

#[async_trait]
impl Subject for OnEtcd {
    fn store(&self) -> &dyn Metadata {
        &*self.store
    }

    /// The holder lives on a runtime of its own, which is torn down under it: nothing renews or
    /// revokes its lease any more.
    async fn orphan(&self, key: Key, record: Record) {
        let url = self.etcd.url();
        let holder = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let lease = runtime.block_on(async {
                let store =
                    piculet_meta::connect(&url, &MetaOptions::default()).await.expect("the url is fine");
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

piculet_meta::conformance_suite!(OnEtcd::start());
