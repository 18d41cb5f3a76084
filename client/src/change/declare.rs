//! An operator's word that a node will never come back with what it held.

use crate::error::Error;
use crate::pool::{Pool, nonce};
use piculet_quorum::ids::{Incarnation, Level, NodeId};
use piculet_quorum::meta::declare::DeclareLost;
use piculet_quorum::meta::{TxnOutcome, Versioned};
use piculet_quorum::wire::message::Proposal;
use tokio::time::Instant;

/// Ends the life of a node's buffer. Returns the one that is current now.
///
/// # Errors
/// As [`Client::declare_lost`](crate::Client::declare_lost).
pub(crate) async fn declare_lost(
    pool: &Pool,
    node: &NodeId,
    level: Level,
    force: bool,
    deadline: Instant,
) -> Result<Incarnation, Error> {
    let mut ended = None;
    loop {
        let nodes = pool.nodes().await?;
        let Some(view) = nodes.get(node) else {
            return Err(Error::Refused(format!(
                "there is no node named {node}; `piculet status` lists them"
            )));
        };
        if view.running.is_some() && !force {
            return Err(Error::Refused(format!(
                "node {node} is registered, so it may well be alive, with all that it holds; nothing was changed: \
                 wait until it is not registered any more, or force it"
            )));
        }
        let Some((value, revision)) = view.lives.get(&level).copied() else {
            return Err(Error::Refused(format!("node {node} has never had a buffer of level {level}")));
        };
        // Of the life that was meant: should another have begun meanwhile, this one has ended as well.
        if let Some(ended) = ended.filter(|ended| value > *ended) {
            tracing::debug!(%node, %ended, current = %value, "the life has ended");
            return Ok(value);
        }
        ended = Some(value);
        let read = Versioned { revision, value };
        let declare = DeclareLost { node: node.clone(), level, read, nonce: nonce()?, force };
        let made = declare.record().incarnation;
        if let TxnOutcome::Applied(_) = pool.settle(Proposal::DeclareLost(declare), deadline).await? {
            return Ok(made);
        }
        if Instant::now() >= deadline {
            return Err(Error::Unknown(format!("the record of node {node} keeps changing")));
        }
    }
}
