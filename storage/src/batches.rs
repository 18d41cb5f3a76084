//! Checks a row of batches as their bytes come by, cut anywhere.

use crate::frames::Boundary;
use piculet_quorum::batch::{BATCH_HEADER_BYTES, BatchEnd, BatchError, BatchHeader, BatchVerifier, Place};
use piculet_quorum::ids::{Chain, Index};

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
}

impl Row {
    /// A row that starts at index `first`, with `before` before it.
    pub(crate) fn new(place: Place, first: Index, before: BatchEnd) -> Self {
        let end = Boundary { index: first, at: 0, before };
        Self { place, end, header: [0; BATCH_HEADER_BYTES], header_len: 0, body: None }
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
            verifier.feed(now, |_| ()).map_err(|error| RowError::Batch { at, error })?;
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
