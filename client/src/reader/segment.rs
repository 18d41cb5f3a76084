//! One segment being read: from one node at a time, and only as far as the cursor allows.
//!
//! A node pushes entries ahead of their commit. They are held back until a mark shows that they
//! are committed; when none comes, the other members are asked. When a node fails, another goes on
//! from the first entry that was not shown.

use super::batches::{Batch, Position, Sequence};
use super::run::{Reading, Stop};
use super::start::LogPlace;
use crate::error::Error;
use crate::pool::{CallError, refused};
use crate::transport::{Frame, FrameReader};
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use piculet_quorum::batch::Place;
use piculet_quorum::cursor::{Cursor, Step};
use piculet_quorum::ids::{Chain, Index, LogId, NodeId, SegmentNumber};
use piculet_quorum::limits::DATA_BYTES_TARGET;
use piculet_quorum::meta::{LogView, SegmentRecord, SegmentView};
use piculet_quorum::wire::frame::{self, Kind, Mark};
use piculet_quorum::wire::message::{Refusal, Request};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The members are asked when what is awaited is not committed within this time; then less often.
const ASK: Duration = Duration::from_millis(100);
/// The longest pause between such questions; also how often they are asked while nothing is due,
/// in case the node that serves us is cut off from the others.
const ASK_MAX: Duration = Duration::from_millis(1000);
/// A question that has no answer within this time has none.
const SILENT: Duration = Duration::from_millis(1000);
/// First and longest time that a node may owe us bytes before another is asked for them.
const STALLED: (Duration, Duration) = (Duration::from_millis(1000), Duration::from_millis(8000));
/// First and longest pause before another node is tried.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(1000));
/// Bytes of a `Data` frame before its batches.
const DATA_HEAD: usize = 32;

/// A segment being read.
pub(super) struct Segment {
    log: LogId,
    number: SegmentNumber,
    record: SegmentRecord,
    cursor: Cursor,
    /// Below it any node can serve the segment.
    archived: Index,
    /// The place behind the last entry shown.
    shown: Position,
    /// What comes from the node.
    sequence: Sequence,
    /// What has come and may not be shown yet.
    held: VecDeque<Batch>,
    held_bytes: usize,
}

/// Why a node is left.
enum Left {
    /// There is nothing more to be had of this segment.
    Through,
    /// It does not give us what it should.
    Failed(String),
}

/// An answer to a question on the side.
enum Answer {
    Mark(NodeId, Result<Mark, CallError>),
    View(Result<Box<LogView>, CallError>),
}

/// Questions under way on the side, and when the next are due.
struct Side {
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
    next: Instant,
    pause: Duration,
}

impl Side {
    fn new() -> Self {
        Self { asked: FuturesUnordered::new(), next: Instant::now() + ASK, pause: ASK }
    }

    /// More has become visible: no question is needed for a while.
    fn calm(&mut self) {
        (self.next, self.pause) = (Instant::now() + ASK, ASK);
    }
}

impl Segment {
    /// A segment that is read from `index` on.
    pub(super) fn new(log: LogId, number: SegmentNumber, view: &SegmentView, index: Index) -> Self {
        let record = view.record.value.clone();
        let cursor = Cursor::new(number, &record, view.archived, index);
        let shown = Position::new(&record, index);
        let place = Place { log, segment: number, epoch: record.epoch };
        let sequence = Sequence::new(place, record.base, shown);
        let (archived, held) = (view.archived.end, VecDeque::new());
        Self { log, number, record, cursor, archived, shown, sequence, held, held_bytes: 0 }
    }

    /// The index behind the last entry shown.
    pub(super) fn next(&self) -> Index {
        self.cursor.next()
    }

    /// From where to its end everything is lost, if anything is.
    pub(super) fn loss(&self) -> Option<Index> {
        self.cursor.loss()
    }

    /// Whether it has been read to where a loss begins.
    pub(super) fn is_at_loss(&self) -> bool {
        self.cursor.loss().is_some() && self.cursor.step() == Step::NextSegment
    }

    /// The chain there, if it is known.
    pub(super) fn chain(&self) -> Option<Chain> {
        self.shown.chain
    }

    /// Reads to the segment's end, or to where the reader is to end.
    pub(super) async fn read(&mut self, reading: &mut Reading) -> Result<(), Stop> {
        let (mut pause, mut stalled) = (RETRY.0, STALLED.0);
        while !self.is_through(reading) {
            let before = self.next();
            if let Some(node) = self.choose(reading) {
                let why = match self.read_from(&node, stalled, reading).await? {
                    Left::Through => return Ok(()),
                    Left::Failed(why) => why,
                };
                if !self.rests() {
                    tracing::debug!(%node, segment = %self.number, index = %self.next(), %why, "reading from another node");
                    *reading.failures.entry(node).or_default() += 1;
                    reading.trouble = why;
                }
            } else if !self.rests() {
                reading.trouble = "no node is known to run".to_owned();
                if let Err(error) = reading.pool.nodes().await {
                    reading.trouble = error.to_string();
                }
            }
            self.rewind();
            if self.next() > before {
                (pause, stalled) = (RETRY.0, STALLED.0);
            } else {
                (pause, stalled) = ((pause * 2).min(RETRY.1), (stalled * 2).min(STALLED.1));
            }
            reading.check_progress()?;
            sleep(pause).await;
            if let Some(view) = reading.refresh(self.number, &self.record).await? {
                self.learn(&view);
            }
        }
        Ok(())
    }

    /// Whether nobody can have more of it now: it has no members, and what is archived has been read.
    fn rests(&self) -> bool {
        self.record.ensemble.is_empty() && self.next() >= self.archived
    }

    fn is_through(&self, reading: &Reading) -> bool {
        let at = LogPlace { segment: self.number, index: self.next() };
        reading.is_done(at) || self.cursor.step() == Step::NextSegment
    }

    fn learn(&mut self, view: &SegmentView) {
        self.cursor.learn_record(&view.record.value, view.archived.end);
        self.archived = self.archived.max(view.archived.end);
    }

    fn learn_mark(&mut self, node: &NodeId, mark: &Mark) {
        self.cursor.handle_mark(node, mark);
        self.archived = self.archived.max(mark.archived);
    }

    /// Forgets what has come and was not shown: it comes again.
    fn rewind(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        let place = Place { log: self.log, segment: self.number, epoch: self.record.epoch };
        self.sequence = Sequence::new(place, self.record.base, self.shown);
    }

    /// The node to read from: a member, or anybody for what is archived; the one that has failed
    /// least, and preferably one that we have a connection to. None while nobody has anything.
    fn choose(&self, reading: &Reading) -> Option<NodeId> {
        let members = self.record.ensemble.iter().map(|member| member.node.clone());
        let mut nodes: BTreeSet<NodeId> = members.clone().collect();
        if self.archived > self.next() {
            let known = reading.pool.known_nodes();
            nodes.extend(known.into_iter().filter(|(_, view)| view.running.is_some()).map(|(node, _)| node));
        }
        let rank = |node: &NodeId| {
            let failures = reading.failures.get(node).copied().unwrap_or_default();
            let member = self.record.member(node).is_some();
            (failures, reading.pool.live(node).is_none(), !member)
        };
        nodes.into_iter().min_by_key(rank)
    }

    /// Reads from one node for as long as that goes well.
    async fn read_from(
        &mut self,
        node: &NodeId,
        stalled: Duration,
        reading: &mut Reading,
    ) -> Result<Left, Stop> {
        let mut frames = match timeout(stalled, self.subscribe(node, reading)).await {
            Ok(Ok(frames)) => frames,
            Ok(Err(error)) => return Ok(Left::Failed(error.to_string())),
            Err(_) => return Ok(Left::Failed(format!("node {node} cannot be reached within {stalled:?}"))),
        };
        let mut side = Side::new();
        // Since when the node owes us something: its first frame, or entries known to be visible.
        let (mut owes, mut heard) = (Some(Instant::now()), false);
        loop {
            let visible = self.cursor.visible();
            self.show(reading).await?;
            if self.is_through(reading) {
                return Ok(Left::Through);
            }
            let room = self.held_bytes < reading.read_ahead;
            let late = owes.map_or_else(|| reading.give_up_at(), |since| since + stalled);
            tokio::select! {
                biased;
                frame = frames.next(), if room => {
                    let frame = match frame {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Ok(Left::Failed(format!("node {node} ended the stream"))),
                        Err(error) => return Ok(Left::Failed(format!("node {node}: {error}"))),
                    };
                    if frame.0 == Kind::Data || !heard {
                        (owes, heard) = (None, true);
                    }
                    if let Some(left) = self.take_frame(node, frame, reading)? {
                        return Ok(left);
                    }
                }
                Some(answer) = side.asked.next() => self.take_answer(answer, reading)?,
                () = sleep_until(side.next) => self.ask(&mut side, reading),
                () = sleep_until(late) => {
                    reading.check_progress()?;
                    return Ok(Left::Failed(format!("node {node} has sent nothing for {stalled:?}")));
                }
            }
            if self.cursor.visible() > visible {
                side.calm();
            }
            if self.cursor.visible() > self.sequence.at().index {
                owes = owes.or_else(|| Some(Instant::now()));
            }
        }
    }

    async fn subscribe(&self, node: &NodeId, reading: &Reading) -> Result<FrameReader, CallError> {
        let gone = |error: Error| CallError::NoNode(format!("node {node}: {error}"));
        let session = reading.pool.session_by_name(node).await.map_err(gone)?;
        let request = Request::Subscribe { log: self.log, segment: self.number, from: self.next() };
        let (mut send, frames) = session.stream(&request).await?;
        // It fails only when the node has stopped the stream already: it may have answered.
        let _ = send.finish();
        Ok(frames)
    }

    /// Shows what has come as far as it is visible, up to where the reader is to end.
    async fn show(&mut self, reading: &mut Reading) -> Result<(), Stop> {
        loop {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            let until = reading.until.filter(|until| until.segment == self.number).map(|until| until.index);
            while let Some(batch) = self.held.pop_front_if(|batch| batch.end.index <= self.cursor.visible()) {
                self.held_bytes -= batch.bytes;
                bytes += batch.bytes;
                self.shown = batch.end;
                if entries.is_empty() {
                    entries = batch.entries;
                } else {
                    entries.extend(batch.entries);
                }
                if bytes >= DATA_BYTES_TARGET || until.is_some_and(|until| batch.end.index >= until) {
                    break;
                }
            }
            if bytes == 0 {
                return Ok(());
            }
            self.cursor.shown(self.shown.index);
            reading.deliver(entries).await?;
            if self.is_through(reading) {
                return Ok(());
            }
        }
    }

    /// Takes in a frame. Returns why the node is to be left, if it is.
    fn take_frame(
        &mut self,
        node: &NodeId,
        frame: Frame,
        reading: &mut Reading,
    ) -> Result<Option<Left>, Stop> {
        reading.heard();
        match frame {
            (Kind::Data, body) => self.take_data(node, body, reading),
            (Kind::Mark, body) => match Mark::decode(&body) {
                Ok(mark) if mark.place == self.place() => {
                    self.learn_mark(node, &mark);
                    Ok(None)
                }
                Ok(_) => Ok(Some(Left::Failed(format!("node {node} sent marks of another segment")))),
                Err(error) => Ok(Some(Left::Failed(format!("node {node}: {error}")))),
            },
            (Kind::Response, body) => {
                Ok(Some(Left::Failed(format!("node {node}: {}", refused(node, &body)))))
            }
            (kind, _) => Ok(Some(Left::Failed(format!("node {node} sent a {kind:?} frame out of place")))),
        }
    }

    fn take_data(
        &mut self,
        node: &NodeId,
        mut body: Bytes,
        reading: &mut Reading,
    ) -> Result<Option<Left>, Stop> {
        if frame::place(&body) != self.place() {
            return Ok(Some(Left::Failed(format!("node {node} sent entries of another segment"))));
        }
        body.advance(DATA_HEAD);
        let (held, held_bytes) = (&mut self.held, &mut self.held_bytes);
        let taken = self.sequence.take(body, |batch| {
            *held_bytes += batch.bytes;
            held.push_back(batch);
        });
        match taken {
            Ok(()) => {
                reading.failures.remove(node);
                Ok(None)
            }
            // Another node may have it undamaged. If not, that is that.
            Err(error) if reading.damage.is_none() => {
                tracing::warn!(%node, %error, "a node sent damaged entries; another is asked");
                reading.damage = Some(error.clone());
                Ok(Some(Left::Failed(format!("node {node}: {error}"))))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn place(&self) -> Place {
        Place { log: self.log, segment: self.number, epoch: self.record.epoch }
    }

    /// Asks every member for its watermarks; the metadata too, when entries are awaited in vain.
    fn ask(&self, side: &mut Side, reading: &Reading) {
        let awaited = !self.held.is_empty() || reading.until.is_some();
        side.pause = if awaited { (side.pause * 2).min(ASK_MAX) } else { ASK_MAX };
        side.next = Instant::now() + side.pause;
        if !side.asked.is_empty() {
            return;
        }
        let (log, number) = (self.log, self.number);
        for member in &self.record.ensemble {
            let (pool, node) = (reading.pool.clone(), member.node.clone());
            side.asked.push(
                async move {
                    let answer = timeout(SILENT, pool.watermarks(&node, log, number)).await;
                    let silent = |_| Err(CallError::NoNode(format!("node {node} does not answer")));
                    let answer = answer.unwrap_or_else(silent);
                    Answer::Mark(node, answer)
                }
                .boxed(),
            );
        }
        if awaited && side.pause == ASK_MAX {
            let pool = reading.pool.clone();
            side.asked.push(async move { Answer::View(pool.view(log, Some(number)).await) }.boxed());
        }
    }

    fn take_answer(&mut self, answer: Answer, reading: &mut Reading) -> Result<(), Stop> {
        match answer {
            Answer::Mark(node, Ok(mark)) => {
                reading.heard();
                self.learn_mark(&node, &mark);
            }
            Answer::View(Ok(view)) => {
                if let Some(segment) = view.segments.get(&self.number) {
                    self.learn(segment);
                }
            }
            Answer::Mark(_, Err(CallError::Refused(Refusal::Deleted)))
            | Answer::View(Err(CallError::Gone(_))) => return Err(reading.deleted()),
            Answer::Mark(_, Err(error)) | Answer::View(Err(error)) => reading.trouble = error.to_string(),
        }
        Ok(())
    }
}
