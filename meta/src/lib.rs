//! The metadata of Piculet: keys, records and guarded transactions, in etcd or in memory.
//!
//! [`Metadata`] is the contract; [`connect`] opens a store by its URL. What is kept and which
//! transactions change it is decided in [`piculet_quorum::meta`]; this crate carries it out. Both
//! stores pass one suite, `conformance` (behind the feature of that name).

mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod etcd;
mod keys;
mod lease;
mod memory;
mod records;
mod url;
mod watch;

pub use error::MetaError;
pub use lease::Lease;
pub use memory::MemoryStore;
pub use watch::{Watch, WatchEvent};

use async_trait::async_trait;
use piculet_quorum::meta::{Key, Range, Snapshot, Txn, TxnOutcome};
use std::sync::Arc;
use std::time::Duration;

/// A metadata store. Every call ends within a few seconds, whatever becomes of the store.
///
/// Dropping the future of a [`commit`](Self::commit) leaves its outcome unknown; the other calls
/// may be dropped at any time.
#[async_trait]
pub trait Metadata: Send + Sync + 'static {
    /// Reads keys and ranges, all at one moment that is not before the call (linearizable). What
    /// is absent is simply not in the snapshot; keys of a form that this version does not know are
    /// left out.
    ///
    /// Transient faults are retried for up to three seconds without an answer.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] when the store does not answer, [`MetaError::Corrupt`] when a
    /// record cannot be read, [`MetaError::Invalid`] when the store refuses the request.
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError>;

    /// Carries a transaction out, once: it is never repeated here. `Ok` is a known outcome. A
    /// transaction without effect leaves the store's revision as it is.
    ///
    /// # Errors
    /// With [`MetaError::Unknown`] it may have happened or may still happen, even later; with any
    /// other error nothing was written.
    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError>;

    /// Grants a lease, which is kept alive in the background until it is dropped or revoked. The
    /// store may lengthen `ttl`: etcd counts whole seconds and has a minimum of its own.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] when the store does not answer. A lease that it may have granted
    /// all the same holds no key and ends by itself.
    async fn grant(&self, ttl: Duration) -> Result<Lease, MetaError>;

    /// Follows a range; a count in it is ignored. The first event is always
    /// [`WatchEvent::Reset`]. The watch never ends while the store lives: after a lost connection,
    /// a compacted revision or a restarted store it reconnects by itself and starts over with a
    /// `Reset` whenever it cannot prove that it missed nothing. A record that cannot be read holds
    /// it up, with a warning in the log, until the record is repaired: nothing is passed over.
    ///
    /// # Errors
    /// As [`read`](Self::read), for the first snapshot.
    async fn watch(&self, range: Range) -> Result<Watch, MetaError>;
}

/// Opens the store at `url`: `etcd://host:2379,host2:2379/prefix` (prefix `piculet` unless given)
/// or `memory:` (a fresh, empty store in this process).
///
/// It does not wait for etcd: the first call tells whether it is there. Connections belong to the
/// tokio runtime that this is called in.
///
/// # Errors
/// [`MetaError::BadUrl`] when the URL has another form.
pub async fn connect(url: &str) -> Result<Arc<dyn Metadata>, MetaError> {
    match url::parse(url)? {
        url::Target::Memory => Ok(Arc::new(MemoryStore::default())),
        url::Target::Etcd { endpoints, prefix } => {
            Ok(Arc::new(etcd::EtcdStore::connect(&endpoints, &prefix).await?))
        }
    }
}
