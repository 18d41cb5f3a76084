//! One entry, as it lies on the wire, in a node's memory and in a part.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | CRC32C of all that follows: bytes 4.., to the end of the payload |
//! | 4..8 | length of the payload |
//! | 8..16 | timestamp, milliseconds since the Unix epoch |
//! | 16..20 | length of the encoded headers, as `headers` describes them |
//! | 20..24 | flags; 1: the entry says which producer it is of. No other in this version |
//! | 24.. | with that flag: the producer (8 bytes, not 0) and its sequence (8 bytes) |
//! | then | the encoded headers, then the payload |
//!
//! All numbers are little-endian.

use crate::ids::{Chain, Timestamp};
use crate::limits::{ENTRY_BYTES_MAX, HEADERS_BYTES_MAX};
use crate::producers::{PRODUCER_BYTES, Producer};

/// Length of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 24;

/// The flag of an entry that says which producer it is of.
const FLAG_PRODUCER: u32 = 1;

/// The header of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryHeader {
    /// CRC32C of the rest of this header and of all that follows it.
    pub crc: u32,
    /// Length of the payload.
    pub payload_len: u32,
    /// Length of the encoded headers.
    pub headers_len: u32,
    /// When the writer took the entry.
    pub timestamp: Timestamp,
    /// Whether a producer and its sequence precede the encoded headers.
    pub producer: bool,
}

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Payload and headers are longer than an entry may be.
    #[error("an entry of {len} bytes is longer than the {ENTRY_BYTES_MAX} allowed")]
    TooLong {
        /// The length that the header gives.
        len: u64,
    },
    /// The headers are longer than they may be.
    #[error("entry headers of {len} bytes are longer than the {HEADERS_BYTES_MAX} allowed")]
    HeadersTooLong {
        /// The length that the header gives.
        len: u32,
    },
    /// The header uses something that this version does not know.
    #[error("entry header has flags {flags:#x}; this version knows {FLAG_PRODUCER:#x} only")]
    Flags {
        /// The flags.
        flags: u32,
    },
    /// The producer of the entry is 0.
    #[error("the entry is of producer 0, which there is not")]
    Producer,
}

impl EntryHeader {
    /// The header of an entry with these encoded headers and this payload.
    ///
    /// # Panics
    /// If they are longer than [`HEADERS_BYTES_MAX`], or together longer than [`ENTRY_BYTES_MAX`];
    /// the caller has checked.
    #[must_use]
    pub fn of(headers: &[u8], payload: &[u8], timestamp: Timestamp) -> Self {
        Self::with(None, headers, payload, timestamp)
    }

    /// The same, of an entry that may say which producer it is of.
    ///
    /// # Panics
    /// As [`of`](Self::of).
    #[must_use]
    pub fn with(producer: Option<&Producer>, headers: &[u8], payload: &[u8], timestamp: Timestamp) -> Self {
        let len = headers.len() + payload.len();
        assert!(headers.len() <= HEADERS_BYTES_MAX && len <= ENTRY_BYTES_MAX, "an entry of {len} bytes");
        let (payload_len, headers_len) = (payload.len() as u32, headers.len() as u32);
        let mut header = Self { crc: 0, payload_len, headers_len, timestamp, producer: producer.is_some() };
        let mut fields = crc32c::crc32c(&header.encode()[4..]);
        if let Some(producer) = producer {
            fields = crc32c::crc32c_append(fields, &producer.encode());
        }
        header.crc = crc32c::crc32c_append(crc32c::crc32c_append(fields, headers), payload);
        header
    }

    /// Length of what precedes the encoded headers behind the header.
    #[must_use]
    pub fn producer_len(&self) -> usize {
        if self.producer { PRODUCER_BYTES } else { 0 }
    }

    /// Length of all that follows the header: the producer if it has one, the encoded headers and
    /// the payload.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.producer_len() + self.headers_len as usize + self.payload_len as usize
    }

    /// The header as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        let mut out = [0; ENTRY_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.crc.to_le_bytes());
        out[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.timestamp.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.headers_len.to_le_bytes());
        out[20..24].copy_from_slice(&if self.producer { FLAG_PRODUCER } else { 0 }.to_le_bytes());
        out
    }

    /// Reads a header. The CRC is the caller's to check, with the payload.
    ///
    /// # Errors
    /// When it names an impossible length or something that this version does not know.
    pub fn decode(bytes: &[u8; ENTRY_HEADER_BYTES]) -> Result<Self, EntryError> {
        let (payload_len, headers_len, flags) = (u32_at(bytes, 4), u32_at(bytes, 16), u32_at(bytes, 20));
        if flags & !FLAG_PRODUCER != 0 {
            return Err(EntryError::Flags { flags });
        }
        if headers_len as usize > HEADERS_BYTES_MAX {
            return Err(EntryError::HeadersTooLong { len: headers_len });
        }
        let len = u64::from(payload_len) + u64::from(headers_len);
        if len > ENTRY_BYTES_MAX as u64 {
            return Err(EntryError::TooLong { len });
        }
        let (crc, timestamp) = (u32_at(bytes, 0), Timestamp(u64_at(bytes, 8)));
        Ok(Self { crc, payload_len, headers_len, timestamp, producer: flags & FLAG_PRODUCER != 0 })
    }
}

impl Chain {
    /// The chain after an entry whose header has these bytes. The header holds the CRC of
    /// what follows it, so the chain covers that too.
    #[must_use]
    pub fn extended(self, header: &[u8; ENTRY_HEADER_BYTES]) -> Self {
        let mut input = [0; 16 + ENTRY_HEADER_BYTES];
        input[..16].copy_from_slice(&self.0.to_le_bytes());
        input[16..].copy_from_slice(header);
        Self(xxhash_rust::xxh3::xxh3_128(&input))
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
