//! What clusters share: one etcd and one S3 server for a whole test program.

use piculet_node::local::{Etcd, S3Server, ScratchDir};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Mutex;

/// The services of this program, once a test has asked for them.
static SHARED: Mutex<Option<Arc<Services>>> = Mutex::const_new(None);

/// An etcd and an S3 server. Dropping the value stops them and removes their data.
#[derive(Debug)]
pub struct Services {
    etcd: Etcd,
    s3: S3Server,
    // Behind the processes that work in it.
    _dir: ScratchDir,
}

impl Services {
    /// The services that the tests of this program share: started by the first that asks, stopped
    /// when the program ends.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(services) = &*shared {
            return Arc::clone(services);
        }
        let dir = ScratchDir::create(&std::env::temp_dir()).expect("a directory");
        let (etcd, s3) = tokio::join!(Etcd::start(dir.path()), S3Server::start(dir.path()));
        let services = Arc::new(Self {
            etcd: etcd.expect("etcd starts"),
            s3: s3.expect("the S3 server starts"),
            _dir: dir,
        });
        // SAFETY: the handler is a plain function that lives as long as the program; it only takes
        // a lock if that is free, and drops what is under it.
        let registered = unsafe { libc::atexit(stop_shared) };
        assert_eq!(registered, 0, "the services can be stopped at the end");
        *shared = Some(Arc::clone(&services));
        services
    }

    /// A metadata URL that nobody else uses.
    #[must_use]
    pub fn metadata(&self) -> String {
        format!("{}/{}", self.etcd.url(), fresh())
    }

    /// The S3 server.
    #[must_use]
    pub fn s3(&self) -> &S3Server {
        &self.s3
    }
}

/// A name that this program has not used yet.
pub(crate) fn fresh() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("cluster-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

extern "C" fn stop_shared() {
    // A test that still runs has the lock or a share: then the kernel ends the processes.
    if let Ok(mut shared) = SHARED.try_lock() {
        drop(shared.take());
    }
}
