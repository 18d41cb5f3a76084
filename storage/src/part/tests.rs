use super::*;
use crate::fixture::{Batch, Batches, PLACE};
use piculet_quorum::batch::BatchError;
use piculet_quorum::ids::{Chain, Epoch, Timestamp};
use piculet_quorum::producers::{Producer, ProducerId};
use proptest::prelude::*;

fn rows(first: u64, lengths: &[&[usize]]) -> (PartHeader, Vec<Batch>) {
    let mut batches = Batches::new(first);
    let (start, before) = (batches.next, batches.before);
    let made: Vec<_> = lengths.iter().map(|lengths| batches.next(lengths)).collect();
    let BatchEnd { chain, last_timestamp } = batches.before;
    let header = PartHeader {
        cluster: Nonce(0xc1),
        place: PLACE,
        level: Level::Memory,
        base: Offset(5000),
        first: start,
        before,
        at: SegmentEnd { end: batches.next, chain, last_timestamp },
    };
    (header, made)
}

fn pieces(batches: &[Batch]) -> Vec<Bytes> {
    batches.iter().map(|batch| batch.bytes.clone()).collect()
}

fn object(header: &PartHeader, batches: &[Bytes]) -> Bytes {
    let part = encode(header, Producers::default(), batches).unwrap();
    let bytes = Bytes::from(part.pieces.concat());
    assert_eq!(bytes.len() as u64, part.bytes);
    bytes
}

/// Puts the header's own checksum right after it was tampered with.
fn resealed(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&bytes[..144]);
    bytes[144..148].copy_from_slice(&crc.to_le_bytes());
    Bytes::from(bytes)
}

#[test]
fn the_bytes_of_a_part_are_fixed() {
    let (header, batches) = rows(100, &[&[3], &[0, 5]]);
    let mut table = Producers::default();
    table.fold(producer(7, 9), Offset(5002));
    let bytes = encode(&header, table, &pieces(&batches)).unwrap().pieces.concat();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN.concat());
    assert_eq!(
        header.name().to_string(),
        "log/000000000000beef/seg/00000000000000000007/\
         00000000000000000100-00000000000000000103-34b2686ecbd225aaa0a02ade5892c09e-e2.part"
    );
}

/// Header in two pieces, the two batches, index, table of producers, footer.
#[rustfmt::skip]
const GOLDEN: [&str; 7] = [
    "504943554c4554500200000002000000c1000000000000000000000000000000efbe000000000000070000000000000003000000000000000100000000000000",
    "881300000000000064000000000000006700000000000000edfe00000000000000000000000000009ec09258de2aa0a0aa25d2cb6e68b234e803000000000000e903000000000000a00000000000000011b3d98c",
    "1b000000010000006400000000000000edfe00000000000000000000000000009993b6dd00000000235d395803000000e8030000000000000000000000000000c4c5c6",
    "35000000020000006500000000000000e39d43cb38de572e6ef1bed9265d15b046ff3ed80000000060c8565800000000e80300000000000000000000000000005ce45c1d05000000e9030000000000000000000000000000a4a5a6a7a8",
    "64000000000000009400000000000000e803000000000000",
    "070000000000000009000000000000008a13000000000000",
    "34010000000000001800000000000000dc01fecd662e72059c0100000000000018000000528ac44800000000d02b17df504943554c455445",
];

#[test]
fn a_part_comes_back_from_every_index() {
    let (header, batches) = rows(10, &[&[3, 4], &[9], &[0, 0, 70_000], &[1]]);
    let part = decode(object(&header, &pieces(&batches))).unwrap();
    assert_eq!(part.header(), &header);
    for (n, batch) in batches.iter().enumerate() {
        for index in batch.header.first.0..batch.header.end().0 {
            let run = part.batches_from(Index(index)).unwrap();
            assert_eq!((run.first, run.before), (batch.header.first, batch.before));
            assert_eq!((run.end, run.end_chain), (header.at.end, batches[3].end));
            assert_eq!(run.pieces.concat(), pieces(&batches[n..]).concat());
            assert_eq!(run.bytes, run.pieces.concat().len());
        }
    }
    assert_eq!(part.batches_from(Index(9)), None);
    assert_eq!(part.batches_from(header.at.end), None);
    let two = part.read(Index(11), header.at.end, batches[0].bytes.len() + batches[1].bytes.len()).unwrap();
    assert_eq!((two.first, two.end), (Index(10), Index(13)));
}

#[test]
fn the_index_has_an_entry_for_every_64_kib() {
    let lengths = [30_000; 9];
    let lengths: Vec<&[usize]> = lengths.iter().map(std::slice::from_ref).collect();
    let (header, batches) = rows(0, &lengths);
    let bytes = object(&header, &pieces(&batches));
    let footer = Footer::decode(&bytes[bytes.len() - FOOTER_BYTES..]).unwrap();
    let index = &bytes[footer.index_at as usize..][..footer.index_len as usize];
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let entries: Vec<_> = index
        .chunks(INDEX_ENTRY_BYTES)
        .map(|e| (number(&e[..8]), number(&e[8..16]), number(&e[16..])))
        .collect();
    let expected = [0, 3, 6].map(|n: u64| {
        let before = batches[n as usize].before.last_timestamp.0;
        (n, HEADER_BYTES as u64 + n * batches[0].bytes.len() as u64, before)
    });
    assert_eq!(entries, expected);
}

#[test]
fn batches_that_do_not_check_out_are_never_encoded() {
    let (header, batches) = rows(10, &[&[3], &[4], &[5]]);
    let whole = pieces(&batches);
    let fails = |what: &str, header: &PartHeader, pieces: &[Bytes]| {
        encode(header, Producers::default(), pieces).expect_err(what)
    };
    let at = header.at;

    let mut damaged = whole[1].to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let error = fails("a flipped bit", &header, &[whole[0].clone(), damaged.into(), whole[2].clone()]);
    let expected = |error| matches!(error, BatchError::EntryChecksum { .. });
    assert!(
        matches!(&error, PartError::Batches(RowError::Batch { at: Index(11), error }) if expected(error.clone())),
        "{error}"
    );
    let error = fails("a missing batch", &header, &[whole[0].clone(), whole[2].clone()]);
    assert!(matches!(error, PartError::Batches(RowError::Gap { .. })), "{error}");
    let error = fails("a cut batch", &header, &[whole.concat()[..whole.concat().len() - 1].to_vec().into()]);
    assert_eq!(error, PartError::Batches(RowError::Cut { at: Index(12) }));
    let other = BatchEnd { chain: Chain(1), ..header.before };
    let error = fails("another chain before", &PartHeader { before: other, ..header.clone() }, &whole);
    assert!(matches!(error, PartError::Batches(RowError::Chain { .. })), "{error}");
    let later = BatchEnd { last_timestamp: Timestamp(u64::MAX), ..header.before };
    let late_end = SegmentEnd { last_timestamp: Timestamp(u64::MAX), ..at };
    fails("a later timestamp before", &PartHeader { before: later, at: late_end, ..header.clone() }, &whole);
    let elsewhere = PartHeader { place: Place { epoch: Epoch(4), ..PLACE }, ..header.clone() };
    fails("another epoch", &elsewhere, &whole);
    for (what, wrong) in [
        ("a longer range", SegmentEnd { end: at.end.plus(1), ..at }),
        ("a shorter range", SegmentEnd { end: Index(12), ..at }),
        ("another end chain", SegmentEnd { chain: Chain(1), ..at }),
        ("another last timestamp", SegmentEnd { last_timestamp: at.last_timestamp.plus(1), ..at }),
        ("an empty range", SegmentEnd { end: header.first, ..at }),
    ] {
        let error = fails(what, &PartHeader { at: wrong, ..header.clone() }, &whole);
        assert!(matches!(error, PartError::Field { .. }), "{what}: {error}");
    }
    fails("no batch", &header, &[]);
    fails("too many offsets", &PartHeader { base: Offset(u64::MAX - 5), ..header.clone() }, &whole);
}

#[test]
fn later_versions_are_told_apart_from_damage() {
    let (header, batches) = rows(10, &[&[3]]);
    let bytes = object(&header, &pieces(&batches));
    for (at, what) in [(8, "format version"), (12, "encoder version"), (60, "header flags")] {
        let mut later = bytes.to_vec();
        later[at] += 1;
        let error = decode(resealed(later)).unwrap_err();
        assert!(matches!(&error, PartError::Version { what: found, .. } if *found == what), "{error}");
    }
    let mut level = bytes.to_vec();
    level[56] = 9;
    let error = decode(resealed(level)).unwrap_err();
    assert!(matches!(error, PartError::Field { what: "durability", .. }), "{error}");
}

#[test]
fn numbers_that_would_overflow_are_refused() {
    let (header, batches) = rows(10, &[&[3]]);
    let bytes = object(&header, &pieces(&batches));
    for field in [64, 72, 80, 120, 136] {
        let mut wrong = bytes.to_vec();
        wrong[field..field + 8].fill(0xff);
        decode(resealed(wrong)).expect_err("a field of all ones");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let (header, batches) = rows(10, &[&[3, 9], &[4]]);
    let bytes = object(&header, &pieces(&batches));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(Bytes::from(damaged)).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(decode(bytes.slice(..len)).is_err(), "cut to {len}");
    }
    assert!(decode(Bytes::from([&bytes[..], b"x"].concat())).is_err(), "a byte behind it");
}

fn producer(id: u64, sequence: u64) -> Producer {
    Producer { id: ProducerId::new(id).unwrap(), sequence }
}

/// A part of these entries, all of one length and each a batch, behind this table.
fn part_of(producers: &[Option<Producer>], before: &Producers) -> (PartHeader, EncodedPart) {
    let mut batches = Batches::new(10);
    let start = batches.before;
    let made: Vec<_> = producers.iter().map(|producer| batches.next_of(producer.as_ref(), &[5])).collect();
    let BatchEnd { chain, last_timestamp } = batches.before;
    let at = SegmentEnd { end: batches.next, chain, last_timestamp };
    let header = PartHeader { before: start, at, ..rows(10, &[&[1]]).0 };
    let part = encode(&header, before.clone(), &pieces(&made)).unwrap();
    (header, part)
}

#[test]
fn a_part_has_the_table_of_producers_at_its_end() {
    let mut table = Producers::default();
    table.fold(producer(7, 1), Offset(3));
    table.fold(producer(8, 1), Offset(4));
    let (header, part) = part_of(&[Some(producer(7, 2)), None, Some(producer(9, 1))], &table);
    table.fold(producer(7, 2), Offset(5010));
    table.fold(producer(9, 1), Offset(5012));
    assert_eq!(part.producers, table);
    let object = part.pieces.concat();
    assert!(decode(object.clone().into()).is_ok());
    let name = header.name();
    for tail in [&object[..], &object[object.len() - FOOTER_BYTES - 3 * 24..]] {
        assert_eq!(decode_producers(&name, tail, part.bytes), Ok(table.clone()));
    }
    // What is cut off, of another length, of another part or damaged is no table.
    let tail = &object[object.len() - FOOTER_BYTES - 3 * 24..];
    assert!(decode_producers(&name, &tail[1..], part.bytes).is_err());
    assert!(decode_producers(&name, &tail[tail.len() - FOOTER_BYTES + 1..], part.bytes).is_err());
    assert!(decode_producers(&name, tail, part.bytes + 1).is_err());
    assert!(decode_producers(&PartName { end: Index(12), ..name }, tail, part.bytes).is_err());
    for bit in 0..tail.len() * 8 {
        let mut damaged = tail.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_producers(&name, &damaged, part.bytes).is_err(), "bit {bit} of the tail");
        let whole = [&object[..object.len() - tail.len()], &damaged].concat();
        assert!(decode(whole.into()).is_err(), "bit {bit} of the tail, of the whole part");
    }
}

#[test]
fn an_object_longer_than_any_part_is_refused() {
    let long = Bytes::from(vec![0; PART_OBJECT_BYTES_MAX as usize + 1]);
    let error = decode(long).unwrap_err();
    assert!(matches!(error, PartError::Length { .. }), "{error}");
}

proptest! {
    /// However entries are cut into parts, each of which starts with the table of the one before, the
    /// table at the end is that of all entries.
    #[test]
    fn the_table_does_not_depend_on_where_parts_are_cut(
        entries in prop::collection::vec(prop::option::of((1_u64..4, 0_u64..9)), 1..20),
        cut in 1..20_usize,
    ) {
        let entries: Vec<_> = entries.iter().map(|entry| entry.map(|(id, at)| producer(id, at))).collect();
        let mut expected = Producers::default();
        for (at, entry) in entries.iter().enumerate() {
            if let Some(producer) = entry {
                expected.fold(*producer, Offset(5010 + at as u64));
            }
        }
        let mut batches = Batches::new(10);
        let mut table = Producers::default();
        for part in entries.chunks(cut) {
            let (first, before) = (batches.next, batches.before);
            let made: Vec<_> = part.iter().map(|producer| batches.next_of(producer.as_ref(), &[2])).collect();
            let BatchEnd { chain, last_timestamp } = batches.before;
            let at = SegmentEnd { end: batches.next, chain, last_timestamp };
            let header = PartHeader { first, before, at, ..rows(10, &[&[1]]).0 };
            table = encode(&header, table, &pieces(&made)).unwrap().producers;
        }
        prop_assert_eq!(table, expected);
    }

    #[test]
    fn the_encoding_does_not_depend_on_how_batches_are_cut(
        lengths in prop::collection::vec(prop::collection::vec(0..200_usize, 1..4), 1..8),
        piece in 1..300_usize,
    ) {
        let lengths: Vec<&[usize]> = lengths.iter().map(Vec::as_slice).collect();
        let (header, batches) = rows(3, &lengths);
        let whole = Bytes::from(pieces(&batches).concat());
        let cuts: Vec<_> =
            (0..whole.len()).step_by(piece).map(|at| whole.slice(at..whole.len().min(at + piece))).collect();
        let bytes = object(&header, &cuts);
        prop_assert_eq!(&bytes, &object(&header, &pieces(&batches)));
        let part = decode(bytes).unwrap();
        prop_assert_eq!(part.batches_from(header.first).unwrap().pieces.concat(), whole);
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode(Bytes::from(bytes)).is_err());
    }

    #[test]
    fn mutated_parts_are_refused(
        lengths in prop::collection::vec(0..200_usize, 1..6),
        at: prop::sample::Index,
        with in prop::collection::vec(any::<u8>(), 1..40),
        cut: bool,
        reseal: bool,
    ) {
        let (header, batches) = rows(3, &[&lengths, &[1]]);
        let bytes = object(&header, &pieces(&batches));
        let mut mutated = bytes.to_vec();
        let at = at.index(mutated.len());
        let end = mutated.len().min(at + with.len());
        if cut {
            mutated.drain(at..end);
        } else {
            mutated[at..end].copy_from_slice(&with[..end - at]);
        }
        let mutated = if reseal && mutated.len() >= HEADER_BYTES { resealed(mutated) } else { mutated.into() };
        // Cluster, durability and base are vouched for by the header's checksum alone.
        match decode(mutated.clone()) {
            Ok(part) if mutated != bytes => {
                prop_assert!(reseal);
                let PartHeader { cluster, base, .. } = part.header().clone();
                prop_assert_eq!(part.header(), &PartHeader { cluster, base, ..header });
            }
            Ok(_) => {}
            Err(_) => prop_assert!(mutated != bytes),
        }
    }
}
