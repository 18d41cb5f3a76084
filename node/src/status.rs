//! How the node is: for the wire, and in more detail for its operators.

use crate::core::{Core, LiveBuffer};
use crate::logs::{LocalSegment, Log};
use crate::metrics;
use piculet_quorum::glossary::Marks;
use piculet_quorum::ids::{Epoch, Incarnation, Index, Level, LogId, NodeId, Nonce, Offset, SegmentNumber};
use piculet_quorum::meta::{SegmentState, StoreRevision};
use piculet_quorum::wire::message::Status;
use piculet_storage::Arena;
use serde::Serialize;
use std::collections::BTreeMap;

/// All that `/status` shows.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    node: NodeId,
    cluster: Nonce,
    version: &'static str,
    ready: bool,
    draining: bool,
    metadata: Dependency,
    store: Dependency,
    conditional_put: bool,
    /// Changes of the metadata up to here have been taken in.
    metadata_revision: StoreRevision,
    buffers: BTreeMap<Level, BufferStatus>,
    cpu_nanos: u64,
    logs: Vec<LogStatus>,
}

/// One of its buffers.
#[derive(Debug, Serialize)]
struct BufferStatus {
    incarnation: Incarnation,
    bytes: u64,
    used: u64,
}

/// Something that the node depends on, as its last use showed it.
#[derive(Debug, Serialize)]
struct Dependency {
    url: String,
    reachable: bool,
}

#[derive(Debug, Serialize)]
struct LogStatus {
    /// As the metadata keys and object names have it: 16 hexadecimal digits.
    log: String,
    level: Level,
    fence_epoch: Epoch,
    segments: Vec<SegmentStatus>,
}

#[derive(Debug, Serialize)]
struct SegmentStatus {
    segment: SegmentNumber,
    epoch: Epoch,
    base: Offset,
    state: &'static str,
    end: Option<Index>,
    settled: bool,
    marks: Marks,
    archived: Index,
    parts: usize,
    held_bytes: u64,
    uploader: Option<NodeId>,
    /// Members that are lost.
    lost: Vec<NodeId>,
}

impl Core {
    /// How the node is, as a client is told.
    #[must_use]
    pub fn status(&self) -> Status {
        let uploading = self.logs.all().into_iter().flat_map(|log| {
            let me = self.member(log.level);
            let state = log.lock();
            let mine = state.segments.iter().filter(|(_, local)| local.uploaded_by(&me));
            mine.map(|(number, _)| (log.id, *number)).collect::<Vec<(LogId, SegmentNumber)>>()
        });
        Status {
            node: self.id.clone(),
            incarnations: self.incarnations(),
            buffer_bytes: self.arenas().map(Arena::capacity_bytes).sum(),
            buffer_used: self.arenas().map(Arena::used_bytes).sum(),
            cpu_nanos: metrics::cpu_nanos(),
            uploading: uploading.collect(),
            conditional_put: self.objects.conditional_put(),
        }
    }

    /// How the node is, in detail.
    #[must_use]
    pub fn node_status(&self) -> NodeStatus {
        let mut logs = self.logs.all();
        logs.sort_by_key(|log| log.id);
        let metadata = Dependency { url: self.config.metadata.clone(), reachable: self.meta_health.is_up() };
        let store = Dependency { url: self.objects.url().to_owned(), reachable: self.store_health.is_up() };
        NodeStatus {
            node: self.id.clone(),
            cluster: self.cluster,
            version: env!("CARGO_PKG_VERSION"),
            ready: self.readiness.missing().is_empty() && !self.draining(),
            draining: self.draining(),
            metadata,
            store,
            conditional_put: self.objects.conditional_put(),
            metadata_revision: self.applied(),
            buffers: self.buffers().map(|(level, live)| (level, buffer_status(live))).collect(),
            cpu_nanos: metrics::cpu_nanos(),
            logs: logs.iter().map(|log| self.log_status(log)).collect(),
        }
    }
}

fn buffer_status(live: &LiveBuffer) -> BufferStatus {
    let arena = live.buffer.arena();
    let (bytes, used) = (arena.capacity_bytes(), arena.used_bytes());
    BufferStatus { incarnation: live.life.incarnation, bytes, used }
}

impl Core {
    fn log_status(&self, log: &Log) -> LogStatus {
        let (now, state) = (self.clock.now(), log.lock());
        let segment = |(number, local): (&SegmentNumber, &LocalSegment)| SegmentStatus {
            segment: *number,
            epoch: local.record.value.epoch,
            base: local.record.value.base,
            state: match &local.record.value.state {
                SegmentState::Open => "open",
                SegmentState::Sealed(_) => "sealed",
                SegmentState::Archived(_) => "archived",
            },
            end: local.record.value.state.end().map(|at| at.end),
            settled: local.record.value.settled(),
            marks: state.replica.marks(*number).unwrap_or_default(),
            archived: local.row.archived(),
            parts: local.row.parts.len(),
            held_bytes: local.buffer.held_bytes(),
            uploader: local.uploader.as_ref().map(|(uploader, _)| uploader.node.clone()),
            lost: self.lives.lock().lost(now, &self.id, &local.record.value).cloned().collect(),
        };
        LogStatus {
            log: format!("{:016x}", log.id.0),
            level: log.level,
            fence_epoch: state.replica.fence_epoch(),
            segments: state.segments.iter().map(segment).collect(),
        }
    }
}
