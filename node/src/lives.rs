//! Which members of segments are lost, as far as the node's watch has shown it.

#[cfg(test)]
mod tests;

use piculet_quorum::ids::{Incarnation, Level, NodeId};
use piculet_quorum::limits::MEMBER_TIMEOUT;
use piculet_quorum::meta::{Key, Member, Record, SegmentRecord, Snapshot};
use piculet_quorum::time::Time;
use std::collections::BTreeMap;

/// The lives of all nodes' buffers, and which nodes are not registered.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// The current life of every node's buffers.
    current: BTreeMap<(NodeId, Level), Incarnation>,
    /// Since when a node's record has been missing, for those whose record is.
    missing: BTreeMap<NodeId, Time>,
}

impl Lives {
    /// Takes in a snapshot of everything, seen now.
    pub fn reset(&mut self, now: Time, snapshot: &Snapshot) {
        self.current.clear();
        let before = std::mem::take(&mut self.missing);
        for (key, record) in &snapshot.records {
            if let (Key::Incarnation(node, level), Record::Incarnation(life)) = (key, &record.value) {
                self.begun(node, *level, life.incarnation);
                if !snapshot.records.contains_key(&Key::Node(node.clone())) {
                    let since = before.get(node).copied().unwrap_or(now);
                    self.missing.insert(node.clone(), since);
                }
            }
        }
    }

    /// A node's buffer of a level is in this life.
    pub fn begun(&mut self, node: &NodeId, level: Level, incarnation: Incarnation) {
        self.current.insert((node.clone(), level), incarnation);
    }

    /// A node's record is there.
    pub fn registered(&mut self, node: &NodeId) {
        self.missing.remove(node);
    }

    /// A node's record has gone, with its lease.
    pub fn gone(&mut self, now: Time, node: &NodeId) {
        self.missing.entry(node.clone()).or_insert(now);
    }

    /// Whether a member has forgotten what it held: its buffer of the level is in a later life.
    #[must_use]
    pub fn is_reborn(&self, level: Level, member: &Member) -> bool {
        let now = self.current.get(&(member.node.clone(), level));
        now.is_some_and(|now| *now > member.incarnation)
    }

    /// Whether nothing can be expected of a member: it has forgotten what it held, or its node has not
    /// been registered for `member_timeout`. The latter is an opinion: it may come back with all it had.
    #[must_use]
    pub fn is_lost(&self, now: Time, level: Level, member: &Member) -> bool {
        let missing = self.missing.get(&member.node);
        self.is_reborn(level, member) || missing.is_some_and(|since| now.since(*since) >= MEMBER_TIMEOUT)
    }

    /// The members of a segment that are lost, but for this node, which looks.
    pub fn lost<'a>(
        &'a self,
        now: Time,
        me: &'a NodeId,
        segment: &'a SegmentRecord,
    ) -> impl Iterator<Item = &'a NodeId> {
        let members = segment.ensemble.iter();
        let lost =
            members.filter(move |member| member.node != *me && self.is_lost(now, segment.level, member));
        lost.map(|member| &member.node)
    }
}
