//! Where a log's tail is.
//!
//! The largest tail that a fence quorum of the open segment's members report lies behind every entry
//! that was acknowledged before they were asked. A read of the metadata afterwards must still show
//! the segment open, or another may hold acknowledged entries.

use super::start::LogPlace;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{CallError, Pool};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use piculet_quorum::cursor::Cursor;
use piculet_quorum::ids::{Index, LogId, LogName, Offset, SegmentNumber};
use piculet_quorum::meta::{LogView, SegmentRecord, SegmentState, SegmentView};
use piculet_quorum::quorums::fence_quorum;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A member that does not answer within this time is asked again.
const SILENT: Duration = Duration::from_millis(1000);
/// Pause before members are asked again.
const RETRY: Duration = Duration::from_millis(100);
/// So many segments before the tail are looked at for one whose end is not settled.
const SEGMENTS_BEFORE: u64 = 16;

/// The place behind everything that was acknowledged when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) at: LogPlace,
    pub(super) offset: Offset,
}

/// A search for the tail of one log.
pub(super) struct Search<'a> {
    pub(super) pool: &'a Pool,
    pub(super) name: &'a LogName,
    pub(super) log: LogId,
    waited: Duration,
    deadline: Instant,
}

/// The tail, once everything before it can be read.
///
/// # Errors
/// As [`Client::check_tail`](crate::Client::check_tail).
pub(crate) async fn check_tail(
    pool: &Pool,
    options: &ClientOptions,
    name: &LogName,
    log: LogId,
) -> Result<Offset, Error> {
    let search = Search::new(pool, options, name, log);
    let tail = search.tail().await?;
    search.visible(tail).await
}

impl<'a> Search<'a> {
    pub(super) fn new(pool: &'a Pool, options: &ClientOptions, name: &'a LogName, log: LogId) -> Self {
        let waited = options.read_timeout;
        Self { pool, name, log, waited, deadline: Instant::now() + waited }
    }

    /// The tail: every entry acknowledged before the call lies before it.
    pub(super) async fn tail(&self) -> Result<Tail, Error> {
        loop {
            let view = self.view(None).await?;
            let Some((number, segment)) = view.open_segment() else { return Ok(end_of_sealed(&view)) };
            let record = &segment.record.value;
            match self.writer_tail(number, segment).await {
                Ok(index) => {
                    // A segment sealed meanwhile has a successor that may hold acknowledged entries.
                    let again = self.view(Some(number)).await?;
                    let state = again.segments.get(&number).map(|s| &s.record.value.state);
                    if state == Some(&SegmentState::Open) {
                        let at = LogPlace { segment: number, index };
                        return Ok(Tail { at, offset: offset(number, record, index)? });
                    }
                }
                Err(silent) => {
                    let needed = fence_quorum(record.ensemble.len());
                    self.pause(|| {
                        format!(
                            "the tail of the log is known once {needed} members of segment {number} answer: {silent}"
                        )
                    })
                    .await?;
                }
            }
        }
    }

    /// Waits until everything before the tail is visible, or cut off by a seal: the offset up to
    /// which it is.
    async fn visible(&self, tail: Tail) -> Result<Offset, Error> {
        let LogPlace { segment: number, index } = tail.at;
        self.settled_before(number).await?;
        while index > Index(0) {
            let view = self.view(Some(number)).await?;
            // What was trimmed has been archived, as far as it was not cut off before.
            let Some(segment) = view.segments.get(&number) else {
                return Ok(tail.offset.min(view.base_behind(number)));
            };
            let record = &segment.record.value;
            let mut cursor = Cursor::new(number, record, segment.archived, Index(0));
            if !reaches(&cursor, index) {
                self.ask_all(&mut cursor, number, record).await;
            }
            if reaches(&cursor, index) {
                return offset(number, record, cursor.end().map_or(index, |end| end.min(index)));
            }
            let seen = cursor.visible();
            self.pause(|| {
                format!("index {index} of segment {number} is written and not yet safe; {seen} is")
            })
            .await?;
        }
        Ok(tail.offset)
    }

    /// Waits until nothing before a segment is in its readers' way: the ends of those before it are
    /// settled, or they are no longer there.
    async fn settled_before(&self, number: SegmentNumber) -> Result<(), Error> {
        if number == SegmentNumber(0) {
            return Ok(());
        }
        let from = SegmentNumber(number.0.saturating_sub(SEGMENTS_BEFORE));
        loop {
            let view = self.view(Some(from)).await?;
            let mut older = view.segments.range(from..number);
            let Some((before, _)) = older.find(|(_, segment)| !segment.record.value.settled()) else {
                return Ok(());
            };
            self.pause(|| format!("the end of segment {before} is not safe yet")).await?;
        }
    }

    /// A view of the log, however long the metadata are away within the bound.
    pub(super) async fn view(&self, from: Option<SegmentNumber>) -> Result<Box<LogView>, Error> {
        loop {
            match self.pool.view(self.log, from).await {
                Err(CallError::NoNode(why)) => self.pause(|| why).await?,
                view => return view.map_err(|error| error.of(self.name)),
            }
        }
    }

    async fn pause(&self, why: impl FnOnce() -> String) -> Result<(), Error> {
        if Instant::now() >= self.deadline {
            return Err(Error::NoNode(format!("given up after {:?}: {}", self.waited, why())));
        }
        sleep(RETRY).await;
        Ok(())
    }

    /// Tells the cursor what the members say.
    async fn ask_all(&self, cursor: &mut Cursor, number: SegmentNumber, record: &SegmentRecord) {
        let mut asked: FuturesUnordered<_> = record
            .ensemble
            .iter()
            .map(|member| async move {
                (&member.node, timeout(SILENT, self.pool.watermarks(&member.node, self.log, number)).await)
            })
            .collect();
        while let Some((node, answer)) = asked.next().await {
            if let Ok(Ok(mark)) = answer {
                cursor.handle_mark(node, &mark);
            }
        }
    }

    /// The largest tail that a fence quorum of an open segment's members report, or why there is
    /// none.
    async fn writer_tail(&self, number: SegmentNumber, segment: &SegmentView) -> Result<Index, String> {
        let record = &segment.record.value;
        if record.ensemble.is_empty() {
            // What was acknowledged is archived, and this is a linearizable read.
            return Ok(segment.archived.end);
        }
        let mut cursor = Cursor::new(number, record, segment.archived, Index(0));
        let mut asked: FuturesUnordered<_> = record
            .ensemble
            .iter()
            .map(|member| async move {
                (member, timeout(SILENT, self.pool.watermarks(&member.node, self.log, number)).await)
            })
            .collect();
        let mut answers = 0;
        let mut why = Vec::new();
        while let Some((member, answer)) = asked.next().await {
            match answer {
                Ok(Ok(mark)) if mark.incarnation == member.incarnation => {
                    cursor.handle_mark(&member.node, &mark);
                    answers += 1;
                    if answers >= fence_quorum(record.ensemble.len()) {
                        return Ok(cursor.largest_tail());
                    }
                }
                Ok(Ok(_)) => why.push(format!("node {} has lost its buffer", member.node)),
                Ok(Err(error)) => why.push(error.to_string()),
                Err(_) => why.push(format!("node {} does not answer", member.node)),
            }
        }
        Err(why.join("; "))
    }
}

/// The offset of an index in a segment, both as the nodes tell them.
fn offset(segment: SegmentNumber, record: &SegmentRecord, index: Index) -> Result<Offset, Error> {
    let what = || format!("the segment starts at offset {}, too far for that index", record.base);
    Offset::checked_of(record.base, index).ok_or_else(|| Error::Damaged { segment, index, what: what() })
}

/// Whether everything below `index` is visible, or what is not was cut off or is lost.
fn reaches(cursor: &Cursor, index: Index) -> bool {
    cursor.visible() >= cursor.kept().map_or(index, |kept| kept.min(index))
}

/// The tail of a log without an open segment.
fn end_of_sealed(view: &LogView) -> Tail {
    let last = view.segments.iter().next_back();
    let sealed = last.and_then(|(number, s)| Some((*number, s.record.value.state.end()?.end)));
    let (segment, index) = sealed.unwrap_or((view.record.value.next_segment, Index(0)));
    Tail { at: LogPlace { segment, index }, offset: view.record.value.next_base }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Cluster, Faults, node_id, numbered, soon};
    use crate::{Client, ClientOptions, Error};
    use piculet_quorum::ids::{Epoch, Index, Offset, SegmentNumber};
    use piculet_quorum::meta::{Key, LogRecord, Record, Seal, SegmentRecord, SegmentState};
    use std::time::Duration;

    const NODES: [&str; 3] = ["a", "b", "c"];

    #[tokio::test]
    async fn a_segment_behind_an_end_that_is_not_settled_has_no_tail_yet() {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        let first = soon(client.take_over(&name)).await.unwrap();
        soon(first.append("x0")).await.unwrap();
        let second = soon(client.take_over(&name)).await.unwrap();
        let (log, key) = (second.log(), Key::Segment(second.log(), SegmentNumber(0)));
        let seal = |settled| {
            let mut meta = cluster.shared.meta.lock();
            let record = meta.segment(log, SegmentNumber(0)).unwrap().record.value;
            let at = *record.state.end().unwrap();
            let seal = Seal { at, by_epoch: Epoch(2), holders: vec![node_id("a")], settled };
            let record = SegmentRecord { state: SegmentState::Sealed(seal), ..record };
            meta.put(key.clone(), Record::Segment(record));
        };
        seal(false);
        let next = cluster.shared.meta.lock().segment(log, SegmentNumber(1)).unwrap().record.value;
        assert_eq!((next.state, next.base), (SegmentState::Open, Offset(1)), "nothing is in it");
        let options = ClientOptions { read_timeout: Duration::from_millis(300), ..cluster.options(&["a"]) };
        let hasty = soon(Client::connect(options)).await.unwrap();
        let early = soon(hasty.check_tail(&name)).await;
        let Err(Error::NoNode(why)) = early else { panic!("told too early: {early:?}") };
        assert!(why.contains("the end of segment 0"), "{why}");
        seal(true);
        assert_eq!(soon(hasty.check_tail(&name)).await.unwrap(), Offset(1));
    }

    /// Waits until a node has been asked so often for its watermarks.
    async fn asked(cluster: &Cluster, node: &str, times: usize) {
        soon(async {
            while cluster.node(node).marks_asked() < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Waits until a node has so much of the first segment.
    async fn has(cluster: &Cluster, node: &str, end: Index) {
        soon(async {
            while cluster.node(node).stored(SegmentNumber(0)).1.end < end {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn the_tail_of_a_segment_that_was_sealed_meanwhile_is_not_the_logs() {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        let first = soon(client.take_over(&name)).await.unwrap();
        soon(first.append("x0")).await.unwrap();
        let slow = |slow_marks| {
            for node in NODES {
                cluster.node(node).set_faults(Faults { slow_marks, ..Faults::default() });
            }
        };
        slow(true);
        let before = NODES.map(|node| cluster.node(node).marks_asked());
        let meanwhile = async {
            for (node, before) in NODES.into_iter().zip(before) {
                asked(&cluster, node, before + 1).await;
            }
            let second = client.take_over(&name).await.unwrap();
            assert_eq!(second.append("x1").await.unwrap(), Offset(1));
            slow(false);
        };
        let (tail, ()) = soon(async { tokio::join!(client.check_tail(&name), meanwhile) }).await;
        assert_eq!(tail.unwrap(), Offset(2), "x1 was acknowledged before the members answered");
    }

    #[tokio::test]
    async fn a_tail_that_is_cut_off_is_not_waited_for() {
        for deleted in [false, true] {
            let cluster = Cluster::start(&NODES);
            let (client, name) = cluster.client_and_log().await;
            let writer = soon(client.take_over(&name)).await.unwrap();
            for payload in numbered("x", 0..3) {
                soon(writer.append(&payload)).await.unwrap();
            }
            for node in NODES {
                has(&cluster, node, Index(3)).await;
            }
            for forgetful in ["a", "b"] {
                cluster.node(forgetful).set_faults(Faults { forgetful: true, ..Faults::default() });
            }
            let append = writer.append("x3");
            has(&cluster, "c", Index(4)).await;
            let (log, at) = (writer.log(), cluster.node("a").stored(SegmentNumber(0)).1);
            drop((append, writer));
            // That leaves c to be asked, and what it alone has is the tail.
            cluster.node("a").set_faults(Faults { mute: true, ..Faults::default() });
            let before = cluster.node("c").marks_asked();
            let meanwhile = async {
                // Once for the tail; when it is asked again, the tail is being waited for.
                asked(&cluster, "c", before + 2).await;
                let mut meta = cluster.shared.meta.lock();
                let record = meta.segment(log, SegmentNumber(0)).unwrap().record.value;
                let holders = vec![node_id("a"), node_id("b")];
                let state = SegmentState::Sealed(Seal { at, by_epoch: Epoch(2), holders, settled: true });
                meta.put(
                    Key::Segment(log, SegmentNumber(0)),
                    Record::Segment(SegmentRecord { state, ..record }),
                );
                let of_log = meta.record(log).value;
                let next_segment = SegmentNumber(1);
                let ended = LogRecord { next_base: Offset(3), next_segment, ..of_log };
                meta.put(Key::Log(log), Record::Log(ended));
                if deleted {
                    // It was trimmed at once.
                    meta.delete(&Key::Segment(log, SegmentNumber(0)));
                }
            };
            let (tail, ()) = soon(async { tokio::join!(client.check_tail(&name), meanwhile) }).await;
            assert_eq!(tail.unwrap(), Offset(3), "deleted: {deleted}");
        }
    }

    #[tokio::test]
    async fn a_tail_beyond_the_last_offset_is_damage() {
        let cluster = Cluster::start(&NODES);
        let (client, name) = cluster.client_and_log().await;
        let writer = soon(client.take_over(&name)).await.unwrap();
        let segment = cluster.shared.meta.lock().segment(writer.log(), SegmentNumber(0)).unwrap();
        let base = Offset(u64::MAX / 2);
        let record = SegmentRecord { base, ..segment.record.value };
        let of = |index| super::offset(SegmentNumber(0), &record, Index(index));
        assert_eq!(of(u64::MAX - base.0).unwrap(), Offset(u64::MAX));
        // A node may say anything of its tail.
        let beyond = u64::MAX - base.0 + 1;
        let error = of(beyond).unwrap_err();
        assert!(matches!(error, Error::Damaged { index: Index(at), .. } if at == beyond), "{error}");
    }
}
