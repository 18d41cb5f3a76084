//! Logs of durability `object`: the writer archives its entries itself.

use super::super::upload::{PartStore, Uploader};
use super::{append_all, everything, until};
use crate::testing::{Cluster, Recording, log_name, numbered, read_some, soon};
use crate::{
    AppendOptions, Client, ClientOptions, Error, Level, LogOptions, Producer, ProducerId, ReadOptions, Start,
};
use parking_lot::Mutex;
use piculet_quorum::ids::{Epoch, LogName, Nonce, Offset, SegmentNumber};
use piculet_quorum::meta::SegmentState;
use piculet_storage::{EncodedPart, ObjectError, Objects, PartName, Put, S3Options};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NODES: [&str; 3] = ["a", "b", "c"];
const ZERO: SegmentNumber = SegmentNumber(0);

async fn client(cluster: &Cluster, edit: impl FnOnce(&mut ClientOptions)) -> Client {
    let store = Some(cluster.shared.parts.options());
    let mut options = ClientOptions { store, ..cluster.options(&["a"]) };
    edit(&mut options);
    soon(Client::connect(options)).await.unwrap()
}

async fn client_and_log(cluster: &Cluster) -> (Client, LogName) {
    let (client, name) = (client(cluster, |_| ()).await, log_name("log"));
    let options = LogOptions { durability: Level::Object, ..LogOptions::default() };
    soon(client.create_log_with(&name, options)).await.unwrap();
    (client, name)
}

#[tokio::test]
async fn what_waits_during_an_upload_goes_into_one_part_and_no_node_holds_it() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = client_and_log(&cluster).await;
    let writer = soon(client.open(&name)).await.unwrap();
    let appends: Vec<_> = numbered("x", 0..200).iter().map(|payload| writer.append(payload)).collect();
    for (offset, append) in (0..).zip(appends) {
        assert_eq!(soon(append).await.unwrap(), Offset(offset));
    }
    assert_eq!(writer.status().members, []);
    assert!(NODES.iter().all(|node| !cluster.node(node).has_writer()));
    assert!(cluster.parts_of(writer.log(), ZERO) < 20, "entries share parts");
    assert_eq!(soon(client.check_tail(&name)).await.unwrap(), Offset(200));
    assert_eq!(everything(&client, &name).await, numbered("x", 0..200));
    assert_eq!(soon(writer.close()).await.unwrap(), Offset(200));
    let meta = cluster.shared.meta.lock();
    let sealed = meta.segment(meta.log(), ZERO).unwrap().record.value.state;
    assert!(matches!(sealed, SegmentState::Archived(_)), "{sealed:?}");
}

#[tokio::test]
async fn a_reader_follows_what_is_archived() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = client_and_log(&cluster).await;
    let writer = soon(client.open(&name)).await.unwrap();
    let mut reader = soon(client.read(&name, Start::Earliest, ReadOptions { follow: true })).await.unwrap();
    for round in 0..3 {
        let payloads = numbered("x", round * 4..round * 4 + 4);
        append_all(&writer, &payloads).await;
        assert_eq!(read_some(&mut reader, 4).await, payloads);
    }
    soon(writer.close()).await.unwrap();
    let writer = soon(client.open(&name)).await.unwrap();
    append_all(&writer, &numbered("x", 12..15)).await;
    assert_eq!(read_some(&mut reader, 3).await, numbered("x", 12..15));
}

#[tokio::test]
async fn lost_requests_and_lost_answers_record_each_part_once() {
    let cluster = Cluster::start(&NODES);
    let (client, name) = client_and_log(&cluster).await;
    let writer = soon(client.open(&name)).await.unwrap();
    for (round, recording) in [Recording::Lost, Recording::Unanswered].into_iter().enumerate() {
        cluster.record_parts(recording);
        let asked = cluster.parts_asked();
        let append = writer.append(format!("x{}", round * 2).as_bytes());
        until(|| cluster.parts_asked() >= asked + 2).await;
        assert_eq!(
            writer.status().committed,
            Offset(round as u64 * 2),
            "nobody has said that it is recorded"
        );
        cluster.record_parts(Recording::Fine);
        assert_eq!(soon(append).await.unwrap(), Offset(round as u64 * 2));
        append_all(&writer, &numbered("x", round * 2 + 1..round * 2 + 2)).await;
    }
    assert_eq!(cluster.parts_of(writer.log(), ZERO), 4);
    assert_eq!(everything(&client, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn appends_wait_while_the_store_is_away_and_are_refused_when_too_many_wait() {
    let cluster = Cluster::start(&NODES);
    let (_, name) = client_and_log(&cluster).await;
    let client = client(&cluster, |options| options.writer.retransmit_bytes = 1 << 20).await;
    let writer = soon(client.open(&name)).await.unwrap();
    append_all(&writer, &numbered("x", 0..1)).await;
    cluster.shared.parts.take_away();
    let append = writer.append("x1");
    let big = vec![7; 400 << 10];
    let waiting: Vec<_> = (0..2).map(|_| writer.append(&big)).collect();
    let full = soon(async {
        loop {
            match writer.append(&big).await {
                Err(Error::Overloaded { why, .. })
                    if why.contains("object store:") || why.contains("put a part") =>
                {
                    return why;
                }
                Err(Error::Overloaded { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert!(full.contains("objects"), "it says what is wrong: {full}");
    cluster.shared.parts.bring_back();
    assert_eq!(soon(append).await.unwrap(), Offset(1));
    for append in waiting {
        soon(append).await.unwrap();
    }
    soon(writer.ready()).await;
    assert_eq!(soon(writer.append("x4")).await.unwrap(), Offset(4));
}

/// The store of a cluster at the end of a slow line: it does not take larger parts in time.
struct Slow {
    objects: Objects,
    most: AtomicU64,
    /// Every part that was to be put, with its length.
    tried: Mutex<Vec<(PartName, u64)>>,
}

impl Slow {
    fn tried(&self, from: usize) -> Vec<(PartName, u64)> {
        self.tried.lock()[from..].to_vec()
    }
}

impl PartStore for Slow {
    fn cluster(&self) -> Nonce {
        self.objects.cluster()
    }

    async fn put_part(&self, name: &PartName, part: &EncodedPart) -> Result<Put, ObjectError> {
        self.tried.lock().push((*name, part.bytes));
        if part.bytes <= self.most.load(Ordering::Relaxed) {
            return self.objects.put_part(name, part).await;
        }
        let (url, limit) = (self.objects.url().to_owned(), Duration::from_secs(30));
        Err(ObjectError::TimedOut { action: "put", url, object: name.to_string(), limit })
    }
}

#[tokio::test]
async fn a_part_that_is_not_put_in_time_is_followed_by_smaller_ones_down_to_one_batch() {
    const MOST: u64 = 300 << 10;
    let cluster = Cluster::start(&NODES);
    let (first, name) = client_and_log(&cluster).await;
    let writer = soon(first.open(&name)).await.unwrap();
    let id = ProducerId::new(7).unwrap();
    assert_eq!(soon(writer.producer(id)).await.unwrap(), None);
    // The test does the uploads, with its own store.
    writer.background.abort();
    until(|| writer.background.is_finished()).await;
    let options = cluster.shared.parts.options();
    let objects = Objects::open(&options.url, Nonce(77), &S3Options::default()).unwrap();
    let slow = Slow { objects, most: AtomicU64::new(MOST), tried: Mutex::default() };
    let mut uploader = Uploader::new(&writer.shared, &writer.pool, writer.log(), &slow, &options);
    let work = async {
        let big = vec![7; 100 << 10];
        let producer = Some(Producer { id, sequence: 1 });
        let of = AppendOptions { producer, ..AppendOptions::default() };
        let appends: Vec<_> = (0..10).map(|_| writer.append_with(&big, &AppendOptions::default())).collect();
        let last = writer.append_with("last", &of);
        for (offset, append) in (0..).zip(appends) {
            assert_eq!(append.await.unwrap(), Offset(offset));
        }
        assert_eq!(last.await.unwrap(), Offset(10));
        let tried = slow.tried(0);
        assert!(tried[0].1 > 3 * MOST && tried[1].1 < tried[0].1, "{tried:?}");
        assert!(cluster.parts_of(writer.log(), ZERO) > 2);
        // No part is smaller than a batch, so one that is one batch stays as it is.
        slow.most.store(1_000, Ordering::Relaxed);
        let append = writer.append(&[7; 2_000]);
        until(|| slow.tried(tried.len()).len() > 2).await;
        let (name, bytes) = slow.tried(tried.len())[0];
        assert_eq!(slow.tried(tried.len())[2], (name, bytes));
        slow.most.store(MOST, Ordering::Relaxed);
        assert_eq!(append.await.unwrap(), Offset(11));
    };
    tokio::select! {
        _ = uploader.run() => panic!("it stopped"),
        () = soon(work) => {}
    }
    let table = cluster.shared.parts.producers().await;
    assert_eq!(table.last(id).map(|last| last.offset), Some(Offset(10)));
    assert_eq!(everything(&first, &name).await.len(), 12);
}

#[tokio::test]
async fn a_takeover_during_an_upload_leaves_it_out() {
    let cluster = Cluster::start(&NODES);
    let (first, name) = client_and_log(&cluster).await;
    let old = soon(first.open(&name)).await.unwrap();
    append_all(&old, &numbered("x", 0..2)).await;
    cluster.record_parts(Recording::Lost);
    let asked = cluster.parts_asked();
    let late = old.append("late");
    until(|| cluster.parts_asked() > asked).await;
    let new = soon(client(&cluster, |_| ()).await.take_over(&name)).await.unwrap();
    cluster.record_parts(Recording::Fine);
    let error = soon(late).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }) && !error.outcome_unknown(), "{error}");
    append_all(&new, &numbered("x", 2..4)).await;
    assert_eq!(everything(&first, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn a_takeover_keeps_a_part_whose_answer_was_lost_and_its_writer_learns_of_it() {
    let cluster = Cluster::start(&NODES);
    let (first, name) = client_and_log(&cluster).await;
    let old = soon(first.open(&name)).await.unwrap();
    append_all(&old, &numbered("x", 0..2)).await;
    cluster.record_parts(Recording::Unanswered);
    let pending = old.append("x2");
    until(|| cluster.parts_of(old.log(), ZERO) == 3).await;
    let new = soon(client(&cluster, |_| ()).await.take_over(&name)).await.unwrap();
    cluster.record_parts(Recording::Fine);
    assert_eq!(soon(pending).await.unwrap(), Offset(2));
    let error = soon(old.append("too late")).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { epoch: Epoch(2) }), "{error}");
    append_all(&new, &numbered("x", 3..4)).await;
    assert_eq!(everything(&first, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn a_part_whose_answer_was_lost_does_not_hold_up_the_next_segment() {
    let cluster = Cluster::start(&NODES);
    let (_, name) = client_and_log(&cluster).await;
    let client = client(&cluster, |options| options.writer.segment_bytes = 1).await;
    let writer = soon(client.open(&name)).await.unwrap();
    cluster.record_parts(Recording::Unanswered);
    // The roll waits for the archive, and learns of the part from the metadata.
    assert_eq!(soon(writer.append("x0")).await.unwrap(), Offset(0));
    until(|| writer.status().rolls == 1).await;
    let second = writer.append("x1");
    cluster.record_parts(Recording::Fine);
    assert_eq!(soon(second).await.unwrap(), Offset(1));
    append_all(&writer, &numbered("x", 2..4)).await;
    assert_eq!(everything(&client, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn producers_are_known_from_the_newest_part_and_stay_in_every_later_one() {
    let cluster = Cluster::start(&NODES);
    let (first, name) = client_and_log(&cluster).await;
    let id = ProducerId::new(7).unwrap();
    let of =
        |sequence| AppendOptions { producer: Some(Producer { id, sequence }), ..AppendOptions::default() };
    let writer = soon(first.open(&name)).await.unwrap();
    append_all(&writer, &numbered("x", 0..1)).await;
    assert_eq!(soon(writer.producer(id)).await.unwrap(), None);
    assert_eq!(soon(writer.append_with("x1", &of(5))).await.unwrap(), Offset(1));
    let writer = soon(client(&cluster, |_| ()).await.take_over(&name)).await.unwrap();
    append_all(&writer, &numbered("x", 2..3)).await;
    let table = cluster.shared.parts.producers().await;
    assert_eq!(table.last(id).map(|last| last.offset), Some(Offset(1)), "a plain part keeps the table");
    let last = soon(writer.producer(id)).await.unwrap().unwrap();
    assert_eq!((last.sequence, last.offset), (5, Offset(1)));
    assert_eq!(soon(writer.append_with("again", &of(5))).await.unwrap(), Offset(1));
    assert_eq!(soon(writer.append_with("x3", &of(6))).await.unwrap(), Offset(3));
    let wrong = AppendOptions { expected_offset: Some(Offset(9)), ..AppendOptions::default() };
    let error = soon(writer.append_with("no", &wrong)).await.unwrap_err();
    assert!(matches!(error, Error::OffsetMismatch { actual: Offset(4), .. }), "{error}");
    assert_eq!(everything(&first, &name).await, numbered("x", 0..4));
}

#[tokio::test]
async fn a_client_without_a_store_is_refused_before_anything_is_changed() {
    let cluster = Cluster::start(&NODES);
    let (with, name) = client_and_log(&cluster).await;
    let writer = soon(with.open(&name)).await.unwrap();
    let without = client(&cluster, |options| options.store = None).await;
    for refused in [soon(without.open(&name)).await, soon(without.take_over(&name)).await] {
        let error = refused.expect_err("it has no store");
        assert!(matches!(error, Error::Setting { setting: "store", .. }), "{error}");
    }
    cluster.shared.parts.take_away();
    let elsewhere = client(&cluster, |_| ()).await;
    let error = soon(elsewhere.take_over(&name)).await.expect_err("its store is away");
    assert!(matches!(error, Error::Store(_) | Error::Setting { setting: "store", .. }), "{error}");
    cluster.shared.parts.bring_back();
    append_all(&writer, &numbered("x", 0..1)).await;
    assert_eq!(soon(without.check_tail(&name)).await.unwrap(), Offset(1), "everybody may read");
}

#[tokio::test]
async fn a_writer_counts_as_gone_when_nothing_is_recorded_for_long_enough() {
    let cluster = Cluster::start(&NODES);
    let (_, name) = client_and_log(&cluster).await;
    let writing = client(&cluster, |options| options.writer_timeout = Duration::from_secs(600)).await;
    let writer = soon(writing.open(&name)).await.unwrap();
    let patient = client(&cluster, |options| options.writer_timeout = Duration::from_secs(600)).await;
    let busy = async {
        for at in 0.. {
            writer.append(format!("x{at}").as_bytes()).await.unwrap();
        }
    };
    let held = tokio::select! {
        opened = soon(patient.open(&name)) => opened.expect_err("its writer is at work"),
        () = busy => unreachable!("it never ends"),
    };
    assert!(matches!(held, Error::Held { .. }), "{held}");
    drop(writer);
    let hasty = client(&cluster, |options| options.writer_timeout = Duration::from_millis(50)).await;
    let next = soon(hasty.open(&name)).await.unwrap();
    assert_eq!(next.epoch(), Epoch(2));
}

#[tokio::test]
async fn an_idle_writer_parks_before_others_take_it_for_gone() {
    let cluster = Cluster::start(&NODES);
    let (_, name) = client_and_log(&cluster).await;
    let client = client(&cluster, |options| options.writer_timeout = Duration::from_millis(100)).await;
    let writer = soon(client.open(&name)).await.unwrap();
    for round in 0..3 {
        until(|| writer.status().parked).await;
        append_all(&writer, &numbered("x", round..round + 1)).await;
    }
    assert_eq!(everything(&client, &name).await, numbered("x", 0..3));
}
