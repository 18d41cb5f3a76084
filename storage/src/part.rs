//! A part: one object with a committed range of a segment. It describes itself, so that metadata
//! can be rebuilt from a listing. One range and one version of the encoder give one content: the
//! table of producers too is a fold over the log's entries, whoever folds them.
//!
//! Header:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PICULETP` |
//! | 8..12 | version of this format; 2 |
//! | 12..16 | version of the encoder; 2 |
//! | 16..32 | cluster |
//! | 32..40 | log |
//! | 40..48 | segment |
//! | 48..56 | epoch |
//! | 56..60 | durability of the segment; 1: memory, 2: disk, 3: object |
//! | 60..64 | flags; 1: the range is lost, and there is neither body nor index; 0: it is not |
//! | 64..72 | offset of the segment's first entry |
//! | 72..80 | index of the part's first entry |
//! | 80..88 | index after its last |
//! | 88..104 | chain before its first |
//! | 104..120 | chain after its last |
//! | 120..128 | timestamp before its first, milliseconds since the Unix epoch |
//! | 128..136 | timestamp of its last |
//! | 136..144 | length of the body |
//! | 144..148 | CRC32C of bytes 0..144 |
//!
//! The body follows: the batches exactly as they are kept and sent. Then the index: for the first
//! batch, and for each that starts at least [`PART_INDEX_BYTES`] behind the last one listed,
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | index of the batch's first entry |
//! | 8..16 | position of the batch in the object |
//! | 16..24 | timestamp before the batch's first entry |
//!
//! Then the table of producers behind the part's last entry, as [`producers`] describes it; nothing
//! when there are none.
//!
//! The footer is last and has a fixed length, so that index and table are found from the object's
//! end:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | position of the index in the object |
//! | 8..16 | length of the index |
//! | 16..20 | CRC32C of the index |
//! | 20..24 | CRC32C of the body |
//! | 24..32 | length of the object |
//! | 32..36 | length of the table of producers |
//! | 36..40 | CRC32C of log, segment and index after the last entry (8 bytes each), of the chain after it and of the table |
//! | 40..44 | flags; 0 in this version |
//! | 44..48 | CRC32C of bytes 0..44 |
//! | 48..56 | `PICULETE` |
//!
//! A skip part stands for a range that is lost, so that the row of a segment's parts has no gap: it
//! holds where the range begins and ends, with both chains, and the table of producers before it.
//!
//! All numbers are little-endian. The table's CRC binds it to its part, so that it can be read
//! without the rest.
//!
//! [`producers`]: piculet_quorum::producers

mod format;
#[cfg(test)]
mod tests;

use crate::batches::{Row, RowError};
use crate::frames::{Boundary, Frames, Run};
use crate::limits::{PART_INDEX_BYTES, PART_OBJECT_BYTES_MAX};
use crate::names::PartName;
use bytes::{BufMut, Bytes};
use format::{FOOTER_BYTES, Footer, HEADER_BYTES, INDEX_ENTRY_BYTES};
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Index, Level, Nonce, Offset};
use piculet_quorum::meta::SegmentEnd;
use piculet_quorum::producers::{PRODUCERS_BYTES_MAX, Producers, ProducersError};

/// Version of the format that this version writes, and the only one that it reads.
pub const PART_FORMAT: u32 = 2;
/// Version of the encoder: another one may give other bytes for the same range.
pub const PART_ENCODER: u32 = 2;
/// Bytes at the end of a part that have its table of producers, whatever is in it.
pub(crate) const PART_TAIL_BYTES: u64 = (PRODUCERS_BYTES_MAX + FOOTER_BYTES) as u64;

/// What a part holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// The cluster that it belongs to.
    pub cluster: Nonce,
    /// Its segment, with the epoch.
    pub place: Place,
    /// Durability of the segment.
    pub level: Level,
    /// Offset of the segment's first entry.
    pub base: Offset,
    /// Index of the part's first entry.
    pub first: Index,
    /// Chain and timestamp before it.
    pub before: BatchEnd,
    /// Where the part ends.
    pub at: SegmentEnd,
    /// Whether the range is lost, and the part holds no entries.
    pub skip: bool,
}

impl PartHeader {
    /// The name of the part, as this version's encoder writes it.
    #[must_use]
    pub fn name(&self) -> PartName {
        PartName {
            log: self.place.log,
            segment: self.place.segment,
            first: self.first,
            end: self.at.end,
            chain: self.at.chain,
            encoder: PART_ENCODER,
            skip: self.skip,
        }
    }
}

/// Why something is not a part, or cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// It is too short or too long.
    #[error("a part of {found} bytes is not possible: expected {expected}")]
    Length {
        /// Its length in bytes.
        found: u64,
        /// What was expected.
        expected: String,
    },
    /// It was made by a later version.
    #[error("the part has {what} {found}; this version reads {known} only: upgrade the node")]
    Version {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u32,
        /// What this version knows.
        known: u32,
    },
    /// A checksum or a magic number is wrong: damaged, or no part at all.
    #[error("the {what} of the part is {found:#x}, expected {expected:#x}: the object is damaged")]
    Checksum {
        /// Which field.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// A field has a value that it cannot have.
    #[error("the {what} of the part is {found}, expected {expected}")]
    Field {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The batches are not sound.
    #[error("the batches of the part are not sound: {0}")]
    Batches(#[from] RowError),
    /// The table of producers is none.
    #[error("the part is damaged: {0}")]
    Producers(#[from] ProducersError),
}

/// A part, ready to be put into a store.
#[derive(Clone, Debug)]
pub struct EncodedPart {
    /// The object, cut into pieces.
    pub pieces: Vec<Bytes>,
    /// Length of all pieces together.
    pub bytes: u64,
    /// The table of producers behind its last entry.
    pub producers: Producers,
}

/// Encodes a part of `batches`, whose bytes may be cut anywhere and are not copied. `producers` is
/// the table of producers before its first entry.
///
/// # Errors
/// When the batches are not exactly the sound and unbroken row that the header announces. So
/// nothing is uploaded that does not check out.
pub fn encode(
    header: &PartHeader,
    producers: Producers,
    batches: &[Bytes],
) -> Result<EncodedPart, PartError> {
    check_range(header)?;
    if header.skip {
        return encode_skip(header, producers, batches);
    }
    let row = Row::new(header.place, header.first, header.before);
    let (mut row, mut index) = (row.folding(header.base, producers), PartIndex::default());
    let (mut body_crc, mut body_len) = (0, 0_u64);
    for piece in batches {
        row.feed(piece, |start, _| index.add(start))?;
        body_crc = crc32c::crc32c_append(body_crc, piece);
        body_len += piece.len() as u64;
    }
    check_end(header, &row.finish()?)?;
    let producers = row.producers();
    let table = producers.encode();
    let footer = Footer::new(header, body_len, body_crc, &index.bytes, &table);
    check_length(footer.object_len)?;
    let mut pieces = Vec::with_capacity(batches.len() + 2);
    pieces.push(Bytes::copy_from_slice(&format::encode_header(header, body_len)));
    pieces.extend(batches.iter().filter(|piece| !piece.is_empty()).cloned());
    index.bytes.put_slice(&table);
    index.bytes.put_slice(&footer.encode());
    pieces.push(Bytes::from(index.bytes));
    Ok(EncodedPart { pieces, bytes: footer.object_len, producers })
}

/// Encodes a part that stands for a range that is lost.
fn encode_skip(
    header: &PartHeader,
    producers: Producers,
    batches: &[Bytes],
) -> Result<EncodedPart, PartError> {
    if batches.iter().any(|piece| !piece.is_empty()) {
        return Err(field("body", "not empty", "nothing, for its range is lost"));
    }
    let table = producers.encode();
    let footer = Footer::new(header, 0, 0, &[], &table);
    let mut object = format::encode_header(header, 0).to_vec();
    object.extend_from_slice(&table);
    object.extend_from_slice(&footer.encode());
    Ok(EncodedPart { pieces: vec![Bytes::from(object)], bytes: footer.object_len, producers })
}

/// The header of an encoded part.
pub(crate) fn header_of(part: &EncodedPart) -> Result<PartHeader, PartError> {
    let bytes = part.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    assert_eq!(bytes, part.bytes, "a part has the length that it says");
    let head = part.pieces.first().and_then(|piece| piece.get(..HEADER_BYTES));
    let head =
        head.ok_or_else(|| field("first piece", "too short", format!("{HEADER_BYTES} bytes or more")))?;
    format::decode_header(head).map(|(header, _)| header)
}

/// Decodes a part and verifies all of it: header, every entry, the chain, index and footer.
///
/// # Errors
/// When anything is not exactly as the encoder would have written it.
pub fn decode(bytes: Bytes) -> Result<Part, PartError> {
    check_length(bytes.len() as u64)?;
    let (header, body_len) = format::decode_header(&bytes[..HEADER_BYTES])?;
    check_range(&header)?;
    let footer = Footer::decode(&bytes[bytes.len() - FOOTER_BYTES..])?;
    let frame = (HEADER_BYTES + FOOTER_BYTES) as u64;
    let room = bytes.len() as u64 - frame;
    if body_len > room {
        return Err(field("body length", body_len, format!("at most {room}")));
    }
    let body_end = HEADER_BYTES + body_len as usize;
    let (body, behind) = (bytes.slice(HEADER_BYTES..body_end), &bytes[body_end..bytes.len() - FOOTER_BYTES]);
    let body_crc = crc32c::crc32c(&body);
    if footer.body_crc != body_crc {
        return Err(checksum("checksum of the body", footer.body_crc, body_crc));
    }
    if header.skip {
        let expected = Footer::new(&header, 0, 0, &[], behind);
        if footer != expected || !body.is_empty() {
            return Err(field(
                "footer",
                format!("{footer:?}"),
                format!("{expected:?}, for its range is lost"),
            ));
        }
        Producers::decode(behind)?;
        return Ok(Part { frames: Frames::new(start_of(&header)), header, body });
    }
    let (mut row, mut index) = (Row::new(header.place, header.first, header.before), PartIndex::default());
    let mut frames = Frames::new(start_of(&header));
    row.feed(&body, |start, end| {
        index.add(start);
        frames.push(*end);
    })?;
    check_end(&header, &row.finish()?)?;
    let Some((index_bytes, table)) = behind.split_at_checked(index.bytes.len()) else {
        return Err(field("length of what follows the body", behind.len(), index.bytes.len()));
    };
    // What the footer should say follows from the rest, so it is compared as a whole.
    let expected = Footer::new(&header, body_len, body_crc, &index.bytes, table);
    if footer != expected {
        return Err(field("footer", format!("{footer:?}"), format!("{expected:?}")));
    }
    if *index_bytes != index.bytes[..] {
        let (found, expected) = (crc32c::crc32c(index_bytes), expected.index_crc);
        return Err(checksum("checksum of the index", found, expected));
    }
    Producers::decode(table)?;
    Ok(Part { header, body, frames })
}

/// Decodes the table of producers of a part from its last bytes: [`PART_TAIL_BYTES`] of them, or the
/// whole object if it is shorter.
pub(crate) fn decode_producers(
    name: &PartName,
    tail: &[u8],
    object_len: u64,
) -> Result<Producers, PartError> {
    let Some((rest, footer)) = tail.split_last_chunk::<FOOTER_BYTES>() else {
        return Err(PartError::Length {
            found: object_len,
            expected: format!("{FOOTER_BYTES} bytes or more"),
        });
    };
    let footer = Footer::decode(footer)?;
    if footer.object_len != object_len {
        return Err(field("length", object_len, footer.object_len));
    }
    let start = rest.len().checked_sub(footer.producers_len as usize);
    let Some(table) = start.map(|start| &rest[start..]) else {
        return Err(field("length of the table of producers", footer.producers_len, rest.len()));
    };
    let expected = format::producers_crc(name, table);
    if footer.producers_crc != expected {
        return Err(checksum("checksum of the table of producers", footer.producers_crc, expected));
    }
    Ok(Producers::decode(table)?)
}

fn start_of(header: &PartHeader) -> Boundary {
    Boundary { index: header.first, at: 0, before: header.before }
}

/// A part that was read and verified.
#[derive(Clone, Debug)]
pub struct Part {
    header: PartHeader,
    body: Bytes,
    frames: Frames,
}

impl Part {
    /// What it holds.
    #[must_use]
    pub fn header(&self) -> &PartHeader {
        &self.header
    }

    /// All batches from the one that contains `index` on, without a copy. `None` when `index` is
    /// not in the part.
    #[must_use]
    pub fn batches_from(&self, index: Index) -> Option<Run> {
        self.read(index, self.header.at.end, usize::MAX)
    }

    /// Batches from the one that contains `index` on, none that ends beyond `to`: as many as have at
    /// most `max_bytes` together, but at least one. They are not copied. `None` when there is no
    /// such batch.
    #[must_use]
    pub fn read(&self, index: Index, to: Index, max_bytes: usize) -> Option<Run> {
        let start = self.frames.floor(index)?;
        let stop = self.frames.stop(start, to, max_bytes)?;
        let piece = self.body.slice(start.at as usize..stop.at as usize);
        Some(Run {
            first: start.index,
            before: start.before,
            end: stop.index,
            end_chain: stop.before,
            bytes: piece.len(),
            pieces: vec![piece],
        })
    }
}

/// The index of a part, as it is built and as it is checked.
#[derive(Default)]
struct PartIndex {
    bytes: Vec<u8>,
    next_at: u64,
}

impl PartIndex {
    fn add(&mut self, start: &Boundary) {
        if start.at >= self.next_at {
            self.bytes.reserve(INDEX_ENTRY_BYTES);
            self.bytes.put_u64_le(start.index.0);
            self.bytes.put_u64_le(HEADER_BYTES as u64 + start.at);
            self.bytes.put_u64_le(start.before.last_timestamp.0);
            self.next_at = start.at + PART_INDEX_BYTES;
        }
    }
}

fn check_length(found: u64) -> Result<(), PartError> {
    let min = (HEADER_BYTES + FOOTER_BYTES) as u64;
    if found < min || found > PART_OBJECT_BYTES_MAX {
        return Err(PartError::Length { found, expected: format!("{min} to {PART_OBJECT_BYTES_MAX} bytes") });
    }
    Ok(())
}

/// Checks that the range is one: not empty, and within the log's 2^64 offsets.
fn check_range(header: &PartHeader) -> Result<(), PartError> {
    let SegmentEnd { end, last_timestamp, .. } = header.at;
    if end <= header.first {
        return Err(field("end", end, format!("above the first index {}", header.first)));
    }
    if header.base.0.checked_add(end.0).is_none() {
        return Err(field("end", end, format!("within 2^64 of the segment's offset {}", header.base)));
    }
    if last_timestamp < header.before.last_timestamp {
        let expected = format!("at least {}, the timestamp before it", header.before.last_timestamp);
        return Err(field("last timestamp", last_timestamp, expected));
    }
    Ok(())
}

/// Checks that the batches end where the header says that they do.
fn check_end(header: &PartHeader, end: &Boundary) -> Result<(), PartError> {
    let BatchEnd { chain, last_timestamp } = end.before;
    let found = SegmentEnd { end: end.index, chain, last_timestamp };
    if found != header.at {
        return Err(field("end of the batches", format!("{found:?}"), format!("{:?}", header.at)));
    }
    Ok(())
}

fn field(what: &'static str, found: impl ToString, expected: impl ToString) -> PartError {
    PartError::Field { what, found: found.to_string(), expected: expected.to_string() }
}

fn checksum(what: &'static str, found: u32, expected: u32) -> PartError {
    PartError::Checksum { what, found: found.into(), expected: expected.into() }
}
