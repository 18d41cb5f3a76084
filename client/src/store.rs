//! The object store of a client. Only writers of logs of durability `object` need one: they archive
//! their entries themselves.

use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use piculet_quorum::ids::LogName;
#[cfg(feature = "object")]
use {
    piculet_quorum::limits::{FLUSH_BYTES, PART_BYTES_MAX},
    piculet_storage::{Objects, S3Options},
    std::sync::Arc,
    std::time::Duration,
    tokio::sync::OnceCell,
};

/// Where the parts of logs of durability `object` go: the same store that the nodes have, or nobody
/// can read them.
#[cfg(feature = "object")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// `s3://bucket/prefix` or `file:///directory`, without credentials.
    pub url: String,
    /// How an S3 server is reached, where the usual environment (`AWS_…`) does not say so.
    pub s3: S3Options,
    /// Entries that wait go into one part, and their acknowledgement with it, up to about so many
    /// bytes: 1 B to 64 MiB. Default 8 MiB. While the store does not take so much in time (20 s for a
    /// request), parts are made smaller, down to one batch.
    pub part_bytes: u64,
    /// How long the first of them waits for others, when no upload is under way: up to 1 s. Default 0:
    /// what comes during an upload goes into the next part.
    pub linger: Duration,
}

#[cfg(feature = "object")]
impl StoreOptions {
    /// The longest time that entries may be made to wait for others.
    const LINGER_MAX: Duration = Duration::from_secs(1);

    /// The default settings for the store at this URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let (s3, linger) = (S3Options::default(), Duration::ZERO);
        Self { url: url.into(), s3, part_bytes: FLUSH_BYTES, linger }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |setting, problem| Err(Error::Setting { setting, problem });
        if !(1..=PART_BYTES_MAX).contains(&self.part_bytes) {
            let problem = format!("{} bytes; expected 1 to {PART_BYTES_MAX}", self.part_bytes);
            return refuse("store.part_bytes", problem);
        }
        if self.linger > Self::LINGER_MAX {
            let problem = format!("{:?}; expected at most {:?}", self.linger, Self::LINGER_MAX);
            return refuse("store.linger", problem);
        }
        Ok(())
    }
}

/// The way of a client to its object store, made when a log first needs it.
pub(crate) struct Store {
    #[cfg(feature = "object")]
    options: Option<StoreOptions>,
    #[cfg(feature = "object")]
    objects: OnceCell<Arc<Objects>>,
}

#[cfg(feature = "object")]
impl Store {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self { options: options.store.clone(), objects: OnceCell::new() }
    }

    /// Makes sure that objects can be written, for a log whose appends are safe only there.
    ///
    /// # Errors
    /// When no store is set, it makes none, or it cannot be written to now.
    pub(crate) async fn ready(&self, pool: &Pool, log: &LogName) -> Result<(), Error> {
        let Some(options) = &self.options else { return Err(unset(log, "set it to that of the nodes")) };
        let open = async || {
            pool.any().await?;
            let cluster = pool.cluster().ok_or_else(|| Error::NoNode("no node has answered".to_owned()))?;
            let objects = Objects::open(&options.url, cluster, &options.s3)
                .map_err(|error| Error::Setting { setting: "store", problem: error.to_string() })?;
            objects.probe().await.map_err(|error| Error::Store(error.to_string()))?;
            Ok::<_, Error>(Arc::new(objects))
        };
        self.objects.get_or_try_init(open).await?;
        Ok(())
    }

    /// The store, once it has been found ready.
    pub(crate) fn opened(&self) -> Option<(&Objects, &StoreOptions)> {
        Some((&**self.objects.get()?, self.options.as_ref()?))
    }
}

#[cfg(not(feature = "object"))]
impl Store {
    pub(crate) fn new(_: &ClientOptions) -> Self {
        Self {}
    }

    /// Refuses: this client cannot write objects.
    pub(crate) async fn ready(&self, _: &Pool, log: &LogName) -> Result<(), Error> {
        Err(unset(log, "this program was built without the feature `object` of piculet-client"))
    }
}

fn unset(log: &LogName, what: &str) -> Error {
    let problem = format!(
        "log {log} has durability object, so its writer puts entries into the object store itself, and none is set; {what}"
    );
    Error::Setting { setting: "store", problem }
}
