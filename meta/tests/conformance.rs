//! The contract of a metadata store, on every implementation, and what etcd or a shared file alone
//! can do to one.

mod etcd;
mod sqlite;

mod memory {
    use async_trait::async_trait;
    use piculet_meta::conformance::Subject;
    use piculet_meta::{MemoryStore, Metadata};
    use piculet_quorum::meta::{Key, Record, Txn, Write};
    use std::time::Duration;

    struct Memory(MemoryStore);

    #[async_trait]
    impl Subject for Memory {
        fn store(&self) -> &dyn Metadata {
            &self.0
        }

        async fn orphan(&self, key: Key, record: Record) {
            let lease = self.0.grant(Duration::from_secs(1)).await.expect("memory never fails");
            let writes = vec![Write::PutLeased(key, record, lease.id())];
            self.0.commit(&Txn { compares: vec![], writes }).await.expect("memory never fails");
            self.0.expire(lease.id());
        }
    }

    piculet_meta::conformance_suite!(async { Memory(MemoryStore::default()) });
}
