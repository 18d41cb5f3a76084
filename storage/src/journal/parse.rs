//! Records of the journal, read again.

use super::Location;
use super::live::Manifest;
use super::record::{ALIGN, BATCH_PREFIX_BYTES, Change, FileHeader, RECORD_HEADER_BYTES, header_checksum};
use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, LogId, SegmentNumber, Timestamp};

/// A record, as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Any change but a batch.
    Change(Change),
    /// A batch whose contents have not been looked at; its bytes begin at `offset` of the file.
    Batch {
        place: Place,
        repair: bool,
        offset: u64,
        bytes: Bytes,
    },
    Checkpoint {
        segments: u64,
        fences: u64,
    },
    Seal,
    End,
}

/// Why there is no record at some place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    #[error("there are only zeros")]
    Zeros,
    #[error("the file ends within it")]
    Cut,
    #[error("its header has checksum {found:#010x}, expected {expected:#010x}")]
    Header { found: u32, expected: u32 },
    #[error("it belongs to generation {found}")]
    Generation { found: u64 },
    #[error("its body has checksum {found:#010x}, expected {expected:#010x}")]
    Body { found: u32, expected: u32 },
    #[error("kind {kind} with {length} bytes is not known to this version")]
    Kind { kind: u32, length: usize },
}

/// A record that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundRecord {
    pub(super) parsed: Parsed,
    pub(super) synced: Location,
    /// Where the next one begins.
    pub(super) next: usize,
}

/// Reads the record at `at` of a file.
pub(super) fn parse(file: &Bytes, at: usize, of: &FileHeader) -> Result<FoundRecord, BadRecord> {
    let header = file.get(at..at + RECORD_HEADER_BYTES).ok_or(BadRecord::Cut)?;
    let mut reader = Reader(header);
    let (found, body_crc, length) = (reader.u32(), reader.u32(), reader.u32() as usize);
    let (kind, generation, synced) = (reader.u32(), reader.u64(), reader.u64());
    let expected = header_checksum(header, of.salt);
    if found != expected {
        let zeros = header.iter().all(|byte| *byte == 0);
        return Err(if zeros { BadRecord::Zeros } else { BadRecord::Header { found, expected } });
    }
    if generation != of.generation {
        return Err(BadRecord::Generation { found: generation });
    }
    let start = at + RECORD_HEADER_BYTES;
    let next = start + length.next_multiple_of(ALIGN);
    if next > file.len() {
        return Err(BadRecord::Cut);
    }
    let body = file.slice(start..start + length);
    let (found, expected) = (body_crc, crc32c::crc32c(&body));
    if found != expected {
        return Err(BadRecord::Body { found, expected });
    }
    let parsed = parse_body(kind, &body, start).ok_or(BadRecord::Kind { kind, length })?;
    let synced = Location { generation: synced >> 32, offset: synced & u64::from(u32::MAX) };
    Ok(FoundRecord { parsed, synced, next })
}

/// The largest `synced` of the records from `from` on, wherever they begin.
pub(super) fn latest_synced(file: &Bytes, from: usize, of: &FileHeader) -> Location {
    let mut latest = Location::default();
    let mut at = from;
    while let Some(header) = file.get(at..at + RECORD_HEADER_BYTES) {
        // Most of what is looked at is zeros, or the middle of a batch: the kind tells that cheaply.
        let likely = matches!(Reader(&header[12..]).u32(), 1..=10);
        match likely.then(|| parse(file, at, of)) {
            Some(Ok(found)) => {
                latest = latest.max(found.synced);
                at = found.next;
            }
            // A header that is whole tells what was at rest, even if its body was torn.
            Some(Err(BadRecord::Body { .. })) => {
                let synced = Reader(&header[24..]).u64();
                latest =
                    latest.max(Location { generation: synced >> 32, offset: synced & u64::from(u32::MAX) });
                at += ALIGN;
            }
            _ => at += ALIGN,
        }
    }
    latest
}

fn parse_body(kind: u32, body: &Bytes, start: usize) -> Option<Parsed> {
    let expected = match kind {
        1 => 96,
        2 => body.len().max(BATCH_PREFIX_BYTES + BATCH_HEADER_BYTES),
        3 | 6 => 56,
        4 | 8 => 16,
        5 => 8,
        7 => 24,
        9 | 10 => 0,
        _ => return None,
    };
    if body.len() != expected {
        return None;
    }
    let mut reader = Reader(body);
    Some(match kind {
        1 => Parsed::Change(Change::Segment(Manifest {
            place: reader.place(),
            head: Index(reader.u64()),
            before: reader.end(),
            tail: Index(reader.u64()),
            at_tail: reader.end(),
            repaired_from: Some(reader.u64()).filter(|index| *index != u64::MAX).map(Index),
        })),
        2 => {
            let (place, repair) = (reader.place(), reader.u64());
            let offset = (start + BATCH_PREFIX_BYTES) as u64;
            let repair = (repair <= 1).then_some(repair == 1)?;
            Parsed::Batch { place, repair, offset, bytes: body.slice(BATCH_PREFIX_BYTES..) }
        }
        3 => Parsed::Change(Change::Jump {
            place: reader.place(),
            start: Index(reader.u64()),
            before: reader.end(),
        }),
        4 => Parsed::Change(Change::Fence { log: LogId(reader.u64()), epoch: Epoch(reader.u64()) }),
        5 => Parsed::Change(Change::ForgetLog { log: LogId(reader.u64()) }),
        6 => Parsed::Change(Change::Freed {
            place: reader.place(),
            index: Index(reader.u64()),
            before: reader.end(),
        }),
        7 => Parsed::Change(Change::Drop { place: reader.place() }),
        8 => Parsed::Checkpoint { segments: reader.u64(), fences: reader.u64() },
        9 => Parsed::Seal,
        _ => Parsed::End,
    })
}

/// Reads numbers, one after the other, from bytes whose length has been checked.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_first_chunk().expect("the length has been checked");
        self.0 = later;
        *now
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }

    fn place(&mut self) -> Place {
        let (log, segment) = (LogId(self.u64()), SegmentNumber(self.u64()));
        Place { log, segment, epoch: Epoch(self.u64()) }
    }

    fn end(&mut self) -> BatchEnd {
        let chain = Chain(self.u128());
        BatchEnd { chain, last_timestamp: Timestamp(self.u64()) }
    }
}
