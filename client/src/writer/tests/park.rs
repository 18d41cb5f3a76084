//! An idle log is parked, and goes on when something is appended.

use super::{append_all, everything, until};
use crate::testing::{Cluster, numbered, soon};
use crate::{Client, ClientOptions, Error, LogWriter, WriterOptions};
use piculet_quorum::ids::{Epoch, LogName, Offset, SegmentNumber};
use piculet_quorum::meta::{LogRecord, SegmentState};
use piculet_quorum::time::Span;

const NODES: [&str; 3] = ["a", "b", "c"];

/// A client whose logs are parked soon.
async fn hasty(cluster: &Cluster) -> (Client, LogName) {
    let (_, name) = cluster.client_and_log().await;
    let writer = WriterOptions { idle_after: Span::millis(50), ..WriterOptions::default() };
    let options = ClientOptions { writer, ..cluster.options(&["a"]) };
    (soon(Client::connect(options)).await.unwrap(), name)
}

fn archive(cluster: &Cluster, number: u64) {
    let number = SegmentNumber(number);
    let (batches, end) = cluster.node("a").stored(number);
    cluster.shared.meta.lock().archive(number, batches, end);
    cluster.shared.changed();
}

fn record(cluster: &Cluster) -> LogRecord {
    let meta = cluster.shared.meta.lock();
    meta.record(meta.log()).value
}

async fn parked(cluster: &Cluster, writer: &LogWriter) {
    until(|| writer.status().parked).await;
    until(|| NODES.iter().all(|node| !cluster.node(node).has_writer())).await;
    let meta = cluster.shared.meta.lock();
    let record = meta.record(meta.log()).value;
    assert_eq!((record.holder.as_ref(), record.epoch), (None, writer.epoch()));
    let last = meta.segment(meta.log(), SegmentNumber(record.next_segment.0 - 1)).unwrap();
    assert!(matches!(last.record.value.state, SegmentState::Archived(_)), "{last:?}");
}

#[tokio::test]
async fn an_idle_log_costs_its_nodes_no_stream_and_goes_on_with_the_next_append() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = hasty(&cluster).await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    parked(&cluster, &writer).await;
    for round in 0..3 {
        let payloads = numbered("x", round * 4..round * 4 + 4);
        append_all(&writer, &payloads[..1]).await;
        assert!(!writer.status().parked);
        assert!(record(&cluster).holder.is_some());
        append_all(&writer, &payloads[1..]).await;
        until(|| cluster.node("a").stored(SegmentNumber(round as u64 + 1)).1.end.0 == 4).await;
        archive(&cluster, round as u64 + 1);
        parked(&cluster, &writer).await;
    }
    assert_eq!(soon(writer.close()).await.unwrap(), Offset(12));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..12));
}

#[tokio::test]
async fn many_appends_at_once_to_a_parked_log_keep_their_order() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = hasty(&cluster).await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    parked(&cluster, &writer).await;
    let appends: Vec<_> = numbered("x", 0..100).iter().map(|payload| writer.append(payload)).collect();
    for (offset, append) in (0..).zip(appends) {
        assert_eq!(soon(append).await.unwrap(), Offset(offset));
    }
    soon(writer.flush()).await.unwrap();
    assert_eq!(everything(&client, &name).await, numbered("x", 0..100));
}

#[tokio::test]
async fn what_is_appended_after_a_takeover_of_a_parked_log_was_not_appended() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = hasty(&cluster).await;
    let first = soon(client.take_over(&name)).await.unwrap();
    parked(&cluster, &first).await;
    let second = soon(cluster.client().await.take_over(&name)).await.unwrap();
    append_all(&second, &numbered("x", 0..2)).await;
    for _ in 0..2 {
        let error = soon(first.append("too late")).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
        assert!(!error.outcome_unknown());
    }
    let error = soon(first.close()).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
    assert_eq!(everything(&client, &name).await, numbered("x", 0..2));
}

#[tokio::test]
async fn lost_answers_change_nothing() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = hasty(&cluster).await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    cluster.shared.meta.lock().lose_answers = 1;
    parked(&cluster, &writer).await;
    cluster.shared.meta.lock().lose_answers = 1;
    append_all(&writer, &numbered("x", 0..3)).await;
    assert_eq!(everything(&client, &name).await, numbered("x", 0..3));
    assert_eq!(record(&cluster).next_segment, SegmentNumber(2));
}
