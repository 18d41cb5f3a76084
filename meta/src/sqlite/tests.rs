//! What takes a look behind the contract: the log of changes, and the clock.

use super::fault::Failed;
use super::{PREFIX, open, read, write};
use crate::keys::Keys;
use crate::watch::WatchEvent;
use piculet_quorum::ids::{LogId, Offset};
use piculet_quorum::meta::{Key, Range, Record, StoreRevision, TrimRecord, Txn, TxnOutcome, Write};
use rusqlite::Connection;
use std::time::Duration;
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(5);

struct Db {
    connection: Connection,
    keys: Keys,
    _dir: TempDir,
}

impl Db {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (_, [connection, ..]) = open::open("sqlite:x", &dir.path().join("x.db")).expect("a new file");
        Self { connection, keys: Keys::new(PREFIX), _dir: dir }
    }

    fn commit(&mut self, txn: &Txn) -> TxnOutcome {
        write::commit(&mut self.connection, &self.keys, txn).expect("nobody else has it open")
    }

    fn news(&mut self, seen: u64) -> read::News {
        read::news(&mut self.connection, &self.keys, Some(seen), &Range::All).expect("it can be read")
    }
}

fn put(trim_offset: u64) -> Txn {
    let record = Record::Trim(TrimRecord { trim_offset: Offset(trim_offset) });
    Txn::default().put(Key::Trim(LogId(1)), record)
}

#[test]
fn a_watch_that_fell_too_far_behind_starts_over() {
    let mut db = Db::new();
    // The disk is not what this is about.
    db.connection.pragma_update(None, "synchronous", "OFF").unwrap();
    for n in 0..1024 {
        db.commit(&put(n));
    }
    let news = db.news(1);
    assert!(matches!(news.events[0], WatchEvent::Changed { at: StoreRevision(2), .. }), "{news:?}");
    assert_eq!(news.events.len() as u64, news.upto - 1, "a bounded number at once, none of them cut");
    db.commit(&put(0));
    let news = db.news(1);
    assert!(matches!(&news.events[..], [WatchEvent::Reset(all)] if all.at.0 == news.upto), "{news:?}");
    assert_eq!(news.upto, 1026);
    assert!(matches!(db.news(2).events[0], WatchEvent::Changed { at: StoreRevision(3), .. }));
    assert!(db.news(news.upto).events.is_empty());
    let kept = "SELECT count(DISTINCT revision) FROM changes";
    let kept: i64 = db.connection.query_row(kept, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 1024);
}

#[test]
fn a_small_step_of_the_clock_ends_no_lease() {
    let mut db = Db::new();
    let lease = write::grant(&mut db.connection, TTL).expect("nobody else has it open");
    let writes = vec![Write::PutLeased(Key::Trim(LogId(1)), Record::Trim(TrimRecord::default()), lease)];
    db.commit(&Txn { compares: vec![], writes });
    // As if so many seconds had passed, or the clock had been set.
    let mut after = |millis: u128| {
        let back = i64::try_from(millis).unwrap();
        db.connection.execute("UPDATE leases SET expires = expires - ?1", [back]).unwrap();
        write::renew(&mut db.connection, lease).expect("nobody else has it open")
    };
    assert!(after(TTL.as_millis() - 500));
    assert!(after(TTL.as_millis() + 200), "within what a clock is allowed to step");
    assert!(!after(TTL.as_millis() + 1000), "it was not renewed in time");
    assert!(!after(0), "it is gone for good");
    let news = db.news(2);
    assert_eq!(
        news.events,
        [WatchEvent::Changed { at: StoreRevision(3), changes: vec![(Key::Trim(LogId(1)), None)] }]
    );
}

/// The holder is dead, and the clock is an hour behind what it was at the last renewal.
#[test]
fn a_clock_that_is_set_back_keeps_no_lease_alive() {
    let mut db = Db::new();
    write::grant(&mut db.connection, TTL).expect("nobody else has it open");
    let mut after = |millis: i64| {
        db.connection.execute("UPDATE leases SET expires = expires - ?1", [millis]).unwrap();
        write::expire(&mut db.connection).expect("nobody else has it open");
        let count = "SELECT count(*) FROM leases";
        db.connection.query_row::<i64, _, _>(count, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(after(-3_600_000), 1);
    assert_eq!(after(i64::try_from(TTL.as_millis()).unwrap() + 1000), 0);
}

#[test]
fn a_transaction_that_fails_leaves_nothing() {
    let mut db = Db::new();
    db.commit(&put(1));
    let other = Txn::default().put(Key::Trim(LogId(2)), Record::Trim(TrimRecord::default()));
    // The second write fails in the middle.
    db.connection.execute_batch("ALTER TABLE changes RENAME TO aside").unwrap();
    let failed = write::commit(&mut db.connection, &db.keys, &other);
    assert!(matches!(failed, Err(Failed::Before(_))), "{failed:?}");
    db.connection.execute_batch("ALTER TABLE aside RENAME TO changes").unwrap();
    let now = read::snapshot(&mut db.connection, &db.keys, &[], &[Range::All]).expect("it can be read");
    assert_eq!((now.at, now.records.len()), (StoreRevision(2), 1));
    assert!(matches!(db.commit(&other), TxnOutcome::Applied(at) if at.0 == 3));
}

#[test]
fn only_a_failed_commit_is_unknown() {
    let error = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
    for code in [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_FULL] {
        assert!(matches!(Failed::of_commit(&error(code)), Failed::Unknown(_)), "{code}");
        assert!(matches!(Failed::from(error(code)), Failed::Before(_)), "{code}");
    }
    let busy = rusqlite::ffi::SQLITE_BUSY;
    assert!(matches!(Failed::of_commit(&error(busy)), Failed::Busy(_)));
    assert!(matches!(Failed::from(error(busy)), Failed::Busy(_)));
}
