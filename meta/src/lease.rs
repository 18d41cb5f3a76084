//! A lease, as its holder sees it.

use crate::error::MetaError;
use crate::memory::MemoryStore;
use piculet_quorum::meta::LeaseId;
use tokio::sync::{oneshot, watch};

/// Where the answer to a revocation goes.
pub(crate) type Revoked = oneshot::Sender<Result<(), MetaError>>;

/// How a lease is ended.
#[derive(Debug)]
pub(crate) enum Ender {
    /// By the store in this process.
    Memory(MemoryStore),
    /// By the task that keeps it alive. When this is dropped, the task revokes the lease.
    Task(oneshot::Sender<Revoked>),
}

/// A lease that is kept alive in the background. Dropping it stops that and revokes the lease, as
/// well as possible, in the background.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    lost: watch::Receiver<bool>,
    ender: Option<Ender>,
}

impl Lease {
    pub(crate) fn new(id: LeaseId, lost: watch::Receiver<bool>, ender: Ender) -> Self {
        Self { id, lost, ender: Some(ender) }
    }

    /// What records are put under it with.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Resolves when the lease is gone, or could not be renewed for its whole ttl and so may be
    /// gone: the records under it are no longer the holder's to rely on. Cancel-safe.
    pub async fn lost(&self) {
        // An error says that nobody renews it any more: it is lost as well.
        if self.lost.clone().wait_for(|lost| *lost).await.is_err() {
            tracing::debug!(lease = %format_args!("{:x}", self.id.0), "lease has no keeper any more");
        }
    }

    /// Ends the lease: every record under it is deleted. One that is gone already is a success.
    ///
    /// # Errors
    /// [`MetaError::Unknown`] when the store does not answer. The lease is no longer renewed and
    /// ends by itself within its ttl.
    pub async fn revoke(mut self) -> Result<(), MetaError> {
        let unanswered = || MetaError::Unknown("the keeper of the lease has ended".to_owned());
        match self.ender.take().expect("only this and drop take it, and both are last") {
            Ender::Memory(store) => {
                store.expire(self.id);
                Ok(())
            }
            Ender::Task(task) => {
                let (reply, answer) = oneshot::channel();
                task.send(reply).map_err(|_| unanswered())?;
                answer.await.map_err(|_| unanswered())?
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Ender::Memory(store)) = self.ender.take() {
            store.expire(self.id);
        }
    }
}
