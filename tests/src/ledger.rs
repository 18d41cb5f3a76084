//! What a log must hold after a test.

use bytes::Bytes;
use piculet_client::Entry;
use piculet_quorum::ids::Offset;
use std::collections::BTreeMap;

/// What was acknowledged, and what may be in the log although nobody said so.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    acknowledged: BTreeMap<Offset, Bytes>,
    unknown: Vec<Bytes>,
}

impl Ledger {
    /// An append was acknowledged at this offset.
    ///
    /// # Panics
    /// When another one was acknowledged there.
    pub fn acknowledged(&mut self, offset: Offset, payload: Bytes) {
        let before = self.acknowledged.insert(offset, payload);
        assert!(before.is_none(), "two appends were acknowledged at offset {offset}");
    }

    /// An append failed, and may have been appended all the same, once.
    pub fn unknown(&mut self, payload: Bytes) {
        self.unknown.push(payload);
    }

    /// How many appends were acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.acknowledged.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.acknowledged.is_empty()
    }

    /// The offset behind the last acknowledged append.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.acknowledged.last_key_value().map_or(Offset(0), |(last, _)| last.plus(1))
    }

    /// The last append of at least this length that was acknowledged.
    #[must_use]
    pub fn last_of(&self, len: usize) -> Option<(Offset, &Bytes)> {
        let long = self.acknowledged.iter().rev().find(|(_, payload)| payload.len() >= len);
        long.map(|(offset, payload)| (*offset, payload))
    }

    /// Takes in what another writer of the same log did.
    pub fn merge(&mut self, other: Self) {
        for (offset, payload) in other.acknowledged {
            self.acknowledged(offset, payload);
        }
        self.unknown.extend(other.unknown);
    }

    /// Checks a log that was read from its beginning to its end: in order, without a gap, every
    /// acknowledged entry in its place, nothing twice, and nothing else but what may be there.
    ///
    /// # Panics
    /// At the first entry that is not as it must be.
    pub fn check(&self, entries: &[Entry]) {
        let mut unknown = self.unknown.clone();
        for (at, entry) in (0..).map(Offset).zip(entries) {
            assert_eq!(entry.offset, at, "offsets have no gap and no repetition");
            match self.acknowledged.get(&at) {
                Some(expected) => {
                    let (found, expected) = (&entry.payload, expected);
                    assert!(found == expected, "offset {at}: {} is not {}", shown(found), shown(expected));
                }
                None => {
                    let known = unknown.iter().position(|payload| *payload == entry.payload);
                    let known = known
                        .unwrap_or_else(|| panic!("offset {at}: nobody appended {}", shown(&entry.payload)));
                    unknown.swap_remove(known);
                }
            }
        }
        let read = Offset(entries.len() as u64);
        assert!(self.end() <= read, "acknowledged up to offset {}, the log ends at {read}", self.end());
        assert!(entries.is_sorted_by_key(|entry| entry.timestamp), "timestamps never decrease");
    }
}

fn shown(payload: &Bytes) -> String {
    format!("{} bytes {:02x?}…", payload.len(), &payload[..payload.len().min(16)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload;
    use piculet_quorum::ids::Timestamp;

    fn log(numbers: &[u64]) -> Vec<Entry> {
        let entry = |(at, n): (u64, &u64)| Entry::new(Offset(at), Timestamp(at), payload(1, *n, 20));
        (0..).zip(numbers).map(entry).collect()
    }

    fn fails(ledger: &Ledger, entries: &[Entry]) -> bool {
        std::panic::catch_unwind(|| ledger.check(entries)).is_err()
    }

    #[test]
    fn every_kind_of_damage_is_noticed() {
        let mut ledger = Ledger::default();
        for n in [0, 1, 3] {
            ledger.acknowledged(Offset(n), payload(1, n, 20));
        }
        ledger.unknown(payload(1, 2, 20));
        ledger.unknown(payload(1, 4, 20));
        ledger.check(&log(&[0, 1, 2, 3]));
        ledger.check(&log(&[0, 1, 2, 3, 4]));
        for (what, bad) in [
            ("lost", vec![0, 1, 2]),
            ("changed", vec![0, 9, 2, 3]),
            ("reordered", vec![1, 0, 2, 3]),
            ("twice", vec![0, 1, 2, 3, 2]),
            ("of nobody", vec![0, 1, 2, 3, 7]),
        ] {
            assert!(fails(&ledger, &log(&bad)), "{what}");
        }
        let mut gap = log(&[0, 1, 2, 3]);
        gap.remove(2);
        assert!(fails(&ledger, &gap));
        let mut backwards = log(&[0, 1, 2, 3]);
        backwards[2].timestamp = Timestamp(0);
        assert!(fails(&ledger, &backwards));
    }
}
