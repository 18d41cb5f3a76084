//! Where a log's tail is, where a point in time is, and readers whose way there is blocked.

use super::nodes::{FOLLOW, STOP, append, everything, reader, three_segments};
use crate::testing::{Cluster, Faults, Meta, log_name, node_id, numbered, read_all, read_some, soon};
use crate::{Client, ClientOptions, Entry, Error, Start};
use piculet_quorum::ids::{Epoch, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::{Key, LogRecord, Record, Seal, SegmentRecord, SegmentState};
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];

/// Long enough for what must not happen to happen.
const MEANWHILE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn the_tail_lies_behind_everything_acknowledged() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    assert_eq!(soon(client.check_tail(&name)).await.unwrap(), Offset(0), "there is no segment yet");
    let writer = soon(client.open(&name)).await.unwrap();
    for nth in 0..20 {
        append(&writer, &numbered("x", nth..nth + 1)).await;
        assert_eq!(soon(client.check_tail(&name)).await.unwrap(), Offset(nth as u64 + 1));
    }
    soon(writer.close()).await.unwrap();
    assert_eq!(soon(client.check_tail(&name)).await.unwrap(), Offset(20), "it is sealed");
    let unknown = soon(client.check_tail(&log_name("other"))).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound(_)), "{unknown}");
}

#[tokio::test]
async fn the_tail_is_told_once_all_before_it_is_visible() {
    let cluster = Cluster::start(&NODES);
    let (client, name, writer) = three_segments(&cluster).await;
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
    // Whoever asks is answered by the one that has it, and by one that has not.
    cluster.node("a").set_faults(Faults { mute: true, ..Faults::default() });
    let mut tail = Box::pin(client.check_tail(&name));
    let early = tokio::time::timeout(MEANWHILE, &mut tail).await;
    assert!(early.is_err(), "told while one node had the last entry: {early:?}");
    for healed in NODES {
        cluster.node(healed).set_faults(Faults::default());
    }
    let next = soon(client.take_over(&name)).await.unwrap();
    assert_eq!(soon(tail).await.unwrap(), Offset(13));
    drop((append, next));
}

#[tokio::test]
async fn a_tail_that_too_few_can_tell_is_an_error_that_names_who_is_silent() {
    let cluster = Cluster::start(&NODES);
    let (_, name, _writer) = three_segments(&cluster).await;
    for mute in ["a", "b"] {
        cluster.node(mute).set_faults(Faults { mute: true, ..Faults::default() });
    }
    let options = ClientOptions { read_timeout: MEANWHILE, ..cluster.options(&["c"]) };
    let hasty = soon(Client::connect(options)).await.unwrap();
    let error = soon(hasty.check_tail(&name)).await.unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::NoNode(_)) && message.contains("node a does not answer"), "{message}");
}

/// The first segment of a log is sealed where the longest of its members ends, and at once whatever
/// else is done, which is given the log's record that goes with it.
fn seal_first(cluster: &Cluster, and: impl FnOnce(&mut Meta, LogRecord)) {
    let ends = NODES.map(|node| cluster.node(node).stored(SegmentNumber(0)).1);
    let at = ends.into_iter().max_by_key(|at| at.end).unwrap();
    let mut meta = cluster.shared.meta.lock();
    let log = meta.log();
    let segment = meta.segment(log, SegmentNumber(0)).unwrap().record.value;
    let holders = NODES.map(node_id).to_vec();
    let state = SegmentState::Sealed(Seal { at, by_epoch: Epoch(1), holders, settled: true });
    meta.put(Key::Segment(log, SegmentNumber(0)), Record::Segment(SegmentRecord { state, ..segment }));
    let (next_base, chain, last_timestamp) = (Offset(at.end.0), at.chain, at.last_timestamp);
    let record = meta.record(log).value;
    and(&mut meta, LogRecord { next_base, chain, last_timestamp, holder: None, ..record });
    drop(meta);
    cluster.shared.changed();
}

#[tokio::test]
async fn a_reader_that_a_trim_passes_between_segments_is_told_so() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.take_over(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    let mut following = reader(&client, &name, Start::Earliest, FOLLOW).await;
    assert_eq!(read_some(&mut following, 3).await, numbered("x", 0..3));
    drop(writer);
    // The segment that it has read ends, and the one that comes next was there and has gone.
    seal_first(&cluster, |meta, record| {
        let record = LogRecord { next_segment: SegmentNumber(2), next_base: Offset(8), ..record };
        meta.put(Key::Log(meta.log()), Record::Log(record));
        meta.trim(Offset(8), SegmentNumber(2));
    });
    let (payloads, error) = read_all(&mut following).await;
    assert!(payloads.is_empty(), "{payloads:?}");
    assert!(matches!(error, Some(Error::Trimmed { trim_offset: Offset(8) })), "{error:?}");
}

async fn entries(client: &Client, name: &crate::LogName) -> Vec<Entry> {
    let mut reader = reader(client, name, Start::Earliest, STOP).await;
    let mut entries = Vec::new();
    while let Some(entry) = soon(reader.next()).await {
        entries.push(entry.unwrap());
    }
    entries
}

#[tokio::test]
async fn a_reader_begins_at_a_point_in_time() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    for start in [0, 5, u64::MAX].map(|ms| Start::Timestamp(Timestamp(ms))) {
        assert!(everything(&client, &name, start).await.is_empty(), "there is nothing yet");
    }
    // Five segments, the second of them empty, the last one open.
    let mut written = 0;
    let mut writer = soon(client.take_over(&name)).await.unwrap();
    for entries in [6, 0, 7, 3, 5] {
        for _ in 0..entries {
            // Some of them are of the same millisecond, and some are not.
            if written % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            append(&writer, &numbered("x", written..written + 1)).await;
            written += 1;
        }
        if entries != 5 {
            writer = soon(client.take_over(&name)).await.unwrap();
        }
    }
    let all = entries(&client, &name).await;
    assert_eq!(all.len(), written);
    let (first, last) = (all[0].timestamp.0, all[written - 1].timestamp.0);
    assert!(last > first + 5, "they were written at several times");
    for trimmed in [0, 8] {
        soon(client.truncate_log(&name, Offset(trimmed))).await.unwrap();
        for wanted in (first - 2)..=(last + 2) {
            let at = all.iter().position(|entry| entry.timestamp.0 >= wanted).unwrap_or(written);
            let expected = numbered("x", at.max(trimmed as usize)..written);
            let start = Start::Timestamp(Timestamp(wanted));
            assert_eq!(everything(&client, &name, start).await, expected, "{wanted} in {first}..={last}");
        }
    }
    // One that follows goes on from there, whatever the time.
    for wanted in [all[written - 2].timestamp, Timestamp(u64::MAX)] {
        let at = all.iter().position(|entry| entry.timestamp >= wanted).unwrap_or(written);
        let mut following = reader(&client, &name, Start::Timestamp(wanted), FOLLOW).await;
        append(&writer, &numbered("x", written..written + 1)).await;
        written += 1;
        assert_eq!(read_some(&mut following, written - at).await, numbered("x", at..written));
    }
}

#[tokio::test]
async fn metadata_that_are_away_for_a_while_do_not_end_a_reader() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = cluster.client_and_log().await;
    let writer = soon(client.open(&name)).await.unwrap();
    append(&writer, &numbered("x", 0..3)).await;
    let (log, options) = (writer.log(), cluster.options(&["a"]));
    let options = ClientOptions { call_timeout: Duration::from_millis(100), ..options };
    let hasty = soon(Client::connect(options)).await.unwrap();
    let mut following = reader(&hasty, &name, Start::Earliest, FOLLOW).await;
    assert_eq!(read_some(&mut following, 3).await, numbered("x", 0..3));
    drop(writer);
    // The nodes say where the segment ends, and the metadata say nothing about the next one.
    seal_first(&cluster, |meta, record| {
        meta.put(Key::Log(log), Record::Log(record));
        meta.away = true;
    });
    soon(async {
        while cluster.shared.meta.lock().missed < 20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    cluster.shared.meta.lock().away = false;
    let writer = soon(client.open(&name)).await.unwrap();
    append(&writer, &numbered("x", 3..6)).await;
    assert_eq!(read_some(&mut following, 3).await, numbered("x", 3..6));
}

#[tokio::test]
async fn a_reader_asks_anew_where_nodes_are_when_all_of_them_fail() {
    let mut cluster = Cluster::start(&NODES);
    let (client, name, _writer) = three_segments(&cluster).await;
    drop(client);
    cluster.start_node("d");
    let elsewhere = cluster.node("d").address();
    for node in NODES {
        cluster.shared.meta.lock().move_node(&node_id(node), elsewhere.clone());
    }
    let client = soon(Client::connect(cluster.options(&["d"]))).await.unwrap();
    let mut following = reader(&client, &name, Start::Earliest, FOLLOW).await;
    let early = tokio::time::timeout(MEANWHILE, following.next()).await;
    assert!(early.is_err(), "no node is where it is looked for: {early:?}");
    for node in NODES {
        let address = cluster.node(node).address();
        cluster.shared.meta.lock().move_node(&node_id(node), address);
    }
    assert_eq!(read_some(&mut following, 12).await, numbered("x", 0..12));
}

#[tokio::test]
async fn a_reader_of_a_deleted_log_ends_with_an_error_that_says_so() {
    let cluster = Cluster::start(&NODES);
    let (client, name, writer) = three_segments(&cluster).await;
    let mut following = reader(&client, &name, Start::Latest, FOLLOW).await;
    drop(writer);
    soon(client.delete_log(&name)).await.unwrap();
    let (payloads, error) = read_all(&mut following).await;
    assert!(payloads.is_empty(), "{payloads:?}");
    assert!(matches!(&error, Some(Error::NotFound(gone)) if *gone == name), "{error:?}");
}

#[tokio::test]
async fn damaged_metadata_are_an_error_until_they_are_put_right() {
    let cluster = Cluster::start(&NODES);
    let (client, name, writer) = three_segments(&cluster).await;
    let (log, newest) = (writer.log(), SegmentNumber(2));
    let sound = cluster.shared.meta.lock().segment(log, newest).unwrap().record.value;
    let options = ClientOptions {
        call_timeout: MEANWHILE,
        read_timeout: MEANWHILE,
        takeover_timeout: MEANWHILE,
        ..cluster.options(&["a"])
    };
    let hasty = soon(Client::connect(options)).await.unwrap();
    let put = |record: &SegmentRecord| {
        cluster.shared.meta.lock().put(Key::Segment(log, newest), Record::Segment(record.clone()));
    };
    for (ensemble, base) in [
        (vec![], sound.base),
        (sound.ensemble[..1].to_vec(), sound.base),
        (sound.ensemble.clone(), Offset(u64::MAX)),
    ] {
        put(&SegmentRecord { ensemble, base, ..sound.clone() });
        let told = |error: Error| {
            let text = error.to_string();
            assert!(text.contains("metadata are damaged: the record of segment 2"), "{text}");
        };
        told(soon(hasty.check_tail(&name)).await.unwrap_err());
        told(soon(hasty.read(&name, Start::Earliest, STOP)).await.map(|_| ()).unwrap_err());
        told(soon(hasty.take_over(&name)).await.map(|_| ()).unwrap_err());
    }
    put(&sound);
    assert_eq!(soon(client.check_tail(&name)).await.unwrap(), Offset(12));
    assert_eq!(everything(&client, &name, Start::Earliest).await, numbered("x", 0..12));
}
