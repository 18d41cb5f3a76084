//! What became of the entries that a replaced writer left behind, read from the metadata.

use super::state::Shared;
use crate::pool::{CallError, Pool};
use piculet_quorum::ids::{LogId, SegmentNumber};
use piculet_quorum::wire::message::{Refusal, Request, Response};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// First and longest pause between two looks at the metadata.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Waits until the writer has stopped; then looks at the metadata until they tell what became of
/// every entry, for at most `patience`.
pub(super) async fn run(shared: &Shared, pool: &Pool, log: LogId, patience: Duration) {
    shared.ended().await;
    let deadline = Instant::now() + patience;
    let mut pause = LOOK.0;
    while let Some(segment) = shared.unresolved() {
        let why = look(shared, pool, log, segment).await;
        if Instant::now() >= deadline {
            shared.give_up(format!("{why}, and {patience:?} have passed"));
        } else if shared.unresolved().is_some() {
            tracing::debug!(%segment, %why, "what became of the last entries is not known yet");
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }
}

/// Looks once. Returns why more may be left to know.
async fn look(shared: &Shared, pool: &Pool, log: LogId, segment: SegmentNumber) -> String {
    match pool.call(&Request::ViewLog { log, from: Some(segment) }).await {
        Ok(Response::View(view)) => {
            shared.learn(view.as_deref());
            format!("the end of segment {segment} is not settled")
        }
        Err(CallError::Refused(why @ Refusal::Deleted)) => {
            shared.learn(None);
            why.to_string()
        }
        Ok(_) => "a node answered ViewLog with something else".to_owned(),
        Err(error) => error.to_string(),
    }
}
