//! Who among several nodes goes first: an order that differs from one piece of work to the next, so
//! that the work is spread, and that every node works out alike.

use piculet_quorum::ids::NodeId;
use xxhash_rust::xxh3::xxh3_64;

/// How many of `nodes` come before `me` at this `work`.
pub(crate) fn rank<'a>(me: &NodeId, nodes: impl Iterator<Item = &'a NodeId>, work: &[u8]) -> u64 {
    let weight = |node: &NodeId| (xxh3_64(&[node.as_str().as_bytes(), work].concat()), node.clone());
    let mine = weight(me);
    nodes.filter(|node| weight(node) < mine).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_another_rank_and_nobody_is_always_first() {
        let nodes = ["a", "b", "c"].map(|name| NodeId::new(name).unwrap());
        let mut first = [0; 3];
        for work in 0..100_u64 {
            let ranks = nodes.each_ref().map(|me| rank(me, nodes.iter(), &work.to_le_bytes()));
            let mut sorted = ranks;
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2], "work {work}");
            first[ranks.iter().position(|rank| *rank == 0).unwrap()] += 1;
        }
        assert!(first.iter().all(|count| *count > 0), "{first:?}");
    }
}
