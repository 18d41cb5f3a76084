//! Batches are cut into entries, and what does not continue is found.

use super::super::batches::{Batch, Position, Sequence};
use crate::{Error, Headers};
use bytes::Bytes;
use piculet_quorum::batch::{BatchBuilder, BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, LogId, Offset, SegmentNumber, Timestamp};

const PLACE: Place = Place { log: LogId(7), segment: SegmentNumber(2), epoch: Epoch(3) };
const START: BatchEnd = BatchEnd { chain: Chain(11), last_timestamp: Timestamp(5) };

/// Batches of so many entries each, behind one another.
fn batches(counts: &[u64]) -> Vec<Bytes> {
    let (mut before, mut first) = (START, 0);
    let mut all = Vec::new();
    for count in counts {
        let (mut builder, mut body) = (BatchBuilder::new(before), Vec::new());
        for index in first..first + count {
            builder.push(&[], format!("entry {index}").as_bytes(), Timestamp(100 + index), &mut body);
        }
        let header = builder.header(Index(first), body.len()).encode(&PLACE);
        all.push([&header[..], &body].concat().into());
        (before, first) = (builder.end(), first + count);
    }
    all
}

fn at_start() -> Position {
    Position { index: Index(0), chain: Some(START.chain), last_timestamp: START.last_timestamp }
}

fn take(at: Position, bytes: impl Into<Bytes>) -> Result<Vec<Batch>, Error> {
    let mut taken = Vec::new();
    Sequence::new(PLACE, Offset(1000), at).take(bytes.into(), |batch| taken.push(batch))?;
    Ok(taken)
}

fn offsets(batches: &[Batch]) -> Vec<u64> {
    batches.iter().flat_map(|batch| &batch.entries).map(|entry| entry.offset.0).collect()
}

#[test]
fn entries_share_the_bytes_that_came() {
    let bytes = Bytes::from(batches(&[2, 1, 3]).concat());
    let taken = take(at_start(), bytes.clone()).unwrap();
    assert_eq!(offsets(&taken), (1000..1006).collect::<Vec<_>>());
    for (index, entry) in taken.iter().flat_map(|batch| &batch.entries).enumerate() {
        assert_eq!(entry.payload, format!("entry {index}"));
        assert_eq!(entry.timestamp, Timestamp(100 + index as u64));
        assert!(bytes.as_ptr_range().contains(&entry.payload.as_ptr()), "nothing was copied");
    }
    assert_eq!(taken.iter().map(|batch| batch.end.index.0).collect::<Vec<_>>(), [2, 3, 6]);
    assert_eq!(taken.iter().map(|batch| batch.bytes).sum::<usize>(), bytes.len());
}

/// A batch of one entry with these encoded headers.
fn with_headers(encoded: &[u8]) -> Vec<u8> {
    let (mut builder, mut body) = (BatchBuilder::new(START), Vec::new());
    builder.push(&[], b"first", Timestamp(100), &mut body);
    builder.push(encoded, b"payload", Timestamp(100), &mut body);
    [&builder.header(Index(0), body.len()).encode(&PLACE)[..], &body].concat()
}

#[test]
fn headers_are_cut_out_and_their_form_is_checked() {
    let mut headers = Headers::default();
    headers.push("id", b"7").unwrap();
    headers.push("id", b"").unwrap();
    headers.push("kind", b"x").unwrap();
    let taken = take(at_start(), with_headers(headers.encoded())).unwrap();
    let [first, second] = &taken[0].entries[..] else { panic!("two entries") };
    assert_eq!((first.headers().count(), &first.payload[..]), (0, &b"first"[..]));
    let found: Vec<_> = second.headers().collect();
    assert_eq!(found, [("id", &b"7"[..]), ("id", b""), ("kind", b"x")]);
    assert_eq!((second.header("kind"), second.header("none")), (Some(&b"x"[..]), None));
    assert_eq!(&second.payload[..], b"payload");

    let cut_off = &headers.encoded()[..headers.encoded().len() - 1];
    let error = take(at_start(), with_headers(cut_off)).unwrap_err();
    let Error::Damaged { index, what, .. } = &error else { panic!("{error}") };
    assert_eq!(*index, Index(1));
    assert!(what.contains("the value is cut off"), "{what}");
}

#[test]
fn a_reader_may_begin_within_a_batch_and_goes_on_behind_one() {
    let all = batches(&[2, 4, 3]);
    let middle = Position { index: Index(4), chain: None, last_timestamp: Timestamp(0) };
    let taken = take(middle, all.concat()).unwrap();
    assert_eq!(offsets(&taken), (1004..1009).collect::<Vec<_>>());
    // What was shown before is passed over when it comes again.
    let behind = take(at_start(), all[0].clone()).unwrap()[0].end;
    assert_eq!(offsets(&take(behind, all.concat()).unwrap()), (1002..1009).collect::<Vec<_>>());
    assert_eq!(take(behind, all[0].clone()).unwrap(), []);
}

#[test]
fn what_does_not_continue_is_damage() {
    let all = batches(&[2, 4, 3]);
    let behind = take(at_start(), all[0].clone()).unwrap()[0].end;
    let across = Position { index: Index(3), ..behind };
    let other_chain = Position { chain: Some(Chain(1)), ..behind };
    let later = Position { last_timestamp: Timestamp(5000), ..behind };
    let mut flipped = all[1].to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    for (what, at, bytes) in [
        ("a gap", behind, all[2].to_vec()),
        ("a batch across the place", across, all[1].to_vec()),
        ("another chain", other_chain, all[1].to_vec()),
        ("time runs backwards", later, all[1].to_vec()),
        ("a flipped bit", behind, flipped),
        ("half a header", behind, all[1][..39].to_vec()),
        ("half a body", behind, all[1][..50].to_vec()),
        ("noise", behind, vec![0x5a; 100]),
    ] {
        let error = take(at, bytes).expect_err(what);
        assert!(matches!(error, Error::Damaged { segment: SegmentNumber(2), .. }), "{what}: {error}");
    }
}
