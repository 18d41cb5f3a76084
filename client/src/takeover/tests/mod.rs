//! Takeovers of real segments on nodes in this process.

mod loss;
mod open;
mod recover;

use super::{Takeover, take_over};
use crate::pool::Pool;
use crate::store::Store;
use crate::testing::{Cluster, Faults, Node, PATIENCE, log_name, node_id, numbered, read_all, soon};
use crate::{Client, ClientOptions, Error, LogWriter, ReadOptions, Start};
use piculet_quorum::ids::{Epoch, Index, LogName, Offset, SegmentNumber};
use piculet_quorum::meta::SegmentState;
use std::time::Duration;

/// The bound of a takeover that cannot succeed.
const BRIEF: Duration = Duration::from_millis(1500);

/// A client of its own name.
async fn named(cluster: &Cluster, name: &str, edit: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = ClientOptions { name: name.to_owned(), ..cluster.options(&["a"]) };
    edit(&mut options);
    soon(Client::connect(options)).await.unwrap()
}

/// Waits until every node has a stream of the log's writer, or none has.
async fn writer_is_there(cluster: &Cluster, nodes: &[&str], there: bool) {
    soon(async {
        while nodes.iter().any(|node| cluster.node(node).has_writer() != there) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn append(writer: &LogWriter, payloads: &[String]) {
    for payload in payloads {
        soon(writer.append(payload)).await.unwrap();
    }
}

async fn everything(client: &Client, name: &LogName) -> Vec<String> {
    let mut reader = soon(client.read(name, Start::Earliest, ReadOptions::default())).await.unwrap();
    let (payloads, error) = read_all(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    payloads
}

fn state(cluster: &Cluster, number: u64) -> SegmentState {
    let meta = cluster.shared.meta.lock();
    meta.segment(meta.log(), SegmentNumber(number)).unwrap().record.value.state
}

fn held(node: &Node) -> Index {
    node.stored(SegmentNumber(0)).1.end
}

/// Waits until each of these nodes holds everything below an index of the first segment.
async fn until_held(cluster: &Cluster, nodes: &[&str], end: u64) {
    soon(async {
        while nodes.iter().any(|node| held(cluster.node(node)) < Index(end)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_log_is_taken_over_and_again() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let first = soon(client.take_over(&name)).await.unwrap();
    assert_eq!(first.epoch(), Epoch(1));
    append(&first, &numbered("x", 0..5)).await;
    let second = soon(client.take_over(&name)).await.unwrap();
    assert_eq!(second.epoch(), Epoch(2));
    let error = soon(first.append("too late")).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
    assert_eq!(soon(second.append("x5")).await.unwrap(), Offset(5));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..6));
    let missing = soon(client.take_over(&log_name("other"))).await.map(|_| ()).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing}");
}

#[tokio::test]
async fn an_append_and_a_flush_that_wait_for_the_same_entry_both_complete() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    for n in 0..50 {
        let append = writer.append(&n.to_string());
        let (flush, other) = (writer.flush(), writer.flush());
        let (offset, ..) = soon(async { tokio::try_join!(append, flush, other) }).await.unwrap();
        assert_eq!(offset, Offset(n));
    }
}

#[tokio::test]
async fn lost_answers_and_lost_requests_change_nothing() {
    for (answers, requests) in [(1, 0), (0, 1), (2, 2), (3, 1)] {
        let cluster = Cluster::start(&["a", "b", "c"]);
        let (client, name) = cluster.client_and_log().await;
        append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 0..3)).await;
        {
            let mut meta = cluster.shared.meta.lock();
            (meta.lose_answers, meta.lose_requests) = (answers, requests);
        }
        let options = cluster.options(&["b"]);
        let other = soon(Client::connect(options)).await.unwrap();
        let writer = soon(other.take_over(&name)).await.unwrap();
        assert_eq!(writer.epoch(), Epoch(2), "one takeover, however often it was sent");
        assert_eq!(soon(writer.append("x3")).await.unwrap(), Offset(3));
        assert_eq!(everything(&other, &name).await, numbered("x", 0..4));
    }
}

#[tokio::test]
async fn what_too_few_hold_is_copied() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    // From now on only one of them stores anything, so nothing more is acknowledged.
    for forgetful in ["a", "b"] {
        cluster.node(forgetful).set_faults(Faults { forgetful: true, ..Faults::default() });
    }
    let appends: Vec<_> = numbered("x", 3..40).into_iter().map(|payload| writer.append(&payload)).collect();
    until_held(&cluster, &["c"], 40).await;
    for node in ["a", "b"] {
        assert!(held(cluster.node(node)) < Index(40));
    }
    drop((appends, writer));
    // Their repairs they store.
    for healed in ["a", "b"] {
        cluster.node(healed).set_faults(Faults::default());
    }
    let taken = take(&cluster, &name, PATIENCE).await.unwrap();
    assert!(taken.segment.value.base >= Offset(40), "{:?}", taken.segment);
    let SegmentState::Sealed(seal) = state(&cluster, taken.number.0 - 1) else { panic!("it is sealed") };
    assert!(seal.settled && seal.holders.len() >= 2, "{seal:?}");
    assert!(["a", "b"].iter().any(|node| held(cluster.node(node)) == Index(40)), "it was copied");
    assert_eq!(everything(&client, &name).await, numbered("x", 0..40));
}

/// A takeover from a client of its own.
async fn take(cluster: &Cluster, name: &LogName, takeover_timeout: Duration) -> Result<super::Taken, Error> {
    let options = ClientOptions { takeover_timeout, ..cluster.options(&["a"]) };
    let pool = Pool::new(&options).unwrap();
    soon(take_over(&pool, &Store::new(&options), &options, name)).await
}

#[tokio::test]
async fn a_takeover_without_a_fence_quorum_names_who_is_silent() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 0..3)).await;
    for mute in ["b", "c"] {
        cluster.node(mute).set_faults(Faults { mute: true, ..Faults::default() });
    }
    let error = take(&cluster, &name, BRIEF).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::TakeOver(_)) && error.is_retryable(), "{message}");
    assert!(message.contains("b, c"), "{message}");
    // One of them comes back: that is enough.
    cluster.node("c").set_faults(Faults::default());
    take(&cluster, &name, PATIENCE).await.unwrap();
    assert_eq!(everything(&client, &name).await, numbered("x", 0..3));
}

#[tokio::test]
async fn lost_buffers_are_said_plainly() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 0..3)).await;
    for lost in ["b", "c"] {
        cluster.shared.meta.lock().move_incarnation(&node_id(lost));
    }
    let error = take(&cluster, &name, BRIEF).await.unwrap_err();
    let Error::Lost { nodes, .. } = &error else { panic!("{error}") };
    assert_eq!(nodes, &["b", "c"].map(node_id), "{error}");
    assert_eq!(state(&cluster, 0), SegmentState::Open, "nothing was changed");
}

#[tokio::test]
async fn one_node_is_not_enough_for_a_segment() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (_, name) = cluster.client_and_log().await;
    cluster.node("b").stop();
    cluster.node("c").stop();
    let error = take(&cluster, &name, BRIEF).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::TakeOver(_)), "{message}");
    assert!(message.contains("only a is there"), "{message}");
}

#[tokio::test]
async fn takeovers_at_the_same_time_leave_one_writer() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 0..3)).await;
    let results = soon(futures::future::join_all((0..3).map(|_| client.take_over(&name)))).await;
    let writers: Vec<LogWriter> = results.into_iter().filter_map(Result::ok).collect();
    // Whoever won, the next one alone is the writer.
    let last = soon(client.take_over(&name)).await.unwrap();
    assert_eq!(soon(last.append("x3")).await.unwrap(), Offset(3));
    for other in writers {
        assert!(other.epoch() < last.epoch());
        let error = soon(other.append("no")).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. } | Error::Refused(_)), "{error}");
    }
    assert_eq!(everything(&client, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn who_was_taken_over_publishes_nothing_under_the_record_of_another() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 0..3)).await;
    let options = cluster.options(&["a"]);
    let (pool, store) = (Pool::new(&options).unwrap(), Store::new(&options));
    let takeover = soon(Takeover::find(&pool, &store, &options, &name)).await.unwrap();
    let first = soon(takeover.claim()).await.unwrap();
    let second = soon(takeover.claim()).await.unwrap();
    assert_eq!((first.epoch, second.epoch), (Epoch(2), Epoch(3)));
    let records = || {
        let record = cluster.shared.meta.lock().record(takeover.log);
        (record, state(&cluster, 0))
    };
    let before = records();
    let taken = soon(takeover.take(&first)).await.map(drop);
    for error in [taken.unwrap_err(), soon(takeover.seal(&first)).await.unwrap_err()] {
        assert!(matches!(error, Error::TakeOver(_)), "{error}");
        assert!(error.to_string().contains("took it over meanwhile, in epoch 3"), "{error}");
    }
    assert_eq!(records(), before, "nothing was changed");
    assert_eq!(soon(takeover.take(&second)).await.unwrap().segment.value.base, Offset(3));
}

#[tokio::test]
async fn an_epoch_that_another_made_is_not_taken_for_ones_own() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (_, name) = cluster.client_and_log().await;
    let options = cluster.options(&["a"]);
    let (pool, store) = (Pool::new(&options).unwrap(), Store::new(&options));
    let takeover = soon(Takeover::find(&pool, &store, &options, &name)).await.unwrap();
    let record = || cluster.shared.meta.lock().record(takeover.log);
    let read = record();
    let theirs = soon(takeover.claim()).await.unwrap();
    assert_eq!(soon(takeover.claim_from(read)).await.unwrap(), None);
    assert_eq!(record().value, theirs);
    // One's own, of which the answer was lost, is.
    cluster.shared.meta.lock().lose_answers = 1;
    let mine = soon(takeover.claim_from(record())).await.unwrap();
    assert_eq!(mine, Some(record().value));
}
