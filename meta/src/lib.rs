//! The metadata of Piculet: keys, records and guarded transactions, in etcd, in a sqlite file or in
//! memory.
//!
//! [`Metadata`] is the contract; [`connect`] opens a store by its URL, with [`MetaOptions`] for TLS
//! and passwords. What is kept and which transactions change it is decided in
//! [`piculet_quorum::meta`]; this crate carries it out. All stores pass one suite, `conformance`
//! (behind the feature of that name).
//!
//! | | etcd | sqlite | memory |
//! |---|---|---|---|
//! | shared by | machines | the processes of one machine | nobody |
//! | a commit survives | what etcd survives | a power cut | nothing |
//! | a lease ends when not renewed for | its ttl, in whole seconds, and about half a second | its ttl, a second at least, and half a second; by the machine's clock, which may step by less than that | never by time |
//! | a watch sees a commit | as soon as etcd tells | within 50 ms, whoever made it | at once |
//! | a watch can catch up on | what etcd has not compacted | 1024 revisions | 1024 revisions |

mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod etcd;
mod keeper;
mod keys;
mod lease;
mod memory;
mod options;
mod records;
mod sqlite;
mod url;
mod watch;

pub use error::MetaError;
pub use keys::spelt;
pub use lease::Lease;
pub use memory::MemoryStore;
pub use options::MetaOptions;
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
    /// record cannot be read, [`MetaError::Denied`] when the store and we do not accept each other,
    /// [`MetaError::Invalid`] when the store refuses the request.
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError>;

    /// Carries a transaction out, once: it is never repeated here. `Ok` is a known outcome. A
    /// transaction without effect leaves the store's revision as it is.
    ///
    /// # Errors
    /// With [`MetaError::Unknown`] it may have happened or may still happen, even later; with any
    /// other error nothing was written.
    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError>;

    /// Grants a lease, which is kept alive in the background until it is dropped or revoked. The
    /// store may lengthen `ttl`: etcd counts whole seconds and has a minimum of its own, and sqlite
    /// has one of a second. A lease that was not renewed in time is gone, also for its holder.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] when the store does not answer, [`MetaError::Denied`] when it does
    /// not accept us. A lease that it may have granted
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

/// Opens the store at `url`.
///
/// | url | store |
/// |---|---|
/// | `sqlite:PATH` | a database file on a local file system, which any number of processes of this one machine share; made when it is not there. A relative path is taken from the working directory |
/// | `etcd://host:2379,host2:2379/prefix` | an etcd cluster; the prefix is `piculet` unless given |
/// | `etcds://host:2379,host2:2379/prefix` | the same with TLS |
/// | `memory:` | a fresh, empty store in this process |
///
/// It does not wait for etcd: the first call tells whether it is there, and whether it accepts the
/// user. Connections to etcd belong to the tokio runtime that this is called in. A database file is
/// opened at once, for which this waits up to three seconds. May be dropped at any time.
///
/// # Errors
/// [`MetaError::BadUrl`] when the URL has another form, or names a file that cannot be used as a
/// database; [`MetaError::BadOption`] when an option is not one for this kind of store, or names a
/// file that cannot be used; [`MetaError::Unavailable`] when other processes keep the database
/// file busy.
pub async fn connect(url: &str, options: &MetaOptions) -> Result<Arc<dyn Metadata>, MetaError> {
    let target = url::parse(url)?;
    options.check(target.takes())?;
    match target {
        url::Target::Memory => Ok(Arc::new(MemoryStore::default())),
        url::Target::Etcd { endpoints, prefix, tls } => {
            Ok(Arc::new(etcd::EtcdStore::connect(&endpoints, &prefix, tls, options).await?))
        }
        url::Target::Sqlite { path } => Ok(Arc::new(sqlite::SqliteStore::open(url, path).await?)),
    }
}
