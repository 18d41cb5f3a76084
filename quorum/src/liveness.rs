//! Whether a log's writer is still there, as the members of its open segment see it.
//!
//! A writer that is taken for gone is deposed, so no single member's word is enough: it may be cut
//! off from a writer that everybody else hears. A writer is gone when a fence quorum of the members
//! has been without its stream for long enough. With two members that quorum is one, so the other
//! one is heard too, and may only agree, be silent or have forgotten the segment.
//!
//! Safety does not rest on the judgement: whoever acts on it makes a new epoch, guarded by the
//! record of the log that was judged.

use crate::ids::{Epoch, Incarnation, NodeId};
use crate::limits::ACK_QUORUM;
use crate::meta::Member;
use crate::quorums::fence_quorum;
use crate::time::Span;
use crate::wire::message::WriterSeen;
use std::collections::{BTreeMap, BTreeSet};

/// What the members of a segment say of its writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// It has gone: the log may be recovered or taken over.
    Gone,
    /// At least one member has its stream.
    Alive {
        /// Who has the stream, as that member knows it.
        peer: Option<String>,
    },
    /// Neither is sure yet: ask again, and start over when the log's epoch or segment has changed.
    Unsure,
}

/// Judges whether the writer of an open segment, which is of the log's own `epoch`, has gone.
///
/// `answers` are those of this round, by member. Answers of another incarnation than the listed one
/// speak for nothing. `silent` are members that were asked and gave no answer in time. A writer is
/// gone when its members have been without its stream for `timeout`.
#[must_use]
pub fn judge(
    ensemble: &[Member],
    epoch: Epoch,
    answers: &BTreeMap<NodeId, WriterSeen>,
    silent: &BTreeSet<NodeId>,
    timeout: Span,
) -> Liveness {
    // A record that lists fewer members than any segment has is not judged.
    if ensemble.len() < ACK_QUORUM {
        return Liveness::Unsure;
    }
    let heard: Vec<&WriterSeen> = ensemble
        .iter()
        .filter_map(|member| answers.get(&member.node).filter(|seen| seen.incarnation == member.incarnation))
        .collect();
    // A later epoch has come: what is said of this one has no use any more.
    if heard.iter().any(|seen| seen.epoch > epoch) {
        return Liveness::Unsure;
    }
    if let Some(seen) = heard.iter().find(|seen| seen.gone_ms.is_none()) {
        return Liveness::Alive { peer: seen.peer.clone() };
    }
    let long = |seen: &WriterSeen| seen.gone_ms.is_some_and(|ms| ms.saturating_mul(1_000) >= timeout.0);
    let gone = heard.iter().filter(|seen| long(seen)).count();
    let quorum = fence_quorum(ensemble.len());
    // One member's word is not enough while another may still contradict it.
    let undecided = ensemble.iter().any(|member| match answers.get(&member.node) {
        Some(seen) => seen.incarnation == member.incarnation && !long(seen),
        None => !silent.contains(&member.node),
    });
    if gone >= quorum && (quorum > 1 || !undecided) { Liveness::Gone } else { Liveness::Unsure }
}

/// Whether the members of an open segment that have not forgotten it do not contradict that its
/// writer has gone, as far as they answer. When they are too few to tell where the segment ends, this
/// is all that can be asked: it is recovered only where the log's settings allow a loss, and not
/// before each of them has been fenced.
#[must_use]
pub fn not_contradicted(
    ensemble: &[Member],
    epoch: Epoch,
    answers: &BTreeMap<NodeId, WriterSeen>,
    timeout: Span,
) -> bool {
    ensemble.iter().all(|member| match answers.get(&member.node) {
        Some(seen) if seen.incarnation == member.incarnation => {
            let long = seen.gone_ms.is_some_and(|ms| ms.saturating_mul(1_000) >= timeout.0);
            seen.epoch <= epoch && long
        }
        _ => true,
    })
}

/// The members of an open segment that have forgotten it, when so many have that the others cannot
/// tell any more where it ends; empty as long as they can. `current` is the life of a node's buffer,
/// as the metadata have it. As long as the writer lives it knows the end, and rolls.
#[must_use]
pub fn beyond_recovery(ensemble: &[Member], current: impl Fn(&NodeId) -> Option<Incarnation>) -> Vec<NodeId> {
    let moved = |member: &&Member| current(&member.node).is_some_and(|now| now > member.incarnation);
    if ensemble.len() < ACK_QUORUM {
        return Vec::new();
    }
    let moved: Vec<NodeId> = ensemble.iter().filter(moved).map(|member| member.node.clone()).collect();
    if ensemble.len() - moved.len() < fence_quorum(ensemble.len()) { moved } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Span = Span::secs(5);
    const GONE: Option<u64> = Some(5_000);
    const LATELY: Option<u64> = Some(4_999);

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn seen(gone_ms: Option<u64>) -> WriterSeen {
        WriterSeen { incarnation: Incarnation(1), epoch: Epoch(3), gone_ms, peer: Some("w".to_owned()) }
    }

    fn judged(members: &[&str], answers: &[(&str, WriterSeen)], silent: &[&str]) -> Liveness {
        let ensemble: Vec<_> =
            members.iter().map(|n| Member { node: node(n), incarnation: Incarnation(1) }).collect();
        let answers = answers.iter().map(|(n, seen)| (node(n), seen.clone())).collect();
        let silent = silent.iter().map(|n| node(n)).collect();
        judge(&ensemble, Epoch(3), &answers, &silent, TIMEOUT)
    }

    const THREE: [&str; 3] = ["a", "b", "c"];
    const TWO: [&str; 2] = ["a", "b"];

    fn alive() -> Liveness {
        Liveness::Alive { peer: Some("w".to_owned()) }
    }

    #[test]
    fn a_fence_quorum_is_needed() {
        assert_eq!(judged(&THREE, &[], &[]), Liveness::Unsure);
        assert_eq!(judged(&THREE, &[("a", seen(GONE))], &["b", "c"]), Liveness::Unsure);
        assert_eq!(judged(&THREE, &[("a", seen(GONE)), ("c", seen(GONE))], &[]), Liveness::Gone);
        assert_eq!(judged(&THREE, &[("a", seen(GONE)), ("c", seen(LATELY))], &["b"]), Liveness::Unsure);
    }

    #[test]
    fn one_member_that_has_the_stream_is_enough_for_alive() {
        let answers = [("a", seen(GONE)), ("b", seen(GONE)), ("c", seen(None))];
        assert_eq!(judged(&THREE, &answers, &[]), alive());
        assert_eq!(judged(&TWO, &[("a", seen(GONE)), ("b", seen(None))], &[]), alive());
    }

    #[test]
    fn of_two_members_the_other_may_not_contradict() {
        assert_eq!(judged(&TWO, &[("a", seen(GONE))], &[]), Liveness::Unsure, "it has not been heard");
        assert_eq!(judged(&TWO, &[("a", seen(GONE))], &["b"]), Liveness::Gone, "it is silent");
        assert_eq!(judged(&TWO, &[("a", seen(GONE)), ("b", seen(LATELY))], &[]), Liveness::Unsure);
        assert_eq!(judged(&TWO, &[("a", seen(GONE)), ("b", seen(GONE))], &[]), Liveness::Gone);
        assert_eq!(judged(&TWO, &[], &["a", "b"]), Liveness::Unsure, "somebody must say so");
    }

    #[test]
    fn another_life_speaks_for_nothing() {
        let reborn = |gone_ms| WriterSeen { incarnation: Incarnation(2), ..seen(gone_ms) };
        let answers = [("a", seen(GONE)), ("b", reborn(GONE)), ("c", reborn(None))];
        assert_eq!(judged(&THREE, &answers, &[]), Liveness::Unsure);
        assert_eq!(judged(&TWO, &[("a", seen(GONE)), ("b", reborn(None))], &[]), Liveness::Gone);
        assert_eq!(judged(&TWO, &[("a", reborn(GONE)), ("b", reborn(GONE))], &[]), Liveness::Unsure);
    }

    #[test]
    fn a_later_epoch_starts_it_over() {
        let later = WriterSeen { epoch: Epoch(4), ..seen(GONE) };
        let answers = [("a", seen(GONE)), ("b", later), ("c", seen(GONE))];
        assert_eq!(judged(&THREE, &answers, &[]), Liveness::Unsure);
        let answers = [("a", seen(None)), answers[1].clone()];
        assert_eq!(judged(&THREE, &answers, &[]), Liveness::Unsure);
        // A member that has heard of the segment and not yet of its epoch counts.
        let earlier = WriterSeen { epoch: Epoch(2), ..seen(GONE) };
        assert_eq!(judged(&THREE, &[("a", seen(GONE)), ("b", earlier)], &[]), Liveness::Gone);
    }

    #[test]
    fn strangers_and_records_without_members_are_not_counted() {
        assert_eq!(judged(&THREE, &[("y", seen(GONE)), ("z", seen(None))], &["a"]), Liveness::Unsure);
        assert_eq!(judged(&[], &[], &[]), Liveness::Unsure);
        assert_eq!(judged(&["a"], &[("a", seen(GONE))], &[]), Liveness::Unsure);
    }

    #[test]
    fn times_at_the_end_of_their_range_are_long() {
        let answers = [("a", seen(Some(u64::MAX))), ("b", seen(Some(u64::MAX)))];
        assert_eq!(judged(&THREE, &answers, &[]), Liveness::Gone);
    }

    #[test]
    fn whoever_is_left_may_contradict_that_the_writer_has_gone() {
        let members: Vec<_> =
            THREE.iter().map(|n| Member { node: node(n), incarnation: Incarnation(1) }).collect();
        let left = |answers: &[(&str, WriterSeen)]| {
            let answers = answers.iter().map(|(n, seen)| (node(n), seen.clone())).collect();
            not_contradicted(&members, Epoch(3), &answers, TIMEOUT)
        };
        let reborn = WriterSeen { incarnation: Incarnation(2), ..seen(None) };
        assert!(left(&[]) && left(&[("a", seen(GONE)), ("b", reborn)]));
        assert!(!left(&[("a", seen(None))]) && !left(&[("a", seen(LATELY)), ("b", seen(GONE))]));
        assert!(!left(&[("a", WriterSeen { epoch: Epoch(4), ..seen(GONE) })]));
    }

    #[test]
    fn too_many_that_have_forgotten_are_named() {
        let member = |name: &str| Member { node: node(name), incarnation: Incarnation(1) };
        let lost = |members: &[&str], reborn: &[&str]| {
            let ensemble: Vec<_> = members.iter().map(|name| member(name)).collect();
            beyond_recovery(&ensemble, |node| {
                Some(Incarnation(if reborn.contains(&node.as_str()) { 2 } else { 1 }))
            })
        };
        assert!(lost(&["a", "b", "c"], &[]).is_empty());
        assert!(lost(&["a", "b", "c"], &["c"]).is_empty());
        assert_eq!(lost(&["a", "b", "c"], &["a", "c"]), [node("a"), node("c")]);
        assert!(lost(&["a", "b"], &["a"]).is_empty());
        assert_eq!(lost(&["a", "b"], &["a", "b"]), [node("a"), node("b")]);
    }
}
