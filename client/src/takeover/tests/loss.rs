//! Logs of which more has been lost than is made up for, or only what was never acknowledged.

use super::{append, held, until_held};
use crate::testing::{Cluster, Faults, node_id, numbered, soon, text};
use crate::{Client, Error, Item, LogOptions, LogReader, ReadOptions, Start};
use piculet_quorum::ids::{Chain, Epoch, Index, LogName, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::{Key, LogRecord, Loss, Record, Seal, SegmentEnd, SegmentRecord, SegmentState};
use piculet_quorum::wire::message::Refusal;
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];
const ZERO: SegmentNumber = SegmentNumber(0);

async fn reader(client: &Client, name: &LogName, start: Start) -> LogReader {
    soon(client.read(name, start, ReadOptions::default())).await.unwrap()
}

/// Everything from there on, with gaps in (brackets).
async fn items(client: &Client, name: &LogName, start: Start) -> Vec<String> {
    let mut reader = reader(client, name, start).await;
    let mut all = Vec::new();
    while let Some(item) = soon(reader.next_item()).await {
        all.push(match item.unwrap() {
            Item::Entry(entry) => text(&entry),
            Item::Skipped { from, to } => format!("(skipped {from} {to})"),
            Item::LossPossible { from, to } => format!("(loss possible {from} {to})"),
        });
    }
    all
}

#[tokio::test]
async fn a_log_goes_on_with_what_is_left_where_its_settings_allow_that() {
    let mut cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..5)).await;
    until_held(&cluster, &["a"], 5).await;
    drop(writer);
    for reborn in ["b", "c"] {
        cluster.start_node(reborn);
    }
    let client = cluster.client().await;
    let first = || {
        let meta = cluster.shared.meta.lock();
        meta.segment(meta.log(), ZERO).unwrap()
    };
    let before = first();
    let error = soon(client.take_over(&name)).await.map(drop).unwrap_err();
    let Error::Lost { segment: ZERO, nodes } = &error else { panic!("{error}") };
    assert_eq!(nodes[..], [node_id("b"), node_id("c")]);
    assert_eq!(first(), before, "nothing was changed");

    soon(client.set_allow_loss(&name, true)).await.unwrap();
    let writer = soon(client.take_over(&name)).await.unwrap();
    assert_eq!(soon(writer.append("y0")).await.unwrap(), Offset(5));
    assert_eq!(first().record.value.loss, Some(Loss { from: Index(5), acknowledged: true, beyond: true }));
    let mut expected = numbered("x", 0..5);
    expected.extend(["(loss possible 5 5)".to_owned(), "y0".to_owned()]);
    assert_eq!(items(&client, &name, Start::Earliest).await, expected);
    assert_eq!(items(&client, &name, Start::Offset(Offset(5))).await, ["y0"], "it begins behind");

    // Who knows nothing of losses is stopped by one, and may go on.
    let mut plain = reader(&client, &name, Start::Offset(Offset(4))).await;
    assert_eq!(text(&soon(plain.next()).await.unwrap().unwrap()), "x4");
    let error = soon(plain.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::LossPossible { from: Offset(5), to: Offset(5) }), "{error}");
    assert_eq!(text(&soon(plain.next()).await.unwrap().unwrap()), "y0");
    assert!(soon(plain.next()).await.is_none());
}

#[tokio::test]
async fn an_open_of_a_log_that_allows_a_loss_does_not_wait_for_who_forgot() {
    let mut cluster = Cluster::start(&NODES);
    let client = cluster.client().await;
    let name = crate::testing::log_name("metrics");
    soon(client.create_log_with(&name, LogOptions { allow_loss: true, ..LogOptions::default() }))
        .await
        .unwrap();
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    drop((writer, client));
    for reborn in NODES {
        cluster.start_node(reborn);
    }
    let options =
        crate::ClientOptions { writer_timeout: Duration::from_millis(300), ..cluster.options(&NODES) };
    let client = soon(Client::connect(options)).await.unwrap();
    let writer = soon(client.open(&name)).await.unwrap();
    assert_eq!(soon(writer.append("y0")).await.unwrap(), Offset(0), "nothing was left of it");
    assert_eq!(items(&client, &name, Start::Earliest).await, ["(loss possible 0 0)", "y0"]);
}

/// A log that had 10 acknowledged entries when its writer went, and is trimmed to offset 8. `a` has 6.
async fn trimmed(cluster: &Cluster) -> LogName {
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..6)).await;
    until_held(cluster, &["a"], 6).await;
    cluster.node("a").set_faults(Faults { forgetful: true, ..Faults::default() });
    append(&writer, &numbered("x", 6..10)).await;
    drop(writer);
    assert_eq!(soon(client.truncate_log(&name, Offset(8))).await.unwrap(), Offset(8));
    name
}

#[tokio::test]
async fn offsets_that_are_trimmed_are_not_given_out_again_when_what_lay_there_is_lost() {
    for (reborn, left) in [(&NODES[1..], 6), (&NODES[..], 0)] {
        let mut cluster = Cluster::start(&NODES);
        let name = trimmed(&cluster).await;
        for node in reborn {
            cluster.start_node(node);
        }
        let client = cluster.client().await;
        soon(client.set_allow_loss(&name, true)).await.unwrap();
        let writer = soon(client.take_over(&name)).await.unwrap();
        assert_eq!(soon(writer.append("y0")).await.unwrap(), Offset(8), "{left} are left");
        let record = {
            let meta = cluster.shared.meta.lock();
            meta.segment(meta.log(), ZERO).unwrap().record.value
        };
        assert_eq!(record.loss, Some(Loss { from: Index(left), acknowledged: true, beyond: true }));
        assert_eq!(record.state.end().map(|at| at.end), Some(Index(8)));
        let expected = ["(loss possible 8 8)", "y0"];
        assert_eq!(items(&client, &name, Start::Earliest).await, expected, "offsets 8 and 9 were lost too");
        assert_eq!(items(&client, &name, Start::Offset(Offset(8))).await, ["y0"], "it begins behind");
        let below = soon(client.read(&name, Start::Offset(Offset(7)), ReadOptions::default())).await;
        assert!(matches!(below, Err(Error::Trimmed { trim_offset: Offset(8) })), "{left} are left");
    }
}

#[tokio::test]
async fn a_log_without_a_writer_tells_whoever_reads_what_there_is_of_a_loss() {
    let mut cluster = Cluster::start(&NODES);
    let name = trimmed(&cluster).await;
    for node in ["b", "c"] {
        cluster.start_node(node);
    }
    let client = cluster.client().await;
    soon(client.set_allow_loss(&name, true)).await.unwrap();
    soon(soon(client.take_over(&name)).await.unwrap().close()).await.unwrap();
    assert_eq!(items(&client, &name, Start::Earliest).await, ["(loss possible 8 8)"]);
}

#[tokio::test]
async fn a_reader_that_had_read_what_is_lost_is_told_where_the_log_goes_on() {
    // Up to where the segment ends now, and further. Where nothing was beyond, nothing is missing.
    for (read, beyond) in [(8, true), (10, true), (8, false)] {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        let writer = soon(client.take_over(&name)).await.unwrap();
        append(&writer, &numbered("x", 0..read)).await;
        drop(writer);
        let follow = ReadOptions { follow: true };
        let mut reader = soon(client.read(&name, Start::Earliest, follow)).await.unwrap();
        assert_eq!(crate::testing::read_some(&mut reader, read).await, numbered("x", 0..read));
        {
            let mut meta = cluster.shared.meta.lock();
            let log = meta.log();
            // Of a log that is trimmed to 8, with 6 entries left.
            let at = SegmentEnd { end: Index(8), chain: Chain(6), last_timestamp: Timestamp(0) };
            let seal = Seal { at, by_epoch: Epoch(2), holders: vec![], settled: true };
            let loss = Some(Loss { from: Index(6), acknowledged: true, beyond });
            let segment = meta.segment(log, ZERO).unwrap().record.value;
            let segment = SegmentRecord { state: SegmentState::Sealed(seal), loss, ..segment };
            let record = meta.record(log).value;
            let record =
                LogRecord { epoch: Epoch(2), holder: None, next_base: Offset(8), chain: at.chain, ..record };
            meta.put(Key::Segment(log, ZERO), Record::Segment(segment));
            meta.put(Key::Log(log), Record::Log(record));
        }
        cluster.shared.changed();
        if beyond {
            let item = soon(reader.next_item()).await.unwrap().unwrap();
            assert_eq!(item, Item::LossPossible { from: Offset(8), to: Offset(8) });
        }
        let writer = soon(client.take_over(&name)).await.unwrap();
        assert_eq!(soon(writer.append("y0")).await.unwrap(), Offset(8));
        assert_eq!(crate::testing::read_some(&mut reader, 1).await, ["y0"]);
    }
}

/// A log whose sealed segment ends at 8, of which `c` alone held what lies behind 3.
async fn unsettled(cluster: &Cluster) -> (Client, LogName) {
    unsettled_in(cluster, Epoch(2), &[]).await
}

/// The same in an epoch of the log, the segment being of epoch 1; these nodes have all of it too.
async fn unsettled_in(cluster: &Cluster, epoch: Epoch, too: &[&str]) -> (Client, LogName) {
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    until_held(cluster, &NODES, 3).await;
    for forgetful in ["a", "b"] {
        cluster.node(forgetful).set_faults(Faults { forgetful: true, ..Faults::default() });
    }
    let appends: Vec<_> = numbered("x", 3..8).iter().map(|payload| writer.append(payload)).collect();
    until_held(cluster, &["c"], 8).await;
    let (batches, at) = cluster.node("c").stored(ZERO);
    let log = writer.log();
    drop((appends, writer));
    for node in too {
        cluster.node(node).put(ZERO, &batches);
    }
    let mut meta = cluster.shared.meta.lock();
    let segment = meta.segment(log, ZERO).unwrap().record.value;
    let seal = Seal { at, by_epoch: epoch, holders: vec![node_id("c")], settled: false };
    let segment = SegmentRecord { state: SegmentState::Sealed(seal), ..segment };
    meta.put(Key::Segment(log, ZERO), Record::Segment(segment));
    let record =
        LogRecord { epoch, holder: None, next_base: Offset(8), chain: at.chain, ..meta.record(log).value };
    meta.put(Key::Log(log), Record::Log(record));
    drop(meta);
    cluster.shared.changed();
    (client, name)
}

#[tokio::test]
async fn what_a_sole_holder_took_with_it_was_never_acknowledged_and_is_passed_over() {
    let mut cluster = Cluster::start(&NODES);
    let (client, name) = unsettled(&cluster).await;
    let log = cluster.shared.meta.lock().log();
    assert!(!soon(client.record_loss(log, ZERO)).await.unwrap(), "its holder is there");
    cluster.start_node("c");
    let client = {
        drop(client);
        cluster.client().await
    };
    cluster.shared.meta.lock().lose_answers = 1;
    soon(client.record_loss(log, ZERO)).await.unwrap();
    let record = cluster.shared.meta.lock().segment(log, ZERO).unwrap().record.value;
    assert_eq!(record.loss, Some(Loss { from: Index(3), acknowledged: false, beyond: false }));
    assert!(!record.settled());
    assert!(!soon(client.record_loss(log, ZERO)).await.unwrap(), "there is nothing more to lose");
    // Members that were fenced for it never show what they may still be sent.
    let (batches, end) = cluster.node("a").stored(ZERO);
    assert_eq!(end.end, Index(3));
    cluster.shared.meta.lock().archive(ZERO, batches, end);
    cluster.shared.changed();
    let mut expected = numbered("x", 0..3);
    expected.push("(skipped 3 8)".to_owned());
    assert_eq!(items(&client, &name, Start::Earliest).await, expected);
    assert_eq!(items(&client, &name, Start::Offset(Offset(5))).await, ["(skipped 5 8)"]);
    assert_eq!(soon(client.check_tail(&name)).await.unwrap(), Offset(8));
    let mut plain = reader(&client, &name, Start::Earliest).await;
    for expected in numbered("x", 0..3) {
        assert_eq!(text(&soon(plain.next()).await.unwrap().unwrap()), expected);
    }
    assert!(soon(plain.next()).await.is_none(), "it is no failure");
}

#[tokio::test]
async fn a_loss_waits_for_every_member_that_is_left() {
    let mut cluster = Cluster::start(&NODES);
    let (client, _) = unsettled(&cluster).await;
    let log = cluster.shared.meta.lock().log();
    drop(client);
    cluster.start_node("c");
    let client = cluster.client().await;
    cluster.node("b").set_faults(Faults { mute: true, ..Faults::default() });
    let error = soon(client.record_loss(log, ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::TakeOver(_)), "{error}");
    // One more that has forgotten makes it more than was never acknowledged.
    cluster.start_node("b");
    let client = cluster.client().await;
    let error = soon(client.record_loss(log, ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert_eq!(cluster.shared.meta.lock().segment(log, ZERO).unwrap().record.value.loss, None);
}

#[tokio::test]
async fn who_is_left_is_fenced_before_a_loss_is_recorded() {
    // Where the log is still in the segment's own epoch, no fence would keep its writer out.
    for epoch in [Epoch(2), Epoch(1)] {
        let mut cluster = Cluster::start(&NODES);
        drop(unsettled_in(&cluster, epoch, &[]).await);
        let log = cluster.shared.meta.lock().log();
        cluster.start_node("c");
        let loss = || cluster.shared.meta.lock().segment(log, ZERO).unwrap().record.value.loss;
        let client = cluster.client().await;
        cluster.node("b").set_faults(Faults { mute: true, ..Faults::default() });
        let error = soon(client.record_loss(log, ZERO)).await.unwrap_err();
        assert!(matches!(error, Error::TakeOver(_)), "{error}");
        assert_eq!(loss(), None, "b may have more");
        cluster.node("b").set_faults(Faults::default());
        assert!(soon(client.record_loss(log, ZERO)).await.unwrap());
        assert_eq!(loss(), Some(Loss { from: Index(3), acknowledged: false, beyond: false }));
        assert_eq!(cluster.shared.meta.lock().record(log).value.epoch, Epoch(2));
        for left in ["a", "b"] {
            let opened = cluster.node(left).reopen(ZERO);
            assert_eq!(opened, Err(Refusal::Fenced { epoch: Epoch(2) }), "{left} takes entries of epoch 1");
        }
    }
}

/// A writer that closed sealed its last segment too: nobody takes the log over who would make the
/// new epoch, and nobody is its holder when what is lost is recorded.
#[tokio::test]
async fn a_loss_before_the_last_segment_of_a_closed_log_is_recorded_and_leaves_it_free() {
    let mut cluster = Cluster::start(&NODES);
    let (client, name) = unsettled_in(&cluster, Epoch(1), &[]).await;
    drop(client);
    let log = {
        let mut meta = cluster.shared.meta.lock();
        let log = meta.log();
        let first = meta.segment(log, ZERO).unwrap().record.value;
        let before = first.state.end().copied().unwrap();
        let holders = NODES.map(node_id).to_vec();
        let at = SegmentEnd { end: Index(0), ..before };
        let seal = Seal { at, by_epoch: Epoch(1), holders, settled: true };
        let second = SegmentRecord {
            base: Offset(8),
            base_chain: before.chain,
            base_timestamp: before.last_timestamp,
            state: SegmentState::Sealed(seal),
            ..first
        };
        let record = LogRecord { next_segment: SegmentNumber(2), ..meta.record(log).value };
        meta.put(Key::Segment(log, SegmentNumber(1)), Record::Segment(second));
        meta.put(Key::Log(log), Record::Log(record));
        log
    };
    cluster.start_node("c");
    let client = cluster.client().await;
    assert!(soon(client.record_loss(log, ZERO)).await.unwrap());
    let (segment, record) = {
        let meta = cluster.shared.meta.lock();
        (meta.segment(log, ZERO).unwrap().record.value, meta.record(log).value)
    };
    assert_eq!(segment.loss, Some(Loss { from: Index(3), acknowledged: false, beyond: false }));
    assert_eq!((record.epoch, record.holder), (Epoch(2), None));
    for node in NODES {
        cluster.node(node).set_faults(Faults::default());
    }
    let writer = soon(client.open(&name)).await.unwrap();
    assert_eq!(soon(writer.append("behind")).await.unwrap(), Offset(8));
}

#[tokio::test]
async fn a_loss_begins_behind_what_is_at_rest() {
    let mut cluster = Cluster::start(&NODES);
    drop(unsettled_in(&cluster, Epoch(2), &["a"]).await);
    assert_eq!(held(cluster.node("a")), Index(8));
    // It has all of it, and would lose what lies behind 3 if it stopped now.
    cluster.node("a").set_faults(Faults { at_rest: Some(Index(3)), ..Faults::default() });
    cluster.start_node("c");
    let (client, log) = (cluster.client().await, cluster.shared.meta.lock().log());
    assert!(soon(client.record_loss(log, ZERO)).await.unwrap());
    let record = cluster.shared.meta.lock().segment(log, ZERO).unwrap().record.value;
    assert_eq!(record.loss, Some(Loss { from: Index(3), acknowledged: false, beyond: false }));
}

#[tokio::test]
async fn a_node_is_declared_lost_when_it_is_not_registered_or_by_force() {
    let cluster = Cluster::start(&NODES);
    let client = cluster.client().await;
    let (b, level) = (node_id("b"), piculet_quorum::ids::Level::Memory);
    let error = soon(client.declare_lost(&b, level, false)).await.unwrap_err();
    assert!(error.to_string().contains("registered"), "{error}");
    assert_eq!(soon(client.declare_lost(&b, level, true)).await.unwrap().0, 2);
    cluster.shared.meta.lock().stop_node(&b);
    cluster.shared.meta.lock().lose_answers = 1;
    assert_eq!(soon(client.declare_lost(&b, level, false)).await.unwrap().0, 3, "once, however often sent");
    let error = soon(client.declare_lost(&node_id("z"), level, true)).await.unwrap_err();
    assert!(error.to_string().contains("no node named z"), "{error}");
}

/// The lives that are compared are those from before the fences: an answer of another life is none.
#[tokio::test]
async fn what_a_member_answered_before_it_was_reborn_records_no_loss() {
    let mut cluster = Cluster::start(&NODES);
    drop(unsettled(&cluster).await);
    cluster.start_node("c");
    let (client, log) = (cluster.client().await, cluster.shared.meta.lock().log());
    cluster.node("b").set_faults(Faults { reborn_when_fenced: true, ..Faults::default() });
    let error = soon(client.record_loss(log, ZERO)).await.unwrap_err();
    let Error::Lost { nodes, .. } = &error else { panic!("{error}") };
    assert_eq!(
        nodes.iter().cloned().collect::<std::collections::BTreeSet<_>>(),
        ["b", "c"].map(node_id).into()
    );
    assert_eq!(cluster.shared.meta.lock().segment(log, ZERO).unwrap().record.value.loss, None);
}
