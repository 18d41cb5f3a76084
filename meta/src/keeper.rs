//! The task that keeps a lease alive, for the stores in which a lease ends by time.

use crate::error::MetaError;
use crate::lease::{Ender, Lease, Revoked};
use async_trait::async_trait;
use piculet_quorum::meta::LeaseId;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// A lease is renewed this many times in its ttl.
const RENEWALS: u32 = 3;
/// Wait after a renewal that failed.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// What a renewal came to, when not to a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotRenewed {
    /// There is no such lease any more.
    Gone,
    /// It may still be there.
    Failed(String),
}

/// A lease at its store.
#[async_trait]
pub(crate) trait Renew: Send + 'static {
    /// Makes it last for a ttl from now on. May be dropped at any time.
    async fn renew(&mut self) -> Result<(), NotRenewed>;

    /// Ends it; one that is gone already is a success. Bounded in time.
    async fn revoke(&mut self) -> Result<(), MetaError>;
}

/// Keeps a lease that lasts for `ttl` from `granted` on.
pub(crate) fn keep(lease: impl Renew, id: LeaseId, ttl: Duration, granted: Instant) -> Lease {
    let (lost_sender, lost) = watch::channel(false);
    let (end_sender, end) = oneshot::channel();
    let keeper = Keeper { lease, id, ttl, renewed: granted, down: false };
    // The task ends with the lease: when that is dropped or revoked, after one more bounded call.
    tokio::spawn(keeper.run(lost_sender, end));
    Lease::new(id, lost, Ender::Task(end_sender))
}

struct Keeper<R> {
    lease: R,
    id: LeaseId,
    ttl: Duration,
    /// When the last successful renewal was sent: the lease lives at least for a ttl from then.
    renewed: Instant,
    /// Whether renewals fail at present.
    down: bool,
}

impl<R: Renew> Keeper<R> {
    async fn run(mut self, lost: watch::Sender<bool>, mut end: oneshot::Receiver<Revoked>) {
        let reply = tokio::select! {
            reply = &mut end => reply,
            () = self.renew_until_lost() => {
                lost.send_replace(true);
                end.await
            }
        };
        let outcome = self.lease.revoke().await;
        match reply {
            // Nobody is told when the caller of the revocation has gone away.
            Ok(reply) => drop(reply.send(outcome)),
            Err(_) => {
                if let Err(error) = outcome {
                    let lease = format_args!("{:x}", self.id.0);
                    tracing::debug!(%lease, %error, "dropped lease not revoked, it ends by itself");
                }
            }
        }
    }

    /// Renews until the lease is gone or may be.
    async fn renew_until_lost(&mut self) {
        let mut next = self.renewed + self.ttl / RENEWALS;
        loop {
            let deadline = self.renewed + self.ttl;
            sleep_until(next.min(deadline)).await;
            let sent = Instant::now();
            if sent >= deadline {
                return;
            }
            let attempt = deadline.min(sent + self.ttl / RENEWALS);
            let why = match timeout_at(attempt, self.lease.renew()).await {
                Ok(Ok(())) => {
                    self.recovered();
                    self.renewed = sent;
                    next = sent + self.ttl / RENEWALS;
                    continue;
                }
                Ok(Err(NotRenewed::Gone)) => return,
                Ok(Err(NotRenewed::Failed(why))) => why,
                Err(_) => "the store did not answer".to_owned(),
            };
            self.failed(&why);
            next = Instant::now() + RETRY_WAIT;
        }
    }

    fn failed(&mut self, error: &str) {
        if !std::mem::replace(&mut self.down, true) {
            let lease = format_args!("{:x}", self.id.0);
            tracing::warn!(%lease, ttl = ?self.ttl, error, "lease not renewed, trying again until its ttl is over");
        }
    }

    fn recovered(&mut self) {
        if std::mem::replace(&mut self.down, false) {
            tracing::info!(lease = %format_args!("{:x}", self.id.0), "lease renewed again");
        }
    }
}
