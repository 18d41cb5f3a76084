//! What every object store must do for parts to be safe in it. The same suite is run against each
//! kind of store; it panics, saying what is wrong, as tests do.

use crate::objects::{ObjectError, Objects, Probe, Put};
use crate::part::{self, EncodedPart, PartHeader};
use bytes::Bytes;
use piculet_quorum::batch::{BatchBuilder, BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, Level, LogId, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::SegmentEnd;
use piculet_quorum::producers::{Producer, ProducerId, Producers};

/// Runs the whole suite. `honours` says whether the store is known to honour `If-None-Match: *`.
/// What it writes it deletes again; a fresh random log keeps it apart from what else is there.
pub async fn check(objects: &Objects, honours: bool) {
    assert!(!objects.conditional_put(), "nothing is assumed before the probe");
    let probe = objects.probe().await.expect("the probe succeeds");
    assert_eq!(probe, Probe { conditional_put: honours });
    assert_eq!(objects.conditional_put(), honours);
    let mut log = [0; 8];
    getrandom::fill(&mut log).expect("random bytes");
    let log = LogId(u64::from_le_bytes(log));
    check_parts(objects, log).await;
    check_races(objects, log, honours).await;
    check_large(objects, log).await;
    assert_eq!(listed(objects, log).await, [], "the suite leaves nothing behind");
}

/// One part through its whole life.
async fn check_parts(objects: &Objects, log: LogId) {
    let (header, part) = sample(objects, log, 0, &[b"one", b"", b"three"]);
    let name = header.name();
    assert_missing(objects.get_part(&name).await.map(|_| ()));
    objects.delete(&name).await.expect("a missing part may be deleted");
    assert_eq!(objects.put_part(&name, &part).await.expect("it is put"), Put::Created);
    assert_eq!(objects.put_part(&name, &part).await.expect("it is put again"), Put::AlreadyThere);

    let read = objects.get_part(&name).await.expect("it is read");
    assert_eq!(read.header(), &header);
    let producers = objects.get_producers(&name, part.bytes).await.expect("its end is read");
    assert!(producers == part.producers && producers.len() == 2);
    let longer = objects.get_producers(&name, part.bytes + 1).await.expect_err("it is not that long");
    assert!(!matches!(longer, ObjectError::NotFound { .. }), "{longer}");
    let run = read.batches_from(Index(0)).expect("it has a first batch");
    assert_eq!(run.pieces.concat(), part.pieces[1], "the batches come back as they were");

    // The same name, but another offset of the segment: nothing but a bug makes such a part.
    let (other_header, other) = sample(objects, log, 1000, &[b"one", b"", b"three"]);
    assert_eq!(other_header.name(), name);
    let refused = objects.put_part(&name, &other).await.expect_err("another content is refused");
    assert!(matches!(refused, ObjectError::Different { .. }), "{refused}");
    assert_eq!(objects.get_part(&name).await.expect("it is read").header(), &header, "the first one stays");

    assert_eq!(listed(objects, log).await, [(name.to_string(), part.bytes)]);
    objects.delete(&name).await.expect("it is deleted");
    objects.delete(&name).await.expect("it is deleted again");
    assert_missing(objects.get_part(&name).await.map(|_| ()));
    assert_missing(objects.get_producers(&name, part.bytes).await.map(|_| ()));
}

/// Several uploaders at once: everybody succeeds, and where the store honours the condition exactly
/// one of them created it.
async fn check_races(objects: &Objects, log: LogId, honours: bool) {
    for round in 0..4 {
        let (header, part) = sample(objects, log, 0, &[format!("round {round}").as_bytes()]);
        let name = header.name();
        let puts = futures::future::join_all((0..8).map(|_| objects.put_part(&name, &part))).await;
        let created = puts.into_iter().map(|put| put.expect("it is put")).filter(|put| *put == Put::Created);
        let created = created.count();
        assert!(if honours { created == 1 } else { created >= 1 }, "{created} created it");
        objects.get_part(&name).await.expect("it is whole");
        objects.delete(&name).await.expect("it is deleted");
    }
}

/// A part of the usual size.
async fn check_large(objects: &Objects, log: LogId) {
    let payload: Vec<u8> = (0..9_u32 << 20).map(|i| (i / 7) as u8).collect();
    let (header, part) = sample(objects, log, 0, &[&payload]);
    let name = header.name();
    assert_eq!(objects.put_part(&name, &part).await.expect("it is put"), Put::Created);
    objects.get_part(&name).await.expect("it is read and sound");
    objects.delete(&name).await.expect("it is deleted");
}

async fn listed(objects: &Objects, log: LogId) -> Vec<(String, u64)> {
    let mut all = objects.list().await.expect("it is listed");
    all.retain(|part| part.name.log == log);
    all.sort_by_key(|part| part.name);
    let mut own = objects.list_log(log).await.expect("it is listed");
    own.sort_by_key(|part| part.name);
    assert_eq!(all, own, "a listing of one log shows all of its parts, and only those");
    own.into_iter().map(|part| (part.name.to_string(), part.bytes)).collect()
}

fn assert_missing(result: Result<(), ObjectError>) {
    let error = result.expect_err("it is not there");
    assert!(matches!(error, ObjectError::NotFound { .. }), "{error}");
}

/// A table of two producers.
fn table(base: u64) -> Producers {
    let mut table = Producers::default();
    for at in 0..2 {
        let id = ProducerId::new(at + 1).expect("not 0");
        table.fold(Producer { id, sequence: 7 }, Offset(base + at));
    }
    table
}

/// A part with one batch of these payloads, for a segment that starts at `base`.
pub(crate) fn sample(
    objects: &Objects,
    log: LogId,
    base: u64,
    payloads: &[&[u8]],
) -> (PartHeader, EncodedPart) {
    let place = Place { log, segment: SegmentNumber(3), epoch: Epoch(2) };
    let before = BatchEnd { chain: Chain(5), last_timestamp: Timestamp(1_700_000_000_000) };
    let (mut builder, mut body) = (BatchBuilder::new(before), Vec::new());
    for payload in payloads {
        builder.push(&[], payload, before.last_timestamp, &mut body);
    }
    let batch = builder.header(Index(0), body.len());
    let bytes = [&batch.encode(&place)[..], &body].concat();
    let BatchEnd { chain, last_timestamp } = builder.end();
    let header = PartHeader {
        cluster: objects.cluster(),
        place,
        level: Level::Memory,
        base: Offset(base),
        first: Index(0),
        before,
        at: SegmentEnd { end: batch.end(), chain, last_timestamp },
    };
    let part = part::encode(&header, table(base), &[Bytes::from(bytes)]).expect("a sound part");
    (header, part)
}
