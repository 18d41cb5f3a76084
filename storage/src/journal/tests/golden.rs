//! The bytes of everything that is written. A change here is a change of the format.

use super::driver::CLUSTER;
use crate::fixture::{Batches, PLACE};
use crate::journal::parse::{Parsed, parse};
use crate::journal::record::{
    Change, FILE_HEADER_BYTES, FileHeader, Gather, RECORD_HEADER_BYTES, Record, Stamp,
};
use crate::journal::{Location, Manifest};
use bytes::Bytes;
use piculet_quorum::batch::BatchEnd;
use piculet_quorum::ids::{Chain, Epoch, Index, LogId, Timestamp};

const HEADER: FileHeader = FileHeader { cluster: CLUSTER, generation: 5, bytes: 4096, salt: 0x5a17 };
const SYNCED: Location = Location { generation: 4, offset: 0x1234 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(record: Record<'_>) -> Vec<u8> {
    let mut gather = Gather::default();
    gather.put(record, &Stamp { generation: 5, salt: HEADER.salt, synced: SYNCED });
    let len = gather.len();
    let bytes = gather.take().concat();
    assert_eq!(bytes.len() as u64, len);
    bytes
}

#[test]
fn the_header_of_a_file() {
    let bytes = HEADER.encode();
    assert_eq!(
        hex(&bytes),
        "504943554c45544a0100000008684bef05c1000000000000000000000000000005000000000000000010000000000000175a0000000000000000000000000000"
    );
    assert_eq!(FileHeader::decode(&bytes), Ok(HEADER));
    for bit in 0..FILE_HEADER_BYTES * 8 {
        let mut bad = bytes;
        bad[bit / 8] ^= 1 << (bit % 8);
        FileHeader::decode(&bad).expect_err("a bit has turned over");
    }
}

#[test]
fn every_kind_of_record() {
    let end = BatchEnd { chain: Chain(0xcc), last_timestamp: Timestamp(0x77) };
    let manifest = Manifest {
        head: Index(2),
        tail: Index(9),
        repaired_from: Some(Index(8)),
        at_tail: BatchEnd { chain: Chain(0xdd), ..end },
        ..Manifest::new(PLACE, Index(2), end)
    };
    let changes = [
        (
            Change::Segment(manifest),
            "68a60745d5deb0be600000000100000005000000000000003412000004000000\
             efbe000000000000070000000000000003000000000000000200000000000000\
             cc00000000000000000000000000000077000000000000000900000000000000\
             dd00000000000000000000000000000077000000000000000800000000000000",
        ),
        (
            Change::Segment(Manifest { repaired_from: None, ..manifest }),
            "011d39ae4223c438600000000100000005000000000000003412000004000000\
             efbe000000000000070000000000000003000000000000000200000000000000\
             cc00000000000000000000000000000077000000000000000900000000000000\
             dd0000000000000000000000000000007700000000000000ffffffffffffffff",
        ),
        (
            Change::Jump { place: PLACE, start: Index(3), before: end },
            "0aa93e4496bf81d0380000000300000005000000000000003412000004000000\
             efbe000000000000070000000000000003000000000000000300000000000000\
             cc0000000000000000000000000000007700000000000000",
        ),
        (
            Change::Fence { log: LogId(1), epoch: Epoch(2) },
            "6dd10e395a6d0422100000000400000005000000000000003412000004000000\
             01000000000000000200000000000000",
        ),
        (
            Change::ForgetLog { log: LogId(1) },
            "9b68ccedadcf14c5080000000500000005000000000000003412000004000000\
             0100000000000000",
        ),
        (
            Change::Freed { place: PLACE, index: Index(3), before: end },
            "438072ae96bf81d0380000000600000005000000000000003412000004000000\
             efbe000000000000070000000000000003000000000000000300000000000000\
             cc0000000000000000000000000000007700000000000000",
        ),
        (
            Change::Drop { place: PLACE },
            "75d994ca67ccf730180000000700000005000000000000003412000004000000\
             efbe00000000000007000000000000000300000000000000",
        ),
    ];
    for (change, golden) in changes {
        let bytes = encoded(Record::Change(&change));
        assert_eq!(change.record_bytes(), bytes.len() as u64);
        check(&bytes, golden, &Parsed::Change(change));
    }
    let checkpoint = Record::Checkpoint { segments: 1, fences: 2 };
    check(
        &encoded(checkpoint),
        "80c4f25b5a6d0422100000000800000005000000000000003412000004000000\
             01000000000000000200000000000000",
        &Parsed::Checkpoint { segments: 1, fences: 2 },
    );
    check(
        &encoded(Record::Seal),
        "349e307100000000000000000900000005000000000000003412000004000000",
        &Parsed::Seal,
    );
    check(
        &encoded(Record::End),
        "f386f42800000000000000000a00000005000000000000003412000004000000",
        &Parsed::End,
    );
}

#[test]
fn a_batch_however_it_is_cut() {
    let mut batches = Batches::new(0);
    let batch = batches.next(&[3]);
    let offset = (FILE_HEADER_BYTES + RECORD_HEADER_BYTES + 32) as u64;
    let parsed = Parsed::Batch { place: PLACE, repair: true, offset, bytes: batch.bytes.clone() };
    for cut in 0..batch.bytes.len() {
        let bytes = vec![batch.bytes.slice(..cut), batch.bytes.slice(cut..)];
        let change =
            Change::Batch { place: PLACE, repair: true, end: batches.next, at_end: batch.end, bytes };
        let bytes = encoded(Record::Change(&change));
        assert_eq!(change.record_bytes(), bytes.len() as u64);
        check(
            &bytes,
            "56bf712065733225630000000200000005000000000000003412000004000000\
             efbe000000000000070000000000000003000000000000000100000000000000\
             1b000000010000000000000000000000edfe0000000000000000000000000000\
             4af69f2c0000000059e2ecc403000000e8030000000000000000000000000000\
             0001020000000000",
            &parsed,
        );
    }
    let large = Bytes::from(vec![1; 100_000]);
    let (end, at_end, bytes) = (batches.next, batch.end, vec![large.clone(), large.slice(..99)]);
    let change = Change::Batch { place: PLACE, repair: false, end, at_end, bytes };
    let mut gather = Gather::default();
    gather.put(Record::Change(&change), &Stamp { generation: 5, salt: 1, synced: SYNCED });
    let pieces = gather.take();
    assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "large pieces are not copied");
}

fn check(bytes: &[u8], golden: &str, expected: &Parsed) {
    assert_eq!(hex(bytes), golden);
    let mut file = HEADER.encode().to_vec();
    file.extend_from_slice(bytes);
    let found = parse(&Bytes::from(file.clone()), FILE_HEADER_BYTES, &HEADER).unwrap();
    assert_eq!((&found.parsed, found.synced, found.next), (expected, SYNCED, file.len()));
    let other = FileHeader { salt: 1, ..HEADER };
    parse(&Bytes::from(file.clone()), FILE_HEADER_BYTES, &other).expect_err("another file's");
    for cut in FILE_HEADER_BYTES..file.len() {
        parse(&Bytes::from(file[..cut].to_vec()), FILE_HEADER_BYTES, &HEADER).expect_err("cut off");
    }
    let body = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
    for bit in FILE_HEADER_BYTES * 8..(FILE_HEADER_BYTES + RECORD_HEADER_BYTES + body) * 8 {
        let mut bad = file.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        parse(&Bytes::from(bad), FILE_HEADER_BYTES, &HEADER).expect_err("a bit has turned over");
    }
}
