//! A writer's clock, its metadata requests, and the links that it holds.

use super::link;
use super::state::Shared;
use crate::pool::Pool;
use piculet_quorum::ids::{LogId, NodeId};
use piculet_quorum::wire::message::{Request, Response};
use piculet_quorum::writer::{MetaReply, MetaRequest};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The clock is looked at this often even when nothing is due.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// Runs everything of a writer that is not a call of its user. Dropping it stops all of it.
pub(super) async fn run(shared: Arc<Shared>, pool: Arc<Pool>, log: LogId) {
    let links = keep_links(Arc::clone(&shared), Arc::clone(&pool), log);
    tokio::join!(links, clock(&shared), metadata(&shared, &pool, log));
}

/// Holds a link to every node that the machine wants one to.
async fn keep_links(shared: Arc<Shared>, pool: Arc<Pool>, log: LogId) {
    let mut tasks = JoinSet::new();
    let mut linked: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        {
            let mut state = shared.lock();
            if state.is_stopped() {
                // Dropping the set ends the links, and with them the streams.
                return;
            }
            for (node, addresses) in state.writer.wanted() {
                if let Some(addresses) = addresses {
                    pool.learn_addresses(&node, &addresses);
                }
                if !linked.contains(&node) {
                    let wake = state.link(&node);
                    tasks.spawn(link::run(Arc::clone(&shared), Arc::clone(&pool), log, node.clone(), wake));
                    linked.insert(node);
                }
            }
        }
        shared.nodes.notified().await;
    }
}

/// Tells the machine the time whenever it wants to know.
async fn clock(shared: &Shared) {
    loop {
        let due = {
            let mut state = shared.lock();
            if state.is_stopped() {
                return;
            }
            state.clock_looked();
            let now = shared.now();
            state.writer.handle_timeout(now);
            shared.pump(&mut state);
            // A commit mark may be due, or a segment to be opened again.
            state.wake_links();
            state.writer.poll_timeout().map(|at| shared.instant(at))
        };
        let latest = tokio::time::Instant::now() + IDLE_TICK;
        let due = due.map_or(latest, |due| due.min(latest));
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = shared.clock.notified() => {
                // What was told may only become due a moment later: never run hot.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        }
    }
}

/// Carries out the machine's metadata requests, one at a time.
async fn metadata(shared: &Shared, pool: &Pool, log: LogId) {
    loop {
        let request = {
            let mut state = shared.lock();
            if state.is_stopped() {
                return;
            }
            state.writer.poll_meta()
        };
        let Some(request) = request else {
            tokio::select! {
                () = shared.meta.notified() => {}
                () = tokio::time::sleep(IDLE_TICK) => {}
            }
            continue;
        };
        let reply = carry_out(pool, log, request).await;
        let mut state = shared.lock();
        state.writer.handle_meta(shared.now(), reply);
        shared.pump(&mut state);
        shared.wake_all(&state);
    }
}

async fn carry_out(pool: &Pool, log: LogId, request: MetaRequest) -> MetaReply {
    let request = match request {
        MetaRequest::Nodes => Request::Nodes,
        MetaRequest::View(from) => Request::ViewLog { log, from: Some(from) },
        MetaRequest::Propose(proposal) => Request::Propose(proposal),
    };
    match pool.call(&request).await {
        Ok(Response::Nodes(nodes)) => MetaReply::Nodes(nodes),
        Ok(Response::View(Some(view))) => MetaReply::View(view),
        Ok(Response::Outcome(outcome)) => MetaReply::Outcome(outcome),
        Ok(other) => {
            tracing::warn!(
                ?other,
                "a node answered a metadata request with something else; it is asked again"
            );
            MetaReply::Failed
        }
        Err(error) => {
            tracing::warn!(%error, "a metadata request failed; it is repeated");
            MetaReply::Failed
        }
    }
}
