//! What lies before the chunks in the file of a memory buffer: which segments there are, where each
//! begins and ends, and which chunk is whose. It is kept so that a process that is killed between
//! any two stores leaves a state that the next process can take up.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4096 | the header, and zeros |
//! | then 192 for each slot | the segments |
//! | then 16 for each chunk | the owners |
//! | up to a multiple of 4096 | zeros |
//! | then the chunks | the batches of the segments |
//!
//! The header, of which bytes 0..12 and 28..32 mean the same in every version:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PICULETA` |
//! | 8..12 | version, 1 |
//! | 12..16 | number of slots |
//! | 16..24 | bytes of a chunk |
//! | 24..28 | number of chunks |
//! | 28..32 | CRC32C of bytes 0..28 |
//!
//! A slot:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | serial number of the segment in this file, never used twice while anything refers to it; `PICULETX`: the slot is free; 0: it was never used, and all of it is zeros |
//! | 8..16 | sequence number of the copy that counts: copy 0 when it is even, copy 1 when it is odd |
//! | 16..24, 24..32, 32..40 | log, segment, epoch |
//! | 40..48 | CRC32C of bytes 0..8 and 16..40 |
//! | 48..64 | zeros |
//! | 64..128, 128..192 | copy 0, copy 1 |
//!
//! A copy:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | its sequence number |
//! | 4..8 | CRC32C of the serial number, of bytes 0..4 and of bytes 8..56 |
//! | 8..16 | index below which entries are freed |
//! | 16..24 | position of that index in the stream of batches |
//! | 24..32, 32..48 | timestamp and chain before it |
//! | 48..56 | index from which on what was stored are repairs; all ones when there are none |
//! | 56..64 | the tail: low 16 bits of the CRC32C of serial number and position, then 48 bits of the position where the last batch ends |
//!
//! An owner is a serial number, 0 when the chunk is free, and which chunk of the segment's stream it
//! is (8 bytes each). All numbers are little-endian.
//!
//! A batch is published by one store, of the tail. What changes together is written to the copy that
//! does not count; then the sequence number is stored. A chunk gets its owner before the tail moves
//! into it, and loses it after the slot has stopped to need it.

#[cfg(test)]
mod tests;

use crate::arena::ArenaOptions;
use crate::buffer::BufferError;
use crate::frames::Boundary;
use crate::limits::{SLOT_PER_BYTES, SLOTS_MIN, SLOTS_PER_CHUNK};
use crate::mapping::Pool;
use piculet_quorum::batch::{BatchEnd, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, LogId, SegmentNumber, Timestamp};

const MAGIC: &[u8; 8] = b"PICULETA";
pub(crate) const VERSION: u32 = 1;
const PAGE: usize = 4096;
/// Bytes of the header that have a meaning.
pub(crate) const HEADER_BYTES: usize = 32;
const SLOT_BYTES: usize = 192;
const OWNER_BYTES: usize = 16;
/// Where in a slot its first copy lies, and how long one is.
const COPY_AT: usize = 64;
const COPY_BYTES: usize = 64;
/// Positions have so many bits.
const POSITION_BITS: u32 = 48;
const NEVER: u64 = u64::MAX;
/// In the place of the serial number: the slot is free. Far from every serial number and from 0, so
/// that no few flipped bits make a free slot of one that is not.
const FREE: u64 = u64::from_le_bytes(*b"PICULETX");

/// Where everything lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) chunk_bytes: usize,
    pub(crate) chunks: u32,
    pub(crate) slots: u32,
}

impl Layout {
    pub(crate) fn new(options: &ArenaOptions) -> Result<Self, BufferError> {
        let chunks = options.check()?;
        let most = (options.bytes / SLOT_PER_BYTES).max(SLOTS_MIN);
        let slots = (u64::from(chunks) * SLOTS_PER_CHUNK).min(most);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        Ok(Self { chunk_bytes: options.chunk_bytes, chunks, slots })
    }

    pub(crate) fn slot_at(&self, slot: u32) -> usize {
        PAGE + slot as usize * SLOT_BYTES
    }

    pub(crate) fn owner_at(&self, chunk: u32) -> usize {
        self.slot_at(self.slots) + chunk as usize * OWNER_BYTES
    }

    /// Where the chunks begin.
    pub(crate) fn chunks_at(&self) -> usize {
        self.owner_at(self.chunks).next_multiple_of(PAGE)
    }

    /// Whether the entries have as much room; how many slots there are may be another version's
    /// choice.
    pub(crate) fn same_size(&self, other: &Self) -> bool {
        (self.chunks, self.chunk_bytes) == (other.chunks, other.chunk_bytes)
    }

    /// Bytes in chunks.
    pub(crate) fn capacity(&self) -> u64 {
        u64::from(self.chunks) * self.chunk_bytes as u64
    }

    /// Bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.chunks_at() as u64 + self.capacity()
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.slots.to_le_bytes());
        out[16..24].copy_from_slice(&(self.chunk_bytes as u64).to_le_bytes());
        out[24..28].copy_from_slice(&self.chunks.to_le_bytes());
        let crc = crc32c::crc32c(&out[..28]);
        out[28..32].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The format of a file whose header is sound and of a later version.
    pub(crate) fn later_version(bytes: &[u8; HEADER_BYTES]) -> Option<u32> {
        let u32_at = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"));
        let sound = &bytes[0..8] == MAGIC && u32_at(28) == crc32c::crc32c(&bytes[..28]);
        Some(u32_at(8)).filter(|version| sound && *version > VERSION)
    }

    /// Reads the header of a file of this length; the error says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Self, String> {
        let u32_at = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"));
        if &bytes[0..8] != MAGIC {
            return Err("it does not begin as a buffer does".to_owned());
        }
        let (found, expected) = (u32_at(28), crc32c::crc32c(&bytes[..28]));
        if found != expected {
            return Err(format!("the header's checksum is {found:#010x}, expected {expected:#010x}"));
        }
        if u32_at(8) != VERSION {
            return Err(format!("it is of format {}, this program knows {VERSION} only", u32_at(8)));
        }
        let chunk_bytes = u64::from_le_bytes(*bytes[16..].first_chunk().expect("eight bytes"));
        let sizes = u32::try_from(chunk_bytes).ok().filter(|chunk| *chunk > 0 && u32_at(24) > 0);
        let layout =
            sizes.map(|chunk| Self { chunk_bytes: chunk as usize, chunks: u32_at(24), slots: u32_at(12) });
        layout.filter(|layout| layout.file_bytes() == file_bytes).ok_or_else(|| {
            let (chunks, slots) = (u32_at(24), u32_at(12));
            format!(
                "{file_bytes} bytes are not what {chunks} chunks of {chunk_bytes} bytes and {slots} slots need"
            )
        })
    }
}

/// What is at rest of a segment besides its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where the first batch that is kept begins.
    pub(crate) head: Boundary,
    /// The position where the last one ends.
    pub(crate) tail_at: u64,
    /// The index from which on what was stored are repairs.
    pub(crate) repaired_from: Option<Index>,
}

/// A slot that is not free, and what is in it.
pub(crate) type Taken = (Slot, Place, Extent);

/// The slot of one segment, and the right to write to it.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u32,
    serial: u64,
    sequence: u32,
}

impl Slot {
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Puts a segment at rest in a free slot.
    pub(crate) fn write(
        pool: &Pool,
        layout: &Layout,
        number: u32,
        serial: u64,
        place: &Place,
        extent: &Extent,
    ) -> Self {
        assert!(serial > 0 && serial != FREE, "{serial} is no serial number");
        let slot = Self { number, serial, sequence: 0 };
        let at = layout.slot_at(number);
        // One that was never used is free only for as long as all of it is zeros.
        pool.store(at, FREE);
        for (word, value) in
            [0, place.log.0, place.segment.0, place.epoch.0, place_crc(serial, place)].into_iter().enumerate()
        {
            pool.store(at + 8 + word * 8, value);
        }
        slot.write_copy(pool, layout, extent);
        pool.store(at, serial);
        slot
    }

    /// Moves the tail: what lies below it is at rest from here on.
    pub(crate) fn publish(&self, pool: &Pool, layout: &Layout, tail_at: u64) {
        pool.store(self.copy_at(layout) + 56, encode_tail(self.serial, tail_at));
    }

    /// Changes everything at once.
    pub(crate) fn update(&mut self, pool: &Pool, layout: &Layout, extent: &Extent) {
        self.sequence = self.sequence.wrapping_add(1);
        self.write_copy(pool, layout, extent);
        pool.store(layout.slot_at(self.number) + 8, u64::from(self.sequence));
    }

    /// Frees the slot: nothing is at rest of the segment any more.
    pub(crate) fn clear(self, pool: &Pool, layout: &Layout) -> u32 {
        pool.store(layout.slot_at(self.number), FREE);
        self.number
    }

    fn copy_at(&self, layout: &Layout) -> usize {
        layout.slot_at(self.number) + COPY_AT + (self.sequence % 2) as usize * COPY_BYTES
    }

    fn write_copy(&self, pool: &Pool, layout: &Layout, extent: &Extent) {
        let at = self.copy_at(layout);
        for (word, value) in encode_copy(self.serial, self.sequence, extent).into_iter().enumerate() {
            pool.store(at + word * 8, value);
        }
    }

    /// Reads a slot; `None` when it is free. The error says what is wrong, and where in the file.
    pub(crate) fn read(pool: &Pool, layout: &Layout, number: u32) -> Result<Option<Taken>, (u64, String)> {
        let at = layout.slot_at(number);
        let serial = pool.load(at);
        let damaged = |what: &str| (at as u64, format!("slot {number} has {what}"));
        if serial == FREE {
            return Ok(None);
        }
        if serial == 0 {
            let unused = (at..at + SLOT_BYTES).step_by(8).all(|word| pool.load(word) == 0);
            return if unused { Ok(None) } else { Err(damaged("no serial number, but fields")) };
        }
        let place = Place {
            log: LogId(pool.load(at + 16)),
            segment: SegmentNumber(pool.load(at + 24)),
            epoch: Epoch(pool.load(at + 32)),
        };
        if pool.load(at + 40) != place_crc(serial, &place) {
            return Err(damaged("another checksum than its fields"));
        }
        let sequence = u32::try_from(pool.load(at + 8)).map_err(|_| damaged("no valid sequence number"))?;
        let slot = Self { number, serial, sequence };
        let copy_at = slot.copy_at(layout);
        let words = std::array::from_fn(|word| pool.load(copy_at + word * 8));
        let extent = decode_copy(serial, sequence, &words).map_err(|what| (copy_at as u64, what))?;
        Ok(Some((slot, place, extent)))
    }
}

fn place_crc(serial: u64, place: &Place) -> u64 {
    let words = [serial, place.log.0, place.segment.0, place.epoch.0];
    u64::from(words.iter().fold(0, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes())))
}

fn encode_copy(serial: u64, sequence: u32, extent: &Extent) -> [u64; 8] {
    let Extent { head: Boundary { index, at, before }, tail_at, repaired_from } = extent;
    let chain = before.chain.0;
    let mut words = [
        0,
        index.0,
        *at,
        before.last_timestamp.0,
        chain as u64,
        (chain >> 64) as u64,
        repaired_from.map_or(NEVER, |index| index.0),
        encode_tail(serial, *tail_at),
    ];
    words[0] = u64::from(sequence) | u64::from(copy_crc(serial, sequence, &words)) << 32;
    words
}

fn copy_crc(serial: u64, sequence: u32, words: &[u64; 8]) -> u32 {
    let start = crc32c::crc32c_append(crc32c::crc32c(&serial.to_le_bytes()), &sequence.to_le_bytes());
    words[1..7].iter().fold(start, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes()))
}

fn decode_copy(serial: u64, sequence: u32, words: &[u64; 8]) -> Result<Extent, String> {
    let expected = u64::from(sequence) | u64::from(copy_crc(serial, sequence, words)) << 32;
    if words[0] != expected {
        return Err("the copy that counts has another checksum than its fields".to_owned());
    }
    let tail_at = words[7] >> (64 - POSITION_BITS);
    if words[7] != encode_tail(serial, tail_at) || tail_at < words[2] {
        return Err(format!("the tail {:#018x} is none", words[7]));
    }
    let chain = Chain(u128::from(words[4]) | u128::from(words[5]) << 64);
    let before = BatchEnd { chain, last_timestamp: Timestamp(words[3]) };
    let head = Boundary { index: Index(words[1]), at: words[2], before };
    let repaired_from = (words[6] != NEVER).then_some(Index(words[6]));
    Ok(Extent { head, tail_at, repaired_from })
}

fn encode_tail(serial: u64, position: u64) -> u64 {
    assert!(position >> POSITION_BITS == 0, "position {position} of a segment's stream");
    let mut input = [0; 16];
    input[..8].copy_from_slice(&serial.to_le_bytes());
    input[8..].copy_from_slice(&position.to_le_bytes());
    u64::from(crc32c::crc32c(&input) & 0xffff) | position << (64 - POSITION_BITS)
}

/// Whose a chunk is, and which one of its stream; `None` when it is free.
pub(crate) fn owner(pool: &Pool, layout: &Layout, chunk: u32) -> Option<(u64, u64)> {
    let at = layout.owner_at(chunk);
    let serial = pool.load(at);
    (serial != 0).then(|| (serial, pool.load(at + 8)))
}

/// Gives a chunk to a segment, as one of its stream.
pub(crate) fn set_owner(pool: &Pool, layout: &Layout, chunk: u32, serial: u64, position: u64) {
    let at = layout.owner_at(chunk);
    pool.store(at + 8, position);
    pool.store(at, serial);
}

/// The chunk is nobody's.
pub(crate) fn clear_owner(pool: &Pool, layout: &Layout, chunk: u32) {
    pool.store(layout.owner_at(chunk), 0);
}
