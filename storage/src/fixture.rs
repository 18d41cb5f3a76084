//! Batches for tests.

use bytes::Bytes;
use piculet_quorum::batch::{BatchBuilder, BatchEnd, BatchHeader, Place};
use piculet_quorum::ids::{Chain, Epoch, Index, LogId, SegmentNumber, Timestamp};
use piculet_quorum::producers::Producer;

pub(crate) const PLACE: Place = Place { log: LogId(0xbeef), segment: SegmentNumber(7), epoch: Epoch(3) };

/// Makes the batches of one segment, one behind the other.
#[derive(Clone)]
pub(crate) struct Batches {
    pub(crate) place: Place,
    pub(crate) next: Index,
    pub(crate) before: BatchEnd,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    pub(crate) before: BatchEnd,
    pub(crate) body: Vec<u8>,
    pub(crate) end: BatchEnd,
    /// Header and body.
    pub(crate) bytes: Bytes,
}

impl Batches {
    pub(crate) fn new(first: u64) -> Self {
        let before = BatchEnd { chain: Chain(0xfeed), last_timestamp: Timestamp(1000) };
        Self { place: PLACE, next: Index(first), before }
    }

    /// The next batch, with entries of these lengths; no two batches have the same bytes.
    pub(crate) fn peek(&self, lengths: &[usize]) -> Batch {
        self.peek_of(None, lengths)
    }

    /// The same, all of its entries with this producer, if one is given.
    fn peek_of(&self, producer: Option<&Producer>, lengths: &[usize]) -> Batch {
        let (mut builder, mut body) = (BatchBuilder::new(self.before), Vec::new());
        for (i, length) in (0..).zip(lengths) {
            let seed = self.next.0 * 31 + i;
            let payload: Vec<u8> = (0..*length as u64).map(|at| (seed * 7 + at) as u8).collect();
            builder.push_of(producer, &[], &payload, Timestamp(self.before.last_timestamp.0 + i), &mut body);
        }
        let header = builder.header(self.next, body.len());
        let bytes = Bytes::from([&header.encode(&self.place)[..], &body].concat());
        Batch { header, before: self.before, body, end: builder.end(), bytes }
    }

    pub(crate) fn next(&mut self, lengths: &[usize]) -> Batch {
        self.next_of(None, lengths)
    }

    pub(crate) fn next_of(&mut self, producer: Option<&Producer>, lengths: &[usize]) -> Batch {
        let batch = self.peek_of(producer, lengths);
        (self.next, self.before) = (batch.header.end(), batch.end);
        batch
    }
}
