//! Random choices that a seed repeats.

use std::time::Duration;

/// A small generator (xorshift64*): the same choices for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator of its own for each seed and use.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        // Mixed, so that small seeds differ at once; the state is never zero.
        let mixed = (seed ^ purpose.rotate_left(32)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed ^ (mixed >> 29)) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// A time of up to `longest`.
    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.below(longest.as_micros() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_choices_and_another_makes_others() {
        let some = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            (0..20).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(some(1, 1), some(1, 1));
        assert_ne!(some(1, 1), some(2, 1));
        assert_ne!(some(1, 1), some(1, 2));
        let mut random = Random::new(0, 0);
        let nodes: std::collections::BTreeSet<u64> = (0..50).map(|_| random.below(3)).collect();
        assert_eq!(nodes, [0, 1, 2].into());
    }
}
