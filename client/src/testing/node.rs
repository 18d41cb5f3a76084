//! A node in this process.

use super::Shared;
use super::meta::Batches;
use super::serve;
use crate::transport::{Accepted, Acceptor, Endpoint, Identity, TransportOptions};
use bytes::Bytes;
use parking_lot::Mutex;
use piculet_quorum::batch::{BatchEnd, BatchHeader};
use piculet_quorum::ids::{Chain, Incarnation, Index, LogId, NodeId, SegmentNumber};
use piculet_quorum::meta::SegmentEnd;
use piculet_quorum::replica::Replica;
use piculet_quorum::wire::message::{Address, Open, Opened, Refusal};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// What a node does wrong, for the sake of a test.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// It answers nothing but `Hello`.
    pub(crate) deaf: bool,
    /// It answers nothing about segments.
    pub(crate) mute: bool,
    /// It tells readers nothing of commits.
    pub(crate) hide_commit: bool,
    /// A reader's stream breaks off after so many frames with entries.
    pub(crate) break_after: Option<usize>,
    /// A bit of every batch that it sends to readers is flipped.
    pub(crate) damage: bool,
    /// It does not store what writers send.
    pub(crate) forgetful: bool,
    /// It keeps its watermarks to itself for as long as this lasts, and then tells what they were.
    pub(crate) slow_marks: bool,
    /// What it has beyond this index is not at rest: it does not count when it is fenced.
    pub(crate) at_rest: Option<Index>,
    /// It is fenced, and then reborn, before whoever fenced it goes on.
    pub(crate) reborn_when_fenced: bool,
}

/// One log at one node.
pub(super) struct Local {
    pub(super) replica: Replica,
    pub(super) segments: BTreeMap<SegmentNumber, Stored>,
}

/// One segment at one node.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) batches: Batches,
    pub(super) end: Option<BatchEnd>,
}

pub(super) struct Inside {
    pub(super) id: NodeId,
    pub(super) memory: Incarnation,
    pub(super) address: String,
    pub(super) shared: Arc<Shared>,
    pub(super) logs: Mutex<BTreeMap<LogId, Local>>,
    pub(super) faults: Mutex<Faults>,
    /// Readers that were served.
    pub(super) subscriptions: Mutex<usize>,
    /// Questions for its watermarks of which it knows the answer.
    pub(super) marks_asked: Mutex<usize>,
    pub(super) seen: Mutex<BTreeMap<(LogId, SegmentNumber), Seen>>,
}

/// What is known of a segment's writer.
pub(super) struct Seen {
    pub(super) streams: usize,
    /// When the last stream went, or else when the segment became known.
    pub(super) since: Instant,
    pub(super) peer: Option<String>,
}

pub(crate) struct Node {
    inside: Arc<Inside>,
    endpoint: Endpoint,
    task: AbortHandle,
}

impl Node {
    pub(super) fn start(id: &NodeId, identity: &Identity, shared: Arc<Shared>) -> Self {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let (endpoint, acceptor) = Endpoint::server(listen, identity, &TransportOptions::default()).unwrap();
        let address = endpoint.local_addr().to_string();
        let memory = shared.meta.lock().start_node(id, address.clone());
        let inside = Arc::new(Inside {
            id: id.clone(),
            memory,
            address,
            shared,
            logs: Mutex::default(),
            faults: Mutex::default(),
            subscriptions: Mutex::default(),
            marks_asked: Mutex::default(),
            seen: Mutex::default(),
        });
        let task = tokio::spawn(accept(inside.clone(), acceptor)).abort_handle();
        Self { inside, endpoint, task }
    }

    pub(crate) fn address(&self) -> String {
        self.inside.address.clone()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.inside.faults.lock() = faults;
        self.inside.shared.changed();
    }

    /// Stops it; the metadata know, as its lease is gone.
    pub(crate) fn stop(&self) {
        self.vanish();
        self.inside.shared.meta.lock().stop_node(&self.inside.id);
    }

    /// Whether it has a stream of the only log's writer.
    pub(crate) fn has_writer(&self) -> bool {
        self.inside.seen.lock().values().any(|writer| writer.streams > 0)
    }

    /// Stops it, and the metadata do not know yet.
    pub(crate) fn vanish(&self) {
        self.task.abort();
        self.endpoint.close();
    }

    pub(crate) fn subscriptions(&self) -> usize {
        *self.inside.subscriptions.lock()
    }

    /// So often it was asked for its watermarks and had an answer, told or not.
    pub(crate) fn marks_asked(&self) -> usize {
        *self.inside.marks_asked.lock()
    }

    /// What it says to a new stream of the writer of a segment of the only log, having read nothing
    /// of the metadata since it was last asked for anything.
    pub(crate) fn reopen(&self, number: SegmentNumber) -> Result<Opened, Refusal> {
        let mut logs = self.inside.logs.lock();
        let (log, local) = logs.iter_mut().next().expect("it has a log");
        let epoch = local.replica.place(number).expect("it has the segment").epoch;
        let at = Address { log: *log, segment: number, epoch, incarnation: self.inside.memory };
        local.open(&Open { at, repair: false }).map(|(_, opened)| opened)
    }

    /// Stores the batches of a segment of the only log that it lacks, as if its writer's stream had
    /// carried them so far.
    pub(crate) fn put(&self, number: SegmentNumber, batches: &[(BatchHeader, Bytes)]) {
        let mut logs = self.inside.logs.lock();
        let (log, local) = logs.iter_mut().next().expect("it has a log");
        let place = local.replica.place(number).expect("it has the segment");
        let at = Address { log: *log, segment: number, epoch: place.epoch, incarnation: self.inside.memory };
        let (session, opened) = local.open(&Open { at, repair: false }).unwrap();
        for (_, bytes) in batches.iter().filter(|(header, _)| header.first >= opened.tail) {
            local.store(session, number, &place, bytes.clone()).unwrap();
        }
    }

    /// Batches and end of a segment of the only log, as it has them.
    pub(crate) fn stored(&self, number: SegmentNumber) -> (Batches, SegmentEnd) {
        let logs = self.inside.logs.lock();
        let local = logs.values().next().expect("it has a log");
        let Some(stored) = local.segments.get(&number) else {
            let nothing = SegmentEnd { end: Index(0), chain: Chain(0), last_timestamp: Default::default() };
            return (Vec::new(), nothing);
        };
        let end = stored.batches.last().map_or(Index(0), |(header, _)| header.end());
        let at = stored.end.expect("it has a batch");
        (stored.batches.clone(), SegmentEnd { end, chain: at.chain, last_timestamp: at.last_timestamp })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(inside: Arc<Inside>, mut acceptor: Acceptor) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = acceptor.accept().await {
        if let Ok(accepted) = accepted {
            connections.spawn(streams(inside.clone(), accepted));
        }
    }
}

async fn streams(inside: Arc<Inside>, accepted: Accepted) {
    let mut streams = JoinSet::new();
    let peer = format!("{} at {}", accepted.peer, accepted.remote);
    while let Ok((send, receive)) = accepted.connection.accept_bi().await {
        streams.spawn(serve::stream(inside.clone(), peer.clone(), send, receive));
        while streams.try_join_next().is_some() {}
    }
}
