//! Nodes that are gone for good, with what they held.

use crate::takeover::{abandoned, late_archive};
use piculet_client::{Client, Item, ReadOptions, Start};
use piculet_quorum::ids::LogName;
use piculet_quorum::meta::SegmentState;
use piculet_tests::{Ran, Setup, Stage, bounded, command, payload, run_piculet, until, with_stage};
use serde_json::Value;

/// Runs a command against the cluster.
async fn piculet(stage: &Stage, args: &[&str], input: &[u8]) -> Ran {
    let mut piculet = command(args);
    piculet.env("PICULET_NODES", stage.addresses().join(",")).env("PICULET_CERTS", stage.cluster.certs());
    run_piculet(piculet, input).await
}

/// Two of the three nodes are destroyed, and nobody but an operator can know.
async fn destroyed(stage: &mut Stage) {
    stage.kill(0);
    stage.kill(1);
    piculet(stage, &["declare-lost", "node-1"], b"").await.failed(1, &["node-1", "registered"]);
    for node in ["node-1", "node-2"] {
        until("the node is not registered any more", async || {
            let ran = piculet(stage, &["declare-lost", node], b"").await;
            (ran.code == Some(0)).then_some(())
        })
        .await;
    }
}

async fn described(stage: &Stage, name: &LogName) -> Value {
    let ran = piculet(stage, &["log", "describe", name.as_str(), "--output", "json"], b"").await;
    serde_json::from_str(&ran.ok()).expect("it is JSON")
}

/// Reads everything: what comes before the loss must be what was appended. Returns where it begins.
async fn check_until_loss(client: &Client, name: &LogName) -> u64 {
    let mut reader = client.read(name, Start::Earliest, ReadOptions::default()).await.expect("it is there");
    let (mut entries, mut loss) = (Vec::new(), None);
    while let Some(item) = bounded("it is read", reader.next_item()).await {
        match item.expect("it can be read") {
            Item::Entry(entry) => entries.push(entry),
            Item::LossPossible { from, to } => {
                assert_eq!((from, loss), (to, None), "it is told once");
                loss = Some(from);
            }
            gap => panic!("{gap:?}"),
        }
    }
    let loss = loss.expect("the loss is told");
    let left = entries.iter().position(|entry| entry.offset >= loss).unwrap_or(entries.len());
    assert_eq!(left as u64, loss.0, "nothing below it is missing");
    for (n, entry) in (0..).zip(&entries[..left]) {
        assert_eq!(entry.payload, payload(1, n, 100), "entry {n} has another content");
    }
    loss.0
}

#[tokio::test]
async fn a_log_that_lost_two_of_three_nodes_waits_and_goes_on_where_that_is_allowed() {
    let provokes =
        vec!["a log cannot go on, and its writer has gone", "too many members have forgotten a segment"];
    with_stage(Setup { provokes, ..late_archive() }, async |stage| {
        let (client, name, _) = abandoned(stage).await;
        drop(client);
        destroyed(stage).await;
        let append = ["append", name.as_str()];
        let refused = piculet(stage, &append, b"after").await;
        refused.failed(10, &["node-1", "node-2", "--allow-loss"]);
        let before = described(stage, &name).await;
        let (first, allow) = (&before["segments"][0], &before["allow_loss"]);
        assert_eq!((allow, &first["state"], &first["loss"]), (&false.into(), &"open".into(), &Value::Null));
        let current: Vec<_> = (0..3).map(|at| first["members"][at]["current"].as_bool()).collect();
        assert_eq!(current.iter().filter(|current| **current == Some(true)).count(), 1, "{before}");

        // The node that is left seals it by itself, once it may.
        piculet(stage, &["log", "set", name.as_str(), "--allow-loss", "true"], b"").await.ok();
        let client = stage.client().await;
        let log = until("the segment is sealed", async || {
            let log = client.describe_log(&name).await.ok()?;
            let state = &log.view.segments.values().next()?.record.value.state;
            (*state != SegmentState::Open).then_some(log)
        })
        .await;
        let record = &log.view.segments.values().next().expect("it has one").record.value;
        let loss = record.loss.expect("the loss is recorded");
        assert!(loss.acknowledged && Some(loss.from) == record.kept());
        stage.archived(&client, &name).await;
        drop(client);

        // A node that comes back all the same is reborn, and serves new segments.
        stage.restart(1).await;
        let ran = piculet(stage, &append, b"after").await;
        ran.ok();
        let client = stage.client().await;
        let from = check_until_loss(&client, &name).await;
        let read = piculet(stage, &["read", name.as_str(), "--output", "json"], b"").await;
        read.failed(10, &[&format!("from offset {from} on")]);
        let out = String::from_utf8_lossy(&read.out).into_owned();
        let marker = format!(r#"{{"loss_possible":{{"from":{from},"to":{from}}}}}"#);
        assert!(out.lines().any(|line| line == marker), "no line says so: {out}");
        assert!(out.contains(r#""payload":"after""#), "what came behind was not read: {out}");
        let shown = described(stage, &name).await;
        assert_eq!(shown["segments"][0]["loss"]["from"], from, "{shown}");
        stage.restart(0).await;
    })
    .await;
}
