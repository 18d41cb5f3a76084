//! Everything that changes the database, each in one IMMEDIATE transaction: from its first read
//! on, nobody else writes.

use super::fault::Failed;
use crate::error::MetaError;
use crate::keys::Keys;
use crate::{check, records};
use piculet_quorum::ids::Revision;
use piculet_quorum::meta::{Key, LeaseId, Record, Txn, TxnOutcome, Write};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Revisions that are remembered for watches. One that falls further behind starts over.
const HISTORY_MAX: i64 = 1024;
/// A lease is ended this long after its time, so that a small step of the clock ends none.
const CLOCK_STEP_MAX: Duration = Duration::from_millis(500);

/// Carries a transaction out.
pub(super) fn commit(connection: &mut Connection, keys: &Keys, txn: &Txn) -> Result<TxnOutcome, Failed> {
    transact(connection, |changes| {
        for (key, expected) in &txn.compares {
            if changes.revision_of(&keys.encode(key))? != *expected {
                return Ok(TxnOutcome::Refused);
            }
        }
        let leases = check::leases(txn);
        for lease in &leases {
            if !changes.has_lease(*lease)? {
                return Err(Failed::For(MetaError::LeaseGone(leases)));
            }
        }
        let mut bytes = 0;
        changes.begin();
        for write in &txn.writes {
            bytes += match write {
                Write::Put(key, record) => changes.put(keys, key, record, None)?,
                Write::PutLeased(key, record, lease) => changes.put(keys, key, record, Some(*lease))?,
                Write::Delete(key) => {
                    let key = keys.encode(key).into_bytes();
                    let to = crate::keys::after_key(&key);
                    changes.delete(&key, &to)?
                }
                Write::DeleteRange(range) => {
                    let span = keys.span(range);
                    changes.delete(&span.from, &span.to)?
                }
            };
        }
        check::bytes(bytes).map_err(Failed::For)?;
        changes.end()?;
        Ok(TxnOutcome::Applied(Revision(changes.revision.unsigned_abs())))
    })
}

/// Grants a lease.
pub(super) fn grant(connection: &mut Connection, ttl: Duration) -> Result<LeaseId, Failed> {
    transact(connection, |changes| {
        let granted = "UPDATE store SET leases_granted = leases_granted + 1 RETURNING leases_granted";
        let id: i64 = changes.transaction.query_row(granted, [], |row| row.get(0))?;
        let insert = "INSERT INTO leases (id, ttl, expires) VALUES (?1, ?2, ?3)";
        changes.transaction.execute(insert, params![id, millis(ttl), now() + millis(ttl)])?;
        Ok(LeaseId(id))
    })
}

/// Makes a lease last for its ttl from now on; false when it has ended.
pub(super) fn renew(connection: &mut Connection, lease: LeaseId) -> Result<bool, Failed> {
    transact(connection, |changes| {
        let update = "UPDATE leases SET expires = ttl + ?2 WHERE id = ?1";
        Ok(changes.transaction.execute(update, params![lease.0, now()])? > 0)
    })
}

/// Ends a lease, unless it has ended already.
pub(super) fn revoke(connection: &mut Connection, lease: LeaseId) -> Result<(), Failed> {
    transact(connection, |changes| changes.end_lease(lease.0))
}

/// Ends the leases whose time is over, as every transaction does before anything else.
pub(super) fn expire(connection: &mut Connection) -> Result<(), Failed> {
    transact(connection, |_| Ok(()))
}

/// Whether a lease that lasts until `expires` is to be ended.
pub(super) fn is_over(expires: i64) -> bool {
    expires < now() - millis(CLOCK_STEP_MAX)
}

fn transact<T>(
    connection: &mut Connection,
    work: impl FnOnce(&mut Changes<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    if !connection.is_autocommit() {
        // The last rollback failed.
        connection.execute_batch("ROLLBACK")?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let revision = transaction.query_row("SELECT revision FROM store", [], |row| row.get(0))?;
    let mut changes = Changes { transaction: &transaction, revision, changed: 0 };
    changes.end_old_leases()?;
    let value = work(&mut changes)?;
    transaction.commit().map_err(|error| Failed::of_commit(&error))?;
    Ok(value)
}

/// A transaction that makes revisions.
struct Changes<'a> {
    transaction: &'a Transaction<'a>,
    /// The newest revision; between `begin` and `end`, the one before that which is being made.
    revision: i64,
    /// Keys that were changed since `begin`.
    changed: usize,
}

impl Changes<'_> {
    fn begin(&mut self) {
        self.changed = 0;
    }

    /// Makes a revision of what was changed since `begin`; there is none without a change.
    fn end(&mut self) -> Result<(), Failed> {
        if self.changed > 0 {
            self.revision += 1;
            let mut update = self.transaction.prepare_cached("UPDATE store SET revision = ?1")?;
            update.execute([self.revision])?;
            let mut prune = self.transaction.prepare_cached("DELETE FROM changes WHERE revision <= ?1")?;
            prune.execute([self.revision - HISTORY_MAX])?;
        }
        Ok(())
    }

    fn revision_of(&self, key: &str) -> Result<Revision, Failed> {
        let mut select = self.transaction.prepare_cached("SELECT revision FROM records WHERE key = ?1")?;
        let revision: Option<i64> = select.query_row([key.as_bytes()], |row| row.get(0)).optional()?;
        Ok(Revision(revision.unwrap_or(0).unsigned_abs()))
    }

    fn has_lease(&self, lease: LeaseId) -> Result<bool, Failed> {
        let mut select = self.transaction.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?;
        Ok(select.exists([lease.0])?)
    }

    /// Returns the bytes of key and record.
    fn put(
        &mut self,
        keys: &Keys,
        key: &Key,
        record: &Record,
        lease: Option<LeaseId>,
    ) -> Result<usize, Failed> {
        let (key, json) = (keys.encode(key), records::encode(record));
        let (key, lease, next) = (key.as_bytes(), lease.map(|lease| lease.0), self.revision + 1);
        let mut put = self.transaction.prepare_cached(
            "INSERT INTO records (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET value = ?2, revision = ?3, lease = ?4",
        )?;
        put.execute(params![key, json, next, lease])?;
        let log = "INSERT INTO changes (revision, key, value) VALUES (?1, ?2, ?3)";
        self.transaction.prepare_cached(log)?.execute(params![next, key, json])?;
        self.changed += 1;
        Ok(key.len() + json.len())
    }

    /// Deletes the keys from `from` on that are before `to`; no bytes are written for them.
    fn delete(&mut self, from: &[u8], to: &[u8]) -> Result<usize, Failed> {
        let mut log = self.transaction.prepare_cached(
            "INSERT INTO changes (revision, key) SELECT ?1, key FROM records WHERE key >= ?2 AND key < ?3",
        )?;
        self.changed += log.execute(params![self.revision + 1, from, to])?;
        let delete = "DELETE FROM records WHERE key >= ?1 AND key < ?2";
        self.transaction.prepare_cached(delete)?.execute(params![from, to])?;
        Ok(0)
    }

    fn end_lease(&mut self, lease: i64) -> Result<(), Failed> {
        self.begin();
        let mut log = self.transaction.prepare_cached(
            "INSERT INTO changes (revision, key) SELECT ?1, key FROM records WHERE lease = ?2",
        )?;
        self.changed += log.execute([self.revision + 1, lease])?;
        self.transaction.prepare_cached("DELETE FROM records WHERE lease = ?1")?.execute([lease])?;
        self.transaction.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease])?;
        self.end()
    }

    fn end_old_leases(&mut self) -> Result<(), Failed> {
        // Renewed later than now: the clock was set back, and a dead holder would keep it for long.
        let mut late = self
            .transaction
            .prepare_cached("UPDATE leases SET expires = ttl + ?1 WHERE expires > ttl + ?1 + ?2")?;
        late.execute([now(), millis(CLOCK_STEP_MAX)])?;
        let over: Vec<i64> = {
            let mut select = self
                .transaction
                .prepare_cached("SELECT id FROM leases WHERE expires < ?1 ORDER BY expires, id")?;
            let rows = select.query_map([now() - millis(CLOCK_STEP_MAX)], |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        over.into_iter().try_for_each(|lease| self.end_lease(lease))
    }
}

/// Milliseconds of the wall clock: the only clock that the processes of a machine share through
/// restarts.
fn now() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
