//! Nodes that are replaced one after the other, each with everything that it held.

use piculet_node::local::http;
use piculet_tests::{Appender, Setup, Stage, StoreKind, read_all, until, with_stage};
use std::time::Duration;

/// What one node says at `/status` of the metadata that it has seen.
async fn revision(stage: &Stage, at: usize) -> Option<u64> {
    let body = http::get(stage.cluster.nodes()[at].admin(), "/status").await.ok()?.body;
    serde_json::from_str::<serde_json::Value>(&body).ok()?["metadata_revision"].as_u64()
}

/// How many segments a node has in its care with one member less than they should have.
async fn degraded(stage: &Stage, at: usize) -> Option<u64> {
    let body = http::get(stage.cluster.nodes()[at].admin(), "/metrics").await.ok()?.body;
    body.lines().find_map(|line| line.strip_prefix("piculet_segments_degraded "))?.trim().parse().ok()
}

/// Waits as an operator does before the next node is taken down.
async fn safe_to_go_on(stage: &Stage, replaced: usize) {
    let seen = until("the node says what it has seen", async || revision(stage, replaced).await).await;
    until("no segment lacks a member", async || {
        for at in 0..3 {
            let current = revision(stage, at).await? >= seen;
            if !current || degraded(stage, at).await? > 0 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_replaced_one_after_the_other_lose_nothing_that_was_acknowledged() {
    // Nothing is due for upload by itself.
    let setup = Setup {
        flush_bytes: 8 << 20,
        flush_interval: Duration::from_secs(600),
        flush_max_interval: Duration::from_secs(600),
        store: StoreKind::Directory,
        ..Setup::default()
    };
    with_stage(setup, async |stage| {
        let (client, name) = stage.client_and_log().await;
        let mut living = Appender::new(client.open(&name).await.expect("it is opened"));
        let (dead_client, dead_name) = stage.client_and_log().await;
        let mut dead = Appender::new(dead_client.open(&dead_name).await.expect("it is opened"));
        dead.pump_more(20).await;
        dead.settle().await.expect("no append fails");
        // Its writer will send nothing again.
        let dead = dead.abandon();
        dead_client.close().await;
        for at in 0..3 {
            living.pump_more(20).await;
            living.settle().await.expect("no append fails");
            stage.kill(at);
            stage.forget(at);
            stage.restart(at).await;
            safe_to_go_on(stage, at).await;
        }
        for at in 0..3 {
            assert!(stage.log(at).contains("begins a new life"), "{}", stage.log(at));
        }
        dead.check(&read_all(&client, &dead_name).await);
        let living = living.close().await;
        living.check(&read_all(&client, &name).await);
    })
    .await;
}
