//! The reading task: from segment to segment.

use super::Piece;
use super::segment::Segment;
use super::start::{LogPlace, Plan};
use crate::entry::{Entry, Item};
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::{CallError, Pool};
use piculet_quorum::ids::{Chain, LogId, LogName, NodeId, Offset, SegmentNumber, Timestamp};
use piculet_quorum::meta::{LogView, Loss, Member, SegmentRecord, SegmentState, SegmentView};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// First and longest pause between looks for a segment that does not exist yet.
const NEW_SEGMENT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1000));

/// Why the task ends early.
pub(super) enum Stop {
    /// Nobody wants the entries.
    Dropped,
    /// This.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A log being read.
pub(super) struct Reading {
    pub(super) pool: Pool,
    pub(super) log: LogId,
    name: LogName,
    /// Where to end; never, when it follows.
    pub(super) until: Option<LogPlace>,
    pub(super) read_ahead: usize,
    timeout: Duration,
    floor: Offset,
    since: Option<(Timestamp, Offset)>,
    out: mpsc::Sender<Piece>,
    /// When there was progress last, or, for one that follows, an answer from anybody.
    alive: Instant,
    /// How often nodes have failed since they were last of use.
    pub(super) failures: BTreeMap<NodeId, u32>,
    /// Damage that another node may make good.
    pub(super) damage: Option<Error>,
    /// The last trouble, for whoever asks why there is no progress.
    pub(super) trouble: String,
    /// Segments as read last.
    view: Option<Box<LogView>>,
}

impl Reading {
    pub(super) fn new(
        pool: Pool,
        options: &ClientOptions,
        (name, log): (&LogName, LogId),
        plan: &Plan,
        out: mpsc::Sender<Piece>,
    ) -> Self {
        Self {
            pool,
            log,
            name: name.clone(),
            until: plan.until,
            read_ahead: options.read_ahead,
            timeout: options.read_timeout,
            floor: plan.floor,
            since: plan.since,
            out,
            alive: Instant::now(),
            failures: BTreeMap::new(),
            damage: None,
            trouble: "no node has answered".to_owned(),
            view: None,
        }
    }

    /// Reads until the end, an error, or for ever. Dropping the future ends it.
    pub(super) async fn run(mut self, at: LogPlace) {
        let last = match self.read(at).await {
            Ok(()) => Piece::End,
            Err(Stop::Failed(error)) => Piece::Failed(error),
            Err(Stop::Dropped) => return,
        };
        // It fails when the reader has been dropped: then nobody wants to know.
        let _ = self.out.send(last).await;
    }

    async fn read(&mut self, mut at: LogPlace) -> Result<(), Stop> {
        let mut chain = None;
        while !self.is_done(at) {
            let view = self.segment(at.segment).await?;
            check_chain(at.segment, chain, &view)?;
            let mut segment = Segment::new(self.log, at.segment, &view, at.index);
            segment.read(self).await?;
            at.index = segment.next();
            // Who ends where a loss begins is told of it.
            if self.is_done(at) && !segment.is_at_loss() {
                break;
            }
            chain = self.end_of(at.segment, &segment).await?;
            self.pass_loss(at).await?;
            at = LogPlace { segment: at.segment.plus(1), index: piculet_quorum::ids::Index(0) };
            self.lively();
        }
        Ok(())
    }

    /// Whether the place is the one to end at, or behind it.
    pub(super) fn is_done(&self, at: LogPlace) -> bool {
        self.until.is_some_and(|until| at >= until)
    }

    /// Hands entries to the application, as fast as it takes them.
    pub(super) async fn deliver(&mut self, mut entries: Vec<Entry>) -> Result<(), Stop> {
        if entries.first().is_some_and(|first| first.offset < self.floor) {
            entries.retain(|entry| entry.offset >= self.floor);
        }
        if let Some((since, tail)) = self.since {
            let wanted = |entry: &Entry| entry.timestamp >= since || entry.offset >= tail;
            // Timestamps never decrease: from the first one that is wanted on, all are.
            if entries.last().is_some_and(wanted) {
                self.since = None;
            }
            entries.retain(wanted);
        }
        if !entries.is_empty() {
            self.out.send(Piece::Entries(entries)).await.map_err(|_| Stop::Dropped)?;
        }
        self.damage = None;
        self.lively();
        Ok(())
    }

    /// There is progress.
    fn lively(&mut self) {
        self.alive = Instant::now();
    }

    /// A node has answered: for a reader that follows, that is all one can ask for.
    pub(super) fn heard(&mut self) {
        if self.until.is_none() {
            self.lively();
        }
    }

    /// When to give up.
    pub(super) fn give_up_at(&self) -> Instant {
        self.alive + self.timeout
    }

    /// Fails once there has been no progress for too long.
    pub(super) fn check_progress(&self) -> Result<(), Stop> {
        if Instant::now() < self.give_up_at() {
            return Ok(());
        }
        let why = format!("no progress for {:?}; last: {}", self.timeout, self.trouble);
        Err(Error::NoNode(why).into())
    }

    /// A segment; waits until it exists.
    async fn segment(&mut self, number: SegmentNumber) -> Result<SegmentView, Stop> {
        // What is archived does not change any more.
        let known = self.view.as_ref().and_then(|view| view.segments.get(&number));
        if let Some(known) = known.filter(|s| matches!(s.record.value.state, SegmentState::Archived(_))) {
            return Ok(known.clone());
        }
        let mut pause = NEW_SEGMENT.0;
        loop {
            match self.pool.view(self.log, Some(number)).await {
                Ok(view) => {
                    self.heard();
                    check_trim(&view, number)?;
                    let found = view.segments.get(&number).cloned();
                    let exists = view.record.value.next_segment > number;
                    self.view = Some(view);
                    match found {
                        Some(segment) => return Ok(segment),
                        None if exists => return Err(missing(number).into()),
                        None => {}
                    }
                }
                Err(CallError::NoNode(why)) => self.trouble = why,
                Err(error) => return Err(error.of(&self.name).into()),
            }
            self.check_progress()?;
            sleep(pause).await;
            pause = (pause * 2).min(NEW_SEGMENT.1);
        }
    }

    /// Reads the metadata of the segment in use anew; when all of its members have failed us, also
    /// where the nodes are.
    pub(super) async fn refresh(
        &mut self,
        number: SegmentNumber,
        record: &SegmentRecord,
    ) -> Result<Option<SegmentView>, Stop> {
        let failed = |member: &Member| self.failures.get(&member.node).is_some_and(|count| *count > 0);
        let failed = match record.ensemble.is_empty() {
            true => self.failures.values().any(|count| *count > 0),
            false => record.ensemble.iter().all(failed),
        };
        if failed && let Err(error) = self.pool.nodes().await {
            self.trouble = error.to_string();
        }
        match self.pool.view(self.log, Some(number)).await {
            Ok(view) => {
                self.heard();
                check_trim(&view, number)?;
                Ok(view.segments.get(&number).cloned())
            }
            Err(CallError::NoNode(why)) => {
                self.trouble = why;
                Ok(None)
            }
            Err(error) => Err(error.of(&self.name).into()),
        }
    }

    /// The log has been deleted.
    pub(super) fn deleted(&self) -> Stop {
        CallError::Gone(self.log).of(&self.name).into()
    }

    /// The log's segments from a number on, however long the metadata are away within the bound.
    async fn newest_view(&mut self, number: SegmentNumber) -> Result<Box<LogView>, Stop> {
        loop {
            match self.pool.view(self.log, Some(number)).await {
                Ok(view) => {
                    self.heard();
                    return Ok(view);
                }
                Err(CallError::NoNode(why)) => self.trouble = why,
                Err(error) => return Err(error.of(&self.name).into()),
            }
            self.check_progress()?;
            sleep(NEW_SEGMENT.0).await;
        }
    }

    /// The chain at the end of a segment that has been read: what was read must lead to it.
    async fn end_of(&mut self, number: SegmentNumber, segment: &Segment) -> Result<Option<Chain>, Stop> {
        let of = |record: &SegmentRecord| record.state.end().copied().zip(record.kept());
        let known = self.view.as_ref().and_then(|view| {
            let record = &view.segments.get(&number)?.record.value;
            // What was read before the loss was recorded does not tell of it.
            of(record).filter(|_| record.loss.map(|loss| loss.from) == segment.loss())
        });
        let end = match known {
            Some(end) => Some(end),
            None => {
                let view = self.newest_view(number).await?;
                let end = view.segments.get(&number).and_then(|s| of(&s.record.value));
                self.view = Some(view);
                end
            }
        };
        // A segment that was deleted meanwhile cannot be compared any more.
        let Some((end, kept)) = end else { return Ok(segment.chain()) };
        match segment.chain() {
            // Whoever has read what was lost afterwards may have come to the end with another chain.
            Some(chain) if segment.next() == end.end && kept == end.end && chain != end.chain => {
                let what = format!("the chain is {chain}, the metadata say {}", end.chain);
                Err(Error::Damaged { segment: number, index: end.end, what }.into())
            }
            _ => Ok(Some(end.chain)),
        }
    }
}

impl Reading {
    /// Tells of what is lost between a place and the end of its segment, of which the newest view has
    /// been read.
    async fn pass_loss(&mut self, at: LogPlace) -> Result<(), Stop> {
        let seen = self.view.as_ref().and_then(|view| view.segments.get(&at.segment));
        let Some(record) = seen.map(|seen| &seen.record.value) else { return Ok(()) };
        let Some((loss, end)) = record.loss.zip(record.state.end().map(|at| at.end)) else { return Ok(()) };
        let offset = |index| Offset::checked_of(record.base, index);
        let (Some(from), Some(to)) = (offset(at.index.max(loss.from)), offset(end)) else {
            let what = format!("the segment starts at offset {}, too far for its end", record.base);
            return Err(Error::Damaged { segment: at.segment, index: end, what }.into());
        };
        let from = from.max(self.floor).min(to);
        // What may have lain beyond the end concerns also who has read to the end, or wants nothing
        // from before it. Of anything else nothing is missing to who had read it before it was lost.
        let gap = match loss {
            Loss { beyond: false, .. } if from == to => return Ok(()),
            Loss { acknowledged: true, .. } => Item::LossPossible { from, to },
            Loss { acknowledged: false, .. } => Item::Skipped { from, to },
        };
        self.out.send(Piece::Gap(gap)).await.map_err(|_| Stop::Dropped)
    }
}

fn check_trim(view: &LogView, number: SegmentNumber) -> Result<(), Error> {
    if view.first_segment > number {
        return Err(Error::Trimmed { trim_offset: view.trim_offset() });
    }
    Ok(())
}

fn check_chain(number: SegmentNumber, before: Option<Chain>, view: &SegmentView) -> Result<(), Error> {
    let found = view.record.value.base_chain;
    match before.filter(|before| *before != found) {
        None => Ok(()),
        Some(before) => {
            let what = format!("it starts with chain {found}, the segment before ends with {before}");
            Err(Error::Damaged { segment: number, index: piculet_quorum::ids::Index(0), what })
        }
    }
}

fn missing(number: SegmentNumber) -> Error {
    let what = "the metadata have no record of the segment".to_owned();
    Error::Damaged { segment: number, index: piculet_quorum::ids::Index(0), what }
}
