//! Quorum arithmetic, all of it.
//!
//! With `E` members, `AQ = 2` acks commit an entry. `FQ = E − AQ + 1` fence replies meet every set
//! of acks in at least one member, so their maximum tail covers everything ever acknowledged.
//!
//! At level `object` `E = AQ = FQ = 0`: nobody holds an entry before it is archived, what is archived
//! is what is committed, and nobody need be fenced, for whoever seals the segment is guarded against
//! further parts.

use crate::ids::{Index, Level};
use crate::limits::{ACK_QUORUM, MEMBERS_MAX};

/// Whether a segment of a level may have so many members.
#[must_use]
pub fn fits(level: Level, members: usize) -> bool {
    match level {
        Level::Memory | Level::Disk => (ACK_QUORUM..=MEMBERS_MAX).contains(&members),
        Level::Object => members == 0,
    }
}

/// Fence replies that a takeover needs from an ensemble of `members`.
#[must_use]
pub fn fence_quorum(members: usize) -> usize {
    if members == 0 {
        return 0;
    }
    assert!(members >= ACK_QUORUM, "an ensemble has at least {ACK_QUORUM} members, not {members}");
    members - ACK_QUORUM + 1
}

/// The index below which `ACK_QUORUM` members hold everything: the second largest mark.
#[must_use]
pub fn committed(marks: impl IntoIterator<Item = Index>) -> Index {
    let (mut largest, mut second) = (Index(0), Index(0));
    for mark in marks {
        if mark > largest {
            second = largest;
            largest = mark;
        } else if mark > second {
            second = mark;
        }
    }
    second
}

/// What the fence replies of a takeover amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fenced {
    /// Fewer than the fence quorum have answered: nothing may be concluded.
    Waiting,
    /// The fence quorum has answered: no entry can be acknowledged any more in the old epoch.
    Safe,
    /// Everybody has answered: nobody is left to wait for.
    All,
}

/// Judges `replies` fence replies out of `members`.
#[must_use]
pub fn fenced(members: usize, replies: usize) -> Fenced {
    assert!(replies <= members, "{replies} replies from {members} members");
    if replies == members {
        Fenced::All
    } else if replies >= fence_quorum(members) {
        Fenced::Safe
    } else {
        Fenced::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fence_quorum_meets_every_ack_quorum() {
        for members in 2..=3_usize {
            let sets =
                |size: usize| (0_u32..1 << members).filter(move |set| set.count_ones() as usize == size);
            for acks in sets(ACK_QUORUM) {
                for fences in sets(fence_quorum(members)) {
                    assert_ne!(acks & fences, 0, "{members} members: {acks:b} misses {fences:b}");
                }
            }
        }
    }

    #[test]
    fn a_segment_without_members_needs_no_reply() {
        assert_eq!((fence_quorum(0), fenced(0, 0), committed([])), (0, Fenced::All, Index(0)));
        let fitting = |level| (0..5).filter(|members| fits(level, *members)).collect::<Vec<_>>();
        assert_eq!(fitting(Level::Object), [0]);
        assert_eq!((fitting(Level::Memory), fitting(Level::Disk)), (vec![2, 3], vec![2, 3]));
    }

    #[test]
    fn commit_is_the_second_largest_mark() {
        for (marks, expected) in [
            (vec![], 0),
            (vec![7], 0),
            (vec![7, 3], 3),
            (vec![3, 7], 3),
            (vec![5, 9, 7], 7),
            (vec![4, 4, 0], 4),
        ] {
            assert_eq!(committed(marks.iter().copied().map(Index)), Index(expected), "{marks:?}");
        }
    }

    #[test]
    fn fence_replies_are_judged() {
        assert_eq!(fenced(3, 1), Fenced::Waiting);
        assert_eq!(fenced(3, 2), Fenced::Safe);
        assert_eq!(fenced(3, 3), Fenced::All);
        assert_eq!(fenced(2, 0), Fenced::Waiting);
        assert_eq!(fenced(2, 1), Fenced::Safe);
    }
}
