//! Reads of several keys and ranges at one moment.
//!
//! The first request is a transaction of gets: etcd answers all of them at one revision. What does
//! not fit into it (further keys, further pages of a range) is read at that very revision. When
//! etcd has compacted it meanwhile, the read starts over.

use super::fault::{ReadFault, of_read};
use super::{ANSWER_BYTES_MAX, CALL_TIMEOUT, EtcdStore, number, unanswered};
use crate::error::MetaError;
use crate::keys::{Span, after_key};
use etcd_client::{GetOptions, KeyValue, Txn as EtcdTxn, TxnOp, TxnOpResponse};
use piculet_quorum::limits::TXN_OPS_MAX;
use piculet_quorum::meta::{Key, Range, Record, Snapshot, StoreRevision, Versioned};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Records that one request asks for at most, of all its ranges together.
const PAGE_RECORDS: usize = 1000;
/// Bound on one attempt at a request: another one then goes out, perhaps to another member.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);
/// First wait after a failed attempt; it doubles.
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// Times that a read is begun, when etcd compacts faster than it is read.
const STARTS_MAX: u32 = 4;

const _: () = {
    assert!(ATTEMPT_TIMEOUT.as_millis() * 2 <= CALL_TIMEOUT.as_millis(), "there is time for another attempt");
    assert!(PAGE_RECORDS / TXN_OPS_MAX > 0, "every range of a request gets a page");
    assert!(PAGE_RECORDS * 16_384 < ANSWER_BYTES_MAX, "a page fits into an answer");
};

/// One get: a key, or a range of which so many known keys are wanted.
struct Get {
    span: Span,
    wanted: usize,
    single: bool,
}

/// Reads all of it at one revision.
pub(super) async fn read(store: &EtcdStore, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
    let mut starts = 1;
    loop {
        let mut reader = Reader { store, at: None, records: BTreeMap::new() };
        match reader.run(gets(store, keys, ranges)).await {
            Ok(()) => {
                let at = StoreRevision(number(reader.at.unwrap_or(0)));
                return Ok(Snapshot { at, records: reader.records });
            }
            Err(Failed::Moved(_)) if starts < STARTS_MAX => starts += 1,
            Err(Failed::Moved(why)) => {
                let why = format!("etcd compacted its history faster than it could be read: {why}");
                return Err(MetaError::Unavailable(why));
            }
            Err(Failed::For(error)) => return Err(error),
        }
    }
}

fn gets(store: &EtcdStore, keys: &[Key], ranges: &[Range]) -> Vec<Get> {
    let mut gets: Vec<Get> = Vec::with_capacity(keys.len() + ranges.len());
    for key in keys {
        let from = store.keys.encode(key).into_bytes();
        gets.push(Get { span: Span { to: after_key(&from), from }, wanted: 1, single: true });
    }
    for range in ranges {
        let wanted = match range {
            Range::Names(_, limit) if *limit != 0 => *limit as usize,
            _ => usize::MAX,
        };
        gets.push(Get { span: store.keys.span(range), wanted, single: false });
    }
    gets
}

enum Failed {
    Moved(String),
    For(MetaError),
}

struct Reader<'a> {
    store: &'a EtcdStore,
    /// The moment; fixed by the first answer.
    at: Option<i64>,
    records: BTreeMap<Key, Versioned<Record>>,
}

impl Reader<'_> {
    async fn run(&mut self, mut gets: Vec<Get>) -> Result<(), Failed> {
        loop {
            let rest = gets.split_off(gets.len().min(TXN_OPS_MAX));
            let mut more = self.request(gets).await?;
            more.extend(rest);
            if more.is_empty() {
                return Ok(());
            }
            gets = more;
        }
    }

    /// One request; returns what is left of its gets.
    async fn request(&mut self, gets: Vec<Get>) -> Result<Vec<Get>, Failed> {
        let ranges = gets.iter().filter(|get| !get.single).count();
        let page = PAGE_RECORDS / ranges.max(1);
        let limit = |get: &Get| if get.single { 1 } else { get.wanted.min(page) };
        let ops: Vec<TxnOp> = gets
            .iter()
            .map(|get| {
                let options = GetOptions::new().with_limit(limit(get) as i64);
                let options = options.with_revision(self.at.unwrap_or(0));
                let options = if get.single { options } else { options.with_range(get.span.to.clone()) };
                TxnOp::get(get.span.from.clone(), Some(options))
            })
            .collect();
        let answer = self.call(EtcdTxn::new().and_then(ops)).await?;
        let malformed = |what: &str| Failed::For(MetaError::Unavailable(format!("etcd's answer has {what}")));
        let revision = answer.header().ok_or_else(|| malformed("no revision"))?.revision();
        self.at.get_or_insert(revision);
        let answers = answer.op_responses();
        if answers.len() != gets.len() {
            return Err(malformed("another number of parts than the request"));
        }
        let mut left = Vec::new();
        for (get, answer) in gets.into_iter().zip(answers) {
            let TxnOpResponse::Get(answer) = answer else { return Err(malformed("a part that is no read")) };
            let known = self.take(answer.kvs()).map_err(Failed::For)?;
            let wanted = get.wanted.saturating_sub(known);
            if let Some(last) = answer.kvs().last().filter(|_| answer.more() && wanted > 0 && !get.single) {
                let span = Span { from: after_key(last.key()), to: get.span.to };
                left.push(Get { span, wanted, single: false });
            }
        }
        Ok(left)
    }

    /// Takes records; returns how many had keys that this version knows.
    fn take(&mut self, kvs: &[KeyValue]) -> Result<usize, MetaError> {
        let mut known = 0;
        for kv in kvs {
            let Some(key) = self.store.keys.decode(kv.key()) else { continue };
            let record = self.store.record(&key, kv.value(), kv.mod_revision())?;
            self.records.insert(key, record);
            known += 1;
        }
        Ok(known)
    }

    async fn call(&self, request: EtcdTxn) -> Result<etcd_client::TxnResponse, Failed> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut wait = RETRY_WAIT;
        let mut denied = None;
        loop {
            let attempt = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            let call = async {
                self.store.log_in().await?;
                self.store.attempt(request.clone()).await
            };
            let error = match timeout_at(attempt, call).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => match of_read(&error) {
                    ReadFault::Transient(error) => error,
                    ReadFault::Moved(why) => return Err(Failed::Moved(why)),
                    ReadFault::Refused(error) => return Err(Failed::For(error)),
                },
                Err(_) => MetaError::Unavailable(unanswered(ATTEMPT_TIMEOUT)),
            };
            // A server that does not accept a certificate often just hangs up: one that said so once
            // explains the rest.
            if matches!(error, MetaError::Denied(_)) {
                denied = Some(error.clone());
            }
            if Instant::now() + wait >= deadline {
                return Err(Failed::For(denied.unwrap_or(error)));
            }
            sleep(wait).await;
            wait *= 2;
        }
    }
}
