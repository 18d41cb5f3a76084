use super::*;
use crate::conformance::{check, sample};
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutResult, Result,
};
use parking_lot::Mutex;
use piculet_quorum::ids::LogId;
use std::fmt;

const CLUSTER: Nonce = Nonce(0xc1);

/// How a bad store puts an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Overwrites even when it is told not to.
    IgnoresCondition,
    /// Fails when there is a condition.
    RefusesCondition,
    /// Says that the object exists, but has overwritten it.
    Lies,
    /// Does it, but the answer is lost.
    LosesReply,
    /// Does it, and never answers.
    Hangs,
    /// Fails, without having done it.
    Fails,
    /// A request of its runs out of time.
    IsSlow,
    /// Keeps something else than it was given.
    Garbles,
    /// Answers puts, and nothing else.
    Mute,
}

/// A store in memory that puts objects in some manner.
#[derive(Debug)]
struct Bad {
    inner: InMemory,
    manner: Mutex<Manner>,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a bad store: {:?}", self.manner)
    }
}

impl Bad {
    fn is_mute(&self) -> bool {
        *self.manner.lock() == Manner::Mute
    }
}

fn error(text: &'static str) -> object_store::Error {
    object_store::Error::Generic { store: "bad", source: text.into() }
}

#[async_trait]
impl ObjectStore for Bad {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let manner = *self.manner.lock();
        let conditional = options.mode == PutMode::Create;
        let overwrite = PutOptions { mode: PutMode::Overwrite, ..options.clone() };
        match manner {
            Manner::Honest | Manner::Mute => self.inner.put_opts(path, payload, options).await,
            Manner::IgnoresCondition => self.inner.put_opts(path, payload, overwrite).await,
            Manner::RefusesCondition if conditional => Err(object_store::Error::NotImplemented {
                operation: "If-None-Match".to_owned(),
                implementer: "bad".to_owned(),
            }),
            Manner::RefusesCondition => self.inner.put_opts(path, payload, options).await,
            Manner::Lies => {
                let done = self.inner.put_opts(path, payload.clone(), options).await;
                self.inner.put_opts(path, payload, overwrite).await?;
                done
            }
            Manner::LosesReply => {
                self.inner.put_opts(path, payload, options).await?;
                Err(error("connection reset"))
            }
            Manner::Hangs => {
                self.inner.put_opts(path, payload, options).await?;
                std::future::pending().await
            }
            Manner::Fails => Err(error("out of order")),
            Manner::IsSlow => {
                let late = HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("too late"));
                // The stores wrap it.
                let inner = object_store::Error::Generic { store: "bad", source: Box::new(late) };
                Err(object_store::Error::Generic { store: "bad", source: Box::new(inner) })
            }
            Manner::Garbles => self.inner.put_opts(path, "garbage".into(), options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is_mute() {
            return std::future::pending().await;
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.is_mute() { stream::pending().boxed() } else { self.inner.delete_stream(paths) }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.is_mute() { stream::pending().boxed() } else { self.inner.list(prefix) }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn bad(manner: Manner) -> (Arc<Bad>, Objects) {
    let store = Arc::new(Bad { inner: InMemory::new(), manner: Mutex::new(manner) });
    // Only a call that hangs can run into this: the others are complete when they are first polled.
    let objects =
        Objects::over(store.clone(), Path::from("a/prefix"), "bad:", CLUSTER, Duration::from_millis(20));
    (store, objects)
}

/// Everything in the store, under whatever name.
async fn everything(store: &Bad) -> Vec<Path> {
    store.inner.list(None).map(|object| object.unwrap().location).collect().await
}

#[tokio::test]
async fn a_store_in_memory_conforms() {
    check(&Objects::open("memory:", CLUSTER, &S3Options::default()).unwrap(), true).await;
}

#[tokio::test]
async fn a_local_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/some%20where", dir.path().display());
    let open = || Objects::open(&url, CLUSTER, &S3Options::default()).unwrap();
    check(&open(), true).await;

    let objects = open();
    let (header, part) = sample(&objects, LogId(1), 0, &[b"kept"]);
    objects.put_part(&header.name(), &part).await.unwrap();
    drop(objects);
    let part = open().get_part(&header.name()).await.expect("it is there after a restart");
    assert_eq!(part.header(), &header);
}

#[tokio::test]
async fn a_store_without_conditions_conforms_too() {
    for manner in [Manner::IgnoresCondition, Manner::RefusesCondition] {
        let (store, objects) = bad(manner);
        check(&objects, false).await;
        assert_eq!(everything(&store).await, [], "{manner:?}: nothing is left behind");
    }
}

#[tokio::test]
async fn a_probe_sees_through_a_store_that_lies() {
    let (store, objects) = bad(Manner::Lies);
    assert_eq!(objects.probe().await.unwrap(), Probe { conditional_put: false });
    assert_eq!(everything(&store).await, []);
}

#[tokio::test]
async fn a_probe_fails_when_the_store_does() {
    for (manner, text) in
        [(Manner::Fails, "out of order"), (Manner::Garbles, "something else"), (Manner::Hangs, "no answer")]
    {
        let (store, objects) = bad(manner);
        let error = objects.probe().await.unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("bad:"), "{manner:?}: {error}");
        assert!(!objects.conditional_put());
        assert_eq!(everything(&store).await, [], "{manner:?}: the probe is deleted");
    }
}

#[tokio::test]
async fn a_lost_reply_is_looked_into() {
    for conditional in [true, false] {
        let (store, objects) = bad(if conditional { Manner::Honest } else { Manner::IgnoresCondition });
        objects.probe().await.unwrap();
        for manner in [Manner::LosesReply, Manner::Hangs] {
            let text = format!("{manner:?}");
            let (header, part) = sample(&objects, LogId(1), 0, &[text.as_bytes()]);
            *store.manner.lock() = manner;
            assert_eq!(objects.put_part(&header.name(), &part).await.unwrap(), Put::AlreadyThere);
            objects.get_part(&header.name()).await.expect("it is there");
        }
        let (header, part) = sample(&objects, LogId(1), 0, &[b"never put"]);
        *store.manner.lock() = Manner::Fails;
        let error = objects.put_part(&header.name(), &part).await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("out of order"), "{error}");
        *store.manner.lock() = Manner::Garbles;
        objects.put_part(&header.name(), &part).await.expect("the store says that it was put");
        let error = objects.get_part(&header.name()).await.unwrap_err();
        assert!(matches!(error, ObjectError::Damaged { .. }), "{error}");
        *store.manner.lock() = Manner::Honest;
        let error = objects.put_part(&header.name(), &part).await.unwrap_err();
        assert!(matches!(error, ObjectError::Different { .. }) && !error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn a_put_that_ran_out_of_time_is_told_from_others_that_failed() {
    let (store, objects) = bad(Manner::Honest);
    let (header, part) = sample(&objects, LogId(1), 0, &[b"slow"]);
    *store.manner.lock() = Manner::IsSlow;
    let error = objects.put_part(&header.name(), &part).await.unwrap_err();
    assert!(matches!(error, ObjectError::Failed { .. }) && error.is_timeout(), "{error}");
    assert!(error.is_retryable());
    *store.manner.lock() = Manner::Fails;
    let error = objects.put_part(&header.name(), &part).await.unwrap_err();
    assert!(!error.is_timeout(), "{error}");
    let limit = Duration::from_secs(1);
    let (url, object) = (String::new(), String::new());
    assert!(ObjectError::TimedOut { action: "put", url, object, limit }.is_timeout());
}

#[tokio::test]
async fn parts_of_another_cluster_or_name_are_refused() {
    let (store, objects) = bad(Manner::Honest);
    let (header, part) = sample(&objects, LogId(1), 0, &[b"mine"]);
    let wrong = PartName { log: LogId(2), ..header.name() };
    let error = objects.put_part(&wrong, &part).await.unwrap_err();
    assert!(matches!(error, ObjectError::Misplaced { .. }), "{error}");
    objects.put_part(&header.name(), &part).await.unwrap();
    store.inner.copy(&objects.names.part(&header.name()), &objects.names.part(&wrong)).await.unwrap();
    let error = objects.get_part(&wrong).await.unwrap_err();
    assert!(matches!(error, ObjectError::Misplaced { .. }), "{error}");

    let theirs = Objects::over(store, Path::from("a/prefix"), "bad:", Nonce(2), OBJECT_TIMEOUT);
    let error = theirs.get_part(&header.name()).await.unwrap_err();
    assert!(matches!(error, ObjectError::Misplaced { .. }), "{error}");
}

#[tokio::test]
async fn a_listing_leaves_out_what_is_no_part() {
    let (store, objects) = bad(Manner::Honest);
    let (header, part) = sample(&objects, LogId(1), 0, &[b"mine"]);
    objects.put_part(&header.name(), &part).await.unwrap();
    for other in ["a/prefix/log/readme", "a/prefix/probe/x", "elsewhere/log/x"] {
        store.inner.put(&Path::from(other), "x".into()).await.unwrap();
    }
    let listed = objects.list().await.unwrap();
    assert_eq!(listed, [ListedPart { name: header.name(), bytes: part.bytes }]);
}

#[tokio::test]
async fn every_call_ends_though_the_store_does_not_answer() {
    let (store, objects) = bad(Manner::Honest);
    let (header, part) = sample(&objects, LogId(1), 0, &[b"mine"]);
    let name = header.name();
    objects.put_part(&name, &part).await.unwrap();
    *store.manner.lock() = Manner::Mute;
    async fn end<T: fmt::Debug>(what: &str, call: impl Future<Output = Result<T, ObjectError>>) {
        let ended = tokio::time::timeout(OBJECT_TIMEOUT, call).await;
        let error = ended.unwrap_or_else(|_| panic!("{what} does not end")).unwrap_err();
        assert!(matches!(error, ObjectError::TimedOut { .. }) && error.is_retryable(), "{what}: {error}");
    }
    end("get", objects.get_part(&name)).await;
    end("a table of producers", objects.get_producers(&name, part.bytes)).await;
    end("list", objects.list()).await;
    end("the list of a log", objects.list_log(LogId(1))).await;
    end("delete", objects.delete(&name)).await;
    end("put", objects.put_part(&name, &part)).await;
}
