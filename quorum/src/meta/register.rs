//! What a node's start writes: the cluster's identity, the next life of each of its buffers, itself.
//!
//! A buffer keeps its incarnation over a restart only when it can vouch for everything that it held:
//! it is undamaged, and the life that its directory says it is in is the one that the metadata have
//! ([`Start::may_keep`]). Kept or not, every start swaps the record for one with a fresh nonce, so
//! that a copy of the directory, or an older image of it, is found out at its next start.

use super::{ClusterRecord, IncarnationRecord, Key, RECORD_FORMAT, Record, Txn, Versioned};
use crate::ids::{Incarnation, Level, NodeId, Nonce, Revision};

/// The first node ever names the cluster.
#[must_use]
pub fn name_cluster(cluster: Nonce) -> Txn {
    let record = Record::Cluster(ClusterRecord { cluster, format: RECORD_FORMAT });
    Txn::default().when(Key::Cluster, Revision(0)).put(Key::Cluster, record)
}

/// Puts a life of a buffer in the place of the one that was read. The life is mine if my nonce is in
/// the record.
#[must_use]
pub fn swap_life(
    node: &NodeId,
    level: Level,
    read: Option<&Versioned<IncarnationRecord>>,
    life: IncarnationRecord,
) -> Txn {
    let key = Key::Incarnation(node.clone(), level);
    let revision = read.map_or(Revision(0), |read| read.revision);
    Txn::default().when(key.clone(), revision).put(key, Record::Incarnation(life))
}

/// The next life of a buffer that cannot vouch for what it held: a new incarnation.
#[must_use]
pub fn next_life(
    node: &NodeId,
    level: Level,
    read: Option<&Versioned<IncarnationRecord>>,
    nonce: Nonce,
) -> (Incarnation, Txn) {
    let incarnation = read.map_or(Incarnation(1), |read| read.value.incarnation.plus(1));
    (incarnation, swap_life(node, level, read, IncarnationRecord { incarnation, nonce }))
}

/// What a buffer's directory says of its life when a node starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The life that the contents are of.
    pub adopted: Option<IncarnationRecord>,
    /// The swap that was begun last, if it is not known to have happened.
    pub begun: Option<IncarnationRecord>,
    /// Whether the contents cannot be vouched for.
    pub damaged: bool,
}

impl Start {
    /// The swap that has to be completed before anything is decided: one that was begun in the life
    /// that the record still shows. Its transaction may be on its way; it would displace a fresh
    /// one, and the buffer would be taken for somebody else's.
    #[must_use]
    pub fn unfinished(&self, read: Option<&IncarnationRecord>) -> Option<IncarnationRecord> {
        self.begun.filter(|_| self.adopted.is_some() && self.adopted.as_ref() == read)
    }

    /// Whether the record shows the swap that was begun, for the same incarnation: then the contents
    /// are of that life.
    #[must_use]
    pub fn has_landed(&self, read: Option<&IncarnationRecord>) -> bool {
        let same = |begun: &IncarnationRecord| {
            self.adopted.is_some_and(|adopted| adopted.incarnation == begun.incarnation)
        };
        self.begun.as_ref().filter(|begun| same(begun)).is_some_and(|begun| Some(begun) == read)
    }

    /// The incarnation of a new life: one that neither the metadata nor the directory has ever seen,
    /// be it that the metadata were restored from a backup.
    #[must_use]
    pub fn next(&self, read: Option<&IncarnationRecord>) -> Incarnation {
        let seen = [read, self.adopted.as_ref(), self.begun.as_ref()].into_iter().flatten();
        seen.map(|life| life.incarnation).max().unwrap_or_default().plus(1)
    }

    /// Whether the buffer may keep its incarnation: nothing of it is damaged, and the record has the
    /// very life that the contents are of.
    #[must_use]
    pub fn may_keep(&self, read: Option<&IncarnationRecord>) -> bool {
        let mine = self.adopted.is_some() && self.adopted.as_ref() == read;
        !self.damaged && (mine || self.has_landed(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn life(incarnation: u64, nonce: u128) -> IncarnationRecord {
        IncarnationRecord { incarnation: Incarnation(incarnation), nonce: Nonce(nonce) }
    }

    #[test]
    fn an_incarnation_is_kept_only_by_the_life_that_the_record_shows() {
        let sound = Start { adopted: Some(life(3, 30)), ..Start::default() };
        assert!(sound.may_keep(Some(&life(3, 30))));
        for another in [Some(life(3, 31)), Some(life(4, 30)), Some(life(2, 30)), None] {
            assert!(!sound.may_keep(another.as_ref()), "{another:?}");
        }
        assert!(!Start { damaged: true, ..sound }.may_keep(Some(&life(3, 30))));
        assert!(!Start::default().may_keep(None), "a buffer without a life has nothing to keep");
        assert!(!Start::default().may_keep(Some(&life(3, 30))));
    }

    #[test]
    fn a_swap_that_was_begun_is_looked_for_before_anything_is_decided() {
        let start = Start { adopted: Some(life(3, 30)), begun: Some(life(3, 31)), damaged: false };
        assert_eq!(start.unfinished(Some(&life(3, 30))), start.begun, "it may land late");
        assert_eq!(start.unfinished(Some(&life(3, 31))), None, "it has landed");
        assert_eq!(start.unfinished(Some(&life(4, 40))), None, "it can never land any more");
        assert!(start.may_keep(Some(&life(3, 31))) && start.has_landed(Some(&life(3, 31))));
        assert!(!start.may_keep(Some(&life(4, 40))));
        let bump = Start { begun: Some(life(4, 41)), ..start };
        assert!(!bump.may_keep(Some(&life(4, 41))), "the contents are of the life before");
        assert_eq!((start.next(None), bump.next(Some(&life(3, 30)))), (Incarnation(4), Incarnation(5)));
        assert_eq!(Start::default().next(None), Incarnation(1));
        let first = Start { adopted: None, begun: Some(life(1, 10)), damaged: false };
        assert_eq!(first.unfinished(None), None, "there is nothing that its landing could spoil");
        assert!(!first.may_keep(Some(&life(1, 10))));
    }

    #[test]
    fn a_swap_puts_exactly_the_life_in_the_place_of_what_was_read() {
        let node = NodeId::new("a").unwrap();
        let key = Key::Incarnation(node.clone(), Level::Disk);
        let read = Versioned { revision: Revision(7), value: life(3, 30) };
        let txn = swap_life(&node, Level::Disk, Some(&read), life(3, 31));
        let expected = Txn::default().when(key.clone(), Revision(7));
        assert_eq!(txn, expected.put(key, Record::Incarnation(life(3, 31))));
        let (incarnation, txn) = next_life(&node, Level::Disk, Some(&read), Nonce(32));
        assert_eq!(
            (incarnation, txn),
            (Incarnation(4), swap_life(&node, Level::Disk, Some(&read), life(4, 32)))
        );
    }
}
