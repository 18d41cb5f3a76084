//! Appends that are repeated: at an expected offset, and for a producer.

use super::{everything, until};
use crate::testing::{Cluster, Faults, log_name, numbered, soon};
use crate::{
    AppendOptions, Client, ClientOptions, Error, LastAppend, LogWriter, Producer, ProducerId, ReadOptions,
    Start, WriterOptions,
};
use piculet_quorum::ids::{LogName, Offset, SegmentNumber};
use piculet_quorum::limits::PRODUCERS_MAX;

const NODES: [&str; 3] = ["a", "b", "c"];

fn id(number: u64) -> ProducerId {
    ProducerId::new(number).unwrap()
}

fn of(number: u64, sequence: u64) -> AppendOptions {
    AppendOptions { producer: Some(Producer { id: id(number), sequence }), ..AppendOptions::default() }
}

fn at(offset: u64) -> AppendOptions {
    AppendOptions { expected_offset: Some(Offset(offset)), ..AppendOptions::default() }
}

fn last(sequence: u64, offset: u64) -> LastAppend {
    LastAppend { sequence, offset: Offset(offset) }
}

async fn take_over(client: &Client, name: &LogName) -> LogWriter {
    soon(client.take_over(name)).await.unwrap()
}

async fn append(writer: &LogWriter, payload: &str, options: AppendOptions) -> Result<u64, Error> {
    soon(writer.append_with(payload, &options)).await.map(|offset| offset.0)
}

/// Archives a segment, as far as node `a` has it.
fn archive(cluster: &Cluster, number: u64) {
    let number = SegmentNumber(number);
    let (batches, end) = cluster.node("a").stored(number);
    cluster.shared.meta.lock().archive(number, batches, end);
}

#[tokio::test]
async fn an_offset_that_is_not_expected_is_refused_in_the_order_of_the_calls() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = take_over(&client, &name).await;
    let appends = [writer.append_with("0", &at(0)), writer.append("1"), writer.append_with("2", &at(2))];
    let refused = writer.append_with("2", &at(2)).queued().unwrap_err();
    let ahead = writer.append_batch_with(["4", "5"], &at(4)).queued().unwrap_err();
    for error in [&refused, &ahead] {
        assert!(!error.is_retryable() && !error.outcome_unknown(), "{error}");
    }
    assert!(matches!(refused, Error::OffsetMismatch { expected: Offset(2), actual: Offset(3) }), "{refused}");
    assert!(matches!(ahead, Error::OffsetMismatch { expected: Offset(4), actual: Offset(3) }), "{ahead}");
    for (offset, append) in (0..).zip(appends) {
        assert_eq!(soon(append).await.unwrap(), Offset(offset));
    }
    assert_eq!(soon(writer.append_batch_with(["3", "4"], &at(3))).await.unwrap(), Offset(3));
    assert_eq!(everything(&client, &name).await, numbered("", 0..5));
}

#[tokio::test]
async fn an_append_is_made_once_and_read_with_its_producer() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = take_over(&client, &name).await;
    let early = append(&writer, "x", of(7, 1)).await.unwrap_err();
    assert!(matches!(early, Error::Setting { setting: "producer", .. }), "{early}");
    assert_eq!(soon(writer.producer(id(7))).await.unwrap(), None);
    assert_eq!(append(&writer, "one", of(7, 1)).await.unwrap(), 0);
    assert_eq!(append(&writer, "plain", AppendOptions::default()).await.unwrap(), 1);
    // The batch is one append, and its first entry speaks for it.
    for _ in 0..2 {
        let batch = writer.append_batch_with(["two", "three"], &of(7, 5));
        assert_eq!(soon(batch).await.unwrap(), Offset(2));
    }
    assert_eq!(append(&writer, "four", of(8, 1)).await.unwrap(), 4);
    assert_eq!(soon(writer.producer(id(7))).await.unwrap(), Some(last(5, 2)));
    let older = append(&writer, "one", of(7, 1)).await.unwrap_err();
    assert!(matches!(older, Error::Duplicate { last: found, .. } if found == last(5, 2)), "{older}");
    assert!(!older.is_retryable() && !older.outcome_unknown());
    // What is a repetition is not told where it should be.
    let both = AppendOptions { expected_offset: Some(Offset(99)), ..of(8, 1) };
    assert_eq!(append(&writer, "four", both).await.unwrap(), 4);
    let error =
        append(&writer, "five", AppendOptions { expected_offset: Some(Offset(99)), ..of(8, 2) }).await;
    assert!(matches!(error, Err(Error::OffsetMismatch { .. })), "{error:?}");
    assert_eq!(append(&writer, "five", of(8, 2)).await.unwrap(), 5, "what was refused leaves no trace");

    let mut reader = soon(client.read(&name, Start::Earliest, ReadOptions::default())).await.unwrap();
    let mut read = Vec::new();
    while let Some(entry) = soon(reader.next()).await {
        let entry = entry.unwrap();
        let producer = entry.producer.map(|producer| (producer.id.get(), producer.sequence));
        read.push((String::from_utf8(entry.payload.to_vec()).unwrap(), producer));
    }
    let expected = [
        ("one", Some((7, 1))),
        ("plain", None),
        ("two", Some((7, 5))),
        ("three", None),
        ("four", Some((8, 1))),
        ("five", Some((8, 2))),
    ];
    assert_eq!(read, expected.map(|(payload, producer)| (payload.to_owned(), producer)));
}

#[tokio::test]
async fn an_append_whose_writer_died_before_the_acknowledgement_is_there_once() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = take_over(&client, &name).await;
    soon(writer.producer(id(7))).await.unwrap();
    // One node never hears of it.
    cluster.node("c").set_faults(Faults { forgetful: true, ..Faults::default() });
    let unheard = writer.append_with("once", &of(7, 1));
    until(|| ["a", "b"].iter().all(|node| cluster.node(node).stored(SegmentNumber(0)).1.end.0 == 1)).await;
    drop((writer, unheard));

    let writer = take_over(&client, &name).await;
    assert_eq!(soon(writer.producer(id(7))).await.unwrap(), Some(last(1, 0)));
    assert_eq!(append(&writer, "once", of(7, 1)).await.unwrap(), 0);
    assert_eq!(append(&writer, "twice", of(7, 2)).await.unwrap(), 1);
    assert_eq!(everything(&client, &name).await, ["once", "twice"]);
}

#[tokio::test]
async fn what_was_never_appended_is_undone_by_the_next_writer() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = take_over(&client, &name).await;
    soon(writer.producer(id(7))).await.unwrap();
    assert_eq!(append(&writer, "one", of(7, 1)).await.unwrap(), 0);
    for node in NODES {
        cluster.node(node).set_faults(Faults { forgetful: true, ..Faults::default() });
    }
    // On its way for ever: the writer takes its repetition for what it is, and both wait.
    let lost = [writer.append_with("two", &of(7, 2)), writer.append_with("two", &of(7, 2))];
    assert_eq!(soon(writer.producer(id(7))).await.unwrap(), Some(last(2, 1)));
    let next = take_over(&client, &name).await;
    for node in NODES {
        cluster.node(node).set_faults(Faults::default());
    }
    assert_eq!(soon(next.producer(id(7))).await.unwrap(), Some(last(1, 0)));
    assert_eq!(append(&next, "two", of(7, 2)).await.unwrap(), 1);
    // The first writer hears of it when it sends something.
    let _ = writer.append("too late").queued();
    for append in lost {
        let error = soon(append).await.unwrap_err();
        assert!(matches!(error, Error::Fenced { .. }), "{error}");
    }
    assert_eq!(everything(&client, &name).await, ["one", "two"]);
}

#[tokio::test]
async fn repetitions_complete_with_what_they_repeat() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = take_over(&client, &name).await;
    soon(writer.producer(id(7))).await.unwrap();
    let first = writer.append_with("one", &of(7, 1));
    let again = [(); 3].map(|()| tokio::spawn(writer.append_with("one", &of(7, 1))));
    for append in again {
        assert_eq!(soon(append).await.unwrap().unwrap(), Offset(0));
    }
    assert_eq!(soon(first).await.unwrap(), Offset(0));
    assert_eq!(soon(writer.close()).await.unwrap(), Offset(1));
}

#[tokio::test]
async fn the_table_is_read_over_rolls_takeovers_parts_and_trims() {
    let cluster = Cluster::start(&NODES);
    let (_, name) = cluster.client_and_log().await;
    // Every entry has a segment of its own.
    let small = WriterOptions { segment_bytes: 1, ..WriterOptions::default() };
    let options = ClientOptions { writer: small, ..cluster.options(&["a"]) };
    let client = soon(Client::connect(options)).await.unwrap();
    let writer = take_over(&client, &name).await;
    soon(writer.producer(id(1))).await.unwrap();
    for sequence in 0..4 {
        let offset = append(&writer, "x", of(1 + sequence % 2, sequence)).await.unwrap();
        assert_eq!(offset, sequence);
        until(|| writer.status().rolls > sequence).await;
    }
    let expected = [Some(last(2, 2)), Some(last(3, 3)), None];
    let check = async |what: &str| {
        let writer = take_over(&client, &name).await;
        for (number, expected) in (1..).zip(expected) {
            assert_eq!(soon(writer.producer(id(number))).await.unwrap(), expected, "{what}");
        }
        writer
    };
    soon(writer.close()).await.unwrap();
    check("nothing is archived").await;
    archive(&cluster, 0);
    archive(&cluster, 1);
    check("half is archived").await;
    archive(&cluster, 2);
    archive(&cluster, 3);
    check("everything is archived").await;
    cluster.shared.meta.lock().trim(Offset(4), SegmentNumber(3));
    let writer = check("everything is trimmed").await;
    assert_eq!(append(&writer, "x", of(2, 3)).await.unwrap(), 3);
    assert_eq!(append(&writer, "y", of(2, 4)).await.unwrap(), 4);
    assert_eq!(everything(&client, &name).await, ["y"]);
}

#[tokio::test]
async fn the_table_is_read_past_what_is_lost() {
    let mut cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    soon(client.set_allow_loss(&name, true)).await.unwrap();
    let writer = take_over(&client, &name).await;
    soon(writer.producer(id(7))).await.unwrap();
    assert_eq!(append(&writer, "one", of(7, 1)).await.unwrap(), 0);
    until(|| cluster.node("a").stored(SegmentNumber(0)).1.end.0 == 1).await;
    drop((writer, client));
    for reborn in ["b", "c"] {
        cluster.start_node(reborn);
    }
    let client = cluster.client().await;
    for archived in [false, true] {
        if archived {
            archive(&cluster, 0);
        }
        let writer = take_over(&client, &name).await;
        assert_eq!(soon(writer.producer(id(7))).await.unwrap(), Some(last(1, 0)), "{archived}");
        assert_eq!(append(&writer, "one", of(7, 1)).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_producer_that_a_thousand_others_have_followed_is_forgotten() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = take_over(&client, &name).await;
    soon(writer.producer(id(1))).await.unwrap();
    let all = PRODUCERS_MAX as u64;
    for number in 1..=all {
        drop(writer.append_with("x", &of(number, 1)).queued().unwrap());
    }
    soon(writer.flush()).await.unwrap();
    assert_eq!(append(&writer, "x", of(1, 1)).await.unwrap(), 0);
    assert_eq!(append(&writer, "one more", of(all + 1, 1)).await.unwrap(), all);
    // Now it is an append like any other, and the next in age is forgotten. So with every writer.
    assert_eq!(append(&writer, "x", of(1, 1)).await.unwrap(), all + 1);
    drop(writer);
    let writer = take_over(&client, &name).await;
    assert_eq!(soon(writer.producer(id(2))).await.unwrap(), None);
    assert_eq!(soon(writer.producer(id(3))).await.unwrap(), Some(last(1, 2)));
    assert_eq!(append(&writer, "x", of(1, 1)).await.unwrap(), all + 1);
}

#[tokio::test]
async fn a_log_that_is_gone_has_no_producers() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let other = log_name("another");
    soon(client.create_log(&other)).await.unwrap();
    let writer = take_over(&client, &other).await;
    soon(client.delete_log(&other)).await.unwrap();
    let error = soon(writer.producer(id(1))).await.unwrap_err();
    assert!(matches!(error, Error::Deleted(_) | Error::NotFound(_)), "{error}");
    assert_eq!(everything(&client, &name).await, <[String; 0]>::default());
}
