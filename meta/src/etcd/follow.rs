//! Watches in etcd: one task per watch, which reads all of the range, follows it from the next
//! revision on, and starts over when that breaks off for whatever reason.

use super::{ANSWER_BYTES_MAX, CALL_TIMEOUT, EtcdStore, fault, number};
use crate::Metadata;
use crate::error::MetaError;
use crate::watch::{Watch, WatchEvent};
use etcd_client::{Event, WatchOptions, WatchStream};
use piculet_quorum::meta::{Range, Snapshot, StoreRevision};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Events that wait for the owner of a watch; beyond them, etcd keeps them.
const EVENTS_MAX: usize = 64;
/// After this long without a message etcd is asked for one, which it owes within [`CALL_TIMEOUT`].
const QUIET_MAX: Duration = Duration::from_secs(3);
/// First and longest wait before a watch that broke off starts over.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Starts a watch with a first snapshot.
pub(super) async fn start(store: EtcdStore, range: Range) -> Result<Watch, MetaError> {
    let range = match range {
        Range::Names(after, _) => Range::Names(after, 0),
        range => range,
    };
    let first = store.read(&[], std::slice::from_ref(&range)).await?;
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let follower = Follower { store, range, events: sender, wait: RESTART_WAIT.0, told: Told::Working };
    let mut task = JoinSet::new();
    task.spawn(follower.run(first));
    Ok(Watch::task(events, task))
}

struct Follower {
    store: EtcdStore,
    range: Range,
    events: mpsc::Sender<WatchEvent>,
    /// Wait before the next restart.
    wait: Duration,
    /// What of the present outage is in the log.
    told: Told,
}

/// What the log says about a watch; each state is told once in an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// It works.
    Working,
    /// It broke off and is starting over.
    Broken,
    /// It cannot start over before somebody does something.
    Stuck,
}

/// Why following ended.
enum Ended {
    /// It broke off.
    Broken(String),
    /// The owner of the watch has gone.
    Unwanted,
}

impl Follower {
    async fn run(mut self, mut snapshot: Snapshot) {
        loop {
            let Err(ended) = self.follow(snapshot).await;
            match ended {
                Ended::Unwanted => return,
                Ended::Broken(why) => self.broken(Told::Broken, &why),
            }
            snapshot = loop {
                sleep(self.wait).await;
                self.wait = (self.wait * 2).min(RESTART_WAIT.1);
                match self.store.read(&[], std::slice::from_ref(&self.range)).await {
                    Ok(snapshot) => break snapshot,
                    Err(error) if error.is_retryable() => self.broken(Told::Broken, &error.to_string()),
                    Err(error) => self.broken(Told::Stuck, &error.to_string()),
                }
            };
        }
    }

    /// Hands out the snapshot and everything after it, for as long as nothing is missed.
    async fn follow(&mut self, snapshot: Snapshot) -> Result<std::convert::Infallible, Ended> {
        let from = snapshot.at.0 + 1;
        self.send(WatchEvent::Reset(snapshot)).await?;
        let mut stream = self.open(from).await?;
        let mut asked = false;
        loop {
            let answer = match timeout(if asked { CALL_TIMEOUT } else { QUIET_MAX }, stream.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => return Err(Ended::Broken("etcd ended the stream".to_owned())),
                Ok(Err(error)) => return Err(Ended::Broken(fault::text(&error))),
                Err(_) if asked => return Err(Ended::Broken("etcd has gone silent".to_owned())),
                Err(_) => {
                    asked = true;
                    let request = timeout(CALL_TIMEOUT, stream.request_progress()).await;
                    request
                        .map_err(|_| Ended::Broken("etcd takes no requests".to_owned()))?
                        .map_err(|error| Ended::Broken(fault::text(&error)))?;
                    continue;
                }
            };
            asked = false;
            // A watch from a compacted revision begins with an ordinary message; only this tells.
            if answer.canceled() {
                let compacted = answer.compact_revision();
                return Err(Ended::Broken(format!(
                    "etcd canceled it (reason {:?}, compacted up to {compacted})",
                    answer.cancel_reason()
                )));
            }
            self.works();
            for event in self.changes(answer.events()).map_err(|error| Ended::Broken(error.to_string()))? {
                self.send(event).await?;
            }
        }
    }

    async fn open(&self, from: u64) -> Result<WatchStream, Ended> {
        let span = self.store.keys.span(&self.range);
        let from = i64::try_from(from)
            .map_err(|_| Ended::Broken(format!("revision {from} is beyond what etcd counts to")))?;
        let options = WatchOptions::new().with_range(span.to).with_start_revision(from);
        let mut client = self.store.client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        timeout(CALL_TIMEOUT, client.watch(span.from, Some(options)))
            .await
            .map_err(|_| Ended::Broken(format!("etcd did not answer within {CALL_TIMEOUT:?}")))?
            .map_err(|error| Ended::Broken(fault::text(&error)))
    }

    /// The changes that etcd reports, one event for each revision; etcd never cuts one in two.
    fn changes(&self, events: &[Event]) -> Result<Vec<WatchEvent>, MetaError> {
        let mut grouped: Vec<WatchEvent> = Vec::new();
        for kv in events.iter().filter_map(Event::kv) {
            let Some(key) = self.store.keys.decode(kv.key()) else { continue };
            let revision = StoreRevision(number(kv.mod_revision()));
            // The version counts the puts since a key was created: a deleted key has none.
            let deleted = kv.version() == 0;
            let record =
                if deleted { None } else { Some(self.store.record(&key, kv.value(), kv.mod_revision())?) };
            match grouped.last_mut() {
                Some(WatchEvent::Changed { at, changes }) if *at == revision => changes.push((key, record)),
                _ => grouped.push(WatchEvent::Changed { at: revision, changes: vec![(key, record)] }),
            }
        }
        Ok(grouped)
    }

    async fn send(&self, event: WatchEvent) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended::Unwanted)
    }

    fn broken(&mut self, state: Told, error: &str) {
        if self.told < state {
            self.told = state;
            tracing::warn!(range = ?self.range, error, ?state, "metadata watch broke off, starting over");
        }
    }

    fn works(&mut self) {
        self.wait = RESTART_WAIT.0;
        if self.told != Told::Working {
            self.told = Told::Working;
            tracing::info!(range = ?self.range, "metadata watch works again");
        }
    }
}
