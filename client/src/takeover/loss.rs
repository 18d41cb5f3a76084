//! T6: what is lost of a sealed segment, all of whose holders have forgotten it.

use super::Takeover;
use crate::error::Error;
use crate::options::ClientOptions;
use crate::pool::Pool;
use futures::future::join_all;
use piculet_quorum::ids::{LogId, NodeId, Revision, SegmentNumber};
use piculet_quorum::meta::loss::RecordLoss;
use piculet_quorum::meta::{LogView, SegmentState, SegmentView, TxnOutcome};
use piculet_quorum::wire::message::{Nodes, Proposal};
use tokio::time::Instant;

/// A segment behind so many others is not looked at when its log is taken over.
const SEGMENTS_BEFORE: u64 = 16;

/// What becomes of the segments of a log that nobody holds any more.
///
/// # Errors
/// As [`Client::record_loss`](crate::Client::record_loss).
pub(crate) async fn record_loss(
    pool: &Pool,
    options: &ClientOptions,
    log: LogId,
    segment: SegmentNumber,
) -> Result<bool, Error> {
    let name = pool.view(log, None).await?.record.value.name.clone();
    let deadline = Instant::now() + options.takeover_timeout;
    Takeover { pool, options, store: None, log, name: &name, holder: None, deadline }
        .record_loss(segment)
        .await
}

/// Whether a sealed segment waits for holders that are gone for good.
fn is_lost(segment: &SegmentView, nodes: &Nodes) -> bool {
    let record = &segment.record.value;
    let SegmentState::Sealed(seal) = &record.state else { return false };
    let gone = |holder: &NodeId| {
        record.member(holder).is_some_and(|listed| moved(nodes, holder, record.level, listed).is_some())
    };
    record.kept().is_some_and(|kept| segment.archived.end < kept) && seal.holders.iter().all(gone)
}

/// The revision of a member's incarnation record, when that shows a later life than the listed one.
fn moved(
    nodes: &Nodes,
    node: &NodeId,
    level: piculet_quorum::ids::Level,
    listed: piculet_quorum::ids::Incarnation,
) -> Option<Revision> {
    let (current, revision) = nodes.get(node)?.incarnation(level);
    (current > listed).then_some(revision)
}

fn unheard(segment: SegmentNumber, error: &dyn std::fmt::Display) -> Error {
    Error::TakeOver(format!(
        "what is lost of segment {segment} is known once every member that is left answers: {error}"
    ))
}

impl Takeover<'_> {
    /// Records what is lost of a segment, if it is, and no writer may still append to it.
    pub(super) async fn record_loss(&self, number: SegmentNumber) -> Result<bool, Error> {
        loop {
            let view = self.pool.view(self.log, Some(number)).await.map_err(|error| error.of(self.name))?;
            // After the records: a life that is compared is then the one that was judged.
            let nodes = self.pool.nodes().await?;
            let Some(segment) = view.segments.get(&number) else { return Ok(false) };
            if !is_lost(segment, &nodes) {
                return Ok(false);
            }
            let (epoch, written_in) = (view.record.value.epoch, segment.record.value.epoch);
            if epoch <= written_in {
                // Its writer may still repair it: a takeover comes first, and where a segment is open
                // that is a matter of the segment's members.
                let open = self.view().await?.open_segment().is_some();
                if open || self.claim_from(view.record.clone()).await?.is_none() {
                    return Ok(false);
                }
                continue;
            }
            let proposal = self.judge_loss(&view, number, segment, &nodes).await?;
            let Some(proposal) = proposal else { return Ok(false) };
            match self.settle(Proposal::RecordLoss(Box::new(proposal))).await? {
                TxnOutcome::Applied(_) => return Ok(true),
                TxnOutcome::Refused => self.pause("the metadata keep changing").await?,
            }
        }
    }

    /// Fences everybody who has not forgotten the segment, and finds out what they have of it.
    async fn judge_loss(
        &self,
        view: &LogView,
        number: SegmentNumber,
        segment: &SegmentView,
        nodes: &Nodes,
    ) -> Result<Option<RecordLoss>, Error> {
        let record = &segment.record.value;
        let mut proposal = RecordLoss {
            log: self.log,
            read: view.record.clone(),
            segment: number,
            record: segment.record.clone(),
            archived: segment.archived.end,
            moved: Vec::new(),
            answers: Vec::new(),
            allowed: None,
        };
        let mut left = Vec::new();
        for member in &record.ensemble {
            match moved(nodes, &member.node, record.level, member.incarnation) {
                Some(revision) => proposal.moved.push((member.node.clone(), revision)),
                None => left.push(member),
            }
        }
        if proposal.needs_leave() {
            proposal.allowed = view.allows_loss();
            if proposal.allowed.is_none() {
                let gone = proposal.moved.into_iter().map(|(node, _)| node).collect();
                return Err(Error::Lost { segment: number, nodes: gone });
            }
        }
        let fences: Vec<_> = left.iter().map(|member| (*member, proposal.fence(member))).collect();
        let fenced = fences.iter().map(|(member, at)| self.fence(&member.node, *at));
        for ((member, at), fenced) in fences.iter().zip(join_all(fenced).await) {
            let fenced = fenced.map_err(|error| unheard(number, &error))?;
            let revision = nodes.get(&member.node).map(|view| view.incarnation(record.level).1);
            let counted = proposal.handle_fenced(member, revision.unwrap_or_default(), at, &fenced);
            counted.map_err(|error| unheard(number, &error))?;
        }
        Ok(proposal.from().is_some().then_some(proposal))
    }

    /// Looks for older segments whose every member has forgotten them, where the log's settings allow
    /// a loss: no node is left that would.
    pub(super) async fn give_up_older(&self, view: &LogView) {
        if view.allows_loss().is_none() {
            return;
        }
        let newest = view.record.value.next_segment;
        let from = SegmentNumber(newest.0.saturating_sub(SEGMENTS_BEFORE));
        let (Ok(older), Ok(nodes)) = (self.pool.view(self.log, Some(from)).await, self.pool.nodes().await)
        else {
            return;
        };
        for (number, segment) in &older.segments {
            let record = &segment.record.value;
            let everybody = record
                .ensemble
                .iter()
                .all(|member| moved(&nodes, &member.node, record.level, member.incarnation).is_some());
            if !everybody || !is_lost(segment, &nodes) {
                continue;
            }
            match self.record_loss(*number).await {
                Ok(done) => {
                    tracing::warn!(log = %self.name, segment = %number, done, "gave up what nobody has")
                }
                // The log can be written all the same; whoever takes it over next tries again.
                Err(error) => {
                    tracing::warn!(log = %self.name, segment = %number, %error, "cannot give up what nobody has");
                }
            }
        }
    }
}
