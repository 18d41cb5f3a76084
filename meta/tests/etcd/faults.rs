//! What etcd can do to a store that memory cannot: be silent, go away, come back, forget history.

use super::process::{Etcd, PATIENCE};
use etcd_client::Client;
use piculet_meta::{MetaError, Metadata, Watch, WatchEvent};
use piculet_quorum::ids::{Incarnation, Level, NodeId, Nonce, Revision};
use piculet_quorum::meta::{IncarnationRecord, Key, Range, Record, Snapshot, Txn, TxnOutcome};
use std::time::{Duration, Instant};

pub(super) fn key(name: &str) -> Key {
    Key::Incarnation(NodeId::new(name).expect("a valid name"), Level::Memory)
}

fn life(incarnation: u64) -> Record {
    Record::Incarnation(IncarnationRecord { incarnation: Incarnation(incarnation), nonce: Nonce(1) })
}

pub(super) fn put(name: &str, incarnation: u64) -> Txn {
    Txn::default().put(key(name), life(incarnation))
}

pub(super) async fn everything(store: &dyn Metadata) -> Snapshot {
    store.read(&[], &[Range::All]).await.expect("etcd answers")
}

pub(super) async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes in time")
}

/// Commits until the outcome is known and good, as a caller that knows what it does: the put is
/// unconditional, so that repeating it is harmless.
pub(super) async fn insist(store: &dyn Metadata, txn: &Txn) -> Revision {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.commit(txn).await {
            Ok(TxnOutcome::Applied(revision)) => return revision,
            Ok(TxnOutcome::Refused) => panic!("{txn:?} has no guards"),
            Err(error) => {
                assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

pub(super) async fn raw(etcd: &Etcd) -> Client {
    Client::connect([etcd.endpoint()], None).await.expect("the endpoint is fine")
}

/// Follows until `name` has this incarnation; whether the watch started over on the way.
pub(super) async fn follow_until(watch: &mut Watch, name: &str, incarnation: u64) -> bool {
    let (mut started_over, mut current) = (false, None);
    while current != Some(life(incarnation)) {
        match next(watch).await {
            WatchEvent::Reset(now) => {
                started_over = true;
                current = now.records.get(&key(name)).map(|record| record.value.clone());
            }
            WatchEvent::Changed { changes, .. } => {
                let of_name = changes.into_iter().filter(|(changed, _)| *changed == key(name));
                current = of_name.fold(current, |_, (_, record)| record.map(|record| record.value));
            }
        }
    }
    started_over
}

pub(super) async fn change_of(watch: &mut Watch, name: &str) -> u64 {
    loop {
        if let WatchEvent::Changed { at, changes } = next(watch).await
            && changes.iter().any(|(changed, _)| *changed == key(name))
        {
            return at.0;
        }
    }
}

#[tokio::test]
async fn a_watch_outlives_a_restart_of_etcd() {
    let mut etcd = Etcd::start();
    let store = etcd.connect().await;
    let mut watch = store.watch(Range::Incarnations).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Reset(_)));
    let at = insist(&*store, &put("a", 1)).await;
    assert_eq!(change_of(&mut watch, "a").await, at.0);

    etcd.kill();
    etcd.restart();
    let other = etcd.connect().await;
    insist(&*other, &put("a", 2)).await;
    assert!(follow_until(&mut watch, "a", 2).await, "it cannot know that it missed nothing");
    let at = insist(&*store, &put("b", 1)).await;
    assert_eq!(change_of(&mut watch, "b").await, at.0);
}

/// The revision from which the watch goes on is compacted before it can: its task does not run
/// while this thread, which its runtime lives on, waits for another.
#[tokio::test]
async fn a_watch_outlives_compaction() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    insist(&*store, &put("a", 1)).await;
    let mut watch = store.watch(Range::Incarnations).await.unwrap();
    let meanwhile = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let other = etcd.connect().await;
            for n in 2..=50 {
                insist(&*other, &put("a", n)).await;
            }
            let newest = i64::try_from(everything(&*other).await.at.0).unwrap();
            raw(&etcd).await.compact(newest, None).await.unwrap();
        });
    };
    std::thread::scope(|scope| scope.spawn(meanwhile).join()).unwrap();

    let WatchEvent::Reset(first) = next(&mut watch).await else { panic!("a watch begins with a reset") };
    assert_eq!(first.records[&key("a")].value, life(1));
    let WatchEvent::Reset(second) = next(&mut watch).await else { panic!("it missed 49 changes") };
    assert_eq!(second.records[&key("a")].value, life(50));
    let at = insist(&*store, &put("b", 1)).await;
    assert_eq!(change_of(&mut watch, "b").await, at.0);
}

/// A lost connection that nobody closes is noticed all the same.
#[tokio::test]
async fn a_watch_notices_that_etcd_went_silent() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let mut watch = store.watch(Range::Incarnations).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Reset(_)));
    insist(&*store, &put("a", 1)).await;
    change_of(&mut watch, "a").await;
    etcd.pause();
    // Nothing is pending and no connection breaks: only the silence can tell. The reset can come
    // no sooner than etcd goes on, so the pause has to outlast the watch's own patience.
    tokio::time::sleep(Duration::from_secs(8)).await;
    etcd.resume();
    assert!(follow_until(&mut watch, "a", 1).await, "it cannot know that it missed nothing");
}

#[tokio::test]
async fn a_stopped_etcd_makes_no_call_hang() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let first = insist(&*store, &put("a", 1)).await;
    etcd.pause();
    let guarded = put("a", 2).when(key("a"), first);
    let calls = async {
        let read = store.read(&[key("a")], &[]).await;
        assert!(matches!(read, Err(MetaError::Unavailable(_))), "{read:?}");
        let commit = store.commit(&guarded).await;
        assert!(matches!(commit, Err(MetaError::Unknown(_))), "{commit:?}");
        let grant = store.grant(Duration::from_secs(5)).await;
        assert!(matches!(grant, Err(MetaError::Unavailable(_))), "{grant:?}");
        let watch = store.watch(Range::All).await;
        assert!(matches!(watch, Err(MetaError::Unavailable(_))), "{watch:?}");
    };
    tokio::time::timeout(PATIENCE, calls).await.expect("every call ends by itself");

    // The transaction has landed, or lands later, or never. Repeated with the same guards until
    // the outcome is known, it has landed exactly once.
    etcd.resume();
    let deadline = Instant::now() + PATIENCE;
    let outcome = loop {
        match store.commit(&guarded).await {
            Ok(outcome) => break outcome,
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
        }
    };
    let now = everything(&*store).await.incarnation(&key("a")).unwrap();
    assert_eq!(now.value.incarnation, Incarnation(2));
    match outcome {
        TxnOutcome::Applied(revision) => assert_eq!(now.revision, revision, "it had not landed before"),
        TxnOutcome::Refused => assert!(now.revision > first, "it had landed before"),
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_nothing_was_written() {
    let mut etcd = Etcd::start();
    let store = etcd.connect().await;
    etcd.kill();
    // The first call may still go out on the connection that has just broken.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match store.commit(&put("a", 1)).await {
            Err(MetaError::Unavailable(why)) => {
                assert!(why.contains("refused"), "the message says why: {why}");
                break;
            }
            Err(MetaError::Unknown(why)) => assert!(Instant::now() < deadline, "still unknown: {why}"),
            other => panic!("nobody can have answered: {other:?}"),
        }
    }
    let read = store.read(&[key("a")], &[]).await;
    assert!(matches!(read, Err(MetaError::Unavailable(_))), "{read:?}");
    etcd.restart();
    insist(&*store, &put("b", 1)).await;
    assert!(!everything(&*store).await.records.contains_key(&key("a")));
}

#[tokio::test]
async fn a_lease_is_lost_when_etcd_is_silent_for_its_ttl() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let lease = store.grant(Duration::from_secs(1)).await.unwrap();
    etcd.pause();
    tokio::time::timeout(PATIENCE, lease.lost()).await.expect("it cannot be renewed");
    let revoked = lease.revoke().await;
    assert!(matches!(revoked, Err(MetaError::Unknown(_))), "{revoked:?}");
    etcd.resume();
}

#[tokio::test]
async fn a_lease_is_lost_when_etcd_ends_it() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let lease = store.grant(Duration::from_secs(3)).await.unwrap();
    raw(&etcd).await.lease_client().revoke(lease.id().0).await.unwrap();
    tokio::time::timeout(PATIENCE, lease.lost()).await.expect("it is gone");
    assert_eq!(lease.revoke().await, Ok(()));
}

#[tokio::test]
async fn a_lease_is_kept_through_a_restart_of_etcd() {
    let mut etcd = Etcd::start();
    let store = etcd.connect().await;
    let ttl = Duration::from_secs(6);
    let lease = store.grant(ttl).await.unwrap();
    etcd.kill();
    etcd.restart();
    let lost = tokio::time::timeout(ttl + ttl / 3, lease.lost()).await;
    assert!(lost.is_err(), "it is renewed after the restart, or its ttl would be over");
    assert_eq!(lease.revoke().await, Ok(()));
}

/// Keys of another form, and of others, are left out; a record that cannot be read is named.
#[tokio::test]
async fn unknown_keys_are_ignored_and_malformed_records_are_named() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    insist(&*store, &put("a", 1)).await;
    let mut client = raw(&etcd).await;
    let mut watch = store.watch(Range::All).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Reset(_)));
    for key in
        ["/tests/meta/index/00000000000000ab", "/tests/meta/later", "/tests/metal", "/tests/other/cluster"]
    {
        client.put(key, "what is this", None).await.unwrap();
    }
    let known = everything(&*store).await.records;
    assert_eq!(known.into_keys().collect::<Vec<_>>(), [key("a")]);
    let at = insist(&*store, &put("b", 1)).await;
    let WatchEvent::Changed { at: seen, changes } = next(&mut watch).await else { panic!("nothing broke") };
    assert_eq!((seen.0, changes.len()), (at.0, 1), "unknown keys make no event");

    let bad = "/tests/meta/incarnations/c/memory";
    client.put(bad, "{", None).await.unwrap();
    let error = store.read(&[], &[Range::All]).await.expect_err("a record is malformed");
    assert!(matches!(&error, MetaError::Corrupt { key, .. } if key == bad), "{error}");
    assert_eq!(store.read(&[key("a")], &[]).await.unwrap().records.len(), 1, "others can be read");
    let error = store.watch(Range::Incarnations).await.expect_err("a record is malformed");
    assert!(matches!(&error, MetaError::Corrupt { key, .. } if key == bad), "{error}");
    // A watch that runs waits for the repair and then starts over.
    insist(&*store, &put("c", 7)).await;
    assert!(follow_until(&mut watch, "c", 7).await, "it could not read what it was told");
}
