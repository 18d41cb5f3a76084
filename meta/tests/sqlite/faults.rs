//! What a shared file can do to a store: be held by others, be damaged, be replaced.

use super::{OnSqlite, PATIENCE, everything, key, life, open, put};
use piculet_meta::{MetaError, MetaOptions, Metadata, Watch, WatchEvent};
use piculet_quorum::meta::{Range, StoreRevision, Txn, TxnOutcome, Write};
use rusqlite::{Connection, params};
use std::time::Duration;

/// Somebody else's connection.
fn raw(subject: &OnSqlite) -> Connection {
    Connection::open(subject.dir.path().join("meta.db")).expect("the file is there")
}

async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes in time")
}

async fn watch(store: &dyn Metadata) -> Watch {
    let mut watch = store.watch(Range::All).await.expect("it can be watched");
    assert!(matches!(next(&mut watch).await, WatchEvent::Reset(_)));
    watch
}

#[tokio::test]
async fn a_held_database_can_be_read_and_makes_no_call_hang() {
    let subject = OnSqlite::start().await;
    let store = &*subject.store;
    store.commit(&put("a", 1)).await.unwrap();
    let holder = raw(&subject);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let calls = async {
        let change = put("a", 2);
        let (commit, grant) = tokio::join!(store.commit(&change), store.grant(Duration::from_secs(5)));
        for error in [commit.expect_err("it is held"), grant.map(|_| ()).expect_err("it is held")] {
            assert!(matches!(&error, MetaError::Unavailable(why) if why.contains("locked")), "{error}");
        }
        assert_eq!(everything(store).await.records[&key("a")].value, life(1));
    };
    tokio::time::timeout(PATIENCE, calls).await.expect("every call ends by itself");
    holder.execute_batch("ROLLBACK").unwrap();
    let now = everything(store).await;
    assert_eq!(now.records[&key("a")].value, life(1), "what was refused does not land later");
    let applied = store.commit(&put("a", 2)).await;
    assert!(matches!(applied, Ok(TxnOutcome::Applied(at)) if at.0 == now.at.0 + 1), "{applied:?}");
}

/// A lease that was not renewed in time is gone for good, for its holder as for everybody.
#[tokio::test]
async fn a_lease_is_lost_when_it_cannot_be_renewed() {
    let subject = OnSqlite::start().await;
    let store = &*subject.store;
    let lease = store.grant(Duration::from_secs(1)).await.unwrap();
    let leased = |n| Txn { compares: vec![], writes: vec![Write::PutLeased(key("a"), life(n), lease.id())] };
    store.commit(&leased(1)).await.unwrap();
    let holder = raw(&subject);
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    tokio::time::timeout(PATIENCE, lease.lost()).await.expect("nobody can have renewed it");
    holder.execute_batch("ROLLBACK").unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while everything(store).await.records.contains_key(&key("a")) {
        assert!(tokio::time::Instant::now() < deadline, "a lease that nobody renews ends");
    }
    assert_eq!(store.commit(&leased(2)).await, Err(MetaError::LeaseGone(vec![lease.id()])));
    assert_eq!(lease.revoke().await, Ok(()));
}

#[tokio::test]
async fn a_malformed_record_is_named_and_holds_a_watch_up() {
    let subject = OnSqlite::start().await;
    let store = &*subject.store;
    store.commit(&put("a", 1)).await.unwrap();
    let mut watch = watch(store).await;
    let other = raw(&subject);
    let spoil = |json: &str| {
        other.execute("UPDATE records SET value = ?1", params![json.as_bytes()]).unwrap();
        other.execute("UPDATE changes SET value = ?1 WHERE revision = 3", params![json.as_bytes()]).unwrap();
    };
    // One transaction, so that the watch cannot see the change before it is spoilt.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    other.execute("UPDATE store SET revision = 3", []).unwrap();
    other.execute("INSERT INTO changes SELECT 3, key, value FROM records", []).unwrap();
    spoil("{");
    other.execute_batch("COMMIT").unwrap();
    let spelt = "/piculet/incarnations/a/memory";
    let error = store.read(&[], &[Range::All]).await.expect_err("a record is malformed");
    assert!(matches!(&error, MetaError::Corrupt { key, .. } if key == spelt), "{error}");
    assert!(store.read(&[key("b")], &[]).await.unwrap().records.is_empty(), "others can be read");
    spoil(r#"{"incarnation":7,"nonce":"00000000000000000000000000000001"}"#);
    let WatchEvent::Changed { at, changes } = next(&mut watch).await else { panic!("nothing was missed") };
    assert_eq!(at, StoreRevision(3));
    assert_eq!(changes[0].1.as_ref().map(|record| record.value.clone()), Some(life(7)));
}

/// An older state was put back into the file.
#[tokio::test]
async fn a_watch_starts_over_when_the_content_went_back() {
    let subject = OnSqlite::start().await;
    let store = &*subject.store;
    store.commit(&put("a", 1)).await.unwrap();
    let mut watch = watch(store).await;
    store.commit(&put("a", 2)).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Changed { at: StoreRevision(3), .. }));
    let back = "BEGIN; DELETE FROM records; DELETE FROM changes; UPDATE store SET revision = 1; COMMIT";
    raw(&subject).execute_batch(back).unwrap();
    let WatchEvent::Reset(now) = next(&mut watch).await else { panic!("what it knew is void") };
    assert!(now.records.is_empty() && now.at == StoreRevision(1), "{now:?}");
}

#[tokio::test]
async fn a_file_that_is_taken_away_or_replaced_is_used_no_more() {
    let subject = OnSqlite::start().await;
    let store = &*subject.store;
    store.commit(&put("a", 1)).await.unwrap();
    let path = subject.dir.path().join("meta.db");
    let aside = subject.dir.path().join("aside");
    std::fs::create_dir(&aside).unwrap();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        std::fs::rename(subject.dir.path().join(name), aside.join(name)).unwrap();
    }
    let gone = store.commit(&put("a", 2)).await.expect_err("the file is not there");
    assert!(matches!(&gone, MetaError::Unavailable(why) if why.contains("taken away")), "{gone}");
    let other = open(&path).await;
    other.commit(&put("a", 3)).await.unwrap();
    let replaced = store.read(&[key("a")], &[]).await.expect_err("it is another file");
    assert!(matches!(&replaced, MetaError::Unavailable(why) if why.contains("replaced")), "{replaced}");
}

#[tokio::test]
async fn what_cannot_be_a_database_is_refused_with_the_url() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "nothing of interest\n".repeat(100)).unwrap();
    for (path, why) in [
        (dir.path().to_owned(), "is a directory"),
        (dir.path().join("missing/meta.db"), "there is no directory"),
        (file, "not a database"),
    ] {
        let url = format!("sqlite:{}", path.display());
        let opened = piculet_meta::connect(&url, &MetaOptions::default()).await;
        let error = opened.map(|_| ()).expect_err("it is refused").to_string();
        assert!(error.contains(&format!("{url:?}")) && error.contains(why), "{error}");
    }
    let options = MetaOptions { ca: Some("ca.pem".into()), ..MetaOptions::default() };
    let url = format!("sqlite:{}", dir.path().join("meta.db").display());
    let refused = piculet_meta::connect(&url, &options).await.map(|_| ());
    assert!(matches!(refused, Err(MetaError::BadOption { option: "ca", .. })), "{refused:?}");
}
