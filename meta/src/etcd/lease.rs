//! Leases in etcd, and the task that keeps one alive.

use super::{CALL_TIMEOUT, fault};
use crate::error::MetaError;
use crate::lease::{Ender, Lease, Revoked};
use etcd_client::LeaseClient;
use piculet_quorum::meta::LeaseId;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// A lease is renewed this many times in its ttl.
const RENEWALS: u32 = 3;
/// Wait after a renewal that failed.
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// Grants a lease and starts its keeper.
pub(super) async fn grant(mut client: LeaseClient, ttl: Duration) -> Result<Lease, MetaError> {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
    let granted = Instant::now();
    let answer = match timeout(CALL_TIMEOUT, client.grant(seconds, None)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(MetaError::Unavailable(fault::text(&error))),
        Err(_) => {
            return Err(MetaError::Unavailable(format!("etcd did not answer within {CALL_TIMEOUT:?}")));
        }
    };
    let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(1).max(1));
    let (lost_sender, lost) = watch::channel(false);
    let (end_sender, end) = oneshot::channel();
    let keeper = Keeper { client, id: answer.id(), ttl, renewed: granted, down: false };
    // The task ends with the lease: when that is dropped or revoked, after one more bounded call.
    tokio::spawn(keeper.run(lost_sender, end));
    Ok(Lease::new(LeaseId(answer.id()), lost, Ender::Task(end_sender)))
}

struct Keeper {
    client: LeaseClient,
    id: i64,
    ttl: Duration,
    /// When the last successful renewal was sent: the lease lives at least for a ttl from then.
    renewed: Instant,
    /// Whether renewals fail at present.
    down: bool,
}

impl Keeper {
    async fn run(mut self, lost: watch::Sender<bool>, mut end: oneshot::Receiver<Revoked>) {
        let reply = tokio::select! {
            reply = &mut end => reply,
            () = self.renew_until_lost() => {
                lost.send_replace(true);
                end.await
            }
        };
        let outcome = self.revoke().await;
        match reply {
            // Nobody is told when the caller of the revocation has gone away.
            Ok(reply) => drop(reply.send(outcome)),
            Err(_) => {
                if let Err(error) = outcome {
                    let lease = format_args!("{:x}", self.id);
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
            let why = match timeout_at(attempt, self.client.keep_alive(self.id)).await {
                Ok(Ok(_)) => {
                    self.recovered();
                    self.renewed = sent;
                    next = sent + self.ttl / RENEWALS;
                    continue;
                }
                Ok(Err(error)) if fault::lease_not_found(&error) => return,
                Ok(Err(error)) => fault::text(&error),
                Err(_) => "etcd did not answer".to_owned(),
            };
            self.failed(&why);
            next = Instant::now() + RETRY_WAIT;
        }
    }

    fn failed(&mut self, error: &str) {
        if !std::mem::replace(&mut self.down, true) {
            let lease = format_args!("{:x}", self.id);
            tracing::warn!(%lease, ttl = ?self.ttl, error, "lease not renewed, trying again until its ttl is over");
        }
    }

    fn recovered(&mut self) {
        if std::mem::replace(&mut self.down, false) {
            tracing::info!(lease = %format_args!("{:x}", self.id), "lease renewed again");
        }
    }

    async fn revoke(&mut self) -> Result<(), MetaError> {
        match timeout(CALL_TIMEOUT, self.client.revoke(self.id)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if fault::lease_not_found(&error) => Ok(()),
            Ok(Err(error)) => Err(MetaError::Unknown(fault::text(&error))),
            Err(_) => Err(MetaError::Unknown(format!("etcd did not answer within {CALL_TIMEOUT:?}"))),
        }
    }
}
