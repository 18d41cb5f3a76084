//! Producers: what makes an append that is repeated count once.
//!
//! An application that wants each of its appends once, whatever fails in between, gives itself a
//! number and each append a sequence that grows. Both travel with the entry, so the entries of a log
//! tell which sequence came last of every producer: [`Producers`] is that table. It is a pure fold
//! over the entries in order, so whoever folds the same entries has the same table, and every part
//! keeps the one at its end. A writer that follows another starts from there.
//!
//! The table is bounded: beyond [`PRODUCERS_MAX`] the producer goes whose last entry is the oldest,
//! and then a repetition of it is an append like any other.
//!
//! A table as bytes: for each producer, the one with the oldest entry first,
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | the producer, not 0 |
//! | 8..16 | its last sequence |
//! | 16..24 | offset of the entry that carries it |
//!
//! All numbers are little-endian. An empty table has no bytes.

use crate::entry::u64_at;
use crate::ids::Offset;
use crate::limits::PRODUCERS_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU64;

/// Length of a producer and its sequence in an entry.
pub const PRODUCER_BYTES: usize = 16;
/// Length of one row of the table.
const ROW_BYTES: usize = 24;
/// Length of the longest table.
pub const PRODUCERS_BYTES_MAX: usize = PRODUCERS_MAX * ROW_BYTES;

/// Who appends, as the application numbers its producers: not 0, and not used by two at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(NonZeroU64);

impl ProducerId {
    /// The producer with this number; none for 0.
    #[must_use]
    pub fn new(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry says of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer {
    /// Who appended it.
    pub id: ProducerId,
    /// Which of the producer's appends it is. Later ones have higher sequences; not every number
    /// need be used.
    pub sequence: u64,
}

impl Producer {
    /// As it lies at the beginning of an entry's body.
    #[must_use]
    pub fn encode(&self) -> [u8; PRODUCER_BYTES] {
        let mut out = [0; PRODUCER_BYTES];
        out[..8].copy_from_slice(&self.id.get().to_le_bytes());
        out[8..].copy_from_slice(&self.sequence.to_le_bytes());
        out
    }

    /// Reads it; none when the producer is 0.
    #[must_use]
    pub fn decode(bytes: &[u8; PRODUCER_BYTES]) -> Option<Self> {
        Some(Self { id: ProducerId::new(u64_at(bytes, 0))?, sequence: u64_at(bytes, 8) })
    }
}

/// The last append of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LastAppend {
    /// Its sequence.
    pub sequence: u64,
    /// Offset of the entry that carries it.
    pub offset: Offset,
}

/// What an append of a producer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// It is to be appended.
    New,
    /// It is the producer's last append, which is at this offset.
    Duplicate(Offset),
    /// It is below the producer's last append, which is this one: where it is, or whether it ever
    /// was, is not known any more.
    Older(LastAppend),
}

/// The last append of every producer of a log, up to some offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Producers {
    last: BTreeMap<ProducerId, LastAppend>,
    /// The same by offset: the first goes when there is no room.
    by_offset: BTreeSet<(Offset, ProducerId)>,
}

/// Why bytes are not a table of producers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducersError {
    /// They are not a whole number of rows, or too many.
    #[error(
        "a table of producers of {0} bytes is not possible: expected a multiple of 24, at most {PRODUCERS_BYTES_MAX}"
    )]
    Length(usize),
    /// A row cannot be where it is.
    #[error(
        "row {0} of the table of producers is of producer 0, of one that has a row already, or out of order"
    )]
    Row(usize),
}

impl Producers {
    /// Takes the next entry in: it has been given this offset, which is above those before it.
    /// One with a sequence that is not above the last of its producer changes nothing.
    pub fn fold(&mut self, producer: Producer, offset: Offset) {
        let Producer { id, sequence } = producer;
        match self.last.get(&id) {
            Some(last) if sequence <= last.sequence => return,
            Some(last) => {
                self.by_offset.remove(&(last.offset, id));
            }
            None if self.last.len() >= PRODUCERS_MAX => {
                if let Some((_, oldest)) = self.by_offset.pop_first() {
                    self.last.remove(&oldest);
                }
            }
            None => {}
        }
        self.last.insert(id, LastAppend { sequence, offset });
        self.by_offset.insert((offset, id));
    }

    /// What an append is that would come next.
    #[must_use]
    pub fn judge(&self, producer: Producer) -> Judgement {
        match self.last(producer.id) {
            Some(last) if producer.sequence == last.sequence => Judgement::Duplicate(last.offset),
            Some(last) if producer.sequence < last.sequence => Judgement::Older(last),
            _ => Judgement::New,
        }
    }

    /// The last append of a producer, if it is in the table.
    #[must_use]
    pub fn last(&self, id: ProducerId) -> Option<LastAppend> {
        self.last.get(&id).copied()
    }

    /// Behind the newest entry that the table knows of; 0 when it knows none.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.by_offset.last().map_or(Offset(0), |(offset, _)| Offset(offset.0.saturating_add(1)))
    }

    /// Number of producers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// The table as bytes: one table has one form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.last.len() * ROW_BYTES);
        for (offset, id) in &self.by_offset {
            let sequence = self.last[id].sequence;
            out.extend_from_slice(&Producer { id: *id, sequence }.encode());
            out.extend_from_slice(&offset.0.to_le_bytes());
        }
        out
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When the bytes are not exactly what [`encode`](Self::encode) gives for one.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProducersError> {
        let (rows, rest) = bytes.as_chunks::<ROW_BYTES>();
        if !rest.is_empty() || rows.len() > PRODUCERS_MAX {
            return Err(ProducersError::Length(bytes.len()));
        }
        let mut table = Self::default();
        for (at, row) in rows.iter().enumerate() {
            let id = ProducerId::new(u64_at(row, 0)).ok_or(ProducersError::Row(at))?;
            let last = LastAppend { sequence: u64_at(row, 8), offset: Offset(u64_at(row, 16)) };
            let ordered = table.by_offset.last().is_none_or(|(before, _)| *before < last.offset);
            if !ordered || table.last.insert(id, last).is_some() {
                return Err(ProducersError::Row(at));
            }
            table.by_offset.insert((last.offset, id));
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn producer(id: u64, sequence: u64) -> Producer {
        Producer { id: ProducerId::new(id).unwrap(), sequence }
    }

    fn folded(entries: &[(u64, u64)]) -> Producers {
        let mut table = Producers::default();
        for (offset, (id, sequence)) in entries.iter().enumerate() {
            table.fold(producer(*id, *sequence), Offset(offset as u64));
        }
        table
    }

    #[test]
    fn an_append_is_judged_by_the_last_of_its_producer() {
        let table = folded(&[(7, 10), (8, 1), (7, 20)]);
        let last = LastAppend { sequence: 20, offset: Offset(2) };
        assert_eq!(table.last(producer(7, 0).id), Some(last));
        assert_eq!(table.judge(producer(7, 21)), Judgement::New);
        assert_eq!(table.judge(producer(7, 20)), Judgement::Duplicate(Offset(2)));
        // Just below, one that was appended, and one that never was.
        for sequence in [19, 10, 0] {
            assert_eq!(table.judge(producer(7, sequence)), Judgement::Older(last));
        }
        assert_eq!(table.judge(producer(8, 1)), Judgement::Duplicate(Offset(1)));
        assert_eq!(table.judge(producer(9, 0)), Judgement::New, "a producer that was never here");
    }

    #[test]
    fn a_sequence_that_does_not_grow_changes_nothing() {
        let before = folded(&[(7, 10), (8, 1)]);
        let mut after = before.clone();
        after.fold(producer(7, 10), Offset(5));
        after.fold(producer(7, 9), Offset(6));
        assert_eq!(after, before);
    }

    #[test]
    fn the_producer_with_the_oldest_entry_goes_when_there_is_no_room() {
        let all = PRODUCERS_MAX as u64;
        let mut entries: Vec<(u64, u64)> = (1..=all).map(|id| (id, 1)).collect();
        // The first one appends again, so the second is the oldest.
        entries.push((1, 2));
        let mut table = folded(&entries);
        assert_eq!(table.len(), PRODUCERS_MAX);
        table.fold(producer(all + 1, 1), Offset(all + 1));
        assert_eq!(table.len(), PRODUCERS_MAX);
        assert_eq!(table.last(producer(2, 0).id), None);
        assert_eq!(table.judge(producer(2, 1)), Judgement::New, "what is forgotten is appended again");
        assert_eq!(table.judge(producer(1, 2)), Judgement::Duplicate(Offset(all)));
        assert_eq!(table.judge(producer(3, 1)), Judgement::Duplicate(Offset(2)));
        assert_eq!(Producers::decode(&table.encode()), Ok(table));
    }

    #[test]
    fn the_bytes_of_a_table_are_fixed() {
        let bytes = folded(&[(0x0102, 3), (9, 4), (0x0102, 5)]).encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let rows = [
            "090000000000000004000000000000000100000000000000",
            "020100000000000005000000000000000200000000000000",
        ];
        assert_eq!(hex, rows.concat());
        assert_eq!(producer(0x0102, 3).encode()[..], *b"\x02\x01\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let good = folded(&[(1, 1), (2, 1)]).encode();
        assert_eq!(Producers::decode(&good[1..]), Err(ProducersError::Length(47)));
        let long = vec![1; PRODUCERS_BYTES_MAX + ROW_BYTES];
        assert_eq!(Producers::decode(&long), Err(ProducersError::Length(long.len())));
        let swapped = [&good[ROW_BYTES..], &good[..ROW_BYTES]].concat();
        assert_eq!(Producers::decode(&swapped), Err(ProducersError::Row(1)));
        let mut twice = good.clone();
        twice[ROW_BYTES] = 1;
        assert_eq!(Producers::decode(&twice), Err(ProducersError::Row(1)));
        let mut zero = good;
        zero[0] = 0;
        assert_eq!(Producers::decode(&zero), Err(ProducersError::Row(0)));
        assert_eq!(Producer::decode(&[0; PRODUCER_BYTES]), None);
    }

    proptest! {
        /// Wherever the entries are cut, and the table written down and read again in between, the
        /// table at the end is the same; and it says what the entries say.
        #[test]
        fn a_fold_may_be_cut_anywhere(
            entries in prop::collection::vec((1_u64..6, 0_u64..40), 0..60),
            cuts in prop::collection::vec(0_usize..60, 0..4),
        ) {
            let whole = folded(&entries);
            let mut table = Producers::default();
            for (offset, (id, sequence)) in entries.iter().enumerate() {
                if cuts.contains(&offset) {
                    table = Producers::decode(&table.encode()).expect("what is encoded is a table");
                }
                table.fold(producer(*id, *sequence), Offset(offset as u64));
            }
            prop_assert_eq!(&table, &whole);
            for id in 1..6 {
                // The first entry with the highest sequence is the one that counts.
                let of = entries.iter().enumerate().filter(|(_, (other, _))| *other == id);
                let last = of.rev().max_by_key(|(_, (_, sequence))| *sequence);
                let last = last.map(|(at, (_, sequence))| LastAppend { sequence: *sequence, offset: Offset(at as u64) });
                prop_assert_eq!(whole.last(producer(id, 0).id), last);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(table) = Producers::decode(&bytes) {
                prop_assert_eq!(table.encode(), bytes);
            }
        }
    }
}
