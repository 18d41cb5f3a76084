//! Reads: all of one at one moment.

use super::{Subject, apply, everything, life, life_key, log_name, node, read, running};
use crate::Metadata;
use piculet_quorum::ids::{Chain, Index, LogId, LogName, SegmentNumber, Timestamp};
use piculet_quorum::limits::TXN_OPS_MAX;
use piculet_quorum::meta::{
    ClusterRecord, FlushRecord, Key, Member, NameRecord, PartRecord, Range, Record, SegmentEnd, TrimRecord,
    Txn,
};
use piculet_quorum::{ids, meta};

/// While two keys are written together, no read shows them apart: be they read as keys, as a
/// range, or with so many others that no single request holds them.
pub async fn a_read_shows_one_moment(subject: &dyn Subject) {
    const ROUNDS: u64 = 150;
    let store = subject.store();
    let both = |n: u64| Txn::default().put(life_key("a"), life(n)).put(life_key("z"), life(n));
    apply(store, &both(0)).await;
    let done = std::sync::atomic::AtomicBool::new(false);
    let write = async {
        for n in 1..=ROUNDS {
            apply(store, &both(n)).await;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let check = async {
        let mut keys = vec![life_key("a")];
        keys.extend((0..2 * TXN_OPS_MAX).map(|n| life_key(&format!("absent{n}"))));
        keys.push(life_key("z"));
        let mut last = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            for (keys, ranges) in [
                (vec![life_key("z"), life_key("a")], vec![]),
                (vec![life_key("a")], vec![Range::Nodes, Range::Incarnations]),
                (keys.clone(), vec![]),
            ] {
                let now = read(store, &keys, &ranges).await;
                assert_eq!(now.records.len(), 2, "both are there, and nothing else");
                let [a, z] = [now.revision(&life_key("a")), now.revision(&life_key("z"))];
                assert_eq!(a, z, "they were written together, and read apart: {now:?}");
                assert!(a.0 <= now.at.0 && now.at.0 >= last, "the moment is neither before it nor goes back");
                last = now.at.0;
            }
        }
    };
    futures::join!(write, check);
}

async fn put_names(store: &dyn Metadata, names: &[LogName]) {
    for chunk in names.chunks(TXN_OPS_MAX) {
        let txn = chunk.iter().fold(Txn::default(), |txn, name| {
            txn.put(Key::Name(name.clone()), Record::Name(NameRecord { log: LogId(1) }))
        });
        apply(store, &txn).await;
    }
}

async fn page(store: &dyn Metadata, after: Option<&LogName>, limit: u32) -> Vec<LogName> {
    let range = Range::Names(after.cloned(), limit);
    let records = read(store, &[], &[range]).await.records;
    let name = |key| if let Key::Name(name) = key { name } else { panic!("{key:?} is no name") };
    records.into_keys().map(name).collect()
}

/// Names come in the order of their text, a page at a time, each strictly behind the last.
pub async fn names_are_paged_in_order(subject: &dyn Subject) {
    let store = subject.store();
    let mut names: Vec<LogName> = [
        "a", "a-b", "a.b", "a/b", "a/b/c", "a0", "aB", "a_b", "ab", "ab/c", "A", "B/a", "b", "b/0", "b-",
        "z", "0", "-", "_", "a/bb", "a/b-", "a/b.",
    ]
    .map(log_name)
    .to_vec();
    put_names(store, &names).await;
    // Neighbours of the names, which are none.
    let others = Txn::default().put(Key::Node(node("a")), running("1")).put(life_key("a"), life(1));
    apply(store, &others).await;
    names.sort();
    assert_eq!(page(store, None, 0).await, names);
    for limit in [1, 4, 5, 22, 23] {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = page(store, after.as_ref(), limit).await;
            let Some(last) = page.last() else { break };
            assert!(page.len() <= limit as usize);
            after = Some(last.clone());
            paged.extend(page);
        }
        assert_eq!(paged, names, "in pages of {limit}");
    }
    for after in &names {
        let behind: Vec<_> = names.iter().filter(|name| *name > after).cloned().collect();
        assert_eq!(page(store, Some(after), 0).await, behind, "after {after}");
    }
    let absent = log_name("a/b/b");
    assert_eq!(page(store, Some(&absent), 1).await, [log_name("a/b/c")], "a name need not be there");
}

/// A range that no single answer holds is read whole, at one moment, alone and among others.
pub async fn long_ranges_are_read_whole(subject: &dyn Subject) {
    let store = subject.store();
    let names: Vec<LogName> = (0..2345).map(|n| log_name(&format!("l/{n:05}"))).collect();
    put_names(store, &names).await;
    apply(store, &Txn::default().put(life_key("a"), life(1))).await;
    assert_eq!(page(store, None, 0).await, names);
    assert_eq!(page(store, Some(&names[9]), 1500).await, names[10..1510]);
    let ranges = [Range::Names(None, 0), Range::Incarnations, Range::Names(Some(names[2000].clone()), 5)];
    let now = read(store, &[life_key("a")], &ranges).await;
    assert_eq!(now.records.len(), names.len() + 1);
    assert_eq!(now, everything(store).await);
}

/// Each range shows the keys that it holds and no other.
pub async fn every_range_holds_its_keys(subject: &dyn Subject) {
    let store = subject.store();
    let at = SegmentEnd { end: Index(9), chain: Chain(0), last_timestamp: Timestamp(0) };
    let part = Record::Part(PartRecord { at, bytes: 1, encoder: 1, skip: false });
    let member = Member { node: node("a"), incarnation: ids::Incarnation(1) };
    let segment = Record::Segment(meta::SegmentRecord {
        epoch: ids::Epoch(1),
        base: ids::Offset(0),
        base_chain: Chain(0),
        base_timestamp: Timestamp(0),
        level: ids::Level::Memory,
        ensemble: vec![member.clone()],
        state: meta::SegmentState::Archived(at),
        loss: None,
    });
    let cluster = Record::Cluster(ClusterRecord { cluster: ids::Nonce(1), format: 1 });
    let mut txn = Txn::default()
        .put(Key::Cluster, cluster)
        .put(life_key("a"), life(1))
        .put(Key::Node(node("a")), running("1"))
        .put(Key::Name(log_name("a")), Record::Name(NameRecord { log: LogId(1) }));
    for log in [1, 2, 16].map(LogId) {
        txn = txn.put(Key::Trim(log), Record::Trim(TrimRecord::default()));
        for number in [0, 1, 2, 10, 11].map(SegmentNumber) {
            txn = txn.put(Key::Segment(log, number), segment.clone());
            txn = txn.put(Key::Flush(log, number), Record::Flush(FlushRecord { uploader: member.clone() }));
            for first in [0, 9, 10].map(Index) {
                txn = txn.put(Key::Part(log, number, first), part.clone());
            }
        }
    }
    apply(store, &txn).await;
    let all = everything(store).await;
    assert_eq!(all.records.len(), txn.writes.len());
    let mut ranges = vec![Range::Nodes, Range::Incarnations, Range::Names(None, 0)];
    for log in [1, 2, 3].map(LogId) {
        for number in [0, 1, 2, 3, 11, 12].map(SegmentNumber) {
            ranges.push(Range::Segments(log, number));
            ranges.push(Range::Parts(log, number));
        }
    }
    for range in &ranges {
        let found = read(store, &[], std::slice::from_ref(range)).await.records;
        let expected = all.records.clone().into_iter().filter(|(key, _)| range.contains(key)).collect();
        assert_eq!(found, expected, "{range:?}");
    }
}
