//! A writer's clock, its metadata requests, and the links that it holds.

use super::link::{self, Link};
use super::state::Shared;
use super::{resolve, upload};
use crate::pool::{CallError, Pool};
use crate::store::Store;
use piculet_quorum::ids::{LogId, NodeId};
use piculet_quorum::wire::message::{Refusal, Request, Response};
use piculet_quorum::writer::{MetaReply, MetaRequest};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// While anything is on its way, the clock is looked at this often even when nothing is due.
const TICK: Duration = Duration::from_millis(250);

/// Runs everything of a writer that is not a call of its user. When another has replaced it, finds
/// out what became of its last entries, for at most `patience`. Dropping it stops all of it.
pub(super) async fn run(
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    store: Arc<Store>,
    log: LogId,
    patience: Duration,
) {
    let links = keep_links(Arc::clone(&shared), Arc::clone(&pool), log);
    let resolved = resolve::run(&shared, &pool, log, patience);
    let uploads = upload::run(&shared, &pool, log, &store);
    tokio::join!(links, clock(&shared), metadata(&shared, &pool, log), uploads, resolved);
}

/// Holds a link to every node that the machine wants one to; none while the log is parked.
async fn keep_links(shared: Arc<Shared>, pool: Arc<Pool>, log: LogId) {
    let mut tasks = JoinSet::new();
    let mut linked: BTreeSet<NodeId> = BTreeSet::new();
    let mut parks = 0;
    loop {
        {
            let mut state = shared.lock();
            if state.is_stopped() {
                // Dropping the set ends the links, and with them the streams.
                return;
            }
            if state.parks() != parks {
                // The machine knows nothing of streams from before, so they go.
                (parks, tasks) = (state.parks(), JoinSet::new());
                linked.clear();
            }
            for (node, addresses) in state.writer.wanted() {
                if let Some(addresses) = addresses {
                    pool.learn_addresses(&node, &addresses);
                }
                if !linked.contains(&node) {
                    let (shared, pool) = (Arc::clone(&shared), Arc::clone(&pool));
                    let wake = state.link(&node);
                    tasks.spawn(link::run(Link { shared, pool, log, node: node.clone(), wake, parks }));
                    linked.insert(node);
                }
            }
        }
        shared.nodes.notified().await;
    }
}

/// Tells the machine the time whenever it wants to know. While nothing is on its way it sleeps until
/// something is due, for ever if nothing is.
async fn clock(shared: &Shared) {
    loop {
        let (due, rests) = {
            let mut state = shared.lock();
            if state.is_stopped() {
                return;
            }
            let now = shared.now();
            state.writer.handle_timeout(now);
            shared.pump(&mut state);
            // A commit mark may be due, or a segment to be opened again.
            state.wake_links();
            let rests = state.clock_looks();
            (state.writer.poll_timeout().map(|at| shared.instant(at)), rests)
        };
        let tick = (!rests).then(|| tokio::time::Instant::now() + TICK);
        let due = due.into_iter().chain(tick).min();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
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
            shared.meta.notified().await;
            continue;
        };
        let reply = carry_out(pool, log, request).await;
        shared.answered(reply);
    }
}

async fn carry_out(pool: &Pool, log: LogId, request: MetaRequest) -> MetaReply {
    let request = match request {
        MetaRequest::Nodes => Request::Nodes,
        MetaRequest::View(from) => Request::ViewLog { log, from: Some(from) },
        MetaRequest::Propose(proposal) => Request::Propose(proposal),
    };
    let proposes = matches!(request, Request::Propose(_));
    match pool.call(&request).await {
        Ok(Response::Nodes(nodes)) => MetaReply::Nodes(nodes),
        Ok(Response::View(Some(view))) => MetaReply::View(view),
        Ok(Response::View(None)) | Err(CallError::Refused(Refusal::Deleted)) => MetaReply::Deleted,
        Ok(Response::Outcome(outcome)) => MetaReply::Outcome(outcome),
        // A node says so of what is unsound at the very revisions that it quotes, or contradicts what the
        // node holds: the same will be said of the same again. What it cannot tell, it refuses otherwise.
        Err(CallError::Refused(why @ (Refusal::Invalid(_) | Refusal::Conflict { .. }))) if proposes => {
            MetaReply::Never(why.to_string())
        }
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
