//! How much goes into one part: less while the store, or the line to it, does not take so much in
//! time.

use bytes::Bytes;
use piculet_storage::limits::OBJECT_REQUEST_TIMEOUT;
use std::time::Duration;

/// A part that is put within this time leaves time enough for one twice as large.
const QUICK: Duration = Duration::from_secs(OBJECT_REQUEST_TIMEOUT.as_secs() / 4);

/// Bytes of batches that make a part full; one batch makes a part in any case.
pub(super) struct PartSize {
    most: u64,
    limit: u64,
}

impl PartSize {
    pub(super) fn new(most: u64) -> Self {
        Self { most, limit: most }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// A limit that makes of these batches a part with fewer of them; none when there is but one.
    pub(super) fn below(batches: &[Bytes]) -> Option<u64> {
        let (last, others) = batches.split_last()?;
        let others: u64 = others.iter().map(|batch| batch.len() as u64).sum();
        (others > 0).then(|| others.min((others + last.len() as u64) / 2))
    }

    /// A part was not put in time.
    pub(super) fn shrink(&mut self, limit: u64) {
        self.limit = self.limit.min(limit);
    }

    /// A part of so many bytes was put within that time.
    pub(super) fn put(&mut self, bytes: u64, within: Duration) {
        if bytes >= self.limit && within < QUICK {
            self.limit = self.limit.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(lengths: &[usize]) -> Vec<Bytes> {
        lengths.iter().map(|length| vec![0; *length].into()).collect()
    }

    #[test]
    fn a_smaller_part_is_half_as_large_and_has_fewer_batches() {
        for (lengths, expected) in [
            (&[10, 10, 10, 10][..], Some(20)),
            (&[10, 80], Some(10)),
            (&[80, 10], Some(45)),
            (&[10, 10, 200], Some(20)),
            (&[10], None),
            (&[], None),
        ] {
            assert_eq!(PartSize::below(&batches(lengths)), expected, "{lengths:?}");
        }
    }

    #[test]
    fn it_grows_again_with_full_parts_that_are_put_quickly() {
        let mut size = PartSize::new(1_000);
        size.shrink(300);
        size.shrink(400);
        assert_eq!(size.limit(), 300, "a late answer to a larger one takes nothing back");
        size.put(200, Duration::ZERO);
        size.put(300, QUICK);
        assert_eq!(size.limit(), 300, "neither says that more would be put in time");
        size.put(300, Duration::ZERO);
        assert_eq!(size.limit(), 600);
        size.put(650, Duration::ZERO);
        size.put(1_000, Duration::ZERO);
        assert_eq!(size.limit(), 1_000, "never above the setting");
    }
}
