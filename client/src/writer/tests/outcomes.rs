//! What became of appends that were on their way when the log was taken over, or deleted.

use super::{append_all, everything, until};
use crate::testing::{Cluster, Faults, log_name, node_id, numbered, soon};
use crate::{Append, Client, ClientOptions, Error, LogWriter};
use piculet_quorum::ids::{Epoch, Index, Level, LogName, Nonce, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::{Key, LogRecord, Record, Seal, SegmentRecord, SegmentState};
use piculet_quorum::wire::message::{Address, Refusal, Request};
use std::time::Duration;

const ZERO: SegmentNumber = SegmentNumber(0);
const NODES: [&str; 3] = ["a", "b", "c"];

/// Three entries that are acknowledged, and two batches of five that only node c holds.
struct Lopsided {
    cluster: Cluster,
    client: Client,
    name: LogName,
    writer: LogWriter,
    batches: [Append; 2],
}

async fn lopsided(patience: Duration) -> Lopsided {
    let cluster = Cluster::start(&NODES);
    let (_, name) = cluster.client_and_log().await;
    let options = ClientOptions { takeover_timeout: patience, ..cluster.options(&["a"]) };
    let client = soon(Client::connect(options)).await.unwrap();
    let writer = soon(client.take_over(&name)).await.unwrap();
    append_all(&writer, &numbered("x", 0..3)).await;
    for forgetful in ["a", "b"] {
        cluster.node(forgetful).set_faults(Faults { forgetful: true, ..Faults::default() });
    }
    let first = writer.append_batch(&numbered("x", 3..8));
    until(|| cluster.node("c").stored(ZERO).1.end.0 == 8).await;
    let second = writer.append_batch(&numbered("x", 8..13));
    until(|| cluster.node("c").stored(ZERO).1.end.0 == 13).await;
    let batches = [first, second];
    Lopsided { cluster, client, name, writer, batches }
}

const PATIENT: Duration = Duration::from_secs(60);

/// The replaced writer sends something, and hears that it was replaced.
async fn sends_more(writer: &LogWriter) {
    let error = soon(writer.append("too late")).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
    assert!(!error.outcome_unknown() && !error.is_retryable());
}

async fn take_over(cluster: &Cluster, name: &LogName) -> LogWriter {
    soon(cluster.client().await.take_over(name)).await.unwrap()
}

#[tokio::test]
async fn batches_below_the_end_were_appended_whole() {
    let Lopsided { cluster, client, name, writer, batches } = lopsided(PATIENT).await;
    for healed in ["a", "b"] {
        cluster.node(healed).set_faults(Faults::default());
    }
    let mut flush = Box::pin(writer.flush());
    assert!(futures::poll!(&mut flush).is_pending());
    let second = take_over(&cluster, &name).await;
    sends_more(&writer).await;
    for (batch, first) in batches.into_iter().zip([3, 8]) {
        assert_eq!(soon(batch).await.unwrap(), Offset(first));
    }
    assert_eq!(writer.status().committed, Offset(13));
    soon(flush).await.unwrap();
    let error = soon(writer.flush()).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "the last append was not appended: {error}");
    let error = soon(writer.append("later")).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
    let error = soon(writer.close()).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(soon(second.append("x13")).await.unwrap(), Offset(13));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..14));
}

#[tokio::test]
async fn batches_beyond_the_end_were_not_appended_at_all() {
    let Lopsided { cluster, client, name, writer, batches } = lopsided(PATIENT).await;
    for healed in ["a", "b"] {
        cluster.node(healed).set_faults(Faults::default());
    }
    // The only one that has them is not there when the end is decided.
    cluster.node("c").set_faults(Faults { mute: true, ..Faults::default() });
    let second = take_over(&cluster, &name).await;
    cluster.node("c").set_faults(Faults::default());
    sends_more(&writer).await;
    for batch in batches {
        let error = soon(batch).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
    }
    let error = soon(writer.flush()).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(soon(second.append("x3")).await.unwrap(), Offset(3));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn a_batch_that_some_nodes_have_not_got_yet_is_there_whole_or_not_at_all() {
    // The tails are at 3, 8 and 13: whichever node is missing, the end is where a batch ends.
    for (missing, end) in [("a", 13), ("c", 8)] {
        let Lopsided { cluster, client, name, writer, batches } = lopsided(PATIENT).await;
        let c = cluster.node("c").stored(ZERO).0;
        cluster.node("b").put(ZERO, &c[..c.len() - 1]);
        for healed in ["a", "b"] {
            cluster.node(healed).set_faults(Faults::default());
        }
        cluster.node(missing).set_faults(Faults { mute: true, ..Faults::default() });
        drop(take_over(&cluster, &name).await);
        cluster.node(missing).set_faults(Faults::default());
        sends_more(&writer).await;
        for (batch, first) in batches.into_iter().zip([3, 8]) {
            match soon(batch).await {
                Ok(offset) => assert_eq!((offset, first < end), (Offset(first), true)),
                Err(Error::Fenced { .. }) => assert!(first >= end, "the batch at {first} is there"),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(everything(&client, &name).await, numbered("x", 0..end as usize), "without {missing}");
    }
}

/// Fences the log's first segment at every node, for epoch 2, which the metadata have.
async fn fence(cluster: &Cluster) {
    let pool = crate::pool::Pool::new(&cluster.options(&["a"])).unwrap();
    for node in NODES.map(node_id) {
        let (log, incarnation) = {
            let meta = cluster.shared.meta.lock();
            (meta.log(), meta.nodes()[&node].incarnation(Level::Memory).0)
        };
        let at = Address { log, segment: ZERO, epoch: Epoch(2), incarnation };
        soon(pool.call_node(&node, &Request::Fence(at))).await.unwrap();
    }
}

/// What a takeover does that could reach node c alone: the end that it publishes has one holder.
async fn unsettled(cluster: &Cluster) {
    {
        let at = cluster.node("c").stored(ZERO).1;
        let mut meta = cluster.shared.meta.lock();
        let (log, record) = (meta.log(), meta.record(meta.log()).value);
        let taken = LogRecord {
            epoch: Epoch(2),
            writer: Nonce(9),
            next_base: Offset(at.end.0),
            chain: at.chain,
            last_timestamp: at.last_timestamp,
            ..record
        };
        let seal = Seal { at, by_epoch: Epoch(2), holders: vec![node_id("c")], settled: false };
        let open = meta.segment(log, ZERO).unwrap().record.value;
        let sealed = SegmentRecord { state: SegmentState::Sealed(seal), ..open };
        meta.put(Key::Log(log), Record::Log(taken));
        meta.put(Key::Segment(log, ZERO), Record::Segment(sealed));
    }
    fence(cluster).await;
}

#[tokio::test]
async fn an_end_that_is_not_settled_decides_nothing_until_it_is() {
    let lopsided = lopsided(PATIENT).await;
    unsettled(&lopsided.cluster).await;
    let Lopsided { cluster, client, name, writer, batches } = lopsided;
    // What lies beyond the end is known at once.
    sends_more(&writer).await;
    assert_eq!(writer.status().committed, Offset(3));
    let [mut first, second] = batches;
    assert!(futures::poll!(&mut first).is_pending());
    let (stored, end) = cluster.node("c").stored(ZERO);
    cluster.shared.meta.lock().archive(ZERO, stored, end);
    assert_eq!(soon(first).await.unwrap(), Offset(3));
    assert_eq!(soon(second).await.unwrap(), Offset(8));
    drop(writer);
    assert_eq!(everything(&client, &name).await, numbered("x", 0..13));
}

async fn unknown(batches: [Append; 2], expected: &str) {
    for batch in batches {
        let error = soon(batch).await.unwrap_err();
        let Error::OutcomeUnknown { why } = &error else { panic!("{error}") };
        assert!(why.contains(expected), "{why}");
        assert!(error.outcome_unknown() && !error.is_retryable());
    }
}

#[tokio::test]
async fn what_is_not_settled_in_time_is_unknown() {
    let lopsided = lopsided(Duration::from_secs(1)).await;
    unsettled(&lopsided.cluster).await;
    sends_more(&lopsided.writer).await;
    unknown(lopsided.batches, "segment 0 is not settled").await;
    let error = soon(lopsided.writer.flush()).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

#[tokio::test]
async fn what_was_trimmed_meanwhile_is_unknown() {
    let lopsided = lopsided(PATIENT).await;
    unsettled(&lopsided.cluster).await;
    sends_more(&lopsided.writer).await;
    lopsided.cluster.shared.meta.lock().trim(Offset(13), SegmentNumber(1));
    unknown(lopsided.batches, "trimmed").await;
}

#[tokio::test]
async fn dropping_a_replaced_writer_ends_the_wait() {
    let lopsided = lopsided(PATIENT).await;
    unsettled(&lopsided.cluster).await;
    sends_more(&lopsided.writer).await;
    drop(lopsided.writer);
    unknown(lopsided.batches, "dropped").await;
}

/// Puts a tombstone in place of the log's record.
fn delete(cluster: &Cluster) {
    let mut meta = cluster.shared.meta.lock();
    let (log, record) = (meta.log(), meta.record(meta.log()).value);
    let epoch = record.epoch.plus(1);
    let tombstone =
        LogRecord { epoch, writer: Nonce(9), holder: None, deleted: Some(Timestamp(1)), ..record };
    meta.put(Key::Log(log), Record::Log(tombstone));
}

#[tokio::test]
async fn nothing_is_known_of_a_deleted_log() {
    let Lopsided { cluster, client: _client, name: _, writer, batches } = lopsided(PATIENT).await;
    {
        let mut meta = cluster.shared.meta.lock();
        let (log, record) = (meta.log(), meta.record(meta.log()).value);
        let taken = LogRecord { epoch: Epoch(2), writer: Nonce(9), ..record };
        meta.put(Key::Log(log), Record::Log(taken));
    }
    fence(&cluster).await;
    delete(&cluster);
    let sent = soon(writer.append("too late")).await.unwrap_err();
    assert!(matches!(sent, Error::OutcomeUnknown { .. }), "{sent}");
    unknown(batches, "the log was deleted").await;
    let later = soon(writer.append("later")).await.unwrap_err();
    assert!(matches!(&later, Error::Deleted(name) if *name == log_name("log")), "{later}");
    let closed = soon(writer.close()).await.unwrap_err();
    assert!(matches!(closed, Error::Deleted(_)) && !closed.outcome_unknown(), "{closed}");
}

#[tokio::test]
async fn a_writer_that_closes_hears_that_its_log_was_deleted() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append_all(&writer, &numbered("x", 0..3)).await;
    delete(&cluster);
    let error = soon(writer.close()).await.unwrap_err();
    assert!(matches!(error, Error::Deleted(_)), "{error}");
}

/// A writer whose first append is followed by a roll that is refused now, and its second append, which
/// waits for that.
async fn held_up() -> (Cluster, LogWriter, Append) {
    let cluster = Cluster::start(&NODES);
    let (_, name) = cluster.client_and_log().await;
    let mut options = cluster.options(&["a"]);
    options.writer.segment_bytes = 1;
    let client = soon(Client::connect(options)).await.unwrap();
    let writer = soon(client.take_over(&name)).await.unwrap();
    cluster.shared.meta.lock().refuse_seals = Some(Refusal::Unavailable("not now".to_owned()));
    assert_eq!(soon(writer.append("x0")).await.unwrap(), Offset(0), "the roll does not hold it up");
    until(|| cluster.shared.meta.lock().seals_refused > 0).await;
    let queued = writer.append("x1");
    (cluster, writer, queued)
}

#[tokio::test]
async fn a_roll_that_is_refused_for_good_stops_the_writer_and_is_not_repeated() {
    let contradicts = Refusal::Conflict { index: Index(1) };
    for refusal in [Refusal::Invalid("it is not sound".to_owned()), contradicts] {
        let (cluster, writer, queued) = held_up().await;
        {
            let mut meta = cluster.shared.meta.lock();
            (meta.refuse_seals, meta.seals_refused) = (Some(refusal.clone()), 0);
        }
        let error = soon(queued).await.unwrap_err();
        assert!(matches!(error, Error::Stopped(_)) && error.outcome_unknown(), "{error}");
        let said = error.to_string();
        assert!(said.contains("cannot be sealed at 1") && said.contains(&refusal.to_string()), "{said}");
        until(|| writer.background.is_finished()).await;
        assert_eq!(cluster.shared.meta.lock().seals_refused, 1);
        let error = soon(writer.append("x2")).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && !error.outcome_unknown(), "{error}");
        cluster.shared.meta.lock().refuse_seals = None;
        let next = take_over(&cluster, &log_name("log")).await;
        assert_eq!(next.status().next, Offset(1), "what was acknowledged is there");
    }
}

#[tokio::test]
async fn a_roll_that_cannot_be_made_now_is_made_later() {
    let (cluster, writer, queued) = held_up().await;
    let refused = cluster.shared.meta.lock().seals_refused;
    until(|| cluster.shared.meta.lock().seals_refused > refused + 3).await;
    cluster.shared.meta.lock().refuse_seals = None;
    assert_eq!(soon(queued).await.unwrap(), Offset(1));
    assert!(writer.status().rolls > 0);
}
