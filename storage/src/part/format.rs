//! Header and footer of a part as bytes; the parent module has the tables.

use super::{PART_ENCODER, PART_FORMAT, PartError, PartHeader, checksum, field};
use crate::names::PartName;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, Level, LogId, Nonce, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::SegmentEnd;

pub(super) const HEADER_BYTES: usize = 148;
pub(super) const INDEX_ENTRY_BYTES: usize = 24;
pub(super) const FOOTER_BYTES: usize = 56;

const HEADER_MAGIC: [u8; 8] = *b"PICULETP";
const FOOTER_MAGIC: [u8; 8] = *b"PICULETE";

const LEVEL_MEMORY: u32 = 1;
const LEVEL_DISK: u32 = 2;
const LEVEL_OBJECT: u32 = 3;

const FLAG_SKIP: u32 = 1;

pub(super) fn encode_header(header: &PartHeader, body_len: u64) -> [u8; HEADER_BYTES] {
    let PartHeader { cluster, place, level, base, first, before, at, skip } = header;
    let level = match level {
        Level::Memory => LEVEL_MEMORY,
        Level::Disk => LEVEL_DISK,
        Level::Object => LEVEL_OBJECT,
    };
    let mut out = [0; HEADER_BYTES];
    put(&mut out, 0, HEADER_MAGIC);
    put(&mut out, 8, PART_FORMAT.to_le_bytes());
    put(&mut out, 12, PART_ENCODER.to_le_bytes());
    put(&mut out, 16, cluster.0.to_le_bytes());
    put(&mut out, 32, place.log.0.to_le_bytes());
    put(&mut out, 40, place.segment.0.to_le_bytes());
    put(&mut out, 48, place.epoch.0.to_le_bytes());
    put(&mut out, 56, level.to_le_bytes());
    put(&mut out, 60, if *skip { FLAG_SKIP } else { 0 }.to_le_bytes());
    put(&mut out, 64, base.0.to_le_bytes());
    put(&mut out, 72, first.0.to_le_bytes());
    put(&mut out, 80, at.end.0.to_le_bytes());
    put(&mut out, 88, before.chain.0.to_le_bytes());
    put(&mut out, 104, at.chain.0.to_le_bytes());
    put(&mut out, 120, before.last_timestamp.0.to_le_bytes());
    put(&mut out, 128, at.last_timestamp.0.to_le_bytes());
    put(&mut out, 136, body_len.to_le_bytes());
    let crc = crc32c::crc32c(&out[..144]);
    put(&mut out, 144, crc.to_le_bytes());
    out
}

/// The header in `bytes`, which are [`HEADER_BYTES`], and the length of the body.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(PartHeader, u64), PartError> {
    check_magic("magic of the header", take(bytes, 0), HEADER_MAGIC)?;
    // Before the checksum: another version may keep that elsewhere.
    check_version("format version", u32_at(bytes, 8), PART_FORMAT)?;
    let (found, expected) = (u32_at(bytes, 144), crc32c::crc32c(&bytes[..144]));
    if found != expected {
        return Err(checksum("checksum of the header", found, expected));
    }
    check_version("encoder version", u32_at(bytes, 12), PART_ENCODER)?;
    let flags = u32_at(bytes, 60);
    if flags > FLAG_SKIP {
        return Err(PartError::Version { what: "header flags", found: flags, known: FLAG_SKIP });
    }
    let level = match u32_at(bytes, 56) {
        LEVEL_MEMORY => Level::Memory,
        LEVEL_DISK => Level::Disk,
        LEVEL_OBJECT => Level::Object,
        other => return Err(field("durability", other, "1 to 3")),
    };
    let header = PartHeader {
        cluster: Nonce(u128_at(bytes, 16)),
        place: Place {
            log: LogId(u64_at(bytes, 32)),
            segment: SegmentNumber(u64_at(bytes, 40)),
            epoch: Epoch(u64_at(bytes, 48)),
        },
        level,
        base: Offset(u64_at(bytes, 64)),
        first: Index(u64_at(bytes, 72)),
        before: BatchEnd { chain: Chain(u128_at(bytes, 88)), last_timestamp: Timestamp(u64_at(bytes, 120)) },
        at: SegmentEnd {
            end: Index(u64_at(bytes, 80)),
            chain: Chain(u128_at(bytes, 104)),
            last_timestamp: Timestamp(u64_at(bytes, 128)),
        },
        skip: flags == FLAG_SKIP,
    };
    Ok((header, u64_at(bytes, 136)))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) index_at: u64,
    pub(super) index_len: u64,
    pub(super) index_crc: u32,
    pub(super) body_crc: u32,
    pub(super) object_len: u64,
    pub(super) producers_len: u32,
    pub(super) producers_crc: u32,
}

/// The CRC of a table of producers at the end of the part of this name.
pub(super) fn producers_crc(name: &PartName, table: &[u8]) -> u32 {
    let mut place = [0; 40];
    put(&mut place, 0, name.log.0.to_le_bytes());
    put(&mut place, 8, name.segment.0.to_le_bytes());
    put(&mut place, 16, name.end.0.to_le_bytes());
    put(&mut place, 24, name.chain.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), table)
}

impl Footer {
    pub(super) fn new(header: &PartHeader, body_len: u64, body_crc: u32, index: &[u8], table: &[u8]) -> Self {
        let (index_at, index_len) = (HEADER_BYTES as u64 + body_len, index.len() as u64);
        Self {
            index_at,
            index_len,
            index_crc: crc32c::crc32c(index),
            body_crc,
            object_len: index_at + index_len + table.len() as u64 + FOOTER_BYTES as u64,
            producers_len: table.len() as u32,
            producers_crc: producers_crc(&header.name(), table),
        }
    }

    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        put(&mut out, 0, self.index_at.to_le_bytes());
        put(&mut out, 8, self.index_len.to_le_bytes());
        put(&mut out, 16, self.index_crc.to_le_bytes());
        put(&mut out, 20, self.body_crc.to_le_bytes());
        put(&mut out, 24, self.object_len.to_le_bytes());
        put(&mut out, 32, self.producers_len.to_le_bytes());
        put(&mut out, 36, self.producers_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..44]);
        put(&mut out, 44, crc.to_le_bytes());
        put(&mut out, 48, FOOTER_MAGIC);
        out
    }

    /// The footer in `bytes`, which are [`FOOTER_BYTES`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, PartError> {
        check_magic("magic of the footer", take(bytes, 48), FOOTER_MAGIC)?;
        let (found, expected) = (u32_at(bytes, 44), crc32c::crc32c(&bytes[..44]));
        if found != expected {
            return Err(checksum("checksum of the footer", found, expected));
        }
        check_version("footer flags", u32_at(bytes, 40), 0)?;
        Ok(Self {
            index_at: u64_at(bytes, 0),
            index_len: u64_at(bytes, 8),
            index_crc: u32_at(bytes, 16),
            body_crc: u32_at(bytes, 20),
            object_len: u64_at(bytes, 24),
            producers_len: u32_at(bytes, 32),
            producers_crc: u32_at(bytes, 36),
        })
    }
}

fn check_magic(what: &'static str, found: [u8; 8], expected: [u8; 8]) -> Result<(), PartError> {
    if found != expected {
        // Printed as the number that reads like the text.
        let (found, expected) = (u64::from_be_bytes(found), u64::from_be_bytes(expected));
        return Err(PartError::Checksum { what, found, expected });
    }
    Ok(())
}

fn check_version(what: &'static str, found: u32, known: u32) -> Result<(), PartError> {
    if found == known { Ok(()) } else { Err(PartError::Version { what, found, known }) }
}

fn put<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of the same length")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(bytes, at))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(take(bytes, at))
}
