//! From bytes to entries: every batch continues the one before, or it is damage.

use crate::entry::Entry;
use crate::error::Error;
use bytes::Bytes;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchVerifier, Place};
use piculet_quorum::entry::ENTRY_HEADER_BYTES;
use piculet_quorum::headers::{self, HeadersError};
use piculet_quorum::ids::{Chain, Index, Offset, Timestamp};
use piculet_quorum::meta::SegmentRecord;
use std::ops::Range;

/// A place between two entries, and what lies before it as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The index of the next entry.
    pub(super) index: Index,
    /// The chain there; unknown where a reader begins in the middle.
    pub(super) chain: Option<Chain>,
    /// Timestamp of the entry before; zero while unknown.
    pub(super) last_timestamp: Timestamp,
}

impl Position {
    /// The place of a reader that begins at `index` of a segment.
    pub(super) fn new(record: &SegmentRecord, index: Index) -> Self {
        if index == Index(0) {
            let start = record.start();
            return Self { index, chain: Some(start.chain), last_timestamp: start.last_timestamp };
        }
        Self { index, chain: None, last_timestamp: Timestamp(0) }
    }
}

/// A batch that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The place behind it.
    pub(super) end: Position,
    /// Its length in bytes.
    pub(super) bytes: usize,
    /// Its entries, without those before the place where the reader began.
    pub(super) entries: Vec<Entry>,
}

/// The batches of a segment, as they come.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    place: Place,
    base: Offset,
    at: Position,
}

impl Sequence {
    /// The batches behind `at` in a segment that starts at offset `base`.
    pub(super) fn new(place: Place, base: Offset, at: Position) -> Self {
        Self { place, base, at }
    }

    /// The place behind the last batch that was taken.
    pub(super) fn at(&self) -> Position {
        self.at
    }

    /// Takes whole batches. Those before the reader's place are passed over.
    ///
    /// # Errors
    /// At the first batch that is damaged or does not continue the one before.
    pub(super) fn take(&mut self, mut bytes: Bytes, mut each: impl FnMut(Batch)) -> Result<(), Error> {
        while !bytes.is_empty() {
            let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
                return Err(self.damaged(format!("{} bytes instead of a batch", bytes.len())));
            };
            let header =
                BatchHeader::decode(header, &self.place).map_err(|error| self.damaged(error.to_string()))?;
            if bytes.len() < header.bytes() {
                return Err(self.damaged(format!("{} of {} bytes of a batch", bytes.len(), header.bytes())));
            }
            let batch = bytes.split_to(header.bytes());
            if header.end() > self.at.index {
                self.check_place(&header)?;
                each(self.cut(&header, &batch)?);
            }
        }
        Ok(())
    }

    /// Whether a batch goes on where the one before ended.
    fn check_place(&self, header: &BatchHeader) -> Result<(), Error> {
        let Position { index, chain, .. } = self.at;
        if header.first > index {
            return Err(self.damaged(format!("the next batch starts at index {}", header.first)));
        }
        // Where a reader begins, it may begin within a batch.
        let Some(chain) = chain else { return Ok(()) };
        if header.first < index {
            return Err(self.damaged(format!(
                "a batch from {} to {} lies across it",
                header.first,
                header.end()
            )));
        }
        if header.chain != chain {
            let found = header.chain;
            return Err(self.damaged(format!("the chain is {found}, expected {chain}")));
        }
        Ok(())
    }

    /// Checks a batch and cuts it into its entries, which share its bytes.
    fn cut(&mut self, header: &BatchHeader, batch: &Bytes) -> Result<Batch, Error> {
        let mut verifier = BatchVerifier::new(*header, self.at.last_timestamp);
        let mut entries = Vec::with_capacity(header.count as usize);
        let (mut index, mut at) = (header.first, BATCH_HEADER_BYTES);
        let mut unsound = None;
        let result = verifier.feed(&batch[BATCH_HEADER_BYTES..], |entry| {
            let header = &entry.header;
            let headers = at + ENTRY_HEADER_BYTES + header.producer_len();
            let payload = headers + header.headers_len as usize;
            at = payload + header.payload_len as usize;
            if index >= self.at.index {
                let headers = cut_headers(batch, headers..payload).unwrap_or_else(|error| {
                    unsound.get_or_insert((index, error));
                    Bytes::new()
                });
                let (offset, timestamp) = (Offset::of(self.base, index), header.timestamp);
                let (payload, producer) = (batch.slice(payload..at), entry.producer);
                entries.push(Entry { offset, timestamp, payload, producer, headers });
            }
            index = index.plus(1);
        });
        let end = result.and_then(|()| verifier.finish()).map_err(|error| self.damaged(error.to_string()))?;
        if let Some((index, error)) = unsound {
            return Err(Error::Damaged { segment: self.place.segment, index, what: error.to_string() });
        }
        let end =
            Position { index: header.end(), chain: Some(end.chain), last_timestamp: end.last_timestamp };
        self.at = end;
        Ok(Batch { end, bytes: batch.len(), entries })
    }

    fn damaged(&self, what: String) -> Error {
        Error::Damaged { segment: self.place.segment, index: self.at.index, what }
    }
}

/// The encoded headers of an entry, whose form is checked here once and for all.
fn cut_headers(batch: &Bytes, range: Range<usize>) -> Result<Bytes, HeadersError> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let encoded = batch.slice(range);
    headers::decode(&encoded).try_for_each(|header| header.map(|_| ()))?;
    Ok(encoded)
}
