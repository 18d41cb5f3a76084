//! An operator's word that a node will never come back with what it held: the life of its buffer
//! ends, as if it had been reborn.

use super::seal::Unsound;
use super::{IncarnationRecord, Key, Record, Snapshot, Txn, Versioned};
use crate::ids::{Incarnation, Level, NodeId, Nonce, Revision};
use serde::{Deserialize, Serialize};

/// The end of the current life of one buffer of a node. Should the node come back with that buffer
/// all the same, it finds another life recorded than its own, and starts a new one, empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeclareLost {
    /// The node.
    pub node: NodeId,
    /// Which of its buffers.
    pub level: Level,
    /// Its current life as it was read, with the revision of its record.
    pub read: Versioned<Incarnation>,
    /// A fresh value: the declaration is mine if it is in the record.
    pub nonce: Nonce,
    /// Whether to do it even though the node is registered, and so may well be alive.
    pub force: bool,
}

impl DeclareLost {
    /// The record that the declaration makes.
    #[must_use]
    pub fn record(&self) -> IncarnationRecord {
        IncarnationRecord { incarnation: self.read.value.plus(1), nonce: self.nonce }
    }

    /// The transaction: the life must be the one that was read, and without force the node must not
    /// be registered.
    #[must_use]
    pub fn txn(&self) -> Txn {
        let key = Key::Incarnation(self.node.clone(), self.level);
        let txn = Txn::default().when(key.clone(), self.read.revision);
        let txn = if self.force { txn } else { txn.when(Key::Node(self.node.clone()), Revision(0)) };
        txn.put(key, Record::Incarnation(self.record()))
    }

    /// Checks that the proposal is true of the life in `now`.
    ///
    /// # Errors
    /// With what is wrong; such a proposal must not be carried out.
    pub fn check(&self, now: &Snapshot) -> Result<(), Unsound> {
        let current = now.incarnation(&Key::Incarnation(self.node.clone(), self.level));
        let current = current.filter(|current| current.revision == self.read.revision);
        if current.is_some_and(|current| current.value.incarnation != self.read.value) {
            return Err(Unsound(format!("the incarnation of node {} is not as proposed", self.node)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_node_is_declared_lost_by_force_only() {
        let node = NodeId::new("a").expect("a valid name");
        let declare = |force| DeclareLost {
            node: node.clone(),
            level: Level::Memory,
            read: Versioned { revision: Revision(9), value: Incarnation(6) },
            nonce: Nonce(2),
            force,
        };
        let life = (Key::Incarnation(node.clone(), Level::Memory), Revision(9));
        let unregistered = (Key::Node(node.clone()), Revision(0));
        assert_eq!(declare(false).txn().compares, [life.clone(), unregistered]);
        assert_eq!(declare(true).txn().compares, [life]);
        assert_eq!(declare(true).record().incarnation, Incarnation(7));
    }
}
