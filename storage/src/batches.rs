//! Checks a row of batches as their bytes come by, cut anywhere.

use crate::frames::Boundary;
use piculet_quorum::batch::{
    BATCH_HEADER_BYTES, BatchEnd, BatchError, BatchHeader, BatchVerifier, Checked, Place,
};
use piculet_quorum::ids::{Chain, Index, Offset};
use piculet_quorum::producers::Producers;

/// Why bytes are not the row of batches that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A batch is not sound.
    #[error("the batch expected at index {at}: {error}")]
    Batch {
        /// Index of its first entry, as expected.
        at: Index,
        /// What is wrong.
        error: BatchError,
    },
    /// A batch does not start where the one before ends.
    #[error("a batch starts at index {found} where index {expected} should follow")]
    Gap {
        /// Where it starts.
        found: Index,
        /// Where the one before ends.
        expected: Index,
    },
    /// A batch does not continue the chain.
    #[error("the batch at index {at} continues chain {found}, but the chain there is {expected}")]
    Chain {
        /// Index of its first entry.
        at: Index,
        /// The chain that it continues.
        found: Chain,
        /// The chain before it.
        expected: Chain,
    },
    /// The bytes end within a batch.
    #[error("the batch at index {at} is cut off")]
    Cut {
        /// Index of its first entry.
        at: Index,
    },
}

/// A check under way.
pub(crate) struct Row {
    place: Place,
    /// Where the batches end that have come whole.
    end: Boundary,
    header: [u8; BATCH_HEADER_BYTES],
    header_len: usize,
    body: Option<(BatchHeader, BatchVerifier)>,
    /// Offset of the segment's first entry, and the table of producers where the row ends; none when
    /// nobody asked for it.
    producers: Option<(Offset, Producers)>,
}

impl Row {
    /// A row that starts at index `first`, with `before` before it.
    pub(crate) fn new(place: Place, first: Index, before: BatchEnd) -> Self {
        let end = Boundary { index: first, at: 0, before };
        Self { place, end, header: [0; BATCH_HEADER_BYTES], header_len: 0, body: None, producers: None }
    }

    /// The same, which folds its entries into the table of producers before it; the segment starts
    /// at offset `base`.
    pub(crate) fn folding(self, base: Offset, before: Producers) -> Self {
        Self { producers: Some((base, before)), ..self }
    }

    /// The table of producers where the row ends; empty unless it was asked for.
    pub(crate) fn producers(self) -> Producers {
        self.producers.map(|(_, producers)| producers).unwrap_or_default()
    }

    /// Takes the next bytes. `each` is called with the start and the end of every batch that is
    /// complete and sound; positions count from the start of the row.
    pub(crate) fn feed(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(&Boundary, &Boundary),
    ) -> Result<(), RowError> {
        while !piece.is_empty() {
            let Some((header, verifier)) = &mut self.body else {
                piece = self.feed_header(piece)?;
                continue;
            };
            let (now, later) = piece.split_at(piece.len().min(verifier.body_left()));
            let at = self.end.index;
            let (first, producers) = (header.first, &mut self.producers);
            let fold = |entry: &Checked| {
                let (Some(producer), Some((base, table))) = (entry.producer, producers.as_mut()) else {
                    return;
                };
                if let Some(offset) = Offset::checked_of(*base, first.plus(u64::from(entry.at))) {
                    table.fold(producer, offset);
                }
            };
            verifier.feed(now, fold).map_err(|error| RowError::Batch { at, error })?;
            piece = later;
            if verifier.body_left() == 0 {
                let before = verifier.finish().map_err(|error| RowError::Batch { at, error })?;
                let end = Boundary { index: header.end(), at: self.end.at + header.bytes() as u64, before };
                each(&self.end, &end);
                self.end = end;
                self.body = None;
            }
        }
        Ok(())
    }

    fn feed_header<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], RowError> {
        let (now, later) = piece.split_at(piece.len().min(BATCH_HEADER_BYTES - self.header_len));
        self.header[self.header_len..][..now.len()].copy_from_slice(now);
        self.header_len += now.len();
        if self.header_len < BATCH_HEADER_BYTES {
            return Ok(later);
        }
        self.header_len = 0;
        let Boundary { index: at, before, .. } = self.end;
        let header =
            BatchHeader::decode(&self.header, &self.place).map_err(|error| RowError::Batch { at, error })?;
        if header.first != at {
            return Err(RowError::Gap { found: header.first, expected: at });
        }
        if header.chain != before.chain {
            return Err(RowError::Chain { at, found: header.chain, expected: before.chain });
        }
        self.body = Some((header, BatchVerifier::new(header, before.last_timestamp)));
        Ok(later)
    }

    /// Where the row ends.
    ///
    /// # Errors
    /// When that is within a batch.
    pub(crate) fn finish(&self) -> Result<Boundary, RowError> {
        if self.header_len > 0 || self.body.is_some() {
            return Err(RowError::Cut { at: self.end.index });
        }
        Ok(self.end)
    }
}
