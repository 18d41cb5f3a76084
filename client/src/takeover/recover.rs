//! Drives the recovery of a log's open segment with real requests.

use super::copy::{self, CopyError, Copying};
use super::{Takeover, taken_by};
use crate::error::Error;
use crate::pool::CallError;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use piculet_quorum::batch::Place;
use piculet_quorum::ids::{Chain, Epoch, Index, Level, NodeId, SegmentNumber};
use piculet_quorum::meta::seal::SealOne;
use piculet_quorum::meta::{LogView, SegmentView};
use piculet_quorum::recovery::{Recovery, RecoveryOutcome, RecoveryRequest};
use piculet_quorum::time::{Span, Time};
use piculet_quorum::wire::message::{Address, FenceOk, Nodes, Refusal, Request, Response};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// A member that does not answer within this time is taken to be silent, for the moment.
const SILENT: Duration = Duration::from_millis(1500);
/// How often the nodes are read while members are waited for.
const REFRESH: Duration = Duration::from_secs(1);
/// The machine's clock is not told the time more often than this.
const TICK: Span = Span::millis(5);

/// What one of the requests under way has come to.
enum Answer {
    Fenced(NodeId, Result<FenceOk, CallError>),
    Chain(NodeId, Index, Result<Option<Chain>, CallError>),
    Copied(NodeId, Result<Index, CopyError>),
    Nodes(Result<Nodes, CallError>),
}

impl Takeover<'_> {
    /// Fences the segment, finds its end and has enough members hold it. Whether a loss is allowed, and
    /// how far the log is trimmed, stands in the view.
    pub(super) async fn recover(
        &self,
        epoch: Epoch,
        number: SegmentNumber,
        segment: &SegmentView,
        view: &LogView,
    ) -> Result<SealOne, Error> {
        if segment.record.value.level == Level::Object {
            return Ok(archived(number, segment));
        }
        let nodes = self.pool.nodes().await?;
        let started = Instant::now();
        let now = || Time(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        let at = (number, segment.record.clone());
        let options = self.options.recovery;
        let mut recovery = Recovery::new(now(), options, self.log, epoch, at, segment.archived, nodes);
        if let Some(config) = view.allows_loss() {
            recovery.allow_loss(now(), config, view.trim.clone());
        }
        let place = Place { log: self.log, segment: number, epoch: segment.record.value.epoch };
        let mut running: FuturesUnordered<BoxFuture<'_, Answer>> = FuturesUnordered::new();
        let (mut refresh, mut refreshing) = (started + REFRESH, false);
        loop {
            while let Some(request) = recovery.poll_request() {
                running.push(self.carry_out(request, place));
            }
            if let Some(outcome) = recovery.outcome() {
                return conclude(outcome, number);
            }
            if Instant::now() >= self.deadline {
                let silent: Vec<_> = recovery.silent().into_iter().map(String::from).collect();
                return Err(Error::TakeOver(format!(
                    "segment {number} cannot be recovered without more of its members; these do not answer: {}; start them, or, if one of \
                     them will never come back, `piculet declare-lost` it",
                    silent.join(", ")
                )));
            }
            let due = recovery.poll_timeout().map(|at| at.max(now().after(TICK)));
            let due = due.map_or(self.deadline, |at| started + Duration::from(Span(at.0)));
            tokio::select! {
                Some(answer) = running.next() => {
                    refreshing &= !matches!(answer, Answer::Nodes(_));
                    take_in(&mut recovery, now(), answer)?;
                }
                () = sleep_until(refresh), if !refreshing => {
                    (refresh, refreshing) = (Instant::now() + REFRESH, true);
                    running.push(self.pool.nodes().map(Answer::Nodes).boxed());
                }
                () = sleep_until(due.min(self.deadline)) => recovery.handle_timeout(now()),
            }
        }
    }

    fn carry_out(&self, request: RecoveryRequest, place: Place) -> BoxFuture<'_, Answer> {
        match request {
            RecoveryRequest::Fence(node, at) => async move {
                let answer = self.fence(&node, at).await;
                Answer::Fenced(node, answer)
            }
            .boxed(),
            RecoveryRequest::Chain(node, at, index) => async move {
                let chain = timeout(SILENT * 2, copy::chain_at(self.pool, &node, at, place, index));
                let chain = chain.await.unwrap_or_else(|_| Err(silent(&node)));
                Answer::Chain(node, index, chain)
            }
            .boxed(),
            RecoveryRequest::Copy { source, target, from, to } => async move {
                let node = target.0.clone();
                let copying = Copying { source, target, place, from, to };
                Answer::Copied(node, copying.run(self.pool).await)
            }
            .boxed(),
        }
    }

    pub(super) async fn fence(&self, node: &NodeId, at: Address) -> Result<FenceOk, CallError> {
        let answer = timeout(SILENT, self.pool.call_node(node, &Request::Fence(at))).await;
        match answer.unwrap_or_else(|_| Err(silent(node)))? {
            Response::Fenced(fenced) => Ok(fenced),
            _ => Err(CallError::NoNode(format!("node {node} answered Fence with something else"))),
        }
    }
}

/// The seal of a segment without members: it ends at what is archived. There is nobody to be fenced,
/// for no part of it can be recorded once it is sealed; and if one is before, the seal is refused.
fn archived(segment: SegmentNumber, seen: &SegmentView) -> SealOne {
    SealOne {
        segment,
        read: seen.record.clone(),
        at: seen.archived,
        holders: Vec::new(),
        moved: Vec::new(),
        archived: seen.archived.end,
        recovery: true,
        allowed_loss: None,
    }
}

fn silent(node: &NodeId) -> CallError {
    CallError::NoNode(format!("node {node} does not answer"))
}

/// Tells the machine what happened.
fn take_in(recovery: &mut Recovery, now: Time, answer: Answer) -> Result<(), Error> {
    match answer {
        Answer::Fenced(node, answer) => {
            let answer = answer.map_err(|error| {
                tracing::debug!(%node, %error, "a member is not fenced");
                as_refusal(error)
            });
            recovery.handle_fenced(now, &node, answer);
        }
        Answer::Chain(_, index, Ok(chain)) => recovery.handle_chain(now, index, chain),
        Answer::Chain(_, index, Err(CallError::Refused(Refusal::NotHere))) => {
            recovery.handle_chain(now, index, None);
        }
        Answer::Chain(node, _, Err(error)) => failed(recovery, now, &node, error)?,
        Answer::Copied(node, Ok(held)) => recovery.handle_copied(now, &node, held),
        Answer::Copied(_, Err(CopyError { node, error })) => failed(recovery, now, &node, error)?,
        Answer::Nodes(Ok(nodes)) => recovery.handle_nodes(now, nodes),
        Answer::Nodes(Err(error)) => tracing::debug!(%error, "the nodes cannot be read now"),
    }
    Ok(())
}

/// A copy or a check broke off because of this node.
fn failed(recovery: &mut Recovery, now: Time, node: &NodeId, error: CallError) -> Result<(), Error> {
    tracing::debug!(%node, %error, "a copy between members broke off");
    match error {
        CallError::Failed(error) => return Err(error),
        CallError::Refused(Refusal::Conflict { index }) => {
            return Err(Error::Alarm(format!("node {node} holds another content at index {index}")));
        }
        CallError::Refused(refusal @ (Refusal::Fenced { .. } | Refusal::WrongIncarnation { .. })) => {
            recovery.handle_fenced(now, node, Err(refusal));
        }
        _ => {}
    }
    recovery.handle_silent(now, node);
    Ok(())
}

fn as_refusal(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        // A member that does not answer is one that cannot tell now: it is asked again.
        other => Refusal::Unavailable(other.to_string()),
    }
}

fn conclude(outcome: &RecoveryOutcome, segment: SegmentNumber) -> Result<SealOne, Error> {
    match outcome {
        RecoveryOutcome::Seal(seal) => Ok((**seal).clone()),
        RecoveryOutcome::Fenced(epoch) => Err(taken_by(*epoch)),
        RecoveryOutcome::Lost { moved } => Err(Error::Lost { segment, nodes: moved.clone() }),
        RecoveryOutcome::Alarm(why) => Err(Error::Alarm(format!("segment {segment}: {why}"))),
    }
}
