//! Watches: a reset, then every change, in order.

use super::{Followed, Subject, apply, everything, life, life_key, log_name, next, node, read, running};
use crate::{Metadata, Watch, WatchEvent};
use piculet_quorum::ids::{LogId, Revision};
use piculet_quorum::meta::{Key, NameRecord, Range, Record, StoreRevision, Txn, Versioned, Write};

async fn watch(store: &dyn Metadata, range: Range) -> Watch {
    store.watch(range).await.expect("the range can be watched")
}

/// The event that one transaction makes: which keys it puts, and which it deletes.
fn changed(at: Revision, puts: &[(Key, Record)], deletes: &[Key]) -> WatchEvent {
    let put = |(key, record): &(Key, Record)| {
        (key.clone(), Some(Versioned { revision: at, value: record.clone() }))
    };
    let deleted = deletes.iter().map(|key| (key.clone(), None));
    WatchEvent::Changed { at: StoreRevision(at.0), changes: puts.iter().map(put).chain(deleted).collect() }
}

fn sorted(event: WatchEvent) -> WatchEvent {
    match event {
        WatchEvent::Changed { at, mut changes } => {
            changes.sort_by(|a, b| a.0.cmp(&b.0));
            WatchEvent::Changed { at, changes }
        }
        reset @ WatchEvent::Reset(_) => reset,
    }
}

/// First a reset with what is there, then one event for each transaction, in order: puts,
/// overwrites, deletions, deletions of a range.
pub async fn a_watch_sees_every_change_in_order(subject: &dyn Subject) {
    let store = subject.store();
    apply(store, &Txn::default().put(life_key("old"), life(1))).await;
    let mut watch = watch(store, Range::All).await;
    assert_eq!(next(&mut watch).await, WatchEvent::Reset(everything(store).await));

    let node_a = Key::Node(node("a"));
    let two = [(life_key("a"), life(1)), (node_a.clone(), running("1"))];
    let over = [(life_key("a"), life(2)), (life_key("b"), life(1))];
    let put = |puts: &[(Key, Record)]| {
        puts.iter().fold(Txn::default(), |txn, (key, record)| txn.put(key.clone(), record.clone()))
    };
    let write = |write| Txn { compares: vec![], writes: vec![write] };
    let lives = [life_key("a"), life_key("b"), life_key("old")];
    let mut expected = Vec::new();
    for (txn, puts, deletes) in [
        (put(&two), &two[..], &[][..]),
        (put(&over), &over[..], &[][..]),
        (write(Write::Delete(node_a.clone())), &[][..], std::slice::from_ref(&node_a)),
        (write(Write::DeleteRange(Range::Incarnations)), &[][..], &lives[..]),
        (put(&two), &two[..], &[][..]),
    ] {
        let at = apply(store, &txn).await;
        expected.push(sorted(changed(at, puts, deletes)));
    }
    for expected in expected {
        assert_eq!(sorted(next(&mut watch).await), expected);
    }
}

/// A change elsewhere is not shown; of a transaction that reaches beyond the range, its part is. A
/// count does not limit a watch.
pub async fn a_watch_sees_its_range_alone(subject: &dyn Subject) {
    let store = subject.store();
    let name =
        |text: &str| (Key::Name(log_name(text)), Record::Name(NameRecord { log: LogId(text.len() as u64) }));
    let put = |(key, record): (Key, Record)| Txn::default().put(key, record);
    for text in ["a", "b", "b/c", "c"] {
        apply(store, &put(name(text))).await;
    }
    let range = Range::Names(Some(log_name("a")), 1);
    let mut watch = watch(store, range).await;
    let WatchEvent::Reset(first) = next(&mut watch).await else { panic!("a watch begins with a reset") };
    let all = Range::Names(Some(log_name("a")), 0);
    assert_eq!(first.records, read(store, &[], &[all]).await.records);
    assert_eq!(first.records.len(), 3);
    for elsewhere in [name("A"), name("a"), (life_key("n"), life(1)), (Key::Node(node("n")), running("1"))] {
        apply(store, &put(elsewhere)).await;
    }
    let (key, record) = name("a/b");
    let beyond = put((key.clone(), record.clone())).put(life_key("n"), life(2)).put(name("0").0, name("0").1);
    let at = apply(store, &beyond).await;
    assert_eq!(next(&mut watch).await, changed(at, &[(key, record)], &[]));
}

/// Changes that come while nobody reads the watch are there, or made up for by a reset.
pub async fn a_watch_that_nobody_reads_misses_nothing(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = watch(store, Range::All).await;
    let (mut followed, mut largest) = (Followed::default(), 0);
    for n in 0..300_u64 {
        let key = life_key(&format!("n{}", n % 7));
        let txn = if n % 5 == 4 {
            Txn { compares: vec![], writes: vec![Write::Delete(key)] }
        } else {
            Txn::default().put(key, life(n + 1))
        };
        apply(store, &txn).await;
    }
    let now = everything(store).await;
    while followed.records != now.records || largest < now.at.0 {
        let event = next(&mut watch).await;
        let at = match &event {
            WatchEvent::Reset(snapshot) => snapshot.at,
            WatchEvent::Changed { at, .. } => *at,
        };
        assert!(at.0 > largest, "the moments of a watch only grow");
        largest = at.0;
        followed.take(event);
    }
}

/// Waiting for an event in vain, again and again, loses none.
pub async fn a_dropped_wait_loses_no_event(subject: &dyn Subject) {
    let store = subject.store();
    let mut watch = watch(store, Range::Incarnations).await;
    let mut followed = Followed::default();
    let writes = async {
        for n in 1..=100 {
            apply(store, &Txn::default().put(life_key("a"), life(n))).await;
        }
    };
    let mut seen = Vec::new();
    let mut take = |event: WatchEvent| {
        followed.take(event);
        seen.extend(followed.records.get(&life_key("a")).map(|record| record.revision));
    };
    let mut writes = std::pin::pin!(writes);
    loop {
        // Polled once and dropped, whichever of the two is ready first.
        tokio::select! {
            biased;
            event = watch.next() => take(event),
            () = tokio::task::yield_now() => {
                if futures::poll!(writes.as_mut()).is_ready() {
                    break;
                }
            }
        }
    }
    let last = everything(store).await;
    let newest = last.revision(&life_key("a"));
    while seen.last() != Some(&newest) {
        let event = next(&mut watch).await;
        followed.take(event);
        seen.extend(followed.records.get(&life_key("a")).map(|record| record.revision));
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    let reset_at = seen.first().expect("something was seen").0;
    assert_eq!(seen.len() as u64, newest.0 - reset_at + 1, "one event for each revision: {seen:?}");
}
