//! A batch: entries that were appended together and are kept, sent and cut only as a whole.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the entries that follow the header |
//! | 4..8 | number of entries |
//! | 8..16 | index of the first entry in its segment |
//! | 16..32 | chain before the first entry |
//! | 32..36 | CRC32C of log, segment and epoch (8 bytes each) and of bytes 0..32 |
//! | 36..40 | flags; 0 in this version |
//! | 40.. | the entries, each as `entry` describes |
//!
//! All numbers are little-endian. The CRC binds the batch to its place: bytes of another segment
//! are not taken for this one's.

use crate::entry::{ENTRY_HEADER_BYTES, EntryError, EntryHeader, u32_at, u64_at, u128_at};
use crate::ids::{Chain, Epoch, Index, LogId, SegmentNumber, Timestamp};
use crate::limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX};
use crate::producers::{PRODUCER_BYTES, Producer};

/// Length of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 40;

/// The segment that a batch belongs to, with its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The log.
    pub log: LogId,
    /// The segment of the log.
    pub segment: SegmentNumber,
    /// The epoch in which the segment is written.
    pub epoch: Epoch,
}

/// The header of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchHeader {
    /// Length of the entries in bytes, their headers included.
    pub body_len: u32,
    /// Number of entries, at least one.
    pub count: u32,
    /// Index of the first entry in its segment.
    pub first: Index,
    /// Chain before the first entry.
    pub chain: Chain,
}

/// Why bytes are not the batch that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The header's CRC is wrong: damaged, or of another segment.
    #[error("batch header checksum is {found:#010x}, expected {expected:#010x}")]
    HeaderChecksum {
        /// What the header holds.
        found: u32,
        /// What its fields give.
        expected: u32,
    },
    /// The header gives sizes that no batch has.
    #[error(
        "batch of {count} entries in {body_len} bytes is outside the limits ({BATCH_ENTRIES_MAX} entries, {BATCH_BYTES_MAX} bytes)"
    )]
    Size {
        /// Number of entries.
        count: u32,
        /// Length of the entries.
        body_len: u32,
    },
    /// The header uses something that this version does not know.
    #[error("batch header has flags {flags:#x}; this version knows none")]
    Flags {
        /// The flags.
        flags: u32,
    },
    /// An entry is malformed.
    #[error("entry {at} of the batch: {error}")]
    Entry {
        /// Which entry of the batch, from 0.
        at: u32,
        /// What is wrong.
        error: EntryError,
    },
    /// An entry's CRC is wrong.
    #[error("entry {at} of the batch has checksum {found:#010x}, expected {expected:#010x}")]
    EntryChecksum {
        /// Which entry of the batch, from 0.
        at: u32,
        /// What its header holds.
        found: u32,
        /// What its bytes give.
        expected: u32,
    },
    /// The entries do not fill the body exactly.
    #[error("the batch's {count} entries do not fill its {body_len} bytes exactly")]
    Shape {
        /// Number of entries announced.
        count: u32,
        /// Length announced.
        body_len: u32,
    },
    /// Time runs backwards.
    #[error("entry {at} of the batch has timestamp {found}, earlier than {before} before it")]
    Backwards {
        /// Which entry of the batch, from 0.
        at: u32,
        /// Its timestamp.
        found: Timestamp,
        /// The timestamp before it.
        before: Timestamp,
    },
}

impl BatchHeader {
    /// The header as bytes, bound to `place`.
    #[must_use]
    pub fn encode(&self, place: &Place) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.body_len.to_le_bytes());
        out[4..8].copy_from_slice(&self.count.to_le_bytes());
        out[8..16].copy_from_slice(&self.first.0.to_le_bytes());
        out[16..32].copy_from_slice(&self.chain.0.to_le_bytes());
        let crc = checksum(&out, place);
        out[32..36].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header that must belong to `place`.
    ///
    /// # Errors
    /// When it is damaged, of another place, or outside the limits.
    pub fn decode(bytes: &[u8; BATCH_HEADER_BYTES], place: &Place) -> Result<Self, BatchError> {
        let (found, expected) = (u32_at(bytes, 32), checksum(bytes, place));
        if found != expected {
            return Err(BatchError::HeaderChecksum { found, expected });
        }
        let flags = u32_at(bytes, 36);
        if flags != 0 {
            return Err(BatchError::Flags { flags });
        }
        let header = Self {
            body_len: u32_at(bytes, 0),
            count: u32_at(bytes, 4),
            first: Index(u64_at(bytes, 8)),
            chain: Chain(u128_at(bytes, 16)),
        };
        let (count, body) = (header.count as usize, header.body_len as usize);
        let sane = count > 0
            && count <= BATCH_ENTRIES_MAX
            && body >= count * ENTRY_HEADER_BYTES
            && body + BATCH_HEADER_BYTES <= BATCH_BYTES_MAX
            && header.first.0.checked_add(u64::from(header.count)).is_some();
        if !sane {
            return Err(BatchError::Size { count: header.count, body_len: header.body_len });
        }
        Ok(header)
    }

    /// The index after the last entry.
    #[must_use]
    pub fn end(&self) -> Index {
        self.first.plus(u64::from(self.count))
    }

    /// Length of the whole batch in bytes, header included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_len as usize
    }
}

fn checksum(bytes: &[u8; BATCH_HEADER_BYTES], place: &Place) -> u32 {
    let mut input = [0; 56];
    input[0..8].copy_from_slice(&place.log.0.to_le_bytes());
    input[8..16].copy_from_slice(&place.segment.0.to_le_bytes());
    input[16..24].copy_from_slice(&place.epoch.0.to_le_bytes());
    input[24..56].copy_from_slice(&bytes[..32]);
    crc32c::crc32c(&input)
}

/// What a whole batch leaves behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchEnd {
    /// Chain after the last entry.
    pub chain: Chain,
    /// Timestamp of the last entry.
    pub last_timestamp: Timestamp,
}

/// Gathers entries into a batch. Its index and place are given last, when they are known.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    count: u32,
    first_chain: Chain,
    end: BatchEnd,
}

impl BatchBuilder {
    /// An empty batch behind `before`.
    #[must_use]
    pub fn new(before: BatchEnd) -> Self {
        Self { count: 0, first_chain: before.chain, end: before }
    }

    /// Adds an entry with these encoded headers to `body`.
    pub fn push(
        &mut self,
        headers: &[u8],
        payload: &[u8],
        timestamp: Timestamp,
        body: &mut impl bytes::BufMut,
    ) {
        self.push_of(None, headers, payload, timestamp, body);
    }

    /// The same, of an entry that may say which producer it is of.
    pub fn push_of(
        &mut self,
        producer: Option<&Producer>,
        headers: &[u8],
        payload: &[u8],
        timestamp: Timestamp,
        body: &mut impl bytes::BufMut,
    ) {
        assert!(timestamp >= self.end.last_timestamp, "timestamps never decrease");
        let header = EntryHeader::with(producer, headers, payload, timestamp).encode();
        body.put_slice(&header);
        if let Some(producer) = producer {
            body.put_slice(&producer.encode());
        }
        body.put_slice(headers);
        body.put_slice(payload);
        self.count += 1;
        self.end = BatchEnd { chain: self.end.chain.extended(&header), last_timestamp: timestamp };
    }

    /// Number of entries so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What the batch leaves behind it.
    #[must_use]
    pub fn end(&self) -> BatchEnd {
        self.end
    }

    /// The header of the batch, now that its first index and the length of its body are known.
    #[must_use]
    pub fn header(&self, first: Index, body_len: usize) -> BatchHeader {
        assert!(self.count > 0 && body_len + BATCH_HEADER_BYTES <= BATCH_BYTES_MAX);
        BatchHeader { body_len: body_len as u32, count: self.count, first, chain: self.first_chain }
    }
}

/// An entry that has come whole and is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Which entry of the batch it is, from 0.
    pub at: u32,
    /// Its header.
    pub header: EntryHeader,
    /// Its producer, if it has one.
    pub producer: Option<Producer>,
}

/// Checks the entries of one batch as their bytes come by, in pieces of any size.
#[derive(Clone, Debug)]
pub struct BatchVerifier {
    header: BatchHeader,
    end: BatchEnd,
    seen: u32,
    body_left: usize,
    entry_header: [u8; ENTRY_HEADER_BYTES],
    entry_header_len: usize,
    entry: Option<(EntryHeader, u32, usize)>,
    producer: [u8; PRODUCER_BYTES],
}

impl BatchVerifier {
    /// A verifier for the batch with this header; `last_timestamp` is the one before it.
    #[must_use]
    pub fn new(header: BatchHeader, last_timestamp: Timestamp) -> Self {
        Self {
            header,
            end: BatchEnd { chain: header.chain, last_timestamp },
            seen: 0,
            body_left: header.body_len as usize,
            entry_header: [0; ENTRY_HEADER_BYTES],
            entry_header_len: 0,
            entry: None,
            producer: [0; PRODUCER_BYTES],
        }
    }

    /// Bytes of the body that have not come yet.
    #[must_use]
    pub fn body_left(&self) -> usize {
        self.body_left
    }

    /// Takes the next piece of the body; it must not reach beyond it. `each` is called with
    /// every entry that has come whole and is sound.
    ///
    /// # Errors
    /// At the first entry that is not sound. The verifier is of no use afterwards.
    pub fn feed(&mut self, mut piece: &[u8], mut each: impl FnMut(&Checked)) -> Result<(), BatchError> {
        assert!(piece.len() <= self.body_left, "a piece beyond the batch");
        self.body_left -= piece.len();
        loop {
            if let Some((header, crc, left)) = &mut self.entry {
                let taken = piece.len().min(*left);
                *crc = crc32c::crc32c_append(*crc, &piece[..taken]);
                if header.producer {
                    let at = header.body_len() - *left;
                    let room = self.producer.get_mut(at..).unwrap_or_default();
                    let part = room.len().min(taken);
                    room[..part].copy_from_slice(&piece[..part]);
                }
                *left -= taken;
                piece = &piece[taken..];
                if *left > 0 {
                    return Ok(());
                }
                let (header, crc) = (*header, *crc);
                self.entry = None;
                each(&self.finish_entry(header, crc)?);
            }
            if piece.is_empty() {
                return Ok(());
            }
            let taken = piece.len().min(ENTRY_HEADER_BYTES - self.entry_header_len);
            self.entry_header[self.entry_header_len..][..taken].copy_from_slice(&piece[..taken]);
            self.entry_header_len += taken;
            piece = &piece[taken..];
            if self.entry_header_len == ENTRY_HEADER_BYTES {
                self.start_entry()?;
            } else {
                return Ok(());
            }
        }
    }

    fn start_entry(&mut self) -> Result<(), BatchError> {
        let header = EntryHeader::decode(&self.entry_header)
            .map_err(|error| BatchError::Entry { at: self.seen, error })?;
        if header.timestamp < self.end.last_timestamp {
            let before = self.end.last_timestamp;
            return Err(BatchError::Backwards { at: self.seen, found: header.timestamp, before });
        }
        let crc = crc32c::crc32c(&self.entry_header[4..]);
        self.entry = Some((header, crc, header.body_len()));
        Ok(())
    }

    fn finish_entry(&mut self, header: EntryHeader, crc: u32) -> Result<Checked, BatchError> {
        if header.crc != crc {
            return Err(BatchError::EntryChecksum { at: self.seen, found: header.crc, expected: crc });
        }
        let mut producer = None;
        if header.producer {
            let no_producer = BatchError::Entry { at: self.seen, error: EntryError::Producer };
            producer = Some(Producer::decode(&self.producer).ok_or(no_producer)?);
        }
        self.end =
            BatchEnd { chain: self.end.chain.extended(&self.entry_header), last_timestamp: header.timestamp };
        let at = self.seen;
        self.seen += 1;
        self.entry_header_len = 0;
        Ok(Checked { at, header, producer })
    }

    /// Ends the check, when the whole body has come.
    ///
    /// # Errors
    /// When the entries do not fill the batch exactly.
    pub fn finish(&self) -> Result<BatchEnd, BatchError> {
        let whole = self.body_left == 0
            && self.seen == self.header.count
            && self.entry.is_none()
            && self.entry_header_len == 0;
        if !whole {
            let BatchHeader { count, body_len, .. } = self.header;
            return Err(BatchError::Shape { count, body_len });
        }
        Ok(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producers::ProducerId;

    const PLACE: Place = Place { log: LogId(7), segment: SegmentNumber(2), epoch: Epoch(3) };
    const BEFORE: BatchEnd = BatchEnd { chain: Chain(11), last_timestamp: Timestamp(5) };

    fn batch(payloads: &[&[u8]]) -> (BatchHeader, Vec<u8>, BatchEnd) {
        let (mut builder, mut body) = (BatchBuilder::new(BEFORE), Vec::new());
        for (i, payload) in payloads.iter().enumerate() {
            builder.push(&[], payload, Timestamp(10 + i as u64), &mut body);
        }
        (builder.header(Index(100), body.len()), body, builder.end())
    }

    fn producer(id: u64, sequence: u64) -> Producer {
        Producer { id: ProducerId::new(id).unwrap(), sequence }
    }

    #[test]
    fn the_producer_of_an_entry_is_found_in_pieces_of_any_size() {
        let (mut builder, mut body) = (BatchBuilder::new(BEFORE), Vec::new());
        let producers = [Some(producer(7, 1)), None, Some(producer(u64::MAX, 0)), Some(producer(8, 2))];
        for (i, producer) in producers.iter().enumerate() {
            let payload = [b'x'; 3];
            builder.push_of(producer.as_ref(), b"headers", &payload[..i], Timestamp(10), &mut body);
        }
        let header = builder.header(Index(100), body.len());
        for piece in 1..=body.len() {
            let (mut verifier, mut found) = (BatchVerifier::new(header, BEFORE.last_timestamp), Vec::new());
            for piece in body.chunks(piece) {
                verifier.feed(piece, |entry| found.push(entry.producer)).unwrap();
            }
            assert_eq!(verifier.finish(), Ok(builder.end()), "pieces of {piece}");
            assert_eq!(found, producers, "pieces of {piece}");
        }
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check(header, &damaged, 13).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_bytes_of_an_entry_with_a_producer_are_fixed() {
        let (mut builder, mut body) = (BatchBuilder::new(BEFORE), Vec::new());
        builder.push_of(Some(&producer(0x0102, 3)), b"", b"golden", Timestamp(10), &mut body);
        assert_eq!(body.iter().map(|b| format!("{b:02x}")).collect::<String>(), GOLDEN_PRODUCER);
    }

    const GOLDEN_PRODUCER: &str = "011fc7ae060000000a000000000000000000000001000000\
        02010000000000000300000000000000676f6c64656e";

    #[test]
    fn an_entry_of_producer_0_or_with_other_flags_is_refused() {
        let (mut builder, mut body) = (BatchBuilder::new(BEFORE), Vec::new());
        builder.push_of(Some(&producer(1, 3)), b"", b"payload", Timestamp(10), &mut body);
        let header = builder.header(Index(100), body.len());
        let reseal = |body: &mut Vec<u8>| {
            let crc = crc32c::crc32c(&body[4..]);
            body[..4].copy_from_slice(&crc.to_le_bytes());
        };
        body[ENTRY_HEADER_BYTES] = 0;
        reseal(&mut body);
        let refused = Err(BatchError::Entry { at: 0, error: EntryError::Producer });
        assert_eq!(check(header, &body, 9), refused);
        body[20] = 3;
        reseal(&mut body);
        let refused = Err(BatchError::Entry { at: 0, error: EntryError::Flags { flags: 3 } });
        assert_eq!(check(header, &body, 9), refused);
        // The flag, and no room for a producer behind it.
        let (header, mut body, _) = batch(&[b"short"]);
        body[20] = 1;
        reseal(&mut body);
        let result = check(header, &body, 64);
        assert!(matches!(result, Err(BatchError::Shape { .. })), "{result:?}");
    }

    fn check(header: BatchHeader, body: &[u8], piece: usize) -> Result<BatchEnd, BatchError> {
        let mut verifier = BatchVerifier::new(header, BEFORE.last_timestamp);
        for piece in body.chunks(piece) {
            verifier.feed(piece, |_| ())?;
        }
        verifier.finish()
    }

    #[test]
    fn a_batch_is_verified_in_pieces_of_any_size() {
        let (header, body, end) = batch(&[b"one", b"", b"three and more"]);
        assert_eq!(BatchHeader::decode(&header.encode(&PLACE), &PLACE), Ok(header));
        for piece in 1..=body.len() {
            assert_eq!(check(header, &body, piece), Ok(end), "pieces of {piece}");
        }
    }

    #[test]
    fn the_bytes_of_a_batch_are_fixed() {
        let (header, body, end) = batch(&[b"golden"]);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&header.encode(&PLACE)), GOLDEN_HEADER);
        assert_eq!(hex(&body), GOLDEN_BODY);
        assert_eq!(end.chain.to_string(), GOLDEN_CHAIN);
    }

    const GOLDEN_HEADER: &str =
        "1e0000000100000064000000000000000b00000000000000000000000000000062170de300000000";
    const GOLDEN_BODY: &str = "3fd96c7b060000000a000000000000000000000000000000676f6c64656e";
    const GOLDEN_CHAIN: &str = "2c04a97fe20fcaadbf1ced226eaeac88";

    #[test]
    fn every_flipped_bit_is_found() {
        let (header, body, _) = batch(&[b"some", b"payload"]);
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check(header, &damaged, 13).is_err(), "bit {bit} of the body");
        }
        let bytes = header.encode(&PLACE);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&damaged, &PLACE).is_err(), "bit {bit} of the header");
        }
    }

    #[test]
    fn a_batch_of_another_segment_is_refused() {
        let (header, ..) = batch(&[b"x"]);
        let elsewhere = Place { segment: SegmentNumber(3), ..PLACE };
        let result = BatchHeader::decode(&header.encode(&elsewhere), &PLACE);
        assert!(matches!(result, Err(BatchError::HeaderChecksum { .. })), "{result:?}");
    }

    #[test]
    fn a_short_or_long_body_is_refused() {
        let (header, body, _) = batch(&[b"one", b"two"]);
        let short = check(header, &body[..body.len() - 1], 64);
        assert!(matches!(short, Err(BatchError::Shape { .. })), "{short:?}");
        let fewer = check(BatchHeader { count: 1, ..header }, &body, 64);
        assert!(matches!(fewer, Err(BatchError::Shape { .. })), "{fewer:?}");
    }
}
