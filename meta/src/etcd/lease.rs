//! Leases in etcd.

use super::{CALL_TIMEOUT, EtcdStore, fault, unanswered};
use crate::error::MetaError;
use crate::keeper::{self, NotRenewed, Renew};
use crate::lease::Lease;
use async_trait::async_trait;
use etcd_client::LeaseClient;
use piculet_quorum::meta::LeaseId;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Grants a lease and starts its keeper.
pub(super) async fn grant(store: &EtcdStore, ttl: Duration) -> Result<Lease, MetaError> {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
    let granted = Instant::now();
    let mut client = store.client.lease_client();
    let call = async {
        store.log_in().await?;
        client.grant(seconds, None).await
    };
    let answer = match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(fault::of_grant(&error)),
        Err(_) => return Err(MetaError::Unavailable(unanswered(CALL_TIMEOUT))),
    };
    let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(1).max(1));
    let id = LeaseId(answer.id());
    Ok(keeper::keep(EtcdLease { client, id: id.0 }, id, ttl, granted))
}

struct EtcdLease {
    client: LeaseClient,
    id: i64,
}

#[async_trait]
impl Renew for EtcdLease {
    async fn renew(&mut self) -> Result<(), NotRenewed> {
        match self.client.keep_alive(self.id).await {
            Ok(_) => Ok(()),
            Err(error) if fault::lease_not_found(&error) => Err(NotRenewed::Gone),
            Err(error) => Err(NotRenewed::Failed(fault::text(&error))),
        }
    }

    async fn revoke(&mut self) -> Result<(), MetaError> {
        match timeout(CALL_TIMEOUT, self.client.revoke(self.id)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if fault::lease_not_found(&error) => Ok(()),
            Ok(Err(error)) => Err(MetaError::Unknown(fault::text(&error))),
            Err(_) => Err(MetaError::Unknown(unanswered(CALL_TIMEOUT))),
        }
    }
}
