//! Everything that only reads, each in one transaction and so at one moment: what was committed
//! before the call is seen by it, whichever process committed it.

use super::fault::Failed;
use crate::error::MetaError;
use crate::keys::Keys;
use crate::records;
use crate::watch::WatchEvent;
use piculet_quorum::ids::Revision;
use piculet_quorum::meta::{Key, Range, Record, Snapshot, StoreRevision, Versioned};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::BTreeMap;

/// Revisions that a watch takes at once.
const REVISIONS_MAX: u64 = 256;

/// What a watch learns.
#[derive(Debug)]
pub(super) struct News {
    /// The moment up to which it is known.
    pub(super) upto: u64,
    pub(super) events: Vec<WatchEvent>,
}

/// All of some keys and ranges.
pub(super) fn snapshot(
    connection: &mut Connection,
    spelling: &Keys,
    keys: &[Key],
    ranges: &[Range],
) -> Result<Snapshot, Failed> {
    let transaction = connection.transaction()?;
    take(&transaction, spelling, keys, ranges)
}

/// What was changed in `range` after the moment `seen`; all of it when that is not known.
pub(super) fn news(
    connection: &mut Connection,
    spelling: &Keys,
    seen: Option<u64>,
    range: &Range,
) -> Result<News, Failed> {
    let transaction = connection.transaction()?;
    let newest = revision(&transaction)?;
    let Some(seen) = seen.filter(|seen| *seen <= newest) else {
        return reset(&transaction, spelling, range);
    };
    let oldest: Option<i64> =
        transaction.query_row("SELECT min(revision) FROM changes", [], |row| row.get(0))?;
    if seen < newest && oldest.is_none_or(|oldest| oldest.unsigned_abs() > seen + 1) {
        return reset(&transaction, spelling, range);
    }
    let upto = newest.min(seen + REVISIONS_MAX);
    let span = spelling.span(range);
    let mut select = transaction.prepare_cached(
        "SELECT revision, key, value FROM changes
         WHERE revision > ?1 AND revision <= ?2 AND key >= ?3 AND key < ?4 ORDER BY revision, key",
    )?;
    let mut rows = select.query(params![signed(seen), signed(upto), span.from, span.to])?;
    let mut events: Vec<WatchEvent> = Vec::new();
    while let Some(row) = rows.next()? {
        let (revision, key, json): (i64, Vec<u8>, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Some(key) = spelling.decode(&key) else { continue };
        let record = json.map(|json| record(spelling, &key, &json, revision)).transpose()?;
        let moment = StoreRevision(revision.unsigned_abs());
        match events.last_mut() {
            Some(WatchEvent::Changed { at, changes }) if *at == moment => changes.push((key, record)),
            _ => events.push(WatchEvent::Changed { at: moment, changes: vec![(key, record)] }),
        }
    }
    Ok(News { upto, events })
}

/// The newest revision.
pub(super) fn revision(connection: &Connection) -> Result<u64, Failed> {
    let mut select = connection.prepare_cached("SELECT revision FROM store")?;
    Ok(select.query_row([], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

fn reset(transaction: &Transaction<'_>, spelling: &Keys, range: &Range) -> Result<News, Failed> {
    let snapshot = take(transaction, spelling, &[], std::slice::from_ref(range))?;
    Ok(News { upto: snapshot.at.0, events: vec![WatchEvent::Reset(snapshot)] })
}

fn take(
    transaction: &Transaction<'_>,
    spelling: &Keys,
    keys: &[Key],
    ranges: &[Range],
) -> Result<Snapshot, Failed> {
    let mut snapshot = Snapshot { at: StoreRevision(revision(transaction)?), records: BTreeMap::new() };
    let mut one = transaction.prepare_cached("SELECT value, revision FROM records WHERE key = ?1")?;
    for key in keys {
        let found = one
            .query_row([spelling.encode(key).as_bytes()], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        if let Some((json, revision)) = found {
            snapshot.records.insert(key.clone(), record(spelling, key, &json, revision)?);
        }
    }
    let mut many = transaction.prepare_cached(
        "SELECT key, value, revision FROM records WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    for range in ranges {
        let limit = match range {
            Range::Names(_, limit) if *limit != 0 => *limit as usize,
            _ => usize::MAX,
        };
        let span = spelling.span(range);
        let (mut rows, mut found) = (many.query(params![span.from, span.to])?, 0);
        while found < limit
            && let Some(row) = rows.next()?
        {
            let (key, json, revision): (Vec<u8>, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(key) = spelling.decode(&key) else { continue };
            let record = record(spelling, &key, &json, revision)?;
            snapshot.records.insert(key, record);
            found += 1;
        }
    }
    Ok(snapshot)
}

fn record(spelling: &Keys, key: &Key, json: &[u8], revision: i64) -> Result<Versioned<Record>, Failed> {
    let value = records::decode(key, json).map_err(|error| {
        Failed::For(MetaError::Corrupt { key: spelling.encode(key), why: error.to_string() })
    })?;
    Ok(Versioned { revision: Revision(revision.unsigned_abs()), value })
}

/// No revision is beyond what sqlite can count to.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
