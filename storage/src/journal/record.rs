//! Files and records of the journal as bytes. All numbers are little-endian.
//!
//! A file begins with a header:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PICULETJ` |
//! | 8..12 | version; 1 |
//! | 12..16 | CRC32C of bytes 0..12 and 16..64 |
//! | 16..32 | id of the cluster |
//! | 32..40 | generation |
//! | 40..48 | bytes of the file |
//! | 48..56 | salt, a random number |
//! | 56..64 | 0 in this version |
//!
//! Then come records, each at a multiple of 8 bytes, filled up with zeros:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | CRC32C of the salt and of bytes 4..32 |
//! | 4..8 | CRC32C of the body |
//! | 8..12 | length of the body |
//! | 12..16 | kind |
//! | 16..24 | generation |
//! | 24..32 | `synced`: how far the journal was at rest: `generation << 32 \| offset` |
//! | 32.. | body |
//!
//! | kind | body |
//! |---|---|
//! | 1 segment | place, head 8, end before the head, tail 8, end before the tail, index of the first repaired entry 8 (all ones: none) |
//! | 2 batch | place, 1 if it is a repair else 0 (4), 0 (4), the batch as it is stored |
//! | 3 jump | place, start 8, end before it |
//! | 4 fence | log 8, epoch 8 |
//! | 5 forget log | log 8 |
//! | 6 freed | place, index 8, end before it |
//! | 7 drop | place |
//! | 8 checkpoint | number of segments 8, number of fences 8 |
//! | 9 seal | – |
//! | 10 end | – |
//!
//! A place is log, segment and epoch (8 each); an end is chain 16 and timestamp 8.

use super::Location;
use super::live::Manifest;
use super::parse::Reader;
use bytes::{Bytes, BytesMut};
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Epoch, Index, LogId, Nonce};

/// Length of a file's header.
pub(super) const FILE_HEADER_BYTES: usize = 64;
/// Length of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
pub(super) const BATCH_PREFIX_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"PICULETJ";
pub(super) const VERSION: u32 = 1;
pub(super) const ALIGN: usize = 8;
/// Pieces shorter than this are copied together: that is cheaper than one more vector to write.
const COPY_BELOW: usize = 4096;

/// What changes in the buffer, to be put at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A segment that is new here; before its first batch.
    Segment(Manifest),
    /// A batch behind the tail of its segment.
    Batch {
        /// The segment.
        place: Place,
        /// Whether a repair brought it rather than the writer.
        repair: bool,
        /// Index after its last entry.
        end: Index,
        /// What it leaves behind it.
        at_end: BatchEnd,
        /// The batch as it is stored, cut anywhere.
        bytes: Vec<Bytes>,
    },
    /// A repair goes on at `start`, at or above the tail; all before is gone.
    Jump {
        /// The segment.
        place: Place,
        /// Where it goes on.
        start: Index,
        /// What lies before that.
        before: BatchEnd,
    },
    /// A log was fenced. A lower epoch than before changes nothing.
    Fence {
        /// The log.
        log: LogId,
        /// The epoch that fences all below it.
        epoch: Epoch,
    },
    /// A log's tombstone was read: its fence may go.
    ForgetLog {
        /// The log.
        log: LogId,
    },
    /// The entries below a boundary are needed no more.
    Freed {
        /// The segment.
        place: Place,
        /// The boundary.
        index: Index,
        /// What lies before it.
        before: BatchEnd,
    },
    /// A segment is needed no more.
    Drop {
        /// The segment.
        place: Place,
    },
}

impl Change {
    /// Bytes that its record takes in a file.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        let body = match self {
            Self::Segment(_) => 96,
            Self::Batch { bytes, .. } => BATCH_PREFIX_BYTES + bytes.iter().map(Bytes::len).sum::<usize>(),
            Self::Jump { .. } | Self::Freed { .. } => 56,
            Self::Fence { .. } => 16,
            Self::ForgetLog { .. } => 8,
            Self::Drop { .. } => 24,
        };
        record_bytes(body)
    }
}

/// Bytes that a batch of `bytes` bytes takes in a file.
pub(crate) fn batch_record_bytes(bytes: usize) -> u64 {
    record_bytes(BATCH_PREFIX_BYTES + bytes)
}

/// Bytes that a file keeps for the marks behind its records: the end, and the seal.
pub(super) const MARKS_BYTES: u64 = 2 * RECORD_HEADER_BYTES as u64;
/// Bytes of the record that completes a checkpoint.
pub(super) const CHECKPOINT_BYTES: u64 = RECORD_HEADER_BYTES as u64 + 16;

fn record_bytes(body: usize) -> u64 {
    (RECORD_HEADER_BYTES + body.next_multiple_of(ALIGN)) as u64
}

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) cluster: Nonce,
    pub(super) generation: u64,
    pub(super) bytes: u64,
    pub(super) salt: u64,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.cluster.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        out[48..56].copy_from_slice(&self.salt.to_le_bytes());
        let crc = Self::checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn checksum(bytes: &[u8; FILE_HEADER_BYTES]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }

    /// The format of a file whose header is sound and of a later version.
    pub(super) fn later_version(bytes: &[u8; FILE_HEADER_BYTES]) -> Option<u32> {
        let sound = &bytes[..8] == MAGIC && Reader(&bytes[12..]).u32() == Self::checksum(bytes);
        Some(Reader(&bytes[8..]).u32()).filter(|version| sound && *version > VERSION)
    }

    pub(super) fn decode(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<Self, String> {
        if &bytes[..8] != MAGIC {
            return Err("it does not begin with PICULETJ".to_owned());
        }
        let (found, expected) = (Reader(&bytes[12..]).u32(), Self::checksum(bytes));
        if found != expected {
            return Err(format!("its checksum is {found:#010x}, expected {expected:#010x}"));
        }
        let version = Reader(&bytes[8..]).u32();
        if version != VERSION {
            return Err(format!("it has version {version}; this node knows {VERSION}"));
        }
        let mut reader = Reader(&bytes[16..]);
        let cluster = Nonce(reader.u128());
        Ok(Self { cluster, generation: reader.u64(), bytes: reader.u64(), salt: reader.u64() })
    }
}

/// A record, as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record<'a> {
    Change(&'a Change),
    /// All live segments and fences have been written before, so many.
    Checkpoint {
        segments: u64,
        fences: u64,
    },
    /// The next file follows.
    Seal,
    /// A clean stop.
    End,
}

/// What binds a record to its file, and to its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) generation: u64,
    pub(super) salt: u64,
    pub(super) synced: Location,
}

/// Records on their way to a file.
#[derive(Debug, Default)]
pub(super) struct Gather {
    whole: Vec<Bytes>,
    last: BytesMut,
    len: u64,
}

impl Gather {
    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes, in order.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.cut();
        self.len = 0;
        std::mem::take(&mut self.whole)
    }

    pub(super) fn put(&mut self, record: Record<'_>, stamp: &Stamp) {
        let mut body = Vec::with_capacity(96);
        let kind: u32 = match record {
            Record::Change(change) => put_change(change, &mut body),
            Record::Checkpoint { segments, fences } => {
                body.extend(segments.to_le_bytes());
                body.extend(fences.to_le_bytes());
                8
            }
            Record::Seal => 9,
            Record::End => 10,
        };
        let batch: &[Bytes] = match record {
            Record::Change(Change::Batch { bytes, .. }) => bytes,
            _ => &[],
        };
        let crc = batch.iter().fold(crc32c::crc32c(&body), |crc, piece| crc32c::crc32c_append(crc, piece));
        let length = body.len() + batch.iter().map(Bytes::len).sum::<usize>();
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        header[8..12].copy_from_slice(&(length as u32).to_le_bytes());
        header[12..16].copy_from_slice(&kind.to_le_bytes());
        header[16..24].copy_from_slice(&stamp.generation.to_le_bytes());
        header[24..32].copy_from_slice(&pack(stamp.synced).to_le_bytes());
        let crc = header_checksum(&header, stamp.salt);
        header[0..4].copy_from_slice(&crc.to_le_bytes());
        self.last.extend_from_slice(&header);
        self.last.extend_from_slice(&body);
        for piece in batch {
            self.put_piece(piece);
        }
        self.last.extend_from_slice(&[0; ALIGN][..length.next_multiple_of(ALIGN) - length]);
        self.len += record_bytes(length);
    }

    fn put_piece(&mut self, piece: &Bytes) {
        if piece.len() < COPY_BELOW {
            self.last.extend_from_slice(piece);
        } else {
            self.cut();
            self.whole.push(piece.clone());
        }
    }

    fn cut(&mut self) {
        if !self.last.is_empty() {
            self.whole.push(self.last.split().freeze());
        }
    }
}

fn put_change(change: &Change, body: &mut Vec<u8>) -> u32 {
    match change {
        Change::Segment(manifest) => {
            put_place(&manifest.place, body);
            body.extend(manifest.head.0.to_le_bytes());
            put_end(&manifest.before, body);
            body.extend(manifest.tail.0.to_le_bytes());
            put_end(&manifest.at_tail, body);
            body.extend(manifest.repaired_from.map_or(u64::MAX, |index| index.0).to_le_bytes());
            1
        }
        Change::Batch { place, repair, .. } => {
            put_place(place, body);
            body.extend(u64::from(*repair).to_le_bytes());
            2
        }
        Change::Jump { place, start: index, before } | Change::Freed { place, index, before } => {
            put_place(place, body);
            body.extend(index.0.to_le_bytes());
            put_end(before, body);
            if matches!(change, Change::Jump { .. }) { 3 } else { 6 }
        }
        Change::Fence { log, epoch } => {
            body.extend(log.0.to_le_bytes());
            body.extend(epoch.0.to_le_bytes());
            4
        }
        Change::ForgetLog { log } => {
            body.extend(log.0.to_le_bytes());
            5
        }
        Change::Drop { place } => {
            put_place(place, body);
            7
        }
    }
}

fn put_place(place: &Place, body: &mut Vec<u8>) {
    for number in [place.log.0, place.segment.0, place.epoch.0] {
        body.extend(number.to_le_bytes());
    }
}

fn put_end(end: &BatchEnd, body: &mut Vec<u8>) {
    body.extend(end.chain.0.to_le_bytes());
    body.extend(end.last_timestamp.0.to_le_bytes());
}

fn pack(at: Location) -> u64 {
    assert!(at.generation <= u64::from(u32::MAX) && at.offset <= u64::from(u32::MAX), "{at:?} can be packed");
    at.generation << 32 | at.offset
}

pub(super) fn header_checksum(header: &[u8], salt: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &header[4..RECORD_HEADER_BYTES])
}
