//! The objects of a cluster in one store.

#[cfg(test)]
mod tests;

use crate::limits::{OBJECT_TIMEOUT, PART_OBJECT_BYTES_MAX};
use crate::names::{Names, PartName};
use crate::part::{self, EncodedPart, PART_TAIL_BYTES, Part, PartError, PartHeader};
use crate::stores::{self, S3Options, StoreError};
use bytes::Bytes;
use futures::StreamExt;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use piculet_quorum::ids::{LogId, Nonce};
use piculet_quorum::producers::Producers;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What became of a part that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was written.
    Created,
    /// The very same object was there already.
    AlreadyThere,
}

/// What a store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether it refuses to overwrite an object when it is asked to (`If-None-Match: *`).
    pub conditional_put: bool,
}

/// A part as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPart {
    /// Its name.
    pub name: PartName,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Why a call to a store failed.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object. It may have been deleted: read the part's record again.
    #[error("{object} is not in {url}")]
    NotFound {
        /// The store.
        url: String,
        /// The object.
        object: String,
    },
    /// Another object has the name. One name has one content, so this is an alarm.
    #[error(
        "{object} in {url} is not what this node would have written: {difference}; keep both the object and this node's buffer, and find out who wrote it"
    )]
    Different {
        /// The store.
        url: String,
        /// The object.
        object: String,
        /// Where they differ.
        difference: String,
    },
    /// The object is no sound part.
    #[error("{object} in {url} is not a sound part: {source}")]
    Damaged {
        /// The store.
        url: String,
        /// The object.
        object: String,
        /// What is wrong.
        source: PartError,
    },
    /// The object is a part, but not the one that its name says, or of another cluster.
    #[error("{object} in {url} holds something else: {problem}; give each cluster a prefix of its own")]
    Misplaced {
        /// The store.
        url: String,
        /// The object.
        object: String,
        /// What it holds.
        problem: String,
    },
    /// The store did not answer in time. What was asked for may have happened or may happen yet.
    #[error(
        "cannot {action} {object} in {url}: no answer within {limit:?}; check that the store is reachable"
    )]
    TimedOut {
        /// What was asked for.
        action: &'static str,
        /// The store.
        url: String,
        /// The object.
        object: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The store refused, or could not be reached.
    #[error(
        "cannot {action} {object} in {url}: {source}; check that the store is reachable, that the bucket exists and that the credentials allow this"
    )]
    Failed {
        /// What was asked for.
        action: &'static str,
        /// The store.
        url: String,
        /// The object.
        object: String,
        /// Why.
        source: Box<object_store::Error>,
    },
    /// The store does not do what a store must.
    #[error("{url} cannot be used as object store: {problem}")]
    Unfit {
        /// The store.
        url: String,
        /// What it does.
        problem: String,
    },
}

impl ObjectError {
    /// Whether the same call may succeed later. What a put has done until then does no harm.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Failed { .. })
    }

    /// Whether time ran out, that of the call or that of one request: then less might have been put.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            // A put with a condition is not repeated, so it fails when its first request does.
            Self::Failed { source, .. } => {
                let first: &(dyn std::error::Error + 'static) = &**source;
                let mut causes = std::iter::successors(Some(first), |error| error.source());
                causes.any(|error| {
                    let http = error.downcast_ref::<HttpError>();
                    http.is_some_and(|error| error.kind() == HttpErrorKind::Timeout)
                })
            }
            _ => false,
        }
    }
}

/// The objects of a cluster. Every call ends within [`OBJECT_TIMEOUT`], a listing within that for
/// each page; a call that is dropped half-way may have happened or not, which does no harm either.
#[derive(Debug)]
pub struct Objects {
    url: String,
    cluster: Nonce,
    names: Names,
    store: Arc<dyn ObjectStore>,
    conditional_put: AtomicBool,
    timeout: Duration,
}

impl Objects {
    /// Opens the store at `url`: `file:///directory`, which is created, `s3://bucket/prefix`, or
    /// `memory:`, which is empty and goes with the value. Only parts of `cluster` are accepted.
    /// Does not speak to a server yet: [`probe`](Self::probe) does.
    ///
    /// # Errors
    /// When the URL or the settings make no store.
    pub fn open(url: &str, cluster: Nonce, s3: &S3Options) -> Result<Self, StoreError> {
        let (store, prefix) = stores::open(url, s3)?;
        Ok(Self::over(store, prefix, url, cluster, OBJECT_TIMEOUT))
    }

    pub(crate) fn over(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        url: &str,
        cluster: Nonce,
        timeout: Duration,
    ) -> Self {
        let (url, names) = (url.to_owned(), Names::new(prefix));
        Self { url, cluster, names, store, conditional_put: AtomicBool::new(false), timeout }
    }

    /// The URL under which it was opened.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The cluster whose parts it accepts.
    #[must_use]
    pub fn cluster(&self) -> Nonce {
        self.cluster
    }

    /// Whether parts are put with `If-None-Match: *`: no until a probe has found that the store
    /// honours it. No safety rests on it.
    #[must_use]
    pub fn conditional_put(&self) -> bool {
        self.conditional_put.load(Ordering::Relaxed)
    }

    /// Proves that objects can be written, read and deleted, with one that is deleted again; and
    /// finds out whether the store honours `If-None-Match: *`.
    ///
    /// # Errors
    /// When a step fails, or when what was written is not what is read.
    pub async fn probe(&self) -> Result<Probe, ObjectError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|e| self.unfit(format!("no random name for a probe: {e}")))?;
        let path = self.names.probe(Nonce(u128::from_le_bytes(nonce)));
        let found = self.probe_at(&path).await;
        let deleted = self.delete_object(&path).await;
        let probe = found?;
        deleted?;
        match self.get(&path).await {
            Err(ObjectError::NotFound { .. }) => {}
            Ok(_) => return Err(self.unfit(format!("{path} is still there after it was deleted"))),
            Err(error) => return Err(error),
        }
        if !probe.conditional_put {
            tracing::warn!("{} ignores or refuses If-None-Match: parts are put without it", self.url);
        }
        self.conditional_put.store(probe.conditional_put, Ordering::Relaxed);
        Ok(probe)
    }

    /// Puts one object twice, and looks which of the two is kept.
    async fn probe_at(&self, path: &Path) -> Result<Probe, ObjectError> {
        let (first, second) =
            (Bytes::from_static(b"piculet probe 1"), Bytes::from_static(b"piculet probe 2"));
        let mut refused = false;
        match self.put(path, first.clone().into(), PutMode::Create).await {
            Ok(()) => {}
            Err(error @ ObjectError::TimedOut { .. }) => return Err(error),
            // If this is because of the condition, it works without one; else this says why not.
            Err(_) => {
                refused = true;
                self.put(path, first.clone().into(), PutMode::Overwrite).await?;
            }
        }
        if !refused {
            match self.put(path, second.clone().into(), PutMode::Create).await {
                Ok(()) => {}
                Err(error) if already_exists(&error) => refused = true,
                Err(error) => return Err(error),
            }
            let found = self.get(path).await?;
            if found == first || found == second {
                return Ok(Probe { conditional_put: refused && found == first });
            }
        } else if self.get(path).await? == first {
            return Ok(Probe { conditional_put: false });
        }
        Err(self.unfit(format!("{path} reads back as something else than was written")))
    }

    /// Puts a part, unless it is there already. A lost reply is not taken for a failure: the store
    /// is asked what is there.
    ///
    /// # Errors
    /// [`ObjectError::Different`] when another object has the name; nothing is overwritten then.
    pub async fn put_part(&self, name: &PartName, part: &EncodedPart) -> Result<Put, ObjectError> {
        let path = self.names.part(name);
        let header = part::header_of(part).map_err(|source| self.damaged(&path, source))?;
        self.check_header(&path, name, &header)?;
        let payload: PutPayload = part.pieces.iter().cloned().collect();
        let mode = if self.conditional_put() {
            PutMode::Create
        } else if self.holds(&path, part).await? {
            return Ok(Put::AlreadyThere);
        } else {
            PutMode::Overwrite
        };
        let Err(failed) = self.put(&path, payload, mode).await else { return Ok(Put::Created) };
        match self.holds(&path, part).await {
            Ok(true) => Ok(Put::AlreadyThere),
            Err(different @ ObjectError::Different { .. }) => Err(different),
            // Nothing is there, or nobody knows: as far as the caller is concerned, the put failed.
            Ok(false) | Err(_) => Err(failed),
        }
    }

    /// Reads a part and verifies all of it, and that it is the one that the name says.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] when there is none; anything that is not the part is an error.
    pub async fn get_part(&self, name: &PartName) -> Result<Part, ObjectError> {
        let path = self.names.part(name);
        let bytes = self.get(&path).await?;
        // Checksums over many megabytes: not on a thread that has other things to do.
        let decoded = tokio::task::spawn_blocking(move || part::decode(bytes)).await;
        let decoded = decoded.map_err(|e| self.failed("decode", &path, e.into()))?;
        let part = decoded.map_err(|source| self.damaged(&path, source))?;
        self.check_header(&path, name, part.header())?;
        Ok(part)
    }

    /// Reads the table of producers behind the last entry of a part, and not the rest of it; `bytes`
    /// is the object's length, as its record has it.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] when there is no such part; when its end is not sound.
    pub async fn get_producers(&self, name: &PartName, bytes: u64) -> Result<Producers, ObjectError> {
        let path = self.names.part(name);
        let get = async {
            let range = GetRange::Bounded(bytes.saturating_sub(PART_TAIL_BYTES)..bytes);
            let found =
                self.store.get_opts(&path, GetOptions { range: Some(range), ..GetOptions::default() });
            let found = found.await?;
            let size = found.meta.size;
            Ok((size, found.bytes().await?))
        };
        let (size, tail) = match self.within("get", &path, get).await {
            Err(error) if is_missing(&error) => return Err(self.not_found(&path)),
            other => other?,
        };
        if size != bytes {
            let wrong = PartError::Length { found: size, expected: format!("{bytes}, as recorded") };
            return Err(self.damaged(&path, wrong));
        }
        part::decode_producers(name, &tail, bytes).map_err(|source| self.damaged(&path, source))
    }

    /// All parts in the store, in no particular order. Objects with other names are left out, with
    /// a warning in the log.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<ListedPart>, ObjectError> {
        self.list_below(self.names.logs()).await
    }

    /// All parts of one log in the store, otherwise as [`list`](Self::list).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list_log(&self, log: LogId) -> Result<Vec<ListedPart>, ObjectError> {
        self.list_below(self.names.log(log)).await
    }

    async fn list_below(&self, root: Path) -> Result<Vec<ListedPart>, ObjectError> {
        let (mut parts, mut strangers) = (Vec::new(), 0_u64);
        let mut listing = self.store.list(Some(&root));
        loop {
            let next = async { listing.next().await.transpose() };
            let Some(object) = self.within("list", &root, next).await? else { break };
            match self.names.parse_part(&object.location) {
                Some(name) => parts.push(ListedPart { name, bytes: object.size }),
                None => strangers += 1,
            }
        }
        if strangers > 0 {
            tracing::warn!("{strangers} objects below {root} in {} are no parts and are ignored", self.url);
        }
        Ok(parts)
    }

    /// Deletes a part. One that is not there is fine.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, name: &PartName) -> Result<(), ObjectError> {
        self.delete_object(&self.names.part(name)).await
    }

    async fn delete_object(&self, path: &Path) -> Result<(), ObjectError> {
        match self.within("delete", path, self.store.delete(path)).await {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    }

    async fn put(&self, path: &Path, payload: PutPayload, mode: PutMode) -> Result<(), ObjectError> {
        let put = self.store.put_opts(path, payload, mode.into());
        self.within("put", path, put).await.map(|_| ())
    }

    /// The object at `path`, unless it is longer than any part.
    async fn get(&self, path: &Path) -> Result<Bytes, ObjectError> {
        let get = async {
            let found = self.store.get(path).await?;
            let size = found.meta.size;
            if size > PART_OBJECT_BYTES_MAX { Ok(Err(size)) } else { found.bytes().await.map(Ok) }
        };
        let found = match self.within("get", path, get).await {
            Err(error) if is_missing(&error) => return Err(self.not_found(path)),
            other => other?,
        };
        let too_long =
            |found| PartError::Length { found, expected: format!("at most {PART_OBJECT_BYTES_MAX}") };
        found.map_err(|size| self.damaged(path, too_long(size)))
    }

    /// Whether exactly this part is at `path`; another object there is an error.
    async fn holds(&self, path: &Path, part: &EncodedPart) -> Result<bool, ObjectError> {
        let different = |difference| {
            Err(ObjectError::Different { url: self.url.clone(), object: path.to_string(), difference })
        };
        let found = match self.get(path).await {
            Ok(found) => found,
            Err(ObjectError::NotFound { .. }) => return Ok(false),
            Err(ObjectError::Damaged { source, .. }) => return different(source.to_string()),
            Err(error) => return Err(error),
        };
        if found.len() as u64 != part.bytes {
            return different(format!("it has {} bytes instead of {}", found.len(), part.bytes));
        }
        let mut at = 0;
        for piece in &part.pieces {
            if found[at..at + piece.len()] != piece[..] {
                return different(format!("they differ between bytes {at} and {}", at + piece.len()));
            }
            at += piece.len();
        }
        Ok(true)
    }

    fn check_header(&self, path: &Path, name: &PartName, header: &PartHeader) -> Result<(), ObjectError> {
        let problem = if header.cluster != self.cluster {
            format!("a part of cluster {}, not of {}", header.cluster, self.cluster)
        } else if header.name() != *name {
            format!("the part {}", header.name())
        } else {
            return Ok(());
        };
        Err(ObjectError::Misplaced { url: self.url.clone(), object: path.to_string(), problem })
    }

    async fn within<T>(
        &self,
        action: &'static str,
        path: &Path,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectError> {
        let limit = self.timeout;
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(self.failed(action, path, source)),
            Err(_) => {
                let (url, object) = (self.url.clone(), path.to_string());
                Err(ObjectError::TimedOut { action, url, object, limit })
            }
        }
    }

    fn not_found(&self, path: &Path) -> ObjectError {
        ObjectError::NotFound { url: self.url.clone(), object: path.to_string() }
    }

    fn failed(&self, action: &'static str, path: &Path, source: object_store::Error) -> ObjectError {
        let (url, object) = (self.url.clone(), path.to_string());
        ObjectError::Failed { action, url, object, source: Box::new(source) }
    }

    fn damaged(&self, path: &Path, source: PartError) -> ObjectError {
        ObjectError::Damaged { url: self.url.clone(), object: path.to_string(), source }
    }

    fn unfit(&self, problem: String) -> ObjectError {
        ObjectError::Unfit { url: self.url.clone(), problem }
    }
}

fn already_exists(error: &ObjectError) -> bool {
    let ObjectError::Failed { source, .. } = error else { return false };
    matches!(**source, object_store::Error::AlreadyExists { .. })
}

fn is_missing(error: &ObjectError) -> bool {
    let ObjectError::Failed { source, .. } = error else { return false };
    matches!(**source, object_store::Error::NotFound { .. })
}
