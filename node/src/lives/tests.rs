use super::*;
use piculet_quorum::ids::{Nonce, Revision};
use piculet_quorum::meta::{IncarnationRecord, NodeRecord, NodeState, Versioned};
use piculet_quorum::time::Span;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn member(name: &str, incarnation: u64) -> Member {
    Member { node: node(name), incarnation: Incarnation(incarnation) }
}

fn at(ms: u64) -> Time {
    Time(1_000_000).after(Span::millis(ms))
}

/// Nodes with their lives, and whether they are registered.
fn snapshot(nodes: &[(&str, u64, bool)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut put = |key: Key, value: Record| {
        snapshot.records.insert(key, Versioned { revision: Revision(1), value });
    };
    for (name, incarnation, registered) in nodes {
        let life = IncarnationRecord { incarnation: Incarnation(*incarnation), nonce: Nonce(1) };
        put(Key::Incarnation(node(name), Level::Memory), Record::Incarnation(life));
        if *registered {
            let record = NodeRecord {
                incarnations: BTreeMap::new(),
                addresses: vec![],
                admin: String::new(),
                state: NodeState::Active,
                version: String::new(),
            };
            put(Key::Node(node(name)), Record::Node(record));
        }
    }
    snapshot
}

#[test]
fn a_member_is_lost_when_it_is_reborn_or_has_been_away_for_its_time() {
    let mut lives = Lives::default();
    lives.reset(at(0), &snapshot(&[("a", 3, true), ("b", 1, false)]));
    let lost = |lives: &Lives, ms, member: &Member| lives.is_lost(at(ms), Level::Memory, member);
    assert!(!lost(&lives, 0, &member("a", 3)) && lost(&lives, 0, &member("a", 2)));
    assert!(!lives.is_lost(at(0), Level::Disk, &member("a", 2)), "each level has lives of its own");
    assert!(!lost(&lives, 499, &member("b", 1)) && lost(&lives, 500, &member("b", 1)));
    assert!(!lives.is_reborn(Level::Memory, &member("b", 1)), "it may come back with all it had");
    // A watch that starts over does not begin to count anew.
    lives.reset(at(400), &snapshot(&[("a", 3, true), ("b", 1, false)]));
    assert!(lost(&lives, 500, &member("b", 1)));
    lives.registered(&node("b"));
    assert!(!lost(&lives, 900, &member("b", 1)));
    lives.gone(at(1_000), &node("a"));
    lives.gone(at(1_400), &node("a"));
    assert!(!lost(&lives, 1_499, &member("a", 3)) && lost(&lives, 1_500, &member("a", 3)));
    lives.begun(&node("b"), Level::Memory, Incarnation(2));
    assert!(lost(&lives, 1_000, &member("b", 1)) && !lost(&lives, 1_000, &member("b", 2)));
    assert!(!lost(&lives, 9_000, &member("stranger", 1)), "nothing is known of it");
}
