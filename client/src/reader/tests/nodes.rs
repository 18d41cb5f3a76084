//! Readers against nodes in this process.

use crate::testing::{Cluster, Faults, log_name, numbered, read_all, read_some, soon};
use crate::{Client, ClientOptions, Error, LogReader, LogWriter, ReadOptions, Start};
use piculet_quorum::ids::{LogName, Offset, SegmentNumber};
use piculet_quorum::writer::WriterOptions;
use std::time::Duration;

pub(super) const FOLLOW: ReadOptions = ReadOptions { follow: true };
pub(super) const STOP: ReadOptions = ReadOptions { follow: false };

pub(super) async fn append(writer: &LogWriter, payloads: &[String]) {
    for payload in payloads {
        soon(writer.append(payload)).await.unwrap();
    }
}

pub(super) async fn reader(client: &Client, name: &LogName, start: Start, options: ReadOptions) -> LogReader {
    soon(client.read(name, start, options)).await.unwrap()
}

pub(super) async fn everything(client: &Client, name: &LogName, start: Start) -> Vec<String> {
    let (payloads, error) = read_all(&mut reader(client, name, start, STOP).await).await;
    assert!(error.is_none(), "{error:?}");
    payloads
}

/// A log of three segments, with four entries each, the last of them open.
pub(super) async fn three_segments(cluster: &Cluster) -> (Client, LogName, LogWriter) {
    let (client, name) = cluster.client_and_log().await;
    append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 0..4)).await;
    append(&soon(client.take_over(&name)).await.unwrap(), &numbered("x", 4..8)).await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 8..12)).await;
    (client, name, writer)
}

fn archive(cluster: &Cluster, holder: &str, number: u64) {
    let number = SegmentNumber(number);
    let (batches, end) = cluster.node(holder).stored(number);
    cluster.shared.meta.lock().archive(number, batches, end);
    cluster.shared.changed();
}

#[tokio::test]
async fn logs_are_created_listed_and_described() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let again = soon(client.create_log(&name)).await.unwrap_err();
    assert!(matches!(&again, Error::AlreadyExists(taken) if *taken == name), "{again}");
    cluster.shared.meta.lock().lose_answers = 1;
    soon(client.create_log(&log_name("answer/lost"))).await.unwrap();
    cluster.shared.meta.lock().lose_requests = 1;
    soon(client.create_log(&log_name("request/lost"))).await.unwrap();
    for nth in 0..7 {
        soon(client.create_log(&log_name(&format!("more-{nth}")))).await.unwrap();
    }
    let listed = soon(client.list_logs()).await.unwrap();
    assert_eq!(listed.len(), 10);
    assert!(listed.is_sorted() && listed[0].0 == log_name("answer/lost"), "{listed:?}");
    for _ in 0..5 {
        soon(client.take_over(&name)).await.unwrap();
    }
    let described = soon(client.describe_log(&name)).await.unwrap();
    assert_eq!(described.view.segments.len(), 5, "over several pages");
    let unknown = soon(client.describe_log(&log_name("none"))).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound(_)), "{unknown}");
    let status = soon(client.status()).await.unwrap();
    assert!(status.len() == 3 && status.iter().all(|node| node.status.is_ok()), "{status:?}");
}

#[tokio::test]
async fn an_empty_log_is_read_to_its_end() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    for start in [Start::Earliest, Start::Latest, Start::Offset(Offset(0))] {
        assert!(everything(&client, &name, start).await.is_empty(), "{start:?}");
    }
    let mut following = reader(&client, &name, Start::Earliest, FOLLOW).await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    assert!(everything(&client, &name, Start::Earliest).await.is_empty());
    append(&writer, &numbered("x", 0..3)).await;
    assert_eq!(read_some(&mut following, 3).await, numbered("x", 0..3));
}

#[tokio::test]
async fn every_acknowledged_entry_is_read_from_any_start() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, writer) = three_segments(&cluster).await;
    for first in 0..=12 {
        let start = Start::Offset(Offset(first as u64));
        assert_eq!(everything(&client, &name, start).await, numbered("x", first..12), "{start:?}");
    }
    let mut nth = 12;
    while nth < 40 {
        append(&writer, &numbered("x", nth..nth + 1)).await;
        nth += 1;
        assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 0..nth));
    }
    let beyond = soon(client.read(&name, Start::Offset(Offset(41)), FOLLOW)).await.map(|_| ()).unwrap_err();
    assert!(matches!(beyond, Error::BeyondTail { offset: Offset(41), tail: Offset(40) }), "{beyond}");
    assert!(everything(&client, &name, Start::Latest).await.is_empty());
}

#[tokio::test]
async fn offsets_and_payloads_of_large_batches_are_exact() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let options = WriterOptions { segment_bytes: 1 << 20, ..WriterOptions::default() };
    let other = ClientOptions { writer: options, ..cluster.options(&["c"]) };
    let other = soon(Client::connect(other)).await.unwrap();
    let writer = soon(other.take_over(&name)).await.unwrap();
    let mut following = reader(&client, &name, Start::Latest, FOLLOW).await;
    let payload = |nth: u64| vec![nth as u8; (nth * 7919 % 30_000) as usize];
    let mut first = 0;
    while first < 600 {
        let batch: Vec<_> = (first..first + 20).map(payload).collect();
        assert_eq!(soon(writer.append_batch(&batch)).await.unwrap(), Offset(first));
        first += 20;
    }
    for nth in 0..600 {
        let entry = soon(following.next()).await.unwrap().unwrap();
        assert_eq!(entry.offset, Offset(nth));
        assert!(entry.payload == payload(nth), "entry {nth}");
    }
    let segments = soon(client.describe_log(&name)).await.unwrap().view.segments.len();
    assert!(segments > 2, "the writer has rolled: {segments}");
}

#[tokio::test]
async fn a_reader_goes_on_at_another_node_when_streams_break() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, writer) = three_segments(&cluster).await;
    for node in ["a", "b", "c"] {
        cluster.node(node).set_faults(Faults { break_after: Some(1), ..Faults::default() });
    }
    let mut following = reader(&client, &name, Start::Earliest, FOLLOW).await;
    for nth in 12..24 {
        append(&writer, &numbered("x", nth..nth + 1)).await;
    }
    assert_eq!(read_some(&mut following, 24).await, numbered("x", 0..24));
    assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 0..24));
    let served: usize = ["a", "b", "c"].map(|node| cluster.node(node).subscriptions()).iter().sum();
    assert!(served > 6, "{served} subscriptions");
}

#[tokio::test]
async fn a_reader_survives_the_death_of_its_node() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, writer) = three_segments(&cluster).await;
    let mut following = reader(&client, &name, Start::Offset(Offset(8)), FOLLOW).await;
    assert_eq!(read_some(&mut following, 4).await, numbered("x", 8..12));
    let serves = ["a", "b", "c"].into_iter().find(|node| cluster.node(node).subscriptions() > 0).unwrap();
    cluster.node(serves).stop();
    let more = numbered("x", 12..20);
    let (_, read) = tokio::join!(append(&writer, &more), read_some(&mut following, 8));
    assert_eq!(read, more);
}

#[tokio::test]
async fn two_members_tails_are_enough_when_nobody_tells_of_commits() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    for node in ["a", "b", "c"] {
        cluster.node(node).set_faults(Faults { hide_commit: true, ..Faults::default() });
    }
    let (client, name, writer) = three_segments(&cluster).await;
    let mut following = reader(&client, &name, Start::Latest, FOLLOW).await;
    append(&writer, &numbered("x", 12..15)).await;
    assert_eq!(read_some(&mut following, 3).await, numbered("x", 12..15));
    assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 0..15));
}

#[tokio::test]
async fn what_one_node_holds_is_not_shown() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, writer) = three_segments(&cluster).await;
    let mut following = reader(&client, &name, Start::Latest, FOLLOW).await;
    for forgetful in ["a", "b"] {
        cluster.node(forgetful).set_faults(Faults { forgetful: true, ..Faults::default() });
    }
    let append = writer.append("x12");
    soon(async {
        while cluster.node("c").stored(SegmentNumber(2)).1.end.0 < 5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let early = tokio::time::timeout(Duration::from_millis(300), following.next()).await;
    assert!(early.is_err(), "shown while one node had it: {early:?}");
    // Nobody was told that it is there, so a reader that stops may leave it out, but not show it.
    let mut stopping = reader(&client, &name, Start::Offset(Offset(11)), STOP).await;
    assert_eq!(read_some(&mut stopping, 1).await, ["x11"]);
    for healed in ["a", "b"] {
        cluster.node(healed).set_faults(Faults::default());
    }
    // A takeover has others hold it too: then it is shown.
    let next = soon(client.take_over(&name)).await.unwrap();
    assert_eq!(read_some(&mut following, 1).await, ["x12"]);
    drop((append, next));
}

#[tokio::test]
async fn what_is_archived_comes_from_any_node() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, writer) = three_segments(&cluster).await;
    archive(&cluster, "a", 0);
    archive(&cluster, "b", 1);
    soon(writer.close()).await.unwrap();
    archive(&cluster, "c", 2);
    cluster.start_node("d");
    for member in ["a", "b", "c"] {
        cluster.node(member).stop();
    }
    drop(client);
    let client = soon(Client::connect(cluster.options(&["d"]))).await.unwrap();
    assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 0..12));
    assert_eq!(everything(&client, &name, Start::Offset(Offset(7))).await, numbered("x", 7..12));
}

#[tokio::test]
async fn trimmed_entries_are_refused_and_passed_over_by_the_earliest() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, writer) = three_segments(&cluster).await;
    archive(&cluster, "a", 0);
    cluster.shared.meta.lock().trim(Offset(6), SegmentNumber(1));
    let refused = soon(client.read(&name, Start::Offset(Offset(5)), FOLLOW)).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::Trimmed { trim_offset: Offset(6) }), "{refused}");
    assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 6..12));
    drop(writer);
}

#[tokio::test]
async fn a_reader_that_a_trim_passes_within_a_segment_is_told_so() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..2)).await;
    let mut following = reader(&client, &name, Start::Earliest, FOLLOW).await;
    assert_eq!(read_some(&mut following, 2).await, numbered("x", 0..2));
    // From now on nobody gives it any entries.
    for node in ["a", "b", "c"] {
        cluster.node(node).set_faults(Faults { break_after: Some(0), ..Faults::default() });
    }
    append(&writer, &numbered("x", 2..4)).await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 4..8)).await;
    archive(&cluster, "a", 0);
    cluster.shared.meta.lock().trim(Offset(6), SegmentNumber(1));
    cluster.shared.changed();
    let (payloads, error) = read_all(&mut following).await;
    assert!(payloads.is_empty(), "{payloads:?}");
    assert!(matches!(error, Some(Error::Trimmed { trim_offset: Offset(6) })), "{error:?}");
    assert!(soon(following.next()).await.is_none(), "nothing follows an error");
}

#[tokio::test]
async fn damage_is_an_error_unless_another_node_has_it_sound() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, _writer) = three_segments(&cluster).await;
    let damage = Faults { damage: true, ..Faults::default() };
    cluster.node("a").set_faults(damage);
    assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 0..12));
    cluster.node("b").set_faults(damage);
    cluster.node("c").set_faults(damage);
    let mut damaged = reader(&client, &name, Start::Earliest, STOP).await;
    let (payloads, error) = read_all(&mut damaged).await;
    assert!(payloads.is_empty());
    assert!(matches!(error, Some(Error::Damaged { segment: SegmentNumber(0), .. })), "{error:?}");
    assert!(soon(damaged.next()).await.is_none(), "nothing follows an error");
}

#[tokio::test]
async fn a_reader_that_is_owed_entries_gives_up_at_last() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let (client, name, _writer) = three_segments(&cluster).await;
    let options = ClientOptions { read_timeout: Duration::from_millis(500), ..cluster.options(&["a"]) };
    let hasty = soon(Client::connect(options)).await.unwrap();
    for node in ["a", "b", "c"] {
        cluster.node(node).set_faults(Faults { mute: true, ..Faults::default() });
    }
    let tail = soon(hasty.read(&name, Start::Latest, STOP)).await.map(|_| ()).unwrap_err();
    assert!(matches!(tail, Error::NoNode(_)), "{tail}");
    let mut following = reader(&hasty, &name, Start::Earliest, FOLLOW).await;
    let (payloads, error) = read_all(&mut following).await;
    assert!(payloads.is_empty() && matches!(error, Some(Error::NoNode(_))), "{error:?}");
    drop(client);
}
