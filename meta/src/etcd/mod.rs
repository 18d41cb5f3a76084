//! Metadata in etcd.
//!
//! | what | where |
//! |---|---|
//! | connection, transactions | here |
//! | reads of several keys and ranges at one moment | [`read`] |
//! | leases | [`lease`] |
//! | watches | [`follow`] |
//! | certificates | [`tls`] |
//! | what an error of the client library means | [`fault`] |

mod fault;
mod follow;
mod lease;
mod read;
mod tls;

use crate::error::MetaError;
use crate::keys::Keys;
use crate::lease::Lease;
use crate::options::MetaOptions;
use crate::watch::Watch;
use crate::{Metadata, check, records};
use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, KvClient, PutOptions, Txn as EtcdTxn, TxnOp,
    TxnResponse,
};
use piculet_quorum::ids::Revision;
use piculet_quorum::meta::{Key, LeaseId, Range, Record, Snapshot, Txn, TxnOutcome, Versioned, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Bound on every call to etcd.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Bound on making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection in use is pinged this often. etcd hangs up on clients that do so more often than
/// every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// A connection is given up when a ping is not answered for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer, in bytes; a page of records is far smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An etcd cluster, with everything under one prefix.
#[derive(Clone)]
pub(crate) struct EtcdStore {
    client: Client,
    keys: Keys,
    login: Option<Arc<Login>>,
}

/// User and password. The first call that needs them logs in, so that a store can be opened while
/// etcd is away; the client library then renews the token by itself.
struct Login {
    username: String,
    password: String,
    done: OnceCell<()>,
}

impl EtcdStore {
    /// A store at these endpoints (`http://host:port`, or all `https`). Connections are made when
    /// they are needed.
    pub(crate) async fn connect(
        endpoints: &[String],
        prefix: &str,
        tls: bool,
        options: &MetaOptions,
    ) -> Result<Self, MetaError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            // etcd counts pings on an idle connection as abuse.
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PING_INTERVAL)
            // A member that is cut off from its leader says so, rather than let watches go stale.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if tls {
            connect = connect.with_tls(tls::options(options).await?);
        }
        let client = Client::connect(endpoints, Some(connect))
            .await
            .map_err(|error| MetaError::BadUrl { url: endpoints.join(","), why: fault::text(&error) })?;
        let login = match (&options.username, &options.password) {
            (Some(username), Some(password)) => Some(Arc::new(Login {
                username: username.clone(),
                password: password.clone(),
                done: OnceCell::new(),
            })),
            _ => None,
        };
        Ok(Self { client, keys: Keys::new(prefix), login })
    }

    /// Logs in, unless that has been done or there is no user.
    async fn log_in(&self) -> Result<(), etcd_client::Error> {
        let Some(login) = &self.login else { return Ok(()) };
        let user = || Some((login.username.clone(), login.password.clone()));
        // All clones of a client share its token.
        login.done.get_or_try_init(async || self.client.clone().update_user(user()).await).await?;
        Ok(())
    }

    /// One attempt at a transaction.
    async fn attempt(&self, request: EtcdTxn) -> Result<TxnResponse, etcd_client::Error> {
        match self.kv().txn(request).await {
            Err(error) if fault::stale_token(&error) && self.login.is_some() => {
                self.client.refresh_token().await?;
                Err(error)
            }
            answer => answer,
        }
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The record that etcd keeps under `key`.
    fn record(&self, key: &Key, json: &[u8], revision: i64) -> Result<Versioned<Record>, MetaError> {
        let value = records::decode(key, json)
            .map_err(|error| MetaError::Corrupt { key: self.keys.encode(key), why: error.to_string() })?;
        Ok(Versioned { revision: Revision(number(revision)), value })
    }

    fn request(&self, txn: &Txn) -> Result<EtcdTxn, MetaError> {
        let mut bytes = 0;
        let mut compares = Vec::with_capacity(txn.compares.len());
        for (key, revision) in &txn.compares {
            // No key has a revision beyond what etcd can count to: such a compare never holds.
            let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
            let key = self.keys.encode(key);
            bytes += key.len();
            compares.push(Compare::mod_revision(key, CompareOp::Equal, revision));
        }
        let mut put = |key: &Key, record: &Record, options: Option<PutOptions>| {
            let (key, json) = (self.keys.encode(key), records::encode(record));
            bytes += key.len() + json.len();
            TxnOp::put(key, json, options)
        };
        let mut writes = Vec::with_capacity(txn.writes.len());
        for write in &txn.writes {
            writes.push(match write {
                Write::Put(key, record) => put(key, record, None),
                Write::PutLeased(key, record, LeaseId(lease)) => {
                    put(key, record, Some(PutOptions::new().with_lease(*lease)))
                }
                Write::Delete(key) => TxnOp::delete(self.keys.encode(key), None),
                Write::DeleteRange(range) => {
                    let span = self.keys.span(range);
                    TxnOp::delete(span.from, Some(DeleteOptions::new().with_range(span.to)))
                }
            });
        }
        check::bytes(bytes)?;
        Ok(EtcdTxn::new().when(compares).and_then(writes))
    }
}

#[async_trait]
impl Metadata for EtcdStore {
    async fn read(&self, keys: &[Key], ranges: &[Range]) -> Result<Snapshot, MetaError> {
        read::read(self, keys, ranges).await
    }

    async fn commit(&self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        check::txn(txn)?;
        let request = self.request(txn)?;
        match timeout(CALL_TIMEOUT, self.log_in()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(fault::of_grant(&error)),
            Err(_) => return Err(MetaError::Unavailable(unanswered(CALL_TIMEOUT))),
        }
        let answer = match timeout(CALL_TIMEOUT, self.attempt(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(fault::of_commit(&error, txn)),
            Err(_) => return Err(MetaError::Unknown(unanswered(CALL_TIMEOUT))),
        };
        if !answer.succeeded() {
            return Ok(TxnOutcome::Refused);
        }
        let Some(header) = answer.header() else {
            return Err(MetaError::Unknown("etcd's answer has no revision".to_owned()));
        };
        Ok(TxnOutcome::Applied(Revision(number(header.revision()))))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, MetaError> {
        lease::grant(self, ttl).await
    }

    async fn watch(&self, range: Range) -> Result<Watch, MetaError> {
        follow::start(self.clone(), range).await
    }
}

/// etcd's revisions are signed on the wire and never negative.
fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// What is said about a call that nobody answered.
fn unanswered(within: Duration) -> String {
    format!("etcd did not answer within {within:?}; {ADVICE}")
}

/// What to look at when etcd does not answer.
const ADVICE: &str = "check that it runs, can be reached and has a leader";
