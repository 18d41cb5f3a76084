//! Copy on write, with the hash kept: most steps change one machine of many.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A value that states share until one of them changes it.
#[derive(Clone)]
pub(crate) struct Shared<T> {
    value: Arc<T>,
    print: u64,
}

impl<T: Clone + Hash> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        let print = print(&value);
        Self { value: Arc::new(value), print }
    }

    /// Changes this state's value, and nobody else's.
    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(Arc::make_mut(&mut self.value));
        self.print = print(&*self.value);
        result
    }

    /// Whether the two are the same, as far as their hashes tell.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

fn print(value: &impl Hash) -> u64 {
    let mut folded = Folded(0x243F_6A88_85A3_08D3);
    value.hash(&mut folded);
    folded.finish()
}

/// A quick hash that mixes well: a folded multiplication for every word.
struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(0x9E37_79B9_7F4A_7C15_u64 | 1);
        let folded = (product as u64) ^ (product >> 64) as u64;
        self.0 = folded.rotate_left(23).wrapping_add(0x1319_8A2E_0370_7344);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.0) * 0xD6E8_FEB8_6659_FD93;
        (product as u64) ^ (product >> 64) as u64
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.print);
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print && (Arc::ptr_eq(&self.value, &other.value) || self.value == other.value)
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}
