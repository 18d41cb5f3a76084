//! Requests that are one question and one answer. The metadata transactions among them are carried
//! out in [`propose`](super::propose).

use super::{Shared, propose};
use crate::core::Core;
use crate::logs::Log;
use crate::metrics;
use crate::producers::TableError;
use piculet_meta::{MetaError, spelt};
use piculet_quorum::ids::{LogId, LogName, NodeId, SegmentNumber};
use piculet_quorum::limits::{LIST_PAGE, VIEW_SEGMENTS};
use piculet_quorum::meta::{
    Damage, Key, LogRecord, LogView, Range, Record, SegmentRecord, SegmentState, SegmentView, Snapshot,
    Versioned,
};
use piculet_quorum::replica::Unanswered;
use piculet_quorum::wire::message::{
    Address, FenceOk, Hello, NodeView, ProducersFrom, Refusal, Request, Response, Welcome,
};
use piculet_storage::Position;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Answers a request.
///
/// # Errors
/// With the refusal that is sent instead of an answer.
pub(super) async fn answer(shared: &Shared, request: Request) -> Result<Response, Refusal> {
    match request {
        Request::Hello(hello) => welcome(shared, &hello).map(Response::Welcome),
        Request::Nodes => nodes(shared).await.map(Response::Nodes),
        Request::FindLog(name) => find(shared, name).await.map(Response::Log),
        Request::ListLogs { after, limit } => list(shared, after, limit).await.map(Response::Names),
        Request::ViewLog { log, from } => view(shared, log, from).await.map(Response::View),
        Request::Propose(proposal) => propose::propose(shared, &proposal).await,
        Request::Fence(at) => fence(shared, &at).await.map(Response::Fenced),
        Request::Status => Ok(Response::Status(shared.core.status())),
        Request::WriterSeen { log, segment } => {
            shared.core.writer_seen(log, segment).map(Response::WriterSeen)
        }
        Request::Producers(log) => producers(shared, log).await.map(Response::Producers),
        Request::Fetch { .. }
        | Request::Append(_)
        | Request::Subscribe { .. }
        | Request::Watermarks { .. } => {
            Err(Refusal::Invalid("this request is answered with a stream of frames".to_owned()))
        }
    }
}

/// The table of producers that a writer begins with; read where that delays no append.
async fn producers(shared: &Shared, log: LogId) -> Result<ProducersFrom, Refusal> {
    let core = Arc::clone(&shared.core);
    let read = shared.background.spawn(async move { crate::producers::for_writer(&core, log).await });
    match read.await {
        Ok(Ok(Some(found))) => Ok(found),
        Ok(Ok(None)) => Err(Refusal::Deleted),
        Ok(Err(TableError::Meta(error))) => Err(refusal(error)),
        Ok(Err(error)) => {
            tracing::warn!(%log, %error, "a log's table of producers cannot be read");
            Err(Refusal::Unavailable(error.to_string()))
        }
        Err(error) => Err(Refusal::Unavailable(format!("the node is stopping: {error}"))),
    }
}

fn welcome(shared: &Shared, hello: &Hello) -> Result<Welcome, Refusal> {
    let core = &shared.core;
    if hello.cluster.is_some_and(|cluster| cluster != core.cluster) {
        return Err(Refusal::WrongCluster { cluster: core.cluster });
    }
    Ok(Welcome {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: core.cluster,
        node: core.id.clone(),
        incarnations: core.incarnations(),
        shards: core.config.advertise.clone(),
    })
}

async fn nodes(shared: &Shared) -> Result<BTreeMap<NodeId, NodeView>, Refusal> {
    let snapshot = shared.core.meta.read(&[], &[Range::Nodes, Range::Incarnations]).await.map_err(refusal)?;
    let mut nodes = BTreeMap::new();
    for (key, record) in &snapshot.records {
        if let (Key::Incarnation(node, level), Record::Incarnation(life)) = (key, &record.value) {
            let running = || match snapshot.records.get(&Key::Node(node.clone())).map(|node| &node.value) {
                Some(Record::Node(node)) => Some(node.clone()),
                _ => None,
            };
            let fresh = || NodeView { lives: BTreeMap::new(), running: running() };
            let view = nodes.entry(node.clone()).or_insert_with(fresh);
            view.lives.insert(*level, (life.incarnation, record.revision));
        }
    }
    Ok(nodes)
}

async fn find(shared: &Shared, name: LogName) -> Result<Option<LogId>, Refusal> {
    let key = Key::Name(name);
    let snapshot = shared.core.meta.read(std::slice::from_ref(&key), &[]).await.map_err(refusal)?;
    Ok(match snapshot.records.get(&key).map(|record| &record.value) {
        Some(Record::Name(name)) => Some(name.log),
        _ => None,
    })
}

async fn list(shared: &Shared, after: Option<LogName>, limit: u32) -> Result<Vec<(LogName, LogId)>, Refusal> {
    let limit = limit.clamp(1, LIST_PAGE as u32);
    let snapshot = shared.core.meta.read(&[], &[Range::Names(after, limit)]).await.map_err(refusal)?;
    let names = snapshot.records.into_iter().filter_map(|(key, record)| match (key, record.value) {
        (Key::Name(name), Record::Name(record)) => Some((name, record.log)),
        _ => None,
    });
    Ok(names.collect())
}

/// A log and its segments from `from` on, or the newest two.
async fn view(
    shared: &Shared,
    log: LogId,
    from: Option<SegmentNumber>,
) -> Result<Option<Box<LogView>>, Refusal> {
    let meta = &shared.core.meta;
    let keys = [Key::Log(log), Key::Config(log), Key::Trim(log), Key::First(log)];
    let from = match from {
        Some(from) => from,
        None => {
            let snapshot = meta.read(&keys[..1], &[]).await.map_err(refusal)?;
            let Some(record) = existing(&snapshot, &keys[0]) else { return Ok(None) };
            SegmentNumber(record.value.next_segment.0.saturating_sub(2))
        }
    };
    // The parts are read at the same moment as the record: a part of what is lost, beside a record
    // from before the loss, would show as archived what nobody has.
    let mut asked = BTreeSet::from([from, from.plus(1)]);
    let (snapshot, record) = loop {
        let mut ranges = vec![Range::Segments(log, from)];
        ranges.extend(asked.iter().map(|number| Range::Parts(log, *number)));
        let snapshot = meta.read(&keys, &ranges).await.map_err(refusal)?;
        let Some(record) = existing(&snapshot, &keys[0]) else { return Ok(None) };
        let needed: BTreeSet<_> = segments_of(&snapshot)
            .filter(|(_, segment)| !matches!(segment.value.state, SegmentState::Archived(_)))
            .map(|(number, _)| number)
            .collect();
        if needed.is_subset(&asked) {
            break (snapshot, record);
        }
        asked = needed;
    };
    let mut segments = BTreeMap::new();
    for (number, record) in segments_of(&snapshot) {
        let (archived, last) = if let SegmentState::Archived(at) = &record.value.state {
            (*at, None)
        } else {
            let row = snapshot.row(log, number).map_err(|first| damaged(log, number, first))?;
            (row.end(&record.value), row.last())
        };
        segments.insert(number, SegmentView { record, archived, last });
    }
    let Some(config) = snapshot.config(&keys[1]) else {
        return Err(Refusal::Unavailable(format!("metadata are damaged: log {log} has no config record")));
    };
    let Some(trim) = snapshot.trim(&keys[2]) else {
        return Err(Refusal::Unavailable(format!("metadata are damaged: log {log} has no trim record")));
    };
    let first_segment = snapshot.first(&keys[3]).map(|first| first.value.first_segment).unwrap_or_default();
    let view = LogView { log, record, config, trim, first_segment, segments };
    view.check().map_err(|damage| damaged_record(&damage))?;
    Ok(Some(Box::new(view)))
}

/// The segments in a snapshot of one log, as many as one view shows.
fn segments_of(snapshot: &Snapshot) -> impl Iterator<Item = (SegmentNumber, Versioned<SegmentRecord>)> {
    let found = snapshot.records.keys().filter_map(|key| match key {
        Key::Segment(_, number) => snapshot.segment(key).map(|record| (*number, record)),
        _ => None,
    });
    found.take(VIEW_SEGMENTS)
}

/// The record of a log, unless the log has been deleted.
pub(super) fn existing(snapshot: &Snapshot, key: &Key) -> Option<Versioned<LogRecord>> {
    snapshot.log(key).filter(|record| record.value.deleted.is_none())
}

pub(super) fn damaged(log: LogId, segment: SegmentNumber, first: piculet_quorum::ids::Index) -> Refusal {
    let what = format!("part at {first} of segment {segment} of log {log} does not end behind its start");
    Refusal::Unavailable(format!("metadata are damaged: {what}"))
}

/// A record is not one that this protocol writes: it may be put right.
pub(super) fn damaged_record(damage: &Damage) -> Refusal {
    Refusal::Unavailable(format!("{damage} (key {})", spelt(&damage.key)))
}

/// Fences a segment held here; a fence is decided in `piculet_quorum::replica::fence`. It is
/// reported when it is at rest, as things stand then.
async fn fence(shared: &Shared, at: &Address) -> Result<FenceOk, Refusal> {
    let core = &shared.core;
    // Held on to, so that the log does not leave the table before it is asked.
    let mut read: Option<Arc<Log>> = None;
    let mut rested = None;
    loop {
        let Some(slot) = read.clone().or_else(|| core.logs.get(at.log)) else {
            read = Some(refresh(core, at).await?);
            continue;
        };
        match try_fence(core, &slot, at) {
            Ok((fenced, rest)) if rested >= Some(rest) => {
                metrics::fenced();
                return Ok(fenced);
            }
            Ok((_, rest)) => {
                core.until_at_rest(slot.level, rest).await;
                rested = Some(rest);
            }
            Err(Unanswered::Refused(refusal)) => return Err(refusal),
            Err(Unanswered::NeedMetadata) if read.is_some() => return Err(Refusal::NotHere),
            Err(Unanswered::NeedMetadata) => read = Some(refresh(core, at).await?),
        }
    }
}

async fn refresh(core: &Core, at: &Address) -> Result<Arc<Log>, Refusal> {
    let log = core.refresh_log(at.log).await.map_err(refusal)?.ok_or(Refusal::Deleted)?;
    // It may be one of the older segments of its log.
    core.refresh_segment(at.log, at.segment).await.map_err(refusal)?;
    Ok(log)
}

/// Raises the fence, and says what is held and when that may be told.
fn try_fence(core: &Core, slot: &Log, at: &Address) -> Result<(FenceOk, Position), Unanswered> {
    let mut state = slot.lock();
    let before = state.replica.fence_epoch();
    let fenced = state.replica.fence(at)?;
    let rest = slot.fence_at(core, &mut state)?;
    // What an older epoch was about to append is not here. A repair that goes on in this epoch keeps
    // what it has staged.
    let idle = !state.replica.has_appender(at.segment);
    if let Some(local) = state.segments.get_mut(&at.segment).filter(|_| idle) {
        local.buffer.discard();
    }
    state.note_writers(core.clock.now());
    let raised = state.replica.fence_epoch() > before;
    drop(state);
    if raised {
        slot.notify_changed();
    }
    Ok((fenced, rest))
}

pub(super) fn refusal(error: MetaError) -> Refusal {
    match error {
        MetaError::Unknown(why) => Refusal::Unknown(why),
        other => Refusal::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, Lossy, Writer, applied};
    use piculet_quorum::ids::{Chain, Index, Offset, Timestamp};
    use piculet_quorum::meta::{Loss, PartRecord, Seal, SegmentEnd, Txn};
    use tokio::runtime::Handle;

    /// What is lost is in the row of the archive, too. Whoever is shown that beside a record from
    /// before the loss takes its appends for archived.
    #[tokio::test]
    async fn a_view_shows_no_loss_as_archived_while_the_loss_is_recorded() {
        let fixture = Fixture::new();
        let meta = Lossy { inner: fixture.meta.clone(), ..Lossy::default() };
        let a = fixture.core_with(fixture.config("a"), Arc::new(meta.clone())).await;
        let b = fixture.core("b").await;
        let writer = Writer::create(&fixture.meta, 1, &[(&*a.0, a.1), (&*b.0, b.1)]).await;
        let (log, number) = (writer.log, writer.number);
        let key = Key::Segment(log, number);
        let at = SegmentEnd { end: Index(4), chain: Chain(9), last_timestamp: Timestamp(9) };
        let sealed = |snapshot: &Snapshot| {
            let seal = Seal {
                at,
                by_epoch: snapshot.log(&Key::Log(log)).unwrap().value.epoch,
                holders: vec![a.0.id.clone()],
                settled: false,
            };
            SegmentRecord { state: SegmentState::Sealed(seal), ..snapshot.segment(&key).unwrap().value }
        };
        let now = fixture.snapshot().await;
        let record = sealed(&now);
        let log_key = Key::Log(log);
        let ended = LogRecord { next_base: Offset(4), ..now.log(&log_key).unwrap().value };
        let seal = Txn::default().put(key.clone(), Record::Segment(record.clone()));
        applied(&fixture.meta, &seal.put(log_key, Record::Log(ended))).await;
        let lost = SegmentRecord {
            loss: Some(Loss { from: Index(0), acknowledged: false, beyond: false }),
            ..record
        };
        let part = PartRecord { at, bytes: 1, encoder: 1, skip: true };
        meta.land_behind_the_next_read(
            Txn::default()
                .put(key, Record::Segment(lost))
                .put(Key::Part(log, number, Index(0)), Record::Part(part)),
        );
        let (core, peers) = (Arc::clone(&a.0), fixture.peers(&a.0));
        let shared = Shared { core, peers, background: Handle::current(), full: Arc::default() };
        for (archived, loss) in [(Index(0), None), (Index(4), Some(Index(0)))] {
            let view = view(&shared, log, Some(number)).await.unwrap().unwrap();
            let segment = &view.segments[&number];
            assert_eq!(segment.archived.end, archived);
            assert_eq!(segment.record.value.loss.map(|loss| loss.from), loss);
        }
    }

    #[tokio::test]
    async fn a_view_of_damaged_records_is_refused_with_the_key() {
        let fixture = Fixture::new();
        let (a, b) = (fixture.core("a").await, fixture.core("b").await);
        let members = [(&*a.0, a.1), (&*b.0, b.1)];
        let writer = Writer::create(&fixture.meta, 1, &members).await;
        let other = Writer::create(&fixture.meta, 2, &members).await;
        let (core, peers) = (Arc::clone(&a.0), fixture.peers(&a.0));
        let shared = Shared { core, peers, background: Handle::current(), full: Arc::default() };
        let key = Key::Segment(writer.log, writer.number);
        let mut record = fixture.snapshot().await.segment(&key).unwrap().value;
        record.ensemble.truncate(1);
        applied(&fixture.meta, &Txn::default().put(key, Record::Segment(record))).await;
        let refused = view(&shared, writer.log, None).await.unwrap_err();
        let Refusal::Unavailable(why) = refused else { panic!("it may be put right: {refused:?}") };
        for expected in ["segment 0 of log 1 has 1 members", "expected 2 to 3", "key seg/0000000000000001/"] {
            assert!(why.contains(expected), "{why}");
        }
        assert!(view(&shared, other.log, None).await.is_ok(), "the other log is sound");
    }
}
