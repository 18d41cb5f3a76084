//! Whether a log is free to be opened: it has no writer, or that has gone.
//!
//! The judgement may be wrong a moment later. So the new epoch is made from the very record of the
//! log that was judged: of several who find it free, one opens it.

use super::Takeover;
use crate::error::Error;
use crate::pool::CallError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use piculet_quorum::ids::{Epoch, Index, NodeId, Revision, SegmentNumber};
use piculet_quorum::liveness::{Liveness, beyond_recovery, judge, not_contradicted};
use piculet_quorum::meta::{LogRecord, LogView, Member, SegmentRecord, Versioned};
use piculet_quorum::time::Span;
use piculet_quorum::wire::message::{Refusal, Request, Response, WriterSeen};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A member that does not answer within this time is silent in this round.
const SILENT: Duration = Duration::from_millis(1500);

/// What is judged, and since when it is as it is.
struct Judged {
    record: Revision,
    segment: Option<SegmentNumber>,
    since: Instant,
    /// How far the segment was archived, when it has no members that could say anything.
    archived: Option<Index>,
    /// Members that have had nothing of the segment, and since when they say so.
    empty: BTreeMap<NodeId, Instant>,
    /// What members said in the last round.
    answers: BTreeMap<NodeId, WriterSeen>,
    /// Why nothing is known of a member.
    unheard: BTreeMap<NodeId, String>,
}

impl Judged {
    fn new(view: &LogView) -> Self {
        let segment = open_of_its_epoch(view).map(|(number, _)| number);
        let (empty, answers, unheard) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (record, since, archived) = (view.record.revision, Instant::now(), archived_alone(view));
        Self { record, segment, since, archived, empty, answers, unheard }
    }

    fn is_of(&self, view: &LogView) -> bool {
        let segment = open_of_its_epoch(view).map(|(number, _)| number);
        self.record == view.record.revision && self.segment == segment
    }
}

/// The log's open segment, unless it is of an earlier writer.
fn open_of_its_epoch(view: &LogView) -> Option<(SegmentNumber, &SegmentRecord)> {
    let (number, segment) = view.open_segment()?;
    let record = &segment.record.value;
    (record.epoch == view.record.value.epoch).then_some((number, record))
}

/// How far the open segment is archived, when it has no members.
fn archived_alone(view: &LogView) -> Option<Index> {
    let (_, segment) = view.open_segment()?;
    segment.record.value.ensemble.is_empty().then_some(segment.archived.end)
}

impl Takeover<'_> {
    /// Waits until the log is free. Returns its record as it was judged.
    pub(super) async fn free(&self) -> Result<Versioned<LogRecord>, Error> {
        let patience = self.options.writer_timeout;
        let mut judged: Option<Judged> = None;
        loop {
            let view = self.view().await?;
            self.check_store(&view).await?;
            let mut now =
                judged.take().filter(|judged| judged.is_of(&view)).unwrap_or_else(|| Judged::new(&view));
            let record = &view.record;
            let holder = record.value.holder.as_deref();
            let why = match open_of_its_epoch(&view) {
                None if holder.is_none() => return Ok(record.clone()),
                Some((number, _)) if now.archived.is_some() => {
                    // What its writer does shows in the metadata alone.
                    if now.archived != archived_alone(&view) {
                        return Err(self.held(&record.value, None));
                    }
                    if now.since.elapsed() >= patience {
                        return Ok(record.clone());
                    }
                    format!(
                        "whether the writer of segment {number} has gone shows after {patience:?} without a part"
                    )
                }
                Some((number, segment)) => {
                    match self.ask(&mut now, number, segment, record.value.epoch).await {
                        Liveness::Gone => return Ok(record.clone()),
                        Liveness::Alive { peer } => return Err(self.held(&record.value, peer)),
                        Liveness::Unsure => {
                            if now.since.elapsed() >= patience
                                && self.is_given_up(&view, number, segment, &now.answers).await?
                            {
                                return Ok(record.clone());
                            }
                            doubt(&now, number, segment)
                        }
                    }
                }
                // A takeover is on its way, or was abandoned.
                None if now.since.elapsed() >= patience => return Ok(record.clone()),
                None => format!("{} has taken it over and has no segment yet", holder.unwrap_or("another")),
            };
            judged = Some(now);
            self.pause(&why).await?;
        }
    }

    /// Whether too few members of a segment are left to tell where it ends, or whether its writer has
    /// gone; those who are left do not contradict that, and the log's settings allow a loss.
    async fn is_given_up(
        &self,
        view: &LogView,
        segment: SegmentNumber,
        record: &SegmentRecord,
        answers: &BTreeMap<NodeId, WriterSeen>,
    ) -> Result<bool, Error> {
        let nodes = self.pool.nodes().await?;
        let current = |node: &NodeId| nodes.get(node).map(|view| view.incarnation(record.level).0);
        let moved = beyond_recovery(&record.ensemble, current);
        if moved.is_empty() {
            return Ok(false);
        }
        if view.allows_loss().is_none() {
            return Err(Error::Lost { segment, nodes: moved });
        }
        let patience = Span::from(self.options.writer_timeout);
        Ok(not_contradicted(&record.ensemble, view.record.value.epoch, answers, patience))
    }

    fn held(&self, record: &LogRecord, peer: Option<String>) -> Error {
        let holder = record.holder.clone().unwrap_or_else(|| "a writer without a name".to_owned());
        Error::Held { log: self.name.clone(), holder, peer, epoch: record.epoch }
    }

    /// One round of questions to the members of the segment.
    async fn ask(
        &self,
        judged: &mut Judged,
        number: SegmentNumber,
        segment: &SegmentRecord,
        epoch: Epoch,
    ) -> Liveness {
        let patience = Span::from(self.options.writer_timeout);
        let mut asked: FuturesUnordered<_> = segment
            .ensemble
            .iter()
            .map(|member| async move { (member, self.writer_seen(member, number).await) })
            .collect();
        let (mut answers, mut silent) = (BTreeMap::new(), BTreeSet::new());
        judged.unheard.clear();
        while let Some((member, answer)) = asked.next().await {
            let node = member.node.clone();
            match answer {
                Ok(seen) => {
                    answers.insert(node, seen);
                }
                // It has nothing of the segment, so no stream of its writer: for how long it cannot
                // know, but we do.
                Err(CallError::Refused(Refusal::NotHere)) => {
                    let since = *judged.empty.entry(node.clone()).or_insert_with(Instant::now);
                    let gone_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                    // Which of its lives speaks is known from its session.
                    if let Some(session) = self.pool.live(&node) {
                        let (incarnation, gone_ms) = (session.incarnation(segment.level), Some(gone_ms));
                        answers.insert(node, WriterSeen { incarnation, epoch, gone_ms, peer: None });
                    }
                }
                Err(error) => {
                    judged.unheard.insert(node.clone(), error.to_string());
                    if matches!(error, CallError::NoNode(_)) {
                        silent.insert(node);
                    }
                }
            }
            // Whoever has the stream need not wait for the others.
            if let alive @ Liveness::Alive { .. } =
                judge(&segment.ensemble, epoch, &answers, &silent, patience)
            {
                return alive;
            }
        }
        judged.answers = answers;
        judge(&segment.ensemble, epoch, &judged.answers, &silent, patience)
    }

    async fn writer_seen(&self, member: &Member, segment: SegmentNumber) -> Result<WriterSeen, CallError> {
        let node = &member.node;
        let request = Request::WriterSeen { log: self.log, segment };
        let late = |_| Err(CallError::NoNode(format!("node {node} does not answer")));
        match timeout(SILENT, self.pool.call_node(node, &request)).await.unwrap_or_else(late)? {
            Response::WriterSeen(seen) => Ok(seen),
            _ => Err(CallError::NoNode(format!("node {node} answered WriterSeen with something else"))),
        }
    }
}

/// Why it is not known whether the writer has gone.
fn doubt(judged: &Judged, number: SegmentNumber, segment: &SegmentRecord) -> String {
    if judged.unheard.is_empty() {
        return format!("its writer has left the nodes of segment {number} only just now");
    }
    let why: Vec<&str> = judged.unheard.values().map(String::as_str).collect();
    let members = segment.ensemble.len();
    format!(
        "too few of the {members} members of segment {number} can say whether its writer has gone ({}); start them, \
         or take the log over by force",
        why.join("; ")
    )
}
